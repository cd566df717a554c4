//! The kernel's side: a notification group, and the mark that fills it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::Queue;

/// By handles, with names, and what the names stood for (Linux 5.17).
const REPORT: u32 =
    libc::FAN_CLASS_NOTIF | libc::FAN_REPORT_DFID_NAME_TARGET | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK;

/// A notification group (fanotify(7)).
#[derive(Debug)]
pub struct Group {
    fd: OwnedFd,
}

impl Group {
    /// A group that nothing fills yet.
    ///
    /// # Errors
    /// What fanotify_init(2) returns: ENOSYS or EINVAL where the kernel has no such thing, EPERM without CAP_SYS_ADMIN.
    pub fn new(queue: Queue) -> io::Result<Group> {
        let queue = match queue {
            Queue::Bounded => 0,
            Queue::Unbounded => libc::FAN_UNLIMITED_QUEUE,
        };
        // SAFETY: fanotify_init takes no memory; the descriptor that is returned belongs to nobody else.
        unsafe {
            let fd = libc::fanotify_init(REPORT | queue, (libc::O_RDONLY | libc::O_LARGEFILE) as u32);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Group { fd: OwnedFd::from_raw_fd(fd) })
        }
    }

    /// Be told of these events on the whole file system that `directory` (not O_PATH) is on.
    ///
    /// # Errors
    /// What fanotify_mark(2) returns: EXDEV on a subvolume of btrfs that is not the first one, EOPNOTSUPP or ENODEV where the file
    /// system has no handles or no id.
    pub fn mark(&self, directory: BorrowedFd<'_>, mask: u64) -> io::Result<()> {
        let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM;
        // SAFETY: without a path fanotify_mark takes no memory, and both descriptors are open.
        let result = unsafe {
            libc::fanotify_mark(
                self.fd.as_raw_fd(),
                flags,
                mask,
                directory.as_raw_fd(),
                std::ptr::null::<libc::c_char>(),
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Take events out: whole ones, as many as there is room for; nothing where none wait.
    ///
    /// # Errors
    /// What read(2) returns but for EAGAIN and EINTR.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match nix::unistd::read(&self.fd, buffer) {
            Ok(length) => Ok(length),
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}

impl std::os::fd::AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    /// What a mark on a descriptor of a file that is none says, not what it does: errors are values.
    #[test]
    fn a_refusal_is_an_error() {
        let Ok(group) = Group::new(Queue::Bounded) else {
            println!("not run: no fanotify for this process");
            return;
        };
        let (reader, _writer) = nix::unistd::pipe().unwrap();
        assert!(group.mark(reader.as_fd(), libc::FAN_CREATE).is_err());
        assert_eq!(group.read(&mut [0; 4096]).unwrap(), 0, "nothing waits");
    }
}
