//! Stores into pages that are dirty already: the kernel's own sign of a store, a folio that becomes dirty, does not come. Each must be
//! told as a store all the same, when or after the page can be stored to, or it would never be read.

use std::fs::File;
use std::os::unix::fs::FileExt;

use replicator::tracer::{Cover, Hook, TraceEvent, Tracer};
use replicator_core::extent::Extent;
use replicator_core::ids::FileId;

use crate::fixture::{Image, Seen, Traced, assert_covered, file, kernel_is_at_least, not_run, options, row};
use crate::operations::{Mapped, PAGE, filled};

const MEGABYTE: u64 = 1 << 20;

/// A traced file system of a kernel that tells of mapped pages.
fn traced(filesystem: &'static str, mount: &str) -> Option<Traced> {
    let traced = Traced::new(filesystem, &[], mount)?;
    if traced.tracer.report().uncovered.iter().any(|uncovered| uncovered.cover == Cover::Remapped) {
        not_run("the kernel does not tell which pages are mapped");
        return None;
    }
    Some(traced)
}

/// The stores among the events.
fn stores(seen: &[Seen]) -> Vec<Seen> {
    seen.iter().filter(|seen| matches!(seen.event, TraceEvent::Store { .. })).copied().collect()
}

fn assert_stored(what: &str, seen: &[Seen], file: FileId, at: u64) {
    assert_covered(what, &stores(seen), file, Extent::at(at, 1), None);
}

/// A clean file, and its name in events.
fn prepared(traced: &Traced, name: &str, bytes: u64) -> (File, FileId) {
    let path = traced.image.directory(name).join("file");
    (filled(&path, bytes as usize), file(&path))
}

fn written_then_mapped(filesystem: &'static str, mount: &str) {
    let Some(mut traced) = traced(filesystem, mount) else { return };
    let (target, id) = prepared(&traced, "written", 8 * MEGABYTE);
    for at in [17, 5 * PAGE, 3 * MEGABYTE + 1] {
        target.write_all_at(b"dirty", at).expect("pwrite");
        let mapping = Mapped::new(&target, 8 << 20);
        let seen = traced.during(|| mapping.store(at as usize, 1));
        assert_stored("a store into a page that write(2) made dirty", &seen, id, at);
        drop(mapping);
        target.sync_all().expect("sync");
    }
    let at = 6 * MEGABYTE;
    target.write_all_at(b"dirty", at).expect("pwrite");
    let mapping = Mapped::new(&target, 8 << 20);
    let seen = traced.during(|| {
        mapping.load(at as usize);
        mapping.store(at as usize, 1);
    });
    assert_stored("a store into a dirty page that was read before", &seen, id, at);
    target.sync_all().expect("sync");
    let seen = traced.during(|| mapping.store(at as usize, 2));
    assert_stored("a store after a sync", &seen, id, at);
}

#[test]
fn ext4_written_then_mapped() {
    written_then_mapped("ext4", "");
}

#[test]
fn xfs_written_then_mapped() {
    written_then_mapped("xfs", "");
}

#[test]
fn btrfs_written_then_mapped() {
    written_then_mapped("btrfs", "");
}

#[test]
fn ext4_journalled_data_written_then_mapped() {
    if !kernel_is_at_least(6, 3) {
        return not_run(
            "before Linux 6.3, a store to a mapping does not make the folio dirty with data=journal",
        );
    }
    written_then_mapped("ext4", "data=journal");
}

/// One fault may map a whole folio for writing: a store to any of its pages is silent from then on.
fn large_folios(filesystem: &'static str) {
    let Some(mut traced) = traced(filesystem, "") else { return };
    let (target, id) = prepared(&traced, "large", 0);
    target.write_all_at(&vec![1; 8 << 20], 0).expect("pwrite");
    let mapping = Mapped::new(&target, 8 << 20);
    let seen = traced.during(|| {
        for at in (0..8 * MEGABYTE).rev().step_by(PAGE as usize) {
            mapping.store(at as usize, 2);
        }
    });
    assert_covered("stores everywhere", &stores(&seen), id, Extent::at(0, 8 * MEGABYTE), None);
}

