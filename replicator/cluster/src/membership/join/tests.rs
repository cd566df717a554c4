//! Joins over loopback: the right one, and everybody else.

use std::fs;
use std::net::SocketAddr;
use std::time::SystemTime;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::super::authority;
use super::super::directory::{Membership, NewNode, TokenOrder};
use super::super::error::{MembershipError, TokenError};
use super::super::identity::node_uri;
use super::super::pending::{Pending, Verdict, WRONG_MAX};
use super::super::secrets::{KeyFile, Secret};
use super::super::tests::{Place, alpha, new_node, place};
use super::super::token::Token;
use super::*;

mod fuzz;

const LONG: Duration = Duration::from_secs(60);

type Hosted = JoinHandle<Result<Joined, MembershipError>>;

/// A cluster on a directory, waiting for its second node.
struct Waiting {
    host: Place,
    token: Token,
    task: Hosted,
    address: SocketAddr,
}

fn limits() -> JoinLimits {
    JoinLimits { pause: Duration::from_millis(1), ..JoinLimits::default() }
}

async fn wait_for(host: Place, order: TokenOrder) -> Waiting {
    wait_with(host, order, limits()).await
}

async fn wait_with(host: Place, order: TokenOrder, limits: JoinLimits) -> Waiting {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut membership = Membership::open(&host.path).unwrap();
    let order = TokenOrder { addresses: vec![address], ..order };
    let token = membership.issue_token(order, SystemTime::now()).unwrap();
    let directory = host.path.clone();
    let task = tokio::spawn(async move { host_join(&directory, listener, limits).await });
    Waiting { host, token, task, address }
}

async fn founded() -> Waiting {
    let host = place();
    alpha(&host);
    wait_for(host, TokenOrder::default()).await
}

/// What beta says of itself when it asks to be taken in.
fn newcomer() -> Newcomer {
    let node = beta();
    Newcomer {
        name: node.name,
        id: "ab".repeat(16),
        control: node.control,
        mirror: node.mirror,
        heartbeat: node.heartbeat,
    }
}

fn beta() -> NewNode {
    new_node("beta", 2)
}

impl Waiting {
    async fn end(self) -> (Place, Result<Joined, MembershipError>) {
        let result = tokio::time::timeout(LONG, self.task).await.expect("waiting ends").unwrap();
        (self.host, result)
    }

    /// Nobody has become a member, and the right node still can.
    async fn still_takes_the_right_one(self) {
        assert_eq!(Membership::open(&self.host.path).unwrap().description().version, 1);
        let guest = place();
        join(&guest.path, &self.token, beta()).await.unwrap();
        let (host, joined) = self.end().await;
        joined.unwrap();
        assert_eq!(Membership::open(&host.path).unwrap().description().version, 2);
    }
}

#[tokio::test]
async fn both_nodes_have_the_same_cluster_after_a_join() {
    let waiting = founded().await;
    let guest = place();
    let text = waiting.token.reveal();
    let beta = join(&guest.path, &Token::parse(&text).unwrap(), beta()).await.unwrap();
    let (host, joined) = waiting.end().await;
    let (joined, alpha) = (joined.unwrap(), Membership::open(&host.path).unwrap());
    assert_eq!(alpha.description(), beta.description());
    assert_eq!((&joined.description, joined.node.id), (alpha.description(), beta.id()));
    assert_eq!((alpha.name(), beta.name()), ("alpha", "beta"));
    assert_eq!((alpha.peer().unwrap().id, beta.peer().unwrap().id), (beta.id(), alpha.id()));
    assert_eq!(alpha.secrets(), beta.secrets());
    for file in [KeyFile::Mirror, KeyFile::Witness] {
        assert_eq!(alpha.key_file(file).unwrap().1, beta.key_file(file).unwrap().1);
    }
    assert!(!host.path.join("join-token").exists() && !guest.path.join("join-token").exists());
    // Either can renew.
    let mut beta = Membership::open(&guest.path).unwrap();
    beta.renew_certificate(SystemTime::now()).unwrap();
    assert_eq!(
        fs::read(host.path.join("authority.key")).unwrap(),
        fs::read(guest.path.join("authority.key")).unwrap()
    );
    assert_ne!(alpha.tls().key, beta.tls().key, "each has its own key, which never travelled");
}

