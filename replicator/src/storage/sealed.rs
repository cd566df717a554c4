//! The frame of files that are worth something only as a whole: a magic, a version, a header, sections, and a digest (BLAKE3) over all of it.

const DIGEST_BYTES: usize = 32;
/// Magic, version, four bytes of zero.
const PREFIX_BYTES: usize = 16;

/// What a file is.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    /// Its first bytes.
    pub magic: [u8; 8],
    /// Version of the layout that this build reads and writes.
    pub version: u32,
}

impl Kind {
    /// A file's bytes: behind the prefix what `fill` appends, then the digest.
    pub(super) fn seal(self, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = self.prefix().to_vec();
        fill(&mut bytes);
        let digest = blake3::hash(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        bytes
    }

    /// What `fill` had appended; `None` if it is no file of this kind and version, whole.
    pub(super) fn open(self, bytes: &[u8]) -> Option<&[u8]> {
        let (content, digest) = bytes.split_last_chunk::<DIGEST_BYTES>()?;
        let filled = content.strip_prefix(&self.prefix())?;
        (blake3::hash(content).as_bytes() == digest).then_some(filled)
    }

    fn prefix(self) -> [u8; PREFIX_BYTES] {
        let mut prefix = [0; PREFIX_BYTES];
        prefix[..8].copy_from_slice(&self.magic);
        prefix[8..12].copy_from_slice(&self.version.to_le_bytes());
        prefix
    }
}

/// A section: its length in 8 bytes, then what `fill` appends.
pub(super) fn section(bytes: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let at = bytes.len();
    bytes.extend_from_slice(&[0; 8]);
    fill(bytes);
    let length = (bytes.len() - at - 8) as u64;
    bytes[at..at + 8].copy_from_slice(&length.to_le_bytes());
}

/// The content of the first section, which is taken off.
pub(super) fn take_section<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let (section, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    *bytes = rest;
    Some(section)
}
