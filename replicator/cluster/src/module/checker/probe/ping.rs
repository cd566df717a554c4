//! Whether one of several addresses answers an ICMP echo (RFC 792, RFC 4443).
//!
//! By an ICMP datagram socket (icmp(7)), which the kernel gives to the groups of `net.ipv4.ping_group_range`; where it does not,
//! by a raw one, which needs CAP_NET_RAW.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

/// Random bytes in each question, which its answer must bring back.
const TOKEN_BYTES: usize = 16;
const HEADER_BYTES: usize = 8;
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
    /// Whether the kernel gives the IP header, too.
    raw_v4: bool,
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
        Ok(Echo {
            address,
            socket,
            raw_v4: raw && address.is_ipv4(),
            identifier: identifier(),
            sequence: 0,
            token,
            asked: None,
        })
    }

    /// Ask if it is time, and listen for a moment; whether the answer came.
    fn step(&mut self) -> io::Result<bool> {
        if self.asked.is_none_or(|asked| asked.elapsed() >= AGAIN) {
            self.asked = Some(Instant::now());
            self.sequence = self.sequence.wrapping_add(1);
            let question = self.question();
            (&self.socket).write_all(&question)?;
        }
        let mut packet = [0; 1500];
        match (&self.socket).read(&mut packet) {
            Ok(length) => Ok(self.is_answer(packet.get(..length).unwrap_or_default())),
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

    fn question(&self) -> Vec<u8> {
        let kind = if self.address.is_ipv4() { 8 } else { 128 };
        let mut packet = vec![kind, 0, 0, 0];
        packet.extend(self.identifier.to_be_bytes());
        packet.extend(self.sequence.to_be_bytes());
        packet.extend(self.token);
        if self.address.is_ipv4() {
            let sum = checksum(&packet).to_be_bytes();
            packet.splice(2..4, sum);
        }
        // ICMPv6's sum includes the addresses; the kernel makes it.
        packet
    }

    /// Whether it is the answer to the question: the token is known to who got the question.
    fn is_answer(&self, packet: &[u8]) -> bool {
        let message = if self.raw_v4 {
            let header = usize::from(packet.first().copied().unwrap_or_default() & 0x0f) * 4;
            packet.get(header..).unwrap_or_default()
        } else {
            packet
        };
        let kind = if self.address.is_ipv4() { 0 } else { 129 };
        message.first() == Some(&kind)
            && message.get(HEADER_BYTES..HEADER_BYTES + TOKEN_BYTES) == Some(self.token.as_slice())
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

/// The Internet's sum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        u32::from(u16::from_be_bytes([pair.first().copied().unwrap_or(0), pair.get(1).copied().unwrap_or(0)]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_the_question_is_one() {
        let Ok(echo) = Echo::open([127, 0, 0, 1].into()) else {
            eprintln!("not run: no ICMP socket is to be had here");
            return;
        };
        let echo = Echo { raw_v4: true, ..echo };
        let ip = |message: &[u8]| [&[0x45; 20], message].concat();
        let mut answer = echo.question();
        assert!(!echo.is_answer(&ip(&answer)), "the question itself, which a raw socket hears on loopback");
        if let Some(kind) = answer.first_mut() {
            *kind = 0;
        }
        assert!(echo.is_answer(&ip(&answer)));
        for length in 0..ip(&answer).len() {
            assert!(!echo.is_answer(ip(&answer).get(..length).unwrap_or_default()), "cut at {length}");
        }
        if let Some(last) = answer.last_mut() {
            *last ^= 1;
        }
        assert!(!echo.is_answer(&ip(&answer)), "the answer to another");
    }

    #[test]
    fn the_sum_is_that_of_the_rfc() {
        // The example of RFC 1071, section 3.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&[0xff]), !0xff00);
    }
}
