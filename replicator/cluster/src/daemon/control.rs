//! What a node can be asked and ordered, by the command line on it or by the other node.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use replicator_core::cluster::Command;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::bundle::{self, Told};
use super::catalogue::Reloaded;
use super::delivery::{Deliveries, ModulePart, Progress};
use super::history::Entry;
use super::logs::{self, Part};
use super::member::Member;
use super::mirror::Mirror;
use super::node::Node;
use super::rotation::Rotation;
use super::status::{self, NodeStatus, SecretStatus};
use super::words;
use crate::membership::Offer;
use crate::remote::Keyring;

/// Most entries of a history that are told at once.
pub const ENTRIES_MAX: usize = 500;
/// Longest reason, in bytes.
const REASON_BYTES_MAX: usize = 500;

/// A request: `{"request":"status"}`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// How the node is.
    Status,
    /// Order something of a module.
    Order {
        /// The module.
        module: String,
        /// What.
        order: Order,
    },
    /// The history of a module.
    Events {
        /// The module.
        module: String,
        /// The last so many.
        count: usize,
    },
    /// The logs of a module's scripts: their last lines, or what came since.
    Logs {
        /// The module.
        module: String,
        /// The last so many lines.
        lines: usize,
        /// Only what stands behind these positions, by the names of the logs; all of other logs.
        #[serde(default)]
        since: Option<BTreeMap<String, u64>>,
    },
    /// What a support bundle has of this node: the names of its pieces.
    Pieces,
    /// One of them.
    Piece {
        /// Its name.
        name: String,
    },
    /// What is asked is for the other node.
    Peer {
        /// What.
        asked: Box<Request>,
    },
    /// Look at the installed modules again, and take what has changed.
    Reload,
    /// Renew this node's certificate, and rotate the secret that both nodes share.
    Rotate,
    /// A part of a module that was installed on the other node: of that one only.
    Deliver {
        /// It.
        part: ModulePart,
    },
    /// Take this secret: of the other node only. What it holds is never shown.
    TakeSecret {
        /// It.
        offer: Offer,
    },
    /// Stop the daemon in order.
    Stop,
}

impl Request {
    /// Whether a person may have it passed on to the other node.
    fn may_be_passed_on(&self) -> bool {
        !matches!(self, Request::Peer { .. } | Request::Stop | Request::Rotate | Request::TakeSecret { .. })
    }
}

/// What can be ordered: `{"order":"swap"}`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
pub enum Order {
    /// Run the module on this node.
    Start,
    /// Do not.
    Stop,
    /// Give the application to the other node.
    Swap,
    /// This node is not to become active, or may again; one that is active gives the application to the other.
    Standby {
        /// Whether.
        on: bool,
    },
    /// Stop and start the application.
    Restart,
    /// This node is to be active.
    Promote {
        /// Whatever is known.
        force: bool,
        /// Why, for the record; needed with force.
        reason: Option<String>,
    },
    /// Whether checkers only show what they find.
    Maintenance {
        /// Whether.
        on: bool,
    },
}

/// An answer: `{"answer":"done"}`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// How the node is.
    Status {
        /// It.
        status: Box<NodeStatus>,
    },
    /// It has begun; the status shows what becomes of it.
    Done,
    /// The history.
    Events {
        /// The oldest first.
        entries: Vec<Entry>,
    },
    /// Parts of logs.
    Logs {
        /// The oldest log first.
        parts: Vec<Part>,
        /// Where all logs ended before these were read.
        ends: BTreeMap<String, u64>,
    },
    /// Pieces of a bundle.
    Pieces {
        /// Their names.
        names: Vec<String>,
    },
    /// A piece of a bundle.
    Piece {
        /// It.
        text: String,
    },
    /// What was found on the shelf.
    Reloaded {
        /// It.
        reloaded: Reloaded,
    },
    /// A module that was sent is installed.
    Installed {
        /// What is to be said of it.
        notes: Vec<String>,
        /// What the node has taken.
        reloaded: Reloaded,
    },
    /// The certificate is new, and so is the shared secret, or the other node is still to take it.
    Rotated {
        /// How far it is.
        secret: SecretStatus,
    },
    /// It is not done, and nothing has changed.
    Refused {
        /// Why, for a person.
        message: String,
    },
}

