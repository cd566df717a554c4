//! A slice of the seeds; `cargo xtask sim --seeds <n>` runs more.

use replicator_sim::{Setting, seeds};

const SEEDS: u64 = 400;

/// Every seed that ever failed (docs/simulation.md says of what), in the build that it failed in. Whoever changes the draws of a world makes
/// others of them, which cost next to nothing.
const FAILED_ONCE: &[u64] =
    &[15, 16, 19, 228, 1419, 3013, 4621, 5053, 45_955, 54_748, 55_506, 61_805, 102_199];

/// The same of worlds in which nodes take turns.
const ROLES_FAILED_ONCE: &[u64] = &[7, 11, 5943, 9532, 11_120, 26_568, 201_250, 400_947, 508_221];

#[test]
fn seeds_that_failed_once() {
    for seed in FAILED_ONCE {
        let outcome = seeds::one(Setting::Fixed, *seed);
        assert!(outcome.is_ok(), "seed {seed}: {outcome:?}");
    }
    for seed in ROLES_FAILED_ONCE {
        let outcome = seeds::one(Setting::Roles, *seed);
        assert!(outcome.is_ok(), "--roles, seed {seed}: {outcome:?}");
    }
}

#[test]
fn promises_hold_for_every_seed() {
    let found = seeds::run(Setting::Fixed, 0..SEEDS, 2, |_| ());
    let total = match found {
        Ok(total) => total,
        Err(failed) => {
            panic!("seed {}: {}\nreplay: cargo xtask sim --seed {}", failed.seed, failed.reason, failed.seed)
        }
    };
    println!("{total:?}");
    assert!(total.resumed > 0 && total.checkpoints > 0 && total.power_cuts > 0);
    assert!(total.churned > 0);
    assert!(total.acknowledged_by_both > 0 && total.mirrored > 0 && total.acknowledged_alone > 0);
}

#[test]
fn promises_hold_while_nodes_take_turns() {
    let found = seeds::run(Setting::Roles, 0..SEEDS, 2, |_| ());
    let total = match found {
        Ok(total) => total,
        Err(failed) => {
            panic!(
                "seed {}: {}\nreplay: cargo xtask sim --roles --seed {}",
                failed.seed, failed.reason, failed.seed
            )
        }
    };
    println!("{total:?}");
    assert!(total.failovers > 0 && total.forced > 0 && total.unpromoted > 0 && total.deposed > 0);
    assert!(total.permitted > 0 && total.late_permissions > 0 && total.outdated > 0);
}
