//! Measures what the link is built on, on loopback and in the page cache: `cargo run --release --example link_bench`.
//!
//! First the kernel's primitives in variants, through the io-uring crate directly (this is the only place outside `uring` that
//! does: the variants that lost are not in the product). Then frames between two rings as the product sends them. Variants
//! are interleaved in short rounds; medians are printed as Markdown. Results and conclusions: docs/measurements/link.md.
#![allow(missing_docs)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{IoUring, cqueue, opcode, squeue};
use replicator::link::{Connection, LinkEvent, Payload};
use replicator::uring::{Pool, Ring, Shared};
use replicator_core::ids::{Sequence, Term};
use replicator_core::wire::header::{Header, Kind};

const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(120);

/// What a round gives: bytes (or operations) moved, time, CPU time of the measured thread.
struct Sample {
    amount: u64,
    wall: Duration,
    cpu: Duration,
}

/// One way to do a thing, by name.
type Variant<'a> = (String, Box<dyn FnMut() -> Sample + 'a>);

fn main() {
    let only = std::env::args().nth(1).unwrap_or_default();
    for (name, run) in [
        ("checksum", checksum as fn()),
        ("gather", gather),
        ("zero-copy", zero_copy),
        ("unsent", unsent),
        ("receive", receive),
        ("registered", registered),
        ("frames", frames),
        ("latency", latency),
    ] {
        if only.is_empty() || only == name {
            run();
        }
    }
}

fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn measure(mut step: impl FnMut() -> u64) -> Sample {
    let (start, cpu) = (Instant::now(), cpu_time());
    let mut amount = 0;
    while start.elapsed() < ROUND {
        amount += step();
    }
    Sample { amount, wall: start.elapsed(), cpu: cpu_time() - cpu }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Run all variants in turn, several rounds; a row each: name, GiB/s, CPU nanoseconds per KiB.
fn table(title: &str, variants: &mut [Variant<'_>]) {
    println!("\n{title}\n\n| variant | GiB/s | CPU ns/KiB |\n|---|---|---|");
    let mut results: Vec<(Vec<f64>, Vec<f64>)> = variants.iter().map(|_| (Vec::new(), Vec::new())).collect();
    for _ in 0..ROUNDS {
        for ((_, run), result) in variants.iter_mut().zip(&mut results) {
            let sample = run();
            result.0.push(sample.amount as f64 / sample.wall.as_secs_f64() / (1u64 << 30) as f64);
            result.1.push(sample.cpu.as_nanos() as f64 / (sample.amount as f64 / 1024.0));
        }
    }
    for ((name, _), (rates, costs)) in variants.iter().zip(results) {
        println!("| {name} | {:.2} | {:.1} |", median(rates), median(costs));
    }
}

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let one = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
    let (other, _) = listener.accept().expect("accepted");
    one.set_nodelay(true).expect("an option");
    other.set_nodelay(true).expect("an option");
    (one, other)
}

/// A stream whose other end throws everything away.
fn sink() -> TcpStream {
    let (one, mut other) = tcp_pair();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        while matches!(other.read(&mut buffer), Ok(1..)) {}
    });
    one
}

fn raw_ring() -> IoUring {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(64)
        .expect("io_uring")
}

/// Submit one operation and wait for its completion.
fn one(ring: &mut IoUring, entry: &squeue::Entry) -> cqueue::Entry {
    // SAFETY: the caller's memory outlives this call, which waits for the completion.
    unsafe { ring.submission().push(entry).expect("room") };
    loop {
        ring.submit_and_wait(1).expect("submitted");
        if let Some(entry) = ring.completion().next() {
            return entry;
        }
    }
}

fn send_flags() -> i32 {
    libc::MSG_NOSIGNAL | libc::MSG_WAITALL
}

// ---- checksum ---------------------------------------------------------------------------------------------

