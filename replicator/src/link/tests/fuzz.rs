//! The bytes of a connection, changed anywhere: a frame that is given on is one that was sent, and none is behind the first change.
//! `cargo xtask fuzz link` runs this with many inputs.

use replicator_core::ids::{FileId, Sequence, Term, VolumeId};
use replicator_core::wire::header::{HEADER_BYTES, Header, Kind, PAYLOAD_MAX};
use replicator_fuzz::{Random, Share, each};

use super::super::error::LinkError;
use super::super::incoming::Incoming;
use super::VERSION;
use crate::uring::{Pool, Shared};

/// What may be held for one connection: the largest frame, the buffer in which its beginning came, and the next one.
const HELD_MAX: usize = PAYLOAD_MAX as usize + (3 << 20);

fn frame(random: &mut Random, kind: Kind) -> Vec<u8> {
    let most = if random.chance(90) { 200 } else { 9000 };
    let payload = random.bytes(most);
    let header = Header {
        kind,
        flags: random.next() as u16,
        term: Term(random.number()),
        sequence: Sequence(random.number()),
        file: FileId { volume: VolumeId(random.next() as u16), inode: random.number() },
        offset: random.number(),
        length: random.number(),
    };
    let mut bytes = header.encode(VERSION, payload.len() as u32, crc32c::crc32c(&payload)).to_vec();
    bytes.extend(payload);
    bytes
}

fn is_of_the_handshake(kind: Kind) -> bool {
    matches!(kind, Kind::Hello | Kind::Refuse | Kind::Proof | Kind::Accept)
}

fn of_a_session(random: &mut Random) -> Kind {
    loop {
        let kind = *random.one(&Kind::ALL);
        if !is_of_the_handshake(kind) {
            return kind;
        }
    }
}

/// Let the bytes come in portions: the frames that are given on, and why it ended.
fn receive(random: &mut Random, pool: &Pool, mut bytes: &[u8]) -> (Vec<(Header, Shared)>, LinkError) {
    let mut incoming = Incoming::new(VERSION, pool.clone());
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let most = if random.chance(50) { 100 } else { 20_000 };
        let (mut now, later) = bytes.split_at(bytes.len().min(1 + random.below(most)));
        bytes = later;
        while !now.is_empty() {
            now = incoming.append(now);
            loop {
                match incoming.next_frame() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, error),
                }
            }
            assert!(pool.outstanding_bytes() <= HELD_MAX, "{} bytes are held", pool.outstanding_bytes());
        }
    }
    (frames, incoming.end())
}

fn is_same((header, payload): &(Header, Shared), sent: &[u8]) -> bool {
    let encoded = header.encode(VERSION, payload.len() as u32, crc32c::crc32c(payload));
    sent.strip_prefix(&encoded).is_some_and(|rest| rest == &payload[..])
}

#[test]
fn nothing_that_was_changed_is_given_on() {
    let pool = Pool::default();
    let mut given = 0_u64;
    each("link, changed bytes", Share::Whole, |random| {
        let sent: Vec<Vec<u8>> = (0..=random.below(4))
            .map(|_| {
                let kind = of_a_session(random);
                frame(random, kind)
            })
            .collect();
        let genuine = sent.concat();
        let changed = random.changed(&genuine);
        let same = genuine.iter().zip(&changed).take_while(|(one, other)| one == other).count();
        let mut end = 0;
        let whole = sent.iter().take_while(|frame| {
            end += frame.len();
            end <= same
        });
        let (frames, reason) = receive(random, &pool, &changed);
        let expected: Vec<&Vec<u8>> = whole.collect();
        assert_eq!(frames.len(), expected.len(), "{reason}");
        assert!(frames.iter().zip(expected).all(|(frame, sent)| is_same(frame, sent)));
        given += frames.len() as u64;
    });
    assert!(given > replicator_fuzz::inputs() / 4, "what came before a change is given on");
}

/// Who can make checksums can say anything, and is still held to the form.
#[test]
fn what_no_session_has_is_not_given_on() {
    let pool = Pool::default();
    each("link, any frames", Share::Whole, |random| {
        let kind = *random.one(&Kind::ALL);
        let mut bytes = frame(random, kind);
        let (mut version, mut length, mut good) = (VERSION, bytes.len() - HEADER_BYTES, true);
        if random.chance(50) {
            let payload_sum = if random.chance(50) { random.next() as u32 } else { 0 };
            version = random.below(4) as u16;
            length = if random.chance(95) { random.below(300) } else { random.number() as u32 as usize };
            let header = Header::new(kind, Term(random.number()));
            let sealed = header.encode(version, length as u32, payload_sum);
            bytes.splice(..HEADER_BYTES, sealed);
            let payload = bytes.get(HEADER_BYTES..HEADER_BYTES + length);
            good = payload.is_some_and(|payload| crc32c::crc32c(payload) == payload_sum);
        }
        let may = version == VERSION && !is_of_the_handshake(kind) && good;
        let (frames, reason) = receive(random, &pool, &bytes);
        assert_eq!(!frames.is_empty(), may, "{kind:?} of version {version}, {length} bytes: {reason}");
    });
}
