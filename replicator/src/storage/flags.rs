//! Inode flags of files (chattr(1), ioctl_iflags(2)). Only regular files and directories have some that can be reached: the
//! call goes to the driver of a device and to the other end of a pipe.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use replicator_core::ids::FileKind;
use replicator_core::wire::attributes::InodeFlags;

use super::status::{Status, magic_path};

/// A descriptor by which flags are read and set, and what it said.
#[derive(Debug)]
pub(super) struct Flags<'a> {
    file: Descriptor<'a>,
    /// All flags as they were read, also those that are not mirrored.
    bits: libc::c_int,
}

#[derive(Debug)]
enum Descriptor<'a> {
    Given(BorrowedFd<'a>),
    /// The given one was an O_PATH one.
    Own(OwnedFd),
}

impl Descriptor<'_> {
    fn raw(&self) -> i32 {
        match self {
            Descriptor::Given(file) => file.as_raw_fd(),
            Descriptor::Own(file) => file.as_raw_fd(),
        }
    }
}

impl<'a> Flags<'a> {
    /// The flags of an open file, O_PATH included, of that kind. `None` where there are none: another kind of file, or a file
    /// system without them.
    pub(super) fn of(file: BorrowedFd<'a>, kind: FileKind) -> io::Result<Option<Flags<'a>>> {
        if !matches!(kind, FileKind::Regular | FileKind::Directory) {
            return Ok(None);
        }
        let given = Descriptor::Given(file);
        match read(&given) {
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => {
                let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOATIME | OFlag::O_CLOEXEC;
                let own = Descriptor::Own(open(magic_path(file).as_c_str(), flags, Mode::empty())?);
                present(read(&own), own)
            }
            bits => present(bits, given),
        }
    }

    /// Those that are mirrored.
    pub(super) fn mirrored(&self) -> InodeFlags {
        InodeFlags::of_bits(self.bits.cast_unsigned())
    }

    /// Let exactly these of the mirrored flags be set; the others stay.
    ///
    /// # Errors
    /// What ioctl(2) returns; [`is_refused`] where it is about these flags. None is changed then.
    pub(super) fn set(&mut self, wanted: InodeFlags) -> io::Result<()> {
        let others = self.bits & !InodeFlags::ALL.bits().cast_signed();
        let bits = others | wanted.bits().cast_signed();
        // SAFETY: the call reads one int, which outlives it.
        if unsafe { libc::ioctl(self.file.raw(), libc::FS_IOC_SETFLAGS as _, &raw const bits) } < 0 {
            return Err(io::Error::last_os_error());
        }
        self.bits = bits;
        Ok(())
    }

    /// Whether the file has a name left.
    pub(super) fn has_name(&self) -> io::Result<bool> {
        let file = match &self.file {
            Descriptor::Given(file) => *file,
            Descriptor::Own(file) => std::os::fd::AsFd::as_fd(file),
        };
        Ok(Status::links_of(file)? > 0)
    }
}

/// Whether a file system does not take a flag, or does not take it from this process (CAP_LINUX_IMMUTABLE).
pub(super) fn is_refused(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL | libc::EPERM))
}

fn read(file: &Descriptor<'_>) -> io::Result<libc::c_int> {
    let mut bits: libc::c_int = 0;
    // SAFETY: the call writes one int, which outlives it.
    let result = unsafe { libc::ioctl(file.raw(), libc::FS_IOC_GETFLAGS as _, &raw mut bits) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(bits) }
}

fn present(bits: io::Result<libc::c_int>, file: Descriptor<'_>) -> io::Result<Option<Flags<'_>>> {
    match bits {
        Ok(bits) => Ok(Some(Flags { file, bits })),
        // What a file system without flags says.
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EOPNOTSUPP | libc::ENOSYS)) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
