//! Files and their bytes.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use replicator::gate::Passthrough;
use replicator_core::extent::Extent;
use replicator_core::wire::namespace::Operation;

use super::support::{Fixture, Ground, Image, Seen, as_user, both, both_over, errno, runnable, small_ext4};

#[test]
fn what_was_written_is_read_and_stays() {
    both(|mut fixture| {
        let path = fixture.join("file");
        let content: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
        fs::write(&path, &content).unwrap();
        assert_eq!(fs::read(&path).unwrap(), content);
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        file.write_all_at(b"patch", 1_000_000).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 3_000_000);
        drop(file);
        let mut appender = OpenOptions::new().append(true).open(&path).unwrap();
        appender.write_all(b"tail").unwrap();
        drop(appender);
        assert_eq!(fs::metadata(&path).unwrap().len(), 3_000_004);
        fixture.unmount();
        let mut after = content;
        after[1_000_000..1_000_005].copy_from_slice(b"patch");
        after.extend_from_slice(b"tail");
        assert_eq!(fs::read(&path).unwrap(), after, "plain files remain");
    });
}

/// Buffered handles, O_DIRECT, O_DSYNC handles and a mapping of one file agree in every direction.
#[test]
fn all_kinds_of_handles_are_coherent() {
    both(|fixture| {
        let path = fixture.join("file");
        fs::write(&path, vec![b'a'; 8192]).unwrap();
        let [plain, synchronous, direct] = kinds_of_handles(&path);
        let mapping = Mapping::new(&plain, 8192);
        let all = |offset: u64, wanted: u8| {
            for file in [&plain, &synchronous] {
                let mut byte = [0];
                file.read_exact_at(&mut byte, offset).unwrap();
                assert_eq!(byte[0], wanted);
            }
            let mut page = AlignedPage([0; 4096]);
            direct.read_exact_at(&mut page.0, offset & !4095).unwrap();
            assert_eq!(page.0[offset as usize & 4095], wanted);
            assert_eq!(mapping.get(offset as usize), wanted);
        };
        plain.write_all_at(b"1", 10).unwrap();
        all(10, b'1');
        synchronous.write_all_at(b"2", 20).unwrap();
        all(20, b'2');
        direct.write_all_at(&AlignedPage([b'3'; 4096]).0, 4096).unwrap();
        all(5000, b'3');
        mapping.set(30, b'4');
        all(30, b'4');
    });
}

/// A buffered handle, one with O_DSYNC, one with O_DIRECT, to read and write.
fn kinds_of_handles(path: &Path) -> [File; 3] {
    [0, libc::O_DSYNC, libc::O_DIRECT]
        .map(|flags| OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).unwrap())
}

/// What sendfile(2) takes from a file: what is there now, whatever it took before. From a handle whose writes are held it may be
/// refused instead.
#[test]
fn sendfile_shows_no_former_bytes() {
    both(|fixture| {
        let path = fixture.join("file");
        fs::write(&path, vec![b'a'; 8192]).unwrap();
        let [plain, synchronous, direct] = kinds_of_handles(&path);
        let read_only = OpenOptions::new().read(true).custom_flags(libc::O_SYNC).open(&path).unwrap();
        let mapping = Mapping::new(&plain, 8192);
        for (file, may_refuse) in
            [(&plain, false), (&read_only, false), (&direct, false), (&synchronous, true)]
        {
            for value in [b'b', b'c'] {
                mapping.set(5000, value);
                match sent(file, 8192) {
                    Ok(bytes) => assert_eq!(bytes[5000], value),
                    Err(errno) => assert!(may_refuse && errno == nix::Error::EINVAL, "{errno}"),
                }
            }
        }
    });
}

/// The bytes that sendfile(2) takes from the beginning of a file.
fn sent(file: &File, length: usize) -> nix::Result<Vec<u8>> {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut from = 0;
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let count = nix::sys::sendfile::sendfile64(&writer, file, Some(&mut from), length - bytes.len())?;
        let start = bytes.len();
        bytes.resize(start + count, 0);
        reader.read_exact(&mut bytes[start..]).unwrap();
    }
    Ok(bytes)
}

#[repr(align(4096))]
struct AlignedPage([u8; 4096]);

/// A shared mapping.
pub struct Mapping {
    address: *mut u8,
    length: usize,
}

