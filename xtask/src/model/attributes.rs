//! What calls on attributes do to the model: modes, owners, times, extended attributes and access control lists.

use std::rc::Rc;

use super::acl::{self, Acl};
use super::operation::Operation;
use super::predict::{Answer, DONE, SET_GID};
use super::state::{Id, Kind, State};

impl State {
    /// Do such a call.
    ///
    /// # Errors
    /// The errno.
    pub(super) fn apply_attribute(&mut self, id: Id, operation: &Operation) -> Answer {
        match operation {
            Operation::SetMode { mode, .. } => self.set_mode(id, *mode),
            Operation::SetOwner { uid, gid, .. } => self.set_owner(id, *uid, *gid),
            Operation::SetTime { seconds, nanoseconds, .. } => {
                let inode = self.change(id);
                inode.modified = Some((*seconds, *nanoseconds)).filter(|_| !inode.stored);
            }
            Operation::SetAttribute { name, value, flags, .. } => {
                self.set_attribute(id, name, value, *flags)?;
            }
            Operation::RemoveAttribute { name, .. } => self.remove_attribute(id, name)?,
            Operation::SetProtection { protection, .. } => self.change(id).protection = *protection,
            _ => (),
        }
        DONE
    }

    fn set_mode(&mut self, id: Id, mode: u32) {
        let inode = self.change(id);
        inode.mode = mode & 0o7777;
        if inode.gid != 0 {
            inode.mode &= !SET_GID;
        }
        if let Some(list) = &mut inode.access {
            list.change_mode(mode);
        }
    }

    fn set_owner(&mut self, id: Id, uid: Option<u32>, gid: Option<u32>) {
        if !self.is_directory(id) {
            self.clear_set_id(id);
        }
        let inode = self.change(id);
        inode.uid = uid.unwrap_or(inode.uid);
        inode.gid = gid.unwrap_or(inode.gid);
    }

    fn set_attribute(&mut self, id: Id, name: &str, value: &[u8], flags: i32) -> Result<(), i32> {
        if let Some(list) = Acl::parse(value).filter(|_| name.starts_with("system.")) {
            return self.set_list(id, name, list);
        }
        let inode = self.change(id);
        if name.starts_with("user.") && !matches!(inode.kind, Kind::File(_) | Kind::Directory(_)) {
            return Err(libc::EPERM);
        }
        match (inode.attributes.contains_key(name), flags) {
            (true, libc::XATTR_CREATE) => Err(libc::EEXIST),
            (false, libc::XATTR_REPLACE) => Err(libc::ENODATA),
            _ => {
                Rc::make_mut(&mut inode.attributes).insert(name.to_owned(), value.to_vec());
                Ok(())
            }
        }
    }

    fn set_list(&mut self, id: Id, name: &str, list: Acl) -> Result<(), i32> {
        let inode = self.change(id);
        match (&inode.kind, name == acl::ACCESS) {
            (Kind::Symlink(_), _) => Err(libc::EOPNOTSUPP),
            (_, true) => {
                inode.mode = inode.mode & !0o777 | list.mode();
                if inode.gid != 0 {
                    inode.mode &= !SET_GID;
                }
                inode.access = Some(list).filter(Acl::is_extended);
                Ok(())
            }
            (Kind::Directory(_), false) => {
                inode.default = Some(list);
                Ok(())
            }
            _ => Err(libc::EACCES),
        }
    }

    fn remove_attribute(&mut self, id: Id, name: &str) -> Result<(), i32> {
        let inode = self.change(id);
        match name {
            acl::ACCESS | acl::DEFAULT if matches!(inode.kind, Kind::Symlink(_)) => Err(libc::EOPNOTSUPP),
            acl::ACCESS => {
                inode.access = None;
                Ok(())
            }
            acl::DEFAULT => {
                inode.default = None;
                Ok(())
            }
            _ if name.starts_with("user.") && !matches!(inode.kind, Kind::File(_) | Kind::Directory(_)) => {
                Err(libc::EPERM)
            }
            _ => Rc::make_mut(&mut inode.attributes).remove(name).map(drop).ok_or(libc::ENODATA),
        }
    }
}
