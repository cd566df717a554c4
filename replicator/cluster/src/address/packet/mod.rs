//! The packets in which LANs speak of who has an address: whole Ethernet frames, built and read without I/O.

pub(super) mod arp;
pub(super) mod filter;
pub(super) mod ndp;

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use super::Mac;

/// Bytes of an Ethernet header.
const ETHERNET_BYTES: usize = 14;
const BROADCAST: Mac = Mac([0xff; 6]);

/// A statement on the LAN: this address is at this hardware address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Claim {
    pub address: IpAddr,
    pub mac: Mac,
}

/// The number in the Ethernet header, and for the socket, of the protocol that speaks of such an address.
pub(super) fn ethertype(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(_) => arp::ETHERTYPE,
        IpAddr::V6(_) => ndp::ETHERTYPE,
    }
}

/// The question whether somebody has the address, from one who does not have it.
pub(super) fn probe(address: IpAddr, mac: Mac) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp::probe(address, mac),
        IpAddr::V6(address) => ndp::probe(address, mac),
    }
}

/// The frames that tell everybody on the LAN who has the address. `router`: whether this node forwards IPv6 packets.
pub(super) fn announcement(address: IpAddr, mac: Mac, router: bool) -> Vec<Vec<u8>> {
    match address {
        // There are devices that learn from one form only.
        IpAddr::V4(address) => {
            vec![arp::announcement_request(address, mac), arp::announcement_reply(address, mac)]
        }
        IpAddr::V6(address) => vec![ndp::announcement(address, mac, router)],
    }
}

/// What a frame states, if it states anything and is well-formed.
pub(super) fn claim(frame: &[u8]) -> Option<Claim> {
    arp::claim(frame).or_else(|| ndp::claim(frame))
}

fn ethernet(destination: Mac, source: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET_BYTES + payload.len());
    frame.extend_from_slice(&destination.0);
    frame.extend_from_slice(&source.0);
    frame.extend_from_slice(&ethertype.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// The source and the payload of a frame of that type.
fn unwrap_ethernet(frame: &[u8], ethertype: u16) -> Option<(Mac, &[u8])> {
    let (_destination, rest) = frame.split_first_chunk::<6>()?;
    let (source, rest) = rest.split_first_chunk::<6>()?;
    let (kind, payload) = rest.split_first_chunk::<2>()?;
    (u16::from_be_bytes(*kind) == ethertype).then_some((Mac(*source), payload))
}
