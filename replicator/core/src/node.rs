//! The one place where the core meets the world.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::action::{Action, StateRecord};
use crate::activity::{Activity, Named};
use crate::checkpoint::Checkpoint;
use crate::config::{PrimaryConfig, SecondaryConfig};
use crate::event::Event;
use crate::ids::{FileId, Time};
use crate::lineage::GenerationId;
use crate::primary::Primary;
use crate::primary::activity::Doubtful;
use crate::recovery::Recovered;
use crate::resume::StreamId;
use crate::secondary::Secondary;
use crate::snapshot::Snapshot;
use crate::succession::{Inheritance, Legacy};

/// A node of the mirror: events in, actions out.
///
/// The caller keeps these rules:
/// * `now` never goes back, and [`Node::handle`] is called with [`Event::Tick`] when [`Node::next_deadline`] is reached.
/// * Actions are carried out in the order given. Those that name an answer get exactly one, also when the session they
///   belong to is gone by then.
/// * Payloads of received frames are kept until their `Applied` was given, also when the session is lost or closed: what a
///   peer may take for received is applied. Only after `CloseSession` for `LocalFailure` or `StaleTerm`, which may also
///   name a session that was lost before, no further `Apply` of that session is ordered.
/// * Captured changes are given to the core before a `SyncRequested` that came after them.
#[derive(Debug)]
pub struct Node {
    role: Role,
}

#[derive(Debug)]
enum Role {
    Primary(Box<Primary>),
    Secondary(Box<Secondary>),
}

impl Node {
    /// A node that runs the application, with the record as it was last made durable. Its first call of
    /// [`Node::handle`] (a `Tick`) begins to connect.
    #[must_use]
    pub fn primary(config: PrimaryConfig, record: StateRecord, now: Time) -> Node {
        Node { role: Role::Primary(Box::new(Primary::new(config, record, now))) }
    }

    /// A node that receives, with the record as it was last made durable.
    #[must_use]
    pub fn secondary(config: SecondaryConfig, record: StateRecord, now: Time) -> Node {
        Node { role: Role::Secondary(Box::new(Secondary::new(config, record, now))) }
    }

    /// Take in one event and append the orders that follow from it. Never fails and never panics: an event that makes
    /// no sense for the role or the moment is ignored where it is harmless, and closes the session where a peer sent it.
    pub fn handle(&mut self, now: Time, event: Event, actions: &mut Vec<Action>) {
        match &mut self.role {
            Role::Primary(primary) => primary.handle(now, event, actions),
            Role::Secondary(secondary) => secondary.handle(now, event, actions),
        }
    }

