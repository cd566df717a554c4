//! Strict files: what passthrough hides of other files is held of these.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Instant;

use replicator::gate::Passthrough;
use replicator_core::event::SyncScope;
use replicator_core::ids::FileId;

use super::durability::{held, pwrite_with};
use super::files::Mapping;
use super::support::{Fixture, Ground, Image, LIMIT, Seen, errno, run, runnable, strict_files};

const PAGE: usize = 4096;

/// A gate with passthrough; nothing where there is none.
fn fixture(patterns: &[&str]) -> Option<Fixture> {
    if !runnable() {
        return None;
    }
    let ground = Ground::temporary();
    let path = ground.path();
    let fixture = Fixture::with_strict(ground, &path, Passthrough::Auto, strict_files(patterns));
    fixture.report().passthrough.then_some(fixture)
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn released(fixture: &Fixture) {
    fixture.wait_for("release", |fixture| fixture.report().open_files == 0);
}

/// Open a strict file that nobody has open. A release takes its time; who is quicker meets the old way once more.
fn open_held(fixture: &Fixture, path: &Path) -> File {
    let deadline = Instant::now() + LIMIT;
    loop {
        released(fixture);
        let file = open(path);
        if fixture.report().strict.held > 0 {
            return file;
        }
        drop(file);
        assert!(Instant::now() < deadline, "never held: {:?}", fixture.report().strict);
    }
}

fn msync_is_held(fixture: &Fixture, file: &File, id: FileId, value: u8) {
    let mapped = file.try_clone().unwrap();
    let sync = move || {
        let mapping = Mapping::new(&mapped, PAGE);
        mapping.set(0, value);
        mapping.msync();
        Ok(())
    };
    let (scope, result) = held(fixture, sync, Ok(()));
    result.unwrap();
    assert!(matches!(scope, SyncScope::File { file, .. } if file == id), "{scope:?}");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(byte[0], value);
}

fn single_write_is_held(fixture: &Fixture, file: &File, id: FileId, flags: i32) {
    let written = file.try_clone().unwrap();
    let write = move || {
        assert_eq!(pwrite_with(&written, b"abcd", flags), 4);
        Ok(())
    };
    let (scope, result) = held(fixture, write, Ok(()));
    result.unwrap();
    assert!(matches!(scope, SyncScope::File { file, .. } if file == id), "{scope:?}");
    // The answer's error is the caller's.
    fixture.recorder.fail_syncs(libc::EIO);
    assert_eq!(pwrite_with(file, b"efgh", flags), -1);
    assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EIO));
    fixture.recorder.fail_syncs(0);
}

#[test]
fn a_file_is_strict_from_its_next_first_open() {
    let Some(fixture) = fixture(&[]) else { return };
    let path = fixture.join("file");
    fs::write(&path, vec![0; PAGE]).unwrap();
    let id = fixture.file(&path);
    let before = open(&path);
    let mapping = Mapping::new(&before, PAGE);
    fixture.recorder.clear();
    mapping.set(0, 1);
    mapping.msync();
    assert!(fixture.recorder.seen().is_empty(), "it is not held yet");
    assert!(fixture.saw_unguarded_sync(id), "the mark is an attribute, which is mirrored");
    assert!(!fixture.saw_unguarded_sync(id), "once is enough");
    let strict = fixture.report().strict;
    assert_eq!((strict.files, strict.held, strict.waiting, strict.unrecorded), (1, 0, 1, 0));
    assert_eq!((strict.waiting_paths, strict.last_unguarded), (vec!["file".to_owned()], "file".to_owned()));

    // Still open elsewhere: another open has its single synchronous writes held, and agrees with the first.
    let meanwhile = open(&path);
    for flags in [libc::RWF_DSYNC, libc::RWF_SYNC] {
        single_write_is_held(&fixture, &meanwhile, id, flags);
    }
    assert_eq!(mapping.get(0), b'e');
    mapping.set(0, 7);
    let mut byte = [0];
    meanwhile.read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(byte[0], 7);

    drop((mapping, before, meanwhile));
    let file = open_held(&fixture, &path);
    assert_eq!(fixture.report().strict.waiting, 0);
    msync_is_held(&fixture, &file, id, b'z');
    for flags in [libc::RWF_DSYNC, libc::RWF_SYNC] {
        single_write_is_held(&fixture, &file, id, flags);
    }
    // A failed sync is the caller's, also by msync.
    let mapping = Mapping::new(&file, PAGE);
    mapping.set(1, 1);
    fixture.recorder.fail_syncs(libc::EIO);
    assert_eq!(errno(mapping.try_msync()), libc::EIO);
    fixture.recorder.fail_syncs(0);
}

