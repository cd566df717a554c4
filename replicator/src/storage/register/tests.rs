//! A register on a disk: what is said last is so, it is used once, and what is damaged is worth nothing.

use std::fs::{self, File};
use std::path::Path;

use replicator_core::ids::{FileId, FileKind, Generation, VolumeId};
use replicator_core::lineage::{self, GenerationId};
use replicator_core::resume::StreamId;

use super::*;
use crate::volume::FileHandle;

const IDENTITY: [u8; 32] = [4; 32];

fn directory(place: &Path) -> RegisterDirectory {
    RegisterDirectory::new(File::open(place).unwrap().into())
}

fn file(inode: u64) -> FileId {
    FileId { volume: VolumeId(1), inode }
}

fn tag(number: u8) -> Tag {
    Tag::of(&FileHandle::from_parts(1, &[number]))
}

fn bound(original: u64, here: u64) -> Entry {
    Entry::Bound { file: file(original), here, kind: FileKind::Regular, tag: tag(here as u8) }
}

fn stream(number: u64) -> StreamId {
    StreamId { incarnation: [9; 16], number }
}

fn generation(number: u64) -> GenerationId {
    GenerationId { number: Generation(number), tag: lineage::Tag(77) }
}

fn all() -> Vec<Entry> {
    vec![
        Entry::Stream(stream(3)),
        Entry::Generation(generation(6)),
        Entry::Until(-5),
        bound(7, 70),
        Entry::Deleted(file(8)),
        Entry::Unbound(file(7)),
        bound(9, 70),
    ]
}

fn base(number: u64, entries: Vec<Entry>) -> Base {
    Base { number, identity: IDENTITY, entries }
}

#[test]
fn what_is_said_last_is_so() {
    let mut recorded = Recorded::default();
    for entry in
        [bound(1, 10), bound(2, 20), bound(3, 10), bound(2, 30), Entry::Deleted(file(2)), bound(4, 20)]
    {
        recorded.apply(entry);
    }
    let copies = |file| recorded.copies.get(&file).map(|copy| copy.here);
    assert_eq!([1, 2, 3, 4].map(|inode| copies(file(inode))), [None, None, Some(10), Some(20)]);
    assert_eq!(recorded.original(VolumeId(1), 30), None);
    assert_eq!(recorded.original(VolumeId(1), 10), Some(file(3)));
    assert!(recorded.deleted.contains(&file(2)));
    recorded.apply(bound(2, 40));
    assert!(recorded.deleted.is_empty());
}

/// A base is taken while its log goes on: entries that it has taken in already are read again.
#[test]
fn what_was_taken_in_may_be_said_again() {
    let entries =
        [bound(1, 10), bound(2, 20), Entry::Unbound(file(1)), bound(3, 10), bound(2, 30), bound(1, 20)];
    let mut whole = Recorded::default();
    entries.iter().for_each(|entry| whole.apply(*entry));
    for again in 0..entries.len() {
        let mut recorded = whole.clone();
        entries[again..].iter().for_each(|entry| recorded.apply(*entry));
        assert_eq!(recorded, whole, "{again}");
    }
}

#[test]
fn it_is_there_once() {
    let place = tempfile::tempdir().unwrap();
    let register = directory(place.path());
    assert_eq!(register.take(IDENTITY).unwrap(), None);
    let mut log = register.begin_log(2).unwrap();
    register.store_base(&base(2, all()), register.voided()).unwrap();
    assert_eq!(log.append(&[bound(11, 110), Entry::Until(77)]).unwrap(), 2);
    let mut next = register.begin_log(3).unwrap();
    next.append(&[Entry::Stream(stream(4))]).unwrap();
    let found = register.take(IDENTITY).unwrap().unwrap();
    assert_eq!((found.stream, found.generation, found.until), (Some(stream(4)), Some(generation(6)), 77));
    assert_eq!(found.original(VolumeId(1), 110), Some(file(11)));
    assert_eq!(found.copies[&file(9)], Copy { here: 70, kind: FileKind::Regular, tag: tag(70) });
    assert_eq!(register.take(IDENTITY).unwrap(), None);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn the_moment_counts_as_long_as_the_kernel_runs() {
    let place = tempfile::tempdir().unwrap();
    let register = directory(place.path());
    let put = |said: &[i64]| {
        register.begin_log(2).unwrap().append(&[Entry::Until(1000)]).unwrap();
        register.store_base(&base(2, all()), register.voided()).unwrap();
        let moment = register.begin_moment().unwrap();
        said.iter().for_each(|until| moment.note(*until).unwrap());
    };
    for (said, until) in [(vec![], 1000), (vec![300, 400], 400), (vec![2000], 1000)] {
        put(&said);
        assert_eq!(register.take(IDENTITY).unwrap().unwrap().until, until, "{said:?}");
    }
    put(&[300]);
    let file = place.path().join("register.moment");
    let mut bytes = fs::read(&file).unwrap();
    bytes[0] ^= 1;
    fs::write(&file, bytes).unwrap();
    assert_eq!(register.take(IDENTITY).unwrap().unwrap().until, 1000, "another boot");
    assert!(!file.exists());
}

#[test]
fn a_base_takes_the_place_of_the_log_before_it() {
    let place = tempfile::tempdir().unwrap();
    let register = directory(place.path());
    register.begin_log(2).unwrap();
    register.store_base(&base(2, all()), register.voided()).unwrap();
    register.begin_log(3).unwrap();
    register.store_base(&base(3, vec![Entry::Stream(stream(5))]), register.voided()).unwrap();
    assert!(!place.path().join("register.0000000000000002").exists());
    assert_eq!(register.take(IDENTITY).unwrap().unwrap().stream, Some(stream(5)));
}

#[test]
fn what_is_of_something_else_or_not_whole_is_worth_nothing() {
    let place = tempfile::tempdir().unwrap();
    let register = directory(place.path());
    let put = |register: &RegisterDirectory| {
        register.begin_log(2).unwrap().append(&[bound(1, 10)]).unwrap();
        register.store_base(&base(2, all()), register.voided()).unwrap();
    };
    put(&register);
    assert_eq!(register.take([5; 32]).unwrap(), None);
    let names = ["register.base", "register.0000000000000002"].map(|name| place.path().join(name));
    for name in &names {
        put(&register);
        fs::remove_file(name).unwrap();
        assert_eq!(register.take(IDENTITY).unwrap(), None);
        put(&register);
        let mut bytes = fs::read(name).unwrap();
        let last = bytes.len() - 1;
        bytes[600.min(last)] ^= 1;
        fs::write(name, bytes).unwrap();
        assert_eq!(register.take(IDENTITY).unwrap(), None);
    }
    let whole = base(2, all()).encode();
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x20;
        assert_eq!(Base::decode(&flipped), None, "byte {at}");
        assert_eq!(Base::decode(&whole[..at]), None, "{at} bytes");
    }
    assert_eq!(Base::decode(&whole), Some(base(2, all())));
}

#[test]
fn a_base_that_was_begun_before_it_was_void_is_not_put_in_its_place() {
    let place = tempfile::tempdir().unwrap();
    let register = directory(place.path());
    let voided = register.voided();
    register.begin_log(2).unwrap();
    register.make_void().unwrap();
    assert!(register.store_base(&base(2, all()), voided).is_err());
    assert_eq!(register.take(IDENTITY).unwrap(), None);
}
