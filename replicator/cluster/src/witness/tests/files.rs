//! What is on the disk: damaged, missing, full, in use.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount, umount};
use replicator_core::ids::Term;

use super::{CLUSTER, Running, config};
use crate::arbiter::tests::contract::{self, PATIENCE, acquire, ask, held, read, register, won};
use crate::arbiter::{Acquire, Arbiter, ArbiterError, ClusterId, KeyError};
use crate::witness::{
    Limits, Witness, WitnessError, add_cluster, cluster_key, remove_cluster, reset_register,
};

fn file_of(directory: &Path, module: &str) -> PathBuf {
    directory.join(format!("registers/{CLUSTER}/{module}.register"))
}

fn incapable<T: std::fmt::Debug>(result: Result<T, ArbiterError>) {
    assert!(matches!(result, Err(ArbiterError::Incapable { .. })), "{result:?}");
}

#[tokio::test]
async fn a_restarted_witness_is_the_same_and_keeps_its_grants() {
    let directory = tempfile::tempdir().unwrap();
    let key = add_cluster(directory.path(), CLUSTER).unwrap();
    let witness = Running::start(directory.path()).await;
    let outcome = acquire(&witness.arbiter(&key), &ask(CLUSTER, "db", 5, 1)).await;
    witness.stop(directory.path()).await;
    let witness = Running::start(directory.path()).await;
    assert_eq!(witness.identity, key.witness);
    let asked = Acquire { known: outcome.known, ..ask(CLUSTER, "db", 5, 2) };
    assert!(!won(&acquire(&witness.arbiter(&key), &asked).await));
    assert_eq!(cluster_key(directory.path(), CLUSTER).unwrap(), key);
}

#[tokio::test]
async fn a_damaged_register_refuses_until_it_is_reset() {
    let directory = tempfile::tempdir().unwrap();
    let key = add_cluster(directory.path(), CLUSTER).unwrap();
    let witness = Running::start(directory.path()).await;
    for module in ["flipped", "torn", "empty", "whole"] {
        assert!(won(&acquire(&witness.arbiter(&key), &ask(CLUSTER, module, 5, 1)).await));
    }
    witness.stop(directory.path()).await;

    let mut bytes = fs::read(file_of(directory.path(), "flipped")).unwrap();
    bytes[112] ^= 1;
    fs::write(file_of(directory.path(), "flipped"), &bytes).unwrap();
    fs::write(file_of(directory.path(), "torn"), &bytes[..100]).unwrap();
    fs::write(file_of(directory.path(), "empty"), "").unwrap();

    let witness = Running::start(directory.path()).await;
    let arbiter = witness.arbiter(&key);
    for module in ["flipped", "torn", "empty"] {
        for (term, node) in [(5, 1), (6, 2), (99, 1)] {
            incapable(arbiter.acquire(&ask(CLUSTER, module, term, node), PATIENCE).await);
        }
        let query = crate::arbiter::Query { register: register(CLUSTER, module), known: None };
        incapable(arbiter.read(&query, PATIENCE).await);
    }
    assert_eq!(read(&arbiter, CLUSTER, "whole").await.value, Some(held(5, 1)));
    let used = reset_register(directory.path(), &register(CLUSTER, "torn"), None);
    assert!(matches!(used, Err(WitnessError::InUse { .. })), "{used:?}");
    witness.stop(directory.path()).await;

    let kept = reset_register(directory.path(), &register(CLUSTER, "flipped"), Some(held(6, 2))).unwrap();
    assert_eq!(fs::read(kept.unwrap()).unwrap(), bytes, "what was there is kept");
    assert!(reset_register(directory.path(), &register(CLUSTER, "empty"), None).unwrap().is_some());
    assert_eq!(reset_register(directory.path(), &register(CLUSTER, "new"), Some(held(1, 1))).unwrap(), None);
    let witness = Running::start(directory.path()).await;
    let arbiter = witness.arbiter(&key);
    assert_eq!(read(&arbiter, CLUSTER, "flipped").await.value, Some(held(6, 2)));
    assert!(!won(&acquire(&arbiter, &ask(CLUSTER, "flipped", 6, 1)).await));
    assert_eq!(read(&arbiter, CLUSTER, "empty").await.value, None);
    assert_eq!(read(&arbiter, CLUSTER, "new").await.value, Some(held(1, 1)));
    incapable(arbiter.acquire(&ask(CLUSTER, "torn", 9, 1), PATIENCE).await);
}

#[tokio::test]
async fn a_change_that_is_in_doubt_is_answered_by_nothing_until_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let key = add_cluster(directory.path(), CLUSTER).unwrap();
    let witness = Running::start(directory.path()).await;
    let arbiter = witness.arbiter(&key);
    assert!(won(&acquire(&arbiter, &ask(CLUSTER, "db", 1, 1)).await));
    // A directory in the file's place cannot be renamed over.
    let (path, away) = (file_of(directory.path(), "db"), directory.path().join("away"));
    fs::rename(&path, &away).unwrap();
    fs::create_dir(&path).unwrap();
    incapable(arbiter.acquire(&ask(CLUSTER, "db", 2, 1), PATIENCE).await);
    fs::remove_dir(&path).unwrap();
    fs::rename(&away, &path).unwrap();
    for (term, node) in [(1, 1), (1, 2), (3, 2)] {
        incapable(arbiter.acquire(&ask(CLUSTER, "db", term, node), PATIENCE).await);
    }
    witness.stop(directory.path()).await;
    let witness = Running::start(directory.path()).await;
    let arbiter = witness.arbiter(&key);
    assert_eq!(read(&arbiter, CLUSTER, "db").await.value, Some(held(1, 1)));
    assert!(won(&acquire(&arbiter, &ask(CLUSTER, "db", 2, 2)).await));
}