/// Renames, other mounts and further links change nothing; root's word does.
#[test]
fn a_strict_file_stays_so() {
    let Some(mut first) = fixture(&[]) else { return };
    let path = first.join("file");
    fs::write(&path, vec![0; PAGE]).unwrap();
    assert!(first.saw_unguarded_sync(first.file(&path)));
    fs::create_dir(first.join("d")).unwrap();
    fs::rename(&path, first.join("d/moved")).unwrap();
    first.unmount();
    let ground = std::mem::replace(&mut first.ground, Ground::temporary());
    let directory = ground.path();
    // The lock on the directory goes with the volume.
    drop(first);
    let second = Fixture::with_strict(ground, &directory, Passthrough::Auto, strict_files(&[]));
    let path = second.join("d/moved");
    assert_eq!(second.report().strict.files, 0, "nothing was asked for yet");
    let file = open_held(&second, &path);
    msync_is_held(&second, &file, second.file(&path), 5);
    assert_eq!(second.report().strict.files, 1);
    drop(file);
    released(&second);

    run("setfattr", &["-x", "trusted.replicator.strict", path.to_str().unwrap()]);
    released(&second);
    let file = open(&path);
    second.recorder.clear();
    assert_eq!(pwrite_with(&file, b"x", libc::RWF_DSYNC), 1);
    assert!(second.recorder.seen().is_empty(), "{:?}", second.recorder.seen());
    assert_eq!(second.report().strict.files, 0);
    drop(file);
    released(&second);
    run("setfattr", &["-n", "trusted.replicator.strict", "-v", "1", path.to_str().unwrap()]);
    let file = open_held(&second, &path);
    msync_is_held(&second, &file, second.file(&path), 6);
}

/// The mark is the file's, not the name's.
#[test]
fn a_strict_file_is_copied_and_replaced() {
    let Some(fixture) = fixture(&[]) else { return };
    let [strict, copy, plain] = ["strict", "copy", "plain"].map(|name| fixture.join(name));
    fs::write(&strict, vec![0; PAGE]).unwrap();
    assert!(fixture.saw_unguarded_sync(fixture.file(&strict)));
    run("cp", &["-a", strict.to_str().unwrap(), copy.to_str().unwrap()]);
    let file = open_held(&fixture, &copy);
    msync_is_held(&fixture, &file, fixture.file(&copy), 1);
    drop(file);
    released(&fixture);

    fs::write(&plain, vec![0; PAGE]).unwrap();
    fs::rename(&plain, &strict).unwrap();
    released(&fixture);
    let file = open(&strict);
    fixture.recorder.clear();
    assert_eq!(pwrite_with(&file, b"x", libc::RWF_DSYNC), 1);
    assert!(fixture.recorder.seen().is_empty(), "{:?}", fixture.recorder.seen());
}

