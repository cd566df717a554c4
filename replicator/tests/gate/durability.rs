//! Durability calls: held until the sink answers, with the sink's result.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::mpsc;

use replicator::gate::Passthrough;
use replicator_core::event::SyncScope;
use replicator_core::extent::Extent;
use replicator_core::ids::Errno;

use super::files::Mapping;
use super::support::{Fixture, LIMIT, Seen, both, errno, runnable};

/// Run a call in a thread; it must not return before the held sync is answered.
pub fn held(
    fixture: &Fixture,
    call: impl FnOnce() -> std::io::Result<()> + Send + 'static,
    answer: Result<(), Errno>,
) -> (SyncScope, std::io::Result<()>) {
    fixture.recorder.hold_syncs(true);
    let (sender, receiver) = mpsc::channel();
    let caller = std::thread::spawn(move || sender.send(call()).unwrap());
    let (scope, reply) = fixture.recorder.take_held();
    assert!(receiver.try_recv().is_err(), "returned before the answer");
    assert_eq!(fixture.report().held, 1);
    reply.answer(answer);
    let result = receiver.recv_timeout(LIMIT).unwrap();
    caller.join().unwrap();
    fixture.recorder.hold_syncs(false);
    assert_eq!(fixture.report().held, 0);
    (scope, result)
}

#[test]
fn fsync_and_fdatasync_wait_for_the_answer() {
    both(|fixture| {
        let path = fixture.join("file");
        fs::write(&path, b"x").unwrap();
        let id = fixture.file(&path);
        for (data_only, writable) in [(false, true), (true, true), (false, false), (true, false)] {
            let file = OpenOptions::new().read(true).write(writable).open(&path).unwrap();
            let sync = move || if data_only { file.sync_data() } else { file.sync_all() };
            let (scope, result) = held(&fixture, sync, Ok(()));
            assert_eq!(scope, SyncScope::File { file: id, data_only });
            result.unwrap();
        }
        let directory = File::open(fixture.path()).unwrap();
        let (scope, result) = held(&fixture, move || directory.sync_all(), Ok(()));
        assert_eq!(scope, SyncScope::File { file: fixture.volume.root_file(), data_only: false });
        result.unwrap();
    });
}

#[test]
fn the_answers_error_is_the_callers() {
    both(|fixture| {
        let path = fixture.join("file");
        fs::write(&path, b"x").unwrap();
        for number in [libc::EIO, libc::ENOSPC, libc::EDQUOT] {
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            let (_, result) = held(&fixture, move || file.sync_all(), Err(Errno(number)));
            assert_eq!(errno(result), number);
        }
        // What the kernel would not take as an error number must not leave the caller waiting.
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let (_, result) = held(&fixture, move || file.sync_all(), Err(Errno(100_000)));
        assert_eq!(errno(result), libc::EIO);
        // A reply that is lost is an error, too.
        fixture.recorder.hold_syncs(true);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let caller = std::thread::spawn(move || file.sync_all());
        drop(fixture.recorder.take_held());
        assert_eq!(errno(caller.join().unwrap()), libc::EIO);
        fixture.recorder.hold_syncs(false);
        fixture.recorder.fail_syncs(libc::EIO);
        assert_eq!(errno(File::open(&path).unwrap().sync_data()), libc::EIO);
    });
}

/// Waiting callers cost no reader: all files are synced at once, and other requests go on.
#[test]
fn many_wait_and_others_go_on() {
    if !runnable() {
        return;
    }
    let fixture = Fixture::new(Passthrough::Auto);
    fixture.recorder.hold_syncs(true);
    let callers: Vec<_> = (0..20)
        .map(|number| {
            let file = File::create(fixture.join(&format!("file{number}"))).unwrap();
            std::thread::spawn(move || file.sync_all())
        })
        .collect();
    let replies: Vec<_> = callers.iter().map(|_| fixture.recorder.take_held()).collect();
    fs::write(fixture.join("other"), b"goes on").unwrap();
    assert_eq!(fs::read(fixture.join("other")).unwrap(), b"goes on");
    for (_, reply) in replies {
        reply.answer(Ok(()));
    }
    for caller in callers {
        caller.join().unwrap().unwrap();
    }
}