impl Mapping {
    pub fn new(file: &File, length: usize) -> Mapping {
        // SAFETY: a new mapping of an open file, at an address the kernel chooses.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(address, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        Mapping { address: address.cast(), length }
    }

    pub fn get(&self, at: usize) -> u8 {
        assert!(at < self.length);
        // SAFETY: within the mapping.
        unsafe { self.address.add(at).read_volatile() }
    }

    pub fn set(&self, at: usize, value: u8) {
        assert!(at < self.length);
        // SAFETY: within the mapping, which is writable.
        unsafe { self.address.add(at).write_volatile(value) }
    }

    pub fn msync(&self) {
        self.try_msync().unwrap();
    }

    pub fn try_msync(&self) -> std::io::Result<()> {
        // SAFETY: the whole mapping.
        match unsafe { libc::msync(self.address.cast(), self.length, libc::MS_SYNC) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, which nobody uses any more.
        unsafe { libc::munmap(self.address.cast(), self.length) };
    }
}

#[test]
fn stores_to_a_mapping_change_the_times_that_are_shown() {
    both(|fixture| {
        let path = fixture.join("file");
        fs::write(&path, vec![0; 4096]).unwrap();
        let long_ago = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
        File::options().write(true).open(&path).unwrap().set_times(long_ago).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mtime(), 0);
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mapping = Mapping::new(&file, 4096);
        mapping.set(0, 1);
        mapping.msync();
        drop((mapping, file));
        fixture.wait_for("release", |fixture| fixture.report().open_files == 0);
        assert_ne!(fs::metadata(&path).unwrap().mtime(), 0);
    });
}

#[test]
fn writes_of_direct_handles_are_reported_exactly() {
    if !runnable() {
        return;
    }
    let fixture = Fixture::new(Passthrough::Auto);
    let path = fixture.join("file");
    fs::write(&path, b"0123456789").unwrap();
    let file = fixture.file(&path);
    fixture.recorder.clear();
    let direct = OpenOptions::new().write(true).custom_flags(libc::O_DSYNC).open(&path).unwrap();
    direct.write_all_at(b"xyz", 4).unwrap();
    assert_eq!(fixture.recorder.written(file), vec![Extent::at(4, 3)]);
    assert!(fixture.recorder.saw(&Seen::OpenForWrite(file)));
    fixture.recorder.clear();
    let mut appender = OpenOptions::new().append(true).custom_flags(libc::O_DSYNC).open(&path).unwrap();
    appender.write_all(b"end").unwrap();
    assert_eq!(fixture.recorder.written(file), vec![Extent::at(10, 3)]);
}

/// Without passthrough every write is reported.
#[test]
fn without_passthrough_the_daemon_sees_every_write() {
    if !runnable() {
        return;
    }
    let fixture = Fixture::new(Passthrough::Off);
    let path = fixture.join("file");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let id = fixture.file(&path);
    file.write_all_at(b"abc", 100).unwrap();
    assert_eq!(fixture.recorder.written(id), vec![Extent::at(100, 3)]);
    fixture.recorder.clear();
    let mapping = Mapping::new(&file, 103);
    mapping.set(50, 7);
    mapping.msync();
    let covered: bool =
        fixture.recorder.written(id).iter().any(|extent| extent.start <= 50 && extent.end > 50);
    assert!(covered, "{:?}", fixture.recorder.seen());
}

#[test]
fn truncation_is_reported_from_the_shorter_end() {
    both(|fixture| {
        let path = fixture.join("file");
        fs::write(&path, vec![1; 100]).unwrap();
        let id = fixture.file(&path);
        fixture.recorder.clear();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(40).unwrap();
        file.set_len(70).unwrap();
        assert_eq!(
            fixture.recorder.written(id),
            vec![Extent { start: 40, end: Extent::END }, Extent { start: 40, end: Extent::END }]
        );
        assert_eq!(fs::metadata(&path).unwrap().len(), 70);
        fixture.recorder.clear();
        drop(OpenOptions::new().write(true).truncate(true).open(&path).unwrap());
        let seen = fixture.recorder.seen();
        let intent = seen.iter().position(|seen| *seen == Seen::OpenForWrite(id)).unwrap();
        let cut = seen.iter().position(|seen| *seen == Seen::Written(id, Extent::WHOLE)).unwrap();
        assert!(intent < cut, "the intent comes first: {seen:?}");
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
        // By path, without an open file.
        fixture.recorder.clear();
        nix::unistd::truncate(&path, 9).unwrap();
        assert!(fixture.recorder.saw(&Seen::OpenForWrite(id)));
        assert_eq!(fixture.recorder.written(id), vec![Extent { start: 0, end: Extent::END }]);
    });
}

