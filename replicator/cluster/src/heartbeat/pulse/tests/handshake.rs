//! Starts, restarts, recordings of what was before.

use super::super::super::event::Event;
use super::world::{A, B, SETTLED, World};

#[test]
fn two_nodes_that_start_believe_each_other() {
    let mut world = World::new();
    world.run(SETTLED);
    for node in [A, B] {
        assert_eq!(world.events(node)[0], Event::PeerAlive);
        assert!(!world.events(node).iter().any(|event| matches!(event, Event::NewSession { .. })));
        assert_eq!(world.snapshot(node).session, 1);
    }
}

#[test]
fn a_start_takes_round_trips_and_no_intervals() {
    let mut world = World::new();
    world.run(20);
    assert!(world.snapshot(A).alive && world.snapshot(B).alive);
}

#[test]
fn a_restart_is_a_new_session_and_no_death() {
    let mut world = World::settled();
    world.restart(A);
    world.run(SETTLED);
    assert_eq!(world.events(B), [Event::NewSession { number: 2 }]);
    assert_eq!(world.events(A)[0], Event::PeerAlive);
    assert_eq!(world.snapshot(B).session, 2);
}

#[test]
fn both_restart_at_once() {
    let mut world = World::settled();
    world.restart(A);
    world.restart(B);
    world.run(SETTLED);
    for node in [A, B] {
        assert_eq!(world.events(node)[0], Event::PeerAlive);
        assert!(world.snapshot(node).alive);
    }
}

#[test]
fn a_restart_after_death_is_a_new_session_that_lives() {
    let mut world = World::settled();
    world.pause(A);
    world.run(5000);
    world.restart(A);
    world.resume(A);
    world.run(SETTLED);
    let events = world.events(B);
    let at = |wanted: &Event| events.iter().position(|event| event == wanted).unwrap();
    assert!(at(&Event::PeerDead) < at(&Event::NewSession { number: 2 }));
    assert!(at(&Event::NewSession { number: 2 }) < at(&Event::PeerAlive));
}

#[test]
fn everything_recorded_before_is_nothing_to_a_node_alone() {
    let mut world = World::settled();
    for _ in 0..3 {
        world.restart(A);
        world.run(SETTLED);
        world.restart(B);
        world.run(SETTLED);
    }
    let recorded = world.recorded.clone();
    // B is gone for good, and somebody plays all that was ever said to a node that goes on, and to one that restarts.
    world.pause(B);
    world.run(5000);
    for restarts in [false, true] {
        if restarts {
            world.restart(A);
        }
        world.forget_events();
        let accepted =
            |world: &World| world.snapshot(A).paths.iter().map(|path| path.counters.accepted).sum::<u64>();
        let before = accepted(&world);
        for (index, flight) in recorded.iter().enumerate() {
            for path in 0..2 {
                world.deliver_on(A, path, flight);
            }
            if index % 8 == 0 {
                world.run(5);
            }
        }
        assert_eq!(accepted(&world), before);
        assert_eq!(world.events(A), []);
        assert!(!world.snapshot(A).alive);
    }
}

#[test]
fn recordings_of_the_former_session_do_not_win_against_the_present_one() {
    let mut world = World::settled();
    let former = world.recorded.clone();
    world.restart(B);
    world.run(SETTLED);
    world.forget_events();
    for flight in former.iter().filter(|flight| flight.from == B) {
        world.deliver(A, flight);
        world.run(50);
    }
    assert_eq!(world.events(A), []);
    assert!(world.snapshot(A).alive && world.snapshot(B).alive);
    let unproven: u64 = world.snapshot(A).paths.iter().map(|path| path.counters.unproven).sum();
    assert!(unproven > 0, "recordings are counted");
}

#[test]
fn a_peer_is_believed_though_recordings_come_in_between() {
    let mut world = World::settled();
    for _ in 0..8 {
        world.restart(B);
        world.run(SETTLED);
    }
    let recorded: Vec<_> = world.recorded.iter().filter(|flight| flight.from == B).cloned().collect();
    world.restart(A);
    world.restart(B);
    for flight in recorded.iter().step_by(recorded.len() / 100) {
        world.deliver(A, flight);
        world.run(25);
    }
    assert!(world.snapshot(A).alive && world.snapshot(B).alive);
}

#[test]
fn own_datagrams_that_come_back_are_strangers() {
    let mut world = World::settled();
    let own: Vec<_> = world.recorded.iter().filter(|flight| flight.from == A).cloned().collect();
    for flight in &own {
        world.deliver(A, flight);
    }
    let strangers: u64 = world.snapshot(A).paths.iter().map(|path| path.counters.strangers).sum();
    assert_eq!(strangers, own.len() as u64);
    assert_eq!(world.events(A), []);
}

#[test]
fn without_an_answer_nobody_is_believed() {
    let mut world = World::new();
    world.cut[A] = [true; 2];
    world.run(10 * SETTLED);
    for node in [A, B] {
        assert_eq!(world.events(node), []);
        assert_eq!(world.snapshot(node).session, 0);
    }
    let unproven: u64 = world.snapshot(A).paths.iter().map(|path| path.counters.unproven).sum();
    assert!(unproven > 0, "it is seen that somebody is there");
}
