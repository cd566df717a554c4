//! `/dev/fuse`: one open connection to the kernel. Requests are read from it, answers and notifications written to it,
//! backing files registered with it. One descriptor is shared by all readers (never cloned), so that it can be handed to
//! another process whole.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use replicator_core::ids::Errno;

use super::abi::{
    BackingMap, DEV_IOC_BACKING_CLOSE, DEV_IOC_BACKING_OPEN, NOTIFY_INC_EPOCH, NOTIFY_INVAL_ENTRY,
    NOTIFY_INVAL_INODE, NOTIFY_RETRIEVE, NotifyInvalEntryOut, NotifyInvalInodeOut, NotifyRetrieveOut,
    OutHeader, Plain,
};

/// Largest errno the kernel accepts in an answer; a larger one would leave the caller waiting for ever.
const ERRNO_MAX: i32 = 511;

/// The connection.
#[derive(Debug)]
pub struct Device {
    fd: Arc<OwnedFd>,
}

/// What became of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// The kernel took it.
    Taken,
    /// Nobody waits for it any more: the request was given up, or the connection is gone.
    Unwanted,
}

impl Device {
    /// Open the device.
    ///
    /// # Errors
    /// What open(2) returns: ENOENT without the fuse module, EPERM or EACCES where a container withholds it.
    pub fn open() -> io::Result<Device> {
        // SAFETY: the path is NUL-terminated; the descriptor that is returned belongs to nobody else.
        unsafe {
            let fd = libc::open(c"/dev/fuse".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Device { fd: Arc::new(OwnedFd::from_raw_fd(fd)) })
        }
    }

