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
use super::schedule::{Due, Pace};
use super::{AddressEvent, Mac};

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
    let mut pace = Pace::begun(Instant::now());
    loop {
        tokio::select! {
            () = kept.again.notified() => pace.anew(Instant::now()),
            () = sleep_until(pace.due()) => match pace.on_due(Instant::now()) {
                Due::Announce => kept.announce(),
                Due::Slept(late) => tracing::warn!(address = %kept.place.address(), ?late,
                    "this node slept; nothing is announced until it had the time to give up"),
            },
            claim = kept.claim() => {
                match claim {
                    Ok(claim) if kept.mac() != Some(claim.mac) => {
                        if pace.on_claim(Instant::now()) {
                            on_rival(&kept, claim, &events);
                        }
                    }
                    // A switch that gives back what it was given.
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

fn on_rival(kept: &Kept, claim: Claim, events: &UnboundedSender<AddressEvent>) {
    *kept.rival.lock().unwrap_or_else(PoisonError::into_inner) = Some(claim.mac);
    kept.live.during(|| {
        tracing::warn!(address = %claim.address, mac = %claim.mac, "somebody else claims the address");
        // Nobody listens any more: the daemon ends.
        let _ = events.send(AddressEvent::Rival { address: claim.address, mac: claim.mac });
    });
}
