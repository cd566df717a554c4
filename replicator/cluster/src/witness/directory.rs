//! The witness's directory: who it is, and whom it knows.
//!
//! ```text
//! <directory>/                    mode 0700
//!   lock                          held by the one process that works on it
//!   witness                       who this is, drawn when the directory was made (see `record`)
//!   clusters/<cluster>.key        the secret shared with a cluster, a copy of what its nodes have
//!   registers/<cluster>/<module>.register
//! ```

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::error::WitnessError;
use super::files::{self, Failed};
use super::record;
use crate::arbiter::{ClusterId, KeyError, RegisterName, Value, WitnessId, WitnessKey};

/// A witness's directory, made if it was not there.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    identity: WitnessId,
}

impl Directory {
    /// Open the directory. One that is not there, or is empty, is made: with that a new witness begins.
    ///
    /// # Errors
    /// [`WitnessError::System`], [`WitnessError::IdentityDamaged`], [`WitnessError::IdentityMissing`], [`WitnessError::Random`].
    pub(super) fn open(path: &Path) -> Result<Directory, WitnessError> {
        let made = |failed: Failed| system(failed.step, path)(failed.source);
        files::make_directory(path).map_err(made)?;
        // Two commands at a time must not draw two identities.
        let _setup = lock(&path.join("setup.lock"), FlockArg::LockExclusive, path)?;
        let identity = identity(path)?;
        for name in ["clusters", "registers"] {
            let inner = path.join(name);
            files::make_directory(&inner).map_err(|failed| system(failed.step, &inner)(failed.source))?;
        }
        Ok(Directory { path: path.to_owned(), identity })
    }

    /// Who this is.
    pub(super) fn identity(&self) -> WitnessId {
        self.identity
    }

    /// Where the key of a cluster is.
    pub(super) fn key_path(&self, cluster: ClusterId) -> PathBuf {
        self.path.join("clusters").join(format!("{cluster}.key"))
    }

    /// Where the registers of a cluster are.
    pub(super) fn registers_path(&self, cluster: ClusterId) -> PathBuf {
        self.path.join("registers").join(cluster.to_string())
    }

    /// Where a register is.
    pub(super) fn register_path(&self, register: &RegisterName) -> PathBuf {
        self.registers_path(register.cluster).join(format!("{}.register", register.module))
    }

