//! The data-plane thread of a node: owns the core, the ring and the connection, and carries out what the core orders.
//!
//! Everything that happens becomes an [`Event`] here, in the order in which this thread learns of it; everything the
//! core answers is carried out here or handed to a worker that answers by [`Message`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use replicator_core::action::{Action, Body, CloseReason, Notice};
use replicator_core::event::{Event, ReceivedBody};
use replicator_core::ids::{FileId, SessionId, Time, VolumeId};
use replicator_core::node::Node;
use replicator_core::succession::CopyOf;
use replicator_core::wire::header::{Header, Kind, VERSION};
use replicator_core::wire::hello::Hello;
use tracing::{debug, error, info, warn};

use super::ending::Ending;
use super::mailbox::Mailbox;
use super::message::{Known, Message};
use super::publish::Publisher;
use super::safe_set::SafeSet;
use super::scheduling::Priority;
use super::sessions::Sessions;
use super::settling::Settling;
use super::state::StateKeeper;
use super::told::Told;
use super::workers::Workers;
use crate::link::handshake::Established;
use crate::link::{Connection, LinkEvent, Payload};
use crate::storage::replica::Copies;
use crate::uring::{Completion, Pool, Ring, Shared, Token};
use crate::volume::Volume;

/// Top byte of the connection's tokens.
const LINK_TOKENS: u8 = 1;
/// Top byte of the role's tokens.
const ROLE_TOKENS: u8 = 2;

/// The role's token with this number.
pub fn role_token(number: u64) -> Token {
    Token(u64::from(ROLE_TOKENS) << 56 | number)
}

/// The number of a role's token; `None` if it is not one.
fn role_number(token: Token) -> Option<u64> {
    (token.0 >> 56 == u64::from(ROLE_TOKENS)).then_some(token.0 & ((1 << 56) - 1))
}

/// While something goes on, the kernel's event ring and the mailbox are looked at this often.
const POLL_BUSY: Duration = Duration::from_millis(1);
/// After [`IDLE_AFTER`] without anything, this often: bounds the delay of a message nobody waits for.
const POLL_IDLE: Duration = Duration::from_millis(15);
const IDLE_AFTER: Duration = Duration::from_millis(200);
/// How often the published status is renewed.
const PUBLISH_EVERY: Duration = Duration::from_millis(100);

/// What a role adds to the engine: the primary reads files, the secondary writes them.
pub trait Role {
    /// Look for what the kernel programs saw; returns whether there was anything. Called before messages are handled, so that
    /// every write that ended before a sync was asked is marked before it. `exact`: a sync was asked, so nothing that is lost
    /// may go unnoticed.
    fn poll(&mut self, core: &mut Core, exact: bool) -> bool;

    /// Handle a message.
    fn on_message(&mut self, core: &mut Core, message: Message);

    /// Handle the completion of an operation that was started with [`role_token`] of this number.
    fn on_completion(&mut self, core: &mut Core, number: u64, completion: Completion);

    /// Take what a received frame's payload means in that protocol version; the bytes stay with the role if it needs them.
    ///
    /// # Errors
    /// The payload makes no sense: the session is closed with this text.
    fn on_frame(
        &mut self,
        session: SessionId,
        version: u16,
        header: &Header,
        payload: Shared,
    ) -> Result<ReceivedBody, &'static str>;

    /// Carry out an order that is not the engine's own.
    fn perform(&mut self, core: &mut Core, action: Action);

    /// The payload of a frame the core wants sent; `None` if it is not there (the session then cannot go on).
    fn payload(&mut self, kind: Kind, body: Body) -> Option<Payload>;

    /// The session is gone. `applies`: what was received is still going to be applied, because the peer may rely on it.
    fn on_session_end(&mut self, session: SessionId, applies: bool);

    /// Add to the published status what only the role knows.
    fn publish(&mut self, publisher: &mut Publisher);

    /// Whether somebody waits for this node now.
    fn is_awaited(&self) -> bool;

    /// The node is told to stop: have the peer take what is left.
    fn stop(&mut self, core: &mut Core);

