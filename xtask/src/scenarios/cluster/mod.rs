//! Situations of a whole cluster: two nodes, a client on the virtual address, a witness.

pub mod application;
pub mod arbiters;
pub mod both_written;
pub mod busy;
pub mod changes;
pub mod failover;
pub mod isolation;
pub mod many_modules;
pub mod paths;
pub mod paused;
pub mod postgresql;
pub mod restarts;
pub mod standby;

use std::time::Duration;

use anyhow::Result;

use crate::lab::cluster::{Cluster, Options};
use crate::lab::ledger::Client;
use crate::lab::wait;

/// What the daemons complain of wherever a node or a network is lost.
pub const LOST: &[&str] = &[
    "lost",
    "peer",
    "session",
    "link",
    "the other node",
    "did not run",
    "crashed",
    "mount",
    "arbiter",
    "heartbeat",
    "everything will be compared",
    "kept aside",
    "safe set",
    "claims the address",
    "took too long",
    "slept",
    "gate still in use",
    "connection aborted",
];

/// Longest time until a service answers again.
pub const SERVICE_BOUND: Duration = Duration::from_secs(60);

/// A cluster that came up, with a client whose records were answered.
pub struct Situation {
    /// The nodes.
    pub cluster: Cluster,
    /// The client.
    pub client: Client,
}

impl Situation {
    /// Node a serves, node b holds the same, and the client has got some answers.
    ///
    /// # Errors
    /// It does not come up.
    pub fn begin(options: &Options) -> Result<Situation> {
        let cluster = Cluster::start(options)?;
        let client = cluster.client()?;
        wait_answers(&client, 200)?;
        Ok(Situation { cluster, client })
    }

    /// Nothing that was answered is missing on the active node, both trees are the same, and nobody complained of anything but what is
    /// [`LOST`]. How many were answered.
    ///
    /// # Errors
    /// One of that does not hold.
    pub fn end(self, active: usize) -> Result<u64> {
        self.finish(active, LOST)
    }

    /// The same with these complaints.
    ///
    /// # Errors
    /// One of that does not hold.
    pub fn finish(mut self, active: usize, expected: &[&str]) -> Result<u64> {
        let answered = self.client.stop();
        self.cluster.check(active, answered)?;
        self.cluster.finish(expected)?;
        Ok(answered)
    }
}

/// Wait until the client has got some more answers.
///
/// # Errors
/// It gets none.
pub fn wait_answers(client: &Client, more: u64) -> Result<()> {
    let from = client.answered();
    wait::until("answers for the client", SERVICE_BOUND, || {
        Ok((client.answered() >= from + more).then_some(()))
    })
}

/// The longest time without answers that began after so many gaps were known.
#[must_use]
pub fn longest_gap(client: &Client, known: usize) -> Duration {
    client.gaps().iter().skip(known).map(|gap| gap.span()).max().unwrap_or_default()
}

/// Wait until a node is active alone and ready.
///
/// # Errors
/// It does not become so.
pub fn wait_alone(cluster: &mut Cluster, node: usize) -> Result<()> {
    let module = crate::lab::cluster::MODULE;
    cluster
        .wait_for(node, module, "alone, ready", SERVICE_BOUND, |found| found.here.is_ready("alone"))
        .map(drop)
}
