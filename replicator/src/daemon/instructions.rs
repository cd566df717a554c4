//! What a start of a node is told beside its configuration, and the record that it begins with.

use std::time::SystemTime;

use anyhow::Context;
use replicator_core::action::StateRecord;
use replicator_core::begin::{NotPromotable, Start};
use replicator_core::ids::Term;
use replicator_core::lineage::Tag;
use tracing::{info, warn};

use super::settings::{random_bits, when_alone};
use crate::config::{Config, Role};
use crate::storage::state::StateDirectory;

/// What whoever starts a node tells it. Whoever starts it by hand tells it nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Instructions {
    /// The number of the primacy.
    pub term: Option<u64>,
    /// It may go on alone without asking, until both nodes hold the same.
    pub go_alone: bool,
    /// Its copy is the one to go on with, whatever its state says of it: why, for the record.
    pub force: Option<String>,
}

/// A node that must not become the primary.
#[derive(Debug, thiserror::Error)]
#[error(
    "this node must not become the primary: {why}; start the other node as the primary, or, if this copy is the one to go on with, \
     this one with --force-promote --reason TEXT"
)]
pub struct Refused {
    why: NotPromotable,
}

/// The record with which this node begins that finds this one.
///
/// # Errors
/// [`Refused`]; what the system says where a decision cannot be put on record.
pub fn begin(
    config: &Config,
    instructions: &Instructions,
    state: &StateDirectory,
    found: Option<StateRecord>,
) -> anyhow::Result<StateRecord> {
    if config.node.role == Role::Secondary {
        return Ok(StateRecord::begin_secondary(found));
    }
    let start = Start {
        tag: Tag(random_bits()?),
        term: instructions.term.map(Term),
        when_alone: when_alone(config),
        go_alone: instructions.go_alone,
        forced: false,
    };
    let begun = match StateRecord::begin_primary(found, start) {
        Ok(begun) => begun,
        Err(why) => {
            let Some(reason) = &instructions.force else { return Err(Refused { why }.into()) };
            let lineage = found.map(|record| record.lineage).unwrap_or_default();
            let now = humantime::format_rfc3339_seconds(SystemTime::now());
            let line = format!("{now} force-promote: own generation {lineage:?}; {why}; reason: {reason}");
            state.note_decision(&line).context("a decision that is not on record is not carried out")?;
            warn!(line, "decision recorded: this copy is the one to go on with");
            StateRecord::begin_primary(found, Start { forced: true, ..start })?
        }
    };
    if found.is_some_and(|found| found.role != begun.role) {
        info!(term = begun.term.0, "this node was the secondary, and is the primary from now on");
    }
    Ok(begun)
}
