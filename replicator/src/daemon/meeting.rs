//! What both nodes' data are to each other: told to people, and overruled by them.

use std::time::SystemTime;

use replicator_core::action::{Phase, StateRecord};
use replicator_core::lineage::GenerationId;
use replicator_core::reunion::{Relation, Reunion, Scope, Side};
use replicator_core::snapshot::Snapshot;

use crate::status::ReunionStatus;

/// Whether a snapshot is of a primary.
fn is_primary(snapshot: &Snapshot) -> bool {
    !matches!(snapshot.phase, Phase::Waiting | Phase::Receiving | Phase::Following)
}

/// The finding as both nodes tell it: seen from the primary.
fn of_primary(snapshot: &Snapshot) -> Option<Reunion> {
    let primary = is_primary(snapshot);
    snapshot.reunion.map(|found| if primary { found } else { found.mirrored() })
}

/// What the status says of it.
pub fn status_of(snapshot: &Snapshot) -> ReunionStatus {
    let StateRecord { lineage, keeping, .. } = snapshot.record;
    let name = |id: GenerationId| if id.is_none() { String::new() } else { id.to_string() };
    let own = ReunionStatus {
        generation: name(lineage.current),
        shared: name(lineage.shared),
        keeping: name(keeping),
        ..ReunionStatus::default()
    };
    let Some(found) = of_primary(snapshot) else { return own };
    ReunionStatus {
        relation: relation(found).to_owned(),
        source: source(found).to_owned(),
        scope: scope(found.scope).to_owned(),
        keeps: found.keeps,
        refused: snapshot.refused,
        text: text(found).to_owned(),
        ..own
    }
}

const fn relation(found: Reunion) -> &'static str {
    match found.relation {
        Relation::New => "new",
        Relation::Same => "same",
        Relation::Ahead { side: Side::Here, .. } => "ahead",
        Relation::Ahead { side: Side::Peer, .. } => "behind",
        Relation::Diverged { .. } => "diverged",
        Relation::Unrelated => "unrelated",
    }
}

const fn source(found: Reunion) -> &'static str {
    match found.source {
        Some(Side::Here) => "primary",
        Some(Side::Peer) => "secondary",
        None => "operator",
    }
}

const fn scope(scope: Scope) -> &'static str {
    match scope {
        Scope::Nothing => "nothing",
        Scope::Marks => "marks",
        Scope::SafeSet => "safe-set",
        Scope::Everything => "everything",
    }
}

/// In words that name the nodes, which a log of either can say.
pub const fn text(found: Reunion) -> &'static str {
    match (found.relation, found.source) {
        (Relation::New, Some(Side::Here)) => "the secondary has no data that counts",
        (Relation::New, Some(Side::Peer)) => "the primary has no data that counts, and the secondary has",
        (Relation::New, None) => "neither node has a whole copy",
        (Relation::Same, Some(Side::Here)) => "both nodes have the same generation",
        (Relation::Same, Some(Side::Peer)) => "the primary's copy is not whole, the secondary's is",
        (Relation::Same, None) => {
            "both nodes have the same generation, and none may bring its copy to the other"
        }
        (Relation::Ahead { side: Side::Here, .. }, Some(_)) => {
            "the primary has gone on from what the secondary has"
        }
        (Relation::Ahead { side: Side::Here, .. }, None) => {
            "the primary has gone on from what the secondary has, but its copy is not whole"
        }
        (Relation::Ahead { side: Side::Peer, .. }, _) => "the secondary has newer data than the primary",
        (Relation::Diverged { known_parent: true }, _) => {
            "both nodes have gone on from what they shared last, each in its own way"
        }
        (Relation::Diverged { known_parent: false }, _) => {
            "both nodes have gone on in their own ways, from somewhere in a common past"
        }
        (Relation::Unrelated, _) => "the data of the two nodes have nothing in common",
    }
}

/// What a person has to do now. The same on both nodes.
pub const WHAT_TO_DO: &str = "nothing is overwritten. If the secondary's data is the one to go on with, stop both nodes, exchange their roles in the \
     configuration and start them; if the primary's is, run \"replicator resync --overwrite-peer --reason TEXT\" on the primary: what \
     only the secondary has is then kept aside there";

/// The line that is recorded of an operator's decision.
pub fn decision(snapshot: &Snapshot, reason: &str) -> String {
    let now = humantime::format_rfc3339_seconds(SystemTime::now());
    let found = of_primary(snapshot).map_or("", text);
    let lineage = snapshot.record.lineage;
    format!("{now} overwrite-peer: own generation {lineage:?}; found: {found}; reason: {reason}")
}
