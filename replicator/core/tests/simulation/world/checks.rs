//! What must hold, checked by means that know nothing of how it is brought about.

use super::*;

impl World {
    /// positions ordered; names-in-order; nothing-forgotten.
    pub(super) fn check_always(&mut self) {
        // A directory that is listed again is brought up to date by the list, and until then it may be behind.
        if !self.bypassed
            && !self.shape.losses
            && let Some(deviation) = self.replica.deviation.take()
        {
            self.fail(format!("names-in-order: {deviation}"));
        }
        let snapshot = self.primary.snapshot();
        let p = snapshot.positions;
        if !(p.queued >= p.sent && p.sent >= p.received && p.received >= p.applied && p.applied >= p.synced) {
            self.fail(format!("positions: {p:?}"));
        }
        if self.random.chance(10)
            && snapshot.phase == Phase::Mirrored
            && self.traced.is_empty()
            && self.named.is_empty()
        {
            self.stats.mirrored += 1;
            self.check_nothing_forgotten();
        }
    }

    /// nothing-thrown-away: a primary that does not know what the secondary has replaces it by an operator's
    /// word alone, and then what the secondary has is kept aside.
    pub(super) fn check_begin(&mut self, session: SessionId, sequence: Sequence) {
        let Some((header, _)) = self.payloads.get(&(session, sequence)) else { return };
        let present = self.link.as_ref().is_some_and(|link| link.secondary == session && link.primary_up);
        if !matches!(header.kind, Kind::ResyncBegin | Kind::ResumeBegin) || !self.stale || !present {
            return;
        }
        let kept = self.secondary_disk.keeping;
        if kept.is_none() || kept != self.keeping {
            let found = self.primary.snapshot().reunion;
            return self
                .fail(format!("nothing-thrown-away: {found:?}, keeping {:?}, {kept:?}", self.keeping));
        }
        self.stats.overruled += 1;
        self.stale = false;
    }

    /// Where the durable copy differs, there is a mark. Only files are looked at whose names the copy knows, and which are the
    /// ones the edge knows by their numbers: others are found by the listing of a marked directory.
    pub(super) fn check_nothing_forgotten(&mut self) {
        let link = self.link.as_ref();
        if link.is_none_or(|link| link.broken || !link.to_secondary.is_empty() || !link.to_primary.is_empty())
            || !self.serving.is_empty()
        {
            return;
        }
        for (inode, file) in &self.files.files {
            let Some(node) =
                self.replica.known.get(&id(*inode)).and_then(|node| self.replica.nodes.get(node))
            else {
                continue;
            };
            if file.kind == FileKind::Regular
                && file.links > 0
                && self.handles.get(inode) == Some(&file.uid)
                && file.cells != node.durable_cells
                && !self.primary.is_marked(id(*inode))
                && !self.is_silent(file)
            {
                let reason = format!(
                    "nothing-forgotten: inode {inode} has no mark; primary {:?}, durable {:?}",
                    file.cells, node.durable_cells
                );
                return self.fail(reason);
            }
        }
    }

    /// Stores through a mapping to a page that was told before are not told again.
    pub(super) fn is_silent(&self, file: &File) -> bool {
        !file.stored_pages.is_empty()
    }

    pub(super) fn released(&mut self, ticket: Ticket, result: Result<(), Errno>) {
        let Some(request) = self.tickets.remove(&ticket) else {
            return self.fail(format!("{ticket:?} was answered twice"));
        };
        if result.is_err() {
            self.stats.refused += 1;
            return;
        }
        for (inode, uid) in &request.uids {
            let file = self.files.files.get(inode).filter(|file| file.uid == *uid);
            if file.is_some_and(|file| file.kind == FileKind::Regular) {
                self.synced.insert(*uid, request.version);
            }
        }
        if self.primary_disk.alone {
            self.stats.acknowledged_alone += 1;
            return;
        }
        let replica = match self.mode {
            Mode::Sync => self.replica.clone(),
            // What it had received in the present connection is gone, though its word that it had may arrive only now: that is the
            // price of not waiting for its disk.
            Mode::SemiSync if self.secondary_failed => return,
            Mode::SemiSync => self.replica_as_received(),
            Mode::Async => return,
        };
        self.stats.acknowledged_by_both += 1;
        let checked = self.check_acknowledged(&request, &replica);
        if let Err(reason) = checked.and_then(|()| self.check_children(&request, &replica)) {
            self.fail(format!("acknowledged-is-durable: {ticket:?} {request:?}: {reason}"));
        }
        for (inode, uid) in &request.uids {
            // In semi-sync mode a crash of both nodes loses what was received only.
            if self.mode == Mode::Sync
                && self.files.files.get(inode).is_some_and(|file| file.uid == *uid && file.links > 0)
            {
                self.acknowledged.insert(*uid, request.version);
            }
        }
    }

