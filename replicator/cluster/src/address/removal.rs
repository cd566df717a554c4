//! Taking addresses away: those of the cluster and no others.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::addresses::{State, is_among, name_of, net};
use super::connections;
use super::netlink::Entry;
use super::outcome::GivenUp;
use super::record::{Noted, Record};
use super::{AddressConfig, AddressError};

/// Longest time that resetting connections may hold up the removal of the addresses, and longest time for the rest after it.
const RESET_BEFORE: Duration = Duration::from_millis(250);
const RESET_AFTER: Duration = Duration::from_millis(250);

/// Tells the cluster's addresses from those that the system's configuration, or an operator, added.
#[derive(Debug)]
pub(super) struct Ours<'a> {
    config: &'a [AddressConfig],
    held: &'a [Entry],
    noted: Vec<Noted>,
}

impl<'a> Ours<'a> {
    /// What is held is ours, what is noted, and what is configured and carries the mark.
    pub fn of(config: &'a [AddressConfig], record: &Record, held: &'a [Entry]) -> Ours<'a> {
        Ours { config, held, noted: record.read() }
    }

    fn is_configured(&self, entry: &Entry) -> bool {
        self.config.iter().any(|one| one.address.addr() == entry.address)
    }

    /// Whether the cluster added it, for this module.
    pub fn is_ours(&self, entry: &Entry) -> bool {
        is_among(self.held, entry)
            || self.noted.contains(&Noted::from(entry))
            || (entry.marked && self.is_configured(entry))
    }

    /// Whether it is an address of the module that somebody else added.
    pub fn is_foreign(&self, entry: &Entry) -> bool {
        self.is_configured(entry) && !self.is_ours(entry)
    }
}

/// Remove all that are ours, with their connections.
pub(super) fn remove(
    state: &mut State,
    config: &[AddressConfig],
    record: &Record,
    held: &[Entry],
) -> Result<GivenUp, AddressError> {
    let present = match state.present() {
        Ok(present) => present,
        // What is known by heart can be removed still.
        Err(error) if !held.is_empty() => {
            tracing::error!(%error, "cannot look which addresses are there");
            held.to_vec()
        }
        Err(error) => return Err(error),
    };
    let ours = Ours::of(config, record, held);
    let entries: Vec<Entry> = present.into_iter().filter(|entry| ours.is_ours(entry)).collect();
    let addresses: BTreeSet<IpAddr> = entries.iter().map(|entry| entry.address).collect();
    let addresses: Vec<IpAddr> = addresses.into_iter().collect();
    // The resets themselves leave by the address.
    let before = connections::reset(&mut state.diagnosis, &addresses, Instant::now() + RESET_BEFORE);
    let mut refused: Option<(Entry, io::Error)> = None;
    let mut removed = Vec::new();
    for entry in entries {
        match state.route.remove(&entry) {
            Ok(()) => removed.push(net(&entry)),
            Err(source) => refused = refused.or(Some((entry, source))),
        }
    }
    let after = connections::reset(&mut state.diagnosis, &addresses, Instant::now() + RESET_AFTER);
    let Some((entry, source)) = refused else {
        clear(record);
        return Ok(GivenUp { removed, reset: before.and(after) });
    };
    let interface =
        state.look().map_or_else(|_| entry.index.to_string(), |(links, _)| name_of(&links, entry.index));
    Err(AddressError::Remove { address: entry.address, interface, source })
}

/// Take the note away. One that stays names what is no longer there, and does no harm.
pub(super) fn clear(record: &Record) {
    if let Err(error) = record.clear() {
        tracing::warn!(%error, "cannot take away the note of added addresses");
    }
}