impl Answer {
    pub(super) fn refused(message: impl Into<String>) -> Answer {
        Answer::Refused { message: message.into() }
    }
}

/// How the other node is asked.
pub trait Peer: Send + Sync + 'static {
    /// Ask it.
    fn ask(&self, request: Request) -> impl Future<Output = Answer> + Send;
}

/// Who answers for a node.
pub struct Desk<M, P> {
    /// The node.
    pub node: Arc<Node<M>>,
    /// Its certificates.
    pub member: Member,
    /// What uses them.
    pub keyring: Keyring,
    /// Its shared secret.
    pub rotation: Arc<Rotation>,
    /// What the other node sends.
    pub deliveries: Arc<Deliveries>,
    /// The other node.
    pub peer: P,
    /// Told when the daemon is to stop.
    pub stop: Arc<Notify>,
}

impl<M: Mirror, P: Peer> Desk<M, P> {
    /// Answer a person on this node.
    pub async fn answer(&self, request: Request) -> Answer {
        match request {
            Request::Peer { asked } if asked.may_be_passed_on() => self.peer.ask(*asked).await,
            Request::Stop => {
                self.stop.notify_one();
                Answer::Done
            }
            Request::Rotate => match self.rotate().await {
                Ok(secret) => Answer::Rotated { secret },
                Err(message) => Answer::Refused { message },
            },
            other => self.answer_here("an operator", other).await,
        }
    }

    /// Answer the other node, or a person on it.
    pub async fn answer_peer(&self, name: &str, request: Request) -> Answer {
        match request {
            Request::TakeSecret { offer } => match self.rotation.take(offer).await {
                Ok(()) => Answer::Done,
                Err(message) => Answer::Refused { message },
            },
            Request::Deliver { part } => {
                let deliveries = Arc::clone(&self.deliveries);
                let taken = to_the_end(&self.node, |node| async move { deliveries.take(&node, part).await });
                match taken.await {
                    Ok(Progress::Taken) => Answer::Done,
                    Ok(Progress::Installed { notes, reloaded }) => Answer::Installed { notes, reloaded },
                    Err(message) => Answer::Refused { message },
                }
            }
            other => self.answer_here(&format!("an operator on {name}"), other).await,
        }
    }

    async fn rotate(&self) -> Result<SecretStatus, String> {
        self.member.renew(&self.keyring, true).await?;
        let begun = self.rotation.begin(&self.peer).await;
        begun.map_err(|error| {
            format!("the certificate is renewed and in use; the shared secret is not rotated: {error}")
        })
    }

    /// Answer what is about this node only. `by` says who asks, for the history.
    async fn answer_here(&self, by: &str, request: Request) -> Answer {
        let node = &self.node;
        match request {
            Request::Status => {
                let mut status = status::of(node);
                status.secret = Some(self.rotation.status());
                Answer::Status { status: Box::new(status) }
            }
            Request::Order { module, order } => match carry_out(node, by, &module, order).await {
                Ok(()) => Answer::Done,
                Err(message) => Answer::Refused { message },
            },
            Request::Events { module, count } => match node.history(&module, count.min(ENTRIES_MAX)).await {
                Some(entries) => Answer::Events { entries },
                None => Answer::Refused { message: no_such(&module) },
            },
            Request::Logs { module, lines, since } => match logs(node, module, lines, since).await {
                Ok((parts, ends)) => Answer::Logs { parts, ends },
                Err(message) => Answer::Refused { message },
            },
            Request::Pieces => match bundle::pieces(node.places()).await {
                Ok(names) => Answer::Pieces { names },
                Err(message) => Answer::Refused { message },
            },
            Request::Piece { name } => match bundle::piece(node.places(), &name).await {
                Ok(Told::Text(text)) => Answer::Piece { text },
                Ok(Told::ByMirror(module)) => match node.local(&module) {
                    Some(local) => Answer::Piece { text: local.mirror_tells().await },
                    None => Answer::Refused { message: no_such(&module) },
                },
                Err(message) => Answer::Refused { message },
            },
            Request::Reload => match to_the_end(node, |node| async move { node.reload().await }).await {
                Ok(reloaded) => Answer::Reloaded { reloaded },
                Err(message) => Answer::Refused { message },
            },
            Request::Peer { .. } | Request::Stop | Request::Rotate => {
                Answer::refused("that is for the node itself only")
            }
            Request::TakeSecret { .. } | Request::Deliver { .. } => {
                Answer::refused("that is taken from the other node only")
            }
        }
    }
}