    /// The copy as it will be when all that was received is applied.
    pub(super) fn replica_as_received(&self) -> Replica {
        let mut replica = self.replica.clone();
        for (header, payload) in self.payloads.values().filter(|(header, _)| header.kind != Kind::Barrier) {
            let _ = replica.apply(header, payload);
        }
        replica.make_durable(&DurableScope::Everything);
        replica
    }

    pub(super) fn check_acknowledged(&self, request: &Request, replica: &Replica) -> Result<(), String> {
        for (inode, uid) in &request.uids {
            let Some(file) = self.files.files.get(inode).filter(|file| file.uid == *uid) else { continue };
            let mode_matters = !matches!(request.scope, SyncScope::File { data_only: true, .. });
            if file.links == 0 || file.kind != FileKind::Regular || self.files.names != request.names {
                // It was renamed or removed meanwhile: where the durable copy has it is not for certain.
                continue;
            }
            let path = match &request.path {
                Some(path) => path.clone(),
                None => self.files.path(*inode).unwrap_or_default(),
            };
            let node = replica
                .durable_at(volume_of(*inode), &path)
                .ok_or_else(|| format!("{path:?} is not there"))?;
            let node = &replica.nodes[&node];
            file.is_as_new(request.version, &node.durable_cells)
                .map_err(|reason| format!("{path:?}: {reason}"))?;
            if mode_matters && !file.has_mode_since(request.version, node.durable_mode) {
                return Err(format!("{path:?}: mode {}, now {:?}", node.durable_mode, file.attributes));
            }
        }
        Ok(())
    }

    /// A directory was synced: files in it that were synced before are under their names with their content.
    pub(super) fn check_children(&self, request: &Request, replica: &Replica) -> Result<(), String> {
        let Some(path) = request.path.as_ref().filter(|_| self.files.names == request.names) else {
            return Ok(());
        };
        for (name, inode, uid, version) in &request.children {
            let Some(file) = self.files.files.get(inode).filter(|file| file.uid == *uid) else { continue };
            let mut path = path.clone();
            path.push(name.clone());
            let node = replica
                .durable_at(volume_of(*inode), &path)
                .ok_or_else(|| format!("{path:?} is not there"))?;
            file.is_as_new(*version, &replica.nodes[&node].durable_cells)
                .map_err(|reason| format!("{path:?}: {reason}"))?;
        }
        Ok(())
    }

    /// All that was acknowledged by both is in the copy, which takes itself for whole. `known`: which file is which node.
    ///
    /// A file that lost its place behind the gate's back, or while its directory was listed again, may have been taken away
    /// by one list and made anew for another: whether the edge keeps it until then is not the machines' business.
    pub(super) fn check_copy(&self, what: &str, known: &BTreeMap<FileId, u64>) -> Result<(), String> {
        for (inode, file) in &self.files.files {
            let Some(version) = self.acknowledged.get(&file.uid) else { continue };
            let Some(path) = self.files.path(*inode) else { continue };
            if file.kind != FileKind::Regular {
                continue;
            }
            // Names may have changed since; only what is found under its present name is looked at.
            let Some(node) = self.replica.durable_at(volume_of(*inode), &path) else { continue };
            let is_meant = known.get(&id(*inode)) == Some(&node);
            let node = &self.replica.nodes[&node];
            if is_meant && !node.late {
                file.is_as_new(*version, &node.durable_cells)
                    .map_err(|reason| format!("{what}: {path:?}: {reason}"))?;
            }
        }
        Ok(())
    }

    pub(super) fn check_up_to_date(&mut self) {
        if let Err(reason) = self.check_copy("up to date", &self.replica.known) {
            self.fail(reason);
        }
    }

    /// `known`: as it was before.
    pub(super) fn check_after_crash(&mut self, known: &BTreeMap<FileId, u64>) {
        if self.secondary_disk.data != DataState::Inconsistent
            && let Err(reason) = self.check_copy("after a crash", known)
        {
            self.fail(reason);
        }
    }
}
