//! What happens in worlds of a harsher shape only.

use super::*;

impl World {
    pub(super) fn hardship(&mut self) {
        let hardship = if self.sabotage == Sabotage::EarlyAnswer { 12 } else { self.random.below(14) };
        match hardship {
            0 if self.shape.links => self.link_in_many_directories(),
            1..=2 if self.shape.exchanges => self.exchange_directories(),
            3..=4 if self.shape.exchanges && self.bypassed => self.exchange_behind_the_gate(),
            5 if self.shape.exchanges && self.bypassed => self.link_behind_the_gate(),
            6 if self.shape.losses && self.random.chance(30) => self.lose_events(),
            7 if self.shape.losses => self.lose_what_is_compared(),
            8..=9 if self.shape.moves => self.move_what_is_listed(),
            10..=11 if self.shape.reuse => self.use_a_number_again(),
            12..=13 if self.shape.aimed && self.bypassed && self.safe_set.is_on() => {
                self.move_what_is_not_in_doubt();
            }
            _ => {}
        }
    }

    /// The file with the lowest number that was synced is moved, or it or its directory is synced.
    pub(super) fn wander(&mut self) {
        let is_synced = |file: &File| {
            file.kind == FileKind::Regular && file.links > 0 && self.synced.contains_key(&file.uid)
        };
        let regular = self.files.of_kind(FileKind::Regular);
        let found = self.files.files.iter().find(|(_, file)| is_synced(file)).map(|(inode, _)| *inode);
        let Some(inode) = found.or_else(|| self.random.one(&regular)) else { return };
        let Some((parent, name)) = self.files.name_of(inode) else { return };
        let target = self.some_directory();
        let data_only = self.random.chance(50);
        match self.random.below(6) {
            0 => self.request_sync_of(SyncScope::File { file: id(inode), data_only }),
            1..=2 => self.request_sync_of(SyncScope::File { file: id(parent), data_only }),
            3 => {
                let new_name = self.some_name();
                self.rename(parent, &name, target, &new_name, 40);
            }
            _ if self.bypassed && volume_of(parent) == volume_of(target) => {
                let Some(new_name) = self.free_name(target) else { return };
                self.trace("behind", &("rename", parent, &name, target, &new_name, inode));
                self.files.move_name(parent, &name, target, &new_name);
                self.tell_of_names([parent, target]);
            }
            _ => {}
        }
    }

    fn link_in_many_directories(&mut self) {
        let regular = self.files.of_kind(FileKind::Regular);
        let Some(inode) = self.random.one(&regular) else { return };
        for _ in 0..4 {
            self.link_something(&[inode]);
        }
    }

    /// Two directories that have a name, neither in the other.
    fn two_directories(&mut self) -> Option<[(u64, String, u64); 2]> {
        let (one, other) = (self.some_directory(), self.some_directory());
        let apart = !self.files.lies_in(one, other) && !self.files.lies_in(other, one);
        let (parent, name) = self.files.name_of(one)?;
        let (other_parent, other_name) = self.files.name_of(other)?;
        apart.then_some([(parent, name, one), (other_parent, other_name, other)])
    }

    fn exchange_directories(&mut self) {
        let Some([(parent, name, _), (other_parent, other_name, _)]) = self.two_directories() else { return };
        self.rename(parent, &name, other_parent, &other_name, 100);
    }

    fn exchange_behind_the_gate(&mut self) {
        let (parent, other_parent) = (self.some_directory(), self.some_directory());
        let found = if self.random.chance(50) {
            self.two_directories()
        } else {
            let pair = (self.some_entry(parent), self.some_entry(other_parent));
            let (Some((name, inode)), Some((other_name, other))) = pair else { return };
            Some([(parent, name, inode), (other_parent, other_name, other)])
        };
        let Some([(parent, name, inode), (other_parent, other_name, other)]) = found else { return };
        if inode == other || self.files.lies_in(other_parent, inode) || self.files.lies_in(parent, other) {
            return;
        }
        if volume_of(parent) != volume_of(other_parent) {
            return;
        }
        let kind = |inode: u64| self.files.files[&inode].kind;
        let replaces = kind(inode) == kind(other) && self.files.files[&other].entries.is_empty();
        if replaces && self.random.chance(50) {
            self.trace("behind", &("replace", parent, &name, inode, other_parent, &other_name, other));
            self.take_name(other_parent, &other_name);
            self.files.move_name(parent, &name, other_parent, &other_name);
            self.reap(other);
        } else {
            self.trace("behind", &("exchange", parent, &name, inode, other_parent, &other_name, other));
            self.files.exchange_names(parent, &name, other_parent, &other_name);
        }
        self.tell_of_names([parent, other_parent]);
    }

