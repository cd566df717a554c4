//! A shared mapping of a file, to be stored into.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, compiler_fence};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Where [`Mapping::try_store`] stores, and whether the kernel refused that: for its signal handler.
static BEGIN: AtomicUsize = AtomicUsize::new(0);
static END: AtomicUsize = AtomicUsize::new(0);
static REFUSED: AtomicBool = AtomicBool::new(false);

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

    /// As [`Mapping::store`], in a file that somebody may make shorter at this moment. Where the kernel refuses it (SIGBUS), the page
    /// is no longer the file's but this mapping's own, and what is stored there is lost. Needs [`survive_refusals`]; one thread at a
    /// time.
    ///
    /// # Errors
    /// EFAULT, as for a read(2) into such a page: the kernel refused it.
    ///
    /// # Panics
    /// The bytes do not fit.
    pub fn try_store(&mut self, at: usize, bytes: &[u8]) -> io::Result<()> {
        let begin = self.address as usize;
        BEGIN.store(begin, Ordering::SeqCst);
        END.store(begin + self.length, Ordering::SeqCst);
        // The handler runs on this thread: only the compiler could move the store out of where it is expected.
        compiler_fence(Ordering::SeqCst);
        self.store(at, bytes);
        compiler_fence(Ordering::SeqCst);
        END.store(0, Ordering::SeqCst);
        if REFUSED.swap(false, Ordering::SeqCst) {
            Err(io::Error::from_raw_os_error(libc::EFAULT))
        } else {
            Ok(())
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

/// From now on a refusal is an error of [`Mapping::try_store`], not the end of this process.
///
/// # Errors
/// What sigaction(2) returns.
pub fn survive_refusals() -> io::Result<()> {
    let action = SigAction::new(SigHandler::SigAction(on_refusal), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does only what signal-safety(7) allows, and mmap(2), which is a mere system call.
    unsafe { sigaction(Signal::SIGBUS, &action) }?;
    Ok(())
}

/// Put a page of this process's own where the file's is gone, so that the store ends; whatever else SIGBUS means ends the process.
extern "C" fn on_refusal(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel hands in a structure, which has an address for every code it gives itself.
    let (code, at) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    let stored = (BEGIN.load(Ordering::SeqCst)..END.load(Ordering::SeqCst)).contains(&at);
    // SAFETY: takes no memory.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    if code == libc::BUS_ADRERR && stored {
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let begin = (at / page * page) as *mut libc::c_void;
        // SAFETY: replaces a page of a mapping that lives as long as the store into it, which is interrupted here.
        if unsafe { libc::mmap(begin, page, protection, kind, -1, 0) } == begin {
            REFUSED.store(true, Ordering::SeqCst);
            return;
        }
    }
    // SAFETY: take no memory. The signal comes once the handler has returned.
    unsafe {
        libc::signal(libc::SIGBUS, libc::SIG_DFL);
        libc::raise(libc::SIGBUS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_into_what_was_cut_off_is_an_error() {
        survive_refusals().unwrap();
        let file = tempfile::tempfile().unwrap();
        file.set_len(3 * 4096).unwrap();
        let mut mapping = Mapping::new(&file, 0, 3 * 4096).unwrap();
        mapping.try_store(4000, &[1; 200]).unwrap();
        file.set_len(4096).unwrap();
        let refused = mapping.try_store(4000, &[2; 5000]).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EFAULT));
        mapping.try_store(0, &[3; 96]).unwrap();
        let mut bytes = [0; 4096];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).unwrap();
        assert_eq!(bytes[..96], [3; 96]);
        assert_eq!(bytes[96..4000], [0; 3904]);
        assert_eq!(bytes[4000..], [2; 96]);
    }
}
