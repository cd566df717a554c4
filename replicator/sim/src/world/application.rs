//! What the application does to its files, at random.

use super::*;

impl World {
    pub(super) fn application(&mut self) {
        if self.running && self.random.chance(15) {
            self.hardship();
        }
        if self.running && self.shape.wanderer && self.random.chance(15) {
            self.wandering = 8;
        }
        let regular = self.files.of_kind(FileKind::Regular);
        match self.random.below(20) {
            0..=4 => self.write_something(&regular),
            5 => self.store_something(&regular),
            6 => self.truncate_something(&regular),
            7 => {
                if let Some(inode) = self.random.one(&self.files.files.keys().copied().collect::<Vec<_>>()) {
                    if !self.intend(&[inode], false) {
                        return;
                    }
                    self.files.chmod(inode);
                    self.traced.push_back(Event::AttributesChanged { file: id(inode) });
                }
            }
            8..=10 => self.create_something(),
            11 => self.link_something(&regular),
            12 => self.unlink_something(),
            13 => self.rename_something(),
            14 if self.bypassed => self.change_behind_the_gate(),
            14 => self.rename_something(),
            15 => {
                let open: Vec<u64> =
                    self.files.files.iter().filter(|(_, file)| file.open).map(|(inode, _)| *inode).collect();
                if let Some(inode) = self.random.one(&open) {
                    self.files.files.get_mut(&inode).unwrap().open = false;
                    self.reap(inode);
                }
            }
            16 if self.random.chance(20) => {
                if let Some(inode) = self.random.one(&regular) {
                    self.traced.push_back(Event::CaptureLost { file: id(inode) });
                }
            }
            _ if self.running => self.request_sync(),
            _ => {}
        }
    }

    pub(super) fn write_something(&mut self, regular: &[u64]) {
        let Some(inode) = self.random.one(regular) else { return };
        let (at, length) = (self.random.below(24), 1 + self.random.below(6));
        if !self.intend(&[inode], false) {
            return;
        }
        self.files.write(inode, at, length);
        let extent = Extent::at(at as u64, length as u64);
        if self.sabotage == Sabotage::LostWrites && self.random.chance(20) {
            return;
        }
        self.traced.push_back(Event::WriteTraced { file: id(inode), extent });
    }

    pub(super) fn store_something(&mut self, regular: &[u64]) {
        let Some(inode) = self.random.one(regular) else { return };
        let length = self.files.files[&inode].cells.len();
        if length == 0 || !self.intend(&[inode], false) {
            return;
        }
        let at = self.random.below(length);
        self.files.write(inode, at, 1);
        let page = at / PAGE;
        if self.files.files.get_mut(&inode).unwrap().stored_pages.insert(page) {
            let extent = Extent::at((page * PAGE) as u64, PAGE as u64);
            self.traced.push_back(Event::StoreMapped { file: id(inode), extent });
        }
    }

    pub(super) fn truncate_something(&mut self, regular: &[u64]) {
        let Some(inode) = self.random.one(regular).filter(|inode| self.intend(&[*inode], false)) else {
            return;
        };
        if self.random.chance(30) {
            let (at, length) = (self.random.below(20), 1 + self.random.below(8));
            self.files.zero(inode, at, length);
            let extent = Extent::at(at as u64, length as u64);
            self.traced.push_back(Event::WriteTraced { file: id(inode), extent });
            return;
        }
        let length = self.random.below(28);
        let from = self.files.resize(inode, length);
        let extent = Extent { start: from as u64, end: Extent::END };
        self.traced.push_back(Event::WriteTraced { file: id(inode), extent });
    }

    pub(super) fn new_node(&self, inode: u64) -> NewNode {
        let file = &self.files.files[&inode];
        NewNode { file: id(inode), kind: file.kind, mode: 0o600, uid: 0, gid: 0, rdev: 0, target: Vec::new() }
    }

    /// What the edge knows of a file's handle.
    pub(super) fn learn(&mut self, inode: u64) -> Option<u64> {
        self.handles.insert(inode, self.files.files[&inode].uid)
    }

    pub(super) fn log(&mut self, operation: Operation) {
        if let Operation::Create { node, .. } | Operation::Link { node, .. } = &operation {
            self.learn(inode_of(node.file));
        }
        let entry = EntryId(self.next_entry);
        self.next_entry += 1;
        self.trace("gate", &operation);
        self.named.push_back(Event::NamespaceLogged { entry, change: operation.change() });
        self.held_entries.insert(entry, operation);
    }

    pub(super) fn some_name(&mut self) -> String {
        format!("n{}", self.random.below(self.shape.names))
    }

    pub(super) fn free_name(&mut self, parent: u64) -> Option<String> {
        let name = self.some_name();
        (!self.files.files[&parent].entries.contains_key(&name)).then_some(name)
    }