    /// Both nodes have the file, and its name is told by two lists: if that of the directory it left comes first, the peer makes it anew.
    fn move_what_is_not_in_doubt(&mut self) {
        let mut regular = self.files.of_kind(FileKind::Regular);
        regular.retain(|inode| !self.safe_set.is_in(id(*inode)) && !self.files.files[inode].cells.is_empty());
        let target = self.some_directory();
        let (Some(inode), Some(name)) = (self.random.one(&regular), self.free_name(target)) else { return };
        let Some((parent, former)) = self.files.name_of(inode) else { return };
        if volume_of(parent) == volume_of(target) && parent != target {
            self.trace("behind", &("rename", parent, &former, target, &name, inode));
            self.files.move_name(parent, &former, target, &name);
            self.tell_of_names([parent, target]);
        }
    }

    fn link_behind_the_gate(&mut self) {
        let parent = self.some_directory();
        let regular = self.files.of_kind(FileKind::Regular);
        let (Some(name), Some(inode)) = (self.free_name(parent), self.random.one(&regular)) else { return };
        if self.may_link(parent, inode) {
            self.trace("behind", &("link", parent, &name, inode));
            self.add_name(parent, &name, inode);
            self.tell_of_names([parent, parent]);
        }
    }

    /// The ring was full: events of files are gone, and the edge says so of each file that may be concerned.
    fn lose_events(&mut self) {
        let mut kept = VecDeque::new();
        for event in std::mem::take(&mut self.traced) {
            let file = match event {
                Event::WriteTraced { file, .. }
                | Event::StoreMapped { file, .. }
                | Event::AttributesChanged { file } => Some(file),
                _ => None,
            };
            let kind = file.and_then(|file| Some(self.files.files.get(&inode_of(file))?.kind));
            if kind != Some(FileKind::Regular) || self.random.chance(50) {
                kept.push_back(event);
            }
        }
        self.traced = kept;
        let regular = self.files.of_kind(FileKind::Regular);
        let lost = regular.into_iter().map(|inode| Event::CaptureLost { file: id(inode) });
        self.traced.extend(lost);
    }

    /// A directory, or a file that is being compared.
    fn lose_what_is_compared(&mut self) {
        let compared: Vec<u64> = self
            .doing
            .iter()
            .filter_map(|doing| match doing {
                Doing::Digests { file, .. } => Some(inode_of(*file)),
                _ => None,
            })
            .filter(|inode| self.files.files.contains_key(inode))
            .collect();
        let directory = self.some_directory();
        let lost = self.random.one(&compared).filter(|_| self.random.chance(60)).unwrap_or(directory);
        self.traced.push_back(Event::CaptureLost { file: id(lost) });
    }

    /// A file goes, another one comes that has its number, and is stored to.
    fn use_a_number_again(&mut self) {
        let regular = self.files.of_kind(FileKind::Regular);
        let Some(inode) = self.random.one(&regular) else { return };
        let Some((parent, name)) = self.files.name_of(inode) else { return };
        for _ in 0..1 + self.random.below(2) {
            self.unlink(parent, &name);
            if let Some(file) = self.files.files.get_mut(&inode).filter(|file| file.links == 0) {
                file.open = false;
                self.reap(inode);
            }
            if self.files.files.contains_key(&inode) {
                return;
            }
            self.files.create_as(inode, FileKind::Regular);
            self.intend(&[inode], true);
            self.add_name(parent, &name, inode);
            let node = self.new_node(inode);
            self.log(Operation::Create { parent: id(parent), name: name.clone().into_bytes(), node });
        }
        self.write_something(&[inode]);
        self.store_something(&[inode]);
        self.stored_again = Some((inode, 8));
    }

    /// The file that has its number from another one is stored to, or synced.
    pub(super) fn store_again(&mut self) {
        let Some((inode, times)) = self.stored_again.filter(|(_, times)| *times > 0) else { return };
        self.stored_again = Some((inode, times - 1));
        if self.files.files.get(&inode).is_none_or(|file| file.kind != FileKind::Regular || file.links == 0) {
            return;
        }
        if self.random.chance(70) {
            self.store_something(&[inode]);
        } else {
            let data_only = self.random.chance(50);
            self.request_sync_of(SyncScope::File { file: id(inode), data_only });
        }
    }

    /// A directory that is being listed, or one above it, is moved.
    fn move_what_is_listed(&mut self) {
        let listed: Vec<u64> = self
            .doing
            .iter()
            .filter_map(|doing| match doing {
                Doing::Directory { directory, .. } => Some(inode_of(*directory)),
                _ => None,
            })
            .collect();
        let Some((parent, name)) = self.random.one(&listed).and_then(|inode| self.files.name_of(inode))
        else {
            return;
        };
        let above = self.files.name_of(parent).filter(|_| self.random.chance(30));
        let (parent, name) = above.unwrap_or((parent, name));
        let (new_parent, new_name) = (self.some_directory(), self.some_name());
        self.rename(parent, &name, new_parent, &new_name, 40);
    }

    /// Names in these directories changed behind the gate's back.
    pub(super) fn tell_of_names(&mut self, directories: [u64; 2]) {
        for directory in directories {
            self.traced.push_back(Event::DirectoryChanged { directory: id(directory) });
        }
        for directory in directories {
            self.traced.push_back(Event::AttributesChanged { file: id(directory) });
        }
    }
}
