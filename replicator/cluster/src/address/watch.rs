//! What others do to the interfaces and addresses that are held.
//!
//! The kernel's notices only say when to look: what is so is asked for. So a notice that was lost, or came twice, does no harm.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use netlink_packet_core::NetlinkDeserializable;
use netlink_sys::{Socket, protocols};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::sleep;

use super::AddressEvent;
use super::keeper::Kept;
use super::netlink::{Entry, Fact, Link, Netlink, messages};

/// RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR (linux/rtnetlink.h).
const GROUPS: [u32; 3] = [1, 5, 9];
const NOTICE_BYTES_MAX: usize = 64 << 10;
/// Pause before a look that failed is repeated.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// Listens from the moment it is opened.
pub(super) struct Watch {
    notices: AsyncFd<Socket>,
    requests: Netlink,
}

/// What notices say.
#[derive(Clone, Copy, Default)]
struct Heard {
    /// Something of ours may be different.
    look: bool,
    /// What was reached through a port of ours is reached through another: switches must learn it.
    moved: bool,
}

impl Watch {
    /// To be called within a tokio runtime.
    pub fn open() -> io::Result<Watch> {
        let mut socket = Socket::new(protocols::NETLINK_ROUTE)?;
        socket.bind_auto()?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        socket.set_non_blocking(true)?;
        // SAFETY: the socket owns its descriptor: it is open, and the same, as long as the socket lives.
        let notices = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(Watch { notices, requests: Netlink::route()? })
    }

    /// Tell of changes for as long as the addresses are held: to be aborted.
    pub async fn run(mut self, kept: Vec<Arc<Kept>>, events: UnboundedSender<AddressEvent>) {
        // What changed before this task began to run was noticed, too.
        loop {
            let heard = match self.hear(&kept).await {
                Ok(heard) => heard,
                Err(error) => {
                    tracing::warn!(%error, "the kernel's notices of addresses are not heard; looking every second");
                    sleep(FAILURE_PAUSE).await;
                    Heard { look: true, moved: false }
                }
            };
            if heard.moved {
                kept.iter().for_each(|kept| kept.again.notify_one());
            }
            if heard.look {
                let (links, present) = self.see().await;
                apply(&kept, &links, &present, &events);
            }
        }
    }

    /// Look until it succeeds.
    async fn see(&mut self) -> (Vec<Link>, Vec<Entry>) {
        loop {
            match self.look() {
                Ok(seen) => return seen,
                Err(error) => {
                    tracing::warn!(%error, "cannot look at the interfaces");
                    sleep(FAILURE_PAUSE).await;
                }
            }
        }
    }

    fn look(&mut self) -> io::Result<(Vec<Link>, Vec<Entry>)> {
        Ok((self.requests.links()?, self.requests.addresses()?))
    }

    /// Wait for notices and read all there are.
    async fn hear(&self, kept: &[Arc<Kept>]) -> io::Result<Heard> {
        let mut buffer = vec![0; NOTICE_BYTES_MAX];
        let mut heard = Heard::default();
        let mut ready = self.notices.readable().await?;
        loop {
            let received = ready.try_io(|socket| {
                recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).map_err(io::Error::from)
            });
            match received {
                Err(_would_block) => return Ok(heard),
                Ok(Ok(length)) => {
                    let of_notices = listen(buffer.get(..length).unwrap_or_default(), kept);
                    heard.look |= of_notices.look;
                    heard.moved |= of_notices.moved;
                }
                Ok(Err(error)) => match error.raw_os_error().map(Errno::from_raw) {
                    // There were more than the socket could hold.
                    Some(Errno::ENOBUFS) => heard.look = true,
                    Some(Errno::EINTR) => {}
                    _ => return Err(error),
                },
            }
        }
    }
}

fn listen(bytes: &[u8], kept: &[Arc<Kept>]) -> Heard {
    let mut heard = Heard::default();
    let ours = |index| kept.iter().any(|kept| kept.place.entry.index == index);
    for (header, payload) in messages(bytes) {
        match Fact::deserialize(&header, payload) {
            Ok(Fact::Link(link)) if ours(link.index) => {
                heard.look = true;
                heard.moved |= link.moved;
            }
            Ok(Fact::LinkGone { index }) => heard.look |= ours(index),
            Ok(Fact::Address(entry) | Fact::AddressGone(entry)) => heard.look |= ours(entry.index),
            Ok(Fact::Link(_) | Fact::Other) => {}
            // Who knows what it was.
            Err(_) => heard.look = true,
        }
    }
    heard
}

/// Compare with what was known, tell the differences, and announce anew what others may not know any more.
fn apply(kept: &[Arc<Kept>], links: &[Link], present: &[Entry], events: &UnboundedSender<AddressEvent>) {
    let mut told: Vec<u32> = Vec::new();
    for kept in kept {
        let wanted = kept.place.entry;
        let link = links.iter().find(|link| link.index == wanted.index);
        let there =
            present.iter().any(|entry| entry.index == wanted.index && entry.address == wanted.address);
        let carrier = link.is_some_and(|link| link.carrier);
        kept.live.during(|| {
            let had_carrier = kept.carrier.swap(carrier, Ordering::Relaxed);
            let was_there = kept.present.swap(there, Ordering::Relaxed);
            let moved = link.is_some_and(|link| kept.set_mac(link.mac));
            if carrier != had_carrier && !told.contains(&wanted.index) {
                told.push(wanted.index);
                let interface = kept.place.link.name.clone();
                tracing::info!(interface, carrier, "the carrier changed");
                let _ = events.send(AddressEvent::Carrier { interface, up: carrier });
            }
            if was_there && !there {
                tracing::warn!(address = %wanted.address, "the address is gone from this node");
                let _ = events.send(AddressEvent::Lost { address: wanted.address });
            }
            if there && (moved || (carrier && !had_carrier) || !was_there) {
                kept.again.notify_one();
            }
        });
    }
}
