//! Extended attributes of a path, symlinks not followed.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// All extended attributes (access lists are among them), by name.
///
/// # Errors
/// The file system refused. One that has no attributes at all gives an empty map.
pub fn all(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let path = c_path(path)?;
    let names = match read(|buffer, size| {
        // SAFETY: `path` is NUL-terminated and `buffer` has room for `size` bytes (or is null with size 0).
        unsafe { libc::llistxattr(path.as_ptr(), buffer.cast(), size) }
    }) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(BTreeMap::new()),
        other => other?,
    };
    let mut found = BTreeMap::new();
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(c_name) = CStr::from_bytes_with_nul(name) else { continue };
        let value = read(|buffer, size| {
            // SAFETY: both strings are NUL-terminated and `buffer` has room for `size` bytes (or is null with size 0).
            unsafe { libc::lgetxattr(path.as_ptr(), c_name.as_ptr(), buffer.cast(), size) }
        })?;
        found.insert(c_name.to_bytes().to_vec(), value);
    }
    Ok(found)
}

/// Set one extended attribute.
///
/// # Errors
/// What lsetxattr(2) returns.
pub fn set(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    let path = c_path(path)?;
    let name = CString::new(name)?;
    // SAFETY: both strings are NUL-terminated and `value` is as long as it says.
    let result =
        unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(OsStr::as_bytes(path.as_os_str()))?)
}

/// Ask for the size, then for the bytes, until both fit.
fn read(mut call: impl FnMut(*mut u8, usize) -> isize) -> io::Result<Vec<u8>> {
    loop {
        let size = call(std::ptr::null_mut(), 0);
        if size < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut buffer = vec![0; size as usize];
        if buffer.is_empty() {
            return Ok(buffer);
        }
        let got = call(buffer.as_mut_ptr(), buffer.len());
        if got >= 0 {
            buffer.truncate(got as usize);
            return Ok(buffer);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) {
            return Err(error);
        }
    }
}
