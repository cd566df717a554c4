//! TLS between the two nodes of a cluster: how a node shows who it is, and who its peer has to be.
//!
//! TLS 1.3, and both sides show a certificate. A peer is who its certificate says: it is issued by the cluster's authority, is valid
//! now, and its only URI is exactly the one that is expected of the other node. Names of hosts and addresses prove nothing and are
//! not looked at. Sessions are never resumed and no early data is taken, so nothing can be replayed.
//!
//! Each use of the same certificates has a protocol name of its own (ALPN, RFC 7301), so that a connection made for one is not taken
//! for another. Who uses it has to compare the name after the handshake: a side that offers none is let through by TLS itself.
//!
//! Invariants: no socket, no file and no clock here but the one that certificates are compared with.

mod verifier;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

pub(crate) use verifier::older_tls;
use verifier::{Found, PeerVerifier, sole_uri};
pub use verifier::{NotThePeer, not_after};

/// The one peer that is accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerName {
    /// Its name, for people.
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

/// Why certificates and keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum CredentialsError {
    /// The authority's certificate is none.
    #[error(
        "the cluster authority's certificate cannot be used ({0}); restore the cluster directory or join again"
    )]
    Authority(rustls::Error),
    /// The verifier cannot be made of the authority.
    #[error(
        "no peer can be checked with the cluster authority ({0}); restore the cluster directory or join again"
    )]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// Certificate and key do not belong together, or are none.
    #[error("this node's certificate and key cannot be used ({0}); renew the certificate")]
    Node(rustls::Error),
}

/// What connections are made with.
#[derive(Clone, Debug)]
pub struct Configurations {
    /// For the side that listens.
    pub server: Arc<ServerConfig>,
    /// For the side that connects.
    pub client: Arc<ClientConfig>,
}

impl Credentials {
    /// Whether the peer is this node itself: then it would accept itself, and nobody else.
    #[must_use]
    pub fn are_of_the_peer(&self) -> bool {
        matches!(sole_uri(&self.certificate), Ok(Found::One(own)) if own == self.peer.uri)
    }

    /// What connections of this protocol are made with.
    ///
    /// # Errors
    /// [`CredentialsError`]: they cannot be used. That they have expired is no error here; the peer refuses them.
    pub fn configurations(self, protocol: &[u8]) -> Result<Configurations, CredentialsError> {
        let Credentials { authorities, certificate, key, peer } = self;
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority).map_err(CredentialsError::Authority)?;
        }
        let provider = Arc::new(ring::default_provider());
        let verifier = Arc::new(PeerVerifier::new(roots, peer.uri, provider.clone())?);
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(CredentialsError::Node)?
            .with_client_cert_verifier(verifier.clone())
            .with_single_cert(vec![certificate.clone()], key.clone_key())
            .map_err(CredentialsError::Node)?;
        server.alpn_protocols = vec![protocol.to_vec()];
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
        client.alpn_protocols = vec![protocol.to_vec()];
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        client.enable_early_data = false;
        Ok(Configurations { server: Arc::new(server), client: Arc::new(client) })
    }
}

/// The name that a client gives to TLS, which wants one. It is not sent and nothing is compared with it: the peer is known by its
/// certificate's URI.
#[must_use]
pub fn any_name() -> ServerName<'static> {
    IpAddr::V4(Ipv4Addr::UNSPECIFIED).into()
}
