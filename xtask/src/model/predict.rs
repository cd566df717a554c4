//! What an operation does to the model, and what it answers: the rules of Linux for a process of root without `CAP_FSETID`
//! and without supplementary groups, under the umask 022.

use std::rc::Rc;

use super::acl::Acl;
use super::operation::{Copying, Flags, Node, Operation, Outcome, Protection, Rename, Space, Step, Target};
use super::state::{Id, Inode, Kind, Open, Place, State};

const UMASK: u32 = 0o022;
/// The set-user-id bit.
pub const SET_UID: u32 = 0o4000;
/// The set-group-id bit.
pub const SET_GID: u32 = 0o2000;

/// An outcome, or the errno.
pub type Answer = Result<Outcome, i32>;

/// Nothing to say.
pub const DONE: Answer = Ok(Outcome::Done(0));

impl State {
    /// Do a step.
    ///
    /// # Panics
    /// There is no such process or slot.
    pub fn take(&mut self, step: &Step) -> Outcome {
        let actor = usize::from(step.actor);
        let before = self.clone();
        let outcome = self.apply(actor, &step.operation).unwrap_or_else(Outcome::Refused);
        self.with_protection(before, step, outcome)
    }

    /// Whether a step may be done: a store beyond the end of the file would kill the process, what a copy through a pipe gives is
    /// foretold only between two files, and whether a hole behind the end takes set-id bits away is the file system's affair (btrfs: no).
    /// Nor is a set-group-id bit that marks no program, and so stays if the caller may set it, which a gate is not told.
    #[must_use]
    pub fn allows(&self, step: &Step) -> bool {
        let process = &self.processes[usize::from(step.actor)];
        if self.is_beyond_protection(step) {
            return false;
        }
        match &step.operation {
            Operation::Copy { from, to, how, .. } if *how != Copying::Range => {
                let open = |slot: &u8| process.slots[usize::from(*slot)];
                let file = |id| self.inode(id).bytes().is_some();
                open(from)
                    .zip(open(to))
                    .is_none_or(|(from, to)| from.id != to.id && file(from.id) && file(to.id))
            }
            Operation::SetOwner { target, .. } => {
                let id = self.target(usize::from(step.actor), target, false).ok().flatten();
                !id.map(|id| self.inode(id))
                    .is_some_and(|inode| inode.mode & (SET_GID | 0o010) == SET_GID && inode.gid != 0)
            }
            Operation::Allocate { slot, space: Space::Punch, at, .. } => process.slots[usize::from(*slot)]
                .is_none_or(|open| {
                    let inode = self.inode(open.id);
                    let size = inode.bytes().map_or(0, |bytes| bytes.len() as u64);
                    *at < size || inode.mode & (SET_UID | SET_GID) == 0
                }),
            Operation::StoreMapped { map, at, length, .. } => match process.maps[usize::from(*map)] {
                Some((id, mapped)) => {
                    let size = self.inode(id).bytes().map_or(0, |bytes| bytes.len() as u64);
                    at + length <= size.min(mapped)
                }
                None => false,
            },
            _ => true,
        }
    }

    fn apply(&mut self, actor: usize, operation: &Operation) -> Answer {
        match operation {
            Operation::Open { slot, path, flags, mode } => self.open(actor, *slot, path, *flags, *mode),
            Operation::OpenNameless { slot, directory, exclusive, mode } => {
                self.open_nameless(actor, *slot, directory, *exclusive, *mode)
            }
            Operation::Truncate { path, length } => self.truncate(path, *length),
            Operation::SyncPath { path } => self.sync_path(path),
            Operation::MakeDirectory { path, mode } => {
                let place = self.vacant(path)?;
                self.make(&place, Kind::Directory(Rc::default()), *mode);
                DONE
            }
            Operation::MakeNode { path, node, mode } => {
                let place = self.vacant(path)?;
                self.make(&place, Kind::Node(*node), *mode);
                DONE
            }
            Operation::Symlink { content, path } => {
                let place = self.vacant(path)?;
                self.make(&place, Kind::Symlink(content.clone()), 0o777);
                DONE
            }
            Operation::RemoveDirectory { path } => self.remove_directory(path),
            Operation::Unlink { path } => self.unlink(path),
            Operation::Link { from, to } => {
                let id = self.find(from, false)?;
                self.link(id, to)
            }
            Operation::Rename { from, to, how } => self.rename(from, to, *how),
            Operation::Stat { path } => Ok(Outcome::Shown(self.shown(self.find(path, false)?))),
            Operation::List { path } => {
                let id = self.find(path, true)?;
                let names: Vec<&String> = self.names(id)?.keys().collect();
                Ok(Outcome::Shown(format!("{names:?}")))
            }
            Operation::Unmap { map } => {
                self.processes[actor].maps[usize::from(*map)] = None;
                DONE
            }
            Operation::StoreMapped { map, at, length, tag, .. } => {
                self.store_mapped(actor, *map, (*at, *length), *tag)
            }
            _ => match (operation.target(), operation.slot()) {
                (Some((target, follow)), _) => match self.target(actor, target, follow)? {
                    Some(id) => self.apply_attribute(id, operation),
                    None => Ok(Outcome::Skipped),
                },
                (_, Some(slot)) => self.apply_open(actor, slot, operation),
                _ => Ok(Outcome::Skipped),
            },
        }
    }

