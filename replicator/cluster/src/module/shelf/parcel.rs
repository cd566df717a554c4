//! A module on its way to the other node: its files in pieces, written aside there, and put in its place as a whole.
//!
//! Only regular files, with their executable bit, and the directories that hold them. Whoever sends is not trusted with more than a module's own directory: a path
//! comes as the names on it, of which none may lead elsewhere, and all that lies below was made here, so no link can either.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::super::description::is_name;
use super::super::{Description, MODULE_FILE};
use super::{DEPTH_MAX, Shelf, ShelfError, make_directory, refused, remove_tree, sync, system, write};

/// Files of a module that is sent at most, and bytes in all.
pub const PARCEL_FILES_MAX: usize = 200;
/// See [`PARCEL_FILES_MAX`].
pub const PARCEL_BYTES_MAX: u64 = 4 << 20;
/// Bytes of a piece: as base64, with the longest path as JSON, it fits into a request.
const PIECE_BYTES_MAX: usize = 24 << 10;
/// Longest name on a path, in bytes; the limit of Linux file systems.
const NAME_BYTES_MAX: usize = 255;
/// Longest path, in bytes.
const PATH_BYTES_MAX: usize = 1000;

/// A part of a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Piece {
    /// The names from the module's directory to the file.
    pub path: Vec<String>,
    /// It can be executed.
    pub executable: bool,
    /// So many bytes of the file were in pieces before.
    pub offset: u64,
    /// The bytes, as base64.
    pub bytes: String,
}

/// The pieces of a module in a directory, and its description.
///
/// # Errors
/// [`ShelfError`]: there is none, it holds what does not belong in a module, or more than can be sent.
pub fn pack(source: &Path) -> Result<(Description, Vec<Piece>), ShelfError> {
    let file = source.join(MODULE_FILE);
    let description = Description::read(&file).map_err(|source| refused(file, source))?;
    let mut packing = Packing { source: source.to_owned(), pieces: Vec::new(), files: 0, bytes: 0 };
    packing.directory(source, &mut Vec::new())?;
    Ok((description, packing.pieces))
}

struct Packing {
    source: PathBuf,
    pieces: Vec<Piece>,
    files: usize,
    bytes: u64,
}

impl Packing {
    fn directory(&mut self, from: &Path, path: &mut Vec<String>) -> Result<(), ShelfError> {
        for entry in fs::read_dir(from).map_err(system("list", from))? {
            let entry = entry.map_err(system("list", from))?;
            let from = entry.path();
            let kind = entry.file_type().map_err(system("look at", &from))?;
            let Ok(name) = entry.file_name().into_string() else {
                return Err(ShelfError::Kind { path: from });
            };
            path.push(name);
            if !is_path(path) {
                return Err(ShelfError::Path { path: path.clone() });
            }
            if kind.is_dir() {
                self.directory(&from, path)?;
            } else if kind.is_file() {
                self.file(&from, path)?;
            } else {
                return Err(ShelfError::Kind { path: from });
            }
            path.pop();
        }
        Ok(())
    }

    fn file(&mut self, from: &Path, path: &[String]) -> Result<(), ShelfError> {
        let file = fs::File::open(from).map_err(system("read", from))?;
        let executable = file.metadata().map_err(system("look at", from))?.mode() & 0o100 != 0;
        let mut content = Vec::new();
        file.take(PARCEL_BYTES_MAX + 1).read_to_end(&mut content).map_err(system("read", from))?;
        self.files += 1;
        self.bytes += content.len() as u64;
        if self.files > PARCEL_FILES_MAX || self.bytes > PARCEL_BYTES_MAX {
            return Err(ShelfError::ParcelTooLarge { path: self.source.clone() });
        }
        let mut offset = 0;
        loop {
            let rest = content.get(offset..).unwrap_or_default();
            let bytes = rest.get(..PIECE_BYTES_MAX).unwrap_or(rest);
            self.pieces.push(Piece {
                path: path.to_vec(),
                executable,
                offset: offset as u64,
                bytes: STANDARD.encode(bytes),
            });
            offset += bytes.len();
            if offset >= content.len() {
                return Ok(());
            }
        }
    }
}

/// Whether these names lead to something below a module's directory.
fn is_path(path: &[String]) -> bool {
    let is_file_name = |name: &String| {
        (1..=NAME_BYTES_MAX).contains(&name.len())
            && name != "."
            && name != ".."
            && !name.bytes().any(|byte| byte == b'/' || byte == 0)
    };
    (1..=DEPTH_MAX + 1).contains(&path.len())
        && path.iter().all(is_file_name)
        && path.iter().map(String::len).sum::<usize>() <= PATH_BYTES_MAX
}

