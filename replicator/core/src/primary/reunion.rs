//! Whether this primary's data may replace the peer's: by what both nodes say of it, or by an operator's word.
//!
//! A primary never overwrites by itself what it may not have: no session begins then, and it goes on without the peer.

use crate::action::{Action, Body, CloseReason, Notice};
use crate::ids::Generation;
use crate::lineage::{Lineage, Tag};
use crate::reunion::{Account, Reunion, Side, decide};
use crate::wire::header::{FLAG_OVERWRITES, Kind, VERSION_ACCOUNTS};

use super::Primary;

/// What is known of the peer's data.
#[derive(Debug, Default)]
pub(super) struct Meeting {
    /// What was found when the nodes met last.
    pub found: Option<Reunion>,
    /// The peer's data then.
    peer: Option<Lineage>,
    /// It was found that this node must not overwrite the peer's data.
    refused: bool,
    /// An operator says that it is to overwrite this.
    overrule: Option<Lineage>,
}

impl Meeting {
    pub(super) fn is_refused(&self) -> bool {
        self.refused
    }
}

/// The nodes have met, and a session may begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Met {
    /// What this node says of its data.
    account: Account,
    /// Only an operator's word makes this node's data the one that both shall have.
    pub overruled: bool,
}

/// No session begins.
pub(super) struct Refused;

impl Primary {
    /// The newest generation this node has begun, durable or not yet.
    pub(super) fn generation(&self) -> Generation {
        self.record.wanted.lineage.current.number.max(self.record.durable().lineage.current.number)
    }

    /// Whether the generation that this node has is on record.
    pub(super) fn is_lineage_durable(&self) -> bool {
        self.record.durable().lineage.current == self.record.wanted.lineage.current
    }

    /// The next tag (splitmix64: Steele, Lea, Flood 2014). Never zero, which stands for none.
    pub(super) fn draw_tag(&mut self) -> Tag {
        loop {
            self.numbers.tag = self.numbers.tag.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.config.tags ^ self.numbers.tag;
            z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
            if z ^ z >> 31 != 0 {
                return Tag(z ^ z >> 31);
            }
        }
    }

    pub(super) fn account(&self) -> Account {
        let record = &self.record.wanted;
        Account {
            lineage: record.lineage,
            data: record.data,
            primary: true,
            crashed: record.crashed,
            lost: record.lost,
            marked: !self.marks.files.is_empty() || self.last.is_err(),
        }
    }

    /// What the peer says of its data.
    pub(super) fn on_account(&mut self, body: &[u8]) {
        let what = "what the secondary says of its data";
        self.take_word(VERSION_ACCOUNTS, Account::decode(body), |greeting| &mut greeting.account, what);
    }

    /// The peer has said all: whether a session may begin, and with what this node says of its data (nothing, to a peer that
    /// knows nothing of that). Else the greeting is over.
    pub(super) fn meet(&mut self) -> Result<Option<Met>, Refused> {
        let Some(greeting) = &self.greeting else { return Err(Refused) };
        if greeting.version < VERSION_ACCOUNTS {
            self.meeting = Meeting::default();
            return Ok(None);
        }
        let Some(peer) = greeting.account else {
            self.end_greeting(CloseReason::Protocol("a secondary that does not say what its data is"));
            return Err(Refused);
        };
        let account = self.account();
        let found = decide(&account, &peer);
        let again = self.meeting.refused && self.meeting.peer == Some(peer.lineage);
        let may = found.source == Some(Side::Here);
        // An operator's word is about what the peer had when it was given, and about nothing that comes later. It holds until that is
        // given up by the peer, however often the connection ends before.
        let overruled = self.meeting.overrule == Some(peer.lineage);
        self.meeting = Meeting {
            found: Some(found),
            peer: Some(peer.lineage),
            refused: !may && !overruled,
            overrule: self.meeting.overrule.filter(|_| overruled && !may),
        };
        if self.meeting.refused {
            if !again {
                self.report(Notice::Refused { reunion: found });
            }
            self.tell_refusal(&account);
            return Err(Refused);
        }
        if !may {
            let reunion = found.overruled(Side::Here);
            self.meeting.found = Some(reunion);
            self.report(Notice::Overruled { reunion });
        }
        Ok(Some(Met { account, overruled: !may }))
    }

    /// Say why, and that this is the end. The peer comes to the same finding, can tell its operator, and closes: to close from here could
    /// overtake what is said.
    fn tell_refusal(&mut self, account: &Account) {
        let Some(greeting) = &mut self.greeting else { return };
        greeting.over = true;
        let session = greeting.id;
        let term = self.record.durable().term;
        let frame = |kind| crate::wire::header::Header::new(kind, term);
        let body = Body::Structured(account.encode());
        self.out.push(Action::SendFrame { session, header: frame(Kind::Account), body });
        self.out.push(Action::SendFrame { session, header: frame(Kind::Goodbye), body: Body::Empty });
    }

    /// Say what this node's data is, before the stream begins.
    pub(super) fn tell_account(&mut self, met: Met) {
        let flags = if met.overruled { FLAG_OVERWRITES } else { 0 };
        let body = Body::Structured(met.account.encode());
        self.send_frame(Kind::Account, |header| header.flags = flags, body);
    }

    /// An operator says that this node's data is to replace what the peer had when the nodes met last. Means nothing unless that was
    /// refused.
    pub(super) fn on_overrule(&mut self) {
        if self.meeting.refused {
            self.meeting.overrule = self.meeting.peer;
            self.dial.hasten(self.now);
        }
    }
}
