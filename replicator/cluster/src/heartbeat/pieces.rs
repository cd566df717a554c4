//! A payload that does not fit into one datagram, put together again.

use std::sync::Arc;

use super::wire::{PAYLOAD_BYTES_MAX, PIECE_BYTES, PIECES_MAX, Piece};

/// The pieces of one payload at a time, in a buffer of fixed size. Only a newer payload replaces one that is not complete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Assembly {
    /// Version of the last payload that was complete, zero for none.
    complete: u64,
    /// Version of the payload that is being put together, zero for none.
    version: u64,
    total: u32,
    /// Bit `n`: piece `n` is here.
    have: u32,
    buffer: Box<[u8]>,
}

/// What came of a piece.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Offered {
    /// It was known, or is of an older payload, or others are missing.
    Nothing,
    /// The payload is complete, for the first time.
    Complete(Arc<[u8]>),
    /// It contradicts the pieces that came before.
    Contradiction,
}

impl Assembly {
    pub(crate) fn new() -> Assembly {
        Assembly {
            complete: 0,
            version: 0,
            total: 0,
            have: 0,
            buffer: vec![0; PAYLOAD_BYTES_MAX].into_boxed_slice(),
        }
    }

    /// Where the buffer is.
    pub(crate) fn place(&self) -> (*const u8, usize) {
        (self.buffer.as_ptr(), self.buffer.len())
    }

    /// Forget everything: another session begins.
    pub(crate) fn reset(&mut self) {
        self.complete = 0;
        self.version = 0;
        self.total = 0;
        self.have = 0;
    }

    /// Version of the last payload that was complete, zero for none.
    pub(crate) fn complete(&self) -> u64 {
        self.complete
    }

    /// Take a piece. That the header is sound was proven before; what does not fit is nothing nevertheless.
    pub(crate) fn offer(&mut self, piece: &Piece, bytes: &[u8]) -> Offered {
        if piece.count == 0 || piece.version <= self.complete.max(self.version.saturating_sub(1)) {
            return Offered::Nothing;
        }
        if piece.version > self.version {
            self.version = piece.version;
            self.total = piece.total;
            self.have = 0;
        }
        let index = usize::from(piece.index);
        let begin = index * PIECE_BYTES;
        let Some(room) = self.buffer.get_mut(begin..begin + bytes.len()) else {
            return Offered::Contradiction;
        };
        if piece.total != self.total || index >= PIECES_MAX {
            return Offered::Contradiction;
        }
        room.copy_from_slice(bytes);
        self.have |= 1 << index;
        let all = u32::MAX >> (32 - u32::from(piece.count).clamp(1, 32));
        if self.have & all != all {
            return Offered::Nothing;
        }
        self.complete = self.version;
        match self.buffer.get(..self.total as usize) {
            Some(payload) => Offered::Complete(payload.into()),
            None => Offered::Contradiction,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::wire::pieces_of;
    use super::*;

    fn pieces(version: u64, payload: &[u8]) -> Vec<(Piece, Vec<u8>)> {
        (0..pieces_of(payload.len()))
            .map(|index| {
                let piece = Piece::of(version, payload.len(), index);
                let begin = index * PIECE_BYTES;
                (piece, payload[begin..begin + usize::from(piece.length)].to_vec())
            })
            .collect()
    }

    #[test]
    fn an_older_payload_changes_nothing_and_a_newer_one_replaces() {
        let (old, new) = (pieces(1, &[1; 3000]), pieces(2, &[2; 2000]));
        let mut assembly = Assembly::new();
        assert_eq!(assembly.offer(&old[0].0, &old[0].1), Offered::Nothing);
        assert_eq!(assembly.offer(&new[0].0, &new[0].1), Offered::Nothing);
        for (piece, bytes) in &old {
            assert_eq!(assembly.offer(piece, bytes), Offered::Nothing);
        }
        assert_eq!(assembly.offer(&new[1].0, &new[1].1), Offered::Nothing);
        assert_eq!(assembly.offer(&new[2].0, &new[2].1), Offered::Complete([2; 2000].into()));
        assert_eq!(assembly.offer(&new[2].0, &new[2].1), Offered::Nothing);
        assert_eq!(assembly.complete(), 2);
    }

    #[test]
    fn an_empty_payload_is_one() {
        let empty = pieces(7, &[]);
        assert_eq!(empty.len(), 1);
        assert_eq!(Assembly::new().offer(&empty[0].0, &empty[0].1), Offered::Complete([].into()));
    }

    #[test]
    fn pieces_of_one_version_that_differ_in_length_are_not_mixed() {
        let (one, other) = (pieces(1, &[1; 3000]), pieces(1, &[2; 2000]));
        let mut assembly = Assembly::new();
        assembly.offer(&one[0].0, &one[0].1);
        assert_eq!(assembly.offer(&other[1].0, &other[1].1), Offered::Contradiction);
    }

    proptest! {
        #[test]
        fn in_any_order_with_duplicates(
            payload in prop::collection::vec(any::<u8>(), 0..=PAYLOAD_BYTES_MAX),
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..80),
        ) {
            let pieces = pieces(3, &payload);
            let mut assembly = Assembly::new();
            let mut complete = 0;
            let some = order.iter().map(|index| index.get(&pieces));
            for (piece, bytes) in some.chain(&pieces) {
                match assembly.offer(piece, bytes) {
                    Offered::Nothing => {}
                    Offered::Complete(whole) => {
                        complete += 1;
                        prop_assert_eq!(&whole[..], &payload[..]);
                    }
                    Offered::Contradiction => prop_assert!(false, "contradiction"),
                }
            }
            prop_assert_eq!(complete, 1);
        }
    }
}
