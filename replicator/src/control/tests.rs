//! Server and client against each other, against garbage, and against what a dead daemon leaves.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use super::*;
use crate::status::Counters;

mod fuzz;

#[derive(Default)]
struct Node {
    stops: AtomicUsize,
}

impl NodeView for Node {
    fn status(&self) -> Status {
        let counters = Counters { events: 42, ..Counters::default() };
        Status { node: "alpha".into(), counters, ..Status::default() }
    }

    fn request_stop(&self) {
        self.stops.fetch_add(1, Ordering::SeqCst);
    }

    fn order(&self, order: &Order) -> Result<u64, String> {
        match order {
            Order::StopVerify => Err("nothing to stop".to_owned()),
            _ => Ok(7),
        }
    }

    /// On record at once; terms below 3 never are, and for those of 3 nobody is left to say so.
    fn go_alone(
        &self,
        term: u64,
        absence: Option<u64>,
    ) -> Result<mpsc::Receiver<Result<(), String>>, String> {
        if absence == Some(9) {
            return Err("not this one".to_owned());
        }
        let (answer, answered) = mpsc::sync_channel(1);
        match term {
            0..3 => answer.send(Err("passed over".to_owned())).unwrap(),
            3 => {}
            _ => answer.send(Ok(())).unwrap(),
        }
        Ok(answered)
    }

    fn verify_report(&self) -> VerifyReport {
        VerifyReport { number: 7, ..VerifyReport::default() }
    }
}

struct Scene {
    directory: tempfile::TempDir,
    node: Arc<Node>,
}

impl Scene {
    fn new() -> Scene {
        Scene { directory: tempfile::tempdir().unwrap(), node: Arc::default() }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("run/control.sock")
    }

    fn serve(&self) -> ControlServer {
        serve(&self.socket(), self.node.clone()).unwrap()
    }
}

/// A connection that never waits for ever.
fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

