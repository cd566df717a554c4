//! Single looks at small things made for the purpose.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::super::Pattern;
use super::*;

/// A process of the test; killed at its end.
struct Sleeper(Child);

impl Sleeper {
    fn new(seconds: &str) -> Sleeper {
        Sleeper(Command::new("sleep").arg(seconds).stdin(Stdio::null()).spawn().expect("sleep"))
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pattern(text: &str) -> Option<Pattern> {
    Some(Pattern(regex_lite::Regex::new(text).expect("a pattern")))
}

fn wanted() -> ProcessDescription {
    ProcessDescription { pid_file: None, command: None, arguments: None, at_least: 1, at_most: None }
}

/// A number of seconds that no other process here sleeps.
fn odd_seconds(number: u32) -> String {
    format!("{}.{number}", 100_000 + std::process::id())
}

#[test]
fn processes_are_found_by_their_names_and_arguments() {
    let seconds = odd_seconds(1);
    let (_one, _other) = (Sleeper::new(&seconds), Sleeper::new(&seconds));
    let arguments = pattern(&format!("^sleep {}$", regex_lite::escape(&seconds)));
    let found = |at_least, at_most, command: &str| {
        let (arguments, command) = (arguments.clone(), Some(command.to_owned()));
        process::look(&ProcessDescription { command, arguments, at_least, at_most, ..wanted() })
    };
    assert_eq!(found(2, None, "sleep"), Ok(()));
    assert_eq!(found(2, Some(2), "sleep"), Ok(()));
    assert!(found(3, None, "sleep").is_err());
    assert!(found(0, Some(1), "sleep").is_err());
    assert!(found(1, None, "slee").is_err(), "the whole name");
}

#[test]
fn a_process_is_found_by_its_file_if_it_is_the_one() {
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("pid");
    let look = |command: Option<&str>| {
        let (pid_file, command) = (Some(file.clone()), command.map(str::to_owned));
        process::look(&ProcessDescription { pid_file, command, ..wanted() })
    };
    assert!(look(None).is_err(), "no file");
    std::fs::write(&file, "word\n").expect("write");
    assert!(look(None).is_err(), "no number");
    let sleeper = Sleeper::new(&odd_seconds(2));
    // As PostgreSQL writes it: more lines follow.
    std::fs::write(&file, format!("{}\n/var/lib/data\n", sleeper.0.id())).expect("write");
    assert_eq!(look(None), Ok(()));
    assert_eq!(look(Some("sleep")), Ok(()));
    assert!(look(Some("postgres")).is_err(), "the number of another");
    drop(sleeper);
    assert!(look(None).is_err(), "gone");
}

#[test]
fn a_dead_process_that_nobody_waited_for_is_not_there() {
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("pid");
    let mut child = Command::new("true").spawn().expect("true");
    std::fs::write(&file, child.id().to_string()).expect("write");
    let gone = || process::look(&ProcessDescription { pid_file: Some(file.clone()), ..wanted() }).is_err();
    let dead = (0..500).any(|_| {
        // Between two looks at the process; how many there are is bounded above.
        std::thread::sleep(Duration::from_millis(20));
        gone()
    });
    child.wait().expect("wait");
    assert!(dead);
}

/// Answer each connection with `answer` and close it.
async fn server(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer).await;
        }
    });
    address
}

#[tokio::test]
async fn a_connection_and_an_answer() {
    let address = server(b"+PONG\r\n").await;
    assert_eq!(tcp::look(address, "", "").await, Observation::Success);
    assert_eq!(tcp::look(address, "PING\r\n", "+PONG").await, Observation::Success);
    assert!(matches!(tcp::look(address, "PING\r\n", "-ERR").await, Observation::Failure(_)));
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        listener.local_addr().expect("an address")
    };
    assert!(matches!(tcp::look(closed, "", "").await, Observation::Failure(_)));
}

