//! What the reader says of files, and the digests.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use replicator_core::event::SegmentContent::{self, Data, Hole};
use replicator_core::extent::Extent;
use replicator_core::ids::FileKind;
use replicator_core::wire::attributes::Timestamp;
use replicator_core::wire::namespace::Operation;

use super::fixture;
use super::random_tree::{acl, set_xattr};
use crate::storage::digest::{BLOCK_BYTES, read_full};
use crate::storage::reader::{self, attributes, digests, list_directory, open_for_read, segments};

fn pieces(file: &fs::File, extent: Extent) -> Vec<(u64, u64, SegmentContent)> {
    let mut bytes = vec![0; extent.length() as usize];
    let read = read_full(file.as_fd(), &mut bytes, extent.start).expect("read");
    segments(file.as_fd(), extent.start, &bytes[..read])
        .expect("segments")
        .into_iter()
        .map(|segment| (segment.extent.start, segment.extent.end, segment.content))
        .collect()
}

#[test]
fn holes_are_reported_where_the_file_system_says_so() {
    let file = tempfile::tempfile().expect("a file");
    file.write_all_at(&[1; 4096], 8192).expect("write");
    file.write_all_at(&[0; 4096], 16384).expect("write zeroes");
    file.set_len(30_000).expect("truncate");
    let whole = Extent { start: 0, end: 100_000 };
    assert_eq!(
        pieces(&file, whole),
        [
            (0, 8192, Hole),
            (8192, 12288, Data),
            (12288, 16384, Hole),
            (16384, 20480, Data),
            (20480, 30_000, Hole)
        ]
    );
    assert_eq!(pieces(&file, Extent { start: 100, end: 9000 }), [(100, 8192, Hole), (8192, 9000, Data)]);
    assert_eq!(pieces(&file, Extent { start: 8193, end: 8200 }), [(8193, 8200, Data)]);
    assert_eq!(pieces(&file, Extent { start: 30_000, end: 40_000 }), []);
}

/// The mode of one moment with the list of another would be applied as a list that was never there.
#[test]
fn a_list_and_a_mode_are_read_of_one_moment() {
    let Some(directory) = fixture::directory() else { return };
    let path = directory.path().join("f");
    let file = fs::File::create(&path).expect("create");
    // A list whose mode is 0750, and one that is no more than the mode 0777, which takes the other away.
    let narrow = acl(3);
    let [owner, group, other] = [(0x01_u16, 7_u16), (0x04, 7), (0x20, 7)].map(|(tag, permissions)| {
        [tag.to_le_bytes(), permissions.to_le_bytes(), [0xff; 2], [0xff; 2]].concat()
    });
    let wide = [&2_u32.to_le_bytes()[..], &owner, &group, &other].concat();
    let done = AtomicBool::new(false);
    let torn = std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..10_000 {
                set_xattr(&path, c"system.posix_acl_access", &narrow);
                set_xattr(&path, c"system.posix_acl_access", &wide);
            }
            done.store(true, Ordering::Relaxed);
        });
        let mut torn = None;
        while torn.is_none() && !done.load(Ordering::Relaxed) {
            let found = reader::attributes_of(file.as_fd()).expect("attributes");
            let listed = found.xattrs.iter().any(|(name, _)| name.starts_with(b"system."));
            torn = (listed && found.mode & 0o777 != 0o750).then_some(found);
        }
        torn
    });
    assert_eq!(torn, None);
}

#[test]
fn bytes_that_are_not_zero_are_never_a_hole() {
    // Read before a punch: the file system says hole, the bytes say otherwise.
    let file = tempfile::tempfile().expect("a file");
    file.set_len(8192).expect("truncate");
    let mut bytes = vec![0; 8192];
    bytes[5000] = 1;
    let found = segments(file.as_fd(), 0, &bytes).expect("segments");
    let data: u64 = found.iter().filter(|s| s.content == Data).map(|s| s.extent.length()).sum();
    assert!(found.iter().any(|s| s.content == Data && s.extent.start <= 5000 && s.extent.end > 5000));
    assert_eq!(data, 1024);
}

#[test]
fn digests_have_the_documented_layout() {
    let file = tempfile::tempfile().expect("a file");
    let block = BLOCK_BYTES as usize;
    file.write_all_at(&vec![3; block], 0).expect("write");
    file.set_len(2 * block as u64).expect("a hole");
    file.write_all_at(&[4; 100], 2 * block as u64).expect("write");
    file.write_all_at(&[5; 4096], 3 * block as u64 + 8192).expect("write");
    file.set_len(4 * block as u64).expect("truncate");
    let (payload, extent) = digests(file.as_fd(), Extent::WHOLE).expect("digest");
    assert_eq!(extent, Extent { start: 0, end: 4 * u64::from(BLOCK_BYTES) });
    assert_eq!(payload[..4], BLOCK_BYTES.to_le_bytes());
    assert_eq!(payload.len(), 4 + 4 * 16);
    assert_eq!(payload[4..20], blake3::hash(&vec![3; block]).as_bytes()[..16]);
    assert_eq!(payload[20..36], [0; 16]);
    let mut bytes = vec![0; block];
    bytes[8192..12288].fill(5);
    for number in [0, 8192, 12288, BLOCK_BYTES] {
        bytes.extend(number.to_le_bytes());
    }
    assert_eq!(payload[52..68], blake3::hash(&bytes).as_bytes()[..16]);
    // Nothing is left behind the end of the file.
    let (payload, extent) = digests(file.as_fd(), Extent::at(1 << 40, 1 << 20)).expect("digest");
    assert_eq!((payload.len(), extent.is_empty()), (4, true));
}

