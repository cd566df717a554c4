//! Arbiters: who of two nodes that no longer see each other goes on alone.
//!
//! An arbiter keeps one register per module of a cluster ([`register`]) and grants each term to one node. A grant is for good:
//! there is no clock, no lease, nothing to renew, and nobody is asked while the nodes see each other.
//!
//! ```text
//!   node --- acquire { register, term, holder, generation, known } ---> arbiter
//!        <-- Won  { value }    the term is this node's, durably
//!        <-- Lost { current }  it is another's, or a later one was granted
//!        <-- an error          neither is known: the node must not go on as if it had won
//! ```
//!
//! | arbiter | remembers | at most one wins a term | |
//! |---|---|---|---|
//! | [`WitnessArbiter`] | yes | yes | the project's own service ([`crate::witness`]), [`protocol`] |
//! | [`EtcdArbiter`] | yes | yes | an etcd cluster, v3 |
//! | [`PingArbiter`] | no | **no** | only says that this node is not cut off |
//!
//! What the caller owes: keep [`Known`] durably per register, give it with every call, and store what comes back before acting on
//! the answer. An arbiter whose memory was taken back to an older state, or another one at the same address, is then noticed
//! ([`ArbiterError::Untrustworthy`]) instead of believed.
//!
//! This part does not decide when to ask: that is the core's. The service knows this part's words; this part knows nothing of the
//! service but its protocol.

mod attempts;
mod error;
mod etcd;
pub mod key;
mod known;
mod ping;
pub mod protocol;
pub mod register;
#[cfg(test)]
pub(crate) mod tests;
mod witness;

use std::time::Duration;

use replicator_core::ids::Term;
use replicator_core::lineage::GenerationId;

pub use attempts::ATTEMPT;
pub use error::{ArbiterError, SetupError};
pub use etcd::{EtcdArbiter, EtcdConfig, EtcdTls};
pub use key::{KeyError, WitnessKey};
pub use known::{Distrust, Known, learn, trust};
pub use ping::PingArbiter;
pub use register::{ClusterId, ModuleName, NodeId, RegisterName, Value, WitnessId};
pub use witness::WitnessArbiter;

/// A node asks for a primacy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acquire {
    /// Of which module of which cluster.
    pub register: RegisterName,
    /// Its number, from 1.
    pub term: Term,
    /// The node that asks.
    pub holder: NodeId,
    /// The generation of the data it will go on with.
    pub generation: GenerationId,
    /// What is known of the arbiter from all answers so far.
    pub known: Option<Known>,
}

/// A node asks what was granted last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Query {
    /// Of which module of which cluster.
    pub register: RegisterName,
    /// What is known of the arbiter from all answers so far.
    pub known: Option<Known>,
}

/// Who has the term.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// This node.
    Won {
        /// What the register holds now. Its generation is a later one if this node asked before with a later one.
        value: Value,
    },
    /// Another node, or a later term was granted.
    Lost {
        /// What the register holds.
        current: Value,
    },
}

/// What an arbiter says to [`Acquire`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Who has the term.
    pub verdict: Verdict,
    /// What is known of the arbiter from now on: to be stored before the verdict is acted on.
    pub known: Option<Known>,
}

/// What an arbiter says to [`Query`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reading {
    /// What was granted last. `None`: nothing yet.
    pub value: Option<Value>,
    /// What is known of the arbiter from now on.
    pub known: Option<Known>,
}

/// What winning means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Strength {
    /// No other node has won this term or will.
    Exclusive,
    /// Another node may win as well.
    Weak,
}

/// One who decides between nodes that do not see each other.
pub trait Arbiter: Send + Sync {
    /// Ask for a primacy, for at most `within`. May be asked again at any time: who has won wins again.
    ///
    /// # Errors
    /// [`ArbiterError`]. After [`ArbiterError::Unreachable`] the term may have been granted all the same.
    fn acquire(
        &self,
        request: &Acquire,
        within: Duration,
    ) -> impl Future<Output = Result<Outcome, ArbiterError>> + Send;

    /// Ask what was granted last, for at most `within`.
    ///
    /// # Errors
    /// [`ArbiterError`].
    fn read(
        &self,
        query: &Query,
        within: Duration,
    ) -> impl Future<Output = Result<Reading, ArbiterError>> + Send;

    /// What winning means with this one.
    fn strength(&self) -> Strength;

    /// What it is called in messages: "the witness at 10.0.0.3:7410".
    fn name(&self) -> String;
}

/// Any of the arbiters there are.
#[derive(Debug)]
pub enum AnyArbiter {
    /// The project's own witness.
    Witness(WitnessArbiter),
    /// An etcd cluster.
    Etcd(EtcdArbiter),
    /// Ping targets.
    Ping(PingArbiter),
}

impl Acquire {
    /// What is asked to be stored.
    ///
    /// # Errors
    /// [`ArbiterError::Invalid`]: term zero is no primacy, and the last number would leave none for the other node, ever.
    fn checked(&self) -> Result<Value, ArbiterError> {
        if self.term == Term(0) || self.term == Term(u64::MAX) {
            return Err(ArbiterError::Invalid { what: "an impossible term", remedy: "ask for the next one" });
        }
        Ok(Value { term: self.term, holder: self.holder, generation: self.generation })
    }
}

impl Verdict {
    /// What an answer says about `asked`; `None` if it contradicts itself.
    fn of(granted: bool, value: Option<Value>, asked: Value) -> Option<Verdict> {
        let value = value?;
        let ours = value.term == asked.term && value.holder == asked.holder;
        match granted {
            true if ours => Some(Verdict::Won { value }),
            false if !ours && value.term >= asked.term => Some(Verdict::Lost { current: value }),
            _ => None,
        }
    }
}

impl Arbiter for AnyArbiter {
    async fn acquire(&self, request: &Acquire, within: Duration) -> Result<Outcome, ArbiterError> {
        match self {
            AnyArbiter::Witness(arbiter) => arbiter.acquire(request, within).await,
            AnyArbiter::Etcd(arbiter) => arbiter.acquire(request, within).await,
            AnyArbiter::Ping(arbiter) => arbiter.acquire(request, within).await,
        }
    }

    async fn read(&self, query: &Query, within: Duration) -> Result<Reading, ArbiterError> {
        match self {
            AnyArbiter::Witness(arbiter) => arbiter.read(query, within).await,
            AnyArbiter::Etcd(arbiter) => arbiter.read(query, within).await,
            AnyArbiter::Ping(arbiter) => arbiter.read(query, within).await,
        }
    }

    fn strength(&self) -> Strength {
        match self {
            AnyArbiter::Witness(arbiter) => arbiter.strength(),
            AnyArbiter::Etcd(arbiter) => arbiter.strength(),
            AnyArbiter::Ping(arbiter) => arbiter.strength(),
        }
    }

    fn name(&self) -> String {
        match self {
            AnyArbiter::Witness(arbiter) => arbiter.name(),
            AnyArbiter::Etcd(arbiter) => arbiter.name(),
            AnyArbiter::Ping(arbiter) => arbiter.name(),
        }
    }
}
