//! Memory that direct I/O takes.

/// What address, offset and length of direct I/O are multiples of.
pub const BLOCK: usize = 4096;

/// Bytes that begin at a multiple of [`BLOCK`].
#[derive(Debug)]
pub struct Aligned {
    bytes: Vec<u8>,
    begin: usize,
    length: usize,
}

impl Aligned {
    /// A copy of `content`.
    #[must_use]
    pub fn new(content: &[u8]) -> Aligned {
        let mut bytes = vec![0; content.len() + BLOCK];
        let begin = bytes.as_ptr().align_offset(BLOCK);
        bytes[begin..begin + content.len()].copy_from_slice(content);
        Aligned { bytes, begin, length: content.len() }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.begin..self.begin + self.length]
    }

    /// The bytes, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.begin..self.begin + self.length]
    }
}
