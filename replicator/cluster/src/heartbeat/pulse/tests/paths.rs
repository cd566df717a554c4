//! What gets through where, and how soon that is seen.

use std::time::Duration;

use super::super::super::event::Event;
use super::super::super::event::PathState::{Down, ReceiveOnly, SendOnly, Up};
use super::world::{A, B, SETTLED, World};

#[test]
fn all_paths_are_used() {
    let world = World::settled();
    for node in [A, B] {
        assert_eq!(world.states(node), [Up, Up]);
        for path in world.snapshot(node).paths {
            assert!(path.counters.accepted >= 6);
            assert_eq!(path.round_trip, Some(Duration::from_millis(10)), "two grains of time");
        }
    }
}

#[test]
fn one_way_loss_is_seen_on_both_sides() {
    let mut world = World::settled();
    world.cut[A][1] = true;
    // One interval until the beat that is lost, one until the peer's answer.
    world.run(250 + 250 + 130);
    assert!(world.snapshot(A).paths[1].unheard_beats >= 1);
    assert_eq!(world.snapshot(A).paths[0].unheard_beats, 0);
    world.run(SETTLED);
    assert_eq!(world.states(A), [Up, ReceiveOnly]);
    assert_eq!(world.states(B), [Up, SendOnly]);
    assert!(ReceiveOnly.is_one_way() && SendOnly.is_one_way() && !Up.is_one_way() && !Down.is_one_way());
    world.cut[A][1] = false;
    world.run(SETTLED);
    assert_eq!(world.states(A), [Up, Up]);
    assert_eq!(world.states(B), [Up, Up]);
}

#[test]
fn one_lost_beat_is_seen_and_is_no_alarm() {
    let mut world = World::settled();
    let tick = world.snapshot(A).ticks;
    world.cut[A] = [true; 2];
    while world.snapshot(A).ticks == tick {
        world.run(5);
    }
    world.cut[A] = [false; 2];
    let mut seen = 0;
    for _ in 0..400 {
        world.run(5);
        seen = seen.max(world.snapshot(A).paths[0].unheard_beats);
    }
    assert!(seen <= 1);
    assert_eq!(world.events(A), []);
    assert_eq!(world.events(B), []);
}

#[test]
fn a_restart_of_the_peer_is_no_loss_on_a_path() {
    for seed in 1..40 {
        let mut world = World::settled();
        world.seed(seed);
        world.latency = 1..250;
        world.run(SETTLED);
        world.forget_events();
        world.restart(A);
        world.run(SETTLED);
        assert_eq!(world.events(B), [Event::NewSession { number: 2 }], "seed {seed}");
    }
}

#[test]
fn loss_in_one_direction_on_all_paths() {
    let mut world = World::settled();
    world.cut[A] = [true; 2];
    world.run(SETTLED + 4000);
    assert_eq!(world.states(A), [ReceiveOnly; 2]);
    assert_eq!(world.states(B), [Down; 2]);
    assert!(world.snapshot(A).alive && !world.snapshot(B).alive);
}

#[test]
fn a_path_that_is_down_is_seen_down_soon_while_the_other_works() {
    let mut world = World::settled();
    world.cut = [[false, true], [false, true]];
    world.run(SETTLED);
    for node in [A, B] {
        assert_eq!(world.states(node), [Up, Down]);
        assert!(world.snapshot(node).alive);
    }
}

#[test]
fn a_path_that_never_worked_is_down_and_the_other_is_enough() {
    let mut world = World::new();
    world.cut = [[true, false], [true, false]];
    world.run(3 * SETTLED);
    for node in [A, B] {
        assert_eq!(world.states(node), [Down, Up]);
        let first = world.events(node).into_iter().any(|event| matches!(event, Event::Path { index: 0, .. }));
        assert!(!first, "not even for a moment");
    }
}

#[test]
fn a_path_that_worked_one_way_only_from_the_start() {
    let mut world = World::new();
    world.cut[A][1] = true;
    world.run(3 * SETTLED);
    assert_eq!(world.states(A), [Up, ReceiveOnly]);
    assert_eq!(world.states(B), [Up, SendOnly]);
}

#[test]
fn slow_paths_and_scattered_loss_are_no_alarm() {
    let mut world = World::settled();
    world.latency = 60..120;
    world.run(SETTLED);
    world.forget_events();
    world.seed(3);
    world.loss = 2;
    world.run(60_000);
    for node in [A, B] {
        assert!(world.snapshot(node).alive);
        assert_eq!(world.snapshot(node).late, 0);
    }
}

#[test]
fn what_was_sent_on_another_path_does_not_count() {
    let mut world = World::settled();
    let flight =
        world.recorded.iter().rev().find(|flight| flight.from == B && flight.path == 0).cloned().unwrap();
    world.deliver_on(A, 1, &flight);
    assert_eq!(world.snapshot(A).paths[1].counters.crossed, 1);
    world.deliver_on(A, 7, &flight);
    assert_eq!(world.events(A), []);
}
