//! Two network namespaces joined by a cable.
//!
//! Only the network is apart: mounts stay common, so that what a node mounts is seen by everybody here. Addresses and
//! device names exist inside the namespaces only, so any number of labs can run beside each other.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{exec, place::Place, wait};
use crate::setup;

const DIRECTORY: &str = "/run/netns";
/// The veth device's name on both sides.
const DEVICE: &str = "link0";

/// One network namespace, deleted when dropped, with everything that still runs in it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    /// Address of this side of the cable.
    pub address: IpAddr,
}

/// Two joined namespaces.
#[derive(Debug)]
pub struct Pair {
    /// The primary's side.
    pub a: Namespace,
    /// The secondary's side.
    pub b: Namespace,
}

impl Pair {
    /// Make both and the cable between them.
    ///
    /// # Errors
    /// ip(8) failed.
    pub fn new(place: &Place) -> Result<Pair> {
        let a = Namespace::new(place.namespace("a"), Ipv4Addr::new(10, 77, 0, 1))?;
        let b = Namespace::new(place.namespace("b"), Ipv4Addr::new(10, 77, 0, 2))?;
        let cable = ["link", "add", DEVICE, "type", "veth", "peer", "name", DEVICE, "netns", &b.name];
        ip(&a.name, &cable)?;
        for side in [&a, &b] {
            let address = format!("{}/24", side.address);
            ip(&side.name, &["address", "add", &address, "dev", DEVICE])?;
            ip(&side.name, &["link", "set", "lo", "up"])?;
            ip(&side.name, &["link", "set", DEVICE, "up"])?;
        }
        Ok(Pair { a, b })
    }
}

/// The device's name on the second network of the two nodes of a [`Lan`].
const SECOND: &str = "link1";

/// A network of several hosts: a switch (a bridge in a namespace of its own), and a second cable between the first two.
#[derive(Debug)]
pub struct Lan {
    /// The hosts, in the order asked for: 10.77.0.1, 10.77.0.2, ...
    pub hosts: Vec<Namespace>,
    switch: Namespace,
}

impl Lan {
    /// Make one. The first two hosts are joined by a second network, too: 10.78.0.1 and 10.78.0.2.
    ///
    /// # Errors
    /// ip(8) failed.
    pub fn new(place: &Place, names: &[&str]) -> Result<Lan> {
        let switch = Namespace::new(place.namespace("sw"), Ipv4Addr::UNSPECIFIED)?;
        ip(&switch.name, &["link", "add", "bridge0", "type", "bridge"])?;
        ip(&switch.name, &["link", "set", "bridge0", "up"])?;
        let mut lan = Lan { hosts: Vec::new(), switch };
        for (number, name) in (1..).zip(names) {
            let host = Namespace::new(place.namespace(name), Ipv4Addr::new(10, 77, 0, number))?;
            let port = format!("port{number}");
            let cable =
                ["link", "add", DEVICE, "type", "veth", "peer", "name", &port, "netns", &lan.switch.name];
            ip(&host.name, &cable)?;
            ip(&lan.switch.name, &["link", "set", &port, "master", "bridge0", "up"])?;
            ip(&host.name, &["link", "set", "lo", "up"])?;
            ip(&host.name, &["address", "add", &format!("{}/24", host.address), "dev", DEVICE])?;
            ip(&host.name, &["link", "set", DEVICE, "up"])?;
            lan.hosts.push(host);
        }
        if let [a, b, ..] = lan.hosts.as_slice() {
            let cable = ["link", "add", SECOND, "type", "veth", "peer", "name", SECOND, "netns", &b.name];
            ip(&a.name, &cable)?;
            for (number, host) in (1..).zip([a, b]) {
                let address = format!("10.78.0.{number}/24");
                ip(&host.name, &["address", "add", &address, "dev", SECOND])?;
                ip(&host.name, &["link", "set", SECOND, "up"])?;
            }
        }
        Ok(lan)
    }
}

