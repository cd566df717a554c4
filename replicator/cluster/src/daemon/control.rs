//! What a node can be asked and ordered, by the command line on it or by the other node.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use replicator_core::cluster::Command;
use serde::{Deserialize, Serialize};

use super::bundle::{self, Told};
use super::history::Entry;
use super::logs::{self, Part};
use super::mirror::Mirror;
use super::node::Node;
use super::status::{self, NodeStatus};
use super::words;

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
    /// Stop the daemon in order.
    Stop,
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

/// Answer a request on a node. `stop` is called for [`Request::Stop`]; `by` says who asks, for the history.
pub async fn answer<M: Mirror, P: Peer>(
    node: &Arc<Node<M>>,
    peer: &P,
    stop: &(dyn Fn() + Send + Sync),
    by: &str,
    request: Request,
) -> Answer {
    match request {
        Request::Peer { asked } if matches!(*asked, Request::Peer { .. } | Request::Stop) => {
            Answer::refused("that is for the node itself only")
        }
        Request::Peer { asked } => peer.ask(*asked).await,
        Request::Stop => {
            stop();
            Answer::Done
        }
        other => answer_here(node, by, other).await,
    }
}

/// Answer what is about this node only.
pub async fn answer_here<M: Mirror>(node: &Arc<Node<M>>, by: &str, request: Request) -> Answer {
    match request {
        Request::Status => Answer::Status { status: Box::new(status::of(node)) },
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
        Request::Peer { .. } | Request::Stop => Answer::refused("that is for the node itself only"),
    }
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
        Order::Start => Command::Start,
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
