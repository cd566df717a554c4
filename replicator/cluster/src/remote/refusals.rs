//! Why a connection was refused: counted always, told now and then.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::{CertificateError, Error, OtherError};

use crate::tls::NotThePeer;

/// One complaint of each kind in this time; the others are only counted.
const QUIET: Duration = Duration::from_secs(10);

/// Kinds of refusal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Refusal {
    /// What came is not TLS.
    NotTls,
    /// TLS, but nothing that this node speaks (1.3 with the right protocol name).
    Incompatible,
    /// No certificate was shown.
    NoCertificate,
    /// The certificate is of another authority.
    OtherAuthority,
    /// The certificate has expired or is not valid yet.
    OutOfDate,
    /// The certificate is the authority's, of somebody who is not the expected peer.
    NotThePeer,
    /// The other side does not accept this node's certificate, or gave up for another reason.
    NotAccepted,
    /// The certificate, a signature or the handshake is wrong in another way.
    Invalid,
    /// The other side was not done in time.
    TooSlow,
    /// The other side left in the middle.
    Left,
    /// All places were taken.
    Crowded,
}

impl Refusal {
    /// Every kind.
    pub const ALL: [Refusal; 11] = [
        Refusal::NotTls,
        Refusal::Incompatible,
        Refusal::NoCertificate,
        Refusal::OtherAuthority,
        Refusal::OutOfDate,
        Refusal::NotThePeer,
        Refusal::NotAccepted,
        Refusal::Invalid,
        Refusal::TooSlow,
        Refusal::Left,
        Refusal::Crowded,
    ];

    /// The kind that an error of the handshake is of.
    pub(super) fn of(error: &io::Error) -> Refusal {
        match tls_error(error) {
            None => Refusal::Left,
            Some(Error::InvalidMessage(_)) => Refusal::NotTls,
            Some(Error::PeerIncompatible(_) | Error::NoApplicationProtocol) => Refusal::Incompatible,
            Some(Error::NoCertificatesPresented) => Refusal::NoCertificate,
            Some(Error::AlertReceived(_)) => Refusal::NotAccepted,
            Some(Error::InvalidCertificate(error)) => Refusal::of_certificate(error),
            Some(_) => Refusal::Invalid,
        }
    }

    fn of_certificate(error: &CertificateError) -> Refusal {
        match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Refusal::OtherAuthority,
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Refusal::OutOfDate,
            CertificateError::Other(OtherError(inner)) if inner.is::<NotThePeer>() => Refusal::NotThePeer,
            _ => Refusal::Invalid,
        }
    }
}

/// The TLS library's error inside one of I/O.
pub(super) fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// Counters, and when something was told last.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    counts: [AtomicU64; Refusal::ALL.len()],
    told: Mutex<HashMap<Refusal, Told>>,
}

#[derive(Debug)]
struct Told {
    at: Instant,
    untold: u64,
}

impl Refusals {
    /// Count, and tell unless the same was told a moment ago.
    pub(super) fn count(&self, refusal: Refusal, from: SocketAddr, why: &str) {
        if let Some(count) = self.counts.get(refusal as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(untold) = self.is_to_be_told(refusal, Instant::now()) {
            tracing::warn!(%from, ?refusal, why, untold, "refused a connection to the control channel");
        }
    }

    /// So many were refused for this reason.
    pub(super) fn counted(&self, refusal: Refusal) -> u64 {
        self.counts.get(refusal as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// How many were not told since the last one that was, if this one is to be.
    fn is_to_be_told(&self, refusal: Refusal, now: Instant) -> Option<u64> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match told.get_mut(&refusal) {
            Some(told) if now.saturating_duration_since(told.at) < QUIET => {
                told.untold += 1;
                None
            }
            Some(told) => {
                told.at = now;
                Some(std::mem::take(&mut told.untold))
            }
            None => {
                told.insert(refusal, Told { at: now, untold: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{QUIET, Refusal, Refusals};

    #[test]
    fn the_same_is_told_once_in_a_while_with_the_number_of_those_untold() {
        let refusals = Refusals::default();
        let start = Instant::now();
        assert_eq!(refusals.is_to_be_told(Refusal::NotTls, start), Some(0));
        assert_eq!(refusals.is_to_be_told(Refusal::NotTls, start), None);
        assert_eq!(refusals.is_to_be_told(Refusal::NotTls, start + QUIET / 2), None);
        assert_eq!(refusals.is_to_be_told(Refusal::Left, start), Some(0), "another kind is another matter");
        assert_eq!(refusals.is_to_be_told(Refusal::NotTls, start + QUIET), Some(2));
        assert_eq!(refusals.is_to_be_told(Refusal::NotTls, start + QUIET * 2), Some(0));
    }

    #[test]
    fn every_kind_has_its_own_counter() {
        for (place, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, place);
        }
    }
}
