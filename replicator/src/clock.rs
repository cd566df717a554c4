//! The kernel's clocks as numbers.

use std::io;

use nix::time::{ClockId, clock_gettime};

/// What a clock says, in nanoseconds: since 1970, or since the kernel's start.
///
/// # Errors
/// What clock_gettime(2) returns.
pub fn nanoseconds(clock: ClockId) -> io::Result<i64> {
    let time = clock_gettime(clock)?;
    Ok(time.tv_sec().saturating_mul(1_000_000_000).saturating_add(time.tv_nsec()))
}
