//! All addresses of one module, taken and given up together.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::{JoinHandle, JoinSet};

use super::connections::{self, Reset};
use super::interface::{self, Place};
use super::keeper::{self, Kept, Live};
use super::netlink::{Entry, Link, Netlink};
use super::packet_socket::PacketSocket;
use super::probe::{self, Answer};
use super::record::{Noted, Record};
use super::watch::Watch;
use super::{AddressConfig, AddressError, AddressEvent, Mac};

/// Longest time that resetting connections may hold up the removal of the addresses, and longest time for the rest after it.
const RESET_BEFORE: Duration = Duration::from_millis(250);
const RESET_AFTER: Duration = Duration::from_millis(250);

/// The addresses of a module. While they are held they are announced and watched, on the runtime in which they were taken.
///
/// Dropping it gives them up.
pub struct Addresses {
    config: Vec<AddressConfig>,
    record: Record,
    events: UnboundedSender<AddressEvent>,
    state: Mutex<State>,
}

struct State {
    /// Counts orders: a `take` that finds another number after it asked the LAN was overtaken.
    turn: u64,
    held: Option<Held>,
    route: Netlink,
    diagnosis: Netlink,
}

struct Held {
    kept: Vec<Arc<Kept>>,
    live: Arc<Live>,
    tasks: Vec<JoinHandle<()>>,
}

impl Held {
    /// After this nothing is announced or told any more.
    fn end(&self) {
        self.live.end();
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

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
    /// Addresses that were there and are gone.
    pub removed: Vec<IpNet>,
    /// What became of their TCP connections.
    pub reset: Reset,
}

/// What an earlier daemon had left behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// Addresses that it had added, now removed.
    pub removed: Vec<IpNet>,
    /// Configured addresses that are on this node though no daemon added them, with their interfaces. They were left alone. Either the system's
    /// network configuration has them, and must not, or the node's own address is configured as the service's.
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

impl Addresses {
    /// The addresses of a module, none of them taken. `state_dir`: this module's own directory, made if it is missing; a directory that does not
    /// survive a restart of the machine is enough. `events` gets what happens to addresses that are held.
    ///
    /// # Errors
    /// [`AddressError::NotForAService`], [`AddressError::Twice`], [`AddressError::State`], [`AddressError::Netlink`].
    pub fn new(
        config: Vec<AddressConfig>,
        state_dir: &Path,
        events: UnboundedSender<AddressEvent>,
    ) -> Result<Addresses, AddressError> {
        validate(&config)?;
        let record = Record::new(state_dir)?;
        let netlink = |operation| move |source| AddressError::Netlink { operation, source };
        let route = Netlink::route().map_err(netlink("open a socket for addresses"))?;
        let diagnosis = Netlink::diagnosis().map_err(netlink("open a socket for connections"))?;
        let state = Mutex::new(State { turn: 0, held: None, route, diagnosis });
        Ok(Addresses { config, record, events, state })
    }

    /// Whether an interface can be chosen for each address as the machine is now.
    ///
    /// # Errors
    /// [`AddressError::NoSuchInterface`], [`AddressError::NoInterface`], [`AddressError::Ambiguous`], [`AddressError::Netlink`].
    pub fn check(&self) -> Result<(), AddressError> {
        let (links, present) = self.state().look()?;
        self.config.iter().try_for_each(|one| interface::choose(one, &links, &present).map(drop))
    }

    /// Remove what an earlier daemon of this node added and did not give up. To be called before anything else is decided.
    ///
    /// # Errors
    /// [`AddressError::Remove`], [`AddressError::Netlink`].
    pub fn recover(&self) -> Result<Recovered, AddressError> {
        let mut state = self.state();
        if state.held.is_some() {
            return Ok(Recovered { removed: Vec::new(), foreign: Vec::new() });
        }
        let removed = self.remove_ours(&mut state, &[])?.removed;
        let (links, present) = state.look()?;
        let foreign = present.iter().filter(|entry| self.is_configured(entry.address));
        let foreign = foreign.map(|entry| (net(entry), name_of(&links, entry.index))).collect();
        for address in &removed {
            tracing::warn!(%address, "an address that an earlier daemon left behind was removed");
        }
        Ok(Recovered { removed, foreign })
    }

