//! This node's certificate and key, who the peer is, and how both are replaced while connections run.

use std::fmt;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::sync::watch;

use super::ALPN;
use super::error::CredentialsError;
use super::verifier::PeerVerifier;

/// The one peer that is accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerName {
    /// Its name, for people and for [`super::PeerIdentity`].
    pub name: String,
    /// The URI that must be the only one in its certificate.
    pub uri: String,
}

/// With what a node shows who it is, and knows its peer.
pub struct Credentials {
    /// The certificates of the authority; the peer's is issued by one of them.
    pub authorities: Vec<CertificateDer<'static>>,
    /// This node's certificate.
    pub certificate: CertificateDer<'static>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// The peer.
    pub peer: PeerName,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("peer", &self.peer).finish_non_exhaustive()
    }
}

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
    let Credentials { authorities, certificate, key, peer } = credentials;
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).map_err(CredentialsError::Authority)?;
    }
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(PeerVerifier::new(roots, peer.uri.clone(), provider.clone())?);
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(CredentialsError::Node)?
        .with_client_cert_verifier(verifier.clone())
        .with_single_cert(vec![certificate.clone()], key.clone_key())
        .map_err(CredentialsError::Node)?;
    server.alpn_protocols = vec![ALPN.to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    server.max_early_data_size = 0;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(CredentialsError::Node)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(vec![certificate], key)
        .map_err(CredentialsError::Node)?;
    client.alpn_protocols = vec![ALPN.to_vec()];
    client.resumption = Resumption::disabled();
    client.enable_sni = false;
    client.enable_early_data = false;
    Ok(Configured { number, server: Arc::new(server), client: Arc::new(client), peer })
}