    /// The key of a cluster; `None` if it is not known.
    ///
    /// # Errors
    /// [`KeyError`]; also if the file is that of another cluster or witness.
    pub(super) fn key(&self, cluster: ClusterId) -> Result<Option<WitnessKey>, KeyError> {
        let path = self.key_path(cluster);
        match WitnessKey::read(&path) {
            Ok(key) if key.cluster == cluster && key.witness == self.identity => Ok(Some(key)),
            Ok(_) => Err(KeyError::Form { path }),
            Err(KeyError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Become the one process that works on the registers, for as long as the returned value lives.
    ///
    /// # Errors
    /// [`WitnessError::InUse`], [`WitnessError::System`].
    pub(super) fn lock(&self) -> Result<Flock<File>, WitnessError> {
        lock(&self.path.join("lock"), FlockArg::LockExclusiveNonblock, &self.path)
    }
}

/// Let a witness know a cluster: draw a secret and keep it. A running witness knows it from then on. Returns the key: its
/// [`WitnessKey::to_file`] goes, mode 0600, to each node of the cluster.
///
/// # Errors
/// [`WitnessError::ClusterExists`]: it has a key, which is not replaced. [`WitnessError::System`] and those of opening.
pub fn add_cluster(directory: &Path, cluster: ClusterId) -> Result<WitnessKey, WitnessError> {
    let directory = Directory::open(directory)?;
    let path = directory.key_path(cluster);
    if fs::symlink_metadata(&path).is_ok() {
        return Err(WitnessError::ClusterExists { cluster, path });
    }
    let key = WitnessKey::draw(cluster, directory.identity)?;
    files::replace(&path, key.to_file().as_bytes())
        .map_err(|failed| system(failed.step, &path)(failed.source))?;
    Ok(key)
}

/// The key of a cluster that was added before.
///
/// # Errors
/// [`WitnessError::NoSuchCluster`], [`WitnessError::Key`] and those of opening.
pub fn cluster_key(directory: &Path, cluster: ClusterId) -> Result<WitnessKey, WitnessError> {
    let directory = Directory::open(directory)?;
    directory.key(cluster)?.ok_or(WitnessError::NoSuchCluster { cluster })
}

/// Forget the key of a cluster: its nodes are strangers from then on. Its registers stay, so that a cluster that is added again
/// begins where it was.
///
/// # Errors
/// [`WitnessError::NoSuchCluster`], [`WitnessError::System`] and those of opening.
pub fn remove_cluster(directory: &Path, cluster: ClusterId) -> Result<(), WitnessError> {
    let directory = Directory::open(directory)?;
    let path = directory.key_path(cluster);
    match fs::remove_file(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(WitnessError::NoSuchCluster { cluster });
        }
        Err(error) => return Err(system("remove", &path)(error)),
    }
    let above = path.parent().unwrap_or(Path::new("."));
    files::sync_directory(above).map_err(system("sync", above))
}

/// Reset a register whose file is damaged, or that was restored to an older state, while the witness does not run.
///
/// `value` is what it holds from then on: the highest term any node shows, and who has it. `None` leaves it without a value, which
/// is right only if no node has ever won anything there. What was in its place is kept beside it; its name is returned.
///
/// # Errors
/// [`WitnessError::InUse`]: the witness runs. [`WitnessError::System`] and those of opening.
pub fn reset_register(
    directory: &Path,
    register: &RegisterName,
    value: Option<Value>,
) -> Result<Option<PathBuf>, WitnessError> {
    let directory = Directory::open(directory)?;
    let _lock = directory.lock()?;
    let path = directory.register_path(register);
    let above = directory.registers_path(register.cluster);
    files::make_directory(&above).map_err(|failed| system(failed.step, &above)(failed.source))?;
    let kept = keep_aside(&path)?;
    if let Some(value) = value {
        let bytes = record::encode_register(directory.identity, register, &value);
        files::replace(&path, &bytes).map_err(|failed| system(failed.step, &path)(failed.source))?;
    } else if kept.is_some() {
        fs::remove_file(&path).map_err(system("remove", &path))?;
        files::sync_directory(&above).map_err(system("sync", &above))?;
    }
    Ok(kept)
}

/// A second name for the file at `path`, so that it is still there when the first is gone.
fn keep_aside(path: &Path) -> Result<Option<PathBuf>, WitnessError> {
    for number in 1..=u32::MAX {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".reset-{number}"));
        let kept = PathBuf::from(name);
        match fs::hard_link(path, &kept) {
            Ok(()) => return Ok(Some(kept)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(system("keep", path)(error)),
        }
    }
    Ok(None)
}

/// Who the witness of this directory is. In a directory without registers it is drawn.
fn identity(directory: &Path) -> Result<WitnessId, WitnessError> {
    let path = directory.join("witness");
    let failed = |failed: Failed| system(failed.step, &path)(failed.source);
    // One more than there can be, so that a longer file is noticed.
    if let Some(bytes) = files::read_durable(&path, record::IDENTITY_BYTES as u64 + 1).map_err(failed)? {
        return record::decode_identity(&bytes).ok_or(WitnessError::IdentityDamaged { path });
    }
    if fs::symlink_metadata(directory.join("registers")).is_ok() {
        return Err(WitnessError::IdentityMissing { path });
    }
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(WitnessError::Random)?;
    let identity = WitnessId(bytes);
    files::replace(&path, &record::encode_identity(identity)).map_err(failed)?;
    tracing::info!(%identity, directory = %directory.display(), "a new witness begins");
    Ok(identity)
}

fn lock(path: &Path, how: FlockArg, directory: &Path) -> Result<Flock<File>, WitnessError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(system("open", path))?;
    match Flock::lock(file, how) {
        Ok(lock) => Ok(lock),
        Err((_, Errno::EWOULDBLOCK)) => Err(WitnessError::InUse { directory: directory.to_owned() }),
        Err((_, errno)) => Err(system("lock", path)(errno.into())),
    }
}

fn system(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> WitnessError {
    let path = path.to_owned();
    move |source| WitnessError::System { operation, path: path.clone(), source }
}
