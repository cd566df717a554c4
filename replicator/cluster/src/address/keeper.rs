//! One address that is held: announced in time, and defended.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, sleep, sleep_until};

use super::interface::Place;
use super::packet::{self, Claim};
use super::packet_socket::PacketSocket;
use super::schedule;
use super::{AddressEvent, Mac};

/// A claim is answered so much later: a node that slept through the loss of its authority hears the other's claims and its own late
/// tick at the same time, and must have the time to give up instead.
const DEFENCE_DELAY: Duration = Duration::from_millis(100);
/// Claims that come sooner after one that was answered are passed over: two that both insist must not fill the LAN.
const DEFENCE_PAUSE: Duration = Duration::from_secs(1);
/// An announcement that is later than this was slept through.
const SLEPT: Duration = Duration::from_secs(1);
/// After a sleep nothing is announced for so long, unless the daemon asks: it may be about to give the address up.
const GRACE: Duration = Duration::from_secs(3);
/// Pause between two claims that are listened to: a flood costs no more than this.
const EAR_PAUSE: Duration = Duration::from_millis(10);
/// Pause after the socket failed.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// Whether addresses may still be announced. Shared by all of one `take`; whoever sends holds the lock, so that nothing is sent any more
/// once `end` has returned.
#[derive(Debug, Default)]
pub(super) struct Live(Mutex<bool>);

impl Live {
    pub fn begin(&self) {
        *self.lock() = true;
    }

    pub fn end(&self) {
        *self.lock() = false;
    }

    /// Do it if it may be done, and hold off the end until it is done.
    pub fn during(&self, work: impl FnOnce()) {
        let live = self.lock();
        if *live {
            work();
        }
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An address that is held, or about to be.
#[derive(Debug)]
pub(super) struct Kept {
    pub place: Place,
    /// `None` on an interface without Ethernet addresses.
    pub socket: Option<PacketSocket>,
    pub live: Arc<Live>,
    /// Announce anew, from the start of the schedule.
    pub again: Notify,
    pub carrier: AtomicBool,
    pub present: AtomicBool,
    pub announced: AtomicU64,
    mac: Mutex<Option<Mac>>,
    rival: Mutex<Option<Mac>>,
}

impl Kept {
    pub fn new(place: Place, socket: Option<PacketSocket>, live: Arc<Live>) -> Kept {
        Kept {
            socket,
            live,
            again: Notify::new(),
            carrier: AtomicBool::new(place.link.carrier),
            present: AtomicBool::new(true),
            announced: AtomicU64::new(0),
            mac: Mutex::new(place.link.mac),
            rival: Mutex::new(None),
            place,
        }
    }

    /// The interface's hardware address now.
    pub fn mac(&self) -> Option<Mac> {
        *self.mac.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Take over the interface's hardware address; whether it is another than before.
    pub fn set_mac(&self, mac: Option<Mac>) -> bool {
        let mut known = self.mac.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *known, mac) != mac
    }

    /// Who claimed the address last.
    pub fn rival(&self) -> Option<Mac> {
        *self.rival.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Send all forms of the announcement once. What cannot be sent is made up for by the next.
    pub fn announce(&self) {
        let (Some(socket), Some(mac)) = (&self.socket, self.mac()) else { return };
        let frames = packet::announcement(self.place.address(), mac, self.is_router());
        self.live.during(|| {
            let sent = frames.iter().try_for_each(|frame| socket.send(frame));
            match sent {
                Ok(()) => {
                    self.announced.fetch_add(1, Ordering::Relaxed);
                }
                // Without a carrier or with a full queue; when the carrier comes it is done again.
                Err(error) => {
                    tracing::debug!(address = %self.place.address(), %error, "an announcement was not sent");
                }
            }
        });
    }

    fn is_router(&self) -> bool {
        let path = format!("/proc/sys/net/ipv6/conf/{}/forwarding", self.place.link.name);
        self.place.address().is_ipv6() && fs::read(path).is_ok_and(|value| value.first() == Some(&b'1'))
    }

    async fn claim(&self) -> io::Result<Claim> {
        match &self.socket {
            Some(socket) => socket.claim().await,
            None => std::future::pending().await,
        }
    }
}

/// Announce an address by the schedule, whose first announcement was sent just now, and defend it. For as long as it is held: to be
/// aborted.
pub(super) async fn keep(kept: Arc<Kept>, events: UnboundedSender<AddressEvent>) {
    let mut start = Instant::now();
    let mut number = 1;
    let mut defended: Option<Instant> = None;
    loop {
        let due = start + schedule::due(number);
        tokio::select! {
            () = kept.again.notified() => {
                start = Instant::now();
                number = 0;
            }
            () = sleep_until(due) => {
                if due.elapsed() > SLEPT {
                    tracing::warn!(address = %kept.place.address(), late = ?due.elapsed(),
                        "this node slept; nothing is announced until it is known who has the address");
                    start = Instant::now() + GRACE;
                    number = 0;
                } else {
                    kept.announce();
                    number = schedule::next(start.elapsed());
                }
            }
            claim = kept.claim() => {
                match claim {
                    Ok(claim) if is_news(&kept, claim, defended) => {
                        defended = Some(Instant::now());
                        on_rival(&kept, claim, &events);
                        start = Instant::now() + DEFENCE_DELAY;
                        number = 0;
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!(address = %kept.place.address(), %error, "claims of others are not heard");
                        sleep(FAILURE_PAUSE).await;
                    }
                }
                sleep(EAR_PAUSE).await;
            }
        }
    }
}

fn is_news(kept: &Kept, claim: Claim, defended: Option<Instant>) -> bool {
    kept.mac() != Some(claim.mac) && defended.is_none_or(|last| last.elapsed() >= DEFENCE_PAUSE)
}

fn on_rival(kept: &Kept, claim: Claim, events: &UnboundedSender<AddressEvent>) {
    *kept.rival.lock().unwrap_or_else(PoisonError::into_inner) = Some(claim.mac);
    kept.live.during(|| {
        tracing::warn!(address = %claim.address, mac = %claim.mac, "somebody else claims the address");
        // Nobody listens any more: the daemon ends.
        let _ = events.send(AddressEvent::Rival { address: claim.address, mac: claim.mac });
    });
}
