//! Two nodes from nothing to an answered question: founded, joined, and talking over the control channel with what the join gave
//! them; then what happens to them in a year, and to a node that is replaced.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use replicator_cluster::membership::{
    Adoption, Founding, JoinLimits, KeyFile, Membership, NewNode, Offer, Policy, TokenOrder, host_join, join,
};
use replicator_cluster::remote::{
    AskError, Credentials, Keyring, Limits, Options, PeerIdentity, PeerName, Refusal, Remote, Server,
};
use serde::{Deserialize, Serialize};

const LONG: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize)]
enum Question {
    Who,
    Take(Offer),
}

fn node(name: &str, number: u8) -> NewNode {
    let at = |port: u16| SocketAddr::from(([10, 0, 0, number], port));
    let heartbeat = BTreeMap::from([("lan".to_owned(), at(7410))]);
    NewNode { name: name.into(), heartbeat, control: at(7411), mirror: vec![at(1).ip()] }
}

fn found(directory: &Path) -> Membership {
    let founding =
        Founding { cluster: "shop".into(), policy: Policy::default(), arbiter: None, node: node("alpha", 1) };
    Membership::found(directory, founding, SystemTime::now()).unwrap()
}

async fn joined(host: &Path, guest: &Path, replaces: Option<&str>) -> Membership {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = vec![listener.local_addr().unwrap()];
    let order = TokenOrder { addresses, replaces: replaces.map(str::to_owned), ..TokenOrder::default() };
    let token = Membership::open(host).unwrap().issue_token(order, SystemTime::now()).unwrap();
    let (hosted, guest) =
        tokio::join!(host_join(host, listener, JoinLimits::default()), join(guest, &token, node("beta", 2)));
    hosted.unwrap();
    guest.unwrap()
}

fn credentials(membership: &Membership) -> Credentials {
    let tls = membership.tls();
    let peer = tls.peer.expect("both nodes are members");
    Credentials {
        authorities: vec![tls.authority],
        certificate: tls.certificate,
        key: tls.key,
        peer: PeerName { name: peer.name, uri: peer.uri },
    }
}

fn keyring(membership: &Membership) -> Keyring {
    Keyring::new(credentials(membership)).unwrap()
}

/// Alpha answers; it takes offered secrets into its directory.
async fn answering(keyring: Keyring, directory: PathBuf) -> Server {
    let handler = move |peer: PeerIdentity, question: Question| {
        let directory = directory.clone();
        async move {
            match question {
                Question::Who => peer.name,
                Question::Take(offer) => {
                    let mut membership = Membership::open(&directory).unwrap();
                    membership.take_secret(offer).unwrap();
                    membership.secrets().number().to_string()
                }
            }
        }
    };
    Server::bind("127.0.0.1:0".parse().unwrap(), keyring, Limits::default(), handler).await.unwrap()
}

fn asking(server: &Server, keyring: Keyring) -> Remote<Question, String> {
    Remote::new(server.address(), keyring, Options::default())
}

#[tokio::test]
async fn two_nodes_from_nothing_to_an_answer_and_through_all_rotations() {
    let temporary = tempfile::tempdir().unwrap();
    let (a, b) = (temporary.path().join("a"), temporary.path().join("b"));
    found(&a);
    let mut beta = joined(&a, &b, None).await;
    let mut alpha = Membership::open(&a).unwrap();
    let (ours, theirs) = (keyring(&alpha), keyring(&beta));
    let server = answering(ours.clone(), a.clone()).await;
    let remote = asking(&server, theirs.clone());
    assert_eq!(remote.ask(&Question::Who, LONG).await.unwrap(), "beta");

    // Certificates: each node renews its own; connections that run are not cut.
    let now = SystemTime::now();
    alpha.renew_certificate(now).unwrap();
    ours.replace(credentials(&alpha)).unwrap();
    assert_eq!(remote.ask(&Question::Who, LONG).await.unwrap(), "beta");
    beta.renew_certificate(now).unwrap();
    theirs.replace(credentials(&beta)).unwrap();
    assert_eq!(remote.ask(&Question::Who, LONG).await.unwrap(), "beta");
    assert_eq!(
        server.statistics().accepted,
        2,
        "beta's new certificate took a new connection, alpha's did not"
    );

    // The shared secret, over the control channel.
    let mirror = alpha.key_file(KeyFile::Mirror).unwrap().1;
    let offer = beta.propose_secret().unwrap();
    let number = remote.ask(&Question::Take(offer), LONG).await.unwrap();
    beta.confirm_secret(number.parse().unwrap()).unwrap();
    alpha.reload().unwrap();
    assert_eq!(alpha.secrets(), beta.secrets());
    assert_eq!(alpha.secrets().number(), 2);
    assert_eq!(alpha.key_file(KeyFile::Mirror).unwrap().1, mirror);

    // The description.
    alpha.change_description(|description| description.policy = Policy::Manual).unwrap();
    let text = alpha.description().to_text().unwrap();
    assert_eq!(beta.adopt_description(&text).unwrap(), Adoption::Taken);
    assert_eq!(alpha.description().stamp().unwrap(), beta.description().stamp().unwrap());
    assert!(server.statistics().refused.is_empty());
}

#[tokio::test]
async fn a_node_that_was_replaced_is_a_stranger_and_other_clusters_are_too() {
    let temporary = tempfile::tempdir().unwrap();
    let at = |name: &str| temporary.path().join(name);
    found(&at("a"));
    let first = joined(&at("a"), &at("b"), None).await;
    let ours = keyring(&Membership::open(&at("a")).unwrap());
    let server = answering(ours.clone(), at("a")).await;
    let old = asking(&server, keyring(&first));
    assert_eq!(old.ask(&Question::Who, LONG).await.unwrap(), "beta");

    let second = joined(&at("a"), &at("c"), Some("beta")).await;
    ours.replace(credentials(&Membership::open(&at("a")).unwrap())).unwrap();
    let new = asking(&server, keyring(&second));
    assert_eq!(new.ask(&Question::Who, LONG).await.unwrap(), "beta");
    let refused =
        async { while !matches!(old.ask(&Question::Who, LONG).await, Err(AskError::NotAccepted { .. })) {} };
    tokio::time::timeout(LONG, refused).await.expect("the node before is refused");
    // That it could make itself another certificate with the authority's key is the price which the module's documentation names.
    let refusals = server.statistics().refused;
    assert!(refusals.iter().any(|(kind, _)| *kind == Refusal::NotThePeer), "{refusals:?}");

    // The same names in a cluster of its own.
    found(&at("x"));
    let foreign = joined(&at("x"), &at("y"), None).await;
    let error = asking(&server, keyring(&foreign)).ask(&Question::Who, LONG).await.unwrap_err();
    assert!(matches!(error, AskError::NotAccepted { .. }), "{error:?}");
    assert_eq!(new.ask(&Question::Who, LONG).await.unwrap(), "beta");
}
