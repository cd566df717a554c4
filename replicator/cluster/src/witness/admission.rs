//! How many connections are open, in all and from one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts connections. What is full is closed at once: a node asks again, a stranger may not.
#[derive(Debug)]
pub(super) struct Admission {
    in_all: usize,
    from_one: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// A place of a connection; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    admission: Arc<Admission>,
    address: IpAddr,
}

impl Admission {
    /// At most `in_all` connections, and `from_one` from one address.
    pub(super) fn new(in_all: usize, from_one: usize) -> Arc<Admission> {
        Arc::new(Admission { in_all, from_one, open: Mutex::default() })
    }

    /// A place for a connection from this address, if there is one.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        // An IPv4 address is the same one whichever kind of socket it came through.
        let address = address.to_canonical();
        let mut open = self.open();
        let from_one = open.get(&address).copied().unwrap_or(0);
        if from_one >= self.from_one || open.values().sum::<usize>() >= self.in_all {
            return None;
        }
        open.insert(address, from_one + 1);
        Some(Place { admission: self.clone(), address })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Each change is one step: there is nothing half done.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.admission.open();
        match open.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_in_all_and_per_address_and_come_back() {
        let admission = Admission::new(3, 2);
        let one: IpAddr = "10.0.0.1".parse().unwrap();
        let same: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        let two: IpAddr = "10.0.0.2".parse().unwrap();
        let first = admission.admit(one).unwrap();
        let second = admission.admit(same).unwrap();
        assert!(admission.admit(one).is_none(), "from one address");
        let _third = admission.admit(two).unwrap();
        assert!(admission.admit(two).is_none(), "in all");
        drop(first);
        let _fourth = admission.admit(two).unwrap();
        drop(second);
        assert!(!admission.open().contains_key(&one), "nothing is kept of who has gone");
    }
}
