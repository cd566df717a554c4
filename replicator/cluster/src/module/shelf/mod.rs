//! Where the modules of a node lie: a directory with one directory for each.
//!
//! A module is installed whole or not at all. What it replaces is kept beside it as `.<name>.old`.

mod boot;
mod check;
mod parcel;
#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::description::is_name;
use super::{Description, MODULE_FILE, ModuleError};

pub use boot::{BootError, BootState, Switched};
pub use check::{Finding, Findings, check};
pub use parcel::{Delivery, PARCEL_BYTES_MAX, PARCEL_FILES_MAX, Piece, pack};

/// Files of a module at most, and bytes in all: it holds a description and scripts, not the application.
const FILES_MAX: usize = 1000;
const BYTES_MAX: u64 = 16 << 20;
/// Directories inside each other.
const DEPTH_MAX: usize = 8;

/// What a new module begins with.
const SKELETON: &[(&str, u32, &str)] = &[
    (MODULE_FILE, 0o644, include_str!("../../../../../modules/mirror/module.toml")),
    ("scripts/start-primary", 0o755, include_str!("../../../../../modules/mirror/scripts/start-primary")),
    ("scripts/stop-primary", 0o755, include_str!("../../../../../modules/mirror/scripts/stop-primary")),
    ("scripts/process.sh", 0o644, include_str!("../../../../../modules/mirror/scripts/process.sh")),
    ("README.md", 0o644, include_str!("../../../../../modules/mirror/README.md")),
];
/// The line of the skeleton with the module's name.
const SKELETON_NAME: &str = "name = \"mirror\"";

/// Why a module cannot be read or installed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ShelfError {
    /// Its description is refused.
    #[error("{path}: {source}", path = path.display())]
    Description { path: PathBuf, source: Box<ModuleError> },
    /// Not a name.
    #[error("{name:?} is not the name of a module; use 1 to 64 of the characters A-Z a-z 0-9 . _ -")]
    Name { name: String },
    /// There is no such module.
    #[error("there is no module {name} in {directory}; \"replicator module list\" shows those that are there",
        directory = directory.display())]
    NoModule { name: String, directory: PathBuf },
    /// There is one of that name.
    #[error("{path} is there already; replace it (--replace), or give the module another name", path = path.display())]
    Exists { path: PathBuf },
    /// The system refused.
    #[error("cannot {operation} {path}: {source}", path = path.display())]
    System { operation: &'static str, path: PathBuf, source: io::Error },
    /// Something that does not belong in a module.
    #[error("{path} is neither a file nor a directory; a module holds nothing else (copy what a link leads to)",
        path = path.display())]
    Kind { path: PathBuf },
    /// Too much of it.
    #[error("{path} holds more than {FILES_MAX} files, {BYTES_MAX} bytes or {DEPTH_MAX} levels: it is not a module",
        path = path.display())]
    TooLarge { path: PathBuf },
    /// Too much of it to be sent.
    #[error("{path} holds more than {PARCEL_FILES_MAX} files or {PARCEL_BYTES_MAX} bytes, and is not sent to the other node; install it there by itself",
        path = path.display())]
    ParcelTooLarge { path: PathBuf },
    /// A piece of a module that does not belong there.
    #[error("{path:?} is not a file of a module, or not what comes next of it")]
    Path { path: Vec<String> },
}

/// A module that lies there.
#[derive(Debug)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its description, or what is wrong with it.
    pub description: Result<Description, ShelfError>,
}

/// The modules of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shelf {
    directory: PathBuf,
}

impl Default for Shelf {
    fn default() -> Shelf {
        Shelf::at("/etc/replicator/modules")
    }
}

impl Shelf {
    /// The modules in a directory. It need not be there yet.
    pub fn at(directory: impl Into<PathBuf>) -> Shelf {
        Shelf { directory: directory.into() }
    }

