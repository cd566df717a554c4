//! Limits of callers and users, and what the kernel answers in the gate's stead.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use super::support::{Ground, Image, both, both_over, errno, run, small_ext4};

/// What the bare call returned, or its error.
fn checked(returned: libc::c_long) -> std::io::Result<libc::c_long> {
    if returned < 0 { Err(std::io::Error::last_os_error()) } else { Ok(returned) }
}

/// RLIMIT_FSIZE is the limit of a process, so another one writes.
#[test]
fn nobody_writes_beyond_a_limit_on_the_size_of_files() {
    both(|fixture| {
        for flag in ["", "oflag=dsync", "oflag=direct"] {
            let path = fixture.join("file");
            let write = format!(
                "ulimit -f 8; trap '' XFSZ; exec dd if=/dev/zero of={} bs=4096 count=1024 status=none {flag}",
                path.display()
            );
            let output = std::process::Command::new("bash").args(["-c", &write]).output().unwrap();
            assert!(!output.status.success(), "{flag}");
            assert!(String::from_utf8_lossy(&output.stderr).contains("File too large"), "{flag}: {output:?}");
            assert_eq!(fs::metadata(&path).unwrap().len(), 8 << 10, "{flag}: bash counts in KiB");
            fs::remove_file(&path).unwrap();
        }
    });
}

#[test]
fn no_file_is_larger_than_the_file_system_allows() {
    both_over(small_ext4, |fixture| {
        for flags in [0, libc::O_DSYNC] {
            let path = fixture.join("file");
            let file = OpenOptions::new().create(true).write(true).custom_flags(flags).open(&path).unwrap();
            // ext4 with blocks of 1 or 4 KiB ends at 16 GiB x block size or before.
            let behind = 1 << 45;
            assert_eq!(errno(file.write_at(b"x", behind)), libc::EFBIG, "{flags:o}");
            assert_eq!(errno(file.set_len(behind)), libc::EFBIG, "{flags:o}");
            assert_eq!(file.metadata().unwrap().len(), 0);
        }
    });
}

#[test]
fn a_full_quota_is_reported_as_such() {
    let limited = || {
        let Some(image) = Image::of("btrfs", 256) else {
            println!("not run: no btrfs here");
            return None;
        };
        let path = image.path();
        run("btrfs", &["quota", "enable", path.to_str().unwrap()]);
        run("btrfs", &["qgroup", "limit", "2M", path.to_str().unwrap()]);
        Some(Ground::Image(image))
    };
    both_over(limited, |fixture| {
        for flags in [0, libc::O_DSYNC] {
            let path = fixture.join("file");
            let mut file = File::options().create(true).write(true).custom_flags(flags).open(&path).unwrap();
            let block = vec![1; 64 << 10];
            let error = (0..64).find_map(|_| file.write_all(&block).err()).unwrap();
            assert_eq!(error.raw_os_error(), Some(libc::EDQUOT), "{flags:o}");
            drop(file);
            fs::remove_file(&path).unwrap();
            nix::unistd::syncfs(fixture.volume.root()).unwrap();
        }
    });
}

/// What the kernel does not pass on to a FUSE file system.
#[test]
fn what_cannot_be_passed_on_is_refused_as_documented() {
    both(|fixture| {
        let (one, two) = (fixture.join("one"), fixture.join("two"));
        fs::write(&one, vec![1; 8192]).unwrap();
        let from = File::open(&one).unwrap();
        let into = File::create(&two).unwrap();
        // SAFETY: both descriptors are open; the request takes one by value.
        let cloned = unsafe { libc::ioctl(into.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) };
        assert_eq!(errno(checked(cloned.into())), libc::EOPNOTSUPP);
        let elsewhere = tempfile::tempfile_in("/dev/shm").unwrap();
        // SAFETY: both descriptors are open, no positions are given.
        let copied = unsafe {
            libc::copy_file_range(
                from.as_raw_fd(),
                std::ptr::null_mut(),
                elsewhere.as_raw_fd(),
                std::ptr::null_mut(),
                8192,
                0,
            )
        };
        assert_eq!(errno(checked(copied as libc::c_long)), libc::EXDEV);
        let mut byte = [0_u8; 1];
        let part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
        for flag in [libc::RWF_NOWAIT, 0x80 /* RWF_DONTCACHE */] {
            // SAFETY: the one part is writable for its length and outlives the call.
            let read = unsafe { libc::preadv2(from.as_raw_fd(), &raw const part, 1, 0, flag) };
            assert_eq!(errno(checked(read as libc::c_long)), libc::EOPNOTSUPP, "{flag:#x}");
        }
    });
}

/// A lease is broken by an open on this node.
#[test]
fn leases_are_the_kernels_own() {
    both(|fixture| {
        let path = fixture.join("file");
        fs::write(&path, b"x").unwrap();
        let file = File::open(&path).unwrap();
        let lease = |kind: libc::c_int| {
            // SAFETY: the descriptor is open, the argument is a number.
            checked(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) }.into())
        };
        // The holder is told by a signal, SIGIO by default; this one is ignored. F_SETSIG is 10 (fcntl(2)).
        // SAFETY: the descriptor is open, the argument is a number.
        checked(unsafe { libc::fcntl(file.as_raw_fd(), 10, libc::SIGWINCH) }.into()).unwrap();
        lease(libc::F_RDLCK).unwrap();
        let open = |flags| OpenOptions::new().write(true).custom_flags(flags).open(&path);
        assert_eq!(errno(open(libc::O_NONBLOCK)), libc::EWOULDBLOCK, "somebody else has it leased");
        lease(libc::F_UNLCK).unwrap();
        open(0).unwrap().write_all(b"y").unwrap();
    });
}

/// What opens a file without passing the gate's doors: nothing but a descriptor that only stands for a place.
#[test]
fn an_unlinked_file_is_not_opened_by_a_mere_place() {
    both(|fixture| {
        let path = fixture.join("file");
        fs::write(&path, b"x").unwrap();
        let place = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&path).unwrap();
        let by_place = format!("/proc/self/fd/{}", place.as_raw_fd());
        assert_eq!(fs::read(&by_place).unwrap(), b"x");
        fixture.wait_for("release", |fixture| fixture.report().open_files == 0);
        fs::remove_file(&path).unwrap();
        assert_eq!(errno(File::open(&by_place)), libc::ESTALE);
    });
}

#[test]
fn watchers_are_told_of_changes_through_the_gate() {
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
    both(|fixture| {
        let watch = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
        watch.add_watch(&fixture.path(), AddWatchFlags::IN_ALL_EVENTS).unwrap();
        let (one, two) = (fixture.join("one"), fixture.join("two"));
        fs::write(&one, b"x").unwrap();
        fs::rename(&one, &two).unwrap();
        fs::remove_file(&two).unwrap();
        let told: Vec<_> = watch.read_events().unwrap().into_iter().map(|event| event.mask).collect();
        for wanted in [
            AddWatchFlags::IN_CREATE,
            AddWatchFlags::IN_MODIFY,
            AddWatchFlags::IN_CLOSE_WRITE,
            AddWatchFlags::IN_MOVED_FROM,
            AddWatchFlags::IN_MOVED_TO,
            AddWatchFlags::IN_DELETE,
        ] {
            assert!(told.iter().any(|mask| mask.contains(wanted)), "{wanted:?}: {told:?}");
        }
    });
}
