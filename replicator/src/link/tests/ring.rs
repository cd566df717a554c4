//! Two connections, each on its ring.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use replicator_core::ids::Sequence;
use replicator_core::wire::header::{HEADER_BYTES, Header, HeaderError, Kind};

use super::super::connection::{Connection, LinkEvent};
use super::super::error::LinkError;
use super::super::outgoing::Payload;
use super::super::papers::acquainted;
use super::super::records::Records;
use super::{VERSION, assert_same, decode, encode, header, pattern, some_frames};
use crate::uring::{Pool, Ring, Shared};

/// Longest any of these tests waits for a state.
const LIMIT: Duration = Duration::from_secs(60);

/// One end: its ring, its connection, and what came of it.
pub(super) struct End {
    ring: Ring,
    pub(super) connection: Connection,
    events: Vec<LinkEvent>,
}

impl End {
    pub(super) fn over(socket: impl Into<OwnedFd>, records: Option<Records>, namespace: u8) -> End {
        let mut ring = Ring::new(64).expect("io_uring");
        let mut connection = Connection::over(socket.into(), records, VERSION, namespace, &Pool::default())
            .expect("a connected socket");
        connection.start(&mut ring);
        End { ring, connection, events: Vec::new() }
    }

    /// Do what there is to do; wait at most a moment.
    fn turn(&mut self) {
        self.turn_within(Duration::from_millis(20));
    }

    /// Do what there is to do without waiting.
    fn turn_at_once(&mut self) {
        self.turn_within(Duration::ZERO);
    }

    fn turn_within(&mut self, limit: Duration) {
        self.connection.pump(&mut self.ring);
        let mut completions = Vec::new();
        self.ring.wait(Some(limit), &mut completions).expect("the ring works");
        for completion in completions {
            assert!(self.connection.owns(completion.token));
            self.connection.on_completion(&mut self.ring, completion, &mut self.events);
        }
    }

    pub(super) fn until(&mut self, mut reached: impl FnMut(&mut End) -> bool) {
        let start = Instant::now();
        while !reached(self) {
            assert!(start.elapsed() < LIMIT, "the state is not reached");
            self.turn();
        }
    }

    pub(super) fn closed(&self) -> Option<&LinkError> {
        self.events.iter().find_map(|event| match event {
            LinkEvent::Closed { reason } => Some(reason),
            _ => None,
        })
    }

    pub(super) fn frames(&self) -> Vec<(Header, Shared)> {
        self.events
            .iter()
            .filter_map(|event| match event {
                LinkEvent::Frame { header, payload } => Some((*header, payload.clone())),
                _ => None,
            })
            .collect()
    }

    fn sent_upto(&self) -> Sequence {
        self.events
            .iter()
            .filter_map(|event| match event {
                LinkEvent::Sent { upto } => Some(*upto),
                _ => None,
            })
            .next_back()
            .unwrap_or_default()
    }
}

/// Both ends of a link without encryption, then of one with it.
fn plain_and_encrypted() -> [(Option<Records>, Option<Records>); 2] {
    [(None, None), acquainted_some()]
}

fn acquainted_some() -> (Option<Records>, Option<Records>) {
    let (client, server) = acquainted();
    (Some(client), Some(server))
}

/// The bytes of these frames on the wire of such a link.
fn encode_for(records: Option<Records>, frames: &[(Header, Vec<u8>)]) -> Vec<u8> {
    let bytes = encode(frames);
    match records {
        None => bytes,
        Some(mut records) => {
            let sealed = records.seal(&[bytes.into()], &Pool::default()).expect("sealed");
            sealed.iter().flat_map(|piece| piece.to_vec()).collect()
        }
    }
}

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
    let one = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
    let (other, _) = listener.accept().expect("accepted");
    (one, other)
}

#[test]
fn frames_pass_in_both_directions() {
    for (near, far) in plain_and_encrypted() {
        let (left, right) = tcp_pair();
        let frames = some_frames();
        let sent = frames.clone();
        let other = std::thread::spawn(move || {
            let mut right = End::over(right, far, 2);
            right.until(|end| end.frames().len() == sent.len());
            for (header, payload) in right.frames() {
                right.connection.queue(&header, Payload::Shared(payload));
            }
            right.until(|end| end.closed().is_some());
            assert_same(&right.frames(), &sent);
        });
        let mut left = End::over(left, near, 1);
        for (header, payload) in &frames {
            left.connection.queue(header, Payload::Bytes(payload.clone()));
        }
        left.until(|end| end.frames().len() == frames.len());
        assert_same(&left.frames(), &frames);
        assert_eq!(left.sent_upto(), Sequence(frames.len() as u64));
        assert_eq!(left.connection.queued_bytes(), 0);
        drop(left);
        other.join().expect("the other end is content");
    }
}

