//! Whether the primary's data may replace this copy, and what of the copy is to be kept aside then.

use crate::action::{CloseReason, Notice};
use crate::lineage::GenerationId;
use crate::reunion::{Account, Reunion, Side, decide};
use crate::wire::header::{FLAG_OVERWRITES, Header, VERSION_ACCOUNTS};

use super::Secondary;

/// What the primary said, in this session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// Of its data.
    pub account: Account,
    /// That an operator wants this copy to be replaced, whatever it is.
    overwrites: bool,
}

/// What a stream that begins does to the record, once its first frame is applied.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Replacement {
    /// What only this copy has is kept aside.
    keeps: bool,
    /// This copy's data is replaced by what does not go on from it.
    gives_up: bool,
}

impl Secondary {
    /// What this node says of its data: whose it is, on record or not yet. After a resync the copy is of the new generation though the
    /// record could not be written; under the old one it would be overwritten by a primary that knows only that. Whether it is whole
    /// counts only when it is on record.
    pub(super) fn account(&self) -> Account {
        let record = self.record.durable();
        Account {
            lineage: self.record.wanted.lineage,
            data: record.data,
            primary: false,
            crashed: record.crashed,
            lost: record.lost,
            marked: false,
        }
    }

    /// What the primary says of its data.
    pub(super) fn on_account(&mut self, header: &Header, body: &[u8]) -> Result<(), CloseReason> {
        let account =
            Account::decode(body).map_err(|_| CloseReason::Protocol("what the primary says of its data"))?;
        let own = self.account();
        let Some(session) = &mut self.session else { return Ok(()) };
        if session.version < VERSION_ACCOUNTS || session.told.is_some() || session.received.0 > 0 {
            return Err(CloseReason::Protocol("an account in the wrong place"));
        }
        let overwrites = header.flags & FLAG_OVERWRITES != 0;
        session.told = Some(Told { account, overwrites });
        let found = decide(&own, &account);
        let refused = found.source != Some(Side::Peer) && !overwrites;
        if refused && !(self.refused && self.found == Some(found)) {
            self.out.push(crate::action::Action::Report(Notice::Refused { reunion: found }));
        }
        (self.found, self.refused) = (Some(found), refused);
        Ok(())
    }

    /// A stream begins: whether it may, and what it does to this copy.
    ///
    /// # Errors
    /// It must not: this copy has what the primary does not have, and no operator gave it up.
    pub(super) fn check_begin(&self) -> Result<Replacement, CloseReason> {
        let Some(session) = &self.session else { return Ok(Replacement::default()) };
        if session.version < VERSION_ACCOUNTS {
            return Ok(Replacement::default());
        }
        let Some(told) = session.told else {
            return Err(CloseReason::Protocol("a stream of a primary that does not say what its data is"));
        };
        let found: Reunion = decide(&self.account(), &told.account);
        match found.source {
            Some(Side::Peer) => Ok(Replacement { keeps: found.keeps, gives_up: false }),
            _ if told.overwrites => Ok(Replacement { keeps: true, gives_up: true }),
            _ => Err(CloseReason::NotTheSource),
        }
    }
}

impl Replacement {
    /// What the record has to say before anything of the stream is applied.
    pub(super) fn record(self, record: &mut crate::action::StateRecord) {
        if self.keeps && record.keeping.is_none() {
            record.keeping = record.lineage.current;
            if record.keeping.is_none() {
                record.keeping = record.lineage.former().next().unwrap_or(UNKNOWN);
            }
        }
        if self.gives_up && !record.lineage.current.is_none() {
            record.lineage.give_up();
        }
    }
}

/// Under this is kept what is of no known generation.
const UNKNOWN: GenerationId =
    GenerationId { number: crate::ids::Generation(u64::MAX), tag: crate::lineage::Tag(0) };
