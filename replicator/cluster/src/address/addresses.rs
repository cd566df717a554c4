//! All addresses of one module, taken and given up together.

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::{JoinHandle, JoinSet};

use super::config::validate;
use super::interface::{self, Place};
use super::keeper::{self, Kept, Live};
use super::netlink::{Entry, Link, Netlink};
use super::outcome::{AddressStatus, GivenUp, Recovered, Taken, Unprobed};
use super::packet_socket::PacketSocket;
use super::probe::{self, Answer};
use super::record::{Noted, Record};
use super::removal::{self, Ours};
use super::watch::Watch;
use super::{AddressConfig, AddressError, AddressEvent};

/// The addresses of a module. While they are held they are announced and watched, on the runtime in which they were taken.
///
/// Dropping it gives them up.
pub struct Addresses {
    config: Vec<AddressConfig>,
    record: Record,
    events: UnboundedSender<AddressEvent>,
    state: Mutex<State>,
}

pub(super) struct State {
    /// Counts orders: a `take` that finds another number after it asked the LAN was overtaken.
    turn: u64,
    held: Option<Held>,
    pub(super) route: Netlink,
    pub(super) diagnosis: Netlink,
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

impl Addresses {
    /// The addresses of a module, none of them taken. `state_dir`: this module's own directory, made if it is missing; a directory that
    /// does not survive a restart of the machine is enough. `events` gets what happens to addresses that are held.
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
        let removed = removal::remove(&mut state, &self.config, &self.record, &[])?.removed;
        let (links, present) = state.look()?;
        let foreign: Vec<(IpNet, String)> = present
            .iter()
            .filter(|entry| self.config.iter().any(|one| one.address.addr() == entry.address))
            .map(|entry| (net(entry), name_of(&links, entry.index)))
            .collect();
        for address in &removed {
            tracing::warn!(%address, "an address that an earlier daemon left behind was removed");
        }
        for (address, interface) in &foreign {
            tracing::error!(%address, interface, "the service's address is here, and not by the cluster: \
                take it out of the system's network configuration, or give the service another");
        }
        Ok(Recovered { removed, foreign })
    }

    /// Take all addresses of the module. Addresses that are held already are kept, and announced anew.
    ///
    /// `probe`: ask the LAN first, for 200 ms, whether somebody has one of them (where the configuration wants it, too). `false` if it
    /// is known that the other node is gone (fenced).
    ///
    /// # Errors
    /// [`AddressError::Duplicate`], [`AddressError::Foreign`] and all others but those of removal and state. Of the addresses that were
    /// not held before none is added then.
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

    /// Give all addresses up, whether they are held or left over: when this returns without an error this node has none that the cluster
    /// added, and sends no announcement. Blocks; within a second unless the kernel is stuck.
    ///
    /// # Errors
    /// [`AddressError::Remove`]: one at least is still there; all others are gone. [`AddressError::Netlink`]. It may be called again.
    pub fn give_up(&self) -> Result<GivenUp, AddressError> {
        let mut state = self.state();
        state.turn += 1;
        let entries = state.entries();
        let held = state.held.take();
        if let Some(held) = &held {
            held.end();
        }
        let given_up = removal::remove(&mut state, &self.config, &self.record, &entries);
        match &given_up {
            Ok(GivenUp { removed, reset }) if held.is_some() => {
                tracing::info!(?removed, ?reset, "addresses given up");
            }
            _ => {}
        }
        given_up
    }

    /// Announce all addresses that are held anew, from the start of the schedule: after anything that may have let others believe
    /// otherwise.
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

    /// Where the addresses go, under a new turn.
    fn begin(&self) -> Result<(u64, Vec<Place>, Vec<Entry>), AddressError> {
        let mut state = self.state();
        state.turn += 1;
        let (links, present) = state.look()?;
        let held = state.entries();
        let ours = Ours::of(&self.config, &self.record, &held);
        if let Some(entry) = present.iter().find(|entry| ours.is_foreign(entry)) {
            let interface = name_of(&links, entry.index);
            return Err(AddressError::Foreign { address: entry.address, interface });
        }
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
        let earlier = self.note(&kept);
        let mut added = Vec::new();
        for kept in &kept {
            let Place { entry, link, manner, .. } = &kept.place;
            if let Err(source) = state.route.add(entry, *manner) {
                self.roll_back(&mut state, &added, &earlier);
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

    /// Note that these are about to be added; what was noted before. A state directory that is full must not keep the service down: the
    /// marks in the kernel tell as much.
    fn note(&self, kept: &[Arc<Kept>]) -> Vec<Noted> {
        let earlier = self.record.read();
        let mut noted = earlier.clone();
        for one in kept.iter().map(|kept| Noted::from(&kept.place.entry)) {
            if !noted.contains(&one) {
                noted.push(one);
            }
        }
        if let Err(error) = self.record.write(&noted) {
            tracing::warn!(%error, "cannot note the addresses before they are added");
        }
        earlier
    }

    /// As it was before. What cannot be removed again stays noted.
    fn roll_back(&self, state: &mut State, added: &[Entry], earlier: &[Noted]) {
        let mut noted = earlier.to_vec();
        for entry in added {
            if let Err(error) = state.route.remove(entry) {
                tracing::error!(address = %entry.address, %error,
                    "cannot remove an address again that is not to be here; remove it by hand");
                noted.push(Noted::from(entry));
            }
        }
        if noted.is_empty() {
            removal::clear(&self.record);
        } else if let Err(error) = self.record.write(&noted) {
            tracing::warn!(%error, "cannot note which addresses are here");
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
    /// What is held, as it was added.
    fn entries(&self) -> Vec<Entry> {
        self.held.iter().flat_map(|held| &held.kept).map(|kept| kept.place.entry).collect()
    }

    /// The addresses of this node.
    pub(super) fn present(&mut self) -> Result<Vec<Entry>, AddressError> {
        let operation = "list the addresses";
        self.route.addresses().map_err(|source| AddressError::Netlink { operation, source })
    }

    /// The interfaces and addresses of this node.
    pub(super) fn look(&mut self) -> Result<(Vec<Link>, Vec<Entry>), AddressError> {
        let netlink = |operation| move |source: io::Error| AddressError::Netlink { operation, source };
        let links = self.route.links().map_err(netlink("list the interfaces"))?;
        Ok((links, self.present()?))
    }
}

/// Same address on the same interface, whatever the prefix.
pub(super) fn is_among(entries: &[Entry], entry: &Entry) -> bool {
    entries.iter().any(|other| other.index == entry.index && other.address == entry.address)
}

pub(super) fn net(entry: &Entry) -> IpNet {
    IpNet::new(entry.address, entry.prefix).unwrap_or_else(|_| entry.address.into())
}

pub(super) fn name_of(links: &[Link], index: u32) -> String {
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
