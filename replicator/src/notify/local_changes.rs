//! Changes to the secondary's copy that this node did not make: found by fanotify(7), reported, and set right by the next
//! comparison of both trees.
//!
//! The file systems of the volumes are watched for names made, removed and moved, for attributes set, and for files closed
//! after they were open for writing. Events of this process, and of files outside of the trees, are passed over.
//!
//! Not found: what happened while the node did not run; bytes, until the last descriptor or mapping through which they
//! were written is closed; what is between two events if the kernel's queue ran over ([`Found::missed`]).

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::Queue;
use super::event::{Events, Place};
use super::group::Group;
use crate::volume::{FileHandle, RESERVED_NAME, Volume};

/// What is asked for.
const EVENTS: u64 = libc::FAN_CREATE
    | libc::FAN_DELETE
    | libc::FAN_MOVED_FROM
    | libc::FAN_MOVED_TO
    | libc::FAN_ATTRIB
    | libc::FAN_CLOSE_WRITE
    | libc::FAN_ONDIR;

/// Events are taken together, not one by one: most are this process's own, and waking up for each would cost what waits for
/// the disk. The kernel's queue holds many times what comes in this time.
const GATHER: Duration = Duration::from_millis(100);

/// Bytes of events taken at once.
const BUFFER_BYTES: usize = 64 << 10;

/// What others changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// How many events; one change may make several, and several changes of one file may make one.
    pub changes: u64,
    /// The name that the last one was about.
    pub last: Option<PathBuf>,
    /// The kernel's queue ran over: there may have been more.
    pub missed: bool,
}

impl Found {
    fn is_nothing(&self) -> bool {
        *self == Found::default()
    }
}

/// Watches until it is dropped.
#[derive(Debug)]
pub struct LocalChanges {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl LocalChanges {
    /// Watch these volumes, and tell what is found from a thread of its own.
    ///
    /// # Errors
    /// The kernel or a file system cannot tell of changes this way.
    pub fn watch(
        volumes: Vec<Arc<Volume>>,
        tell: impl Fn(Found) + Send + 'static,
    ) -> io::Result<LocalChanges> {
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let watch = Watch { group: open_group(&volumes)?, volumes, own: std::process::id() };
        let stopped = Arc::clone(&stop);
        let run = move || {
            if let Err(error) = watch.run(&stopped, &tell) {
                tracing::warn!(%error, "local changes of the copy are not noticed any more");
            }
        };
        let thread = std::thread::Builder::new().name("local-changes".to_owned()).spawn(run)?;
        Ok(LocalChanges { stop, thread: Some(thread) })
    }
}

impl Drop for LocalChanges {
    fn drop(&mut self) {
        // The counter is far from its limit: it is written once.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// A group of events over the file systems of all volumes.
fn open_group(volumes: &[Arc<Volume>]) -> io::Result<Group> {
    let group = Group::new(Queue::Bounded)?;
    for volume in volumes {
        group.mark(volume.root(), EVENTS)?;
    }
    Ok(group)
}

struct Watch {
    group: Group,
    volumes: Vec<Arc<Volume>>,
    own: u32,
}

impl Watch {
    fn run(&self, stop: &EventFd, tell: &dyn Fn(Found)) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut stopped = false;
        while !stopped {
            let gather = PollTimeout::try_from(GATHER).unwrap_or(PollTimeout::ZERO);
            stopped = self.wait(stop, true, PollTimeout::NONE)? || self.wait(stop, false, gather)?;
            // What happened before the stop, too.
            let found = self.take(&mut buffer)?;
            if !found.is_nothing() {
                tell(found);
            }
        }
        Ok(())
    }

    /// Wait until there are events (if asked for) or the time is over; true: stop.
    fn wait(&self, stop: &EventFd, for_events: bool, time: PollTimeout) -> io::Result<bool> {
        let mut asked = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        if for_events {
            asked.push(PollFd::new(self.group.as_fd(), PollFlags::POLLIN));
        }
        loop {
            match poll(&mut asked, time) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(_) => return Ok(asked.first().is_some_and(|stop| stop.any() == Some(true))),
            }
        }
    }

