//! The TLS of a join, and its lines.

use std::io;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, ServerConfig, SignatureScheme,
};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use zeroize::Zeroizing;

use super::super::authority::{Fingerprint, Paper, verify};
use super::super::identity::{ClusterId, parse_uri};
use super::super::pending::BINDING_BYTES;
use super::ALPN;
use crate::tls::older_tls;

const EXPORTER: &[u8] = b"EXPORTER-replicator-join-1";

/// The issuing node's side: it shows its certificate and the authority's, and asks for none.
pub(super) fn server(
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(certificates, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// The joining node's side: it accepts a node of the cluster whose authority has this fingerprint.
pub(super) fn client(cluster: ClusterId, authority: Fingerprint) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let verifier = Arc::new(InviterVerifier { cluster, authority, algorithms });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

/// Only the two ends of a channel know this.
pub(super) fn binding<D>(
    connection: &rustls::ConnectionCommon<D>,
) -> Result<Zeroizing<[u8; BINDING_BYTES]>, Error> {
    connection.export_keying_material(Zeroizing::new([0; BINDING_BYTES]), EXPORTER, None)
}

/// The authority is another than the token's.
#[derive(Debug, thiserror::Error)]
#[error("the authority is not the one of the token")]
pub(super) struct OtherAuthority;

/// Knows the issuing node by what the token says.
#[derive(Debug)]
struct InviterVerifier {
    cluster: ClusterId,
    authority: Fingerprint,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for InviterVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let other = || Error::from(CertificateError::Other(OtherError(Arc::new(OtherAuthority))));
        let authority = intermediates.iter().find(|shown| Fingerprint::of(shown) == self.authority);
        let authority = authority.ok_or_else(other)?.clone().into_owned();
        let now = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(now.as_secs());
        verify(end_entity, &authority, now)?;
        let uri = Paper::read(end_entity).and_then(|paper| paper.uri);
        match uri.as_deref().and_then(parse_uri) {
            Some((cluster, ..)) if cluster == self.cluster => Ok(ServerCertVerified::assertion()),
            _ => Err(other()),
        }
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

/// A line of at most `most` bytes with its newline; an error if it is longer or the stream ends before.
pub(super) async fn read_line<R: AsyncRead + Unpin>(
    stream: &mut R,
    most: usize,
) -> io::Result<Zeroizing<Vec<u8>>> {
    // With its size from the start, no part of a secret is left behind where a growing vector was.
    let mut line = Zeroizing::new(Vec::with_capacity(most));
    // Nothing follows the line, so what the reader has read beyond it may be lost.
    BufReader::new(stream.take(most as u64)).read_until(b'\n', &mut line).await?;
    if line.last() == Some(&b'\n') {
        Ok(line)
    } else if line.len() == most {
        Err(io::Error::new(io::ErrorKind::InvalidData, "it sent too much"))
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}
