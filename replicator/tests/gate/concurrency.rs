//! Several threads at once.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use replicator_core::wire::namespace::Operation;
use std::collections::{BTreeMap, HashMap};

use super::support::{both, wait_for};

/// Small deterministic generator (xorshift64*).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 33) % limit
    }
}

/// Replay of the log gives the tree: what was reported is what happened, in the order it happened.
#[test]
fn the_log_of_a_name_storm_replays_to_the_same_tree() {
    both(|fixture| {
        for directory in ["a", "b"] {
            fs::create_dir(fixture.join(directory)).unwrap();
        }
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let fixture = &fixture;
                scope.spawn(move || {
                    let mut dice = Dice::new(seed + 1);
                    for _ in 0..1500 {
                        let mut name = || {
                            fixture.join(&format!(
                                "{}/{}",
                                ["a", "b"][dice.below(2) as usize],
                                dice.below(12)
                            ))
                        };
                        let (one, two) = (name(), name());
                        // Any of these may fail because of another thread; none may hang or break the gate.
                        match dice.below(5) {
                            0 | 1 => drop(File::create(&one).and_then(|mut file| file.write_all(b"x"))),
                            2 => drop(fs::rename(&one, &two)),
                            3 => drop(fs::remove_file(&one)),
                            _ => drop(fs::hard_link(&one, &two)),
                        }
                    }
                });
            }
        });
        let mut tree: BTreeMap<(u64, Vec<u8>), u64> = BTreeMap::new();
        let mut names: HashMap<u64, i64> = HashMap::new();
        for operation in fixture.recorder.operations() {
            replay(operation, &mut tree, &mut names);
        }
        let mut found = BTreeMap::new();
        for directory in ["a", "b"] {
            let inode = fs::metadata(fixture.join(directory)).unwrap().ino();
            for entry in fs::read_dir(fixture.join(directory)).unwrap() {
                use std::os::unix::ffi::OsStringExt;
                let entry = entry.unwrap();
                found.insert((inode, entry.file_name().into_vec()), entry.metadata().unwrap().ino());
            }
        }
        tree.retain(|(parent, _), _| *parent != fixture.volume.root_inode);
        assert_eq!(tree, found);
        assert!(!fixture.report().failed);
    });
}

/// One operation of the log on a model tree; every claim it makes is checked.
fn replay(operation: Operation, tree: &mut BTreeMap<(u64, Vec<u8>), u64>, names: &mut HashMap<u64, i64>) {
    match operation {
        Operation::Create { parent, name, node } => {
            assert_eq!(tree.insert((parent.inode, name), node.file.inode), None);
            assert_eq!(names.insert(node.file.inode, 1).unwrap_or(0), 0, "the number was free");
        }
        Operation::Link { parent, name, node } => {
            assert_eq!(tree.insert((parent.inode, name), node.file.inode), None);
            *names.entry(node.file.inode).or_default() += 1;
        }
        Operation::Unlink { parent, name, file, last, .. } => {
            assert_eq!(tree.remove(&(parent.inode, name)), Some(file.inode));
            let left = names.get_mut(&file.inode).unwrap();
            *left -= 1;
            assert_eq!(*left == 0, last);
        }
        Operation::Rename { old_parent, old_name, new_parent, new_name, file, other, other_last, .. } => {
            assert_eq!(tree.remove(&(old_parent.inode, old_name)), Some(file.inode));
            let replaced = tree.insert((new_parent.inode, new_name), file.inode);
            assert_eq!(replaced, other.map(|other| other.inode));
            if let Some(other) = other {
                let left = names.get_mut(&other.inode).unwrap();
                *left -= 1;
                assert_eq!(*left == 0, other_last);
            }
        }
        Operation::List { .. } => panic!("the gate lists nothing"),
    }
}

