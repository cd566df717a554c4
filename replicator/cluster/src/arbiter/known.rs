//! What a node remembers of its arbiter, so that one with another's or an older memory is not believed.

use replicator_core::ids::Term;

use super::register::{Value, WitnessId};

/// What a node knows of the arbiter's register from all answers so far. The caller keeps it durably, one per register, gives it with
/// every call and stores what comes back before it acts on the answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Known {
    /// Who answered.
    pub witness: WitnessId,
    /// The highest term that was ever seen granted there, to whomever. Zero: none yet.
    pub term: Term,
}

/// Why an answer is not believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Distrust {
    /// Another arbiter than before answers at the address.
    #[error(
        "it is {found}, and grants were given by {expected}: two witnesses by mistake, or one that was set up anew. If the old one is \
         gone for good, make sure that no node runs alone, then give all nodes the new one's key file and let them forget the old one"
    )]
    OtherWitness { expected: WitnessId, found: WitnessId },
    /// The register has forgotten a grant.
    #[error(
        "term {known} was granted, and it holds {}: its state is older than its answers (was it restored from a backup?). Make sure that \
         no node runs alone, then reset the register to the highest term any node shows",
         found.map_or_else(|| "no value".to_owned(), |term| format!("term {term}"))
    )]
    Behind { known: Term, found: Option<Term> },
    /// The answer does not fit the question.
    #[error(
        "its answer contradicts itself or the question; it is not a witness of this version, or it is broken"
    )]
    Contradiction,
}

/// Whether an arbiter that says it is `witness` and holds `stored` can be the one this node knows.
///
/// # Errors
/// [`Distrust::OtherWitness`], [`Distrust::Behind`].
pub fn trust(known: Option<Known>, witness: WitnessId, stored: Option<Term>) -> Result<(), Distrust> {
    let Some(known) = known else { return Ok(()) };
    if known.witness != witness {
        return Err(Distrust::OtherWitness { expected: known.witness, found: witness });
    }
    if stored.unwrap_or(Term(0)) < known.term {
        return Err(Distrust::Behind { known: known.term, found: stored });
    }
    Ok(())
}

/// What is known after an answer that was believed.
#[must_use]
pub fn learn(known: Option<Known>, witness: WitnessId, stored: Option<Value>) -> Known {
    let before = known.map_or(Term(0), |known| known.term);
    Known { witness, term: before.max(stored.map_or(Term(0), |value| value.term)) }
}
