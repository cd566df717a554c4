//! Whether one of several addresses answers an ICMP echo (RFC 792, RFC 4443).
//!
//! By an ICMP datagram socket (icmp(7)), which the kernel gives to the groups of `net.ipv4.ping_group_range`; where it does not,
//! by a raw one, which needs CAP_NET_RAW.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::icmp::{self, TOKEN_BYTES};

/// Pause between two questions to the same address.
const AGAIN: Duration = Duration::from_secs(1);
/// How long one address is listened to before the next.
const SLICE: Duration = Duration::from_millis(10);

pub(super) fn look(addresses: &[IpAddr], limit: Duration) -> Result<(), String> {
    let deadline = Instant::now() + limit;
    let mut failures = Vec::new();
    let mut echoes: Vec<Echo> = addresses
        .iter()
        .filter_map(|address| {
            Echo::open(*address).map_err(|error| failures.push(format!("{address}: {error}"))).ok()
        })
        .collect();
    while !echoes.is_empty() && Instant::now() < deadline {
        let mut kept = Vec::new();
        for mut echo in echoes {
            match echo.step() {
                Ok(true) => return Ok(()),
                Ok(false) => kept.push(echo),
                Err(error) => failures.push(format!("{}: {error}", echo.address)),
            }
        }
        echoes = kept;
    }
    failures.extend(echoes.iter().map(|echo| format!("{} does not answer", echo.address)));
    Err(failures.join("; "))
}

/// The conversation with one address.
struct Echo {
    address: IpAddr,
    socket: Socket,
    raw: bool,
    identifier: u16,
    sequence: u16,
    token: [u8; TOKEN_BYTES],
    asked: Option<Instant>,
}

impl Echo {
    fn open(address: IpAddr) -> io::Result<Echo> {
        let (domain, protocol) = match address {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let (socket, raw) = match Socket::new(domain, Type::DGRAM, Some(protocol)) {
            Ok(socket) => (socket, false),
            Err(_) => (Socket::new(domain, Type::RAW, Some(protocol)).map_err(refused)?, true),
        };
        // What comes from elsewhere is not delivered then.
        socket.connect(&SocketAddr::new(address, 0).into())?;
        socket.set_read_timeout(Some(SLICE))?;
        let mut token = [0; TOKEN_BYTES];
        getrandom::fill(&mut token).map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Echo { address, socket, raw, identifier: identifier(), sequence: 0, token, asked: None })
    }

    /// Ask if it is time, and listen for a moment; whether the answer came.
    fn step(&mut self) -> io::Result<bool> {
        if self.asked.is_none_or(|asked| asked.elapsed() >= AGAIN) {
            self.asked = Some(Instant::now());
            self.sequence = self.sequence.wrapping_add(1);
            let question = icmp::question(
                self.address.is_ipv4(),
                self.identifier.to_be_bytes(),
                self.sequence,
                &self.token,
            );
            (&self.socket).write_all(&question)?;
        }
        let mut packet = [0; 1500];
        match (&self.socket).read(&mut packet) {
            Ok(length) => {
                let packet = packet.get(..length).unwrap_or_default();
                Ok(icmp::is_answer(packet, self.address.is_ipv4(), self.raw, &self.token))
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// A number for the conversation; the kernel replaces it on datagram sockets.
fn identifier() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn refused(error: io::Error) -> io::Error {
    let why = "no ICMP socket: give the node CAP_NET_RAW, or its group in net.ipv4.ping_group_range";
    io::Error::new(error.kind(), format!("{why} ({error})"))
}
