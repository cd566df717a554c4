//! Links and addresses of the kernel, asked and changed by synchronous netlink requests, each with a bound.
//!
//! Of a link's many attributes only those that are needed are read: a kernel that is newer than the library must not make its
//! messages unreadable.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use netlink_packet_core::{
    DecodeError, DoneBuffer, ErrorBuffer, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL,
    NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlasIterator, Parseable,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol, CacheInfo,
};
use netlink_packet_route::link::{LinkFlags, LinkHeader, LinkLayerType, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::Mac;

/// Who added an address: IFA_PROTO of the kernel (Linux 5.18). The lower numbers are the kernel's own.
const MARK: u8 = 0x72;
/// Longest wait for the kernel's answer. Requests are served at once, but behind others that change interfaces.
const LIMIT: Duration = Duration::from_secs(2);
/// The kernel fills at most 32 KiB of an answer at a time (net/netlink/af_netlink.c, netlink_dump).
const BUFFER_BYTES: usize = 64 << 10;
/// A dump during which something changed is begun anew so many times; then what it said is what there is.
const DUMPS_MAX: usize = 5;

const RTM_NEWLINK: u16 = libc::RTM_NEWLINK;
const RTM_DELLINK: u16 = libc::RTM_DELLINK;
const RTM_NEWADDR: u16 = libc::RTM_NEWADDR;
const RTM_DELADDR: u16 = libc::RTM_DELADDR;
const LINK_HEADER_BYTES: usize = 16;
/// Attribute of a link that tells why it is reported, and its values for a bond that went over to another port.
const IFLA_EVENT: u16 = 44;
const EVENTS_OF_A_MOVE: [u32; 2] = [3, 4];

/// An interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Link {
    pub index: u32,
    pub name: String,
    /// Of Ethernet only.
    pub mac: Option<Mac>,
    pub up: bool,
    pub carrier: bool,
    pub loopback: bool,
    /// The message says that what was reached through this link's port is now reached through another.
    pub moved: bool,
}

/// An address of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub index: u32,
    pub address: IpAddr,
    pub prefix: u8,
    /// Whether this edge added it, as far as the kernel keeps such marks.
    pub marked: bool,
}

/// How an address is added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Manner {
    /// With a route to its subnet.
    pub route: bool,
    /// As one from which the kernel may let the node's own connections go out. Of v6 only; else it is deprecated (RFC 4862, 5.5.4), which
    /// makes no difference to who connects to it.
    pub outgoing: bool,
}

/// A message of the kernel about links and addresses.
#[derive(Debug)]
pub(super) enum Fact {
    Link(Link),
    LinkGone { index: u32 },
    Address(Entry),
    AddressGone(Entry),
    Other,
}

impl NetlinkDeserializable for Fact {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Fact, DecodeError> {
        Ok(match header.message_type {
            RTM_NEWLINK => Fact::Link(link(payload)?),
            RTM_DELLINK => Fact::LinkGone { index: LinkHeader::parse(payload)?.index },
            RTM_NEWADDR => entry(payload)?.map_or(Fact::Other, Fact::Address),
            RTM_DELADDR => entry(payload)?.map_or(Fact::Other, Fact::AddressGone),
            _ => Fact::Other,
        })
    }
}

fn link(payload: &[u8]) -> Result<Link, DecodeError> {
    let header = LinkHeader::parse(payload)?;
    let has = |flag| header.flags.contains(flag);
    let mut link = Link {
        index: header.index,
        name: String::new(),
        mac: None,
        up: has(LinkFlags::Up),
        carrier: has(LinkFlags::Up | LinkFlags::LowerUp),
        loopback: has(LinkFlags::Loopback),
        moved: false,
    };
    for attribute in NlasIterator::new(payload.get(LINK_HEADER_BYTES..).unwrap_or_default()) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            libc::IFLA_IFNAME => {
                let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
                link.name = String::from_utf8_lossy(text).into_owned();
            }
            libc::IFLA_ADDRESS if header.link_layer_type == LinkLayerType::Ether => {
                link.mac = <[u8; 6]>::try_from(value).ok().map(Mac);
            }
            IFLA_EVENT => {
                let event = value.first_chunk::<4>().map(|event| u32::from_ne_bytes(*event));
                link.moved = event.is_some_and(|event| EVENTS_OF_A_MOVE.contains(&event));
            }
            _ => {}
        }
    }
    Ok(link)
}

/// `None` of another family than v4 and v6.
fn entry(payload: &[u8]) -> Result<Option<Entry>, DecodeError> {
    let message = AddressMessage::parse(payload)?;
    let (mut address, mut local, mut marked) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(found) => address = Some(*found),
            AddressAttribute::Local(found) => local = Some(*found),
            AddressAttribute::Protocol(by) => marked = *by == AddressProtocol::Other(MARK),
            _ => {}
        }
    }
    // Of a point-to-point interface the first is the other end's.
    let entry =
        |address| Entry { index: message.header.index, address, prefix: message.header.prefix_len, marked };
    Ok(local.or(address).map(entry))
}

