//! The service, run for real: what it keeps, whom it serves, and what it does with everybody else.

mod files;
mod fuzz;
mod process;
mod restored;
mod strangers;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Limits, Statistics, Witness, WitnessConfig, add_cluster};
use crate::arbiter::tests::contract;
use crate::arbiter::{AnyArbiter, ClusterId, WitnessArbiter, WitnessId, WitnessKey};

const CLUSTER: ClusterId = ClusterId([0xc3; 16]);

/// A witness that serves in this process.
struct Running {
    address: SocketAddr,
    identity: WitnessId,
    statistics: Arc<Statistics>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

fn config(directory: &Path, limits: Limits) -> WitnessConfig {
    let listen = vec!["127.0.0.1:0".parse().unwrap()];
    WitnessConfig { listen, directory: directory.to_owned(), limits }
}

impl Running {
    async fn start(directory: &Path) -> Running {
        Running::start_with(directory, Limits::default()).await
    }

    async fn start_with(directory: &Path, limits: Limits) -> Running {
        let witness = Witness::open(config(directory, limits)).await.unwrap();
        let (address, identity) = (witness.addresses()[0], witness.identity());
        let statistics = witness.statistics();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(witness.run(async {
            let _ = stopped.await;
        }));
        Running { address, identity, statistics, stop, task }
    }

    /// Stop it, and wait until the directory is free.
    async fn stop(self, directory: &Path) {
        drop(self.stop);
        self.task.await.unwrap();
        until("the directory is free", || super::Directory::open(directory).unwrap().lock().is_ok()).await;
    }

    fn arbiter(&self, key: &WitnessKey) -> AnyArbiter {
        AnyArbiter::Witness(WitnessArbiter::new(vec![self.address], key.clone()).unwrap())
    }
}

/// Wait until something holds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("in 30 s it did not come about that {what}");
}

#[tokio::test]
async fn a_witness_fulfils_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    let key = add_cluster(directory.path(), CLUSTER).unwrap();
    let witness = Running::start(directory.path()).await;
    assert_eq!(witness.identity, key.witness);
    contract::fulfils_the_contract(witness.arbiter(&key), CLUSTER).await;
}

#[tokio::test]
async fn clusters_do_not_see_each_other_and_are_known_from_the_moment_they_are_added() {
    let directory = tempfile::tempdir().unwrap();
    let witness = Running::start(directory.path()).await;
    let other = ClusterId([0xc4; 16]);
    let key = add_cluster(directory.path(), CLUSTER).unwrap();
    let other_key = add_cluster(directory.path(), other).unwrap();
    let (arbiter, other_arbiter) = (witness.arbiter(&key), witness.arbiter(&other_key));
    assert!(contract::won(&contract::acquire(&arbiter, &contract::ask(CLUSTER, "db", 5, 1)).await));
    assert_eq!(contract::read(&other_arbiter, other, "db").await.value, None);
    assert!(contract::won(&contract::acquire(&other_arbiter, &contract::ask(other, "db", 1, 2)).await));
    assert_eq!(contract::read(&arbiter, CLUSTER, "db").await.value, Some(contract::held(5, 1)));
}
