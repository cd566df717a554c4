//! Who wants to become a member and has no token: whatever is said, nothing in the directory changes. `cargo xtask fuzz control` runs this with
//! many inputs.

use replicator_fuzz::{Random, Share, each};
use tokio::io::AsyncWriteExt;

use super::*;
use crate::membership::files;
use crate::membership::pending::{BINDING_BYTES, prove};

fn request(random: &mut Random) -> Vec<u8> {
    let request = JoinRequest { version: VERSION, node: newcomer(), request: "PEM".to_owned() };
    let bytes = serde_json::to_vec(&request).unwrap();
    if random.chance(10) { bytes } else { random.changed(&bytes) }
}

#[test]
fn no_proof_that_was_changed_is_right_and_no_request_is_a_panic() {
    let host = place();
    alpha(&host);
    let mut membership = Membership::open(&host.path).unwrap();
    let token = membership.issue_token(order(), SystemTime::now()).unwrap();
    let pending = Pending::read(&host.path).unwrap().unwrap();
    let (id, key, now) = (token.id(), token.key(), SystemTime::now());
    each("control, proofs and requests of a join", Share::Whole, |random| {
        let binding: [u8; BINDING_BYTES] = random.array();
        let proof = *prove(&key, &binding).as_bytes();
        assert_eq!(pending.judge(&id, proof, &binding, now), Verdict::Right);
        let mut wrong = proof;
        wrong[random.below(32)] ^= (random.next() as u8).max(1);
        assert_eq!(pending.judge(&id, wrong, &binding, now), Verdict::Wrong);
        let mut other = id;
        other[random.below(16)] ^= (random.next() as u8).max(1);
        assert_eq!(pending.judge(&other, proof, &binding, now), Verdict::Unknown);
        assert_eq!(pending.judge(&id, proof, &random.array(), now), Verdict::Wrong);
        let bytes = request(random);
        if let Ok(request) = serde_json::from_slice::<JoinRequest>(&bytes) {
            let _ = authority::read_request(&request.request);
        }
        let text = String::from_utf8_lossy(&bytes);
        assert!(Token::parse(&text).is_err());
    });
}

/// All that a directory holds, but for the lock that whoever looks at it takes.
fn content(directory: &std::path::Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let mut found: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap_or_default()))
        .collect();
    found.sort();
    found
}

/// Inside TLS, over sockets, so with a part of the inputs.
#[test]
fn who_proves_nothing_changes_nothing() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let waiting = runtime.block_on(founded());
    let before = content(&waiting.host.path);
    assert!(before.iter().any(|(name, _)| name == files::TOKEN));
    each("control, conversations with a node that waits", Share::OneOf(10_000), |random| {
        let mut bytes = random.bytes(120);
        // A wrong proof under the right id is counted, which is a change: other tests look at that.
        if bytes.starts_with(&waiting.token.id()) {
            bytes.clear();
        }
        bytes.extend(request(random));
        let inside = random.chance(70);
        runtime.block_on(async {
            if inside {
                let answer = say(waiting.address, &waiting.token, &bytes).await;
                assert!(!answer.contains("joined"), "{answer}");
            } else {
                let mut stream = TcpStream::connect(waiting.address).await.unwrap();
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await;
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
            }
        });
    });
    assert_eq!(content(&waiting.host.path), before);
    runtime.block_on(waiting.still_takes_the_right_one());
}
