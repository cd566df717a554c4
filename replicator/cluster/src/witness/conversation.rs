//! One connection: a challenge, a request, an answer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::store::Store;
use crate::arbiter::protocol::{Answer, CHALLENGE_BYTES, REQUEST_BYTES, Request, challenge};
use crate::arbiter::{ClusterId, WitnessKey};

/// Why a connection ended without an answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    /// It was not proven that a member asks.
    #[error("a stranger: {0}")]
    Stranger(&'static str),
    /// The other side did not do its part in time.
    #[error("it took too long to {0}")]
    Slow(&'static str),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    /// The system has no random bytes.
    #[error("the system has no random bytes: {0}")]
    Random(getrandom::Error),
}

/// How many connections ended how.
#[derive(Debug, Default)]
pub struct Statistics {
    /// Requests whose proof held, and which were answered.
    pub answered: AtomicU64,
    /// Connections that were closed because no place was free.
    pub turned_away: AtomicU64,
    /// Connections that were closed because nothing was proven on them.
    pub strangers: AtomicU64,
    /// Connections that took too long or broke.
    pub broken: AtomicU64,
}

impl Statistics {
    pub(super) fn count(&self, result: &Result<(), Unanswered>) {
        let counter = match result {
            Ok(()) => &self.answered,
            Err(Unanswered::Stranger(_)) => &self.strangers,
            Err(Unanswered::Slow(_) | Unanswered::Broken(_) | Unanswered::Random(_)) => &self.broken,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Serve one connection. `limit` bounds each of: everything before the request is proven, waiting for the register, and the sending of
/// the answer.
///
/// # Errors
/// [`Unanswered`]: the other side was told nothing.
pub(super) async fn converse(
    mut stream: TcpStream,
    peer: SocketAddr,
    store: &Arc<Store>,
    limit: Duration,
) -> Result<(), Unanswered> {
    stream.set_nodelay(true)?;
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(Unanswered::Random)?;
    let challenge = challenge(&nonce);
    let mut bytes = [0; REQUEST_BYTES];
    let exchange = async {
        stream.write_all(&challenge).await?;
        stream.read_exact(&mut bytes).await
    };
    timeout(limit, exchange).await.map_err(|_| Unanswered::Slow("send a request"))??;
    let (request, key) = admit(store, &bytes, &challenge, peer).await?;
    let reply = store.answer(request, limit).await;
    let (status, value) = reply.ok_or(Unanswered::Slow("get at the register: its disk is slow"))?;
    let answer = Answer { status, witness: store.directory().identity(), value };
    let answer = answer.encode(&key, &challenge, &bytes);
    let exchange = async {
        stream.write_all(&answer).await?;
        stream.shutdown().await
    };
    timeout(limit, exchange).await.map_err(|_| Unanswered::Slow("take the answer"))??;
    Ok(())
}

/// The request in these bytes and the key that proves it.
async fn admit(
    store: &Arc<Store>,
    bytes: &[u8; REQUEST_BYTES],
    challenge: &[u8; CHALLENGE_BYTES],
    peer: SocketAddr,
) -> Result<(Request, WitnessKey), Unanswered> {
    let request = Request::decode(bytes).ok_or(Unanswered::Stranger("not a request of this version"))?;
    let key = key_of(store, request.register.cluster, peer).await;
    let key = key.ok_or(Unanswered::Stranger("a cluster that is not known here"))?;
    if !Request::is_proven(bytes, &key, challenge) {
        return Err(Unanswered::Stranger("a wrong proof"));
    }
    Ok((request, key))
}

/// Read anew for each request, so that a cluster is known from the moment it was added, and no longer than until it was removed.
async fn key_of(store: &Arc<Store>, cluster: ClusterId, peer: SocketAddr) -> Option<WitnessKey> {
    let store = store.clone();
    match tokio::task::spawn_blocking(move || store.directory().key(cluster)).await {
        Ok(Ok(key)) => key,
        Ok(Err(error)) => {
            tracing::error!(%cluster, %peer, "{error}");
            None
        }
        Err(error) => {
            tracing::error!(%cluster, %error, "a key was not read");
            None
        }
    }
}
