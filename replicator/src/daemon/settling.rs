//! How the safe set is begun, and how files leave it.
//!
//! ```text
//!  Off ---- begin (a worker) ----> base of the core ---- look at all files (a thread) ----> On
//!
//!  On:  idle members ---> marked at the core? ---> sync and look at them (a worker) ---> still idle and unmarked? ---> Settled
//! ```
//!
//! What is told of a file before a message is handled is marked by then: whoever changes a file holds its intent until he has posted what he did, and
//! the tracer is emptied before messages are handled. So a member that was idle when it was picked, and is at the end, was not changed
//! in between, and what it was changed before is known to the core.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use replicator_core::action::Notice;
use replicator_core::activity::Record;
use replicator_core::event::{Event, NamespaceChange};
use replicator_core::ids::FileId;
use replicator_core::resume::Beginning;
use tracing::{debug, info, warn};

use super::checkpoint::look;
use super::engine::{Core, Engine, Role};
use super::message::Message;
use super::safe_set::{Idle, SafeSet};
use crate::storage::reader::is_gone;
use crate::storage::survey::Fingerprint;
use crate::volume::{Volume, writers};

/// How often idle members are looked for, at most.
const ROUND: Duration = Duration::from_millis(500);
/// How often a set is begun, at most: the first time as soon as both nodes mirror.
const AGAIN: Duration = Duration::from_secs(2);
/// Members looked at in a round: each is synced by itself if there are few, else all file systems are.
const FEW: usize = 256;
const MANY: usize = 16_384;

/// What became of a member that was to be made durable here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// It is durable, nobody can write to it, and it looks like this.
    Like(Fingerprint),
    /// There is no such file.
    Gone,
    /// Somebody may write to it, or it cannot be made durable now.
    Busy,
}

/// Where it stands.
#[derive(Debug, Default)]
enum Step {
    #[default]
    Resting,
    /// The log is being made.
    Beginning,
    /// It records since the message; the core is to be asked at the end of the round.
    Begun(u64),
    /// All files are being looked at.
    Establishing,
    /// Members that were idle before the present round.
    Picked(Vec<Idle>),
    /// They are being synced.
    Looking,
    /// They were, before the present round.
    Looked(Vec<(Idle, Look)>),
}

/// The data plane's part of the safe set.
pub struct Settling {
    set: SafeSet,
    /// What a base is for; `None`: this node makes none.
    identity: Option<[u8; 32]>,
    /// A file stays in the set so long after it was last changed: what is changed again and again is recorded once.
    idle: Duration,
    step: Step,
    since: Instant,
    /// When the set was begun last.
    begun: Option<Instant>,
    /// Files noted last, by their numbers, and the set's departures then.
    noted: [FileId; 16],
    departures: u64,
}

impl Settling {
    /// Of this set. `identity`: what bases are for, on a node that makes them. `idle`: a member leaves no sooner after it was last changed.
    pub fn new(set: SafeSet, identity: Option<[u8; 32]>, idle: Duration) -> Settling {
        let (step, since) = (Step::Resting, Instant::now());
        Settling { set, identity, idle, step, since, begun: None, noted: Default::default(), departures: 0 }
    }

    /// The set.
    pub fn set(&self) -> &SafeSet {
        &self.set
    }

    /// Whether the tracer is to be emptied, to the last event, before the messages at hand are handled.
    pub fn is_exact(&self) -> bool {
        matches!(self.step, Step::Picked(_))
    }

    /// What is told to the core is about files that may differ from now on.
    pub fn note(&mut self, event: &Event) {
        if !self.set.records() {
            return;
        }
        match event {
            Event::WriteTraced { file, .. }
            | Event::StoreMapped { file, .. }
            | Event::AttributesChanged { file }
            | Event::CaptureLost { file }
            | Event::DirectoryChanged { directory: file } => self.note_file(*file),
            Event::NamespaceLogged { change, .. } => self.note_change(change),
            Event::Untold { .. } => self.set.make_void(),
            _ => {}
        }
    }

    /// The directories, and what looks different from now on because it has another name, or one more or less.
    fn note_change(&mut self, change: &NamespaceChange) {
        match *change {
            NamespaceChange::Created { parent, .. } => self.note_file(parent),
            NamespaceChange::Linked { parent, file, .. } | NamespaceChange::Unlinked { parent, file, .. } => {
                self.note_file(parent);
                self.note_file(file);
            }
            NamespaceChange::Renamed { old_parent, new_parent, file, other, .. } => {
                [old_parent, new_parent, file].into_iter().chain(other).for_each(|file| self.note_file(file));
            }
            NamespaceChange::Listed { .. } => {}
        }
    }