#[test]
fn tokens_of_successive_connections_differ() {
    let (first, second) = (tcp_pair(), tcp_pair());
    let mut old = End::over(first.0, None, 9);
    let new = End::over(second.0, None, 9);
    old.connection.close();
    let (mut completions, start) = (Vec::new(), Instant::now());
    while completions.is_empty() {
        assert!(start.elapsed() < LIMIT, "closing ends the receive");
        old.ring.wait(Some(Duration::from_millis(20)), &mut completions).expect("the ring works");
    }
    for completion in completions {
        assert_eq!(completion.token.0 >> 56, 9);
        assert!(old.connection.owns(completion.token));
        assert!(!new.connection.owns(completion.token));
    }
}

/// One step of a conversation: who (true: left) does what.
#[derive(Clone, Debug)]
enum Move {
    Queue(bool, usize),
    Turn(bool),
    Pause(bool),
    Resume(bool),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let length = prop_oneof![3 => 0usize..300, 3 => 900usize..5000, 1 => 60_000usize..400_000];
    prop::collection::vec(
        prop_oneof![
            4 => (any::<bool>(), length).prop_map(|(left, length)| Move::Queue(left, length)),
            3 => any::<bool>().prop_map(Move::Turn),
            1 => any::<bool>().prop_map(Move::Pause),
            1 => any::<bool>().prop_map(Move::Resume),
        ],
        1..80,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever the two do in whatever order, each hears exactly what the other said, in order, and all memory comes back.
    #[test]
    fn a_conversation_in_any_order_is_complete(moves in moves(), encrypted in any::<bool>()) {
        let (left, right) = UnixStream::pair().expect("a socket pair");
        let (near, far) = if encrypted { acquainted_some() } else { (None, None) };
        let mut ends = [End::over(left, near, 1), End::over(right, far, 2)];
        let mut said: [Vec<(Header, Vec<u8>)>; 2] = Default::default();
        for step in moves {
            match step {
                Move::Queue(left, length) => {
                    let who = usize::from(!left);
                    let sequence = said[who].len() as u64 + 1;
                    let frame = (header(Kind::Data, sequence, length), pattern(sequence, length));
                    ends[who].connection.queue(&frame.0, Payload::Bytes(frame.1.clone()));
                    said[who].push(frame);
                }
                Move::Turn(left) => ends[usize::from(!left)].turn_at_once(),
                Move::Pause(left) => ends[usize::from(!left)].connection.pause(),
                Move::Resume(left) => {
                    let End { connection, ring, .. } = &mut ends[usize::from(!left)];
                    connection.start(ring);
                }
            }
        }
        let start = Instant::now();
        while ends[0].frames().len() < said[1].len() || ends[1].frames().len() < said[0].len() {
            assert!(start.elapsed() < LIMIT, "something is missing");
            for End { connection, ring, .. } in &mut ends {
                connection.start(ring);
            }
            ends.iter_mut().for_each(End::turn_at_once);
        }
        let [mut left, right] = ends;
        assert_same(&left.frames(), &said[1]);
        assert_same(&right.frames(), &said[0]);
        let last = Sequence(said[0].len() as u64);
        left.until(|end| end.sent_upto() == last);
    }
}

#[test]
fn hundred_thousand_small_frames_keep_their_order() {
    const FRAMES: u64 = 100_000;
    for (near, far) in plain_and_encrypted() {
        let encrypted = near.is_some();
        let (left, right) = tcp_pair();
        let receiver = std::thread::spawn(move || {
            let mut right = End::over(right, far, 2);
            let (mut next, start) = (1, Instant::now());
            while next <= FRAMES {
                assert!(start.elapsed() < LIMIT, "frame {next} does not come");
                right.turn();
                for event in std::mem::take(&mut right.events) {
                    let LinkEvent::Frame { header, payload } = event else { panic!("{event:?}") };
                    assert_eq!(header.sequence, Sequence(next));
                    assert_eq!(payload[..], next.to_le_bytes());
                    next += 1;
                }
            }
            right.connection.statistics()
        });
        let mut left = End::over(left, near, 1);
        for sequence in 1..=FRAMES {
            left.connection
                .queue(&header(Kind::Data, sequence, 8), Payload::Bytes(sequence.to_le_bytes().to_vec()));
        }
        left.until(|end| end.sent_upto() == Sequence(FRAMES));
        let received = receiver.join().expect("all frames come");
        assert_eq!(received.frames_received, FRAMES);
        let bytes = FRAMES * (HEADER_BYTES as u64 + 8);
        let beyond = received.bytes_received - bytes;
        assert!(
            if encrypted { beyond > 0 && beyond < bytes / 2 } else { beyond == 0 },
            "{beyond} of {bytes}"
        );
    }
}

#[test]
fn a_slow_reader_is_felt_as_queued_bytes() {
    const FRAMES: u64 = 64;
    const LENGTH: usize = 1 << 20;
    let (left, mut right) = tcp_pair();
    let mut left = End::over(left, None, 1);
    let payload = Shared::from(pattern(5, LENGTH));
    for sequence in 1..=FRAMES {
        left.connection.queue(&header(Kind::Data, sequence, LENGTH), Payload::Shared(payload.clone()));
    }
    let all = FRAMES * (HEADER_BYTES + LENGTH) as u64;
    assert_eq!(left.connection.queued_bytes(), all);
    // Nobody reads: the kernel takes what its buffers hold, and no more.
    let mut quiet = 0;
    while quiet < 10 {
        let before = left.connection.queued_bytes();
        left.turn();
        quiet = if left.connection.queued_bytes() == before { quiet + 1 } else { 0 };
    }
    assert!(left.connection.queued_bytes() > all / 4, "loopback holds at most some MiB");
    let reader = std::thread::spawn(move || {
        let mut bytes = vec![0; all as usize];
        right.read_exact(&mut bytes).expect("everything comes");
        bytes
    });
    left.until(|end| end.connection.queued_bytes() == 0);
    assert_eq!(left.sent_upto(), Sequence(FRAMES));
    let (received, _) = decode(&reader.join().expect("the reader is content"), &[4 << 20]);
    assert_eq!(received.len(), FRAMES as usize);
    assert!(received.iter().all(|(_, bytes)| bytes[..] == payload[..]));
}

#[test]
fn a_paused_connection_holds_its_peer_back() {
    for (near, far) in plain_and_encrypted() {
        const FRAMES: usize = 64;
        const LENGTH: usize = 1 << 20;
        let (left, right) = tcp_pair();
        let mut right = End::over(right, near, 2);
        right.connection.pause();
        let writer = std::thread::spawn(move || {
            let mut left = left;
            let frames: Vec<_> =
                (1..=FRAMES as u64).map(|n| (header(Kind::Data, n, LENGTH), pattern(n, LENGTH))).collect();
            left.write_all(&encode_for(far, &frames)).expect("everything goes in the end");
            frames
        });
        let mut quiet = 0;
        while quiet < 10 {
            let before = right.connection.statistics().bytes_received;
            right.turn();
            quiet = if right.connection.statistics().bytes_received == before { quiet + 1 } else { 0 };
        }
        assert!(right.frames().len() < FRAMES / 2, "a paused connection takes at most one receive");
        right.connection.start(&mut right.ring);
        right.until(|end| end.closed().is_some());
        assert_same(&right.frames(), &writer.join().expect("the writer is content"));
    }
}

#[test]
fn closing_with_a_send_under_way_frees_everything() {
    for (near, far) in plain_and_encrypted() {
        let (left, right) = tcp_pair();
        let mut left = End::over(left, near, 1);
        let pool = Pool::default();
        let payload = Shared::from(pool.take(4 << 20));
        for sequence in 1..=16 {
            left.connection.queue(&header(Kind::Data, sequence, 0), Payload::Shared(payload.clone()));
        }
        drop(payload);
        left.turn();
        left.connection.close();
        assert_eq!(left.connection.queued_bytes(), 0);
        let start = Instant::now();
        while pool.outstanding_bytes() > 0 {
            assert!(start.elapsed() < LIMIT, "the ring does not let go of what was being sent");
            left.turn();
        }
        assert!(left.closed().is_none(), "who closes is not told");
        drop((right, far));
    }
}

#[test]
fn a_dropped_connection_and_ring_leave_no_memory_behind() {
    for (near, far) in plain_and_encrypted() {
        let (left, right) = tcp_pair();
        let mut left = End::over(left, near, 1);
        let pool = Pool::default();
        left.connection.queue(&header(Kind::Data, 1, 0), Payload::Shared(pool.take(4 << 20).into()));
        left.connection.queue(&header(Kind::Data, 2, 0), Payload::Shared(pool.take(4 << 20).into()));
        left.turn();
        drop(left);
        assert_eq!(pool.outstanding_bytes(), 0);
        drop((right, far));
    }
}

#[test]
fn what_the_peer_said_before_it_closed_is_heard() {
    for (near, far) in plain_and_encrypted() {
        let (left, mut right) = UnixStream::pair().expect("a socket pair");
        let mut left = End::over(left, near, 1);
        let goodbye = vec![(header(Kind::Goodbye, 0, 0), Vec::new())];
        right.write_all(&encode_for(far, &goodbye)).expect("written");
        drop(right);
        // Sending fails, but the last word is received first.
        left.connection.queue(&header(Kind::Data, 1, 0), Payload::Empty);
        left.until(|end| end.closed().is_some());
        assert_same(&left.frames(), &goodbye);
        assert!(matches!(left.events.last(), Some(LinkEvent::Closed { .. })));
    }
}

#[test]
fn garbage_closes_once_and_nothing_follows() {
    for (near, far) in plain_and_encrypted() {
        let (left, mut right) = UnixStream::pair().expect("a socket pair");
        let mut left = End::over(left, near, 1);
        right.write_all(&pattern(99, 10_000)).expect("written");
        left.until(|end| end.closed().is_some());
        match left.closed() {
            Some(LinkError::Header(HeaderError::Magic(_))) => assert!(far.is_none()),
            Some(LinkError::Tls(_)) => assert!(far.is_some()),
            other => panic!("{other:?}"),
        }
        let _ = right.write_all(&pattern(98, 1000));
        for _ in 0..3 {
            left.turn();
        }
        assert_eq!(left.events.len(), 1);
        // The peer sees the end too.
        let mut rest = Vec::new();
        right.read_to_end(&mut rest).expect("an end");
    }
}
