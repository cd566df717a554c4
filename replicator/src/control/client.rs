//! The asking side: one request, one answer, one connection, within a time limit.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr};

use super::{ControlError, RESPONSE_BYTES_MAX, Request, Response};

/// Time limit of [`request`].
pub const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// Ask the daemon at a socket.
///
/// # Errors
/// [`ControlError`]; a refusal by the daemon is [`ControlError::Refused`].
pub fn request(path: &Path, request: &Request) -> Result<Response, ControlError> {
    request_within(path, request, REQUEST_LIMIT)
}

/// [`request`] with another time limit.
///
/// # Errors
/// As [`request`].
pub fn request_within(path: &Path, request: &Request, limit: Duration) -> Result<Response, ControlError> {
    let deadline = Instant::now() + limit;
    let failed = |operation| move |source| failure(path, operation, limit, source);
    let mut stream = connect(path).map_err(failed("connect to"))?;
    let mut line = serde_json::to_vec(request)
        .map_err(|error| ControlError::Garbage { path: path.to_owned(), why: error.to_string() })?;
    line.push(b'\n');
    stream.set_write_timeout(Some(limit)).map_err(failed("set a time limit on"))?;
    stream.write_all(&line).map_err(failed("write to"))?;
    let answer = read_line(&mut stream, deadline).map_err(failed("read from"))?;
    let garbage = |why: String| ControlError::Garbage { path: path.to_owned(), why };
    if answer.last() != Some(&b'\n') {
        return Err(garbage(format!("{} bytes without an end", answer.len())));
    }
    match serde_json::from_slice(&answer).map_err(|error| garbage(error.to_string()))? {
        Response::Refused { message } => Err(ControlError::Refused { path: path.to_owned(), message }),
        response => Ok(response),
    }
}

/// Connect without waiting: a daemon that does not accept (stopped by a signal, its queue full) gives EAGAIN.
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    socket::connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Bytes up to the first newline, the end of the stream, or the longest response.
fn read_line(stream: &mut UnixStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    while line.last() != Some(&b'\n') && line.len() < RESPONSE_BYTES_MAX {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => line.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(line)
}

fn failure(path: &Path, operation: &'static str, limit: Duration, source: io::Error) -> ControlError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ControlError::NoDaemon { path },
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ControlError::Late { path, limit },
        _ => ControlError::System { operation, path, source },
    }
}
