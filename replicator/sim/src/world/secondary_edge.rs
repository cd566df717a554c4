//! The secondary's edge: applies frames and makes them durable, in any order that is allowed, and tells.

use replicator_core::wire::body::decode_files;

use super::*;

impl World {
    pub(super) fn tell_secondary(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.trace("secondary", &event);
        self.secondary.handle(self.now, event, &mut actions);
        actions.iter().for_each(|action| self.trace("secondary", action));
        for action in actions {
            self.order_secondary(action);
        }
        self.review_register();
    }

    pub(super) fn order_secondary(&mut self, action: Action) {
        match action {
            Action::Apply { session, sequence, in_order } => {
                self.check_begin(session, sequence);
                self.orders += 1;
                self.serving.push(Serving::Apply { session, sequence, in_order, order: self.orders });
            }
            Action::KeepAside { of } => self.keeping = of,
            Action::MakeDurable { session, barrier, scope } => {
                self.serving.push(Serving::MakeDurable { session, barrier, scope });
            }
            Action::PersistState { persist, record } => {
                self.serving.push(Serving::Persist { persist, record })
            }
            Action::SendFrame { session, header, body } => {
                let payload = match body {
                    Body::Structured(body) => Payload::Structured(body),
                    _ => Payload::None,
                };
                self.check_term(&header, &payload);
                if let (Kind::CreatedReply, Payload::Structured(body)) = (header.kind, &payload)
                    && let Ok(made) = decode_files(body)
                {
                    self.kill_before_it_is_told(&made);
                }
                let early = self.sabotage == Sabotage::EarlyBarrierDone && header.kind == Kind::BarrierDone;
                let done = early && self.replica.known.len() < usize::MAX;
                if let Some(link) =
                    self.link.as_mut().filter(|link| link.secondary == session && !link.broken)
                {
                    // Forged answers came before; only that of ResyncEnd is the secondary's own.
                    let known = self.payloads.get(&(session, Sequence(header.offset)));
                    let is_barrier = known.is_some_and(|(about, _)| about.kind == Kind::Barrier);
                    if !(done && is_barrier) {
                        link.to_primary.push_back((header, payload));
                    }
                }
            }
            Action::CloseSession { session, reason } => {
                let superseded =
                    matches!(reason, CloseReason::Protocol("the primary opened another session"));
                if matches!(reason, CloseReason::Protocol(_)) && !superseded {
                    self.fail(format!("one-stream: the secondary closes: {reason:?}"));
                }
                if matches!(reason, CloseReason::LocalFailure(_) | CloseReason::StaleTerm) {
                    self.secondary_failed = true;
                    // Nothing more of it is applied but what runs.
                    let runs = |sequence| {
                        let apply = |serving: &Serving| matches!(serving, Serving::Apply { session: of, sequence: at, .. } if (*of, *at) == (session, sequence));
                        self.serving.iter().any(apply)
                    };
                    self.payloads.retain(|(of, sequence), _| *of != session || runs(*sequence));
                }
                if let Some(link) = self.link.as_mut().filter(|link| link.secondary == session) {
                    link.secondary_up = false;
                    link.broken = true;
                }
            }
            Action::Report(_) => {}
            action => self.fail(format!("a secondary ordered {action:?}")),
        }
    }

