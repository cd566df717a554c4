//! Frames: whatever is done to the bytes on the way, what comes out is what went in, or an error.

use proptest::prelude::*;
use replicator_core::ids::{FileId, Sequence, Term, VolumeId};
use replicator_core::wire::header::{HEADER_BYTES, Header, HeaderError, Kind, PAYLOAD_MAX};

use super::error::LinkError;
use super::incoming::Incoming;
use super::outgoing::{Outgoing, Payload};
use crate::uring::{Pool, Shared};

mod encrypted;
mod fuzz;
mod ring;

const VERSION: u16 = 1;

fn header(kind: Kind, sequence: u64, length: usize) -> Header {
    Header {
        kind,
        flags: 0x5aa5,
        term: Term(7),
        sequence: Sequence(sequence),
        file: FileId { volume: VolumeId(3), inode: 0x1122_3344_5566 },
        offset: sequence.wrapping_mul(4096),
        length: length as u64,
    }
}

/// Bytes that differ from place to place and from frame to frame.
fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// The bytes of these frames on the wire.
fn encode(frames: &[(Header, Vec<u8>)]) -> Vec<u8> {
    let mut outgoing = Outgoing::new(VERSION, Pool::default());
    for (header, payload) in frames {
        outgoing.push(header, Payload::Bytes(payload.clone()));
    }
    let mut bytes = Vec::new();
    loop {
        let batch = outgoing.take_batch();
        if batch.is_empty() {
            return bytes;
        }
        batch.iter().for_each(|piece| bytes.extend_from_slice(piece));
    }
}

/// Let the bytes come in these portions (the last one is repeated): the frames, and why it ended.
fn decode(bytes: &[u8], portions: &[usize]) -> (Vec<(Header, Shared)>, LinkError) {
    let mut incoming = Incoming::new(VERSION, Pool::default());
    let (mut at, mut turn, mut frames) = (0, 0, Vec::new());
    while at < bytes.len() {
        let mut buffer = incoming.lend().expect("the buffer was given back");
        assert!(buffer.room() > 0, "a receive without room would look like the end of the stream");
        let portion = portions[turn.min(portions.len() - 1)].min(buffer.room()).min(bytes.len() - at);
        turn += 1;
        assert!(buffer.append(&bytes[at..at + portion]));
        at += portion;
        incoming.give_back(buffer);
        loop {
            match incoming.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, error),
            }
        }
    }
    (frames, incoming.end())
}

fn assert_same(received: &[(Header, Shared)], sent: &[(Header, Vec<u8>)]) {
    assert_eq!(received.len(), sent.len());
    for ((header, payload), (sent_header, sent_payload)) in received.iter().zip(sent) {
        assert_eq!(header, sent_header);
        assert!(payload[..] == sent_payload[..], "payload of frame {}", header.sequence);
    }
}

fn some_frames() -> Vec<(Header, Vec<u8>)> {
    [0usize, 1, 64, 4096, 70_000, 0, 300_000, 9]
        .iter()
        .enumerate()
        .map(|(index, length)| {
            (header(Kind::Data, index as u64 + 1, *length), pattern(index as u64, *length))
        })
        .collect()
}

#[test]
fn frames_survive_byte_by_byte_delivery() {
    let frames = some_frames();
    let (received, end) = decode(&encode(&frames), &[1]);
    assert_same(&received, &frames);
    assert!(matches!(end, LinkError::PeerClosed), "{end}");
}

