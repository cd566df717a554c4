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

use serde::{Deserialize, Serialize};

use super::gossip;
use super::mirror::Mirror;
use super::module::Module;
use super::node::Node;
use crate::module::{Description, Listed, Shelf};

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
            if found.iter().all(|found| found.name != name) {
                self.leave(&name, &mut reloaded).await;
            }
        }
        for found in found {
            self.have(found, &mut reloaded).await;
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
        match self.read_shelf().await?.into_iter().find(|found| found.name == name) {
            Some(found) => self.have(found, &mut reloaded).await,
            None => self.leave(name, &mut reloaded).await,
        }
        drop(turn);
        tracing::info!(?reloaded, "before the start of a module");
        Ok(())
    }

    async fn read_shelf(&self) -> Result<Vec<Listed>, String> {
        let shelf = Shelf::at(&self.places().modules);
        // A disk that hangs must not hold up the node.
        let read = tokio::task::spawn_blocking(move || shelf.list()).await;
        read.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
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
    async fn have(&self, found: Listed, reloaded: &mut Reloaded) {
        let Listed { name, description } = found;
        let former = self.module(&name);
        let had = match (description, &former) {
            (Err(why), _) => Err(why.to_string()),
            (Ok(installed), Some(former)) if former.description.digest == installed.digest => {
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

    fn add(&self, installed: &Description) -> Result<(), String> {
        let count = self.module_names().len();
        if count >= gossip::MODULES_MAX {
            return Err(format!("there are {count} modules, and no more are possible"));
        }
        let mirror = self.make_mirror(installed)?;
        self.put(self.start_module(installed, mirror)?);
        Ok(())
    }

    /// Whether it was replaced; it waits if it is not at rest.
    async fn replace(&self, former: &Module<M>, installed: &Description) -> Result<bool, String> {
        // What is wrong with it shows before the former one is given up.
        let mirror = self.make_mirror(installed)?;
        if !former.end().await {
            former.set_pending(Some(WAITS.to_owned()));
            return Ok(false);
        }
        let Err(why) = self.follow(former, installed, mirror) else { return Ok(true) };
        let again = self.make_mirror(&former.description);
        if let Err(error) = again.and_then(|mirror| self.follow(former, &former.description, mirror)) {
            let module = &installed.name;
            tracing::error!(module, error, "a module cannot be had with its former description");
            self.take_away(module);
        }
        Err(why)
    }

    /// Have a module in the place of one that has ended.
    fn follow(&self, former: &Module<M>, description: &Description, mirror: M) -> Result<(), String> {
        let module = self.start_module(description, mirror)?;
        module.local.set_maintenance(former.local.maintenance());
        self.put(module);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
