//! The witness as a process that is killed.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use replicator_core::ids::Term;

use super::{CLUSTER, config, until};
use crate::arbiter::tests::contract::{PATIENCE, ask, won};
use crate::arbiter::{Acquire, Arbiter, ArbiterError, Known, Query, WitnessArbiter, WitnessKey};
use crate::witness::{Limits, Witness, add_cluster};

/// Set where this binary is to be a witness instead of a test: its directory.
const ROLE: &str = "REPLICATOR_TEST_WITNESS_DIRECTORY";
/// Where it says at which address it listens.
const ADDRESS: &str = "address-of-the-test";
const KILLS: usize = 12;

/// Every grant that was ever acknowledged is there after each kill, in the middle of whatever it was.
#[tokio::test]
async fn a_killed_witness_keeps_its_grants() {
    if let Some(directory) = std::env::var_os(ROLE) {
        return be_a_witness(Path::new(&directory)).await;
    }
    let directory = tempfile::tempdir().unwrap();
    let key = add_cluster(directory.path(), CLUSTER).unwrap();
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut known: Option<Known> = None;
    for kill in 0..KILLS {
        let (mut child, address) = start(directory.path()).await;
        let killed = Arc::new(AtomicBool::new(false));
        let asking = tokio::spawn(ask_on(address, key.clone(), known, acknowledged.clone(), killed.clone()));
        let before = acknowledged.load(Ordering::SeqCst);
        let enough = before + 1 + 3 * kill as u64;
        until("grants were given", || acknowledged.load(Ordering::SeqCst) > enough).await;
        child.kill();
        killed.store(true, Ordering::SeqCst);
        known = asking.await.unwrap();
        assert_eq!(known.unwrap().term, Term(acknowledged.load(Ordering::SeqCst)));
    }
    let (_child, address) = start(directory.path()).await;
    let arbiter = WitnessArbiter::new(vec![address], key).unwrap();
    let query = Query { register: ask(CLUSTER, "db", 1, 1).register, known };
    let reading = arbiter.read(&query, PATIENCE).await.unwrap();
    // It may hold one more: the last one before a kill was perhaps stored and not answered.
    let last = acknowledged.load(Ordering::SeqCst);
    assert!((last..=last + 1).contains(&reading.value.unwrap().term.0), "{reading:?}, acknowledged {last}");
}

/// Ask for term after term until the witness is killed; what is known at the end.
async fn ask_on(
    address: SocketAddr,
    key: WitnessKey,
    mut known: Option<Known>,
    acknowledged: Arc<AtomicU64>,
    killed: Arc<AtomicBool>,
) -> Option<Known> {
    let arbiter = WitnessArbiter::new(vec![address], key).unwrap();
    loop {
        let term = acknowledged.load(Ordering::SeqCst) + 1;
        let asked = Acquire { known, ..ask(CLUSTER, "db", term, 1) };
        match arbiter.acquire(&asked, Duration::from_millis(300)).await {
            Ok(outcome) => {
                assert!(won(&outcome), "nobody else asks: {outcome:?}");
                known = outcome.known;
                acknowledged.store(term, Ordering::SeqCst);
            }
            Err(ArbiterError::Unreachable { .. }) if killed.load(Ordering::SeqCst) => return known,
            Err(ArbiterError::Unreachable { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Killed when dropped, also by a test that fails.
struct Process(Child);

impl Process {
    fn kill(&mut self) {
        // With SIGKILL. It fails only for one that has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// This binary again, as a witness.
async fn start(directory: &Path) -> (Process, SocketAddr) {
    let _ = fs::remove_file(directory.join(ADDRESS));
    let name = "witness::tests::process::a_killed_witness_keeps_its_grants";
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(ROLE, directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let child = Process(child);
    let path = directory.join(ADDRESS);
    until("the witness listens", || path.exists()).await;
    (child, fs::read_to_string(path).unwrap().parse().unwrap())
}

async fn be_a_witness(directory: &Path) {
    let witness = Witness::open(config(directory, Limits::default())).await.unwrap();
    let aside = directory.join("address-aside");
    fs::write(&aside, witness.addresses()[0].to_string()).unwrap();
    fs::rename(aside, directory.join(ADDRESS)).unwrap();
    witness.run(std::future::pending()).await;
}
