//! The service's addresses: taken by one node, announced, watched, given up.
//!
//! ```text
//!  take      look for the interface -> ask the LAN whether somebody has the address (3 probes in 200 ms)
//!            -> note in the state directory -> add -> announce
//!  held      announce at 0, 50, 100 ms, 1, 2, 5, 10 s, then every 60 s, and anew when the carrier or the hardware address changes,
//!            when somebody else claims the address, when the daemon asks
//!  give up   stop announcing -> reset the address's TCP connections -> remove -> reset what came between -> take the note away
//! ```
//!
//! [`Addresses::give_up`] is synchronous and needs no new descriptor: it is called before authority is given up, and must work on a
//! machine that has run out of everything. An address that this edge added carries a mark of its own in the kernel (IFA_PROTO 0x72, from
//! Linux 5.18 on) and is noted in a file before it is added: what a killed daemon leaves behind is found by either.
//!
//! The packets are Ethernet's. On an interface without Ethernet addresses (loopback, a tunnel) an address is added and removed, but
//! neither probed nor announced; where the network is routed, or a cloud's, no announcement moves an address and the health URL is the
//! way.

mod addresses;
mod config;
mod connections;
mod error;
mod interface;
mod keeper;
mod netlink;
mod outcome;
mod packet;
mod packet_socket;
mod probe;
mod record;
mod removal;
mod schedule;
mod watch;

use std::fmt;
use std::net::IpAddr;

pub use addresses::Addresses;
pub use config::AddressConfig;
pub use connections::Reset;
pub use error::AddressError;
pub use outcome::{AddressStatus, GivenUp, Recovered, Taken, Unprobed};

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What happens to addresses that are held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AddressEvent {
    /// Somebody else says to have the address. Told at most once a second for each address.
    Rival {
        /// The address claimed.
        address: IpAddr,
        /// Who claims it.
        mac: Mac,
    },
    /// The address is no longer on this node, and not because of [`Addresses::give_up`].
    Lost {
        /// The address that is gone.
        address: IpAddr,
    },
    /// The interface of an address lost its carrier (or was set down), or has it again.
    Carrier {
        /// The interface's name.
        interface: String,
        /// Whether it has one now.
        up: bool,
    },
}
