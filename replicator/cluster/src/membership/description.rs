//! The cluster's description: the file `cluster.toml`, the same on both nodes.
//!
//! ```toml
//! format = 1                     # of this file; a newer one is refused
//! version = 3                    # grows with every change; the higher one wins
//!
//! [cluster]
//! name = "shop"                  # for people
//! id = "00112233445566778899aabbccddeeff"
//! authority = "sha256:…"         # fingerprint of authority.pem
//! policy = "consistency-first"   # or "availability-first", "manual"
//!
//! [arbiter]                      # optional; what is in it is the arbiter's business
//! kind = "witness"
//!
//! [[node]]                       # one or two
//! name = "alpha"
//! id = "…"
//! control = "10.0.0.1:7411"      # where the node answers its peer; TCP
//! mirror = ["10.0.0.1"]          # where its mirrors can be reached; each module has its port
//! [node.heartbeat]               # at least one, at most 8: network = "address:port"; UDP
//! lan = "10.0.0.1:7410"
//! cross = "[fd00::1]:7410"
//! ```
//!
//! Names have 1 to 64 of the characters `A-Z a-z 0-9 . _ -` and begin with a letter or a digit. Both nodes have the same networks,
//! each with addresses of one family. Unknown keys are refused. Two descriptions of the same version that differ are ordered by the
//! hash of their text, so that nodes that were changed apart from each other still agree on one: see [`Stamp`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::NODES_MAX;
use super::authority::Fingerprint;
use super::error::DescriptionError;
use super::files::FILE_BYTES_MAX;
use super::identity::{ClusterId, NodeId, check_name};

mod document;

const FORMAT: u32 = 1;
/// Most networks of heartbeats, and most mirror addresses of a node.
const ADDRESSES_MAX: usize = 8;

/// What decides when a node is alone and no arbiter can be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Rather nobody than two.
    #[default]
    ConsistencyFirst,
    /// Rather two than nobody.
    AvailabilityFirst,
    /// A person decides.
    Manual,
}

/// One node, as the other must know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: NodeId,
    /// Where it sends and receives heartbeats, by network.
    pub heartbeat: BTreeMap<String, SocketAddr>,
    /// Where it answers its peer.
    pub control: SocketAddr,
    /// Where its mirrors can be reached.
    pub mirror: Vec<IpAddr>,
}

/// The cluster as its nodes know it.
#[derive(Clone, PartialEq, Debug)]
pub struct Description {
    /// Grows with every change.
    pub version: u64,
    /// The cluster's name.
    pub name: String,
    /// Its id.
    pub id: ClusterId,
    /// The fingerprint of its authority.
    pub authority: Fingerprint,
    /// What decides when nobody else can.
    pub policy: Policy,
    /// The arbiter's settings, unread.
    pub arbiter: Option<toml::Table>,
    /// Its nodes, one or two.
    pub nodes: Vec<Node>,
}

/// Which of two descriptions is the newer one: the greater stamp. Equal stamps mean equal descriptions.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Stamp {
    /// The description's version.
    pub version: u64,
    /// Hash of its text, in hexadecimal digits.
    pub digest: String,
}

