//! The gate against a plain directory: the same random operations have the same results and leave the same tree.
//!
//! `REPLICATOR_SEED=<n>` replays one sequence.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use replicator::gate::Passthrough;

use super::concurrency::Dice;
use super::files::Mapping;
use super::support::{Fixture, Ground, Image, runnable, strict_files};

const SEQUENCES: u64 = 6;
const STEPS: usize = 800;
const NAMES: [&str; 7] = ["a", "b", "c", "d/a", "d/b", "d/e/a", "d/e"];
const OPEN_FILES: usize = 5;

/// One operation, the same on both sides.
#[derive(Clone, Debug)]
enum Step {
    Create { name: usize, flags: i32, mode: u32, slot: usize },
    Open { name: usize, flags: i32, write: bool, slot: usize },
    Close { slot: usize },
    Write { slot: usize, offset: u64, length: usize, value: u8 },
    Read { slot: usize, offset: u64, length: usize },
    Store { slot: usize, offset: usize, value: u8 },
    SetLength { slot: usize, length: u64 },
    Truncate { name: usize, length: u64 },
    Allocate { slot: usize, mode: i32, offset: i64, length: i64 },
    Copy { from: usize, to: usize, from_offset: i64, to_offset: i64, length: usize },
    Sync { slot: usize },
    MakeDirectory { name: usize },
    RemoveDirectory { name: usize },
    Unlink { name: usize },
    Link { from: usize, to: usize },
    Symlink { name: usize },
    Fifo { name: usize },
    Rename { from: usize, to: usize, flags: u32 },
    Mode { name: usize, mode: u32 },
    Owner { name: usize, uid: u32 },
    SetAttribute { name: usize, key: usize, length: usize },
    Stat { name: usize },
    List { name: usize },
}

fn roll(dice: &mut Dice) -> Step {
    let mut below = |limit: u64| dice.below(limit) as usize;
    let (name, other, slot) = (below(7), below(7), below(OPEN_FILES as u64));
    let offset = below(20_000) as u64;
    let length = below(9000);
    let flags = [0, 0, 0, libc::O_DSYNC, libc::O_SYNC, libc::O_APPEND, libc::O_TRUNC, libc::O_EXCL][below(8)];
    match below(29) {
        0..=2 => Step::Create { name, flags, mode: [0o644, 0o600, 0o777][below(3)], slot },
        3 | 4 => Step::Open { name, flags: flags & !libc::O_EXCL, write: below(3) > 0, slot },
        5 => Step::Close { slot },
        6..=8 => Step::Write { slot, offset, length, value: below(256) as u8 },
        9 | 10 => Step::Read { slot, offset, length },
        11 => Step::Store { slot, offset: offset as usize, value: below(256) as u8 },
        12 => Step::SetLength { slot, length: offset },
        13 => Step::Truncate { name, length: offset },
        14 => Step::Allocate {
            slot,
            mode: [
                0,
                libc::FALLOC_FL_KEEP_SIZE,
                libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE,
                libc::FALLOC_FL_ZERO_RANGE,
            ][below(4)],
            offset: offset as i64,
            length: length as i64,
        },
        15 => Step::Copy {
            from: slot,
            to: below(OPEN_FILES as u64),
            from_offset: offset as i64,
            to_offset: below(20_000) as i64,
            length,
        },
        16 => Step::Sync { slot },
        17 => Step::MakeDirectory { name },
        18 => Step::RemoveDirectory { name },
        19 => Step::Unlink { name },
        20 => Step::Link { from: name, to: other },
        21 => Step::Symlink { name },
        22 => Step::Fifo { name },
        23 | 24 => Step::Rename { from: name, to: other, flags: [0, 0, 1, 2][below(4)] },
        25 => Step::Mode { name, mode: [0o644, 0o4755, 0o2755, 0o600][below(4)] },
        26 => Step::Owner { name, uid: below(3) as u32 },
        27 => Step::SetAttribute { name, key: below(3), length: length % 500 },
        _ if below(2) == 0 => Step::Stat { name },
        _ => Step::List { name },
    }
}

/// One side: a directory and what is open in it.
struct Side {
    root: PathBuf,
    open: [Option<File>; OPEN_FILES],
}

impl Side {
    fn path(&self, name: usize) -> PathBuf {
        self.root.join(NAMES[name])
    }

