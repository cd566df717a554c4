//! What is told of taking, giving up and looking.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Mac;
use super::connections::Reset;

/// What was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Taken {
    /// Each address with the name of its interface.
    pub addresses: Vec<(IpNet, String)>,
    /// Those for which the LAN was not asked, and why.
    pub unprobed: Vec<(IpAddr, Unprobed)>,
}

/// Why the LAN was not asked for an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unprobed {
    /// Neither the caller nor the configuration wanted it.
    NotWanted,
    /// The node had the address already.
    AlreadyHere,
    /// The interface has no carrier: nobody can be asked, and nobody can be disturbed. When the carrier comes a rival is seen.
    NoCarrier,
    /// The interface has no Ethernet addresses.
    NoEthernet,
}

/// What was given up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GivenUp {
    /// Addresses of the cluster that were there and are gone.
    pub removed: Vec<IpNet>,
    /// What became of their TCP connections.
    pub reset: Reset,
}

/// What an earlier daemon had left behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// Addresses that it had added, now removed.
    pub removed: Vec<IpNet>,
    /// Configured addresses that are on this node though no daemon added them, with their interfaces. They were left alone. Either the
    /// system's network configuration has them, and must not, or the node's own address is configured as the service's.
    pub foreign: Vec<(IpNet, String)>,
}

/// The state of one address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressStatus {
    /// As configured.
    pub address: IpNet,
    /// Its interface, if one can be chosen.
    pub interface: Option<String>,
    /// Whether it was taken and not given up.
    pub held: bool,
    /// Whether this node has it, by whomever it was added.
    pub present: bool,
    /// Whether its interface is up and has a carrier.
    pub carrier: bool,
    /// Announcements sent since it was taken.
    pub announced: u64,
    /// Who claimed it last while it was held.
    pub rival: Option<Mac>,
}