fn answer_to(stream: &UnixStream) -> Response {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

#[test]
fn questions_are_answered() {
    let scene = Scene::new();
    let _server = scene.serve();
    assert_eq!(request(&scene.socket(), &Request::Ping).unwrap(), Response::Pong);
    let status = Box::new(scene.node.status());
    assert_eq!(request(&scene.socket(), &Request::Status).unwrap(), Response::Status { status });
    assert_eq!(scene.node.stops.load(Ordering::SeqCst), 0);
    assert_eq!(request(&scene.socket(), &Request::Stop).unwrap(), Response::Stopping);
}

#[test]
fn orders_are_taken_or_refused() {
    let scene = Scene::new();
    let _server = scene.serve();
    let ask = |order| request(&scene.socket(), &Request::Order { order });
    let what = ResyncScope::File { path: "/srv/data/a".into() };
    assert_eq!(ask(Order::Resync { what }).unwrap(), Response::Taken { number: 7 });
    let verify = Order::Verify { repair: true, bytes_per_second: None };
    assert_eq!(ask(verify).unwrap(), Response::Taken { number: 7 });
    assert!(matches!(ask(Order::StopVerify), Err(ControlError::Refused { .. })));
    let report = scene.node.verify_report();
    assert_eq!(request(&scene.socket(), &Request::VerifyReport).unwrap(), Response::VerifyReport { report });
}

#[test]
fn what_a_node_is_told_about_roles_is_answered_when_it_is_on_record() {
    let scene = Scene::new();
    let _server = scene.serve();
    let ask = |term, absence| request(&scene.socket(), &Request::GoAlone { term, absence });
    assert_eq!(ask(4, Some(1)).unwrap(), Response::Recorded);
    assert_eq!(ask(4, None).unwrap(), Response::Recorded);
    for (term, absence) in [(4, Some(9)), (2, None), (3, None)] {
        assert!(matches!(ask(term, absence), Err(ControlError::Refused { .. })), "{term} {absence:?}");
    }
    // A node that has no copy.
    let outdated = request(&scene.socket(), &Request::Outdate { term: 4 });
    assert!(matches!(outdated, Err(ControlError::Refused { .. })));
    let read = |line| serde_json::from_str::<Request>(line).unwrap();
    assert_eq!(read(r#"{"command":"go-alone","term":5}"#), Request::GoAlone { term: 5, absence: None });
    let absence = Some(2);
    assert_eq!(read(r#"{"command":"go-alone","term":5,"absence":2}"#), Request::GoAlone { term: 5, absence });
    assert_eq!(read(r#"{"command":"outdate","term":5}"#), Request::Outdate { term: 5 });
}

#[test]
fn the_words_on_the_socket_are_fixed() {
    let scene = Scene::new();
    let _server = scene.serve();
    let stream = connect(&scene.socket());
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut ask = |line: &str| {
        (&stream).write_all(line.as_bytes()).unwrap();
        lines.next().unwrap().unwrap()
    };
    assert_eq!(ask("{\"command\":\"ping\"}\n"), r#"{"answer":"pong"}"#);
    assert!(
        ask("{\"command\":\"status\"}\n")
            .starts_with(r#"{"answer":"status","status":{"node":"alpha","role":"#)
    );
    assert_eq!(ask("{\"command\":\"stop\"}\n"), r#"{"answer":"stopping"}"#);
}

#[test]
fn a_stop_reaches_the_node() {
    let scene = Scene::new();
    let server = scene.serve();
    request(&scene.socket(), &Request::Stop).unwrap();
    // The server's thread is over after this, so the call that follows the answer has been made or never will be.
    let stream = connect(&scene.socket());
    (&stream).write_all(b"{\"command\":\"ping\"}\n").unwrap();
    assert_eq!(answer_to(&stream), Response::Pong);
    drop(server);
    assert_eq!(scene.node.stops.load(Ordering::SeqCst), 1);
}

#[test]
fn only_the_owner_may_ask() {
    let scene = Scene::new();
    let _server = scene.serve();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&scene.socket()), 0o600);
    assert_eq!(mode(scene.socket().parent().unwrap()), 0o700);
}

#[test]
fn garbage_is_refused_and_the_next_question_answered() {
    let scene = Scene::new();
    let _server = scene.serve();
    let stream = connect(&scene.socket());
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    for garbage in
        [&b"\n"[..], b"{}\n", b"\xff\xfe\x00\n", b"{\"command\":\"format-disk\"}\n", b"[1,2\n", b"null\n"]
    {
        (&stream).write_all(garbage).unwrap();
        let answer: Response = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert!(matches!(answer, Response::Refused { .. }), "{garbage:?}: {answer:?}");
    }
    (&stream).write_all(b"{\"command\":\"ping\"}\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), r#"{"answer":"pong"}"#);
}

#[test]
fn an_oversized_request_ends_its_connection_only() {
    let scene = Scene::new();
    let _server = scene.serve();
    let mut stream = connect(&scene.socket());
    // Exactly what the server reads at most, so that its close cannot cut off the answer.
    stream.write_all(&vec![b'x'; REQUEST_BYTES_MAX]).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(matches!(serde_json::from_str(&answer).unwrap(), Response::Refused { .. }));
    assert_eq!(request(&scene.socket(), &Request::Ping).unwrap(), Response::Pong);
}

#[test]
fn a_request_that_is_cut_off_is_not_carried_out() {
    let scene = Scene::new();
    let server = scene.serve();
    let mut stream = connect(&scene.socket());
    stream.write_all(b"{\"command\":\"stop\"}").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(matches!(answer_to(&stream), Response::Refused { .. }));
    drop(server);
    assert_eq!(scene.node.stops.load(Ordering::SeqCst), 0);
}

#[test]
fn more_clients_than_places_are_all_served() {
    let scene = Scene::new();
    let _server = scene.serve();
    let clients: Vec<_> = (0..3 * CLIENTS_MAX)
        .map(|_| {
            let path = scene.socket();
            thread::spawn(move || {
                // The queue of the socket may be full for a moment: then the client says so.
                loop {
                    match request(&path, &Request::Ping) {
                        Err(ControlError::Late { .. }) => thread::yield_now(),
                        other => return other,
                    }
                }
            })
        })
        .collect();
    for client in clients {
        assert_eq!(client.join().unwrap().unwrap(), Response::Pong);
    }
}

#[test]
fn idle_clients_hold_no_more_than_their_places() {
    let scene = Scene::new();
    let _server = scene.serve();
    let idle: Vec<UnixStream> = (0..CLIENTS_MAX - 1).map(|_| connect(&scene.socket())).collect();
    assert_eq!(request(&scene.socket(), &Request::Ping).unwrap(), Response::Pong);
    drop(idle);
}

#[test]
fn a_dead_daemon_s_socket_is_replaced_and_a_living_one_refused() {
    let scene = Scene::new();
    fs::create_dir_all(scene.socket().parent().unwrap()).unwrap();
    // A dead daemon: its socket is there, nobody listens.
    drop(UnixListener::bind(scene.socket()).unwrap());
    assert!(matches!(request(&scene.socket(), &Request::Ping), Err(ControlError::NoDaemon { .. })));
    let server = scene.serve();
    assert!(matches!(serve(&scene.socket(), scene.node.clone()), Err(ControlError::InUse { .. })));
    assert_eq!(request(&scene.socket(), &Request::Ping).unwrap(), Response::Pong);
    drop(server);
    assert!(!scene.socket().exists());
    assert!(matches!(request(&scene.socket(), &Request::Ping), Err(ControlError::NoDaemon { .. })));
    drop(scene.serve());
}

#[test]
fn a_living_socket_of_another_program_is_refused() {
    let scene = Scene::new();
    fs::create_dir_all(scene.socket().parent().unwrap()).unwrap();
    let _other = UnixListener::bind(scene.socket()).unwrap();
    assert!(matches!(serve(&scene.socket(), scene.node.clone()), Err(ControlError::InUse { .. })));
    assert!(scene.socket().exists());
}

#[test]
fn what_is_not_a_socket_is_left_alone() {
    let scene = Scene::new();
    fs::create_dir_all(scene.socket().parent().unwrap()).unwrap();
    fs::write(scene.socket(), "precious").unwrap();
    assert!(matches!(serve(&scene.socket(), scene.node.clone()), Err(ControlError::NotASocket { .. })));
    assert_eq!(fs::read(scene.socket()).unwrap(), b"precious");
}

#[test]
fn a_socket_that_was_replaced_is_not_removed() {
    let scene = Scene::new();
    let server = scene.serve();
    fs::remove_file(scene.socket()).unwrap();
    fs::write(scene.socket(), "somebody else's").unwrap();
    drop(server);
    assert!(scene.socket().exists());
}

#[test]
fn the_client_judges_what_it_is_told() {
    let scene = Scene::new();
    fs::create_dir_all(scene.socket().parent().unwrap()).unwrap();
    let listener = UnixListener::bind(scene.socket()).unwrap();
    let answers: [&[u8]; 4] = [
        b"",
        b"half an answer",
        b"{\"answer\":\"riddle\"}\n",
        b"{\"answer\":\"refused\",\"message\":\"no\"}\n",
    ];
    let server = thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            BufReader::new(&stream).read_line(&mut String::new()).unwrap();
            stream.write_all(answer).unwrap();
        }
        listener
    });
    for _ in 0..3 {
        let result = request(&scene.socket(), &Request::Ping);
        assert!(matches!(result, Err(ControlError::Garbage { .. })), "{result:?}");
    }
    let result = request(&scene.socket(), &Request::Ping);
    assert!(matches!(&result, Err(ControlError::Refused { message, .. }) if message == "no"), "{result:?}");
    // From here on nobody accepts: the client gives up.
    let _listener = server.join().unwrap();
    let result = request_within(&scene.socket(), &Request::Ping, Duration::from_millis(50));
    assert!(matches!(result, Err(ControlError::Late { .. })), "{result:?}");
}
