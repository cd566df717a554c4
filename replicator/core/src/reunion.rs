//! Two nodes meet: which of them holds what the other lacks, and how much of it has to be looked at.
//!
//! A pure function of what both say of themselves ([`Account`]). Each node computes it for itself and both come to the same answer,
//! seen from the other side. The table is that of DRBD's handshake, for nodes of which one acts as the primary:
//!
//! | lineages | relation | source | how much |
//! |---|---|---|---|
//! | one node has no generation (it starts for the first time, or its state file was lost) | [`Relation::New`] | the other | everything |
//! | the same generation | [`Relation::Same`] | the acting primary; else who crashed as a primary, if one did | nothing; or the marks; after a crash the safe set |
//! | what one shared last is the other's generation | [`Relation::Ahead`], near | that one | its marks; after a crash the safe set, too |
//! | the other's generation is further back in its history | [`Relation::Ahead`], not near | that one | everything |
//! | both went on from the same one | [`Relation::Diverged`], known parent | an operator decides | everything |
//! | only their histories have something in common | [`Relation::Diverged`] | an operator decides | everything |
//! | nothing in common | [`Relation::Unrelated`] | an operator decides | everything |
//!
//! Where only numbers tell it (a generation of an older build has no tag), everything is looked at, and what is overwritten is kept aside.
//!
//! Nobody is the source whose own copy is not whole, nor one that is behind: then an operator decides. How little a session really
//! compares is found afterwards, from streams and positions ([`crate::resume`]), and never less than is said here unless a stream proves it.

use crate::action::DataState;
use crate::lineage::{GenerationId, Lineage, Match};

/// What a node says of its data when two nodes meet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Account {
    /// Its generations.
    pub lineage: Lineage,
    /// State of its copy.
    pub data: DataState,
    /// It acts as the primary: its application works on its copy.
    pub primary: bool,
    /// It ran as a primary and did not end in order, and both nodes have not held the same since.
    pub crashed: bool,
    /// Its state file could not be used at a start, and its data was not compared since: what it holds is not known.
    pub lost: bool,
    /// It has marks: something may have been changed that the peer has not confirmed.
    pub marked: bool,
}

/// One of the two nodes, seen from one of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The node that asks.
    Here,
    /// The other.
    Peer,
}

impl Side {
    /// The same node, seen from the other one.
    #[must_use]
    pub const fn mirrored(self) -> Side {
        match self {
            Side::Here => Side::Peer,
            Side::Peer => Side::Here,
        }
    }
}

/// How the data of both nodes belong together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relation {
    /// A node has no generation: there is nothing of which the other could be an older or a newer state.
    New,
    /// Both have the same generation.
    Same,
    /// One goes on from the other's. `near`: what it has marked counts from there.
    Ahead {
        /// Which one.
        side: Side,
        /// What it shared last is what the other has.
        near: bool,
    },
    /// Both went on from something in common.
    Diverged {
        /// Both from the same generation, which is what both shared last.
        known_parent: bool,
    },
    /// They have nothing in common that is remembered.
    Unrelated,
}

/// How much has to be looked at, at least if no stream proves that less will do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Scope {
    /// Both hold the same.
    Nothing,
    /// What the source has marked.
    Marks,
    /// That, and what may have been open when a primary crashed.
    SafeSet,
    /// Both trees are compared.
    Everything,
}

/// The outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reunion {
    /// How the data belong together.
    pub relation: Relation,
    /// Whose data both will have. `None`: that is for an operator to say, unless there is nothing to do at all.
    pub source: Option<Side>,
    /// How much has to be looked at.
    pub scope: Scope,
    /// The other node may hold what the source does not have: it keeps that aside before it is overwritten.
    pub keeps: bool,
}

impl Reunion {
    /// The same, seen from the other node.
    #[must_use]
    pub fn mirrored(self) -> Reunion {
        let relation = match self.relation {
            Relation::Ahead { side, near } => Relation::Ahead { side: side.mirrored(), near },
            other => other,
        };
        Reunion { relation, source: self.source.map(Side::mirrored), ..self }
    }

    /// What becomes of it when an operator says that `source`'s data is what both shall have.
    #[must_use]
    pub fn overruled(self, source: Side) -> Reunion {
        if self.source == Some(source) {
            return self;
        }
        Reunion { source: Some(source), scope: Scope::Everything, keeps: true, ..self }
    }
}

