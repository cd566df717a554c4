//! Namespace operations as they travel: the payload of a `Namespace` frame.

use alloc::vec::Vec;

use super::cursor::{BodyError, Cursor, Put};
use crate::event::NamespaceChange;
use crate::ids::{FileId, FileKind};

/// Longest name in bytes (NAME_MAX).
pub const NAME_MAX: usize = 255;
/// Longest target of a symlink in bytes (PATH_MAX without its NUL).
pub const TARGET_MAX: usize = 4095;

/// A name in a directory: any bytes but `/` and NUL, 1 to 255 of them. Never trusted when received.
pub type Name = Vec<u8>;

/// One change of the tree's names. Every operation is idempotent at the secondary: it is told which file has
/// which name *after* it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// A new file. Ownership and mode come with it so that it is never more open than the original.
    Create {
        /// Directory that has the new name.
        parent: FileId,
        /// The new name.
        name: Name,
        /// What was made.
        node: NewNode,
    },
    /// One more name for a file. `node` describes the file for a secondary that has not seen it yet (O_TMPFILE).
    Link {
        /// Directory that has the new name.
        parent: FileId,
        /// The new name.
        name: Name,
        /// The file.
        node: NewNode,
    },
    /// A name is gone. `directory` tells rmdir from unlink; `last`: no name is left.
    #[allow(missing_docs)]
    Unlink { parent: FileId, name: Name, file: FileId, directory: bool, last: bool },
    /// A file has another name. With `exchange`, `other` has the old name now; else `other` was replaced
    /// (`other_last`: it has no name left). With `whiteout`, the old name is now a 0:0 character device, `other`
    /// describing nothing of it: a `Create` for it follows at once.
    #[allow(missing_docs)]
    Rename {
        old_parent: FileId,
        old_name: Name,
        new_parent: FileId,
        new_name: Name,
        file: FileId,
        other: Option<FileId>,
        other_last: bool,
        exchange: bool,
    },
    /// (A part of) the complete list of a directory's names. Between `first` and `last` no other operation is in the
    /// stream. Names of the secondary that are in no part are removed at `last`.
    #[allow(missing_docs)]
    List { directory: FileId, first: bool, last: bool, entries: Vec<ListedEntry> },
}

/// A file that may have to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewNode {
    /// The file on the primary.
    pub file: FileId,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits with setuid, setgid, sticky (no type bits).
    pub mode: u32,
    /// Owner's user id.
    pub uid: u32,
    /// Owner's group id.
    pub gid: u32,
    /// Device number of a device file (`st_rdev`), else zero.
    pub rdev: u64,
    /// Target of a symlink, else empty.
    pub target: Vec<u8>,
}

/// One name of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedEntry {
    /// The name.
    pub name: Name,
    /// What has it.
    pub node: NewNode,
}

impl Operation {
    /// What the core needs to know of this operation.
    #[must_use]
    pub fn change(&self) -> NamespaceChange {
        match self {
            Operation::Create { parent, node, .. } => {
                NamespaceChange::Created { parent: *parent, file: node.file, kind: node.kind }
            }
            Operation::Link { parent, node, .. } => {
                NamespaceChange::Linked { parent: *parent, file: node.file, kind: node.kind }
            }
            Operation::Unlink { parent, file, last, .. } => {
                NamespaceChange::Unlinked { parent: *parent, file: *file, last: *last }
            }
            Operation::Rename { old_parent, new_parent, file, other, other_last, exchange, .. } => {
                NamespaceChange::Renamed {
                    old_parent: *old_parent,
                    new_parent: *new_parent,
                    file: *file,
                    other: *other,
                    other_last: *other_last,
                    exchanged: *exchange,
                }
            }
            Operation::List { directory, first, last, entries } => NamespaceChange::Listed {
                directory: *directory,
                first: *first,
                last: *last,
                children: entries.iter().map(|e| (e.node.file, e.node.kind)).collect(),
            },
        }
    }
}

/// First byte of an encoded operation.
mod tag {
    pub const CREATE: u8 = 1;
    pub const LINK: u8 = 2;
    pub const UNLINK: u8 = 3;
    pub const RENAME: u8 = 4;
    pub const LIST: u8 = 5;
}

/// Bytes of a node without its target.
const NODE_BYTES: usize = 10 + 1 + 4 + 4 + 4 + 8 + 2;