    /// The directory of a module.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Names and descriptions of all modules, by name. One that is refused hides no other.
    ///
    /// # Errors
    /// [`ShelfError::System`]: the directory cannot be read. That it is not there is no error.
    pub fn list(&self) -> Result<Vec<Listed>, ShelfError> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(system("list", &self.directory)(source)),
        };
        let mut modules = Vec::new();
        for entry in entries {
            let entry = entry.map_err(system("list", &self.directory))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // What begins with a point is not whole, or no longer a module.
            if is_name(&name) && entry.path().is_dir() {
                let description = self.load(&name);
                modules.push(Listed { name, description });
            }
        }
        modules.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(modules)
    }

    /// The description of a module.
    ///
    /// # Errors
    /// [`ShelfError`]
    pub fn load(&self, name: &str) -> Result<Description, ShelfError> {
        let path = self.existing(name)?;
        Description::load(&path).map_err(|source| refused(path.join(MODULE_FILE), source))
    }

    /// Copy the module in the directory `source` here. One of that name is replaced if `replace`.
    ///
    /// # Errors
    /// [`ShelfError`]; nothing is changed then.
    pub fn install(&self, source: &Path, replace: bool) -> Result<Description, ShelfError> {
        let file = source.join(MODULE_FILE);
        let description = Description::read(&file).map_err(|source| refused(file, source))?;
        let target = self.path(&description.name);
        if target.exists() && !replace {
            return Err(ShelfError::Exists { path: target });
        }
        make_directory(&self.directory)?;
        let new = self.directory.join(format!(".{}.new", description.name));
        remove_tree(&new)?;
        let copied = Copy { source: source.to_owned(), files: 0, bytes: 0 }.directory(source, &new, 0);
        let placed = copied.and_then(|()| self.place(&new, &target, &description.name));
        if placed.is_err() {
            remove_tree(&new)?;
        }
        placed.map(|()| description)
    }

    /// Take a module away; it is kept as `.<name>.old`.
    ///
    /// # Errors
    /// [`ShelfError`]
    pub fn remove(&self, name: &str) -> Result<(), ShelfError> {
        let path = self.existing(name)?;
        let old = self.directory.join(format!(".{name}.old"));
        remove_tree(&old)?;
        fs::rename(&path, &old).map_err(system("remove", &path))?;
        sync(&self.directory)
    }

    /// Make the beginning of a module in `parent/name`: a description that explains itself, and scripts to fill in.
    ///
    /// # Errors
    /// [`ShelfError`]
    pub fn init(parent: &Path, name: &str) -> Result<PathBuf, ShelfError> {
        if !is_name(name) {
            return Err(ShelfError::Name { name: name.to_owned() });
        }
        let directory = parent.join(name);
        if directory.exists() {
            return Err(ShelfError::Exists { path: directory });
        }
        for (file, mode, text) in SKELETON {
            let path = directory.join(file);
            make_directory(path.parent().unwrap_or(&directory))?;
            let text = if *file == MODULE_FILE {
                text.replacen(SKELETON_NAME, &format!("name = {name:?}"), 1)
            } else {
                (*text).to_owned()
            };
            write(&path, *mode, text.as_bytes())?;
        }
        Ok(directory)
    }

    /// The directory of a module that is there.
    ///
    /// # Errors
    /// [`ShelfError::NoModule`]
    pub fn existing(&self, name: &str) -> Result<PathBuf, ShelfError> {
        let path = self.path(name);
        if !is_name(name) || !path.is_dir() {
            return Err(ShelfError::NoModule { name: name.to_owned(), directory: self.directory.clone() });
        }
        Ok(path)
    }

    /// Put what is whole in its place; what was there is kept.
    fn place(&self, new: &Path, target: &Path, name: &str) -> Result<(), ShelfError> {
        if target.exists() {
            let old = self.directory.join(format!(".{name}.old"));
            remove_tree(&old)?;
            // At every time there is one or the other.
            renameat2(AT_FDCWD, new, AT_FDCWD, target, RenameFlags::RENAME_EXCHANGE)
                .map_err(|errno| system("replace", target)(errno.into()))?;
            fs::rename(new, &old).map_err(system("keep", new))?;
        } else {
            fs::rename(new, target).map_err(system("create", target))?;
        }
        sync(&self.directory)
    }
}

/// A copy under way.
struct Copy {
    source: PathBuf,
    files: usize,
    bytes: u64,
}

impl Copy {
    fn directory(&mut self, from: &Path, to: &Path, depth: usize) -> Result<(), ShelfError> {
        if depth > DEPTH_MAX {
            return Err(ShelfError::TooLarge { path: self.source.clone() });
        }
        make_directory(to)?;
        for entry in fs::read_dir(from).map_err(system("list", from))? {
            let entry = entry.map_err(system("list", from))?;
            let (from, to) = (entry.path(), to.join(entry.file_name()));
            let kind = entry.file_type().map_err(system("look at", &from))?;
            if kind.is_dir() {
                self.directory(&from, &to, depth + 1)?;
            } else if kind.is_file() {
                self.file(&from, &to)?;
            } else {
                return Err(ShelfError::Kind { path: from });
            }
        }
        sync(to)
    }

    fn file(&mut self, from: &Path, to: &Path) -> Result<(), ShelfError> {
        let mut content = Vec::new();
        let file = File::open(from).map_err(system("read", from))?;
        let mode = file.metadata().map_err(system("look at", from))?.mode();
        file.take(BYTES_MAX + 1).read_to_end(&mut content).map_err(system("read", from))?;
        self.files += 1;
        self.bytes += content.len() as u64;
        if self.files > FILES_MAX || self.bytes > BYTES_MAX {
            return Err(ShelfError::TooLarge { path: self.source.clone() });
        }
        // Scripts run as root: nobody else may write to them, whatever they were before.
        write(to, if mode & 0o100 == 0 { 0o644 } else { 0o755 }, &content)
    }
}

fn refused(path: PathBuf, source: ModuleError) -> ShelfError {
    ShelfError::Description { path, source: Box::new(source) }
}

fn system(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> ShelfError + use<> {
    let path = path.to_owned();
    move |source| ShelfError::System { operation, path: path.clone(), source }
}

fn make_directory(path: &Path) -> Result<(), ShelfError> {
    DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(system("create", path))
}

/// Remove a directory that only this program makes.
fn remove_tree(path: &Path) -> Result<(), ShelfError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(system("remove", path)(error)),
        _ => Ok(()),
    }
}

fn write(path: &Path, mode: u32, content: &[u8]) -> Result<(), ShelfError> {
    let open = || OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written = open().and_then(|mut file| {
        // The mask of this process does not matter.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()
    });
    written.map_err(system("write", path))
}

/// Make the names in a directory durable.
fn sync(path: &Path) -> Result<(), ShelfError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(system("sync", path))
}
