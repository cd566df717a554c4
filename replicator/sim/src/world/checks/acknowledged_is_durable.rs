//! acknowledged-is-durable: what a caller was told is on both disks, or on this one with the word "alone" on it, too.

use super::*;

impl World {
    pub(in crate::world) fn check_acknowledged(
        &self,
        request: &Request,
        replica: &Replica,
    ) -> Result<(), String> {
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

    /// On this node's own disk, whoever else has it.
    pub(in crate::world) fn check_here(&self, request: &Request) -> Result<(), String> {
        let data_only = matches!(request.scope, SyncScope::File { data_only: true, .. });
        for (inode, uid) in &request.uids {
            let Some(file) = self.files.files.get(inode).filter(|file| file.uid == *uid) else { continue };
            if file.kind == FileKind::Regular && !file.is_on_disk(request.version, data_only) {
                return Err(format!("inode {inode} is not on this node's own disk"));
            }
        }
        Ok(())
    }

    /// A directory was synced: files in it that were synced before are under their names with their content.
    pub(in crate::world) fn check_children(
        &self,
        request: &Request,
        replica: &Replica,
    ) -> Result<(), String> {
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

    /// The copy as it will be when all that was received is applied.
    pub(in crate::world) fn replica_as_received(&self) -> Replica {
        let mut replica = self.replica.clone();
        for (header, payload) in self.payloads.values().filter(|(header, _)| header.kind != Kind::Barrier) {
            let _ = replica.apply(header, payload);
        }
        replica.make_durable(&DurableScope::Everything);
        replica
    }

    /// The copy takes itself for whole: it holds all that was acknowledged by both.
    pub(in crate::world) fn check_up_to_date(&mut self) {
        if let Err(reason) = self.check_copy("up to date", &self.replica.known, &self.acknowledged) {
            self.fail(format!("acknowledged-is-durable: {reason}"));
        }
    }

    /// `known`: as it was before.
    pub(in crate::world) fn check_after_crash(&mut self, known: &BTreeMap<FileId, u64>) {
        if self.secondary_disk.record.get().data != DataState::Inconsistent
            && let Err(reason) = self.check_copy("after a crash", known, &self.acknowledged)
        {
            self.fail(format!("acknowledged-is-durable: {reason}"));
        }
        self.check_stale(known);
    }

    /// All that was acknowledged is in the copy. `known`: which file is which node.
    ///
    /// A file that lost its place behind the gate's back, or while its directory was listed again, may have been taken away
    /// by one list and made anew for another: whether the edge keeps it until then is not the machines' business.
    pub(in crate::world) fn check_copy(
        &self,
        what: &str,
        known: &BTreeMap<FileId, u64>,
        acknowledged: &BTreeMap<u64, u64>,
    ) -> Result<(), String> {
        for (inode, file) in &self.files.files {
            let Some(version) = acknowledged.get(&file.uid) else { continue };
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
}
