//! An orderly stop of the data plane, step by step.
//!
//! ```text
//!  Draining --the peer has what is left--> Resting --nothing under way--> Looking --all files were looked at--> ended, with a checkpoint
//!     |                                       |---- a secondary that may be promoted -----> ended, with what the next primary is to know
//!     `------------- limit -----------------> `------------ limit, or nothing to go on from ------------------> ended, without
//! ```

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use replicator_core::checkpoint::Checkpoint;
use replicator_core::event::Event;
use tracing::{info, warn};

use super::checkpoint::look;
use super::engine::{Engine, Role};
use super::message::{Message, Next};
use crate::storage::checkpoint::VolumeCheckpoint;
use crate::storage::succession::{Moment, UNSURE};
use crate::storage::survey::Fingerprints;

/// An orderly stop waits this long for the secondary to take what is left, and then as long for what is under way here.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// What all files look like is not looked for longer than this; a service manager waits longer (systemd: 90 s).
const LOOK_LIMIT: Duration = Duration::from_secs(30);

/// A node that is told to stop.
pub struct Ending {
    step: Step,
    since: Instant,
    /// What tells of changes that others make.
    watch: Box<dyn Send>,
    next: Next,
    /// What the files look like.
    found: Option<io::Result<Vec<Fingerprints>>>,
    cancelled: Arc<AtomicBool>,
    /// There is a checkpoint.
    kept: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Draining,
    Resting,
    Looking,
    Ended,
}

impl<R: Role> Engine<R> {
    pub(super) fn on_stop(&mut self, watch: Box<dyn Send>, next: Next) {
        if self.core.ending.is_some() {
            return;
        }
        // What was not looked at yet cannot be vouched for.
        let next = if self.core.preparing.is_none() { next } else { Next::Anew };
        let (step, since) = (Step::Draining, Instant::now());
        self.core.ending =
            Some(Ending { step, since, watch, next, found: None, cancelled: Arc::default(), kept: false });
        self.role.stop(&mut self.core);
    }

    /// Take the next step of an orderly stop; whether it was the last.
    pub(super) fn has_ended(&mut self) -> bool {
        let Some(Ending { step, since, next, found, .. }) = &mut self.core.ending else { return false };
        let (waited, next, found) = (since.elapsed(), *next, found.take());
        match step {
            Step::Draining if self.role.may_stop() || waited >= STOP_LIMIT => {
                self.core.tell(Event::Stop);
                self.settle();
                self.enter(Step::Resting);
            }
            Step::Resting if self.core.node.is_at_rest() => {
                if next == Next::Same && self.core.node.checkpoint().is_some() {
                    self.enter(Step::Looking);
                    self.look();
                } else {
                    if next == Next::Other {
                        self.leave_succession();
                    }
                    self.enter(Step::Ended);
                }
            }
            Step::Resting if waited >= STOP_LIMIT => self.enter(Step::Ended),
            Step::Looking if let Some(found) = found => {
                match found.and_then(|found| self.keep(found)) {
                    Ok(true) => {
                        info!("checkpoint written: the next start compares only what was changed since")
                    }
                    Ok(false) => info!("no checkpoint: the next start compares everything"),
                    Err(error) => warn!(%error, "no checkpoint: the next start compares everything"),
                }
                self.enter(Step::Ended);
            }
            Step::Looking if waited >= LOOK_LIMIT => {
                warn!("there are too many files to look at in time: the next start compares everything");
                self.enter(Step::Ended);
            }
            Step::Draining | Step::Resting | Step::Looking | Step::Ended => {}
        }
        let ended = self.core.ending.as_ref().is_some_and(|ending| ending.step == Step::Ended);
        if ended {
            let kept = self.core.ending.as_ref().is_some_and(|ending| ending.kept);
            // Without a checkpoint the next run goes on as after a crash.
            self.core.settling.set().end(kept);
            self.role.end(next == Next::Same);
        }
        ended
    }

    fn enter(&mut self, step: Step) {
        if let Some(ending) = &mut self.core.ending {
            (ending.step, ending.since) = (step, Instant::now());
            ending.cancelled.store(step == Step::Ended, Ordering::Relaxed);
        }
    }

    /// Have a worker look at all files. Changes are told meanwhile as ever.
    fn look(&self) {
        let Some(ending) = &self.core.ending else { return };
        let (cancelled, mailbox) = (Arc::clone(&ending.cancelled), Arc::clone(&self.core.mailbox));
        let (volumes, tidy) = (self.role.volumes().to_vec(), self.role.tidy());
        self.core.workers.run(move || {
            let found = if tidy() {
                look(&volumes, &cancelled)
            } else {
                Err(io::Error::other("the copy waits for a list of the primary's"))
            };
            mailbox.post_urgent(Message::Surveyed(found));
        });
    }

    pub(super) fn on_surveyed(&mut self, found: io::Result<Vec<Fingerprints>>) {
        // Not to be made use of before the messages that came with it are handled.
        if let Some(ending) = &mut self.core.ending {
            ending.found = Some(found);
        }
    }

    /// On a secondary, which may be the next primary: leave what it knows of the present one's files.
    fn leave_succession(&mut self) {
        // What this node itself changed last is to be old enough to be told from what others change next.
        if let Some(applied) = self.role.last_applied() {
            thread::sleep(UNSURE.saturating_sub(applied.elapsed()));
        }
        // What is changed after this moment shows by its time, and what before was told.
        let Ok(moment) = Moment::now() else { return };
        self.take_what_was_told();
        let (Some(Checkpoint::Secondary(held)), Some(copies)) =
            (self.core.node.checkpoint(), self.role.inheritance())
        else {
            return;
        };
        match self.core.state.leave_succession(self.role.volumes(), moment, held, copies) {
            Ok(()) => {
                info!("if this node is promoted, only what differs is compared when the other comes back")
            }
            Err(error) => warn!(%error, "if this node is promoted, everything will be compared"),
        }
    }

    /// Take in all that was told until now, of which nothing comes any more.
    fn take_what_was_told(&mut self) {
        if let Some(ending) = &mut self.core.ending {
            ending.watch = Box::new(());
        }
        let mut messages = Vec::new();
        self.core.mailbox.take(&mut messages);
        self.role.poll(&mut self.core, true);
        self.settle();
        for message in messages {
            self.on_message(message);
            self.settle();
        }
    }

    /// Keep what this node knows, with all that was told of until every file had been looked at. Whether there is anything to keep.
    fn keep(&mut self, found: Vec<Fingerprints>) -> io::Result<bool> {
        self.take_what_was_told();
        let (Some(core), Some(copies)) = (self.core.node.checkpoint(), self.role.copies()) else {
            return Ok(false);
        };
        let volumes = found
            .into_iter()
            .zip(copies)
            .map(|(fingerprints, copies)| VolumeCheckpoint { fingerprints, copies })
            .collect();
        self.core.state.keep(self.role.volumes(), core, volumes)?;
        if let Some(ending) = &mut self.core.ending {
            ending.kept = true;
        }
        Ok(true)
    }
}
