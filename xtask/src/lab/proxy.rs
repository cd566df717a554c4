//! A man in the middle: passes TCP connections on and flips bits on request.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result};

use super::net::Namespace;

/// A running proxy; ended when dropped.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    stopping: AtomicBool,
    /// Bytes from the client still to pass before one is damaged; negative: none will be.
    countdown: AtomicI64,
    damaged: AtomicU64,
    connections: AtomicU64,
    /// What passed, either way; `None`: it is not looked at.
    record: Mutex<Option<[Vec<u8>; 2]>>,
}

/// Most bytes that are recorded, either way.
const RECORD_BYTES_MAX: usize = 16 << 20;

impl Proxy {
    /// Listen on `port` in `namespace` and pass everything on to `target` (reachable from there).
    ///
    /// # Errors
    /// The port is in use.
    pub fn start(namespace: &Namespace, port: u16, target: SocketAddr) -> Result<Proxy> {
        let address = namespace.socket(port);
        let listener = namespace
            .within(|| TcpListener::bind(address).with_context(|| format!("listen on {address}")))?;
        // The namespace of a socket is that of the thread that makes it: connect from a thread inside as well.
        let inside = std::fs::File::open(format!("/run/netns/{}", namespace.name()))?;
        let state = Arc::new(State { countdown: AtomicI64::new(-1), ..State::default() });
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            if nix::sched::setns(&inside, nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
                return;
            }
            for client in listener.incoming() {
                if shared.stopping.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(client) = client else { continue };
                let Ok(server) = TcpStream::connect(target) else { continue };
                shared.connections.fetch_add(1, Ordering::SeqCst);
                pass(&shared, client, server);
            }
        });
        Ok(Proxy { address, state, thread: Some(thread) })
    }

    /// Look at what passes from now on.
    pub fn record(&self) {
        *self.state.record.lock().unwrap_or_else(PoisonError::into_inner) = Some(Default::default());
    }

    /// Whether these bytes passed, either way.
    #[must_use]
    pub fn saw(&self, word: &[u8]) -> bool {
        let record = self.state.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.iter().flatten().any(|bytes| bytes.windows(word.len()).any(|window| window == word))
    }

    /// Bytes that were looked at.
    #[must_use]
    pub fn recorded(&self) -> usize {
        let record = self.state.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.iter().flatten().map(Vec::len).sum()
    }

    /// Flip one bit of the byte that comes after `bytes` more bytes from the client.
    pub fn damage_after(&self, bytes: u32) {
        self.state.countdown.store(i64::from(bytes), Ordering::SeqCst);
    }

    /// Bytes damaged so far.
    #[must_use]
    pub fn damaged(&self) -> u64 {
        self.state.damaged.load(Ordering::SeqCst)
    }

    /// Connections passed on so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// End it: no new connections.
    ///
    /// # Errors
    /// Its namespace is gone.
    pub fn stop(&mut self, namespace: &Namespace) -> Result<()> {
        self.state.stopping.store(true, Ordering::SeqCst);
        let address = self.address;
        // Wakes the thread that waits in accept.
        let _ = namespace.within(|| Ok(TcpStream::connect(address)?));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        Ok(())
    }
}

/// Two threads per connection; they end when either side does.
fn pass(state: &Arc<State>, client: TcpStream, server: TcpStream) {
    let (Ok(client_read), Ok(server_read)) = (client.try_clone(), server.try_clone()) else { return };
    let (there, back) = (Arc::clone(state), Arc::clone(state));
    std::thread::spawn(move || {
        copy(client_read, server, |bytes| {
            there.look(0, bytes);
            there.damage(bytes);
        });
    });
    std::thread::spawn(move || copy(server_read, client, |bytes| back.look(1, bytes)));
}

fn copy(mut from: TcpStream, mut to: TcpStream, mut change: impl FnMut(&mut [u8])) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read) = from.read(&mut buffer) {
        if read == 0 {
            break;
        }
        change(&mut buffer[..read]);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

impl State {
    fn look(&self, way: usize, bytes: &[u8]) {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(recorded) = record.as_mut().and_then(|ways| ways.get_mut(way)) {
            let room = RECORD_BYTES_MAX.saturating_sub(recorded.len());
            recorded.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }

    fn damage(&self, bytes: &mut [u8]) {
        let before = self.countdown.load(Ordering::SeqCst);
        if before < 0 {
            return;
        }
        let length = bytes.len() as i64;
        match usize::try_from(before).ok().and_then(|at| bytes.get_mut(at)) {
            Some(byte) => {
                *byte ^= 0x10;
                self.damaged.fetch_add(1, Ordering::SeqCst);
                self.countdown.store(-1, Ordering::SeqCst);
            }
            None => self.countdown.store(before - length, Ordering::SeqCst),
        }
    }
}
