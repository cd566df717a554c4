//! What a node tells the other with every beat: the report of each of its modules. All numbers little-endian:
//!
//! | bytes | what |
//! |---:|---|
//! | 1 | version, 1 |
//! | 8 | a counter of this node's, which rises whenever it did not run for a while |
//! | 8 | the peer's counter, as it was heard last |
//! | 2 | number of modules |
//! | 1, n | for each: length of its name, its name |
//! | 2, n | length of its report, its report ([`replicator_core::cluster::Report::encode`]) |

use std::collections::BTreeMap;

use replicator_core::cluster::{REPORT_BYTES_MAX, Report};

const VERSION: u8 = 1;
/// Most modules of a node: so many reports fit into what the heartbeat carries.
pub const MODULES_MAX: usize = 48;
/// Longest name of a module, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// Why what a peer told makes no sense. Nothing of it counts then.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GossipError {
    /// It ends too early.
    #[error("it is cut off")]
    Truncated,
    /// It goes on behind its end.
    #[error("it goes on behind its end")]
    Trailing,
    /// It is of another build.
    #[error("its version is {0}, and this build speaks {VERSION}: bring both nodes to the same version")]
    Version(u8),
    /// Something is larger or other than it may be.
    #[error("{0} makes no sense")]
    Value(&'static str),
}

/// The reports of a node by the names of the modules.
pub type Reports = BTreeMap<String, Report>;

/// What a node tells.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Said {
    /// Rises whenever the node did not run for a while: what says it back was said after that.
    pub counter: u64,
    /// The other node's counter, as it was heard last.
    pub echo: u64,
    /// Of its modules.
    pub reports: Reports,
}

/// As bytes. Names that are too long, and modules beyond the most there may be, are left out: configurations with such are refused.
#[must_use]
pub fn encode(said: &Said) -> Vec<u8> {
    let fitting = |(name, _): &(&String, &Report)| name.len() <= NAME_BYTES_MAX;
    let modules: Vec<_> = said.reports.iter().filter(fitting).take(MODULES_MAX).collect();
    let mut bytes = vec![VERSION];
    bytes.extend(said.counter.to_le_bytes());
    bytes.extend(said.echo.to_le_bytes());
    bytes.extend((modules.len() as u16).to_le_bytes());
    for (name, report) in modules {
        let report = report.encode();
        bytes.push(name.len() as u8);
        bytes.extend(name.as_bytes());
        bytes.extend((report.len() as u16).to_le_bytes());
        bytes.extend(report);
    }
    bytes
}

/// What was told.
///
/// # Errors
/// [`GossipError`].
pub fn decode(bytes: &[u8]) -> Result<Said, GossipError> {
    let mut rest = bytes;
    let version = take(&mut rest, 1)?;
    if version != [VERSION] {
        return Err(GossipError::Version(version.first().copied().unwrap_or_default()));
    }
    let (counter, echo) = (long(&mut rest)?, long(&mut rest)?);
    let count = number(&mut rest)?;
    if count > MODULES_MAX {
        return Err(GossipError::Value("the number of modules"));
    }
    let mut reports = Reports::new();
    for _ in 0..count {
        let length = usize::from(*take(&mut rest, 1)?.first().ok_or(GossipError::Truncated)?);
        if length == 0 || length > NAME_BYTES_MAX {
            return Err(GossipError::Value("the length of a name"));
        }
        let name = str::from_utf8(take(&mut rest, length)?).map_err(|_| GossipError::Value("a name"))?;
        let length = number(&mut rest)?;
        if length > REPORT_BYTES_MAX {
            return Err(GossipError::Value("the length of a report"));
        }
        let report = Report::decode(take(&mut rest, length)?).map_err(|_| GossipError::Value("a report"))?;
        if reports.insert(name.to_owned(), report).is_some() {
            return Err(GossipError::Value("a name that is there twice"));
        }
    }
    if rest.is_empty() { Ok(Said { counter, echo, reports }) } else { Err(GossipError::Trailing) }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], GossipError> {
    let (taken, left) = rest.split_at_checked(count).ok_or(GossipError::Truncated)?;
    *rest = left;
    Ok(taken)
}

fn number(rest: &mut &[u8]) -> Result<usize, GossipError> {
    let bytes = take(rest, 2)?;
    Ok(usize::from(u16::from_le_bytes(bytes.try_into().map_err(|_| GossipError::Truncated)?)))
}

fn long(rest: &mut &[u8]) -> Result<u64, GossipError> {
    Ok(u64::from_le_bytes(take(rest, 8)?.try_into().map_err(|_| GossipError::Truncated)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use replicator_core::cluster::{Config, Controller, NodeId, Standing};
    use replicator_core::ids::Time;

    use super::*;

    fn said(count: usize) -> Said {
        let config = Config::new(NodeId([1; 16]), NodeId([2; 16]));
        let report = Controller::new(config, Standing::default(), Time(0)).report();
        let reports = (0..count).map(|number| (format!("module-{number}"), report)).collect();
        Said { counter: 3, echo: u64::MAX, reports }
    }

    #[test]
    fn what_was_told_is_what_is_heard() {
        for count in [0, 1, 40, MODULES_MAX] {
            let said = said(count);
            assert_eq!(decode(&encode(&said)), Ok(said));
        }
    }

    #[test]
    fn what_is_cut_off_or_too_long_does_not_count() {
        let bytes = encode(&said(2));
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "{length} bytes");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(decode(&longer), Err(GossipError::Trailing));
        let mut other = bytes;
        other[0] = 9;
        assert_eq!(decode(&other), Err(GossipError::Version(9)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_error_or_what_they_say(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(said) = decode(&bytes) {
                prop_assert_eq!(encode(&said), bytes);
            }
        }
    }
}
