//! The table of hooks: where each program sits, what it covers, and which parameters it wants.

use replicator_common::{Hook, PARAMETERS_MAX, UNUSED_PARAMETER};

use super::btf::{Named, Parameter, Types};

/// What kind of program a hook is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ProgramKind {
    /// A tracepoint (BTF-typed raw tracepoint).
    Tracepoint,
    /// The entry of a function (fentry).
    Entry,
    /// The exit of a function (fexit).
    Exit,
}

/// What a hook makes visible.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Cover {
    /// write(2) and its like into the page cache.
    Buffered,
    /// Direct I/O.
    Direct,
    /// Stores to shared mappings.
    Mapped,
    /// Stores to a shared mapping in folios that were dirty before it was made.
    Remapped,
    /// truncate and fallocate in all modes.
    Shape,
    /// Copies that share extents.
    Copied,
    /// Names in directories.
    Names,
    /// Mode, owner, times, extended attributes.
    Attributes,
    /// fsync by others.
    Synced,
}

impl Cover {
    /// For reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Cover::Buffered => "buffered writes",
            Cover::Direct => "direct I/O",
            Cover::Mapped => "stores to shared mappings",
            Cover::Remapped => "stores into pages already dirty",
            Cover::Shape => "truncate and fallocate",
            Cover::Copied => "copies that share extents",
            Cover::Names => "names",
            Cover::Attributes => "attributes",
            Cover::Synced => "syncs by others",
        }
    }
}

/// A parameter that a program uses.
#[derive(Clone, Copy, Debug)]
pub enum Wanted {
    /// By name and type; the type decides where the kernel keeps no names.
    Parameter(&'static str, &'static str),
    /// The same, but the program can do without.
    Optional(&'static str, &'static str),
    /// What the function returns.
    Return,
}

/// A hook's place.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Which program.
    pub hook: Hook,
    /// What kind of program.
    pub kind: ProgramKind,
    /// The tracepoint's or the function's name.
    pub target: &'static str,
    /// Only this file system has it; it may be a module of that name.
    pub filesystem: Option<&'static str>,
    /// What it makes visible.
    pub covers: Cover,
    /// The parameters the program uses, in its order.
    pub wanted: &'static [Wanted],
}

use Cover::{Attributes, Buffered, Copied, Direct, Mapped, Names, Remapped, Shape, Synced};
use ProgramKind::{Entry, Exit, Tracepoint};
use Wanted::{Optional, Return};

const fn place(
    hook: Hook,
    kind: ProgramKind,
    target: &'static str,
    filesystem: Option<&'static str>,
    covers: Cover,
    wanted: &'static [Wanted],
) -> Place {
    Place { hook, kind, target, filesystem, covers, wanted }
}

const fn want(name: &'static str, type_name: &'static str) -> Wanted {
    Wanted::Parameter(name, type_name)
}

const INODE: Wanted = want("inode", "struct inode *");
const FILE: Wanted = want("file", "struct file *");
const REQUEST: Wanted = want("iocb", "struct kiocb *");
const ITERATOR: Wanted = want("iter", "struct iov_iter *");
const XFS_INODE: Wanted = want("ip", "struct xfs_inode *");
const MAPPING: Wanted = want("mapping", "struct address_space *");
const FAULT: Wanted = want("vmf", "struct vm_fault *");
const DENTRY: Wanted = want("dentry", "struct dentry *");
const DIRECTORY: Wanted = Optional("dir", "struct inode *");

const WRITE_END: &[Wanted] = &[INODE, want("pos", "loff_t"), want("len", "unsigned int")];
const EXT4_RANGE: &[Wanted] = &[INODE, want("offset", "loff_t"), want("len", "loff_t")];
const XFS_WRITE: &[Wanted] = &[REQUEST, ITERATOR];
const WRITE_ITER: &[Wanted] = &[REQUEST, Return];
const CREATED: &[Wanted] = &[DENTRY, DIRECTORY];
const OUTPUT: &[Wanted] = &[want("file_out", "struct file *"), want("pos_out", "loff_t"), want("len", "")];
const RENAME: &[Wanted] = &[want("rd", "struct renamedata *")];

const EXT4: Option<&str> = Some("ext4");
const XFS: Option<&str> = Some("xfs");
const BTRFS: Option<&str> = Some("btrfs");

