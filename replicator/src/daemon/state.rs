//! Keeps the node's state record durable, off the data-plane thread.

use std::sync::{Arc, Mutex, PoisonError};

use replicator_core::action::StateRecord;
use replicator_core::checkpoint::Checkpoint;
use replicator_core::event::Event;
use replicator_core::ids::{Errno, PersistId};
use replicator_core::resume::Held;
use replicator_core::succession::CopyOf;
use tracing::{error, info};

use super::checkpoint::{identity, succession_identity};
use super::mailbox::Mailbox;
use super::message::Message;
use super::workers::Workers;
use crate::config::Role;
use crate::storage::checkpoint::{NodeCheckpoint, VolumeCheckpoint};
use crate::storage::state::{NodeState, StateDirectory};
use crate::storage::succession::{Moment, Succession};
use crate::volume::Volume;

/// The state file in the hands of the data plane.
pub struct StateKeeper {
    /// One write at a time, in the order in which they were ordered: the newest is numbered.
    file: Arc<Mutex<Ordered>>,
    role: Role,
    next: u64,
}

struct Ordered {
    file: StateDirectory,
    state: NodeState,
    written: u64,
}

impl StateKeeper {
    /// Keep this file; `state` says whose it is.
    pub fn new(file: StateDirectory, state: NodeState, role: Role) -> StateKeeper {
        StateKeeper { file: Arc::new(Mutex::new(Ordered { file, state, written: 0 })), role, next: 1 }
    }

    /// Keep what this node knows for its next run.
    ///
    /// # Errors
    /// What the system says.
    pub fn keep(
        &self,
        volumes: &[Arc<Volume>],
        core: Checkpoint,
        kept: Vec<VolumeCheckpoint>,
    ) -> std::io::Result<()> {
        let ordered = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let identity = identity(self.role, &ordered.state, volumes);
        let checkpoint = NodeCheckpoint { identity, core, volumes: kept };
        ordered.file.store_checkpoint(&checkpoint).map_err(std::io::Error::other)
    }

    /// Leave what a secondary knows for its next run, if that is the primary.
    ///
    /// # Errors
    /// What the system says.
    pub fn leave_succession(
        &self,
        volumes: &[Arc<Volume>],
        moment: Moment,
        held: Held,
        copies: Vec<CopyOf>,
    ) -> std::io::Result<()> {
        let ordered = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let identity = succession_identity(&ordered.state, volumes);
        ordered.file.leave_succession(&Succession { identity, moment, held, copies })
    }

    /// Put an operator's decision on record, on a worker, and only then have it carried out.
    pub fn note_decision(&self, line: String, workers: &Workers, mailbox: &Arc<Mailbox<Message>>) {
        let file = Arc::clone(&self.file);
        let mailbox = Arc::clone(mailbox);
        workers.run(move || {
            let ordered = file.lock().unwrap_or_else(PoisonError::into_inner);
            match ordered.file.note_decision(&line) {
                Ok(()) => {
                    info!(line, "decision recorded");
                    mailbox.post_urgent(Message::Answer(Event::Overrule));
                }
                Err(error) => {
                    error!(%error, line, "cannot record an operator's decision: it is not carried out")
                }
            }
        });
    }

    /// Make the record durable on a worker, which answers with `StatePersisted`. A record that is overtaken by a later one is not
    /// written any more.
    pub fn persist(
        &mut self,
        persist: PersistId,
        record: StateRecord,
        workers: &Workers,
        mailbox: &Arc<Mailbox<Message>>,
    ) {
        let number = self.next;
        self.next += 1;
        let file = Arc::clone(&self.file);
        let mailbox = Arc::clone(mailbox);
        workers.run(move || {
            let mut ordered = file.lock().unwrap_or_else(PoisonError::into_inner);
            let result = if number < ordered.written {
                Ok(())
            } else {
                ordered.state.record = record;
                ordered.file.store(&ordered.state).map_err(|error| {
                    error!(%error, "cannot record the node's state");
                    Errno(libc::EIO)
                })
            };
            if result.is_ok() {
                ordered.written = ordered.written.max(number);
                info!(?record, "state recorded");
            }
            let result: Result<(), Errno> = result;
            mailbox.post_urgent(Message::Answer(Event::StatePersisted { persist, result }));
        });
    }
}
