//! Members get in, nobody else does, and nobody can keep the acceptor from its work.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use replicator_core::action::DataState;
use replicator_core::ids::{Generation, Term};
use replicator_core::wire::header::{HEADER_BYTES, Header, HeaderError, Kind, VERSION_MIN};
use replicator_core::wire::hello::{Hello, Proof, Refusal, RefusalReason, Role, VolumeIdentity};

use super::acceptor::{Acceptor, Host, Limits};
use super::admission::{Admission, Turned};
use super::dialer::{dial, shake};
use super::error::{HandshakeError, KeyError};
use super::exchange::{Exchange, check_pair, refusal};
use super::membership::{ClusterKey, Direction};
use super::{Established, Identity, Timeouts};

mod encrypted;
mod fuzz;

/// Longest any of these tests waits for a state.
const LIMIT: Duration = Duration::from_secs(30);

const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(5),
    handshake: Duration::from_secs(10),
    dead: Duration::from_secs(10),
};

/// Limits that no test reaches which is not about limits.
fn wide() -> Limits {
    Limits {
        concurrent: 64,
        concurrent_per_address: 64,
        per_second: 1e6,
        burst: 1_000_000,
        ..Limits::default()
    }
}

fn identity(node: &str, role: Role) -> Identity {
    let hello = Hello {
        lowest: 1,
        highest: 3,
        cluster: b"orders".to_vec(),
        node: node.as_bytes().to_vec(),
        role,
        mode: 1,
        nonce: [0; 32],
        boot: [node.len() as u8; 16],
        volumes: vec![VolumeIdentity { device: 5, inode: 2 }, VolumeIdentity { device: 6, inode: 2 }],
        generation: Generation(4),
        term: Term(9),
        data: DataState::UpToDate,
        patterns: Vec::new(),
    };
    Identity { hello, key: ClusterKey::from_secret(b"a secret of some length"), tls: None }
}

fn primary() -> Identity {
    identity("a", Role::Primary)
}

fn secondary() -> Identity {
    identity("bb", Role::Secondary)
}

struct Gatehouse {
    identity: Identity,
    refuses: Option<Refusal>,
    outcomes: Mutex<Sender<Result<Established, HandshakeError>>>,
}

impl Host for Gatehouse {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn admit(&self, _peer: &Hello) -> Result<(), Refusal> {
        self.refuses.clone().map_or(Ok(()), Err)
    }

    fn established(&self, established: Established) {
        let _ = self.outcomes.lock().expect("not poisoned").send(Ok(established));
    }

    fn failed(&self, _peer: SocketAddr, error: HandshakeError) {
        let _ = self.outcomes.lock().expect("not poisoned").send(Err(error));
    }
}

type Outcomes = Receiver<Result<Established, HandshakeError>>;

fn acceptor_with(
    identity: Identity,
    refuses: Option<Refusal>,
    timeouts: Timeouts,
    limits: Limits,
) -> (Acceptor, Outcomes) {
    let (sender, outcomes) = channel();
    let host = Arc::new(Gatehouse { identity, refuses, outcomes: Mutex::new(sender) });
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    (Acceptor::start(address, host, timeouts, limits).expect("a port on loopback"), outcomes)
}

fn acceptor(identity: Identity) -> (Acceptor, Outcomes) {
    acceptor_with(identity, None, TIMEOUTS, wide())
}

fn next(outcomes: &Outcomes) -> Result<Established, HandshakeError> {
    outcomes.recv_timeout(LIMIT).expect("an outcome")
}

/// Both sides' results for these two identities.
fn meet(
    dialer: &Identity,
    answering: Identity,
) -> (Result<Established, HandshakeError>, Result<Established, HandshakeError>) {
    let (acceptor, outcomes) = acceptor(answering);
    let dialed = dial(&acceptor.address().to_string(), None, dialer, &TIMEOUTS);
    (dialed, next(&outcomes))
}

fn reason(result: Result<Established, HandshakeError>) -> RefusalReason {
    match result.expect_err("refused") {
        HandshakeError::Refused(refusal) | HandshakeError::RefusedByPeer(refusal) => refusal.reason,
        other => panic!("{other}"),
    }
}