    fn file(&self, slot: usize) -> io::Result<&File> {
        self.open[slot].as_ref().ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    /// Do it; what it shows is comparable with the other side.
    fn take(&mut self, step: &Step) -> Result<String, i32> {
        self.try_take(step).map_err(|error| error.raw_os_error().unwrap_or(-1))
    }

    fn try_take(&mut self, step: &Step) -> io::Result<String> {
        match *step {
            Step::Create { name, flags, mode, slot } => {
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create(true)
                    .mode(mode)
                    .custom_flags(flags | libc::O_NONBLOCK | libc::O_NOFOLLOW)
                    .open(self.path(name))?;
                self.open[slot] = Some(file);
            }
            Step::Open { name, flags, write, slot } => {
                let file = OpenOptions::new()
                    .read(true)
                    .write(write)
                    .custom_flags(flags | libc::O_NONBLOCK)
                    .open(self.path(name))?;
                self.open[slot] = Some(file);
            }
            Step::Close { slot } => self.open[slot] = None,
            Step::Write { slot, offset, length, value } => {
                let written = self.file(slot)?.write_at(&vec![value; length], offset)?;
                return Ok(written.to_string());
            }
            Step::Read { slot, offset, length } => {
                let mut bytes = vec![0; length];
                let read = self.file(slot)?.read_at(&mut bytes, offset)?;
                return Ok(format!("{:?}", &bytes[..read]));
            }
            Step::Store { slot, offset, value } => {
                let file = self.file(slot)?;
                let metadata = file.metadata()?;
                if !metadata.is_file() || !is_writable(file) || offset >= metadata.len() as usize {
                    return Ok("no store".to_owned());
                }
                Mapping::new(file, offset + 1).set(offset, value);
            }
            Step::SetLength { slot, length } => self.file(slot)?.set_len(length)?,
            Step::Truncate { name, length } => nix::unistd::truncate(&self.path(name), length as i64)?,
            Step::Allocate { slot, mode, offset, length } => {
                let file = self.file(slot)?.as_raw_fd();
                // SAFETY: takes no memory.
                let result = unsafe { libc::fallocate(file, mode, offset, length) };
                check(result as isize)?;
            }
            Step::Copy { from, to, mut from_offset, mut to_offset, length } => {
                let (from, to) = (self.file(from)?, self.file(to)?);
                // SAFETY: both offsets outlive the call.
                let copied = check(unsafe {
                    libc::copy_file_range(
                        from.as_raw_fd(),
                        &raw mut from_offset,
                        to.as_raw_fd(),
                        &raw mut to_offset,
                        length,
                        0,
                    )
                })?;
                return Ok(copied.to_string());
            }
            Step::Sync { slot } => self.file(slot)?.sync_all()?,
            _ => return self.take_name_step(step),
        }
        Ok(String::new())
    }

    fn take_name_step(&self, step: &Step) -> io::Result<String> {
        match *step {
            Step::MakeDirectory { name } => fs::create_dir(self.path(name))?,
            Step::RemoveDirectory { name } => fs::remove_dir(self.path(name))?,
            Step::Unlink { name } => fs::remove_file(self.path(name))?,
            Step::Link { from, to } => fs::hard_link(self.path(from), self.path(to))?,
            Step::Symlink { name } => symlink("a", self.path(name))?,
            Step::Fifo { name } => nix::unistd::mkfifo(&self.path(name), nix::sys::stat::Mode::S_IRWXU)?,
            Step::Rename { from, to, flags } => {
                let flags = RenameFlags::from_bits_truncate(flags);
                renameat2(AT_FDCWD, &self.path(from), AT_FDCWD, &self.path(to), flags)?;
            }
            Step::Mode { name, mode } => {
                fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode))?
            }
            Step::Owner { name, uid } => chown(self.path(name), Some(uid), Some(uid))?,
            Step::SetAttribute { name, key, length } => {
                let path = std::ffi::CString::new(self.path(name).to_str().unwrap()).unwrap();
                let key = [c"user.one", c"user.two", c"trusted.three"][key];
                let value = vec![b'v'; length];
                // SAFETY: both strings are NUL-terminated, the value is readable for its length.
                check(unsafe {
                    libc::setxattr(path.as_ptr(), key.as_ptr(), value.as_ptr().cast(), value.len(), 0)
                } as isize)?;
            }
            Step::Stat { name } => return show(&self.path(name)),
            Step::List { name } => {
                let mut names: Vec<_> =
                    fs::read_dir(self.path(name))?.map(|entry| entry.unwrap().file_name()).collect();
                names.sort();
                return Ok(format!("{names:?}"));
            }
            ref other => panic!("{other:?} is no step on names"),
        }
        Ok(String::new())
    }
}

fn check(result: isize) -> io::Result<isize> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn is_writable(file: &File) -> bool {
    let flags = nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_GETFL).unwrap();
    flags & libc::O_ACCMODE == libc::O_RDWR
}

