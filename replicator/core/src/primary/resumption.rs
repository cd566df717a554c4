//! Going on where the last session ended.
//!
//! ```text
//!  no session --SessionOpened--> Greeting --Holding, decided--> session: ResyncBegin (all is compared) or ResumeBegin
//!      ^                            |                              |
//!      +----------------------------+----- lost, closed -----------+
//! ```
//!
//! What becomes of the state of a session when it ends:
//!
//! | state | if the next may go on from it | else |
//! |---|---|---|
//! | known files, listed directories | kept, less what the peer has only by frames that are not proven to have arrived | forgotten |
//! | directories to be listed | kept, with all those whose names changed since, or by frames that are not proven | forgotten: all are listed |
//! | lists without an answer, arrived | their files are known, and compared: which of them the peer made anew is not known | forgotten |
//! | lists without an answer, not proven | listed again; files that they made known are not known | forgotten |
//! | operations in the log, and those without a session | not sent: their directories are listed | only their marks are kept |
//! | reads, frames not confirmed durable | marked again | marked again |
//! | digests not answered, extents to be compared | to be compared | forgotten: all are compared |
//! | files departed, or fresh | forgotten: directories that name them are marked; the end of the resync covers their content | forgotten |
//! | stores through mappings, lost events | kept | kept |
//! | callers | held | held |
//! | barriers, positions, window | forgotten | forgotten |
//!
//! If the peer crashed, what is not proven to be durable counts as not proven to have arrived ([`super::passing`]).
//!
//! A frame that arrived is applied before any of the next session, or the peer says that it holds nothing; so what is
//! proven to have arrived is as good as applied. What is not proven may have been applied or not. Either way the lists that are
//! taken again say what the names are, and what they name that is not known is compared, whatever the peer has under its number.

use core::time::Duration;

use crate::action::{Action, Body, CloseReason, IMPOSSIBLE_TERM, Notice, Phase};
use crate::event::{NamespaceChange, ReceivedBody};
use crate::ids::{COUNTED_MAX, FileId, FileKind, Sequence, SessionId, Time};
use crate::recovery::Recovered;
use crate::resume::{Beginning, Held, LastStream, StreamId, Why, decide};
use crate::reunion::Account;
use crate::succession::Legacy;
use crate::wire::BodyError;
use crate::wire::body::{Holding, Resumption};
use crate::wire::header::{Header, Kind, VERSION_RESUMES};

use super::Primary;
use super::names::{Names, SentList};
use super::reunion::Met;
use super::session::Session;

/// A connection on which the peer has not said yet what it holds.
#[derive(Debug)]
pub(super) struct Greeting {
    pub id: SessionId,
    since: Time,
    pub version: u16,
    /// What the peer says of its data, from version 4 on.
    pub account: Option<Account>,
    /// What the peer says of its copy if it was the primary before, from version 5 on.
    pub legacy: Option<Legacy>,
    /// What the peer says of its copy if it crashed, from version 6 on.
    pub recovered: Option<Recovered>,
    /// The peer was told that no session begins, and is to close.
    pub over: bool,
}

/// A namespace operation that was sent and is not proven to have arrived.
#[derive(Debug)]
pub(super) struct Doubt {
    sequence: Sequence,
    change: NamespaceChange,
    /// Without it, the peer does not know the file.
    new: bool,
}

impl Primary {
    // ---- the beginning -----------------------------------------------------------------------------------

    pub(super) fn on_session_opened(&mut self, id: SessionId, version: u16) {
        if self.greeting.is_some() || !self.is_dialled(id) {
            let reason = CloseReason::Protocol("a session that was not dialled");
            self.out.push(Action::CloseSession { session: id, reason });
            return;
        }
        if !self.is_term_durable() {
            let reason = CloseReason::GoingAlone;
            self.out.push(Action::CloseSession { session: id, reason });
            return self.pause_dialing();
        }
        self.version = version;
        if version < VERSION_RESUMES {
            self.begin_session(id, Beginning::Compared(Why::Unable), None, None);
            self.compare_everything();
        } else {
            let (account, legacy, recovered) = (None, None, None);
            self.greeting =
                Some(Greeting { id, since: self.now, version, account, legacy, recovered, over: false });
        }
    }

    /// A frame of a connection that is no session yet: what the peer holds.
    pub(super) fn on_greeted(&mut self, id: SessionId, header: &Header, body: ReceivedBody) {
        if self.greeting.as_ref().is_none_or(|greeting| greeting.id != id) {
            return;
        }
        if header.term.0 > COUNTED_MAX {
            return self.end_greeting(CloseReason::Protocol(IMPOSSIBLE_TERM));
        }
        if header.term > self.record.durable().term {
            self.depose(header.term);
            return self.end_greeting(CloseReason::StaleTerm);
        }
        if self.greeting.as_ref().is_some_and(|greeting| greeting.over) {
            return;
        }
        match (header.kind, body) {
            (Kind::KeepAlive, _) => {}
            (Kind::Goodbye, _) => self.end_greeting(CloseReason::Stopping),
            (Kind::Account, ReceivedBody::Structured(body)) => self.on_account(&body),
            (Kind::Legacy, ReceivedBody::Structured(body)) => self.on_legacy(&body),
            (Kind::Recovered, ReceivedBody::Structured(body)) => self.on_recovered(&body),
            (Kind::Holding, ReceivedBody::Structured(body)) => match Holding::decode(&body) {
                Ok(holding) => self.on_holding(id, holding),
                Err(_) => self.end_greeting(CloseReason::Protocol("what the secondary holds")),
            },
            _ => self.end_greeting(CloseReason::Protocol("a secondary says first what it holds")),
        }
    }

