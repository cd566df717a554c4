//! Nodes beside others that want the processor, and beside a stranger that wants the socket. Both hold only with real-time priority.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use replicator_cluster::heartbeat::{Event, Preset, Scheduling};

use super::node::{Node, config, path_over, until};

/// Beats while the load lasts: several times those until death.
const TICKS: u64 = 40;

/// Threads that do something until this is dropped.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn new(threads: usize, work: impl Fn() + Clone + Send + 'static) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..threads).map(|_| {
            let (stop, work) = (Arc::clone(&stop), work.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    work();
                }
            })
        });
        Load { threads: threads.collect(), stop }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Two nodes that know each other, if the system lets them run before others.
fn nodes() -> Option<(Node, Node)> {
    let (path, back) = path_over(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let one = Node::start(config(1, 1, vec![path], Preset::Normal));
    let other = Node::start(config(2, 1, vec![back], Preset::Normal));
    for node in [&one, &other] {
        if let Scheduling::Ordinary { why } | Scheduling::Preferred { why } =
            &node.heartbeat.capabilities().scheduling
        {
            eprintln!("not run: heartbeats under load: {why}");
            return None;
        }
        node.wait_for(&Event::PeerAlive);
    }
    Some((one, other))
}

fn live_on(one: &Node, other: &Node, load: Load) {
    let end = one.heartbeat.snapshot().ticks + TICKS;
    until("the beats", || one.heartbeat.snapshot().ticks >= end);
    drop(load);
    for (from, to) in [(one, other), (other, one)] {
        from.heartbeat.publish(b"alive".to_vec()).unwrap();
        let before = to.wait_heard(b"alive");
        let bad = |event: &&Event| matches!(event, Event::PeerDead | Event::Late { .. });
        assert_eq!(before.iter().find(bad), None);
    }
}

#[test]
fn nobody_is_dead_or_late_while_all_processors_are_busy() {
    let Some((one, other)) = nodes() else { return };
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        std::hint::black_box((0..10_000u64).fold(0, |sum, number| std::hint::black_box(sum ^ number)));
    };
    live_on(&one, &other, Load::new(2 * processors, work));
}

#[test]
fn nobody_is_dead_or_late_while_a_stranger_floods_a_socket() {
    let Some((one, other)) = nodes() else { return };
    let (path, _) = path_over(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let stranger = Arc::new(UdpSocket::bind(path.local).unwrap());
    let victim = one.address;
    let load = Load::new(1, move || {
        for _ in 0..1000 {
            let _ = stranger.send_to(&[7; 300], victim);
        }
    });
    live_on(&one, &other, load);
    assert!(one.heartbeat.snapshot().paths[0].counters.garbage > 1000);
}
