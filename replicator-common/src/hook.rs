//! Names of the places in the kernel where a program sits.

/// Parameters that one program uses at most (a multiple of four, so that the settings have no padding).
pub const PARAMETERS_MAX: usize = 8;

/// Place of a parameter that the running kernel's function does not have.
pub const UNUSED_PARAMETER: u8 = u8::MAX;

macro_rules! hooks {
    ($($(#[$doc:meta])* $name:ident = $program:literal,)*) => {
        /// One kernel program.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Hook {
            $($(#[$doc])* #[doc = concat!("Program `", $program, "`.")] $name,)*
        }

        impl Hook {
            /// All hooks, in the order of their numbers.
            pub const ALL: &'static [Hook] = &[$(Hook::$name,)*];
            /// How many there are.
            pub const COUNT: usize = Hook::ALL.len();

            /// The name of its program in the object file.
            #[must_use]
            pub const fn program(self) -> &'static str {
                match self {
                    $(Hook::$name => $program,)*
                }
            }
        }
    };
}

hooks! {
    // Tracepoints of ext4.
    Ext4DaWriteEnd = "ext4_da_write_end",
    Ext4WriteEnd = "ext4_write_end",
    Ext4JournalledWriteEnd = "ext4_journalled_write_end",
    Ext4TruncateEnter = "ext4_truncate_enter",
    Ext4FallocateExit = "ext4_fallocate_exit",
    Ext4PunchHole = "ext4_punch_hole",
    Ext4ZeroRange = "ext4_zero_range",
    Ext4CollapseRange = "ext4_collapse_range",
    Ext4InsertRange = "ext4_insert_range",
    Ext4SyncFileEnter = "ext4_sync_file_enter",
    // Tracepoints of xfs.
    XfsFileBufferedWrite = "xfs_file_buffered_write",
    XfsFileDirectWrite = "xfs_file_direct_write",
    XfsReflinkRemapRange = "xfs_reflink_remap_range",
    XfsSetattr = "xfs_setattr",
    XfsAllocFileSpace = "xfs_alloc_file_space",
    XfsFreeFileSpace = "xfs_free_file_space",
    XfsZeroFileSpace = "xfs_zero_file_space",
    XfsCollapseFileSpace = "xfs_collapse_file_space",
    XfsInsertFileSpace = "xfs_insert_file_space",
    XfsFileFsync = "xfs_file_fsync",
    // Tracepoint of btrfs.
    BtrfsSyncFile = "btrfs_sync_file",
    // Tracepoints of all file systems.
    IomapDioRwBegin = "iomap_dio_rw_begin",
    IomapDioComplete = "iomap_dio_complete",
    WritebackDirtyFolio = "writeback_dirty_folio",
    MmFilemapFault = "mm_filemap_fault",
    MmFilemapMapPages = "mm_filemap_map_pages",
    // Functions: bytes.
    FilemapFault = "filemap_fault",
    FilemapMapPages = "filemap_map_pages",
    Ext4FileWriteIter = "ext4_file_write_iter",
    XfsFileWriteIter = "xfs_file_write_iter",
    BtrfsFileWriteIter = "btrfs_file_write_iter",
    GenericWriteChecks = "generic_write_checks",
    VfsWrite = "vfs_write",
    DoTruncate = "do_truncate",
    VfsFallocate = "vfs_fallocate",
    VfsCopyFileRange = "vfs_copy_file_range",
    VfsCloneFileRange = "vfs_clone_file_range",
    // Functions: names.
    VfsOpen = "vfs_open",
    VfsCreate = "vfs_create",
    VfsTmpfile = "vfs_tmpfile",
    VfsMkdir = "vfs_mkdir",
    VfsMknod = "vfs_mknod",
    VfsSymlink = "vfs_symlink",
    VfsLink = "vfs_link",
    VfsUnlinkEntry = "vfs_unlink_entry",
    VfsUnlink = "vfs_unlink",
    VfsRmdirEntry = "vfs_rmdir_entry",
    VfsRmdir = "vfs_rmdir",
    VfsRenameEntry = "vfs_rename_entry",
    VfsRename = "vfs_rename",
    // Functions: attributes.
    NotifyChange = "notify_change",
    VfsSetxattr = "vfs_setxattr",
    VfsRemovexattr = "vfs_removexattr",
    VfsSetAcl = "vfs_set_acl",
    VfsRemoveAcl = "vfs_remove_acl",
    // Functions: durability.
    VfsFsyncRange = "vfs_fsync_range",
    VfsFsync = "vfs_fsync",
}

impl Hook {
    /// The hook with that number.
    #[must_use]
    pub fn from_u8(value: u8) -> Option<Hook> {
        Hook::ALL.get(usize::from(value)).copied()
    }
}