/// Every hook.
pub const PLACES: &[Place] = &[
    place(Hook::Ext4DaWriteEnd, Tracepoint, "ext4_da_write_end", EXT4, Buffered, WRITE_END),
    place(Hook::Ext4WriteEnd, Tracepoint, "ext4_write_end", EXT4, Buffered, WRITE_END),
    place(Hook::Ext4JournalledWriteEnd, Tracepoint, "ext4_journalled_write_end", EXT4, Buffered, WRITE_END),
    place(Hook::Ext4TruncateEnter, Tracepoint, "ext4_truncate_enter", EXT4, Shape, &[INODE]),
    place(
        Hook::Ext4FallocateExit,
        Tracepoint,
        "ext4_fallocate_exit",
        EXT4,
        Shape,
        &[INODE, want("offset", "loff_t"), want("max_blocks", "unsigned int")],
    ),
    place(Hook::Ext4PunchHole, Tracepoint, "ext4_punch_hole", EXT4, Shape, EXT4_RANGE),
    place(Hook::Ext4ZeroRange, Tracepoint, "ext4_zero_range", EXT4, Shape, EXT4_RANGE),
    place(Hook::Ext4CollapseRange, Tracepoint, "ext4_collapse_range", EXT4, Shape, EXT4_RANGE),
    place(Hook::Ext4InsertRange, Tracepoint, "ext4_insert_range", EXT4, Shape, EXT4_RANGE),
    place(Hook::Ext4SyncFileEnter, Tracepoint, "ext4_sync_file_enter", EXT4, Synced, &[FILE]),
    place(Hook::XfsFileBufferedWrite, Tracepoint, "xfs_file_buffered_write", XFS, Buffered, XFS_WRITE),
    place(Hook::XfsFileDirectWrite, Tracepoint, "xfs_file_direct_write", XFS, Direct, XFS_WRITE),
    place(
        Hook::XfsReflinkRemapRange,
        Tracepoint,
        "xfs_reflink_remap_range",
        XFS,
        Copied,
        &[want("dest", ""), want("doffset", ""), want("len", "")],
    ),
    place(Hook::XfsSetattr, Tracepoint, "xfs_setattr", XFS, Shape, &[XFS_INODE]),
    place(Hook::XfsAllocFileSpace, Tracepoint, "xfs_alloc_file_space", XFS, Shape, &[XFS_INODE]),
    place(Hook::XfsFreeFileSpace, Tracepoint, "xfs_free_file_space", XFS, Shape, &[XFS_INODE]),
    place(Hook::XfsZeroFileSpace, Tracepoint, "xfs_zero_file_space", XFS, Shape, &[XFS_INODE]),
    place(Hook::XfsCollapseFileSpace, Tracepoint, "xfs_collapse_file_space", XFS, Shape, &[XFS_INODE]),
    place(Hook::XfsInsertFileSpace, Tracepoint, "xfs_insert_file_space", XFS, Shape, &[XFS_INODE]),
    place(Hook::XfsFileFsync, Tracepoint, "xfs_file_fsync", XFS, Synced, &[XFS_INODE]),
    place(Hook::BtrfsSyncFile, Tracepoint, "btrfs_sync_file", BTRFS, Synced, &[FILE]),
    place(Hook::IomapDioRwBegin, Tracepoint, "iomap_dio_rw_begin", None, Direct, XFS_WRITE),
    place(
        Hook::IomapDioComplete,
        Tracepoint,
        "iomap_dio_complete",
        None,
        Direct,
        &[REQUEST, want("ret", "ssize_t")],
    ),
    place(
        Hook::WritebackDirtyFolio,
        Tracepoint,
        "writeback_dirty_folio",
        None,
        Mapped,
        &[want("folio", "struct folio *"), MAPPING],
    ),
    place(
        Hook::MmFilemapFault,
        Tracepoint,
        "mm_filemap_fault",
        None,
        Remapped,
        &[MAPPING, want("index", "")],
    ),
    place(
        Hook::MmFilemapMapPages,
        Tracepoint,
        "mm_filemap_map_pages",
        None,
        Remapped,
        &[MAPPING, want("start_pgoff", ""), want("end_pgoff", "")],
    ),
    place(Hook::FilemapFault, Entry, "filemap_fault", None, Remapped, &[FAULT]),
    place(
        Hook::FilemapMapPages,
        Entry,
        "filemap_map_pages",
        None,
        Remapped,
        &[FAULT, want("start_pgoff", ""), want("end_pgoff", "")],
    ),
    place(Hook::Ext4FileWriteIter, Exit, "ext4_file_write_iter", EXT4, Buffered, WRITE_ITER),
    place(Hook::XfsFileWriteIter, Exit, "xfs_file_write_iter", XFS, Buffered, WRITE_ITER),
    place(Hook::BtrfsFileWriteIter, Exit, "btrfs_file_write_iter", BTRFS, Buffered, WRITE_ITER),
    place(Hook::GenericWriteChecks, Exit, "generic_write_checks", None, Buffered, WRITE_ITER),
    place(Hook::VfsWrite, Exit, "vfs_write", None, Buffered, &[FILE, want("pos", "loff_t *"), Return]),
    place(Hook::DoTruncate, Exit, "do_truncate", None, Shape, &[DENTRY, want("length", "loff_t")]),
    place(
        Hook::VfsFallocate,
        Exit,
        "vfs_fallocate",
        None,
        Shape,
        &[FILE, want("mode", "int"), want("offset", "loff_t"), want("len", "loff_t")],
    ),
    place(Hook::VfsCopyFileRange, Exit, "vfs_copy_file_range", None, Copied, OUTPUT),
    place(Hook::VfsCloneFileRange, Exit, "vfs_clone_file_range", None, Copied, OUTPUT),
    place(Hook::VfsOpen, Exit, "vfs_open", None, Names, &[want("path", "struct path *"), FILE]),
    place(Hook::VfsCreate, Exit, "vfs_create", None, Names, CREATED),
    place(Hook::VfsTmpfile, Exit, "vfs_tmpfile", None, Names, &[FILE]),
    place(Hook::VfsMkdir, Exit, "vfs_mkdir", None, Names, CREATED),
    place(Hook::VfsMknod, Exit, "vfs_mknod", None, Names, CREATED),
    place(Hook::VfsSymlink, Exit, "vfs_symlink", None, Names, CREATED),
    place(
        Hook::VfsLink,
        Exit,
        "vfs_link",
        None,
        Names,
        &[want("old_dentry", "struct dentry *"), want("new_dentry", "struct dentry *"), DIRECTORY],
    ),
    place(Hook::VfsUnlinkEntry, Entry, "vfs_unlink", None, Names, CREATED),
    place(Hook::VfsUnlink, Exit, "vfs_unlink", None, Names, CREATED),
    place(Hook::VfsRmdirEntry, Entry, "vfs_rmdir", None, Names, CREATED),
    place(Hook::VfsRmdir, Exit, "vfs_rmdir", None, Names, CREATED),
    place(Hook::VfsRenameEntry, Entry, "vfs_rename", None, Names, RENAME),
    place(Hook::VfsRename, Exit, "vfs_rename", None, Names, RENAME),
    place(
        Hook::NotifyChange,
        Exit,
        "notify_change",
        None,
        Attributes,
        &[DENTRY, want("attr", "struct iattr *")],
    ),
    place(Hook::VfsSetxattr, Exit, "vfs_setxattr", None, Attributes, &[DENTRY]),
    place(Hook::VfsRemovexattr, Exit, "vfs_removexattr", None, Attributes, &[DENTRY]),
    place(Hook::VfsSetAcl, Exit, "vfs_set_acl", None, Attributes, &[DENTRY]),
    place(Hook::VfsRemoveAcl, Exit, "vfs_remove_acl", None, Attributes, &[DENTRY]),
    place(Hook::VfsFsyncRange, Entry, "vfs_fsync_range", None, Synced, &[FILE]),
    place(Hook::VfsFsync, Entry, "vfs_fsync", None, Synced, &[FILE]),
];

