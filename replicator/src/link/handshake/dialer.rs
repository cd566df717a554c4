//! The side that connects.

use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};

use replicator_cluster::tls::any_name;
use replicator_core::wire::header::Kind;
use replicator_core::wire::hello::{Hello, Proof, RefusalReason};
use rustls::client::UnbufferedClientConnection;

use super::super::records::Records;
use super::error::HandshakeError;
use super::exchange::{Exchange, check_pair, check_protocol, nonce, refusal};
use super::membership::Direction;
use super::sockets;
use super::{Established, Identity, PROTOCOL, Timeouts};

/// Connect to the peer and prove membership. `address` is "host:port"; each address of the host is tried in turn. With a
/// `source` the connection comes from that address of this node. Blocks, for name resolution plus at most the time limits.
///
/// # Errors
/// [`HandshakeError`]; the last one if several addresses were tried. Trying again later is always allowed.
pub fn dial(
    address: &str,
    source: Option<IpAddr>,
    identity: &Identity,
    timeouts: &Timeouts,
) -> Result<Established, HandshakeError> {
    let system =
        |operation| move |source| HandshakeError::System { operation, address: address.to_owned(), source };
    let mut error = HandshakeError::NoAddress { address: address.to_owned() };
    let candidates = address.to_socket_addrs().map_err(system("find the address of"))?;
    for candidate in candidates.filter(|candidate| fits(candidate, source)) {
        match sockets::connect_to(candidate, source, timeouts.connect) {
            Ok(stream) => {
                sockets::set_session_options(&stream, timeouts.dead)
                    .map_err(system("set options of the connection to"))?;
                return shake(stream, identity, timeouts);
            }
            Err(source) => error = system("connect to")(source),
        }
    }
    Err(error)
}

/// An IPv4 source reaches IPv4 addresses only, and so on.
fn fits(candidate: &SocketAddr, source: Option<IpAddr>) -> bool {
    source.is_none_or(|source| source.is_ipv4() == candidate.is_ipv4())
}

/// The dialer's part.
pub(super) fn shake(
    stream: TcpStream,
    identity: &Identity,
    timeouts: &Timeouts,
) -> Result<Established, HandshakeError> {
    let mut exchange = Exchange::new(&stream, timeouts.handshake, identity.hello.term);
    if let Some(files) = &identity.tls {
        let configuration = files.configurations(PROTOCOL).map_err(Box::new)?.client;
        let tls = UnbufferedClientConnection::new(configuration, any_name()).map_err(HandshakeError::Tls)?;
        exchange.encrypt(Records::client(tls))?;
    }
    let own = Hello { nonce: nonce()?, ..identity.hello.clone() };
    let own_bytes = own.encode();
    exchange.send(Kind::Hello, &own_bytes)?;
    let (peer, peer_bytes) = exchange.receive(Kind::Hello, "the peer's Hello", Hello::decode)?;
    let version = check_protocol(&own, &peer).map_err(|why| exchange.refuse(why))?;
    let proof = identity.key.prove(Direction::Dialer, &own_bytes, &peer_bytes);
    exchange.send(Kind::Proof, &proof.encode())?;
    let (proof, _) = exchange.receive(Kind::Proof, "the peer's proof of membership", Proof::decode)?;
    if !identity.key.verify(&proof, Direction::Acceptor, &own_bytes, &peer_bytes) {
        let text = "the proof of membership is wrong: the cluster keys differ".to_owned();
        return Err(exchange.refuse(refusal(RefusalReason::Proof, text)));
    }
    check_pair(&own, &peer).map_err(|why| exchange.refuse(why))?;
    exchange.receive(Kind::Accept, "the peer's acceptance", |_| Ok(()))?;
    let records = exchange.finish()?;
    sockets::end_limits(&stream).map_err(|source| HandshakeError::System {
        operation: "set options of",
        address: "the connection".to_owned(),
        source,
    })?;
    let authenticated = records.is_some() || identity.key.is_configured();
    Ok(Established { stream, records, version, peer, authenticated })
}
