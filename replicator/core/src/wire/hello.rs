//! Bodies of the handshake. Frames of the handshake are written in version [`super::header::VERSION_MIN`] of the header, whose
//! layout never changes, so that nodes of different age can tell each other why they do not fit.

use alloc::string::String;
use alloc::vec::Vec;

use super::cursor::{BodyError, Cursor, Put};
use crate::action::DataState;
use crate::ids::{Generation, Term};

/// Longest cluster or node name in bytes.
pub const TEXT_MAX: usize = 255;
/// Longest explanation in a refusal in bytes.
pub const REASON_TEXT_MAX: usize = 1024;
/// Most volumes of a node.
pub const VOLUMES_MAX: usize = 256;
/// Size of a digest of patterns.
pub const PATTERNS_BYTES: usize = 32;

/// What a node does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Role {
    /// Runs the application and sends.
    Primary = 1,
    /// Receives.
    Secondary = 2,
}

/// Where a volume's root really is, so that a directory is never mirrored onto itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VolumeIdentity {
    /// `st_dev` of the root.
    pub device: u64,
    /// Inode number of the root.
    pub inode: u64,
}

/// Payload of a `Hello`: who speaks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Oldest protocol version the node speaks.
    pub lowest: u16,
    /// Newest protocol version the node speaks; not below `lowest`.
    pub highest: u16,
    /// Name or id of the cluster, the same on both nodes.
    pub cluster: Vec<u8>,
    /// Name of the node.
    pub node: Vec<u8>,
    /// What the node does.
    pub role: Role,
    /// Its replication mode by number (see the configuration); both must agree.
    pub mode: u8,
    /// Random bytes of this connection, never used twice.
    pub nonce: [u8; 32],
    /// The kernel's boot id (/proc/sys/kernel/random/boot_id): with device and inode tells a directory for certain.
    pub boot: [u8; 16],
    /// The volumes' roots in the order of their numbers.
    pub volumes: Vec<VolumeIdentity>,
    /// The node's generation.
    pub generation: Generation,
    /// The node's term.
    pub term: Term,
    /// State of the node's copy.
    pub data: DataState,
    /// Which names are left out of each volume, as a digest (the edge's business; zero: none), or nothing if none are in any:
    /// then a node that knows nothing of it understands the Hello.
    pub patterns: Vec<[u8; PATTERNS_BYTES]>,
}

impl Hello {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(160);
        body.put_u16(self.lowest);
        body.put_u16(self.highest);
        body.put_short_bytes(&self.cluster);
        body.put_short_bytes(&self.node);
        body.put_u8(self.role as u8);
        body.put_u8(self.mode);
        body.put(&self.nonce);
        body.put(&self.boot);
        body.put_count(self.volumes.len());
        for volume in &self.volumes {
            body.put_u64(volume.device);
            body.put_u64(volume.inode);
        }
        body.put_u64(self.generation.0);
        body.put_u64(self.term.0);
        body.put_u8(self.data as u8);
        for digest in &self.patterns {
            body.put(digest);
        }
        body
    }

    /// The Hello in a payload. Bytes after the last value are an error here as everywhere: a newer version says more in
    /// frames of its own, after the negotiation.
    ///
    /// # Errors
    /// [`BodyError`].
    pub fn decode(body: &[u8]) -> Result<Hello, BodyError> {
        let mut cursor = Cursor::new(body);
        let lowest = cursor.u16()?;
        let highest = cursor.u16()?;
        if lowest > highest {
            return Err(BodyError::Value("versions"));
        }
        let cluster = cursor.short_bytes(TEXT_MAX, "cluster name")?;
        let node = cursor.short_bytes(TEXT_MAX, "node name")?;
        let role = match cursor.u8()? {
            1 => Role::Primary,
            2 => Role::Secondary,
            _ => return Err(BodyError::Value("role")),
        };
        let mode = cursor.u8()?;
        let nonce = cursor.array()?;
        let boot = cursor.array()?;
        let count = cursor.count(16)?;
        if count > VOLUMES_MAX {
            return Err(BodyError::Limit("volumes"));
        }
        let mut volumes = Vec::with_capacity(count);
        for _ in 0..count {
            volumes.push(VolumeIdentity { device: cursor.u64()?, inode: cursor.u64()? });
        }
        let generation = Generation(cursor.u64()?);
        let term = Term(cursor.u64()?);
        let data = DataState::from_u8(cursor.u8()?).ok_or(BodyError::Value("data state"))?;
        let mut patterns = Vec::new();
        // All of them, or none: anything else is not a Hello.
        if cursor.left() == count * PATTERNS_BYTES {
            for _ in 0..count {
                patterns.push(cursor.array()?);
            }
        }
        cursor.finish()?;
        Ok(Hello {
            lowest,
            highest,
            cluster,
            node,
            role,
            mode,
            nonce,
            boot,
            volumes,
            generation,
            term,
            data,
            patterns,
        })
    }

    /// The newest version both speak.
    #[must_use]
    pub fn negotiate(&self, other: &Hello) -> Option<u16> {
        let version = self.highest.min(other.highest);
        (version >= self.lowest.max(other.lowest)).then_some(version)
    }
}

