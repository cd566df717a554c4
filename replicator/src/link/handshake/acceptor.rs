//! The side that listens.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use replicator_core::wire::header::Kind;
use replicator_core::wire::hello::{Hello, Proof, Refusal, RefusalReason};
use rustls::server::UnbufferedServerConnection;

use super::super::records::Records;
use super::admission::{Admission, Turned};
use super::error::HandshakeError;
use super::exchange::{Exchange, check_pair, check_protocol, nonce, refusal};
use super::membership::Direction;
use super::sockets;
use super::{Established, Identity, PROTOCOL, Timeouts};

/// What the acceptor asks and tells. Called from its threads; must not block for long.
pub trait Host: Send + Sync + 'static {
    /// What this node says of itself now.
    fn identity(&self) -> Identity;

    /// A peer proved membership and fits. Last word of this node before the session is open: a stale term, another session
    /// being served.
    ///
    /// # Errors
    /// The peer is told this refusal.
    fn admit(&self, _peer: &Hello) -> Result<(), Refusal> {
        Ok(())
    }

    /// A session is open.
    fn established(&self, established: Established);

    /// A handshake failed. Called once for each connection that was let in and did not become a session.
    fn failed(&self, peer: SocketAddr, error: HandshakeError);
}

/// What strangers can cost at most.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Limits {
    /// Handshakes under way at once; a thread each.
    pub concurrent: usize,
    /// Of those, from one address.
    pub concurrent_per_address: usize,
    /// Attempts per second that an address gains back.
    pub per_second: f64,
    /// Attempts of an address at once.
    pub burst: u32,
    /// Pause after the system had no descriptors or memory for a connection.
    pub linger: Duration,
}

/// What an acceptor has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AcceptorStatistics {
    /// Sessions opened.
    pub established: u64,
    /// Handshakes that failed.
    pub failed: u64,
    /// Connections closed at once because too many handshakes were under way.
    pub turned_busy: u64,
    /// Connections closed at once because their address came too often.
    pub turned_too_often: u64,
}

#[derive(Default)]
struct Counters {
    established: AtomicU64,
    failed: AtomicU64,
    turned_busy: AtomicU64,
    turned_too_often: AtomicU64,
}

struct Inner {
    stop: EventFd,
    host: Arc<dyn Host>,
    timeouts: Timeouts,
    limits: Limits,
    admission: Mutex<Admission>,
    counters: Counters,
}

/// Accepts connections of the peer until it is dropped. Dropping it does not wait for handshakes under way, which end by
/// themselves within their time limit.
pub struct Acceptor {
    inner: Arc<Inner>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Acceptor {
    /// Listen on an address and serve it on a thread.
    ///
    /// # Errors
    /// [`HandshakeError::AddressInUse`], [`HandshakeError::System`].
    pub fn start(
        address: SocketAddr,
        host: Arc<dyn Host>,
        timeouts: Timeouts,
        limits: Limits,
    ) -> Result<Acceptor, HandshakeError> {
        let failed = |operation| {
            move |source: io::Error| match source.kind() {
                io::ErrorKind::AddrInUse => HandshakeError::AddressInUse { address },
                _ => HandshakeError::System { operation, address: address.to_string(), source },
            }
        };
        let listener = sockets::listen_on(address).map_err(failed("listen on"))?;
        let address = listener.local_addr().map_err(failed("listen on"))?;
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| failed("listen on")(errno.into()))?;
        let inner = Arc::new(Inner {
            stop,
            host,
            timeouts,
            limits,
            admission: Mutex::new(Admission::new(limits)),
            counters: Counters::default(),
        });
        let serving = inner.clone();
        let thread = std::thread::Builder::new()
            .name("link-accept".to_owned())
            .spawn(move || serving.serve(&listener))
            .map_err(failed("start a thread to listen on"))?;
        Ok(Acceptor { inner, address, thread: Some(thread) })
    }

