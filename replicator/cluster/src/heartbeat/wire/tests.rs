//! Tests of the datagrams.

use proptest::prelude::*;

use super::*;

const KEY: MacKey = MacKey([9; 32]);
const RECEIVER: [u8; 16] = [2; 16];

fn header() -> Header {
    Header {
        path: 1,
        key: KeyId([3; 8]),
        cluster: [4; 16],
        sender: [5; 16],
        session: Session(6),
        sequence: 7,
        ticks: 8,
        interval_us: 250_000,
        era: 9,
        heard: Heard {
            session: Session(10),
            era: 11,
            held: Some(12),
            version: 13,
            sequences: [1, 2, 3, 4, 5, 6, 7, 8],
        },
        answer: Answer { session: Session(14), era: 15 },
        other_key: KeyId([16; 8]),
        piece: Piece::of(17, 2000, 2),
    }
}

fn read<'a>(bytes: &'a [u8], receiver: &[u8; 16], key: &MacKey) -> Result<(Header, &'a [u8]), Refusal> {
    Unproven::parse(bytes)?.prove(receiver, key)
}

#[test]
fn what_was_written_is_read() {
    let piece = vec![7; 2000 - 2 * PIECE_BYTES];
    let datagram = seal(&header(), &piece, &RECEIVER, &KEY);
    assert_eq!(datagram.bytes().len(), HEADER_BYTES + piece.len());
    assert_eq!(read(datagram.bytes(), &RECEIVER, &KEY), Ok((header(), &piece[..])));
}

#[test]
fn the_fields_are_where_the_table_says() {
    let datagram = seal(&Header { piece: Piece::none(17), ..header() }, &[], &RECEIVER, &KEY);
    let bytes = datagram.bytes();
    assert_eq!(bytes.len(), 272);
    assert_eq!(&bytes[..8], b"RHB1\x01\x00\x01\x00");
    for (offset, value) in
        [(8, 3), (16, 4), (32, 5), (48, 6), (64, 7), (72, 8), (84, 9), (88, 10), (104, 11), (108, 12)]
    {
        assert_eq!(bytes[offset], value, "offset {offset}");
    }
    for (offset, value) in
        [(112, 13), (120, 1), (176, 8), (184, 14), (200, 15), (204, 0), (208, 16), (216, 17), (228, 0)]
    {
        assert_eq!(bytes[offset], value, "offset {offset}");
    }
}

#[test]
fn a_longest_datagram_fits() {
    let total = PAYLOAD_BYTES_MAX;
    let header = Header { piece: Piece::of(1, total, 0), ..header() };
    let datagram = seal(&header, &[1; PIECE_BYTES], &RECEIVER, &KEY);
    assert_eq!(datagram.bytes().len(), DATAGRAM_MAX);
    assert!(read(datagram.bytes(), &RECEIVER, &KEY).is_ok());
    assert_eq!(
        usize::from(Piece::of(1, total, PIECES_MAX - 1).length),
        total - (PIECES_MAX - 1) * PIECE_BYTES
    );
}

#[test]
fn any_changed_bit_is_noticed() {
    let piece = vec![7; usize::from(header().piece.length)];
    let datagram = seal(&header(), &piece, &RECEIVER, &KEY);
    for bit in 0..datagram.bytes().len() * 8 {
        let mut bytes = datagram.bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let expected = if bit < 6 * 8 { Refusal::Garbage } else { Refusal::BadMac };
        assert_eq!(read(&bytes, &RECEIVER, &KEY), Err(expected), "bit {bit}");
    }
    for length in 0..datagram.bytes().len() {
        assert!(read(&datagram.bytes()[..length], &RECEIVER, &KEY).is_err(), "length {length}");
    }
}

#[test]
fn another_receiver_or_key_does_not_believe_it() {
    let datagram = seal(&Header { piece: Piece::none(0), ..header() }, &[], &RECEIVER, &KEY);
    assert_eq!(read(datagram.bytes(), &[5; 16], &KEY), Err(Refusal::BadMac));
    assert_eq!(read(datagram.bytes(), &RECEIVER, &MacKey([8; 32])), Err(Refusal::BadMac));
}

#[test]
fn an_authentic_contradiction_is_garbage() {
    let good = Piece::of(1, 2000, 1);
    let pieces = [
        Piece { version: 0, ..good },
        Piece { index: 3, ..good },
        Piece { count: 2, ..good },
        Piece { count: 0, ..good },
        Piece { length: 5, ..good },
        Piece { total: PAYLOAD_BYTES_MAX as u32 + 1, ..good },
        Piece { total: u32::MAX, index: u16::MAX, count: u16::MAX, length: u16::MAX, version: u64::MAX },
    ];
    for piece in pieces {
        let bytes = vec![0; usize::from(piece.length).min(PIECE_BYTES)];
        let datagram = seal(&Header { piece, ..header() }, &bytes, &RECEIVER, &KEY);
        assert_eq!(read(datagram.bytes(), &RECEIVER, &KEY), Err(Refusal::Garbage), "{piece:?}");
    }
    for header in [Header { session: Session::NONE, ..header() }, Header { sequence: 0, ..header() }] {
        let datagram = seal(&Header { piece: Piece::none(1), ..header }, &[], &RECEIVER, &KEY);
        assert_eq!(read(datagram.bytes(), &RECEIVER, &KEY), Err(Refusal::Garbage));
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..1500), genuine in any::<bool>()) {
        let mut bytes = bytes;
        if genuine && bytes.len() >= 6 {
            bytes[..6].copy_from_slice(b"RHB1\x01\x00");
        }
        prop_assert!(read(&bytes, &RECEIVER, &KEY).is_err());
    }
}