#[test]
fn largest_payload_passes_whatever_lies_before_it() {
    for before in [0usize, 1, 65_000] {
        let frames = vec![
            (header(Kind::Data, 1, before), pattern(1, before)),
            (header(Kind::Data, 2, 0), pattern(2, PAYLOAD_MAX as usize)),
            (header(Kind::Data, 3, 0), pattern(3, PAYLOAD_MAX as usize)),
        ];
        let (received, end) = decode(&encode(&frames), &[100_000]);
        assert_same(&received, &frames);
        assert!(matches!(end, LinkError::PeerClosed), "{end}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn frames_survive_any_chunking(
        lengths in prop::collection::vec(prop_oneof![0usize..200, 4000usize..9000, 60_000usize..200_000], 1..12),
        portions in prop::collection::vec(prop_oneof![1usize..100, 1000usize..70_000, Just(4 << 20)], 1..60),
    ) {
        let frames: Vec<_> = lengths
            .iter()
            .enumerate()
            .map(|(index, length)| (header(Kind::Data, index as u64 + 1, *length), pattern(index as u64, *length)))
            .collect();
        let (received, end) = decode(&encode(&frames), &portions);
        assert_same(&received, &frames);
        prop_assert!(matches!(end, LinkError::PeerClosed), "{}", end);
    }
}

#[test]
fn every_flipped_bit_pattern_is_an_error() {
    let frames = vec![
        (header(Kind::Barrier, 1, 0), Vec::new()),
        (header(Kind::Data, 2, 300), pattern(2, 300)),
        (header(Kind::KeepAlive, 0, 0), Vec::new()),
    ];
    let bytes = encode(&frames);
    for at in 0..bytes.len() {
        for flip in [0x01u8, 0x80, 0xff] {
            let mut broken = bytes.clone();
            broken[at] ^= flip;
            let (received, end) = decode(&broken, &[1000]);
            // Frames before the broken one are whole and right; the broken one and all after it never come.
            assert!(received.len() < frames.len(), "byte {at} flipped by {flip:#x} went unnoticed");
            assert_same(&received, &frames[..received.len()]);
            assert!(end.is_nonsense(), "byte {at} flipped by {flip:#x}: {end}");
        }
    }
}

#[test]
fn truncation_at_every_offset_is_told_from_an_orderly_end() {
    let frames =
        vec![(header(Kind::Barrier, 1, 0), Vec::new()), (header(Kind::Data, 2, 100), pattern(2, 100))];
    let bytes = encode(&frames);
    for cut in 0..=bytes.len() {
        let (received, end) = decode(&bytes[..cut], &[17]);
        assert_same(&received, &frames[..received.len()]);
        match end {
            LinkError::PeerClosed => assert!(cut == 0 || cut == HEADER_BYTES || cut == bytes.len()),
            LinkError::Truncated { missing } => {
                let in_first = cut < HEADER_BYTES;
                let in_second_header = (HEADER_BYTES..2 * HEADER_BYTES).contains(&cut);
                let expected = if in_first {
                    HEADER_BYTES - cut
                } else if in_second_header {
                    2 * HEADER_BYTES - cut
                } else {
                    bytes.len() - cut
                };
                assert_eq!(missing, expected, "cut at {cut}");
            }
            other => panic!("cut at {cut}: {other}"),
        }
    }
}

#[test]
fn oversize_is_refused_before_its_payload_comes() {
    let oversize = header(Kind::Data, 1, 0);
    let bytes = oversize.encode(VERSION, PAYLOAD_MAX + 1, 0);
    let (received, end) = decode(&bytes, &[HEADER_BYTES]);
    assert!(received.is_empty());
    assert!(matches!(end, LinkError::Header(HeaderError::PayloadTooLong(_))), "{end}");
}

#[test]
fn another_version_is_refused() {
    let bytes = header(Kind::Data, 1, 0).encode(VERSION + 1, 0, 0);
    let (_, end) = decode(&bytes, &[HEADER_BYTES]);
    assert!(matches!(end, LinkError::Header(HeaderError::Version(2))), "{end}");
}

#[test]
fn handshake_frames_are_refused_after_the_handshake() {
    for kind in [Kind::Hello, Kind::Refuse, Kind::Proof, Kind::Accept] {
        let bytes = header(kind, 0, 0).encode(VERSION, 0, 0);
        let (_, end) = decode(&bytes, &[HEADER_BYTES]);
        assert!(matches!(end, LinkError::UnexpectedKind { .. }), "{end}");
    }
}
