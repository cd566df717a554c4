//! Asked over real connections, by hand-written requests: what a load balancer sees, and what a stranger can do.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use tokio::runtime::Runtime;

use super::server::{CONNECTIONS_MAX, HEAD_BYTES_MAX};
use super::*;

/// Longest wait for an answer.
const LIMIT: Duration = Duration::from_secs(20);

struct Fixture {
    health: Option<Health>,
    active: Arc<AtomicBool>,
    // The last to be dropped.
    runtime: Runtime,
}

impl Fixture {
    fn new() -> Fixture {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let active = Arc::new(AtomicBool::new(true));
        let state = active.clone();
        let look = move |module: &str| {
            let serving = state.load(Ordering::SeqCst);
            let word = if serving { "primary" } else { "secondary" };
            matches!(module, "" | "db").then_some(HealthState { serving, word: word.into() })
        };
        let _inside = runtime.enter();
        let health = Health::serve("127.0.0.1:0".parse().unwrap(), Arc::new(look)).unwrap();
        drop(_inside);
        Fixture { health: Some(health), active, runtime }
    }

    fn connect(&self) -> TcpStream {
        let address = self.health.as_ref().unwrap().address();
        let stream = TcpStream::connect(address.to_socket_addrs().unwrap().next().unwrap()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// Status line and body.
    fn ask(&self, method: &str, path: &str) -> (u16, String) {
        let mut stream = self.connect();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: node\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("cache-control: no-store"), "{answer}");
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _inside = self.runtime.enter();
        self.health.take();
    }
}

#[test]
fn only_the_active_node_answers_200() {
    let fixture = Fixture::new();
    assert_eq!(fixture.ask("GET", "/health/db"), (200, "primary\n".into()));
    assert_eq!(fixture.ask("GET", "/health"), (200, "primary\n".into()));
    fixture.active.store(false, Ordering::SeqCst);
    assert_eq!(fixture.ask("GET", "/health/db"), (503, "secondary\n".into()));
    assert_eq!(fixture.ask("GET", "/health"), (503, "secondary\n".into()));
    assert_eq!(fixture.ask("GET", "/health/db?x=1"), (503, "secondary\n".into()));
}

#[test]
fn head_is_get_without_the_word() {
    let fixture = Fixture::new();
    assert_eq!(fixture.ask("HEAD", "/health/db"), (200, String::new()));
    fixture.active.store(false, Ordering::SeqCst);
    assert_eq!(fixture.ask("HEAD", "/health/db"), (503, String::new()));
}

#[test]
fn a_check_of_the_old_kind_is_answered() {
    let fixture = Fixture::new();
    let mut stream = fixture.connect();
    stream.write_all(b"GET /health/db HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\nprimary\n"), "{answer}");
}

#[test]
fn other_questions_are_refused() {
    let fixture = Fixture::new();
    for path in ["/", "/healthy", "/health/other", "/health/db/more", "/health/%64%62", "//health"] {
        assert_eq!(fixture.ask("GET", path).0, 404, "{path}");
    }
    assert_eq!(fixture.ask("POST", "/health/db").0, 405);
    assert_eq!(fixture.ask("DELETE", "/health/db").0, 405);
}

/// Whether the connection is ended by the other side.
fn ends(stream: &mut TcpStream) -> bool {
    let mut rest = [0; 1024];
    loop {
        match stream.read(&mut rest) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return true,
            Err(_) => return false,
        }
    }
}

#[test]
fn who_is_slow_keeps_nobody_away_and_is_let_go() {
    let fixture = Fixture::new();
    let mut slow: Vec<TcpStream> = (0..2 * CONNECTIONS_MAX).map(|_| fixture.connect()).collect();
    for stream in &mut slow {
        // The oldest may be gone already.
        let _ = stream.write_all(b"GET /health HT");
    }
    assert_eq!(fixture.ask("GET", "/health"), (200, "primary\n".into()));
    assert!(slow.iter_mut().all(ends));
}

#[test]
fn a_head_without_end_is_let_go() {
    let fixture = Fixture::new();
    let mut stream = fixture.connect();
    let mut writer = stream.try_clone().unwrap();
    let writing = thread::spawn(move || {
        let line = [b'x'; HEAD_BYTES_MAX];
        // Until it is refused: the socket's buffers alone cannot hold it.
        (0..10_000).find_map(|_| writer.write_all(&line).err())
    });
    assert!(ends(&mut stream));
    assert!(writing.join().unwrap().is_some());
}

#[test]
fn an_address_that_cannot_be_had_is_named() {
    let fixture = Fixture::new();
    let address = fixture.health.as_ref().unwrap().address();
    let _inside = fixture.runtime.enter();
    let refused = Health::serve(address, Arc::new(|_: &str| None));
    assert!(matches!(refused, Err(HealthError::Listen { address: named, .. }) if named == address));
}

#[test]
fn the_end_frees_the_address() {
    let mut fixture = Fixture::new();
    let address = fixture.health.as_ref().unwrap().address();
    fixture.health.take();
    let deadline = std::time::Instant::now() + LIMIT;
    while TcpStream::connect(address).is_ok() {
        assert!(std::time::Instant::now() < deadline, "still there");
        thread::yield_now();
    }
}

#[test]
fn no_bytes_are_too_strange() {
    let fixture = Fixture::new();
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) };
    proptest!(config, |(bytes in prop::collection::vec(any::<u8>(), 0..300), framed in any::<bool>())| {
        let mut stream = fixture.connect();
        if framed {
            let _ = stream.write_all(b"GET /health/");
        }
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        prop_assert!(ends(&mut stream));
    });
    assert_eq!(fixture.ask("GET", "/health"), (200, "primary\n".into()));
}
