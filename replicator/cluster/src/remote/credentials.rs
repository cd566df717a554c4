//! This node's certificate and key, who the peer is, and how both are replaced while connections run.

use std::fmt;
use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;

use super::ALPN;
use crate::tls::{Configurations, Credentials, CredentialsError, PeerName};

/// The credentials in use. Clones share their content.
#[derive(Clone)]
pub struct Keyring(Arc<watch::Sender<Arc<Configured>>>);

/// What connections are made with.
pub(super) struct Configured {
    /// Grows with every replacement.
    pub(super) number: u64,
    pub(super) server: Arc<ServerConfig>,
    pub(super) client: Arc<ClientConfig>,
    pub(super) peer: PeerName,
}

impl Keyring {
    /// A ring with these credentials.
    ///
    /// # Errors
    /// [`CredentialsError`]: they cannot be used. That they have expired is no error here; the peer refuses them.
    pub fn new(credentials: Credentials) -> Result<Keyring, CredentialsError> {
        Ok(Keyring(Arc::new(watch::Sender::new(Arc::new(configure(credentials, 1)?)))))
    }

    /// Use other credentials for every new connection. Connections that run go on, but those with another peer than is
    /// expected now end after the answer they owe.
    ///
    /// # Errors
    /// [`CredentialsError`]: they cannot be used; those before stay in use.
    pub fn replace(&self, credentials: Credentials) -> Result<(), CredentialsError> {
        let mut configured = configure(credentials, 0)?;
        self.0.send_modify(|current| {
            configured.number = current.number + 1;
            *current = Arc::new(configured);
        });
        Ok(())
    }

    pub(super) fn current(&self) -> Arc<Configured> {
        self.0.borrow().clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Arc<Configured>> {
        self.0.subscribe()
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("peer", &self.current().peer).finish_non_exhaustive()
    }
}

fn configure(credentials: Credentials, number: u64) -> Result<Configured, CredentialsError> {
    let peer = credentials.peer.clone();
    let Configurations { server, client } = credentials.configurations(ALPN)?;
    Ok(Configured { number, server, client, peer })
}
