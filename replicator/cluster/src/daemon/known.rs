//! What a module's arbiter has said: a small file, replaced as a whole before an answer is acted on.
//!
//! `{"witness":"<32 hexadecimal digits>","term":7}` and a newline. One that cannot be read keeps the arbiter from being asked, until an
//! operator has removed it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use replicator_core::ids::Term;
use serde::{Deserialize, Serialize};

use super::own_file;
use crate::arbiter::{Known, WitnessId};

const NAME: &str = "arbiter.json";

#[derive(Serialize, Deserialize)]
struct Document {
    witness: String,
    term: u64,
}

/// Where it is kept.
#[derive(Clone, Debug)]
pub struct KnownFile {
    directory: PathBuf,
}

impl KnownFile {
    /// In that directory, which is there.
    #[must_use]
    pub fn new(directory: &Path) -> KnownFile {
        KnownFile { directory: directory.to_owned() }
    }

    /// What is known; nothing, if the arbiter was never asked.
    ///
    /// # Errors
    /// For a person.
    pub fn load(&self) -> Result<Option<Known>, String> {
        let path = self.directory.join(NAME);
        let wrong = |error: &dyn std::fmt::Display| {
            format!(
                "what is known of the arbiter, {}, cannot be read: {error}; look at it, and remove it if no node runs alone",
                path.display()
            )
        };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(wrong(&error)),
        };
        let Document { witness, term } = serde_json::from_str(&text).map_err(|error| wrong(&error))?;
        let witness: WitnessId = witness.parse().map_err(|error| wrong(&error))?;
        Ok(Some(Known { witness, term: Term(term) }))
    }

    /// Remember it durably.
    ///
    /// # Errors
    /// For a person.
    pub fn store(&self, known: Option<Known>) -> Result<(), String> {
        let Some(known) = known else { return Ok(()) };
        if self.load()? == Some(known) {
            return Ok(());
        }
        let write = || -> io::Result<()> {
            let mut text =
                serde_json::to_vec(&Document { witness: known.witness.to_string(), term: known.term.0 })?;
            text.push(b'\n');
            own_file::replace(&self.directory, NAME, &text)
        };
        write().map_err(|error| {
            format!("what is known of the arbiter cannot be written in {}: {error}", self.directory.display())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_remembered_and_what_cannot_be_read_is_not_taken_for_nothing() {
        let place = tempfile::tempdir().unwrap();
        let file = KnownFile::new(place.path());
        assert_eq!(file.load(), Ok(None));
        let known = Known { witness: WitnessId([7; 16]), term: Term(9) };
        file.store(Some(known)).unwrap();
        assert_eq!(file.load(), Ok(Some(known)));
        file.store(None).unwrap();
        assert_eq!(file.load(), Ok(Some(known)));
        fs::write(place.path().join(NAME), "{}").unwrap();
        assert!(file.load().is_err());
        assert!(file.store(Some(known)).is_err());
    }
}
