//! Who starts the units of a module at boot: not the machine, as long as the module is installed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::Description;
use super::super::service::{ServiceError, ServiceManager};
use super::{ShelfError, make_directory, sync, system};

/// The units that were started at boot before the module was installed; kept in a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BootState {
    path: PathBuf,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Document {
    enabled_before: BTreeSet<String>,
}

/// What was switched.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Switched {
    /// Units that the machine no longer starts at boot.
    pub disabled: Vec<String>,
    /// Units that it starts again, as before.
    pub enabled: Vec<String>,
}

impl Switched {
    /// What was switched, for people: a line for each unit.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        let disabled = self.disabled.iter();
        let disabled =
            disabled.map(|unit| format!("{unit} is not started at boot any more: the cluster starts it"));
        let enabled = self.enabled.iter().map(|unit| format!("{unit} is started at boot again, as before"));
        disabled.chain(enabled)
    }
}

/// Why the units' start at boot was not switched.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The file.
    #[error(transparent)]
    File(#[from] ShelfError),
    /// The service manager.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

impl BootState {
    /// Kept in the file `path`, which need not be there yet.
    pub fn at(path: impl Into<PathBuf>) -> BootState {
        BootState { path: path.into() }
    }

    /// Let the machine not start the module's units at boot. What it did before is kept first, so that dying halfway loses nothing;
    /// calling again goes on. Of units that were taken over and are no longer the module's, it does again what it did before.
    ///
    /// # Errors
    /// [`BootError`]
    pub async fn take_over(
        &self,
        description: &Description,
        services: &dyn ServiceManager,
    ) -> Result<Switched, BootError> {
        let mut document = self.read()?;
        let mut switched = Switched::default();
        for unit in &description.services.units {
            if services.state(unit).await?.starts_at_boot() {
                switched.disabled.push(unit.clone());
            }
        }
        if !switched.disabled.is_empty() {
            document.enabled_before.extend(switched.disabled.iter().cloned());
            self.write(&document)?;
        }
        for unit in &switched.disabled {
            services.set_enabled(unit, false).await?;
        }
        let theirs = |unit: &&String| !description.services.units.contains(unit);
        switched.enabled = document.enabled_before.iter().filter(theirs).cloned().collect();
        for unit in &switched.enabled {
            services.set_enabled(unit, true).await?;
            document.enabled_before.remove(unit);
        }
        if !switched.enabled.is_empty() {
            self.write(&document)?;
        }
        Ok(switched)
    }

    /// Let the machine start at boot what it started before. The units that were switched.
    ///
    /// # Errors
    /// [`BootError`]; calling again goes on.
    pub async fn give_back(&self, services: &dyn ServiceManager) -> Result<Vec<String>, BootError> {
        let document = self.read()?;
        for unit in &document.enabled_before {
            services.set_enabled(unit, true).await?;
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(system("remove", &self.path)(error).into())
            }
            _ => Ok(document.enabled_before.into_iter().collect()),
        }
    }

    fn read(&self) -> Result<Document, ShelfError> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Document::default()),
            Err(error) => return Err(system("read", &self.path)(error)),
        };
        let unreadable =
            |error: toml::de::Error| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
        toml::from_str(&text).map_err(unreadable).map_err(system("understand", &self.path))
    }

    fn write(&self, document: &Document) -> Result<(), ShelfError> {
        let text =
            toml::to_string(document).map_err(io::Error::other).map_err(system("write", &self.path))?;
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        make_directory(parent)?;
        let aside = self.path.with_extension("new");
        let write = || {
            let mut file = File::create(&aside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&aside, &self.path)
        };
        write().map_err(system("write", &self.path))?;
        sync(parent)
    }
}
