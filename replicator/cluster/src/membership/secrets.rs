//! The secret that both nodes share, its rotation, and the keys that are derived from it.
//!
//! **Rotation without interruption.** Each node has the secret it sends with (`current`), and accepts what was made with any of the
//! three it may have. The node that rotates goes first in accepting and last in sending:
//!
//! ```text
//!   rotating node                              the other
//!     propose(): next = n+1, accepts n, n+1
//!     Offer(n+1)                       ----->   take(): current = n+1, previous = n; accepts both, sends n+1
//!     confirm(n+1): current = n+1      <-----   (over the control channel)
//!     retire() later: n is forgotten            retire() later
//! ```
//!
//! Every step is durable before the next, and may be repeated: a node that died between two of them offers the same again
//! ([`Secrets::offer`]). If both nodes propose the same number, the secret with the greater digest stays: the other one is refused
//! with [`SecretError::Rival`], and its maker takes the one that is offered to it.
//!
//! **The file**, 168 bytes, integers little-endian:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `RPLSECRT` |
//! | 8 | 4 | version of the layout, 1 |
//! | 12 | 4 | length of the file, 168 |
//! | 16 | 40 | the current secret: number (8 bytes, from 1 on), secret (32 bytes) |
//! | 56 | 40 | the previous one, all zero if there is none |
//! | 96 | 40 | the next one, all zero if there is none |
//! | 136 | 32 | blake3 of the bytes before |

use std::fmt;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::error::SecretError;
use super::identity::from_hex;

const MAGIC: [u8; 8] = *b"RPLSECRT";
const VERSION: u32 = 1;
const SLOT_BYTES: usize = 40;
const SLOTS: usize = 16;
const DIGEST: usize = SLOTS + 3 * SLOT_BYTES;

/// Length of the file in bytes.
pub(super) const SECRETS_BYTES: usize = DIGEST + 32;

const _: () = assert!(SECRETS_BYTES == 168);

const HEARTBEAT: &str = "replicator cluster 2026 v1: heartbeat key";
const MIRROR: &str = "replicator cluster 2026 v1: mirror link key";
const WITNESS: &str = "replicator cluster 2026 v1: witness key";

/// 32 secret bytes. Never shown, overwritten when dropped, compared in constant time.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    pub(super) fn random() -> Result<Secret, getrandom::Error> {
        let mut secret = Secret([0; 32]);
        getrandom::fill(&mut secret.0)?;
        Ok(secret)
    }

    pub(super) fn from_bytes(bytes: [u8; 32]) -> Secret {
        Secret(bytes)
    }

    /// The bytes. Never to be logged.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// In hexadecimal digits.
    pub(super) fn hex(&self) -> Zeroizing<String> {
        Zeroizing::new(HEXLOWER.encode(&self.0))
    }

    fn derive(&self, context: &str) -> Secret {
        Secret(blake3::derive_key(context, &self.0))
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        // Comparing a blake3::Hash is constant-time.
        blake3::Hash::from_bytes(self.0) == blake3::Hash::from_bytes(other.0)
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A key for one use, and the number of the secret it was made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DerivedKey {
    /// Number of the secret.
    pub number: u64,
    /// The key.
    pub key: Secret,
}

/// The keys that are files of their own, because those who use them know only one at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyFile {
    /// What the mirror takes as `link.cluster-key-file`.
    Mirror,
    /// What the cluster shows its witness.
    Witness,
}

impl KeyFile {
    /// Its name in the cluster directory.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            KeyFile::Mirror => super::files::MIRROR_KEY,
            KeyFile::Witness => super::files::WITNESS_KEY,
        }
    }

    fn context(self) -> &'static str {
        match self {
            KeyFile::Mirror => MIRROR,
            KeyFile::Witness => WITNESS,
        }
    }
}

