//! The in-memory model's state: inodes, names, and how a path leads to them.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use super::acl::Acl;
use super::operation::{MAPS, Node, Protection, SLOTS};

/// A number for an inode, never used again.
pub type Id = usize;
/// The inode of the sequence's directory.
pub const ROOT: Id = 0;
/// Symlinks followed in one walk (path_resolution(7)).
const MOST_LINKS: usize = 40;
/// Bytes in a name.
const LONGEST_NAME: usize = 255;

/// What an inode is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// With its bytes; holes are zeros.
    File(Rc<Vec<u8>>),
    /// With its names.
    Directory(Rc<BTreeMap<String, Id>>),
    /// With its content.
    Symlink(String),
    /// What mknod(2) makes.
    Node(Node),
}

/// An inode. It is kept when its last name and user are gone: somebody may ask what it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inode {
    /// What it is.
    pub kind: Kind,
    /// Permission and set-id bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names of it, for anything but a directory.
    pub links: u32,
    /// Made without a name and may get one.
    pub linkable: bool,
    /// Its flags.
    pub protection: Protection,
    /// Extended attributes, access lists not among them.
    pub attributes: Rc<BTreeMap<String, Vec<u8>>>,
    /// Access list that says more than the mode.
    pub access: Option<Acl>,
    /// A directory's default list.
    pub default: Option<Acl>,
    /// Modification time, if a call set it and nothing changed it since.
    pub modified: Option<(i64, i64)>,
    /// Stored into through a mapping, perhaps without a sync since: the gate's cache may write that back at any time, and with it
    /// change the modification time.
    pub stored: bool,
}

/// An open file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct Open {
    pub id: Id,
    pub read: bool,
    pub write: bool,
    pub append: bool,
    pub direct: bool,
    /// Writes are synchronous.
    pub synchronous: bool,
}

/// What a process holds.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct Process {
    pub slots: [Option<Open>; SLOTS as usize],
    /// Inode and length of each mapping.
    pub maps: [Option<(Id, u64)>; MAPS as usize],
}

/// All of it. A clone is cheap: bytes are shared until they change.
#[derive(Clone, Debug)]
pub struct State {
    inodes: Vec<Rc<Inode>>,
    /// What each process holds.
    pub processes: Vec<Process>,
    /// Whether a descriptor from before a file became immutable still writes (all file systems but ext4).
    pub late_writes: bool,
}

/// Where a path ends.
#[derive(Clone, Debug)]
pub struct Place {
    /// The directory of its last name.
    pub parent: Id,
    /// The last name.
    pub name: String,
    /// What has that name.
    pub found: Option<Id>,
}

impl State {
    /// An empty directory, and processes that hold nothing.
    #[must_use]
    pub fn new(processes: usize) -> State {
        let root = Inode::new(Kind::Directory(Rc::default()), 0o755);
        let processes = vec![Process::default(); processes];
        State { inodes: vec![Rc::new(root)], processes, late_writes: false }
    }

    /// Inodes that are another one, or changed, in a later state.
    pub fn changed(&self, later: &State) -> impl Iterator<Item = Id> {
        let pairs = self.inodes.iter().zip(&later.inodes).enumerate();
        pairs.filter(|(_, (before, after))| !Rc::ptr_eq(before, after)).map(|(id, _)| id)
    }

    /// An inode.
    ///
    /// # Panics
    /// There was never one with that number.
    #[must_use]
    pub fn inode(&self, id: Id) -> &Inode {
        &self.inodes[id]
    }

    /// The same, to be changed.
    ///
    /// # Panics
    /// As [`State::inode`].
    pub fn change(&mut self, id: Id) -> &mut Inode {
        Rc::make_mut(&mut self.inodes[id])
    }

    /// How many inodes there ever were.
    #[must_use]
    pub fn inodes(&self) -> usize {
        self.inodes.len()
    }

    /// Add one.
    pub fn add(&mut self, inode: Inode) -> Id {
        self.inodes.push(Rc::new(inode));
        self.inodes.len() - 1
    }

    /// Names in a directory.
    ///
    /// # Errors
    /// ENOTDIR.
    pub fn names(&self, id: Id) -> Result<&BTreeMap<String, Id>, i32> {
        match &self.inode(id).kind {
            Kind::Directory(names) => Ok(names),
            _ => Err(libc::ENOTDIR),
        }
    }

    /// Give or take a name; the directory's time is the file system's afterwards.
    pub fn set_name(&mut self, parent: Id, name: &str, id: Option<Id>) {
        let directory = self.change(parent);
        directory.modified = None;
        if let Kind::Directory(names) = &mut directory.kind {
            let names = Rc::make_mut(names);
            match id {
                Some(id) => names.insert(name.to_owned(), id),
                None => names.remove(name),
            };
        }
    }

    /// Whether `id` is `above` or somewhere below it.
    #[must_use]
    pub fn is_below(&self, id: Id, above: Id) -> bool {
        id == above
            || self.names(above).is_ok_and(|names| {
                names.values().any(|child| self.is_directory(*child) && self.is_below(id, *child))
            })
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self, id: Id) -> bool {
        matches!(self.inode(id).kind, Kind::Directory(_))
    }

