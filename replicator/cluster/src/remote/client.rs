//! The asking side.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::REQUEST_BYTES_MAX;
use super::credentials::Keyring;
use super::error::AskError;
use super::frame::{Answered, Asked, Unsendable, encode};
use crate::held::lock;

mod connection;

use connection::{Asking, Connection};

/// How a peer is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Requests under way at a time, each on a connection of its own; more wait.
    pub connections: usize,
    /// For a connection to be made, the handshake included.
    pub connect: Duration,
    /// A connection that was not used for this long is not used again. Shorter than the answerer's limit.
    pub idle: Duration,
    /// A connection older than this is not used again.
    pub age: Duration,
    /// Pause after an attempt to connect that failed.
    pub pause: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            connections: 4,
            connect: Duration::from_secs(5),
            idle: Duration::from_secs(20),
            age: Duration::from_secs(3600),
            pause: Duration::from_millis(200),
        }
    }
}

/// The peer, to be asked. Connects when needed and again when a connection is lost.
pub struct Remote<Q, A> {
    address: SocketAddr,
    keyring: Keyring,
    options: Options,
    /// Connections that nobody uses now.
    free: Mutex<Vec<Connection>>,
    places: Semaphore,
    next_id: AtomicU64,
    /// No attempt to connect before this time.
    not_before: Mutex<Option<Instant>>,
    speaks: PhantomData<fn(Q) -> A>,
}

impl<Q, A> Remote<Q, A>
where
    Q: Serialize,
    A: DeserializeOwned,
{
    /// The peer at an address. Nothing is sent yet.
    #[must_use]
    pub fn new(address: SocketAddr, keyring: Keyring, options: Options) -> Remote<Q, A> {
        Remote {
            address,
            keyring,
            options,
            free: Mutex::default(),
            places: Semaphore::new(options.connections.max(1)),
            next_id: AtomicU64::new(1),
            not_before: Mutex::default(),
            speaks: PhantomData,
        }
    }

    /// Have a connection on which both sides have accepted each other.
    ///
    /// # Errors
    /// [`AskError`]: why there is none.
    pub async fn connect(&self, within: Duration) -> Result<(), AskError> {
        let connected = async {
            let _place = self.places.acquire().await;
            let connection = self.connection().await?;
            self.give_back(connection);
            Ok(())
        };
        self.bounded(within, connected).await
    }

    /// Ask, and wait for the answer.
    ///
    /// # Errors
    /// [`AskError`]; of each, [`AskError::is_ambiguous`] tells whether the peer may have acted.
    pub async fn ask(&self, request: &Q, within: Duration) -> Result<A, AskError> {
        self.bounded(within, self.ask_in_time(request, Instant::now() + within)).await
    }

    async fn bounded<T>(
        &self,
        within: Duration,
        work: impl Future<Output = Result<T, AskError>>,
    ) -> Result<T, AskError> {
        let late = AskError::Late { address: self.address, within };
        tokio::time::timeout(within, work).await.unwrap_or(Err(late))
    }

    async fn ask_in_time(&self, request: &Q, deadline: Instant) -> Result<A, AskError> {
        // The semaphore is never closed; without a place nothing is lost but the bound.
        let _place = self.places.acquire().await;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut again = true;
        loop {
            let mut connection = self.connection().await?;
            let left = deadline.saturating_duration_since(Instant::now());
            let within_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            let line =
                encode(&Asked { id, within_ms, request }, REQUEST_BYTES_MAX).map_err(
                    |error| match error {
                        Unsendable::TooLong(bytes) => AskError::TooLong { bytes },
                        Unsendable::Unwritable(error) => AskError::Unwritable(error),
                    },
                )?;
            match connection.ask(&line).await {
                Ok(answer) => {
                    let answer = self.understand(id, &answer);
                    if !matches!(answer, Err(AskError::Garbage { .. })) {
                        self.give_back(connection);
                    }
                    return answer;
                }
                // It ended between two requests: this one was not taken.
                Err(Asking::NotTaken) if again => again = false,
                Err(Asking::NotTaken) => return Err(self.lost("the peer closes every connection")),
                Err(Asking::Broken(error)) => return Err(self.lost(&error.to_string())),
                Err(Asking::TooLong) => return Err(self.garbage("the answer is too long")),
            }
        }
    }

    fn understand(&self, id: u64, line: &[u8]) -> Result<A, AskError> {
        let answered: Answered<A> =
            serde_json::from_slice(line).map_err(|error| self.garbage(&error.to_string()))?;
        match answered {
            // What cannot be read has no number.
            Answered { id: found, refused: Some(message), .. } if found == id || found == 0 => {
                Err(AskError::Refused { address: self.address, message })
            }
            Answered { id: found, answer: Some(answer), .. } if found == id => Ok(answer),
            _ => Err(self.garbage("it belongs to no request")),
        }
    }

    /// A connection that is alive as far as can be seen, or a new one.
    async fn connection(&self) -> Result<Connection, AskError> {
        let keys = self.keyring.current();
        loop {
            let Some(mut free) = lock(&self.free).pop() else { break };
            if free.is_usable(&keys, &self.options) {
                return Ok(free);
            }
        }
        let not_before = *lock(&self.not_before);
        if let Some(at) = not_before {
            tokio::time::sleep_until(at).await;
        }
        let connected = Connection::make(self.address, &keys, self.options.connect).await;
        let next = connected.as_ref().err().map(|_| Instant::now() + self.options.pause);
        *lock(&self.not_before) = next;
        connected
    }

    fn give_back(&self, connection: Connection) {
        lock(&self.free).push(connection);
    }

    fn lost(&self, why: &str) -> AskError {
        AskError::Lost { address: self.address, why: why.to_owned() }
    }

    fn garbage(&self, why: &str) -> AskError {
        AskError::Garbage { address: self.address, why: why.to_owned() }
    }
}

impl<Q, A> fmt::Debug for Remote<Q, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("address", &self.address).finish_non_exhaustive()
    }
}

/// What the system says of a connection that cannot be made.
fn unreachable(address: SocketAddr) -> impl Fn(io::Error) -> AskError {
    move |source| AskError::Unreachable { address, source }
}
