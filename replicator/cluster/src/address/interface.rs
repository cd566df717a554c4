//! Which interface gets an address.

use std::net::IpAddr;

use ipnet::IpNet;

use super::netlink::{Entry, Link, Manner};
use super::{AddressConfig, AddressError};

/// An address and where it goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub entry: Entry,
    pub link: Link,
    /// The address brings the route to its subnet, but not where the interface has one by an address of its own, and would lose it with
    /// this one.
    pub manner: Manner,
    /// Whether the LAN is asked first.
    pub probe: bool,
}

impl Place {
    pub fn address(&self) -> IpAddr {
        self.entry.address
    }

    /// As the operator wrote it.
    pub fn net(&self) -> IpNet {
        // The prefix came from such a value.
        IpNet::new(self.entry.address, self.entry.prefix).unwrap_or_else(|_| self.entry.address.into())
    }
}

/// The interface of the configured name, or the one with an address in whose subnet the configured one lies; of several the one
/// with the smallest subnet.
///
/// # Errors
/// [`AddressError::NoSuchInterface`], [`AddressError::NoInterface`], [`AddressError::Ambiguous`].
pub(super) fn choose(
    config: &AddressConfig,
    links: &[Link],
    present: &[Entry],
) -> Result<Place, AddressError> {
    let address = config.address.addr();
    let covering = covering(address, links, present);
    let candidates = || describe(links, present, address);
    let link = match &config.interface {
        Some(name) => links.iter().find(|link| link.name == *name).ok_or_else(|| {
            AddressError::NoSuchInterface { address, interface: name.clone(), candidates: candidates() }
        })?,
        None => {
            let smallest = covering.iter().map(|entry| entry.prefix).max();
            let mut indices: Vec<u32> = covering
                .iter()
                .filter(|entry| Some(entry.prefix) == smallest)
                .map(|entry| entry.index)
                .collect();
            indices.dedup();
            let chosen: Vec<Link> =
                links.iter().filter(|link| indices.contains(&link.index)).cloned().collect();
            match &chosen[..] {
                [] => return Err(AddressError::NoInterface { address, candidates: candidates() }),
                [one] => &links[links.iter().position(|link| link.index == one.index).unwrap_or_default()],
                several => {
                    let candidates = describe(several, present, address);
                    return Err(AddressError::Ambiguous { address, candidates });
                }
            }
        }
    };
    let entry = Entry { index: link.index, address, prefix: config.address.prefix_len(), marked: true };
    let route = !covering.iter().any(|entry| entry.index == link.index);
    let manner = Manner { route, outgoing: config.outgoing };
    Ok(Place { entry, link: link.clone(), manner, probe: config.probe })
}

