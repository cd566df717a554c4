//! The ring against files, pipes and sockets.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Buffer, Completion, Full, Pool, Ring, Shared, Token, Waker, probe};

/// Longest any of these tests waits for a state.
const LIMIT: Duration = Duration::from_secs(30);

fn ring() -> Ring {
    Ring::new(32).expect("io_uring")
}

/// Wait until that many operations have completed.
fn collect(ring: &mut Ring, count: usize) -> Vec<Completion> {
    let (mut completions, start) = (Vec::new(), Instant::now());
    while completions.len() < count {
        assert!(start.elapsed() < LIMIT, "{} of {count} completed", completions.len());
        ring.wait(Some(Duration::from_millis(100)), &mut completions).expect("the ring works");
    }
    completions
}

fn one(ring: &mut Ring) -> Completion {
    collect(ring, 1).pop().expect("one")
}

fn temporary(content: &[u8]) -> Arc<OwnedFd> {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(content).expect("written");
    Arc::new(file.into())
}

fn sockets() -> (Arc<OwnedFd>, UnixStream) {
    let (one, other) = UnixStream::pair().expect("a socket pair");
    (Arc::new(one.into()), other)
}

fn content(file: &Arc<OwnedFd>) -> Vec<u8> {
    let file = File::from(file.try_clone().expect("another descriptor"));
    let mut bytes = vec![0; file.metadata().expect("metadata").len() as usize];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).expect("read");
    bytes
}

fn numbers(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 % 251) as u8).collect()
}

#[test]
fn this_kernel_has_every_required_part() {
    let features = probe().expect("io_uring");
    assert_eq!(features.missing(), None);
    assert!(features.has("OP_READ"));
    assert!(!features.has("OP_NO_SUCH"));
}

#[test]
fn read_stops_at_the_end_of_the_file() {
    let bytes = numbers(10_000);
    let file = temporary(&bytes);
    let (mut ring, pool) = (ring(), Pool::default());
    ring.read(file.clone(), 0, pool.take(4096), Token(1)).expect("room");
    ring.read(file.clone(), 8000, pool.take(4096), Token(2)).expect("room");
    ring.read(file, 20_000, pool.take(4096), Token(3)).expect("room");
    for completion in collect(&mut ring, 3) {
        let buffer = completion.buffer.expect("a read gives its buffer back");
        let (offset, length) = match completion.token {
            Token(1) => (0, 4096),
            Token(2) => (8000, 2000),
            _ => (10_000, 0),
        };
        assert_eq!(completion.result.expect("read"), length);
        assert_eq!(buffer[..], bytes[offset..offset + length]);
    }
}

#[test]
fn write_then_sync_then_read_gives_the_same_bytes() {
    let file = temporary(b"");
    let mut ring = ring();
    let bytes = Shared::from(numbers(3 << 20));
    ring.write(file.clone(), 5, bytes.clone(), Token(1)).expect("room");
    assert_eq!(one(&mut ring).result.expect("written"), 3 << 20);
    for data_only in [true, false] {
        ring.sync(file.clone(), data_only, Token(2)).expect("room");
        assert_eq!(one(&mut ring).result.expect("synced"), 0);
    }
    assert_eq!(content(&file)[5..], bytes[..]);
}

#[test]
fn errors_come_back_with_the_buffer() {
    let write_only: Arc<OwnedFd> = Arc::new(File::create("/dev/null").expect("/dev/null").into());
    let full: Arc<OwnedFd> =
        Arc::new(File::options().write(true).open("/dev/full").expect("/dev/full").into());
    let mut ring = ring();
    ring.read(write_only, 0, Pool::default().take(100), Token(1)).expect("room");
    let completion = one(&mut ring);
    assert_eq!(completion.result.expect_err("not readable").raw_os_error(), Some(libc::EBADF));
    assert!(completion.buffer.is_some());
    ring.write(full, 0, numbers(100).into(), Token(2)).expect("room");
    assert_eq!(one(&mut ring).result.expect_err("full").raw_os_error(), Some(libc::ENOSPC));
}