/// Mounted for one test.
struct SmallDisk(PathBuf);

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount(&self.0);
    }
}

#[tokio::test]
async fn a_full_disk_grants_nothing_and_loses_nothing() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("disk");
    fs::create_dir(&directory).unwrap();
    let options = Some("size=256k,mode=0700");
    if let Err(errno) = mount(Some("none"), &directory, Some("tmpfs"), MsFlags::empty(), options) {
        return eprintln!("not run: tmpfs cannot be mounted here: {errno}");
    }
    let _disk = SmallDisk(directory.clone());
    let key = add_cluster(&directory, CLUSTER).unwrap();
    let witness = Running::start(&directory).await;
    let arbiter = witness.arbiter(&key);
    assert!(won(&acquire(&arbiter, &ask(CLUSTER, "db", 1, 1)).await));
    let filler = directory.join("filler");
    assert!(fs::write(&filler, vec![1; 1 << 20]).is_err(), "the disk is not full");
    incapable(arbiter.acquire(&ask(CLUSTER, "db", 2, 2), PATIENCE).await);
    assert_eq!(read(&arbiter, CLUSTER, "db").await.value, Some(held(1, 1)));
    fs::remove_file(&filler).unwrap();
    assert!(won(&acquire(&arbiter, &ask(CLUSTER, "db", 2, 1)).await));
    witness.stop(&directory).await;
}

#[tokio::test]
async fn a_cluster_has_so_many_registers_and_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let key = add_cluster(directory.path(), CLUSTER).unwrap();
    let limits = Limits { registers_per_cluster: 2, ..Limits::default() };
    let witness = Running::start_with(directory.path(), limits).await;
    let arbiter = witness.arbiter(&key);
    for module in ["one", "two"] {
        assert!(won(&acquire(&arbiter, &ask(CLUSTER, module, 1, 1)).await));
    }
    incapable(arbiter.acquire(&ask(CLUSTER, "three", 1, 1), PATIENCE).await);
    assert!(won(&acquire(&arbiter, &ask(CLUSTER, "two", 2, 1)).await));
    let other = ClusterId([0xc5; 16]);
    let other_key = add_cluster(directory.path(), other).unwrap();
    assert!(won(&acquire(&witness.arbiter(&other_key), &ask(other, "three", 1, 1)).await));
}

#[tokio::test]
async fn one_directory_has_one_witness() {
    let directory = tempfile::tempdir().unwrap();
    let witness = Running::start(directory.path()).await;
    let second = Witness::open(config(directory.path(), Limits::default())).await;
    assert!(matches!(second, Err(WitnessError::InUse { .. })), "{second:?}");
    witness.stop(directory.path()).await;
    Running::start(directory.path()).await;
}

#[tokio::test]
async fn a_witness_that_does_not_know_who_it_is_does_not_serve() {
    let directory = tempfile::tempdir().unwrap();
    add_cluster(directory.path(), CLUSTER).unwrap();
    let identity = directory.path().join("witness");
    let bytes = fs::read(&identity).unwrap();
    fs::write(&identity, &bytes[..63]).unwrap();
    let open = async || Witness::open(config(directory.path(), Limits::default())).await;
    let damaged = open().await;
    assert!(matches!(damaged, Err(WitnessError::IdentityDamaged { .. })), "{damaged:?}");
    fs::remove_file(&identity).unwrap();
    let missing = open().await;
    assert!(matches!(missing, Err(WitnessError::IdentityMissing { .. })), "{missing:?}");
    fs::write(&identity, &bytes).unwrap();
    open().await.unwrap();
}

#[test]
fn a_cluster_is_added_once_and_its_key_is_its_owners() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().join("witness");
    let key = add_cluster(&directory, CLUSTER).unwrap();
    let again = add_cluster(&directory, CLUSTER);
    assert!(matches!(again, Err(WitnessError::ClusterExists { .. })), "{again:?}");
    assert_eq!(cluster_key(&directory, CLUSTER).unwrap(), key);
    let path = directory.join(format!("clusters/{CLUSTER}.key"));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(&directory), 0o700);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let exposed = cluster_key(&directory, CLUSTER);
    assert!(matches!(exposed, Err(WitnessError::Key(KeyError::Exposed { .. }))), "{exposed:?}");
    remove_cluster(&directory, CLUSTER).unwrap();
    let gone = cluster_key(&directory, CLUSTER);
    assert!(matches!(gone, Err(WitnessError::NoSuchCluster { .. })), "{gone:?}");
    let other = add_cluster(&directory, CLUSTER).unwrap();
    assert!(other != key && other.witness == key.witness);
}

#[tokio::test]
async fn what_a_crash_left_aside_is_in_nobodys_way() {
    let directory = tempfile::tempdir().unwrap();
    let key = add_cluster(directory.path(), CLUSTER).unwrap();
    let witness = Running::start(directory.path()).await;
    let arbiter = witness.arbiter(&key);
    assert!(won(&acquire(&arbiter, &ask(CLUSTER, "db", 1, 1)).await));
    let mut aside = file_of(directory.path(), "db").into_os_string();
    aside.push(".new");
    fs::write(&aside, "half of it").unwrap();
    assert!(won(&acquire(&arbiter, &ask(CLUSTER, "db", 2, 1)).await));
    assert!(!Path::new(&aside).exists());
    assert_eq!(contract::read(&arbiter, CLUSTER, "db").await.known.unwrap().term, Term(2));
}