impl Namespace {
    /// Drop what a rule of nft(8) says, in both directions, until [`Namespace::unblock`]: `ip saddr 10.77.0.1`, `udp dport 7500`, ...
    /// `incoming` and `outgoing` are matches; an empty one drops nothing in that direction.
    ///
    /// # Errors
    /// nft(8) failed.
    pub fn block(&self, incoming: &[&str], outgoing: &[&str]) -> Result<()> {
        let mut rules = String::from("add table inet cut; ");
        for (chain, matches) in [("input", incoming), ("output", outgoing)] {
            rules += &format!("add chain inet cut {chain} {{ type filter hook {chain} priority 0; }}; ");
            for rule in matches {
                rules += &format!("add rule inet cut {chain} {rule} drop; ");
            }
        }
        self.nft(&rules)
    }

    /// Let everything pass again.
    ///
    /// # Errors
    /// nft(8) failed.
    pub fn unblock(&self) -> Result<()> {
        self.nft("add table inet cut; delete table inet cut")
    }

    fn nft(&self, rules: &str) -> Result<()> {
        let mut command = Command::new(setup::program("nft"));
        command.arg(rules);
        self.enter(&mut command)?;
        exec::run(&mut command)
    }

    fn new(name: String, address: Ipv4Addr) -> Result<Namespace> {
        exec::run(Command::new(setup::program("ip")).args(["netns", "add", &name]))?;
        Ok(Namespace { name, address: IpAddr::V4(address) })
    }