/// A socket for requests. Kept open, so that giving an address up needs no new descriptor.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// For links and addresses.
    pub fn route() -> io::Result<Netlink> {
        Netlink::open(protocols::NETLINK_ROUTE)
    }

    /// For sockets of other processes.
    pub fn diagnosis() -> io::Result<Netlink> {
        Netlink::open(protocols::NETLINK_SOCK_DIAG)
    }

    fn open(protocol: isize) -> io::Result<Netlink> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        // From now on nobody but the kernel can send to it.
        socket.connect(&SocketAddr::new(0, 0))?;
        let limit = TimeVal::milliseconds(LIMIT.as_millis() as i64);
        setsockopt(&socket, sockopt::ReceiveTimeout, &limit)?;
        setsockopt(&socket, sockopt::SendTimeout, &limit)?;
        Ok(Netlink { socket, sequence: 0, buffer: vec![0; BUFFER_BYTES] })
    }

    /// All interfaces.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let facts = self.dump(|| RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(facts
            .into_iter()
            .filter_map(|fact| if let Fact::Link(link) = fact { Some(link) } else { None })
            .collect())
    }

    /// All addresses of all interfaces.
    pub fn addresses(&mut self) -> io::Result<Vec<Entry>> {
        let facts = self.dump(|| RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        Ok(facts
            .into_iter()
            .filter_map(|fact| if let Fact::Address(entry) = fact { Some(entry) } else { None })
            .collect())
    }

    /// Add an address; that it is there already is fine. A v6 address can be used at once: it is never tentative.
    pub fn add(&mut self, entry: &Entry, manner: Manner) -> io::Result<()> {
        let mut message = message(entry);
        let mut flags = AddressFlags::empty();
        if entry.address.is_ipv6() {
            flags |= AddressFlags::Nodad;
            message.header.flags = AddressHeaderFlags::Nodad;
            if !manner.outgoing {
                let mut lifetimes = CacheInfo::default();
                lifetimes.ifa_valid = u32::MAX;
                message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
            }
        }
        if !manner.route {
            flags |= AddressFlags::Noprefixroute;
        }
        message.attributes.push(AddressAttribute::Flags(flags));
        message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(MARK)));
        let added = self.order(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL);
        unless(added, &[Errno::EEXIST])
    }

    /// Remove an address; that it, or its interface, is gone already is fine.
    pub fn remove(&mut self, entry: &Entry) -> io::Result<()> {
        let removed = self.order(RouteNetlinkMessage::DelAddress(message(entry)), 0);
        unless(removed, &[Errno::EADDRNOTAVAIL, Errno::ENODEV])
    }

    /// Send a request and wait until it is done.
    pub fn order(&mut self, message: impl NetlinkSerializable, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_ACK | flags)?;
        self.receive(|_: Fact| {}).map(drop)
    }

    /// Everything of a kind.
    pub fn dump<Q: NetlinkSerializable, A: NetlinkDeserializable>(
        &mut self,
        question: impl Fn() -> Q,
    ) -> io::Result<Vec<A>> {
        for dump in 1.. {
            let mut answers = Vec::new();
            self.send(question(), NLM_F_DUMP)?;
            let whole = self.receive(|answer| answers.push(answer))?;
            if whole || dump == DUMPS_MAX {
                return Ok(answers);
            }
        }
        Ok(Vec::new())
    }

    fn send(&mut self, message: impl NetlinkSerializable, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// Read answers until the last one. Whether they fit together: nothing changed in between.
    fn receive<A: NetlinkDeserializable>(&mut self, mut each: impl FnMut(A)) -> io::Result<bool> {
        let deadline = Instant::now() + LIMIT;
        let mut whole = true;
        loop {
            if Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let length = match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) => length,
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                Err(errno) => return Err(errno.into()),
            };
            for (header, payload) in messages(self.buffer.get(..length).unwrap_or_default()) {
                // An answer that came too late for an earlier request.
                if header.sequence_number != self.sequence {
                    continue;
                }
                whole &= header.flags & NLM_F_DUMP_INTR == 0;
                match header.message_type {
                    NLMSG_ERROR => return verdict_of_error(payload).map(|()| whole),
                    NLMSG_DONE => return verdict_of_done(payload).map(|()| whole),
                    _ => match A::deserialize(&header, payload) {
                        Ok(answer) => each(answer),
                        Err(error) => tracing::debug!(%error, "a netlink message that cannot be read"),
                    },
                }
            }
        }
    }
}

/// The messages in what was received at once. What is no message ends it.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (NetlinkHeader, &[u8])> {
    std::iter::from_fn(move || {
        let buffer = NetlinkBuffer::new_checked(bytes).ok()?;
        let header = NetlinkHeader::parse(&buffer).ok()?;
        let payload = buffer.payload();
        let length = (header.length as usize).next_multiple_of(4);
        bytes = bytes.get(length..).unwrap_or_default();
        Some((header, payload))
    })
}

fn verdict_of_error(payload: &[u8]) -> io::Result<()> {
    let buffer = ErrorBuffer::new_checked(payload).map_err(io::Error::other)?;
    match buffer.code() {
        None => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.get().saturating_neg())),
    }
}

fn verdict_of_done(payload: &[u8]) -> io::Result<()> {
    // Old kernels end some dumps with nothing.
    let code = DoneBuffer::new_checked(payload).map_or(0, |buffer| buffer.code());
    if code < 0 { Err(io::Error::from_raw_os_error(code.saturating_neg())) } else { Ok(()) }
}

fn message(entry: &Entry) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = if entry.address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = entry.prefix;
    message.header.index = entry.index;
    message.attributes =
        vec![AddressAttribute::Local(entry.address), AddressAttribute::Address(entry.address)];
    message
}

fn unless(result: io::Result<()>, fine: &[Errno]) -> io::Result<()> {
    match result {
        Err(error) if fine.iter().any(|errno| error.raw_os_error() == Some(*errno as i32)) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests;
