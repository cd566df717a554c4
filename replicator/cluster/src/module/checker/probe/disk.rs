//! Whether a file system has room left.

use std::path::Path;

use nix::sys::statvfs::statvfs;

use super::super::super::SpaceLimit;

pub(super) fn look(path: &Path, free: SpaceLimit, inodes: Option<SpaceLimit>) -> Result<(), String> {
    let found =
        statvfs(path).map_err(|errno| format!("cannot look at {}: {}", path.display(), errno.desc()))?;
    let unit = found.fragment_size();
    // What others than root may use: that is what most applications get.
    let left =
        Left { of: found.blocks().saturating_mul(unit), is: found.blocks_available().saturating_mul(unit) };
    enough(&left, free)
        .map_err(|(is, least)| format!("{}: {is} free, at least {least} must be", path.display()))?;
    let Some(limit) = inodes else { return Ok(()) };
    // Some file systems (btrfs) have no number of inodes; they do not run out of them.
    if found.files() == 0 {
        return Ok(());
    }
    let left = Left { of: found.files(), is: found.files_available() };
    enough(&left, limit)
        .map_err(|(is, least)| format!("{}: {is} inodes free, at least {least} must be", path.display()))
}

struct Left {
    of: u64,
    is: u64,
}

/// What there is and what must be, in words, if it is too little.
fn enough(left: &Left, limit: SpaceLimit) -> Result<(), (String, String)> {
    match limit {
        SpaceLimit::Amount(least) if left.is < least => Err((left.is.to_string(), least.to_string())),
        SpaceLimit::Percent(least) => {
            // Precise enough for a share: both are below 2^53 on anything that exists.
            let share = if left.of == 0 { 0.0 } else { 100.0 * left.is as f64 / left.of as f64 };
            if share < least { Err((format!("{share:.1}%"), format!("{least}%"))) } else { Ok(()) }
        }
        SpaceLimit::Amount(_) => Ok(()),
    }
}
