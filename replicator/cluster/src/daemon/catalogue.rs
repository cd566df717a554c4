//! Which modules a node has: those of its shelf, looked at again when somebody asks for it.
//!
//! | on the shelf | on the node | then |
//! |---|---|---|
//! | a module | not there | it is there, as it remembers |
//! | another description | stopped, nothing of it runs | the module ends, and is there with the new one |
//! | another description | anything else | it waits; taken at the next look, or when the module is started after a stop |
//! | a description that is refused | there | the former one stays, and the status says why |
//! | nothing | stopped, nothing of it runs | it is not there any more |
//! | nothing | anything else | as with another description |
//!
//! One look at a time. A module is in the node's table until it has ended, and its successor is started after that: whatever happens in between is told to the one or
//! the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::gossip;
use super::mirror::Mirror;
use super::module::{self, Installed, Module};
use super::node::Node;
use crate::module::{Listed, MODULE_FILE, Shelf, ShelfError};

/// A changed description that waits, for people.
const WAITS: &str = "a changed description waits until the module is stopped and started again";
/// The same of a module that is not on the shelf any more.
const GONE: &str = "it is not installed any more, and leaves the node when it is stopped";

/// What a look at the shelf has changed: names of modules.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Reloaded {
    /// They are new, or have a new description.
    pub taken: Vec<String>,
    /// They are not there any more.
    pub removed: Vec<String>,
    /// What was changed is not taken as long as they run.
    pub waiting: Vec<String>,
    /// What is installed is not taken, and why.
    pub refused: BTreeMap<String, String>,
}

/// What lies on the shelf under a name.
type Found = (String, Result<Installed, String>);

/// Read a node's shelf. Blocks.
///
/// # Errors
/// The directory cannot be read.
pub fn read(shelf: &Shelf) -> Result<Vec<Found>, ShelfError> {
    let found = shelf.list()?.into_iter().map(|Listed { name, description }| {
        let directory = shelf.path(&name);
        let installed = description.map_err(|error| error.to_string()).and_then(|description| {
            let file = directory.join(MODULE_FILE);
            let text =
                std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
            Ok(Installed { description, text, directory })
        });
        (name, installed)
    });
    Ok(found.collect())
}

impl<M: Mirror> Node<M> {
    /// Look at the shelf again, and have the modules that lie there.
    ///
    /// # Errors
    /// For a person: nothing was changed.
    pub async fn reload(&self) -> Result<Reloaded, String> {
        let turn = self.turn().await?;
        let found = self.read_shelf().await?;
        let mut reloaded = Reloaded::default();
        for name in self.module_names() {
            if found.iter().all(|(known, _)| *known != name) {
                self.leave(&name, &mut reloaded).await;
            }
        }
        for (name, installed) in found {
            self.have(name, installed, &mut reloaded).await;
        }
        drop(turn);
        tracing::info!(?reloaded, "the installed modules");
        Ok(reloaded)
    }

    /// Before a module is started: take what waits for it.
    ///
    /// # Errors
    /// For a person: the node ends.
    pub async fn take_pending(&self, name: &str) -> Result<(), String> {
        let turn = self.turn().await?;
        if self.pending(name).is_none() {
            return Ok(());
        }
        let mut reloaded = Reloaded::default();
        match self.read_shelf().await?.into_iter().find(|(known, _)| known == name) {
            Some((name, installed)) => self.have(name, installed, &mut reloaded).await,
            None => self.leave(name, &mut reloaded).await,
        }
        drop(turn);
        tracing::info!(?reloaded, "before the start of a module");
        Ok(())
    }

    async fn read_shelf(&self) -> Result<Vec<Found>, String> {
        let shelf = Shelf::at(&self.places().modules);
        // A disk that hangs must not hold up the node.
        let read =
            tokio::task::spawn_blocking(move || read(&shelf)).await.map_err(|error| error.to_string())?;
        read.map_err(|error| error.to_string())
    }

    /// The module is not on the shelf.
    async fn leave(&self, name: &str, reloaded: &mut Reloaded) {
        let Some(module) = self.module(name) else { return };
        if module.end().await {
            self.take_away(name);
            reloaded.removed.push(name.to_owned());
        } else {
            module.set_pending(Some(GONE.to_owned()));
            reloaded.waiting.push(name.to_owned());
        }
    }

    /// The module is on the shelf, whatever is there.
    async fn have(&self, name: String, installed: Result<Installed, String>, reloaded: &mut Reloaded) {
        let former = self.module(&name);
        let had = match (installed, &former) {
            (Err(why), _) => Err(why),
            (Ok(installed), Some(former)) if former.text == installed.text => {
                former.set_pending(None);
                return;
            }
            (Ok(installed), Some(former)) => self.replace(former, &installed).await,
            (Ok(installed), None) => self.add(&installed).map(|()| true),
        };
        match had {
            Ok(true) => reloaded.taken.push(name),
            Ok(false) => reloaded.waiting.push(name),
            Err(why) => {
                if let Some(former) = self.module(&name) {
                    former.set_pending(Some(format!("the installed description is not taken: {why}")));
                }
                reloaded.refused.insert(name, why);
            }
        }
    }

    fn add(&self, installed: &Installed) -> Result<(), String> {
        let count = self.module_names().len();
        if count >= gossip::MODULES_MAX {
            return Err(format!("there are {count} modules, and no more are possible"));
        }
        let mirror = self.make_mirror(&installed.description)?;
        self.put(self.start_module(installed, mirror)?);
        Ok(())
    }

    /// Whether it was replaced; it waits if it is not at rest.
    async fn replace(&self, former: &Arc<Module<M>>, installed: &Installed) -> Result<bool, String> {
        let name = &installed.description.name;
        // What is wrong with it shows before the former one is given up.
        let mirror = self.make_mirror(&installed.description)?;
        if !former.end().await {
            former.set_pending(Some(WAITS.to_owned()));
            return Ok(false);
        }
        match self.start_module(installed, mirror) {
            Ok(module) => {
                module.local.set_maintenance(former.local.maintenance());
                self.put(module);
                Ok(true)
            }
            Err(why) => {
                let again = module::Installed {
                    description: (*former.description).clone(),
                    text: former.text.clone(),
                    directory: installed.directory.clone(),
                };
                let started =
                    self.make_mirror(&again.description).and_then(|mirror| self.start_module(&again, mirror));
                match started {
                    Ok(module) => self.put(module),
                    Err(error) => {
                        tracing::error!(
                            module = name,
                            error,
                            "a module cannot be had with its former description"
                        );
                        self.take_away(name);
                    }
                }
                Err(why)
            }
        }
    }
}

#[cfg(test)]
mod tests;
