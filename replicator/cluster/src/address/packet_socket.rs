//! The packet socket through which an address is probed, announced, and heard of.

use std::io;
use std::mem;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{LinkAddr, recvfrom};
use socket2::{Domain, SockAddr, SockFilter, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::packet::{self, Claim, filter};

/// Bound to one interface, with a filter for one address. What was sent by this node itself is not heard.
#[derive(Debug)]
pub(super) struct PacketSocket {
    socket: AsyncFd<OwnedFd>,
    index: u32,
    address: IpAddr,
}

impl PacketSocket {
    /// Needs CAP_NET_RAW. To be called within a tokio runtime.
    pub fn open(index: u32, address: IpAddr) -> io::Result<PacketSocket> {
        // Without a protocol it hears nothing yet: the filter comes first.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)?;
        let program: Vec<SockFilter> = filter::claims_of(address)
            .into_iter()
            .map(|one| SockFilter::new(one.code, one.jt, one.jf, one.k))
            .collect();
        socket.attach_filter(&program)?;
        socket.bind(&link_address(index, packet::ethertype(address))?)?;
        let socket = OwnedFd::from(socket);
        // SAFETY: an owned descriptor is open, and the same, as long as it lives.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(PacketSocket { socket, index, address })
    }

    /// Send a whole frame, at once or not at all.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        use nix::sys::socket::{MsgFlags, send};
        send(self.socket.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }

    /// The next claim of the address by somebody.
    ///
    /// # Errors
    /// What the system says. That the interface is down is no error: it is waited until it is up.
    pub async fn claim(&self) -> io::Result<Claim> {
        loop {
            let mut ready = self.socket.readable().await?;
            let mut frame = [0; filter::FRAME_BYTES_MAX];
            let received = ready.try_io(|socket| {
                recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut frame).map_err(io::Error::from)
            });
            let (length, from) = match received {
                Err(_would_block) => continue,
                Ok(Err(error)) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::ENETDOWN | Errno::EINTR) => continue,
                    _ => return Err(error),
                },
                Ok(Ok(received)) => received,
            };
            // A socket on an interface hears what came through it for its VLANs, too, with the VLAN taken off.
            let here = from.is_some_and(|from| from.ifindex() == self.index as usize);
            if let Some(claim) = frame.get(..length).and_then(packet::claim)
                && here
                && claim.address == self.address
            {
                return Ok(claim);
            }
        }
    }
}

fn link_address(index: u32, ethertype: u16) -> io::Result<SockAddr> {
    let index = i32::try_from(index).map_err(io::Error::other)?;
    // SAFETY: the storage is zeroed and larger than any address; what is written is a whole sockaddr_ll, whose length is set.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let address = storage.cast::<libc::sockaddr_ll>();
            (*address).sll_family = libc::AF_PACKET as u16;
            (*address).sll_protocol = ethertype.to_be();
            (*address).sll_ifindex = index;
            *length = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })?
    };
    Ok(address)
}