#[test]
fn positions_no_file_can_have_are_errors() {
    let file = temporary(&numbers(100));
    let mut ring = ring();
    for offset in [u64::MAX, u64::MAX - 1, 1 << 63, i64::MAX as u64] {
        ring.write(file.clone(), offset, numbers(10).into(), Token(1)).expect("room");
        assert!(one(&mut ring).result.is_err(), "write at {offset:#x}");
        ring.read(file.clone(), offset, Pool::default().take(10), Token(2)).expect("room");
        let read = one(&mut ring);
        assert!(matches!(read.result, Err(_) | Ok(0)), "read at {offset:#x}: {read:?}");
    }
    assert_eq!(content(&file), numbers(100));
}

#[test]
fn short_writes_are_continued() {
    let pipe = nix::unistd::pipe().expect("a pipe");
    let (mut reader, writer) = (File::from(pipe.0), Arc::new(pipe.1));
    let mut ring = ring();
    let bytes = numbers(1 << 20);
    // A pipe takes 64 KiB at a time: many short writes.
    ring.write(writer, 0, bytes.clone().into(), Token(1)).expect("room");
    let reading = std::thread::spawn(move || {
        let mut all = vec![0; 1 << 20];
        reader.read_exact(&mut all).expect("all of it");
        all
    });
    assert_eq!(one(&mut ring).result.expect("written"), 1 << 20);
    assert!(reading.join().expect("the reader is content") == bytes);
}

#[test]
fn gathered_sends_arrive_in_order_and_whole() {
    let (socket, mut peer) = sockets();
    let mut ring = ring();
    let whole = Shared::from(numbers(2 << 20));
    let mut pieces = vec![Shared::default()];
    let mut at = 0;
    for length in [1usize, 4096, 0, 700_000, 33] {
        pieces.push(whole.get(at..at + length).expect("within"));
        at += length;
    }
    pieces.push(whole.get(at..whole.len()).expect("within"));
    ring.send(socket.clone(), pieces, Token(1)).expect("room");
    ring.send(socket, Vec::new(), Token(2)).expect("room");
    let reading = std::thread::spawn(move || {
        let mut all = vec![0; 2 << 20];
        peer.read_exact(&mut all).expect("all of it");
        all
    });
    for completion in collect(&mut ring, 2) {
        let expected = if completion.token == Token(1) { 2 << 20 } else { 0 };
        assert_eq!(completion.result.expect("sent"), expected);
    }
    assert!(reading.join().expect("the reader is content") == whole[..]);
}

#[test]
fn received_bytes_are_added_and_earlier_views_stay_as_they_are() {
    let (socket, mut peer) = sockets();
    let (mut ring, pool) = (ring(), Pool::default());
    let mut buffer = pool.take_append(4096);
    let mut views = Vec::new();
    for round in 0..10u8 {
        let before = buffer.filled();
        ring.receive(socket.clone(), buffer, true, Token(1)).expect("room");
        peer.write_all(&[round; 100]).expect("written");
        let completion = one(&mut ring);
        assert_eq!(completion.result.expect("received"), 100);
        buffer = completion.received.expect("a receive gives its buffer back");
        views.push(buffer.view(before..before + 100).expect("what was received"));
    }
    for (round, view) in views.iter().enumerate() {
        assert_eq!(view[..], [round as u8; 100]);
    }
    assert!(!buffer.try_clear(), "views are in use");
    drop(views);
    assert!(buffer.try_clear());
    drop(peer);
    ring.receive(socket, buffer, false, Token(1)).expect("room");
    assert_eq!(one(&mut ring).result.expect("the end"), 0);
}

#[test]
fn cancel_ends_a_receive_and_gives_the_buffer_back() {
    let (socket, _peer) = sockets();
    let mut ring = ring();
    ring.receive(socket, Pool::default().take_append(100), true, Token(9)).expect("room");
    ring.wait(Some(Duration::ZERO), &mut Vec::new()).expect("the ring works");
    ring.cancel(Token(9)).expect("room");
    let completion = one(&mut ring);
    assert_eq!(completion.token, Token(9));
    assert_eq!(completion.result.expect_err("cancelled").raw_os_error(), Some(libc::ECANCELED));
    assert!(completion.received.is_some());
}

