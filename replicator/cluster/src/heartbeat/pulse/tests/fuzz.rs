//! What strangers can send, and what the owner of the key can say. `cargo xtask fuzz heartbeats` runs it with many inputs.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::super::super::keys::{KeyId, Keyring};
use super::super::super::wire::{Answer, Header, Heard, Piece, Session, seal};
use super::super::{Input, Output, Pulse};
use super::world::{A, B, World, config, key};

fn inputs() -> u32 {
    u32::try_from(replicator_fuzz::inputs()).unwrap_or(u32::MAX)
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
    replicator_fuzz::report("heartbeats of strangers", inputs().into());
}

/// What the owner of the key can say, sensible or not.
fn authentic(mine: Session) -> impl Strategy<Value = (Header, Vec<u8>)> {
    let session = move || prop_oneof![Just(mine), (0u128..4).prop_map(Session)];
    let number = || prop_oneof![0u64..50, any::<u64>()];
    let time = prop_oneof![Just(250_000u32), any::<u32>()];
    let head = (0u8..3, 1u128..4, number(), number(), time, 0u32..3);
    let heard = (session(), 0u32..4, any::<Option<u32>>(), number(), prop::array::uniform8(number()));
    let piece = (1u64..4, 0usize..=4000, 0usize..5);
    (head, heard, (session(), 0u32..4), piece, any::<u8>()).prop_map(|(head, heard, answer, piece, byte)| {
        let (path, session, sequence, ticks, interval_us, era) = head;
        let (version, total, index) = piece;
        let piece = Piece::of(version, total, index);
        let bytes = vec![byte; piece.length.into()];
        let heard =
            Heard { session: heard.0, era: heard.1, held: heard.2, version: heard.3, sequences: heard.4 };
        let answer = Answer { session: answer.0, era: answer.1 };
        let own = config(B, 0);
        let (cluster, sender, session) = (own.cluster, own.node, Session(session));
        let other_key = KeyId::NONE;
        let key = KeyId::NONE;
        let header = Header {
            path,
            key,
            cluster,
            sender,
            session,
            sequence,
            ticks,
            interval_us,
            era,
            heard,
            answer,
            other_key,
            piece,
        };
        (header, bytes)
    })
}

/// About so many datagrams are said in one run.
const OF_A_RUN: u32 = 30;

#[test]
fn nothing_the_owner_of_the_key_says_is_a_panic() {
    let runs = inputs().div_ceil(OF_A_RUN);
    let config_of_test = Config { cases: runs, failure_persistence: None, ..Config::default() };
    let mut runner =
        TestRunner::new_with_rng(config_of_test, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let words = prop::collection::vec((authentic(Session(77)), 0u64..3000), 1..2 * OF_A_RUN as usize);
    let said_in_all = std::cell::Cell::new(0);
    runner
        .run(&words, |said| {
            let mut pulse = Pulse::new(&config(A, 0), Session(77), Default::default());
            let (mac, id, _) = Keyring::new(&key(0)).select(true);
            let mut now = std::time::Duration::ZERO;
            let mut out = Vec::new();
            said_in_all.set(said_in_all.get() + said.len() as u64);
            for ((header, bytes), later) in said {
                now += std::time::Duration::from_millis(later);
                let header = Header { key: id, ..header };
                let datagram = seal(&header, &bytes, &config(A, 0).node, &mac);
                let path = usize::from(header.path);
                pulse.handle(now, Input::Datagram { path, bytes: datagram.bytes() }, &mut out);
                if now >= pulse.next_deadline() {
                    pulse.handle(now, Input::Time, &mut out);
                }
                // One who speaks is answered in bounded measure.
                let sent = out.iter().filter(|output| matches!(output, Output::Send { .. })).count();
                prop_assert!(sent <= 3 * super::world::PATHS, "{} datagrams for one", sent);
                out.clear();
            }
            Ok(())
        })
        .unwrap();
    replicator_fuzz::report("heartbeats of the peer", said_in_all.get());
}