    /// Where it listens (with the port that the system chose for port 0).
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What was done so far.
    #[must_use]
    pub fn statistics(&self) -> AcceptorStatistics {
        let counters = &self.inner.counters;
        AcceptorStatistics {
            established: counters.established.load(Ordering::Relaxed),
            failed: counters.failed.load(Ordering::Relaxed),
            turned_busy: counters.turned_busy.load(Ordering::Relaxed),
            turned_too_often: counters.turned_too_often.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        // The counter is far from its limit: it is written once.
        let _ = self.inner.stop.write(1);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

impl Inner {
    /// The listener is the thread's own: it is closed when the thread ends, however long handshakes go on.
    fn serve(self: Arc<Inner>, listener: &TcpListener) {
        while self.wait_for_connection(listener) {
            match listener.accept() {
                Ok((stream, peer)) => self.clone().on_connection(stream, peer),
                // No descriptors, no memory: the connection stays in the queue; without a pause this would spin.
                Err(error) if is_shortage(&error) => {
                    tracing::warn!(%error, "cannot accept a connection of the peer");
                    if self.wait_for_stop(self.limits.linger) {
                        return;
                    }
                }
                // Everything else is about the one connection that was gone before it was accepted (accept(2)).
                Err(_) => {}
            }
        }
    }

    /// False: stop.
    fn wait_for_connection(&self, listener: &TcpListener) -> bool {
        loop {
            let mut events = [
                PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
                PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut events, PollTimeout::NONE) {
                Ok(_) => return !events[0].any().unwrap_or(true),
                Err(Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// True: stop.
    fn wait_for_stop(&self, limit: Duration) -> bool {
        let timeout =
            PollTimeout::try_from(limit.as_millis().min(10_000) as i32).unwrap_or(PollTimeout::ZERO);
        let mut events = [PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)];
        poll(&mut events, timeout).is_ok_and(|ready| ready > 0)
    }

    fn on_connection(self: Arc<Inner>, stream: TcpStream, peer: SocketAddr) {
        let address = peer.ip().to_canonical();
        match self.admission().enter(address, Instant::now()) {
            Ok(()) => {}
            Err(Turned::Busy) => {
                self.counters.turned_busy.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Err(Turned::TooOften) => {
                self.counters.turned_too_often.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        let serving = self.clone();
        let spawned = std::thread::Builder::new().name("link-handshake".to_owned()).spawn(move || {
            let guest = Guest { inner: &serving, address, member: false };
            serving.shake(stream, peer, guest);
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "cannot start a thread for a handshake");
            self.admission().leave(address, false);
        }
    }

    fn shake(&self, stream: TcpStream, peer: SocketAddr, mut guest: Guest<'_>) {
        let result = answer(stream, self.host.as_ref(), &self.timeouts);
        guest.member = result.is_ok();
        // The place is free before the host is told: what it does is its own time.
        drop(guest);
        match result {
            Ok(established) => {
                self.counters.established.fetch_add(1, Ordering::Relaxed);
                self.host.established(established);
            }
            Err(error) => {
                self.counters.failed.fetch_add(1, Ordering::Relaxed);
                self.host.failed(peer, error);
            }
        }
    }

    fn admission(&self) -> MutexGuard<'_, Admission> {
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// A handshake under way; gives its place back even if its thread panics.
struct Guest<'a> {
    inner: &'a Inner,
    address: std::net::IpAddr,
    member: bool,
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        self.inner.admission().leave(self.address, self.member);
    }
}

/// The acceptor's part.
pub(super) fn answer(
    stream: TcpStream,
    host: &dyn Host,
    timeouts: &Timeouts,
) -> Result<Established, HandshakeError> {
    let system = |source| HandshakeError::System {
        operation: "set options of",
        address: "an accepted connection".to_owned(),
        source,
    };
    stream.set_nonblocking(false).map_err(system)?;
    sockets::set_session_options(&stream, timeouts.dead).map_err(system)?;
    let identity = host.identity();
    let mut exchange = Exchange::new(&stream, timeouts.handshake, identity.hello.term);
    if let Some(files) = &identity.tls {
        let configuration = files.configurations(PROTOCOL).map_err(Box::new)?.server;
        let tls = UnbufferedServerConnection::new(configuration).map_err(HandshakeError::Tls)?;
        exchange.encrypt(Records::server(tls))?;
    }
    let (peer, peer_bytes) = exchange.receive(Kind::Hello, "the peer's Hello", Hello::decode)?;
    let own = Hello { nonce: nonce()?, ..identity.hello.clone() };
    let version = check_protocol(&own, &peer).map_err(|why| exchange.refuse(why))?;
    let own_bytes = own.encode();
    exchange.send(Kind::Hello, &own_bytes)?;
    let (proof, _) = exchange.receive(Kind::Proof, "the peer's proof of membership", Proof::decode)?;
    if !identity.key.verify(&proof, Direction::Dialer, &peer_bytes, &own_bytes) {
        let text = "the proof of membership is wrong: the cluster keys differ".to_owned();
        return Err(exchange.refuse(refusal(RefusalReason::Proof, text)));
    }
    check_pair(&own, &peer).map_err(|why| exchange.refuse(why))?;
    host.admit(&peer).map_err(|why| exchange.refuse(why))?;
    let proof = identity.key.prove(Direction::Acceptor, &peer_bytes, &own_bytes);
    exchange.send(Kind::Proof, &proof.encode())?;
    exchange.send(Kind::Accept, &[])?;
    let records = exchange.finish()?;
    sockets::end_limits(&stream).map_err(system)?;
    let authenticated = records.is_some() || identity.key.is_configured();
    Ok(Established { stream, records, version, peer, authenticated })
}
