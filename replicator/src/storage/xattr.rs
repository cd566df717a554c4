//! Extended attributes of a file by its descriptor, O_PATH included (xattr(7)).

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::BorrowedFd;

use super::status::magic_path;
use crate::exposure;

/// How often a list or value that grows between two calls is asked for again.
const ATTEMPTS: usize = 16;

/// How xfs stores access control lists, which it shows to root beside the lists themselves (fs/xfs/xfs_acl.h). On another file
/// system it would be an attribute that stays as it is when the list changes, and is the list again on the way back.
const LISTS_OF_XFS: [&[u8]; 2] = [b"trusted.SGI_ACL_FILE", b"trusted.SGI_ACL_DEFAULT"];

/// Name of the access control list.
pub(super) const ACCESS_LIST: &[u8] = exposure::ACCESS_LIST.to_bytes();

/// The permission bits that an access control list stands for (acl(5), linux/posix_acl_xattr.h): of its owner, of its mask, or the
/// owner's group where it has none, and of others. `None` if it is no such list.
pub(super) fn mode_of_list(value: &[u8]) -> Option<u32> {
    const VERSION: [u8; 4] = 2_u32.to_le_bytes();
    let [owner, group, mask, other] = [0x01_u16, 0x04, 0x10, 0x20];
    let entries = value.strip_prefix(&VERSION)?.chunks_exact(8);
    let of = |wanted: u16| {
        let mut entries = entries.clone();
        entries.find(|entry| entry.starts_with(&wanted.to_le_bytes())).map(|entry| u32::from(entry[2]))
    };
    Some(of(owner)? << 6 | of(mask).or(of(group))? << 3 | of(other)?)
}

/// Whether attributes of that name are mirrored. What else a file system shows under `system.` and its own
/// namespaces describes the file system, not the file.
pub(super) fn is_mirrored(name: &[u8]) -> bool {
    const NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
    if LISTS_OF_XFS.contains(&name) {
        return false;
    }
    NAMESPACES.iter().any(|namespace| name.starts_with(namespace) && name.len() > namespace.len())
        || name == ACCESS_LIST
        || name == b"system.posix_acl_default"
}

/// All mirrored attributes, sorted by name. Empty where the file system has none at all.
pub(super) fn read_all(file: BorrowedFd<'_>) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let path = magic_path(file);
    let list = match fill(|buffer, size| {
        // SAFETY: `path` is NUL-terminated, `buffer` has room for `size` bytes; both outlive the call.
        unsafe { libc::listxattr(path.as_ptr(), buffer.cast(), size) }
    }) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTSUP) => return Ok(Vec::new()),
        list => list?,
    };
    let mut attributes = Vec::new();
    for name in list.split(|&byte| byte == 0).filter(|name| is_mirrored(name)) {
        // A piece between NULs has none in it.
        let Ok(c_name) = CString::new(name) else { continue };
        match get(&path, &c_name) {
            Ok(value) => attributes.push((name.to_vec(), value)),
            // Removed since the list was read.
            Err(error) if error.raw_os_error() == Some(libc::ENODATA) => {}
            Err(error) => return Err(error),
        }
    }
    attributes.sort_unstable();
    Ok(attributes)
}

fn get(path: &CStr, name: &CStr) -> io::Result<Vec<u8>> {
    fill(|buffer, size| {
        // SAFETY: both strings are NUL-terminated, `buffer` has room for `size` bytes; all outlive the call.
        unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), buffer.cast(), size) }
    })
}

/// Set an attribute, whether it is there or not.
pub(super) fn set(file: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> io::Result<()> {
    let path = magic_path(file);
    // SAFETY: both strings are NUL-terminated, `value` is as long as it says; all outlive the call.
    let result =
        unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Remove an attribute; that it is not there is no error.
pub(super) fn remove(file: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let path = magic_path(file);
    // SAFETY: both strings are NUL-terminated and outlive the call.
    if unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ENODATA) { Ok(()) } else { Err(error) }
}

/// Call until the buffer is as large as what it is to hold: first with none, which asks for the size.
fn fill(mut call: impl FnMut(*mut u8, usize) -> isize) -> io::Result<Vec<u8>> {
    let mut buffer = Vec::<u8>::new();
    for _ in 0..ATTEMPTS {
        let needed = call(std::ptr::null_mut(), 0);
        let Ok(needed) = usize::try_from(needed) else { return Err(io::Error::last_os_error()) };
        if needed == 0 {
            return Ok(Vec::new());
        }
        buffer.resize(needed, 0);
        match usize::try_from(call(buffer.as_mut_ptr(), buffer.len())) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.raw_os_error() != Some(libc::ERANGE) {
                    return Err(error);
                }
            }
        }
    }
    Err(io::Error::from_raw_os_error(libc::ERANGE))
}