#[test]
fn poll_tells_the_event() {
    let (socket, mut peer) = sockets();
    let mut ring = ring();
    ring.poll(socket, libc::POLLIN, Token(3)).expect("room");
    peer.write_all(b"x").expect("written");
    let events = one(&mut ring).result.expect("polled");
    assert!(events & libc::POLLIN as usize != 0);
}

#[test]
fn a_flood_is_refused_at_the_bound_and_completes() {
    let file = temporary(&numbers(4096));
    let (mut ring, pool) = (ring(), Pool::default());
    // The ring takes a place of its own for wake-ups.
    ring.wait(Some(Duration::ZERO), &mut Vec::new()).expect("the ring works");
    let room = ring.room();
    for turn in 0..room {
        ring.read(file.clone(), 0, pool.take(512), Token(turn as u64)).expect("room");
    }
    assert_eq!(ring.read(file, 0, pool.take(512), Token(0)), Err(Full));
    // Sockets still find a place.
    let (socket, _peer) = sockets();
    ring.send(socket, vec![numbers(10).into()], Token(1 << 32)).expect("reserved places");
    let completions = collect(&mut ring, room + 1);
    assert!(completions.iter().all(|completion| completion.result.is_ok()));
    assert_eq!(ring.room(), room);
    drop(completions);
    assert_eq!(pool.outstanding_bytes(), 0);
}

#[test]
fn wake_ends_a_wait_from_another_thread() {
    let mut ring = ring();
    for _ in 0..200 {
        let waker = ring.waker();
        let waking = std::thread::spawn(move || waker.wake());
        ring.wait(None, &mut Vec::new()).expect("woken");
        waking.join().expect("woke");
    }
}

#[test]
fn no_wake_up_is_lost_between_queue_and_sleep() {
    const ITEMS: u64 = 50_000;
    let mut ring = ring();
    let (sender, receiver) = std::sync::mpsc::channel();
    let waker = ring.waker();
    let producer = std::thread::spawn(move || {
        for item in 0..ITEMS {
            sender.send(item).expect("the ring's thread listens");
            waker.wake();
            if item % 64 == 0 {
                std::thread::yield_now();
            }
        }
    });
    let mut next = 0;
    while next < ITEMS {
        while let Ok(item) = receiver.try_recv() {
            assert_eq!(item, next);
            next += 1;
        }
        if next < ITEMS {
            let start = Instant::now();
            ring.wait(Some(LIMIT), &mut Vec::new()).expect("the ring works");
            assert!(start.elapsed() < LIMIT, "item {next} came without a wake-up");
        }
    }
    producer.join().expect("produced");
}

#[test]
fn a_pending_wake_up_ends_the_next_wait_at_once() {
    let mut ring = ring();
    let waker = ring.waker();
    waker.wake();
    waker.wake();
    ring.wait(None, &mut Vec::new()).expect("woken");
    let start = Instant::now();
    ring.wait(Some(Duration::from_millis(30)), &mut Vec::new()).expect("the ring works");
    assert!(start.elapsed() >= Duration::from_millis(30), "two wake-ups became one");
}

#[test]
fn a_wake_up_costs_a_system_call_only_for_a_sleeper_that_nobody_has_woken() {
    let readable = |waker: &Waker| {
        let mut events = [PollFd::new(waker.eventfd().as_fd(), PollFlags::POLLIN)];
        poll(&mut events, PollTimeout::ZERO).expect("polled") == 1
    };
    let waker = Waker::new().expect("an eventfd");
    waker.wake();
    assert!(!readable(&waker), "it was awake");
    assert!(!waker.fall_asleep(), "a wake-up is pending");
    waker.awake();
    assert!(waker.fall_asleep());
    (0..3).for_each(|_| waker.clone().wake());
    let mut word = [0; 8];
    assert_eq!(nix::unistd::read(waker.eventfd(), &mut word).expect("written"), 8);
    assert_eq!(u64::from_ne_bytes(word), 1, "written once");
}