/// The nodes' own addresses in whose subnets the address lies. Link-local subnets are everywhere and tell nothing.
fn covering(address: IpAddr, links: &[Link], present: &[Entry]) -> Vec<Entry> {
    let loopback = |entry: &Entry| links.iter().any(|link| link.index == entry.index && link.loopback);
    let covers = |entry: &&Entry| {
        !entry.marked
            && entry.address != address
            && !is_link_local(entry.address)
            && !loopback(entry)
            && IpNet::new(entry.address, entry.prefix).is_ok_and(|net| net.contains(&address))
    };
    present.iter().filter(covers).copied().collect()
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// Interfaces with their addresses of the same family, for a message.
fn describe(links: &[Link], present: &[Entry], like: IpAddr) -> String {
    let mut described: Vec<String> = Vec::new();
    for link in links.iter().filter(|link| !link.loopback) {
        let own = present.iter().filter(|entry| {
            entry.index == link.index && entry.address.is_ipv4() == like.is_ipv4() && !entry.marked
        });
        let own: Vec<String> = own.map(|entry| format!("{}/{}", entry.address, entry.prefix)).collect();
        let state = if link.up { "" } else { ", down" };
        let own = if own.is_empty() { "no address of this kind".to_owned() } else { own.join(" ") };
        described.push(format!("{} ({own}{state})", link.name));
    }
    if described.is_empty() { "none but loopback".to_owned() } else { described.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::super::Mac;
    use super::*;

    fn link(index: u32, name: &str) -> Link {
        let mac = Some(Mac([2, 0, 0, 0, 0, index as u8]));
        let loopback = name == "lo";
        Link { index, name: name.into(), mac, up: true, carrier: true, loopback, moved: false }
    }

    fn entry(index: u32, net: &str) -> Entry {
        let net: IpNet = net.parse().unwrap();
        Entry { index, address: net.addr(), prefix: net.prefix_len(), marked: false }
    }

    fn config(address: &str, interface: Option<&str>) -> AddressConfig {
        AddressConfig {
            address: address.parse().unwrap(),
            interface: interface.map(str::to_owned),
            probe: true,
            outgoing: false,
        }
    }

    fn machine() -> (Vec<Link>, Vec<Entry>) {
        let links = vec![link(1, "lo"), link(2, "eth0"), link(3, "eth1")];
        let entries = vec![
            entry(1, "127.0.0.1/8"),
            entry(2, "10.0.0.1/24"),
            entry(3, "10.0.0.1/8"),
            entry(3, "192.168.1.1/24"),
            entry(2, "fe80::1/64"),
            entry(3, "fe80::2/64"),
            entry(3, "fd00::1/64"),
        ];
        (links, entries)
    }

    #[test]
    fn the_smallest_subnet_that_holds_the_address() {
        let (links, entries) = machine();
        let place = |address| choose(&config(address, None), &links, &entries).unwrap();
        assert_eq!(place("10.0.0.9/24").link.name, "eth0");
        assert_eq!(place("10.1.0.9/24").link.name, "eth1");
        assert_eq!(place("fd00::9/64").link.name, "eth1");
        assert!(!place("10.0.0.9/32").manner.route, "the subnet's route is there");
    }

    #[test]
    fn a_name_goes_before_subnets() {
        let (links, entries) = machine();
        let place = choose(&config("192.168.1.9/24", Some("eth0")), &links, &entries).unwrap();
        assert_eq!((place.link.name.as_str(), place.manner.route), ("eth0", true));
        let place = choose(&config("fe80::9/64", Some("eth0")), &links, &entries).unwrap();
        assert_eq!(
            place.entry,
            Entry { index: 2, address: "fe80::9".parse().unwrap(), prefix: 64, marked: true }
        );
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let (links, entries) = machine();
        match choose(&config("10.0.0.9/24", Some("eth7")), &links, &entries) {
            Err(AddressError::NoSuchInterface { candidates, .. }) => {
                assert_eq!(candidates, "eth0 (10.0.0.1/24), eth1 (10.0.0.1/8 192.168.1.1/24)");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_address_of_no_subnet_has_no_interface() {
        let (links, mut entries) = machine();
        for address in ["172.16.0.9/24", "127.0.0.9/8", "fe80::9/64", "fd01::9/64"] {
            let chosen = choose(&config(address, None), &links, &entries);
            assert!(matches!(chosen, Err(AddressError::NoInterface { .. })), "{address}: {chosen:?}");
        }
        // Nor does the service's own address, left behind, or another of ours, tell where it belongs.
        entries.push(entry(2, "172.16.0.9/24"));
        entries.push(Entry { marked: true, ..entry(2, "172.16.0.8/24") });
        let chosen = choose(&config("172.16.0.9/24", None), &links, &entries);
        assert!(matches!(chosen, Err(AddressError::NoInterface { .. })), "{chosen:?}");
    }

    #[test]
    fn two_interfaces_in_the_same_subnet_are_for_the_operator_to_choose_from() {
        let (links, mut entries) = machine();
        entries.push(entry(3, "10.0.0.2/24"));
        match choose(&config("10.0.0.9/24", None), &links, &entries) {
            Err(AddressError::Ambiguous { candidates, .. }) => {
                assert!(candidates.contains("eth0") && candidates.contains("eth1"), "{candidates}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(choose(&config("10.0.0.9/24", Some("eth1")), &links, &entries).unwrap().link.index, 3);
    }
}
