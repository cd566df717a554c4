//! Orders that come over the control socket: taken or refused at once by what the status says, then passed on to the data plane.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use replicator_core::verify::VerifyRequest;
use replicator_core::wire::header::VERSION_VERIFIES;

use super::mailbox::Mailbox;
use super::message::Message;
use super::report::Reports;
use crate::config::Role;
use crate::control::Order;
use crate::status::Status;

/// Takes orders for a node.
pub struct Orders {
    mailbox: Arc<Mailbox<Message>>,
    /// What verifications found.
    pub reports: Arc<Reports>,
    /// The verification that was asked for last; held while one is decided on.
    verify: Mutex<u64>,
    resync: AtomicU64,
}

impl Orders {
    /// Orders for the data plane behind this mailbox.
    pub fn new(mailbox: Arc<Mailbox<Message>>) -> Orders {
        Orders { mailbox, reports: Arc::default(), verify: Mutex::new(0), resync: AtomicU64::new(0) }
    }

    /// Take an order; the number under which the status tells of it.
    ///
    /// # Errors
    /// Why it is not taken, for a person; nothing is changed then.
    pub fn take(&self, order: &Order, status: &Status) -> Result<u64, String> {
        if status.role != Role::Primary {
            return Err("this node is the secondary; ask the primary, which compares and sends".to_owned());
        }
        match order {
            Order::Verify { repair, bytes_per_second } => self.verify(*repair, *bytes_per_second, status),
            Order::StopVerify => {
                self.mailbox.post_urgent(Message::StopVerify);
                Ok(*self.verify.lock().unwrap_or_else(PoisonError::into_inner))
            }
            Order::Resync { what } => {
                let number = self.resync.fetch_add(1, Ordering::Relaxed) + 1;
                self.mailbox.post_urgent(Message::Resync { number, what: what.clone() });
                Ok(number)
            }
        }
    }

    fn verify(&self, repair: bool, bytes_per_second: Option<u64>, status: &Status) -> Result<u64, String> {
        if status.phase != "Mirrored" {
            return Err(format!(
                "the nodes are not mirrored (phase {}): a verification compares two copies that should be the same",
                status.phase
            ));
        }
        if status.peer.version < VERSION_VERIFIES {
            return Err(format!(
                "the peer speaks protocol {}, which has no verification; it needs {VERSION_VERIFIES}: update {}",
                status.peer.version, status.peer.name
            ));
        }
        let mut last = self.verify.lock().unwrap_or_else(PoisonError::into_inner);
        // Also one that was taken and does not show yet.
        let shows = status.verify.number == *last;
        if !shows || matches!(status.verify.state.as_str(), "running" | "healing") {
            return Err(format!("verification {last} is under way; \"replicator verify --stop\" ends it"));
        }
        *last += 1;
        self.reports.begin(*last);
        let request = VerifyRequest { number: *last, repair, bytes_per_second };
        self.mailbox.post_urgent(Message::Verify(request));
        Ok(*last)
    }
}
