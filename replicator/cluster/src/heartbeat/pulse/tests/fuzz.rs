//! What strangers can send. `HEARTBEAT_FUZZ_INPUTS` is the number of inputs, 20,000 if it is not set.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::super::{Input, Pulse};
use super::world::{A, B, World};

fn inputs() -> u32 {
    std::env::var("HEARTBEAT_FUZZ_INPUTS").ok().and_then(|inputs| inputs.parse().ok()).unwrap_or(20_000)
}

/// The state without what only counts.
fn bare(pulse: &Pulse) -> Pulse {
    let mut bare = pulse.clone();
    bare.paths.iter_mut().for_each(|watch| watch.counters = Default::default());
    bare
}

/// Arbitrary bytes, or a genuine datagram with some changes, of which at least one changes something.
fn forged(genuine: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4);
    let cuts = (prop::sample::select(genuine.clone()), any::<prop::sample::Index>());
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..1400),
        (prop::sample::select(genuine.clone()), changes).prop_map(|(mut bytes, changes)| {
            // Each place once, so that no change takes another one back.
            let length = bytes.len();
            let changes: std::collections::BTreeMap<_, _> =
                changes.into_iter().map(|(place, change)| (place.index(length), change)).collect();
            changes.into_iter().for_each(|(place, change)| bytes[place] ^= change);
            bytes
        }),
        cuts.prop_map(|(mut bytes, length)| {
            bytes.truncate(length.index(bytes.len()));
            bytes
        }),
        (prop::sample::select(genuine), prop::collection::vec(any::<u8>(), 1..200)).prop_map(
            |(mut bytes, more)| {
                bytes.extend(more);
                bytes
            }
        ),
    ]
}

#[test]
fn nothing_changes_before_authentication() {
    let mut world = World::settled();
    world.publish(B, vec![5; 3000]);
    world.publish(A, vec![6; 3]);
    world.cut[B] = [true; 2];
    world.run(600);
    // Among them pieces the node would take, had they not been changed.
    let genuine: Vec<_> = world
        .recorded
        .iter()
        .rev()
        .filter(|flight| flight.from == B)
        .map(|flight| flight.bytes.clone())
        .take(40)
        .collect();
    let now = world.clock(A);
    let pulse = std::cell::RefCell::new(world.nodes.swap_remove(A).pulse);
    let before = bare(&pulse.borrow());
    let config = Config { cases: inputs(), failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    runner
        .run(&(forged(genuine), 0usize..4), |(bytes, path)| {
            let mut out = Vec::new();
            pulse.borrow_mut().handle(now, Input::Datagram { path, bytes: &bytes }, &mut out);
            prop_assert!(out.is_empty(), "{:?}", out);
            prop_assert!(bare(&pulse.borrow()) == before, "changed by a forged datagram");
            Ok(())
        })
        .unwrap();
    let counters =
        pulse.borrow().paths.iter().map(|watch| watch.counters.bad_mac + watch.counters.garbage).sum::<u64>();
    assert!(counters > u64::from(inputs()) / 4, "the inputs came as far as to be refused");
}