/// What follows from what both nodes say.
#[must_use]
pub fn decide(here: &Account, peer: &Account) -> Reunion {
    let (relation, exact) = relate(&here.lineage, &peer.lineage);
    let source = match relation {
        Relation::New => source_of_new(here, peer),
        Relation::Same => source_of_same(here, peer),
        Relation::Ahead { side, .. } => Some(side).filter(|side| one(*side, here, peer).may_be_source()),
        Relation::Diverged { .. } | Relation::Unrelated => None,
    };
    let either = |what: fn(&Account) -> bool| what(here) || what(peer);
    let calm = |node: &Account| node.may_be_source() && !node.marked && !node.crashed && !node.lost;
    let equal = relation == Relation::Same && exact && calm(here) && calm(peer);
    let keeps = match source {
        Some(side) => {
            let target = one(side.mirrored(), here, peer);
            // Numbers alone may agree by chance: a source that was put back to an older state counts up to the target's once more.
            let by_number = relation != Relation::New && !exact;
            target.crashed || target.lost || by_number
        }
        None => !equal,
    };
    let scope = match relation {
        _ if equal => Scope::Nothing,
        _ if source.is_none() || !exact || either(|node| node.lost) => Scope::Everything,
        Relation::Same | Relation::Ahead { near: true, .. } if either(|node| node.crashed) => Scope::SafeSet,
        Relation::Same | Relation::Ahead { near: true, .. } => Scope::Marks,
        _ => Scope::Everything,
    };
    Reunion { relation, source, scope, keeps }
}

impl Account {
    fn may_be_source(&self) -> bool {
        matches!(self.data, DataState::Consistent | DataState::UpToDate)
    }
}

fn one<'a>(side: Side, here: &'a Account, peer: &'a Account) -> &'a Account {
    match side {
        Side::Here => here,
        Side::Peer => peer,
    }
}

/// The only one for which something holds.
fn only(here: bool, peer: bool) -> Option<Side> {
    match (here, peer) {
        (true, false) => Some(Side::Here),
        (false, true) => Some(Side::Peer),
        _ => None,
    }
}

/// Who has a generation; if neither has, who acts as the primary.
fn source_of_new(here: &Account, peer: &Account) -> Option<Side> {
    let has = |node: &Account| !node.lineage.current.is_none();
    let side = match (has(here), has(peer)) {
        (false, false) => only(here.primary, peer.primary),
        (here, peer) => only(here, peer),
    };
    side.filter(|side| one(*side, here, peer).may_be_source())
}

fn source_of_same(here: &Account, peer: &Account) -> Option<Side> {
    match (here.may_be_source(), peer.may_be_source()) {
        (true, true) => {}
        (here, peer) => return only(here, peer),
    }
    // An application is at work on that copy already. Else: whoever was written to last may hold more, never less.
    only(here.primary, peer.primary)
        .or_else(|| only(here.crashed, peer.crashed))
        .or_else(|| only(here.marked, peer.marked))
}

/// How two lineages belong together, and whether that is certain: told by tags, not by numbers alone.
fn relate(here: &Lineage, peer: &Lineage) -> (Relation, bool) {
    if here.current.is_none() || peer.current.is_none() {
        return (Relation::New, false);
    }
    let exact = |found: Match| found == Match::Exact;
    let same = here.current.matches(peer.current);
    if same != Match::No {
        return (Relation::Same, exact(same));
    }
    // Where each is found in the other's past: at what was shared last, or further back.
    let (in_here, in_peer) = (find(peer.current, here), find(here.current, peer));
    match (in_here, in_peer) {
        (Some((near, found)), None) => return (Relation::Ahead { side: Side::Here, near }, exact(found)),
        (None, Some((near, found))) => return (Relation::Ahead { side: Side::Peer, near }, exact(found)),
        (Some(_), Some(_)) => return (Relation::Diverged { known_parent: false }, false),
        (None, None) => {}
    }
    let parent = here.shared.matches(peer.shared);
    if parent != Match::No {
        return (Relation::Diverged { known_parent: true }, exact(parent));
    }
    let past = |lineage: &Lineage| core::iter::once(lineage.shared).chain(lineage.history);
    if past(here).any(|id| past(peer).any(|other| id.matches(other) != Match::No)) {
        return (Relation::Diverged { known_parent: false }, false);
    }
    (Relation::Unrelated, false)
}

/// Where a generation is in a lineage's past: whether it is what was shared last, and how it was recognised.
fn find(id: GenerationId, lineage: &Lineage) -> Option<(bool, Match)> {
    let near = id.matches(lineage.shared);
    if near != Match::No {
        return Some((true, near));
    }
    lineage.former().map(|former| (false, id.matches(former))).find(|(_, found)| *found != Match::No)
}

#[cfg(test)]
mod tests;
