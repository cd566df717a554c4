//! Requests and answers with a peer that has shown who it is.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::io::{AsyncBufReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::super::credentials::Configured;
use super::super::frame::{Answered, Asked, Line, Unsendable, encode, read_line};
use super::super::{PeerIdentity, REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX};
use super::Inside;
use super::entrance::Entered;

/// Serve the peer until it leaves, pauses too long, breaks a limit, is not the expected one any more, or its time is over.
pub(super) async fn converse<Q, A, H, F>(
    entered: Entered,
    inside: &Arc<Inside>,
    handler: &H,
) -> io::Result<()>
where
    Q: DeserializeOwned + Send + 'static,
    A: Serialize + Send + 'static,
    H: Fn(PeerIdentity, Q) -> F + Send + Sync + 'static,
    F: Future<Output = A> + Send + 'static,
{
    let Entered { stream, peer, session: _session } = entered;
    let mut stream = BufReader::with_capacity(8 << 10, stream);
    let mut keys = inside.keyring.watch();
    let end = Instant::now() + life(&peer, inside.limits.age);
    let mut line = Vec::new();
    while is_expected(&mut keys, &peer) && Instant::now() < end {
        let idle_end = Instant::now() + inside.limits.idle;
        tokio::select! {
            begun = stream.fill_buf() => if begun?.is_empty() { return Ok(()) },
            _ = keys.changed() => continue,
            () = tokio::time::sleep_until(idle_end.min(end)) => break,
        }
        let arrived = read_line(&mut stream, REQUEST_BYTES_MAX, &mut line);
        let arrived = tokio::time::timeout(inside.limits.transfer, arrived).await;
        let (bytes, goes_on) = match arrived {
            Ok(Ok(Line::Whole)) => (answer(&line, &peer, inside, handler).await, true),
            Ok(Ok(Line::TooLong)) => (refusal(0, "a request is one line of at most 65536 bytes"), false),
            Ok(Ok(Line::End | Line::Cut)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => (refusal(0, "the request did not arrive in time"), false),
        };
        let counter = if bytes.answered { &inside.answered } else { &inside.unanswered };
        counter.fetch_add(1, Ordering::Relaxed);
        let sent = send(&mut stream, &bytes.line);
        tokio::time::timeout(inside.limits.transfer, sent).await.map_err(|_| io::ErrorKind::TimedOut)??;
        if !goes_on {
            break;
        }
        // One large request must not be paid for as long as the connection lives.
        line.shrink_to(4 << 10);
    }
    tokio::time::timeout(inside.limits.transfer, stream.shutdown())
        .await
        .map_err(|_| io::ErrorKind::TimedOut)?
}

/// Until the certificate expires, and not longer than the limit.
fn life(peer: &PeerIdentity, limit: Duration) -> Duration {
    peer.not_after.duration_since(SystemTime::now()).unwrap_or_default().min(limit)
}

fn is_expected(keys: &mut watch::Receiver<Arc<Configured>>, peer: &PeerIdentity) -> bool {
    keys.borrow_and_update().peer.uri == peer.uri
}

async fn send<W: AsyncWrite + Unpin>(stream: &mut W, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// A line to be sent, and whether the handler made it.
struct Reply {
    line: Vec<u8>,
    answered: bool,
}

fn refusal(id: u64, why: &str) -> Reply {
    let refused = Answered::<()> { id, answer: None, refused: Some(why.to_owned()) };
    // Numbers and a short text of our own: cannot fail, and an empty line would be no answer.
    let line = encode(&refused, RESPONSE_BYTES_MAX).unwrap_or_else(|_| b"{}\n".to_vec());
    Reply { line, answered: false }
}

async fn answer<Q, A, H, F>(line: &[u8], peer: &PeerIdentity, inside: &Inside, handler: &H) -> Reply
where
    Q: DeserializeOwned + Send + 'static,
    A: Serialize + Send + 'static,
    H: Fn(PeerIdentity, Q) -> F + Send + Sync + 'static,
    F: Future<Output = A> + Send + 'static,
{
    let asked: Asked<Q> = match serde_json::from_slice(line) {
        Ok(asked) => asked,
        Err(error) => {
            let id = serde_json::from_slice::<Asked<IgnoredAny>>(line).map_or(0, |asked| asked.id);
            tracing::warn!(peer = %peer.name, %error, "the peer asks what this node does not understand; are both of the same version?");
            return refusal(id, &format!("not a request that this node understands: {error}"));
        }
    };
    // What nobody waits for any more need not be done.
    let limit = inside.limits.handle.min(Duration::from_millis(asked.within_ms));
    // In a task of its own, so that a defect in it costs one answer.
    let mut task = Ending(tokio::spawn(handler(peer.clone(), asked.request)));
    let answer = match tokio::time::timeout(limit, &mut task.0).await {
        Ok(Ok(answer)) => Answered { id: asked.id, answer: Some(answer), refused: None },
        Ok(Err(error)) => {
            tracing::error!(peer = %peer.name, %error, "a request of the peer ended in a defect of this program");
            return refusal(asked.id, "the request ended in a defect; see the journal of this node");
        }
        Err(_) => {
            return refusal(asked.id, &format!("the request was not done within {limit:?} and was given up"));
        }
    };
    match encode(&answer, RESPONSE_BYTES_MAX) {
        Ok(line) => Reply { line, answered: true },
        Err(Unsendable::TooLong(bytes)) => {
            refusal(asked.id, &format!("the answer has {bytes} bytes; ask for less"))
        }
        Err(Unsendable::Unwritable(error)) => {
            tracing::error!(%error, "an answer to the peer cannot be written");
            refusal(asked.id, "the answer cannot be written; see the journal of this node")
        }
    }
}

/// A task that ends with its owner.
struct Ending<A>(JoinHandle<A>);

impl<A> Drop for Ending<A> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