    /// Operations on what is open.
    fn apply_open(&mut self, actor: usize, slot: u8, operation: &Operation) -> Answer {
        let Some(open) = self.slot(actor, slot) else { return Ok(Outcome::Skipped) };
        match operation {
            Operation::Close { slot } => {
                self.processes[actor].slots[usize::from(*slot)] = None;
                DONE
            }
            Operation::Write { at, length, tag, how, .. } => self.write(open, (*at, *length), *tag, *how),
            Operation::Read { at, length, via, .. } => self.read(open, *at, *length, *via),
            Operation::Store { at, length, tag, .. } => self.store(open, *at, *length, *tag),
            Operation::Map { map, length, .. } => {
                let kept = self.mapped(open)?;
                self.processes[actor].maps[usize::from(*map)] = Some((kept, *length));
                DONE
            }
            Operation::SetLength { length, .. } => {
                if !open.write || self.is_directory(open.id) {
                    return Err(libc::EINVAL);
                }
                self.set_length(open.id, *length);
                DONE
            }
            Operation::Allocate { space, at, length, .. } => self.allocate(open, *space, *at, *length),
            Operation::Copy { to, from_at, to_at, length, how, .. } => {
                let Some(to) = self.slot(actor, *to) else { return Ok(Outcome::Skipped) };
                match how {
                    _ if open.direct || to.direct => Ok(Outcome::Skipped),
                    Copying::Range => self.copy(open, to, (*from_at, *to_at), *length),
                    Copying::Send => self.send(open, to, (*from_at, *to_at), *length),
                    Copying::Splice => self.splice(open, to, (*from_at, *to_at), *length),
                }
            }
            Operation::LinkSlot { to, .. } => self.link(open.id, to),
            Operation::StatSlot { .. } => Ok(Outcome::Shown(self.shown(open.id))),
            _ => DONE,
        }
    }

    fn slot(&self, actor: usize, slot: u8) -> Option<Open> {
        self.processes[actor].slots[usize::from(slot)]
    }

    pub(super) fn target(&self, actor: usize, target: &Target, follow: bool) -> Result<Option<Id>, i32> {
        match target {
            Target::Path(path) => self.find(path, follow).map(Some),
            Target::Slot(slot) => Ok(self.slot(actor, *slot).map(|open| open.id)),
        }
    }

    /// What stat shows and can be foretold: not times and numbers, and no size or link count of a directory.
    fn shown(&self, id: Id) -> String {
        let inode = self.inode(id);
        let (kind, size) = match &inode.kind {
            Kind::File(bytes) => (libc::S_IFREG, bytes.len()),
            Kind::Directory(_) => (libc::S_IFDIR, 0),
            Kind::Symlink(content) => (libc::S_IFLNK, content.len()),
            Kind::Node(node) => (node.numbers().0, 0),
        };
        let links = if kind == libc::S_IFDIR { 0 } else { inode.links };
        super::observe::line(kind | inode.mode, inode.uid, inode.gid, links, size as u64)
    }

