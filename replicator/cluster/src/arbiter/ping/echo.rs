//! One ICMP echo (RFC 792, RFC 4443).
//!
//! A raw socket where the process may have one (`CAP_NET_RAW`), else a ping socket (icmp(7), `net.ipv4.ping_group_range`). Both are
//! connected, so the kernel hands over only what comes from the target.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use tokio::net::UdpSocket;

use crate::icmp::{self, TOKEN_BYTES};

/// Send an echo and wait for its reply, without bound.
///
/// # Errors
/// What the system returns: no permission, no route, the target's refusal.
pub(super) async fn echo(target: IpAddr) -> io::Result<()> {
    let (socket, raw) = open(target)?;
    socket.connect(SocketAddr::new(target, 0)).await?;
    let mut token = [0; TOKEN_BYTES];
    getrandom::fill(&mut token).map_err(|error| io::Error::other(error.to_string()))?;
    // Two bytes of the token are the identifier, so that the replies to other programs are told apart by both.
    let question = icmp::question(target.is_ipv4(), [token[0], token[1]], 1, &token);
    socket.send(&question).await?;
    let mut packet = [0; 2048];
    loop {
        let length = socket.recv(&mut packet).await?;
        let packet = packet.get(..length).unwrap_or_default();
        if icmp::is_answer(packet, target.is_ipv4(), raw, &token) {
            return Ok(());
        }
    }
}

/// A socket for echoes to this target, and whether it is a raw one.
fn open(target: IpAddr) -> io::Result<(UdpSocket, bool)> {
    let (family, protocol) = match target {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (socket, raw): (OwnedFd, bool) = match socket(family, SockType::Raw, flags, protocol) {
        Ok(socket) => (socket, true),
        Err(Errno::EPERM | Errno::EACCES) => match socket(family, SockType::Datagram, flags, protocol) {
            Ok(socket) => (socket, false),
            Err(errno) => {
                let text = format!(
                    "{errno}: the process needs CAP_NET_RAW, or its group a place in net.ipv4.ping_group_range"
                );
                return Err(io::Error::new(io::Error::from(errno).kind(), text));
            }
        },
        Err(errno) => return Err(errno.into()),
    };
    // Only connect, send and receive are used of it, which are the same for every kind of datagram.
    Ok((UdpSocket::from_std(socket.into())?, raw))
}
