//! The connection between the two: what is on its way, and how it ends.

use super::*;

impl World {
    pub(super) fn dial(&mut self, session: SessionId) {
        if self.secondary_off || (self.faults && self.random.chance(30)) {
            self.doing.push(Doing::Done(Event::SessionLost { session }));
            return;
        }
        self.next_session += 1;
        let secondary = SessionId(self.next_session);
        self.former_link = self.link.take();
        self.link = Some(Link {
            primary: session,
            secondary,
            to_secondary: VecDeque::new(),
            to_primary: VecDeque::new(),
            primary_up: true,
            secondary_up: true,
            broken: false,
        });
        self.stats.sessions += 1;
        self.secondary_failed = false;
        if let Some(controller) = &mut self.controller {
            controller.confirmed = Sequence(0);
        }
        if self.sabotage == Sabotage::OldFrames
            && let (Some(former), Some(link)) = (&mut self.former_link, &mut self.link)
        {
            link.to_secondary.append(&mut former.to_secondary);
        }
        // Nodes that take turns say what their data is, which an older version cannot.
        let old = self.random.chance(5) && !self.stale && self.controller.is_none();
        let version = if old { VERSION_MIN } else { VERSION };
        self.tell_secondary(Event::SessionOpened { session: secondary, version });
        self.tell_primary(Event::SessionOpened { session, version });
    }

    pub(super) fn break_link(&mut self) {
        if let Some(link) = &mut self.link {
            link.broken = true;
            let keep = self.random.below(link.to_secondary.len() + 1);
            link.to_secondary.truncate(keep);
            let keep = self.random.below(link.to_primary.len() + 1);
            link.to_primary.truncate(keep);
        }
    }

    pub(super) fn body_of(header: &Header, payload: &Payload) -> ReceivedBody {
        match payload {
            Payload::Names(operation) if header.kind == Kind::Namespace => {
                ReceivedBody::Namespace(operation.change())
            }
            Payload::Structured(body) => ReceivedBody::Structured(body.clone()),
            _ => ReceivedBody::Opaque,
        }
    }

    /// What was on its way in the connection before arrives though there is a new one: it is told under its own number, and of no
    /// use to anybody.
    fn deliver_late(&mut self, to_secondary: bool) {
        let Some(former) = self.former_link.as_mut() else { return };
        let (queue, session) = match to_secondary {
            true => (&mut former.to_secondary, former.secondary),
            false => (&mut former.to_primary, former.primary),
        };
        let Some((header, payload)) = queue.pop_front() else { return };
        let event = Event::FrameReceived { session, header, body: Self::body_of(&header, &payload) };
        if to_secondary { self.tell_secondary(event) } else { self.tell_primary(event) }
    }

    pub(super) fn deliver_to_secondary(&mut self) {
        if self.random.chance(5) {
            self.deliver_late(true);
        }
        for _ in 0..1 + self.random.below(4) {
            let Some(link) = self.link.as_mut().filter(|link| link.secondary_up) else { return };
            let session = link.secondary;
            if let Some((header, payload)) = link.to_secondary.pop_front() {
                let body = Self::body_of(&header, &payload);
                if header.sequence.0 > 0 {
                    self.payloads.insert((session, header.sequence), (header, payload));
                }
                self.tell_secondary(Event::FrameReceived { session, header, body });
            } else if link.broken {
                link.secondary_up = false;
                self.tell_secondary(Event::SessionLost { session });
            }
        }
    }

    pub(super) fn deliver_to_primary(&mut self) {
        if self.random.chance(5) {
            self.deliver_late(false);
        }
        for _ in 0..1 + self.random.below(3) {
            let Some(link) = self.link.as_mut().filter(|link| link.primary_up) else { return };
            let session = link.primary;
            if let Some((header, payload)) = link.to_primary.pop_front() {
                let body = Self::body_of(&header, &payload);
                self.tell_primary(Event::FrameReceived { session, header, body });
            } else if link.broken {
                link.primary_up = false;
                self.tell_primary(Event::SessionLost { session });
            }
        }
    }
}
