//! The record that tests of a primary begin with.

use replicator_core::action::{DataState, StateRecord};
use replicator_core::ids::{Generation, Term};
use replicator_core::lineage::Lineage;

/// Of a primary that is alone, in generation 5 of a history without tags.
pub fn alone() -> StateRecord {
    StateRecord {
        term: Term(2),
        lineage: Lineage::untagged(Generation(5)),
        data: DataState::UpToDate,
        alone: true,
        ..StateRecord::unknown()
    }
}
