//! How a node begins in a role, by what its record says.
//!
//! A primary that was a secondary before is *promoted*: it begins a primacy of its own, and goes on from what it has. Only a whole copy
//! may do that by itself.

use core::fmt;

use crate::action::{DataState, StateRecord};
use crate::config::WhenAlone;
use crate::ids::Term;
use crate::lineage::{GenerationId, Lineage, Tag};
use crate::reunion::Account;
use crate::wire::hello::Role;

/// What a primary is told at its start, beside what its record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Start {
    /// Random bits, for the generation that it may begin.
    pub tag: Tag,
    /// The number of its primacy, from whoever counts them. None: it goes on with its own, or takes the next one if it is promoted.
    pub term: Option<Term>,
    /// What it does when its peer is lost.
    pub when_alone: WhenAlone,
    /// It may go on alone without being asked, whatever `when_alone` says, until both nodes hold the same.
    pub go_alone: bool,
    /// A person says that its copy is the one to go on with, whatever its record says of it.
    pub forced: bool,
}

impl Start {
    /// Of a primary that decides by itself, and is told nothing else.
    #[must_use]
    pub const fn by_itself(tag: Tag) -> Start {
        Start { tag, term: None, when_alone: WhenAlone::Release, go_alone: false, forced: false }
    }

    /// Whether it answers callers without a peer before anybody says that it may.
    const fn may_go_alone(&self) -> bool {
        self.go_alone || !matches!(self.when_alone, WhenAlone::Ask)
    }
}

/// A node must not begin as the primary: others may have what its copy lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotPromotable {
    /// Its copy is not whole, or the peer may have gone on without it.
    Data(DataState),
    /// Its state was lost: what its copy is is not known.
    Lost,
}

impl fmt::Display for NotPromotable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotPromotable::Data(DataState::Outdated) => "the other node may have gone on without this copy",
            NotPromotable::Data(_) => "this copy is not whole",
            NotPromotable::Lost => "the state of this node was lost, and what its copy is is not known",
        })
    }
}

impl core::error::Error for NotPromotable {}

impl StateRecord {
    /// The record with which a primary begins that finds this one (`None`: it starts for the first time, and its data is what the
    /// operator says it is).
    ///
    /// One that goes on alone begins a generation of its own, so that it never acknowledges anything in one that its peer may have gone on
    /// from: this record may be an older copy of its own. One that has to be told first begins none before it is: it acknowledges nothing, and
    /// if the other node is promoted instead, this one is behind it and not beside it.
    ///
    /// # Errors
    /// [`NotPromotable`], unless it is forced. Nothing is to be changed then.
    pub fn begin_primary(found: Option<StateRecord>, start: Start) -> Result<StateRecord, NotPromotable> {
        let first = found
            .is_none_or(|record| record.lineage.current.is_none() && record.role != Some(Role::Secondary));
        let mut record = found.unwrap_or(StateRecord::unknown());
        let promoted = record.role == Some(Role::Secondary);
        record.crashed |= record.running;
        record.require_whole(first, &start)?;
        (record.role, record.running) = (Some(Role::Primary), true);
        if first {
            record.term = record.term.max(Term(1));
            (record.data, record.alone) = (DataState::UpToDate, true);
        }
        if record.data == DataState::Consistent {
            // Whole, and whoever starts it says that nobody has anything newer. If that is wrong, the peer's lineage will tell.
            record.data = DataState::UpToDate;
        }
        record.term = match start.term {
            Some(term) => record.term.max(term),
            None if promoted => record.term.next(),
            None => record.term,
        };
        if start.go_alone && !record.alone {
            record.alone = true;
            record.lineage.begin_generation(start.tag, true);
        } else if record.lineage.current.is_none() || record.alone && start.may_go_alone() {
            record.lineage.begin_generation(start.tag, false);
        }
        Ok(record)
    }

    /// What a node that is stopped says of its data: what it would say as a secondary.
    #[must_use]
    pub fn account(self) -> Account {
        let StateRecord { lineage, data, crashed, lost, .. } = StateRecord::begin_secondary(Some(self));
        Account { lineage, data, primary: false, crashed, lost, marked: false }
    }

    fn require_whole(&mut self, first: bool, start: &Start) -> Result<(), NotPromotable> {
        let whole = first || matches!(self.data, DataState::Consistent | DataState::UpToDate);
        // A node that decides by itself compares everything, and a peer with newer data refuses it. One that is told by others is to leave it to
        // the other node.
        let known = !self.lost || start.when_alone != WhenAlone::Ask;
        match (whole, known) {
            (true, true) => return Ok(()),
            _ if start.forced => {}
            (false, _) => return Err(NotPromotable::Data(self.data)),
            (true, false) => return Err(NotPromotable::Lost),
        }
        // It goes on from nothing that any other node has: whoever has other data is asked for a person's word before it is overwritten.
        let highest = self.lineage.former().chain([self.lineage.current, self.lineage.shared]);
        let number = highest.map(|id| id.number).max().unwrap_or_default().next();
        self.lineage = Lineage::beginning_with(GenerationId { number, tag: start.tag });
        (self.data, self.alone, self.keeping) = (DataState::UpToDate, false, GenerationId::NONE);
        Ok(())
    }

    /// The record with which a secondary begins that finds this one.
    ///
    /// One that was the primary holds all that was acknowledged, as far as it knows: whether anybody has gone on from there it does not.
    #[must_use]
    pub fn begin_secondary(found: Option<StateRecord>) -> StateRecord {
        let record = found.unwrap_or(StateRecord::unknown());
        let was_primary = record.role == Some(Role::Primary);
        StateRecord {
            alone: false,
            role: Some(Role::Secondary),
            running: false,
            crashed: record.crashed || record.running,
            data: if was_primary && record.data == DataState::UpToDate {
                DataState::Consistent
            } else {
                record.data
            },
            ..record
        }
    }
}
