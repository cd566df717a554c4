//! What is kept comes back, also after a kill, and nothing is overwritten without room.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use replicator_core::extent::Extent;
use tempfile::TempDir;

use super::*;

const ID: &str = "7-00000000000000ab";
const ROOMY: Limit = Limit { bytes: 1 << 30, drops: false };

/// A directory with a file of three parts, one of which is a hole.
struct Bench {
    root: TempDir,
    open: File,
    file: File,
    before: Vec<u8>,
}

fn bench() -> Bench {
    let root = tempfile::tempdir().expect("a temporary directory");
    let open = File::open(root.path()).expect("open");
    let path = root.path().join("file");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).expect("make");
    file.write_all_at(&[1; 200_000], 0).expect("write");
    file.write_all_at(&[2; 100_000], 500_000).expect("write");
    let before = fs::read(&path).expect("read");
    Bench { root, open, file, before }
}

impl Bench {
    fn keeper(&self, id: &str, limit: Limit) -> Keeper {
        Keeper::open(self.open.as_fd(), id, limit).expect("a keeper")
    }

    fn overwrite(&self, keeper: &mut Keeper, range: Extent) {
        keeper.keep_range(self.file.as_fd(), range).expect("keep");
        self.file.write_all_at(&vec![9; range.length() as usize], range.start).expect("write");
    }

    fn only(&self) -> Set {
        let mut sets = list(self.root.path()).expect("list");
        assert_eq!(sets.len(), 1);
        sets.remove(0)
    }
}

#[test]
fn what_is_overwritten_is_kept_once_and_comes_back_bit_exact() {
    let bench = bench();
    let mut keeper = bench.keeper(ID, ROOMY);
    let ranges = [(0, 10), (5, 70_000), (100_001, 3), (190_000, 300_000), (550_000, 100_000), (20, 40_000)];
    for (start, length) in ranges {
        bench.overwrite(&mut keeper, Extent::at(start, length));
    }
    // The daemon was killed: what was overwritten since is not taken for this copy's own.
    drop(keeper);
    let mut keeper = bench.keeper(ID, ROOMY);
    bench.overwrite(&mut keeper, Extent::at(0, 1000));
    // Then the file is cut.
    keeper.keep_range(bench.file.as_fd(), Extent { start: 130_000, end: 700_000 }).expect("keep");
    bench.file.set_len(130_000).expect("cut");
    drop(keeper);
    let set = bench.only();
    assert_eq!((set.id.as_str(), set.entries.len(), set.incomplete), (ID, 1, false));
    let entry = &set.entries[0];
    assert_eq!((entry.file.path.as_str(), entry.file.size), ("file", 600_000));
    let to = bench.root.path().join("restored");
    let how = restore(bench.root.path(), &set, entry, &to, false).expect("restore");
    assert_eq!(how, Restored::Overlaid);
    assert!(fs::read(&to).expect("read") == bench.before, "the file is not as it was");
    assert!(restore(bench.root.path(), &set, entry, &to, false).is_err(), "what is there is not overwritten");
    // The file itself is gone: what was overwritten is left.
    fs::remove_file(bench.root.path().join("file")).expect("remove");
    drop(bench.file);
    let rest = bench.root.path().join("rest");
    let how = restore(bench.root.path(), &set, entry, &rest, false).expect("restore");
    assert_eq!(how, Restored::Ranges);
    let found = fs::read(&rest).expect("read");
    let Kept::Ranges(kept) = &entry.kept else { panic!("ranges") };
    for range in kept.iter() {
        let range = range.start as usize..range.end as usize;
        assert_eq!(found[range.clone()], bench.before[range]);
    }
}

#[test]
fn a_removed_file_is_moved_and_restored() {
    let bench = bench();
    let mut keeper = bench.keeper(ID, ROOMY);
    let from = bench.root.path().join("file");
    let to = keeper.keep_removed(bench.file.as_fd()).expect("keep").expect("a place");
    // The power goes before it is moved: it is where it was, and not listed.
    assert!(bench.only().entries.is_empty());
    let mut keeper = bench.keeper(ID, ROOMY);
    let again = keeper.keep_removed(bench.file.as_fd()).expect("keep").expect("a place");
    assert_ne!(to.file_name(), again.file_name());
    fs::rename(&from, &again).expect("move");
    let set = bench.only();
    assert_eq!(set.entries.len(), 1);
    assert_eq!(set.entries[0].kept, Kept::Removed);
    let restored = bench.root.path().join("restored");
    assert_eq!(
        restore(bench.root.path(), &set, &set.entries[0], &restored, false).expect("restore"),
        Restored::Whole
    );
    assert!(fs::read(restored).expect("read") == bench.before);
    assert!(discard(bench.root.path(), ID).expect("discard"));
    assert!(!discard(bench.root.path(), ID).expect("discard"));
    assert!(list(bench.root.path()).expect("list").is_empty());
}

