//! A module that the other node sends: taken in pieces, checked as a whole, installed, and had at once.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::catalogue::Reloaded;
use super::mirror::Mirror;
use super::node::Node;
use crate::module::{
    BootError, BootState, Delivery, Description, Piece, ServiceError, Shelf, ShelfError, Systemctl, check,
};

/// What comes of a module, one after the other.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "part", rename_all = "kebab-case")]
pub enum ModulePart {
    /// One begins. One that began before and has not ended never will.
    Begin {
        /// Tells it from others.
        id: u64,
        /// The module's name.
        module: String,
        /// One of that name may be replaced.
        replace: bool,
    },
    /// A part of a file.
    Piece {
        /// Of which.
        id: u64,
        /// It.
        piece: Piece,
    },
    /// That was all.
    End {
        /// Of which.
        id: u64,
    },
}

/// What has become of a part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Progress {
    /// It is taken.
    Taken,
    /// It was the last, and the module is installed.
    Installed {
        /// What is to be said of it.
        notes: Vec<String>,
        /// What the node has taken.
        reloaded: Reloaded,
    },
}

/// The module that is on its way, if one is.
#[derive(Default, Debug)]
pub struct Deliveries(Mutex<Option<(u64, Delivery)>>);

impl Deliveries {
    /// Take a part. To be run to its end.
    ///
    /// # Errors
    /// For a person; the delivery has ended then, and what was installed before is as it was.
    pub async fn take<M: Mirror>(&self, node: &Node<M>, part: ModulePart) -> Result<Progress, String> {
        let mut under_way = self.0.lock().await;
        match part {
            ModulePart::Begin { id, module, replace } => {
                // One of the same name would throw away the files of this one.
                *under_way = None;
                let shelf = Shelf::at(&node.places().modules);
                let begun = aside(move || Delivery::begin(&shelf, &module, replace)).await?;
                *under_way = Some((id, begun));
                Ok(Progress::Taken)
            }
            ModulePart::Piece { id, piece } => {
                let mut delivery = known(under_way.take(), id)?;
                let taken = aside(move || delivery.piece(&piece).map(|()| delivery));
                *under_way = Some((id, taken.await?));
                Ok(Progress::Taken)
            }
            ModulePart::End { id } => {
                let delivery = known(under_way.take(), id)?;
                let notes = install(node, delivery).await?;
                Ok(Progress::Installed { notes, reloaded: node.reload().await? })
            }
        }
    }
}

fn known(under_way: Option<(u64, Delivery)>, id: u64) -> Result<Delivery, String> {
    match under_way {
        Some((known, delivery)) if known == id => Ok(delivery),
        _ => Err("another module was sent meanwhile, or this one was refused: send it again".to_owned()),
    }
}

/// Check it, put it in its place, and have nobody else start its units.
async fn install<M: Mirror>(node: &Node<M>, delivery: Delivery) -> Result<Vec<String>, String> {
    let (delivery, description) = aside(move || {
        let description = delivery.description()?;
        Ok((delivery, description))
    })
    .await?;
    let findings = check(&description, delivery.directory(), &Systemctl::default()).await;
    if !findings.usable() {
        let errors: Vec<String> = findings.errors.iter().map(ToString::to_string).collect();
        return Err(format!("it cannot run there: {}", errors.join("; ")));
    }
    aside(move || delivery.place()).await?;
    let boot = node.places().state.join(&description.name).join("boot.toml");
    Ok(take_over(&description, &boot).await)
}

async fn take_over(description: &Description, boot: &Path) -> Vec<String> {
    match BootState::at(boot).take_over(description, &Systemctl::default()).await {
        Ok(switched) => switched.lines().collect(),
        // Nothing is started at boot where nobody starts anything.
        Err(BootError::Service(error @ ServiceError::NotThere { .. })) => vec![format!("warning: {error}")],
        Err(error) => vec![format!(
            "warning: its units may still be started at boot ({error}); install it again with --replace"
        )],
    }
}

/// On a thread that may wait for the disk.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ShelfError> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?;
    done.map_err(|error| error.to_string())
}