/// A mapping made through passthrough is one of the file below, and outlives its descriptor. A strict open beside it would not
/// see its stores.
#[test]
fn a_mapping_that_outlives_its_descriptor_is_waited_for() {
    let Some(fixture) = fixture(&[]) else { return };
    let path = fixture.join("file");
    fs::write(&path, vec![0; PAGE]).unwrap();
    let id = fixture.file(&path);
    let file = open(&path);
    let mapping = Mapping::new(&file, PAGE);
    drop(file);
    assert!(fixture.saw_unguarded_sync(id));
    released(&fixture);
    for value in 1..20 {
        let file = open(&path);
        let strict = fixture.report().strict;
        assert_eq!((strict.held, strict.waiting), (0, 1));
        mapping.set(0, value);
        let mut byte = [0];
        file.read_exact_at(&mut byte, 0).unwrap();
        assert_eq!(byte[0], value);
        let second = Mapping::new(&file, PAGE);
        assert_eq!(second.get(0), value);
        second.set(1, value);
        assert_eq!(mapping.get(1), value);
        drop((second, file));
        released(&fixture);
    }
    drop(mapping);
    let file = open_held(&fixture, &path);
    let mut bytes = [0; 2];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, [19, 19]);
    msync_is_held(&fixture, &file, id, 99);
}

#[test]
fn configured_names_are_strict_from_the_start() {
    let Some(fixture) = fixture(&["*.mdb", "deep/**/log"]) else { return };
    fs::create_dir_all(fixture.join("other/x")).unwrap();
    let create = |name: &str| {
        let path = fixture.join(name);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        file.set_len(PAGE as u64).unwrap();
        (file, path)
    };
    let is_held = |file: &File| {
        fixture.recorder.clear();
        assert_eq!(pwrite_with(file, b"x", libc::RWF_DSYNC), 1);
        fixture.recorder.seen().iter().any(|seen| matches!(seen, Seen::Sync(_)))
    };
    // As it is made, and when it is opened again.
    let (file, path) = create("data.mdb");
    msync_is_held(&fixture, &file, fixture.file(&path), 1);
    drop(file);
    msync_is_held(&fixture, &open_held(&fixture, &path), fixture.file(&path), 2);
    // Others are not.
    let (file, plain) = create("other/x/log");
    assert!(!is_held(&file));
    drop(file);
    released(&fixture);
    // A file that gets such a name, by a rename or a further link.
    fs::rename(&plain, fixture.join("other/x/renamed.mdb")).unwrap();
    assert!(is_held(&open_held(&fixture, &fixture.join("other/x/renamed.mdb"))));
    released(&fixture);
    let (file, plain) = create("other/plain");
    assert!(!is_held(&file));
    drop(file);
    released(&fixture);
    fs::hard_link(&plain, fixture.join("other/linked.mdb")).unwrap();
    assert!(is_held(&open_held(&fixture, &plain)), "both names are of one file");
    released(&fixture);
    // A directory above it is renamed: the kernel does not look the file up again.
    let (file, _) = create("other/x/log");
    assert!(!is_held(&file));
    drop(file);
    released(&fixture);
    fs::rename(fixture.join("other"), fixture.join("deep")).unwrap();
    assert!(is_held(&open_held(&fixture, &fixture.join("deep/x/log"))));
    assert_eq!(fixture.report().strict.unrecorded, 0, "a name need not be marked");
}

/// The kernel's cache of the gate's file is not used while data passes it; read-ahead fills it all the same.
#[test]
fn what_the_kernel_cached_before_is_not_read() {
    let Some(fixture) = fixture(&[]) else { return };
    let path = fixture.join("file");
    let length = 64 * PAGE;
    fs::write(&path, vec![1; length]).unwrap();
    let file = open(&path);
    fixture.recorder.clear();
    let reads = fixture.report().requests.reads;
    // SAFETY: takes integers only.
    let told = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, length as i64, libc::POSIX_FADV_WILLNEED) };
    assert_eq!(told, 0);
    fixture.wait_for("the kernel to read ahead", |fixture| fixture.report().requests.reads > reads);
    file.write_all_at(&vec![2; length], 0).unwrap();
    assert!(fixture.saw_unguarded_sync(fixture.file(&path)));
    drop(file);
    let file = open_held(&fixture, &path);
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, vec![2; length]);
    assert_eq!(Mapping::new(&file, length).get(length - 1), 2);
}

