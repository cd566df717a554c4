//! Changes that others than this process make on the file systems of the volumes: behind the gate, by another mount, a
//! descriptor or a working directory from before the gate, a container's bind mount.
//!
//! Everything that comes through the gate is done by this process, so whatever fanotify(7) tells of another one has passed by
//! the gate. (But for the closing of files, and for privileges that a write takes away: the kernel does both in the
//! application's context, also through passthrough.)
//!
//! Only this module knows fanotify. It does not know the gate, the tracer or the daemon: it hands out [`Change`]s. Each is told
//! *after* it happened and says only where to look: what is there is read by whoever is told.
//!
//! [`local_changes`] is the same for a secondary's copy, where nobody else is to change anything.
//!
//! What it cannot see: bytes (but where the gate moves all bytes itself), and calls that tell nobody but who asks for each
//! single write or read: one of both times set alone, and truncation, by path. Those who do so by a descriptor are told of
//! when they close it.

mod event;
mod group;
pub mod local_changes;
mod reader;

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use nix::sys::eventfd::{EfdFlags, EventFd};
use replicator_core::ids::FileId;

use group::Group;
use reader::Reader;

use crate::volume::Volume;

/// Something that was done behind the gate.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Change {
    /// A name in this directory was made, taken away or given to another file.
    Names {
        /// The directory.
        directory: FileId,
        /// The name.
        name: Vec<u8>,
    },
    /// This file, of any kind, got another name, or came in from outside: whatever happened to it, or below it, while it was outside
    /// was not told.
    Moved {
        /// The file.
        file: FileId,
    },
    /// Mode, owner, times, number of names or extended attributes were set.
    Attributes {
        /// The file.
        file: FileId,
    },
    /// A file that was open for writing was closed, possibly through the gate.
    Closed {
        /// The file.
        file: FileId,
    },
    /// Bytes were written. Told only with [`Options::content`].
    Content {
        /// The file.
        file: FileId,
    },
    /// Any number of changes were not told.
    Lost,
    /// As [`Change::Lost`], and nothing more will be told.
    Ended,
}

/// How many events may wait in the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Queue {
    /// `fs.fanotify.max_queued_events`; those beyond are [`Change::Lost`].
    #[default]
    Bounded,
    /// As many as memory holds.
    Unbounded,
}

/// What to be told of.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Options {
    /// Writes too: each write by anybody is an event then.
    pub content: bool,
    /// How many may wait.
    pub queue: Queue,
}

/// Why changes behind the gate are not told.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// The kernel has no group of this kind for this process.
    #[error("no fanotify by handle and name ({0}); it needs Linux 5.17 and CAP_SYS_ADMIN")]
    Group(#[source] io::Error),
    /// The file system cannot be watched.
    #[error("the kernel does not watch {filesystem}: {source}")]
    Mark {
        /// The file system.
        filesystem: String,
        /// Why not.
        source: io::Error,
    },
    /// No thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
}

/// Receives what was done, in batches: each change once, in the order of their first mention.
pub type Receiver = Box<dyn FnMut(Vec<Change>) + Send>;

/// A watched file system whose events wait in the kernel until somebody reads them ([`Watched::start`]).
#[derive(Debug)]
pub struct Watched {
    group: Group,
    volumes: Vec<Arc<Volume>>,
}

/// Watch the file systems of these volumes: from the return on no change goes unnoticed.
///
/// # Errors
/// [`NotifyError`]; then nothing is watched.
pub fn watch(volumes: &[Arc<Volume>], options: Options) -> Result<Vec<Watched>, NotifyError> {
    let mut watched: Vec<Watched> = Vec::new();
    for volume in volumes {
        let known = watched.iter_mut().find(|other| {
            other.volumes.first().is_some_and(|first| first.kernel_device == volume.kernel_device)
        });
        if let Some(known) = known {
            known.volumes.push(Arc::clone(volume));
            continue;
        }
        let group = Group::new(options.queue).map_err(NotifyError::Group)?;
        let content = if options.content { libc::FAN_MODIFY } else { 0 };
        group
            .mark(volume.root(), reader::MASK | content)
            .map_err(|source| NotifyError::Mark { filesystem: volume.filesystem.clone(), source })?;
        watched.push(Watched { group, volumes: vec![Arc::clone(volume)] });
    }
    Ok(watched)
}

/// Whether this process can have a group that tells by handle and name.
///
/// # Errors
/// [`NotifyError::Group`].
pub fn probe() -> Result<(), NotifyError> {
    Group::new(Queue::Bounded).map(drop).map_err(NotifyError::Group)
}

/// Hands out what is told until it is dropped.
#[derive(Debug)]
pub struct Notifier {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watched {
    /// Hand out what was told since [`watch`], and what is told from now on, from a thread of its own.
    ///
    /// # Errors
    /// [`NotifyError::Thread`].
    pub fn start(self, receive: Receiver) -> Result<Notifier, NotifyError> {
        let stop = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|error| NotifyError::Thread(error.into()))?;
        let stop = Arc::new(stop);
        let seen = Arc::clone(&stop);
        let reader = Reader::new(self.group, self.volumes, receive);
        let thread = thread::Builder::new()
            .name("notify".to_owned())
            .spawn(move || reader.run(seen.as_fd()))
            .map_err(NotifyError::Thread)?;
        Ok(Notifier { stop, thread: Some(thread) })
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        if self.stop.write(1).is_ok()
            && let Some(thread) = self.thread.take()
        {
            // It has said what it had to say.
            let _ = thread.join();
        }
    }
}
