//! A slice of the seeds; `cargo xtask sim --seeds <n>` runs more.

use replicator_sim::seeds;

const SEEDS: u64 = 1000;

#[test]
fn promises_hold_for_every_seed() {
    let found = seeds::run(0..SEEDS, 2, |_| ());
    let total = match found {
        Ok(total) => total,
        Err(failed) => {
            panic!("seed {}: {}\nreplay: cargo xtask sim --seed {}", failed.seed, failed.reason, failed.seed)
        }
    };
    println!("{total:?}");
    assert!(total.resumed > 0 && total.checkpoints > 0 && total.power_cuts > 0);
    assert!(total.acknowledged_by_both > 0 && total.mirrored > 0 && total.acknowledged_alone > 0);
}