/// Payload of a `Proof`: a keyed digest (the edge's business) over both Hellos and the direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proof(pub [u8; 32]);

impl Proof {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.0.to_vec()
    }

    /// The proof in a payload.
    ///
    /// # Errors
    /// [`BodyError`].
    pub fn decode(body: &[u8]) -> Result<Proof, BodyError> {
        let mut cursor = Cursor::new(body);
        let proof = Proof(cursor.array()?);
        cursor.finish()?;
        Ok(proof)
    }
}

/// Why a peer is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum RefusalReason {
    /// No protocol version both speak.
    Version = 1,
    /// It belongs to another cluster.
    Cluster = 2,
    /// It could not prove that it belongs to the cluster.
    Proof = 3,
    /// Both nodes have the same role.
    Role = 4,
    /// The modes differ.
    Mode = 5,
    /// The volumes do not correspond.
    Volumes = 6,
    /// Both directories are the same directory.
    SameDirectory = 7,
    /// Its term is over.
    Term = 8,
    /// Another session is being served.
    Busy = 9,
    /// Something else, told in the text.
    Other = 255,
}

impl RefusalReason {
    /// The reason with that number on the wire; an unknown one is [`RefusalReason::Other`], since a newer node may know more.
    #[must_use]
    pub const fn from_u8(value: u8) -> RefusalReason {
        match value {
            1 => RefusalReason::Version,
            2 => RefusalReason::Cluster,
            3 => RefusalReason::Proof,
            4 => RefusalReason::Role,
            5 => RefusalReason::Mode,
            6 => RefusalReason::Volumes,
            7 => RefusalReason::SameDirectory,
            8 => RefusalReason::Term,
            9 => RefusalReason::Busy,
            _ => RefusalReason::Other,
        }
    }
}

/// Payload of a `Refuse`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Why.
    pub reason: RefusalReason,
    /// The same for a person; at most [`REASON_TEXT_MAX`] bytes are sent.
    pub text: String,
}

impl Refusal {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut end = self.text.len().min(REASON_TEXT_MAX);
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let mut body = Vec::with_capacity(3 + end);
        body.put_u8(self.reason as u8);
        body.put_short_bytes(&self.text.as_bytes()[..end]);
        body
    }

    /// The refusal in a payload. Bytes that are not UTF-8 or are control characters are replaced: the text goes to logs. It has
    /// at most [`REASON_TEXT_MAX`] bytes here, too.
    ///
    /// # Errors
    /// [`BodyError`].
    pub fn decode(body: &[u8]) -> Result<Refusal, BodyError> {
        let mut cursor = Cursor::new(body);
        let reason = RefusalReason::from_u8(cursor.u8()?);
        let text = cursor.short_bytes(REASON_TEXT_MAX, "refusal text")?;
        cursor.finish()?;
        let mut shown = String::new();
        for letter in String::from_utf8_lossy(&text).chars() {
            let letter = if letter.is_control() { ' ' } else { letter };
            // A replacement is longer than the byte that it replaces.
            if shown.len() + letter.len_utf8() > REASON_TEXT_MAX {
                break;
            }
            shown.push(letter);
        }
        Ok(Refusal { reason, text: shown })
    }
}