/// Both sides know that they do not fit, and why.
fn assert_refused(dialer: &Identity, answering: Identity, expected: RefusalReason) {
    let (dialed, answered) = meet(dialer, answering);
    assert_eq!(reason(dialed), expected);
    assert_eq!(reason(answered), expected);
}

#[test]
fn members_meet_and_the_stream_is_theirs() {
    let (dialed, answered) = meet(&secondary(), primary());
    let (mut dialed, mut answered) = (dialed.expect("a session"), answered.expect("a session"));
    assert_eq!((dialed.version, answered.version), (3, 3));
    assert!(dialed.authenticated && answered.authenticated);
    assert_eq!(dialed.peer.node, b"a");
    assert_eq!(answered.peer.node, b"bb");
    assert_eq!(answered.peer.generation, Generation(4));
    // The first byte that is read is the first byte of the session.
    answered.stream.write_all(b"first").expect("written");
    let mut read = [0; 5];
    dialed.stream.read_exact(&mut read).expect("read");
    assert_eq!(&read, b"first");
    assert!(dialed.stream.nodelay().expect("an option"));
}

#[test]
fn without_a_key_the_session_says_so() {
    let open = |mut identity: Identity| {
        identity.key = ClusterKey::from_cluster_name(&identity.hello.cluster);
        identity
    };
    let (dialed, answered) = meet(&open(secondary()), open(primary()));
    assert!(!dialed.expect("a session").authenticated);
    assert!(!answered.expect("a session").authenticated);
}

#[test]
fn another_key_or_none_is_refused() {
    let mut stranger = secondary();
    stranger.key = ClusterKey::from_secret(b"another secret of some length");
    assert_refused(&stranger, primary(), RefusalReason::Proof);
    stranger.key = ClusterKey::from_cluster_name(&stranger.hello.cluster);
    assert_refused(&stranger, primary(), RefusalReason::Proof);
    assert_refused(&secondary(), Identity { key: stranger.key, ..primary() }, RefusalReason::Proof);
}

#[test]
fn highest_common_version_is_taken_and_none_is_refused() {
    let speaks = |mut identity: Identity, lowest, highest| {
        (identity.hello.lowest, identity.hello.highest) = (lowest, highest);
        identity
    };
    let (dialed, answered) = meet(&speaks(secondary(), 2, 7), speaks(primary(), 1, 4));
    assert_eq!((dialed.expect("a session").version, answered.expect("a session").version), (4, 4));
    let (dialed, answered) = meet(&speaks(secondary(), 5, 7), speaks(primary(), 1, 4));
    assert_eq!(reason(answered), RefusalReason::Version);
    let Err(HandshakeError::RefusedByPeer(refusal)) = dialed else { panic!("{dialed:?}") };
    assert_eq!(refusal.reason, RefusalReason::Version);
    for range in ["5 to 7", "1 to 4"] {
        assert!(refusal.text.contains(range), "both ranges are named: {}", refusal.text);
    }
}

#[test]
fn nodes_that_do_not_fit_are_refused() {
    let changed = |change: fn(&mut Hello)| {
        let mut identity = secondary();
        change(&mut identity.hello);
        identity
    };
    assert_refused(&changed(|hello| hello.cluster = b"other".to_vec()), primary(), RefusalReason::Cluster);
    assert_refused(&changed(|hello| hello.node = b"a".to_vec()), primary(), RefusalReason::Other);
    assert_refused(&changed(|hello| hello.role = Role::Primary), primary(), RefusalReason::Role);
    assert_refused(&changed(|hello| hello.mode = 2), primary(), RefusalReason::Mode);
    assert_refused(&changed(|hello| hello.volumes.truncate(1)), primary(), RefusalReason::Volumes);
}

#[test]
fn a_directory_is_never_mirrored_onto_itself() {
    let (own, mut peer) = (primary().hello, secondary().hello);
    assert_ne!(own.boot, peer.boot);
    assert_eq!(own.volumes, peer.volumes);
    check_pair(&own, &peer).expect("same numbers on two machines mean nothing");
    peer.boot = own.boot;
    assert_eq!(check_pair(&own, &peer).expect_err("one machine").reason, RefusalReason::SameDirectory);
    // Also across the lists.
    peer.volumes = vec![VolumeIdentity { device: 9, inode: 9 }, VolumeIdentity { device: 5, inode: 2 }];
    assert_eq!(check_pair(&own, &peer).expect_err("one machine").reason, RefusalReason::SameDirectory);
    peer.volumes[1].inode = 3;
    check_pair(&own, &peer).expect("other directories of one machine");
}