    /// Its name for `ip netns exec`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An address on this side.
    #[must_use]
    pub fn socket(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, port)
    }

    /// Let the command run in this namespace (network only).
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn enter(&self, command: &mut Command) -> Result<()> {
        let file = File::open(self.path()).with_context(|| format!("open namespace {}", self.name))?;
        // SAFETY: between fork and exec only setns(2) is called, which is async-signal-safe; `file` is moved into the
        // closure and open as long as it.
        unsafe {
            command.pre_exec(move || {
                if libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        Ok(())
    }

    /// Run `work` on a thread of its own inside this namespace (sockets it makes belong to it for good).
    ///
    /// # Errors
    /// The namespace cannot be entered, or `work` failed.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = File::open(self.path()).with_context(|| format!("open namespace {}", self.name))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                nix::sched::setns(&file, nix::sched::CloneFlags::CLONE_NEWNET)
                    .context("enter the namespace")?;
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Take the cable out or put it back.
    ///
    /// # Errors
    /// ip(8) failed.
    pub fn set_link(&self, up: bool) -> Result<()> {
        ip(&self.name, &["link", "set", DEVICE, if up { "up" } else { "down" }])
    }

    /// Answer every TCP segment that arrives here with a reset (`true`), or let them pass again.
    ///
    /// # Errors
    /// nft(8) failed.
    pub fn reset_connections(&self, on: bool) -> Result<()> {
        let rules = if on {
            "add table ip lab; add chain ip lab input { type filter hook input priority 0; }; \
             add rule ip lab input meta l4proto tcp reject with tcp reset"
        } else {
            "delete table ip lab"
        };
        self.nft(rules)
    }

    /// Whether an address is there.
    ///
    /// # Errors
    /// ip(8) failed.
    pub fn has_address(&self, address: IpAddr) -> Result<bool> {
        let mut command = Command::new(setup::program("ip"));
        command.args(["-n", &self.name, "-o", "address", "show", "to", &address.to_string()]);
        Ok(!exec::output(&mut command)?.trim().is_empty())
    }

    /// Take an address away, if it is there.
    pub fn remove_address(&self, address: IpAddr) {
        let _ = ip(&self.name, &["address", "del", &format!("{address}/24"), "dev", DEVICE]);
    }

    /// Kill -9 everything that runs in it, and wait until it is gone.
    ///
    /// # Errors
    /// Something survived for 20 seconds.
    pub fn kill_all(&self) -> Result<()> {
        kill_in(&self.path())
    }

    /// Stop everything that runs in it (SIGSTOP).
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn pause_all(&self) -> Result<()> {
        self.signal_all(Signal::SIGSTOP)
    }

    /// Let it go on.
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn resume_all(&self) -> Result<()> {
        self.signal_all(Signal::SIGCONT)
    }

    fn signal_all(&self, signal: Signal) -> Result<()> {
        let namespace = fs::metadata(self.path()).context("look at the namespace")?;
        for pid in processes(namespace.dev(), namespace.ino()) {
            // One that ended meanwhile needs no signal.
            let _ = kill(pid, signal);
        }
        Ok(())
    }

    fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Names of all network namespaces of this machine.
#[must_use]
pub fn names() -> Vec<String> {
    let Ok(entries) = fs::read_dir(DIRECTORY) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Kill what runs in a namespace and delete it.
pub fn remove(name: &str) {
    if let Err(error) = kill_in(&Path::new(DIRECTORY).join(name)) {
        eprintln!("warning: namespace {name}: {error:#}");
    }
    let _ = exec::run(Command::new(setup::program("ip")).args(["netns", "delete", name]));
}

fn ip(namespace: &str, arguments: &[&str]) -> Result<()> {
    exec::run(Command::new(setup::program("ip")).args(["-n", namespace]).args(arguments))
}

fn kill_in(path: &Path) -> Result<()> {
    let Ok(namespace) = fs::metadata(path) else { return Ok(()) };
    wait::until_uninterrupted("processes of a namespace to end", Duration::from_secs(20), || {
        let left = processes(namespace.dev(), namespace.ino());
        for pid in &left {
            let _ = kill(*pid, Signal::SIGKILL);
        }
        Ok(left.is_empty().then_some(()))
    })
}

/// Processes whose network namespace is this one. Zombies count as gone.
fn processes(device: u64, inode: u64) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            if pid == std::process::id() as i32 {
                return None;
            }
            // A zombie has no namespaces any more: the link cannot be followed.
            let namespace = fs::metadata(entry.path().join("ns/net")).ok()?;
            (namespace.dev() == device && namespace.ino() == inode).then_some(Pid::from_raw(pid))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::lab::proxy::Proxy;

    fn pair() -> Option<(Place, Pair)> {
        if !nix::unistd::geteuid().is_root() {
            println!("not run: needs root");
            return None;
        }
        let place = Place::new().unwrap();
        let pair = Pair::new(&place).unwrap();
        Some((place, pair))
    }

    /// Send through `port` from side a and return what arrives at a listener on side b.
    fn send(pair: &Pair, listener: &TcpListener, port: SocketAddr, words: &[u8]) -> Result<Vec<u8>> {
        std::thread::scope(|scope| {
            let sent = scope.spawn(move || {
                pair.a.within(|| {
                    let mut stream = TcpStream::connect_timeout(&port, Duration::from_secs(5))?;
                    Ok(stream.write_all(words)?)
                })
            });
            let mut found = Vec::new();
            listener.set_nonblocking(true)?;
            let accepted = wait::until("a connection", Duration::from_secs(6), || match listener.accept() {
                Ok((stream, _)) => Ok(Some(Some(stream))),
                Err(_) if sent.is_finished() => Ok(Some(None)),
                Err(_) => Ok(None),
            })?;
            if let Some(mut stream) = accepted {
                stream.set_nonblocking(false)?;
                stream.read_to_end(&mut found)?;
            }
            sent.join().unwrap().map(|()| found)
        })
    }

    #[test]
    fn two_namespaces_talk_until_the_cable_is_out_or_reset() {
        let Some((_place, pair)) = pair() else { return };
        let port = pair.b.socket(7000);
        let listener = pair.b.within(|| Ok(TcpListener::bind(port)?)).unwrap();
        assert_eq!(send(&pair, &listener, port, b"hello").unwrap(), b"hello");
        pair.b.reset_connections(true).unwrap();
        assert!(send(&pair, &listener, port, b"reset").is_err());
        pair.b.reset_connections(false).unwrap();
        pair.b.set_link(false).unwrap();
        assert!(send(&pair, &listener, port, b"no cable").is_err());
        pair.b.set_link(true).unwrap();
        assert_eq!(send(&pair, &listener, port, b"again").unwrap(), b"again");
    }

    #[test]
    fn a_proxy_damages_the_byte_it_is_told_to() {
        let Some((_place, pair)) = pair() else { return };
        let port = pair.b.socket(7000);
        let listener = pair.b.within(|| Ok(TcpListener::bind(port)?)).unwrap();
        let mut proxy = Proxy::start(&pair.b, 7001, port).unwrap();
        assert_eq!(send(&pair, &listener, proxy.address, b"whole").unwrap(), b"whole");
        proxy.damage_after(2);
        let mut expected = *b"damaged";
        expected[2] ^= 0x10;
        assert_eq!(send(&pair, &listener, proxy.address, b"damaged").unwrap(), expected);
        assert_eq!((proxy.damaged(), proxy.connections()), (1, 2));
        proxy.stop(&pair.b).unwrap();
    }
}