#[test]
fn an_intent_that_fails_refuses_the_open() {
    both(|fixture| {
        let path = fixture.join("file");
        fs::write(&path, b"kept").unwrap();
        fixture.recorder.fail_intents(libc::EDQUOT);
        assert_eq!(errno(OpenOptions::new().write(true).open(&path)), libc::EDQUOT);
        assert_eq!(errno(OpenOptions::new().write(true).truncate(true).open(&path)), libc::EDQUOT);
        assert_eq!(errno(File::create(fixture.join("new"))), libc::EDQUOT);
        assert_eq!(fs::read(&path).unwrap(), b"kept", "reading needs no intent");
        let other = fixture.join("other");
        assert_eq!(errno(fs::create_dir(&other)), libc::EDQUOT);
        assert_eq!(errno(std::os::unix::fs::symlink("file", &other)), libc::EDQUOT);
        assert_eq!(errno(fs::hard_link(&path, &other)), libc::EDQUOT);
        assert_eq!(errno(fs::rename(&path, &other)), libc::EDQUOT);
        assert_eq!(errno(fs::remove_file(&path)), libc::EDQUOT);
        assert_eq!(errno(fs::set_permissions(&path, fs::Permissions::from_mode(0o600))), libc::EDQUOT);
        assert!(fixture.recorder.intended().is_empty());
        fixture.recorder.fail_intents(0);
        fs::write(&path, b"new").unwrap();
        fixture.wait_for("releases", |fixture| fixture.report().open_files == 0);
        assert_eq!(fixture.report().backing_files, 0);
        fixture.wait_for("the intents' end", |fixture| fixture.recorder.intended().is_empty());
    });
}

#[test]
fn unlinked_files_live_until_the_last_close() {
    both(|fixture| {
        let path = fixture.join("file");
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let id = fixture.file(&path);
        file.write_all(b"hello").unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        assert!(!fixture.recorder.saw(&Seen::Forgotten(id)));
        file.set_len(3).unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
        file.sync_all().unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut content = String::new();
        file.read_to_string(&mut content).unwrap();
        assert_eq!(content, "hel");
        // The same name again is another file.
        fs::write(&path, b"other").unwrap();
        assert_ne!(fixture.file(&path), id);
        drop(file);
        fixture.wait_for("forgotten", |fixture| fixture.recorder.saw(&Seen::Forgotten(id)));
        assert_eq!(fs::read(&path).unwrap(), b"other");
        assert!(fixture.volume.handle(id.inode).is_none());
    });
}

#[test]
fn a_temporary_file_has_no_name_until_it_is_linked() {
    both(|fixture| {
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).open(fixture.path());
        let mut file = file.unwrap();
        file.write_all(b"content").unwrap();
        let inode = file.metadata().unwrap().ino();
        let id = fixture.volume.file(inode);
        assert!(fixture.recorder.operations().is_empty());
        assert!(fixture.recorder.saw(&Seen::OpenForWrite(id)));
        let name = fixture.join("linked");
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        nix::unistd::linkat(
            nix::fcntl::AT_FDCWD,
            link.as_str(),
            nix::fcntl::AT_FDCWD,
            &name,
            nix::fcntl::AtFlags::AT_SYMLINK_FOLLOW,
        )
        .unwrap();
        let operations = fixture.recorder.operations();
        assert!(
            matches!(&operations[..], [Operation::Link { name, node, .. }] if name == b"linked" && node.file == id),
            "{operations:?}"
        );
        drop(file);
        assert_eq!(fs::read(&name).unwrap(), b"content");
        // And one that never gets a name is forgotten.
        let file = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(fixture.path()).unwrap();
        let id = fixture.volume.file(file.metadata().unwrap().ino());
        drop(file);
        fixture.wait_for("forgotten", |fixture| fixture.recorder.saw(&Seen::Forgotten(id)));
    });
}