fn checksum() {
    let mut variants: Vec<Variant<'static>> = Vec::new();
    for length in [256usize, 4 << 10, 64 << 10, 1 << 20] {
        let bytes = vec![8u8; length];
        variants.push((
            format!("crc32c of {length} bytes"),
            Box::new(move || {
                measure(|| {
                    for _ in 0..16 {
                        std::hint::black_box(crc32c::crc32c(std::hint::black_box(&bytes)));
                    }
                    16 * length as u64
                })
            }),
        ));
    }
    table("### checksums", &mut variants);
}

// ---- copy or gather ---------------------------------------------------------------------------------------

fn gather() {
    for payload in [256usize, 1 << 10, 4 << 10, 8 << 10, 16 << 10, 64 << 10] {
        let frames = ((512 << 10) / (payload + 64)).clamp(1, 128);
        let headers = vec![1u8; 64 * frames];
        let payloads: Vec<Vec<u8>> = (0..frames).map(|_| vec![2u8; payload]).collect();
        let (copied, gathered) = (sink(), sink());
        let (mut ring, mut other) = (raw_ring(), raw_ring());
        let mut staging = vec![0u8; frames * (payload + 64)];
        let fd = Fd(copied.as_raw_fd());
        let copy = || {
            measure(|| {
                for (index, part) in staging.chunks_exact_mut(payload + 64).enumerate() {
                    part[..64].copy_from_slice(&headers[index * 64..][..64]);
                    part[64..].copy_from_slice(&payloads[index]);
                }
                let entry =
                    opcode::Send::new(fd, staging.as_ptr(), staging.len() as u32).flags(send_flags()).build();
                one(&mut ring, &entry).result() as u64
            })
        };
        let target = Fd(gathered.as_raw_fd());
        let gather = || {
            measure(|| {
                let mut vectors: Vec<libc::iovec> = Vec::with_capacity(2 * frames);
                for (index, bytes) in payloads.iter().enumerate() {
                    vectors.push(libc::iovec {
                        iov_base: headers[index * 64..].as_ptr().cast_mut().cast(),
                        iov_len: 64,
                    });
                    vectors.push(libc::iovec {
                        iov_base: bytes.as_ptr().cast_mut().cast(),
                        iov_len: bytes.len(),
                    });
                }
                // SAFETY: zero is a value of all fields.
                let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
                header.msg_iov = vectors.as_mut_ptr();
                header.msg_iovlen = vectors.len() as _;
                let entry =
                    opcode::SendMsg::new(target, &raw const header).flags(send_flags() as u32).build();
                one(&mut other, &entry).result() as u64
            })
        };
        table(
            &format!("### {frames} frames of {payload} bytes in one send"),
            &mut [
                ("copied into one buffer".to_owned(), Box::new(copy)),
                ("gathered by iovecs".to_owned(), Box::new(gather)),
            ],
        );
    }
}

// ---- send without a copy ----------------------------------------------------------------------------------

/// `IORING_SEND_ZC_REPORT_USAGE` and `IORING_NOTIF_USAGE_ZC_COPIED` (linux/io_uring.h).
const REPORT_USAGE: u16 = 1 << 3;
const USAGE_COPIED: u32 = 1 << 31;

fn zero_copy() {
    let (mut copied, mut notified) = (0u64, 0u64);
    for length in [4usize << 10, 64 << 10, 1 << 20] {
        let bytes = vec![3u8; length];
        let zero = sink();
        let mut other = raw_ring();
        let mut variants: Vec<Variant<'_>> = Vec::new();
        for limit in [0, 512 << 10, 64 << 10] {
            let stream = sink();
            limit_unsent(&stream, limit);
            let mut ring = raw_ring();
            let bytes = &bytes;
            let name = format!("SEND, at most {} KiB unsent in the kernel (0: no limit)", limit >> 10);
            let send = move || {
                measure(|| {
                    let fd = Fd(stream.as_raw_fd());
                    let entry =
                        opcode::Send::new(fd, bytes.as_ptr(), length as u32).flags(send_flags()).build();
                    one(&mut ring, &entry).result() as u64
                })
            };
            variants.push((name, Box::new(send)));
        }
        let target = Fd(zero.as_raw_fd());
        let send_zc = || {
            measure(|| {
                let entry = opcode::SendZc::new(target, bytes.as_ptr(), length as u32)
                    .flags(send_flags())
                    .zc_flags(REPORT_USAGE)
                    .build();
                let sent = one(&mut other, &entry);
                if cqueue::more(sent.flags()) {
                    // The memory is free only after the second completion.
                    loop {
                        if let Some(done) = other.completion().next() {
                            notified += 1;
                            copied += u64::from(done.result() as u32 & USAGE_COPIED != 0);
                            break;
                        }
                        other.submit_and_wait(1).expect("submitted");
                    }
                }
                sent.result() as u64
            })
        };
        variants.push(("SEND_ZC, waiting for the notification".to_owned(), Box::new(send_zc)));
        table(&format!("### sends of {length} bytes"), &mut variants);
        drop(variants);
    }
    println!("\nSEND_ZC: the kernel copied after all in {copied} of {notified} sends.");
}

