//! The state record on its way to stable storage: the durable one, the wanted one, and at most one being written.

use alloc::vec::Vec;
use core::time::Duration;

use crate::action::{Action, StateRecord};
use crate::ids::{Errno, PersistId, Time};

/// Pause before a record that could not be made durable is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(crate) struct Record {
    durable: StateRecord,
    /// What is to be durable.
    pub wanted: StateRecord,
    pending: Option<StateRecord>,
    last: PersistId,
    /// Records that could not be made durable since: which of all these is on disk is not known.
    uncertain: Vec<StateRecord>,
    retry_at: Option<Time>,
}

impl Record {
    pub fn new(durable: StateRecord) -> Record {
        Record {
            durable,
            wanted: durable,
            pending: None,
            last: PersistId(0),
            uncertain: Vec::new(),
            retry_at: None,
        }
    }

    pub fn durable(&self) -> StateRecord {
        self.durable
    }

    pub fn retry_at(&self) -> Option<Time> {
        self.retry_at.filter(|_| self.pending.is_none())
    }

    /// Whether whatever is on disk now says that this node runs alone, in the generation and the term that are meant.
    pub fn says_alone(&self) -> bool {
        self.wanted.alone
            && self.durable.alone
            && self.durable.term == self.wanted.term
            && self.durable.lineage.current == self.wanted.lineage.current
            && self.pending.is_none_or(|record| record.alone)
            && self.uncertain.iter().all(|record| record.alone)
    }

    /// Whether nothing that may be on disk now says that this node runs alone.
    pub fn says_not_alone(&self) -> bool {
        !self.durable.alone
            && self.pending.is_none_or(|record| !record.alone)
            && self.uncertain.iter().all(|record| !record.alone)
    }

    /// Whether the wanted record is durable and nothing else is on its way.
    pub fn is_settled(&self) -> bool {
        self.durable == self.wanted && self.pending.is_none() && self.uncertain.is_empty()
    }

    /// The order to make the wanted record durable, if that is due.
    pub fn order(&mut self, now: Time) -> Option<Action> {
        if self.is_settled() || self.pending.is_some() || self.retry_at.is_some_and(|at| at > now) {
            return None;
        }
        self.retry_at = None;
        self.last = self.last.next();
        self.pending = Some(self.wanted);
        Some(Action::PersistState { persist: self.last, record: self.wanted })
    }

    /// The answer to the order. `None`: it answers no order.
    pub fn answered(
        &mut self,
        persist: PersistId,
        result: Result<(), Errno>,
        now: Time,
    ) -> Option<Result<(), Errno>> {
        let record = self.pending.take_if(|_| persist == self.last)?;
        match result {
            Ok(()) => {
                self.durable = record;
                self.uncertain.clear();
            }
            Err(_) => {
                // The same one is tried again and again.
                if !self.uncertain.contains(&record) {
                    self.uncertain.push(record);
                }
                self.retry_at = Some(now.after(RETRY));
            }
        }
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Alone, then both, then alone again, and only the first is durable: any of them may be what the next run finds.
    #[test]
    fn whatever_could_not_be_made_durable_may_be_on_disk_until_one_is() {
        let mut record = Record::new(StateRecord { alone: true, ..StateRecord::unknown() });
        let mut now = Time(0);
        let mut write = |record: &mut Record, alone, result| {
            record.wanted.alone = alone;
            now = now.after(2 * RETRY);
            let Some(Action::PersistState { persist, .. }) = record.order(now) else {
                panic!("nothing is due")
            };
            record.answered(persist, result, now);
            (record.says_alone(), record.says_not_alone())
        };
        assert!(record.says_alone());
        assert_eq!(write(&mut record, false, Err(Errno(5))), (false, false));
        assert_eq!(write(&mut record, true, Err(Errno(5))), (false, false));
        assert_eq!(write(&mut record, true, Err(Errno(5))), (false, false));
        assert_eq!(write(&mut record, true, Ok(())), (true, false));
        assert!(record.is_settled());
        assert_eq!(write(&mut record, false, Ok(())), (false, true));
    }
}