#[test]
fn patterns_that_differ_are_refused_with_the_directory() {
    let (mut own, mut peer) = (primary().hello, secondary().hello);
    own.patterns = vec![[0; 32], [7; 32]];
    let refused = check_pair(&own, &peer).expect_err("only one node leaves names out");
    assert_eq!(refused.reason, RefusalReason::Volumes);
    assert!(refused.text.contains("directory 2"), "{}", refused.text);
    peer.patterns = vec![[0; 32], [8; 32]];
    assert_eq!(check_pair(&peer, &own).expect_err("others").reason, RefusalReason::Volumes);
    peer.patterns = own.patterns.clone();
    check_pair(&own, &peer).expect("the same on both");
    // None on one node is the same as none in any volume on the other.
    (own.patterns, peer.patterns) = (vec![[0; 32]; 2], Vec::new());
    check_pair(&own, &peer).expect("none on either");
}

#[test]
fn the_host_has_the_last_word() {
    let busy = refusal(RefusalReason::Busy, "another session is served".to_owned());
    let (acceptor, outcomes) = acceptor_with(primary(), Some(busy), TIMEOUTS, wide());
    let dialed = dial(&acceptor.address().to_string(), None, &secondary(), &TIMEOUTS);
    assert_eq!(reason(dialed), RefusalReason::Busy);
    assert_eq!(reason(next(&outcomes)), RefusalReason::Busy);
}

/// A frame of the handshake as bytes.
fn frame(kind: Kind, body: &[u8]) -> Vec<u8> {
    let header = Header::new(kind, Term(0)).encode(VERSION_MIN, body.len() as u32, crc32c::crc32c(body));
    [&header, body].concat()
}

/// Say this to the acceptor and close: how it ends there.
fn say(acceptor: &Acceptor, outcomes: &Outcomes, bytes: &[u8]) -> HandshakeError {
    let mut stream = TcpStream::connect(acceptor.address()).expect("connected");
    // It may close before it has read everything.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let error = next(outcomes).expect_err("no session comes of this");
    drop(stream);
    error
}

#[test]
fn garbage_truncation_and_oversize_are_errors_and_the_acceptor_goes_on() {
    let (acceptor, outcomes) = acceptor(primary());
    let hello = frame(Kind::Hello, &secondary().hello.encode());
    for cut in 0..hello.len() {
        let error = say(&acceptor, &outcomes, &hello[..cut]);
        assert!(matches!(error, HandshakeError::Closed { .. }), "cut at {cut}: {error}");
    }
    for at in 0..hello.len() {
        let mut broken = hello.clone();
        broken[at] ^= 0x10;
        let error = say(&acceptor, &outcomes, &broken);
        let expected = matches!(error, HandshakeError::Header(_) | HandshakeError::Checksum { .. });
        assert!(expected, "byte {at}: {error}");
    }
    let error = say(
        &acceptor,
        &outcomes,
        b"GET / HTTP/1.1\r\nHost: example\r\nUser-Agent: somebody\r\nAccept: */*\r\n\r\n",
    );
    assert!(matches!(error, HandshakeError::Header(HeaderError::Magic(_))), "{error}");
    let error = say(&acceptor, &outcomes, &frame(Kind::Hello, &[0; 100]));
    assert!(matches!(error, HandshakeError::Body { .. }), "{error}");
    let error = say(&acceptor, &outcomes, &Header::new(Kind::Hello, Term(0)).encode(1, 70_000, 0));
    assert!(matches!(error, HandshakeError::Oversize { .. }), "{error}");
    let error = say(&acceptor, &outcomes, &frame(Kind::Data, &[1; 10]));
    assert!(matches!(error, HandshakeError::Unexpected { kind: Kind::Data, .. }), "{error}");
    let error = say(&acceptor, &outcomes, &[hello.clone(), frame(Kind::Accept, &[])].concat());
    assert!(matches!(error, HandshakeError::Unexpected { kind: Kind::Accept, .. }), "{error}");
    let error = say(&acceptor, &outcomes, &[hello, frame(Kind::Proof, &[7; 31])].concat());
    assert!(matches!(error, HandshakeError::Body { .. }), "{error}");
    assert_eq!(acceptor.statistics().established, 0);
    dial(&acceptor.address().to_string(), None, &secondary(), &TIMEOUTS).expect("a member gets in");
}

