//! Waiting for a state, never for a time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::interrupt;

/// How often a state is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// A bound for what a healthy node does at once.
pub const SHORT: Duration = Duration::from_secs(10);

/// Ask `state` until it gives a value.
///
/// # Errors
/// `state` failed, the person asked to stop, or `bound` passed; the message then names `what` was waited for.
pub fn until<T>(what: &str, bound: Duration, mut state: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    until_uninterrupted(what, bound, || {
        interrupt::check()?;
        state()
    })
}

/// As [`until`], for clearing away: goes on when the person asked to stop.
///
/// # Errors
/// `state` failed, or `bound` passed.
pub fn until_uninterrupted<T>(
    what: &str,
    bound: Duration,
    mut state: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + bound;
    loop {
        if let Some(value) = state()? {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("waited {bound:?} in vain: {what}");
        }
        // The interval between two looks at the state; the bound is above.
        std::thread::sleep(INTERVAL);
    }
}

/// Let a situation last: a cable that is out for half a second. Nothing is waited for.
pub fn pause(span: Duration) {
    std::thread::sleep(span);
}
