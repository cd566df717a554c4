//! POSIX access control lists as the kernel stores and applies them (acl(5), fs/posix_acl.c).

/// An entry's kind, in the numbers of the attribute's format (linux/posix_acl_xattr.h).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs)]
pub enum Tag {
    Owner = 0x01,
    User = 0x02,
    OwnerGroup = 0x04,
    Group = 0x08,
    Mask = 0x10,
    Other = 0x20,
}

/// An entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Whom it is for.
    pub tag: Tag,
    /// `rwx` as three bits.
    pub permission: u32,
    /// User or group, where the tag has one.
    pub id: u32,
}

/// A list, its entries in the order of their tags.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acl(pub Vec<Entry>);

/// Name of the attribute that holds the access list.
pub const ACCESS: &str = "system.posix_acl_access";
/// Name of the attribute that holds a directory's default list.
pub const DEFAULT: &str = "system.posix_acl_default";

const VERSION: u32 = 2;
const NOBODY: u32 = u32::MAX;

impl Acl {
    /// The attribute's value.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for entry in &self.0 {
            bytes.extend((entry.tag as u16).to_le_bytes());
            bytes.extend((entry.permission as u16).to_le_bytes());
            bytes.extend(entry.id.to_le_bytes());
        }
        bytes
    }

    /// From the attribute's value; `None` if it is none.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Acl> {
        let entries = bytes.strip_prefix(&VERSION.to_le_bytes())?;
        let entry = |bytes: &[u8]| {
            let number = |range: std::ops::Range<usize>| {
                bytes
                    .get(range)
                    .map(|bytes| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
            };
            let tags = [Tag::Owner, Tag::User, Tag::OwnerGroup, Tag::Group, Tag::Mask, Tag::Other];
            let raw = number(0..2)?;
            let tag = tags.into_iter().find(|tag| *tag as u32 == raw)?;
            Some(Entry { tag, permission: number(2..4)?, id: number(4..8)? })
        };
        entries.chunks(8).map(entry).collect::<Option<Vec<_>>>().map(Acl)
    }

    /// A list in three entries, which says no more than a mode.
    #[must_use]
    pub fn of_mode(mode: u32) -> Acl {
        let entry = |tag, shift: u32| Entry { tag, permission: mode >> shift & 7, id: NOBODY };
        Acl(vec![entry(Tag::Owner, 6), entry(Tag::OwnerGroup, 3), entry(Tag::Other, 0)])
    }

    /// The same with a named user and a mask.
    #[must_use]
    pub fn with_user(mode: u32, uid: u32, permission: u32, mask: u32) -> Acl {
        let mut list = Acl::of_mode(mode);
        list.0.insert(1, Entry { tag: Tag::User, permission, id: uid });
        list.0.insert(3, Entry { tag: Tag::Mask, permission: mask, id: NOBODY });
        list
    }

    /// Whether it says more than a mode.
    #[must_use]
    pub fn is_extended(&self) -> bool {
        self.0.iter().any(|entry| matches!(entry.tag, Tag::User | Tag::Group | Tag::Mask))
    }

    /// The nine permission bits it stands for.
    #[must_use]
    pub fn mode(&self) -> u32 {
        let of = |tag| self.0.iter().find(|entry| entry.tag == tag).map(|entry| entry.permission);
        let group = of(Tag::Mask).or(of(Tag::OwnerGroup)).unwrap_or(0);
        of(Tag::Owner).unwrap_or(0) << 6 | group << 3 | of(Tag::Other).unwrap_or(0)
    }

    /// After chmod(2).
    pub fn change_mode(&mut self, mode: u32) {
        let group = self.group_class();
        for entry in &mut self.0 {
            match entry.tag {
                Tag::Owner => entry.permission = mode >> 6 & 7,
                Tag::Other => entry.permission = mode & 7,
                tag if tag == group => entry.permission = mode >> 3 & 7,
                _ => (),
            }
        }
    }

    /// As the access list of something made with `mode` where this is the default list: the list, and what of the mode is left.
    #[must_use]
    pub fn inherited(&self, mode: u32) -> (Acl, u32) {
        let mut list = self.clone();
        let group = self.group_class();
        for entry in &mut list.0 {
            match entry.tag {
                Tag::Owner => entry.permission &= mode >> 6,
                Tag::Other => entry.permission &= mode,
                tag if tag == group => entry.permission &= mode >> 3,
                _ => (),
            }
        }
        let left = list.mode();
        (list, left)
    }

    /// The entry that the group bits of a mode stand for.
    fn group_class(&self) -> Tag {
        if self.0.iter().any(|entry| entry.tag == Tag::Mask) { Tag::Mask } else { Tag::OwnerGroup }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_written_and_read() {
        let list = Acl::with_user(0o750, 1000, 6, 5);
        assert_eq!(Acl::parse(&list.bytes()), Some(list));
        assert_eq!(Acl::parse(b"\x02\0\0\0\x01"), None);
    }

    #[test]
    fn mode_and_list_follow_each_other() {
        assert!(!Acl::of_mode(0o754).is_extended());
        assert_eq!(Acl::of_mode(0o754).mode(), 0o754);
        let mut list = Acl::with_user(0o754, 1000, 7, 6);
        assert_eq!(list.mode(), 0o764);
        list.change_mode(0o711);
        assert_eq!(list.mode(), 0o711);
        let (inherited, mode) = Acl::with_user(0o777, 1000, 7, 7).inherited(0o640);
        assert_eq!((inherited.mode(), mode), (0o640, 0o640));
    }
}