    /// The descriptor, for mount(2).
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The descriptor, for commands on it.
    pub fn file(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.fd)
    }

    /// Wait for the next request and read it into `buffer`, which must hold the largest one negotiated.
    ///
    /// # Errors
    /// ENODEV: unmounted. ECONNABORTED: aborted. EINTR, EAGAIN, ENOENT: try again.
    pub fn read<'a>(&self, buffer: &'a mut [MaybeUninit<u8>]) -> io::Result<&'a [u8]> {
        // SAFETY: `buffer` is writable for its length.
        let length = unsafe {
            libc::read(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast::<libc::c_void>(), buffer.len())
        };
        let Ok(length) = usize::try_from(length) else {
            return Err(io::Error::last_os_error());
        };
        let length = length.min(buffer.len());
        // SAFETY: read(2) filled the first `length` bytes.
        Ok(unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), length) })
    }

    /// Answer a request with the parts of its body, in order.
    pub fn answer(&self, unique: u64, body: &[&[u8]]) -> Delivery {
        let length = body.iter().map(|part| part.len()).sum::<usize>() + size_of::<OutHeader>();
        let header = OutHeader { len: u32::try_from(length).unwrap_or(u32::MAX), error: 0, unique };
        match self.write(header, body) {
            Ok(()) => Delivery::Taken,
            Err(error) if is_unwanted(&error) => Delivery::Unwanted,
            Err(error) => {
                // The kernel took the request off its list only if it accepted the answer: a plain error lets the
                // caller go.
                tracing::error!(%error, unique, length, "the kernel refused an answer");
                self.refuse(unique, Errno(libc::EIO));
                Delivery::Unwanted
            }
        }
    }

    /// Answer a request with an error.
    pub fn refuse(&self, unique: u64, errno: Errno) {
        let header = refusal(unique, errno);
        if let Err(error) = self.write(header, &[])
            && !is_unwanted(&error)
        {
            tracing::error!(%error, unique, "the kernel refused an error answer");
        }
    }

    /// Drop what the kernel has cached of a node, if it knows it: attributes, and also its pages if `pages`.
    pub fn invalidate_node(&self, node: u64, pages: bool) {
        let body = NotifyInvalInodeOut { ino: node, off: if pages { 0 } else { -1 }, len: 0 };
        self.notify(NOTIFY_INVAL_INODE, &[body.bytes()]);
    }

    /// Drop what the kernel has cached under a name. Waits for operations under way in that directory: never to be called by a
    /// reader.
    pub fn invalidate_entry(&self, parent: u64, name: &[u8]) {
        let body =
            NotifyInvalEntryOut { parent, namelen: u32::try_from(name.len()).unwrap_or(u32::MAX), flags: 0 };
        self.notify(NOTIFY_INVAL_ENTRY, &[body.bytes(), name, &[0]]);
    }

    /// Have every name looked up again before it is used. Kernels before Linux 6.16 cannot.
    pub fn invalidate_names(&self) {
        self.notify(NOTIFY_INC_EPOCH, &[]);
    }

    /// Have the kernel send a request (NOTIFY_REPLY, under this number) from this processor. It asks for no bytes of the node.
    ///
    /// # Errors
    /// ENOENT for a node the kernel does not know, EINVAL where it wants a regular file.
    pub fn provoke(&self, node: u64, unique: u64) -> io::Result<()> {
        let body = NotifyRetrieveOut { notify_unique: unique, nodeid: node, ..NotifyRetrieveOut::default() };
        let length = size_of::<OutHeader>() + size_of::<NotifyRetrieveOut>();
        self.write(OutHeader { len: length as u32, error: NOTIFY_RETRIEVE, unique: 0 }, &[body.bytes()])
    }

    /// Register a backing file. It keeps the credentials of the calling thread.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN or where passthrough was not negotiated, ELOOP on a stacked file system (overlayfs).
    pub fn open_backing(&self, file: BorrowedFd<'_>) -> io::Result<i32> {
        let map = BackingMap { fd: file.as_raw_fd(), flags: 0, padding: 0 };
        // SAFETY: the ioctl reads one fuse_backing_map, which outlives the call.
        let id = unsafe { libc::ioctl(self.fd.as_raw_fd(), DEV_IOC_BACKING_OPEN as _, &raw const map) };
        if id <= 0 { Err(io::Error::last_os_error()) } else { Ok(id) }
    }

    /// Give a backing file up. It lives on as long as opens use it.
    pub fn close_backing(&self, id: i32) {
        // SAFETY: the ioctl reads one u32, which outlives the call.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), DEV_IOC_BACKING_CLOSE as _, &raw const id) };
        if result < 0 {
            tracing::debug!(id, error = %io::Error::last_os_error(), "backing file not closed");
        }
    }

    /// What the kernel does not know, or not any more, it has nothing cached of.
    fn notify(&self, code: i32, body: &[&[u8]]) {
        let length = body.iter().map(|part| part.len()).sum::<usize>() + size_of::<OutHeader>();
        let header = OutHeader { len: u32::try_from(length).unwrap_or(u32::MAX), error: code, unique: 0 };
        if let Err(error) = self.write(header, body)
            && !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTCONN | libc::ENODEV))
        {
            tracing::warn!(%error, "the kernel's cache could not be invalidated");
        }
    }

    fn write(&self, header: OutHeader, body: &[&[u8]]) -> io::Result<()> {
        let mut slices = [IoSlice::new(&[]); 5];
        slices[0] = IoSlice::new(header.bytes());
        let parts = body.len().min(slices.len() - 1);
        for (slice, part) in slices[1..].iter_mut().zip(body) {
            *slice = IoSlice::new(part);
        }
        // SAFETY: IoSlice is an iovec, and all of them outlive the call.
        let written = unsafe {
            libc::writev(
                self.fd.as_raw_fd(),
                slices.as_ptr().cast::<libc::iovec>(),
                (parts + 1) as libc::c_int,
            )
        };
        if written < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// The header of an answer that is an error.
pub fn refusal(unique: u64, errno: Errno) -> OutHeader {
    let errno = if (1..=ERRNO_MAX).contains(&errno.0) { errno.0 } else { libc::EIO };
    OutHeader { len: size_of::<OutHeader>() as u32, error: -errno, unique }
}

fn is_unwanted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::ECONNABORTED | libc::EPERM))
}