    pub(super) fn some_directory(&mut self) -> u64 {
        let directories = self.files.directories();
        self.random.one(&directories).unwrap()
    }

    pub(super) fn add_name(&mut self, parent: u64, name: &str, inode: u64) {
        self.files.files.get_mut(&parent).unwrap().entries.insert(name.to_owned(), inode);
        let file = self.files.files.get_mut(&inode).unwrap();
        file.links += 1;
        file.named = true;
        self.files.touch_names(parent);
    }

    pub(super) fn create_something(&mut self) {
        let parent = self.some_directory();
        let Some(name) = self.free_name(parent) else { return };
        let kind = if self.random.chance(30) { FileKind::Directory } else { FileKind::Regular };
        self.create(parent, &name, kind);
    }

    /// Make a file through the gate, under a name that is free.
    pub(super) fn create(&mut self, parent: u64, name: &str, kind: FileKind) {
        if !self.intend(&[parent], false) {
            return;
        }
        let inode = self.files.create(parent, kind);
        self.intend(&[inode], true);
        if kind == FileKind::Regular && self.random.chance(15) {
            // O_TMPFILE.
            self.files.files.get_mut(&inode).unwrap().open = true;
            return;
        }
        self.add_name(parent, name, inode);
        let node = self.new_node(inode);
        self.log(Operation::Create { parent: id(parent), name: name.into(), node });
    }

    pub(super) fn link_something(&mut self, regular: &[u64]) {
        let parent = self.some_directory();
        let (Some(name), Some(inode)) = (self.free_name(parent), self.random.one(regular)) else { return };
        if !self.may_link(parent, inode) || !self.intend(&[parent, inode], false) {
            return;
        }
        self.add_name(parent, &name, inode);
        let node = self.new_node(inode);
        self.log(Operation::Link { parent: id(parent), name: name.into_bytes(), node });
    }

    pub(super) fn may_link(&mut self, parent: u64, inode: u64) -> bool {
        let file = &self.files.files[&inode];
        if volume_of(parent) != volume_of(inode) || (file.links == 0 && file.named) {
            return false;
        }
        if file.links == 0 {
            // Until the next barrier the copy may have the name with only a part of what was synced before.
            self.acknowledged.remove(&file.uid);
            self.told.remove(&file.uid);
        }
        true
    }

    pub(super) fn some_entry(&mut self, parent: u64) -> Option<(String, u64)> {
        let entries: Vec<(String, u64)> =
            self.files.files[&parent].entries.iter().map(|(name, inode)| (name.clone(), *inode)).collect();
        (!entries.is_empty()).then(|| entries[self.random.below(entries.len())].clone())
    }

    /// Take a name away; `true`: it was the last one.
    pub(super) fn take_name(&mut self, parent: u64, name: &str) -> (u64, bool) {
        let inode = self.files.files.get_mut(&parent).unwrap().entries.remove(name).unwrap();
        self.files.touch_names(parent);
        let hold = self.random.chance(30);
        let file = self.files.files.get_mut(&inode).unwrap();
        file.links -= 1;
        let last = file.links == 0;
        file.open |= last && hold && file.kind == FileKind::Regular;
        if last {
            // A power cut may bring it back here, after the copy was told that it is gone and what has its number since.
            let uid = file.uid;
            self.acknowledged.remove(&uid);
            self.told.remove(&uid);
        }
        (inode, last)
    }

    pub(super) fn reap(&mut self, inode: u64) {
        if self.files.reap(inode) {
            self.named.push_back(Event::FileForgotten { file: id(inode) });
        }
    }

    pub(super) fn unlink_something(&mut self) {
        let parent = self.some_directory();
        let Some((name, inode)) = self.some_entry(parent) else { return };
        let directory = self.files.files[&inode].kind == FileKind::Directory;
        if directory && !self.files.files[&inode].entries.is_empty() {
            return;
        }
        self.unlink(parent, &name);
    }

    pub(super) fn unlink(&mut self, parent: u64, name: &str) {
        if !self.intend(&[parent], false) {
            return;
        }
        let (inode, last) = self.take_name(parent, name);
        let directory = self.files.files[&inode].kind == FileKind::Directory;
        self.log(Operation::Unlink {
            parent: id(parent),
            name: name.into(),
            file: id(inode),
            directory,
            last,
        });
        self.reap(inode);
    }

    pub(super) fn rename_something(&mut self) {
        let (old_parent, new_parent) = (self.some_directory(), self.some_directory());
        let Some((old_name, _)) = self.some_entry(old_parent) else { return };
        let new_name = self.some_name();
        self.rename(old_parent, &old_name, new_parent, &new_name, 40);
    }