    pub(super) fn serve_something(&mut self) {
        let unordered = self.sabotage == Sabotage::OutOfOrder;
        let may = |at: &usize| unordered || self.may_serve(&self.serving[*at]);
        let may: Vec<usize> = (0..self.serving.len()).filter(may).collect();
        let Some(at) = self.random.one(&may) else { return };
        let durable = matches!(self.serving[at], Serving::MakeDurable { .. } | Serving::Persist { .. });
        if durable && self.secondary_patience.is_slow() {
            return;
        }
        let serving = self.serving.swap_remove(at);
        let done = match serving {
            Serving::Done(event, _) => {
                self.tell_secondary(event);
                return;
            }
            Serving::Apply { session, sequence, in_order, order } => {
                let Some((header, payload)) = self.payloads.remove(&(session, sequence)) else {
                    return self.fail(format!("no payload of {session:?} {sequence}"));
                };
                let passed_over = self.failed.is_some_and(|(of, at)| of == session && order > at);
                let outcome = match passed_over {
                    true => Ok(AppliedOutcome::Done),
                    false => self.apply(session, &header, &payload),
                };
                if in_order && outcome.is_err() {
                    self.failed = Some((session, order));
                }
                let done = Event::Applied { session, sequence, outcome };
                self.serving.push(Serving::Done(done, (in_order || passed_over).then_some(order)));
                return;
            }
            Serving::MakeDurable { session, barrier, scope } => {
                if let DurableScope::Files(files) = &scope {
                    assert!(files.len() <= 64);
                }
                let fails = self.faults && self.random.chance(1) && self.random.chance(30);
                let result = self.make_durable(&scope, fails);
                Event::MadeDurable { session, barrier, result }
            }
            Serving::Persist { persist, mut record } => {
                if self.sabotage == Sabotage::UnrecordedTerm {
                    record.term = self.secondary_disk.record.get().term;
                }
                let fails = self.faults && self.random.chance(3);
                let reached = self.reached(fails);
                self.secondary_disk.record.replace(record, reached);
                if reached != Reached::Aside {
                    self.note_what_the_secondary_has();
                    if record.data == DataState::UpToDate {
                        self.check_up_to_date();
                    }
                    self.check_stale(&self.replica.known.clone());
                }
                Event::StatePersisted { persist, result: if fails { Err(EIO) } else { Ok(()) } }
            }
        };
        self.serving.push(Serving::Done(done, None));
    }

    /// Nothing is applied before what is done in order and was ordered before it has been; that is told in order, too.
    fn may_serve(&self, serving: &Serving) -> bool {
        let apply = |serving: &Serving| match *serving {
            Serving::Apply { in_order: true, order, .. } => Some(order),
            _ => None,
        };
        let done = |serving: &Serving| if let Serving::Done(_, order) = serving { *order } else { None };
        let applied_before = |order| self.serving.iter().filter_map(apply).all(|other| other >= order);
        match serving {
            Serving::Apply { order, .. } => applied_before(*order),
            Serving::Done(_, Some(order)) => {
                applied_before(*order) && self.serving.iter().filter_map(done).all(|other| other >= *order)
            }
            _ => true,
        }
    }

    fn make_durable(&mut self, scope: &DurableScope, fails: bool) -> Result<(), Errno> {
        let hidden = self.sabotage == Sabotage::HiddenFailure && self.random.chance(10);
        if self.sabotage != Sabotage::LyingDisk && !hidden {
            self.replica.make_durable(scope);
        }
        self.keep_register();
        if fails { Err(EIO) } else { Ok(()) }
    }

    fn apply(
        &mut self,
        session: SessionId,
        header: &Header,
        payload: &Payload,
    ) -> Result<AppliedOutcome, Errno> {
        let is_left = self.link.as_ref().is_none_or(|link| link.secondary != session || !link.secondary_up);
        if is_left && self.sabotage == Sabotage::DropsWhatIsLeft {
            return Ok(AppliedOutcome::Done);
        }
        if header.kind == Kind::Verify {
            // What cannot be read is an answer.
            return self.replica.apply(header, payload);
        }
        // Where nobody is connected to be told of it, a failure hurts most.
        let hurts = self.shape.aimed && is_left && self.random.chance(2);
        let fails = self.faults && (hurts || self.random.chance(1) && self.random.chance(20));
        if fails && self.random.chance(50) {
            // Gone, though the machine is told of it only later.
            self.secondary_failed = true;
            return Err(EIO);
        }
        let anew = header.kind == Kind::ResyncBegin
            || header.kind == Kind::ResumeBegin && header.flags & FLAG_SUCCEEDS != 0;
        if anew {
            self.forget_register();
        }
        let outcome = self.replica.apply(header, payload);
        let disowned = header.kind == Kind::Copies && outcome.is_err();
        self.stats.disowned += u64::from(disowned);
        self.stats.not_applicable += u64::from(outcome.is_err() && !disowned);
        if self.sabotage == Sabotage::LostCompare && matches!(outcome, Ok(AppliedOutcome::Differs(_))) {
            return Ok(AppliedOutcome::Differs(Vec::new()));
        }
        if fails { Err(EIO) } else { outcome }
    }

    pub(super) fn tick_secondary(&mut self) {
        self.tell_secondary(Event::Tick);
    }
}
