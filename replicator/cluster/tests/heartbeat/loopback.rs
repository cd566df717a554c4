//! Two nodes in one process.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use replicator_cluster::heartbeat::{
    Event, Heartbeat, HeartbeatError, Key, Memory, PAYLOAD_BYTES_MAX, PathState, Preset, Scheduling,
};

use super::node::{Node, config, path_over, until};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

fn pair(addresses: &[IpAddr]) -> (Node, Node) {
    let (one, other) = addresses.iter().map(|address| path_over(*address)).unzip();
    (Node::start(config(1, 1, one, Preset::Normal)), Node::start(config(2, 1, other, Preset::Normal)))
}

fn all_up(node: &Node) -> bool {
    node.heartbeat.snapshot().paths.iter().all(|path| path.state == PathState::Up)
}

#[test]
fn nodes_meet_over_both_families_and_say_what_they_publish() {
    let (one, other) = pair(&[V4, V6]);
    one.wait_for(&Event::PeerAlive);
    other.wait_for(&Event::PeerAlive);
    until("all paths up", || all_up(&one) && all_up(&other));
    let long: Vec<u8> = (0..PAYLOAD_BYTES_MAX).map(|index| index as u8).collect();
    one.heartbeat.publish(long.clone()).unwrap();
    other.wait_heard(&long);
    until("acknowledged", || one.heartbeat.snapshot().peer_holds == 1);
    for node in [&one, &other] {
        for path in node.heartbeat.snapshot().paths {
            assert!(path.round_trip.is_some());
            let counters = path.counters;
            assert_eq!(
                (counters.bad_mac, counters.garbage, counters.crossed, counters.send_failures),
                (0, 0, 0, 0)
            );
        }
    }
}

#[test]
fn a_payload_that_is_too_long_is_refused() {
    let (one, _) = path_over(V4);
    let node = Node::start(config(1, 1, vec![one], Preset::Normal));
    let refused = node.heartbeat.publish(vec![0; PAYLOAD_BYTES_MAX + 1]);
    assert!(matches!(refused, Err(HeartbeatError::TooLong { .. })));
}

#[test]
fn one_ends_and_returns() {
    for address in [V4, V6] {
        let (path, back) = path_over(address);
        let one = Node::start(config(1, 1, vec![path], Preset::Fast));
        let other = Node::start(config(2, 1, vec![back], Preset::Fast));
        one.wait_for(&Event::PeerAlive);
        other.wait_for(&Event::PeerAlive);
        // The last words are heard though there is no time for a beat.
        other.heartbeat.publish(b"I go".to_vec()).unwrap();
        drop(other);
        one.wait_heard(b"I go");
        one.wait_for(&Event::PeerDead);
        let other = Node::start(config(2, 1, vec![back], Preset::Fast));
        one.wait_for(&Event::NewSession { number: 2 });
        one.wait_for(&Event::PeerAlive);
        other.wait_for(&Event::PeerAlive);
    }
}

#[test]
fn strangers_are_counted_and_change_nothing() {
    let (path, back) = path_over(V4);
    let one = Node::start(config(1, 1, vec![path], Preset::Normal));
    let other = Node::start(config(2, 2, vec![back], Preset::Normal));
    let stranger = UdpSocket::bind((V4, 0)).unwrap();
    for length in [0, 1, 271, 272, 1200, 1201, 9000] {
        stranger.send_to(&vec![0x5a; length], path.local).unwrap();
    }
    until("strangers counted", || {
        let counters = one.heartbeat.snapshot().paths[0].counters;
        counters.garbage == 7 && counters.unknown_key > 0
    });
    for node in [one, other] {
        let snapshot = node.heartbeat.snapshot();
        assert_eq!((snapshot.alive, snapshot.session, snapshot.paths[0].counters.accepted), (false, 0, 0));
    }
}

#[test]
fn keys_change_while_the_nodes_speak() {
    let (one, other) = pair(&[V4]);
    one.wait_for(&Event::PeerAlive);
    other.wait_for(&Event::PeerAlive);
    until("both known", || one.heartbeat.snapshot().alive && other.heartbeat.snapshot().alive);
    one.heartbeat.rekey(Key::new([5; 32]));
    until("the change begins", || one.heartbeat.snapshot().key_changing);
    other.heartbeat.rekey(Key::new([5; 32]));
    until("the change begins", || other.heartbeat.snapshot().key_changing);
    until("the old key is forgotten", || {
        !one.heartbeat.snapshot().key_changing && !other.heartbeat.snapshot().key_changing
    });
    one.heartbeat.publish(b"new".to_vec()).unwrap();
    let before = other.wait_heard(b"new");
    assert!(!before.contains(&Event::PeerDead), "{before:?}");
    assert_eq!(one.heartbeat.snapshot().paths[0].counters.unknown_key, 0);
}

#[test]
fn an_address_in_use_is_an_error_with_its_name() {
    let (path, _) = path_over(V4);
    let _occupied = UdpSocket::bind(path.local).unwrap();
    let refused = Heartbeat::start(config(1, 1, vec![path], Preset::Normal), |_| {});
    assert!(matches!(refused, Err(HeartbeatError::Socket { local, .. }) if local == path.local));
}

#[test]
fn an_address_that_is_not_there_yet_is_waited_for() {
    let path = replicator_cluster::heartbeat::Path {
        local: "198.51.100.7:7000".parse().unwrap(),
        peer: "198.51.100.8:7000".parse().unwrap(),
    };
    let node = Node::start(config(1, 1, vec![path], Preset::Normal));
    until("it ticks", || node.heartbeat.snapshot().ticks > 1);
}

#[test]
fn what_the_system_grants_is_said() {
    let (path, _) = path_over(V4);
    let node = Node::start(config(1, 1, vec![path], Preset::Normal));
    let capabilities = node.heartbeat.capabilities();
    match &capabilities.scheduling {
        Scheduling::RealTime => {}
        Scheduling::Preferred { why } | Scheduling::Ordinary { why } => {
            eprintln!("not run: real-time: {why}")
        }
    }
    match &capabilities.memory {
        Memory::Locked => {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
            let kilobytes: u64 = locked.split_ascii_whitespace().next().unwrap().parse().unwrap();
            assert!(kilobytes >= 128, "locked {kilobytes} KiB");
        }
        Memory::Unlocked { why } => eprintln!("not run: locked memory: {why}"),
    }
}
