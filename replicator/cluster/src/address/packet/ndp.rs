//! Neighbour discovery for IPv6 (RFC 4861): the solicitation of duplicate address detection (RFC 4862) and unsolicited advertisements.

use std::net::Ipv6Addr;

use super::{Claim, Mac, ethernet, unwrap_ethernet};

pub(in super::super) const ETHERTYPE: u16 = 0x86dd;
/// The IPv6 header's number for ICMPv6.
pub(super) const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
pub(super) const ADVERTISEMENT: u8 = 136;
/// What no router lets through: proof that the sender is on this LAN.
const HOP_LIMIT: u8 = 255;
const IPV6_BYTES: usize = 40;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ROUTER: u8 = 0x80;
const OVERRIDE: u8 = 0x20;
const TARGET_LINK_LAYER: u8 = 2;

/// "Who has this address?", from nobody, to those whose address ends in the same three bytes (RFC 4862, 5.4.2).
pub(super) fn probe(address: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let [.., a, b, c] = address.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&address.octets());
    frame(mac, Ipv6Addr::UNSPECIFIED, group, message)
}

/// The unsolicited advertisement to all nodes that replaces what they know (RFC 4861, 7.2.6).
///
/// `router` must be the truth: whoever takes this node for its router and hears that it is none drops it (RFC 4861, 7.2.5).
pub(super) fn announcement(address: Ipv6Addr, mac: Mac, router: bool) -> Vec<u8> {
    let flags = OVERRIDE | if router { ROUTER } else { 0 };
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    message.extend_from_slice(&address.octets());
    message.extend_from_slice(&[TARGET_LINK_LAYER, 1]);
    message.extend_from_slice(&mac.0);
    frame(mac, address, ALL_NODES, message)
}

/// An advertisement says who has its target. One that a router passed on, or whose sum is wrong, says nothing.
pub(super) fn claim(frame: &[u8]) -> Option<Claim> {
    let (sender, packet) = unwrap_ethernet(frame, ETHERTYPE)?;
    let (header, rest) = packet.split_first_chunk::<IPV6_BYTES>()?;
    let [a, _, _, _, length_high, length_low, next, hops, addresses @ ..] = header;
    let message = rest.get(..usize::from(u16::from_be_bytes([*length_high, *length_low])))?;
    if a >> 4 != 6 || *next != ICMPV6 || *hops != HOP_LIMIT || sum(addresses, message) != 0 {
        return None;
    }
    let (head, rest) = message.split_first_chunk::<8>()?;
    let (target, options) = rest.split_first_chunk::<16>()?;
    let target = Ipv6Addr::from(*target);
    if head[0] != ADVERTISEMENT || head[1] != 0 || target.is_multicast() {
        return None;
    }
    // Without the option the frame itself tells (RFC 4861, 4.4: it may be left out of a solicited answer only).
    let mac = target_link_layer(options)?.unwrap_or(sender);
    Some(Claim { address: target.into(), mac })
}

/// The hardware address among the options; `None` outside if they are not well-formed.
pub(super) fn target_link_layer(mut options: &[u8]) -> Option<Option<Mac>> {
    let mut found = None;
    while !options.is_empty() {
        let [_kind, units, ..] = options else { return None };
        // A length of zero would never end (RFC 4861, 4.6).
        let (option, rest) = options.split_at_checked((usize::from(*units) * 8).max(8))?;
        if *units == 0 {
            return None;
        }
        if let ([TARGET_LINK_LAYER, 1, mac @ ..], None) = (option, found) {
            found = <[u8; 6]>::try_from(mac).ok().map(Mac);
        }
        options = rest;
    }
    Some(found)
}

/// The frame around an ICMPv6 message whose sum is still zero. The destination is a group.
fn frame(mac: Mac, source: Ipv6Addr, group: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    let mut addresses = source.octets().to_vec();
    addresses.extend_from_slice(&group.octets());
    let sum = sum(&addresses, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend_from_slice(&(message.len() as u16).to_be_bytes());
    packet.extend_from_slice(&[ICMPV6, HOP_LIMIT]);
    packet.extend_from_slice(&addresses);
    packet.extend_from_slice(&message);
    let [.., a, b, c, d] = group.octets();
    ethernet(Mac([0x33, 0x33, a, b, c, d]), mac, ETHERTYPE, &packet)
}

/// The checksum over both addresses, length, protocol and message (RFC 4443, 2.3). Of a message that holds its own: 0.
fn sum(addresses: &[u8], message: &[u8]) -> u16 {
    let tail = [message.len() as u32, u32::from(ICMPV6)].map(u32::to_be_bytes);
    let words = [addresses, &tail[0], &tail[1], message];
    let mut sum: u32 = 0;
    for chunk in words.iter().flat_map(|part| part.chunks(2)) {
        let word = u16::from_be_bytes([chunk[0], chunk.get(1).copied().unwrap_or(0)]);
        // At most 33,000 words: no overflow.
        sum += u32::from(word);
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
