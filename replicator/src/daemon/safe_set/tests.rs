//! The safe set on a directory of its own: what a run would find that began at that moment.

use std::fs::File;

use replicator_core::activity::Named;
use replicator_core::ids::VolumeId;

use super::*;
use crate::storage::activity::Found;

const IDENTITY: [u8; 32] = [4; 32];
const FILE: Named = Named { known: true, scanned: false };

fn file(inode: u64) -> FileId {
    FileId { volume: VolumeId(0), inode }
}

fn place() -> (tempfile::TempDir, ActivityDirectory) {
    let place = tempfile::tempdir().unwrap();
    let directory = ActivityDirectory::new(File::open(place.path()).unwrap().into());
    (place, directory)
}

/// A set at work whose base has no doubts.
fn at_work(directory: &ActivityDirectory) -> SafeSet {
    let set = SafeSet::start(directory.clone(), None).unwrap();
    let number = set.begin().unwrap();
    set.establish(IDENTITY, number, Activity::default(), vec![Fingerprints::default()]).unwrap();
    set
}

/// What a run would find in doubt that began now; `None`: it would compare everything.
fn found(directory: &ActivityDirectory) -> Option<Vec<u64>> {
    match directory.recover() {
        Found::Nothing => None,
        Found::Base(base) => Some(base.activity.doubtful().map(|file| file.inode).collect()),
        Found::Unusable(error) => panic!("{error}"),
    }
}

fn idle(set: &SafeSet) -> Vec<Idle> {
    set.idle(Duration::ZERO, 100)
}

fn settled(inode: u64) -> Record {
    Record::Settled { file: file(inode), named: FILE, look: 1 }
}

#[test]
fn an_intent_is_durable_when_it_is_given() {
    let (_place, directory) = place();
    let set = at_work(&directory);
    assert_eq!(found(&directory), Some(vec![]));
    let one = set.intend(&[file(1)], false).unwrap();
    assert_eq!(found(&directory), Some(vec![1]));
    let _other = set.intend(&[file(2), file(3)], false).unwrap();
    assert_eq!(found(&directory), Some(vec![1, 2, 3]));
    let commits = set.size().commits;
    let _again = set.intend(&[file(1), file(3)], false).unwrap();
    assert_eq!(set.size(), Size { is_on: true, files: 3, narrowed: 0, commits }, "a member costs no write");
    drop(one);
    set.end(false);
    assert_eq!(found(&directory), Some(vec![1, 2, 3]));
}

#[test]
fn nothing_is_written_while_there_is_no_base() {
    let (place, directory) = place();
    let set = SafeSet::start(directory.clone(), None).unwrap();
    let held = set.intend(&[file(1)], false).unwrap();
    drop(set.intend(&[file(2)], false).unwrap());
    assert_eq!(set.size(), Size { is_on: false, files: 1, narrowed: 0, commits: 0 });
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    // Who is at work when it begins is in it; who was before is not.
    let number = set.begin().unwrap();
    drop(set.intend(&[file(3)], false).unwrap());
    assert_eq!(found(&directory), None);
    assert!(set.begin().is_err());
    set.establish(IDENTITY, number, Activity::default(), vec![Fingerprints::default()]).unwrap();
    assert_eq!(found(&directory), Some(vec![1, 3]));
    drop(held);
    set.end(true);
    assert_eq!(found(&directory), None);
}

#[test]
fn a_member_leaves_only_as_it_was_when_it_was_picked() {
    let (_place, directory) = place();
    let set = at_work(&directory);
    let held = set.intend(&[file(1)], false).unwrap();
    assert_eq!(idle(&set), []);
    drop(held);
    let [picked] = idle(&set)[..] else { panic!("nobody holds it") };
    assert_eq!(idle(&set), [], "it is told once");
    let departures = set.departures();
    let held = set.intend(&[file(1)], false).unwrap();
    assert!(!set.settle(picked, settled(1)), "held again");
    drop(held);
    assert!(!set.settle(picked, settled(1)), "held in between");
    let [picked] = idle(&set)[..] else { panic!("nobody holds it") };
    set.note(file(1));
    assert!(!set.settle(picked, settled(1)), "noted in between");
    assert_eq!(set.departures(), departures);
    let [picked] = idle(&set)[..] else { panic!("nobody holds it") };
    assert!(set.settle(picked, settled(1)));
    assert_ne!(set.departures(), departures);
    assert_eq!(idle(&set), []);
    while set.size().files > 0 {
        std::thread::yield_now();
    }
    assert_eq!(found(&directory), Some(vec![]));
    assert!(!set.settle(picked, settled(1)));
    let _held = set.intend(&[file(2)], false).unwrap();
    assert_eq!(found(&directory), Some(vec![2]));
    set.end(false);
}

#[test]
fn of_a_part_the_next_intent_makes_the_whole() {
    let (_place, directory) = place();
    let set = at_work(&directory);
    drop(set.intend(&[file(1)], true).unwrap());
    let [picked] = idle(&set)[..] else { panic!("nobody holds it") };
    assert!(set.narrow(picked, Record::Parts { file: file(1), dirty: vec![], attributes: true, look: 9 }));
    let _other = set.intend(&[file(2)], false).unwrap();
    let is_wholly_doubtful = || match directory.recover() {
        Found::Base(base) => base.activity.is_wholly_doubtful(file(1)),
        other => panic!("{other:?}"),
    };
    assert!(!is_wholly_doubtful());
    set.postpone(file(1));
    assert!(matches!(idle(&set)[..], [Idle { narrowed: true, .. }]));
    let _held = set.intend(&[file(1)], false).unwrap();
    assert!(is_wholly_doubtful());
    set.end(false);
}

