//! What `replicator cluster status --json` says, as those who watch it read it: the contract, held from outside.

use serde::Deserialize;

/// A node.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NodeStatus {
    /// Each node hears the other.
    pub peer_alive: bool,
    /// The secret both share.
    pub secret: Secret,
    /// Its modules.
    pub modules: Vec<ModuleStatus>,
}

/// The secret that the nodes share, by its number.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Secret {
    /// Of the one in use.
    pub number: u64,
    /// Of the one that the other node is still to take.
    pub next: Option<u64>,
    /// Of the one before, while it is accepted.
    pub previous: Option<u64>,
}

/// A module.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ModuleStatus {
    /// Its name.
    pub module: String,
    /// On the node that was asked.
    pub here: Place,
    /// On the other.
    pub peer: Option<Place>,
    /// What is installed and not taken.
    pub pending: Option<String>,
    /// What its checkers found last.
    pub checkers: Vec<Checker>,
}

/// A checker.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Checker {
    /// Its name.
    pub checker: String,
    /// `up`, `down`, or not known yet.
    pub verdict: String,
}

/// How it is on a node.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Place {
    /// `stopped`, `waiting`, `alone`, `primary`, `secondary`.
    pub state: String,
    /// `ready`, `transient`, `not ready`.
    pub readiness: String,
    /// Why.
    pub cause: String,
    /// The term in which it is active.
    pub active_term: Option<u64>,
    /// Its data.
    pub data: Option<String>,
}

impl Place {
    /// In this state, and ready.
    #[must_use]
    pub fn is_ready(&self, state: &str) -> bool {
        self.state == state && self.readiness == "ready"
    }
}
