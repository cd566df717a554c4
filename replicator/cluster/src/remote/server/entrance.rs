//! From a TCP connection to a peer that has shown who it is, or to a reason why not.

use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::super::credentials::Configured;
use super::super::frame::{Greeting, encode};
use super::super::refusals::Refusal;
use super::super::{ALPN, PeerIdentity, VERSION};
use super::{Inside, keep_alive};
use crate::tls::not_after;

/// Longest greeting in bytes.
const GREETING_BYTES_MAX: usize = 256;

/// A peer inside.
pub(super) struct Entered {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) peer: PeerIdentity,
    /// Its place among the peer's connections.
    pub(super) session: OwnedSemaphorePermit,
}

/// Do the handshake within its time.
pub(super) async fn enter(stream: TcpStream, inside: &Arc<Inside>) -> Result<Entered, (Refusal, String)> {
    let limit = inside.limits.handshake;
    match tokio::time::timeout(limit, shake(stream, inside, &inside.keyring.current())).await {
        Ok(result) => result,
        Err(_) => Err((Refusal::TooSlow, format!("no handshake within {limit:?}"))),
    }
}

async fn shake(
    stream: TcpStream,
    inside: &Inside,
    configured: &Configured,
) -> Result<Entered, (Refusal, String)> {
    let left = |error: std::io::Error| (Refusal::Left, error.to_string());
    keep_alive(&stream).map_err(left)?;
    let acceptor = TlsAcceptor::from(configured.server.clone());
    // A handshake that fails sends the alert that tells the other side why, as far as that can be sent at once.
    let stream = acceptor.accept(stream).await;
    let mut stream = stream.map_err(|error| (Refusal::of(&error), error.to_string()))?;
    let (_, tls) = stream.get_ref();
    if tls.alpn_protocol() != Some(ALPN) {
        return Err((Refusal::Incompatible, "the other side does not name the protocol".to_owned()));
    }
    let certificate = tls.peer_certificates().and_then(<[_]>::first);
    let certificate = certificate.ok_or_else(|| (Refusal::NoCertificate, "no certificate".to_owned()))?;
    let peer = PeerIdentity {
        name: configured.peer.name.clone(),
        uri: configured.peer.uri.clone(),
        not_after: not_after(certificate),
    };
    let Ok(session) = inside.sessions.clone().try_acquire_owned() else {
        // An orderly end, so that the peer does not take it for a broken network.
        let _ = stream.shutdown().await;
        return Err((Refusal::Crowded, "the peer has too many connections".to_owned()));
    };
    let greeting = encode(&Greeting { replicator_control: VERSION }, GREETING_BYTES_MAX)
        .map_err(|_| (Refusal::Invalid, "the greeting cannot be written".to_owned()))?;
    stream.write_all(&greeting).await.map_err(left)?;
    stream.flush().await.map_err(left)?;
    Ok(Entered { stream, peer, session })
}