    fn note_file(&mut self, file: FileId) {
        let departures = self.set.departures();
        if self.departures != departures {
            self.departures = departures;
            self.noted = Default::default();
        }
        let place = file.inode as usize % self.noted.len();
        if let Some(noted) = self.noted.get_mut(place)
            && *noted != file
        {
            *noted = file;
            self.set.note(file);
        }
    }
}

impl<R: Role> Engine<R> {
    /// What has become of an order of this.
    pub(super) fn on_safe_set(&mut self, message: Message) {
        let settling = &mut self.core.settling;
        settling.since = Instant::now();
        settling.step = match message {
            Message::SafeSetBegun(Ok(number)) => Step::Begun(number),
            Message::SafeSetBegun(Err(error)) => {
                warn!(%error, "which files are changed cannot be recorded: after a crash everything is compared");
                Step::Resting
            }
            Message::SafeSetEstablished(result) => {
                match result {
                    Ok(()) => info!("after a crash of this node only files in the safe set are compared"),
                    Err(error) => info!(%error, "after a crash of this node everything is compared, for now"),
                }
                Step::Resting
            }
            Message::Looked(looked) => Step::Looked(looked),
            _ => Step::Resting,
        };
    }

    /// Take the next step. Called when everything that is known has been told to the core.
    pub(super) fn settle_members(&mut self) {
        if self.core.settling.identity.is_none() || self.core.ending.is_some() {
            return;
        }
        // Not while a resync is under way: there may be as many marks as files.
        let node = &self.core.node;
        if self.core.settling.set.awaits_answers() && node.is_at_peace() && node.is_answered() {
            self.record_news();
            self.core.settling.set.answered();
        }
        match std::mem::take(&mut self.core.settling.step) {
            Step::Resting => self.rest(),
            Step::Begun(number) => self.establish(number),
            Step::Picked(picked) => self.look_at(picked),
            Step::Looked(looked) => self.end_doubts(looked),
            under_way @ (Step::Beginning | Step::Establishing | Step::Looking) => {
                self.core.settling.step = under_way;
            }
        }
    }

    fn rest(&mut self) {
        let settling = &mut self.core.settling;
        if settling.set.records() {
            // While a resync is under way no member leaves, and it would be work of the size of all marks to find that out.
            if settling.since.elapsed() >= ROUND.min(settling.idle) && self.core.node.is_at_peace() {
                settling.since = Instant::now();
                let many = settling.set.waiting() > MANY / 4;
                let picked = settling.set.idle(settling.idle, if many { MANY } else { FEW });
                if !picked.is_empty() {
                    settling.step = Step::Picked(picked);
                }
            }
        } else if settling.begun.is_none_or(|begun| begun.elapsed() >= AGAIN)
            && self.core.preparing.is_none()
            && self.core.node.stream().is_some()
            && self.core.node.is_mirrored()
        {
            settling.step = Step::Beginning;
            settling.begun = Some(Instant::now());
            let (set, mailbox) = (settling.set.clone(), Arc::clone(&self.core.mailbox));
            self.core.workers.run(move || mailbox.post_urgent(Message::SafeSetBegun(set.begin())));
        }
    }

    /// The set records; all that was changed before is told to the core: it is asked for the base.
    fn establish(&mut self, number: u64) {
        let settling = &mut self.core.settling;
        let (Some(identity), Some(activity)) = (settling.identity, self.core.node.activity()) else {
            // Not now: a list is under way, or the session is gone.
            settling.set.make_void();
            return;
        };
        // What was made since the log was begun is on record as unknown to the peer, which may know it by now.
        for file in settling.set.made() {
            settling.set.record(Record::Named(file, activity.named(file)));
        }
        settling.step = Step::Establishing;
        let (set, mailbox) = (settling.set.clone(), Arc::clone(&self.core.mailbox));
        let volumes = self.role.volumes().to_vec();
        let work = move || {
            let established = look(&volumes, &AtomicBool::new(false))
                .and_then(|fingerprints| set.establish(identity, number, activity, fingerprints));
            if established.is_err() {
                set.give_up(number);
            }
            mailbox.post_urgent(Message::SafeSetEstablished(established));
        };
        let started = std::thread::Builder::new().name("survey".to_owned()).spawn(work);
        if let Err(error) = started {
            warn!(%error, "cannot look at all files");
            settling.set.give_up(number);
            settling.step = Step::Resting;
        }
    }

