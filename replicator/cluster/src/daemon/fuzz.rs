//! Requests on the daemon's local socket: what is none is refused, and nobody is asked. `cargo xtask fuzz control` runs this with many inputs.

use std::sync::Mutex;

use replicator_fuzz::{Random, Share, each};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::control::{Answer, Order, Request};
use super::socket::converse;

fn request(random: &mut Random) -> Request {
    let module = "postgresql".to_owned();
    match random.below(10) {
        0 => Request::Status,
        1 => Request::Events { module, count: random.number() as usize },
        2 => {
            let since = random.chance(50).then(|| [("start".to_owned(), random.number())].into());
            Request::Logs { module, lines: random.number() as usize, since }
        }
        3 => Request::Pieces,
        4 => Request::Piece { name: "../../etc/passwd".to_owned() },
        5 => Request::Peer { asked: Box::new(request(random)) },
        6 => Request::Stop,
        _ => {
            let reason = random.chance(50).then(|| String::from_utf8_lossy(&random.bytes(20)).into_owned());
            let order = match random.below(6) {
                0 => Order::Start,
                1 => Order::Swap,
                2 => Order::Standby { on: random.chance(50) },
                3 => Order::Promote { force: random.chance(50), reason },
                4 => Order::Maintenance { on: random.chance(50) },
                _ => Order::Restart,
            };
            Request::Order { module, order }
        }
    }
}

fn said(random: &mut Random) -> Vec<u8> {
    match random.below(20) {
        0 => random.bytes(300),
        1 => "{\"request\":\"peer\",\"asked\":".repeat(random.below(300)).into_bytes(),
        2..6 => serde_json::to_vec(&request(random)).unwrap(),
        _ => {
            let genuine = serde_json::to_vec(&request(random)).unwrap();
            random.changed(&genuine)
        }
    }
}

#[test]
fn any_line_is_a_request_or_none() {
    let mut understood = 0_u64;
    each("control, requests to a cluster's daemon", Share::Whole, |random| {
        let bytes = said(random);
        if let Ok(request) = serde_json::from_slice::<Request>(&bytes) {
            understood += 1;
            let again = serde_json::to_vec(&request).unwrap();
            assert_eq!(serde_json::from_slice::<Request>(&again).unwrap(), request);
        }
    });
    assert!(understood > replicator_fuzz::inputs() / 20);
}

/// Over socket pairs, so with a part of the inputs.
#[test]
fn what_is_no_request_asks_nobody() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    each("control, conversations with a cluster's daemon", Share::OneOf(100), |random| {
        let lines: Vec<Vec<u8>> = (0..1 + random.below(4)).map(|_| said(random)).collect();
        let mut bytes = lines.join(&b'\n');
        let ended = random.chance(80);
        if ended {
            bytes.push(b'\n');
        }
        // What stands in lines of their own, read by somebody else.
        let whole = bytes.split_inclusive(|byte| *byte == b'\n');
        let expected: Vec<Option<Request>> =
            whole.map(|line| serde_json::from_slice(line).ok().filter(|_| line.ends_with(b"\n"))).collect();
        let asked = Mutex::new(Vec::new());
        let answers = runtime.block_on(async {
            let (mut near, far) = UnixStream::pair().unwrap();
            let answer = async |request: Request| {
                asked.lock().unwrap().push(request);
                Answer::Done
            };
            let client = async {
                near.write_all(&bytes).await.unwrap();
                near.shutdown().await.unwrap();
                let mut answers = String::new();
                near.read_to_string(&mut answers).await.unwrap();
                answers
            };
            let (served, answers) = tokio::join!(converse(far, &answer), client);
            served.unwrap();
            answers
        });
        let answers: Vec<Answer> = answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(answers.len(), expected.len(), "one answer for each line");
        for (answer, expected) in answers.iter().zip(&expected) {
            assert_eq!(matches!(answer, Answer::Refused { .. }), expected.is_none(), "{answer:?}");
        }
        let expected: Vec<Request> = expected.into_iter().flatten().collect();
        assert_eq!(asked.into_inner().unwrap(), expected);
    });
}