    /// Take all addresses of the module. Addresses that are held already are kept, and announced anew.
    ///
    /// `probe`: ask the LAN first, for 200 ms, whether somebody has one of them (where the configuration wants it, too). `false` if it
    /// is known that the other node is gone (fenced).
    ///
    /// # Errors
    /// [`AddressError::Duplicate`] and all others but those of removal and state. Of the addresses that were not held before none is added
    /// then.
    pub async fn take(&self, probe: bool) -> Result<Taken, AddressError> {
        let (turn, places, present) = self.begin()?;
        let live = Arc::new(Live::default());
        let mut kept = Vec::new();
        for place in places {
            kept.push(Arc::new(open(place, &live)?));
        }
        let mut unprobed = Vec::new();
        let mut asked = JoinSet::new();
        for kept in &kept {
            match why_not(kept, probe, &present) {
                Some(why) => unprobed.push((kept.place.address(), why)),
                None => drop(asked.spawn(ask(kept.clone()))),
            }
        }
        while let Some(answer) = asked.join_next().await {
            // A task that panicked has been reported; nothing is known of its address.
            answer.map_err(|_| AddressError::Overtaken)??;
        }
        let addresses = kept.iter().map(|kept| (kept.place.net(), kept.place.link.name.clone())).collect();
        self.settle(turn, kept, live, &present)?;
        tracing::info!(?addresses, ?unprobed, "addresses taken");
        Ok(Taken { addresses, unprobed })
    }

    /// Give all addresses up, whether they are held or left over: when this returns without an error this node has none of them, and
    /// sends no announcement. Blocks; within a second unless the kernel is stuck.
    ///
    /// # Errors
    /// [`AddressError::Remove`]: one at least is still there; all others are gone. [`AddressError::Netlink`]. It may be called again.
    pub fn give_up(&self) -> Result<GivenUp, AddressError> {
        let mut state = self.state();
        state.turn += 1;
        let held = state.held.take();
        if let Some(held) = &held {
            held.end();
        }
        let entries: Vec<Entry> =
            held.iter().flat_map(|held| &held.kept).map(|kept| kept.place.entry).collect();
        let given_up = self.remove_ours(&mut state, &entries);
        match &given_up {
            Ok(GivenUp { removed, reset }) if held.is_some() => {
                tracing::info!(?removed, ?reset, "addresses given up");
            }
            _ => {}
        }
        given_up
    }

    /// Announce all addresses that are held anew, from the start of the schedule: after anything that may have let others believe otherwise.
    pub fn announce(&self) {
        if let Some(held) = &self.state().held {
            held.kept.iter().for_each(|kept| kept.again.notify_one());
        }
    }