#[test]
fn ext4_large_folios() {
    large_folios("ext4");
}

#[test]
fn xfs_large_folios() {
    large_folios("xfs");
}

fn mapped_then_written(filesystem: &'static str) {
    let Some(mut traced) = traced(filesystem, "") else { return };
    let (target, id) = prepared(&traced, "mapped", MEGABYTE);
    let mapping = Mapped::new(&target, 1 << 20);
    for at in [0, 7 * PAGE + 4000] {
        mapping.store(at as usize, 1);
        target.sync_all().expect("sync");
        // Both the write that makes the page dirty and the one into the dirty page.
        for round in ["a clean page", "a dirty page"] {
            let seen = traced.during(|| target.write_all_at(b"bytes", at).expect("pwrite"));
            assert_stored(round, &seen, id, at);
            assert_covered(round, &seen, id, Extent::at(at, 5), None);
            for seen in stores(&seen) {
                let TraceEvent::Store { extent, .. } = seen.event else { continue };
                assert!(extent.start.is_multiple_of(PAGE) && extent.end.is_multiple_of(PAGE), "{extent:?}");
            }
        }
        mapping.store(at as usize, 2);
    }
}

#[test]
fn ext4_mapped_then_written() {
    mapped_then_written("ext4");
}

#[test]
fn xfs_mapped_then_written() {
    mapped_then_written("xfs");
}

fn without_a_shared_mapping(filesystem: &'static str) {
    let Some(mut traced) = traced(filesystem, "") else { return };
    let (target, id) = prepared(&traced, "unmapped", MEGABYTE);
    let path = traced.image.mount.join("unmapped/file");
    let seen = traced.during(|| {
        target.write_all_at(b"bytes", 5000).expect("pwrite");
        // Not a way to store: the descriptor cannot write.
        let mapping = Mapped::read_only(&File::open(&path).expect("open"), 1 << 20);
        mapping.load(5000);
        target.write_all_at(b"bytes", 5000).expect("pwrite");
    });
    assert!(stores(&seen).is_empty(), "{seen:?}");
    assert_covered("a plain write", &seen, id, Extent::at(5000, 5), None);
}

#[test]
fn ext4_without_a_shared_mapping() {
    without_a_shared_mapping("ext4");
}

#[test]
fn xfs_without_a_shared_mapping() {
    without_a_shared_mapping("xfs");
}

/// A page that is not in memory, or clean, tells when it becomes dirty; a fault on it alone is nothing to tell.
#[test]
fn a_fault_on_a_clean_page_is_not_told() {
    let Some(mut traced) = traced("ext4", "") else { return };
    let (target, id) = prepared(&traced, "clean", MEGABYTE);
    let mapping = Mapped::new(&target, 1 << 20);
    let seen = traced.during(|| mapping.load(0));
    let faults = [Hook::MmFilemapFault, Hook::FilemapFault];
    assert!(seen.iter().all(|seen| !faults.contains(&seen.hook)), "{seen:?}");
    let seen = traced.during(|| mapping.store(0, 1));
    assert_stored("a store", &seen, id, 0);
}

/// What the daemon makes dirty, others store to in silence.
#[test]
fn own_writes_to_a_mapped_file_are_told_as_stores() {
    let Some(image) = Image::new("ext4", &[], "") else { return };
    let mut options = options(vec![image.watch()]);
    options.ignored_process = None;
    let tracer = match Tracer::start(options) {
        Ok(tracer) => tracer,
        Err(error) if row() == replicator::tracer::Row::Fentry => return not_run(&error.to_string()),
        Err(error) => panic!("{error}"),
    };
    let mut traced = Traced { tracer, image };
    let (target, id) = prepared(&traced, "own", MEGABYTE);
    let _mapping = Mapped::new(&target, 1 << 20);
    let seen = traced.during(|| target.write_all_at(b"own", 5000).expect("pwrite"));
    assert_stored("an own write", &seen, id, 5000);
    assert_eq!(stores(&seen).len(), seen.len(), "{seen:?}");
}
