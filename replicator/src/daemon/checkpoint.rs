//! What a node knows outlives it, if it is stopped in order: on the way down it keeps what it knows and what every file looks like, on the
//! way up it finds by that what was changed in between.
//!
//! Down, no change may fall between two stools. One that is made before a file was looked at is told by the tracer or by fanotify, which
//! both go on until all files were looked at and are then emptied once more. One that is made later shows in the file's times at the next start.
//!
//! Up, a primary looks in the background, while the application is at work already: whatever it finds is compared, be it an old change or
//! one of this moment, and nobody is connected to before it has seen all. A secondary, of which nobody should change
//! anything, goes on only if nothing was changed.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context;
use replicator_core::activity::Record;
use replicator_core::event::Event;
use replicator_core::ids::{FileId, FileKind};
use replicator_core::succession::Legacy;
use tracing::{info, warn};

use super::mailbox::Mailbox;
use super::message::{Known, Message};
use super::recovered::recovered;
use crate::config::Role;
use crate::storage::activity::Base;
use crate::storage::checkpoint::NodeCheckpoint;
use crate::storage::register::Recorded;
use crate::storage::replica::{CopiedFile, Copies, Former, Replica};
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

/// The same of what a secondary leaves for a next run as the primary.
pub fn succession_identity(state: &NodeState, volumes: &[Arc<Volume>]) -> [u8; 32] {
    of_all("succession", &state.encode(), volumes)
}