    fn open(&mut self, actor: usize, slot: u8, path: &str, flags: Flags, mode: u32) -> Answer {
        self.processes[actor].slots[usize::from(slot)] = None;
        let follow = !(flags.nofollow || flags.create && flags.exclusive);
        let place = self.walk(path, follow)?;
        let changes = flags.write || flags.truncate;
        let id = match place.found {
            None if !flags.create => return Err(libc::ENOENT),
            None => self.make(&place, Kind::File(Rc::default()), mode),
            Some(_) if flags.create && flags.exclusive => return Err(libc::EEXIST),
            Some(id) if flags.create && self.is_strange_in_sticky(place.parent, id) => {
                return Err(libc::EACCES);
            }
            Some(id) => match &self.inode(id).kind {
                Kind::Symlink(_) => return Err(libc::ELOOP),
                Kind::Directory(_) if flags.create || changes => return Err(libc::EISDIR),
                Kind::Node(Node::Socket | Node::Block | Node::Whiteout) => return Err(libc::ENXIO),
                Kind::Node(Node::Fifo) if flags.write && !flags.read => return Err(libc::ENXIO),
                Kind::Node(_) | Kind::Directory(_) if flags.direct => return Err(libc::EINVAL),
                Kind::Node(_) => return DONE,
                Kind::File(_) if self.inode(id).protection.refuses(flags) => return Err(libc::EPERM),
                Kind::File(_) => {
                    if flags.truncate {
                        self.set_length(id, 0);
                    }
                    id
                }
                Kind::Directory(_) => id,
            },
        };
        self.processes[actor].slots[usize::from(slot)] = Some(Open {
            id,
            read: flags.read,
            write: flags.write,
            append: flags.append,
            direct: flags.direct,
            synchronous: flags.sync || flags.dsync,
        });
        DONE
    }

    /// Whether the kernel refuses to open what is there with `O_CREAT` (`may_create_in_sticky`, fs/namei.c): somebody else may have put it
    /// into a directory for all. Files and pipes only where sysctls say so.
    fn is_strange_in_sticky(&self, directory: Id, id: Id) -> bool {
        let (directory, inode) = (self.inode(directory), self.inode(id));
        let spared = matches!(inode.kind, Kind::File(_) | Kind::Directory(_) | Kind::Node(Node::Fifo));
        directory.mode & 0o1002 == 0o1002 && !spared && inode.uid != directory.uid && inode.uid != 0
    }

    fn open_nameless(
        &mut self,
        actor: usize,
        slot: u8,
        directory: &str,
        exclusive: bool,
        mode: u32,
    ) -> Answer {
        self.processes[actor].slots[usize::from(slot)] = None;
        let parent = self.find(directory, true)?;
        self.names(parent)?;
        if self.inode(parent).protection == Protection::Immutable {
            return Err(libc::EPERM);
        }
        let id = self.born(parent, Kind::File(Rc::default()), mode);
        let inode = self.change(id);
        inode.links = 0;
        inode.linkable = !exclusive;
        let open = Open { id, read: true, write: true, append: false, direct: false, synchronous: false };
        self.processes[actor].slots[usize::from(slot)] = Some(open);
        DONE
    }

    /// The place of a name that is to be made.
    fn vacant(&self, path: &str) -> Result<Place, i32> {
        let place = self.walk(path, false)?;
        if place.found.is_some() { Err(libc::EEXIST) } else { Ok(place) }
    }

    fn make(&mut self, place: &Place, kind: Kind, mode: u32) -> Id {
        let id = self.born(place.parent, kind, mode);
        self.set_name(place.parent, &place.name, Some(id));
        id
    }

    /// A new inode with what it inherits from a directory.
    fn born(&mut self, parent: Id, kind: Kind, mode: u32) -> Id {
        let above = self.inode(parent);
        let mut inode = Inode::new(kind, mode);
        let directory = matches!(inode.kind, Kind::Directory(_));
        if above.mode & SET_GID != 0 {
            inode.gid = above.gid;
        }
        if !matches!(inode.kind, Kind::Symlink(_)) {
            let passed_on = above.mode & SET_GID;
            match &above.default {
                None => inode.mode &= !UMASK,
                Some(default) => {
                    let (list, left) = default.inherited(mode);
                    inode.mode = mode & !0o777 | left;
                    inode.access = Some(list).filter(Acl::is_extended);
                    inode.default = Some(default.clone()).filter(|_| directory);
                }
            }
            if directory {
                inode.mode |= passed_on;
            }
        }
        self.add(inode)
    }

