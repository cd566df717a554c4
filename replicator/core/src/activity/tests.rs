//! Bases, records, and what follows from both after a crash.

use alloc::vec;

use super::*;
use crate::ids::VolumeId;

fn file(inode: u64) -> FileId {
    FileId { volume: VolumeId(1), inode }
}

fn stream_of(number: u64) -> StreamId {
    StreamId { incarnation: [7; 16], number }
}

const FILE: Named = Named { known: true, scanned: false };
const DIRECTORY: Named = Named { known: true, scanned: true };

/// Directory 2 with the files 3 and 4, the latter in doubt.
fn base() -> Activity {
    let known = [file(2), file(3), file(4)].into_iter().collect();
    Activity::new(
        stream_of(1),
        known,
        [file(2)].into_iter().collect(),
        [file(30)].into(),
        [file(4)].into_iter(),
    )
}

fn records() -> Vec<Record> {
    let dirty = vec![Extent { start: 0, end: 4096 }, Extent { start: 8192, end: Extent::END }];
    vec![
        Record::Begin(stream_of(2)),
        Record::Intent { file: file(3), new: false },
        Record::Intent { file: file(9), new: true },
        Record::Relist(file(2)),
        Record::Relist(file(4)),
        Record::Listed(file(4)),
        Record::Named(file(9), DIRECTORY),
        Record::Parts { file: file(3), dirty, attributes: true, look: 6 },
        Record::Settled { file: file(4), named: FILE, look: 77 },
    ]
}

/// The log begins before the base: what was made in between is new in the log, and may be known in the base.
#[test]
fn what_is_made_before_the_base_stays_known() {
    let mut activity = base();
    let known = activity.named(file(4));
    assert_eq!(known, FILE);
    // Without the word that follows it, the peer's copy would be forgotten once the directory is settled.
    activity.apply(Record::Intent { file: file(4), new: true });
    assert_eq!(activity.named(file(4)), Named::default());
    activity.apply(Record::Named(file(4), known));
    activity.apply(Record::Settled { file: file(2), named: DIRECTORY, look: 1 });
    let checkpoint = activity.checkpoint().unwrap();
    assert!(checkpoint.known.contains(&file(4)));
    assert!(checkpoint.files.iter().any(|(found, marks)| *found == file(4) && marks.lost));
}

fn doubts(activity: &Activity) -> Vec<FileId> {
    activity.doubtful().collect()
}

#[test]
fn records_are_read_as_they_were_written_and_are_short() {
    let mut bytes = Vec::new();
    records().iter().for_each(|record| record.encode(&mut bytes));
    assert_eq!(Record::decode_all(&bytes), Ok(records()));
    for length in 1..bytes.len() {
        // Whole records, or an error: never a part of one.
        if let Ok(some) = Record::decode_all(&bytes[..length]) {
            assert_eq!(some, records()[..some.len()]);
        }
    }
    let dirty = (0..PARTS_MAX as u64).map(|n| Extent { start: n * 10, end: n * 10 + 1 }).collect();
    let mut longest = Vec::new();
    Record::Parts { file: file(3), dirty, attributes: true, look: 6 }.encode(&mut longest);
    assert!(longest.len() <= RECORD_BYTES_MAX);
    assert!(Record::decode_all(&[99]).is_err());
}

#[test]
fn a_base_is_read_as_it_was_written() {
    let mut activity = base();
    records().into_iter().for_each(|record| activity.apply(record));
    let _ = activity.take_looks();
    let bytes = activity.encode();
    assert_eq!(Activity::decode(&bytes), Ok(activity));
    for length in 0..bytes.len() {
        assert!(Activity::decode(&bytes[..length]).is_err(), "{length}");
    }
}