/// A module that comes in pieces, aside of the others.
#[derive(Debug)]
pub struct Delivery {
    shelf: Shelf,
    name: String,
    aside: PathBuf,
    directories: BTreeSet<PathBuf>,
    files: usize,
    bytes: u64,
}

impl Delivery {
    /// Expect the pieces of a module. Those of an earlier delivery of this name are thrown away.
    ///
    /// # Errors
    /// [`ShelfError`]: it is no name, there is such a module and it is not to be replaced, or the system refuses.
    pub fn begin(shelf: &Shelf, name: &str, replace: bool) -> Result<Delivery, ShelfError> {
        if !is_name(name) {
            return Err(ShelfError::Name { name: name.to_owned() });
        }
        if shelf.path(name).exists() && !replace {
            return Err(ShelfError::Exists { path: shelf.path(name) });
        }
        let aside = shelf.directory.join(format!(".{name}.sent"));
        remove_tree(&aside)?;
        make_directory(&aside)?;
        let directories = BTreeSet::from([aside.clone()]);
        Ok(Delivery { shelf: shelf.clone(), name: name.to_owned(), aside, directories, files: 0, bytes: 0 })
    }

    /// Where its pieces are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.aside
    }

    /// Take a piece.
    ///
    /// # Errors
    /// [`ShelfError`]: it leads elsewhere, it is not the next one of its file, it is too much, or the system refuses.
    pub fn piece(&mut self, piece: &Piece) -> Result<(), ShelfError> {
        let wrong = || ShelfError::Path { path: piece.path.clone() };
        if !is_path(&piece.path) {
            return Err(wrong());
        }
        let bytes = STANDARD.decode(&piece.bytes).map_err(|_| wrong())?;
        self.files += usize::from(piece.offset == 0);
        self.bytes += bytes.len() as u64;
        if self.files > PARCEL_FILES_MAX || self.bytes > PARCEL_BYTES_MAX {
            return Err(ShelfError::ParcelTooLarge { path: self.aside.clone() });
        }
        let path = piece.path.iter().fold(self.aside.clone(), |path, name| path.join(name));
        let mut parent = self.aside.clone();
        for name in piece.path.iter().take(piece.path.len() - 1) {
            parent.push(name);
            self.directories.insert(parent.clone());
        }
        make_directory(&parent)?;
        if piece.offset == 0 {
            return write(&path, if piece.executable { 0o755 } else { 0o644 }, &bytes);
        }
        let append = || -> io::Result<bool> {
            let mut file = OpenOptions::new().append(true).open(&path)?;
            if file.metadata()?.len() != piece.offset {
                return Ok(false);
            }
            file.write_all(&bytes)?;
            file.sync_all()?;
            Ok(true)
        };
        if append().map_err(system("write", &path))? { Ok(()) } else { Err(wrong()) }
    }

    /// All pieces are there: what it is.
    ///
    /// # Errors
    /// [`ShelfError`]: its description is refused, or is of another module.
    pub fn description(&self) -> Result<Description, ShelfError> {
        let file = self.aside.join(MODULE_FILE);
        let description = Description::read(&file).map_err(|source| refused(file, source))?;
        if description.name != self.name {
            return Err(ShelfError::Name { name: description.name });
        }
        Ok(description)
    }

    /// Put it in its place; what was there is kept.
    ///
    /// # Errors
    /// [`ShelfError`]; nothing is changed then.
    pub fn place(self) -> Result<(), ShelfError> {
        self.description()?;
        self.directories.iter().try_for_each(|directory| sync(directory))?;
        self.shelf.place(&self.aside, &self.shelf.path(&self.name), &self.name)
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        // What was put in its place is not there any more; what is left is thrown away by the next delivery, too.
        let _ = remove_tree(&self.aside);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn module(place: &Path) -> PathBuf {
        let source = place.join("source");
        fs::create_dir_all(source.join("scripts/deep")).unwrap();
        fs::write(source.join(MODULE_FILE), "[module]\nname = \"web\"\n").unwrap();
        fs::write(source.join("scripts/start"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(source.join("scripts/start"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(source.join("scripts/deep/empty"), "").unwrap();
        fs::write(source.join("scripts/deep/long"), vec![7; 3 * PIECE_BYTES_MAX + 5]).unwrap();
        source
    }

    fn piece(path: &[&str], offset: u64, bytes: &[u8]) -> Piece {
        let path = path.iter().map(|name| (*name).to_owned()).collect();
        Piece { path, executable: false, offset, bytes: STANDARD.encode(bytes) }
    }

    #[test]
    fn what_is_packed_arrives_as_it_was() {
        let place = tempfile::tempdir().unwrap();
        let source = module(place.path());
        let shelf = Shelf::at(place.path().join("shelf"));
        for round in 0..2 {
            let (description, pieces) = pack(&source).unwrap();
            assert_eq!(description.name, "web");
            assert!(pieces.iter().all(|piece| serde_json::to_vec(piece).unwrap().len() < 48 << 10));
            let mut delivery = Delivery::begin(&shelf, "web", round > 0).unwrap();
            pieces.iter().for_each(|piece| delivery.piece(piece).unwrap());
            assert_eq!(shelf.list().unwrap().len(), round, "nothing is there before all is");
            delivery.place().unwrap();
            assert_eq!(shelf.load("web").unwrap().name, "web");
        }
        for (file, mode) in
            [("scripts/start", 0o755), ("scripts/deep/empty", 0o644), ("scripts/deep/long", 0o644)]
        {
            let arrived = shelf.path("web").join(file);
            assert_eq!(fs::read(&arrived).unwrap(), fs::read(source.join(file)).unwrap());
            assert_eq!(fs::metadata(&arrived).unwrap().permissions().mode() & 0o7777, mode);
        }
        assert!(!place.path().join("shelf/.web.sent").exists());
        assert!(matches!(Delivery::begin(&shelf, "web", false), Err(ShelfError::Exists { .. })));
    }

    #[test]
    fn nothing_is_written_outside_of_the_modules_own_directory() {
        let place = tempfile::tempdir().unwrap();
        let shelf = Shelf::at(place.path().join("shelf"));
        for name in ["", ".", "..", "../web", "web/x", ".web", "/web"] {
            assert!(matches!(Delivery::begin(&shelf, name, true), Err(ShelfError::Name { .. })), "{name}");
        }
        let mut delivery = Delivery::begin(&shelf, "web", false).unwrap();
        let long = "x".repeat(256);
        let deep = ["d"; DEPTH_MAX + 2];
        let wrong: &[&[&str]] = &[
            &[],
            &[""],
            &["."],
            &[".."],
            &["..", "x"],
            &["a", "..", "..", "x"],
            &["/etc/x"],
            &["a/b"],
            &["a\0b"],
            &[&long],
            &deep,
        ];
        for path in wrong {
            let refused = delivery.piece(&piece(path, 0, b"x"));
            assert!(matches!(refused, Err(ShelfError::Path { .. })), "{path:?} {refused:?}");
        }
        assert_eq!(fs::read_dir(place.path().join("shelf")).unwrap().count(), 1);
        assert_eq!(fs::read_dir(delivery.directory()).unwrap().count(), 0);
    }

    #[test]
    fn pieces_out_of_order_twice_or_too_many_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let shelf = Shelf::at(place.path().join("shelf"));
        let mut delivery = Delivery::begin(&shelf, "web", false).unwrap();
        delivery.piece(&piece(&["file"], 0, b"one")).unwrap();
        for again in [piece(&["file"], 0, b"one"), piece(&["file"], 2, b"x"), piece(&["other"], 1, b"x")] {
            delivery.piece(&again).unwrap_err();
        }
        let garbage = Piece { bytes: "?".to_owned(), ..piece(&["garbage"], 0, b"") };
        delivery.piece(&garbage).unwrap_err();
        // Without a description it is no module, and one of another name is another one.
        delivery.description().unwrap_err();
        delivery.piece(&piece(&[MODULE_FILE], 0, b"[module]\nname = \"mail\"\n")).unwrap();
        assert!(matches!(delivery.description(), Err(ShelfError::Name { .. })));
        let many =
            (0..=PARCEL_FILES_MAX).map(|number| delivery.piece(&piece(&[&number.to_string()], 0, b"")));
        assert!(many.collect::<Result<Vec<_>, _>>().is_err());
        delivery.place().unwrap_err();
        assert_eq!(fs::read_dir(place.path().join("shelf")).unwrap().count(), 0, "nothing is left");
    }
}
