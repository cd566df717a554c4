//! A broken build must be caught, each by the checker of the promise it breaks.

use replicator_sim::{Sabotage, World};

/// Within so many seeds.
const SEEDS: u64 = 200;

const ALL: &[(Sabotage, &str)] = &[
    (Sabotage::LyingDisk, "acknowledged-is-durable"),
    (Sabotage::EarlyBarrierDone, "acknowledged-is-durable"),
    (Sabotage::LostWrites, "nothing-forgotten"),
    (Sabotage::EarlyRelease, "acknowledged-is-durable"),
    (Sabotage::DropsWhatIsLeft, "same-tree"),
    (Sabotage::UnnoticedCrash, "same-tree"),
    (Sabotage::LostNames, "same-tree"),
    (Sabotage::UnseenChanges, "same-tree"),
];

#[test]
fn every_saboteur_is_caught_by_the_promise_it_breaks() {
    for (sabotage, promise) in ALL {
        let mut failures = (0..SEEDS).filter_map(|seed| World::new(seed, *sabotage, false).run().err());
        let caught = failures.find(|reason| reason.starts_with(promise));
        let caught = caught.unwrap_or_else(|| panic!("{sabotage:?} does not break {promise}"));
        println!("{sabotage:?}: {}", caught.chars().take(160).collect::<String>());
    }
}