/// Says so when it is dropped, also by a panic.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The answer to a question that was asked before a change may come after it, and is not kept then.
#[test]
fn a_look_at_a_directory_during_a_change_leaves_nothing_old_behind() {
    both(|fixture| {
        let directory = fixture.join("d");
        fs::create_dir(&directory).unwrap();
        // The kernel shows attributes while it takes them over from an answer: a look may be early, not for ever.
        let expect = |links, what, round| {
            let seen = || fs::metadata(&directory).unwrap().nlink() == links;
            assert!((0..1000).any(|_| seen()), "{what}, round {round}");
        };
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _done = Done(&done);
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let _ = fs::metadata(&directory);
                    }
                });
            }
            for round in 0..3000 {
                fs::create_dir(directory.join("x")).unwrap();
                expect(3, "made", round);
                fs::rename(directory.join("x"), fixture.join("x")).unwrap();
                expect(2, "moved away", round);
                fs::rename(fixture.join("x"), directory.join("y")).unwrap();
                expect(3, "moved in", round);
                fs::remove_dir(directory.join("y")).unwrap();
                expect(2, "removed", round);
            }
        });
    });
}

/// Numbers are given again at once: no file may be taken for its predecessor.
#[test]
fn reused_numbers_are_new_files() {
    both(|fixture| {
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let fixture = &fixture;
                scope.spawn(move || {
                    for round in 0..1000_u32 {
                        let path = fixture.join(&format!("{thread}"));
                        let content = round.to_le_bytes();
                        fs::write(&path, content).unwrap();
                        assert_eq!(fs::read(&path).unwrap(), content);
                        assert_eq!(fs::metadata(&path).unwrap().len(), 4);
                        fs::remove_file(&path).unwrap();
                    }
                });
            }
        });
        fixture.wait_for("releases", |fixture| fixture.report().open_files == 0);
        assert_eq!(fixture.report().backing_files, 0);
    });
}

/// One file opened and closed in all ways at once: the answers never mix what the kernel refuses to mix.
#[test]
fn opens_of_all_kinds_race() {
    both(|fixture| {
        let path = fixture.join("file");
        fs::write(&path, vec![0; 8192]).unwrap();
        std::thread::scope(|scope| {
            for flags in [0, libc::O_DSYNC, libc::O_DIRECT, libc::O_SYNC] {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..500 {
                        let file =
                            OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).unwrap();
                        let page = Page([1; 4096]);
                        file.write_all_at(&page.0, 4096).unwrap();
                    }
                });
            }
        });
        fixture.wait_for("releases", |fixture| fixture.report().open_files == 0);
        assert_eq!(fixture.report().backing_files, 0);
    });
}

/// Callers killed in the middle of anything leave nothing behind in the gate.
#[test]
fn killed_callers_leave_nothing_behind() {
    both(|fixture| {
        for round in 0..12 {
            let script = format!(
                "cd {} && while :; do echo x > k{round}; cat k{round}; ln -s x l{round}; ls; mkdir d{round}; \
                 rm -r l{round} d{round}; mv k{round} m{round}; rm m{round}; done",
                fixture.path().display()
            );
            let before = fixture.recorder.operations().len();
            let mut child = Command::new("sh")
                .args(["-c", &script])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .process_group(0)
                .spawn()
                .unwrap();
            wait_for("some operations", || fixture.recorder.operations().len() > before + 20 + round);
            let group = nix::unistd::Pid::from_raw(-(child.id() as i32));
            nix::sys::signal::kill(group, nix::sys::signal::Signal::SIGKILL).unwrap();
            child.wait().unwrap();
        }
        fixture.wait_for("everything released", |fixture| {
            let report = fixture.report();
            report.open_files == 0 && report.backing_files == 0
        });
        for entry in fs::read_dir(fixture.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { fs::remove_dir(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
        fixture.wait_for("everything forgotten", |fixture| fixture.report().inodes == 1);
        assert_eq!(fixture.report().requests.malformed, 0);
    });
}

#[repr(align(4096))]
struct Page([u8; 4096]);
