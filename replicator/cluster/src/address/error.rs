//! Why an address could not be taken or given up. Every message names the remedy.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use super::Mac;

/// Why an address could not be taken, given up or looked at.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum AddressError {
    // ---- the configuration ----------------------------------------------------------------------------
    /// No address that a service can have.
    #[error("{address} is {what}: no address for a service; set one that clients can connect to")]
    NotForAService { address: IpAddr, what: &'static str },
    /// The same address twice.
    #[error("{address} is configured twice; name it once")]
    Twice { address: IpAddr },
    /// No interface has that name.
    #[error("{address}: there is no interface {interface:?}; there are: {candidates}")]
    NoSuchInterface { address: IpAddr, interface: String, candidates: String },
    /// No interface has an address whose subnet holds the address.
    #[error(
        "{address} is in no interface's subnet; name the interface to use, or correct the address; there are: {candidates}"
    )]
    NoInterface { address: IpAddr, candidates: String },
    /// Several interfaces would do.
    #[error("{address} is in the subnets of several interfaces; name the one to use: {candidates}")]
    Ambiguous { address: IpAddr, candidates: String },

    // ---- taking ---------------------------------------------------------------------------------------
    /// The interface is set down.
    #[error(
        "{address}: interface {interface} is down; set it up (ip link set {interface} up) and take the address again"
    )]
    InterfaceDown { address: IpAddr, interface: String },
    /// The node has it already, and not by the cluster.
    #[error(
        "{address} is on {interface} already, and the cluster did not add it: take it out of the system's network \
         configuration (it must be the cluster's alone), or give the service another address"
    )]
    Foreign { address: IpAddr, interface: String },
    /// Somebody on the LAN has it.
    #[error(
        "{address} is in use by {mac}; if that is the other node it did not give the address up: \
         fence it, or remove the address there; else give one of both another address"
    )]
    Duplicate { address: IpAddr, mac: Mac },
    /// The LAN cannot be asked.
    #[error(
        "{address}: cannot ask on {interface} whether somebody has it: {source}; does the daemon have CAP_NET_RAW?"
    )]
    Packets { address: IpAddr, interface: String, source: io::Error },
    /// The kernel does not add it.
    #[error(
        "cannot add {address} to {interface}: {source}; does the daemon have CAP_NET_ADMIN, \
         and is IPv6 enabled there if it is a v6 address?"
    )]
    Add { address: IpAddr, interface: String, source: io::Error },
    /// `give_up` or another `take` came while this one asked the LAN.
    #[error("taking the addresses was overtaken by a later order; nothing was added")]
    Overtaken,

    // ---- giving up ------------------------------------------------------------------------------------
    /// The kernel does not remove it.
    #[error(
        "cannot remove {address} from {interface}: {source}; while it is there clients may reach this node: \
         remove it by hand (ip address del {address} dev {interface}) or stop the machine"
    )]
    Remove { address: IpAddr, interface: String, source: io::Error },

    // ---- the system -----------------------------------------------------------------------------------
    /// Netlink does not work.
    #[error(
        "cannot {operation} by netlink: {source}; does the daemon have CAP_NET_ADMIN and may it use AF_NETLINK sockets?"
    )]
    Netlink { operation: &'static str, source: io::Error },
    /// The state directory does not work.
    #[error("cannot {operation} {path}: {source}; give the daemon a state directory that it can write")]
    State { operation: &'static str, path: PathBuf, source: io::Error },
}