/// A secret on its way to the peer. Only for a channel that nobody else can read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "OfferText", into = "OfferText")]
pub struct Offer {
    /// Its number.
    pub number: u64,
    /// The secret.
    pub secret: Secret,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfferText {
    number: u64,
    secret: String,
}

impl TryFrom<OfferText> for Offer {
    type Error = &'static str;

    fn try_from(text: OfferText) -> Result<Offer, &'static str> {
        let secret = Zeroizing::new(text.secret);
        let bytes = from_hex(&secret).ok_or("a secret has 64 hexadecimal digits")?;
        Ok(Offer { number: text.number, secret: Secret(bytes) })
    }
}

impl From<Offer> for OfferText {
    fn from(offer: Offer) -> OfferText {
        OfferText { number: offer.number, secret: HEXLOWER.encode(&offer.secret.0) }
    }
}

/// What became of an offer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// It is the current secret from now on.
    New,
    /// It was already.
    Already,
}

/// The shared secrets of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Secrets {
    current: Offer,
    previous: Option<Offer>,
    next: Option<Offer>,
}

impl Secrets {
    pub(super) fn found() -> Result<Secrets, getrandom::Error> {
        Ok(Secrets { current: Offer { number: 1, secret: Secret::random()? }, previous: None, next: None })
    }

