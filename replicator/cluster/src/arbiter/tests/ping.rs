//! Real echoes between two network namespaces.

use std::fs::File;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use super::contract::{PATIENCE, ask, register};
use crate::arbiter::{
    Acquire, Arbiter, ArbiterError, ClusterId, Known, PingArbiter, Query, SetupError, Strength, Verdict,
    WitnessId,
};
use replicator_core::ids::Term;

const CLUSTER: ClusterId = ClusterId([0xc2; 16]);

/// Two namespaces and a cable, taken away when dropped.
struct Cable {
    near: String,
    far: String,
}

fn ip(arguments: &str) -> bool {
    let status = Command::new("ip").args(arguments.split(' ')).status();
    status.is_ok_and(|status| status.success())
}

impl Cable {
    fn new(name: &str) -> Option<Cable> {
        let number = std::process::id();
        let cable = Cable { near: format!("rpl-{name}-a-{number}"), far: format!("rpl-{name}-b-{number}") };
        let Cable { near, far } = &cable;
        if !(ip(&format!("netns add {near}")) && ip(&format!("netns add {far}"))) {
            eprintln!("not run: network namespaces cannot be made here");
            return None;
        }
        assert!(ip(&format!("-n {near} link add near type veth peer name far netns {far}")));
        for (space, device, host) in [(near, "near", 1), (far, "far", 2)] {
            assert!(ip(&format!("-n {space} addr add 10.99.0.{host}/24 dev {device}")));
            assert!(ip(&format!("-n {space} addr add fd99::{host}/64 dev {device} nodad")));
            assert!(ip(&format!("-n {space} link set {device} up")));
            assert!(ip(&format!("-n {space} link set lo up")));
        }
        Some(cable)
    }

    /// Ask from the near end.
    fn ask(&self, targets: &[&str], within: Duration) -> Result<Verdict, ArbiterError> {
        let targets: Vec<IpAddr> = targets.iter().map(|target| target.parse().unwrap()).collect();
        let space = File::open(format!("/var/run/netns/{}", self.near)).unwrap();
        // The namespace is the thread's; it ends with it.
        let asking = std::thread::spawn(move || {
            setns(space, CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let arbiter = PingArbiter::new(targets).unwrap();
            let outcome = runtime.block_on(arbiter.acquire(&ask(CLUSTER, "db", 1, 1), within));
            outcome.map(|outcome| outcome.verdict)
        });
        asking.join().unwrap()
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for space in [&self.near, &self.far] {
            ip(&format!("netns del {space}"));
        }
    }
}

#[test]
fn who_reaches_a_target_wins_and_who_is_cut_off_does_not() {
    let Some(cable) = Cable::new("ping") else { return };
    let short = Duration::from_millis(500);
    for target in ["10.99.0.2", "fd99::2"] {
        let verdict = cable.ask(&[target], PATIENCE).unwrap();
        assert!(matches!(verdict, Verdict::Won { value } if value.term == Term(1)), "{target}: {verdict:?}");
        let verdict = cable.ask(&["10.99.0.77", target], PATIENCE);
        assert!(verdict.is_ok(), "one of two is enough: {verdict:?}");
    }
    let nobody = cable.ask(&["10.99.0.77", "fd99::77"], short);
    assert!(matches!(nobody, Err(ArbiterError::Unreachable { .. })), "{nobody:?}");
    let unroutable = cable.ask(&["192.0.2.1"], short);
    assert!(matches!(unroutable, Err(ArbiterError::Unreachable { .. })), "{unroutable:?}");

    // The own addresses always answer: that says nothing.
    let own = cable.ask(&["10.99.0.1", "fd99::1"], short);
    assert!(matches!(own, Err(ArbiterError::Unreachable { .. })), "{own:?}");

    assert!(ip(&format!("-n {} link set far down", cable.far)));
    let cut_off = cable.ask(&["10.99.0.2", "fd99::2"], short);
    assert!(matches!(cut_off, Err(ArbiterError::Unreachable { .. })), "{cut_off:?}");
}

#[tokio::test]
async fn it_is_weak_and_remembers_nothing() {
    let arbiter = PingArbiter::new(vec!["192.0.2.1".parse().unwrap()]).unwrap();
    assert_eq!(arbiter.strength(), Strength::Weak);
    let query = Query { register: register(CLUSTER, "db"), known: None };
    let result = arbiter.read(&query, PATIENCE).await;
    assert!(matches!(result, Err(ArbiterError::RemembersNothing { .. })), "{result:?}");
    let known = Some(Known { witness: WitnessId([1; 16]), term: Term(1) });
    let asked = Acquire { term: Term(0), known, ..ask(CLUSTER, "db", 1, 1) };
    let result = arbiter.acquire(&asked, PATIENCE).await;
    assert!(matches!(result, Err(ArbiterError::Invalid { .. })), "{result:?}");
}

#[test]
fn what_always_answers_or_stands_for_many_is_no_target() {
    assert!(matches!(PingArbiter::new(Vec::new()), Err(SetupError::Nobody { .. })));
    for target in ["127.0.0.1", "::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"] {
        let result = PingArbiter::new(vec![target.parse().unwrap()]);
        assert!(matches!(result, Err(SetupError::Target { .. })), "{target}: {result:?}");
    }
}
