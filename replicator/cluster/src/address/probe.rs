//! Is somebody else at the address? Three questions in 200 ms, which is what a failover can spare.
//!
//! RFC 5227 takes up to 7 s for the same and RFC 4862 one; here another node of a cluster, or a machine given the same address by
//! mistake, is looked for, both of which answer in less than a millisecond. Who is only asking as well does not have the address yet and
//! is no duplicate: who of two may take it has been decided elsewhere.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::Mac;
use super::interface::Place;
use super::packet;
use super::packet_socket::PacketSocket;

const PROBES: u32 = 3;
const TOTAL: Duration = Duration::from_millis(200);

/// What the LAN says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    Free,
    Taken { mac: Mac },
}

/// Ask for one address. Returns at once when somebody answers.
///
/// # Errors
/// No question could be sent.
pub(super) async fn probe(place: &Place, mac: Mac, socket: &PacketSocket) -> io::Result<Answer> {
    let question = packet::probe(place.address(), mac);
    let start = Instant::now();
    for number in 1..=PROBES {
        socket.send(&question)?;
        let until = start + TOTAL * number / PROBES;
        loop {
            match timeout_at(until, socket.claim()).await {
                Err(_time_is_up) => break,
                // A switch that gives back what it was given.
                Ok(Ok(claim)) if claim.mac == mac => {}
                Ok(Ok(claim)) => return Ok(Answer::Taken { mac: claim.mac }),
                Ok(Err(error)) => return Err(error),
            }
        }
    }
    Ok(Answer::Free)
}