    /// Number of the secret this node sends with.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.current.number
    }

    /// Whether a rotation waits for the peer's confirmation.
    #[must_use]
    pub fn is_rotating(&self) -> bool {
        self.next.is_some()
    }

    /// The key heartbeats are sent with.
    #[must_use]
    pub fn heartbeat_key(&self) -> DerivedKey {
        derived(&self.current)
    }

    /// The keys with which heartbeats are accepted, the one they are sent with first.
    #[must_use]
    pub fn heartbeat_keys(&self) -> Vec<DerivedKey> {
        [Some(&self.current), self.next.as_ref(), self.previous.as_ref()]
            .into_iter()
            .flatten()
            .map(derived)
            .collect()
    }

    /// The keys that must be accepted so that the peer is heard whatever step of a rotation it has come to: the one it may still use, and
    /// the one that both will use. Whoever knows two keys at most needs no other: the previous secret is not used by anybody any more
    /// once there is a next one, because the peer accepts the current one since that was confirmed or taken.
    #[must_use]
    pub fn heartbeat_pair(&self) -> (DerivedKey, Option<DerivedKey>) {
        match (&self.previous, &self.next) {
            (_, Some(next)) => (derived(&self.current), Some(derived(next))),
            (Some(previous), None) => (derived(previous), Some(derived(&self.current))),
            (None, None) => (derived(&self.current), None),
        }
    }

    /// Number of the secret that a rotation under way is about, and of the one before that is still accepted.
    #[must_use]
    pub fn others(&self) -> (Option<u64>, Option<u64>) {
        let number = |offer: &Option<Offer>| offer.as_ref().map(|offer| offer.number);
        (number(&self.next), number(&self.previous))
    }

    /// The key of a file, as made of the current secret.
    pub(super) fn file_key(&self, file: KeyFile) -> Secret {
        self.current.secret.derive(file.context())
    }

    /// What the peer is to have: the next secret while one is proposed, the current one otherwise.
    #[must_use]
    pub fn offer(&self) -> Offer {
        self.next.as_ref().unwrap_or(&self.current).clone()
    }

    /// Begin a rotation with this secret, unless one is under way.
    pub(super) fn propose(&mut self, secret: Secret) -> Result<Offer, SecretError> {
        if self.next.is_none() {
            let number = self.current.number.checked_add(1).ok_or(SecretError::Exhausted)?;
            self.next = Some(Offer { number, secret });
        }
        Ok(self.offer())
    }

    /// Take what the peer offers.
    pub(super) fn take(&mut self, offer: Offer) -> Result<Taken, SecretError> {
        let (offered, current) = (offer.number, self.current.number);
        if offered < current {
            return Err(SecretError::Older { offered, current });
        }
        if offered == current {
            return match offer.secret == self.current.secret {
                true => Ok(Taken::Already),
                // Both rotated while they could not reach each other; one of them must give way.
                false if is_greater(&offer.secret, &self.current.secret) => {
                    self.previous = Some(std::mem::replace(&mut self.current, offer));
                    Ok(Taken::New)
                }
                false => Err(SecretError::Rival { number: offered }),
            };
        }
        if let Some(own) = &self.next
            && own.number == offered
            && own.secret != offer.secret
            && is_greater(&own.secret, &offer.secret)
        {
            return Err(SecretError::Rival { number: offered });
        }
        let before = std::mem::replace(&mut self.current, offer);
        let own = self.next.take_if(|own| own.number <= offered);
        // The peer has made this node's own next one its current one, and the confirmation was lost: it may be sending with it.
        self.previous = Some(own.filter(|own| own.number + 1 == offered).unwrap_or(before));
        Ok(Taken::New)
    }

    /// The peer has the secret with this number.
    pub(super) fn confirm(&mut self, number: u64) -> Result<(), SecretError> {
        match self.next.take_if(|next| next.number == number) {
            Some(next) => {
                self.previous = Some(std::mem::replace(&mut self.current, next));
                Ok(())
            }
            None if number == self.current.number => Ok(()),
            None => Err(SecretError::NotOffered { confirmed: number }),
        }
    }

    /// Forget the previous secret; whether there was one.
    pub(super) fn retire(&mut self) -> bool {
        self.previous.take().is_some()
    }

    /// The file's bytes.
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(SECRETS_BYTES));
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(SECRETS_BYTES as u32).to_le_bytes());
        for slot in [Some(&self.current), self.previous.as_ref(), self.next.as_ref()] {
            bytes.extend_from_slice(&slot.map_or(0, |slot| slot.number).to_le_bytes());
            bytes.extend_from_slice(slot.map_or(&[0; 32], |slot| &slot.secret.0));
        }
        let digest = blake3::hash(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        bytes
    }

    /// The secrets in a file's bytes.
    pub(super) fn decode(bytes: &[u8]) -> Result<Secrets, SecretError> {
        let damaged = |why| SecretError::Damaged { why };
        if bytes.first_chunk() != Some(&MAGIC) {
            return Err(damaged("it does not begin as one"));
        }
        // The version before the length, so that a newer file is known as one.
        match number_at(bytes, 8) {
            Some(VERSION) => {}
            Some(found) if found > VERSION => return Err(SecretError::Newer { found }),
            _ => return Err(damaged("it has no such version")),
        }
        let whole: &[u8; SECRETS_BYTES] = bytes.try_into().map_err(|_| damaged("its length is wrong"))?;
        let (content, digest) = whole.split_at(DIGEST);
        if blake3::hash(content) != *digest || number_at(bytes, 12) != Some(SECRETS_BYTES as u32) {
            return Err(damaged("its checksum is wrong"));
        }
        let mut slots = content.get(SLOTS..).unwrap_or_default().chunks_exact(SLOT_BYTES).map(slot);
        let mut next = || slots.next().flatten();
        let current = next().ok_or_else(|| damaged("it has no current secret"))?;
        Ok(Secrets { current, previous: next(), next: next() })
    }
}

fn derived(offer: &Offer) -> DerivedKey {
    DerivedKey { number: offer.number, key: offer.secret.derive(HEARTBEAT) }
}

/// An order of secrets that tells nothing of them.
fn is_greater(one: &Secret, other: &Secret) -> bool {
    blake3::hash(&one.0).as_bytes() > blake3::hash(&other.0).as_bytes()
}

fn number_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn slot(bytes: &[u8]) -> Option<Offer> {
    let (number, secret) = bytes.split_first_chunk()?;
    let number = u64::from_le_bytes(*number);
    (number != 0).then_some(())?;
    Some(Offer { number, secret: Secret(secret.try_into().ok()?) })
}

#[cfg(test)]
mod tests;
