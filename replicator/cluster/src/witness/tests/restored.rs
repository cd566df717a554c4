//! A witness that returns with old state, or is another one.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use replicator_core::ids::Term;

use super::{CLUSTER, Running};
use crate::arbiter::tests::contract::{PATIENCE, acquire, ask, held, read, register, untrustworthy, won};
use crate::arbiter::{Acquire, Arbiter, ArbiterError, Distrust, Query};
use crate::witness::add_cluster;

fn copy_tree(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn a_directory_taken_back_to_an_older_state_is_not_trusted() {
    let place = tempfile::tempdir().unwrap();
    let [directory, copy] = ["now", "then"].map(|name| place.path().join(name));
    let key = add_cluster(&directory, CLUSTER).unwrap();
    let witness = Running::start(&directory).await;
    assert!(won(&acquire(&witness.arbiter(&key), &ask(CLUSTER, "db", 5, 1)).await));
    witness.stop(&directory).await;
    copy_tree(&directory, &copy);
    let witness = Running::start(&directory).await;
    let late = acquire(&witness.arbiter(&key), &ask(CLUSTER, "db", 7, 2)).await;
    let first = acquire(&witness.arbiter(&key), &ask(CLUSTER, "web", 1, 2)).await;
    witness.stop(&directory).await;

    let witness = Running::start(&copy).await;
    let arbiter = witness.arbiter(&key);
    let asked = Acquire { known: late.known, ..ask(CLUSTER, "db", 8, 2) };
    let distrust = untrustworthy(arbiter.acquire(&asked, PATIENCE).await);
    assert_eq!(distrust, Distrust::Behind { known: Term(7), found: Some(Term(5)) });
    let query = Query { register: register(CLUSTER, "web"), known: first.known };
    let distrust = untrustworthy(arbiter.read(&query, PATIENCE).await);
    assert_eq!(distrust, Distrust::Behind { known: Term(1), found: None });
    // Nothing was changed by being asked.
    assert_eq!(read(&arbiter, CLUSTER, "db").await.value, Some(held(5, 1)));
    assert_eq!(read(&arbiter, CLUSTER, "web").await.value, None);
}

#[tokio::test]
async fn another_witness_is_noticed_even_at_the_first_contact() {
    let place = tempfile::tempdir().unwrap();
    let [one, two] = ["one", "two"].map(|name| place.path().join(name));
    let (key, other_key) = (add_cluster(&one, CLUSTER).unwrap(), add_cluster(&two, CLUSTER).unwrap());
    let (witness, other) = (Running::start(&one).await, Running::start(&two).await);
    let outcome = acquire(&witness.arbiter(&key), &ask(CLUSTER, "db", 5, 1)).await;

    // The nodes were given the new one's key, and remember the old one.
    let asked = Acquire { known: outcome.known, ..ask(CLUSTER, "db", 6, 1) };
    let distrust = untrustworthy(other.arbiter(&other_key).acquire(&asked, PATIENCE).await);
    assert_eq!(distrust, Distrust::OtherWitness { expected: key.witness, found: other_key.witness });

    // The old one's key file was copied to the new one, by hand: it is not its key.
    let name = format!("clusters/{CLUSTER}.key");
    fs::copy(one.join(&name), two.join(&name)).unwrap();
    let short = Duration::from_millis(500);
    let result = other.arbiter(&key).acquire(&ask(CLUSTER, "db", 6, 2), short).await;
    assert!(matches!(result, Err(ArbiterError::Unreachable { .. })), "{result:?}");

    // The secret alone was copied, so that both can prove it: each says who it is.
    let text = fs::read_to_string(one.join(&name)).unwrap();
    let text = text.replace(&key.witness.to_string(), &other_key.witness.to_string());
    fs::write(two.join(&name), text).unwrap();
    let distrust = untrustworthy(other.arbiter(&key).acquire(&ask(CLUSTER, "db", 6, 2), PATIENCE).await);
    assert_eq!(distrust, Distrust::OtherWitness { expected: key.witness, found: other_key.witness });
    assert!(!two.join(format!("registers/{CLUSTER}/db.register")).exists());
}
