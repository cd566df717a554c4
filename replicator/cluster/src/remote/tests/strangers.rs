//! Everybody who is not the peer, on either side of the connection. For each: no request is looked at, the reason is counted, and the
//! peer is answered as before.

use std::sync::Arc;
use std::time::Duration;

use rcgen::ExtendedKeyUsagePurpose;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::super::{ALPN, AskError, Keyring, Refusal};
use super::{ALPHA, BETA, LONG, Limits, Paper, Pki, answerer, asker, echo};

/// `stranger` asks alpha as if it were beta.
async fn is_refused(pki: &Pki, stranger: Keyring, refusal: Refusal) {
    let alpha = answerer(pki.alpha(), Limits::default()).await;
    let error = echo(&asker(&alpha, stranger)).await.unwrap_err();
    assert!(matches!(error, AskError::NotAccepted { .. }), "{error:?}");
    assert!(!error.is_ambiguous());
    alpha.wait_refused(refusal, 1).await;
    assert_eq!((alpha.asked(), alpha.server.statistics().accepted), (0, 0));
    assert_eq!(echo(&asker(&alpha, pki.beta())).await.unwrap(), "hello");
}

/// Who answers at alpha's address is not alpha; beta asks.
async fn is_not_asked(pki: &Pki, impostor: Keyring) {
    let impostor = answerer(impostor, Limits::default()).await;
    let error = echo(&asker(&impostor, pki.beta())).await.unwrap_err();
    assert!(matches!(error, AskError::NotAccepted { .. }), "{error:?}");
    assert_eq!(impostor.asked(), 0);
    impostor.wait_refused(Refusal::NotAccepted, 1).await;
}

/// A ring that shows `id` and accepts `peer` of `pki`.
fn showing(pki: &Pki, id: &super::Id, peer: &str) -> Keyring {
    Keyring::new(pki.credentials(id, peer)).unwrap()
}

fn expired(uri: &'static str) -> Paper {
    let now = OffsetDateTime::now_utc();
    Paper {
        not_before: now - Duration::from_secs(7200),
        not_after: now - Duration::from_secs(3600),
        ..Paper::of(uri)
    }
}

#[tokio::test]
async fn another_cluster() {
    let (pki, other) = (Pki::new(), Pki::new());
    // It trusts our authority and shows its own certificate, with the right name in it.
    is_refused(&pki, showing(&pki, &other.issue(&Paper::of(BETA)), ALPHA), Refusal::OtherAuthority).await;
    is_not_asked(&pki, showing(&pki, &other.issue(&Paper::of(ALPHA)), BETA)).await;
}

#[tokio::test]
async fn a_certificate_signed_by_itself() {
    let pki = Pki::new();
    is_refused(&pki, showing(&pki, &Paper::of(BETA).self_signed(), ALPHA), Refusal::OtherAuthority).await;
    is_not_asked(&pki, showing(&pki, &Paper::of(ALPHA).self_signed(), BETA)).await;
}