    /// Walk a path; `follow` a symlink at its end.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, ELOOP or ENAMETOOLONG. That the last name is missing is none.
    pub fn walk(&self, path: &str, follow: bool) -> Result<Place, i32> {
        self.walk_to_parent(path, follow)?.named()
    }

    /// The same without looking at the last name, which may also be too long.
    ///
    /// # Errors
    /// As [`State::walk`], on the way to the last name.
    pub fn walk_to_parent(&self, path: &str, follow: bool) -> Result<Place, i32> {
        let mut ahead: VecDeque<String> = path.split('/').map(str::to_owned).collect();
        let (mut parent, mut links) = (ROOT, 0);
        while let Some(name) = ahead.pop_front() {
            let found = self.names(parent)?.get(&name).copied();
            let last = ahead.is_empty();
            if !last && name.len() > LONGEST_NAME {
                return Err(libc::ENAMETOOLONG);
            }
            match found.map(|id| (id, &self.inode(id).kind)) {
                Some((_, Kind::Symlink(content))) if !last || follow => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(libc::ELOOP);
                    }
                    for name in content.rsplit('/') {
                        ahead.push_front(name.to_owned());
                    }
                }
                _ if last => return Ok(Place { parent, name, found }),
                Some((id, _)) => parent = id,
                None => return Err(libc::ENOENT),
            }
        }
        Err(libc::ENOENT)
    }

    /// Walk a path to something that must be there.
    ///
    /// # Errors
    /// As [`State::walk`], and ENOENT if it is not.
    pub fn find(&self, path: &str, follow: bool) -> Result<Id, i32> {
        self.walk(path, follow)?.found.ok_or(libc::ENOENT)
    }

    /// Every path and its inode, the directory itself ("") first.
    #[must_use]
    pub fn tree(&self) -> BTreeMap<String, Id> {
        let mut found = BTreeMap::from([(String::new(), ROOT)]);
        let mut ahead = vec![(String::new(), ROOT)];
        while let Some((path, id)) = ahead.pop() {
            for (name, child) in self.names(id).into_iter().flatten() {
                let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                if self.is_directory(*child) {
                    ahead.push((path.clone(), *child));
                }
                found.insert(path, *child);
            }
        }
        found
    }
}

impl Place {
    /// Itself, if its name can be one.
    ///
    /// # Errors
    /// ENAMETOOLONG.
    pub fn named(self) -> Result<Place, i32> {
        if self.name.len() > LONGEST_NAME { Err(libc::ENAMETOOLONG) } else { Ok(self) }
    }
}

impl Inode {
    /// Of root, with one name.
    #[must_use]
    pub fn new(kind: Kind, mode: u32) -> Inode {
        Inode {
            kind,
            mode,
            uid: 0,
            gid: 0,
            links: 1,
            linkable: false,
            protection: Protection::Nothing,
            attributes: Rc::default(),
            access: None,
            default: None,
            modified: None,
            stored: false,
        }
    }

    /// Bytes of a regular file.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.kind {
            Kind::File(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Bytes of a regular file, to be changed; its time is the file system's afterwards.
    pub fn bytes_mut(&mut self) -> Option<&mut Vec<u8>> {
        self.modified = None;
        match &mut self.kind {
            Kind::File(bytes) => Some(Rc::make_mut(bytes)),
            _ => None,
        }
    }

    /// All attributes as listxattr(2) shows them, access lists among them.
    #[must_use]
    pub fn all_attributes(&self) -> BTreeMap<String, Vec<u8>> {
        let mut all = (*self.attributes).clone();
        let lists = [(super::acl::ACCESS, &self.access), (super::acl::DEFAULT, &self.default)];
        all.extend(
            lists.into_iter().filter_map(|(name, list)| Some((name.to_owned(), list.as_ref()?.bytes()))),
        );
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_through_symlinks_and_end_in_names_that_are_missing() {
        let mut state = State::new(0);
        let directory = state.add(Inode::new(Kind::Directory(Rc::default()), 0o755));
        state.set_name(ROOT, "d", Some(directory));
        for (name, content) in [("l", "d/new"), ("x", "y"), ("y", "x"), ("m", "d")] {
            let link = state.add(Inode::new(Kind::Symlink(content.to_owned()), 0o777));
            state.set_name(ROOT, name, Some(link));
        }
        let place = state.walk("l", true).unwrap();
        assert_eq!((place.parent, place.name.as_str(), place.found), (directory, "new", None));
        assert_eq!(state.walk("m/other", false).unwrap().parent, directory);
        assert_eq!(state.find("x", true), Err(libc::ELOOP));
        assert!(state.find("x", false).is_ok());
        assert_eq!(state.find("none/a", true), Err(libc::ENOENT));
        assert_eq!(state.find("x/a", true), Err(libc::ELOOP));
        assert!(state.is_below(directory, ROOT) && !state.is_below(ROOT, directory));
        assert_eq!(state.tree().len(), 6);
    }
}