    /// What a peer from that version on says once, before it says what it holds.
    pub(super) fn take_word<T>(
        &mut self,
        since: u16,
        word: Result<T, BodyError>,
        place: impl FnOnce(&mut Greeting) -> &mut Option<T>,
        what: &'static str,
    ) {
        let Some(greeting) = &mut self.greeting else { return };
        let speaks = greeting.version >= since;
        let place = place(greeting);
        match word {
            Ok(word) if speaks && place.is_none() => *place = Some(word),
            _ => self.end_greeting(CloseReason::Protocol(what)),
        }
    }

    fn on_holding(&mut self, id: SessionId, holding: Holding) {
        let Ok(reunion) = self.meet() else { return };
        let greeting = self.greeting.take();
        let (legacy, recovered) =
            greeting.map_or((None, None), |greeting| (greeting.legacy, greeting.recovered));
        let generation = self.generation();
        let last = if self.untold { Err(Why::Untold) } else { self.last };
        let stream = self.config.incarnation.map(|incarnation| StreamId { incarnation, number: id.0 });
        let succeeds = last.is_ok() && self.inherits(legacy.as_ref(), generation, holding);
        let beginning = if reunion.is_some_and(|met| met.overruled) {
            Beginning::Compared(Why::Overruled)
        } else if stream.is_none() {
            Beginning::Compared(Why::Unable)
        } else if succeeds {
            Beginning::Succeeded
        } else if last.is_ok() && self.recovers(recovered.as_ref(), generation, holding) {
            Beginning::Recovered
        } else {
            decide(last, &self.former, generation, holding)
        };
        self.begin_session(id, beginning, stream, reunion);
        match (beginning, stream, holding.held, legacy) {
            (Beginning::Resumed | Beginning::Recovered, Some(stream), Some(from), _) => {
                self.resume(stream, from);
            }
            (Beginning::Succeeded, Some(stream), _, Some(legacy)) => self.succeed(stream, &legacy),
            _ => self.compare_everything(),
        }
        self.passing.begin(stream, matches!(beginning, Beginning::Resumed | Beginning::Recovered));
    }

    fn begin_session(
        &mut self,
        id: SessionId,
        beginning: Beginning,
        stream: Option<StreamId>,
        met: Option<Met>,
    ) {
        self.counters.sessions += 1;
        self.former.clear();
        self.beginning = Some(beginning);
        self.report(Notice::Begun { beginning });
        self.session = Some(Session::new(id, self.now, stream));
        self.pacing.begin(self.now);
        self.set_phase(Phase::Resyncing);
        self.review = true;
        if let Some(met) = met {
            self.tell_account(met);
        }
    }

    fn compare_everything(&mut self) {
        self.untold = false;
        self.forget_stream(Why::Started);
        self.begin_resync();
    }

    /// The peer has what `names` says, and the marks say what it may not have.
    fn resume(&mut self, stream: StreamId, from: Held) {
        if let Some(session) = &mut self.session {
            session.before = Some(from);
        }
        let body = Body::Structured(Resumption { stream, from }.encode());
        self.send_frame(Kind::ResumeBegin, |_| {}, body);
        self.send_marked();
    }

    /// Have what is marked of files that the peer knows sent or compared.
    pub(super) fn send_marked(&mut self) {
        let marked = self.marks.files.keys().filter(|file| self.is_known(**file));
        let marked: alloc::vec::Vec<FileId> = marked.copied().collect();
        for file in marked {
            self.record_marks(file);
            self.queue_known(file);
        }
    }

    pub(super) fn end_greeting(&mut self, reason: CloseReason) {
        let Some(greeting) = self.greeting.take() else { return };
        self.out.push(Action::CloseSession { session: greeting.id, reason });
        if reason == CloseReason::StaleTerm {
            self.decide_without_peer(false);
        }
        self.pause_dialing();
    }

    /// A peer that does not say what it holds is gone.
    pub(super) fn check_greeting(&mut self) {
        if self.greeting_deadline().is_some_and(|at| at <= self.now) {
            self.end_greeting(CloseReason::PeerSilent);
        }
    }

    pub(super) fn greeting_deadline(&self) -> Option<Time> {
        self.greeting
            .as_ref()
            .map(|greeting| greeting.since.after(self.config.link.dead_after.max(SILENCE_MIN)))
    }

