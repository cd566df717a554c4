//! Reading what is marked, for the peer.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use replicator_core::event::{Event, ReadOutcome};
use replicator_core::extent::Extent;
use replicator_core::ids::{Errno, FileId, FileKind, ReadId};
use tracing::debug;

use super::super::engine::Core;
use super::super::message::Message;
use super::{Pending, Primary};
use crate::storage::descriptors::Access;
use crate::storage::{digest, reader};
use crate::uring::{Completion, Full, Shared};

/// Bytes of file content on their way to the peer (being read or queued) beyond which no further read begins.
const READ_AHEAD: u64 = 32 << 20;

/// Largest single read in bytes; the core asks for no more.
const READ_MAX: usize = 1 << 20;

/// A read under way or kept until its frames were queued.
pub(super) enum Held {
    /// Bytes of a file from `start` on.
    Bytes { start: u64, bytes: Shared },
    /// An encoded payload (attributes, digests).
    Payload(Vec<u8>),
}

impl Primary {
    /// Start as many of the ordered reads as memory allows, in order: the core bounds what it sends in the background, but a
    /// barrier's file may have any amount of dirty bytes.
    pub(super) fn start_reads(&mut self, core: &mut Core) {
        while !self.backlog.is_empty()
            && core.ring.room() > 0
            && self.reading + core.queued_bytes() < READ_AHEAD
            && let Some((read, file, extent)) = self.backlog.pop_front()
        {
            self.start_read(core, read, file, extent);
        }
    }

    pub(super) fn start_read(&mut self, core: &mut Core, read: ReadId, file: FileId, extent: Extent) {
        let outcome = match self.open(file, Vec::new()) {
            Ok(descriptor) => {
                self.wait_for_writers(file, &descriptor, extent.start);
                // Not before the writers were waited for: the size is then that of what the mark stands for.
                let length = reader::bytes_to_read(descriptor.as_fd(), extent, READ_MAX);
                let buffer = core.pool.take(length);
                let pending =
                    Pending::Read { read, file: Arc::clone(&descriptor), start: extent.start, length };
                let token = self.pend(pending);
                match core.ring.read(descriptor, extent.start, buffer, token) {
                    Ok(()) => self.reading += length as u64,
                    Err(Full) => {
                        self.pending.remove(&token.0);
                        self.backlog.push_front((read, file, extent));
                    }
                }
                return;
            }
            Err(outcome) => outcome,
        };
        core.tell(Event::ExtentRead { read, outcome });
    }

    /// Kernel programs may tell of a change before it is complete, with the inode locked: new bytes, but the old size. A read
    /// that began in between would miss what the mark stood for. SEEK_DATA takes the lock (see `tracer`), so afterwards the
    /// change is complete; where it leads to does not matter. Once is enough for all reads that the events taken so far give
    /// cause to, and it matters: a writer that meets the lock taken goes to sleep.
    pub(super) fn wait_for_writers(&mut self, file: FileId, descriptor: &OwnedFd, offset: u64) {
        if self.settled.replace(file) != Some(file) {
            let offset = i64::try_from(offset).unwrap_or(i64::MAX);
            let _ = nix::unistd::lseek(descriptor, offset, nix::unistd::Whence::SeekData);
        }
    }

    /// A file's descriptor for reading, or how the read ends without one: `nothing` is what a file without bytes holds.
    pub(super) fn open<T>(&mut self, file: FileId, nothing: T) -> Result<Arc<OwnedFd>, ReadOutcome<T>> {
        let Some(volume) = self.volumes.get(usize::from(file.volume.0)) else {
            return Err(ReadOutcome::Gone);
        };
        self.descriptors
            .get_or_open(file, Access::Read, || reader::open_for_read(volume, file.inode))
            .map_err(|error| {
                if reader::has_no_bytes(&error) { ReadOutcome::Read(nothing) } else { outcome_of(&error) }
            })
    }