// ---- how much the kernel takes before it has sent it -----------------------------------------------------

/// Zero: no limit.
fn limit_unsent(stream: &TcpStream, limit: u32) {
    if limit > 0 {
        // SAFETY: the option's value is four readable bytes.
        let set = unsafe {
            libc::setsockopt(
                stream.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_NOTSENT_LOWAT,
                (&raw const limit).cast(),
                4,
            )
        };
        assert_eq!(set, 0);
    }
}

fn unsent() {
    let mut variants: Vec<Variant<'static>> = Vec::new();
    for limit in [0u32, 1 << 20, 512 << 10, 128 << 10] {
        let stream = sink();
        limit_unsent(&stream, limit);
        let bytes = vec![3u8; 1 << 20];
        let mut ring = raw_ring();
        let name =
            if limit == 0 { "no limit".to_owned() } else { format!("TCP_NOTSENT_LOWAT {} KiB", limit >> 10) };
        variants.push((
            name,
            Box::new(move || {
                measure(|| {
                    let fd = Fd(stream.as_raw_fd());
                    let entry =
                        opcode::Send::new(fd, bytes.as_ptr(), bytes.len() as u32).flags(send_flags()).build();
                    one(&mut ring, &entry).result() as u64
                })
            }),
        ));
    }
    table("### sends of 1 MiB with a limit on unsent bytes in the kernel", &mut variants);
}

// ---- receive ----------------------------------------------------------------------------------------------

/// A stream on which bytes come as fast as they are taken.
fn source(portion: usize) -> TcpStream {
    let (one, mut other) = tcp_pair();
    std::thread::spawn(move || {
        let bytes = vec![4u8; portion];
        while other.write_all(&bytes).is_ok() {}
    });
    one
}

/// A page-aligned ring of provided buffers and the buffers.
struct Provided {
    entries: *mut BufRingEntry,
    buffers: Vec<Vec<u8>>,
    tail: u16,
}

impl Provided {
    fn new(ring: &IoUring, count: u16, length: usize) -> Provided {
        let layout = std::alloc::Layout::from_size_align(usize::from(count) * 16, 4096).expect("a layout");
        // SAFETY: the layout's size is not zero; the memory is never freed, the kernel may use it to the end.
        let entries = unsafe { std::alloc::alloc_zeroed(layout) }.cast::<BufRingEntry>();
        // SAFETY: `entries` is a page-aligned array of `count` entries that is never freed.
        unsafe { ring.submitter().register_buf_ring_with_flags(entries as u64, count, 0, 0) }
            .expect("Linux 5.19");
        let mut provided =
            Provided { entries, buffers: (0..count).map(|_| vec![0; length]).collect(), tail: 0 };
        (0..count).for_each(|id| provided.give(id));
        provided
    }

    fn give(&mut self, id: u16) {
        let mask = self.buffers.len() as u16 - 1;
        // SAFETY: the index is within the array, the tail lies in its first entry; the kernel reads the entry only after
        // the tail is stored.
        unsafe {
            let entry = &mut *self.entries.add(usize::from(self.tail & mask));
            entry.set_addr(self.buffers[usize::from(id)].as_ptr() as u64);
            entry.set_len(self.buffers[usize::from(id)].len() as u32);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(self.entries).cast_mut();
            std::sync::atomic::AtomicU16::from_ptr(tail)
                .store(self.tail, std::sync::atomic::Ordering::Release);
        }
    }
}