#[test]
fn silence_ends_at_the_limit_on_both_sides() {
    let short = Timeouts { handshake: Duration::from_millis(50), ..TIMEOUTS };
    let (acceptor, outcomes) = acceptor_with(primary(), None, short, wide());
    let _silent = TcpStream::connect(acceptor.address()).expect("connected");
    assert!(matches!(next(&outcomes), Err(HandshakeError::Timeout { .. })));
    // Drop by drop does not help.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
    let address = listener.local_addr().expect("an address").to_string();
    let dropping = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let hello = frame(Kind::Hello, &primary().hello.encode());
        let mut drops = hello[..HEADER_BYTES].iter();
        let mut rest = [0; 4096];
        stream.set_read_timeout(Some(Duration::from_millis(20))).expect("an option");
        // Ends when the dialer is gone.
        while !matches!(stream.read(&mut rest), Ok(0)) {
            if let Some(drop) = drops.next()
                && stream.write_all(&[*drop]).is_err()
            {
                return;
            }
        }
    });
    let start = Instant::now();
    let dialed = dial(&address, None, &secondary(), &short);
    assert!(matches!(dialed, Err(HandshakeError::Timeout { .. })), "{dialed:?}");
    assert!(start.elapsed() < LIMIT);
    dropping.join().expect("the other side ends");
}

/// Stands between the two and changes what passes (given: whether it comes from the dialer, kind, body).
fn meddle(
    dialer: &Identity,
    answering: Identity,
    change: impl Fn(bool, Kind, Vec<u8>) -> Vec<u8> + Send + Sync + 'static,
) -> (Result<Established, HandshakeError>, Result<Established, HandshakeError>) {
    let (acceptor, outcomes) = acceptor(answering);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
    let address = listener.local_addr().expect("an address").to_string();
    let target = acceptor.address();
    let between = std::thread::spawn(move || {
        let (near, _) = listener.accept().expect("the dialer");
        let far = TcpStream::connect(target).expect("the acceptor");
        let change = &change;
        std::thread::scope(|scope| {
            for (from, to, from_dialer) in [(&near, &far, true), (&far, &near, false)] {
                scope.spawn(move || {
                    pass(from, to, |kind, body| change(from_dialer, kind, body));
                    let _ = to.shutdown(std::net::Shutdown::Both);
                    let _ = from.shutdown(std::net::Shutdown::Both);
                });
            }
        });
    });
    let dialed = dial(&address, None, dialer, &TIMEOUTS);
    let answered = next(&outcomes);
    drop(dialed.as_ref().map(|session| session.stream.shutdown(std::net::Shutdown::Both)));
    between.join().expect("nothing passes any more");
    (dialed, answered)
}

fn pass(mut from: &TcpStream, mut to: &TcpStream, change: impl Fn(Kind, Vec<u8>) -> Vec<u8>) {
    let mut header = [0; HEADER_BYTES];
    while from.read_exact(&mut header).is_ok() {
        let decoded = Header::decode(&header, &(0..=u16::MAX)).expect("a frame");
        let mut body = vec![0; decoded.payload_length as usize];
        from.read_exact(&mut body).expect("its body");
        let body = change(decoded.header.kind, body);
        if to.write_all(&frame(decoded.header.kind, &body)).is_err() {
            return;
        }
    }
}

#[test]
fn what_is_passed_on_unchanged_is_accepted() {
    let (dialed, answered) = meddle(&secondary(), primary(), |_, _, body| body);
    dialed.expect("a session");
    answered.expect("a session");
}

#[test]
fn a_changed_hello_breaks_the_proof() {
    for changed_side in [true, false] {
        let (dialed, answered) = meddle(&secondary(), primary(), move |from_dialer, kind, body| {
            if kind != Kind::Hello || from_dialer != changed_side {
                return body;
            }
            let mut hello = Hello::decode(&body).expect("a Hello");
            hello.generation = Generation(1000);
            hello.encode()
        });
        assert_eq!(reason(answered), RefusalReason::Proof);
        assert_eq!(reason(dialed), RefusalReason::Proof);
    }
}

