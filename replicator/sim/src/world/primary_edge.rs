//! The primary's edge: does what the machine orders, in any order, and tells it.

use super::*;

impl World {
    pub(super) fn tell_primary(&mut self, event: Event) {
        let alone = self.primary.snapshot().positions.queued == Sequence(0);
        if self.sabotage == Sabotage::LostNames && alone && matches!(event, Event::NamespaceLogged { .. }) {
            return;
        }
        if self.sabotage == Sabotage::UntoldLosses && matches!(event, Event::CaptureLost { .. }) {
            return;
        }
        self.note_event(&event);
        let mut actions = Vec::new();
        self.trace("primary", &event);
        self.primary.handle(self.now, event, &mut actions);
        actions.iter().for_each(|action| self.trace("primary", action));
        for action in actions {
            self.order_primary(action);
        }
    }

    pub(super) fn order_primary(&mut self, action: Action) {
        match action {
            Action::SyncLocal { sync, scope } => self.doing.push(Doing::Sync { sync, scope }),
            Action::ReadExtent { read, file, extent } => {
                assert!(!extent.is_empty() && extent.length() <= 6);
                self.doing.push(Doing::Extent { read, file, extent });
            }
            Action::ReadAttributes { read, file } => self.doing.push(Doing::Attributes { read, file }),
            Action::ReadDigests { read, file, extent } => {
                assert!(!extent.is_empty() && extent.length() <= 12);
                self.doing.push(Doing::Digests { read, file, extent });
            }
            Action::ReadDirectory { read, directory } => {
                self.listed_again |= self.primary.is_mirrored();
                self.doing.push(Doing::Directory { read, directory })
            }
            Action::ReadVerify { read, file, part, fine } => {
                self.doing.push(Doing::Verify { read, file, part, fine });
            }
            Action::AwaitCapture { read, .. } => self.doing.push(Doing::AwaitCapture { read }),
            Action::ReportDifference { file, difference } => self.found_different(file, difference),
            Action::DropRead { read } => {
                self.held_reads.remove(&read);
            }
            Action::DropEntry { entry } => {
                self.held_entries.remove(&entry);
            }
            Action::ReleaseBarrier { ticket, result } => self.released(ticket, result),
            Action::PersistState { persist, record } => self.doing.push(Doing::Persist { persist, record }),
            Action::Dial { session } => self.dial(session),
            Action::SendFrame { session, header, body } => {
                let succeeds = header.flags & FLAG_SUCCEEDS != 0;
                self.stats.succeeded += u64::from(header.kind == Kind::ResumeBegin && succeeds);
                self.stats.resumed += u64::from(header.kind == Kind::ResumeBegin && !succeeds);
                self.send_to_secondary(session, header, body);
            }
            Action::CloseSession { session, reason } => {
                // A secondary that was told of a later term is met before this primary is told of it.
                let stale = reason == CloseReason::StaleTerm;
                self.stats.deposed += u64::from(stale);
                let strange =
                    matches!(reason, CloseReason::Protocol(_)) || stale && self.controller.is_none();
                if self.sabotage == Sabotage::None && strange {
                    self.fail(format!("one-stream: the primary closes: {reason:?}"));
                }
                if let Some(link) = self.link.as_mut().filter(|link| link.primary == session) {
                    link.primary_up = false;
                    link.broken = true;
                }
            }
            Action::Report(Notice::Refused { .. }) => self.stats.refusals += 1,
            Action::Report(notice) => self.on_notice(&notice),
            Action::Apply { .. } | Action::MakeDurable { .. } | Action::KeepAside { .. } => {
                self.fail(format!("a primary ordered {action:?}"));
            }
        }
    }

