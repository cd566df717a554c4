//! Calls that are submitted to the kernel and waited for: by io_uring(7), and by io_submit(2).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, types};

use super::operation::Via;

/// Opcodes of linux/aio_abi.h.
const AIO_READ: u16 = 0;
const AIO_WRITE: u16 = 1;
const AIO_SYNC: u16 = 2;
const AIO_DATA_SYNC: u16 = 3;

/// A call.
#[derive(Debug)]
pub enum Call<'a> {
    /// Read at an offset.
    Read(&'a mut [u8], u64),
    /// Write at an offset, with flags of pwritev2(2).
    Write(&'a [u8], u64, i32),
    /// fsync(2).
    Sync,
    /// fdatasync(2).
    DataSync,
}

/// Where this process submits; each is set up with the first call.
#[derive(Default)]
pub struct Submitter {
    ring: Option<IoUring>,
    aio: Option<Context>,
}

impl Submitter {
    /// Do a call and wait for it: what the system call would return.
    ///
    /// # Errors
    /// The same.
    pub fn take(&mut self, via: Via, file: &File, call: &mut Call) -> io::Result<u64> {
        let result = match via {
            Via::Call => return made(file, call),
            Via::Ring => {
                if self.ring.is_none() {
                    self.ring = Some(IoUring::new(4)?);
                }
                i64::from(self.ring.as_mut().map_or(Ok(-libc::ENOSYS), |ring| by_ring(ring, file, call))?)
            }
            Via::Aio => {
                if self.aio.is_none() {
                    self.aio = Some(Context::new()?);
                }
                self.aio.as_ref().map_or(Ok(i64::from(-libc::ENOSYS)), |aio| aio.take(file, call))?
            }
        };
        u64::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result as i32))
    }
}

fn made(file: &File, call: &mut Call) -> io::Result<u64> {
    let fd = file.as_raw_fd();
    let result = match call {
        Call::Read(bytes, at) => {
            // SAFETY: the bytes are writable for their length.
            unsafe { libc::pread(fd, bytes.as_mut_ptr().cast(), bytes.len(), *at as i64) }
        }
        Call::Write(bytes, at, flags) => {
            let slice = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            // SAFETY: one iovec over readable bytes; both outlive the call.
            unsafe { libc::pwritev2(fd, &raw const slice, 1, *at as i64, *flags) }
        }
        // SAFETY: takes no memory.
        Call::Sync => unsafe { libc::fsync(fd) as isize },
        // SAFETY: takes no memory.
        Call::DataSync => unsafe { libc::fdatasync(fd) as isize },
    };
    u64::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn by_ring(ring: &mut IoUring, file: &File, call: &mut Call) -> io::Result<i32> {
    let fd = types::Fd(file.as_raw_fd());
    let entry = match call {
        Call::Read(bytes, at) => {
            opcode::Read::new(fd, bytes.as_mut_ptr(), bytes.len() as u32).offset(*at).build()
        }
        Call::Write(bytes, at, flags) => {
            opcode::Write::new(fd, bytes.as_ptr(), bytes.len() as u32).offset(*at).rw_flags(*flags).build()
        }
        Call::Sync => opcode::Fsync::new(fd).build(),
        Call::DataSync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
    };
    // SAFETY: the bytes and the file outlive the call, which is waited for below.
    unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    loop {
        match ring.submit_and_wait(1) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            result => break result.map(drop)?,
        }
    }
    let end = ring.completion().next();
    end.map(|end| end.result()).ok_or_else(|| io::Error::other("a ring that was waited for is empty"))
}

/// Of io_setup(2); ended when dropped.
struct Context(libc::c_ulong);

impl Context {
    fn new() -> io::Result<Context> {
        let mut context = 0;
        // SAFETY: the number outlives the call.
        if unsafe { libc::syscall(libc::SYS_io_setup, 4, &raw mut context) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Context(context))
    }

    fn take(&self, file: &File, call: &mut Call) -> io::Result<i64> {
        // SAFETY: integers throughout, for which zeroes are valid.
        let mut request: libc::iocb = unsafe { std::mem::zeroed() };
        request.aio_fildes = file.as_raw_fd() as u32;
        match call {
            Call::Read(bytes, at) => {
                request.aio_lio_opcode = AIO_READ;
                (request.aio_buf, request.aio_nbytes) = (bytes.as_mut_ptr() as u64, bytes.len() as u64);
                request.aio_offset = *at as i64;
            }
            Call::Write(bytes, at, flags) => {
                request.aio_lio_opcode = AIO_WRITE;
                (request.aio_buf, request.aio_nbytes) = (bytes.as_ptr() as u64, bytes.len() as u64);
                (request.aio_offset, request.aio_rw_flags) = (*at as i64, *flags);
            }
            Call::Sync => request.aio_lio_opcode = AIO_SYNC,
            Call::DataSync => request.aio_lio_opcode = AIO_DATA_SYNC,
        }
        let mut list = [&raw mut request];
        // SAFETY: one request; it and the bytes it names outlive the wait below.
        if unsafe { libc::syscall(libc::SYS_io_submit, self.0, 1, list.as_mut_ptr()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // `struct io_event`: data, object, two results.
        let mut event = [0_i64; 4];
        loop {
            let forever = std::ptr::null_mut::<libc::timespec>();
            // SAFETY: one event of the kernel's size; it outlives the call.
            let ended =
                unsafe { libc::syscall(libc::SYS_io_getevents, self.0, 1, 1, event.as_mut_ptr(), forever) };
            match ended {
                1 => return Ok(event[2]),
                _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => (),
                _ => return Err(io::Error::last_os_error()),
            }
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: a context of this process, used by nobody else.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}
