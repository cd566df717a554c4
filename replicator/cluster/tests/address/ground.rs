//! A LAN of its own: namespaces joined by a switch, with nodes that run in them.

use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use replicator_cluster::address::{AddressConfig, AddressEvent, Addresses};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Longest wait for anything.
pub const LIMIT: Duration = Duration::from_secs(20);
pub const V4: &str = "10.9.0.100";
pub const V6: &str = "fd00:9::100";
/// The interface's name in every namespace.
pub const INTERFACE: &str = "eth0";

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A switch with three machines on it: `10.9.0.1/24` and `fd00:9::1/64`, `.2`, and `.3`.
pub struct Ground {
    pub a: Namespace,
    pub b: Namespace,
    pub client: Namespace,
    switch: Namespace,
}

impl Ground {
    /// `None`, and said so, where this machine cannot.
    pub fn new() -> Option<Ground> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("not run: network namespaces need root");
            return None;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let namespace = |role| Namespace::new(format!("address-{}-{number}-{role}", std::process::id()));
        let (switch, a, b, client) = match (namespace("s"), namespace("a"), namespace("b"), namespace("c")) {
            (Some(switch), Some(a), Some(b), Some(client)) => (switch, a, b, client),
            _ => {
                eprintln!("not run: ip netns add does not work here");
                return None;
            }
        };
        switch.ip("link add switch type bridge stp_state 0 forward_delay 0 mcast_snooping 0");
        switch.ip("link set switch up");
        let ground = Ground { a, b, client, switch };
        for (number, machine) in [(1, &ground.a), (2, &ground.b), (3, &ground.client)] {
            let port = format!("port{number}");
            ground
                .switch
                .ip(&format!("link add {port} type veth peer name {INTERFACE} netns {}", machine.name));
            ground.switch.ip(&format!("link set {port} master switch up"));
            machine.ip("link set lo up");
            machine.ip(&format!("link set {INTERFACE} up"));
            machine.ip(&format!("address add 10.9.0.{number}/24 dev {INTERFACE}"));
            machine.ip(&format!("address add fd00:9::{number}/64 dev {INTERFACE} nodad"));
        }
        Some(ground)
    }

    /// Take the cable of machine 1 (a), 2 (b) or 3 (client) out of the switch's side, or put it back.
    pub fn cable(&self, machine: u32, up: bool) {
        self.switch.ip(&format!("link set port{machine} {}", if up { "up" } else { "down" }));
    }
}

/// A network namespace, deleted in the end.
pub struct Namespace {
    pub name: String,
}

impl Namespace {
    fn new(name: String) -> Option<Namespace> {
        let made = Command::new("ip").args(["netns", "add", &name]).status();
        made.is_ok_and(|status| status.success()).then_some(Namespace { name })
    }

    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// ip(8) in it, which must succeed.
    pub fn ip(&self, arguments: &str) -> String {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name]).args(arguments.split(' '));
        let output = command.output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip -n {} {arguments}: {complaint}", self.name);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Run it on a thread of this namespace.
    pub fn within<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let file = File::open(self.path()).unwrap();
        thread::spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }

    /// The hardware address of its interface.
    pub fn mac(&self) -> String {
        let link = self.ip(&format!("-o link show dev {INTERFACE}"));
        link.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
    }

    /// The hardware address that it believes to be the one of an address.
    pub fn neighbour(&self, address: &str) -> Option<String> {
        let entry = self.ip(&format!("neigh show {address} dev {INTERFACE}"));
        Some(entry.split("lladdr ").nth(1)?.split(' ').next()?.to_owned())
    }

    /// Whether it has the address.
    pub fn has(&self, address: &str) -> bool {
        self.ip("-o address show").split_whitespace().any(|word| word.starts_with(&format!("{address}/")))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

type Job = Box<dyn FnOnce(Rc<Addresses>) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// A node: its addresses on a thread and runtime in its namespace.
pub struct Node {
    jobs: Option<UnboundedSender<Job>>,
    thread: Option<JoinHandle<()>>,
    pub events: UnboundedReceiver<AddressEvent>,
    pub state: tempfile::TempDir,
}

impl Node {
    pub fn start(namespace: &Namespace, addresses: Vec<AddressConfig>) -> Node {
        let state = tempfile::tempdir().unwrap();
        let directory = state.path().to_owned();
        let (jobs, mut orders) = unbounded_channel::<Job>();
        let (events, told) = unbounded_channel();
        let thread = namespace.within(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let addresses = Rc::new(Addresses::new(addresses, &directory, events).unwrap());
                while let Some(job) = orders.recv().await {
                    job(addresses.clone()).await;
                }
            });
        });
        Node { jobs: Some(jobs), thread: Some(thread), events: told, state }
    }

    /// Let the node do something, and wait for its answer. Its tasks run meanwhile and between.
    pub fn call<T: Send + 'static, F: Future<Output = T> + 'static>(
        &self,
        work: impl FnOnce(Rc<Addresses>) -> F + Send + 'static,
    ) -> T {
        let (answer, answered) = mpsc::channel();
        let job: Job = Box::new(move |addresses| {
            Box::pin(async move {
                let _ = answer.send(work(addresses).await);
            })
        });
        self.jobs.as_ref().unwrap().send(job).unwrap_or_else(|_| panic!("the node has ended"));
        answered.recv_timeout(LIMIT).unwrap()
    }

    /// The next event that is wanted; others are passed over.
    pub fn event(&mut self, wanted: impl Fn(&AddressEvent) -> bool) -> AddressEvent {
        wait("an event", || self.events.try_recv().ok().filter(|event| wanted(event)))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.jobs.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !thread::panicking()
        {
            panic!("the node's thread panicked");
        }
    }
}

/// Both addresses of the service, probed, on the interface that their subnets name.
pub fn both() -> Vec<AddressConfig> {
    [format!("{V4}/24"), format!("{V6}/64")].map(|address| configured(&address)).to_vec()
}

pub fn configured(address: &str) -> AddressConfig {
    AddressConfig { address: address.parse().unwrap(), interface: None, probe: true, outgoing: false }
}

/// Wait until something is there.
pub fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        // Between two looks at the state; the bound is above.
        thread::sleep(Duration::from_millis(10));
    }
}

pub fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}