#[test]
fn an_acceptor_that_cannot_prove_itself_is_refused_by_the_dialer() {
    for fake in [[0; 32], [0xff; 32]] {
        let (dialed, _) = meddle(&secondary(), primary(), move |from_dialer, kind, body| {
            if kind == Kind::Proof && !from_dialer { fake.to_vec() } else { body }
        });
        let refused =
            matches!(&dialed, Err(HandshakeError::Refused(why)) if why.reason == RefusalReason::Proof);
        assert!(refused, "{dialed:?}");
    }
}

#[test]
fn a_proof_cannot_be_reflected_or_replayed() {
    let key = primary().key;
    let proof = key.prove(Direction::Dialer, b"one", b"other");
    assert!(key.verify(&proof, Direction::Dialer, b"one", b"other"));
    assert!(!key.verify(&proof, Direction::Acceptor, b"one", b"other"));
    assert!(!key.verify(&proof, Direction::Dialer, b"other", b"one"));
    assert!(!key.verify(&proof, Direction::Dialer, b"on", b"eother"), "lengths are part of it");
    // What a member once said does not open a second session: the acceptor's nonce is another one.
    let said = Arc::new(Mutex::new(Vec::new()));
    let listening = said.clone();
    let (dialed, _) = meddle(&secondary(), primary(), move |from_dialer, kind, body| {
        if from_dialer {
            listening.lock().expect("not poisoned").extend(frame(kind, &body));
        }
        body
    });
    drop(dialed.expect("a session"));
    let (acceptor, outcomes) = acceptor(primary());
    let said = said.lock().expect("not poisoned").clone();
    let error = say(&acceptor, &outcomes, &said);
    let refused = matches!(&error, HandshakeError::Refused(why) if why.reason == RefusalReason::Proof);
    assert!(refused, "{error}");
}

#[test]
fn a_mirror_of_the_dialer_is_not_its_peer() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
    let address = listener.local_addr().expect("an address");
    let mirror = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the dialer");
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            if stream.write_all(&bytes[..count]).is_err() {
                return;
            }
        }
    });
    let stream = TcpStream::connect(address).expect("connected");
    assert_eq!(reason(shake(stream, &secondary(), &TIMEOUTS)), RefusalReason::Proof);
    mirror.join().expect("the mirror ends");
}

#[test]
fn a_flood_of_strangers_does_not_keep_a_member_out() {
    let limits = Limits { concurrent: 8, concurrent_per_address: 4, ..wide() };
    let (acceptor, outcomes) = acceptor_with(primary(), None, TIMEOUTS, limits);
    let flood: Vec<TcpStream> =
        (0..100).map(|_| TcpStream::connect(acceptor.address()).expect("connected")).collect();
    let start = Instant::now();
    while acceptor.statistics().turned_busy < 96 {
        assert!(start.elapsed() < LIMIT, "{:?}", acceptor.statistics());
        std::thread::yield_now();
    }
    // The flood holds all places of its address and none of the others.
    let elsewhere = Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)));
    dial(&acceptor.address().to_string(), elsewhere, &secondary(), &TIMEOUTS).expect("a member gets in");
    next(&outcomes).expect("a session");
    drop(flood);
    for _ in 0..4 {
        assert!(matches!(next(&outcomes), Err(HandshakeError::Closed { .. })));
    }
    dial(&acceptor.address().to_string(), None, &secondary(), &TIMEOUTS).expect("the places are free again");
}

