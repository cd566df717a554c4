//! A broken build must be caught, each by the checker of the promise it breaks.

use replicator_sim::saboteur::{ALL, caught};

/// Within so many seeds. The worlds hold the hardships of all parts, and each saboteur has to meet his own.
const SEEDS: u64 = 4000;

#[test]
fn every_saboteur_is_caught_by_the_promise_it_breaks() {
    let mut free = Vec::new();
    for (sabotage, promise) in ALL {
        match caught(*sabotage, promise, SEEDS) {
            Some((seed, reason)) => {
                println!("{sabotage:?}, seed {seed}: {}", reason.chars().take(160).collect::<String>());
            }
            None => free.push((sabotage, promise)),
        }
    }
    assert!(free.is_empty(), "not caught within {SEEDS} seeds: {free:?}");
}