    /// Whether the session may be closed now.
    fn may_stop(&self) -> bool;

    /// The volumes, in the order of the configuration.
    fn volumes(&self) -> &[Arc<Volume>];

    /// Bring the files into the state in which the next run is to find them; whether that was possible. For a worker.
    fn tidy(&self) -> Box<dyn FnOnce() -> bool + Send>;

    /// Which files are copies of which, volume by volume. `None`: that is not known of all of them.
    fn copies(&self) -> Option<Vec<Copies>>;

    /// On a secondary: when it changed its copy last.
    fn last_applied(&self) -> Option<Instant>;

    /// On a secondary: the same of all files of all volumes, for the next primary. `None`: that is not known of all of them.
    fn inheritance(&self) -> Option<Vec<CopyOf>>;

    /// The node ends, and changes nothing any more. `rests`: nobody waits for that.
    fn end(&mut self, rests: bool);
}

/// The engine without its role: what both share.
pub struct Core {
    /// The state machine.
    pub(super) node: Node,
    /// The thread's ring.
    pub ring: Ring,
    /// Memory for reads.
    pub pool: Pool,
    /// How workers and other threads answer.
    pub mailbox: Arc<Mailbox<Message>>,
    /// Threads for what may block.
    pub workers: Workers,
    /// Threads for what nobody waits for.
    pub background: Workers,
    /// Events not yet given to the core.
    inbox: VecDeque<Event>,
    actions: Vec<Action>,
    began: Instant,
    session: Option<(SessionId, Connection)>,
    peer_roots: Vec<FileId>,
    sessions: Sessions,
    pub(super) state: StateKeeper,
    publisher: Publisher,
    /// What was kept by an earlier run is being looked at: nobody is connected to, or answered, until it is known whether it holds.
    pub(super) preparing: Option<Waiting>,
    pub(super) ending: Option<Ending>,
    /// What is to be on record before it is answered.
    pub(super) told: Vec<Told>,
    /// What the status tells is to be renewed at once.
    stale: bool,
    /// Which files may differ from the peer's after a crash.
    pub(super) settling: Settling,
}

/// What waits until the node is prepared.
#[derive(Default)]
pub(super) struct Waiting {
    dial: Option<SessionId>,
    accepted: Option<Box<Established>>,
    /// Others changed the copy.
    changed: bool,
}

impl Core {
    /// Give an event to the core after those already waiting.
    pub fn tell(&mut self, event: Event) {
        self.settling.note(&event);
        self.inbox.push_back(event);
    }

    /// Give a capture event to the core at once: it only marks.
    pub fn mark(&mut self, event: Event) {
        self.settling.note(&event);
        let now = self.now();
        self.node.handle(now, event, &mut self.actions);
    }

