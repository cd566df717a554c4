//! What an operator asks for beside what happens by itself: compare this, send what is marked now. It is done when all that was
//! marked by then is durable at the peer.

use alloc::vec::Vec;

use crate::action::DurableScope;
use crate::dirty::WaiterId;
use crate::ids::{FileId, Sequence};
use crate::resume::Beginning;
use crate::snapshot::AskedProgress;
use crate::wire::header::Kind;

use super::Primary;
use super::resync::Resync;
use super::waiter::{Stage, WaitScope};

/// On its way to "all that is marked now is durable at the peer". Ends with the session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flush {
    /// All that was marked gets on its way.
    Sending(WaiterId),
    /// The barrier behind it is not answered.
    Sent(Sequence),
}

/// What was asked for last.
#[derive(Debug)]
pub(super) struct Asked {
    pub progress: AskedProgress,
    flush: Option<Flush>,
}

impl Primary {
    /// The files, of directories all below them, are to be compared; and whatever is marked is to be sent without waiting for more.
    pub(super) fn on_resync_requested(&mut self, number: u64, files: &[FileId]) {
        self.end_asked();
        self.asked = Some(Asked { progress: AskedProgress { number, done: false }, flush: None });
        // A session that began by comparing everything is at it already.
        let compares = self.session.as_ref().is_some_and(|session| session.resync == Resync::Scanning)
            && matches!(self.beginning, Some(Beginning::Compared(_)));
        let files = if compares { &[] } else { files };
        if !files.is_empty() {
            self.names.seen = 0;
            if let Some(session) = &mut self.session {
                (session.files_compared, session.bytes_compared, session.bytes_sent) = (0, 0, 0);
            }
        }
        for &file in files {
            // What has no name at the peer is sent as a whole when it gets one.
            if self.session.is_none() || self.is_known(file) {
                self.compare_all_of(file);
            }
        }
        self.hurry();
    }

    /// Neither marks nor attempts to connect rest any longer.
    fn hurry(&mut self) {
        let now = self.now;
        if self.session.is_none() {
            return self.dial.hurry(now);
        }
        self.queues.settling.iter_mut().for_each(|(due, _)| *due = now);
        let rested = core::mem::take(&mut self.queues.delayed);
        self.queues.delayed = rested.into_iter().map(|(_, file)| (now, file)).collect();
        let mapped = core::mem::take(&mut self.queues.mapped);
        self.queues.mapped = mapped.into_iter().map(|(_, file)| (now, file)).collect();
    }

    /// Begin, in the session that there is, once it is through with what sessions begin with.
    pub(super) fn advance_asked(&mut self) {
        let Some(Asked { progress, flush }) = &self.asked else { return };
        if progress.done || self.session.as_ref().is_none_or(|session| session.resync != Resync::Done) {
            return;
        }
        let flush = match *flush {
            None => self.begin_flush(),
            Some(flush) => self.advance_flush(flush),
        };
        if let Some(asked) = &mut self.asked {
            asked.flush = Some(flush);
        }
    }

    /// The session has ended, or something else was asked for.
    pub(super) fn end_asked(&mut self) {
        if let Some(flush) = self.asked.as_mut().and_then(|asked| asked.flush.take()) {
            self.end_flush(flush);
        }
    }

    /// The barrier at that position was answered.
    pub(super) fn on_asked_done(&mut self, barrier: Sequence) {
        if let Some(asked) = &mut self.asked
            && asked.flush.take_if(|flush| *flush == Flush::Sent(barrier)).is_some()
        {
            asked.progress.done = true;
        }
    }

    pub(super) fn begin_flush(&mut self) -> Flush {
        let epoch = self.new_waiter(WaitScope::Everything);
        self.start_waiter(epoch);
        Flush::Sending(epoch)
    }

    /// Send the barrier as soon as all is on its way.
    pub(super) fn advance_flush(&mut self, flush: Flush) -> Flush {
        if let Flush::Sending(epoch) = flush
            && self.stage_of(epoch) == Some(Stage::Ready)
        {
            self.end_epoch(epoch);
            let scope = DurableScope::Everything;
            if let Some(sent) = self.send_barrier(Kind::Barrier, scope, Vec::new(), false) {
                return Flush::Sent(sent);
            }
        }
        flush
    }

    pub(super) fn end_flush(&mut self, flush: Flush) {
        if let Flush::Sending(epoch) = flush {
            self.remove_waits(epoch);
            self.end_epoch(epoch);
        }
    }
}