#[test]
fn a_file_is_in_doubt_from_its_intent_until_it_is_settled() {
    let mut activity = base();
    assert_eq!(doubts(&activity), [file(4)]);
    activity.apply(Record::Intent { file: file(3), new: false });
    assert_eq!(doubts(&activity), [file(3), file(4)]);
    activity.apply(Record::Settled { file: file(4), named: FILE, look: 5 });
    activity.apply(Record::Settled { file: file(3), named: Named::default(), look: 0 });
    assert_eq!(doubts(&activity), []);
    assert_eq!(activity.take_looks(), [(file(3), 0), (file(4), 5)].into());
    let checkpoint = activity.checkpoint().unwrap();
    assert_eq!(checkpoint.known, [file(2), file(4)]);
    assert_eq!((checkpoint.files.len(), checkpoint.marked.len()), (0, 0));
    activity.apply(Record::Intent { file: file(4), new: false });
    assert_eq!(doubts(&activity), [file(4)]);
}

/// Its number was given to a regular file: taken for a directory, that one is never compared, and the resync does not end.
#[test]
fn a_directory_that_was_found_gone_is_none_after_a_crash() {
    let mut activity = base();
    activity.apply(Record::Named(file(2), Named { known: false, scanned: true }));
    let checkpoint = activity.checkpoint().unwrap();
    assert!(!checkpoint.known.contains(&file(2)));
    assert!(!checkpoint.scanned.contains(&file(2)));
}

#[test]
fn parts_hold_until_the_next_intent() {
    let mut activity = base();
    let dirty = vec![Extent { start: 5, end: 6 }];
    activity.apply(Record::Parts { file: file(4), dirty: dirty.clone(), attributes: false, look: 8 });
    let marks = |activity: &Activity| activity.checkpoint().unwrap().files;
    let parts = FileCheckpoint { dirty, ..FileCheckpoint::default() };
    assert_eq!(marks(&activity), [(file(4), parts)]);
    activity.apply(Record::Intent { file: file(4), new: false });
    assert!(matches!(marks(&activity)[..], [(_, FileCheckpoint { lost: true, .. })]));
    // A directory whose list may have taken something away stays one.
    activity.apply(Record::Relist(file(2)));
    activity.apply(Record::Intent { file: file(2), new: false });
    assert_eq!(activity.checkpoint().unwrap().marked, [(file(2), true)]);
    // Until the list is answered; then only its names are in doubt, or nothing, if that was known before.
    activity.apply(Record::Listed(file(2)));
    assert_eq!(activity.checkpoint().unwrap().marked, [(file(2), false)]);
    activity.apply(Record::Settled { file: file(2), named: DIRECTORY, look: 3 });
    activity.apply(Record::Listed(file(2)));
    assert_eq!(doubts(&activity), [file(4)]);
}

#[test]
fn what_is_in_doubt_is_listed_or_compared_and_nothing_else() {
    let mut activity = base();
    records().into_iter().for_each(|record| activity.apply(record));
    activity.apply(Record::Intent { file: file(9), new: false });
    // Just made, and the peer was not seen to have it.
    activity.apply(Record::Intent { file: file(10), new: true });
    // The number of a file that was known belongs to another one.
    activity.apply(Record::Intent { file: file(4), new: true });
    let checkpoint = activity.checkpoint().unwrap();
    assert_eq!(checkpoint.known, [file(2), file(3), file(9)]);
    assert_eq!(checkpoint.scanned, [file(2), file(9)]);
    assert_eq!(checkpoint.marked, [(file(2), true), (file(9), false)]);
    // What the peer does not know is listed when the list of its directory names it: nothing waits for whatever has its number next.
    assert_eq!(checkpoint.changed, [file(30)]);
    let marked: Vec<FileId> = checkpoint.files.iter().map(|(file, _)| *file).collect();
    assert_eq!(marked, [file(2), file(3), file(9)]);
    assert!(checkpoint.files.iter().all(|(_, marks)| marks.attributes && marks.explicit && !marks.lost));
    assert_eq!(checkpoint.last.stream, stream_of(2));
    assert_eq!(activity.streams(), [stream_of(1), stream_of(2)]);
    assert_eq!(Activity::default().checkpoint(), None);
}
