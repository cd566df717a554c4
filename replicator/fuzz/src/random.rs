//! Chance, all of it from one number, and what bytes become by it.

/// splitmix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

/// Values at which lengths, counts and positions go wrong.
const EDGES: [u64; 14] = [
    0,
    1,
    2,
    0x7F,
    0xFF,
    0x7FFF,
    0xFFFF,
    1 << 16,
    0x7FFF_FFFF,
    0xFFFF_FFFF,
    1 << 32,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

impl Random {
    /// From this seed.
    #[must_use]
    pub fn new(seed: u64) -> Random {
        // Seeds follow one another: one step apart they would be the same numbers, one later.
        Random(seed.wrapping_mul(0xD129_42AB_7E2F_9C57))
    }

    /// Any number.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    /// A number below the bound; 0 if that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// `true` in so many cases of a hundred.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of them.
    ///
    /// # Panics
    /// There are none.
    pub fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// Small, at an edge, or of any length.
    pub fn number(&mut self) -> u64 {
        match self.below(4) {
            0 => self.next() % 8,
            1 => self.one(&EDGES).wrapping_sub(self.next() % 3),
            2 => self.next() % 1_000_000,
            _ => self.next() >> self.below(64),
        }
    }

    /// Any bytes, fewer than `most`.
    pub fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = self.below(most);
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    /// 32 bytes of any value.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next() as u8)
    }

    /// Those bytes with some changes, of which at least one changes something: values, edges over whole numbers, cuts, additions,
    /// parts left out or there twice. Of nothing comes something.
    pub fn changed(&mut self, genuine: &[u8]) -> Vec<u8> {
        let mut bytes = genuine.to_vec();
        for _ in 0..=self.below(3) {
            self.change(&mut bytes);
        }
        while bytes == genuine {
            self.change(&mut bytes);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len());
        match self.below(8) {
            _ if bytes.is_empty() => bytes.push(self.next() as u8),
            0..=2 => bytes[at] ^= (self.next() as u8).max(1),
            3 => {
                let edge = self.number().to_le_bytes();
                let width = *self.one(&[1, 2, 4, 8]);
                let end = bytes.len().min(at + width);
                bytes[at..end].copy_from_slice(&edge[..end - at]);
            }
            4 => bytes.truncate(at),
            5 => {
                let more = self.bytes(40);
                let place = if self.chance(50) { bytes.len() } else { at };
                bytes.splice(place..place, more);
            }
            6 => {
                let end = bytes.len().min(at + 1 + self.below(16));
                bytes.drain(at..end);
            }
            _ => {
                let end = bytes.len().min(at + 1 + self.below(32));
                let twice = bytes[at..end].to_vec();
                bytes.splice(at..at, twice);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_changed_is_another_and_the_same_each_time() {
        for seed in 0..10_000 {
            let mut random = Random::new(seed);
            let genuine = random.bytes(20);
            let changed = random.changed(&genuine);
            assert_ne!(changed, genuine);
            let mut again = Random::new(seed);
            assert_eq!(again.bytes(20), genuine);
            assert_eq!(again.changed(&genuine), changed);
        }
    }
}