    pub(super) fn send_to_secondary(&mut self, session: SessionId, header: Header, body: Body) {
        let payload = match body {
            Body::Empty => Payload::None,
            Body::ReadData { read, extent } => match self.held_reads.get(&read) {
                Some(Payload::Cells(cells)) => {
                    // What is held begins where the read began: kept beside the cells.
                    let from = (extent.start - cells[0]) as usize + 1;
                    Payload::Cells(cells[from..from + extent.length() as usize].to_vec())
                }
                other => return self.fail(format!("data of {read:?}, held {other:?}")),
            },
            Body::Read { read } => match self.held_reads.get(&read) {
                Some(payload) => payload.clone(),
                None => return self.fail(format!("{read:?} is not held")),
            },
            Body::Entry { entry } => match self.held_entries.remove(&entry) {
                Some(operation) => Payload::Names(operation),
                None => return self.fail(format!("{entry:?} is not held")),
            },
            Body::Structured(body) => Payload::Structured(body),
        };
        let early = self.sabotage == Sabotage::EarlyBarrierDone && header.kind == Kind::Barrier;
        if let Some(link) = self.link.as_mut().filter(|link| link.primary == session && !link.broken) {
            link.to_secondary.push_back((header, payload));
            if early {
                let mut done = Header::new(Kind::BarrierDone, header.term);
                done.offset = header.sequence.0;
                link.to_primary.push_back((done, Payload::None));
            }
        }
    }

    pub(super) fn do_something(&mut self) {
        if self.doing.is_empty() {
            return;
        }
        let at = self.random.below(self.doing.len());
        let durable = matches!(self.doing[at], Doing::Sync { .. } | Doing::Persist { .. });
        if durable && self.primary_patience.is_slow() {
            return;
        }
        let doing = self.doing.swap_remove(at);
        let done = match doing {
            Doing::Done(event) => return self.tell_primary(event),
            Doing::Sync { sync, scope } => {
                let result = self.sync_local(scope);
                let hidden = self.sabotage == Sabotage::RetriedSync;
                let result = if hidden { Ok(()) } else { result };
                Event::LocalSynced { sync, result }
            }
            Doing::Extent { read, file, extent } => {
                Event::ExtentRead { read, outcome: self.read_extent(read, file, extent) }
            }
            Doing::Attributes { read, file } => {
                let outcome = match self.files.files.get(&inode_of(file)) {
                    None => ReadOutcome::Gone,
                    Some(_) if self.faults && self.random.chance(2) => ReadOutcome::Failed(EIO),
                    Some(found) => {
                        let size = found.cells.len() as u64;
                        self.held_reads.insert(read, Payload::Attributes(found.attributes, size));
                        ReadOutcome::Read(size)
                    }
                };
                Event::AttributesRead { read, outcome }
            }
            Doing::Digests { read, file, extent } => {
                let outcome = match self.files.files.get(&inode_of(file)) {
                    None => ReadOutcome::Gone,
                    Some(_) if self.faults && self.random.chance(2) => ReadOutcome::Failed(EIO),
                    Some(found) => {
                        let end = extent.end.min(found.cells.len() as u64).max(extent.start);
                        let cells = found.cells.get(extent.start as usize..end as usize).unwrap_or_default();
                        self.held_reads.insert(read, Payload::Digests(cells.to_vec()));
                        ReadOutcome::Read(Extent { start: extent.start, end })
                    }
                };
                Event::DigestsRead { read, outcome }
            }
            Doing::Directory { read, directory } => {
                // Under the namespace lock, as the list before it.
                let outcome = self.read_directory(directory);
                self.named.push_back(Event::DirectoryRead { read, outcome });
                return;
            }
            Doing::Verify { read, file, part, fine } => {
                let event = Event::VerifyRead { read, outcome: self.read_to_verify(read, file, part, fine) };
                if part == VerifyPart::Names {
                    // Taken under the namespace lock.
                    self.named.push_back(event);
                    return;
                }
                event
            }
            Doing::AwaitCapture { read } => {
                self.drain_capture();
                self.tell_primary(Event::CaptureAwaited { read });
                return;
            }
            Doing::Persist { persist, record } => {
                let fails = self.faults && self.random.chance(10);
                let reached = self.reached(fails);
                if self.faults && self.random.chance(3) {
                    // Killed between the rename and its sync.
                    self.primary_disk.record.replace(record, Reached::Renamed);
                    return self.kill_primary();
                }
                let lies = self.sabotage == Sabotage::LyingRecord && self.random.chance(20);
                self.primary_disk.record.replace(record, if lies { Reached::Aside } else { reached });
                Event::StatePersisted { persist, result: if fails { Err(EIO) } else { Ok(()) } }
            }
        };
        self.doing.push(Doing::Done(done));
    }

