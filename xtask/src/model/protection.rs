//! Files and directories that their flags protect (chattr(1)): how the flags are set, and what then fails.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::acl;
use super::operation::{Copying, Flags, Operation, Outcome, Protection, Space, Step, Target, rounded};
use super::state::{Id, Kind, State};
use crate::lab::flags;

/// The two flags of which one protects a file.
const PROTECTING: i32 = flags::IMMUTABLE | flags::APPEND_ONLY;

impl Protection {
    /// What a file with these flags is protected from.
    #[must_use]
    pub fn of_flags(flags: i32) -> Protection {
        match flags & PROTECTING {
            0 => Protection::Nothing,
            flags::APPEND_ONLY => Protection::AppendOnly,
            _ => Protection::Immutable,
        }
    }

    /// Whether it refuses to open a file so.
    #[must_use]
    pub fn refuses(self, flags: Flags) -> bool {
        match self {
            Protection::Nothing => false,
            Protection::Immutable => flags.write || flags.truncate,
            Protection::AppendOnly => flags.write && !flags.append || flags.truncate,
        }
    }
}

/// Set the two flags of an open file, and leave the others.
///
/// # Errors
/// What ioctl(2) returns.
pub fn protect(file: &File, protection: Protection) -> io::Result<()> {
    let flags = match protection {
        Protection::Nothing => 0,
        Protection::Immutable => flags::IMMUTABLE,
        Protection::AppendOnly => flags::APPEND_ONLY,
    };
    flags::set(file, PROTECTING, flags)
}

/// Take the flags from everything in a tree, so that it can be deleted.
///
/// # Errors
/// A directory cannot be listed, or a flag stays.
pub fn release(path: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(path)?.file_type();
    if kind.is_file() || kind.is_dir() {
        protect(&File::open(path)?, Protection::Nothing)?;
    }
    if kind.is_dir() {
        fs::read_dir(path)?.try_for_each(|entry| release(&entry?.path()))?;
    }
    Ok(())
}

impl State {
    /// Whether a step would do to a protected file what is not foretold: a store into an immutable one ends the process (ext4), a
    /// mapping of an append-only one is refused by the kernel's file systems and not by a gate, which has no way to; calls that change
    /// nothing are refused by some file systems only; pipes and devices have flags on xfs, but not through a gate, where they are the
    /// kernel's own.
    #[must_use]
    pub fn is_beyond_protection(&self, step: &Step) -> bool {
        let process = &self.processes[usize::from(step.actor)];
        let open = step.operation.slot().and_then(|slot| process.slots[usize::from(slot)]);
        let slot = open.map_or(Protection::Nothing, |open| self.inode(open.id).protection);
        let protected = |target: &Target| {
            let id = self.target(usize::from(step.actor), target, false).ok().flatten();
            id.filter(|id| self.inode(*id).protection != Protection::Nothing)
        };
        match &step.operation {
            Operation::StoreMapped { map, .. } => process.maps[usize::from(*map)]
                .is_some_and(|(id, _)| self.inode(id).protection != Protection::Nothing),
            Operation::Map { .. } | Operation::Store { .. } => slot != Protection::Nothing,
            Operation::Write { at, length, .. } => {
                let (_, length) = rounded(open.is_some_and(|open| open.direct), *at, *length);
                length == 0 && slot != Protection::Nothing
            }
            Operation::Copy { to, from_at, length, .. } => {
                let to = process.slots[usize::from(*to)];
                let nothing = open.is_none_or(|open| self.part(open.id, *from_at, *length).is_empty());
                nothing && to.is_some_and(|to| self.inode(to.id).protection != Protection::Nothing)
            }
            Operation::SetOwner { target, uid: None, gid: None } => protected(target).is_some(),
            Operation::SetProtection { target, .. } => {
                let id = self.target(usize::from(step.actor), target, true).ok().flatten();
                id.is_some_and(|id| matches!(self.inode(id).kind, Kind::Node(_)))
            }
            Operation::RemoveAttribute { target, name } if name == acl::DEFAULT => {
                protected(target).is_some_and(|id| !self.is_directory(id))
            }
            _ => false,
        }
    }

