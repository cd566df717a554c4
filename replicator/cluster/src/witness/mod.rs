//! The witness service: a register per module of each cluster it knows, for nodes that no longer see each other.
//!
//! What it promises: what it has answered is durable, and stays until a higher term is granted. A file that cannot be understood is
//! never taken for a register without a value: the register refuses every request until an operator resets it ([`reset_register`]).
//! A stranger changes nothing and learns nothing, and cannot take the service from others but by taking its network.
//!
//! It runs for many clusters, which do not see each other. A cluster is added with [`add_cluster`], which gives the key file for its
//! nodes. The protocol is [`crate::arbiter::protocol`]; the files are described in `record` and `directory`.
//!
//! What no witness can see: that its whole directory was taken back to an older state. The nodes can, and its register then refuses
//! them ([`crate::arbiter::Distrust::Behind`]). A node that knows no more than the old state cannot, so a directory must never be
//! restored from a backup: begin with a new one, which is another witness.

mod admission;
mod conversation;
mod directory;
mod error;
mod files;
mod record;
mod store;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use conversation::Statistics;
pub use directory::{add_cluster, cluster_key, remove_cluster, reset_register};
pub use error::WitnessError;

use self::admission::{Admission, Place};
use self::conversation::{Unanswered, converse};
use self::directory::Directory;
use self::store::Store;
use crate::arbiter::WitnessId;

/// Pause after accept(2) failed, so that a lack of descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// At most one message about strangers in this time.
const STRANGER_PAUSE: Duration = Duration::from_secs(60);

/// What strangers and members may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Connections open at a time, in all.
    pub connections: usize,
    /// Connections open at a time from one address.
    pub connections_per_address: usize,
    /// Time for everything before a request is proven, again for waiting until its register is free, and again for taking the answer.
    pub conversation: Duration,
    /// Registers of one cluster.
    pub registers_per_cluster: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 512,
            connections_per_address: 64,
            conversation: Duration::from_secs(5),
            registers_per_cluster: 256,
        }
    }
}

/// A witness, as it is configured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WitnessConfig {
    /// Addresses to listen at.
    pub listen: Vec<SocketAddr>,
    /// Where its state is. Made if it is not there.
    pub directory: PathBuf,
    /// What may be taken.
    pub limits: Limits,
}

/// A witness that listens. Nobody is answered before [`Witness::run`].
#[derive(Debug)]
pub struct Witness {
    listeners: Vec<TcpListener>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<Store>,
    admission: Arc<Admission>,
    statistics: Arc<Statistics>,
    conversation: Duration,
    last_warning: std::sync::Mutex<Option<Instant>>,
}

impl Witness {
    /// Open the directory, take it for this process alone, and listen.
    ///
    /// # Errors
    /// [`WitnessError`]: the directory is in use or damaged, an address cannot be listened at.
    pub async fn open(config: WitnessConfig) -> Result<Witness, WitnessError> {
        let WitnessConfig { listen, directory, limits } = config;
        if listen.is_empty() {
            return Err(WitnessError::NoAddress);
        }
        // Before anything is served: it may wait for the disk.
        let store = Store::new(Directory::open(&directory)?, limits.registers_per_cluster)?;
        let mut listeners = Vec::new();
        for address in listen {
            let failed = |source| WitnessError::Listen { address, source };
            listeners.push(TcpListener::bind(address).await.map_err(failed)?);
        }
        let shared = Shared {
            store: Arc::new(store),
            admission: Admission::new(limits.connections, limits.connections_per_address),
            statistics: Arc::default(),
            conversation: limits.conversation,
            last_warning: std::sync::Mutex::default(),
        };
        Ok(Witness { listeners, shared: Arc::new(shared) })
    }

    /// Who this is.
    #[must_use]
    pub fn identity(&self) -> WitnessId {
        self.shared.store.directory().identity()
    }

    /// Where it listens: the ports that were given for port 0.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// How many connections ended how, for as long as it runs.
    #[must_use]
    pub fn statistics(&self) -> Arc<Statistics> {
        self.shared.statistics.clone()
    }

    /// Serve until `stop` is done. Requests under way are then answered no more; whether they were carried out the node finds out by
    /// asking again.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let addresses = self.addresses();
        tracing::info!(identity = %self.identity(), ?addresses, "the witness serves");
        // Dropped at the end, which ends them all.
        let mut accepting = JoinSet::new();
        for listener in self.listeners {
            accepting.spawn(accept(listener, self.shared.clone()));
        }
        stop.await;
        tracing::info!("the witness stops");
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut conversations = JoinSet::new();
    loop {
        while conversations.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, peer)) => match shared.admission.admit(peer.ip()) {
                Some(place) => {
                    conversations.spawn(serve_one(stream, peer, place, shared.clone()));
                }
                None => {
                    shared.statistics.turned_away.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(%peer, "no place for another connection");
                }
            },
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_one(stream: TcpStream, peer: SocketAddr, place: Place, shared: Arc<Shared>) {
    let result = converse(stream, peer, &shared.store, shared.conversation).await;
    shared.statistics.count(&result);
    match result {
        Ok(()) => {}
        Err(Unanswered::Stranger(why)) => shared.warn_of_stranger(peer, why),
        Err(error) => tracing::debug!(%peer, %error, "a connection ended without an answer"),
    }
    drop(place);
}

impl Shared {
    /// A node with a wrong key is for a person to see; a stranger must not fill the log.
    fn warn_of_stranger(&self, peer: SocketAddr, why: &'static str) {
        let strangers = self.statistics.strangers.load(Ordering::Relaxed);
        let now = Instant::now();
        let mut last = self.last_warning.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if last.is_none_or(|last| now.duration_since(last) >= STRANGER_PAUSE) {
            *last = Some(now);
            tracing::warn!(%peer, why, strangers, "turned away who could not prove to belong to a cluster");
        } else {
            tracing::debug!(%peer, why, strangers, "turned away who could not prove to belong to a cluster");
        }
    }
}
