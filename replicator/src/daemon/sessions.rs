//! Connections from nothing to established: the primary dials, the secondary accepts. Each handshake runs on a thread of its
//! own and arrives at the data plane as a message.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use replicator_core::ids::SessionId;
use tracing::{debug, info, warn};

use super::mailbox::Mailbox;
use super::message::Message;
use crate::link::handshake::{Acceptor, Established, HandshakeError, Host, Identity, Limits, Timeouts, dial};

/// Number of the first session a secondary accepts; a primary's core numbers those it dials.
const FIRST_ACCEPTED: SessionId = SessionId(1);

/// Makes and numbers sessions.
pub struct Sessions {
    identity: Identity,
    timeouts: Timeouts,
    peer: Option<SocketAddr>,
    mailbox: Arc<Mailbox<Message>>,
    /// Whether the last attempt failed: only the first failure of a row is worth a warning.
    failing: Arc<AtomicBool>,
    next_accepted: SessionId,
    /// Listens as long as it lives.
    _acceptor: Option<Acceptor>,
}

impl Sessions {
    /// Sessions of a node that dials `peer`.
    pub fn dialing(
        identity: Identity,
        timeouts: Timeouts,
        peer: SocketAddr,
        mailbox: Arc<Mailbox<Message>>,
    ) -> Sessions {
        Sessions {
            identity,
            timeouts,
            peer: Some(peer),
            mailbox,
            failing: Arc::default(),
            next_accepted: FIRST_ACCEPTED,
            _acceptor: None,
        }
    }

    /// Sessions of a node that listens.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub fn listening(
        identity: Identity,
        timeouts: Timeouts,
        listen: SocketAddr,
        mailbox: Arc<Mailbox<Message>>,
    ) -> Result<Sessions, HandshakeError> {
        let host = Arc::new(Reception { identity: identity.clone(), mailbox: Arc::clone(&mailbox) });
        let acceptor = Acceptor::start(listen, host, timeouts, Limits::default())?;
        info!(address = %acceptor.address(), "listening");
        Ok(Sessions {
            identity,
            timeouts,
            peer: None,
            mailbox,
            failing: Arc::default(),
            next_accepted: FIRST_ACCEPTED,
            _acceptor: Some(acceptor),
        })
    }

    /// The number of a session that was accepted.
    pub fn number_accepted(&mut self) -> SessionId {
        let session = self.next_accepted;
        self.next_accepted = session.next();
        session
    }

    /// Connect to the peer; answers with `Connected` or `DialFailed`.
    pub fn dial(&self, session: SessionId) {
        let Some(peer) = self.peer else { return self.mailbox.post_urgent(Message::DialFailed { session }) };
        let (identity, timeouts) = (self.identity.clone(), self.timeouts);
        let (mailbox, failing) = (Arc::clone(&self.mailbox), Arc::clone(&self.failing));
        let started = thread::Builder::new().name("link-dial".to_owned()).spawn(move || {
            match dial(&peer.to_string(), None, &identity, &timeouts) {
                Ok(established) => {
                    failing.store(false, Ordering::Relaxed);
                    mailbox.post_urgent(Message::Connected { session, established: Box::new(established) });
                }
                Err(error) => {
                    if failing.swap(true, Ordering::Relaxed) {
                        debug!(%error, "the peer is still not reached");
                    } else {
                        warn!(%error, "the peer is not reached; trying again until it is");
                    }
                    mailbox.post_urgent(Message::DialFailed { session });
                }
            }
        });
        if let Err(error) = started {
            warn!(%error, "no thread to connect with");
            self.mailbox.post_urgent(Message::DialFailed { session });
        }
    }
}

/// Receives those who connect to this node.
struct Reception {
    identity: Identity,
    mailbox: Arc<Mailbox<Message>>,
}

impl Host for Reception {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn established(&self, established: Established) {
        self.mailbox.post_urgent(Message::Accepted { established: Box::new(established) });
    }

    fn failed(&self, peer: SocketAddr, error: HandshakeError) {
        warn!(%peer, %error, "a connection was refused");
        self.mailbox.post(Message::Stranger);
    }
}
