//! A bound for a whole command: who waits in a gate whose daemon hangs cannot be interrupted, but can be freed.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::place;

/// Disarmed when dropped.
#[derive(Debug)]
pub struct Watchdog {
    _alive: Sender<()>,
}

/// After `bound` clear everything away (which frees whoever waits) and exit with code 1.
#[must_use]
pub fn arm(what: &'static str, bound: Duration) -> Watchdog {
    let (sender, receiver) = channel::<()>();
    std::thread::spawn(move || {
        if receiver.recv_timeout(bound) == Err(RecvTimeoutError::Timeout) {
            eprintln!("error: {what} did not end within {bound:?}: clearing away");
            place::clear_own();
            std::process::exit(1);
        }
    });
    Watchdog { _alive: sender }
}