#[test]
fn space_operations_do_what_they_do_without_the_gate() {
    both(|fixture| {
        let path = fixture.join("file");
        fs::write(&path, vec![7; 64 * 1024]).unwrap();
        let id = fixture.file(&path);
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let fallocate = |mode, offset, length| {
            // SAFETY: takes no memory.
            if unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, length) } < 0 {
                Err(std::io::Error::last_os_error())
            } else {
                Ok(())
            }
        };
        fixture.recorder.clear();
        fallocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 4096, 8192).unwrap();
        assert_eq!(fixture.recorder.written(id), vec![Extent::at(4096, 8192)]);
        let mut byte = [1];
        file.read_exact_at(&mut byte, 5000).unwrap();
        assert_eq!(byte, [0]);
        // SAFETY: takes no memory.
        let (data, hole) = unsafe {
            (
                libc::lseek(file.as_raw_fd(), 4096, libc::SEEK_DATA),
                libc::lseek(file.as_raw_fd(), 0, libc::SEEK_HOLE),
            )
        };
        assert_eq!((data, hole), (12_288, 4096));
        fallocate(0, 64 * 1024, 4096).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 68 * 1024);
        fallocate(libc::FALLOC_FL_KEEP_SIZE, 1 << 20, 4096).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 68 * 1024);
        fallocate(libc::FALLOC_FL_ZERO_RANGE, 0, 100).unwrap();
        file.read_exact_at(&mut byte, 99).unwrap();
        assert_eq!(byte, [0]);
        assert_eq!(errno(fallocate(libc::FALLOC_FL_COLLAPSE_RANGE, 0, 4096)), libc::EOPNOTSUPP);
    });
}

#[test]
fn ranges_are_copied_by_the_daemon() {
    both(|fixture| {
        let (from, to) = (fixture.join("from"), fixture.join("to"));
        fs::write(&from, vec![9; 100_000]).unwrap();
        fs::write(&to, b"").unwrap();
        let (source, target) =
            (File::open(&from).unwrap(), OpenOptions::new().write(true).open(&to).unwrap());
        let id = fixture.file(&to);
        fixture.recorder.clear();
        let (mut at, mut into) = (0_i64, 10_i64);
        // SAFETY: both offsets outlive the call.
        let copied = unsafe {
            libc::copy_file_range(
                source.as_raw_fd(),
                &raw mut at,
                target.as_raw_fd(),
                &raw mut into,
                100_000,
                0,
            )
        };
        assert_eq!(copied, 100_000);
        assert_eq!(fs::metadata(&to).unwrap().len(), 100_010);
        assert_eq!(fixture.recorder.written(id), vec![Extent::at(10, 100_000)]);
    });
}

#[test]
fn a_full_disk_is_reported_as_such() {
    both_over(small_ext4, |fixture| {
        let mut file = File::create(fixture.join("big")).unwrap();
        let block = vec![1; 1 << 20];
        let error = (0..64).find_map(|_| file.write_all(&block).err()).unwrap();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        drop(file);
        fs::remove_file(fixture.join("big")).unwrap();
        fs::write(fixture.join("small"), b"fits").unwrap();
    });
}

/// The file system keeps a part of itself for root, whoever moves the bytes.
#[test]
fn users_leave_the_reserve_alone() {
    if !runnable() {
        return;
    }
    for passthrough in [Passthrough::Auto, Passthrough::Off] {
        for flags in [0, libc::O_DSYNC] {
            let fixture = Fixture::over(Ground::Image(Image::ext4(16)), passthrough);
            fs::set_permissions(fixture.path(), fs::Permissions::from_mode(0o777)).unwrap();
            let inside = File::open(fixture.path()).unwrap();
            let path = format!("/proc/self/fd/{}/file", inside.as_raw_fd());
            as_user(1000, 1000, &[], || {
                let mut file =
                    File::options().create(true).write(true).custom_flags(flags).open(path).unwrap();
                let block = vec![1; 64 << 10];
                let error = (0..1024).find_map(|_| file.write_all(&block).err()).unwrap();
                assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
            });
            let left = nix::sys::statvfs::fstatvfs(fixture.volume.root()).unwrap();
            assert!(left.blocks_free() > left.blocks() / 50, "{passthrough:?} {flags:o}: {left:?}");
        }
    }
}

