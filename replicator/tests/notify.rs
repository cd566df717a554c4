//! Changes that others make on a file system, and what is told of them, on real file systems in images.
//!
//! The others are shells: what this process does itself is not told. Needs root; what a machine cannot run says so.

#[path = "gate/image.rs"]
mod image;
#[path = "gate/quiet.rs"]
mod quiet;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use replicator::gate::{Gate, GateOptions, Passthrough};
use replicator::notify::{self, Change, Notifier, Options, Watched};
use replicator::volume::Volume;
use replicator_core::ids::{FileId, VolumeId};

use image::Image;
use quiet::Quiet;

/// Longest wait for what the kernel tells.
const LIMIT: Duration = Duration::from_secs(20);
/// Size of an image: xfs takes no smaller one.
const MEGABYTES: u64 = 320;
const FILESYSTEMS: &[&str] = &["ext4", "xfs", "btrfs", "tmpfs"];

/// A file system with a directory that is mirrored, and one that is not.
struct Ground {
    image: Image,
}

impl Ground {
    /// `None`, and said so, where this machine has not got that file system.
    fn of(filesystem: &str) -> Option<Ground> {
        if !nix::unistd::geteuid().is_root() {
            println!("not run: needs root");
            return None;
        }
        if let Err(error) = notify::probe() {
            println!("not run: {error}");
            return None;
        }
        let Some(image) = Image::of(filesystem, MEGABYTES) else {
            println!("not run: no {filesystem} here");
            return None;
        };
        let ground = Ground { image };
        fs::create_dir(ground.point().join("data")).unwrap();
        fs::create_dir(ground.point().join("outside")).unwrap();
        Some(ground)
    }

    fn point(&self) -> PathBuf {
        self.image.path()
    }

    fn volume(&self) -> Arc<Volume> {
        Arc::new(Volume::open(VolumeId(2), &self.point().join("data")).unwrap())
    }

    /// Another process at work in the file system's root.
    fn others(&self, script: &str) {
        let status = Command::new("sh").args(["-ec", script]).current_dir(self.point()).status().unwrap();
        assert!(status.success(), "{script}: {status}");
    }
}

/// What was told so far.
#[derive(Clone, Default)]
struct Told(Arc<(Mutex<Vec<Change>>, Condvar)>);

impl Told {
    fn start(&self, watched: Vec<Watched>) -> Vec<Notifier> {
        let start = |watched: Watched| {
            let told = self.clone();
            let receive = move |changes: Vec<Change>| {
                told.0.0.lock().unwrap().extend(changes);
                told.0.1.notify_all();
            };
            watched.start(Box::new(receive)).unwrap()
        };
        watched.into_iter().map(start).collect()
    }

    /// Everything told up to this change and the rest of its batch, which are taken out.
    fn until(&self, awaited: &Change) -> Vec<Change> {
        let deadline = Instant::now() + LIMIT;
        let mut told = self.0.0.lock().unwrap();
        while !told.contains(awaited) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{awaited:?} was not told, but {told:?}");
            told = self.0.1.wait_timeout(told, left).unwrap().0;
        }
        std::mem::take(&mut told)
    }
}

fn known(volume: &Volume, name: &str) -> FileId {
    let inode = fs::symlink_metadata(volume.path.join(name)).unwrap().ino();
    volume
        .learn_at(std::os::fd::AsFd::as_fd(&fs::File::open(&volume.path).unwrap()), name.as_bytes(), inode)
        .unwrap();
    volume.file(inode)
}

fn names(directory: FileId, name: &str) -> Change {
    Change::Names { directory, name: name.as_bytes().to_vec() }
}

fn write(path: &Path) {
    fs::write(path, b"some bytes").unwrap();
}

#[test]
fn what_others_do_to_names_and_attributes_is_told() {
    for filesystem in FILESYSTEMS {
        let Some(ground) = Ground::of(filesystem) else { continue };
        let volume = ground.volume();
        write(&volume.path.join("file"));
        fs::create_dir(volume.path.join("dir")).unwrap();
        let (root, file, directory) = (volume.root_file(), known(&volume, "file"), known(&volume, "dir"));
        let told = Told::default();
        let _notifiers = told.start(notify::watch(&[Arc::clone(&volume)], Options::default()).unwrap());
        // Of what this process does, of what is outside, and of files nobody knows yet, nothing is told.
        write(&volume.path.join("own"));
        ground.others("touch outside/one; mkdir outside/two; touch outside/two/three; mkdir data/dir/new");
        ground.others("touch data/dir/new/unknown; touch data/last");
        let changes = told.until(&names(root, "last"));
        assert_eq!(changes, [names(directory, "new"), names(root, "last")], "{filesystem}");

        ground.others("ln -s x data/link; ln data/file data/dir/hard; mknod data/pipe p; rm data/pipe");
        let changes = told.until(&names(root, "pipe"));
        for expected in [names(root, "link"), names(directory, "hard"), Change::Attributes { file }] {
            assert!(changes.contains(&expected), "{filesystem}: {expected:?} is not in {changes:?}");
        }
        for script in [
            "chmod 600 data/file",
            "chown 7:8 data/file",
            "touch -d @5 data/file",
            "touch -a -m data/file",
            "rm data/dir/hard",
        ] {
            ground.others(script);
            told.until(&Change::Attributes { file });
        }
        ground.others("chmod 700 data/dir");
        told.until(&Change::Attributes { file: directory });
        ground.others("chmod 755 data");
        told.until(&Change::Attributes { file: root });
        // One of both times, and the length alone, show only when the descriptor is closed.
        ground.others("touch -m -d @6 data/file");
        told.until(&Change::Closed { file });
        ground.others("truncate -s 4000 data/file");
        told.until(&Change::Closed { file });
    }
}

