//! Attributes, extended attributes, access control lists, inode flags.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use replicator::gate::{KernelCache, Passthrough};

use super::support::{Fixture, Ground, Image, Seen, both, both_over, errno, run, runnable, small_ext4};

const CAPABILITY: &str = "security.capability";

/// struct vfs_cap_data, revision 2: CAP_NET_RAW permitted and effective.
fn capabilities() -> Vec<u8> {
    [0x0200_0001_u32, 1 << 13, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn set(path: &Path, name: &str, value: &[u8], flags: i32) -> std::io::Result<()> {
    let (path, name) = (c(path), CString::new(name).unwrap());
    // SAFETY: both strings are NUL-terminated, the value is readable for its length.
    let result =
        unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags) };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

fn set_open(file: &impl AsRawFd, name: &str, value: &[u8]) -> std::io::Result<()> {
    let name = CString::new(name).unwrap();
    // SAFETY: the name is NUL-terminated, the value is readable for its length.
    let result =
        unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

fn get(path: &Path, name: &str, room: usize) -> std::io::Result<(usize, Vec<u8>)> {
    let (path, name) = (c(path), CString::new(name).unwrap());
    let mut value = vec![0_u8; room];
    // SAFETY: both strings are NUL-terminated, the value is writable for its length.
    let length = unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), room) };
    let length = usize::try_from(length).map_err(|_| std::io::Error::last_os_error())?;
    value.truncate(length);
    Ok((length, value))
}

fn list(path: &Path) -> Vec<String> {
    let path = c(path);
    let mut names = vec![0_u8; 4096];
    // SAFETY: the path is NUL-terminated, the names are writable for their length.
    let length = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    names.truncate(usize::try_from(length).unwrap());
    names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8(name.to_vec()).unwrap())
        .collect()
}

#[test]
fn extended_attributes_of_all_namespaces() {
    both(|fixture| {
        let (file, directory, link) = (fixture.join("file"), fixture.join("directory"), fixture.join("link"));
        fs::write(&file, b"x").unwrap();
        fs::create_dir(&directory).unwrap();
        symlink("file", &link).unwrap();
        for path in [&file, &directory] {
            set(path, "user.colour", b"blue", 0).unwrap();
            set(path, "trusted.colour", b"red", 0).unwrap();
            assert_eq!(get(path, "user.colour", 0).unwrap().0, 4);
            assert_eq!(get(path, "user.colour", 64).unwrap().1, b"blue");
            assert_eq!(errno(get(path, "user.colour", 2)), libc::ERANGE);
            assert_eq!(errno(get(path, "user.none", 64)), libc::ENODATA);
            assert_eq!(errno(set(path, "user.colour", b"x", libc::XATTR_CREATE)), libc::EEXIST);
            assert_eq!(errno(set(path, "user.none", b"x", libc::XATTR_REPLACE)), libc::ENODATA);
            set(path, "user.colour", b"", 0).unwrap();
            assert_eq!(get(path, "user.colour", 64).unwrap().0, 0);
            let mut names = list(path);
            names.sort();
            assert_eq!(names, ["trusted.colour", "user.colour"]);
            assert!(fixture.recorder.saw(&Seen::Attributes(fixture.file(path))));
        }
        assert_eq!(errno(set(&link, "user.colour", b"x", 0)), libc::EPERM);
        set(&link, "trusted.colour", b"on the link", 0).unwrap();
        assert_eq!(get(&link, "trusted.colour", 64).unwrap().1, b"on the link");
        assert_eq!(get(&file, "trusted.colour", 64).unwrap().1, b"red");
        let (path, name) = (c(&file), c"user.colour");
        // SAFETY: both strings are NUL-terminated.
        assert_eq!(unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) }, 0);
        assert_eq!(list(&file), ["trusted.colour"]);
    });
}

/// File capabilities (capabilities(7)) given to a file that was known to have none are there, and the next write takes them away and
/// is reported.
#[test]
fn a_write_takes_capabilities_away() {
    both(|fixture| {
        let path = fixture.join("file");
        for _ in 0..2 {
            fs::write(&path, b"first").unwrap();
            assert_eq!(errno(get(&path, CAPABILITY, 64)), libc::ENODATA);
            assert_eq!(errno(get(&path, CAPABILITY, 64)), libc::ENODATA);
            set(&path, CAPABILITY, &capabilities(), 0).unwrap();
            assert_eq!(get(&path, CAPABILITY, 64).unwrap().1, capabilities());
            let file = fixture.file(&path);
            fixture.recorder.clear();
            let mut open = File::options().append(true).open(&path).unwrap();
            open.write_all(b" and more").unwrap();
            drop(open);
            assert_eq!(errno(get(&path, CAPABILITY, 64)), libc::ENODATA);
            assert!(fixture.recorder.saw(&Seen::Attributes(file)));
        }
    });
}

