//! A change of keys between two nodes that speak.

use super::world::{A, B, SETTLED, World, key};

fn refused(world: &World, node: usize) -> u64 {
    let counters = world.snapshot(node).paths.into_iter().map(|path| path.counters);
    counters.map(|counters| counters.unknown_key + counters.bad_mac).sum()
}

#[test]
fn keys_change_without_a_lost_datagram() {
    let mut world = World::settled();
    world.rekey(A, 1);
    world.run(20_000);
    assert!(world.snapshot(A).key_changing, "the old key is good until the other node is told");
    world.rekey(B, 1);
    world.run(20_000);
    for node in [A, B] {
        assert_eq!(world.events(node), []);
        assert_eq!(refused(&world, node), 0);
        assert!(!world.snapshot(node).key_changing);
    }
    // What is made with the old key is not accepted any more.
    let old = world.recorded.iter().find(|flight| flight.from == B).cloned().unwrap();
    world.deliver(A, &old);
    assert_eq!(refused(&world, A), 1);
}

#[test]
fn what_was_sent_with_the_old_key_and_comes_late_is_accepted() {
    let mut world = World::settled();
    world.seed(5);
    world.latency = 1..1200;
    world.rekey(A, 1);
    world.run(SETTLED);
    world.rekey(B, 1);
    world.run(30_000);
    for node in [A, B] {
        assert_eq!(refused(&world, node), 0);
        assert!(!world.snapshot(node).key_changing);
    }
}

#[test]
fn nodes_that_restart_during_a_change_find_each_other() {
    for (restarts, told) in [(A, A), (B, A), (A, B), (B, B)] {
        let mut world = World::settled();
        world.rekey(A, 1);
        world.run(SETTLED);
        if told == B {
            world.rekey(B, 1);
        }
        world.restart(restarts);
        world.run(5000);
        // A restarted with the new key only, and B does not have it: nothing to be done about that.
        let deaf = restarts == A && told == A;
        assert_eq!(
            world.snapshot(A).alive && world.snapshot(B).alive,
            !deaf,
            "restarts {restarts} told {told}"
        );
        world.rekey(B, 1);
        world.run(30_000);
        for node in [A, B] {
            assert!(world.snapshot(node).alive, "restarts {restarts} told {told}");
            assert!(!world.snapshot(node).key_changing);
        }
    }
}

#[test]
fn another_key_is_another_cluster() {
    let mut world = World::new();
    world.rekey(A, 1);
    world.restart(A);
    world.run(SETTLED);
    for node in [A, B] {
        assert!(refused(&world, node) > 0);
        assert_eq!(world.events(node), []);
    }
}

/// What a node accepts after a restart is on its disk: the key before and the one after, whichever step of the change it had come to.
#[test]
fn nodes_that_restart_with_both_keys_are_heard_and_end_the_change() {
    // What each accepts after its restart; a pair of the same: the change is over for it.
    let steps = [[(0, 0), (0, 1)], [(0, 1), (0, 1)], [(0, 1), (1, 1)]];
    for [one, other] in steps {
        for (a, b) in [(one, other), (other, one)] {
            for restarts in [&[A][..], &[B], &[A, B]] {
                let mut world = World::new();
                world.restart_with(A, a);
                world.restart_with(B, b);
                world.run(SETTLED);
                for node in restarts {
                    world.restart_with(*node, if *node == A { a } else { b });
                }
                world.run(5000);
                assert!(
                    world.snapshot(A).alive && world.snapshot(B).alive,
                    "{a:?} {b:?} after a restart of {restarts:?}"
                );
                world.forget_events();
                world.rekey(A, 1);
                world.rekey(B, 1);
                world.run(30_000);
                for node in [A, B] {
                    assert_eq!(world.events(node), [], "{a:?} {b:?} after a restart of {restarts:?}");
                    assert!(!world.snapshot(node).key_changing);
                    assert_eq!(world.snapshot(node).newest_key, key(1).id());
                }
            }
        }
    }
}
