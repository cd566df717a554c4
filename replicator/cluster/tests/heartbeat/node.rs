//! Nodes for the tests: in this process, or as a process of their own, which is this test binary again.

use std::env;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use replicator_cluster::heartbeat::{Event, Heartbeat, HeartbeatConfig, Key, Path, Preset};

/// Longer than anything here takes on a loaded machine.
pub const LIMIT: Duration = Duration::from_secs(60);
const NODE: &str = "HEARTBEAT_TEST_NODE";
const FAULTY: &str = "HEARTBEAT_TEST_FAULTY";
const PATHS: &str = "HEARTBEAT_TEST_PATHS";

pub fn config(node: u8, key: u8, paths: Vec<Path>, preset: Preset) -> HeartbeatConfig {
    HeartbeatConfig::new([9; 16], ([node; 16], [3 - node; 16]), Key::new([key; 32]), paths, preset)
}

/// Two ends of a path over an address of this machine, with ports that are free.
pub fn path_over(address: IpAddr) -> (Path, Path) {
    let free =
        || UdpSocket::bind((address, 0)).and_then(|socket| Ok((socket.local_addr()?, socket))).unwrap();
    let ((one, _one), (other, _other)) = (free(), free());
    (Path { local: one, peer: other }, Path { local: other, peer: one })
}

/// A node in this process.
pub struct Node {
    pub heartbeat: Heartbeat,
    /// Of its first path.
    pub address: SocketAddr,
    events: Receiver<Event>,
}

impl Node {
    pub fn start(config: HeartbeatConfig) -> Node {
        let (sender, events) = channel();
        let address = config.paths[0].local;
        let heartbeat = Heartbeat::start(config, move |event| drop(sender.send(event))).unwrap();
        Node { heartbeat, address, events }
    }

    /// Wait for an event; returns those before it but beats.
    pub fn wait(&self, what: &str, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        let deadline = Instant::now() + LIMIT;
        let mut before = Vec::new();
        loop {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) if wanted(&event) => return before,
                Ok(Event::Beat { .. }) => {}
                Ok(event) => before.push(event),
                Err(_) => panic!("{what} did not happen, but {before:?}"),
            }
        }
    }

    pub fn wait_for(&self, event: &Event) -> Vec<Event> {
        self.wait(&format!("{event:?}"), |other| other == event)
    }

    pub fn wait_heard(&self, wanted: &[u8]) -> Vec<Event> {
        self.wait(
            "a payload",
            |event| matches!(event, Event::Heard { payload, .. } if payload[..] == *wanted),
        )
    }
}

/// Wait until something is so.
pub fn until(what: &str, so: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !so() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        // Between two looks at the state; the bound is above.
        thread::sleep(Duration::from_millis(5));
    }
}

/// A node in a process of its own. Ends when it is dropped.
pub struct NodeProcess {
    child: Child,
    lines: Receiver<String>,
}

impl NodeProcess {
    /// `within`: a command that is to start it, such as `ip netns exec`.
    pub fn start(node: u8, paths: &[Path], within: &[&str]) -> NodeProcess {
        let binary = env::current_exe().unwrap();
        let arguments = ["--exact", "node::node_process", "--nocapture", "--test-threads=1"].map(OsStr::new);
        let mut words = within.iter().map(OsStr::new).chain([binary.as_os_str()]).chain(arguments);
        let mut command = Command::new(words.next().unwrap());
        let paths: Vec<_> = paths.iter().map(|path| format!("{} {}", path.local, path.peer)).collect();
        command.args(words).env(NODE, node.to_string()).env(PATHS, paths.join(","));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        NodeProcess { child, lines }
    }

    /// One whose daemon panics when it is told that the peer is alive.
    pub fn start_faulty(node: u8, path: Path) -> NodeProcess {
        NodeProcess::start(node, &[path], &["env", &format!("{FAULTY}=1")])
    }

    /// Wait for its end.
    pub fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the node did not end");
            // Between two looks at the process; the bound is above.
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.child.id() as i32)
    }

    /// Wait for a line; returns the events before it but beats.
    pub fn wait(&self, wanted: &str) -> Vec<String> {
        let deadline = Instant::now() + LIMIT;
        let mut before = Vec::new();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(wanted) => return before,
                Ok(line) if line.contains("Beat {") => {}
                Ok(line) => before.push(line),
                Err(RecvTimeoutError::Timeout) => panic!("{wanted} did not happen, but {before:?}"),
                Err(RecvTimeoutError::Disconnected) => panic!("the node ended; it said {before:?}"),
            }
        }
    }

    /// Forget what it has said.
    pub fn forget(&self) {
        while self.lines.try_recv().is_ok() {}
    }

    /// The next thing it says that is no beat.
    pub fn next(&self) -> String {
        loop {
            let line = self.lines.recv_timeout(LIMIT).expect("the node says nothing");
            if !line.contains("Beat {") {
                return line;
            }
        }
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test: the body of a [`NodeProcess`], which tells each event in a line and ends with its input.
#[test]
fn node_process() {
    let Ok(node) = env::var(NODE) else { return };
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    let paths = env::var(PATHS).unwrap();
    let paths = paths.split(',').filter_map(|path| path.split_once(' '));
    let paths = paths.map(|(local, peer)| Path { local: address(local), peer: address(peer) }).collect();
    let node: u8 = node.parse().unwrap();
    let faulty = env::var(FAULTY).is_ok();
    let tell = move |event| {
        println!("{event:?}");
        assert!(!faulty || event != Event::PeerAlive, "the fault that was asked for");
    };
    let heartbeat = Heartbeat::start(config(node, 1, paths, Preset::Normal), tell).unwrap();
    heartbeat.publish(vec![node; 3000]).unwrap();
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