#[tokio::test]
async fn a_token_is_used_once() {
    let waiting = founded().await;
    let token = waiting.token.clone();
    // Both at the same time.
    let (one, other) = (place(), place());
    let (first, second) =
        tokio::join!(join(&one.path, &token, beta()), join(&other.path, &token, new_node("gamma", 3)));
    assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
    let (host, joined) = waiting.end().await;
    joined.unwrap();
    assert!(one.path.exists() != other.path.exists());
    // And later, though somebody waits again.
    let replaces = Membership::open(&host.path).unwrap().peer().map(|peer| peer.name.clone());
    let waiting = wait_for(host, TokenOrder { replaces, ..TokenOrder::default() }).await;
    let token = Token { addresses: vec![waiting.address], ..token };
    let again = join(&place().path, &token, beta()).await;
    assert!(matches!(again, Err(MembershipError::JoinRefused { .. })), "{again:?}");
    assert_eq!(Membership::open(&waiting.host.path).unwrap().description().version, 2);
    // Two that would replace the same node, where there is room for either.
    let (one, other) = (place(), place());
    let (first, second) = tokio::join!(
        join(&one.path, &waiting.token, new_node("beta", 4)),
        join(&other.path, &waiting.token, new_node("beta", 5))
    );
    assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
    let (host, joined) = waiting.end().await;
    let member = first.or(second).unwrap();
    assert_eq!(joined.unwrap().node.id, member.id());
    assert_eq!(Membership::open(&host.path).unwrap().peer().unwrap().id, member.id());
}

#[tokio::test]
async fn nobody_waits_without_a_token() {
    let host = place();
    alpha(&host);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ended = host_join(&host.path, listener, limits()).await;
    assert!(matches!(ended, Err(MembershipError::NoToken)), "{ended:?}");
}

#[tokio::test]
async fn a_wrong_token_is_refused() {
    let waiting = founded().await;
    let mut wrong = waiting.token.clone();
    wrong.secret[0] ^= 1;
    let guest = place();
    let refused = join(&guest.path, &wrong, beta()).await;
    assert!(matches!(refused, Err(MembershipError::JoinRefused { .. })), "{refused:?}");
    assert!(!guest.path.exists() && !guest.path.with_file_name(".cluster.new").exists());
    waiting.still_takes_the_right_one().await;
}

#[tokio::test]
async fn an_expired_token_is_refused_on_both_sides() {
    let waiting = founded().await;
    let now = SystemTime::now();
    let expired = Token { expires: 5, ..waiting.token.clone() };
    let refused = join(&place().path, &expired, beta()).await;
    assert!(matches!(refused, Err(MembershipError::Token(TokenError::Expired))), "{refused:?}");
    // The issuing node knows better than what is written in the token.
    let pending = Pending::read(&waiting.host.path).unwrap().unwrap();
    let binding = [7; 32];
    let proof = *super::super::pending::prove(&waiting.token.key(), &binding).as_bytes();
    let judge = |at| pending.judge(&waiting.token.id(), proof, &binding, at);
    assert_eq!(judge(now), Verdict::Right);
    assert_eq!(judge(now + Duration::from_secs(3601)), Verdict::Expired);
    assert_eq!(
        judge(now - Duration::from_secs(3600)),
        Verdict::Expired,
        "a clock set back makes it live no longer"
    );
    assert_eq!(pending.judge(&waiting.token.id(), proof, &[8; 32], now), Verdict::Wrong);
    waiting.still_takes_the_right_one().await;
    let host = place();
    alpha(&host);
    let order = TokenOrder { lifetime: Duration::from_secs(1), ..TokenOrder::default() };
    let waiting = wait_for(host, order).await;
    let token = Token { expires: u64::MAX, ..waiting.token.clone() };
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let guest = place();
    let refused = join(&guest.path, &token, beta()).await;
    assert!(refused.is_err() && !guest.path.exists());
    let (host, ended) = waiting.end().await;
    assert!(matches!(ended, Err(MembershipError::TokenExpired)), "{ended:?}");
    assert!(!host.path.join("join-token").exists());
}

/// A channel to a waiting node, as the holder of the token makes it.
async fn channel_to(address: SocketAddr, token: &Token) -> tokio_rustls::client::TlsStream<TcpStream> {
    let config = channel::client(token.cluster, token.authority).unwrap();
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("inviter.invalid").unwrap();
    tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)).connect(name, tcp).await.unwrap()
}

