//! What scripts are told about the cluster, by their environment.

use super::super::{Description, Role};

/// What scripts are told about the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Circumstances {
    /// This node's name.
    pub node: String,
    /// The peer's name.
    pub peer: String,
    /// The peer's state, in the operator's word.
    pub peer_state: String,
    /// Why the script is run.
    pub reason: String,
    /// Number of the primacy.
    pub term: u64,
}

/// What a script finds in its environment about the cluster.
pub(in super::super) fn variables(
    description: &Description,
    role: Option<Role>,
    circumstances: &Circumstances,
    force: bool,
) -> Vec<(&'static str, String)> {
    let directories: Vec<String> =
        description.directories.iter().map(|directory| directory.path.display().to_string()).collect();
    let addresses: Vec<String> =
        description.addresses.iter().map(|address| address.address.to_string()).collect();
    vec![
        ("REPLICATOR_ROLE", role.map(|role| role.to_string()).unwrap_or_default()),
        ("REPLICATOR_NODE", circumstances.node.clone()),
        ("REPLICATOR_PEER", circumstances.peer.clone()),
        ("REPLICATOR_PEER_STATE", circumstances.peer_state.clone()),
        ("REPLICATOR_REASON", circumstances.reason.clone()),
        ("REPLICATOR_TERM", circumstances.term.to_string()),
        ("REPLICATOR_FORCE", u8::from(force).to_string()),
        ("REPLICATOR_DIRECTORIES", directories.join("\n")),
        ("REPLICATOR_ADDRESSES", addresses.join("\n")),
    ]
}