    /// When `handle` is to be called with a `Tick` if nothing happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        match &self.role {
            Role::Primary(primary) => primary.next_deadline(),
            Role::Secondary(secondary) => secondary.next_deadline(),
        }
    }

    /// Where the node stands. Costs time in the number of files with marks: for a status once in a while.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        match &self.role {
            Role::Primary(primary) => primary.snapshot(),
            Role::Secondary(secondary) => secondary.snapshot(),
        }
    }

    /// Go on from what an earlier run of this node knew. To be called before anything else. What has changed between the two runs
    /// is to be told, before a session is opened, as if it was captured now; if that cannot be done, [`Event::Untold`] or
    /// [`Event::CopyChanged`] is. That of another role is worth nothing.
    pub fn restore(&mut self, checkpoint: Checkpoint) {
        match (&mut self.role, checkpoint) {
            (Role::Primary(primary), Checkpoint::Primary(checkpoint)) => primary.restore(checkpoint),
            (Role::Secondary(secondary), Checkpoint::Secondary(held)) => secondary.restore(held),
            _ => {}
        }
    }

    /// A primary that was the secondary until now goes on from what it knows of the former primary's copy. To be called before anything else; the
    /// same is to be told as for [`Node::restore`].
    pub fn inherit(&mut self, inheritance: Inheritance) {
        if let Role::Primary(primary) = &mut self.role {
            primary.inherit(inheritance);
        }
    }

    /// A secondary that was the primary until now says what of its copy may differ. To be called before a session is opened; worth nothing after
    /// [`Event::CopyChanged`].
    pub fn leave(&mut self, legacy: Legacy) {
        if let Role::Secondary(secondary) = &mut self.role {
            secondary.leave(legacy);
        }
    }

    /// A secondary goes on from what an earlier run had on record that crashed. To be called before a session is opened; worth nothing after
    /// [`Event::CopyChanged`].
    pub fn recover(&mut self, recovered: Recovered) {
        if let Role::Secondary(secondary) = &mut self.role {
            secondary.recover(recovered);
        }
    }

    /// On a secondary: the stream that a later one may go on from, and the generation on record. While something of the stream is confirmed, the record of which file
    /// is which has to hold all that was ([`crate::recovery`]). With a record of another generation it is worth nothing.
    #[must_use]
    pub fn holds(&self) -> Option<(StreamId, GenerationId)> {
        match &self.role {
            Role::Primary(_) => None,
            Role::Secondary(secondary) => secondary.holds(),
        }
    }

    /// After [`Event::Stop`]: whether all is done that was under way.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        match &self.role {
            Role::Primary(primary) => primary.is_at_rest(),
            Role::Secondary(secondary) => secondary.is_at_rest(),
        }
    }

    /// What the next run may go on from, of a node that is at rest. `None`: nothing, everything is to be compared.
    #[must_use]
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        match &self.role {
            Role::Primary(primary) => primary.checkpoint().map(Checkpoint::Primary),
            Role::Secondary(secondary) => secondary.checkpoint().map(Checkpoint::Secondary),
        }
    }

    /// On a primary: what a later run may go on from if this one crashes, if that can be said now. From then on [`Node::take_news`] says
    /// what has changed in it. To be called right after a [`Event::Tick`] was handled.
    #[must_use]
    pub fn activity(&mut self) -> Option<Activity> {
        match &mut self.role {
            Role::Primary(primary) => primary.activity(),
            Role::Secondary(_) => None,
        }
    }

    /// On a primary: whether both nodes hold everything, and callers wait for the peer.
    #[must_use]
    pub fn is_mirrored(&self) -> bool {
        match &self.role {
            Role::Primary(primary) => primary.is_mirrored(),
            Role::Secondary(_) => false,
        }
    }

    /// Go on from what a run of this primary knew that crashed, as [`Node::restore`] does after an orderly stop.
    pub fn restore_activity(&mut self, activity: &Activity) {
        if let Role::Primary(primary) = &mut self.role {
            primary.restore_activity(activity);
        }
    }

    /// On a primary: the stream of the session, if it may be gone on from.
    #[must_use]
    pub fn stream(&self) -> Option<StreamId> {
        match &self.role {
            Role::Primary(primary) => primary.stream(),
            Role::Secondary(_) => None,
        }
    }

    /// On a primary: whether a file could be settled, or a part of it, that is, whether [`Node::settled`] and [`Node::doubtful`] can say so of any.
    #[must_use]
    pub fn is_at_peace(&self) -> bool {
        match &self.role {
            Role::Primary(primary) => primary.at_peace(),
            Role::Secondary(_) => false,
        }
    }

    /// On a primary: whether the peer has answered all lists that were sent, and what follows from that is marked.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        match &self.role {
            Role::Primary(primary) => primary.is_answered(),
            Role::Secondary(_) => false,
        }
    }

    /// On a primary: of which files the peer has other names than at the last call, and whether it has any.
    #[must_use]
    pub fn take_news(&mut self) -> Vec<(FileId, Named)> {
        match &mut self.role {
            Role::Primary(primary) => primary.take_news(),
            Role::Secondary(_) => Vec::new(),
        }
    }

    /// On a primary: all files and directories that the peer may not hold durably as they are.
    #[must_use]
    pub fn marked_files(&self) -> Vec<FileId> {
        match &self.role {
            Role::Primary(primary) => primary.marked_files().collect(),
            Role::Secondary(_) => Vec::new(),
        }
    }

    /// On a primary: what the peer has of the file's names, if all that was told of the file before the last [`Event::Tick`] is durable there.
    #[must_use]
    pub fn settled(&self, file: FileId) -> Option<Named> {
        match &self.role {
            Role::Primary(primary) => primary.settled(file),
            Role::Secondary(_) => None,
        }
    }

    /// On a primary without a peer: what of a file the peer may not hold, if it is known to hold all else durably.
    #[must_use]
    pub fn doubtful(&self, file: FileId) -> Option<Doubtful> {
        match &self.role {
            Role::Primary(primary) => primary.doubtful(file),
            Role::Secondary(_) => None,
        }
    }

    /// Whether the primary has a mark of any kind for the file: the peer may not hold its state durably.
    #[must_use]
    pub fn is_marked(&self, file: FileId) -> bool {
        match &self.role {
            Role::Primary(primary) => primary.is_marked(file),
            Role::Secondary(_) => false,
        }
    }
}
