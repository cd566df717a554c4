//! Sockets with the options of the link.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, getsockopt, listen,
    setsockopt, socket, sockopt,
};

/// Unanswered keep-alive probes that end a connection.
const PROBES: u32 = 3;

/// Bytes the kernel takes beyond what it has sent (`TCP_NOTSENT_LOWAT`). A frame that somebody waits for stands behind at most
/// this much bulk data inside the kernel, not behind the whole send buffer (4 MiB and more). Costs no throughput; figures:
/// docs/measurements/link.md.
static UNSENT_MAX: libc::c_uint = 512 << 10;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

fn stream_socket(address: &SocketAddr, flags: SockFlag) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    Ok(socket(family, SockType::Stream, flags | SockFlag::SOCK_CLOEXEC, None)?)
}

/// A listening, non-blocking socket. SO_REUSEADDR: a restarted daemon need not wait for old connections to be forgotten.
pub(super) fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let fd = stream_socket(&address, SockFlag::SOCK_NONBLOCK)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(fd.into())
}

/// A connected, blocking socket.
pub(super) fn connect_to(
    address: SocketAddr,
    source: Option<IpAddr>,
    limit: Duration,
) -> io::Result<TcpStream> {
    let fd = stream_socket(&address, SockFlag::SOCK_NONBLOCK)?;
    if let Some(source) = source {
        bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))?;
    }
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) => {}
        Err(Errno::EINPROGRESS | Errno::EINTR) => wait_connected(&fd, limit)?,
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from(fd);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn wait_connected(fd: &OwnedFd, limit: Duration) -> io::Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left.as_millis().min(60_000) as i32).unwrap_or(PollTimeout::ZERO);
        let mut events = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut events, timeout) {
            Ok(0) if left.is_zero() || left < Duration::from_millis(1) => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => {
                return match getsockopt(fd, sockopt::SocketError)? {
                    0 => Ok(()),
                    error => Err(io::Error::from_raw_os_error(error)),
                };
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Options of a session: small frames go at once; a peer whose kernel is silent for `dead` is given up, whether something is
/// under way (`TCP_USER_TIMEOUT`) or not (keep-alive); the kernel holds little unsent data. See tcp(7).
pub(super) fn set_session_options(stream: &TcpStream, dead: Duration) -> io::Result<()> {
    let millis = u32::try_from(dead.as_millis()).unwrap_or(u32::MAX).max(1);
    let interval = (millis / 1000 / (PROBES + 1)).max(1);
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &interval)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &interval)?;
    setsockopt(stream, sockopt::TcpKeepCount, &PROBES)?;
    setsockopt(stream, sockopt::TcpUserTimeout, &millis)?;
    limit_unsent(stream)
}

fn limit_unsent(stream: &TcpStream) -> io::Result<()> {
    // SAFETY: the option's value is an unsigned int, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            (&raw const UNSENT_MAX).cast(),
            size_of::<libc::c_uint>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Make the stream as the session wants it: blocking, without time limits.
pub(super) fn end_limits(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)
}
