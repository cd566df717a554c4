//! The health URL: for load balancers, which move a service where no address can move.
//!
//! `GET /health/<module>` is answered with 200 on the node that is active and ready for that module and with 503 on any other; `GET
//! /health` tells of the node as a whole. The body is one word. Anybody may ask: nothing else is told, nothing can be changed, and one
//! who asks slowly or much keeps nobody else from asking.

mod server;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::task::JoinHandle;

/// What is answered for a module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthState {
    /// Whether this node is active and ready: 200, else 503.
    pub serving: bool,
    /// The state in one word, like `primary`.
    pub word: Cow<'static, str>,
}

/// Tells the state of a module by its name, or with an empty name that of the node as a whole. `None` if there is no such module. It
/// must not block.
pub type Look = dyn Fn(&str) -> Option<HealthState> + Send + Sync;

/// Why there is no health URL.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum HealthError {
    /// The address cannot be had.
    #[error(
        "cannot answer health checks at {address}: {source}; set an address of this node (not the service's own) \
         and a port that nobody else has"
    )]
    Listen { address: SocketAddr, source: io::Error },
}

/// A running responder. Dropping it ends it.
#[derive(Debug)]
pub struct Health {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Health {
    /// Answer at that address until the returned value is dropped. To be called within a tokio runtime.
    ///
    /// # Errors
    /// [`HealthError::Listen`].
    pub fn serve(address: SocketAddr, look: Arc<Look>) -> Result<Health, HealthError> {
        let failed = |source| HealthError::Listen { address, source };
        let listener = std::net::TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
        Ok(Health { address, task: tokio::spawn(server::accept(listener, look)) })
    }

    /// Where it answers.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.task.abort();
    }
}
