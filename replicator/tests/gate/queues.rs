//! What is particular to requests over io_uring: places that held callers keep, and what the gate says of itself.

use std::fs::{self, File};
use std::sync::mpsc;
use std::thread;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use replicator::gate::sink::SyncReply;
use replicator::gate::{Passthrough, Transport, io_uring_available};

use super::support::{Fixture, LIMIT, options, runnable};

/// Several times the places a queue has free.
const CALLERS: usize = 300;

fn over_io_uring() -> Option<Fixture> {
    if !runnable() {
        return None;
    }
    let fixture = Fixture::new(Passthrough::Auto);
    let report = fixture.report();
    if report.io_uring {
        return Some(fixture);
    }
    println!("not run: FUSE over io_uring: {:?}", report.io_uring_refusal);
    None
}

/// Only on the first processor, so that one queue gets everything.
fn on_one_processor() {
    let mut set = CpuSet::new();
    set.set(0).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

/// The gate takes io_uring if it is there and not unwanted.
#[test]
fn the_transport_is_what_is_said() {
    if !runnable() {
        return;
    }
    let report = Fixture::new(Passthrough::Auto).report();
    let expected = options().transport != Transport::Read && io_uring_available().is_ok();
    assert_eq!(report.io_uring, expected, "{:?}", report.io_uring_refusal);
    assert_eq!(report.io_uring, report.io_uring_refusal.is_none());
}

/// More callers of fsync than there are places, all on one processor at once: every one reaches the sink though none is answered,
/// and a lookup on the same processor is answered meanwhile.
#[test]
fn held_callers_never_keep_others_waiting() {
    let Some(fixture) = over_io_uring() else { return };
    for directories in [false, true] {
        let files: Vec<File> = (0..CALLERS)
            .map(|number| {
                let path = fixture.join(&format!("{directories}-{number}"));
                if directories {
                    fs::create_dir(&path).unwrap();
                    File::open(path).unwrap()
                } else {
                    File::create(path).unwrap()
                }
            })
            .collect();
        // One of a kind the kernel may insist on.
        let _open = File::create(fixture.join("open")).unwrap();
        fixture.recorder.hold_syncs(true);
        let callers: Vec<_> = files
            .into_iter()
            .map(|file| {
                thread::spawn(move || {
                    on_one_processor();
                    file.sync_all()
                })
            })
            .collect();
        let replies: Vec<SyncReply> = callers.iter().map(|_| fixture.recorder.take_held().1).collect();
        let (sender, receiver) = mpsc::channel();
        let path = fixture.join("not there");
        let other = thread::spawn(move || {
            on_one_processor();
            sender.send(fs::metadata(path).is_err()).unwrap();
        });
        assert!(receiver.recv_timeout(LIMIT).unwrap(), "a lookup goes on");
        other.join().unwrap();
        fixture.recorder.hold_syncs(false);
        replies.into_iter().for_each(|reply| reply.answer(Ok(())));
        for caller in callers {
            caller.join().unwrap().unwrap();
        }
    }
}
