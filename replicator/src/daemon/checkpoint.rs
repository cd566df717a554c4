//! What a node knows outlives it, if it is stopped in order: on the way down it keeps what it knows and what every file looks like, on the
//! way up it finds by that what was changed in between.
//!
//! Down, no change may fall between two stools. One that is made before a file was looked at is told by the tracer or by fanotify, which
//! both go on until all files were looked at and are then emptied once more. One that is made later shows in the file's times at the next start.
//!
//! Up, a primary looks in the background, while the application is at work already: whatever it finds is compared, be it an old change or
//! one of this moment, and nobody is connected to before it has seen all. A secondary, of which nobody should change
//! anything, goes on only if nothing was changed.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context;
use replicator_core::event::Event;
use replicator_core::ids::{FileId, FileKind};
use tracing::{info, warn};

use super::mailbox::Mailbox;
use super::message::Message;
use crate::config::Role;
use crate::storage::checkpoint::{NodeCheckpoint, VolumeCheckpoint};
use crate::storage::replica::{CopiedFile, Replica};
use crate::storage::state::NodeState;
use crate::storage::survey::{Fingerprints, Seen, Sight, survey};
use crate::volume::Volume;

/// When so many files look different, to compare everything takes less memory than to remember them.
const DIFFERENT_MAX: usize = 65_536;
/// What was changed within this time before a look is taken for changed (`storage::survey`): who was at work until the stop has this long to
/// become old.
const CALM: Duration = Duration::from_millis(60);

/// Stands for all that must be the same for a checkpoint to be of use. Whether the files are, their fingerprints tell; the numbers of
/// devices may be others after each mount.
pub fn identity(role: Role, state: &NodeState, volumes: &[Arc<Volume>]) -> [u8; 32] {
    of_all(role, &state.encode(), volumes)
}

/// The same of what outlives a crash: the state goes on while the node runs.
pub fn lasting_identity(role: Role, state: &NodeState, volumes: &[Arc<Volume>]) -> [u8; 32] {
    of_all(role, &[state.cluster, state.node].concat(), volumes)
}

fn of_all(role: Role, state: &[u8], volumes: &[Arc<Volume>]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(role.to_string().as_bytes());
    hasher.update(state);
    for volume in volumes {
        hasher.update(&volume.root_inode.to_le_bytes());
        let patterns = volume.patterns().map(crate::patterns::Patterns::digest);
        hasher.update(&patterns.unwrap_or_default());
    }
    *hasher.finalize().as_bytes()
}

/// Look at all files, when nothing is written to them any more.
///
/// # Errors
/// What the system returns, or [`io::ErrorKind::Interrupted`]: there is no checkpoint then.
pub fn look(volumes: &[Arc<Volume>], cancelled: &AtomicBool) -> io::Result<Vec<Fingerprints>> {
    // What a power cut takes back must not look like what was seen.
    volumes.iter().try_for_each(|volume| volume.sync())?;
    thread::sleep(CALM);
    volumes.iter().map(|volume| Fingerprints::take(volume, cancelled)).collect()
}

/// A node that finds out, in the background, what was changed while it was stopped. It posts [`Message::Prepared`].
pub struct Preparation {
    thread: Option<JoinHandle<()>>,
    cancelled: Arc<AtomicBool>,
}

impl Preparation {
    /// Of a primary: what was changed is told to the data plane like any other change that nobody captured. `doubtful`: files that are compared
    /// whatever they look like.
    pub fn of_primary(
        volumes: Vec<Arc<Volume>>,
        former: Vec<Fingerprints>,
        doubtful: HashSet<FileId>,
        mailbox: Arc<Mailbox<Message>>,
    ) -> anyhow::Result<Preparation> {
        Preparation::start(mailbox, move |cancelled, mailbox| {
            let mut different = 0;
            for (volume, former) in volumes.iter().zip(&former) {
                let survey = Survey { volume, former, doubtful: &doubtful, cancelled, mailbox };
                different += survey.tell_changes(DIFFERENT_MAX - different)?;
            }
            info!(different, "files that were changed while the node was stopped");
            Ok(())
        })
    }

    /// Of a secondary: the replica takes over which file is the copy of which, if all of them are as they were left.
    pub fn of_secondary(
        volumes: Vec<Arc<Volume>>,
        kept: Vec<VolumeCheckpoint>,
        replica: Arc<Replica>,
        mailbox: Arc<Mailbox<Message>>,
    ) -> anyhow::Result<Preparation> {
        Preparation::start(mailbox, move |cancelled, _| {
            let files: Vec<Vec<CopiedFile>> = volumes
                .iter()
                .zip(&kept)
                .map(|(volume, kept)| unchanged_copies(volume, kept, cancelled))
                .collect::<io::Result<_>>()?;
            for ((volume, kept), files) in volumes.iter().zip(kept).zip(files) {
                replica.restore(volume, files, kept.copies.deleted);
            }
            Ok(())
        })
    }

