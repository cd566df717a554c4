//! The witness protocol, version 1: one question and one answer per TCP connection.
//!
//! ```text
//!   node                                     witness
//!     connect                         -->
//!                                     <--    Challenge   40 bytes: a random number of the witness
//!     Request   224 bytes             -->    checked; wrong in any way: closed without a word
//!                                     <--    Answer     104 bytes, after what it says is durable
//!                                            closed
//! ```
//!
//! All three have fixed sizes, so there is no length to be lied about. Numbers are little-endian. Nothing is encrypted: terms and
//! the names of modules can be read on the way, the key cannot be found from them.
//!
//! **Challenge**
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 8 | `rplwitc` and the version, 1 |
//! | 8 | 32 | random number of the witness, fresh for each connection |
//!
//! **Request**
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 8 | `rplwitq` and the version, 1 |
//! | 8 | 1 | operation: 1 acquire, 2 read |
//! | 9 | 1 | length of the module's name, 1 to 64 |
//! | 10 | 6 | zero |
//! | 16 | 16 | cluster |
//! | 32 | 64 | the module's name, zeros after it |
//! | 96 | 8 | term asked for; zero for read |
//! | 104 | 16 | node that asks for it; zero for read |
//! | 120 | 8 | number of its generation; zero for read |
//! | 128 | 8 | tag of its generation; zero for read |
//! | 136 | 16 | the witness that is meant |
//! | 152 | 8 | highest term the node knows to have been granted; zero: none |
//! | 160 | 32 | random number of the node, fresh for each request |
//! | 192 | 32 | proof: BLAKE3 keyed with the *request key* over the Challenge (40 bytes) and bytes 0 to 191 of the Request |
//!
//! **Answer**
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 8 | `rplwita` and the version, 1 |
//! | 8 | 1 | what it says, below |
//! | 9 | 1 | 1: the register's value follows; 0: it has none, or it is not said |
//! | 10 | 6 | zero |
//! | 16 | 16 | the witness that answers |
//! | 32 | 8 | term |
//! | 40 | 16 | node that has it |
//! | 56 | 8 | number of its generation |
//! | 64 | 8 | tag of its generation |
//! | 72 | 32 | proof: BLAKE3 keyed with the *answer key* over the Challenge (40 bytes), the whole Request (224 bytes) and bytes 0 to 71 of the Answer |
//!
//! What an answer says: 1 granted (with the value); 2 refused, the value is another's or a later one (with the value); 3 this is the
//! value (answer to read; without one: there is none); 4 another witness is meant; 5 the register holds less than the node knows to
//! have been granted, nothing was changed (with the value, if there is one); 6 the register's file is unreadable; 7 the value cannot be
//! made durable, or it is in doubt whether it is; 8 the cluster has too many registers; 9 the request makes no sense (term zero).
//!
//! **Keys.** Both are derived from the 32-byte secret of the key file with BLAKE3's key derivation, contexts
//! `replicator 2026 witness protocol v1: request` and `replicator 2026 witness protocol v1: answer`. A proof of a request can therefore
//! never be one of an answer. A request holds for the one connection whose challenge it covers, so a recorded one is refused; an answer
//! holds for the one request whose random number it covers, so a recorded one is not believed.
//!
//! A witness says nothing to whom it does not know, not even who it is: an unknown cluster, a wrong proof and garbage all end in a
//! closed connection, and nothing has changed.

use replicator_core::ids::{Generation, Term};
use replicator_core::lineage::{GenerationId, Tag};

use super::key::WitnessKey;
use super::register::{ClusterId, MODULE_NAME_BYTES_MAX, ModuleName, NodeId, RegisterName, Value, WitnessId};

/// Size of a Challenge in bytes.
pub const CHALLENGE_BYTES: usize = 40;
/// Size of a Request in bytes.
pub const REQUEST_BYTES: usize = 224;
/// Size of an Answer in bytes.
pub const ANSWER_BYTES: usize = 104;
/// Size of a proof in bytes.
const PROOF_BYTES: usize = blake3::OUT_LEN;

const CHALLENGE_MAGIC: &[u8; 8] = b"rplwitc\x01";
const REQUEST_MAGIC: &[u8; 8] = b"rplwitq\x01";
const ANSWER_MAGIC: &[u8; 8] = b"rplwita\x01";

const REQUEST_CONTEXT: &str = "replicator 2026 witness protocol v1: request";
const ANSWER_CONTEXT: &str = "replicator 2026 witness protocol v1: answer";

/// What a node asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Grant this primacy.
    Acquire(Value),
    /// Say what the register holds.
    Read,
}

