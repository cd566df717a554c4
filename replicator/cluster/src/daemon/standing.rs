//! What a controller remembers over a restart of the node: a small file beside the mirror's state, replaced as a whole.
//!
//! `{"started":true,"was-active":false,"standby":false}` and a newline. What cannot be read counts as a module that is stopped: it is never started by
//! mistake, and what the copy is worth is told by the mirror's own record.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use replicator_core::cluster::Standing;
use serde::{Deserialize, Serialize};

use super::own_file;

const NAME: &str = "standing.json";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Document {
    started: bool,
    was_active: bool,
    // Not there before there was one.
    #[serde(default)]
    standby: bool,
}

/// Where it is kept.
#[derive(Clone, Debug)]
pub struct StandingFile {
    directory: PathBuf,
}

impl StandingFile {
    /// In that directory, which is created if it is missing.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub fn new(directory: &Path) -> io::Result<StandingFile> {
        fs::create_dir_all(directory)?;
        Ok(StandingFile { directory: directory.to_owned() })
    }

    /// What was remembered; nothing, if nothing was.
    ///
    /// # Errors
    /// The file is there and cannot be read, or does not say what it should.
    pub fn load(&self) -> io::Result<Option<Standing>> {
        let text = match fs::read_to_string(self.directory.join(NAME)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let Document { started, was_active, standby } = serde_json::from_str(&text)?;
        Ok(Some(Standing { started, was_active, standby }))
    }

    /// Remember; durable when it returns.
    ///
    /// # Errors
    /// Of the file system; what was remembered before is then still there, or this.
    pub fn store(&self, standing: Standing) -> io::Result<()> {
        let Standing { started, was_active, standby } = standing;
        let mut text = serde_json::to_vec(&Document { started, was_active, standby })?;
        text.push(b'\n');
        own_file::replace(&self.directory, NAME, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_remembered_and_garbage_is_an_error() {
        let place = tempfile::tempdir().unwrap();
        let file = StandingFile::new(&place.path().join("deep/below")).unwrap();
        assert_eq!(file.load().unwrap(), None);
        for standing in [
            Standing { started: true, ..Standing::default() },
            Standing { was_active: true, ..Standing::default() },
            Standing { started: true, standby: true, ..Standing::default() },
        ] {
            file.store(standing).unwrap();
            assert_eq!(file.load().unwrap(), Some(standing));
        }
        // As it was before there was a standby.
        fs::write(place.path().join("deep/below").join(NAME), br#"{"started":true,"was-active":true}"#)
            .unwrap();
        assert_eq!(file.load().unwrap(), Some(Standing { started: true, was_active: true, standby: false }));
        fs::write(place.path().join("deep/below").join(NAME), b"{\"started\":").unwrap();
        assert!(file.load().is_err());
    }
}