/// The same promise by asynchronous interfaces.
#[test]
fn asynchronous_synchronous_writes_are_held() {
    let Some(fixture) = fixture(&["*"]) else { return };
    let path = fixture.join("file");
    fs::write(&path, vec![0; PAGE]).unwrap();
    let id = fixture.file(&path);
    for flags in [libc::RWF_DSYNC, libc::RWF_SYNC] {
        for write in [ring_write as fn(&File, &[u8], i32) -> Option<i64>, aio_write] {
            let file = open_held(&fixture, &path);
            let call = move || {
                match write(&file, b"abcd", flags) {
                    Some(4) => Ok(()),
                    Some(other) => Err(std::io::Error::from_raw_os_error(-other as i32)),
                    // Where there is none, something that is held, so that this test goes on.
                    None => {
                        println!("not run: an asynchronous interface that this kernel refuses");
                        file.sync_all()
                    }
                }
            };
            let (scope, result) = held(&fixture, call, Ok(()));
            result.unwrap();
            assert!(matches!(scope, SyncScope::File { file, .. } if file == id));
            let file = open_held(&fixture, &path);
            fixture.recorder.fail_syncs(libc::EIO);
            let failed = write(&file, b"abcd", flags);
            fixture.recorder.fail_syncs(0);
            assert!(failed.is_none_or(|result| result == -i64::from(libc::EIO)), "{failed:?}");
        }
    }
}

/// What one write through io_uring returns; `None` where there is no io_uring.
fn ring_write(file: &File, bytes: &[u8], flags: i32) -> Option<i64> {
    let mut ring = io_uring::IoUring::new(4).ok()?;
    let fd = io_uring::types::Fd(file.as_raw_fd());
    let entry = io_uring::opcode::Write::new(fd, bytes.as_ptr(), bytes.len() as u32).rw_flags(flags).build();
    // SAFETY: the bytes and the file outlive the wait below.
    unsafe { ring.submission().push(&entry).unwrap() };
    ring.submit_and_wait(1).unwrap();
    let result = ring.completion().next().unwrap().result();
    Some(i64::from(result))
}

/// What one write through the kernel's older asynchronous interface returns (io_submit(2)); `None` where there is none.
fn aio_write(file: &File, bytes: &[u8], flags: i32) -> Option<i64> {
    const WRITE: u16 = 1;
    // SAFETY: integers throughout, for which zeroes are valid.
    let mut request: libc::iocb = unsafe { std::mem::zeroed() };
    (request.aio_fildes, request.aio_lio_opcode) = (file.as_raw_fd() as u32, WRITE);
    (request.aio_buf, request.aio_nbytes) = (bytes.as_ptr() as u64, bytes.len() as u64);
    request.aio_rw_flags = flags;
    let mut context: libc::c_ulong = 0;
    // `struct io_event`: data, object, two results.
    let mut event = [0_i64; 4];
    // SAFETY: all that is pointed to outlives the calls; the event has the size of the kernel's structure, and the context
    // is ended before the function returns.
    unsafe {
        if libc::syscall(libc::SYS_io_setup, 4, &raw mut context) != 0 {
            return None;
        }
        let mut list = [&raw mut request];
        let submitted = libc::syscall(libc::SYS_io_submit, context, 1, list.as_mut_ptr());
        let result = if submitted == 1 {
            let nothing = std::ptr::null_mut::<libc::timespec>();
            assert_eq!(libc::syscall(libc::SYS_io_getevents, context, 1, 1, event.as_mut_ptr(), nothing), 1);
            Some(event[2])
        } else {
            // A file system without asynchronous writes may do it at once and fail at once.
            Some(-i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)))
        };
        libc::syscall(libc::SYS_io_destroy, context);
        result
    }
}

