//! What a node keeps of the token it issued, until it is used: the file `join-token`.
//!
//! ```toml
//! id = "…"            # 32 hexadecimal digits, derived from the token's secret
//! key = "…"           # 64 hexadecimal digits, derived likewise: proves possession
//! issued = 1800000000 # seconds since 1970
//! expires = 1800003600
//! wrong = 0           # wrong proofs under this id so far
//! replaces = "beta"   # only if the other node is to be replaced: its name
//! ```
//!
//! There is one at a time; issuing another replaces it. It is removed, durably, before a certificate is made for who used it.

use std::fmt;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::error::MembershipError;
use super::files::{self, TOKEN};
use super::identity::from_hex;
use super::secrets::Secret;
use super::token::{Token, seconds};

/// Wrong proofs after which a token is withdrawn.
pub(super) const WRONG_MAX: u32 = 10;

/// Tolerance against a clock that was set back, in seconds.
const CLOCK_SLACK: u64 = 300;

/// Length of the channel's binding in bytes.
pub(super) const BINDING_BYTES: usize = 32;

/// What is kept of a token.
#[derive(Clone)]
pub(super) struct Pending {
    id: [u8; 16],
    key: Secret,
    issued: u64,
    pub(super) expires: u64,
    wrong: u32,
    pub(super) replaces: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    id: String,
    key: String,
    issued: u64,
    expires: u64,
    wrong: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces: Option<String>,
}

/// What is to be thought of a proof.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It was made by who has the token.
    Right,
    /// No token has this id: never issued, replaced by a newer one, or used.
    Unknown,
    /// The id is right and the proof is not.
    Wrong,
    /// It has expired.
    Expired,
}

/// The proof of possession on a channel with this binding.
pub(super) fn prove(key: &Secret, binding: &[u8; BINDING_BYTES]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(key.bytes());
    hasher.update(b"replicator join v1: proof of the joining node");
    hasher.update(binding);
    hasher.finalize()
}

impl Pending {
    pub(super) fn of(token: &Token, issued: SystemTime, replaces: Option<String>) -> Pending {
        let (id, key, expires) = (token.id(), token.key(), token.expires);
        Pending { id, key, issued: seconds(issued), expires, wrong: 0, replaces }
    }

    /// Look at a proof.
    pub(super) fn judge(
        &self,
        id: &[u8; 16],
        proof: [u8; 32],
        binding: &[u8; BINDING_BYTES],
        now: SystemTime,
    ) -> Verdict {
        if *id != self.id {
            Verdict::Unknown
        } else if prove(&self.key, binding) != proof {
            Verdict::Wrong
        } else if self.has_expired(now) {
            Verdict::Expired
        } else {
            Verdict::Right
        }
    }

    /// Whether it is over. A clock that was set back makes no token live longer.
    pub(super) fn has_expired(&self, now: SystemTime) -> bool {
        let now = seconds(now);
        now >= self.expires || now.saturating_add(CLOCK_SLACK) < self.issued
    }

    /// The token that waits, if one does.
    pub(super) fn read(directory: &Path) -> Result<Option<Pending>, MembershipError> {
        let Some(bytes) = files::read(directory, TOKEN)? else { return Ok(None) };
        let damaged =
            |why: &str| MembershipError::Damaged { path: directory.join(TOKEN), why: why.to_owned() };
        let text = std::str::from_utf8(&bytes).map_err(|_| damaged("it is not text"))?;
        // The message of the parser would show the line, and the key in it.
        let document: Document = toml::from_str(text).map_err(|_| damaged("it is not a token's file"))?;
        let key = Zeroizing::new(document.key);
        Ok(Some(Pending {
            id: from_hex(&document.id).ok_or_else(|| damaged("id"))?,
            key: Secret::from_bytes(from_hex(&key).ok_or_else(|| damaged("key"))?),
            issued: document.issued,
            expires: document.expires,
            wrong: document.wrong,
            replaces: document.replaces,
        }))
    }

    /// Keep it, instead of the one before.
    pub(super) fn write(&self, directory: &Path) -> Result<(), MembershipError> {
        let document = Document {
            id: data_encoding::HEXLOWER.encode(&self.id),
            key: self.key.hex().to_string(),
            issued: self.issued,
            expires: self.expires,
            wrong: self.wrong,
            replaces: self.replaces.clone(),
        };
        let text = toml::to_string(&document).map_err(|error| MembershipError::Damaged {
            path: directory.join(TOKEN),
            why: error.to_string(),
        })?;
        files::replace(directory, TOKEN, Zeroizing::new(text).as_bytes())
    }

    /// Count a wrong proof; `None` if the token was withdrawn with it.
    pub(super) fn count_wrong(mut self, directory: &Path) -> Result<Option<u32>, MembershipError> {
        self.wrong = self.wrong.saturating_add(1);
        if self.wrong >= WRONG_MAX {
            files::remove(directory, TOKEN)?;
            return Ok(None);
        }
        self.write(directory)?;
        Ok(Some(self.wrong))
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending")
            .field("expires", &self.expires)
            .field("wrong", &self.wrong)
            .finish_non_exhaustive()
    }
}