impl Description {
    /// The description in a text.
    ///
    /// # Errors
    /// [`DescriptionError`]: the first thing that is wrong with it.
    pub fn parse(text: &str) -> Result<Description, DescriptionError> {
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(DescriptionError::TooLarge { bytes: text.len(), limit: FILE_BYTES_MAX as usize });
        }
        let description = document::read(text)?;
        description.check()?;
        Ok(description)
    }

    /// The description as text, which [`Description::parse`] reads as the same.
    ///
    /// # Errors
    /// The arbiter's table cannot be written, or the whole is too large.
    pub fn to_text(&self) -> Result<String, DescriptionError> {
        let text = document::write(self)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(DescriptionError::TooLarge { bytes: text.len(), limit: FILE_BYTES_MAX as usize });
        }
        Ok(text)
    }

    /// By what it is compared with another.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn stamp(&self) -> Result<Stamp, DescriptionError> {
        let digest = blake3::hash(self.to_text()?.as_bytes());
        let short = digest.as_bytes().first_chunk::<16>().copied().unwrap_or_default();
        Ok(Stamp { version: self.version, digest: HEXLOWER.encode(&short) })
    }

    /// The node with this name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The node that does not have this name.
    #[must_use]
    pub fn other(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name != name)
    }

    /// Whether everything in it makes sense together.
    ///
    /// # Errors
    /// [`DescriptionError`]: the first thing that does not.
    pub fn check(&self) -> Result<(), DescriptionError> {
        if self.version == 0 {
            return Err(DescriptionError::VersionZero);
        }
        check_name("cluster.name", &self.name)?;
        if self.nodes.is_empty() || self.nodes.len() > NODES_MAX {
            return Err(DescriptionError::NodeCount { count: self.nodes.len() });
        }
        self.nodes.iter().try_for_each(check_node)?;
        self.check_addresses()?;
        let [one, other] = self.nodes.as_slice() else { return Ok(()) };
        if one.name == other.name {
            return Err(DescriptionError::NodesAlike { what: "name", value: one.name.clone() });
        }
        if one.id == other.id {
            return Err(DescriptionError::NodesAlike { what: "id", value: one.id.to_string() });
        }
        if let Some(ip) = one.mirror.iter().find(|ip| other.mirror.contains(ip)) {
            return Err(DescriptionError::NodesAlike { what: "mirror address", value: ip.to_string() });
        }
        check_networks(one, other)
    }

    /// Heartbeats are UDP and control is TCP, so one of each may have the same address and port.
    fn check_addresses(&self) -> Result<(), DescriptionError> {
        let (mut heartbeats, mut controls) = (BTreeSet::new(), BTreeSet::new());
        for node in &self.nodes {
            let twice = |key: String, value: &SocketAddr| DescriptionError::AddressTwice {
                node: node.name.clone(),
                key,
                value: value.to_string(),
            };
            if let Some((network, value)) =
                node.heartbeat.iter().find(|(_, value)| !heartbeats.insert(**value))
            {
                return Err(twice(format!("heartbeat.{network}"), value));
            }
            if !controls.insert(node.control) {
                return Err(twice("control".to_owned(), &node.control));
            }
        }
        Ok(())
    }
}

fn check_node(node: &Node) -> Result<(), DescriptionError> {
    check_name("node.name", &node.name)?;
    count(node, "heartbeat", node.heartbeat.len())?;
    count(node, "mirror", node.mirror.len())?;
    for (network, address) in &node.heartbeat {
        check_name("node.heartbeat", network)?;
        address_of_one_node(node, &format!("heartbeat.{network}"), address)?;
    }
    address_of_one_node(node, "control", &node.control)?;
    for ip in &node.mirror {
        // Any port will do for the check: the modules bring their own.
        address_of_one_node(node, "mirror", &SocketAddr::new(*ip, 1))?;
    }
    Ok(())
}

fn count(node: &Node, key: &'static str, count: usize) -> Result<(), DescriptionError> {
    match count {
        0 => Err(DescriptionError::NoAddress { node: node.name.clone(), key }),
        1..=ADDRESSES_MAX => Ok(()),
        count => {
            let (node, limit) = (node.name.clone(), ADDRESSES_MAX);
            Err(DescriptionError::TooManyAddresses { node, key, count, limit })
        }
    }
}

fn address_of_one_node(node: &Node, key: &str, address: &SocketAddr) -> Result<(), DescriptionError> {
    if is_dialable(address) {
        return Ok(());
    }
    let (node, key, value) = (node.name.clone(), key.to_owned(), address.to_string());
    Err(DescriptionError::Address { node, key, value })
}

/// Whether an address and port can be those of one machine.
pub(super) fn is_dialable(address: &SocketAddr) -> bool {
    let ip = address.ip();
    let of_no_one = match ip {
        IpAddr::V4(ip) => ip.is_broadcast(),
        // Its scope is an interface's number, which is another on the other node.
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !of_no_one
}

fn check_networks(one: &Node, other: &Node) -> Result<(), DescriptionError> {
    for (node, with) in [(one, other), (other, one)] {
        for (network, address) in &with.heartbeat {
            match node.heartbeat.get(network) {
                None => {
                    let (node, network) = (node.name.clone(), network.clone());
                    return Err(DescriptionError::NetworkMissing { node, network });
                }
                Some(own) if own.is_ipv4() != address.is_ipv4() => {
                    return Err(DescriptionError::NetworkMixed { network: network.clone() });
                }
                Some(_) => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