/// Why a hook's parameters could not be told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unresolved {
    /// The kernel has no such tracepoint or function.
    Absent,
    /// It has no parameter of that name and type.
    Parameter(&'static str),
}

impl Place {
    /// The places of the parameters the program uses, in its order.
    ///
    /// # Errors
    /// [`Unresolved`].
    pub fn resolve(&self, types: &Types<'_>) -> Result<[u8; PARAMETERS_MAX], Unresolved> {
        let parameters = match self.kind {
            ProgramKind::Tracepoint => tracepoint_parameters(types, self.target),
            ProgramKind::Entry | ProgramKind::Exit => types.parameters(self.target),
        };
        let parameters = parameters.ok_or(Unresolved::Absent)?;
        let mut places = [UNUSED_PARAMETER; PARAMETERS_MAX];
        for (index, wanted) in self.wanted.iter().enumerate() {
            let found = match *wanted {
                Wanted::Return => Some(parameters.len()),
                Wanted::Parameter(name, type_name) | Optional(name, type_name) => {
                    find(types, &parameters, name, type_name)
                }
            };
            let place = match (found.and_then(|place| u8::try_from(place).ok()), *wanted) {
                (Some(place), _) => place,
                (None, Optional(..)) => UNUSED_PARAMETER,
                (None, Wanted::Parameter(name, _)) => return Err(Unresolved::Parameter(name)),
                (None, Return) => return Err(Unresolved::Parameter("return value")),
            };
            if let Some(slot) = places.get_mut(index) {
                *slot = place;
            }
        }
        Ok(places)
    }
}

/// A tracepoint's parameters. The type that programs are checked against has no names, the function that calls the
/// programs has them.
fn tracepoint_parameters(types: &Types<'_>, tracepoint: &str) -> Option<Vec<Parameter>> {
    let typed = types.tracepoint(tracepoint)?;
    let named = ["__traceiter_", "__bpf_trace_"].iter().find_map(|prefix| {
        let function = format!("{prefix}{tracepoint}");
        types.find(Named::Function, &function)?;
        let mut named = types.parameters(&function)?;
        if named.is_empty() {
            return None;
        }
        named.remove(0);
        (named.len() == typed.len()).then_some(named)
    });
    Some(named.unwrap_or(typed))
}

fn find(types: &Types<'_>, parameters: &[Parameter], name: &str, type_name: &str) -> Option<usize> {
    let fits =
        |parameter: &Parameter| type_name.is_empty() || types.type_name(parameter.type_id) == type_name;
    let by_name = parameters.iter().position(|parameter| parameter.name == name && fits(parameter));
    if by_name.is_some() {
        return by_name;
    }
    // A pointer to a structure speaks for itself if there is only one; a number does not.
    let mut by_type = parameters
        .iter()
        .enumerate()
        .filter(|(_, parameter)| type_name.starts_with("struct ") && fits(parameter));
    let (index, _) = by_type.next()?;
    by_type.next().is_none().then_some(index)
}