#[test]
fn where_a_file_was_is_known_after_a_kill() {
    let bench = bench();
    let inode = std::os::unix::fs::MetadataExt::ino(&bench.file.metadata().expect("stat"));
    let mut keeper = bench.keeper(ID, ROOMY);
    // A directory was taken away, and one within it, with the file inside.
    keeper.note_displaced(1_000_001, b"a");
    keeper.note_displaced_in(1_000_001, b"\xffb", 1_000_002);
    drop(keeper);
    let mut keeper = bench.keeper(ID, ROOMY);
    keeper.note_displaced_in(1_000_002, b"c", inode);
    keeper.note_displaced_in(77, b"unknown", inode);
    let to = keeper.keep_removed(bench.file.as_fd()).expect("keep").expect("a place");
    fs::rename(bench.root.path().join("file"), to).expect("move");
    assert_eq!(bench.only().entries[0].file.path, "a/\\xffb/c");
}

#[test]
fn what_the_resync_made_is_not_kept() {
    let bench = bench();
    let mut keeper = bench.keeper(ID, ROOMY);
    keeper.note_made(std::os::unix::fs::MetadataExt::ino(&bench.file.metadata().expect("stat")));
    bench.overwrite(&mut keeper, Extent::at(0, 1000));
    assert_eq!(keeper.keep_removed(bench.file.as_fd()).expect("keep"), None);
    assert!(bench.only().entries.is_empty());
}

#[test]
fn without_room_nothing_is_overwritten_or_the_oldest_goes() {
    let bench = bench();
    let small = Limit { bytes: 50_000, drops: false };
    let mut keeper = bench.keeper("3-0000000000000001", small);
    bench.overwrite(&mut keeper, Extent::at(0, 40_000));
    let full = keeper.keep_range(bench.file.as_fd(), Extent::at(40_000, 20_000));
    assert!(matches!(full, Err(KeeperError::Full { bytes: 50_000 })));
    // What is kept of an earlier generation counts, too.
    let mut keeper = bench.keeper(ID, small);
    assert!(keeper.keep_range(bench.file.as_fd(), Extent::at(60_000, 20_000)).is_err());
    drop(keeper);
    let mut keeper = bench.keeper(ID, Limit { drops: true, ..small });
    bench.overwrite(&mut keeper, Extent::at(60_000, 20_000));
    let set = bench.only();
    assert_eq!((set.id.as_str(), set.bytes()), (ID, 20_000));
    // Nothing older is left to go.
    bench.overwrite(&mut keeper, Extent::at(100_000, 60_000));
    let set = bench.only();
    assert_eq!((set.bytes(), set.incomplete), (20_000, true));
}

#[test]
fn a_line_that_was_cut_off_is_not_there_and_spoils_nothing() {
    let bench = bench();
    let mut keeper = bench.keeper(ID, ROOMY);
    bench.overwrite(&mut keeper, Extent::at(0, 1000));
    drop(keeper);
    let index = bench.root.path().join(PLACE).join(ID).join(INDEX);
    let whole = fs::read(&index).expect("read");
    let lines = whole.iter().filter(|byte| **byte == b'\n').count();
    for length in 0..whole.len() {
        fs::write(&index, &whole[..length]).expect("cut");
        let kept = bench.only().bytes();
        assert!(kept == 0 || length + 1 == whole.len() && kept == 1000, "{length} of {}", whole.len());
        assert_eq!(lines, 3);
    }
    fs::write(&index, &whole[..whole.len() - 5]).expect("cut");
    let mut keeper = bench.keeper(ID, ROOMY);
    keeper.keep_range(bench.file.as_fd(), Extent::at(500_000, 100)).expect("keep");
    assert_eq!(bench.only().bytes(), 100);
}

#[test]
fn names_of_sets_are_generations_and_nothing_else() {
    assert!(is_id(ID));
    for id in
        ["", "7", "7-", "7-ab", "../x", "7-00000000000000xy", "a-00000000000000ab", "7-00000000000000ab/.."]
    {
        assert!(!is_id(id), "{id}");
    }
}
