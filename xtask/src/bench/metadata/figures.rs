//! What one run of one job gave.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::Pid;

use crate::lab::status::Status;

/// What a daemon has paid since it started.
#[derive(Clone, Default, Debug)]
pub struct Cost {
    requests: BTreeMap<String, u64>,
    processor_ns: u64,
}

impl Cost {
    /// Read it.
    pub fn of(status: &Status, pid: Pid) -> Result<Cost> {
        Ok(Cost { requests: requests(status), processor_ns: processor_ns(pid)? })
    }
}

/// Requests of all gates of a node.
pub fn requests(status: &Status) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for (name, count) in status.volumes.iter().flat_map(|volume| &volume.requests) {
        *all.entry(name.clone()).or_default() += count;
    }
    all
}

/// Time the threads of a process were on a processor, in nanoseconds (proc(5), schedstat).
fn processor_ns(pid: Pid) -> Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).context("the daemon's threads")? {
        let path = thread?.path().join("schedstat");
        // A thread may end while it is looked at.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let first = text.split(' ').next().and_then(|word| word.parse::<u64>().ok());
        sum += first.with_context(|| format!("read {}", path.display()))?;
    }
    Ok(sum)
}

/// What one run of one job gave.
#[derive(Clone, Default, Debug, serde::Serialize)]
pub struct Figures {
    /// Operations per second, of all threads together.
    pub per_second: f64,
    /// Processor time of the primary's daemon for one operation in microseconds, what it sends afterwards included.
    pub processor_us: f64,
    /// Requests of the kernel to the gate for one operation.
    pub requests: BTreeMap<String, f64>,
}

impl Figures {
    /// From what was done and what the daemon paid for it.
    pub fn new(operations: u64, taken: Duration, before: &Cost, after: &Cost) -> Figures {
        let each = |count: u64| count as f64 / operations.max(1) as f64;
        let requests = after.requests.iter().map(|(name, count)| {
            let earlier = before.requests.get(name).copied().unwrap_or(0);
            (name.clone(), each(count.saturating_sub(earlier)))
        });
        Figures {
            per_second: operations as f64 / taken.as_secs_f64().max(1e-9),
            processor_us: each(after.processor_ns.saturating_sub(before.processor_ns)) / 1000.0,
            requests: requests.filter(|(_, count)| *count > 0.0).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_differences_for_each_operation() {
        let cost = |lookups, processor_ns| Cost {
            requests: BTreeMap::from([("LOOKUP".to_owned(), lookups), ("OPEN".to_owned(), 5)]),
            processor_ns,
        };
        let found = Figures::new(4, Duration::from_millis(500), &cost(10, 1_000_000), &cost(12, 1_040_000));
        assert_eq!((found.per_second, found.processor_us), (8.0, 10.0));
        assert_eq!(found.requests, BTreeMap::from([("LOOKUP".to_owned(), 0.5)]));
    }
}