/// A program written through the gate can be run at once, and not be written while it runs.
#[test]
fn programs_are_run() {
    both(|fixture| {
        let program = fixture.join("program");
        fs::copy("/bin/sleep", &program).unwrap();
        let keeper = File::open(&program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = Command::new(&program).arg("60").spawn().unwrap();
        assert_eq!(errno(OpenOptions::new().write(true).open(&program)), libc::ETXTBSY);
        child.kill().unwrap();
        child.wait().unwrap();
        drop(keeper);
        let script = fixture.join("script");
        fs::write(&script, "#!/bin/sh\nexit 7\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(Command::new(&script).status().unwrap().code(), Some(7));
    });
}

/// Who may not write to a running program may not empty it either, also where nothing but O_TRUNC asks to: the kernel says so
/// only after it has opened the file.
#[test]
fn a_running_program_is_not_truncated() {
    both(|fixture| {
        let program = fixture.join("program");
        fs::copy("/bin/sleep", &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let bytes = fs::read(&program).unwrap();
        let mut child = Command::new(&program).arg("60").spawn().unwrap();
        for (write, flags) in
            [(false, libc::O_TRUNC), (true, libc::O_TRUNC), (true, libc::O_CREAT | libc::O_TRUNC)]
        {
            let open = OpenOptions::new().read(true).write(write).custom_flags(flags).open(&program);
            assert_eq!(errno(open), libc::ETXTBSY);
        }
        assert_eq!(nix::unistd::truncate(&program, 0), Err(nix::errno::Errno::ETXTBSY));
        assert!(child.try_wait().unwrap().is_none());
        assert!(fs::read(&program).unwrap() == bytes, "the program was changed");
        child.kill().unwrap();
        child.wait().unwrap();
        // Nobody runs it any more: a reader that asks for it empties the file, as without the gate.
        drop(OpenOptions::new().read(true).custom_flags(libc::O_TRUNC).open(&program).unwrap());
        assert_eq!(fs::metadata(&program).unwrap().len(), 0);
    });
}

/// A descriptor may be made appending and not appending later.
#[test]
fn flags_changed_afterwards_count() {
    both(|fixture| {
        let path = fixture.join("file");
        fs::write(&path, b"0123456789").unwrap();
        let file = OpenOptions::new().append(true).custom_flags(libc::O_DSYNC).open(&path).unwrap();
        // SAFETY: takes no memory.
        assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, 0) }, 0);
        file.write_all_at(b"AB", 2).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"01AB456789");
    });
}

#[test]
fn append_only_files_append() {
    if !runnable() {
        return;
    }
    let fixture = Fixture::over(Ground::Image(Image::ext4(16)), Passthrough::Auto);
    let path = fixture.join("log");
    fs::write(&path, b"one").unwrap();
    let flags = Command::new("chattr").arg("+a").arg(&path).status().unwrap();
    assert!(flags.success());
    assert_eq!(errno(OpenOptions::new().write(true).open(&path)), libc::EPERM);
    for flags in [0, libc::O_DSYNC] {
        let mut file = OpenOptions::new().append(true).custom_flags(flags).open(&path).unwrap();
        file.write_all(b"two").unwrap();
    }
    assert_eq!(fs::read(&path).unwrap(), b"onetwotwo");
    assert!(Command::new("chattr").arg("-a").arg(&path).status().unwrap().success());
    assert!(Command::new("lsattr").arg(&path).status().unwrap().success());
}

#[test]
fn pipes_sockets_and_devices_are_the_kernels_own() {
    both(|fixture| {
        let path = fixture.join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // SAFETY: the path is NUL-terminated; the descriptor belongs to the file that is made of it.
        let mut both_ends = unsafe {
            let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
            let fd = libc::open(path.as_ptr(), libc::O_RDWR);
            assert!(fd >= 0);
            File::from_raw_fd(fd)
        };
        both_ends.write_all(b"x").unwrap();
        let mut byte = [0];
        both_ends.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
        let listener = std::os::unix::net::UnixListener::bind(fixture.join("socket")).unwrap();
        let mut client = std::os::unix::net::UnixStream::connect(fixture.join("socket")).unwrap();
        client.write_all(b"y").unwrap();
        listener.accept().unwrap().0.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"y");
        // Open without a name.
        fs::remove_file(&path).unwrap();
        assert_eq!(both_ends.metadata().unwrap().nlink(), 0);
        both_ends.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
        let directory = fixture.join("directory");
        fs::create_dir(&directory).unwrap();
        let open = File::open(&directory).unwrap();
        fs::remove_dir(&directory).unwrap();
        assert_eq!(open.metadata().unwrap().mode() & libc::S_IFMT, libc::S_IFDIR);
        assert_eq!(open.metadata().unwrap().nlink(), 0);
    });
}