    /// Have members made durable of which nothing is marked, or, without a peer, a part that can be named.
    fn look_at(&mut self, picked: Vec<Idle>) {
        self.record_news();
        let node = &self.core.node;
        let (ready, not_yet): (Vec<Idle>, Vec<Idle>) = picked.into_iter().partition(|idle| {
            let narrows = || !idle.narrowed && node.doubtful(idle.file).is_some();
            node.settled(idle.file).is_some() || narrows()
        });
        not_yet.iter().for_each(|idle| self.core.settling.set.postpone(idle.file));
        if ready.is_empty() {
            return;
        }
        self.core.settling.step = Step::Looking;
        let (volumes, mailbox) = (self.role.volumes().to_vec(), Arc::clone(&self.core.mailbox));
        self.core.workers.run(move || mailbox.post_urgent(Message::Looked(make_durable(&volumes, ready))));
    }

    fn end_doubts(&mut self, looked: Vec<(Idle, Look)>) {
        self.record_news();
        let mut left = 0;
        for (idle, look) in looked {
            if self.end_doubt(idle, look) {
                left += 1;
            } else {
                self.core.settling.set.postpone(idle.file);
            }
        }
        debug!(left, "members of the safe set are settled");
    }

    /// Whether the member is out of the set.
    fn end_doubt(&self, idle: Idle, look: Look) -> bool {
        let (node, set, file) = (&self.core.node, &self.core.settling.set, idle.file);
        let look = match look {
            Look::Like(Fingerprint::NONE) | Look::Busy => return false,
            Look::Like(fingerprint) => Some(fingerprint.number()),
            Look::Gone => None,
        };
        if let Some(named) = node.settled(file) {
            return set.settle(idle, Record::Settled { file, named, look: look.unwrap_or(0) });
        }
        if let (Some(look), Some(doubt)) = (look, node.doubtful(file)) {
            let (dirty, attributes) = (doubt.dirty, doubt.attributes);
            set.narrow(idle, Record::Parts { file, dirty, attributes, look });
        }
        false
    }

    /// Before a file leaves: whatever came with it that the set was not told of. A directory that leaves answers no more for the
    /// files in it.
    fn record_news(&mut self) {
        for file in self.core.node.marked_files() {
            self.core.settling.note_file(file);
        }
        for (file, named) in self.core.node.take_news() {
            self.core.settling.set.record(Record::Named(file, named));
        }
    }
}

impl Core {
    /// A session begins: what was recorded goes on, or is worth nothing.
    pub(super) fn on_begun(&mut self, notice: &Notice) {
        let Notice::Begun { beginning } = notice else { return };
        match (beginning, self.node.stream()) {
            (Beginning::Resumed, Some(stream)) => self.settling.set.record(Record::Begin(stream)),
            _ => self.settling.set.make_void(),
        }
    }
}

/// Make files durable here, and see what they look like then.
fn make_durable(volumes: &[Arc<Volume>], idle: Vec<Idle>) -> Vec<(Idle, Look)> {
    let many = idle.len() > FEW;
    if many && let Err(error) = volumes.iter().try_for_each(|volume| volume.sync()) {
        warn!(%error, "files in the safe set cannot be synced");
        return idle.into_iter().map(|idle| (idle, Look::Busy)).collect();
    }
    idle.into_iter()
        .map(|idle| {
            let volume = volumes.get(usize::from(idle.file.volume.0));
            let look =
                volume.map_or(Ok(Look::Gone), |volume| make_one_durable(volume, idle.file.inode, many));
            let look = match look {
                Ok(look) => look,
                Err(error) if is_gone(&error) => Look::Gone,
                Err(error) => {
                    debug!(%error, file = %idle.file, "a file in the safe set cannot be looked at");
                    Look::Busy
                }
            };
            (idle, look)
        })
        .collect()
}

fn make_one_durable(volume: &Volume, inode: u64, synced: bool) -> io::Result<Look> {
    let place = volume.open_file(inode, libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC)?;
    let kind = nix::sys::stat::fstat(&place)?.st_mode & libc::S_IFMT;
    if kind != libc::S_IFREG && kind != libc::S_IFDIR {
        // No descriptor of it can be synced.
        if !synced {
            volume.sync()?;
        }
        return Ok(Look::Like(Fingerprint::of(volume, inode, place.as_fd())?));
    }
    let quiet = libc::O_NOFOLLOW | libc::O_NOATIME | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = volume.open_file(inode, libc::O_RDONLY | quiet)?;
    if kind == libc::S_IFREG && !writers::is_free_of(file.as_fd()) {
        return Ok(Look::Busy);
    }
    if !synced {
        nix::unistd::fsync(&file)?;
    }
    Ok(Look::Like(Fingerprint::of(volume, inode, file.as_fd())?))
}
