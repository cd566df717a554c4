//! What the daemon tells the kernel programs.

use crate::hook::{Hook, PARAMETERS_MAX};

/// Largest number of file systems that can be watched.
pub const WATCHED_MAX: usize = 16;

/// Pages of the largest folio of any kernel (`MAX_PAGECACHE_ORDER` is at most 11): the bound where a folio's own size is
/// not to be found.
pub const FOLIO_LARGEST_PAGES: u64 = 1 << 11;

/// Read-only settings, written once before the programs are loaded: the verifier knows the values and drops what they
/// make unreachable.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Settings {
    /// Where the fields lie.
    pub layout: Layout,
    /// The file systems to report about; the first one with device 0 ends the list.
    pub watched: [Watched; WATCHED_MAX],
    /// Per hook: the places of the parameters it uses, in the order the hook's program names them.
    pub parameters: [[u8; PARAMETERS_MAX]; Hook::COUNT],
    /// The process whose doings are not told (0: none), as the initial PID namespace numbers it.
    pub own_tgid: u32,
    /// log2 of the page size.
    pub page_shift: u32,
}

// No padding: the bytes are handed over as they lie in memory.
const _: () = assert!(
    size_of::<Settings>()
        == size_of::<Layout>()
            + WATCHED_MAX * size_of::<Watched>()
            + Hook::COUNT * PARAMETERS_MAX
            + 2 * size_of::<u32>()
);

impl Settings {
    /// As compiled into the programs: nothing is watched.
    pub const UNSET: Settings = Settings {
        layout: Layout::UNSET,
        watched: [Watched { device: 0, flags: 0 }; WATCHED_MAX],
        parameters: [[0; PARAMETERS_MAX]; Hook::COUNT],
        own_tgid: 0,
        page_shift: 12,
    };
}

macro_rules! layout {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// Offsets in bytes of the kernel's fields. A field that the running kernel does not have is [`Layout::MISSING`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(C)]
        pub struct Layout {
            $($(#[$doc])* pub $field: u32,)*
        }

        impl Layout {
            /// No field is known.
            pub const UNSET: Layout = Layout { $($field: Layout::MISSING,)* };
        }
    };
}

layout! {
    /// `inode.i_sb`
    inode_superblock,
    /// `inode.i_ino`
    inode_number,
    /// `inode.i_generation`
    inode_generation,
    /// `inode.i_size`
    inode_size,
    /// `inode.i_mode`
    inode_mode,
    /// `inode.i_blkbits`
    inode_block_bits,
    /// `inode.i_mapping`
    inode_mapping,
    /// `super_block.s_dev`
    superblock_device,
    /// `file.f_inode`
    file_inode,
    /// `file.f_mode`
    file_mode,
    /// `path.dentry`
    path_dentry,
    /// `kiocb.ki_filp`
    request_file,
    /// `kiocb.ki_pos`
    request_position,
    /// `iov_iter.count`
    iterator_count,
    /// `iov_iter.data_source`
    iterator_is_source,
    /// `vm_fault.vma`
    fault_area,
    /// `vm_fault.pgoff`
    fault_page,
    /// `vm_area_struct.vm_file`
    area_file,
    /// `file.f_mapping`
    file_mapping,
    /// `address_space.host`
    mapping_inode,
    /// `address_space.i_mmap_writable`
    mapping_writable,
    /// `address_space.i_pages.xa_head`
    mapping_pages,
    /// `xa_node.shift`
    pages_node_shift,
    /// `xa_node.slots`, if there are 64 of them
    pages_node_slots,
    /// `folio.flags`
    folio_flags,
    /// `folio.index`
    folio_index,
    /// `folio._nr_pages` (4 bytes)
    folio_pages,
    /// `folio._flags_1`, whose lowest byte is the order where there is no `_nr_pages`
    folio_order,
    /// Number of the bit in `folio.flags` that marks a large folio; not an offset.
    folio_head_bit,
    /// Number of the bit in `folio.flags` that marks a dirty folio; not an offset.
    folio_dirty_bit,
    /// `folio._refcount`
    folio_references,
    /// `dentry.d_inode`
    dentry_inode,
    /// `dentry.d_parent`
    dentry_parent,
    /// `xfs_inode.i_vnode`
    xfs_inode,
    /// `iattr.ia_valid`
    attributes_valid,
    /// `iattr.ia_size`
    attributes_size,
    /// `renamedata.old_dentry`
    rename_old,
    /// `renamedata.new_dentry`
    rename_new,
    /// `renamedata.flags`
    rename_flags,
    /// `renamedata.old_parent` (a dentry, since Linux 6.17)
    rename_old_parent,
    /// `renamedata.old_dir` (an inode, before)
    rename_old_directory,
    /// `renamedata.new_parent`
    rename_new_parent,
    /// `renamedata.new_dir`
    rename_new_directory,
}

impl Layout {
    /// The running kernel has no such field.
    pub const MISSING: u32 = u32::MAX;
}

/// A watched file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Watched {
    /// The superblock's device in the kernel's own encoding (major << 20 | minor).
    pub device: u32,
    /// See [`watched`].
    pub flags: u32,
}

/// Bits of [`Watched::flags`].
pub mod watched {
    /// Every file of it is a member: nothing is looked up.
    pub const WHOLE: u32 = 1;
    /// A hook of its own tells buffered writes: a dirty folio is told only if the file is mapped, and the hooks for all file
    /// systems keep quiet.
    pub const BUFFERED: u32 = 2;
}

/// Key of the membership table. The generation keeps a verdict about a deleted file from being applied to a new file that
/// got the same inode number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct MemberKey {
    /// Inode number.
    pub inode: u64,
    /// The superblock's device.
    pub device: u32,
    /// The inode's generation.
    pub generation: u32,
}

const _: () = assert!(size_of::<MemberKey>() == 16);

impl MemberKey {
    /// Inode number and generation in one, for the table of recent verdicts. 0 for a number that needs more than 32 bits: no
    /// verdict about such a file is kept there.
    #[must_use]
    pub const fn identity(self) -> u64 {
        if self.inode >> 32 == 0 { self.inode << 32 | self.generation as u64 } else { 0 }
    }
}

/// Value of the membership table for a file in no replicated directory; otherwise the volume's number plus one.
pub const OUTSIDE: u32 = 0;

/// In a record, in place of a volume's number plus one: a member; the daemon knows whose.
pub const OF_SOME_VOLUME: u32 = u32::MAX;

/// A place of the table of recent verdicts. Each field is written as a whole, so that no reader sees halves of two files.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Verdicts {
    /// [`MemberKey::identity`] of a file that lies outside of the replicated directories, or 0.
    pub outside: u64,
    /// The same of a file that lies inside.
    pub member: u64,
}

const _: () = assert!(size_of::<Verdicts>() == 16);

impl Verdicts {
    /// Places for each watched file system.
    pub const PLACES: u32 = 1 << Self::PLACES_BITS;
    const PLACES_BITS: u32 = 11;

    /// Where the verdict about a file belongs; `watched` is the number of its file system among [`Settings::watched`].
    #[must_use]
    pub const fn place(watched: u32, identity: u64) -> u32 {
        // Fibonacci hashing: inode numbers come in rows.
        let hash = identity.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - Self::PLACES_BITS);
        watched * Self::PLACES + hash as u32
    }
}

/// A direct I/O request under way.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DirectIo {
    /// First byte.
    pub offset: u64,
    /// Bytes asked for.
    pub length: u64,
    /// 1: its completion is not to be told (a read, or the daemon's own).
    pub ignored: u64,
}

const _: () = assert!(size_of::<DirectIo>() == 24);