    /// Monotonic time since the engine began.
    pub fn now(&self) -> Time {
        Time(u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// The protocol version of the session; without one, that of this build.
    pub fn version(&self) -> u16 {
        self.session.as_ref().map_or(VERSION, |(_, connection)| connection.version())
    }

    /// The safe set.
    pub fn safe_set(&self) -> SafeSet {
        self.settling.set().clone()
    }

    /// The status being published.
    pub fn publisher(&mut self) -> &mut Publisher {
        &mut self.publisher
    }

    /// Close the session for a reason the core does not know of, and tell it.
    pub fn break_session(&mut self, why: &str) {
        if let Some((session, mut connection)) = self.session.take() {
            warn!(%session, why, "session closed");
            connection.close();
            self.tell(Event::SessionLost { session });
        }
    }

    /// The roots of the peer's volumes, as it named them in the handshake.
    pub fn peer_roots(&self) -> Vec<FileId> {
        self.peer_roots.clone()
    }

    /// Bytes queued on the connection and not yet taken by the kernel.
    pub fn queued_bytes(&self) -> u64 {
        self.session.as_ref().map_or(0, |(_, connection)| connection.queued_bytes())
    }
}

/// Everything [`Engine::new`] joins.
pub struct Parts {
    pub node: Node,
    pub ring: Ring,
    pub mailbox: Arc<Mailbox<Message>>,
    pub workers: Workers,
    pub background: Workers,
    pub sessions: Sessions,
    pub state: StateKeeper,
    pub publisher: Publisher,
    pub settling: Settling,
    /// [`Message::Prepared`] will come.
    pub prepares: bool,
    /// The moment that is time zero for `node`.
    pub began: Instant,
}

/// A node's data plane.
pub struct Engine<R: Role> {
    pub(super) core: Core,
    pub(super) role: R,
    priority: Priority,
}

impl<R: Role> Engine<R> {
    /// Join the parts.
    pub fn new(parts: Parts, role: R) -> Engine<R> {
        let Parts {
            node,
            ring,
            mailbox,
            workers,
            background,
            sessions,
            state,
            publisher,
            settling,
            prepares,
            began,
        } = parts;
        let core = Core {
            node,
            ring,
            pool: Pool::default(),
            mailbox,
            workers,
            background,
            inbox: VecDeque::new(),
            actions: Vec::new(),
            began,
            session: None,
            peer_roots: Vec::new(),
            sessions,
            state,
            publisher,
            preparing: prepares.then(Waiting::default),
            ending: None,
            told: Vec::new(),
            stale: true,
            settling,
        };
        Engine { core, role, priority: Priority::default() }
    }

    /// Run until an orderly stop is complete.
    ///
    /// # Errors
    /// The ring broke: nothing can be done any more.
    pub fn run(mut self) -> anyhow::Result<()> {
        let mut completions = Vec::new();
        let mut messages = Vec::new();
        let mut active = Instant::now();
        let mut published = Instant::now();
        loop {
            let idle = active.elapsed() > IDLE_AFTER;
            self.core.ring.wait(Some(self.pause(idle)), &mut completions)?;
            // Messages first, then the kernel's events, then the messages' handling: what was written before a sync
            // was asked is in the ring by the time the message is seen.
            self.core.mailbox.take(&mut messages);
            let exact = self.core.settling.is_exact() || messages.iter().any(Message::is_exact);
            let traced = self.role.poll(&mut self.core, exact);
            if traced || !messages.is_empty() || !completions.is_empty() {
                active = Instant::now();
            }
            for completion in completions.drain(..) {
                self.on_completion(completion);
            }
            self.settle();
            for message in messages.drain(..) {
                self.on_message(message);
                self.settle();
            }
            self.core.tell(Event::Tick);
            self.settle();
            self.settle_members();
            self.review_told();
            self.pump();
            self.priority.set(self.role.is_awaited());
            if self.core.stale || published.elapsed() > PUBLISH_EVERY {
                published = Instant::now();
                self.publish();
            }
            if self.has_ended() {
                return Ok(());
            }
        }
    }

    /// How long to sleep if nothing happens.
    fn pause(&self, idle: bool) -> Duration {
        let poll = if idle { POLL_IDLE } else { POLL_BUSY };
        match self.core.node.next_deadline() {
            Some(deadline) => deadline.since(self.core.now()).min(poll),
            None => poll,
        }
    }

    fn on_completion(&mut self, completion: Completion) {
        if let Some(number) = role_number(completion.token) {
            return self.role.on_completion(&mut self.core, number, completion);
        }
        let Some((session, connection)) = &mut self.core.session else { return };
        if !connection.owns(completion.token) {
            return;
        }
        let session = *session;
        let mut link = Vec::new();
        connection.on_completion(&mut self.core.ring, completion, &mut link);
        for event in link {
            match event {
                LinkEvent::Frame { header, payload } => self.on_frame(session, header, payload),
                LinkEvent::Sent { upto } => self.core.tell(Event::FramesSent { session, upto }),
                LinkEvent::Closed { reason } => {
                    if self.core.session.as_ref().is_some_and(|(current, _)| *current == session) {
                        self.core.publisher.on_link_error(&reason);
                        self.core.break_session(&reason.to_string());
                        self.role.on_session_end(session, true);
                    }
                }
            }
        }
    }

    fn on_frame(&mut self, session: SessionId, header: Header, payload: Shared) {
        let version = match &self.core.session {
            Some((current, connection)) if *current == session => connection.version(),
            _ => return,
        };
        match self.role.on_frame(session, version, &header, payload) {
            Ok(body) => self.core.tell(Event::FrameReceived { session, header, body }),
            Err(why) => {
                self.core.publisher.on_refused();
                self.core.break_session(why);
                self.role.on_session_end(session, true);
            }
        }
    }

    pub(super) fn on_message(&mut self, message: Message) {
        match message {
            Message::Connected { session, established } => self.on_connected(session, *established),
            Message::Accepted { established } => match &mut self.core.preparing {
                Some(waiting) => waiting.accepted = Some(established),
                None => {
                    let session = self.core.sessions.number_accepted();
                    self.on_connected(session, *established);
                }
            },
            Message::DialFailed { session } => self.core.tell(Event::SessionLost { session }),
            Message::Stranger => self.core.publisher.on_stranger(),
            Message::Gates(gates) => self.core.publisher.on_gates(gates),
            Message::LocalChanges(found) => {
                self.core.publisher.on_local_changes(&found);
                if let Some(waiting) = &mut self.core.preparing {
                    waiting.changed = true;
                }
                self.core.tell(Event::CopyChanged);
            }
            Message::NestedMounts(points) => self.core.publisher.on_nested_mounts(&points),
            Message::Answer(event) => self.core.tell(event),
            Message::Overrule { reason } => self.on_overrule(&reason),
            Message::GoAlone { term, absence, answer } => self.on_go_alone(term, absence, answer),
            Message::Outdate { term, answer } => self.on_outdate(term, answer),
            Message::Prepared(known) => self.on_prepared(known),
            Message::Surveyed(found) => self.on_surveyed(found),
            Message::SafeSetBegun(_) | Message::SafeSetEstablished(_) | Message::Looked(_) => {
                self.on_safe_set(message);
            }
            Message::Stop { watch, next } => self.on_stop(watch, next),
            other => self.role.on_message(&mut self.core, other),
        }
    }

    /// An operator says that the peer's data is to be replaced: first that is on record, then it is done.
    fn on_overrule(&mut self, reason: &str) {
        let snapshot = self.core.node.snapshot();
        if !snapshot.refused {
            return warn!(reason, "there is nothing to overrule: the nodes agree whose data both shall have");
        }
        let line = super::meeting::decision(&snapshot, reason);
        self.core.state.note_decision(line, &self.core.workers, &self.core.mailbox);
    }

    /// It is known whether what an earlier run kept holds.
    fn on_prepared(&mut self, known: Option<Known>) {
        let Some(Waiting { dial, accepted, changed }) = self.core.preparing.take() else { return };
        match known {
            None => {
                // One of them is about this role.
                self.core.tell(Event::Untold { lasting: false });
                self.core.tell(Event::CopyChanged);
            }
            Some(Known::Legacy(legacy)) if !changed => self.core.node.leave(*legacy),
            Some(Known::Recovered(recovered)) if !changed => self.core.node.recover(recovered),
            Some(_) => {}
        }
        if let Some(session) = dial {
            self.core.sessions.dial(session);
        }
        if let Some(established) = accepted {
            self.on_message(Message::Accepted { established });
        }
    }

    fn on_connected(&mut self, session: SessionId, established: Established) {
        if let Some((before, _)) = &self.core.session {
            let before = *before;
            self.core.break_session("the peer connected again");
            self.role.on_session_end(before, true);
            self.settle();
        }
        let peer = String::from_utf8_lossy(&established.peer.node).into_owned();
        let encrypted = established.records.is_some();
        info!(%session, peer, version = established.version, encrypted, "session opened");
        if !established.authenticated {
            // Warned of at the start already.
            info!(peer, "the peer proved nothing: no link.cluster-key-file is set");
        }
        self.core.publisher.on_connected(&peer, &established);
        self.core.peer_roots = roots_of(&established.peer);
        let version = established.version;
        let Established { stream, records, .. } = established;
        match Connection::new(stream, records, version, LINK_TOKENS, &self.core.pool) {
            Ok(mut connection) => {
                connection.start(&mut self.core.ring);
                self.core.session = Some((session, connection));
                self.core.tell(Event::SessionOpened { session, version });
            }
            Err(error) => {
                warn!(%session, %error, "cannot use the connection");
                self.core.tell(Event::SessionLost { session });
            }
        }
    }

    /// Give the core all events and carry out all its orders until there are none.
    pub(super) fn settle(&mut self) {
        loop {
            for action in std::mem::take(&mut self.core.actions) {
                self.perform(action);
            }
            let Some(event) = self.core.inbox.pop_front() else {
                if self.core.actions.is_empty() {
                    return;
                }
                continue;
            };
            let now = self.core.now();
            self.core.node.handle(now, event, &mut self.core.actions);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::SendFrame { session, header, body } => self.send(session, &header, body),
            Action::CloseSession { session, reason } => self.close(session, reason),
            Action::Dial { session } => match &mut self.core.preparing {
                Some(waiting) => waiting.dial = Some(session),
                None => self.core.sessions.dial(session),
            },
            Action::PersistState { persist, record } => {
                self.core.state.persist(persist, record, &self.core.workers, &self.core.mailbox);
            }
            Action::Report(notice) => {
                self.core.on_begun(&notice);
                self.core.publisher.on_notice(&notice);
                // Whoever decides on roles waits for nothing else.
                self.core.stale |= matches!(notice, Notice::Phase { .. } | Notice::Deposed { .. });
            }
            other => self.role.perform(&mut self.core, other),
        }
    }

    fn send(&mut self, session: SessionId, header: &Header, body: Body) {
        let payload = self.role.payload(header.kind, body);
        let Some((current, connection)) = &mut self.core.session else { return };
        if *current != session {
            return;
        }
        match payload {
            Some(payload) => connection.queue(header, payload),
            None => {
                // The core never orders a frame twice or after it gave up its payload.
                error!(kind = ?header.kind, "a frame's payload is missing");
                self.core.break_session("a frame's payload is missing");
                self.role.on_session_end(session, true);
            }
        }
    }

    /// Close a session, or give up what is left of one that is gone already.
    fn close(&mut self, session: SessionId, reason: CloseReason) {
        if let Some((_, connection)) = self.core.session.as_mut().filter(|(current, _)| *current == session) {
            if matches!(reason, CloseReason::Stopping) {
                info!(%session, "session closed: stopping");
            } else if matches!(reason, CloseReason::NotTheSource) {
                // Reported when it was found; this is every attempt since.
                debug!(%session, "session closed: whose data both nodes shall have is for an operator to say");
            } else {
                warn!(%session, ?reason, "session closed");
            }
            // What was queued before (a Failed or Goodbye frame) should still reach the peer if the socket takes it.
            connection.pump(&mut self.core.ring);
            connection.close();
            self.core.session = None;
        }
        let applies = !matches!(reason, CloseReason::LocalFailure(_) | CloseReason::StaleTerm);
        self.role.on_session_end(session, applies);
    }

    fn pump(&mut self) {
        if let Some((_, connection)) = &mut self.core.session {
            connection.pump(&mut self.core.ring);
        }
    }

    fn publish(&mut self) {
        self.core.stale = false;
        let snapshot = self.core.node.snapshot();
        let listed = self.role.volumes().iter().map(|volume| volume.listed_bytes()).sum();
        self.core.publisher.renew(
            &snapshot,
            self.core.session.as_ref().map(|(_, connection)| connection.statistics()),
            listed,
        );
        let safe_set = self.core.settling.set().size();
        self.core.publisher.on_safe_set(safe_set);
        self.role.publish(&mut self.core.publisher);
        self.core.publisher.publish();
    }
}

/// The roots of a peer's volumes. The handshake has checked that both nodes have as many.
fn roots_of(peer: &Hello) -> Vec<FileId> {
    (0..)
        .zip(&peer.volumes)
        .map(|(number, root)| FileId { volume: VolumeId(number), inode: root.inode })
        .collect()
}
