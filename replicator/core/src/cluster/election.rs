//! Which of two nodes is to be active: pure, and both come to the same answer.
//!
//! The data decides ([`crate::reunion::decide`]). Only where both hold the same there is a choice, in this order: where the application can
//! run, who is recorded to be alone, the higher term, the configured default primary, who was active last, the lower node id.

use super::types::{CopyState, NodeId};
use crate::lineage::Match;
use crate::reunion::{self, Account, Relation, Side};

/// What speaks for a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Its copy.
    pub copy: CopyState,
    /// The application is to run there and can.
    pub able: bool,
    /// It was active last.
    pub was_active: bool,
    /// It.
    pub node: NodeId,
}

/// The outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Elected {
    /// One of both.
    Side(Side),
    /// The copies parted, neither is whole, or there is no data yet.
    Operator,
}

/// Who is to be active.
#[must_use]
pub fn elect(here: &Candidate, peer: &Candidate, default_primary: Option<NodeId>) -> Elected {
    let (mine, theirs) = (at_rest(here), at_rest(peer));
    let reunion = reunion::decide(&mine, &theirs);
    if let Some(side) = reunion.source {
        return Elected::Side(side);
    }
    if reunion.relation != Relation::Same || !here.copy.is_whole() || !peer.copy.is_whole() {
        return Elected::Operator;
    }
    let key = |candidate: &Candidate| {
        let default = default_primary == Some(candidate.node);
        (candidate.able, candidate.copy.alone, candidate.copy.term, default, candidate.was_active)
    };
    let mine_first = match key(here).cmp(&key(peer)) {
        core::cmp::Ordering::Equal => here.node < peer.node,
        order => order.is_gt(),
    };
    Elected::Side(if mine_first { Side::Here } else { Side::Peer })
}

/// Whether nothing of the peer's goes on from what this node has: what it acknowledged is here.
#[must_use]
pub fn is_not_behind(here: &CopyState, peer: &CopyState) -> bool {
    let (mine, theirs) = (here.account.lineage, peer.account.lineage);
    if mine.current.is_none() {
        return theirs.current.is_none();
    }
    if theirs.current.is_none() || mine.current.matches(theirs.current) != Match::No {
        return true;
    }
    let accounts = (Account { primary: false, ..here.account }, Account { primary: false, ..peer.account });
    matches!(reunion::decide(&accounts.0, &accounts.1).relation, Relation::Ahead { side: Side::Here, .. })
}

/// Nobody is active yet.
fn at_rest(candidate: &Candidate) -> Account {
    Account { primary: false, ..candidate.copy.account }
}