fn receive() {
    for portion in [4usize << 10, 1 << 20] {
        let mut variants: Vec<Variant<'static>> = Vec::new();
        for (length, poll_first) in [(64usize << 10, false), (64 << 10, true), (1 << 20, false)] {
            let stream = source(portion);
            let mut ring = raw_ring();
            let mut buffer = vec![0u8; length];
            let name = format!("RECV, {} KiB{}", length >> 10, if poll_first { ", poll first" } else { "" });
            variants.push((
                name,
                Box::new(move || {
                    measure(|| {
                        let entry =
                            opcode::Recv::new(Fd(stream.as_raw_fd()), buffer.as_mut_ptr(), length as u32)
                                .ioprio(u16::from(poll_first))
                                .build();
                        one(&mut ring, &entry).result() as u64
                    })
                }),
            ));
        }
        for (count, length) in [(64u16, 64usize << 10), (8, 1 << 20)] {
            let stream = source(portion);
            let mut ring = raw_ring();
            let mut provided = Provided::new(&ring, count, length);
            let mut armed = false;
            let name = format!("RECV multishot, {count} provided buffers of {} KiB", length >> 10);
            variants.push((
                name,
                Box::new(move || measure(|| multishot(&mut ring, &stream, &mut provided, &mut armed))),
            ));
        }
        table(
            &format!("### receiving what is sent in portions of {portion} bytes (CPU of the receiver)"),
            &mut variants,
        );
    }
}

fn multishot(ring: &mut IoUring, stream: &TcpStream, provided: &mut Provided, armed: &mut bool) -> u64 {
    if !*armed {
        let entry = opcode::RecvMulti::new(Fd(stream.as_raw_fd()), 0).build();
        // SAFETY: provided buffers are never freed.
        unsafe { ring.submission().push(&entry).expect("room") };
        *armed = true;
    }
    ring.submit_and_wait(1).expect("submitted");
    let mut amount = 0;
    let entries: Vec<cqueue::Entry> = ring.completion().collect();
    for entry in entries {
        amount += u64::try_from(entry.result()).unwrap_or(0);
        if let Some(id) = cqueue::buffer_select(entry.flags()) {
            provided.give(id);
        }
        *armed &= cqueue::more(entry.flags());
    }
    amount
}

// ---- registered buffers -----------------------------------------------------------------------------------

fn registered() {
    const FILE: usize = 16 << 20;
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(&vec![5u8; FILE]).expect("written");
    let fd = file.as_raw_fd();
    for length in [4usize << 10, 64 << 10, 1 << 20] {
        let mut variants: Vec<Variant<'static>> = Vec::new();
        for (fixed, writing) in [(false, false), (true, false), (false, true), (true, true)] {
            variants.push(file_variant(fd, length, FILE, fixed, writing));
        }
        let bytes = vec![5u8; length];
        let mut ring = raw_ring();
        let mut position = 0;
        variants.push((
            "WRITE, one after the other".to_owned(),
            Box::new(move || {
                measure(|| {
                    let entry =
                        opcode::Write::new(Fd(fd), bytes.as_ptr(), length as u32).offset(position).build();
                    position = (position + length as u64) % FILE as u64;
                    one(&mut ring, &entry).result() as u64
                })
            }),
        ));
        let plain = file.try_clone().expect("another descriptor");
        let bytes = vec![5u8; length];
        let mut at = 0;
        variants.push((
            "pwrite(2), one after the other".to_owned(),
            Box::new(move || {
                measure(|| {
                    plain.write_all_at(&bytes, at).expect("written");
                    at = (at + length as u64) % FILE as u64;
                    length as u64
                })
            }),
        ));
        table(
            &format!("### file operations of {length} bytes in the page cache, 16 in one submission"),
            &mut variants,
        );
    }
}