#[test]
fn a_list_is_in_doubt_until_it_is_answered() {
    let (_place, directory) = place();
    let known = Activity::decode(&{
        let mut base = Activity::default();
        base.apply(Record::Begin(replicator_core::resume::StreamId { incarnation: [1; 16], number: 1 }));
        base.apply(Record::Named(file(1), Named { known: true, scanned: true }));
        base.encode()
    });
    let set = SafeSet::start(directory.clone(), None).unwrap();
    let number = set.begin().unwrap();
    set.establish(IDENTITY, number, known.unwrap(), vec![Fingerprints::default()]).unwrap();
    assert!(!set.awaits_answers());
    set.relist(file(1));
    assert!(set.awaits_answers());
    let recorded = || match directory.recover() {
        Found::Base(base) => {
            let mut relisted = base.activity.clone();
            relisted.apply(Record::Relist(file(1)));
            (base.activity == relisted, base.activity.is_wholly_doubtful(file(1)))
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(recorded(), (true, true));
    set.answered();
    assert!(!set.awaits_answers());
    let _later = set.intend(&[file(2)], false).unwrap();
    assert_eq!(recorded(), (false, true));
    set.relist(file(1));
    set.make_void();
    assert!(!set.awaits_answers());
    set.end(false);
}

#[test]
fn what_is_made_void_is_gone_and_the_set_can_begin_anew() {
    let (place, directory) = place();
    let set = at_work(&directory);
    let _held = set.intend(&[file(1)], false).unwrap();
    drop(set.intend(&[file(2)], false).unwrap());
    set.make_void();
    assert_eq!(found(&directory), None);
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    assert_eq!(set.size().files, 1);
    set.note(file(3));
    set.relist(file(3));
    let number = set.begin().unwrap();
    set.make_void();
    let late = set.establish(IDENTITY, number, Activity::default(), vec![Fingerprints::default()]);
    assert!(late.is_err());
    assert_eq!(found(&directory), None);
    let number = set.begin().unwrap();
    set.establish(IDENTITY, number, Activity::default(), vec![Fingerprints::default()]).unwrap();
    assert_eq!(found(&directory), Some(vec![1]));
    set.end(false);
}

/// The base of a set that was made void comes when the next one is forming: it is not taken for that one's, and ends nothing.
#[test]
fn a_base_is_not_taken_for_that_of_another_set() {
    let (_place, directory) = place();
    let set = SafeSet::start(directory.clone(), None).unwrap();
    let base = |number| set.establish(IDENTITY, number, Activity::default(), vec![Fingerprints::default()]);
    let former = set.begin().unwrap();
    set.make_void();
    let number = set.begin().unwrap();
    drop(set.intend(&[file(1)], false).unwrap());
    assert!(base(former).is_err());
    set.give_up(former);
    assert!(set.records() && !set.size().is_on);
    assert_eq!(found(&directory), None);
    base(number).unwrap();
    assert_eq!(found(&directory), Some(vec![1]));
    assert!(base(number).is_err(), "it comes once");
    assert_eq!(found(&directory), Some(vec![1]));
    set.give_up(number);
    assert_eq!(found(&directory), None);
    set.end(false);
}

#[test]
fn a_run_goes_on_from_what_another_left() {
    let (_place, directory) = place();
    let set = at_work(&directory);
    let _held = set.intend(&[file(1), file(2)], false).unwrap();
    set.relist(file(3));
    set.end(false);
    let Found::Base(left) = directory.recover() else { panic!("there is one") };
    let set = SafeSet::start(directory.clone(), Some(&left)).unwrap();
    assert_eq!(found(&directory), Some(vec![1, 2, 3]));
    assert!(set.size().is_on);
    let mut files: Vec<u64> = idle(&set).iter().map(|idle| idle.file.inode).collect();
    files.sort_unstable();
    assert_eq!(files, [1, 2, 3]);
    let _held = set.intend(&[file(4)], false).unwrap();
    assert_eq!(found(&directory), Some(vec![1, 2, 3, 4]));
    set.end(false);
}

/// More records than a log has room for: nothing is lost from one to the next, and those before are taken away.
#[test]
fn logs_follow_one_another() {
    let (place, directory) = place();
    let set = at_work(&directory);
    for round in 0..40 {
        for inode in 1..16_000 {
            drop(set.intend(&[file(inode)], true).unwrap());
        }
        // Waits for all before.
        let _held = set.intend(&[file(100_000 + round)], false).unwrap();
        if round % 2 == 0 {
            for picked in set.idle(Duration::ZERO, usize::MAX) {
                set.settle(picked, settled(picked.file.inode));
            }
        }
    }
    set.end(false);
    let doubtful = found(&directory).unwrap();
    assert_eq!(doubtful[..15_999], (1..16_000).collect::<Vec<_>>());
    let logs = std::fs::read_dir(place.path()).unwrap().count();
    assert!((2..=3).contains(&logs), "{logs}");
}
