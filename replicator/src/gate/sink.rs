//! What the gate reports, and to whom.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use replicator_core::event::SyncScope;
use replicator_core::extent::Extent;
use replicator_core::ids::{Errno, FileId};
use replicator_core::wire::namespace::Operation;

/// Receiver of everything the gate sees. Called from the gate's reader threads; must not block on the peer.
pub trait Sink: Send + Sync {
    /// A namespace operation was done. Called with the volume's namespace lock held, in the order of the operations, and
    /// before the caller is answered.
    fn namespace(&self, operation: Operation);

    /// These files are about to be changed: their bytes, their attributes, or, of directories, the names in them. Asked before anything is done and
    /// without the volume's namespace lock; may wait for this node's disk. The change is made and reported while the answer is held; that of a file opened
    /// for writing is held as long as it is open. `made`: they were just made, in a directory that is held; then nothing is waited for.
    ///
    /// # Errors
    /// The request is refused with this errno (the intent could not be made durable).
    fn intend(&self, files: &[FileId], made: bool) -> Result<Intent, Errno>;

    /// A file is about to be opened for writing (or truncated, or mapped), and its intent is held.
    fn open_for_write(&self, file: FileId);

    /// The gate itself changed these bytes (a WRITE it handled, fallocate, truncate, copy_file_range). Called after the system call and
    /// before the caller is answered.
    fn written(&self, file: FileId, extent: Extent);

    /// The gate itself changed mode, owner, times or extended attributes. Called like [`Sink::written`].
    fn attributes(&self, file: FileId);

    /// Last name and last open of a file are gone.
    fn forgotten(&self, file: FileId);

    /// The number was seen to belong to another file than before, of which nobody said that it is gone: it was removed behind
    /// the gate's back. What is known about it is about the former one.
    fn replaced(&self, file: FileId);

    /// Names in this directory changed, and no operation tells how: it was behind the gate's back. A file was found there of which
    /// nobody told, or one that was made is gone. Told before the caller who brought it to light is answered.
    fn names_changed(&self, directory: FileId);

    /// A caller waits for durability. `backing` is a descriptor of the file on the covered file system, on which this
    /// node's own fsync is done. Must return at once; the answer goes through `reply`.
    fn sync(&self, scope: SyncScope, backing: Arc<OwnedFd>, reply: SyncReply);
}

/// Held while files are being changed.
#[must_use]
pub struct Intent {
    _held: Option<Box<dyn Send + Sync>>,
}

impl Intent {
    /// One that ends when this is dropped.
    pub fn new(held: impl Send + Sync + 'static) -> Intent {
        Intent { _held: Some(Box::new(held)) }
    }

    /// One that nobody takes note of.
    pub fn none() -> Intent {
        Intent { _held: None }
    }
}

impl std::fmt::Debug for Intent {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Intent")
    }
}

/// The answer a held caller waits for: from any thread, exactly once. Dropping it unanswered answers EIO, so that no path
/// can forget a caller.
pub struct SyncReply {
    answer: Option<Answer>,
}

type Answer = Box<dyn FnOnce(Result<(), Errno>) + Send>;

impl SyncReply {
    /// A reply that is given by calling this.
    #[must_use]
    pub fn new(answer: impl FnOnce(Result<(), Errno>) + Send + 'static) -> SyncReply {
        SyncReply { answer: Some(Box::new(answer)) }
    }

    /// Let the caller go.
    pub fn answer(mut self, result: Result<(), Errno>) {
        if let Some(answer) = self.answer.take() {
            answer(result);
        }
    }
}

impl Drop for SyncReply {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            answer(Err(Errno(libc::EIO)));
        }
    }
}
