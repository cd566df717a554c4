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
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::readlink;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::status::magic_path;
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

/// Length of an event without its records (`struct fanotify_event_metadata`).
const METADATA_BYTES: usize = size_of::<libc::fanotify_event_metadata>();

/// Before the file handle in a record: its header, and the file system's id.
const RECORD_FIXED_BYTES: usize = 4 + 8;

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
fn open_group(volumes: &[Arc<Volume>]) -> io::Result<OwnedFd> {
    let flags = libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK | libc::FAN_REPORT_DFID_NAME;
    // SAFETY: fanotify_init takes no memory; the descriptor that is returned belongs to nobody else.
    let group = unsafe {
        let fd = libc::fanotify_init(flags, (libc::O_RDONLY | libc::O_CLOEXEC) as u32);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    for volume in volumes {
        let how = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM;
        // SAFETY: without a path the descriptor alone says what is marked; no memory is taken.
        let result = unsafe {
            libc::fanotify_mark(group.as_raw_fd(), how, EVENTS, volume.root().as_raw_fd(), std::ptr::null())
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(group)
}

struct Watch {
    group: OwnedFd,
    volumes: Vec<Arc<Volume>>,
    own: u32,
}

impl Watch {
    fn run(&self, stop: &EventFd, tell: &dyn Fn(Found)) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        while !self.wait(stop, true, PollTimeout::NONE)? {
            let gather = PollTimeout::try_from(GATHER).unwrap_or(PollTimeout::ZERO);
            let stopped = self.wait(stop, false, gather)?;
            let found = self.take(&mut buffer)?;
            if !found.is_nothing() {
                tell(found);
            }
            if stopped {
                break;
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
            match nix::unistd::read(&self.group, buffer) {
                Ok(0) | Err(Errno::EAGAIN) => return Ok(found),
                Ok(length) => self.examine(buffer.get(..length).unwrap_or_default(), &mut found),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn examine(&self, mut events: &[u8], found: &mut Found) {
        while let Some((event, rest)) = Event::parse(events) {
            events = rest;
            if event.mask & libc::FAN_Q_OVERFLOW != 0 {
                found.missed = true;
            } else if event.process != self.own
                && let Some(path) = event.directory().and_then(|place| self.path_of(&place))
            {
                found.changes += 1;
                found.last = Some(path);
            }
        }
        // What comes behind an event that makes no sense cannot be told.
        found.missed |= !events.is_empty();
    }

    /// The path of a name, if it lies in one of the trees.
    fn path_of(&self, place: &Place<'_>) -> Option<PathBuf> {
        self.volumes.iter().find_map(|volume| {
            // Of a file system that is another volume's, the handle leads to nothing, or to a file outside of the tree.
            let directory = place.handle.open(volume.root(), libc::O_PATH).ok()?;
            let path = PathBuf::from(readlink(magic_path(directory.as_fd()).as_c_str()).ok()?);
            let root = PathBuf::from(readlink(magic_path(volume.root()).as_c_str()).ok()?);
            let below = path.strip_prefix(&root).ok()?;
            let name = OsStr::from_bytes(place.name);
            let own = below.join(name).starts_with(OsStr::from_bytes(RESERVED_NAME));
            let device = nix::sys::stat::fstat(&directory).ok()?.st_dev;
            if own || device != volume.device {
                return None;
            }
            Some(if place.name == b"." { path } else { path.join(name) })
        })
    }
}

/// One event.
struct Event<'a> {
    mask: u64,
    process: u32,
    records: &'a [u8],
}

/// A directory and a name in it.
struct Place<'a> {
    handle: FileHandle,
    name: &'a [u8],
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

impl<'a> Event<'a> {
    /// The first event (fanotify(7)), and what comes behind it; `None` at the end, or if it makes no sense.
    fn parse(bytes: &'a [u8]) -> Option<(Event<'a>, &'a [u8])> {
        type Raw = libc::fanotify_event_metadata;
        let length = u32::from_ne_bytes(bytes_at(bytes, offset_of!(Raw, event_len))?) as usize;
        let head = u16::from_ne_bytes(bytes_at(bytes, offset_of!(Raw, metadata_len))?).into();
        if head < METADATA_BYTES || bytes.get(offset_of!(Raw, vers)) != Some(&libc::FANOTIFY_METADATA_VERSION)
        {
            return None;
        }
        let event = Event {
            mask: u64::from_ne_bytes(bytes_at(bytes, offset_of!(Raw, mask))?),
            process: u32::from_ne_bytes(bytes_at(bytes, offset_of!(Raw, pid))?),
            records: bytes.get(head..length)?,
        };
        Some((event, bytes.get(length..)?))
    }

    /// The directory and the name that the event is about.
    fn directory(&self) -> Option<Place<'a>> {
        let mut records = self.records;
        loop {
            let kind = *records.first()?;
            let length = u16::from_ne_bytes(bytes_at(records, 2)?).into();
            let record = records.get(..length).filter(|record| !record.is_empty())?;
            if [libc::FAN_EVENT_INFO_TYPE_DFID_NAME, libc::FAN_EVENT_INFO_TYPE_DFID].contains(&kind) {
                return Place::parse(record.get(RECORD_FIXED_BYTES..)?);
            }
            records = records.get(length..)?;
        }
    }
}

impl<'a> Place<'a> {
    /// A `struct file_handle`, then the name with a NUL.
    fn parse(bytes: &'a [u8]) -> Option<Place<'a>> {
        let length = u32::from_ne_bytes(bytes_at(bytes, 0)?) as usize;
        let kind = i32::from_ne_bytes(bytes_at(bytes, 4)?);
        let end = length.checked_add(8)?;
        let handle = FileHandle::from_parts(kind, bytes.get(8..end)?);
        let name = bytes.get(end..)?.split(|byte| *byte == 0).next().unwrap_or_default();
        Some(Place { handle, name: if name.is_empty() { b"." } else { name } })
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

    #[test]
    fn bytes_that_make_no_sense_are_passed_over() {
        let mut event = vec![0; METADATA_BYTES];
        event[..4].copy_from_slice(&(METADATA_BYTES as u32 + 24).to_ne_bytes());
        event[4] = libc::FANOTIFY_METADATA_VERSION;
        event[6..8].copy_from_slice(&(METADATA_BYTES as u16).to_ne_bytes());
        event.extend([libc::FAN_EVENT_INFO_TYPE_DFID_NAME, 0, 24, 0]);
        event.extend([0; 8]);
        event.extend([2, 0, 0, 0, 1, 0, 0, 0, 7, 7, b'n', 0]);
        let (whole, rest) = Event::parse(&event).unwrap();
        assert!(rest.is_empty());
        let place = whole.directory().unwrap();
        assert_eq!((place.handle, place.name), (FileHandle::from_parts(1, &[7, 7]), &b"n"[..]));
        for at in 0..event.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = event.clone();
                damaged[at] = value;
                for length in [damaged.len(), at] {
                    if let Some((event, _)) = Event::parse(&damaged[..length]) {
                        let _ = event.directory();
                    }
                }
            }
        }
    }
}
