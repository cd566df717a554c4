//! Whoever cannot prove to belong, with requests of every sort: nothing is answered, nothing is changed. `cargo xtask fuzz control` runs this
//! with many inputs.

use std::collections::BTreeMap;
use std::path::Path;

use replicator_core::ids::{Generation, Term};
use replicator_core::lineage::{GenerationId, Tag};
use replicator_fuzz::{Random, Share, each};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{CLUSTER, Running};
use crate::arbiter::protocol::{CHALLENGE_BYTES, Operation, REQUEST_BYTES, Request};
use crate::arbiter::tests::contract::register;
use crate::arbiter::{NodeId, Value, WitnessId, WitnessKey};
use crate::witness::add_cluster;

fn request(random: &mut Random, witness: WitnessId) -> Request {
    let generation = GenerationId { number: Generation(random.number()), tag: Tag(random.number()) };
    let value = Value { term: Term(random.number()), holder: NodeId(random.array()), generation };
    Request {
        operation: if random.chance(50) { Operation::Acquire(value) } else { Operation::Read },
        register: register(CLUSTER, "db"),
        witness,
        known: Term(random.number()),
        nonce: random.array(),
    }
}

/// Of a request's length, with at least one byte that is not the genuine one's.
fn forged(random: &mut Random, genuine: &[u8; REQUEST_BYTES]) -> [u8; REQUEST_BYTES] {
    let mut forged = *genuine;
    if random.chance(10) {
        return random.array();
    }
    while forged == *genuine {
        let changed = random.changed(genuine);
        let kept = changed.len().min(REQUEST_BYTES);
        forged[..kept].copy_from_slice(&changed[..kept]);
    }
    forged
}

#[test]
fn no_request_that_was_changed_is_proven() {
    let key = WitnessKey::draw(CLUSTER, WitnessId([7; 16])).unwrap();
    let mut understood = 0_u64;
    each("control, requests to a witness", Share::Whole, |random| {
        let challenge: [u8; CHALLENGE_BYTES] = random.array();
        let genuine = request(random, key.witness);
        let bytes = genuine.encode(&key, &challenge);
        assert_eq!(Request::decode(&bytes), Some(genuine));
        assert!(Request::is_proven(&bytes, &key, &challenge));
        let forged = forged(random, &bytes);
        assert!(!Request::is_proven(&forged, &key, &challenge));
        if let Some(request) = Request::decode(&forged) {
            understood += 1;
            let again = request.encode(&key, &challenge);
            assert_eq!(Request::decode(&again), Some(request));
        }
        // Recorded, and said to another challenge.
        let other: [u8; CHALLENGE_BYTES] = random.array();
        assert!(!Request::is_proven(&bytes, &key, &other));
    });
    assert!(understood > replicator_fuzz::inputs() / 20, "they come as far as to the proof");
}

/// All files below a directory, and what is in them.
fn files(directory: &Path) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), std::fs::read(&path).unwrap_or_default());
        }
    }
    found
}

/// Over sockets, so with a part of the inputs.
#[test]
fn who_proves_nothing_changes_nothing() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let key = add_cluster(directory.path(), CLUSTER).unwrap();
    let witness = runtime.block_on(Running::start(directory.path()));
    let before = files(directory.path());
    each("control, conversations with a witness", Share::OneOf(1000), |random| {
        runtime.block_on(async {
            let mut stream = TcpStream::connect(witness.address).await.unwrap();
            let mut challenge = [0; CHALLENGE_BYTES];
            stream.read_exact(&mut challenge).await.unwrap();
            let genuine = request(random, key.witness).encode(&key, &challenge);
            let mut said = forged(random, &genuine).to_vec();
            match random.below(4) {
                0 => said.truncate(random.below(REQUEST_BYTES)),
                1 => said.extend(random.bytes(400)),
                _ => {}
            }
            // It may be closed in the middle.
            let _ = stream.write_all(&said).await;
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            assert!(answer.is_empty(), "{} bytes are answered", answer.len());
        });
    });
    assert_eq!(files(directory.path()), before);
    assert_eq!(witness.statistics.answered.load(std::sync::atomic::Ordering::Relaxed), 0);
}