/// What is no promise of one file's durability to FUSE: nobody is held, and nobody waits (`docs/semantics.md` says so).
#[test]
fn ranges_volumes_and_systems_are_synced_without_a_word() {
    for patterns in [&[][..], &["*"][..]] {
        let Some(fixture) = fixture(patterns) else { return };
        let path = fixture.join("file");
        fs::write(&path, vec![0; PAGE]).unwrap();
        let file = open(&path);
        file.write_all_at(b"x", 0).unwrap();
        fixture.recorder.clear();
        let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE
            | libc::SYNC_FILE_RANGE_WRITE
            | libc::SYNC_FILE_RANGE_WAIT_AFTER;
        // SAFETY: these take integers only.
        unsafe {
            assert_eq!(libc::sync_file_range(file.as_raw_fd(), 0, PAGE as i64, flags), 0);
            assert_eq!(libc::syncfs(file.as_raw_fd()), 0);
            libc::sync();
        }
        let seen = fixture.recorder.seen();
        assert!(!seen.iter().any(|seen| matches!(seen, Seen::Sync(_))), "{seen:?}");
        // What covers them.
        held(&fixture, move || file.sync_all(), Ok(())).1.unwrap();
    }
}

/// O_DIRECT alone promises nothing but to pass the cache: what it wrote is durable after an fsync.
#[test]
fn direct_writes_wait_for_nobody() {
    for patterns in [&[][..], &["*"][..]] {
        let Some(fixture) = fixture(patterns) else { return };
        let path = fixture.join("file");
        fs::write(&path, vec![0; PAGE]).unwrap();
        let id = fixture.file(&path);
        let file = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
        fixture.recorder.clear();
        file.write_all_at(b"abcd", 0).unwrap();
        let seen = fixture.recorder.seen();
        assert!(!seen.iter().any(|seen| matches!(seen, Seen::Sync(_))), "{seen:?}");
        assert!(!fixture.recorder.written(id).is_empty(), "its bytes are known");
        held(&fixture, move || file.sync_data(), Ok(())).1.unwrap();
        assert_eq!(fs::read(&path).unwrap()[..4], *b"abcd");
    }
}

/// `chattr +S` makes each write a promise, and FUSE is not told: the tracer sees the file synced.
#[test]
fn writes_to_a_synchronous_file_are_held() {
    let Some(fixture) = fixture(&[]) else { return };
    let path = fixture.join("file");
    fs::write(&path, vec![0; PAGE]).unwrap();
    let id = fixture.file(&path);
    run("chattr", &["+S", path.to_str().unwrap()]);
    let before = open(&path);
    fixture.recorder.clear();
    before.write_all_at(b"abcd", 0).unwrap();
    assert!(fixture.recorder.seen().is_empty(), "it is not held yet");
    assert!(fixture.saw_unguarded_sync(id));
    let is_held = |file: File| {
        let (scope, result) = held(&fixture, move || file.write_all_at(b"efgh", 1), Ok(()));
        result.unwrap();
        assert!(matches!(scope, SyncScope::File { file, .. } if file == id));
    };
    is_held(open(&path));
    drop(before);
    let file = open_held(&fixture, &path);
    msync_is_held(&fixture, &file, id, b'z');
    is_held(file);
    assert_eq!(fs::read(&path).unwrap()[..5], *b"zefgh");
}

/// A file whose attributes may not be changed is remembered until the daemon ends, and that is said.
#[test]
fn a_file_that_cannot_be_marked_is_strict_all_the_same() {
    let Some(fixture) = fixture(&[]) else { return };
    let path = fixture.join("file");
    fs::write(&path, vec![0; PAGE]).unwrap();
    let id = fixture.file(&path);
    run("chattr", &["+i", path.to_str().unwrap()]);
    let changed = fixture.saw_unguarded_sync(id);
    run("chattr", &["-i", path.to_str().unwrap()]);
    assert!(!changed);
    assert_eq!(fixture.report().strict.unrecorded, 1);
    msync_is_held(&fixture, &open_held(&fixture, &path), id, 3);
}

