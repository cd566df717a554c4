//! Who may begin a handshake: bounds on what strangers can cost. No clock of its own, no I/O.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::acceptor::Limits;

/// Addresses that are remembered; beyond that, the ones without a handshake under way that were quiet longest go.
const ADDRESSES_MAX: usize = 1024;

/// Why a connection is closed before its first byte is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turned {
    /// As many handshakes as allowed are under way, in all or from this address.
    Busy,
    /// This address tries too often.
    TooOften,
}

struct Visitor {
    /// Handshakes under way.
    current: usize,
    /// Attempts left (a token bucket), as of `updated`.
    attempts: f64,
    updated: Instant,
}

/// Keeps count.
pub(super) struct Admission {
    limits: Limits,
    current: usize,
    visitors: HashMap<IpAddr, Visitor>,
}

impl Admission {
    pub(super) fn new(limits: Limits) -> Admission {
        Admission { limits, current: 0, visitors: HashMap::new() }
    }

    /// A connection came. If it is let in, [`Admission::leave`] must follow.
    pub(super) fn enter(&mut self, address: IpAddr, now: Instant) -> Result<(), Turned> {
        if self.current >= self.limits.concurrent {
            return Err(Turned::Busy);
        }
        if self.visitors.len() >= ADDRESSES_MAX && !self.visitors.contains_key(&address) {
            self.forget_one();
        }
        let limits = self.limits;
        let burst = f64::from(limits.burst);
        let visitor = self.visitors.entry(address).or_insert_with(|| Visitor {
            current: 0,
            attempts: burst,
            updated: now,
        });
        let passed = now.saturating_duration_since(visitor.updated).as_secs_f64();
        visitor.attempts = (visitor.attempts + passed * limits.per_second).min(burst);
        visitor.updated = now;
        if visitor.current >= limits.concurrent_per_address {
            return Err(Turned::Busy);
        }
        if visitor.attempts < 1.0 {
            return Err(Turned::TooOften);
        }
        visitor.attempts -= 1.0;
        visitor.current += 1;
        self.current += 1;
        Ok(())
    }

    /// A handshake is over. A member gets its attempts back: reconnecting often is its right.
    pub(super) fn leave(&mut self, address: IpAddr, member: bool) {
        self.current = self.current.saturating_sub(1);
        if let Some(visitor) = self.visitors.get_mut(&address) {
            visitor.current = visitor.current.saturating_sub(1);
            if member {
                visitor.attempts = f64::from(self.limits.burst);
            }
        }
    }

    fn forget_one(&mut self) {
        let quiet = self.visitors.iter().filter(|(_, visitor)| visitor.current == 0);
        if let Some(address) = quiet.min_by_key(|(_, visitor)| visitor.updated).map(|(address, _)| *address) {
            self.visitors.remove(&address);
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            concurrent: 16,
            concurrent_per_address: 4,
            per_second: 4.0,
            burst: 16,
            linger: Duration::from_millis(100),
        }
    }
}