    // ---- while it lasts ----------------------------------------------------------------------------------

    /// Remember an operation that was sent until it is proven to have arrived.
    pub(super) fn doubt(&mut self, sent: Option<Sequence>, change: &NamespaceChange, new: bool) {
        if let (Some(session), Some(sequence)) = (&mut self.session, sent)
            && session.stream.is_some()
        {
            session.doubts.push_back(Doubt { sequence, change: change.clone(), new });
        }
    }

    /// Frames up to this one have arrived.
    pub(super) fn prove(&mut self, upto: Sequence) {
        let Some(session) = &mut self.session else { return };
        session.proven = session.proven.max(upto);
        let proven = session.proven;
        let arrived = session.doubts.partition_point(|doubt| doubt.sequence <= proven);
        for Doubt { sequence, change, new } in session.doubts.drain(..arrived) {
            self.passing.change(Some(sequence), change, new);
        }
        if session.copies_told.is_some_and(|told| told <= session.proven) {
            session.copies_told = None;
            self.inheritance = None;
        }
    }

    /// Something changed that nobody told of.
    pub(super) fn on_untold(&mut self, lasting: bool) {
        self.untold = true;
        if lasting {
            self.config.incarnation = None;
        }
        if self.session.is_none() {
            self.forget_stream(Why::Untold);
        }
    }

    // ---- the end -----------------------------------------------------------------------------------------

    /// Whether changes of names are of use to a later session.
    pub(super) fn remembers_names(&self) -> bool {
        self.session.is_some() || self.last.is_ok()
    }

    /// There is nothing to go on from.
    fn forget_stream(&mut self, why: Why) {
        self.forget_names(why);
        self.marks.forget_comparisons();
    }

    fn forget_names(&mut self, why: Why) {
        self.last = Err(why);
        self.inheritance = None;
        self.passing.forget();
        self.former.clear();
        self.names = Names::new(self.config.partial);
    }

    /// A session has ended: what of it the next one may go on from. Comes before its log and its marks are looked at.
    pub(super) fn keep_stream(&mut self, session: &mut Session, reason: Option<CloseReason>) {
        self.passing.end();
        let failed = match reason {
            None
            | Some(
                CloseReason::PeerSilent
                | CloseReason::BarrierLate
                | CloseReason::Stopping
                | CloseReason::GoingAlone,
            ) => None,
            Some(_) => Some(Why::Failed),
        };
        let why = if self.untold { Some(Why::Untold) } else { failed };
        match (session.stream, why) {
            (Some(stream), None) => {
                let (proven, queued) = (session.proven, session.positions.queued);
                self.last = Ok(LastStream { stream, proven, queued, before: session.before });
                self.take_doubts_back(session);
            }
            (_, why) => self.forget_names(why.unwrap_or(Why::Unable)),
        }
    }

    fn take_doubts_back(&mut self, session: &mut Session) {
        let lists = self.names.on_session_lost();
        for Doubt { change, new, .. } in core::mem::take(&mut session.doubts) {
            self.take_back(&change, new);
            self.passing.change(None, change, new);
        }
        for (last, list) in lists {
            self.take_list_back(&list, last.is_some_and(|last| last <= session.proven));
            self.passing.list(None, list);
        }
    }

    /// The operation may have reached the peer, or not.
    pub(super) fn take_back(&mut self, change: &NamespaceChange, new: bool) {
        if let (true, NamespaceChange::Created { file, .. } | NamespaceChange::Linked { file, .. }) =
            (new, change)
        {
            self.lose_name(*file);
        }
        change.directories().for_each(|directory| self.mark_directory(directory, false));
    }

    /// The list was applied, or may have been; which of its files the peer made anew for it is not known.
    fn take_list_back(&mut self, list: &SentList, applied: bool) {
        for child in &list.children {
            let file = child.file;
            let is_meant =
                self.is_known(file) && self.is_directory(file) == (child.kind == FileKind::Directory);
            match child.kind {
                _ if child.new && !applied => self.lose_name(file),
                // All of it is marked.
                _ if child.made && applied => {}
                _ if !is_meant => {}
                FileKind::Regular => self.mark_compare(file, false),
                FileKind::Directory => {
                    self.mark_directory(file, true);
                    self.on_attributes_changed(file);
                }
                _ => self.on_attributes_changed(file),
            }
        }
        if !applied {
            self.names.list_again(list);
        }
    }

    /// The operation happened and is not sent: the lists of its directories will tell.
    pub(super) fn not_told(&mut self, change: &NamespaceChange) {
        if !self.remembers_names() {
            return;
        }
        if let NamespaceChange::Linked { file, kind, .. } = *change {
            self.lose_former_directory(file, kind);
        }
        self.lose_names(change);
        change.directories().for_each(|directory| self.mark_directory(directory, false));
    }
}

/// What the peer holds is said at once; however short its silence may be, it has this long.
const SILENCE_MIN: Duration = Duration::from_secs(1);
