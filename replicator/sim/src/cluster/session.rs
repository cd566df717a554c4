//! Sessions between a primary and a secondary: frames in order, until some point.

use replicator_core::lineage::Lineage;
use replicator_core::reunion::{self, Side};

use super::node::copy_of;
use super::world::{Happening, MS, SECOND, World};

/// A peer that is silent for so long is gone.
const DEAD: u64 = 3 * SECOND;

/// A connection.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    /// Nothing arrives after that.
    pub cut: Option<u64>,
    /// When the last frame arrives, to either node: they keep their order.
    last: [u64; 2],
}

/// Where a session stands, at either end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Primary: callers are answered as before.
    Scanning,
    /// Primary: it is put on record that it is not alone; callers are held.
    Exposing,
    /// Primary: the peer may take itself for up to date.
    EndSent,
    /// Primary: that both hold the same is put on record.
    Recording,
    /// Primary: both hold the same.
    Done,
    /// Secondary: that the copy is not whole is put on record.
    Beginning,
    /// Secondary: it is being brought up to date.
    Receiving,
    /// Secondary: that it is up to date is put on record.
    Ending,
    /// Secondary: both hold the same.
    Following,
}

/// A frame.
#[derive(Clone, Debug)]
pub enum Message {
    End { lineage: Box<Lineage>, data: Vec<u64> },
    EndDone,
    Write(u64),
    WriteDone(u64),
}

impl World {
    /// A primary without a session tries to have one.
    pub(super) fn dial(&mut self, node: usize, run: u64) {
        if self.nodes[node].process.as_ref().is_none_or(|process| process.run != run) {
            return;
        }
        let pause = self.between(100 * MS, 400 * MS);
        self.after(pause, Happening::Dial { node, run });
        let Some(process) = &self.nodes[node].process else { return };
        let peer = 1 - node;
        let settled = process.wanted == process.durable && process.pending.is_none() && !process.uncertain;
        let waits = process.session.is_some() || process.deposed.is_some() || !settled;
        if waits || !self.link || !self.nodes[peer].runs() {
            return;
        }
        let (mine, term) = (copy_of(&process.durable, true).account, process.durable.term);
        let Some(other) = self.nodes[peer].process.as_ref().filter(|other| !other.is_primary()) else {
            return;
        };
        if other.pending.is_some() || other.uncertain {
            return;
        }
        if other.durable.term > term {
            let theirs = other.durable.term;
            self.say(|_| format!("{node}: deposed by {theirs}"));
            if let Some(process) = &mut self.nodes[node].process {
                process.deposed = Some(theirs);
            }
            return self.advance(node);
        }
        let theirs = copy_of(&other.durable, false).account;
        let agreed = reunion::decide(&mine, &theirs).source == Some(Side::Here);
        // Where both may go on, or somebody forced it, the one that became a secondary is overwritten; what only it has is kept aside.
        let overrules = self.checks.histories_may_part();
        if !agreed && !overrules {
            self.say(|_| format!("{node}: refused, {mine:?} and {theirs:?}"));
            return;
        }
        self.open(node, overrules && !agreed);
    }

    fn open(&mut self, node: usize, overrules: bool) {
        let (peer, session) = (1 - node, self.number());
        self.stats.sessions += 1;
        if let Some((old, _)) = self.nodes[peer].process.as_ref().and_then(|process| process.session) {
            self.session_gone(peer, old);
        }
        let (Some(process), now) = (&mut self.nodes[node].process, self.now) else { return };
        process.session = Some((session, Stage::Scanning));
        process.was_alone = process.wanted.alone;
        process.outstanding.iter_mut().for_each(|(_, confirmed)| *confirmed = false);
        let term = process.durable.term;
        self.sessions.insert(session, Session { cut: None, last: [now; 2] });
        self.say(|_| format!("{node}: session {session}, term {term}, overrules {overrules}"));
        if let Some(other) = &mut self.nodes[peer].process {
            other.session = Some((session, Stage::Beginning));
            other.wanted.data = replicator_core::action::DataState::Inconsistent;
            other.wanted.alone = false;
            other.wanted.term = other.wanted.term.max(term);
            if overrules && !other.wanted.lineage.current.is_none() {
                other.wanted.lineage.give_up();
            }
        }
        if overrules {
            self.stats.kept_aside += 1;
            self.checks.durable.kept_aside(&self.nodes[peer].disk.data, &self.nodes[node].disk.data);
        }
        let long = self.random.chance(20) && !self.calm;
        let span = if long { self.between(SECOND, 8 * SECOND) } else { self.between(20 * MS, 900 * MS) };
        self.after(span, Happening::Resynced { node, session });
        self.advance(node);
        self.advance(peer);
    }

    /// All is sent but what comes now.
    pub(super) fn resynced(&mut self, node: usize, session: u64) {
        let works = self.sessions.get(&session).is_some_and(|session| session.cut.is_none());
        let receives =
            |process: &super::mirror::Process| process.session == Some((session, Stage::Receiving));
        let peer = self.nodes[1 - node].runs() && self.nodes[1 - node].process.as_ref().is_some_and(receives);
        let Some(process) = &mut self.nodes[node].process else { return };
        if process.session != Some((session, Stage::Scanning)) {
            return;
        }
        if !works || !peer {
            return self.after(100 * MS, Happening::Resynced { node, session });
        }
        process.session = Some((session, Stage::Exposing));
        if self.sabotage != super::saboteur::Sabotage::AloneStays {
            process.wanted.alone = false;
        }
        self.advance(node);
    }