async fn say(address: SocketAddr, token: &Token, bytes: &[u8]) -> String {
    use tokio::io::AsyncWriteExt;
    let mut stream = channel_to(address, token).await;
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
    let mut answer = String::new();
    let _ =
        tokio::time::timeout(LONG, stream.read_to_string(&mut answer)).await.expect("an answer or the end");
    answer
}

#[tokio::test]
async fn a_proof_is_good_on_its_own_channel_only_and_wrong_ones_withdraw_the_token() {
    let waiting = founded().await;
    let (token, address) = (waiting.token.clone(), waiting.address);
    let elsewhere = channel_to(address, &token).await;
    let binding = channel::binding(elsewhere.get_ref().1).unwrap();
    let mut replayed = Vec::from(token.id());
    replayed.extend_from_slice(super::super::pending::prove(&token.key(), &binding).as_bytes());
    for wrong in 1..WRONG_MAX {
        let answer = say(address, &token, &replayed).await;
        assert!(answer.contains("refused") && answer.contains(&format!("({wrong} so far)")), "{answer}");
        assert!(waiting.host.path.join("join-token").exists());
    }
    let _ = say(address, &token, &replayed).await;
    let (host, ended) = waiting.end().await;
    assert!(matches!(ended, Err(MembershipError::TokenWithdrawn { .. })), "{ended:?}");
    assert!(!host.path.join("join-token").exists());
    assert_eq!(Membership::open(&host.path).unwrap().description().version, 1);
}

#[tokio::test]
async fn who_is_in_between_with_another_authority_is_told_nothing() {
    use tokio::io::AsyncReadExt;
    let waiting = founded().await;
    // It has a certificate for the right node of the right cluster, of an authority of its own.
    let real = Membership::open(&waiting.host.path).unwrap();
    let made = authority::found("shop", SystemTime::now()).unwrap();
    let shown = authority::certificate_in(made.certificate.as_bytes()).unwrap();
    let uri = node_uri(real.description().id, real.name(), real.id());
    let own = authority::Authority::load(&shown, &made.key).unwrap();
    let fake = own.issue(real.name(), &uri, SystemTime::now()).unwrap();
    let certificate = authority::certificate_in(fake.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(fake.key.as_bytes()).unwrap();
    let config = channel::server(vec![certificate, shown], key).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
        let mut heard = Vec::new();
        if let Ok(mut stream) = acceptor.accept(tcp).await {
            let _ = stream.read_to_end(&mut heard).await;
        }
        heard
    });
    let deceived = Token { addresses: vec![address], ..waiting.token.clone() };
    let guest = place();
    let refused = join(&guest.path, &deceived, beta()).await;
    assert!(matches!(refused, Err(MembershipError::NotTheInviter { .. })), "{refused:?}");
    assert!(heard.await.unwrap().is_empty() && !guest.path.exists());
    // The right node is found behind the wrong address.
    let both = vec![address, waiting.address];
    let token = Token { addresses: both, ..waiting.token.clone() };
    join(&guest.path, &token, beta()).await.unwrap();
    waiting.end().await.1.unwrap();
}

#[tokio::test]
async fn who_shows_the_right_authority_without_being_of_it_is_told_nothing() {
    let (waiting, other) = (founded().await, place());
    // The authority's certificate is no secret; a certificate by it is what the impostor lacks.
    let (fake, real) = (alpha(&other).tls(), Membership::open(&waiting.host.path).unwrap().tls());
    let config = channel::server(vec![fake.certificate, real.authority], fake.key).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let deceived = Token { addresses: vec![listener.local_addr().unwrap()], ..waiting.token.clone() };
    let accepted = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config)).accept(tcp).await.is_ok()
    });
    let refused = join(&place().path, &deceived, beta()).await;
    assert!(matches!(refused, Err(MembershipError::NotTheInviter { .. })), "{refused:?}");
    assert!(!accepted.await.unwrap());
    waiting.still_takes_the_right_one().await;
}

#[tokio::test]
async fn garbage_and_silence_keep_nobody_out() {
    use tokio::io::AsyncWriteExt;
    let host = place();
    alpha(&host);
    let limits = JoinLimits { conversation: Duration::from_millis(500), ..limits() };
    let waiting = wait_with(host, TokenOrder::default(), limits).await;
    let mut held = Vec::new();
    for _ in 0..limits.connections {
        held.push(TcpStream::connect(waiting.address).await.unwrap());
    }
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 5000]] {
        let mut stream = TcpStream::connect(waiting.address).await.unwrap();
        let _ = stream.write_all(garbage).await;
    }
    // Each of the silent ones is let go, and then there is room again.
    for mut stream in held {
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut rest))
            .await
            .expect("silence is not waited for");
    }
    waiting.still_takes_the_right_one().await;
}

