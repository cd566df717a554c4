//! Requests on a node's control socket: what is none is refused, and the node is asked nothing. `cargo xtask fuzz control` runs this with many
//! inputs.

use std::sync::Mutex;

use replicator_fuzz::{Random, Share, each};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::server::{answer, converse};
use super::*;

/// A node that takes everything, and remembers it.
#[derive(Default)]
struct Willing(Mutex<Vec<Request>>);

impl Willing {
    fn note(&self, request: Request) {
        self.0.lock().unwrap().push(request);
    }

    fn take(&self) -> Vec<Request> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// On record at once.
fn recorded() -> Result<mpsc::Receiver<Result<(), String>>, String> {
    let (answer, answered) = mpsc::sync_channel(1);
    answer.send(Ok(())).unwrap();
    Ok(answered)
}

impl NodeView for Willing {
    fn status(&self) -> Status {
        self.note(Request::Status);
        Status::default()
    }

    fn request_stop(&self) {
        self.note(Request::Stop);
    }

    fn hand_over(&self) {
        self.note(Request::HandOver);
    }

    fn order(&self, order: &Order) -> Result<u64, String> {
        self.note(Request::Order { order: order.clone() });
        Ok(7)
    }

    fn verify_report(&self) -> VerifyReport {
        self.note(Request::VerifyReport);
        VerifyReport::default()
    }

    fn overwrite_peer(&self, reason: &str) -> Result<(), String> {
        self.note(Request::OverwritePeer { reason: reason.to_owned() });
        Ok(())
    }

    fn go_alone(
        &self,
        term: u64,
        absence: Option<u64>,
    ) -> Result<mpsc::Receiver<Result<(), String>>, String> {
        self.note(Request::GoAlone { term, absence });
        recorded()
    }

    fn outdate(&self, term: u64) -> Result<mpsc::Receiver<Result<(), String>>, String> {
        self.note(Request::Outdate { term });
        recorded()
    }

    fn discard_divergence(&self, id: &str) -> Result<(), String> {
        self.note(Request::DiscardDivergence { id: id.to_owned() });
        Ok(())
    }
}

fn text(random: &mut Random) -> String {
    String::from_utf8_lossy(&random.bytes(20)).into_owned()
}

fn request(random: &mut Random) -> Request {
    match random.below(12) {
        0 => Request::Status,
        1 => Request::Stop,
        2 => Request::HandOver,
        3 => Request::Ping,
        4 => Request::VerifyReport,
        5 => Request::OverwritePeer { reason: text(random) },
        6 => {
            let absence = random.chance(50).then(|| random.number());
            Request::GoAlone { term: random.number(), absence }
        }
        7 => Request::Outdate { term: random.number() },
        8 => Request::DiscardDivergence { id: text(random) },
        _ => {
            let what = match random.below(3) {
                0 => ResyncScope::Full,
                1 => ResyncScope::Changed,
                _ => ResyncScope::File { path: text(random).into() },
            };
            let bytes_per_second = random.chance(50).then(|| random.number());
            let order = match random.below(3) {
                0 => Order::Verify { repair: random.chance(50), bytes_per_second },
                1 => Order::StopVerify,
                _ => Order::Resync { what },
            };
            Request::Order { order }
        }
    }
}

fn said(random: &mut Random) -> Vec<u8> {
    match random.below(20) {
        0 => random.bytes(300),
        1 => "{\"command\":\"order\",\"order\":".repeat(random.below(200)).into_bytes(),
        2..5 => serde_json::to_vec(&request(random)).unwrap(),
        _ => {
            let genuine = serde_json::to_vec(&request(random)).unwrap();
            random.changed(&genuine)
        }
    }
}

/// What a node is to be asked for a request: a ping asks nothing, and a handover is a stop as well.
fn asked(request: Request, whole: bool) -> Vec<Request> {
    match request {
        Request::Ping => Vec::new(),
        // The stop itself follows the answer.
        Request::Stop if !whole => Vec::new(),
        Request::HandOver if whole => vec![Request::HandOver, Request::Stop],
        other => vec![other],
    }
}

#[test]
fn what_is_no_request_is_refused_and_asks_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let node = Willing::default();
    let mut understood = 0_u64;
    each("control, requests to a node", Share::Whole, |random| {
        let line = said(random);
        let response = runtime.block_on(answer(&line, &node));
        let expected = serde_json::from_slice::<Request>(&line).ok();
        assert_eq!(matches!(response, Response::Refused { .. }), expected.is_none(), "{response:?}");
        understood += u64::from(expected.is_some());
        assert_eq!(node.take(), expected.map_or_else(Vec::new, |request| asked(request, false)));
    });
    assert!(understood > replicator_fuzz::inputs() / 20);
}

/// Over socket pairs, so with a part of the inputs.
#[test]
fn only_whole_lines_ask_anything() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let node = Willing::default();
    each("control, conversations with a node", Share::OneOf(100), |random| {
        let lines: Vec<Vec<u8>> = (0..1 + random.below(4)).map(|_| said(random)).collect();
        let mut bytes = lines.join(&b'\n');
        if random.chance(80) {
            bytes.push(b'\n');
        }
        // A line that is too long, or not ended, is the last one.
        let mut expected = Vec::new();
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if line.len() > REQUEST_BYTES_MAX || !line.ends_with(b"\n") {
                break;
            }
            let request = serde_json::from_slice::<Request>(line).ok();
            expected.extend(request.into_iter().flat_map(|request| asked(request, true)));
        }
        runtime.block_on(async {
            let (mut near, far) = tokio::net::UnixStream::pair().unwrap();
            let client = async {
                // It is closed at a line that is too long.
                let _ = near.write_all(&bytes).await;
                let _ = near.shutdown().await;
                let mut answers = Vec::new();
                let _ = near.read_to_end(&mut answers).await;
            };
            let _ = tokio::join!(converse(far, &node), client);
        });
        assert_eq!(node.take(), expected);
    });
}
