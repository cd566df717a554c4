//! Who cannot prove to belong: changes nothing, learns nothing, keeps nobody from being served.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use replicator_core::ids::Term;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::{CLUSTER, Running, until};
use crate::arbiter::protocol::{
    ANSWER_BYTES, Answer, CHALLENGE_BYTES, Operation, REQUEST_BYTES, Request, Status, is_challenge,
};
use crate::arbiter::tests::contract::{acquire, ask, held, read, register, won};
use crate::arbiter::{AnyArbiter, Arbiter, ArbiterError, ClusterId, WitnessArbiter, WitnessKey};
use crate::witness::{Limits, add_cluster};

/// Connect, and take the challenge.
async fn connect(address: SocketAddr) -> (TcpStream, [u8; CHALLENGE_BYTES]) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut challenge = [0; CHALLENGE_BYTES];
    stream.read_exact(&mut challenge).await.unwrap();
    assert!(is_challenge(&challenge));
    (stream, challenge)
}

/// What still comes until the connection is closed, in whichever way.
async fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let reading = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut bytes));
    // A reset is a way to be closed.
    let _ = reading.await.expect("the connection stays open");
    bytes
}

fn request(key: &WitnessKey, term: u64, node: u8) -> Request {
    Request {
        operation: Operation::Acquire(held(term, node)),
        register: register(CLUSTER, "db"),
        witness: key.witness,
        known: Term(0),
        nonce: [term as u8; 32],
    }
}

async fn send(stream: &mut TcpStream, bytes: &[u8]) {
    // It may be closed in the middle.
    let _ = stream.write_all(bytes).await;
}

#[tokio::test]
async fn a_wrong_key_and_an_unknown_cluster_are_told_the_same_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let key = add_cluster(directory.path(), CLUSTER).unwrap();
    let witness = Running::start(directory.path()).await;
    let wrong = WitnessKey::draw(CLUSTER, key.witness).unwrap();
    let unknown = WitnessKey::draw(ClusterId([9; 16]), key.witness).unwrap();
    for stranger in [&wrong, &unknown] {
        let (mut stream, challenge) = connect(witness.address).await;
        let mut said = request(stranger, 9, 1);
        said.register.cluster = stranger.cluster;
        send(&mut stream, &said.encode(stranger, &challenge)).await;
        assert_eq!(rest(stream).await, b"");
    }
    let arbiter = WitnessArbiter::new(vec![witness.address], wrong).unwrap();
    let result = arbiter.acquire(&ask(CLUSTER, "db", 9, 1), Duration::from_millis(300)).await;
    assert!(matches!(result, Err(ArbiterError::Unreachable { .. })), "{result:?}");
    assert!(witness.statistics.strangers.load(Ordering::Relaxed) >= 3);
    assert_eq!(read(&witness.arbiter(&key), CLUSTER, "db").await.value, None);
}

#[tokio::test]
async fn a_recorded_request_is_of_no_use() {
    let directory = tempfile::tempdir().unwrap();
    let key = add_cluster(directory.path(), CLUSTER).unwrap();
    let witness = Running::start(directory.path()).await;

    // One that was never carried out, on another connection than its own.
    let (first, challenge) = connect(witness.address).await;
    let (mut second, _) = connect(witness.address).await;
    let recorded = request(&key, 9, 1).encode(&key, &challenge);
    send(&mut second, &recorded).await;
    assert_eq!(rest(second).await, b"");
    assert_eq!(read(&witness.arbiter(&key), CLUSTER, "db").await.value, None);

    // On its own it is good, once: there is no second request on a connection.
    let mut first = first;
    send(&mut first, &recorded).await;
    send(&mut first, &recorded).await;
    let answer: [u8; ANSWER_BYTES] = rest(first).await[..ANSWER_BYTES].try_into().unwrap();
    let answer = Answer::decode(&answer, &key, &challenge, &recorded).unwrap();
    assert_eq!((answer.status, answer.value), (Status::Granted, Some(held(9, 1))));
    assert_eq!(witness.statistics.answered.load(Ordering::Relaxed), 2);
}

