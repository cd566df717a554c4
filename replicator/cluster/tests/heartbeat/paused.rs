//! A node that is stopped, as a debugger or a starved machine does it, and one whose daemon fails.

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::process::ExitStatusExt;

use nix::sys::signal::{Signal, kill};
use replicator_cluster::heartbeat::{Event, Preset};

use super::node::{Node, NodeProcess, config, path_over};

#[test]
fn a_stopped_node_says_late_when_it_goes_on_and_finds_nobody_dead() {
    let (path, back) = path_over(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let stopped = NodeProcess::start(1, &[path], &[]);
    let watching = Node::start(config(2, 1, vec![back], Preset::Normal));
    watching.wait_for(&Event::PeerAlive);
    watching.wait_heard(&[1; 3000]);
    stopped.wait("PeerAlive");
    watching.heartbeat.publish(b"before".to_vec()).unwrap();
    stopped.wait("Heard {");
    kill(stopped.pid(), Signal::SIGSTOP).unwrap();
    watching.wait_for(&Event::PeerDead);
    // What it said before it was stopped was read in the meantime.
    stopped.forget();
    watching.heartbeat.publish(b"meanwhile".to_vec()).unwrap();
    kill(stopped.pid(), Signal::SIGCONT).unwrap();
    let first = stopped.next();
    assert!(first.starts_with("Late {"), "{first}");
    watching.wait_for(&Event::PeerAlive);
    let between = stopped.wait("Heard {");
    watching.heartbeat.publish(b"after".to_vec()).unwrap();
    let after = stopped.wait("Heard {");
    for line in between.iter().chain(&after) {
        assert!(!line.contains("PeerDead"), "{line}");
    }
}

#[test]
fn a_daemon_that_cannot_be_told_ends() {
    let (path, back) = path_over(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let mut faulty = NodeProcess::start_faulty(1, path);
    let _peer = Node::start(config(2, 1, vec![back], Preset::Normal));
    assert_eq!(faulty.ended().signal(), Some(Signal::SIGABRT as i32));
}
