//! The joining side.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use data_encoding::HEXLOWER;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, OtherError};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

use super::super::authority::{self, Fingerprint, Requested, certificate_in, verify};
use super::super::description::Description;
use super::super::directory::{Content, Membership, NewNode, identity, node_pem};
use super::super::error::{MembershipError, TokenError};
use super::super::files::Staging;
use super::super::identity::{NodeId, check_name, from_hex};
use super::super::pending::prove;
use super::super::secrets::{Secret, Secrets};
use super::super::token::Token;
use super::channel::{OtherAuthority, binding, client, read_line};
use super::{JoinRequest, JoinResponse, Newcomer, RESPONSE_BYTES_MAX, VERSION, Welcome};

/// For a connection to one address.
const CONNECT: Duration = Duration::from_secs(5);
/// How often all addresses are tried, and the pause between.
const ROUNDS: u32 = 3;
const BETWEEN: Duration = Duration::from_secs(1);
/// For the issuing node's answer.
const ANSWER: Duration = Duration::from_secs(30);

/// Join the cluster of a token: talk to the node that issued it, and make the cluster directory.
///
/// # Errors
/// [`MembershipError`]. Nothing is left of the attempt then; whether the token can be used again depends on how far it came, which
/// the message says.
pub async fn join(directory: &Path, token: &Token, node: NewNode) -> Result<Membership, MembershipError> {
    let now = SystemTime::now();
    if token.has_expired(now) {
        return Err(TokenError::Expired.into());
    }
    check_name("node.name", &node.name)?;
    let id = NodeId::random()?;
    let staging = Staging::begin(directory)?;
    let requested = authority::request(&node.name)?;
    let newcomer = Newcomer {
        name: node.name,
        id: id.to_string(),
        control: node.control,
        mirror: node.mirror,
        heartbeat: node.heartbeat,
    };
    let request = JoinRequest { version: VERSION, node: newcomer, request: requested.request.clone() };
    let (address, stream) = reach(token).await?;
    // From here on the token may be used up: nothing is tried again.
    let welcome = ask(address, stream, token, &request).await?;
    let garbage = |why| MembershipError::JoinGarbage { address, why };
    let content = check(token, id, &requested, &welcome, directory, now).map_err(garbage)?;
    content.write(&staging)?;
    staging.finish()?;
    Membership::open(directory)
}

/// A channel over the first of the token's addresses that has the node that issued it. Nothing is told to the others.
async fn reach(token: &Token) -> Result<(SocketAddr, TlsStream<TcpStream>), MembershipError> {
    let mut failed = MembershipError::Token(TokenError::Mistyped);
    for round in 0..ROUNDS {
        if round > 0 {
            // Strangers may have taken all places for a moment.
            tokio::time::sleep(BETWEEN).await;
        }
        for address in &token.addresses {
            match connect(*address, token).await {
                Ok(stream) => return Ok((*address, stream)),
                Err(error) => {
                    tracing::info!(%address, %error, "cannot join over this address");
                    failed = error;
                }
            }
        }
        if matches!(failed, MembershipError::NotTheInviter { .. }) {
            break;
        }
    }
    Err(failed)
}

/// A channel to the node that issued the token.
async fn connect(address: SocketAddr, token: &Token) -> Result<TlsStream<TcpStream>, MembershipError> {
    let failed = |why: String| MembershipError::JoinFailed { address, why };
    let config = client(token.cluster, token.authority).map_err(|error| failed(error.to_string()))?;
    let name = ServerName::try_from("inviter.invalid").map_err(|error| failed(error.to_string()))?;
    let connected = async {
        let tcp = TcpStream::connect(address).await?;
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    };
    match tokio::time::timeout(CONNECT, connected).await {
        Err(_) => Err(failed(format!("nobody answers within {CONNECT:?}"))),
        Ok(Err(error)) if is_other_authority(&error) => Err(MembershipError::NotTheInviter { address }),
        Ok(Err(error)) => {
            Err(failed(format!("{error}; is it the node that issued the token, and are the clocks right?")))
        }
        Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() != Some(super::ALPN) => {
            Err(failed("it does not wait for a node that joins".to_owned()))
        }
        Ok(Ok(stream)) => Ok(stream),
    }
}

