//! Death, pauses, and the return from them.

use std::time::Duration;

use super::super::super::event::Event;
use super::super::Input;
use super::world::{A, B, DEAD_TICKS, SETTLED, World};

fn late(events: &[Event]) -> Vec<Duration> {
    let by = |event: &Event| if let Event::Late { by } = event { Some(*by) } else { None };
    events.iter().filter_map(by).collect()
}

#[test]
fn dead_after_so_many_own_ticks_and_not_one_earlier() {
    let mut world = World::settled();
    world.cut[B] = [true; 2];
    while world.snapshot(A).silent_ticks < DEAD_TICKS as u32 - 1 {
        world.run(5);
        assert!(world.snapshot(A).alive);
    }
    assert!(!world.events(A).contains(&Event::PeerDead));
    let ticks = world.snapshot(A).ticks;
    while world.snapshot(A).ticks == ticks {
        world.run(5);
    }
    assert!(!world.snapshot(A).alive);
    assert_eq!(world.events(A)[0], Event::PeerDead);
    // It is told once, and B still hears A.
    world.run(10_000);
    assert_eq!(world.events(A).iter().filter(|event| **event == Event::PeerDead).count(), 1);
    assert!(world.snapshot(B).alive);
}

#[test]
fn it_returns() {
    let mut world = World::settled();
    world.cut = [[true; 2]; 2];
    world.run(60_000);
    world.cut = [[false; 2]; 2];
    world.run(SETTLED);
    for node in [A, B] {
        let alive = world.events(node).iter().filter(|event| **event == Event::PeerAlive).count();
        assert_eq!(alive, 1);
        assert!(late(&world.events(node)).is_empty());
        assert_eq!(world.snapshot(node).session, 1, "the same session");
    }
}

#[test]
fn a_pause_is_told_before_anything_else_and_kills_nobody() {
    for length in [1800, 3000, 60_000, 86_400_000] {
        let mut world = World::settled();
        world.pause(A);
        if length < 100_000 {
            world.run(length);
        } else {
            world.time += length;
        }
        world.resume(A);
        world.forget_events();
        world.run(10);
        assert!(matches!(world.nodes[A].events[0], Event::Late { .. }), "{:?}", world.nodes[A].events);
        world.run(SETTLED);
        assert!(!world.events(A).contains(&Event::PeerDead), "after {length} ms");
        assert!(world.snapshot(A).alive);
        assert_eq!(world.snapshot(A).late, 1);
    }
}

#[test]
fn a_paused_node_with_a_peer_that_died_meanwhile_finds_out_after_the_full_time() {
    let mut world = World::settled();
    world.pause(A);
    world.pause(B);
    world.run(20_000);
    world.resume(A);
    world.forget_events();
    world.run(2700);
    assert_eq!(late(&world.events(A)).len(), 1);
    assert!(world.snapshot(A).alive);
    world.run(400);
    assert!(world.events(A).contains(&Event::PeerDead));
}

#[test]
fn a_tick_late_by_less_is_no_pause() {
    let mut world = World::settled();
    world.pause(A);
    world.run(1500);
    world.resume(A);
    world.run(SETTLED);
    assert_eq!(world.events(A), []);
}

#[test]
fn a_pause_that_the_own_clock_does_not_show_is_seen_by_the_peers_ticks() {
    let mut world = World::settled();
    world.run(20_000);
    world.forget_events();
    world.freeze(A, 8000);
    world.run(SETTLED);
    let events = world.events(A);
    let by = late(&events);
    assert_eq!(by.len(), 1, "{events:?}");
    assert!(by[0] > Duration::from_millis(7000) && by[0] < Duration::from_millis(9000), "{by:?}");
    assert!(matches!(events[0], Event::Late { .. }));
    assert!(!events.contains(&Event::PeerDead));
    // The peer saw it die and return; it was not late itself.
    assert!(late(&world.events(B)).is_empty());
    assert!(world.events(B).contains(&Event::PeerDead));
}

#[test]
fn such_a_pause_is_seen_soon_after_the_peer_restarted() {
    let mut world = World::settled();
    world.run(60_000);
    world.restart(B);
    world.run(SETTLED);
    world.forget_events();
    world.freeze(A, 4000);
    world.run(SETTLED);
    assert_eq!(late(&world.events(A)).len(), 1);
}

#[test]
fn lateness_is_told_first_by_whatever_comes_first() {
    for input in
        [Input::Time, Input::Publish(vec![1]), Input::Datagram { path: 0, bytes: b"garbage" }, Input::Finish]
    {
        let mut world = World::settled();
        world.time += 4000;
        world.handle(A, input);
        assert_eq!(late(&world.nodes[A].events).len(), 1);
        assert!(matches!(world.nodes[A].events[0], Event::Late { .. }));
    }
}

#[test]
fn a_clock_that_steps_back_is_no_panic_and_no_death() {
    let mut world = World::settled();
    let mut out = Vec::new();
    world.nodes[A].pulse.handle(Duration::ZERO, Input::Time, &mut out);
    world.nodes[A].pulse.handle(Duration::ZERO, Input::Datagram { path: 0, bytes: &[] }, &mut out);
    world.run(SETTLED);
    assert!(world.snapshot(A).alive);
}

#[test]
fn gaps_are_measured_without_own_pauses() {
    let mut world = World::settled();
    world.cut[B] = [true; 2];
    world.run(1000);
    world.cut[B] = [false; 2];
    world.run(SETTLED);
    let gap = world.snapshot(A).longest_gap;
    assert!(gap >= Duration::from_millis(1000) && gap < Duration::from_millis(1600), "{gap:?}");
    world.pause(A);
    world.time += 3_600_000;
    world.resume(A);
    world.run(SETTLED);
    assert_eq!(world.snapshot(A).longest_gap, gap);
    assert!(world.snapshot(A).paths.iter().all(|path| path.longest_gap < Duration::from_millis(1600)));
}
