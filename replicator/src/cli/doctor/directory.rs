//! What a mirrored directory lies on, and who else is there.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::sys::statvfs::{FsFlags, statvfs};

use super::finding::Finding;
use super::users;
use crate::cli::status::bytes;
use crate::config::NestedMounts;
use crate::mounts::{Mount, MountTable};
use crate::volume::FileHandle;

/// Most mounts or processes that are listed by name.
const LISTED_MAX: usize = 8;

/// All findings about one directory.
pub fn findings(path: &Path, nested: NestedMounts) -> Vec<Finding> {
    // Finding the real path of a dead mount may or may not fail; looking at it does.
    let real = match fs::canonicalize(path).and_then(|real| fs::metadata(&real).map(|_| real)) {
        Ok(real) => real,
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            let detail = "covered by the dead mount of a daemon that crashed; it is replaced at start";
            return vec![Finding::unknown("directory", detail)];
        }
        Err(error) => return vec![Finding::no("directory", format!("{error}; create it (mkdir -p)"))],
    };
    let mounts = match MountTable::read() {
        Ok(mounts) => mounts,
        Err(error) => return vec![Finding::unknown("mount-table", format!("/proc/self/mountinfo: {error}"))],
    };
    let mut findings = vec![match fs::metadata(&real) {
        Ok(found) => Finding::of("directory", found.is_dir(), real.display().to_string()),
        Err(error) => Finding::no("directory", error.to_string()),
    }];
    // What protects a secondary's copy shows the directory itself, which is what is to be looked at.
    let protected = mounts.over_itself(&real).filter(|(top, _)| top.is_read_only()).map(|(_, below)| below);
    let is_protected = protected.is_some();
    let mounts = protected.unwrap_or(mounts);
    match mounts.of(&real) {
        Some(mount) => findings.extend(on_mount(&real, mount, &mounts, nested)),
        None => findings.push(Finding::unknown("file-system", "its mount is not in /proc/self/mountinfo")),
    }
    findings.push(if is_protected {
        let detail = "mounted read-only over itself: protected by a secondary's node, or by one that crashed (then its next \
                      start takes the mount away)";
        Finding::yes("protected", detail)
    } else {
        space(&real)
    });
    findings.push(users::open_files(&real));
    findings.push(users::foreign_namespaces(&real, &mounts));
    findings
}

fn on_mount(real: &Path, mount: &Mount, mounts: &MountTable, nested: NestedMounts) -> Vec<Finding> {
    let known = ["ext4", "xfs", "btrfs", "tmpfs"].contains(&mount.filesystem.as_str());
    let detail = format!("{} on {} ({}), {}", mount.filesystem, mount.source, mount.device, mount.options);
    if mount.is_fuse() {
        let detail =
            format!("{detail}: a FUSE mount, the gate if a node runs; stop it to see what lies below");
        return vec![Finding::unknown("file-system", detail)];
    }
    let whole = mount.point == real && mount.root == Path::new("/");
    let whole_detail = if whole {
        "the directory is the root of its file system: events need no search of the tree"
    } else {
        "the directory is a part of its file system: events of other files are filtered out"
    };
    vec![
        Finding::of("file-system", known, detail),
        handles(real),
        reflink(mount),
        Finding::yes("scope", whole_detail),
        inside(real, mounts, nested),
        others(real, mount, mounts),
    ]
}

/// Files are opened by handle only: name_to_handle_at(2) must work.
fn handles(real: &Path) -> Finding {
    let name = "file-handles";
    let handle = fs::File::open(real).and_then(|directory| {
        let handle = FileHandle::of(directory.as_fd(), c"")?;
        handle.open(directory.as_fd(), libc::O_RDONLY | libc::O_DIRECTORY)
    });
    match handle {
        Ok(_) => Finding::yes(name, "can be taken and opened"),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Finding::no(
            name,
            format!("{error}; opening one needs CAP_DAC_READ_SEARCH in the initial user namespace"),
        ),
        Err(error) => Finding::no(name, format!("{error}; put the directory on ext4, xfs or btrfs")),
    }
}

/// Told by type: trying it would write.
fn reflink(mount: &Mount) -> Finding {
    let name = "shared-extents";
    match mount.filesystem.as_str() {
        "btrfs" => Finding::yes(name, "btrfs can share extents; a clone is mirrored as bytes"),
        "xfs" => Finding::unknown(
            name,
            "xfs can, if it was made with reflink=1 (xfs_info tells); a clone is mirrored as bytes",
        ),
        other => Finding::yes(name, format!("none on {other}; nothing depends on it")),
    }
}

fn inside(real: &Path, mounts: &MountTable, nested: NestedMounts) -> Finding {
    let points: Vec<String> = mounts.inside(real).map(|mount| mount.point.display().to_string()).collect();
    if points.is_empty() {
        return Finding::yes("no-mount-inside", "no other file system is mounted inside");
    }
    let points = listed(&points);
    Finding::no(
        "no-mount-inside",
        match nested {
            NestedMounts::Refuse => {
                format!("{points}: unmount it, or leave it out by mirror.nested-mounts = \"ignore\"")
            }
            NestedMounts::Ignore => format!("{points}: left out by mirror.nested-mounts = \"ignore\""),
        },
    )
}

fn others(real: &Path, own: &Mount, mounts: &MountTable) -> Finding {
    let name = "no-second-way";
    let points: Vec<String> = mounts.place(real).map_or_else(Vec::new, |place| {
        let showing = mounts.others_showing(&place, own);
        showing
            .filter(|mount| !mount.point.starts_with(real))
            .map(|mount| mount.point.display().to_string())
            .collect()
    });
    if points.is_empty() {
        return Finding::yes(name, "no other mount leads to the files");
    }
    Finding::no(
        name,
        format!(
            "also reachable through {}: what is changed there passes by the gate; its fsyncs are not held",
            listed(&points)
        ),
    )
}

fn space(real: &Path) -> Finding {
    match statvfs(real) {
        Ok(stat) => {
            let free = stat.blocks_available().saturating_mul(stat.fragment_size());
            let read_only = stat.flags().contains(FsFlags::ST_RDONLY);
            let mounted = if read_only { "read-only; remount it" } else { "writable" };
            let detail = format!("{mounted}, {} free, {} files free", bytes(free), stat.files_available());
            Finding::of("writable", !read_only, detail)
        }
        Err(errno) => Finding::unknown("writable", format!("statvfs: {errno}")),
    }
}

/// The first few of a list.
pub(super) fn listed(all: &[String]) -> String {
    let some = all.iter().take(LISTED_MAX).cloned().collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(LISTED_MAX) {
        0 => some,
        more => format!("{some} and {more} more"),
    }
}
