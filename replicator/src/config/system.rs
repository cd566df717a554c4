//! The configuration against this machine.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::error::{ConfigError, ConfigWarning};
use super::{Config, Mode, NestedMounts, TreeConfig, WhenAlone};
use crate::mounts::{Mount, MountTable, Place};
use crate::volume::exists_below;

const DIRECTORIES: &str = "mirror.directories";
/// File systems the mirror is made for.
const FILESYSTEMS: [&str; 4] = ["ext4", "xfs", "btrfs", "tmpfs"];

pub(super) fn validate(config: &Config) -> Result<Vec<ConfigWarning>, ConfigError> {
    let mounts = MountTable::read().map_err(|source| ConfigError::PathUnusable {
        key: DIRECTORIES,
        path: "/proc/self/mountinfo".into(),
        source,
    })?;
    let mut warnings = Vec::new();
    let mut directories = Vec::with_capacity(config.mirror.directories.len());
    for path in &config.mirror.directories {
        directories.push(directory(path, &mounts, &mut warnings)?);
    }
    for (directory, tree) in directories.iter().zip(&config.mirror.trees) {
        nested_mounts(directory, config.mirror.nested_mounts, &mounts, &mut warnings)?;
        must_exist(directory, tree)?;
    }
    refuse_overlap(&directories)?;
    refuse_inside(config, &directories, &mounts)?;
    key_file(config, &mut warnings)?;
    if config.mirror.mode == Mode::Async && config.mirror.when_alone != WhenAlone::Release {
        let why = "in mode \"async\" no fsync is ever held";
        warnings.push(ConfigWarning::WithoutEffect { key: "mirror.when-alone", why });
    }
    if !config.mirror.strict_files.is_empty() && config.mirror.mode == Mode::Async {
        let why = "in mode \"async\" no call is ever held";
        warnings.push(ConfigWarning::WithoutEffect { key: "mirror.strict-files", why });
    }
    Ok(warnings)
}

/// A mirrored directory as it really is.
struct Directory {
    written: PathBuf,
    real: PathBuf,
    place: Option<Place>,
}

fn directory(
    path: &Path,
    mounts: &MountTable,
    warnings: &mut Vec<ConfigWarning>,
) -> Result<Directory, ConfigError> {
    let unusable = |source| ConfigError::PathUnusable { key: DIRECTORIES, path: path.to_owned(), source };
    // Finding the real path of a dead mount may or may not fail, by the way the C library goes; looking at it does.
    let found = fs::canonicalize(path).and_then(|real| Ok((fs::metadata(&real)?.is_dir(), real)));
    let real = match found {
        Ok((true, real)) => real,
        Ok((false, _)) => return Err(ConfigError::NotADirectory { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ConfigError::DirectoryMissing { path: path.to_owned() });
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(ConfigError::NotADirectory { path: path.to_owned() });
        }
        // A FUSE mount whose daemon is gone answers so. The directory below it is fine.
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            let real = fs::canonicalize(path).or_else(|_| covered(path)).map_err(unusable)?;
            if !mounts.at(&real).is_some_and(Mount::is_fuse) {
                return Err(unusable(error));
            }
            warnings.push(ConfigWarning::DeadMount { path: path.to_owned() });
            return Ok(Directory { written: path.to_owned(), real, place: None });
        }
        Err(error) => return Err(unusable(error)),
    };
    if real == Path::new("/") {
        return Err(ConfigError::RootDirectory);
    }
    if let Some(mount) = mounts.of(&real) {
        // A living gate of this very node covers the directory while the daemon runs.
        let covered_by_gate = mount.is_fuse() && mount.point == real;
        if !covered_by_gate && !FILESYSTEMS.contains(&mount.filesystem.as_str()) {
            let filesystem = mount.filesystem.clone();
            warnings.push(ConfigWarning::Filesystem { path: path.to_owned(), filesystem });
        }
    }
    let place = mounts.place(&real);
    Ok(Directory { written: path.to_owned(), real, place })
}

/// What is mounted inside a directory is not of its tree.
fn nested_mounts(
    directory: &Directory,
    policy: NestedMounts,
    mounts: &MountTable,
    warnings: &mut Vec<ConfigWarning>,
) -> Result<(), ConfigError> {
    let path = directory.written.clone();
    let points: Vec<PathBuf> = mounts.inside(&directory.real).map(|inner| inner.point.clone()).collect();
    match policy {
        NestedMounts::Refuse if !points.is_empty() => Err(ConfigError::NestedMounts { path, points }),
        NestedMounts::Refuse => Ok(()),
        NestedMounts::Ignore => {
            let warn = |inner| ConfigWarning::MountInside { path: path.clone(), inner };
            warnings.extend(points.into_iter().map(warn));
            Ok(())
        }
    }
}

/// A directory that lacks what it must hold is not the data. One that cannot be looked at (the dead mount of a daemon that
/// crashed) is looked at when it can: the node asks again before it begins.
fn must_exist(directory: &Directory, tree: &TreeConfig) -> Result<(), ConfigError> {
    let (Some(missing), Some(_)) = (&tree.must_exist, &directory.place) else { return Ok(()) };
    let found = fs::File::open(&directory.real).and_then(|opened| exists_below(opened.as_fd(), missing));
    match found {
        Ok(true) => Ok(()),
        Ok(false) => {
            Err(ConfigError::MustExist { path: directory.written.clone(), missing: missing.clone() })
        }
        Err(source) => {
            let path = directory.written.join(missing);
            Err(ConfigError::PathUnusable { key: "directory.must-exist", path, source })
        }
    }
}

