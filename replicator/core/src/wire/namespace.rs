//! Namespace operations as they travel: the payload of a `Namespace` frame.

use alloc::vec::Vec;

use crate::event::NamespaceChange;
use crate::ids::{FileId, FileKind};

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
