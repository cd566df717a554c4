//! What a former primary leaves, what the new one inherits, and both as bytes.

use alloc::vec;

use super::*;
use crate::activity::{Named, Record};
use crate::extent::Extent;
use crate::file_set::FileSet;
use crate::ids::Sequence;

fn file(inode: u64) -> FileId {
    FileId { volume: VolumeId(1), inode }
}

fn stream_of(number: u64) -> StreamId {
    StreamId { incarnation: [7; 16], number }
}

/// A primary whose peer knows a root (2), a directory (3) and files (4 to 8).
fn activity() -> Activity {
    let known = (2..9).map(file).collect();
    let directories = [file(2), file(3)].into_iter().collect();
    Activity::new(stream_of(1), known, directories, [].into(), core::iter::empty())
}

fn after(records: Vec<Record>) -> Activity {
    let mut activity = activity();
    records.into_iter().for_each(|record| activity.apply(record));
    activity
}

fn intent(inode: u64) -> Record {
    Record::Intent { file: file(inode), new: false }
}

#[test]
fn what_is_in_doubt_may_differ_and_all_else_is_vouched_for() {
    let parts = Record::Parts { file: file(6), dirty: vec![Extent::at(0, 9)], attributes: false, look: 0 };
    let activity = after(vec![
        intent(3),
        intent(4),
        parts,
        Record::Relist(file(2)),
        Record::Intent { file: file(9), new: true },
        intent(5),
        Record::Settled { file: file(5), named: Named { known: true, scanned: false }, look: 1 },
        Record::Begin(stream_of(2)),
    ]);
    let legacy = Legacy::of(&activity, (2..8).map(file).chain([file(20)])).unwrap();
    let about = |inode: u64| -> Vec<Difference> {
        legacy.differences().filter(|(about, _)| *about == file(inode)).map(|(_, what)| what).collect()
    };
    let attributes = FileCheckpoint { attributes: true, explicit: true, ..FileCheckpoint::default() };
    let all = FileCheckpoint { lost: true, ..attributes.clone() };
    assert_eq!(about(2), [Difference::Names { deep: true }, Difference::Parts(attributes.clone())]);
    assert_eq!(about(3), [Difference::Names { deep: false }, Difference::Parts(attributes)]);
    assert_eq!(about(4), [Difference::Parts(all)]);
    assert_eq!(about(5), []);
    let dirty = FileCheckpoint { dirty: vec![Extent::at(0, 9)], ..FileCheckpoint::default() };
    assert_eq!(about(6), [Difference::Parts(dirty)]);
    assert_eq!(about(9), [Difference::All]);
    // Made just before the end, and on record nowhere.
    assert_eq!(about(20), [Difference::All]);
    assert_eq!(about(7), []);
    assert_eq!(activity.vouched().collect::<Vec<_>>(), [file(5), file(7), file(8)]);
    assert!(legacy.is_of(stream_of(1)) && legacy.is_of(stream_of(2)) && !legacy.is_of(stream_of(3)));
}

#[test]
fn what_is_written_is_read_again_and_no_part_of_it_is() {
    let records = vec![intent(3), intent(4), Record::Intent { file: file(9), new: true }];
    let legacy = Legacy::of(&after(records), core::iter::empty()).unwrap();
    let copies: Vec<CopyOf> = (2..6)
        .map(|inode| CopyOf { original: file(inode), here: file(40 - inode), kind: FileKind::Regular })
        .collect();
    let (bytes, told) = (legacy.encode(), encode_copies(&copies));
    assert_eq!(Legacy::decode(&bytes), Ok(legacy));
    assert_eq!(decode_copies(&told), Ok(copies));
    for length in 0..bytes.len() {
        assert!(Legacy::decode(&bytes[..length]).is_err(), "{length}");
    }
    for length in 0..told.len() {
        assert!(decode_copies(&told[..length]).is_err(), "{length}");
    }
    assert!(Legacy::decode(&[bytes.as_slice(), &[0]].concat()).is_err());
    let mut strange = told;
    *strange.last_mut().unwrap() = 99;
    assert_eq!(decode_copies(&strange), Err(BodyError::Value("file kind")));
}

#[test]
fn of_whom_too_much_is_in_doubt_nothing_is_left() {
    let records = (100..100 + LEGACY_FILES_MAX as u64 + 1).map(intent);
    assert_eq!(Legacy::of(&after(records.collect()), core::iter::empty()), None);
    let known = |most: u64| (2..2 + most).map(file).collect();
    let most = LEGACY_FILES_MAX as u64;
    let many =
        Activity::new(stream_of(1), known(most), FileSet::default(), [].into(), (2..2 + most).map(file));
    assert!(Legacy::of(&many, core::iter::empty()).is_some());
    assert_eq!(Legacy::of(&many, [file(1)].into_iter()), None);
}

#[test]
fn it_fits_whoever_held_the_stream_and_is_not_behind() {
    let legacy = Legacy::of(&after(vec![Record::Begin(stream_of(2))]), core::iter::empty()).unwrap();
    let inheritance = |number| {
        let held = Held { stream: stream_of(number), received: Sequence(5) };
        Inheritance::new(held, Vec::new())
    };
    let holding = |number| Holding { generation: Generation(number), held: None };
    for (stream, generation, fits) in [(1, 3, true), (2, 4, true), (3, 3, false), (2, 5, false)] {
        let found = inheritance(stream).fits(&legacy, Generation(4), holding(generation));
        assert_eq!(found, fits, "stream {stream}, generation {generation}");
    }
}

#[test]
fn a_copy_is_found_by_its_original() {
    let copy = |original, here| CopyOf { original: file(original), here: file(here), kind: FileKind::Fifo };
    let held = Held { stream: stream_of(1), received: Sequence(5) };
    let inheritance = Inheritance::new(held, vec![copy(9, 1), copy(2, 7), copy(5, 3)]);
    assert_eq!(inheritance.copy_of(file(5)), Some(copy(5, 3)));
    assert_eq!(inheritance.copy_of(file(3)), None);
}
