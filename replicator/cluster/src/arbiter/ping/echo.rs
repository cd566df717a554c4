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

const ECHO_V4: u8 = 8;
const ECHO_REPLY_V4: u8 = 0;
const ECHO_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

/// Type, code, checksum, identifier, sequence.
const HEADER_BYTES: usize = 8;
/// Random bytes that only the answer to this echo has.
const TOKEN_BYTES: usize = 16;

/// Send an echo and wait for its reply, without bound.
///
/// # Errors
/// What the system returns: no permission, no route, the target's refusal.
pub(super) async fn echo(target: IpAddr) -> io::Result<()> {
    let (socket, raw) = open(target)?;
    socket.connect(SocketAddr::new(target, 0)).await?;
    let mut token = [0; TOKEN_BYTES];
    getrandom::fill(&mut token).map_err(|error| io::Error::other(error.to_string()))?;
    socket.send(&request(target.is_ipv4(), &token)).await?;
    let mut packet = [0; 2048];
    loop {
        let length = socket.recv(&mut packet).await?;
        let packet = packet.get(..length).unwrap_or_default();
        if is_reply(packet, target.is_ipv4(), raw, &token) {
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

fn request(v4: bool, token: &[u8; TOKEN_BYTES]) -> Vec<u8> {
    // Two bytes of the token are the identifier, so that the replies to other programs are told apart by both.
    let mut packet = vec![if v4 { ECHO_V4 } else { ECHO_V6 }, 0, 0, 0, token[0], token[1], 0, 1];
    packet.extend_from_slice(token);
    if v4 {
        // The kernel fills it in for ICMPv6 (raw(7)) and for ping sockets, not here.
        let sum = checksum(&packet).to_be_bytes();
        packet[2..4].copy_from_slice(&sum);
    }
    packet
}

/// Whether a packet is the reply to the echo with this token.
fn is_reply(packet: &[u8], v4: bool, raw: bool, token: &[u8; TOKEN_BYTES]) -> bool {
    // A raw IPv4 socket hands over the IP header too; its length is in the low half of its first byte, in words.
    let header = match packet.first() {
        Some(first) if v4 && raw => usize::from(first & 0x0f) * 4,
        _ => 0,
    };
    let Some(message) = packet.get(header..) else { return false };
    let wanted = if v4 { ECHO_REPLY_V4 } else { ECHO_REPLY_V6 };
    message.starts_with(&[wanted, 0]) && message.get(HEADER_BYTES..) == Some(token.as_slice())
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(packet: &[u8]) -> u16 {
    let words = packet.as_chunks::<2>().0.iter();
    let mut sum: u32 = words.map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_told_from_everything_else() {
        let token = [7; TOKEN_BYTES];
        for (v4, raw) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut reply = request(v4, &token);
            assert!(!is_reply(&reply, v4, false, &token), "the own echo");
            reply[0] = if v4 { ECHO_REPLY_V4 } else { ECHO_REPLY_V6 };
            if v4 && raw {
                let mut header = vec![0; 20];
                header[0] = 0x45;
                reply.splice(..0, header);
            }
            assert!(is_reply(&reply, v4, raw, &token));
            assert!(!is_reply(&reply, v4, raw, &[8; TOKEN_BYTES]), "to another echo");
            for length in 0..reply.len() {
                assert!(!is_reply(&reply[..length], v4, raw, &token), "cut off at {length}");
            }
        }
    }

    #[test]
    fn the_checksum_makes_the_sum_zero() {
        for byte in 0..=255 {
            let packet = request(true, &[byte; TOKEN_BYTES]);
            assert_eq!(checksum(&packet), 0);
        }
    }
}