    /// What becomes of a step that led from `before` to this state, or was refused, if something is protected: the outcome.
    #[must_use]
    pub fn with_protection(&mut self, before: State, step: &Step, outcome: Outcome) -> Outcome {
        if matches!(step.operation, Operation::SetProtection { .. }) || !before.protects() {
            return outcome;
        }
        match outcome {
            Outcome::Refused(errno) if before.is_on_protected(step) => Outcome::RefusedOrProtected(errno),
            Outcome::Refused(_) => outcome,
            _ if before.changed(self).any(|id| before.forbids(self, id, &step.operation)) => {
                let emptied = match step.operation {
                    Operation::Open { slot, .. } | Operation::OpenNameless { slot, .. } => Some(slot),
                    _ => None,
                };
                *self = before;
                if let Some(slot) = emptied {
                    self.processes[usize::from(step.actor)].slots[usize::from(slot)] = None;
                }
                Outcome::Refused(libc::EPERM)
            }
            _ => outcome,
        }
    }

    fn protects(&self) -> bool {
        (0..self.inodes()).any(|id| self.inode(id).protection != Protection::Nothing)
    }

    /// Whether something protected is named by a step, or is the directory of what is named.
    fn is_on_protected(&self, step: &Step) -> bool {
        let protected = |id: Id| self.inode(id).protection != Protection::Nothing;
        let process = &self.processes[usize::from(step.actor)];
        let by_slot = match (&step.operation, step.operation.target()) {
            (Operation::Copy { from, to, .. }, _) => vec![*from, *to],
            (_, Some((Target::Slot(slot), _))) => vec![*slot],
            (operation, _) => operation.slot().into_iter().collect(),
        };
        let mut open = by_slot.into_iter().filter_map(|slot| process.slots[usize::from(slot)]);
        open.any(|open| protected(open.id))
            || step.operation.paths().into_iter().any(|path| {
                [false, true]
                    .into_iter()
                    .filter_map(|follow| self.walk_to_parent(path, follow).ok())
                    .any(|place| protected(place.parent) || place.found.is_some_and(protected))
            })
    }

    /// Whether the change of an inode from this state to `after` is one that it, or what it names, is protected from.
    fn forbids(&self, after: &State, id: Id, operation: &Operation) -> bool {
        let loses_protected = self.names(id).is_ok_and(|names| {
            let now = after.names(id).ok();
            let lost = |(name, child): (&String, &Id)| now.and_then(|now| now.get(name)) != Some(child);
            names
                .iter()
                .filter(|entry| lost(*entry))
                .any(|(_, child)| self.inode(*child).protection != Protection::Nothing)
        });
        // A write that would take set-id bits away changes the mode (notify_change, fs/attr.c).
        let clears_set_ids = self.inode(id).mode != after.inode(id).mode;
        loses_protected
            || match self.inode(id).protection {
                Protection::Nothing => false,
                _ if clears_set_ids => true,
                Protection::Immutable => !(self.late_writes && is_late_write(operation)),
                Protection::AppendOnly => !self.is_addition(after, id, operation),
            }
    }

    /// Whether a change is one that append-only files and directories allow: whoever opened a file before goes on writing where he
    /// likes.
    fn is_addition(&self, after: &State, id: Id, operation: &Operation) -> bool {
        match (self.names(id), after.names(id)) {
            // Calls on its attributes leave the names as they are.
            (Ok(before), Ok(now)) => {
                now.len() > before.len() && before.iter().all(|(name, child)| now.get(name) == Some(child))
            }
            _ => matches!(
                operation,
                Operation::Write { .. }
                    | Operation::Copy { .. }
                    | Operation::Allocate { space: Space::Allocate | Space::Keep, .. }
            ),
        }
    }
}

/// Calls on a descriptor from before that some file systems do not refuse.
fn is_late_write(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::Write { .. }
            | Operation::SetLength { .. }
            | Operation::Copy { how: Copying::Send | Copying::Splice, .. }
    )
}