    fn start(
        mailbox: Arc<Mailbox<Message>>,
        work: impl FnOnce(&AtomicBool, &Mailbox<Message>) -> io::Result<()> + Send + 'static,
    ) -> anyhow::Result<Preparation> {
        let cancelled = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&cancelled);
        let work = move || {
            let began = Instant::now();
            let result = work(&seen, &mailbox);
            match &result {
                Ok(()) => info!(took = ?began.elapsed(), "the node goes on from its checkpoint"),
                Err(error) => warn!(%error, "the checkpoint does not hold: everything will be compared"),
            }
            mailbox.post_urgent(Message::Prepared { holds: result.is_ok() });
        };
        let thread = thread::Builder::new().name("survey".to_owned()).spawn(work);
        Ok(Preparation { thread: Some(thread.context("start the survey")?), cancelled })
    }
}

impl Drop for Preparation {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// What can be gone on from of a checkpoint that was found; `None`, with a word why, if it does not fit.
pub fn fitting(found: Option<NodeCheckpoint>, identity: [u8; 32], volumes: usize) -> Option<NodeCheckpoint> {
    let found = found?;
    if found.identity == identity && found.volumes.len() == volumes {
        return Some(found);
    }
    info!("the checkpoint is of another state or configuration of this node: everything will be compared");
    None
}

/// A look at a volume of a primary.
struct Survey<'a> {
    volume: &'a Volume,
    former: &'a Fingerprints,
    doubtful: &'a HashSet<FileId>,
    cancelled: &'a AtomicBool,
    mailbox: &'a Mailbox<Message>,
}

impl Survey<'_> {
    fn tell(&self, event: Event) {
        self.mailbox.post(Message::Answer(event));
    }

    /// Tell of files that do not look as they did, and of those that are not there any more. Returns how many.
    fn tell_changes(&self, most: usize) -> io::Result<usize> {
        let (volume, former) = (self.volume, self.former);
        let mut found = vec![false; former.len()];
        let mut different = 0;
        let mut listed = None;
        let mut list = |directory| {
            if listed.replace(directory) != Some(directory) {
                self.tell(Event::DirectoryChanged { directory: volume.file(directory) });
            }
        };
        survey(volume, self.cancelled, &mut |sight| {
            let Seen { directory, inode, kind, fingerprint, .. } = match sight {
                Sight::File(seen) => seen,
                // Covers what was part of the tree, perhaps.
                Sight::Foreign(directory) => return list(directory),
            };
            // New, or something was mounted over it, which changes no time.
            let Some(position) = former.position(inode) else { return list(directory) };
            if let Some(found) = found.get_mut(position) {
                *found = true;
            }
            let file = volume.file(inode);
            if former.matches(position, fingerprint) || self.doubtful.contains(&file) {
                return;
            }
            different += 1;
            if different <= most {
                self.tell_change(file, kind);
            }
        })?;
        // Gone, or moved past the survey.
        for ((inode, _), _) in former.iter().zip(found).filter(|(_, found)| !found) {
            different += 1;
            if different <= most {
                self.tell(Event::CaptureLost { file: volume.file(inode) });
            }
        }
        if different > most {
            return Err(io::Error::other("too many files were changed while the node was stopped"));
        }
        Ok(different)
    }

    fn tell_change(&self, file: FileId, kind: FileKind) {
        match kind {
            FileKind::Regular => self.tell(Event::CaptureLost { file }),
            FileKind::Directory => {
                self.tell(Event::DirectoryChanged { directory: file });
                self.tell(Event::AttributesChanged { file });
            }
            _ => self.tell(Event::AttributesChanged { file }),
        }
    }
}

/// The copies that a secondary left, all of which are there and as they were; nothing else is.
fn unchanged_copies(
    volume: &Volume,
    kept: &VolumeCheckpoint,
    cancelled: &AtomicBool,
) -> io::Result<Vec<CopiedFile>> {
    let mut found = vec![false; kept.fingerprints.len()];
    let mut changed = None;
    let mut files = Vec::with_capacity(kept.copies.files.len());
    survey(volume, cancelled, &mut |sight| {
        // What is covered by something else is missed below.
        let Sight::File(Seen { inode, kind, handle, fingerprint, .. }) = sight else { return };
        let position = kept.fingerprints.position(inode);
        match position.filter(|position| kept.fingerprints.matches(*position, fingerprint)) {
            Some(position) => {
                let first = found.get_mut(position).is_some_and(|found| !std::mem::replace(found, true));
                let copy = kept.copies.files.binary_search_by_key(&inode, |(inode, _)| *inode);
                let copy = copy.ok().and_then(|at| kept.copies.files.get(at)).filter(|_| first);
                files.extend(copy.map(|(_, original)| CopiedFile {
                    original: *original,
                    inode,
                    kind,
                    handle,
                }));
            }
            None => changed = Some(inode),
        }
    })?;
    let missing = found.iter().filter(|found| !**found).count();
    if let Some(inode) = changed {
        return Err(io::Error::other(format!(
            "the copy was changed while the node was stopped (inode {inode})"
        )));
    }
    if missing > 0 || files.len() != kept.copies.files.len() {
        return Err(io::Error::other("files of the copy are gone that were there when the node was stopped"));
    }
    Ok(files)
}
