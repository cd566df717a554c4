//! The note of which addresses this node has added, for the daemon that starts after this one was killed.
//!
//! It counts for one boot of the machine: a restart of the machine takes the addresses away by itself, and what is configured after it
//! is not ours. So it need not be durable either, and costs no sync during a failover.

use std::fs;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::AddressError;
use super::netlink::Entry;

const NAME: &str = "addresses";
const ASIDE: &str = "addresses.new";
const BYTES_MAX: u64 = 64 << 10;
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// Where the note is.
#[derive(Clone, Debug)]
pub(super) struct Record {
    directory: PathBuf,
}

/// An address as it is noted. Not with the interface's name, which may change while the address is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Noted {
    pub address: IpAddr,
    pub index: u32,
}

impl From<&Entry> for Noted {
    fn from(entry: &Entry) -> Noted {
        Noted { address: entry.address, index: entry.index }
    }
}

#[derive(Serialize, Deserialize)]
struct Note {
    boot: String,
    addresses: Vec<Noted>,
}

impl Record {
    /// In that directory, which is made if it is missing.
    ///
    /// # Errors
    /// [`AddressError::State`].
    pub fn new(directory: &Path) -> Result<Record, AddressError> {
        fs::create_dir_all(directory).map_err(|source| AddressError::State {
            operation: "make the directory",
            path: directory.to_owned(),
            source,
        })?;
        Ok(Record { directory: directory.to_owned() })
    }

    /// What was noted since the machine started. A note that cannot be read counts as none: the marks in the kernel are there, too.
    pub fn read(&self) -> Vec<Noted> {
        let path = self.path(NAME);
        let bytes = match read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot read the note of added addresses");
                return Vec::new();
            }
        };
        match serde_json::from_slice::<Note>(&bytes) {
            Ok(note) if note.boot == boot() => note.addresses,
            Ok(_) => Vec::new(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the note of added addresses is damaged");
                Vec::new()
            }
        }
    }

    /// Note these, and no others.
    ///
    /// # Errors
    /// [`AddressError::State`]. The note is the old one then.
    pub fn write(&self, addresses: &[Noted]) -> Result<(), AddressError> {
        let (path, aside) = (self.path(NAME), self.path(ASIDE));
        let state = |operation| {
            let path = path.clone();
            move |source| AddressError::State { operation, path, source }
        };
        let note = Note { boot: boot(), addresses: addresses.to_vec() };
        let bytes = serde_json::to_vec(&note).map_err(io::Error::other).map_err(state("write"))?;
        fs::File::create(&aside).and_then(|mut file| file.write_all(&bytes)).map_err(state("write"))?;
        fs::rename(&aside, &path).map_err(state("replace"))
    }

    /// Take the note away.
    ///
    /// # Errors
    /// [`AddressError::State`].
    pub fn clear(&self) -> Result<(), AddressError> {
        let path = self.path(NAME);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(|source| AddressError::State { operation: "remove", path, source }),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Which start of the machine this is; empty, and then equal, where the kernel does not tell.
fn boot() -> String {
    fs::read_to_string(BOOT).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted() -> [Noted; 2] {
        [
            Noted { address: [10, 0, 0, 9].into(), index: 2 },
            Noted { address: "fd00::9".parse().unwrap(), index: 3 },
        ]
    }

    #[test]
    fn what_is_noted_is_read_until_it_is_cleared() {
        let directory = tempfile::tempdir().unwrap();
        let record = Record::new(&directory.path().join("deep/module")).unwrap();
        assert_eq!(record.read(), []);
        record.write(&noted()).unwrap();
        assert_eq!(record.read(), noted());
        record.write(&noted()[1..]).unwrap();
        assert_eq!(record.read(), noted()[1..]);
        record.clear().unwrap();
        record.clear().unwrap();
        assert_eq!(record.read(), []);
    }

    #[test]
    fn a_note_of_another_boot_or_a_damaged_one_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let record = Record::new(directory.path()).unwrap();
        record.write(&noted()).unwrap();
        let path = directory.path().join(NAME);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace(&boot(), "another")).unwrap();
        assert_eq!(record.read(), []);
        for damaged in ["", "{", "[]", "\u{0}\u{0}"] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(record.read(), [], "{damaged:?}");
        }
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        match Record::new(&file.join("below")) {
            Err(AddressError::State { path, .. }) => assert_eq!(path, file.join("below")),
            other => panic!("{other:?}"),
        }
    }
}