/// Answers everybody with what was recorded of one conversation.
async fn replay(listener: TcpListener, challenge: [u8; CHALLENGE_BYTES], answer: [u8; ANSWER_BYTES]) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; REQUEST_BYTES];
        send(&mut stream, &challenge).await;
        if stream.read_exact(&mut request).await.is_ok() {
            send(&mut stream, &answer).await;
        }
    }
}

#[tokio::test]
async fn a_recorded_answer_is_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let key = add_cluster(directory.path(), CLUSTER).unwrap();
    let witness = Running::start(directory.path()).await;
    let (mut stream, challenge) = connect(witness.address).await;
    let request = request(&key, 9, 1).encode(&key, &challenge);
    send(&mut stream, &request).await;
    let mut answer = [0; ANSWER_BYTES];
    stream.read_exact(&mut answer).await.unwrap();
    assert!(Answer::decode(&answer, &key, &challenge, &request).is_some());

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let replaying = tokio::spawn(replay(listener, challenge, answer));
    let arbiter = AnyArbiter::Witness(WitnessArbiter::new(vec![address], key.clone()).unwrap());
    // The very same question that was granted.
    let result = arbiter.acquire(&ask(CLUSTER, "db", 9, 1), Duration::from_millis(500)).await;
    assert!(matches!(result, Err(ArbiterError::Unreachable { .. })), "{result:?}");

    // And where the true witness is to be had as well, it is found.
    let both = WitnessArbiter::new(vec![address, witness.address], key).unwrap();
    assert!(won(&acquire(&AnyArbiter::Witness(both), &ask(CLUSTER, "db", 10, 1)).await));
    replaying.abort();
}

#[tokio::test]
async fn garbage_does_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let key = add_cluster(directory.path(), CLUSTER).unwrap();
    let witness = Running::start(directory.path()).await;
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..200_usize {
        let (mut stream, challenge) = connect(witness.address).await;
        let mut bytes = request(&key, 9, 1).encode(&key, &challenge).to_vec();
        for byte in &mut bytes {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            // From a request with one byte changed to nothing but noise.
            if round.is_multiple_of(4) || seed.is_multiple_of(200) {
                *byte ^= (seed >> 32) as u8 | 1;
            }
        }
        bytes[round % REQUEST_BYTES] ^= 0x40;
        if round.is_multiple_of(3) {
            bytes.extend_from_within(..);
        }
        send(&mut stream, &bytes).await;
        assert_eq!(rest(stream).await, b"", "round {round}");
    }
    assert_eq!(read(&witness.arbiter(&key), CLUSTER, "db").await.value, None);
}

#[tokio::test]
async fn who_is_slow_or_many_keeps_nobody_from_being_served() {
    let directory = tempfile::tempdir().unwrap();
    let key = add_cluster(directory.path(), CLUSTER).unwrap();
    let conversation = Duration::from_millis(700);
    let limits = Limits { connections_per_address: 4, conversation, ..Limits::default() };
    let witness = Running::start_with(directory.path(), limits).await;
    let mut held_open = Vec::new();
    for _ in 0..12 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        if let Ok(mut stream) = socket.connect(witness.address).await {
            send(&mut stream, b"rplwitq\x01").await;
            held_open.push(stream);
        }
    }
    assert!(won(&acquire(&witness.arbiter(&key), &ask(CLUSTER, "db", 1, 1)).await));
    until("those beyond the bound were turned away", || {
        witness.statistics.turned_away.load(Ordering::Relaxed) >= 8
    })
    .await;
    for stream in held_open {
        // Four have the challenge and nothing more, the others not even that; all are closed.
        let said = rest(stream).await;
        assert!(said.is_empty() || said.len() == CHALLENGE_BYTES, "{said:?}");
    }
    until("the slow ones were let go", || witness.statistics.broken.load(Ordering::Relaxed) >= 4).await;
}