    fn link(&mut self, id: Id, to: &str) -> Answer {
        let place = self.vacant(to)?;
        let inode = self.inode(id);
        if matches!(inode.kind, Kind::Directory(_)) {
            return Err(libc::EPERM);
        }
        if inode.links == 0 && !inode.linkable {
            return Err(libc::ENOENT);
        }
        let inode = self.change(id);
        inode.links += 1;
        inode.linkable = false;
        self.set_name(place.parent, &place.name, Some(id));
        DONE
    }

    fn unlink(&mut self, path: &str) -> Answer {
        let place = self.walk(path, false)?;
        let id = place.found.ok_or(libc::ENOENT)?;
        if self.is_directory(id) {
            return Err(libc::EISDIR);
        }
        self.set_name(place.parent, &place.name, None);
        self.change(id).links -= 1;
        DONE
    }

    fn remove_directory(&mut self, path: &str) -> Answer {
        let place = self.walk(path, false)?;
        let id = place.found.ok_or(libc::ENOENT)?;
        if !self.names(id)?.is_empty() {
            return Err(libc::ENOTEMPTY);
        }
        self.set_name(place.parent, &place.name, None);
        DONE
    }

    fn rename(&mut self, from: &str, to: &str, how: Rename) -> Answer {
        // Both parents first, then the names.
        let (source, target) = (self.walk_to_parent(from, false)?, self.walk_to_parent(to, false)?);
        let source = source.named()?;
        let id = source.found.ok_or(libc::ENOENT)?;
        let target = target.named()?;
        match (how, target.found) {
            (Rename::NoReplace, Some(_)) => return Err(libc::EEXIST),
            (Rename::Exchange, None) => return Err(libc::ENOENT),
            _ => (),
        }
        if self.is_below(target.parent, id) {
            return Err(libc::EINVAL);
        }
        if let Some(replaced) = target.found {
            if self.is_below(source.parent, replaced) {
                return Err(if how == Rename::Exchange { libc::EINVAL } else { libc::ENOTEMPTY });
            }
            if replaced == id {
                return DONE;
            }
            if how != Rename::Exchange {
                match (self.is_directory(id), self.names(replaced)) {
                    (true, Err(errno)) => return Err(errno),
                    (false, Ok(_)) => return Err(libc::EISDIR),
                    (true, Ok(names)) if !names.is_empty() => {
                        if how == Rename::Whiteout {
                            // ext4 takes the whiteout away again, and with that renews the directory's times.
                            self.change(source.parent).modified = None;
                        }
                        return Err(libc::ENOTEMPTY);
                    }
                    _ => (),
                }
                if !self.is_directory(replaced) {
                    self.change(replaced).links -= 1;
                }
            }
        }
        if how == Rename::Exchange && source.parent != target.parent {
            // The parent entry of a directory changes, and on xfs with it the time.
            for id in [Some(id), target.found].into_iter().flatten() {
                if self.is_directory(id) {
                    self.change(id).modified = None;
                }
            }
        }
        let left = match how {
            Rename::Exchange => target.found,
            Rename::Whiteout => Some(self.born(source.parent, Kind::Node(Node::Whiteout), 0)),
            Rename::Plain | Rename::NoReplace => None,
        };
        self.set_name(source.parent, &source.name, left);
        self.set_name(target.parent, &target.name, Some(id));
        DONE
    }

    fn sync_path(&mut self, path: &str) -> Answer {
        let id = self.find(path, true)?;
        match self.inode(id).kind {
            Kind::File(_) | Kind::Directory(_) => DONE,
            Kind::Node(Node::Socket | Node::Block | Node::Whiteout) => Err(libc::ENXIO),
            // Opened, and fsync(2) means nothing to it.
            _ => Err(libc::EINVAL),
        }
    }

    fn truncate(&mut self, path: &str, length: u64) -> Answer {
        let id = self.find(path, true)?;
        match self.inode(id).kind {
            Kind::File(_) => self.set_length(id, length),
            Kind::Directory(_) => return Err(libc::EISDIR),
            _ => return Err(libc::EINVAL),
        }
        DONE
    }
}
