//! What a node's record says, for whoever decides which of two nodes is the primary.

use replicator_core::action::{DataState, StateRecord};
use replicator_core::ids::Term;
use replicator_core::lineage::{GenerationId, HISTORY, Lineage};
use replicator_core::reunion::Account;
use replicator_core::snapshot::Snapshot;
use serde::{Deserialize, Serialize};

/// What is on record, and what the node says of its data by it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StateStatus {
    /// The number of the primacy that it is, or has accepted.
    pub term: u64,
    /// "inconsistent", "outdated", "consistent" or "up-to-date".
    pub data: String,
    /// Where the data comes from: the generation; empty: none.
    pub generation: String,
    /// The one that both nodes had last, while this one goes on alone.
    pub shared: String,
    /// Those before, the newest first.
    pub history: Vec<String>,
    /// Whether it acts as the primary.
    pub primary: bool,
    /// It answers fsyncs without the peer, or did when it ended.
    pub alone: bool,
    /// It ran as a primary and did not end in order, or with what the peer may not have.
    pub crashed: bool,
    /// Its state was lost.
    pub lost: bool,
    /// Something was or may have been changed that the peer has not confirmed.
    pub marked: bool,
    /// It holds its callers until it is told that it may go on alone: in this absence of its peer, counted since its start. Zero: it does not ask.
    pub asks: u64,
    /// It heard of this higher term, and lets nobody go. Zero: it did not.
    pub deposed: u64,
}

impl StateStatus {
    /// That of a running node.
    #[must_use]
    pub fn of_running(snapshot: &Snapshot) -> StateStatus {
        StateStatus {
            asks: snapshot.asks.unwrap_or(0),
            deposed: snapshot.deposed.map_or(0, |term| term.0),
            ..StateStatus::new(snapshot.record, snapshot.account)
        }
    }

    /// That of a node that is stopped, as it would say it as a secondary.
    #[must_use]
    pub fn of_stopped(record: StateRecord) -> StateStatus {
        StateStatus::new(record, record.account())
    }

    fn new(record: StateRecord, account: Account) -> StateStatus {
        let name = |id: GenerationId| if id.is_none() { String::new() } else { id.to_string() };
        let lineage = account.lineage;
        StateStatus {
            term: record.term.0,
            data: data_name(account.data).to_owned(),
            generation: name(lineage.current),
            shared: name(lineage.shared),
            history: lineage.former().map(name).collect(),
            primary: account.primary,
            alone: record.alone,
            crashed: account.crashed,
            lost: account.lost,
            marked: account.marked,
            asks: 0,
            deposed: 0,
        }
    }

    /// What two nodes are compared by ([`replicator_core::reunion::decide`]). `None`: it says something that has no meaning here.
    #[must_use]
    pub fn account(&self) -> Option<Account> {
        let id = |text: &String| match text.as_str() {
            "" => Some(GenerationId::NONE),
            text => GenerationId::parse(text),
        };
        let mut history = [GenerationId::NONE; HISTORY];
        if self.history.len() > HISTORY {
            return None;
        }
        for (place, text) in history.iter_mut().zip(&self.history) {
            *place = id(text)?;
        }
        Some(Account {
            lineage: Lineage { current: id(&self.generation)?, shared: id(&self.shared)?, history },
            data: DATA_NAMES.iter().find(|(_, name)| *name == self.data)?.0,
            primary: self.primary,
            crashed: self.crashed,
            lost: self.lost,
            marked: self.marked,
        })
    }

    /// Its term.
    #[must_use]
    pub fn term(&self) -> Term {
        Term(self.term)
    }
}

const DATA_NAMES: [(DataState, &str); 4] = [
    (DataState::Inconsistent, "inconsistent"),
    (DataState::Outdated, "outdated"),
    (DataState::Consistent, "consistent"),
    (DataState::UpToDate, "up-to-date"),
];

const fn data_name(data: DataState) -> &'static str {
    match data {
        DataState::Inconsistent => "inconsistent",
        DataState::Outdated => "outdated",
        DataState::Consistent => "consistent",
        DataState::UpToDate => "up-to-date",
    }
}

#[cfg(test)]
mod tests {
    use replicator_core::ids::Generation;
    use replicator_core::lineage::Tag;

    use super::*;

    #[test]
    fn what_a_node_says_of_its_data_is_read_as_it_was_meant() {
        let mut lineage = Lineage::beginning_with(GenerationId { number: Generation(3), tag: Tag(7) });
        for tag in 10..30 {
            lineage.begin_generation(Tag(tag), tag % 3 == 0);
            for (data, _) in DATA_NAMES {
                let record = StateRecord {
                    lineage,
                    data,
                    term: Term(tag),
                    crashed: tag % 2 == 0,
                    ..StateRecord::unknown()
                };
                let status = StateStatus::of_stopped(record);
                assert_eq!(status.account(), Some(record.account()));
                let read: StateStatus =
                    serde_json::from_str(&serde_json::to_string(&status).unwrap()).unwrap();
                assert_eq!((read.account(), read.term()), (Some(record.account()), Term(tag)));
            }
        }
        assert_eq!(
            StateStatus::of_stopped(StateRecord::unknown()).account(),
            Some(StateRecord::unknown().account())
        );
        let odd = |change: fn(&mut StateStatus)| {
            let mut status = StateStatus::of_stopped(StateRecord::unknown());
            change(&mut status);
            status.account()
        };
        assert_eq!(odd(|status| status.data = "splendid".to_owned()), None);
        assert_eq!(odd(|status| status.generation = "5".to_owned()), None);
        assert_eq!(odd(|status| status.history = vec![String::new(); HISTORY + 1]), None);
    }
}