#[test]
fn directories_that_move_are_told_as_such() {
    for filesystem in FILESYSTEMS {
        let Some(ground) = Ground::of(filesystem) else { continue };
        let volume = ground.volume();
        fs::create_dir(volume.path.join("dir")).unwrap();
        write(&volume.path.join("file"));
        let (root, file, directory) = (volume.root_file(), known(&volume, "file"), known(&volume, "dir"));
        let told = Told::default();
        let _notifiers = told.start(notify::watch(&[Arc::clone(&volume)], Options::default()).unwrap());
        ground.others("mv data/dir data/moved");
        let changes = told.until(&Change::Moved { file: directory });
        assert_eq!(changes, [names(root, "dir"), names(root, "moved"), Change::Moved { file: directory }]);
        // What happens in it outside is not told; that it comes back is.
        ground.others("mv data/moved outside; touch outside/moved/there; chmod 600 data/file");
        let changes = told.until(&Change::Attributes { file });
        assert_eq!(changes[0], names(root, "moved"), "{filesystem}");
        assert!(!changes.contains(&names(directory, "there")), "{filesystem}: {changes:?}");
        ground.others("mv outside/moved data/back");
        let changes = told.until(&Change::Moved { file: directory });
        assert!(changes.contains(&names(root, "back")), "{filesystem}: {changes:?}");
        // A file that leaves, is changed, and comes back.
        ground.others(
            "mv data/file outside; chmod 640 outside/file; truncate -s 7 outside/file; touch data/between",
        );
        let changes = told.until(&names(root, "between"));
        let quiet = [Change::Attributes { file }, Change::Closed { file }];
        assert!(!quiet.iter().any(|quiet| changes.contains(quiet)), "{filesystem}: {changes:?}");
        ground.others("mv outside/file data/file");
        told.until(&Change::Moved { file });
        ground.others("ln data/file outside/link; rm data/file; ln outside/link data/file");
        told.until(&Change::Moved { file });
        // A file that comes in from outside, and one that replaces another.
        ground.others("touch outside/f; mv outside/f data/in; mv data/in data/file");
        let changes = told.until(&names(root, "file"));
        assert!(changes.contains(&names(root, "in")), "{filesystem}: {changes:?}");
    }
}

#[test]
fn writes_by_others_are_told_if_asked_for() {
    let Some(ground) = Ground::of("ext4") else { return };
    let volume = ground.volume();
    write(&volume.path.join("file"));
    let file = known(&volume, "file");
    let told = Told::default();
    let options = Options { content: true, ..Options::default() };
    let _notifiers = told.start(notify::watch(&[Arc::clone(&volume)], options).unwrap());
    write(&volume.path.join("file"));
    ground.others("printf x | dd of=data/file conv=notrunc status=none");
    told.until(&Change::Content { file });
}

/// More changes than the kernel keeps, and nobody reads.
#[test]
fn what_the_kernel_leaves_out_is_lost_aloud() {
    const NAMES: u64 = 17_000;
    let limit = fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap_or_default();
    if limit.trim().parse::<u64>().is_ok_and(|limit| limit >= NAMES) {
        println!("not run: fs.fanotify.max_queued_events is {}", limit.trim());
        return;
    }
    let Some(ground) = Ground::of("ext4") else { return };
    let volume = ground.volume();
    let told = Told::default();
    let watched = notify::watch(&[Arc::clone(&volume)], Options::default()).unwrap();
    ground.others(&format!("cd data; seq {NAMES} | xargs touch"));
    let _notifiers = told.start(watched);
    told.until(&Change::Lost);
    ground.others("touch data/after");
    told.until(&names(volume.root_file(), "after"));
}

/// Answers at once and remembers nothing.
/// Whatever others do through the gate is this process's doing, but that they close files.
#[test]
fn what_comes_through_the_gate_is_not_told() {
    for passthrough in [Passthrough::Auto, Passthrough::Off] {
        let Some(ground) = Ground::of("ext4") else { return };
        let volume = ground.volume();
        let told = Told::default();
        let options = Options { content: passthrough == Passthrough::Off, ..Options::default() };
        let _notifiers = told.start(notify::watch(&[Arc::clone(&volume)], options).unwrap());
        let gate_options = GateOptions { passthrough, ..GateOptions::default() };
        let gate = Gate::mount(Arc::clone(&volume), gate_options, Arc::new(Quiet)).unwrap();
        let through = gate.report().passthrough;
        ground.others(
            "cd data; mkdir d; printf x > d/f; ln d/f g; ln -s g s; mkfifo p; chmod 600 g; chown 5:6 g; touch -d @7 g; \
             printf y >> g; truncate -s 100 g; mv d e; rm e/f; mv g e/f; rm s p; dd if=/dev/zero of=e/f bs=4k count=9 \
             conv=fsync,notrunc status=none",
        );
        gate.unmount().unwrap();
        ground.others("touch data/last");
        let changes = told.until(&names(volume.root_file(), "last"));
        let (closed, others): (Vec<_>, Vec<_>) =
            changes.into_iter().partition(|change| matches!(change, Change::Closed { .. }));
        assert_eq!(others, [names(volume.root_file(), "last")], "{passthrough:?}");
        assert_eq!(!closed.is_empty(), through, "closed by the kernel in the name of who wrote: {closed:?}");
    }
}
