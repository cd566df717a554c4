//! How long the certificates are good for.

use std::time::{Duration, SystemTime};

use super::authority::Paper;

/// A certificate that expires within this time is warned of.
pub const WARN_BEFORE: Duration = Duration::from_secs(30 * DAY);

pub(super) const DAY: u64 = 86_400;

/// One certificate's time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lifetime {
    /// From when it is valid.
    pub not_before: SystemTime,
    /// Until when.
    pub not_after: SystemTime,
    /// Whole days left; negative when they are over.
    pub days_left: i64,
}

/// The time of this node's certificates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expiry {
    /// The node's own, which is renewed by itself where the authority's key is.
    pub node: Lifetime,
    /// The authority's, with which the cluster must be founded anew.
    pub authority: Lifetime,
    /// Whether this node can renew its own certificate.
    pub renewable: bool,
}

impl Lifetime {
    pub(super) fn new(paper: &Paper, now: SystemTime) -> Lifetime {
        let days = |duration: Duration| i64::try_from(duration.as_secs() / DAY).unwrap_or(i64::MAX);
        let days_left = match paper.not_after.duration_since(now) {
            Ok(left) => days(left),
            // What expired an hour ago has not "0 days left".
            Err(over) => -1 - days(over.duration()),
        };
        Lifetime { not_before: paper.not_before, not_after: paper.not_after, days_left }
    }

    /// Whether there is a reason to warn.
    #[must_use]
    pub fn expires_soon(&self, now: SystemTime) -> bool {
        now + WARN_BEFORE >= self.not_after
    }

    /// Whether two thirds are over, or it is not valid (yet), as after a clock that was ahead was set right.
    #[must_use]
    pub fn is_due(&self, now: SystemTime) -> bool {
        let whole = self.not_after.duration_since(self.not_before).unwrap_or_default();
        now < self.not_before || now >= self.not_before + whole * 2 / 3
    }
}

impl Expiry {
    /// What a person should be told, if anything.
    #[must_use]
    pub fn warning(&self, now: SystemTime) -> Option<String> {
        if self.authority.expires_soon(now) {
            return Some(format!(
                "the cluster authority's certificate expires in {} days; found the cluster anew before, all certificates end with it",
                self.authority.days_left
            ));
        }
        if !self.node.expires_soon(now) {
            return None;
        }
        let remedy = if self.renewable {
            "it could not be renewed by itself: see the journal, or run \"replicator cluster rotate\""
        } else {
            "the authority's key is not on this node: copy authority.key from the other node, it is renewed then"
        };
        Some(format!("this node's certificate expires in {} days; {remedy}", self.node.days_left))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::{DAY, Expiry, Lifetime};
    use crate::membership::authority::Paper;

    fn lifetime(now: SystemTime, before_days: u64, after_days: u64) -> Lifetime {
        let paper = Paper {
            uri: None,
            not_before: now - Duration::from_secs(before_days * DAY),
            not_after: now + Duration::from_secs(after_days * DAY),
        };
        Lifetime::new(&paper, now)
    }

    #[test]
    fn a_certificate_is_due_after_two_thirds_and_warned_of_at_thirty_days() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(20_000 * DAY);
        let late = |days| now + Duration::from_secs(days * DAY);
        let year = lifetime(now, 0, 365);
        assert_eq!(year.days_left, 365);
        assert!(!year.is_due(late(243)) && year.is_due(late(244)));
        assert!(!year.expires_soon(late(334)) && year.expires_soon(late(335)));
        assert!(year.is_due(now - Duration::from_secs(1)), "the clock was ahead when it was made");
        let over = Lifetime::new(
            &Paper { uri: None, not_before: now, not_after: now },
            now + Duration::from_secs(3600),
        );
        assert_eq!(over.days_left, -1);
    }

    #[test]
    fn the_warning_names_what_to_do() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(20_000 * DAY);
        let expiry = |node, authority, renewable| {
            let (node, authority) = (lifetime(now, 300, node), lifetime(now, 300, authority));
            Expiry { node, authority, renewable }.warning(now)
        };
        assert_eq!(expiry(31, 31, true), None);
        assert!(expiry(30, 31, true).unwrap().contains("rotate"));
        assert!(expiry(30, 31, false).unwrap().contains("authority.key"));
        assert!(expiry(30, 29, true).unwrap().contains("anew"));
    }
}
