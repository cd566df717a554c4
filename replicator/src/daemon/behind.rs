//! Changes behind the gate: told to the data plane, and dropped from what the kernel keeps for those who come through the gate.
//!
//! ```text
//!  fanotify --> notify (a thread per file system) --> mailbox --> data plane: marks
//!                        `--> forgetter (a thread): the gate's names and attributes in the kernel
//! ```
//!
//! The forgetter has to wait for operations under way in a directory; the marks do not wait for it.

use std::os::fd::AsFd;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use replicator_core::ids::FileId;
use tracing::{debug, error, info, warn};

use super::mailbox::Mailbox;
use super::message::Message;
use crate::gate::KernelCache;
use crate::notify::{self, Change, Notifier, Options, Watched};
use crate::status::BehindStatus;
use crate::volume::Volume;

/// Watched file systems that nobody reads of yet.
pub struct Unread {
    watched: Vec<Watched>,
    volumes: Vec<Arc<Volume>>,
}

/// Watch, where there is a gate to be passed by: without one the kernel programs capture names and attributes. `row` is that of
/// the capture table. To be called before anything is listed.
pub fn watch(gate: bool, row: &str, volumes: &[Arc<Volume>]) -> (Option<Unread>, BehindStatus) {
    let status = |watched, why: String| BehindStatus { watched, why, ..BehindStatus::default() };
    if !gate {
        return (None, status(false, "the kernel programs see names and attributes".to_owned()));
    }
    // Where the gate moves all bytes itself, nobody else tells of those that others write.
    let options = Options { content: row == "gate", ..Options::default() };
    match notify::watch(volumes, options) {
        Ok(watched) => (Some(Unread { watched, volumes: volumes.to_vec() }), status(true, String::new())),
        Err(error) if row == "fentry" => {
            info!(%error, "changes behind the gate are captured, but seen late through it");
            (None, status(false, error.to_string()))
        }
        Err(error) => {
            warn!(%error, "names and attributes changed behind the gate go unseen until the next comparison");
            (None, status(false, error.to_string()))
        }
    }
}

/// What runs while there is something to be told. Dropping it ends it.
pub struct Behind {
    // Dropped in this order: who fills the forgetter's queue, the queue, the forgetter.
    _notifiers: Vec<Notifier>,
    queue: Option<mpsc::Sender<Change>>,
    waiting: Option<mpsc::Receiver<Change>>,
    forgetter: Option<JoinHandle<()>>,
}

impl Behind {
    /// Tell the data plane what was done since [`watch`], and from now on.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(unread: Unread, mailbox: &Arc<Mailbox<Message>>) -> anyhow::Result<Behind> {
        let (queue, waiting) = mpsc::channel();
        let mut notifiers = Vec::new();
        for watched in unread.watched {
            let (mailbox, volumes, queue) = (Arc::clone(mailbox), unread.volumes.clone(), queue.clone());
            let receive = move |changes: Vec<Change>| {
                tell(&mailbox, &volumes, &changes);
                for change in changes {
                    // Nobody receives any more once the gates are gone.
                    let _ = queue.send(change);
                }
            };
            notifiers.push(watched.start(Box::new(receive))?);
        }
        Ok(Behind { _notifiers: notifiers, queue: Some(queue), waiting: Some(waiting), forgetter: None })
    }

    /// Have the gates, in the order of the volumes, forget what was changed behind them.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn attach(&mut self, caches: Vec<KernelCache>) -> anyhow::Result<()> {
        let Some(waiting) = self.waiting.take() else { return Ok(()) };
        let forget = move || waiting.iter().for_each(|change| forget(&caches, &change));
        self.forgetter = Some(thread::Builder::new().name("forgetter".to_owned()).spawn(forget)?);
        Ok(())
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        self._notifiers.clear();
        self.queue = None;
        if let Some(forgetter) = self.forgetter.take()
            && forgetter.join().is_err()
        {
            error!("the thread that invalidates the kernel's cache broke down");
        }
    }
}

/// The file a change is about; `None`: all.
fn about(change: &Change) -> Option<FileId> {
    match change {
        Change::Names { directory, .. } => Some(*directory),
        Change::Moved { file }
        | Change::Attributes { file }
        | Change::Closed { file }
        | Change::Content { file } => Some(*file),
        Change::Lost | Change::Ended => None,
    }
}

/// Post what is about files that are still known: under the namespace lock, so that a mark on a file that is gone comes before
/// the word that it is.
fn tell(mailbox: &Mailbox<Message>, volumes: &[Arc<Volume>], changes: &[Change]) {
    for volume in volumes {
        let of_volume = |change: &&Change| about(change).is_some_and(|file| file.volume == volume.id);
        let last = changes.iter().rev().filter(of_volume).find_map(|change| path(volume, change));
        let _order = volume.lock_namespace();
        let known = |change: &&Change| about(change).is_some_and(|file| volume.handle(file.inode).is_some());
        let changes: Vec<Change> = changes.iter().filter(of_volume).filter(known).cloned().collect();
        if !changes.is_empty() {
            mailbox.post(Message::Behind { changes, last });
        }
    }
    let all: Vec<Change> = changes.iter().filter(|change| about(change).is_none()).cloned().collect();
    if !all.is_empty() {
        mailbox.post(Message::Behind { changes: all, last: None });
    }
}

/// Where a change was seen, from the volume's root on, for people. A file that was closed was not necessarily changed.
fn path(volume: &Volume, change: &Change) -> Option<String> {
    if matches!(change, Change::Closed { .. }) {
        return None;
    }
    let file = volume.open_file(about(change)?.inode, libc::O_PATH | libc::O_NOFOLLOW).ok()?;
    let mut path = volume.path_from_root(file.as_fd())?;
    if let Change::Names { name, .. } = change {
        path.push(String::from_utf8_lossy(name).as_ref());
    }
    Some(path.display().to_string())
}

fn forget(caches: &[KernelCache], change: &Change) {
    let Some(file) = about(change) else {
        for cache in caches {
            if !cache.invalidate_all() {
                warn!(
                    "changes behind the gate were lost: names that this kernel keeps may be stale for hours"
                );
            }
        }
        return;
    };
    let Some(cache) = caches.get(usize::from(file.volume.0)) else { return };
    debug!(?change, "seen behind the gate");
    match change {
        Change::Names { name, .. } => cache.invalidate_entry(file.inode, name),
        Change::Moved { .. } | Change::Attributes { .. } => cache.invalidate_attributes(file.inode),
        Change::Closed { .. } | Change::Content { .. } => cache.invalidate(file.inode),
        Change::Lost | Change::Ended => {}
    }
}
