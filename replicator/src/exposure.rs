//! With which permission bits the copy of a new file is made before its attributes come.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Group's and others' bits.
const NOT_THE_OWNERS: u32 = 0o077;

/// The attribute that holds a file's access control list.
pub const ACCESS_LIST: &CStr = c"system.posix_acl_access";

/// How a file is reached.
#[derive(Clone, Copy)]
pub enum Place<'a> {
    /// By a descriptor that is not an `O_PATH` one.
    Open(BorrowedFd<'a>),
    /// By its name in a directory.
    Named(BorrowedFd<'a>, &'a CStr),
}

/// The bits of `mode` a copy can be made with: all of them, or only the owner's if the file has an access control list. The list
/// comes with the attributes, and without it the group's bits, which are the list's mask, and others' would let in whom
/// it keeps out. So a copy is at no moment more open than the original.
#[must_use]
pub fn of_new_copy(mode: u32, place: Place<'_>) -> u32 {
    if mode & NOT_THE_OWNERS == 0 || !has_list(place) { mode } else { mode & !NOT_THE_OWNERS }
}

/// Whether a file has an access list; also if that cannot be told.
fn has_list(place: Place<'_>) -> bool {
    let list = ACCESS_LIST;
    let length = match place {
        // SAFETY: the string is NUL-terminated and outlives the call, which with size 0 writes nothing.
        Place::Open(file) => unsafe {
            libc::fgetxattr(file.as_raw_fd(), list.as_ptr(), std::ptr::null_mut(), 0)
        },
        Place::Named(directory, name) => {
            // The call has no form that takes a directory's descriptor; through /proc it works for an O_PATH one too (proc(5)).
            let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
            path.extend_from_slice(name.to_bytes());
            let Ok(path) = CString::new(path) else { return true };
            // SAFETY: as above.
            unsafe { libc::lgetxattr(path.as_ptr(), list.as_ptr(), std::ptr::null_mut(), 0) }
        }
    };
    let none = [Some(libc::ENODATA), Some(libc::EOPNOTSUPP)];
    length >= 0 || !none.contains(&std::io::Error::last_os_error().raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn a_list_closes_the_copy_to_all_but_the_owner() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        fs::write(&path, "").expect("a file");
        let opened = File::open(directory.path()).expect("open");
        let file = File::open(&path).expect("open the file");
        let of = |mode| {
            let named = of_new_copy(mode, Place::Named(opened.as_fd(), c"file"));
            assert_eq!(of_new_copy(mode, Place::Open(file.as_fd())), named);
            named
        };
        assert_eq!(of(0o4754), 0o4754);
        // Owner rwx, user 1000 rwx, group none, mask rwx, others none (linux/posix_acl_xattr.h).
        let entries: [(u8, u8, u32); 5] =
            [(1, 7, u32::MAX), (2, 7, 1000), (4, 0, u32::MAX), (0x10, 7, u32::MAX), (0x20, 0, u32::MAX)];
        let mut list = vec![2, 0, 0, 0];
        for (tag, permission, id) in entries {
            list.extend([tag, 0, permission, 0]);
            list.extend(id.to_le_bytes());
        }
        let path = CString::new(path.as_os_str().as_bytes()).expect("a path");
        let name = ACCESS_LIST;
        // SAFETY: both strings are NUL-terminated, the value is readable for its length.
        let set =
            unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), list.as_ptr().cast(), list.len(), 0) };
        if set < 0 {
            println!("not run: no access control lists here: {}", std::io::Error::last_os_error());
            return;
        }
        assert_eq!(of(0o4770), 0o4700);
        assert_eq!(of(0o4700), 0o4700);
    }

    #[test]
    fn what_cannot_be_looked_at_is_closed() {
        let directory = tempfile::tempdir().expect("a directory");
        let opened = File::open(directory.path()).expect("open");
        assert_eq!(of_new_copy(0o644, Place::Named(opened.as_fd(), c"missing")), 0o600);
    }
}