#[tokio::test]
async fn an_expired_certificate() {
    let pki = Pki::new();
    is_refused(&pki, pki.keyring(&expired(BETA), ALPHA), Refusal::OutOfDate).await;
    is_not_asked(&pki, pki.keyring(&expired(ALPHA), BETA)).await;
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_yet() {
    let pki = Pki::new();
    let paper =
        Paper { not_before: OffsetDateTime::now_utc() + Duration::from_secs(3600), ..Paper::of(BETA) };
    is_refused(&pki, pki.keyring(&paper, ALPHA), Refusal::OutOfDate).await;
}

#[tokio::test]
async fn swapped_roles() {
    let pki = Pki::new();
    // A copy of alpha's own directory on another machine must not be taken for beta.
    is_refused(&pki, pki.keyring(&Paper::of(ALPHA), ALPHA), Refusal::NotThePeer).await;
    is_not_asked(&pki, pki.keyring(&Paper::of(BETA), BETA)).await;
}

#[tokio::test]
async fn the_right_authority_and_another_name() {
    let pki = Pki::new();
    for uri in
        ["replicator://c2/beta", "replicator://c1/beta2", "replicator://c1/bet", "REPLICATOR://c1/beta"]
    {
        is_refused(&pki, pki.keyring(&Paper::of(uri), ALPHA), Refusal::NotThePeer).await;
    }
    for uris in [vec![], vec![BETA, ALPHA], vec![BETA, BETA]] {
        let paper = Paper { uris, ..Paper::of(BETA) };
        is_refused(&pki, pki.keyring(&paper, ALPHA), Refusal::NotThePeer).await;
    }
}

#[tokio::test]
async fn a_certificate_for_another_purpose() {
    let pki = Pki::new();
    let paper = Paper { purposes: vec![ExtendedKeyUsagePurpose::ServerAuth], ..Paper::of(BETA) };
    is_refused(&pki, pki.keyring(&paper, ALPHA), Refusal::Invalid).await;
    let paper = Paper { purposes: vec![ExtendedKeyUsagePurpose::ClientAuth], ..Paper::of(ALPHA) };
    is_not_asked(&pki, pki.keyring(&paper, BETA)).await;
}

/// A TLS 1.3 client with our authority, and no certificate or another protocol name.
async fn handshake(pki: &Pki, address: std::net::SocketAddr, id: Option<super::Id>, alpn: &[u8]) {
    let mut roots = RootCertStore::empty();
    roots.add(pki.0.der().clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible));
    let mut config = match id {
        Some(id) => builder.with_client_auth_cert(vec![id.certificate], id.key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = if alpn.is_empty() { Vec::new() } else { vec![alpn.to_vec()] };
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("peer.invalid").unwrap();
    if let Ok(mut stream) = TlsConnector::from(Arc::new(config)).connect(name, tcp).await {
        let _ = stream.write_all(b"{\"id\":1,\"within-ms\":1000,\"request\":\"who-am-i\"}\n").await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.is_empty(), "a stranger was told something");
    }
}

/// Believes everything.
#[derive(Debug)]
struct Gullible;

impl rustls::client::danger::ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn no_certificate_or_another_protocol() {
    let pki = Pki::new();
    let alpha = answerer(pki.alpha(), Limits::default()).await;
    handshake(&pki, alpha.server.address(), None, ALPN).await;
    alpha.wait_refused(Refusal::NoCertificate, 1).await;
    handshake(&pki, alpha.server.address(), Some(pki.issue(&Paper::of(BETA))), b"h2").await;
    alpha.wait_refused(Refusal::Incompatible, 1).await;
    handshake(&pki, alpha.server.address(), Some(pki.issue(&Paper::of(BETA))), b"").await;
    alpha.wait_refused(Refusal::Incompatible, 2).await;
    assert_eq!(alpha.asked(), 0);
    assert_eq!(echo(&asker(&alpha, pki.beta())).await.unwrap(), "hello");
}

#[tokio::test]
async fn no_tls_at_all() {
    let pki = Pki::new();
    let alpha = answerer(pki.alpha(), Limits::default()).await;
    let lines: [&[u8]; 4] = [
        b"{\"id\":1,\"within-ms\":1000,\"request\":\"who-am-i\"}\n",
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 4096],
        &[0; 64],
    ];
    for (count, garbage) in (1..).zip(lines) {
        let mut stream = TcpStream::connect(alpha.server.address()).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        alpha.wait_refused(Refusal::NotTls, count).await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.len() <= 7, "at most an alert: {answer:?}");
    }
    assert_eq!(alpha.asked(), 0);
    assert_eq!(echo(&asker(&alpha, pki.beta())).await.unwrap(), "hello");
}

/// A TLS 1.2 ClientHello (RFC 5246, 7.4.1.2): ECDHE-ECDSA with AES-128-GCM over P-256, and no `supported_versions`.
fn hello_of_tls_1_2() -> Vec<u8> {
    let mut extensions = Vec::new();
    extensions.extend_from_slice(&[0, 10, 0, 4, 0, 2, 0, 23]); // supported_groups: secp256r1
    extensions.extend_from_slice(&[0, 11, 0, 2, 1, 0]); // ec_point_formats: uncompressed
    extensions.extend_from_slice(&[0, 13, 0, 4, 0, 2, 4, 3]); // signature_algorithms: ecdsa_secp256r1_sha256
    extensions.extend_from_slice(&[0, 23, 0, 0]); // extended_master_secret
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]); // random
    body.extend_from_slice(&[0, 0, 2, 0xc0, 0x2b, 1, 0]); // no session, one cipher suite, no compression
    body.extend_from_slice(&(extensions.len() as u16).to_be_bytes());
    body.extend_from_slice(&extensions);
    let mut record = vec![22, 3, 1];
    record.extend_from_slice(&(body.len() as u16 + 4).to_be_bytes());
    record.extend_from_slice(&[1, 0]);
    record.extend_from_slice(&(body.len() as u16).to_be_bytes());
    record.extend_from_slice(&body);
    record
}

#[tokio::test]
async fn a_client_of_tls_1_2() {
    let pki = Pki::new();
    let alpha = answerer(pki.alpha(), Limits::default()).await;
    let mut stream = TcpStream::connect(alpha.server.address()).await.unwrap();
    stream.write_all(&hello_of_tls_1_2()).await.unwrap();
    alpha.wait_refused(Refusal::Incompatible, 1).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await.unwrap();
    // A fatal alert (RFC 8446, 6.2): protocol_version is 70.
    assert_eq!((answer.first(), answer.get(5..)), (Some(&21), Some([2, 70].as_slice())), "{answer:?}");
    assert_eq!(echo(&asker(&alpha, pki.beta())).await.unwrap(), "hello");
}