    /// Rename through the gate, if that can be done; where both names are there, exchange them in so many percent.
    pub(super) fn rename(
        &mut self,
        old_parent: u64,
        old_name: &str,
        new_parent: u64,
        new_name: &str,
        percent: usize,
    ) {
        let inode = self.files.files[&old_parent].entries[old_name];
        let other = self.files.files[&new_parent].entries.get(new_name).copied();
        if other == Some(inode)
            || volume_of(old_parent) != volume_of(new_parent)
            || self.files.lies_in(new_parent, inode)
        {
            return;
        }
        let exchange = other.is_some() && self.random.chance(percent);
        let mut other_last = false;
        if let Some(other) = other {
            let kind = |inode: u64| self.files.files[&inode].kind;
            if exchange {
                if self.files.lies_in(old_parent, other) {
                    return;
                }
            } else if kind(other) != kind(inode) || !self.files.files[&other].entries.is_empty() {
                return;
            }
        }
        if !self.intend(&[old_parent, new_parent], false) {
            return;
        }
        if exchange {
            self.files.exchange_names(old_parent, old_name, new_parent, new_name);
        } else {
            if other.is_some() {
                other_last = self.take_name(new_parent, new_name).1;
            }
            self.files.move_name(old_parent, old_name, new_parent, new_name);
        }
        self.log(Operation::Rename {
            old_parent: id(old_parent),
            old_name: old_name.into(),
            new_parent: id(new_parent),
            new_name: new_name.into(),
            file: id(inode),
            other: other.map(id),
            other_last,
            exchange,
        });
        if let Some(other) = other {
            self.reap(other);
        }
    }

    pub(super) fn change_behind_the_gate(&mut self) {
        let (parent, other) = (self.some_directory(), self.some_directory());
        match self.random.below(3) {
            0 => {
                let Some(name) = self.free_name(parent) else { return };
                let kind = if self.random.chance(40) { FileKind::Directory } else { FileKind::Regular };
                let inode = self.files.create(parent, kind);
                self.trace("behind", &("create", parent, &name, inode, kind));
                self.add_name(parent, &name, inode);
            }
            1 => {
                let Some((name, inode)) = self.some_entry(parent) else { return };
                if !self.files.files[&inode].entries.is_empty() {
                    return;
                }
                let (inode, _) = self.take_name(parent, &name);
                self.trace("behind", &("unlink", parent, &name, inode));
                self.reap(inode);
            }
            _ => {
                let (Some((name, inode)), Some(new_name)) = (self.some_entry(parent), self.free_name(other))
                else {
                    return;
                };
                if self.files.lies_in(other, inode) || volume_of(parent) != volume_of(other) {
                    return;
                }
                self.trace("behind", &("rename", parent, &name, other, &new_name, inode));
                self.files.move_name(parent, &name, other, &new_name);
                self.traced.push_back(Event::DirectoryChanged { directory: id(other) });
            }
        }
        self.traced.push_back(Event::DirectoryChanged { directory: id(parent) });
        self.traced.push_back(Event::AttributesChanged { file: id(parent) });
        self.traced.push_back(Event::AttributesChanged { file: id(other) });
    }

    pub(super) fn request_sync(&mut self) {
        let all: Vec<u64> = self.files.files.keys().copied().collect();
        let scope = if self.random.chance(10) {
            SyncScope::Volume(VolumeId(self.random.below(usize::from(self.shape.volumes)) as u16))
        } else {
            let Some(inode) = self.random.one(&all) else { return };
            SyncScope::File { file: id(inode), data_only: self.random.chance(50) }
        };
        self.request_sync_of(scope);
    }

    pub(super) fn request_sync_of(&mut self, scope: SyncScope) {
        let (path, uids) = match scope {
            SyncScope::File { file, .. } => {
                let inode = inode_of(file);
                (self.files.path(inode), vec![(inode, self.files.files[&inode].uid)])
            }
            SyncScope::Volume(volume) => {
                let files = self.files.files.iter().filter(|(inode, _)| volume_of(**inode) == volume);
                (None, files.map(|(inode, file)| (*inode, file.uid)).collect())
            }
        };
        let children = match scope {
            SyncScope::File { file, .. } => self.synced_children(inode_of(file)),
            SyncScope::Volume(_) => Vec::new(),
        };
        self.drain_capture();
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        let (version, names) = (self.files.version, self.files.names);
        self.tickets.insert(ticket, Request { scope, version, names, path, uids, children });
        if self.sabotage == Sabotage::EarlyRelease && self.primary.snapshot().phase == Phase::Mirrored {
            return self.released(ticket, Ok(()));
        }
        self.tell_primary(Event::SyncRequested { ticket, scope });
    }

    pub(super) fn synced_children(&self, directory: u64) -> Vec<(String, u64, u64, u64)> {
        let entries = self.files.files[&directory].entries.iter();
        let synced = entries.filter_map(|(name, inode)| {
            let uid = self.files.files.get(inode)?.uid;
            Some((name.clone(), *inode, uid, *self.synced.get(&uid)?))
        });
        synced.collect()
    }

    // ---- capture -----------------------------------------------------------------------------------------
}
