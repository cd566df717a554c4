//! Those who waste time and places.

use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::{AskError, Keyring, REQUEST_BYTES_MAX, Refusal};
use super::{Answerer, LONG, Limits, Paper, Pki, answerer, asker, echo};

/// A peer that has shown who it is, and says what the test wants.
pub(super) async fn raw(alpha: &Answerer, keyring: &Keyring) -> BufReader<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(alpha.server.address()).await.unwrap();
    let name = ServerName::try_from("peer.invalid").unwrap();
    let stream = TlsConnector::from(keyring.current().client.clone()).connect(name, tcp).await.unwrap();
    let mut stream = BufReader::new(stream);
    assert_eq!(line(&mut stream).await, "{\"replicator-control\":1}\n");
    stream
}

pub(super) async fn line(stream: &mut BufReader<TlsStream<TcpStream>>) -> String {
    let mut line = String::new();
    tokio::time::timeout(LONG, stream.read_line(&mut line)).await.unwrap().unwrap();
    line
}

async fn is_closed(mut stream: BufReader<TlsStream<TcpStream>>) {
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut rest)).await.expect("the connection ends");
    assert!(rest.is_empty());
}

#[tokio::test]
async fn who_says_nothing_or_a_byte_at_a_time_is_let_go() {
    let pki = Pki::new();
    let limits = Limits { handshake: Duration::from_millis(300), ..Limits::default() };
    let alpha = answerer(pki.alpha(), limits).await;
    let silent = TcpStream::connect(alpha.server.address()).await.unwrap();
    alpha.wait_refused(Refusal::TooSlow, 1).await;
    let mut slow = TcpStream::connect(alpha.server.address()).await.unwrap();
    let drip = async {
        // The first bytes of a record that would be 16 KiB long.
        for byte in [22, 3, 1, 0x3f, 0xff].into_iter().chain(std::iter::repeat(1)) {
            if slow.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, drip).await.expect("a slow stranger is let go");
    alpha.wait_refused(Refusal::TooSlow, 2).await;
    drop(silent);
    assert_eq!(alpha.asked(), 0);
}

#[tokio::test]
async fn strangers_do_not_take_the_peers_place() {
    let pki = Pki::new();
    let limits = Limits { strangers: 8, strangers_from_one_address: 4, handshake: LONG, ..Limits::default() };
    let alpha = answerer(pki.alpha(), limits).await;
    let mut held = Vec::new();
    for _ in 0..12 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.66:0".parse().unwrap()).unwrap();
        held.push(socket.connect(alpha.server.address()).await.unwrap());
    }
    alpha.wait_refused(Refusal::Crowded, 8).await;
    assert_eq!(echo(&asker(&alpha, pki.beta())).await.unwrap(), "hello");
    assert_eq!(alpha.refused(Refusal::Crowded), 8);
    drop(held);
    alpha.wait_refused(Refusal::Left, 4).await;
}

#[tokio::test]
async fn the_peer_has_so_many_connections_and_no_more() {
    let pki = Pki::new();
    let alpha = answerer(pki.alpha(), Limits { connections: 2, ..Limits::default() }).await;
    let keyring = pki.beta();
    let first = raw(&alpha, &keyring).await;
    let _second = raw(&alpha, &keyring).await;
    let third = asker(&alpha, keyring);
    let error = third.connect(LONG).await.unwrap_err();
    assert!(matches!(error, AskError::NotAccepted { .. }), "{error:?}");
    alpha.wait_refused(Refusal::Crowded, 1).await;
    drop(first);
    let room = async { while third.connect(LONG).await.is_err() {} };
    tokio::time::timeout(LONG, room).await.expect("who leaves makes room");
}

#[tokio::test]
async fn a_request_that_is_too_long_or_too_slow_ends_the_connection() {
    let pki = Pki::new();
    let limits = Limits { transfer: Duration::from_millis(500), ..Limits::default() };
    let alpha = answerer(pki.alpha(), limits).await;
    let keyring = pki.beta();
    let mut stream = raw(&alpha, &keyring).await;
    stream.write_all(&vec![b' '; REQUEST_BYTES_MAX]).await.unwrap();
    stream.flush().await.unwrap();
    assert!(line(&mut stream).await.contains("refused"));
    is_closed(stream).await;
    let mut stream = raw(&alpha, &keyring).await;
    stream.write_all(b"{\"id\":1,").await.unwrap();
    stream.flush().await.unwrap();
    assert!(line(&mut stream).await.contains("refused"));
    is_closed(stream).await;
    assert_eq!((alpha.asked(), alpha.server.statistics().unanswered), (0, 2));
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_the_connection_goes_on() {
    let pki = Pki::new();
    let alpha = answerer(pki.alpha(), Limits::default()).await;
    let mut stream = raw(&alpha, &pki.beta()).await;
    let deep = "[".repeat(60_000);
    let odd =
        ["", "null", "{}", "{\"id\":5,\"within-ms\":1,\"request\":\"no-such\"}", "\u{0}\u{1}", deep.as_str()];
    for text in odd {
        stream.write_all(format!("{text}\n").as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let answer: serde_json::Value = serde_json::from_str(&line(&mut stream).await).unwrap();
        assert!(answer["refused"].is_string(), "{answer}");
        assert_eq!(answer["id"], if text.contains("no-such") { 5 } else { 0 });
    }
    assert_eq!(alpha.asked(), 0);
    stream.write_all(b"{\"id\":9,\"within-ms\":60000,\"request\":{\"echo\":\"hi\"}}\n").await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(line(&mut stream).await, "{\"id\":9,\"answer\":\"hi\"}\n");
}

#[tokio::test]
async fn a_connection_ends_with_the_peers_certificate() {
    let pki = Pki::new();
    let alpha = answerer(pki.alpha(), Limits::default()).await;
    let now = time::OffsetDateTime::now_utc();
    let paper = Paper { not_after: now + Duration::from_secs(5), ..Paper::of(super::BETA) };
    let stream = raw(&alpha, &pki.keyring(&paper, super::ALPHA)).await;
    is_closed(stream).await;
    assert_eq!(alpha.server.statistics().accepted, 1);
}