    pub(super) fn on_read(
        &mut self,
        core: &mut Core,
        read: ReadId,
        file: &OwnedFd,
        start: u64,
        completion: Completion,
    ) {
        let outcome = match completion.result {
            Err(error) => outcome_of(&error),
            Ok(length) => {
                let bytes = completion.buffer.map_or_else(Shared::default, Shared::from);
                debug_assert_eq!(bytes.len(), length);
                match reader::segments(file.as_fd(), start, &bytes) {
                    Ok(segments) => {
                        self.reads.insert(read, Held::Bytes { start, bytes });
                        ReadOutcome::Read(segments)
                    }
                    Err(error) => outcome_of(&error),
                }
            }
        };
        core.tell(Event::ExtentRead { read, outcome });
    }

    pub(super) fn read_attributes(&mut self, core: &mut Core, read: ReadId, file: FileId) {
        let attributes = match (self.open(file, ()), self.volume(file.volume)) {
            (Ok(descriptor), _) => {
                // Only a regular file has a size that a writer may be about to change.
                self.wait_for_writers(file, &descriptor, 0);
                reader::attributes_of(descriptor.as_fd())
            }
            (Err(_), Some(volume)) => reader::attributes(volume, file.inode),
            (Err(_), None) => return core.tell(Event::AttributesRead { read, outcome: ReadOutcome::Gone }),
        };
        let outcome = match attributes {
            Ok(attributes) => {
                self.reads.insert(read, Held::Payload(attributes.encode(core.version())));
                let regular = FileKind::from_mode(attributes.mode) == Some(FileKind::Regular);
                ReadOutcome::Read(if regular { attributes.size } else { 0 })
            }
            Err(error) => outcome_of(&error),
        };
        core.tell(Event::AttributesRead { read, outcome });
    }

    pub(super) fn read_digests(&mut self, core: &mut Core, read: ReadId, file: FileId, extent: Extent) {
        debug!(%file, ?extent, "is compared");
        let descriptor = match self.open(file, Extent { end: extent.start, ..extent }) {
            Ok(descriptor) => descriptor,
            Err(outcome) => return core.tell(Event::DigestsRead { read, outcome }),
        };
        let mailbox = Arc::clone(&core.mailbox);
        core.workers.run(move || {
            let (outcome, payload) = match digest::digests(descriptor.as_fd(), extent) {
                Ok((payload, digested)) => (ReadOutcome::Read(digested), payload),
                Err(error) => (outcome_of(&error), Vec::new()),
            };
            mailbox.post_urgent(Message::Digests { read, outcome, payload });
        });
    }

    pub(super) fn read_directory(&mut self, core: &mut Core, read: ReadId, directory: FileId) {
        let Some(volume) = self.volume(directory.volume).cloned() else {
            return core.tell(Event::DirectoryRead { read, outcome: ReadOutcome::Gone });
        };
        let mailbox = Arc::clone(&core.mailbox);
        let safe_set = core.safe_set();
        core.workers.run(move || {
            // The peer may lose what the list does not name.
            safe_set.relist(directory);
            // Its end is told before any operation can come that is not in the list.
            let _order = volume.lock_namespace();
            let outcome = {
                let mut emit = |operation| mailbox.post(Message::Namespace(operation));
                match reader::list_directory(&volume, directory.inode, &mut emit) {
                    Ok(doubtful) => {
                        for file in doubtful {
                            mailbox.post(Message::Answer(Event::CaptureLost { file }));
                        }
                        ReadOutcome::Read(())
                    }
                    Err(error) => outcome_of(&error),
                }
            };
            mailbox.post_urgent(Message::Answer(Event::DirectoryRead { read, outcome }));
        });
    }
}

pub(super) fn outcome_of<T>(error: &std::io::Error) -> ReadOutcome<T> {
    match error.raw_os_error() {
        _ if reader::is_gone(error) => ReadOutcome::Gone,
        errno => ReadOutcome::Failed(Errno(errno.unwrap_or(libc::EIO))),
    }
}