    /// Take all events there are.
    fn take(&self, buffer: &mut [u8]) -> io::Result<Found> {
        let mut found = Found::default();
        loop {
            let length = self.group.read(buffer)?;
            if length == 0 {
                return Ok(found);
            }
            self.examine(buffer.get(..length).unwrap_or_default(), &mut found);
        }
    }

    fn examine(&self, events: &[u8], found: &mut Found) {
        for event in Events::new(events) {
            match event {
                // What comes behind an event that makes no sense cannot be told.
                Err(_) => found.missed = true,
                Ok(event) if event.mask & libc::FAN_Q_OVERFLOW != 0 => found.missed = true,
                Ok(event) if u32::try_from(event.process) == Ok(self.own) => {}
                Ok(event) => {
                    if let Some(path) = event.place.and_then(|place| self.path_of(place)) {
                        found.changes += 1;
                        found.last = Some(path);
                    }
                }
            }
        }
    }

    /// The path of a name, if it lies in one of the trees.
    fn path_of(&self, place: Place<'_>) -> Option<PathBuf> {
        self.volumes.iter().find_map(|volume| {
            // Of a file system that is another volume's, the handle leads to nothing, or to a file outside of the tree.
            let handle = FileHandle::from_parts(place.directory.kind, place.directory.bytes);
            let directory = handle.open(volume.root(), libc::O_PATH).ok()?;
            let below = volume.path_from_root(directory.as_fd())?;
            let name = OsStr::from_bytes(place.name);
            let own = below.join(name).starts_with(OsStr::from_bytes(RESERVED_NAME));
            let device = nix::sys::stat::fstat(&directory).ok()?.st_dev;
            if own || device != volume.device {
                return None;
            }
            let path = volume.path.join(below);
            Some(if matches!(place.name, b"" | b".") { path } else { path.join(name) })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;
    use std::sync::mpsc;

    use replicator_core::ids::VolumeId;

    use super::*;

    /// Longest wait for what must come.
    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn changes_of_others_are_found_and_own_ones_are_not() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(inside.path().join("sub")).unwrap();
        fs::write(inside.path().join("sub/kept"), "x").unwrap();
        let volume = Arc::new(Volume::open(VolumeId(0), inside.path()).unwrap());
        let root = volume.path.clone();
        let (sender, receiver) = mpsc::channel();
        let watching = LocalChanges::watch(vec![volume], move |found| {
            let _ = sender.send(found);
        });
        let _watching = match watching {
            Ok(watching) => watching,
            Err(error) => return println!("not run: fanotify: {error}"),
        };
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.arg("-ec").arg(script).arg("sh").arg(&root).arg(outside.path());
            assert!(command.status().unwrap().success(), "{script}");
        };
        let cases = [
            ("printf x > \"$1/new\"", "new"),
            ("printf y >> \"$1/sub/kept\"", "sub/kept"),
            ("chmod 600 \"$1/sub/kept\"", "sub/kept"),
            ("mkdir \"$1/sub/deep\"", "sub/deep"),
            ("chmod 700 \"$1/sub/deep\"", "sub/deep"),
            ("mv \"$1/new\" \"$1/sub/moved\"", "sub/moved"),
            ("rm \"$1/sub/moved\"", "sub/moved"),
        ];
        for (script, name) in cases {
            // What this process does, and what happens outside or to replicator's own, comes first and is passed over.
            fs::write(root.join("own"), name).unwrap();
            shell("printf x > \"$2/outside\"; mkdir -p \"$1/.replicator\"");
            shell(script);
            let mut paths = Vec::new();
            while !paths.contains(&root.join(name)) {
                let found = receiver.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("{script}: {paths:?}"));
                paths.extend(found.last);
            }
            assert!(
                paths.iter().all(|path| path.starts_with(&root) && *path != root.join("own")),
                "{script}: {paths:?}"
            );
        }
    }
}