impl Operation {
    /// The payload of a `Namespace` frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(64);
        match self {
            Operation::Create { parent, name, node } => {
                body.put_u8(tag::CREATE);
                put_named(&mut body, *parent, name, node);
            }
            Operation::Link { parent, name, node } => {
                body.put_u8(tag::LINK);
                put_named(&mut body, *parent, name, node);
            }
            Operation::Unlink { parent, name, file, directory, last } => {
                body.put_u8(tag::UNLINK);
                body.put_file(*parent);
                body.put_short_bytes(name);
                body.put_file(*file);
                body.put_u8(u8::from(*directory));
                body.put_u8(u8::from(*last));
            }
            Operation::Rename {
                old_parent,
                old_name,
                new_parent,
                new_name,
                file,
                other,
                other_last,
                exchange,
            } => {
                body.put_u8(tag::RENAME);
                body.put_file(*old_parent);
                body.put_short_bytes(old_name);
                body.put_file(*new_parent);
                body.put_short_bytes(new_name);
                body.put_file(*file);
                body.put_u8(u8::from(other.is_some()));
                body.put_file(other.unwrap_or_default());
                body.put_u8(u8::from(*other_last));
                body.put_u8(u8::from(*exchange));
            }
            Operation::List { directory, first, last, entries } => {
                body.put_u8(tag::LIST);
                body.put_file(*directory);
                body.put_u8(u8::from(*first));
                body.put_u8(u8::from(*last));
                body.put_count(entries.len());
                for entry in entries {
                    body.put_short_bytes(&entry.name);
                    put_node(&mut body, &entry.node);
                }
            }
        }
        body
    }

    /// The operation in a payload. Names are checked: 1 to 255 bytes, no `/`, no NUL, neither `.` nor `..`.
    ///
    /// # Errors
    /// [`BodyError`].
    pub fn decode(body: &[u8]) -> Result<Operation, BodyError> {
        let mut cursor = Cursor::new(body);
        let operation = match cursor.u8()? {
            tag::CREATE => {
                let (parent, name, node) = named(&mut cursor)?;
                Operation::Create { parent, name, node }
            }
            tag::LINK => {
                let (parent, name, node) = named(&mut cursor)?;
                Operation::Link { parent, name, node }
            }
            tag::UNLINK => Operation::Unlink {
                parent: cursor.file()?,
                name: decode_name(&mut cursor)?,
                file: cursor.file()?,
                directory: cursor.flag("directory")?,
                last: cursor.flag("last")?,
            },
            tag::RENAME => decode_rename(&mut cursor)?,
            tag::LIST => decode_list(&mut cursor)?,
            _ => return Err(BodyError::Value("operation")),
        };
        cursor.finish()?;
        Ok(operation)
    }
}

impl ListedEntry {
    /// Bytes this entry takes in an encoded list: the edge splits a list so that each part stays below
    /// [`super::header::PAYLOAD_MAX`] (a part's own bytes are fewer than 32).
    #[must_use]
    pub fn encoded_length(&self) -> usize {
        2 + self.name.len() + NODE_BYTES + self.node.target.len()
    }
}

fn put_named(body: &mut Vec<u8>, parent: FileId, name: &[u8], node: &NewNode) {
    body.put_file(parent);
    body.put_short_bytes(name);
    put_node(body, node);
}

fn put_node(body: &mut Vec<u8>, node: &NewNode) {
    body.put_file(node.file);
    body.put_u8(node.kind as u8);
    body.put_u32(node.mode);
    body.put_u32(node.uid);
    body.put_u32(node.gid);
    body.put_u64(node.rdev);
    body.put_short_bytes(&node.target);
}

fn named(cursor: &mut Cursor<'_>) -> Result<(FileId, Name, NewNode), BodyError> {
    Ok((cursor.file()?, decode_name(cursor)?, decode_node(cursor)?))
}

fn decode_name(cursor: &mut Cursor<'_>) -> Result<Name, BodyError> {
    let name = cursor.short_bytes(NAME_MAX, "name")?;
    if name.is_empty() || name == b"." || name == b".." || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
        return Err(BodyError::Value("name"));
    }
    Ok(name)
}

fn decode_node(cursor: &mut Cursor<'_>) -> Result<NewNode, BodyError> {
    let node = NewNode {
        file: cursor.file()?,
        kind: FileKind::from_u8(cursor.u8()?).ok_or(BodyError::Value("file kind"))?,
        mode: cursor.u32()?,
        uid: cursor.u32()?,
        gid: cursor.u32()?,
        rdev: cursor.u64()?,
        target: cursor.short_bytes(TARGET_MAX, "symlink target")?,
    };
    if node.mode & !0o7777 != 0 {
        return Err(BodyError::Value("mode"));
    }
    if (node.kind == FileKind::Symlink) == node.target.is_empty() || node.target.contains(&0) {
        return Err(BodyError::Value("symlink target"));
    }
    Ok(node)
}

fn decode_rename(cursor: &mut Cursor<'_>) -> Result<Operation, BodyError> {
    let old_parent = cursor.file()?;
    let old_name = decode_name(cursor)?;
    let new_parent = cursor.file()?;
    let new_name = decode_name(cursor)?;
    let file = cursor.file()?;
    let has_other = cursor.flag("has other")?;
    let other = cursor.file()?;
    if !has_other && other != FileId::default() {
        return Err(BodyError::Value("other"));
    }
    Ok(Operation::Rename {
        old_parent,
        old_name,
        new_parent,
        new_name,
        file,
        other: has_other.then_some(other),
        other_last: cursor.flag("other last")?,
        exchange: cursor.flag("exchange")?,
    })
}

fn decode_list(cursor: &mut Cursor<'_>) -> Result<Operation, BodyError> {
    let directory = cursor.file()?;
    let first = cursor.flag("first")?;
    let last = cursor.flag("last")?;
    let count = cursor.count(2 + 1 + NODE_BYTES)?;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        entries.push(ListedEntry { name: decode_name(cursor)?, node: decode_node(cursor)? });
    }
    Ok(Operation::List { directory, first, last, entries })
}
