//! What a start of a node is told beside its configuration, and the record that it begins with.

use std::time::SystemTime;

use anyhow::Context;
use replicator_core::action::StateRecord;
use replicator_core::begin::{NotPromotable, Start};
use replicator_core::ids::Term;
use replicator_core::lineage::Tag;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::settings::{random_bits, when_alone};
use crate::config::{Config, Role};
use crate::storage::state::StateDirectory;

/// What whoever starts a node tells it. Whoever starts it by hand tells it nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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

#[cfg(test)]
mod tests {
    use replicator_core::action::DataState;
    use replicator_core::wire::hello;

    use super::*;

    #[test]
    fn what_an_operator_forces_is_on_record_before_it_is_done() {
        let place = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(place.path()).unwrap();
        let mut config = Config::parse(include_str!("../../../examples/replicator.toml")).unwrap();
        config.node.role = Role::Primary;
        let copy = StateRecord {
            data: DataState::Outdated,
            role: Some(hello::Role::Secondary),
            term: Term(4),
            ..StateRecord::unknown()
        };
        let mut instructions = Instructions { term: Some(6), go_alone: true, force: None };
        let refused = begin(&config, &instructions, &state, Some(copy)).unwrap_err();
        assert!(refused.is::<Refused>() && refused.to_string().contains("--force-promote"), "{refused}");
        assert!(!place.path().join("decisions.log").exists());
        instructions.force = Some("the other site is gone".to_owned());
        let begun = begin(&config, &instructions, &state, Some(copy)).unwrap();
        assert_eq!((begun.term, begun.data, begun.alone), (Term(6), DataState::UpToDate, true));
        let log = std::fs::read_to_string(place.path().join("decisions.log")).unwrap();
        assert!(log.contains("force-promote") && log.contains("the other site is gone"), "{log}");
        // What need not be forced is not on record as forced.
        let whole = StateRecord { data: DataState::Consistent, ..copy };
        begin(&config, &instructions, &state, Some(whole)).unwrap();
        assert_eq!(std::fs::read_to_string(place.path().join("decisions.log")).unwrap(), log);
        config.node.role = Role::Secondary;
        let begun = begin(&config, &Instructions::default(), &state, Some(copy)).unwrap();
        assert_eq!(begun, copy);
    }
}
