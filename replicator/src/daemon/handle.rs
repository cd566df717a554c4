//! How the control socket and signals reach a running node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use replicator_core::ids::Term;

use super::mailbox::Mailbox;
use super::message::Message;
use super::orders::Orders;
use super::publish::Published;
use crate::config::Role;
use crate::control::{self, NodeView};
use crate::status::Status;
use crate::verification::VerifyReport;

/// How the control socket and signals reach the node.
#[derive(Clone)]
pub struct Stop {
    pub mailbox: Arc<Mailbox<Message>>,
    pub requested: Arc<AtomicBool>,
    /// The next run is one in the other role.
    pub hands_over: Arc<AtomicBool>,
    pub waiter: thread::Thread,
    pub published: Published,
    pub orders: Arc<Orders>,
}

impl NodeView for Stop {
    fn order(&self, order: &control::Order) -> Result<u64, String> {
        self.orders.take(order, &self.status())
    }

    fn verify_report(&self) -> VerifyReport {
        self.orders.reports.report()
    }

    fn status(&self) -> Status {
        self.published.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn request_stop(&self) {
        self.requested.store(true, Ordering::Release);
        self.waiter.unpark();
    }

    fn hand_over(&self) {
        self.hands_over.store(true, Ordering::Release);
    }

    fn overwrite_peer(&self, reason: &str) -> Result<(), String> {
        let status = self.status();
        if status.role != Role::Primary {
            return Err("only a primary can replace its peer's data: this node is the secondary".to_owned());
        }
        if !status.reunion.refused {
            return Err(
                "there is nothing to decide: the nodes agree whose data both shall have, or have not met"
                    .to_owned(),
            );
        }
        self.mailbox.post(Message::Overrule { reason: reason.to_owned() });
        Ok(())
    }

    fn go_alone(&self, term: u64, absence: Option<u64>) -> Result<Receiver<Result<(), String>>, String> {
        if self.status().role != Role::Primary {
            return Err("only a primary goes on alone: this node is the secondary".to_owned());
        }
        let (answer, answered) = mpsc::sync_channel(1);
        self.mailbox.post_urgent(Message::GoAlone { term: Term(term), absence, answer });
        Ok(answered)
    }

    fn outdate(&self, term: u64) -> Result<Receiver<Result<(), String>>, String> {
        if self.status().role != Role::Secondary {
            return Err("only a secondary is outdated: this node is the primary".to_owned());
        }
        let (answer, answered) = mpsc::sync_channel(1);
        self.mailbox.post_urgent(Message::Outdate { term: Term(term), answer });
        Ok(answered)
    }

    fn discard_divergence(&self, id: &str) -> Result<(), String> {
        if self.status().role != Role::Secondary {
            return Err("only a secondary deletes what it kept aside: this node is the primary".to_owned());
        }
        self.mailbox.post(Message::Discard { id: id.to_owned() });
        Ok(())
    }
}
