//! Holes: what takes no space on the primary takes none on the copy.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Context, Result};

/// A hole may be filled by so much at its end: a file that for a moment ends in the middle of a block has that block filled with
/// zeros when it grows (btrfs: always; ext4: if something was in it), and the copy grows in other steps than the original.
const BLOCK: u64 = 4096;

/// What differs in the holes of two trees of the same names: ranges that are holes on the left and not on the right. The
/// reverse is allowed: space that is only preallocated, or holds zeros that were written, need not be on the copy.
///
/// # Errors
/// A file cannot be read.
pub fn differences(left: &Path, right: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut ahead = vec![std::path::PathBuf::new()];
    while let Some(path) = ahead.pop() {
        let full = left.join(&path);
        let meta = fs::symlink_metadata(&full)?;
        if meta.is_dir() {
            for entry in fs::read_dir(&full)? {
                ahead.push(path.join(entry?.file_name()));
            }
        } else if meta.is_file() {
            let of =
                |root: &Path| data(&root.join(&path)).with_context(|| format!("holes of {}", path.display()));
            let (one, other) = (of(left)?, of(right)?);
            found.extend(outside(&other, &one).filter(|(from, to)| to - from > BLOCK).map(|(from, to)| {
                format!("{}: {from} to {to} is a hole, and filled on the copy", path.display())
            }));
        }
    }
    Ok(found)
}

/// Ranges that hold data.
fn data(path: &Path) -> io::Result<Vec<(u64, u64)>> {
    let file = File::open(path)?;
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(begin) = seek(&file, at, libc::SEEK_DATA)? {
        let end = seek(&file, begin, libc::SEEK_HOLE)?.unwrap_or(begin);
        found.push((begin, end));
        at = end;
    }
    Ok(found)
}

fn seek(file: &File, at: u64, whence: i32) -> io::Result<Option<u64>> {
    // SAFETY: takes no memory.
    let found = unsafe { libc::lseek(file.as_raw_fd(), at as i64, whence) };
    match u64::try_from(found) {
        Ok(found) => Ok(Some(found)),
        Err(_) => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            error => Err(error),
        },
    }
}

/// Parts of `ranges` that are in none of `within`; both in order.
fn outside<'a>(ranges: &'a [(u64, u64)], within: &'a [(u64, u64)]) -> impl Iterator<Item = (u64, u64)> + 'a {
    ranges.iter().flat_map(move |(from, to)| {
        let mut at = *from;
        let mut left = Vec::new();
        for (begin, end) in within {
            if *begin > at && at < *to {
                left.push((at, (*begin).min(*to)));
            }
            at = at.max(*end);
        }
        if at < *to {
            left.push((at, *to));
        }
        left
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_outside_is_found() {
        let found =
            |ranges: &[(u64, u64)], within: &[(u64, u64)]| outside(ranges, within).collect::<Vec<_>>();
        assert_eq!(found(&[(0, 10)], &[(0, 10)]), []);
        assert_eq!(found(&[(0, 10)], &[]), [(0, 10)]);
        assert_eq!(found(&[(0, 10), (20, 30)], &[(2, 4), (8, 25)]), [(0, 2), (4, 8), (25, 30)]);
    }
}
