//! One connection to the peer.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::credentials::Configured;
use super::super::error::AskError;
use super::super::frame::{Greeting, Line, read_line};
use super::super::refusals::tls_error;
use super::super::{ALPN, RESPONSE_BYTES_MAX, VERSION};
use super::{Options, unreachable};
use crate::tls::any_name;

/// Longest greeting in bytes.
const GREETING_BYTES_MAX: usize = 256;

/// A connection on which both sides have accepted each other.
pub(super) struct Connection {
    stream: BufReader<TlsStream<TcpStream>>,
    /// Number of the keys it was made with.
    keys: u64,
    made: Instant,
    used: Instant,
}

/// Why an attempt to ask gave no answer.
pub(super) enum Asking {
    /// The peer closed the connection before it looked at the request.
    NotTaken,
    /// Whether the peer has the request is not known.
    Broken(io::Error),
    /// The answer is longer than any.
    TooLong,
}

impl Connection {
    pub(super) async fn make(
        address: SocketAddr,
        keys: &Arc<Configured>,
        within: Duration,
    ) -> Result<Connection, AskError> {
        match tokio::time::timeout(within, shake(address, keys)).await {
            Ok(result) => result,
            Err(_) => Err(unreachable(address)(io::ErrorKind::TimedOut.into())),
        }
    }

    /// Whether it may be used again: made with the keys of now, not too old, nothing came that was not asked for.
    pub(super) fn is_usable(&mut self, keys: &Configured, options: &Options) -> bool {
        if self.keys != keys.number
            || self.made.elapsed() >= options.age
            || self.used.elapsed() >= options.idle
        {
            return false;
        }
        let mut context = Context::from_waker(Waker::noop());
        // Ready is the end of the stream, an error, or an answer to nothing.
        matches!(Pin::new(&mut self.stream).poll_fill_buf(&mut context), Poll::Pending)
    }

    /// Send a line and wait for the one that answers it.
    pub(super) async fn ask(&mut self, line: &[u8]) -> Result<Vec<u8>, Asking> {
        let sent = async {
            self.stream.write_all(line).await?;
            self.stream.flush().await
        };
        let sent = sent.await;
        let mut answer = Vec::new();
        // Also after a write that failed: what the peer said before it closed tells more.
        match read_line(&mut self.stream, RESPONSE_BYTES_MAX, &mut answer).await {
            Ok(Line::Whole) => {
                self.used = Instant::now();
                sent.map_err(Asking::Broken)?;
                Ok(answer)
            }
            Ok(Line::End) => Err(Asking::NotTaken),
            Ok(Line::TooLong) => Err(Asking::TooLong),
            Ok(Line::Cut) => Err(Asking::Broken(io::ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(Asking::Broken(error)),
        }
    }
}

async fn shake(address: SocketAddr, keys: &Arc<Configured>) -> Result<Connection, AskError> {
    let system = unreachable(address);
    let not_accepted = |why: String| AskError::NotAccepted { address, why };
    let told = |error: io::Error| match tls_error(&error) {
        Some(tls) => not_accepted(tls.to_string()),
        None => AskError::Unreachable { address, source: error },
    };
    let tcp = TcpStream::connect(address).await.map_err(&system)?;
    tcp.set_nodelay(true).map_err(&system)?;
    let stream = TlsConnector::from(keys.client.clone()).connect(any_name(), tcp).await.map_err(told)?;
    if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
        return Err(not_accepted("it does not name the control channel's protocol".to_owned()));
    }
    let mut stream = BufReader::with_capacity(8 << 10, stream);
    let mut line = Vec::new();
    // In TLS 1.3 the asker is done before the answerer has seen the certificate: only this says that it was accepted.
    let read = read_line(&mut stream, GREETING_BYTES_MAX, &mut line).await.map_err(told)?;
    let greeting = serde_json::from_slice::<Greeting>(&line);
    match greeting {
        Ok(Greeting { replicator_control: VERSION }) if read == Line::Whole => {}
        Ok(Greeting { replicator_control }) => {
            return Err(not_accepted(format!(
                "it speaks version {replicator_control} of the control channel, this node {VERSION}"
            )));
        }
        Err(_) if read == Line::End => {
            return Err(not_accepted("it closed the connection; it may have too many".to_owned()));
        }
        Err(error) => return Err(not_accepted(format!("its greeting is none: {error}"))),
    }
    let now = Instant::now();
    Ok(Connection { stream, keys: keys.number, made: now, used: now })
}