    /// A write that comes after the end of the resync goes to the peer.
    pub(super) fn replicate(&mut self, node: usize, number: u64) {
        let session = self.nodes[node].process.as_ref().and_then(|process| process.session);
        if let Some((session, Stage::EndSent | Stage::Recording | Stage::Done)) = session {
            self.send(node, session, Message::Write(number));
        }
    }

    pub(super) fn send(&mut self, node: usize, session: u64, message: Message) {
        let delay = self.between(MS / 10, 8 * MS);
        let to = 1 - node;
        let Some(open) = self.sessions.get_mut(&session) else { return };
        let at = (self.now + delay).max(open.last[to] + 1);
        open.last[to] = at;
        if open.cut.is_none_or(|cut| at <= cut) {
            self.at(at, Happening::Message { to, session, message });
        }
    }

    pub(super) fn message(&mut self, to: usize, session: u64, message: Message) {
        let Some(process) = &mut self.nodes[to].process else { return };
        let Some((open, stage)) = process.session.filter(|(open, _)| *open == session) else { return };
        match (message, stage) {
            (Message::End { lineage, data }, Stage::Receiving) => {
                process.session = Some((open, Stage::Ending));
                process.wanted.lineage.adopt(&lineage);
                process.wanted.data = replicator_core::action::DataState::UpToDate;
                (process.wanted.crashed, process.wanted.lost) = (false, false);
                self.nodes[to].disk.data = data;
            }
            (Message::EndDone, Stage::EndSent) => {
                process.session = Some((open, Stage::Recording));
                process.wanted.lineage.share();
                process.wanted.alone = false;
                (process.wanted.crashed, process.wanted.lost) = (false, false);
            }
            (Message::Write(number), Stage::Ending | Stage::Following) => {
                let term = process.wanted.term;
                self.nodes[to].disk.data.push(number);
                // Who confirms lets the primary answer: it counts as its answer, at this moment.
                let one = self.checks.one_acknowledger.acts(1 - to, term, "is confirmed");
                self.check(one);
                self.send(to, session, Message::WriteDone(number));
            }
            (Message::WriteDone(number), Stage::EndSent | Stage::Recording | Stage::Done) => {
                process.outstanding.iter_mut().for_each(|(one, done)| *done |= *one == number);
            }
            _ => {}
        }
        self.advance(to);
    }

    // ---- ends -----------------------------------------------------------------------------------------------

    /// A node sees that the session is over.
    pub(super) fn session_gone(&mut self, node: usize, session: u64) {
        let Some(process) = &mut self.nodes[node].process else { return };
        let Some((_, stage)) = process.session.take_if(|(open, _)| *open == session) else { return };
        let (wanted, now) = (&mut process.wanted, self.now);
        if !self.nodes[node].daemon.as_ref().is_some_and(|daemon| daemon.heart.alive) {
            self.checks.no_flap.reason();
        }
        if stage == Stage::Exposing && process.was_alone {
            // The peer was not told that it is up to date.
            wanted.alone = true;
        }
        if !process.is_primary() && process.wanted.data == replicator_core::action::DataState::UpToDate {
            process.wanted.data = replicator_core::action::DataState::Consistent;
        }
        if let Some(open) = self.sessions.get_mut(&session) {
            open.cut.get_or_insert(now);
        }
        self.say(|_| format!("{node}: session {session} is over in {stage:?}"));
        self.notice(1 - node, session);
        self.advance(node);
    }

    /// The other end sees it some time, too.
    fn notice(&mut self, node: usize, session: u64) {
        let soon = self.link && self.nodes[1 - node].runs() && self.random.chance(80);
        let delay = if soon { self.between(MS / 2, 30 * MS) } else { self.between(DEAD, DEAD + 500 * MS) };
        self.after(delay, Happening::Gone { node, session });
    }

    /// A node leaves without a word (`silent`), or with one.
    pub(super) fn leave_session(&mut self, node: usize, session: u64, silent: bool) {
        if let Some(open) = self.sessions.get_mut(&session) {
            open.cut.get_or_insert(self.now + if silent { 0 } else { 10 * MS });
        }
        if silent {
            self.after(DEAD, Happening::Gone { node: 1 - node, session });
        } else {
            self.notice(1 - node, session);
        }
    }

    /// The link breaks: each end sees it at its own time, or the other's end.
    pub(super) fn cut_link(&mut self, span: u64) {
        self.link = false;
        self.cuts += 1;
        self.after(span, Happening::LinkUp { cut: self.cuts });
        let grace = self.below(5 * MS);
        let open: Vec<u64> = self
            .sessions
            .iter()
            .filter(|(_, open)| open.cut.is_none())
            .map(|(session, _)| *session)
            .collect();
        for session in open {
            if let Some(open) = self.sessions.get_mut(&session) {
                open.cut = Some(self.now + grace);
            }
            for node in 0..2 {
                let delay = self.between(MS, DEAD + 500 * MS);
                self.after(delay, Happening::Gone { node, session });
            }
        }
        let kept = self.now.saturating_sub(20 * SECOND);
        self.sessions.retain(|_, session| session.cut.is_none_or(|cut| cut > kept));
    }

    pub(super) fn link_up(&mut self, cut: u64) {
        self.link |= cut == self.cuts;
    }

    /// A paused node is silent: the peer gives the session up if that takes too long.
    pub(super) fn silent_end(&mut self, node: usize, span: u64) {
        let session = self.nodes[node].process.as_ref().and_then(|process| process.session);
        if let Some((session, _)) = session.filter(|_| span > DEAD) {
            self.after(DEAD, Happening::Gone { node: 1 - node, session });
        }
    }
}
