//! TCP connections of an address that goes: ended with a reset, so that clients connect anew at once instead of waiting for a timeout.
//!
//! By the kernel's own means (`SOCK_DESTROY` of sock_diag(7), as `ss --kill` does): the application need not take part. A kernel
//! without CONFIG_INET_DIAG_DESTROY cannot; the other node's kernel resets such connections when clients send on them.

use std::io;
use std::net::IpAddr;
use std::time::Instant;

use netlink_packet_core::{
    DecodeError, Emitable, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable, Parseable,
};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags};
use netlink_packet_sock_diag::{SOCK_DIAG_BY_FAMILY, SockDiagDestroy, SockDiagMessage};
use nix::errno::Errno;

use super::netlink::Netlink;

const AF_INET: u8 = libc::AF_INET as u8;
const AF_INET6: u8 = libc::AF_INET6 as u8;
/// Attribute with a program that chooses sockets (linux/inet_diag.h), and its instruction "is the local address".
const REQ_BYTECODE: u16 = 1;
const BC_S_COND: u8 = 7;

/// What became of the TCP connections of an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reset {
    /// They were ended.
    Done {
        /// How many.
        connections: usize,
        /// How many more there were when the time for it was over.
        left: usize,
    },
    /// This kernel does not end connections of others.
    NotAvailable {
        /// What it said.
        why: String,
    },
}

impl Reset {
    /// Both together, one after the other.
    pub(super) fn and(self, later: Reset) -> Reset {
        match (self, later) {
            (Reset::Done { connections: a, .. }, Reset::Done { connections: b, left }) => {
                Reset::Done { connections: a + b, left }
            }
            (Reset::NotAvailable { why }, _) | (_, Reset::NotAvailable { why }) => {
                Reset::NotAvailable { why }
            }
        }
    }
}

/// End all connections of these addresses, until the deadline.
pub(super) fn reset(netlink: &mut Netlink, addresses: &[IpAddr], deadline: Instant) -> Reset {
    let (mut connections, mut left) = (0, 0);
    for address in addresses {
        match reset_one(netlink, *address, deadline) {
            Ok((reset, not)) => {
                connections += reset;
                left += not;
            }
            Err(error) => return Reset::NotAvailable { why: error.to_string() },
        }
    }
    Reset::Done { connections, left }
}

/// How many were ended, and how many were not for lack of time.
fn reset_one(netlink: &mut Netlink, address: IpAddr, deadline: Instant) -> io::Result<(usize, usize)> {
    // A v6 socket that serves both has v4 connections, too.
    let families: &[u8] = if address.is_ipv4() { &[AF_INET, AF_INET6] } else { &[AF_INET6] };
    let (mut connections, mut left) = (0, 0);
    for family in families {
        let found: Vec<Found> = match netlink.dump(|| Question::about(*family, address)) {
            // No IPv6 in this kernel.
            Err(error) if *family == AF_INET6 && error.raw_os_error() == Some(Errno::ENOENT as i32) => {
                continue;
            }
            found => found?,
        };
        for Found(found) in found {
            if Instant::now() > deadline {
                left += 1;
                continue;
            }
            let request = request(found.family, found.socket_id);
            match netlink.order(SockDiagDestroy::new(SockDiagMessage::InetRequest(request)), 0) {
                Ok(()) => connections += 1,
                // It ended by itself.
                Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok((connections, left))
}

/// Of all states in which the other end may still count on the connection.
fn request(family: u8, socket_id: SocketId) -> InetRequest {
    let states = StateFlags::all() - StateFlags::LISTEN - StateFlags::CLOSE - StateFlags::TIME_WAIT;
    let protocol = libc::IPPROTO_TCP as u8;
    InetRequest { family, protocol, extensions: ExtensionFlags::empty(), states, socket_id }
}

/// The question for the TCP connections with a local address.
#[derive(Debug)]
struct Question {
    request: InetRequest,
    program: Vec<u8>,
}

impl Question {
    fn about(family: u8, address: IpAddr) -> Question {
        let socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
        Question { request: request(family, socket_id), program: is_local(address) }
    }
}

/// One instruction (struct inet_diag_bc_op with a struct inet_diag_hostcond): yes leads to the end of the program, no behind it.
fn is_local(address: IpAddr) -> Vec<u8> {
    let (family, octets) = match address {
        IpAddr::V4(address) => (AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (AF_INET6, address.octets().to_vec()),
    };
    let length = 12 + octets.len() as u8;
    let mut program = vec![BC_S_COND, length];
    program.extend_from_slice(&(u16::from(length) + 4).to_ne_bytes());
    program.extend_from_slice(&[family, octets.len() as u8 * 8, 0, 0]);
    // Any port.
    program.extend_from_slice(&(-1_i32).to_ne_bytes());
    program.extend_from_slice(&octets);
    program
}

impl NetlinkSerializable for Question {
    fn message_type(&self) -> u16 {
        SOCK_DIAG_BY_FAMILY
    }

    fn buffer_len(&self) -> usize {
        self.request.buffer_len() + 4 + self.program.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (request, attribute) = buffer.split_at_mut(self.request.buffer_len());
        self.request.emit(request);
        let length = (4 + self.program.len()) as u16;
        attribute[..2].copy_from_slice(&length.to_ne_bytes());
        attribute[2..4].copy_from_slice(&REQ_BYTECODE.to_ne_bytes());
        attribute[4..].copy_from_slice(&self.program);
    }
}

/// A connection; its attributes are of no interest.
struct Found(InetResponseHeader);

impl NetlinkDeserializable for Found {
    type Error = DecodeError;

    fn deserialize(_header: &NetlinkHeader, payload: &[u8]) -> Result<Found, DecodeError> {
        InetResponseHeader::parse(payload).map(Found)
    }
}