/// The same where they were given to it behind the gate: each kind of invalidation ends what was known.
#[test]
fn capabilities_given_behind_the_gate_are_taken_away_by_a_write() {
    let invalidations: [fn(&KernelCache, u64); 3] = [
        |cache, inode| cache.invalidate(inode),
        |cache, inode| cache.invalidate_attributes(inode),
        |cache, _| _ = cache.invalidate_all(),
    ];
    both(|fixture| {
        let path = fixture.join("file");
        let cache = fixture.gate().kernel_cache();
        for invalidate in invalidations {
            let mut open = File::create(&path).unwrap();
            open.write_all(b"first").unwrap();
            assert_eq!(errno(get(&path, CAPABILITY, 64)), libc::ENODATA);
            let inode = fs::metadata(&path).unwrap().ino();
            let below = fixture.volume.open_file(inode, libc::O_RDONLY).unwrap();
            set_open(&below, CAPABILITY, &capabilities()).unwrap();
            invalidate(&cache, inode);
            assert_eq!(get(&path, CAPABILITY, 64).unwrap().1, capabilities());
            open.write_all(b" and more").unwrap();
            assert_eq!(errno(get(&path, CAPABILITY, 64)), libc::ENODATA);
        }
    });
}

#[test]
fn attributes_are_set_and_shown() {
    both(|fixture| {
        let path = fixture.join("file");
        fs::write(&path, b"x").unwrap();
        let id = fixture.file(&path);
        fixture.recorder.clear();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o751)).unwrap();
        chown(&path, Some(12), Some(34)).unwrap();
        let then = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
        File::open(&path).unwrap().set_times(fs::FileTimes::new().set_modified(then)).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0o751);
        assert_eq!((metadata.uid(), metadata.gid()), (12, 34));
        assert_eq!(metadata.modified().unwrap(), then);
        let reports = fixture.recorder.seen().iter().filter(|seen| **seen == Seen::Attributes(id)).count();
        assert_eq!(reports, 3);
        // A symlink's own owner and times.
        symlink("file", fixture.join("link")).unwrap();
        std::os::unix::fs::lchown(fixture.join("link"), Some(56), Some(78)).unwrap();
        assert_eq!(fs::symlink_metadata(fixture.join("link")).unwrap().uid(), 56);
        assert_eq!(fs::metadata(&path).unwrap().uid(), 12);
        // Before 1970, and the time of birth.
        let early = SystemTime::UNIX_EPOCH - Duration::from_secs(86_400);
        File::open(&path).unwrap().set_times(fs::FileTimes::new().set_modified(early)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), early);
        assert!(fs::metadata(&path).unwrap().created().is_ok());
    });
}

/// Times and size after a write through any handle are those of the file below.
#[test]
fn attributes_after_a_write_are_fresh() {
    both(|fixture| {
        use std::os::unix::fs::{FileExt, OpenOptionsExt};
        let path = fixture.join("file");
        fs::write(&path, b"x").unwrap();
        for flags in [0, libc::O_DSYNC, libc::O_DIRECT] {
            let file = File::options().write(true).custom_flags(flags).open(&path).unwrap();
            file.set_times(fs::FileTimes::new().set_modified(SystemTime::UNIX_EPOCH)).unwrap();
            let before = fs::metadata(&path).unwrap();
            assert_eq!(before.mtime(), 0);
            let page = Page([7; 4096]);
            file.write_all_at(&page.0, before.len() / 4096 * 4096 + 4096).unwrap();
            let after = fs::metadata(&path).unwrap();
            assert_ne!(after.mtime(), 0, "flags {flags:o}");
            assert_eq!(after.len(), before.len() / 4096 * 4096 + 8192);
        }
    });
}

#[repr(align(4096))]
struct Page([u8; 4096]);

