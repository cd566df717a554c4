//! Who is accepted: the authority's signature, the time, the purpose, and the one URI.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use x509_parser::extensions::GeneralName;

use super::CredentialsError;

/// Accepts exactly one peer, whichever side of the connection it is on.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    roots: Arc<RootCertStore>,
    client: Arc<dyn ClientCertVerifier>,
    algorithms: WebPkiSupportedAlgorithms,
    uri: String,
}

/// A certificate of the cluster's authority that is not the expected peer's.
#[derive(Debug, thiserror::Error)]
#[error("the certificate is that of {found}, not of {expected}")]
pub struct NotThePeer {
    found: Found,
    expected: String,
}

#[derive(Debug)]
pub(super) enum Found {
    One(String),
    Several(usize),
    Nothing,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Written by who holds the authority's key, and yet only for eyes: escaped.
            Found::One(uri) => write!(f, "{uri:?}"),
            Found::Several(count) => write!(f, "{count} nodes at once"),
            Found::Nothing => write!(f, "no node"),
        }
    }
}

impl PeerVerifier {
    pub(super) fn new(
        roots: RootCertStore,
        uri: String,
        provider: Arc<CryptoProvider>,
    ) -> Result<PeerVerifier, CredentialsError> {
        let roots = Arc::new(roots);
        let algorithms = provider.signature_verification_algorithms;
        let client = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider).build()?;
        Ok(PeerVerifier { roots, client, algorithms, uri })
    }

    fn is_the_peer(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let found = match sole_uri(certificate)? {
            Found::One(uri) if uri == self.uri => return Ok(()),
            other => other,
        };
        let error = NotThePeer { found, expected: self.uri.clone() };
        Err(CertificateError::Other(OtherError(Arc::new(error))).into())
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        self.is_the_peer(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(older_tls())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    // A stranger is not told which cluster lives here.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.client.verify_client_cert(end_entity, intermediates, now)?;
        self.is_the_peer(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(older_tls())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The builder's protocol versions make this unreachable; a mistake there must not become an acceptance.
pub(crate) fn older_tls() -> Error {
    Error::General("TLS before 1.3 is not spoken".to_owned())
}

/// The URIs among a certificate's alternative names.
pub(super) fn sole_uri(certificate: &CertificateDer<'_>) -> Result<Found, Error> {
    let bad = || Error::from(CertificateError::BadEncoding);
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| bad())?;
    let names = parsed.subject_alternative_name().map_err(|_| bad())?;
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    Ok(match (uris.next(), uris.count()) {
        (None, _) => Found::Nothing,
        (Some(uri), 0) => Found::One(uri),
        (Some(_), more) => Found::Several(more + 1),
    })
}

/// When a certificate that was verified expires. The epoch if it cannot be told, which is long ago.
#[must_use]
pub fn not_after(certificate: &CertificateDer<'_>) -> SystemTime {
    let seconds = x509_parser::parse_x509_certificate(certificate)
        .map(|(_, parsed)| parsed.validity().not_after.timestamp())
        .ok()
        .and_then(|seconds| u64::try_from(seconds).ok());
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.unwrap_or(0))
}