/// A file that is gone leaves no mark, and the next one with its number has none.
#[test]
fn a_file_that_is_gone_is_forgotten() {
    let Some(fixture) = fixture(&[]) else { return };
    let path = fixture.join("file");
    fs::write(&path, vec![0; PAGE]).unwrap();
    let id = fixture.file(&path);
    assert!(fixture.saw_unguarded_sync(id));
    released(&fixture);
    fs::remove_file(&path).unwrap();
    fixture.wait_for("the file to be forgotten", |fixture| fixture.report().strict.files == 0);
    // The event may come after the end of its file.
    assert!(!fixture.saw_unguarded_sync(id));
    assert_eq!(fixture.report().strict.files, 0);
    // Where no fsync is held, no file is made strict.
    let idle = replicator::gate::strict::StrictFiles::new(Vec::new(), false);
    fs::write(&path, b"x").unwrap();
    let inode = fixture.file(&path).inode;
    idle.seen(inode);
    assert!(!idle.attend(&fixture.volume, inode));
    let marked = std::process::Command::new("getfattr")
        .args(["-n", "trusted.replicator.strict", path.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(!marked.status.success(), "{marked:?}");
}

/// Stores that the kernel holds are written before a flag forbids it, however many do the same at that time.
#[test]
fn stores_are_written_before_a_flag_forbids_it() {
    if !runnable() {
        return;
    }
    let over = |passthrough| {
        let ground = Ground::Image(Image::ext4(16));
        let path = ground.path();
        Fixture::with_strict(ground, &path, passthrough, strict_files(&[]))
    };
    let fixture = over(Passthrough::Off);
    std::thread::scope(|scope| {
        for number in 0..24 {
            let fixture = &fixture;
            scope.spawn(move || {
                let path = fixture.join(&format!("file-{number}"));
                fs::write(&path, vec![0; 3 * PAGE]).unwrap();
                let flag = if number % 4 == 0 { APPEND_ONLY } else { IMMUTABLE };
                store_and_protect(fixture, &path, &open(&path), flag);
            });
        }
    });
    drop(fixture);
    let fixture = over(Passthrough::Auto);
    if fixture.report().passthrough {
        let path = fixture.join("strict");
        fs::write(&path, vec![0; 3 * PAGE]).unwrap();
        assert!(fixture.saw_unguarded_sync(fixture.file(&path)));
        // Not on a file that passes: a store into it would end the process, as natively.
        let file = open_held(&fixture, &path);
        store_and_protect(&fixture, &path, &file, IMMUTABLE);
    }
}

/// On a file that is open through the kernel's cache of the gate.
fn store_and_protect(fixture: &Fixture, path: &Path, file: &File, flag: i32) {
    let id = fixture.file(path);
    let mapping = Mapping::new(file, 3 * PAGE);
    (0..3 * PAGE).step_by(PAGE).for_each(|at| mapping.set(at, 77));
    put_flag(file, flag, true);
    assert!(fixture.recorder.saw(&Seen::Attributes(id)));
    file.sync_all().expect("nothing was lost");
    let below = File::from(fixture.volume.open_file(id.inode, libc::O_RDONLY).unwrap());
    for page in 0..3 {
        let mut byte = [0];
        below.read_exact_at(&mut byte, (page * PAGE) as u64).unwrap();
        assert_eq!(byte[0], 77, "{}, page {page}", path.display());
    }
    // A store after that is refused where it is written; natively where it is made (SIGBUS).
    if flag == IMMUTABLE {
        mapping.set(0, 78);
        assert_eq!(errno(file.sync_all()), libc::EPERM);
    }
    put_flag(file, flag, false);
}

/// Numbers of inode flags (linux/fs.h).
const IMMUTABLE: i32 = 0x10;
const APPEND_ONLY: i32 = 0x20;

/// Set or clear a flag through a descriptor that is open: chattr(1) closes one before, which writes what the kernel holds.
fn put_flag(file: &File, flag: i32, on: bool) {
    let mut bits = 0_i32;
    // SAFETY: the call writes one int, which outlives it.
    assert_eq!(unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS as _, &raw mut bits) }, 0);
    bits = if on { bits | flag } else { bits & !flag };
    // SAFETY: the call reads one int, which outlives it.
    assert_eq!(unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS as _, &raw const bits) }, 0);
}
