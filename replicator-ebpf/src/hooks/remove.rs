//! unlink(2) and rmdir(2). What is removed is only known at entry, what has changed only at exit. Parameters: dentry,
//! directory (where the kernel still passes it).

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;
use replicator_common::{Hook, Kind, MemberKey};

use super::create::parent;
use super::{on_entry, on_exit};
use crate::emit::{Range, emit};
use crate::filter::{File, ours};
use crate::kernel::{Arguments, Kernel};
use crate::settings::offset;

/// What a thread is about to remove or replace.
#[map]
static VICTIMS: LruHashMap<u64, MemberKey> = LruHashMap::with_max_entries(8192, 0);

on_entry! {
    VfsUnlinkEntry, vfs_unlink_entry => entered
}

on_entry! {
    VfsRmdirEntry, vfs_rmdir_entry => entered
}

on_exit! {
    VfsUnlink, vfs_unlink => left
}

on_exit! {
    VfsRmdir, vfs_rmdir => left
}

#[inline(always)]
fn entered(arguments: Arguments) -> Option<()> {
    note_victim(arguments.pointer(0)?)
}

#[inline(always)]
fn left(arguments: Arguments) -> Option<()> {
    let Some(directory) = parent(arguments.pointer(1), arguments.pointer(0)?).and_then(ours) else {
        forget_victim();
        return None;
    };
    tell_victim(arguments.hook(), &directory);
    emit(arguments.hook(), Kind::Directory, &directory, Range::NONE);
    Some(())
}

/// At entry: remember the file behind a name that is going to be lost.
#[inline(always)]
pub fn note_victim(dentry: Kernel) -> Option<()> {
    let thread = bpf_get_current_pid_tgid();
    match dentry.pointer(offset!(dentry_inode)).and_then(ours) {
        Some(file) => {
            let _ = VICTIMS.insert(&thread, &file.key, 0);
        }
        None => {
            let _ = VICTIMS.remove(&thread);
        }
    }
    Some(())
}

/// At exit: tell that its link count changed.
#[inline(always)]
pub fn tell_victim(hook: Hook, directory: &File) {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: copied at once, and only this thread writes its own entry.
    let Some(key) = (unsafe { VICTIMS.get(&thread) }).copied() else { return };
    let _ = VICTIMS.remove(&thread);
    let victim = File { key, member: 0, flags: 0, ..*directory }.looked_up();
    emit(hook, Kind::Attributes, &victim, Range::NONE);
}

/// At exit: what was noted is of no use.
#[inline(always)]
pub fn forget_victim() {
    let _ = VICTIMS.remove(&bpf_get_current_pid_tgid());
}