fn of_all(what: impl std::fmt::Display, state: &[u8], volumes: &[Arc<Volume>]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(what.to_string().as_bytes());
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
            tell_changes(&volumes, &former, &doubtful, cancelled, &|event| {
                mailbox.post(Message::Answer(event))
            })?;
            Ok(Known::All)
        })
    }

    /// Of a primary that was the secondary: the same, where only the moment is known at which all was as it should be.
    pub fn of_successor(
        volumes: Vec<Arc<Volume>>,
        former: Vec<Inodes>,
        mailbox: Arc<Mailbox<Message>>,
    ) -> anyhow::Result<Preparation> {
        Preparation::start(mailbox, move |cancelled, mailbox| {
            let tell = |event| mailbox.post(Message::Answer(event));
            tell_changes(&volumes, &former, &HashSet::new(), cancelled, &tell)?;
            Ok(Known::All)
        })
    }

    /// Of a secondary that was the primary: what it left is in doubt, and what was changed since.
    pub fn of_predecessor(
        volumes: Vec<Arc<Volume>>,
        left: Base,
        replica: Arc<Replica>,
        mailbox: Arc<Mailbox<Message>>,
    ) -> anyhow::Result<Preparation> {
        Preparation::start(mailbox, move |cancelled, _| {
            let (former, legacy) = predecessor(&volumes, left, cancelled)?;
            replica.leave(former);
            Ok(Known::Legacy(Box::new(legacy)))
        })
    }

    /// Of a secondary: the replica takes over which file is the copy of which, if all of them are as they were left.
    pub fn of_secondary<L: Looks + Send + 'static>(
        volumes: Vec<Arc<Volume>>,
        kept: Vec<(L, Copies)>,
        replica: Arc<Replica>,
        mailbox: Arc<Mailbox<Message>>,
    ) -> anyhow::Result<Preparation> {
        Preparation::start(mailbox, move |cancelled, _| {
            let files: Vec<Vec<CopiedFile>> = volumes
                .iter()
                .zip(&kept)
                .map(|(volume, (looks, copies))| unchanged_copies(volume, looks, copies, cancelled))
                .collect::<io::Result<_>>()?;
            for ((volume, (_, copies)), files) in volumes.iter().zip(kept).zip(files) {
                replica.restore(volume, files, copies.deleted);
            }
            Ok(Known::All)
        })
    }

    /// Of a secondary that crashed: the replica takes over what is on record, as far as it is still so.
    pub fn of_recovered(
        volumes: Vec<Arc<Volume>>,
        recorded: Recorded,
        replica: Arc<Replica>,
        mailbox: Arc<Mailbox<Message>>,
    ) -> anyhow::Result<Preparation> {
        Preparation::start(mailbox, move |cancelled, _| {
            recovered(&volumes, &recorded, &replica, cancelled).map(Known::Recovered)
        })
    }

    fn start(
        mailbox: Arc<Mailbox<Message>>,
        work: impl FnOnce(&AtomicBool, &Mailbox<Message>) -> io::Result<Known> + Send + 'static,
    ) -> anyhow::Result<Preparation> {
        let cancelled = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&cancelled);
        let work = move || {
            let began = Instant::now();
            let result = work(&seen, &mailbox);
            match &result {
                Ok(_) => info!(took = ?began.elapsed(), "the node goes on from what its last run knew"),
                Err(error) => {
                    warn!(%error, "what the last run knew does not hold: everything will be compared")
                }
            }
            mailbox.post_urgent(Message::Prepared(result.ok()));
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

/// How the files of a volume looked.
pub trait Looks {
    /// Ascending.
    fn inodes(&self) -> impl Iterator<Item = u64>;

    /// Where the file is among them.
    fn position(&self, inode: u64) -> Option<usize>;

    /// Whether the file at that place looks like this now.
    fn is_as_it_was(&self, position: usize, seen: &Seen) -> bool;
}

impl Looks for Fingerprints {
    fn inodes(&self) -> impl Iterator<Item = u64> {
        self.iter().map(|(inode, _)| inode)
    }

    fn position(&self, inode: u64) -> Option<usize> {
        Fingerprints::position(self, inode)
    }

    fn is_as_it_was(&self, position: usize, seen: &Seen) -> bool {
        self.matches(position, seen.fingerprint)
    }
}

/// Files that were as they should be at a moment.
pub struct Inodes {
    /// Ascending.
    pub inodes: Vec<u64>,
    /// What was changed before this is as it was, in nanoseconds.
    pub moment: i128,
}

impl Looks for Inodes {
    fn inodes(&self) -> impl Iterator<Item = u64> {
        self.inodes.iter().copied()
    }

    fn position(&self, inode: u64) -> Option<usize> {
        self.inodes.binary_search(&inode).ok()
    }

    fn is_as_it_was(&self, _: usize, seen: &Seen) -> bool {
        seen.changed < self.moment
    }
}

/// Tell of all files that do not look as they did.
fn tell_changes(
    volumes: &[Arc<Volume>],
    former: &[impl Looks],
    doubtful: &HashSet<FileId>,
    cancelled: &AtomicBool,
    tell: &dyn Fn(Event),
) -> io::Result<()> {
    let mut different = 0;
    for (volume, former) in volumes.iter().zip(former) {
        let survey = Survey { volume, former, doubtful, cancelled, tell };
        different += survey.tell_changes(DIFFERENT_MAX - different, &mut |_| {})?;
    }
    info!(different, "files that were changed while nobody watched");
    Ok(())
}

/// What a former primary's files are, and what of them may differ from the other node's.
fn predecessor(volumes: &[Arc<Volume>], left: Base, cancelled: &AtomicBool) -> io::Result<(Former, Legacy)> {
    let Base { mut activity, fingerprints, .. } = left;
    let wholly = |file: &FileId| activity.is_wholly_doubtful(*file);
    let doubtful: HashSet<FileId> = activity.doubtful().filter(wholly).collect();
    let found = RefCell::new(Vec::new());
    let tell = |event| found.borrow_mut().extend(subject(&event));
    let mut known = Former::default();
    let mut different = 0;
    for (volume, former) in volumes.iter().zip(&fingerprints) {
        let survey = Survey { volume, former, doubtful: &doubtful, cancelled, tell: &tell };
        let mut see = |seen: &Seen| known.see(volume.file(seen.inode), seen.kind, seen.handle.clone());
        different += survey.tell_changes(DIFFERENT_MAX - different, &mut see)?;
    }
    found.take().into_iter().for_each(|file| activity.apply(Record::Intent { file, new: false }));
    let legacy = Legacy::of(&activity, known.files())
        .ok_or_else(|| io::Error::other("too much may differ from the other node"))?;
    known.vouch_for(activity.vouched());
    info!(
        different,
        doubtful = activity.doubts(),
        "this node was the primary: what may differ is told to the new one"
    );
    Ok((known, legacy))
}

/// The file that is to be looked at.
fn subject(event: &Event) -> Option<FileId> {
    match *event {
        Event::CaptureLost { file }
        | Event::AttributesChanged { file }
        | Event::DirectoryChanged { directory: file } => Some(file),
        _ => None,
    }
}

/// A look at a volume.
struct Survey<'a, L> {
    volume: &'a Volume,
    former: &'a L,
    doubtful: &'a HashSet<FileId>,
    cancelled: &'a AtomicBool,
    tell: &'a dyn Fn(Event),
}