#[tokio::test]
async fn what_is_no_request_does_not_cost_the_token() {
    let waiting = founded().await;
    for body in ["\n", "{}\n", "{\"version\":1}\n", "[[[[\n"] {
        let mut stream = channel_to(waiting.address, &waiting.token).await;
        let answer = with_proof(&mut stream, &waiting.token, body).await;
        assert!(answer.contains("refused"), "{answer}");
    }
    let mut stream = channel_to(waiting.address, &waiting.token).await;
    let answer = with_proof(&mut stream, &waiting.token, &"x".repeat(REQUEST_BYTES_MAX + 1)).await;
    assert!(!answer.contains("joined"), "{answer}");
    // What cannot become a member: a name that is taken, a network that the first node does not have.
    let mut elsewhere = beta();
    let lan = elsewhere.heartbeat.remove("lan").unwrap();
    elsewhere.heartbeat.insert("wan".into(), lan);
    for node in [new_node("alpha", 2), new_node("beta", 1), elsewhere] {
        let refused = join(&place().path, &waiting.token, node).await;
        assert!(matches!(refused, Err(MembershipError::JoinRefused { .. })), "{refused:?}");
    }
    waiting.still_takes_the_right_one().await;
}

async fn with_proof(
    stream: &mut tokio_rustls::client::TlsStream<TcpStream>,
    token: &Token,
    body: &str,
) -> String {
    use tokio::io::AsyncWriteExt;
    let binding = channel::binding(stream.get_ref().1).unwrap();
    let mut bytes = Vec::from(token.id());
    bytes.extend_from_slice(super::super::pending::prove(&token.key(), &binding).as_bytes());
    bytes.extend_from_slice(body.as_bytes());
    let _ = stream.write_all(&bytes).await;
    let _ = stream.flush().await;
    let mut answer = String::new();
    let _ =
        tokio::time::timeout(LONG, stream.read_to_string(&mut answer)).await.expect("an answer or the end");
    answer
}

#[tokio::test]
async fn a_directory_that_is_taken_is_seen_before_the_token_is_used() {
    let waiting = founded().await;
    let taken = place();
    alpha(&taken);
    let refused = join(&taken.path, &waiting.token, beta()).await;
    assert!(matches!(refused, Err(MembershipError::AlreadyAMember { .. })), "{refused:?}");
    waiting.still_takes_the_right_one().await;
}

/// The joining node dies when the other has made it a member: a new token, with its name as the one to be replaced, makes it good.
#[tokio::test]
async fn a_join_that_died_in_between_is_repeated_with_a_new_token() {
    let waiting = founded().await;
    let requested = authority::request("beta").unwrap();
    let request = JoinRequest { version: VERSION, node: newcomer(), request: requested.request.clone() };
    let body = serde_json::to_string(&request).unwrap() + "\n";
    let mut stream = channel_to(waiting.address, &waiting.token).await;
    let answer = with_proof(&mut stream, &waiting.token, &body).await;
    assert!(answer.contains("joined"));
    let (host, joined) = waiting.end().await;
    joined.unwrap();
    let lost = Membership::open(&host.path).unwrap().peer().unwrap().id;
    let mut alpha = Membership::open(&host.path).unwrap();
    assert!(matches!(alpha.issue_token(order(), SystemTime::now()), Err(MembershipError::Full { .. })));
    let waiting = wait_for(host, TokenOrder { replaces: Some("beta".into()), ..TokenOrder::default() }).await;
    let guest = place();
    let beta = join(&guest.path, &waiting.token, beta()).await.unwrap();
    let (host, joined) = waiting.end().await;
    joined.unwrap();
    let alpha = Membership::open(&host.path).unwrap();
    assert_eq!(alpha.peer().unwrap().id, beta.id());
    assert_ne!(beta.id(), lost, "who has the certificate of the lost one is not the peer");
    assert_eq!(alpha.description().version, 3);
}

fn order() -> TokenOrder {
    TokenOrder { addresses: vec!["10.0.0.1:7412".parse().unwrap()], ..TokenOrder::default() }
}

#[test]
fn secrets_of_a_join_are_not_shown() {
    let key = Secret::from_bytes([0xc3; 32]);
    assert_eq!(format!("{key:?}"), "Secret");
}
