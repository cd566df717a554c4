//! What a node says of itself and of the other to people: the answer to `status`. Stable; keys are only ever added.

use replicator_core::cluster::Report;
use serde::{Deserialize, Serialize};

use super::mirror::Mirror;
use super::node::{Both, Node};
use super::words;
use crate::module::Verdict;

/// A node, and what it knows of the other.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NodeStatus {
    /// Its name.
    pub node: String,
    /// The other's.
    pub peer: String,
    /// Each hears the other.
    pub peer_alive: bool,
    /// The networks between them.
    pub paths: Vec<PathStatus>,
    /// The secret they share. Of a node that says nothing of it nothing is known.
    #[serde(default)]
    pub secret: Option<SecretStatus>,
    /// The modules, by their names.
    pub modules: Vec<ModuleStatus>,
}

/// The secret that both nodes share, on this one. Numbers only.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SecretStatus {
    /// Number of the current one.
    pub number: u64,
    /// Number of the one that the other node is to have before this one uses it: a rotation waits.
    pub next: Option<u64>,
    /// Number of the one before, as long as it is still accepted.
    pub previous: Option<u64>,
    /// Why a rotation waits, as far as it is known.
    pub waits: Option<String>,
}

/// A network between the nodes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PathStatus {
    /// `up`, `receive-only`, `send-only`, `down`.
    pub state: String,
    /// Last round trip.
    pub round_trip_ms: Option<f64>,
    /// Longest time between two beats.
    pub longest_gap_ms: f64,
}

/// A module.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ModuleStatus {
    /// Its name.
    pub module: String,
    /// On this node.
    pub here: Place,
    /// On the other, if it is known.
    pub peer: Option<Place>,
    /// Checkers do nothing but show.
    pub maintenance: bool,
    /// What this node's checkers think.
    pub checkers: Vec<CheckerLine>,
    /// The virtual addresses, and whether this node has them.
    pub addresses: Vec<AddressLine>,
    /// What is installed in its place on this node and is not taken (yet), and why.
    #[serde(default)]
    pub pending: Option<String>,
}

/// How a module is on a node.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Place {
    /// `stopped`, `waiting`, `alone`, `primary`, `secondary`.
    pub state: String,
    /// `ready`, `transient`, `not ready`.
    pub readiness: String,
    /// Why it is not ready, or what it waits for; empty: nothing to say.
    pub cause: String,
    /// The term in which it is active.
    pub active_term: Option<u64>,
    /// The term of its copy.
    pub copy_term: Option<u64>,
    /// Its data: `up-to-date`, `consistent`, `outdated`, `inconsistent`.
    pub data: Option<String>,
    /// The generation of its data.
    pub generation: Option<String>,
    /// Both nodes hold the same.
    pub mirrored: bool,
}

/// A checker.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckerLine {
    /// Its name.
    pub checker: String,
    /// `up`, `down`, `unknown`.
    pub verdict: String,
    /// Why it was not well last.
    pub reason: String,
}

/// A virtual address.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AddressLine {
    /// It, with its prefix.
    pub address: String,
    /// Its interface here.
    pub interface: Option<String>,
    /// This node has it.
    pub held: bool,
}

/// Everything a node says.
#[must_use]
pub fn of<M: Mirror>(node: &Node<M>) -> NodeStatus {
    let (name, peer) = node.names();
    let millis = |span: std::time::Duration| span.as_secs_f64() * 1e3;
    let heartbeat = node.heartbeat();
    let paths = heartbeat.paths.iter().map(|path| PathStatus {
        state: path_state(path.state).to_owned(),
        round_trip_ms: path.round_trip.map(millis),
        longest_gap_ms: millis(path.longest_gap),
    });
    let modules = node.modules().into_iter().map(|(module, both)| module_status(node, module, &both));
    NodeStatus {
        node: name.to_owned(),
        peer: peer.to_owned(),
        peer_alive: node.is_peer_alive(),
        paths: paths.collect(),
        secret: None,
        modules: modules.collect(),
    }
}

fn module_status<M: Mirror>(node: &Node<M>, module: String, both: &Both) -> ModuleStatus {
    let local = node.local(&module);
    let checkers =
        local.as_ref().map(|local| local.checkers()).unwrap_or_default().into_iter().map(|checker| {
            let verdict = match checker.verdict {
                Verdict::Up => "up",
                Verdict::Down => "down",
                Verdict::Unknown => "unknown",
            };
            CheckerLine { checker: checker.checker, verdict: verdict.to_owned(), reason: checker.reason }
        });
    let addresses = local.as_ref().map(|local| local.addresses()).unwrap_or_default().into_iter();
    let addresses = addresses.map(|address| AddressLine {
        address: address.address.to_string(),
        interface: address.interface,
        held: address.held,
    });
    ModuleStatus {
        here: place(&both.here),
        peer: both.peer.as_ref().map(place),
        maintenance: local.as_ref().is_some_and(|local| local.maintenance()),
        checkers: checkers.collect(),
        addresses: addresses.collect(),
        pending: node.pending(&module),
        module,
    }
}

fn place(report: &Report) -> Place {
    let copy = report.copy.as_ref();
    Place {
        state: words::word(report.word).to_owned(),
        readiness: words::readiness(report.readiness).to_owned(),
        cause: words::cause(report.cause).to_owned(),
        active_term: report.active.map(|term| term.0),
        copy_term: copy.map(|copy| copy.term.0),
        data: copy.map(|copy| words::data(copy.account.data).to_owned()),
        generation: copy.map(|copy| copy.account.lineage.current.to_string()),
        mirrored: report.mirrored,
    }
}

fn path_state(state: crate::heartbeat::PathState) -> &'static str {
    use crate::heartbeat::PathState;
    match state {
        PathState::Up => "up",
        PathState::ReceiveOnly => "receive-only",
        PathState::SendOnly => "send-only",
        PathState::Down => "down",
    }
}
