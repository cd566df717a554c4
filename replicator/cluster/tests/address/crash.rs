//! A daemon is killed while it holds addresses; the next one of the node removes them.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sched::{CloneFlags, setns};
use replicator_cluster::address::{AddressError, Addresses, Recovered};
use tokio::sync::mpsc::unbounded_channel;

use super::ground::{Ground, INTERFACE, Namespace, Node, V4, V6, both, configured, wait};

/// Set for the process that is to be killed: its state directory.
const ROLE: &str = "ADDRESS_TEST_HOLDER";

/// Not a test of its own: in the process started by the others it takes the addresses and waits to be killed.
#[test]
fn holder() {
    let Some(directory) = std::env::var_os(ROLE).map(PathBuf::from) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (events, _told) = unbounded_channel();
        let addresses = Addresses::new(both(), &directory, events).unwrap();
        addresses.take(true).await.unwrap();
        std::fs::write(directory.join("taken"), "").unwrap();
        std::future::pending::<()>().await;
    });
}

struct Killed(Child);

impl Killed {
    /// A process takes the addresses and is killed.
    fn in_namespace(namespace: &Namespace, directory: &std::path::Path) {
        let file = std::fs::File::open(namespace.path()).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "crash::holder"]).env(ROLE, directory).stdout(Stdio::null());
        // SAFETY: between fork and exec only setns(2) is called, which is async-signal-safe.
        unsafe {
            command.pre_exec(move || setns(&file, CloneFlags::CLONE_NEWNET).map_err(Into::into));
        }
        let mut process = Killed(command.spawn().unwrap());
        wait("the process to take the addresses", || {
            if let Some(status) = process.0.try_wait().unwrap() {
                panic!("it ended by itself: {status}");
            }
            directory.join("taken").exists().then_some(())
        });
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn kernel_keeps_marks() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(5), Some(18))
}

fn recover(node: &Node) -> Recovered {
    node.call(|node| async move { node.recover().unwrap() })
}

#[test]
fn what_a_killed_daemon_left_behind_is_removed() {
    let Some(ground) = Ground::new() else { return };
    let node = Node::start(&ground.a, both());
    Killed::in_namespace(&ground.a, node.state.path());
    assert!(ground.a.has(V4) && ground.a.has(V6));
    let recovered = recover(&node);
    assert_eq!((recovered.removed.len(), recovered.foreign.len()), (2, 0), "{recovered:?}");
    assert!(!ground.a.has(V4) && !ground.a.has(V6));
    assert!(ground.a.has("10.9.0.1"));
    assert_eq!(recover(&node).removed, []);
}

#[test]
fn without_its_note_the_mark_tells() {
    let Some(ground) = Ground::new() else { return };
    let node = Node::start(&ground.a, both());
    Killed::in_namespace(&ground.a, node.state.path());
    if !kernel_keeps_marks() {
        eprintln!("not run: this kernel does not keep who added an address (before 5.18)");
        return;
    }
    std::fs::write(node.state.path().join("addresses"), "damaged").unwrap();
    assert_eq!(recover(&node).removed.len(), 2);
    assert!(!ground.a.has(V4) && !ground.a.has(V6));
}

/// A state directory that is full, say.
#[test]
fn a_note_that_cannot_be_written_does_not_keep_the_service_down() {
    let Some(ground) = Ground::new() else { return };
    let node = Node::start(&ground.a, both());
    std::fs::create_dir(node.state.path().join("addresses.new")).unwrap();
    node.call(|node| async move { node.take(true).await.unwrap() });
    assert!(ground.a.has(V4) && ground.a.has(V6));
    assert_eq!(node.call(|node| async move { node.give_up().unwrap() }).removed.len(), 2);
    assert!(!ground.a.has(V4) && !ground.a.has(V6));
}

/// The configuration was changed while the daemon was down.
#[test]
fn what_is_no_longer_configured_is_removed_by_the_note() {
    let Some(ground) = Ground::new() else { return };
    let node = Node::start(&ground.a, vec![configured("10.9.0.200/24")]);
    Killed::in_namespace(&ground.a, node.state.path());
    assert_eq!(recover(&node).removed.len(), 2);
    assert!(!ground.a.has(V4) && !ground.a.has(V6));
}

#[test]
fn what_others_configured_is_told_and_left_alone() {
    let Some(ground) = Ground::new() else { return };
    ground.a.ip(&format!("address add {V4}/24 dev {INTERFACE}"));
    let node = Node::start(&ground.a, both());
    let recovered = recover(&node);
    assert_eq!(recovered.removed, []);
    assert_eq!(recovered.foreign, [(format!("{V4}/24").parse().unwrap(), INTERFACE.to_owned())]);
    // Nor is it taken: giving it up would take away what is not the cluster's.
    let refused = node.call(|node| async move { node.take(true).await });
    assert!(
        matches!(&refused, Err(AddressError::Foreign { interface, .. }) if interface == INTERFACE),
        "{refused:?}"
    );
    node.call(|node| async move { node.give_up().unwrap() });
    assert!(ground.a.has(V4) && !ground.a.has(V6));
}
