//! The thread that reads a group: whose doing it was, which of our files it is about.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use replicator_core::ids::FileId;

use super::event::{Event, Events, Handle, Place};
use super::group::Group;
use super::{Change, Receiver};
use crate::volume::{FileHandle, Volume};

/// Names made, taken away and changed, attributes set, files closed that were open for writing.
pub const MASK: u64 = NAMES | libc::FAN_ATTRIB | libc::FAN_CLOSE_WRITE | libc::FAN_ONDIR;
const NAMES: u64 = libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_RENAME;

/// Room for some hundred events.
const BUFFER_BYTES: usize = 64 << 10;

/// Events are taken together: most are about what this process did itself, and to wake up for each costs more than to do it. The
/// kernel's queue holds many times what comes in this time.
const GATHER_MILLISECONDS: u8 = 10;

pub struct Reader {
    group: Group,
    volumes: Vec<Arc<Volume>>,
    receive: Receiver,
    /// This process.
    own: i32,
}

impl Reader {
    pub fn new(group: Group, volumes: Vec<Arc<Volume>>, receive: Receiver) -> Reader {
        Reader { group, volumes, receive, own: std::process::id().cast_signed() }
    }

    /// Until `stop` can be read; what happened before that is told.
    pub fn run(mut self, stop: BorrowedFd<'_>) {
        let mut buffer = vec![0; BUFFER_BYTES];
        let ended = loop {
            match self.turn(stop, &mut buffer) {
                Ok(()) => {}
                Err(None) => break self.take(&mut buffer).err(),
                Err(error) => break error,
            }
        };
        if let Some(error) = ended {
            tracing::error!(%error, "changes behind the gate are not told any more");
            (self.receive)(vec![Change::Ended]);
        }
    }

    /// Wait for events, let others gather, tell them all. The error is `None` to stop.
    fn turn(&mut self, stop: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(), Option<io::Error>> {
        let group = PollFd::new(self.group.as_fd(), PollFlags::POLLIN);
        let mut waited = [PollFd::new(stop, PollFlags::POLLIN), group];
        wait(&mut waited, PollTimeout::NONE)?;
        wait(&mut waited[..1], PollTimeout::from(GATHER_MILLISECONDS))?;
        self.take(buffer).map_err(Some)
    }

    /// Tell all that waits.
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        loop {
            let length = self.group.read(buffer)?;
            if length == 0 {
                return Ok(());
            }
            let changes = self.batch(buffer.get(..length).unwrap_or_default());
            if !changes.is_empty() {
                (self.receive)(changes);
            }
        }
    }

    /// What one read brought, each change once.
    fn batch(&self, bytes: &[u8]) -> Vec<Change> {
        let mut batch = Batch { volumes: &self.volumes, inside: HashMap::new(), told: Told::default() };
        for event in Events::new(bytes) {
            match event {
                Ok(event) if event.mask & libc::FAN_Q_OVERFLOW != 0 => batch.told.add(Change::Lost),
                // What this process does it knows. That a file was closed which the gate opened is told in the name of who closed
                // it, as one event with closes of descriptors from elsewhere: it cannot be left out.
                Ok(event) if event.process == self.own => {}
                Ok(event) => batch.take(&event),
                Err(malformed) => {
                    tracing::error!(%malformed, "everything is compared");
                    batch.told.add(Change::Lost);
                }
            }
        }
        batch.told.order
    }
}

/// Wait for one of the descriptors, of which the first says to stop.
fn wait(waited: &mut [PollFd<'_>], time: PollTimeout) -> Result<(), Option<io::Error>> {
    match poll(waited, time) {
        Err(nix::Error::EINTR) | Ok(_) => {}
        Err(error) => return Err(Some(error.into())),
    }
    if waited.first().is_some_and(|stop| stop.any() == Some(true)) { Err(None) } else { Ok(()) }
}

/// Each value once, in the order of first mention.
struct Told<T> {
    order: Vec<T>,
    seen: HashSet<T>,
}

impl<T> Default for Told<T> {
    fn default() -> Told<T> {
        Told { order: Vec::new(), seen: HashSet::new() }
    }
}

impl<T: Clone + Eq + Hash> Told<T> {
    fn add(&mut self, value: T) {
        if self.seen.insert(value.clone()) {
            self.order.push(value);
        }
    }
}

struct Batch<'a> {
    volumes: &'a [Arc<Volume>],
    /// Whether a file lies in its volume's tree.
    inside: HashMap<FileId, bool>,
    told: Told<Change>,
}

impl Batch<'_> {
    fn take(&mut self, event: &Event<'_>) {
        let is_directory = event.mask & libc::FAN_ONDIR != 0;
        if event.mask & NAMES != 0 {
            for place in [event.place, event.target_place].into_iter().flatten() {
                self.names(&place);
            }
            self.moved(event);
        }
        // About a directory itself there is no second handle.
        let about =
            event.file.or(event.place.filter(|_| event.mask & NAMES == 0).map(|place| place.directory));
        if event.mask & !(NAMES | libc::FAN_ONDIR) == 0 {
            return;
        }
        let Some(file) = about.and_then(|handle| self.inside(handle)) else { return };
        if event.mask & libc::FAN_ATTRIB != 0 {
            self.told.add(Change::Attributes { file });
        }
        if event.mask & libc::FAN_MODIFY != 0 && !is_directory {
            self.told.add(Change::Content { file });
        }
        if event.mask & libc::FAN_CLOSE_WRITE != 0 && !is_directory {
            self.told.add(Change::Closed { file });
        }
    }

    /// A known file has a new name in the tree.
    fn moved(&mut self, event: &Event<'_>) {
        let place = match event.mask {
            mask if mask & libc::FAN_RENAME != 0 => event.target_place,
            mask if mask & libc::FAN_CREATE != 0 => event.place,
            _ => None,
        };
        if let Some(place) = place
            && let Some(file) = event.file.and_then(|file| self.file(file))
            && self.inside(place.directory).is_some()
        {
            self.told.add(Change::Moved { file });
        }
    }

    fn names(&mut self, place: &Place<'_>) {
        if let Some(directory) = self.inside(place.directory) {
            self.told.add(Change::Names { directory, name: place.name.to_vec() });
        }
    }

    /// The file, if it is known. One that is not was not listed yet: all of it will be looked at when it is.
    fn file(&self, handle: Handle<'_>) -> Option<FileId> {
        self.volumes
            .iter()
            .find_map(|volume| volume.number_of(handle.kind, handle.bytes).map(|inode| volume.file(inode)))
    }

    /// The file, of any kind, if it is known and lies in the tree. One that was moved out is looked at as a whole if it comes back.
    fn inside(&mut self, handle: Handle<'_>) -> Option<FileId> {
        let file = self.file(handle)?;
        let volume = self.volumes.iter().find(|volume| volume.id == file.volume)?;
        let inside = *self.inside.entry(file).or_insert_with(|| lies_in(volume, handle));
        inside.then_some(file)
    }
}

/// In doubt it does: to look in vain costs nothing but time.
fn lies_in(volume: &Volume, handle: Handle<'_>) -> bool {
    let handle = FileHandle::from_parts(handle.kind, handle.bytes);
    match handle.open(volume.root(), libc::O_PATH | libc::O_NOFOLLOW) {
        Ok(file) => volume.may_hold(file.as_fd()),
        Err(_) => true,
    }
}
