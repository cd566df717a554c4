//! Ctrl-C: the first one asks everything to end in order, the second one clears away and leaves.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::place;

static REQUESTED: AtomicBool = AtomicBool::new(false);
static WATCHING: OnceLock<()> = OnceLock::new();

/// Exit code of a process that ends by Ctrl-C.
const INTERRUPTED: i32 = 130;

/// Start to watch for SIGINT, SIGTERM and SIGHUP. Every wait of the lab ends with an error once one arrived.
pub fn watch() {
    WATCHING.get_or_init(|| {
        let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP]) else { return };
        std::thread::spawn(move || {
            for _ in signals.forever() {
                if REQUESTED.swap(true, Ordering::SeqCst) {
                    place::clear_own();
                    std::process::exit(INTERRUPTED);
                }
                eprintln!("\nstopping (once more: stop at once)");
            }
        });
    });
}

/// Whether the person asked to stop.
#[must_use]
pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}

/// # Errors
/// The person asked to stop.
pub fn check() -> Result<()> {
    if requested() {
        bail!("interrupted");
    }
    Ok(())
}