    /// How far a record came that could be made durable, or not.
    pub(super) fn reached(&mut self, fails: bool) -> Reached {
        match fails {
            false => Reached::Synced,
            true if self.random.chance(50) => Reached::Renamed,
            true => Reached::Aside,
        }
    }

    pub(super) fn sync_local(&mut self, scope: SyncScope) -> Result<(), Errno> {
        // A failed sync leaves the pages writable, or not.
        let fails = self.faults && self.random.chance(2);
        if !fails {
            let (covered, data_only): (Vec<u64>, bool) = match scope {
                SyncScope::Volume(volume) => {
                    let inodes = self.files.files.keys().copied();
                    (inodes.filter(|inode| volume_of(*inode) == volume).collect(), false)
                }
                SyncScope::File { file, data_only } => (vec![inode_of(file)], data_only),
            };
            self.files.synced(&covered, data_only);
        }
        if fails { Err(EIO) } else { Ok(()) }
    }

    pub(super) fn read_extent(
        &mut self,
        read: ReadId,
        file: FileId,
        extent: Extent,
    ) -> ReadOutcome<Vec<Segment>> {
        let Some(found) = self.files.files.get(&inode_of(file)) else { return ReadOutcome::Gone };
        if self.faults && self.random.chance(2) {
            return ReadOutcome::Failed(EIO);
        }
        let end = extent.end.min(found.cells.len() as u64);
        let mut held = vec![extent.start];
        let mut segments: Vec<Segment> = Vec::new();
        for at in extent.start..end {
            let cell = found.cells[at as usize];
            held.push(cell);
            let content = if cell == 0 { SegmentContent::Hole } else { SegmentContent::Data };
            match segments.last_mut() {
                Some(last) if last.content == content => last.extent.end = at + 1,
                _ => segments.push(Segment { extent: Extent::at(at, 1), content }),
            }
        }
        self.held_reads.insert(read, Payload::Cells(held));
        ReadOutcome::Read(segments)
    }

    pub(super) fn read_directory(&mut self, directory: FileId) -> ReadOutcome<()> {
        let Some(found) = self.files.files.get(&inode_of(directory)) else { return ReadOutcome::Gone };
        if found.kind != FileKind::Directory || found.links == 0 {
            return ReadOutcome::Gone;
        }
        if self.faults && self.random.chance(3) {
            return ReadOutcome::Failed(EIO);
        }
        let entries = found.entries.clone();
        self.relist(inode_of(directory));
        for inode in entries.values() {
            // A number that belongs to another file than before, though no operation of the gate said so.
            if let Some(before) = self.learn(*inode)
                && before != self.files.files[inode].uid
            {
                self.traced.push_back(Event::CaptureLost { file: id(*inode) });
            }
        }
        let mut entries: Vec<ListedEntry> = entries
            .iter()
            .map(|(name, inode)| ListedEntry { name: name.clone().into_bytes(), node: self.new_node(*inode) })
            .collect();
        let mut first = true;
        loop {
            let count = (1 + self.random.below(3)).min(entries.len());
            let part: Vec<ListedEntry> = entries.drain(..count).collect();
            let last = entries.is_empty();
            self.log(Operation::List { directory, first, last, entries: part });
            first = false;
            if last {
                return ReadOutcome::Read(());
            }
        }
    }

    pub(super) fn tick_primary(&mut self) {
        self.overrule();
        self.tell_primary(Event::Tick);
    }

    pub(super) fn frames_sent(&mut self) {
        if let Some(session) = self.link.as_ref().filter(|link| link.primary_up).map(|link| link.primary) {
            let upto = self.primary.snapshot().positions.queued;
            self.tell_primary(Event::FramesSent { session, upto });
        }
    }
}