/// A node's question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// What is asked.
    pub operation: Operation,
    /// Of which register.
    pub register: RegisterName,
    /// The witness that is meant.
    pub witness: WitnessId,
    /// The highest term the node knows to have been granted. Zero: none.
    pub known: Term,
    /// Fresh random bytes.
    pub nonce: [u8; 32],
}

/// What a witness says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Status {
    /// The primacy is granted, durably.
    Granted = 1,
    /// It is not.
    Refused = 2,
    /// Answer to read.
    Holds = 3,
    /// Another witness is meant.
    OtherWitness = 4,
    /// The register holds less than the node knows to have been granted.
    Behind = 5,
    /// The register's file cannot be read.
    Unreadable = 6,
    /// The value cannot be made durable.
    NotDurable = 7,
    /// The cluster has too many registers.
    Full = 8,
    /// The request makes no sense.
    Senseless = 9,
}

/// A witness's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// What it says.
    pub status: Status,
    /// Who says it.
    pub witness: WitnessId,
    /// What the register holds.
    pub value: Option<Value>,
}

/// A Challenge with this random number.
#[must_use]
pub fn challenge(nonce: &[u8; 32]) -> [u8; CHALLENGE_BYTES] {
    let mut bytes = [0; CHALLENGE_BYTES];
    Writer(&mut bytes).put(CHALLENGE_MAGIC).put(nonce);
    bytes
}

/// Whether the bytes are a Challenge of this version.
#[must_use]
pub fn is_challenge(bytes: &[u8; CHALLENGE_BYTES]) -> bool {
    bytes.starts_with(CHALLENGE_MAGIC)
}

impl Request {
    /// The bytes, with the proof for this challenge.
    #[must_use]
    pub fn encode(&self, key: &WitnessKey, challenge: &[u8; CHALLENGE_BYTES]) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        let (operation, value) = match &self.operation {
            Operation::Acquire(value) => (1, Some(value)),
            Operation::Read => (2, None),
        };
        let module = self.register.module.as_str().as_bytes();
        let length = u8::try_from(module.len()).unwrap_or(u8::MAX);
        let writer = Writer(&mut bytes).put(REQUEST_MAGIC).put(&[operation, length]).put(&[0; 6]);
        let writer =
            writer.put(&self.register.cluster.0).put_padded(module, MODULE_NAME_BYTES_MAX).value(value);
        writer.put(&self.witness.0).put(&self.known.0.to_le_bytes()).put(&self.nonce);
        prove(&mut bytes, &request_proof(key, challenge));
        bytes
    }

    /// What the bytes say, before it is known whether their proof holds: look up the cluster's key, then ask [`Request::is_proven`].
    /// `None`: not a request of this version.
    #[must_use]
    pub fn decode(bytes: &[u8; REQUEST_BYTES]) -> Option<Request> {
        let mut reader = Reader(bytes);
        if &reader.take()? != REQUEST_MAGIC {
            return None;
        }
        let [operation, length] = reader.take()?;
        let zero: [u8; 6] = reader.take()?;
        let cluster = ClusterId(reader.take()?);
        let padded: [u8; MODULE_NAME_BYTES_MAX] = reader.take()?;
        let (module, padding) = padded.split_at_checked(usize::from(length))?;
        let module = ModuleName::new(str::from_utf8(module).ok()?).ok()?;
        let value = reader.value()?;
        if zero != [0; 6] || padding.iter().any(|byte| *byte != 0) {
            return None;
        }
        let operation = match operation {
            1 => Operation::Acquire(value),
            2 if value == NO_VALUE => Operation::Read,
            _ => return None,
        };
        let register = RegisterName { cluster, module };
        let witness = WitnessId(reader.take()?);
        let known = Term(u64::from_le_bytes(reader.take()?));
        Some(Request { operation, register, witness, known, nonce: reader.take()? })
    }

    /// Whether the proof in these bytes is that of who has the key, for this challenge.
    #[must_use]
    pub fn is_proven(
        bytes: &[u8; REQUEST_BYTES],
        key: &WitnessKey,
        challenge: &[u8; CHALLENGE_BYTES],
    ) -> bool {
        holds(bytes, &request_proof(key, challenge))
    }
}

impl Status {
    fn from_u8(value: u8) -> Option<Status> {
        Some(match value {
            1 => Status::Granted,
            2 => Status::Refused,
            3 => Status::Holds,
            4 => Status::OtherWitness,
            5 => Status::Behind,
            6 => Status::Unreadable,
            7 => Status::NotDurable,
            8 => Status::Full,
            9 => Status::Senseless,
            _ => return None,
        })
    }
}