#[test]
fn a_ring_may_be_made_in_another_thread() {
    let ring = ring();
    let file = temporary(b"abc");
    std::thread::spawn(move || {
        let mut ring = ring;
        ring.read(file, 0, Pool::default().take(10), Token(1)).expect("room");
        assert_eq!(one(&mut ring).result.expect("read"), 3);
    })
    .join()
    .expect("the other thread owns the ring");
}

#[test]
fn a_second_thread_is_refused_where_the_kernel_binds_rings_to_one() {
    let mut ring = ring();
    ring.wait(Some(Duration::ZERO), &mut Vec::new()).expect("bound to this thread");
    if ring.setup() != "defer-taskrun" {
        println!("not run: this kernel does not bind a ring to a thread");
        return;
    }
    std::thread::spawn(move || {
        let error = ring.wait(Some(Duration::from_millis(1)), &mut Vec::new()).expect_err("another thread");
        assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
    })
    .join()
    .expect("an error, not a panic");
}

#[test]
fn dropping_a_ring_takes_back_what_the_kernel_had() {
    let pool = Pool::default();
    let (socket, peer) = sockets();
    let mut ring = ring();
    ring.receive(socket.clone(), pool.take_append(4096), true, Token(1)).expect("room");
    // More than the socket holds: stays under way.
    ring.send(socket, vec![pool.take(4 << 20).into()], Token(2)).expect("room");
    ring.wait(Some(Duration::ZERO), &mut Vec::new()).expect("the ring works");
    assert!(pool.outstanding_bytes() > 0);
    drop(ring);
    assert_eq!(pool.outstanding_bytes(), 0);
    drop(peer);
}

#[test]
fn dropping_a_ring_that_never_ran_frees_what_was_queued() {
    let pool = Pool::default();
    let mut ring = ring();
    for turn in 0..100 {
        let _: Result<(), Full> = ring.read(temporary(b"abc"), 0, pool.take(64 << 10), Token(turn));
    }
    drop(ring);
    assert_eq!(pool.outstanding_bytes(), 0);
}

#[test]
fn pool_reuses_memory_and_bounds_what_it_keeps() {
    let pool = Pool::new(128 << 10);
    let first = pool.take(60 << 10);
    let address = first.as_ptr();
    assert_eq!(address as usize % 4096, 0, "fit for direct I/O");
    drop(first);
    assert_eq!(pool.take(64 << 10).as_ptr(), address);
    let many: Vec<Buffer> = (0..10).map(|_| pool.take(64 << 10)).collect();
    assert_eq!(pool.outstanding_bytes(), 10 * (64 << 10));
    drop(many);
    assert_eq!(pool.outstanding_bytes(), 0);
    assert_eq!(pool.take(9 << 20).len(), 9 << 20, "beyond all classes");
}

#[test]
fn views_are_bounded_and_join_only_when_adjacent() {
    let pool = Pool::default();
    let mut buffer = pool.take(100);
    buffer.copy_from_slice(&numbers(100));
    let all = Shared::from(buffer);
    assert!(all.get(0..101).is_none());
    assert!(all.get(50..100).and_then(|half| half.get(0..51)).is_none());
    let mut left = all.get(0..40).expect("within");
    let right = all.get(40..100).expect("within");
    assert!(!left.extend_with(&all.get(41..100).expect("within")));
    assert!(!left.extend_with(&Shared::from(numbers(10))));
    assert!(left.extend_with(&right));
    assert_eq!(left[..], numbers(100));
}

#[test]
fn a_wait_without_work_ends_at_its_limit() {
    let mut completions = Vec::new();
    let mut ring = ring();
    let start = Instant::now();
    ring.wait(Some(Duration::from_millis(20)), &mut completions).expect("the ring works");
    assert!(start.elapsed() >= Duration::from_millis(20));
    assert!(completions.is_empty());
    let result: io::Result<()> = ring.wait(Some(Duration::ZERO), &mut completions);
    result.expect("the ring works");
}