/// What can be compared of a name: not times and numbers.
fn show(path: &Path) -> io::Result<String> {
    let metadata = fs::symlink_metadata(path)?;
    let size = if metadata.is_dir() { 0 } else { metadata.len() };
    let links = metadata.nlink();
    let mut shown = format!("{:o} {size} {links} {} {}", metadata.mode(), metadata.uid(), metadata.gid());
    if metadata.is_symlink() {
        shown += &format!(" -> {:?}", fs::read_link(path)?);
    }
    for key in [c"user.one", c"user.two", c"trusted.three"] {
        let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        let mut value = [0_u8; 600];
        // SAFETY: both strings are NUL-terminated, the value is writable for its length.
        let length =
            unsafe { libc::lgetxattr(path.as_ptr(), key.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        shown += &format!(" {length}");
    }
    Ok(shown)
}

/// A whole tree: names, what is shown of them, and content.
fn tree(root: &Path) -> BTreeMap<PathBuf, (String, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut ahead = vec![root.to_owned()];
    while let Some(directory) = ahead.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                ahead.push(path.clone());
            }
            let content = if metadata.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), (show(&path).unwrap(), content));
        }
    }
    found
}

fn same_tree(found: &Path, expected: &Path, where_: &str, replay: &str) {
    let (found, expected) = (tree(found), tree(expected));
    let names = |tree: &BTreeMap<PathBuf, _>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected), "{where_}; {replay}");
    for (name, (shown, content)) in &found {
        let (expected_shown, expected_content) = &expected[name];
        assert_eq!(shown, expected_shown, "{} {where_}; {replay}", name.display());
        let differs = content.iter().zip(expected_content).position(|(one, other)| one != other);
        assert_eq!(differs, None, "first byte of {} that differs {where_}; {replay}", name.display());
    }
}

/// With passthrough, without, with passthrough for some names, and with passthrough for none.
const WAYS: [(Passthrough, &[&str]); 4] = [
    (Passthrough::Auto, &[]),
    (Passthrough::Off, &[]),
    (Passthrough::Auto, &["[ab]"]),
    (Passthrough::Auto, &["*"]),
];

fn compare(seed: u64, (passthrough, strict): (Passthrough, &[&str]), ground: Ground) {
    let replay = format!("replay: REPLICATOR_SEED={seed} cargo test -p replicator --test gate random");
    let plain = ground.path().join("plain");
    let gated = ground.path().join("gated");
    fs::create_dir(&plain).unwrap();
    fs::create_dir(&gated).unwrap();
    let mut fixture = Fixture::with_strict(ground, &gated, passthrough, strict_files(strict));
    let mut native = Side { root: plain, open: Default::default() };
    let mut through = Side { root: gated, open: Default::default() };
    let mut dice = Dice::new(seed);
    for number in 0..STEPS {
        let step = roll(&mut dice);
        let (expected, found) = (native.take(&step), through.take(&step));
        assert_eq!(
            found, expected,
            "step {number} {step:?} with {passthrough:?}, strict {strict:?}; {replay}"
        );
        if std::env::var_os("REPLICATOR_SEED").is_some() {
            // Slow, but names the step at fault.
            println!(
                "step {number} {step:?}: {}",
                found.map_or_else(|errno| errno.to_string(), |_| "ok".to_owned())
            );
            same_tree(&through.root, &native.root, "through the gate", &replay);
        }
    }
    same_tree(&through.root, &native.root, "through the gate", &replay);
    through.open = Default::default();
    fixture.unmount();
    same_tree(&through.root, &native.root, "below the gate", &replay);
    assert_eq!(fixture.recorder.operations().is_empty(), STEPS == 0);
}

/// Take CAP_FSETID from this thread: root's writes through a passthrough descriptor older than a set-id bit clear the bit,
/// which without the gate only other users' writes do (docs/semantics.md). Without it root is like the others.
fn give_up_fsetid() {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let mut header = Header { version: 0x2008_0522, pid: 0 };
    // Effective, permitted, inheritable; twice.
    let mut data = [[0_u32; 3]; 2];
    // SAFETY: version 3 fills and reads two structures of three words; all of it outlives the calls, which change this
    // thread only.
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()), 0);
        data[0][0] &= !(1 << 4);
        assert_eq!(libc::syscall(libc::SYS_capset, &raw mut header, data.as_mut_ptr()), 0);
    }
}

#[test]
fn random_operations_do_the_same_as_without_the_gate() {
    if !runnable() {
        return;
    }
    let seeds = match std::env::var("REPLICATOR_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (1..=SEQUENCES).collect(),
    };
    give_up_fsetid();
    for seed in seeds {
        for way in WAYS {
            compare(seed, way, Ground::Image(Image::ext4(64)));
        }
    }
}

#[test]
fn other_file_systems_are_no_different() {
    if !runnable() {
        return;
    }
    give_up_fsetid();
    for (seed, filesystem) in ["xfs", "btrfs"].iter().enumerate() {
        for way in WAYS {
            match Image::of(filesystem, 320) {
                Some(image) => compare(100 + seed as u64, way, Ground::Image(image)),
                None => println!("not run: {filesystem} is not to be had here"),
            }
        }
    }
}
