//! What is mounted inside the mirrored directories while the node runs.
//!
//! The configuration decides about what is mounted at the start. What comes later lies on the gate (or on the secondary's
//! plain directory): it is used as usual and is not of the tree. That is said, in the log and in the status.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::{info, warn};

use crate::mounts::MountTable;

/// Watches the mount table.
#[derive(Debug)]
pub struct NestedMounts {
    /// Readable as "changed" since it was last asked (proc(5), /proc/pid/mounts).
    table: Option<File>,
    directories: Vec<PathBuf>,
    /// What is mounted inside each directory.
    points: Vec<Vec<PathBuf>>,
}

impl NestedMounts {
    /// Watch these directories, given by their real paths.
    pub fn new(directories: Vec<PathBuf>) -> NestedMounts {
        let table = match File::open("/proc/self/mountinfo") {
            Ok(table) => Some(table),
            Err(error) => {
                warn!(%error, "what is mounted inside the directories while the node runs is not noticed");
                None
            }
        };
        let points = vec![Vec::new(); directories.len()];
        NestedMounts { table, directories, points }
    }

    /// What is mounted inside each directory, if that is something else than at the last call (at first: than nothing).
    pub fn changed(&mut self, first: bool) -> Option<Vec<Vec<PathBuf>>> {
        if !first && !self.may_have_changed() {
            return None;
        }
        let table =
            MountTable::read().inspect_err(|error| warn!(%error, "cannot read the mount table")).ok()?;
        let points = points_inside(&table, &self.directories);
        if points == self.points {
            return None;
        }
        for (before, now) in self.points.iter().zip(&points) {
            if !first {
                let came = now.iter().filter(|point| !before.contains(point));
                came.for_each(|point| {
                    warn!(point = %point.display(), "mounted inside a mirrored directory: what it holds is not mirrored");
                });
            }
            let went = before.iter().filter(|point| !now.contains(point));
            went.for_each(|point| info!(point = %point.display(), "unmounted inside a mirrored directory"));
        }
        self.points.clone_from(&points);
        Some(points)
    }

    fn may_have_changed(&self) -> bool {
        let Some(table) = &self.table else { return false };
        let mut asked = [PollFd::new(table.as_fd(), PollFlags::POLLPRI)];
        // In doubt it is looked at.
        poll(&mut asked, PollTimeout::ZERO).map_or(true, |ready| ready > 0)
    }
}

fn points_inside(table: &MountTable, directories: &[PathBuf]) -> Vec<Vec<PathBuf>> {
    let inside = |directory: &PathBuf| table.inside(directory).map(|mount| mount.point.clone()).collect();
    directories.iter().map(inside).collect()
}

#[cfg(test)]
mod tests {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};

    use super::*;

    #[test]
    fn a_mount_that_comes_and_goes_is_noticed_once_each() {
        let directory = tempfile::tempdir().unwrap();
        let path = std::fs::canonicalize(directory.path()).unwrap();
        let point = path.join("inner");
        std::fs::create_dir(&point).unwrap();
        let mut nested = NestedMounts::new(vec!["/nonexistent".into(), path]);
        assert_eq!(nested.changed(true), None);
        let bind = mount(Some(&point), &point, None::<&str>, MsFlags::MS_BIND, None::<&str>);
        if let Err(errno) = bind {
            return println!("not run: a bind mount needs root: {errno}");
        }
        let came = nested.changed(false);
        let again = nested.changed(false);
        umount2(&point, MntFlags::MNT_DETACH).unwrap();
        assert_eq!(came, Some(vec![vec![], vec![point]]));
        assert_eq!(again, None);
        assert_eq!(nested.changed(false), Some(vec![vec![], vec![]]));
    }
}
