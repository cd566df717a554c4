//! Whatever happens, the observer of [`World`] finds nothing believed that must not be; and when it is over, both nodes know each other.

use proptest::prelude::*;

use super::super::super::event::PathState;
use super::world::{A, B, PATHS, World};

#[derive(Clone, Debug)]
enum Op {
    Run(u64),
    Cut(usize, usize, bool),
    Loss(u64),
    Latency(u64, u64),
    Restart(usize),
    Replay(prop::sample::Index, usize, usize),
    Duplicate(prop::sample::Index),
    Publish(usize, u8, usize),
    Pause(usize),
    Resume(usize),
    Freeze(usize, u64),
    Rekey(usize, bool),
}

fn op() -> impl Strategy<Value = Op> {
    let node = || 0usize..2;
    prop_oneof![
        6 => (5u64..1500).prop_map(Op::Run),
        2 => (5u64..60).prop_map(Op::Run),
        2 => (node(), 0..PATHS, any::<bool>()).prop_map(|(node, path, cut)| Op::Cut(node, path, cut)),
        1 => (0u64..60).prop_map(Op::Loss),
        1 => (1u64..200, 1u64..300).prop_map(|(least, more)| Op::Latency(least, more)),
        2 => node().prop_map(Op::Restart),
        6 => (any::<prop::sample::Index>(), node(), 0..PATHS).prop_map(|(which, to, path)| Op::Replay(which, to, path)),
        2 => any::<prop::sample::Index>().prop_map(Op::Duplicate),
        2 => (node(), any::<u8>(), 0usize..4000).prop_map(|(node, byte, length)| Op::Publish(node, byte, length)),
        1 => node().prop_map(Op::Pause),
        2 => node().prop_map(Op::Resume),
        1 => (node(), 5u64..6000).prop_map(|(node, milliseconds)| Op::Freeze(node, milliseconds)),
        1 => (node(), any::<bool>()).prop_map(|(node, new)| Op::Rekey(node, new)),
    ]
}

fn apply(world: &mut World, newest_key: &mut u8, op: &Op) {
    match op {
        Op::Run(milliseconds) => world.run(*milliseconds),
        Op::Cut(node, path, cut) => world.cut[*node][*path] = *cut,
        Op::Loss(percent) => world.loss = *percent,
        Op::Latency(least, more) => world.latency = *least..*least + *more,
        Op::Restart(node) => world.restart(*node),
        Op::Replay(which, to, path) if !world.recorded.is_empty() => {
            let flight = which.get(&world.recorded).clone();
            world.deliver_on(*to, *path, &flight);
        }
        Op::Duplicate(which) if !world.recorded.is_empty() => {
            let flight = which.get(&world.recorded).clone();
            for _ in 0..2 {
                world.deliver(1 - flight.from, &flight);
            }
        }
        Op::Publish(node, byte, length) => world.publish(*node, vec![*byte; *length]),
        Op::Pause(node) => world.pause(*node),
        Op::Resume(node) => world.resume(*node),
        Op::Freeze(node, milliseconds) => world.freeze(*node, *milliseconds),
        Op::Rekey(node, new) => {
            *newest_key += u8::from(*new && world.key_of(*node) == *newest_key);
            world.rekey(*node, *newest_key);
        }
        Op::Replay(..) | Op::Duplicate(_) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_replay_is_believed_and_nodes_find_each_other(seed in any::<u64>(), ops in prop::collection::vec(op(), 1..60)) {
        let mut world = World::new();
        world.seed(seed);
        let mut newest_key = 0;
        for op in &ops {
            apply(&mut world, &mut newest_key, op);
        }
        world.cut = [[false; PATHS]; 2];
        world.loss = 0;
        world.latency = 1..20;
        for node in [A, B] {
            world.resume(node);
            world.rekey(node, newest_key);
        }
        // The time until death for what is left of the old, and some for the new.
        world.run(6000);
        for node in [A, B] {
            prop_assert!(world.snapshot(node).alive, "node {} finds nobody", node);
            prop_assert_eq!(&world.nodes[node].heard, &world.nodes[1 - node].said);
            prop_assert_eq!(world.states(node), vec![PathState::Up; PATHS]);
        }
        world.run(10_000);
        for node in [A, B] {
            prop_assert!(!world.snapshot(node).key_changing);
            prop_assert!(world.snapshot(node).alive);
        }
    }
}

/// `PROPTEST_CASES`, or few enough for every day.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(200)
}