    /// The state of each address.
    ///
    /// # Errors
    /// [`AddressError::Netlink`].
    pub fn status(&self) -> Result<Vec<AddressStatus>, AddressError> {
        let mut state = self.state();
        let (links, present) = state.look()?;
        let status = |one: &AddressConfig| {
            let address = one.address.addr();
            let kept = state.held.iter().flat_map(|held| &held.kept);
            let kept = kept.into_iter().find(|kept| kept.place.address() == address);
            let place = interface::choose(one, &links, &present).ok();
            let index = kept.map(|kept| kept.place.entry.index).or(place.map(|place| place.entry.index));
            AddressStatus {
                address: one.address,
                interface: index.map(|index| name_of(&links, index)),
                held: kept.is_some(),
                present: present.iter().any(|entry| entry.address == address),
                carrier: links.iter().any(|link| Some(link.index) == index && link.carrier),
                announced: kept.map_or(0, |kept| kept.announced.load(Ordering::Relaxed)),
                rival: kept.and_then(|kept| kept.rival()),
            }
        };
        Ok(self.config.iter().map(status).collect())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_configured(&self, address: IpAddr) -> bool {
        self.config.iter().any(|one| one.address.addr() == address)
    }

    /// Where the addresses go, under a new turn.
    fn begin(&self) -> Result<(u64, Vec<Place>, Vec<Entry>), AddressError> {
        let mut state = self.state();
        state.turn += 1;
        let (links, present) = state.look()?;
        let mut places = Vec::new();
        for one in &self.config {
            let place = interface::choose(one, &links, &present)?;
            if !place.link.up {
                let interface = place.link.name;
                return Err(AddressError::InterfaceDown { address: one.address.addr(), interface });
            }
            places.push(place);
        }
        Ok((state.turn, places, present))
    }

    /// Add the addresses and begin to keep them. All or none.
    fn settle(
        &self,
        turn: u64,
        kept: Vec<Arc<Kept>>,
        live: Arc<Live>,
        before: &[Entry],
    ) -> Result<(), AddressError> {
        let mut state = self.state();
        if state.turn != turn {
            return Err(AddressError::Overtaken);
        }
        let watch = Watch::open()
            .map_err(|source| AddressError::Netlink { operation: "watch the addresses", source })?;
        self.note(&kept);
        let mut added = Vec::new();
        for kept in &kept {
            let Place { entry, link, route, .. } = &kept.place;
            if let Err(source) = state.route.add(entry, *route) {
                self.roll_back(&mut state, &added);
                let (address, interface) = (entry.address, link.name.clone());
                return Err(AddressError::Add { address, interface, source });
            }
            if !is_among(before, entry) {
                added.push(*entry);
            }
        }
        if let Some(held) = state.held.take() {
            held.end();
        }
        live.begin();
        let mut tasks = vec![tokio::spawn(watch.run(kept.clone(), self.events.clone()))];
        for kept in &kept {
            kept.announce();
            tasks.push(tokio::spawn(keeper::keep(kept.clone(), self.events.clone())));
        }
        state.held = Some(Held { kept, live, tasks });
        Ok(())
    }

    /// Note that these are about to be added. A state directory that is full must not keep the service down: the marks in the kernel tell as
    /// much.
    fn note(&self, kept: &[Arc<Kept>]) {
        let mut noted = self.record.read();
        for one in kept.iter().map(|kept| Noted::from(&kept.place.entry)) {
            if !noted.contains(&one) {
                noted.push(one);
            }
        }
        if let Err(error) = self.record.write(&noted) {
            tracing::warn!(%error, "cannot note the addresses before they are added");
        }
    }

    fn roll_back(&self, state: &mut State, added: &[Entry]) {
        for entry in added {
            if let Err(error) = state.route.remove(entry) {
                tracing::error!(address = %entry.address, %error,
                    "cannot remove an address again that is not to be here; remove it by hand");
                return;
            }
        }
        if state.held.is_none() {
            self.clear_note();
        }
    }

    fn clear_note(&self) {
        if let Err(error) = self.record.clear() {
            tracing::warn!(%error, "cannot take away the note of added addresses");
        }
    }

    /// Remove from the node what `held` names, what is noted, and what is configured and carries the mark.
    fn remove_ours(&self, state: &mut State, held: &[Entry]) -> Result<GivenUp, AddressError> {
        let noted = self.record.read();
        let present = match state.look() {
            Ok((_, present)) => present,
            // What is known by heart can be removed still.
            Err(error) if !held.is_empty() => {
                tracing::error!(%error, "cannot look which addresses are there");
                held.to_vec()
            }
            Err(error) => return Err(error),
        };
        let is_ours = |entry: &&Entry| {
            is_among(held, entry)
                || noted.contains(&Noted::from(*entry))
                || (entry.marked && self.is_configured(entry.address))
        };
        let ours: Vec<Entry> = present.iter().filter(is_ours).copied().collect();
        let addresses: BTreeSet<IpAddr> = ours.iter().map(|entry| entry.address).collect();
        let addresses: Vec<IpAddr> = addresses.into_iter().collect();
        // The resets themselves leave by the address.
        let before = connections::reset(&mut state.diagnosis, &addresses, Instant::now() + RESET_BEFORE);
        let mut refused = None;
        let mut removed = Vec::new();
        for entry in &ours {
            match state.route.remove(entry) {
                Ok(()) => removed.push(net(entry)),
                Err(source) => refused = refused.or(Some((*entry, source))),
            }
        }
        let after = connections::reset(&mut state.diagnosis, &addresses, Instant::now() + RESET_AFTER);
        match refused {
            None => {
                self.clear_note();
                Ok(GivenUp { removed, reset: before.and(after) })
            }
            Some((entry, source)) => {
                let interface =
                    state.look().map_or_else(|_| String::new(), |(links, _)| name_of(&links, entry.index));
                Err(AddressError::Remove { address: entry.address, interface, source })
            }
        }
    }
}

impl Drop for Addresses {
    fn drop(&mut self) {
        if self.state().held.is_some()
            && let Err(error) = self.give_up()
        {
            tracing::error!(%error, "the end of the daemon leaves an address behind");
        }
    }
}

impl State {
    fn look(&mut self) -> Result<(Vec<Link>, Vec<Entry>), AddressError> {
        let netlink = |operation| move |source: io::Error| AddressError::Netlink { operation, source };
        let links = self.route.links().map_err(netlink("list the interfaces"))?;
        let present = self.route.addresses().map_err(netlink("list the addresses"))?;
        Ok((links, present))
    }
}

/// Same address on the same interface, whatever the prefix.
fn is_among(entries: &[Entry], entry: &Entry) -> bool {
    entries.iter().any(|other| other.index == entry.index && other.address == entry.address)
}

fn net(entry: &Entry) -> IpNet {
    IpNet::new(entry.address, entry.prefix).unwrap_or_else(|_| entry.address.into())
}

fn name_of(links: &[Link], index: u32) -> String {
    let found = links.iter().find(|link| link.index == index);
    found.map_or_else(|| format!("interface {index}"), |link| link.name.clone())
}

fn open(place: Place, live: &Arc<Live>) -> Result<Kept, AddressError> {
    let socket = match place.link.mac {
        Some(_) => Some(PacketSocket::open(place.entry.index, place.address()).map_err(|source| {
            let interface = place.link.name.clone();
            AddressError::Packets { address: place.address(), interface, source }
        })?),
        None => None,
    };
    Ok(Kept::new(place, socket, live.clone()))
}

fn why_not(kept: &Kept, probe: bool, present: &[Entry]) -> Option<Unprobed> {
    if !probe || !kept.place.probe {
        Some(Unprobed::NotWanted)
    } else if kept.socket.is_none() {
        Some(Unprobed::NoEthernet)
    } else if present.iter().any(|entry| entry.address == kept.place.address()) {
        Some(Unprobed::AlreadyHere)
    } else if !kept.place.link.carrier {
        Some(Unprobed::NoCarrier)
    } else {
        None
    }
}

async fn ask(kept: Arc<Kept>) -> Result<(), AddressError> {
    let (Some(socket), Some(mac)) = (&kept.socket, kept.mac()) else { return Ok(()) };
    let address = kept.place.address();
    match probe::probe(&kept.place, mac, socket).await {
        Ok(Answer::Free) => Ok(()),
        Ok(Answer::Taken { mac }) => Err(AddressError::Duplicate { address, mac }),
        Err(source) => {
            Err(AddressError::Packets { address, interface: kept.place.link.name.clone(), source })
        }
    }
}

fn validate(config: &[AddressConfig]) -> Result<(), AddressError> {
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
