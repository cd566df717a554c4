//! Places for those who have not shown yet who they are: few for all, fewer for each address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts who is being looked at. A stranger that fills its own places does not fill the peer's.
#[derive(Debug)]
pub(super) struct Places {
    taken: Mutex<HashMap<IpAddr, usize>>,
    all: usize,
    each: usize,
}

/// A place; free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    from: IpAddr,
}

impl Places {
    pub(super) fn new(all: usize, each: usize) -> Arc<Places> {
        Arc::new(Places { taken: Mutex::default(), all, each })
    }

    /// A place for this address, if there is one.
    pub(super) fn take(self: &Arc<Places>, from: IpAddr) -> Option<Place> {
        // A mapped v4 address is the same host.
        let from = from.to_canonical();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let own = taken.get(&from).copied().unwrap_or(0);
        if all >= self.all || own >= self.each {
            return None;
        }
        taken.insert(from, own + 1);
        Some(Place { places: self.clone(), from })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Places;

    #[test]
    fn one_address_does_not_take_the_places_of_another() {
        let places = Places::new(3, 2);
        let (stranger, peer) = ("10.0.0.66".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let first = places.take(stranger);
        let second = places.take("::ffff:10.0.0.66".parse().unwrap());
        assert!(first.is_some() && second.is_some());
        assert!(places.take(stranger).is_none());
        let third = places.take(peer);
        assert!(third.is_some());
        assert!(places.take(peer).is_none(), "the sum is bounded, too");
        drop(first);
        assert!(places.take(stranger).is_some());
        drop((second, third));
        assert!(places.taken.lock().unwrap().is_empty(), "addresses that left are forgotten");
    }
}
