//! Fixed-layout records shared between the kernel programs and the daemon: no logic, no allocation.
//!
//! Everything here is `repr(C)` with its size asserted, because both sides are compiled by different compilers for
//! different machines and read the same bytes.
#![no_std]
#![forbid(unsafe_code)]

mod hook;
mod record;
mod settings;

pub use hook::{Hook, PARAMETERS_MAX, UNUSED_PARAMETER};
pub use record::{Counters, Filtered, Kind, Record, flag};
pub use settings::{
    DirectIo, FOLIO_LARGEST_PAGES, Layout, MemberKey, OF_SOME_VOLUME, OUTSIDE, Settings, Verdicts,
    WATCHED_MAX, Watched, watched,
};

/// Largest number of files whose membership the kernel programs know at a time.
pub const MEMBERS_MAX: u32 = 1 << 18;
