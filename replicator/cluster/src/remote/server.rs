//! The answering side.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use super::PeerIdentity;
use super::credentials::Keyring;
use super::error::RemoteError;
use super::places::{Place, Places};
use super::refusals::{Refusal, Refusals};

mod conversation;
mod entrance;

use conversation::converse;
use entrance::enter;

/// Pause after accept(2) failed, so that a lack of descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What others can make this node spend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Connections that have not shown yet who they are, all together.
    pub strangers: usize,
    /// The same, from one address.
    pub strangers_from_one_address: usize,
    /// Connections of the peer.
    pub connections: usize,
    /// For the TLS handshake.
    pub handshake: Duration,
    /// Longest pause between an answer and the next request's first byte.
    pub idle: Duration,
    /// For a request to arrive, and for an answer to be taken.
    pub transfer: Duration,
    /// For the handler. It is dropped then, at the point where it waits.
    pub handle: Duration,
    /// A connection ends after this time, or when the peer's certificate expires.
    pub age: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            strangers: 64,
            strangers_from_one_address: 8,
            connections: 16,
            handshake: Duration::from_secs(5),
            idle: Duration::from_secs(60),
            transfer: Duration::from_secs(10),
            handle: Duration::from_secs(120),
            age: Duration::from_secs(24 * 3600),
        }
    }
}

/// What a server has seen so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Connections on which the peer showed who it is.
    pub accepted: u64,
    /// Requests that were answered by the handler.
    pub answered: u64,
    /// Requests that were not: no request, too long, too slow, or the handler did not finish.
    pub unanswered: u64,
    /// Refused connections, by reason; those that never happened are left out.
    pub refused: Vec<(Refusal, u64)>,
}

/// Answers the peer. Dropping it closes the socket and all connections and drops the handlers that run.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    inside: Arc<Inside>,
    task: JoinHandle<()>,
}

/// What all connections share.
#[derive(Debug)]
pub(super) struct Inside {
    keyring: Keyring,
    limits: Limits,
    refusals: Refusals,
    accepted: AtomicU64,
    answered: AtomicU64,
    unanswered: AtomicU64,
    sessions: Arc<Semaphore>,
}

impl Server {
    /// Listen at an address and answer the peer's requests with `handler`. To be called inside a tokio runtime.
    ///
    /// The handler is run once for each request, several at a time. It is called for the peer only.
    ///
    /// # Errors
    /// [`RemoteError::Listen`].
    pub async fn bind<Q, A, H, F>(
        address: SocketAddr,
        keyring: Keyring,
        limits: Limits,
        handler: H,
    ) -> Result<Server, RemoteError>
    where
        Q: DeserializeOwned + Send + 'static,
        A: Serialize + Send + 'static,
        H: Fn(PeerIdentity, Q) -> F + Send + Sync + 'static,
        F: Future<Output = A> + Send + 'static,
    {
        let refused = |source| RemoteError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let inside = Arc::new(Inside {
            keyring,
            limits,
            refusals: Refusals::default(),
            accepted: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
            sessions: Arc::new(Semaphore::new(limits.connections)),
        });
        let task = tokio::spawn(accept(listener, inside.clone(), Arc::new(handler)));
        Ok(Server { address, inside, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has seen so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let refused = Refusal::ALL.map(|refusal| (refusal, self.inside.refusals.counted(refusal)));
        Statistics {
            accepted: read(&self.inside.accepted),
            answered: read(&self.inside.answered),
            unanswered: read(&self.inside.unanswered),
            refused: refused.into_iter().filter(|(_, count)| *count > 0).collect(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept<Q, A, H, F>(listener: TcpListener, inside: Arc<Inside>, handler: Arc<H>)
where
    Q: DeserializeOwned + Send + 'static,
    A: Serialize + Send + 'static,
    H: Fn(PeerIdentity, Q) -> F + Send + Sync + 'static,
    F: Future<Output = A> + Send + 'static,
{
    let places = Places::new(inside.limits.strangers, inside.limits.strangers_from_one_address);
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, from)) => match places.take(from.ip()) {
                Some(place) => {
                    connections.spawn(serve(stream, from, place, inside.clone(), handler.clone()));
                }
                None => inside.refusals.count(Refusal::Crowded, from, "too many have not shown who they are"),
            },
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to the control channel");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection from its first byte to its last.
async fn serve<Q, A, H, F>(
    stream: TcpStream,
    from: SocketAddr,
    place: Place,
    inside: Arc<Inside>,
    handler: Arc<H>,
) where
    Q: DeserializeOwned + Send + 'static,
    A: Serialize + Send + 'static,
    H: Fn(PeerIdentity, Q) -> F + Send + Sync + 'static,
    F: Future<Output = A> + Send + 'static,
{
    let entered = match enter(stream, &inside).await {
        Ok(entered) => entered,
        Err((refusal, why)) => return inside.refusals.count(refusal, from, &why),
    };
    drop(place);
    inside.accepted.fetch_add(1, Ordering::Relaxed);
    tracing::debug!(%from, peer = %entered.peer.name, "the peer is connected to the control channel");
    if let Err(error) = converse(entered, &inside, &*handler).await {
        tracing::debug!(%from, %error, "the peer's connection to the control channel broke");
    }
}

/// Make the kernel find out that the peer is gone, though nobody sends.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &10)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &5)?;
    setsockopt(stream, sockopt::TcpKeepCount, &3)?;
    Ok(())
}
