//! What the nodes say to each other.

use super::super::super::event::Event;
use super::super::super::wire::PAYLOAD_BYTES_MAX;
use super::world::{A, B, SETTLED, World};

fn sent(world: &World, node: usize) -> u64 {
    world.snapshot(node).paths[0].counters.sent
}

#[test]
fn something_new_is_heard_at_once() {
    let mut world = World::settled();
    world.publish(A, b"primary".to_vec());
    world.run(10);
    let heard = Event::Heard { payload: b"primary"[..].into(), session: 1, version: 1 };
    assert_eq!(world.events(B), [heard]);
}

#[test]
fn what_was_said_before_the_peer_came_is_heard() {
    let mut world = World::new();
    world.publish(A, vec![1; 5000]);
    world.publish(B, vec![]);
    world.run(SETTLED);
    assert_eq!(world.nodes[B].heard, Some(vec![1; 5000]));
    assert_eq!(world.nodes[A].heard, Some(vec![]));
}

#[test]
fn the_longest_is_heard_in_spite_of_loss_and_then_not_sent_again() {
    let mut world = World::settled();
    world.seed(11);
    world.loss = 40;
    world.publish(A, vec![9; PAYLOAD_BYTES_MAX]);
    world.run(5000);
    assert_eq!(world.nodes[B].heard, Some(vec![9; PAYLOAD_BYTES_MAX]));
    world.loss = 0;
    world.run(SETTLED);
    assert_eq!(world.snapshot(A).peer_holds, 1);
    let before = sent(&world, A);
    world.run(2500);
    assert_eq!(sent(&world, A) - before, 10, "one datagram per beat");
}

#[test]
fn beats_say_what_is_said_still() {
    let mut world = World::settled();
    world.publish(A, vec![1]);
    world.run(SETTLED);
    world.forget_events();
    world.run(SETTLED);
    let beats: Vec<_> = world.nodes[B]
        .events
        .iter()
        .map(|event| match event {
            Event::Beat { session: 1, sequence, version: 1 } => *sequence,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(beats.len(), 8);
    assert!(beats.is_sorted_by(|before, after| before < after));
}

#[test]
fn much_in_quick_succession_is_limited_and_the_last_is_heard() {
    let mut world = World::settled();
    let before = sent(&world, A);
    for number in 0..200u8 {
        world.publish(A, vec![number; 3]);
        world.run(5);
    }
    world.run(50);
    let rounds = sent(&world, A) - before;
    assert!(rounds <= 50 + 6, "{rounds} datagrams in a second");
    assert_eq!(world.nodes[B].heard, Some(vec![199; 3]));
}

#[test]
fn the_same_again_is_not_news() {
    let mut world = World::settled();
    world.publish(A, vec![1]);
    world.run(SETTLED);
    let before = world.snapshot(A).published;
    world.publish(A, vec![1]);
    assert_eq!(world.snapshot(A).published, before);
}

#[test]
fn the_last_words_are_sent_at_the_end() {
    let mut world = World::settled();
    world.publish(A, vec![1]);
    world.publish(A, vec![2]);
    world.handle(A, super::super::Input::Finish);
    world.pause(A);
    world.run(10);
    assert_eq!(world.nodes[B].heard, Some(vec![2]));
}

#[test]
fn a_restarted_node_says_something_else() {
    let mut world = World::settled();
    world.publish(A, vec![1; 40]);
    world.publish(A, vec![2; 40]);
    world.run(SETTLED);
    world.restart(A);
    world.publish(A, vec![3; 40]);
    world.run(SETTLED);
    assert_eq!(world.nodes[B].heard, Some(vec![3; 40]));
    // And a restarted one hears what the other says still.
    world.publish(A, vec![4; 2000]);
    world.restart(B);
    world.run(SETTLED);
    assert_eq!(world.nodes[B].heard, Some(vec![4; 2000]));
}
