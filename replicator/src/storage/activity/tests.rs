//! Bases and logs as they are found again, whole or not.

use std::fs::{self, File};

use replicator_core::activity::{Named, Record};
use replicator_core::ids::{FileId, VolumeId};
use replicator_core::resume::StreamId;

use super::*;

fn file(inode: u64) -> FileId {
    FileId { volume: VolumeId(0), inode }
}

fn intent(inode: u64) -> Record {
    Record::Intent { file: file(inode), new: false }
}

fn settled(inode: u64, look: u64) -> Record {
    Record::Settled { file: file(inode), named: Named { known: true, scanned: false }, look }
}

/// Three files, of which the second is in doubt.
fn example(number: u64) -> Base {
    let mut activity = Activity::default();
    activity.apply(Record::Begin(StreamId { incarnation: [3; 16], number: 1 }));
    for inode in 1..4 {
        activity.apply(Record::Named(file(inode), Named { known: true, scanned: false }));
    }
    activity.apply(intent(2));
    let looks = [1, 2, 3].map(|inode| (inode, Fingerprint::from_number(100 + inode)));
    Base { number, identity: [9; 32], activity, fingerprints: vec![Fingerprints::new(looks.to_vec())] }
}

fn directory() -> (tempfile::TempDir, ActivityDirectory) {
    let place = tempfile::tempdir().unwrap();
    let directory = File::open(place.path()).unwrap().into();
    (place, ActivityDirectory::new(directory))
}

fn recovered(directory: &ActivityDirectory) -> Base {
    match directory.recover() {
        Found::Base(base) => *base,
        other => panic!("{other:?}"),
    }
}

fn doubtful(base: &Base) -> Vec<u64> {
    base.activity.doubtful().map(|file| file.inode).collect()
}

fn names(place: &tempfile::TempDir) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(place.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn base_and_log_are_found_again() {
    let (_place, directory) = directory();
    assert!(matches!(directory.recover(), Found::Nothing));
    let mut log = directory.begin_log(5).unwrap();
    directory.store_base(&example(5), 0).unwrap();
    assert_eq!(recovered(&directory), Base { number: 7, ..example(5) });
    log.append(&[intent(3), settled(2, 500)]).unwrap();
    log.append(&[intent(1), settled(1, 0)]).unwrap();
    let base = recovered(&directory);
    assert_eq!(doubtful(&base), [3]);
    let looks: Vec<u64> = base.fingerprints[0].iter().map(|(_, look)| look.number()).collect();
    assert_eq!(looks, [500, 103], "of what is gone nothing is left");
}

#[test]
fn a_log_is_taken_into_the_next_base() {
    let (place, directory) = directory();
    let mut log = directory.begin_log(5).unwrap();
    directory.store_base(&example(5), 0).unwrap();
    log.append(&[intent(3)]).unwrap();
    let mut next = directory.begin_log(6).unwrap();
    next.append(&[intent(1), settled(2, 7)]).unwrap();
    // A crash now: both logs count, in their order.
    let before = recovered(&directory);
    assert_eq!(doubtful(&before), [1, 3]);
    directory.take_in(6, 0).unwrap();
    assert_eq!(names(&place), ["activity.0000000000000006", "activity.base"]);
    let after = recovered(&directory);
    assert_eq!((after.activity, after.fingerprints), (before.activity, before.fingerprints));
    assert!(directory.take_in(6, 0).is_err());
    directory.make_void().unwrap();
    assert_eq!(names(&place), Vec::<String>::new());
    assert!(matches!(directory.recover(), Found::Nothing));
    directory.make_void().unwrap();
    // A base that was begun before comes too late.
    let _log = directory.begin_log(9).unwrap();
    assert!(directory.store_base(&example(9), 0).is_err());
    assert!(matches!(directory.recover(), Found::Nothing));
    assert!(!directory.has_base().unwrap());
    directory.store_base(&example(9), directory.voided()).unwrap();
    assert!(directory.has_base().unwrap());
}

#[test]
fn what_is_not_whole_is_unusable() {
    let (place, directory) = directory();
    let mut log = directory.begin_log(5).unwrap();
    log.append(&[intent(3)]).unwrap();
    let whole = example(5).encode();
    let base = place.path().join("activity.base");
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x20;
        assert_eq!(Base::decode(&flipped), None, "byte {at}");
        assert_eq!(Base::decode(&whole[..at]), None, "{at} bytes");
    }
    for bytes in [&whole[..whole.len() - 1], b"", b"something else"] {
        fs::write(&base, bytes).unwrap();
        assert!(matches!(directory.recover(), Found::Unusable(_)));
    }
    fs::write(&base, &whole).unwrap();
    assert_eq!(doubtful(&recovered(&directory)), [2, 3]);
    let log = place.path().join("activity.0000000000000005");
    let mut bytes = fs::read(&log).unwrap();
    bytes[600] ^= 1;
    fs::write(&log, &bytes).unwrap();
    assert!(matches!(directory.recover(), Found::Unusable(_)));
    fs::remove_file(&log).unwrap();
    assert!(matches!(directory.recover(), Found::Unusable(_)));
}