#[test]
fn a_hole_of_gigabytes_is_digested_without_reading_it() {
    let file = tempfile::tempfile().expect("a file");
    file.set_len(4 << 30).expect("truncate");
    let (payload, _) = digests(file.as_fd(), Extent::WHOLE).expect("digest");
    assert!(payload[4..].iter().all(|&byte| byte == 0));
    assert_eq!(payload.len(), 4 + 65_536 * 16);
    file.set_len((4 << 30) + 1).expect("truncate");
    assert_eq!(digests(file.as_fd(), Extent::WHOLE).expect_err("too many").raw_os_error(), Some(libc::EFBIG));
}

#[test]
fn attributes_are_complete_and_sorted() {
    let Some(directory) = fixture::directory() else { return };
    let volume = fixture::volume(directory.path(), "v");
    let path = volume.path.join("file");
    fs::write(&path, b"12345").expect("write");
    std::os::unix::fs::chown(&path, Some(12), Some(34)).expect("chown");
    for name in [c"user.b", c"trusted.a", c"user.a"] {
        set_xattr(&path, name, name.to_bytes());
    }
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(77, 123_456_789);
    fs::File::open(&path).expect("open").set_modified(time).expect("set");
    let inode = fixture::inode(&path);
    volume.learn_at(volume.root(), b"file", inode).expect("learn");
    let found = attributes(&volume, inode).expect("read");
    assert_eq!((found.uid, found.gid, found.size, found.mode & 0o170_000), (12, 34, 5, 0o100_000));
    assert_eq!(found.mtime, Timestamp { seconds: 77, nanoseconds: 123_456_789 });
    let names: Vec<_> = found.xattrs.iter().map(|(name, _)| name.as_slice()).collect();
    assert_eq!(names, [b"trusted.a".as_slice(), b"user.a", b"user.b"]);
    fs::remove_file(&path).expect("remove");
    assert!(reader::is_gone(&attributes(&volume, inode).expect_err("gone")));
    assert!(reader::is_gone(&open_for_read(&volume, inode).expect_err("gone")));
    assert!(reader::is_gone(&open_for_read(&volume, 999_999_999).expect_err("never known")));
}

#[test]
fn a_list_leaves_out_the_reserved_name_in_the_root_only() {
    let Some(directory) = fixture::directory() else { return };
    let volume = fixture::volume(directory.path(), "v");
    for path in [".replicator", "sub/.replicator"] {
        fs::create_dir_all(volume.path.join(path)).expect("mkdir");
    }
    let names = |inode| {
        let mut found = Vec::new();
        list_directory(&volume, inode, &mut |operation| {
            let Operation::List { entries, first: true, last: true, .. } = operation else {
                panic!("not one list: {operation:?}")
            };
            found.extend(entries.into_iter().map(|entry| (entry.name, entry.node.kind)));
        })
        .expect("list");
        found
    };
    assert_eq!(names(volume.root_inode), [(b"sub".to_vec(), FileKind::Directory)]);
    let sub = fixture::inode(&volume.path.join("sub"));
    assert_eq!(names(sub), [(b".replicator".to_vec(), FileKind::Directory)]);
    let file = fixture::inode(&volume.path.join("sub/.replicator"));
    assert_eq!(names(file), []);
    fs::remove_dir(volume.path.join("sub/.replicator")).expect("rmdir");
    let gone = list_directory(&volume, file, &mut |_| panic!("nothing to list")).expect_err("gone");
    assert!(reader::is_gone(&gone));
}

/// A file that was removed without a word, and a new one with its number: the list tells which.
#[test]
fn a_list_tells_which_numbers_belong_to_other_files_by_now() {
    let Some(directory) = fixture::directory() else { return };
    let volume = fixture::volume(directory.path(), "v");
    let list = || {
        let mut parts = 0;
        let replaced = list_directory(&volume, volume.root_inode, &mut |_| parts += 1).expect("list");
        assert_eq!(parts, 1);
        replaced
    };
    let path = volume.path.join("file");
    fs::write(&path, "old").expect("write");
    assert_eq!((list(), list()), (vec![], vec![]));
    let number = fixture::inode(&path);
    // Most file systems give the lowest free number: a handful of tries is plenty.
    let reused = (0..100).any(|attempt| {
        fs::remove_file(&path).expect("unlink");
        fs::write(&path, format!("new {attempt}")).expect("write");
        fixture::inode(&path) == number
    });
    if !reused {
        println!("not run: this file system does not use a number again");
        return;
    }
    assert_eq!(list(), [volume.file(number)]);
    assert_eq!(list(), []);
}
