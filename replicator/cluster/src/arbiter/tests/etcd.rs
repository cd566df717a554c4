//! The real etcd of the distribution (package etcd-server), on loopback, with a directory of its own.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use replicator_core::ids::Term;
use tempfile::TempDir;
use ureq::Agent;

use super::contract::{self, PATIENCE, acquire, ask, held, read, untrustworthy, won};
use crate::arbiter::etcd::gateway;
use crate::arbiter::{
    Acquire, AnyArbiter, Arbiter, ArbiterError, ClusterId, Distrust, EtcdArbiter, EtcdConfig, EtcdTls,
    SetupError,
};

const CLUSTER: ClusterId = ClusterId([0xc1; 16]);

/// One etcd. Ended when dropped.
struct Etcd {
    child: Child,
    client: String,
}

impl Etcd {
    /// Start it on this directory, and wait until it answers. `None` if it is not installed.
    async fn start(directory: &Path, token: &str) -> Option<Etcd> {
        let etcd = Etcd::spawn(directory, token, "http", &[])?;
        // With the patience of a read: it is asked again until it answers.
        read(&etcd.arbiter(), CLUSTER, "is-it-up").await;
        Some(etcd)
    }

    fn spawn(directory: &Path, token: &str, scheme: &str, more: &[&str]) -> Option<Etcd> {
        let [client, peer] = free_ports();
        let (client, peer) = (format!("{scheme}://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(directory)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--initial-cluster-token", token])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = match child {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("not run: etcd is not installed (package etcd-server)");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        Some(Etcd { child, client })
    }

    fn arbiter(&self) -> AnyArbiter {
        arbiter(vec![self.client.clone()])
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // Kills it with SIGKILL: what it answered must be there all the same.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn arbiter(endpoints: Vec<String>) -> AnyArbiter {
    AnyArbiter::Etcd(EtcdArbiter::new(EtcdConfig::new(endpoints)).unwrap())
}

/// Two ports that were free a moment ago.
fn free_ports() -> [u16; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.each_ref().map(|listener| listener.local_addr().unwrap().port())
}

fn copy_tree(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn etcd_fulfils_the_contract() {
    let directory = TempDir::new().unwrap();
    let Some(etcd) = Etcd::start(&directory.path().join("data"), "one").await else { return };
    contract::fulfils_the_contract(etcd.arbiter(), CLUSTER).await;
}

#[tokio::test]
async fn a_killed_etcd_keeps_its_grants_and_a_restored_one_is_not_trusted() {
    let directory = TempDir::new().unwrap();
    let [data, copy] = ["data", "copy"].map(|name| directory.path().join(name));
    let Some(etcd) = Etcd::start(&data, "one").await else { return };
    let early = acquire(&etcd.arbiter(), &ask(CLUSTER, "db", 5, 1)).await;
    assert!(won(&early));
    drop(etcd);
    copy_tree(&data, &copy);

    let etcd = Etcd::start(&data, "one").await.unwrap();
    let asked = Acquire { known: early.known, ..ask(CLUSTER, "db", 5, 2) };
    assert!(!won(&acquire(&etcd.arbiter(), &asked).await));
    let asked = Acquire { known: early.known, ..ask(CLUSTER, "db", 7, 2) };
    let late = acquire(&etcd.arbiter(), &asked).await;
    assert!(won(&late));
    drop(etcd);

    let etcd = Etcd::start(&copy, "one").await.unwrap();
    let asked = Acquire { known: late.known, ..ask(CLUSTER, "db", 8, 2) };
    let distrust = untrustworthy(etcd.arbiter().acquire(&asked, PATIENCE).await);
    assert_eq!(distrust, Distrust::Behind { known: Term(7), found: Some(Term(5)) });
    assert_eq!(read(&etcd.arbiter(), CLUSTER, "db").await.value, Some(held(5, 1)));
    drop(etcd);

    let etcd = Etcd::start(&directory.path().join("new"), "two").await.unwrap();
    let distrust = untrustworthy(etcd.arbiter().acquire(&asked, PATIENCE).await);
    assert!(matches!(distrust, Distrust::OtherWitness { .. }), "{distrust:?}");
}

#[tokio::test]
async fn a_foreign_value_is_not_taken_for_none() {
    let directory = TempDir::new().unwrap();
    let Some(etcd) = Etcd::start(&directory.path().join("data"), "one").await else { return };
    let endpoint = etcd.client.clone();
    let values = ["", "{}", "7", "{\"format\":2,\"term\":1}"];
    let write = move || {
        for (number, value) in values.iter().enumerate() {
            let key = format!("/replicator/{CLUSTER}/foreign-{number}");
            let limit = Duration::from_secs(30);
            gateway::exchange(&Agent::new_with_defaults(), &endpoint, &key, "0", value.as_bytes(), limit)
                .unwrap();
        }
    };
    tokio::task::spawn_blocking(write).await.unwrap();
    for number in 0..values.len() {
        let asked = ask(CLUSTER, &format!("foreign-{number}"), 9, 1);
        let result = etcd.arbiter().acquire(&asked, PATIENCE).await;
        assert!(matches!(result, Err(ArbiterError::Incapable { .. })), "{result:?}");
    }
}

/// The one step that makes it exclusive, whatever the timing: who has seen an older revision changes nothing.
#[tokio::test]
async fn who_was_overtaken_changes_nothing() {
    let directory = TempDir::new().unwrap();
    let Some(etcd) = Etcd::start(&directory.path().join("data"), "one").await else { return };
    let endpoint = etcd.client.clone();
    let exchanges = move || {
        let (agent, limit) = (Agent::new_with_defaults(), Duration::from_secs(30));
        let put = |value: &[u8]| gateway::exchange(&agent, &endpoint, "/key", "0", value, limit).unwrap();
        assert!(matches!(put(b"first"), gateway::Exchange::Done));
        let gateway::Exchange::Overtaken(state) = put(b"second") else { panic!("it was put over the first") };
        assert_eq!(state.found.value.as_deref(), Some(b"first".as_slice()));
        assert_ne!(state.found.revision, "0");
        let now = gateway::read(&agent, &endpoint, "/key", limit).unwrap();
        assert_eq!((now.found.value, now.cluster), (state.found.value, state.cluster));
    };
    tokio::task::spawn_blocking(exchanges).await.unwrap();
}

#[tokio::test]
async fn an_endpoint_that_is_dead_or_something_else_is_passed_over() {
    let directory = TempDir::new().unwrap();
    let Some(etcd) = Etcd::start(&directory.path().join("data"), "one").await else { return };
    let [dead, _] = free_ports();
    // Accepts and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    let endpoints = vec![
        format!("http://127.0.0.1:{dead}"),
        format!("http://127.0.0.1:{silent_port}"),
        etcd.client.clone(),
    ];
    assert!(won(&acquire(&arbiter(endpoints.clone()), &ask(CLUSTER, "db", 1, 1)).await));
    let alone = arbiter(endpoints[..2].to_vec());
    let result = alone.acquire(&ask(CLUSTER, "db", 2, 1), Duration::from_millis(300)).await;
    assert!(matches!(result, Err(ArbiterError::Unreachable { .. })), "{result:?}");
    assert_eq!(read(&etcd.arbiter(), CLUSTER, "db").await.value, Some(held(1, 1)));
}

/// A certificate authority, and a certificate with its key for 127.0.0.1, as files.
struct Certificates {
    authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Certificates {
    fn make(directory: &Path, name: &str) -> Certificates {
        let place = |kind: &str| directory.join(format!("{name}-{kind}.pem"));
        let files = Certificates { authority: place("ca"), certificate: place("cert"), key: place("key") };
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate().unwrap();
        fs::write(&files.authority, authority.self_signed(&authority_key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(authority, authority_key);
        let mut leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        leaf.distinguished_name.push(DnType::CommonName, name);
        // etcd's gateway is a client of etcd with the server's certificate.
        leaf.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        fs::write(&files.certificate, leaf.signed_by(&key, &issuer).unwrap().pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    fn arbiter(&self, endpoint: &str, authority: &Path, shown: bool) -> AnyArbiter {
        let identity = shown.then(|| (self.certificate.clone(), self.key.clone()));
        let tls = Some(EtcdTls { authority: authority.to_owned(), identity });
        let config = EtcdConfig { tls, ..EtcdConfig::new(vec![endpoint.to_owned()]) };
        AnyArbiter::Etcd(EtcdArbiter::new(config).unwrap())
    }
}

#[tokio::test]
async fn certificates_are_checked_on_both_sides() {
    let directory = TempDir::new().unwrap();
    let good = Certificates::make(directory.path(), "good");
    let other = Certificates::make(directory.path(), "other");
    let paths = [&good.authority, &good.certificate, &good.key].map(|path| path.to_str().unwrap());
    let [authority, certificate, key] = paths;
    let options =
        ["--client-cert-auth", "--trusted-ca-file", authority, "--cert-file", certificate, "--key-file", key];
    let data = directory.path().join("data");
    let Some(etcd) = Etcd::spawn(&data, "one", "https", &options) else { return };
    let trusted = good.arbiter(&etcd.client, &good.authority, true);
    assert!(won(&acquire(&trusted, &ask(CLUSTER, "db", 1, 1)).await));
    let strangers = [
        ("without a certificate", good.arbiter(&etcd.client, &good.authority, false)),
        ("with another authority's", other.arbiter(&etcd.client, &good.authority, true)),
        ("etcd's is another authority's", good.arbiter(&etcd.client, &other.authority, true)),
    ];
    for (who, stranger) in strangers {
        let result = stranger.acquire(&ask(CLUSTER, "db", 2, 2), Duration::from_millis(500)).await;
        assert!(matches!(result, Err(ArbiterError::Unreachable { .. })), "{who}: {result:?}");
    }
    assert_eq!(read(&trusted, CLUSTER, "db").await.value, Some(held(1, 1)));
}

#[test]
fn what_is_no_endpoint_is_refused() {
    let refused = |endpoint: &str| EtcdArbiter::new(EtcdConfig::new(vec![endpoint.to_owned()])).unwrap_err();
    for endpoint in
        ["", "10.0.0.1", "ftp://h:1", "http://", "http://u:p@h:1", "http://h:1/v3", "http://h:1?x=1"]
    {
        assert!(matches!(refused(endpoint), SetupError::Endpoint { .. }), "{endpoint:?}");
    }
    assert!(matches!(refused("https://h:2379"), SetupError::NoAuthority { .. }));
    assert!(matches!(EtcdArbiter::new(EtcdConfig::new(Vec::new())), Err(SetupError::Nobody { .. })));
    for endpoint in ["http://h:1", "http://h:1/", "http://[fd00::1]:2379"] {
        EtcdArbiter::new(EtcdConfig::new(vec![endpoint.to_owned()])).unwrap();
    }
}

#[test]
fn certificates_that_are_none_are_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("ca.pem");
    let config = |authority| EtcdConfig {
        tls: Some(EtcdTls { authority, identity: None }),
        ..EtcdConfig::new(vec!["https://h:2379".to_owned()])
    };
    assert!(matches!(EtcdArbiter::new(config(path.clone())), Err(SetupError::Read { .. })));
    fs::write(&path, "no certificate").unwrap();
    assert!(matches!(EtcdArbiter::new(config(path)), Err(SetupError::Pem { .. })));
}