fn file_variant(fd: RawFd, length: usize, size: usize, fixed: bool, writing: bool) -> Variant<'static> {
    const DEPTH: usize = 16;
    let mut ring = raw_ring();
    let mut buffers: Vec<Vec<u8>> = (0..DEPTH).map(|_| vec![5u8; length]).collect();
    if fixed {
        let vectors: Vec<libc::iovec> = buffers
            .iter_mut()
            .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: length })
            .collect();
        // SAFETY: the buffers live in the closure beside the ring and are not resized.
        unsafe { ring.submitter().register_buffers(&vectors) }.expect("registered");
    }
    let name = format!("{}{}", if writing { "WRITE" } else { "READ" }, if fixed { "_FIXED" } else { "" });
    let mut at = 0;
    let run = move || {
        measure(|| {
            for (index, buffer) in buffers.iter_mut().enumerate() {
                let (pointer, count, offset) = (buffer.as_mut_ptr(), length as u32, at as u64);
                let number = index as u16;
                let entry = match (fixed, writing) {
                    (false, false) => opcode::Read::new(Fd(fd), pointer, count).offset(offset).build(),
                    (true, false) => {
                        opcode::ReadFixed::new(Fd(fd), pointer, count, number).offset(offset).build()
                    }
                    (false, true) => opcode::Write::new(Fd(fd), pointer, count).offset(offset).build(),
                    (true, true) => {
                        opcode::WriteFixed::new(Fd(fd), pointer, count, number).offset(offset).build()
                    }
                };
                at = (at + length) % size;
                // SAFETY: the buffer lives in the closure; all operations are waited for below.
                unsafe { ring.submission().push(&entry).expect("room") };
            }
            let (mut amount, mut done) = (0, 0);
            while done < DEPTH {
                ring.submit_and_wait(DEPTH - done).expect("submitted");
                for entry in ring.completion() {
                    amount += u64::try_from(entry.result()).unwrap_or(0);
                    done += 1;
                }
            }
            amount
        })
    };
    (name, Box::new(run))
}

// ---- frames -----------------------------------------------------------------------------------------------

/// A ring with a connection.
struct Node {
    ring: Ring,
    connection: Connection,
    events: Vec<LinkEvent>,
}

impl Node {
    fn new(stream: TcpStream, pool: &Pool) -> Node {
        let mut ring = Ring::new(128).expect("io_uring");
        let mut connection = Connection::new(stream, None, 1, 1, pool).expect("a connection");
        connection.start(&mut ring);
        Node { ring, connection, events: Vec::new() }
    }

    fn turn(&mut self) {
        self.connection.pump(&mut self.ring);
        let mut completions = Vec::new();
        self.ring.wait(None, &mut completions).expect("the ring works");
        for completion in completions {
            self.connection.on_completion(&mut self.ring, completion, &mut self.events);
        }
    }
}

