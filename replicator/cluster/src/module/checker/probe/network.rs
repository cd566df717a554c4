//! Whether an interface has a carrier, and an address is there.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

pub(super) fn interface(name: &str) -> Result<(), String> {
    let place = Path::new("/sys/class/net").join(name);
    if !place.exists() {
        return Err(format!("there is no interface {name}"));
    }
    // It cannot be read while the interface is down (EINVAL).
    match fs::read_to_string(place.join("carrier")) {
        Ok(carrier) if carrier.trim() == "1" => Ok(()),
        Ok(_) => Err(format!("{name} has no carrier")),
        Err(_) => Err(format!("{name} is down")),
    }
}

pub(super) fn address(wanted: IpAddr, on: Option<&str>) -> Result<(), String> {
    let addresses = getifaddrs().map_err(|errno| format!("cannot list the addresses: {}", errno.desc()))?;
    let mut elsewhere = None;
    for found in addresses {
        if found.address.as_ref().and_then(ip) != Some(wanted) {
            continue;
        }
        if on.is_none_or(|interface| interface == found.interface_name) {
            return Ok(());
        }
        elsewhere = Some(found.interface_name);
    }
    match elsewhere {
        Some(interface) => Err(format!("{wanted} is on {interface}")),
        None => Err(format!("{wanted} is not on this node")),
    }
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}
