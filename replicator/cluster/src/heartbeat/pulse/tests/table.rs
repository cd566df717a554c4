//! The table of states in the module's documentation, pair by pair.

use super::super::super::event::Event;
use super::world::{A, B, Flight, SETTLED, World};

#[derive(Clone, Copy, PartialEq, Debug)]
enum State {
    /// Believes nobody.
    None,
    Alive,
    Dead,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Heard {
    Fresh,
    Replay,
    Unproven,
    Proof,
    Own,
    Forged,
    Silence,
}

const STATES: [State; 3] = [State::None, State::Alive, State::Dead];
const HEARD: [Heard; 7] =
    [Heard::Fresh, Heard::Replay, Heard::Unproven, Heard::Proof, Heard::Own, Heard::Forged, Heard::Silence];

/// A world in which A is in a state, and nothing reaches it any more but what the test delivers.
fn world_in(state: State) -> World {
    let mut world = if state == State::None { World::new() } else { World::settled() };
    world.cut[B] = [true; 2];
    world.run(if state == State::Dead { 5000 } else { 300 });
    world.forget_events();
    world
}

fn last_of(world: &World, node: usize) -> Flight {
    world.recorded.iter().rev().find(|flight| flight.from == node).cloned().unwrap()
}

/// The datagram A hears, if the pair is possible.
fn datagram(world: &mut World, state: State, heard: Heard) -> Option<Flight> {
    match heard {
        Heard::Fresh => (state != State::None).then(|| last_of(world, B)),
        Heard::Replay => {
            let first = world.recorded.iter().position(|flight| flight.from == B);
            (state != State::None).then(|| world.recorded[first.unwrap_or(0)].clone())
        }
        Heard::Unproven => {
            // What B says before it has heard A.
            world.cut[A] = [true; 2];
            world.run(10);
            world.restart(B);
            world.run(10);
            Some(last_of(world, B))
        }
        Heard::Proof => {
            // B hears what A says and answers it; nothing of that reaches A before.
            world.restart(B);
            world.run(SETTLED);
            world.forget_events();
            Some(last_of(world, B))
        }
        Heard::Own => Some(last_of(world, A)),
        Heard::Forged => {
            let mut forged = last_of(world, B);
            forged.bytes[64] ^= 1;
            Some(forged)
        }
        Heard::Silence => None,
    }
}

#[test]
fn every_state_and_everything_heard() {
    for state in STATES {
        for heard in HEARD {
            let mut world = world_in(state);
            let Some(flight) = datagram(&mut world, state, heard) else { continue };
            // Making the datagram took time, but not enough to change the state.
            let was_alive = world.snapshot(A).alive;
            assert_eq!(was_alive, state == State::Alive, "{state:?} {heard:?}");
            let session = world.snapshot(A).session;
            world.forget_events();
            world.deliver(A, &flight);
            let after = world.snapshot(A);
            let believed = matches!(heard, Heard::Fresh | Heard::Proof);
            assert_eq!(after.alive, was_alive || believed, "{state:?} {heard:?}");
            assert_eq!(after.session, session + u32::from(heard == Heard::Proof), "{state:?} {heard:?}");
            let events = world.events(A);
            let told = |wanted: &Event| events.contains(wanted);
            assert_eq!(told(&Event::PeerAlive), believed && !was_alive, "{state:?} {heard:?}");
            let news = heard == Heard::Proof && state != State::None;
            assert_eq!(told(&Event::NewSession { number: 2 }), news, "{state:?} {heard:?}");
            if !believed {
                assert_eq!(events, [], "{state:?} {heard:?}");
            }
        }
    }
}

#[test]
fn silence_kills_who_is_alive_and_nobody_else() {
    for state in STATES {
        let mut world = world_in(state);
        world.run(10_000);
        let dead = world.events(A).iter().filter(|event| **event == Event::PeerDead).count();
        assert_eq!(dead, usize::from(state == State::Alive), "{state:?}");
        assert!(!world.snapshot(A).alive);
    }
}