fn is_other_authority(error: &io::Error) -> bool {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(tls, Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner)))) if inner.is::<OtherAuthority>())
        || matches!(
            tls,
            Some(rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature
            ))
        )
}

/// Prove, ask, and take the answer.
async fn ask(
    address: SocketAddr,
    mut stream: TlsStream<TcpStream>,
    token: &Token,
    request: &JoinRequest,
) -> Result<Box<Welcome>, MembershipError> {
    let failed = |why: String| MembershipError::JoinFailed { address, why };
    let garbage = |why: String| MembershipError::JoinGarbage { address, why };
    let bound = binding(stream.get_ref().1).map_err(|error| failed(error.to_string()))?;
    let proof = prove(&token.key(), &bound);
    let mut bytes = Vec::from(token.id());
    bytes.extend_from_slice(proof.as_bytes());
    serde_json::to_writer(&mut bytes, request).map_err(|error| failed(error.to_string()))?;
    bytes.push(b'\n');
    let asked = async {
        let written = async {
            stream.write_all(&bytes).await?;
            stream.flush().await
        };
        let written = written.await;
        // Also after a write that failed: the refusal may have come before.
        read_line(&mut stream, RESPONSE_BYTES_MAX).await.map_err(|error| written.err().unwrap_or(error))
    };
    let line = match tokio::time::timeout(ANSWER, asked).await {
        Err(_) => return Err(garbage(format!("no answer within {ANSWER:?}"))),
        Ok(Err(error)) => return Err(garbage(error.to_string())),
        Ok(Ok(line)) => line,
    };
    match serde_json::from_slice(&line) {
        Ok(JoinResponse::Joined(welcome)) => Ok(welcome),
        Ok(JoinResponse::Refused(message)) => Err(MembershipError::JoinRefused { address, message }),
        // The parser's message could show a part of a secret.
        Err(_) => Err(garbage("it is not of the form that this program knows".to_owned())),
    }
}

/// Whether all that came belongs together, to the token and to what was asked for.
fn check(
    token: &Token,
    id: NodeId,
    requested: &Requested,
    welcome: &Welcome,
    directory: &Path,
    now: SystemTime,
) -> Result<Content, String> {
    let wrong = |why: &str| why.to_owned();
    let description = Description::parse(&welcome.description).map_err(|error| error.to_string())?;
    let shown = certificate_in(welcome.authority.as_bytes()).ok_or_else(|| wrong("no authority"))?;
    if description.id != token.cluster || Fingerprint::of(&shown) != token.authority {
        return Err(wrong("it is of another cluster than the token"));
    }
    let certificate =
        certificate_in(welcome.certificate.as_bytes()).ok_or_else(|| wrong("no certificate"))?;
    let (_, found) =
        identity(directory, &description, &shown, &certificate).map_err(|error| error.to_string())?;
    if found != id {
        return Err(wrong("the certificate is of another node"));
    }
    verify(&certificate, &shown, now)
        .map_err(|error| format!("{error}; compare the clocks of both nodes"))?;
    let node = node_pem(&requested.key, &welcome.certificate);
    let key_is_ours = rustls::sign::CertifiedKey::from_der(
        vec![certificate],
        rustls::pki_types::pem::PemObject::from_pem_slice(node.as_bytes())
            .map_err(|_| wrong("the key cannot be read back"))?,
        &rustls::crypto::ring::default_provider(),
    );
    key_is_ours.map_err(|error| format!("the certificate is for another key: {error}"))?;
    authority::Authority::load(&shown, &welcome.authority_key).map_err(|error| error.to_string())?;
    let secrets = HEXLOWER.decode(welcome.secrets.as_bytes()).map(Zeroizing::new);
    let secrets = secrets.map_err(|_| wrong("the secrets are not in hexadecimal digits"))?;
    Secrets::decode(&secrets).map_err(|error| error.to_string())?;
    let key = |text: &str| {
        from_hex(text).map(Secret::from_bytes).ok_or_else(|| wrong("a key is not in hexadecimal digits"))
    };
    Ok(Content {
        description: welcome.description.clone(),
        authority: welcome.authority.clone(),
        authority_key: Zeroizing::new(welcome.authority_key.clone()),
        node,
        secrets,
        mirror_key: key(&welcome.mirror_key)?,
        witness_key: key(&welcome.witness_key)?,
    })
}