impl<L: Looks> Survey<'_, L> {
    /// Tell of files that do not look as they did, and of those that are not there any more. Returns how many. `see` is called for each name of each file.
    fn tell_changes(&self, most: usize, see: &mut dyn FnMut(&Seen)) -> io::Result<usize> {
        let (volume, former) = (self.volume, self.former);
        let mut found = vec![false; former.inodes().count()];
        let mut different = 0;
        let mut listed = None;
        let mut list = |directory| {
            if listed.replace(directory) != Some(directory) {
                (self.tell)(Event::DirectoryChanged { directory: volume.file(directory) });
            }
        };
        survey(volume, self.cancelled, &mut |sight| {
            let seen = match sight {
                Sight::File(seen) => seen,
                // Covers what was part of the tree, perhaps.
                Sight::Foreign(directory) => return list(directory),
            };
            see(&seen);
            // New, or something was mounted over it, which changes no time.
            let Some(position) = former.position(seen.inode) else { return list(seen.directory) };
            if let Some(found) = found.get_mut(position) {
                *found = true;
            }
            let file = volume.file(seen.inode);
            if former.is_as_it_was(position, &seen) || self.doubtful.contains(&file) {
                return;
            }
            different += 1;
            if different <= most {
                self.tell_change(file, seen.kind);
            }
        })?;
        // Gone, or moved past the survey.
        for (inode, _) in former.inodes().zip(found).filter(|(_, found)| !found) {
            different += 1;
            if different <= most {
                (self.tell)(Event::CaptureLost { file: volume.file(inode) });
            }
        }
        if different > most {
            return Err(io::Error::other("too many files were changed while nobody watched"));
        }
        Ok(different)
    }

    fn tell_change(&self, file: FileId, kind: FileKind) {
        match kind {
            FileKind::Regular => (self.tell)(Event::CaptureLost { file }),
            FileKind::Directory => {
                (self.tell)(Event::DirectoryChanged { directory: file });
                (self.tell)(Event::AttributesChanged { file });
            }
            _ => (self.tell)(Event::AttributesChanged { file }),
        }
    }
}

/// The copies that a secondary left, all of which are there and as they were; nothing else is.
fn unchanged_copies(
    volume: &Volume,
    looks: &impl Looks,
    copies: &Copies,
    cancelled: &AtomicBool,
) -> io::Result<Vec<CopiedFile>> {
    let mut found = vec![false; looks.inodes().count()];
    let mut changed = None;
    let mut files = Vec::with_capacity(copies.files.len());
    survey(volume, cancelled, &mut |sight| {
        // What is covered by something else is missed below.
        let Sight::File(seen) = sight else { return };
        let inode = seen.inode;
        match looks.position(inode).filter(|position| looks.is_as_it_was(*position, &seen)) {
            Some(position) => {
                let first = found.get_mut(position).is_some_and(|found| !std::mem::replace(found, true));
                let copy = copies.files.binary_search_by_key(&inode, |(inode, _)| *inode);
                let copy = copy.ok().and_then(|at| copies.files.get(at)).filter(|_| first);
                let (kind, handle) = (seen.kind, seen.handle);
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
    if missing > 0 || files.len() != copies.files.len() {
        return Err(io::Error::other("files of the copy are gone that were there when the node was stopped"));
    }
    Ok(files)
}
