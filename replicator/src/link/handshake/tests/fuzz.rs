//! The handshake with one who changes bytes of it: nobody becomes a member, and nothing is said to the host, before both sides have proven
//! what they are. Over sockets, so with a part of the inputs. `cargo xtask fuzz link` runs this.

use std::net::Shutdown;
use std::sync::atomic::{AtomicU64, Ordering};

use replicator_fuzz::{Random, Share, each};

use super::super::acceptor::answer;
use super::*;

/// Each input costs two sockets and a thread.
const SHARE: Share = Share::OneOf(1000);

/// A host that counts whom it is asked to admit.
struct Counting(Identity, AtomicU64);

impl Host for Counting {
    fn identity(&self) -> Identity {
        self.0.clone()
    }

    fn admit(&self, _peer: &Hello) -> Result<(), Refusal> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn established(&self, _established: Established) {}

    fn failed(&self, _peer: SocketAddr, _error: HandshakeError) {}
}

fn framed(kind: Kind, body: &[u8]) -> Vec<u8> {
    let header = Header::new(kind, Term(9));
    let mut bytes = header.encode(VERSION_MIN, body.len() as u32, crc32c::crc32c(body)).to_vec();
    bytes.extend_from_slice(body);
    bytes
}

/// The body of the next frame; empty at the end of the stream.
fn body(stream: &mut TcpStream) -> Vec<u8> {
    let mut header = [0; HEADER_BYTES];
    if stream.read_exact(&mut header).is_err() {
        return Vec::new();
    }
    let Ok(decoded) = Header::decode(&header, &(0..=u16::MAX)) else { return Vec::new() };
    let mut body = vec![0; decoded.payload_length as usize];
    if stream.read_exact(&mut body).is_ok() { body } else { Vec::new() }
}

/// A frame on its way: changed as bytes, or in its body with checksums that hold, or not at all.
fn sent(random: &mut Random, kind: Kind, body: &[u8], changes: bool) -> Vec<u8> {
    let genuine = framed(kind, body);
    match (changes, random.chance(50)) {
        (false, _) => genuine,
        (true, true) => loop {
            let changed = random.changed(&genuine);
            // With something behind it, it would be the right frame.
            if !changed.starts_with(&genuine) {
                return changed;
            }
        },
        (true, false) => framed(kind, &random.changed(body)),
    }
}

struct Meeting {
    listener: TcpListener,
    changed: u64,
}

impl Meeting {
    fn new() -> Meeting {
        Meeting { listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), changed: 0 }
    }

    /// Two ends of a connection.
    fn pair(&self) -> (TcpStream, TcpStream) {
        let one = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        let (other, _) = self.listener.accept().unwrap();
        one.set_read_timeout(Some(LIMIT)).unwrap();
        (one, other)
    }

    /// Which of the two frames is changed; neither in some cases, so that it is seen that it would work.
    fn draw(&mut self, random: &mut Random) -> (bool, bool) {
        let which = random.below(10);
        self.changed += u64::from(which > 0);
        (which % 2 == 1, which > 0 && which.is_multiple_of(2))
    }
}

#[test]
fn who_changes_what_a_dialer_says_is_not_let_in() {
    let mut meeting = Meeting::new();
    each("link, handshakes with a dialer", SHARE, |random| {
        let (mut near, far) = meeting.pair();
        let host = Arc::new(Counting(primary(), AtomicU64::new(0)));
        let serving = host.clone();
        let answering = std::thread::spawn(move || answer(far, &*serving, &TIMEOUTS).is_ok());
        let (first, second) = meeting.draw(random);
        let identity = secondary();
        let own = Hello { nonce: random.array(), ..identity.hello.clone() }.encode();
        // The other side may be gone already.
        let _ = near.write_all(&sent(random, Kind::Hello, &own, first));
        if first && random.chance(50) {
            let _ = near.shutdown(Shutdown::Write);
        }
        let theirs = if first { Vec::new() } else { body(&mut near) };
        let proof = identity.key.prove(Direction::Dialer, &own, &theirs);
        let _ = near.write_all(&sent(random, Kind::Proof, &proof.encode(), second));
        let _ = near.shutdown(Shutdown::Write);
        let is_member = answering.join().expect("no panic");
        let admitted = host.1.load(Ordering::SeqCst);
        let honest = !first && !second;
        assert_eq!((is_member, admitted), (honest, u64::from(honest)), "changed: {first} {second}");
    });
    assert!(meeting.changed > 0);
}

#[test]
fn who_changes_what_an_acceptor_says_is_not_believed() {
    let mut meeting = Meeting::new();
    each("link, handshakes with an acceptor", SHARE, |random| {
        let (mut near, far) = meeting.pair();
        let dialing = std::thread::spawn(move || shake(far, &secondary(), &TIMEOUTS).is_ok());
        let (first, second) = meeting.draw(random);
        let identity = primary();
        let theirs = body(&mut near);
        let own = Hello { nonce: random.array(), ..identity.hello.clone() }.encode();
        let _ = near.write_all(&sent(random, Kind::Hello, &own, first));
        let proof = identity.key.prove(Direction::Acceptor, &theirs, &own);
        let mut last = sent(random, Kind::Proof, &proof.encode(), second);
        last.extend(framed(Kind::Accept, &[]));
        let _ = near.write_all(&last);
        let _ = near.shutdown(Shutdown::Write);
        let is_member = dialing.join().expect("no panic");
        assert_eq!(is_member, !first && !second, "changed: {first} {second}");
    });
}
