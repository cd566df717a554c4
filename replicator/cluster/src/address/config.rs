//! The addresses of a module as they are configured.

use std::net::IpAddr;

use ipnet::IpNet;

use super::AddressError;

/// One address of a module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressConfig {
    /// The address and the length of its subnet's prefix, like `10.0.0.9/24` or `fd00::9/64`.
    pub address: IpNet,
    /// Name of the interface that gets it. Without: the one that has an address of a subnet in which this address lies.
    pub interface: Option<String>,
    /// Ask the LAN whether somebody else has the address before it is taken.
    pub probe: bool,
    /// Of a v6 address: whether the node's own connections may go out from it. While an address is held that may, the kernel prefers it to
    /// the node's own (it was added last, and the choice by RFC 6724 is a tie), and connections that went out so are reset when it is given
    /// up: the cluster's own among them, if they are not bound. A v4 address in the node's own subnet is never chosen.
    pub outgoing: bool,
}

/// Whether a service can have these addresses.
///
/// # Errors
/// [`AddressError::NotForAService`], [`AddressError::Twice`].
pub(super) fn validate(config: &[AddressConfig]) -> Result<(), AddressError> {
    for (number, one) in config.iter().enumerate() {
        let address = one.address.addr();
        let what = match address {
            IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
            IpAddr::V4(v4) => {
                let net = one.address.prefix_len() < 31;
                let edge = net && (one.address.network() == address || one.address.broadcast() == address);
                (edge || v4.octets()[0] == 0).then_some("the address of a subnet or of all its hosts")
            }
            IpAddr::V6(v6) => v6.to_ipv4_mapped().map(|_| "an IPv4 address in IPv6 form"),
        };
        let what = match address {
            _ if address.is_unspecified() => Some("the unspecified address"),
            _ if address.is_loopback() => Some("a loopback address"),
            _ if address.is_multicast() => Some("a multicast address"),
            _ => what,
        };
        if let Some(what) = what {
            return Err(AddressError::NotForAService { address, what });
        }
        if config.iter().take(number).any(|earlier| earlier.address.addr() == address) {
            return Err(AddressError::Twice { address });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(addresses: &[&str]) -> Result<(), AddressError> {
        let one = |address: &&str| AddressConfig {
            address: address.parse().unwrap(),
            interface: None,
            probe: true,
            outgoing: false,
        };
        validate(&addresses.iter().map(one).collect::<Vec<_>>())
    }

    #[test]
    fn what_clients_can_connect_to() {
        verdict(&["10.0.0.9/24", "10.0.0.0/32", "10.0.0.1/31", "fd00::9/64", "fe80::9/64", "fd00::/127"])
            .unwrap();
    }

    #[test]
    fn what_they_cannot() {
        for address in [
            "0.0.0.0/0",
            "0.1.2.3/8",
            "127.0.0.2/8",
            "224.0.0.1/24",
            "255.255.255.255/32",
            "10.0.0.0/24",
            "10.0.0.255/24",
            "::/64",
            "::1/128",
            "ff02::1/64",
            "::ffff:10.0.0.9/128",
        ] {
            let verdict = verdict(&[address]);
            assert!(matches!(verdict, Err(AddressError::NotForAService { .. })), "{address}: {verdict:?}");
        }
    }

    #[test]
    fn the_same_one_twice() {
        let verdict = verdict(&["10.0.0.9/24", "fd00::9/64", "10.0.0.9/32"]);
        assert!(matches!(verdict, Err(AddressError::Twice { .. })), "{verdict:?}");
    }
}