#[test]
fn access_control_lists_count() {
    both_over(small_ext4, |fixture| {
        let (file, directory) = (fixture.join("file"), fixture.join("directory"));
        fs::write(&file, b"x").unwrap();
        fs::create_dir(&directory).unwrap();
        run("setfacl", &["-m", "u:1000:rw,m::rwx", file.to_str().unwrap()]);
        let shown = Command::new("getfacl").args(["-cpn", file.to_str().unwrap()]).output().unwrap();
        assert!(String::from_utf8_lossy(&shown.stdout).contains("user:1000:rw-"));
        assert!(fixture.recorder.saw(&Seen::Attributes(fixture.file(&file))));
        // A default list is inherited and puts the umask out of force.
        run("setfacl", &["-d", "-m", "u::rwx,g::rwx,o::rwx,u:1000:rwx", directory.to_str().unwrap()]);
        let inside = directory.join("inside");
        fs::write(&inside, b"x").unwrap();
        assert_eq!(fs::metadata(&inside).unwrap().mode() & 0o777, 0o666);
        let shown = Command::new("getfacl").args(["-cpn", inside.to_str().unwrap()]).output().unwrap();
        assert!(String::from_utf8_lossy(&shown.stdout).contains("user:1000:rwx"));
    });
}

#[test]
fn inode_flags_are_changed_through_the_gate() {
    if !runnable() {
        return;
    }
    let fixture = Fixture::over(Ground::Image(Image::ext4(16)), Passthrough::Auto);
    let (file, directory) = (fixture.join("file"), fixture.join("directory"));
    fs::write(&file, b"x").unwrap();
    fs::create_dir(&directory).unwrap();
    for path in [&file, &directory] {
        let path = path.to_str().unwrap();
        run("chattr", &["+i", path]);
        let shown = Command::new("lsattr").args(["-d", path]).output().unwrap();
        assert!(String::from_utf8_lossy(&shown.stdout)[..20].contains('i'));
    }
    assert_eq!(errno(fs::write(&file, b"y")), libc::EPERM);
    assert_eq!(errno(fs::remove_file(&file)), libc::EPERM);
    assert_eq!(errno(File::create(directory.join("new"))), libc::EPERM);
    for path in [&file, &directory] {
        run("chattr", &["-i", path.to_str().unwrap()]);
    }
    fs::remove_file(&file).unwrap();
}

#[test]
fn the_file_systems_figures_are_shown() {
    both(|fixture| {
        let shown = nix::sys::statvfs::statvfs(&fixture.path()).unwrap();
        let below = nix::sys::statvfs::fstatvfs(fixture.volume.root()).unwrap();
        assert_eq!(shown.blocks(), below.blocks());
        assert_eq!(shown.fragment_size(), below.fragment_size());
        assert_eq!(shown.name_max(), below.name_max());
        assert!(shown.blocks_free() > 0);
    });
}

#[test]
fn locks_are_the_kernels_own() {
    both(|fixture| {
        use nix::fcntl::{FcntlArg, fcntl};
        let path = fixture.join("file");
        fs::write(&path, b"x").unwrap();
        let open = || File::options().read(true).write(true).open(&path).unwrap();
        let (one, two) = (open(), open());
        one.lock().unwrap();
        assert!(matches!(two.try_lock(), Err(fs::TryLockError::WouldBlock)));
        one.unlock().unwrap();
        two.try_lock().unwrap();
        let lock = libc::flock {
            l_type: libc::F_WRLCK as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: 0,
            l_len: 1,
            l_pid: 0,
        };
        fcntl(&one, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
        assert_eq!(fcntl(&two, FcntlArg::F_OFD_SETLK(&lock)), Err(nix::Error::EAGAIN));
    });
}

/// Flags are those of the file below; the gate's own inode, which the kernel asks first, has none.
#[test]
fn what_the_kernel_decides_above_the_gate_knows_no_flags() {
    if !runnable() {
        return;
    }
    let fixture = Fixture::over(Ground::Image(Image::ext4(16)), Passthrough::Auto);
    let log = fixture.join("log");
    fs::write(&log, vec![0; 4096]).unwrap();
    let file = File::options().read(true).append(true).open(&log).unwrap();
    run("chattr", &["+a", log.to_str().unwrap()]);
    // Natively EACCES.
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let mapped =
        unsafe { libc::mmap(std::ptr::null_mut(), 4096, access, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    assert_ne!(mapped, libc::MAP_FAILED);
    // SAFETY: mapped above, and nothing points into it.
    unsafe { libc::munmap(mapped, 4096) };
    // Natively EPERM.
    let path = c(&log);
    // SAFETY: both strings are NUL-terminated.
    assert_eq!(unsafe { libc::lremovexattr(path.as_ptr(), c"system.posix_acl_default".as_ptr()) }, 0);
    run("chattr", &["-a", log.to_str().unwrap()]);
}