#[test]
fn attempts_are_limited_per_address_and_come_back_with_time() {
    let limits =
        Limits { concurrent: 100, concurrent_per_address: 2, per_second: 2.0, burst: 3, ..Limits::default() };
    let mut admission = Admission::new(limits);
    let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
    let now = Instant::now();
    assert_eq!(admission.enter(one, now), Ok(()));
    assert_eq!(admission.enter(one, now), Ok(()));
    assert_eq!(admission.enter(one, now), Err(Turned::Busy));
    admission.leave(one, false);
    assert_eq!(admission.enter(one, now), Ok(()));
    admission.leave(one, false);
    assert_eq!(admission.enter(one, now), Err(Turned::TooOften));
    assert_eq!(admission.enter(other, now), Ok(()), "others are not concerned");
    assert_eq!(admission.enter(one, now + Duration::from_millis(500)), Ok(()));
    admission.leave(one, true);
    assert_eq!(admission.enter(one, now + Duration::from_millis(500)), Ok(()), "a member may come back");
    // Many addresses cost bounded memory, and do not make it forget who is inside.
    for index in 0..5000u32 {
        let address = IpAddr::from((0x0b00_0000 + index).to_be_bytes());
        if admission.enter(address, now).is_ok() {
            admission.leave(address, false);
        }
    }
    assert_eq!(admission.enter(one, now + Duration::from_secs(60)), Err(Turned::Busy));
}

#[test]
fn addresses_that_cannot_be_had_are_named() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
    let address = taken.local_addr().expect("an address");
    let host = Arc::new(Gatehouse { identity: primary(), refuses: None, outcomes: Mutex::new(channel().0) });
    let error = Acceptor::start(address, host, TIMEOUTS, Limits::default()).err().expect("taken");
    assert!(matches!(error, HandshakeError::AddressInUse { .. }), "{error}");
    drop(taken);
    let error = dial(&address.to_string(), None, &secondary(), &TIMEOUTS).expect_err("nobody listens");
    assert!(matches!(error, HandshakeError::System { operation: "connect to", .. }), "{error}");
    let other_family = Some(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]));
    let error =
        dial(&address.to_string(), other_family, &secondary(), &TIMEOUTS).expect_err("no address fits");
    assert!(matches!(error, HandshakeError::NoAddress { .. }), "{error}");
}

#[test]
fn a_stopped_acceptor_frees_its_address_at_once() {
    let (acceptor, _outcomes) = acceptor(primary());
    let address = acceptor.address();
    // A handshake under way does not hold the address.
    let _stranger = TcpStream::connect(address).expect("connected");
    drop(acceptor);
    let host = Arc::new(Gatehouse { identity: primary(), refuses: None, outcomes: Mutex::new(channel().0) });
    Acceptor::start(address, host, TIMEOUTS, Limits::default()).map(drop).expect("the address is free");
}

#[test]
fn key_files_are_checked() {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, mode, content: &[u8]| {
        let path = directory.path().join(name);
        let mut file =
            std::fs::File::options().write(true).create_new(true).mode(mode).open(&path).expect("a file");
        file.write_all(content).expect("written");
        path
    };
    let good = ClusterKey::from_file(&write("good", 0o600, b"  0123456789abcdef\n")).expect("a key");
    assert!(good.is_configured());
    let same = ClusterKey::from_secret(b"0123456789abcdef");
    let proof = good.prove(Direction::Dialer, b"a", b"b");
    assert!(same.verify(&proof, Direction::Dialer, b"a", b"b"));
    let exposed = ClusterKey::from_file(&write("exposed", 0o644, b"0123456789abcdef"));
    assert!(matches!(exposed, Err(KeyError::Exposed { .. })));
    let short = ClusterKey::from_file(&write("short", 0o600, b"0123456789abcde \n"));
    assert!(matches!(short, Err(KeyError::TooShort { length: 15, .. })));
    let missing = ClusterKey::from_file(&directory.path().join("missing"));
    assert!(matches!(missing, Err(KeyError::Read { .. })));
    assert!(!format!("{good:?}").contains("0123"), "keys are not logged");
}

#[test]
fn a_refusal_reaches_the_peer_with_its_text() {
    let (near, far) = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
        let near = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        (near, listener.accept().expect("accepted").0)
    };
    Exchange::new(&near, LIMIT, Term(0)).refuse(refusal(RefusalReason::Mode, "because".to_owned()));
    let error = Exchange::new(&far, LIMIT, Term(0))
        .receive(Kind::Proof, "a proof", Proof::decode)
        .expect_err("refused");
    let HandshakeError::RefusedByPeer(refusal) = error else { panic!("{error}") };
    assert_eq!((refusal.reason, refusal.text.as_str()), (RefusalReason::Mode, "because"));
}
