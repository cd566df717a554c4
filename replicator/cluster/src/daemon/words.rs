//! Causes and states for people.

use replicator_core::action::DataState;
use replicator_core::cluster::{Cause, Readiness, Refusal, Word};

/// The state's word.
#[must_use]
pub fn word(word: Word) -> &'static str {
    match word {
        Word::Stopped => "stopped",
        Word::Waiting => "waiting",
        Word::Alone => "alone",
        Word::Primary => "primary",
        Word::Secondary => "secondary",
    }
}

/// How ready it is.
#[must_use]
pub fn readiness(readiness: Readiness) -> &'static str {
    match readiness {
        Readiness::NotReady => "not ready",
        Readiness::Transient => "transient",
        Readiness::Ready => "ready",
    }
}

/// What a copy is.
#[must_use]
pub fn data(data: DataState) -> &'static str {
    match data {
        DataState::UpToDate => "up-to-date",
        DataState::Consistent => "consistent",
        DataState::Outdated => "outdated",
        DataState::Inconsistent => "inconsistent",
    }
}

/// Why, and what can be done where a person has to.
#[must_use]
pub fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::None => "",
        Cause::OperatorStart => "an operator starts the module",
        Cause::OperatorStop => "an operator stops the module",
        Cause::OperatorSwap => "an operator gives the application to the other node",
        Cause::OperatorPromote => "an operator chose this node",
        Cause::OperatorForce => "an operator forced this node to be active",
        Cause::PeerLost => "the other node is not heard, or does not hear this one",
        Cause::PeerYielded => "the other node yielded",
        Cause::Elected => "this node has the data to go on with, and waits for the other node's consent",
        Cause::SoleSurvivor => "this node ran alone last: nobody has anything newer",
        Cause::ArbiterWon => "the arbiter gave this node the right to go on",
        Cause::ArbiterLost => "the arbiter gave the other node the right to go on",
        Cause::ArbiterSilent => {
            "the arbiter does not answer; calls that wait for durability are held until it does"
        }
        Cause::ArbiterMissing => {
            "without the other node only an arbiter could let this one go on, and none is configured (promote it by force, or \
             configure a witness)"
        }
        Cause::PolicyAlone => "the policy lets this node go on without asking anybody",
        Cause::PeerActive => "the other node is active with a higher term",
        Cause::Late => "this node did not run for a while",
        Cause::WaitsForPeer => "waits for the other node",
        Cause::NotWhole => {
            "this node's copy is not whole or may be outdated, and the node that has the data is not there"
        }
        Cause::OperatorNeeded => {
            "which data is to be used is for an operator to say (promote one of the nodes)"
        }
        Cause::PeerNewer => "the other node has the data to go on with, and is not to run or cannot",
        Cause::NotAble => "a condition to run the application here is missing",
        Cause::Checker => "a checker found a failure",
        Cause::ApplicationFailed => "the application did not start or stop as it should",
        Cause::MirrorFailed => "the mirror ended or did not start",
        Cause::AddressFailed => "the virtual addresses could not be taken",
        Cause::BudgetSpent => {
            "there were too many restarts: nothing is tried any more until an operator starts the module"
        }
        Cause::Failback => "the default primary takes its role back",
        Cause::Syncing => "the copy is being brought up to date",
        Cause::Starting => "being started",
        Cause::Stopping => "being stopped",
        Cause::RecordOlder => {
            "the arbiter once gave this node a right that it does not remember: an older state was put back here (start the other \
             node, or promote this one by force)"
        }
        Cause::OnStandby => {
            "on standby: an operator keeps this node from becoming active (until standby is turned off, or the module started here)"
        }
        Cause::OperatorStandbyOff => "an operator ends the standby of this node",
        Cause::StandbyFailed => "the other node did not take over: this one goes on, and is not on standby",
    }
}

/// Why a command was refused, and what to do.
#[must_use]
pub fn refusal(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Stopped => "the module is stopped on this node; start it first",
        Refusal::NotActive => "this node is not active; order it on the one that is",
        Refusal::Active => "this node is active already",
        Refusal::PeerActive => "the other node is active; use swap to move the application",
        Refusal::PeerNotReady => {
            "the other node is not there or cannot take over (see its state); wait, or use --force here"
        }
        Refusal::NotWhole => {
            "this node's copy is not known to hold everything that was acknowledged; start the other node, or use --force"
        }
        Refusal::Busy => "something is under way; wait for it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_words_of_its_own() {
        let mut known: Vec<_> = Cause::ALL.into_iter().map(cause).collect();
        known.sort_unstable();
        known.dedup();
        assert_eq!(known.len(), Cause::ALL.len());
    }
}