impl Answer {
    /// The bytes, with the proof for this challenge and request.
    #[must_use]
    pub fn encode(
        &self,
        key: &WitnessKey,
        challenge: &[u8; CHALLENGE_BYTES],
        request: &[u8; REQUEST_BYTES],
    ) -> [u8; ANSWER_BYTES] {
        let mut bytes = [0; ANSWER_BYTES];
        let flags = [self.status as u8, u8::from(self.value.is_some())];
        let writer = Writer(&mut bytes).put(ANSWER_MAGIC).put(&flags).put(&[0; 6]);
        writer.put(&self.witness.0).value(self.value.as_ref());
        prove(&mut bytes, &answer_proof(key, challenge, request));
        bytes
    }

    /// What the bytes say, if they are the answer to this request by who has the key.
    #[must_use]
    pub fn decode(
        bytes: &[u8; ANSWER_BYTES],
        key: &WitnessKey,
        challenge: &[u8; CHALLENGE_BYTES],
        request: &[u8; REQUEST_BYTES],
    ) -> Option<Answer> {
        if !holds(bytes, &answer_proof(key, challenge, request)) {
            return None;
        }
        let mut reader = Reader(bytes);
        if &reader.take()? != ANSWER_MAGIC {
            return None;
        }
        let [status, has_value] = reader.take()?;
        let _zero: [u8; 6] = reader.take()?;
        let witness = WitnessId(reader.take()?);
        let value = reader.value()?;
        let value = match has_value {
            0 => None,
            1 => Some(value),
            _ => return None,
        };
        Some(Answer { status: Status::from_u8(status)?, witness, value })
    }
}

fn request_proof(key: &WitnessKey, challenge: &[u8; CHALLENGE_BYTES]) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new_keyed(&blake3::derive_key(REQUEST_CONTEXT, key.secret()));
    hasher.update(challenge);
    hasher
}

fn answer_proof(
    key: &WitnessKey,
    challenge: &[u8; CHALLENGE_BYTES],
    request: &[u8; REQUEST_BYTES],
) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new_keyed(&blake3::derive_key(ANSWER_CONTEXT, key.secret()));
    hasher.update(challenge).update(request);
    hasher
}

/// Fill in the last bytes: the proof of those before, begun in `hasher`.
fn prove(bytes: &mut [u8], hasher: &blake3::Hasher) {
    if let Some((said, proof)) = bytes.split_last_chunk_mut::<PROOF_BYTES>() {
        *proof = *hasher.clone().update(said).finalize().as_bytes();
    }
}

/// Whether the last bytes are the proof of those before. Takes the same time wherever it is wrong.
fn holds(bytes: &[u8], hasher: &blake3::Hasher) -> bool {
    let Some((said, proof)) = bytes.split_last_chunk::<PROOF_BYTES>() else { return false };
    // Comparing a blake3::Hash is constant-time.
    hasher.clone().update(said).finalize() == *proof
}

/// What stands where there is no value.
const NO_VALUE: Value = Value { term: Term(0), holder: NodeId([0; 16]), generation: GenerationId::NONE };

/// Writes from the front; what is not written stays zero.
struct Writer<'a>(&'a mut [u8]);

impl<'a> Writer<'a> {
    fn put(self, bytes: &[u8]) -> Writer<'a> {
        self.put_padded(bytes, bytes.len())
    }

    /// Write the bytes and leave `size` in all. The sizes are those of the tables above: what does not fit is a mistake in here.
    fn put_padded(self, bytes: &[u8], size: usize) -> Writer<'a> {
        let (place, rest) = self.0.split_at_mut(size);
        if let Some(place) = place.get_mut(..bytes.len()) {
            place.copy_from_slice(bytes);
        }
        Writer(rest)
    }

    fn value(self, value: Option<&Value>) -> Writer<'a> {
        let value = value.unwrap_or(&NO_VALUE);
        self.put(&value.term.0.to_le_bytes())
            .put(&value.holder.0)
            .put(&value.generation.number.0.to_le_bytes())
            .put(&value.generation.tag.0.to_le_bytes())
    }
}

/// Reads from the front; `None` where the bytes end.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn value(&mut self) -> Option<Value> {
        let term = Term(u64::from_le_bytes(self.take()?));
        let holder = NodeId(self.take()?);
        let number = Generation(u64::from_le_bytes(self.take()?));
        let tag = Tag(u64::from_le_bytes(self.take()?));
        Some(Value { term, holder, generation: GenerationId { number, tag } })
    }
}