#[tokio::test]
async fn an_answer_without_end_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move { while stream.write_all(&[b'x'; 4096]).await.is_ok() {} });
        }
    });
    assert!(matches!(tcp::look(address, "", "never").await, Observation::Failure(_)));
    let question = question(address, &[], "");
    assert!(matches!(http::look(&question).await, Observation::Failure(_)));
}

fn question(address: SocketAddr, status: &[u16], contains: &str) -> http::Question {
    http::Question {
        address,
        host: "example.org".into(),
        target: "/health".into(),
        status: status.to_vec(),
        contains: contains.into(),
    }
}

#[tokio::test]
async fn answers_of_http() {
    let table: [(&'static [u8], &[u16], &str, bool); 10] = [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nready", &[], "", true),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nready", &[], "ready", true),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nready", &[], "steady", false),
        (b"HTTP/1.0 200 OK\r\n\r\nall is ready", &[200], "ready", true),
        (b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", &[], "", true),
        (b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", &[200], "", false),
        (b"HTTP/1.1 503 Unavailable\r\n\r\n", &[], "", false),
        (b"HTTP/1.1 503 Unavailable\r\n\r\n", &[503], "", true),
        (b"SSH-2.0-OpenSSH\r\n", &[], "", false),
        (b"HTTP/1.1 200 OK\r\nContent-Le", &[], "", false),
    ];
    for (answer, status, contains, good) in table {
        let found = http::look(&question(server(answer).await, status, contains)).await;
        let text = String::from_utf8_lossy(answer);
        assert_eq!(found == Observation::Success, good, "{text:?} {status:?} {contains:?}: {found:?}");
    }
}

#[test]
fn loopback_answers_a_ping() {
    let limit = Duration::from_secs(20);
    let v4: IpAddr = [127, 0, 0, 1].into();
    match ping::look(&[v4], limit) {
        Err(reason) if reason.contains("CAP_NET_RAW") => eprintln!("not run: {reason}"),
        found => assert_eq!(found, Ok(())),
    }
    let v6: IpAddr = std::net::Ipv6Addr::LOCALHOST.into();
    if network::address(v6, None).is_err() {
        eprintln!("not run: ping by IPv6: this machine has no ::1");
        return;
    }
    match ping::look(&[v6], limit) {
        Err(reason) if reason.contains("CAP_NET_RAW") => eprintln!("not run: {reason}"),
        found => assert_eq!(found, Ok(())),
    }
}

#[test]
fn who_does_not_answer_a_ping_is_told_and_one_that_does_is_enough() {
    // TEST-NET-3 (RFC 5737): nobody has it.
    let nobody: IpAddr = [203, 0, 113, 77].into();
    assert!(ping::look(&[nobody], Duration::from_millis(100)).is_err());
    let both = ping::look(&[nobody, [127, 0, 0, 1].into()], Duration::from_secs(20));
    match both {
        Err(reason) if reason.contains("CAP_NET_RAW") => eprintln!("not run: {reason}"),
        found => assert_eq!(found, Ok(())),
    }
}

#[test]
fn interfaces_and_addresses() {
    assert_eq!(network::interface("lo"), Ok(()));
    assert!(network::interface("none0").is_err());
    let local: IpAddr = [127, 0, 0, 1].into();
    assert_eq!(network::address(local, None), Ok(()));
    assert_eq!(network::address(local, Some("lo")), Ok(()));
    assert!(network::address(local, Some("none0")).is_err());
    assert!(network::address([203, 0, 113, 77].into(), None).is_err());
}

#[test]
fn room_on_a_disk() {
    let place = tempfile::tempdir().expect("a directory");
    let look = |free, inodes| disk::look(place.path(), free, inodes);
    assert_eq!(look(SpaceLimit::Amount(0), Some(SpaceLimit::Percent(0.0))), Ok(()));
    assert!(look(SpaceLimit::Amount(u64::MAX), None).is_err());
    assert!(look(SpaceLimit::Percent(100.0), None).is_err(), "the superuser's part is not free for others");
    assert!(disk::look(&place.path().join("none"), SpaceLimit::Amount(0), None).is_err());
}