fn frames() {
    println!("\n### frames between two rings, checksums made and checked\n");
    println!(
        "| payload | GiB/s | frames/s | frames per operation (send, receive) | CPU ns/KiB (send, receive) |"
    );
    println!("|---|---|---|---|---|");
    for length in [64usize, 4 << 10, 64 << 10, 256 << 10, 1 << 20] {
        let (mut rates, mut sender_costs, mut receiver_costs) = (Vec::new(), Vec::new(), Vec::new());
        let (mut sends, mut receives) = (0.0, 0.0);
        for _ in 0..ROUNDS {
            let (left, right) = tcp_pair();
            let receiver = std::thread::spawn(move || {
                let mut node = Node::new(right, &Pool::default());
                let cpu = cpu_time();
                loop {
                    node.turn();
                    if node.events.drain(..).any(|event| matches!(event, LinkEvent::Closed { .. })) {
                        return (node.connection.statistics(), cpu_time() - cpu);
                    }
                }
            });
            let mut node = Node::new(left, &Pool::default());
            let payload = Shared::from(vec![6u8; length]);
            let mut sequence = Sequence(0);
            let (start, cpu) = (Instant::now(), cpu_time());
            while start.elapsed() < ROUND {
                while node.connection.queued_bytes() < 8 << 20 {
                    sequence = sequence.next();
                    let header =
                        Header { sequence, length: length as u64, ..Header::new(Kind::Data, Term(1)) };
                    node.connection.queue(&header, Payload::Shared(payload.clone()));
                }
                node.turn();
                node.events.clear();
            }
            let (wall, cpu) = (start.elapsed(), cpu_time() - cpu);
            let sent = node.connection.statistics();
            drop(node);
            let (received, receiver_cpu) = receiver.join().expect("received");
            let kib = |bytes: u64| bytes as f64 / 1024.0;
            rates.push(sent.bytes_sent as f64 / wall.as_secs_f64());
            sender_costs.push(cpu.as_nanos() as f64 / kib(sent.bytes_sent));
            receiver_costs.push(receiver_cpu.as_nanos() as f64 / kib(received.bytes_received));
            sends = sent.bytes_sent as f64 / (length + 64) as f64 / sent.operations as f64;
            receives = received.frames_received as f64 / received.operations as f64;
        }
        let rate = median(rates);
        println!(
            "| {length} | {:.2} | {:.0} | {sends:.2}, {receives:.2} | {:.0}, {:.0} |",
            rate / (1u64 << 30) as f64,
            rate / (length + 64) as f64,
            median(sender_costs),
            median(receiver_costs)
        );
    }
}

fn latency() {
    const TURNS: usize = 20_000;
    println!("\n### a frame there and back between two ring threads\n");
    println!("| payload | p50 us | p99 us |\n|---|---|---|");
    for length in [0usize, 4 << 10] {
        let (mut halves, mut highs) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let mut times = there_and_back(TURNS, length);
            times.sort_unstable();
            halves.push(times[TURNS / 2].as_nanos() as f64 / 1000.0);
            highs.push(times[TURNS * 99 / 100].as_nanos() as f64 / 1000.0);
        }
        println!("| {length} | {:.1} | {:.1} |", median(halves), median(highs));
    }
    println!("| (the same with blocking read and write, 64 bytes) | {:.1} | |", blocking_latency(TURNS));
}

fn there_and_back(turns: usize, length: usize) -> Vec<Duration> {
    let (left, right) = tcp_pair();
    let echo = std::thread::spawn(move || {
        let mut node = Node::new(right, &Pool::default());
        loop {
            node.turn();
            for event in std::mem::take(&mut node.events) {
                match event {
                    LinkEvent::Frame { header, payload } => {
                        node.connection.queue(&header, Payload::Shared(payload));
                    }
                    LinkEvent::Sent { .. } => {}
                    LinkEvent::Closed { .. } => return,
                }
            }
        }
    });
    let mut node = Node::new(left, &Pool::default());
    let payload = Shared::from(vec![7u8; length]);
    let mut times = Vec::with_capacity(turns);
    for turn in 0..turns {
        let start = Instant::now();
        let header = Header { sequence: Sequence(turn as u64 + 1), ..Header::new(Kind::Barrier, Term(1)) };
        node.connection.queue(&header, Payload::Shared(payload.clone()));
        while !node.events.drain(..).any(|event| matches!(event, LinkEvent::Frame { .. })) {
            node.turn();
        }
        times.push(start.elapsed());
    }
    drop(node);
    echo.join().expect("the echo ends");
    times
}

fn blocking_latency(turns: usize) -> f64 {
    let (mut left, mut right) = tcp_pair();
    let echo = std::thread::spawn(move || {
        let mut bytes = [0; 64];
        while right.read_exact(&mut bytes).is_ok() && right.write_all(&bytes).is_ok() {}
    });
    let mut bytes = [0; 64];
    let mut times: Vec<f64> = (0..turns)
        .map(|_| {
            let start = Instant::now();
            left.write_all(&bytes).expect("written");
            left.read_exact(&mut bytes).expect("read");
            start.elapsed().as_nanos() as f64 / 1000.0
        })
        .collect();
    drop(left);
    echo.join().expect("the echo ends");
    times.sort_by(f64::total_cmp);
    times[turns / 2]
}