/// Do something with a node that must not be left half done, though whoever asked for it is gone.
async fn to_the_end<M: Mirror, T: Send + 'static, F>(
    node: &Arc<Node<M>>,
    work: impl FnOnce(Arc<Node<M>>) -> F,
) -> Result<T, String>
where
    F: Future<Output = Result<T, String>> + Send + 'static,
{
    tokio::spawn(work(Arc::clone(node))).await.map_err(|error| error.to_string())?
}

async fn logs<M: Mirror>(
    node: &Arc<Node<M>>,
    module: String,
    lines: usize,
    since: Option<BTreeMap<String, u64>>,
) -> Result<(Vec<Part>, BTreeMap<String, u64>), String> {
    if node.local(&module).is_none() {
        return Err(no_such(&module));
    }
    let directory = node.places().logs.join(&module);
    // A disk that hangs must not hold up the node.
    let read = tokio::task::spawn_blocking(move || {
        let ends = logs::ends(&directory)?;
        let parts = match since {
            Some(known) => logs::since(&directory, &known),
            None => logs::last(&directory, lines),
        };
        parts.map(|parts| (parts, ends))
    });
    let read = read.await.map_err(|error| error.to_string())?;
    read.map_err(|error| format!("the logs of {module} cannot be read: {error}"))
}

async fn carry_out<M: Mirror>(
    node: &Arc<Node<M>>,
    by: &str,
    module: &str,
    order: Order,
) -> Result<(), String> {
    let command = match order {
        Order::Start => {
            let name = module.to_owned();
            to_the_end(node, |node| async move { node.take_pending(&name).await }).await?;
            Command::Start
        }
        Order::Stop => Command::Stop,
        Order::Swap => Command::Swap,
        Order::Standby { on } => Command::Standby { on },
        Order::Restart => Command::Restart,
        Order::Promote { force, reason } => {
            let reason = reason.filter(|reason| !reason.trim().is_empty());
            if force && reason.is_none() {
                return Err("a promotion by force needs a reason, for the record (--reason)".to_owned());
            }
            if reason.as_ref().is_some_and(|reason| reason.len() > REASON_BYTES_MAX) {
                return Err(format!("the reason is longer than {REASON_BYTES_MAX} bytes"));
            }
            if let Some(reason) = reason {
                node.tell(
                    module,
                    format!("{by} promotes this node{}: {reason}", if force { " by force" } else { "" }),
                );
            }
            Command::Promote { force }
        }
        Order::Maintenance { on } => {
            let local = node.local(module).ok_or_else(|| no_such(module))?;
            local.set_maintenance(on);
            node.tell(module, format!("{by} turns maintenance {}", if on { "on" } else { "off" }));
            return Ok(());
        }
    };
    let answer = node.command(module, command).await.ok_or_else(|| no_such(module))?;
    answer.map_err(|refusal| words::refusal(refusal).to_owned())
}

fn no_such(module: &str) -> String {
    format!("there is no module {module:?} on this node; \"replicator cluster status\" lists them")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown_and_comes_from_the_other_node_only() {
        let text = format!(
            "{{\"request\":\"take-secret\",\"offer\":{{\"number\":7,\"secret\":\"{}\"}}}}",
            "5a".repeat(32)
        );
        let request: Request = serde_json::from_str(&text).unwrap();
        let shown = format!("{request:?}");
        assert!(shown.contains("number: 7") && !shown.contains("90") && !shown.contains("5a5a"), "{shown}");
        assert!(!request.may_be_passed_on());
        for request in [Request::Stop, Request::Rotate, Request::Peer { asked: Box::new(Request::Status) }] {
            assert!(!request.may_be_passed_on(), "{request:?}");
        }
        assert!(Request::Reload.may_be_passed_on());
        // What is not understood is told without it.
        let wrong = text.replace("take-secret", "take-it").replace("5a5a", "zz5a");
        let error = serde_json::from_str::<Request>(&wrong).unwrap_err().to_string();
        assert!(!error.contains("5a5a"), "{error}");
        let wrong = text.replace("5a5a", "zz5a");
        let error = serde_json::from_str::<Request>(&wrong).unwrap_err().to_string();
        assert!(!error.contains("5a5a"), "{error}");
    }
}
