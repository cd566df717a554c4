//! A shared mapping of a file, to be stored into.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// A shared, writable mapping; unmapped (without msync) when dropped.
#[derive(Debug)]
pub struct Mapping {
    address: *mut libc::c_void,
    length: usize,
}

impl Mapping {
    /// Map `length` bytes (more than none) of the file from `offset`, which is a multiple of the page.
    ///
    /// # Errors
    /// What mmap(2) returns.
    pub fn new(file: &File, offset: u64, length: usize) -> io::Result<Mapping> {
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of this program.
        let address = unsafe {
            libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, file.as_raw_fd(), offset)
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping { address, length })
    }

    /// Store bytes at an offset of the mapping. The file must still be that long (else the kernel sends SIGBUS).
    ///
    /// # Panics
    /// The bytes do not fit.
    pub fn store(&mut self, at: usize, bytes: &[u8]) {
        assert!(
            at.checked_add(bytes.len()).is_some_and(|end| end <= self.length),
            "store beyond the mapping"
        );
        // SAFETY: the range is inside the mapping (asserted), which is writable and not known to anybody else.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.address.cast::<u8>().add(at), bytes.len());
        }
    }

    /// msync(MS_SYNC) of all of it.
    ///
    /// # Errors
    /// What msync(2) returns.
    pub fn sync(&self) -> io::Result<()> {
        self.msync(libc::MS_SYNC)
    }

    /// msync(MS_ASYNC) of all of it.
    ///
    /// # Errors
    /// What msync(2) returns.
    pub fn sync_later(&self) -> io::Result<()> {
        self.msync(libc::MS_ASYNC)
    }

    fn msync(&self, flags: i32) -> io::Result<()> {
        // SAFETY: address and length are those of a live mapping.
        let result = unsafe { libc::msync(self.address, self.length, flags) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: address and length are those of a live mapping, and nothing points into it any more.
        unsafe { libc::munmap(self.address, self.length) };
    }
}
