//! ARP for IPv4 over Ethernet (RFC 826), probes and announcements (RFC 5227).

use std::net::Ipv4Addr;

use super::{BROADCAST, Claim, Mac, ethernet, unwrap_ethernet};

pub(in super::super) const ETHERTYPE: u16 = 0x0806;
/// Ethernet, IPv4, and the lengths of their addresses.
const PREFIX: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: u16 = 1;
const REPLY: u16 = 2;
const NOBODY: Mac = Mac([0; 6]);

/// "Who has this address?", from nobody (RFC 5227, 2.1.1): no cache learns anything from it.
pub(super) fn probe(address: Ipv4Addr, mac: Mac) -> Vec<u8> {
    frame(REQUEST, mac, Ipv4Addr::UNSPECIFIED, NOBODY, address)
}

/// The announcement as a request (RFC 5227, 2.3).
pub(super) fn announcement_request(address: Ipv4Addr, mac: Mac) -> Vec<u8> {
    frame(REQUEST, mac, address, NOBODY, address)
}

/// The announcement as a reply. Linux takes it as one only if both hardware addresses are the same (net/ipv4/arp.c, arp_is_garp).
pub(super) fn announcement_reply(address: Ipv4Addr, mac: Mac) -> Vec<u8> {
    frame(REPLY, mac, address, mac, address)
}

/// Whoever sends a packet says to have the address it names as its own; a probe's sender has none.
pub(super) fn claim(frame: &[u8]) -> Option<Claim> {
    let (_source, packet) = unwrap_ethernet(frame, ETHERTYPE)?;
    let rest = packet.strip_prefix(&PREFIX)?;
    let (operation, rest) = rest.split_first_chunk::<2>()?;
    let (mac, rest) = rest.split_first_chunk::<6>()?;
    let (address, rest) = rest.split_first_chunk::<4>()?;
    // Target's addresses: not looked at, but a packet without them is none.
    rest.split_first_chunk::<10>()?;
    let address = Ipv4Addr::from(*address);
    let known = matches!(u16::from_be_bytes(*operation), REQUEST | REPLY);
    (known && !address.is_unspecified()).then_some(Claim { address: address.into(), mac: Mac(*mac) })
}

fn frame(operation: u16, mac: Mac, sender: Ipv4Addr, target_mac: Mac, target: Ipv4Addr) -> Vec<u8> {
    let mut packet = Vec::with_capacity(28);
    packet.extend_from_slice(&PREFIX);
    packet.extend_from_slice(&operation.to_be_bytes());
    packet.extend_from_slice(&mac.0);
    packet.extend_from_slice(&sender.octets());
    packet.extend_from_slice(&target_mac.0);
    packet.extend_from_slice(&target.octets());
    ethernet(BROADCAST, mac, ETHERTYPE, &packet)
}