#[test]
fn synchronous_writes_are_held_with_their_bytes_reported_before() {
    both(|fixture| {
        for (flag, data_only) in [(libc::O_DSYNC, true), (libc::O_SYNC, false)] {
            let path = fixture.join("file");
            fs::write(&path, b"0123456789").unwrap();
            let id = fixture.file(&path);
            let file = OpenOptions::new().write(true).custom_flags(flag).open(&path).unwrap();
            fixture.recorder.clear();
            let (scope, result) = held(&fixture, move || file.write_all_at(b"abc", 5), Ok(()));
            assert_eq!(scope, SyncScope::File { file: id, data_only });
            result.unwrap();
            let seen = fixture.recorder.seen();
            let written = seen.iter().position(|seen| *seen == Seen::Written(id, Extent::at(5, 3)));
            let synced = seen.iter().position(|seen| matches!(seen, Seen::Sync(_)));
            assert!(written.unwrap() < synced.unwrap(), "{seen:?}");
            assert_eq!(fs::read(&path).unwrap(), b"01234abc89");
            let file = OpenOptions::new().write(true).custom_flags(flag).open(&path).unwrap();
            let (_, result) = held(&fixture, move || file.write_all_at(b"abc", 5), Err(Errno(libc::EIO)));
            assert_eq!(errno(result), libc::EIO);
        }
    });
}

pub fn pwrite_with(file: &File, data: &[u8], flags: i32) -> isize {
    let slice = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: one iovec over readable bytes; both outlive the call.
    unsafe { libc::pwritev2(file.as_raw_fd(), &raw const slice, 1, 0, flags) }
}

/// One synchronous write through a handle of the daemon's, and through any handle without passthrough.
#[test]
fn single_synchronous_writes_are_held_where_the_daemon_writes() {
    both(|fixture| {
        let path = fixture.join("file");
        fs::write(&path, vec![0; 4096]).unwrap();
        let passthrough = fixture.report().passthrough;
        let flags = if passthrough { libc::O_DIRECT } else { 0 };
        let file = OpenOptions::new().write(true).custom_flags(flags).open(&path).unwrap();
        let (scope, result) = held(
            &fixture,
            move || {
                assert_eq!(pwrite_with(&file, b"abcd", libc::RWF_DSYNC), 4);
                Ok(())
            },
            Ok(()),
        );
        result.unwrap();
        assert_eq!(scope, SyncScope::File { file: fixture.file(&path), data_only: true });
    });
}

/// The hole that `docs/semantics.md` names: if this fails, the kernel has learned something.
#[test]
fn passthrough_hides_msync_and_single_synchronous_writes() {
    if !runnable() {
        return;
    }
    let fixture = Fixture::new(Passthrough::Auto);
    if !fixture.report().passthrough {
        return;
    }
    let path = fixture.join("file");
    fs::write(&path, vec![0; 4096]).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    fixture.recorder.clear();
    assert_eq!(pwrite_with(&file, b"abcd", libc::RWF_DSYNC), 4);
    let mapping = Mapping::new(&file, 4096);
    mapping.set(0, b'z');
    mapping.msync();
    assert!(fixture.recorder.seen().is_empty(), "{:?}", fixture.recorder.seen());
    // fsync after the store is seen, and the store is in the file.
    file.sync_all().unwrap();
    assert!(matches!(fixture.recorder.seen()[..], [Seen::Sync(_)]));
    assert_eq!(fs::read(&path).unwrap()[..4], *b"zbcd");
}

#[test]
fn without_passthrough_msync_is_held() {
    if !runnable() {
        return;
    }
    let fixture = Fixture::new(Passthrough::Off);
    let path = fixture.join("file");
    fs::write(&path, vec![0; 4096]).unwrap();
    let id = fixture.file(&path);
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let (scope, result) = held(
        &fixture,
        move || {
            let mapping = Mapping::new(&file, 4096);
            mapping.set(0, b'z');
            mapping.msync();
            Ok(())
        },
        Ok(()),
    );
    result.unwrap();
    assert!(matches!(scope, SyncScope::File { file, .. } if file == id));
    assert_eq!(fs::read(&path).unwrap()[0], b'z');
}

/// A signal does not end a waiting fsync: an EINTR would make databases panic.
#[test]
fn a_signal_does_not_disturb_a_waiting_fsync() {
    if !runnable() {
        return;
    }
    extern "C" fn nothing(_: libc::c_int) {}
    let fixture = Fixture::new(Passthrough::Auto);
    let file = File::create(fixture.join("file")).unwrap();
    // SAFETY: a handler that does nothing, without SA_RESTART, for a signal nobody else uses.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        libc::sigaction(libc::SIGUSR2, &raw const action, std::ptr::null_mut());
    }
    fixture.recorder.hold_syncs(true);
    let (sender, receiver) = mpsc::channel();
    let caller = std::thread::spawn(move || {
        // SAFETY: asks for the calling thread only.
        sender.send(unsafe { libc::pthread_self() }).unwrap();
        file.sync_all()
    });
    let thread = receiver.recv_timeout(LIMIT).unwrap();
    let (_, reply) = fixture.recorder.take_held();
    // SAFETY: the thread was not joined yet.
    assert_eq!(unsafe { libc::pthread_kill(thread, libc::SIGUSR2) }, 0);
    assert!(!caller.is_finished());
    reply.answer(Ok(()));
    caller.join().unwrap().unwrap();
    assert_eq!(fixture.report().held, 0);
}
