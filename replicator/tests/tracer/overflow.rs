//! A ring that is too small for what happens: every lost event is counted, and the order of the others holds.

use std::os::unix::fs::FileExt;

use replicator::tracer::{Row, Tracer};

use crate::fixture::{Image, file, not_run, options, row};
use crate::operations::filled;

fn start(image: &Image, ring_bytes: u32) -> Option<Tracer> {
    let mut options = options(vec![image.watch()]);
    options.ring_bytes = ring_bytes;
    match Tracer::start(options) {
        Ok(tracer) => Some(tracer),
        Err(error) if row() == Row::Fentry => {
            not_run(&error.to_string());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn every_lost_event_is_counted() {
    const WRITES: u64 = 10_000;
    let Some(image) = Image::new("ext4", &[], "") else { return };
    let path = image.directory("overflow").join("file");
    let target = filled(&path, 65_536);
    let Some(mut tracer) = start(&image, 4096) else { return };
    for round in 0..WRITES {
        target.write_all_at(b"x", round).expect("pwrite");
    }
    let mut sequences = Vec::new();
    let drained = tracer.drain_records(usize::MAX, &mut |_, record| sequences.push(record.sequence));
    assert!(drained.reached_end);
    assert!(drained.lost > 0 && drained.taken > 0, "{drained:?}");
    assert_eq!(drained.taken as u64 + drained.lost, WRITES);
    let counters = tracer.counters();
    assert_eq!(counters.told, WRITES);
    assert_eq!(counters.delivered + counters.dropped, counters.told);
    assert_eq!(counters.missed, 0);

    // Gaps equal the counter, and told once they are not told again.
    target.write_all_at(b"x", 0).expect("pwrite");
    let again = tracer.drain_records(usize::MAX, &mut |_, record| sequences.push(record.sequence));
    assert_eq!((again.lost, again.taken), (0, 1));
    let last = *sequences.iter().max().expect("some");
    assert_eq!(last - sequences.len() as u64, drained.lost);
    assert_eq!(file(&path).volume, crate::fixture::VOLUME);
}

#[test]
fn the_ring_keeps_the_order_and_the_limit() {
    const WRITES: u64 = 3000;
    let Some(image) = Image::new("ext4", &[], "") else { return };
    let path = image.directory("order").join("file");
    let target = filled(&path, 65_536);
    let Some(mut tracer) = start(&image, 1 << 20) else { return };
    for round in 0..WRITES {
        target.write_all_at(b"x", round).expect("pwrite");
    }
    let mut offsets = Vec::new();
    let drained = tracer.drain_records(1000, &mut |_, record| offsets.push(record.offset));
    assert_eq!((drained.taken, drained.lost, drained.reached_end), (1000, 0, false));
    let drained = tracer.drain_records(usize::MAX, &mut |_, record| offsets.push(record.offset));
    assert_eq!((drained.taken, drained.lost, drained.reached_end), (2000, 0, true));
    assert_eq!(offsets, (0..WRITES).collect::<Vec<_>>());
}

/// Writers on every processor against a small ring: what is delivered and what is counted as lost is all there was.
#[test]
fn concurrent_writers_lose_nothing_uncounted() {
    const WRITERS: usize = 4;
    const WRITES: u64 = 20_000;
    let Some(image) = Image::new("ext4", &[], "") else { return };
    let directory = image.directory("concurrent");
    let targets: Vec<_> =
        (0..WRITERS).map(|number| filled(&directory.join(number.to_string()), 65_536)).collect();
    let Some(mut tracer) = start(&image, 8192) else { return };
    let mut taken = 0;
    let mut lost = 0;
    std::thread::scope(|scope| {
        let writers: Vec<_> = targets
            .iter()
            .map(|target| {
                scope.spawn(move || {
                    for round in 0..WRITES {
                        target.write_all_at(b"x", round % 65_536).expect("pwrite");
                    }
                })
            })
            .collect();
        while !writers.iter().all(|writer| writer.is_finished()) {
            let drained = tracer.drain(1000, &mut |_| ());
            taken += drained.taken as u64;
            lost += drained.lost;
        }
    });
    loop {
        let drained = tracer.drain(usize::MAX, &mut |_| ());
        taken += drained.taken as u64;
        lost += drained.lost;
        if drained.reached_end {
            break;
        }
    }
    let counters = tracer.counters();
    assert_eq!(counters.told + counters.missed, WRITERS as u64 * WRITES, "{counters:?}");
    assert_eq!(taken + lost, WRITERS as u64 * WRITES, "{counters:?}");
}
