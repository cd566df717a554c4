//! The messages of the handshake, and the conditions both sides check.

use std::net::TcpStream;
use std::time::Duration;

use replicator_core::ids::Term;
use replicator_core::wire::BodyError;
use replicator_core::wire::header::{HEADER_BYTES, Header, Kind, VERSION_MIN};
use replicator_core::wire::hello::{Hello, Refusal, RefusalReason};

use super::super::records::Records;
use super::error::HandshakeError;
use super::line::{Line, is_client_hello};

/// Longest payload of a handshake frame in bytes. The largest Hello has about 5 KiB.
const PAYLOAD_MAX: u32 = 64 << 10;

/// One side's view of a handshake under way.
pub(super) struct Exchange<'a> {
    line: Line<'a>,
    term: Term,
}

impl<'a> Exchange<'a> {
    pub(super) fn new(stream: &'a TcpStream, limit: Duration, term: Term) -> Exchange<'a> {
        Exchange { line: Line::new(stream, limit), term }
    }

    /// Begin the connection's encryption; it is not begun before each side has shown that it is the one the other expects.
    ///
    /// # Errors
    /// [`HandshakeError`]. A peer that speaks without encryption is told that it is refused.
    pub(super) fn encrypt(&mut self, records: Records) -> Result<(), HandshakeError> {
        let refused = self.line.encrypt(records);
        if matches!(refused, Err(HandshakeError::NotEncrypted)) {
            let text =
                "this node's link is encrypted: set link.encryption to the same on both nodes".to_owned();
            let _ = self.refuse(refusal(RefusalReason::Other, text));
        }
        refused
    }

    /// The handshake is done: what the session's frames go through. Nothing but the handshake's frames was taken from the stream.
    ///
    /// # Errors
    /// [`HandshakeError::Trailing`]
    pub(super) fn finish(self) -> Result<Option<Records>, HandshakeError> {
        self.line.finish()
    }

    /// Send a frame.
    pub(super) fn send(&mut self, kind: Kind, body: &[u8]) -> Result<(), HandshakeError> {
        let header = Header::new(kind, self.term);
        let mut bytes = header.encode(VERSION_MIN, body.len() as u32, crc32c::crc32c(body)).to_vec();
        bytes.extend_from_slice(body);
        self.line.send(bytes, "the peer to take what was sent")
    }

    /// Receive a frame of that kind and decode its body; the body as it was on the wire comes with it.
    pub(super) fn receive<T>(
        &mut self,
        kind: Kind,
        waiting_for: &'static str,
        decode: impl FnOnce(&[u8]) -> Result<T, BodyError>,
    ) -> Result<(T, Vec<u8>), HandshakeError> {
        let mut bytes = [0; HEADER_BYTES];
        self.line.fill(&mut bytes, waiting_for)?;
        // Any version: a newer node writes its Hello as it likes, in this header's layout.
        let decoded = match Header::decode(&bytes, &(0..=u16::MAX)) {
            Ok(decoded) => decoded,
            Err(_) if is_client_hello(&bytes) => return Err(HandshakeError::Encrypted),
            Err(error) => return Err(error.into()),
        };
        let (received, length) = (decoded.header.kind, decoded.payload_length);
        if received != kind && received != Kind::Refuse {
            return Err(HandshakeError::Unexpected { kind: received, waiting_for });
        }
        if length > PAYLOAD_MAX {
            return Err(HandshakeError::Oversize { kind: received, length });
        }
        let mut body = vec![0; length as usize];
        self.line.fill(&mut body, waiting_for)?;
        if crc32c::crc32c(&body) != decoded.payload_checksum {
            return Err(HandshakeError::Checksum { kind: received });
        }
        let understood = |source| HandshakeError::Body { kind: received, source };
        if received == Kind::Refuse {
            let refusal = Refusal::decode(&body).map_err(understood)?;
            return Err(HandshakeError::RefusedByPeer(refusal));
        }
        Ok((decode(&body).map_err(understood)?, body))
    }

    /// Tell the peer that it is refused; the error for this side. That it may not hear it changes nothing.
    pub(super) fn refuse(&mut self, refusal: Refusal) -> HandshakeError {
        if self.send(Kind::Refuse, &refusal.encode()).is_ok() {
            self.line.end();
        }
        HandshakeError::Refused(refusal)
    }
}

/// What must hold before anything else makes sense: a common version (returned), the same cluster.
pub(super) fn check_protocol(own: &Hello, peer: &Hello) -> Result<u16, Refusal> {
    let Some(version) = own.negotiate(peer) else {
        return Err(refusal(
            RefusalReason::Version,
            format!(
                "no common protocol version: {} speaks {} to {}, {} speaks {} to {}; upgrade the older one",
                shown(&own.node),
                own.lowest,
                own.highest,
                shown(&peer.node),
                peer.lowest,
                peer.highest
            ),
        ));
    };
    if own.cluster != peer.cluster {
        // A stranger is not told this node's cluster.
        let text = format!("this node does not belong to the cluster {}", shown(&peer.cluster));
        return Err(refusal(RefusalReason::Cluster, text));
    }
    Ok(version)
}

/// What must hold between two members of a cluster.
pub(super) fn check_pair(own: &Hello, peer: &Hello) -> Result<(), Refusal> {
    let (own_name, peer_name) = (shown(&own.node), shown(&peer.node));
    if own.node == peer.node {
        let text = format!("both nodes are called {own_name}: give each a name of its own");
        return Err(refusal(RefusalReason::Other, text));
    }
    if own.role == peer.role {
        let text = format!("{own_name} and {peer_name} are both configured as {:?}", own.role);
        return Err(refusal(RefusalReason::Role, text));
    }
    if own.mode != peer.mode {
        let text =
            format!("{own_name} and {peer_name} are configured with different modes: set the same on both");
        return Err(refusal(RefusalReason::Mode, text));
    }
    if own.volumes.len() != peer.volumes.len() {
        let text = format!(
            "{own_name} has {} directories to mirror, {peer_name} has {}",
            own.volumes.len(),
            peer.volumes.len()
        );
        return Err(refusal(RefusalReason::Volumes, text));
    }
    let digest = |hello: &Hello, number: usize| hello.patterns.get(number).copied().unwrap_or_default();
    if let Some(number) = (0..own.volumes.len()).find(|number| digest(own, *number) != digest(peer, *number))
    {
        let text = format!(
            "directory {} of {own_name} and of {peer_name} have different patterns: write the same exclude and include into \
             the [[directory]] tables of both nodes",
            number + 1
        );
        return Err(refusal(RefusalReason::Volumes, text));
    }
    if own.boot == peer.boot {
        for (index, volume) in own.volumes.iter().enumerate() {
            if let Some(other) = peer.volumes.iter().position(|candidate| candidate == volume) {
                let text = format!(
                    "directory {} of {own_name} and directory {} of {peer_name} are one and the same directory on \
                     one machine: mirroring it onto itself would destroy it",
                    index + 1,
                    other + 1
                );
                return Err(refusal(RefusalReason::SameDirectory, text));
            }
        }
    }
    Ok(())
}

pub(super) fn refusal(reason: RefusalReason, text: String) -> Refusal {
    Refusal { reason, text }
}

/// A name from the wire or the configuration, for people: quoted, without control characters.
pub(super) fn shown(name: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(name))
}

/// Fresh random bytes.
pub(super) fn nonce() -> Result<[u8; 32], HandshakeError> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(HandshakeError::Random)?;
    Ok(nonce)
}