/// The real path of a directory that cannot be looked at itself.
fn covered(path: &Path) -> io::Result<PathBuf> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(fs::canonicalize(parent)?.join(name)),
        _ => Ok(path.to_owned()),
    }
}

fn refuse_overlap(directories: &[Directory]) -> Result<(), ConfigError> {
    for (index, first) in directories.iter().enumerate() {
        for second in directories.iter().skip(index + 1) {
            let same_place = first.place.is_some() && first.place == second.place;
            if first.real == second.real || same_place {
                return Err(ConfigError::DuplicateDirectory {
                    first: first.written.clone(),
                    second: second.written.clone(),
                });
            }
            for (outer, inner) in [(first, second), (second, first)] {
                if holds(outer, &inner.real, inner.place.as_ref()) {
                    return Err(ConfigError::NestedDirectories {
                        outer: outer.written.clone(),
                        inner: inner.written.clone(),
                    });
                }
            }
        }
    }
    Ok(())
}

fn holds(outer: &Directory, real: &Path, place: Option<&Place>) -> bool {
    let by_place = outer.place.as_ref().zip(place).is_some_and(|(outer, inner)| outer.contains(inner));
    real.starts_with(&outer.real) || by_place
}

/// The node's own files must not be mirrored: each state record would make another write.
fn refuse_inside(config: &Config, directories: &[Directory], mounts: &MountTable) -> Result<(), ConfigError> {
    let node = &config.node;
    let own =
        [("node.state-directory", &node.state_directory), ("node.control-socket", &node.control_socket)];
    for (key, path) in own {
        let real = real_or_future(path).map_err(|source| ConfigError::PathUnusable {
            key,
            path: path.clone(),
            source,
        })?;
        let place = mounts.place(&real);
        if let Some(directory) = directories.iter().find(|directory| holds(directory, &real, place.as_ref()))
        {
            return Err(ConfigError::InsideMirror {
                key,
                path: path.clone(),
                directory: directory.written.clone(),
            });
        }
    }
    Ok(())
}

/// The real path of something that may not exist yet: that of its nearest existing ancestor, and the rest as written.
fn real_or_future(path: &Path) -> io::Result<PathBuf> {
    for ancestor in path.ancestors() {
        match fs::canonicalize(ancestor) {
            Ok(real) => {
                let rest = path.strip_prefix(ancestor).unwrap_or(Path::new(""));
                return Ok(if rest.as_os_str().is_empty() { real } else { real.join(rest) });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(path.to_owned())
}

fn key_file(config: &Config, warnings: &mut Vec<ConfigWarning>) -> Result<(), ConfigError> {
    if let Some(tls) = &config.link.tls {
        tls.configurations(&[])?;
    }
    let Some(path) = &config.link.cluster_key_file else {
        if config.link.tls.is_none() {
            warnings.push(ConfigWarning::NoClusterKey);
        }
        return Ok(());
    };
    config.cluster_key()?;
    let mode = fs::metadata(path)
        .map_err(|source| ConfigError::ClusterKeyUnreadable { path: path.clone(), source })?
        .permissions()
        .mode()
        & 0o7777;
    if mode & 0o077 != 0 {
        warnings.push(ConfigWarning::ClusterKeyMode { path: path.clone(), mode });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use nix::mount::{MntFlags, MsFlags, mount, umount2};

    use super::*;

    /// A FUSE mount whose daemon is gone: what a crashed node leaves.
    struct DeadGate(tempfile::TempDir);

    impl DeadGate {
        fn new() -> Result<DeadGate, String> {
            let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
            let device = fs::File::options()
                .read(true)
                .write(true)
                .open("/dev/fuse")
                .map_err(|error| format!("/dev/fuse: {error}"))?;
            let options = format!("fd={},rootmode=40755,user_id=0,group_id=0", device.as_raw_fd());
            mount(Some("dead"), directory.path(), Some("fuse"), MsFlags::empty(), Some(options.as_str()))
                .map_err(|errno| format!("mount: {errno}"))?;
            Ok(DeadGate(directory))
        }
    }

    impl Drop for DeadGate {
        fn drop(&mut self) {
            let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
        }
    }

    #[test]
    fn a_crashed_daemon_s_mount_is_a_warning() {
        let gate = match DeadGate::new() {
            Ok(gate) => gate,
            Err(why) => return println!("not run: {why}"),
        };
        let path = gate.0.path();
        assert_eq!(fs::metadata(path).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
        let mut warnings = Vec::new();
        let found = directory(path, &MountTable::read().unwrap(), &mut warnings).unwrap();
        assert_eq!(found.written, path);
        assert_eq!(warnings, [ConfigWarning::DeadMount { path: path.to_owned() }]);
        // What lies below it cannot be looked at, and is not taken for such a mount.
        let below = path.join("below");
        let result = directory(&below, &MountTable::read().unwrap(), &mut warnings).map(|_| ());
        assert!(matches!(result, Err(ConfigError::PathUnusable { .. })), "{result:?}");
    }
}
