//! Is it ours?

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
use replicator_common::{
    Filtered, MEMBERS_MAX, MemberKey, OF_SOME_VOLUME, OUTSIDE, Verdicts, WATCHED_MAX, flag, watched,
};

use crate::emit::MAPPABLE;
use crate::kernel::Kernel;
use crate::settings::{offset, setting};

/// The daemon's verdicts about files. Unknown files are told. `BPF_F_NO_PREALLOC`: only the daemon inserts.
#[map]
static MEMBERS: HashMap<MemberKey, u32> = HashMap::with_max_entries(MEMBERS_MAX, 1);

/// Some of these verdicts again, to be had without a call. The daemon takes a verdict away here before it does in [`MEMBERS`].
#[map]
static VERDICTS: Array<Verdicts> =
    Array::with_max_entries(WATCHED_MAX as u32 * Verdicts::PLACES, MAPPABLE);

#[map]
static FILTERED: PerCpuArray<Filtered> = PerCpuArray::with_max_entries(1, 0);

/// A file on a watched file system.
#[derive(Clone, Copy)]
pub struct File {
    pub inode: Kernel,
    /// Flags of its file system ([`watched`]), and its number among those that are watched.
    pub watched: u32,
    pub number: u32,
    pub key: MemberKey,
    pub tgid: u32,
    pub member: u32,
    pub flags: u8,
}

/// The file behind an inode, if its file system is watched.
#[inline(always)]
pub fn on_watched_device(inode: Kernel) -> Option<File> {
    let device = inode.pointer(offset!(inode_superblock))?.u32(offset!(superblock_device));
    let (number, watched) = find_watched(device)?;
    let key = MemberKey {
        inode: inode.u64(offset!(inode_number)),
        device,
        generation: inode.u32(offset!(inode_generation)),
    };
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    Some(File { inode, watched, number, key, tgid, member: 0, flags: 0 })
}

/// The file behind an inode, if its file system is watched and it is not known to lie outside of the replicated directories
/// and somebody else than the daemon is at work.
#[inline(always)]
pub fn ours(inode: Kernel) -> Option<File> {
    not_outside(not_own(on_watched_device(inode)?)?)
}

/// Drop what the daemon does itself.
#[inline(always)]
pub fn not_own(file: File) -> Option<File> {
    if file.is_own() {
        count(|filtered| filtered.own += 1);
        return None;
    }
    Some(file)
}

/// Drop what is known to lie outside.
#[inline(always)]
pub fn not_outside(file: File) -> Option<File> {
    let file = file.looked_up();
    if file.is_outside() {
        count(|filtered| filtered.outside += 1);
        return None;
    }
    Some(file)
}

impl File {
    /// With [`flag::MAPPED`] if a store may reach the file: there is a shared mapping that is or may become writable.
    #[inline(always)]
    pub fn marked_if_mapped(mut self) -> File {
        if self.inode.pointer(offset!(inode_mapping)).is_some_and(is_mapped) {
            self.flags |= flag::MAPPED;
        }
        self
    }

    #[inline(always)]
    pub fn is_own(&self) -> bool {
        let own = setting!(own_tgid);
        own != 0 && self.tgid == own
    }

    #[inline(always)]
    pub fn has_own_buffered_hook(&self) -> bool {
        self.watched & watched::BUFFERED != 0
    }

    /// With what the membership table says.
    #[inline(always)]
    pub fn looked_up(mut self) -> File {
        if self.watched & watched::WHOLE != 0 {
            return self;
        }
        if let Some(member) = recent_verdict(self.number, self.key) {
            self.member = member;
            self.flags |= flag::MEMBER;
            return self;
        }
        // SAFETY: the value is a plain number; a torn or stale one is impossible at four bytes.
        if let Some(member) = unsafe { MEMBERS.get(&self.key) } {
            self.member = *member;
            self.flags |= flag::MEMBER;
        }
        self
    }

    #[inline(always)]
    pub fn is_outside(&self) -> bool {
        self.flags & flag::MEMBER != 0 && self.member == OUTSIDE
    }
}

/// Whether an address space has a shared mapping that is or may become writable. The kernel counts it before the first page
/// of it is mapped.
#[inline(always)]
pub fn is_mapped(mapping: Kernel) -> bool {
    (mapping.u32(offset!(mapping_writable)) as i32) > 0
}

/// What the table of recent verdicts says.
#[inline(always)]
fn recent_verdict(watched: u32, key: MemberKey) -> Option<u32> {
    let identity = key.identity();
    if identity == 0 {
        return None;
    }
    let verdicts = VERDICTS.get_ptr(Verdicts::place(watched, identity))?;
    // SAFETY: an element of the map, valid for the life of the program; each field is one aligned word.
    unsafe {
        if (&raw const (*verdicts).outside).read_volatile() == identity {
            return Some(OUTSIDE);
        }
        ((&raw const (*verdicts).member).read_volatile() == identity).then_some(OF_SOME_VOLUME)
    }
}

/// Number and flags of a watched file system.
#[inline(always)]
fn find_watched(device: u32) -> Option<(u32, u32)> {
    let mut index = 0;
    while index < WATCHED_MAX {
        let candidate = setting!(watched[index].device);
        if candidate == 0 {
            return None;
        }
        if candidate == device {
            return Some((index as u32, setting!(watched[index].flags)));
        }
        index += 1;
    }
    None
}

#[inline(always)]
fn count(add: impl FnOnce(&mut Filtered)) {
    if let Some(filtered) = FILTERED.get_ptr_mut(0) {
        // SAFETY: the pointer is to this processor's own value, which nobody else writes.
        add(unsafe { &mut *filtered });
    }
}
