//! The socket of a path.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, Socket, Type};

use super::config::Path;
use super::error::HeartbeatError;

/// Network control: before the bulk of the data plane, where a network makes a difference.
const TRAFFIC_CLASS: u32 = 0xc0;
/// The highest that needs no privilege.
const QUEUE_PRIORITY: u32 = 6;
/// Room for what comes during a pause of some minutes.
const RECEIVE_BYTES: usize = 1 << 20;

/// A UDP socket at this node's end of a path.
pub(super) struct PathSocket {
    socket: UdpSocket,
    peer: SocketAddr,
}

impl PathSocket {
    /// Open it, also if the address is not there yet: an interface may come later, and come and go.
    pub(super) fn open(path: &Path) -> Result<PathSocket, HeartbeatError> {
        let refused =
            |operation| move |source| HeartbeatError::Socket { operation, local: path.local, source };
        let domain = Domain::for_address(path.local);
        let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))
            .map_err(refused("open a socket"))?;
        if path.local.is_ipv6() {
            socket.set_only_v6(true).map_err(refused("restrict a socket to IPv6"))?;
            socket.set_freebind_v6(true).map_err(refused("set IPV6_FREEBIND"))?;
            // These two are wishes.
            let _ = socket.set_tclass_v6(TRAFFIC_CLASS);
        } else {
            socket.set_freebind_v4(true).map_err(refused("set IP_FREEBIND"))?;
            let _ = socket.set_tos_v4(TRAFFIC_CLASS);
        }
        let _ = socket.set_priority(QUEUE_PRIORITY);
        let _ = socket.set_recv_buffer_size(RECEIVE_BYTES);
        socket.bind(&path.local.into()).map_err(refused("bind a socket"))?;
        Ok(PathSocket { socket: socket.into(), peer: path.peer })
    }

    /// Send to the peer. Does not wait: what does not fit is lost, like anything on a network.
    pub(super) fn send(&self, datagram: &[u8]) -> io::Result<()> {
        self.socket.send_to(datagram, self.peer).map(|_| ())
    }

    /// The next datagram, from wherever: its MAC says whether it is the peer's.
    ///
    /// # Errors
    /// `WouldBlock` if there is none.
    pub(super) fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let length = self.socket.recv(buffer)?;
        Ok(buffer.get(..length).unwrap_or_default())
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
