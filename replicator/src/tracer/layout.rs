//! Where the running kernel's fields lie.

use replicator_common::Layout;

use super::btf::Types;

/// Look every field up. A field that is not found stays [`Layout::MISSING`]: the verifier then refuses the programs that
/// need it, so that a hook is reported as refused instead of reading something else.
#[must_use]
pub fn layout(types: &Types<'_>) -> Layout {
    let at = |structure, field| types.field(structure, field).unwrap_or(Layout::MISSING);
    Layout {
        inode_superblock: at("inode", "i_sb"),
        inode_number: at("inode", "i_ino"),
        inode_generation: at("inode", "i_generation"),
        inode_size: at("inode", "i_size"),
        inode_mode: at("inode", "i_mode"),
        inode_block_bits: at("inode", "i_blkbits"),
        inode_mapping: at("inode", "i_mapping"),
        superblock_device: at("super_block", "s_dev"),
        file_inode: at("file", "f_inode"),
        file_mode: at("file", "f_mode"),
        path_dentry: at("path", "dentry"),
        request_file: at("kiocb", "ki_filp"),
        request_position: at("kiocb", "ki_pos"),
        iterator_count: at("iov_iter", "count"),
        iterator_is_source: at("iov_iter", "data_source"),
        fault_area: at("vm_fault", "vma"),
        fault_page: at("vm_fault", "pgoff"),
        area_file: at("vm_area_struct", "vm_file"),
        file_mapping: at("file", "f_mapping"),
        mapping_inode: at("address_space", "host"),
        mapping_writable: at("address_space", "i_mmap_writable"),
        mapping_pages: mapping_pages(types).unwrap_or(Layout::MISSING),
        pages_node_shift: at("xa_node", "shift"),
        pages_node_slots: node_slots(types).unwrap_or(Layout::MISSING),
        folio_flags: at("folio", "flags"),
        folio_index: at("folio", "index"),
        folio_pages: types
            .field("folio", "_nr_pages")
            .or_else(|| types.field("folio", "_folio_nr_pages"))
            .unwrap_or(Layout::MISSING),
        folio_order: folio_order(types),
        folio_head_bit: types.enumerator("pageflags", "PG_head").unwrap_or(Layout::MISSING),
        folio_dirty_bit: types.enumerator("pageflags", "PG_dirty").unwrap_or(Layout::MISSING),
        folio_references: at("folio", "_refcount"),
        dentry_inode: at("dentry", "d_inode"),
        dentry_parent: at("dentry", "d_parent"),
        xfs_inode: at("xfs_inode", "i_vnode"),
        attributes_valid: at("iattr", "ia_valid"),
        attributes_size: at("iattr", "ia_size"),
        rename_old: at("renamedata", "old_dentry"),
        rename_new: at("renamedata", "new_dentry"),
        rename_flags: at("renamedata", "flags"),
        rename_old_parent: at("renamedata", "old_parent"),
        rename_old_directory: at("renamedata", "old_dir"),
        rename_new_parent: at("renamedata", "new_parent"),
        rename_new_directory: at("renamedata", "new_dir"),
    }
}

/// Where a large folio's order is: a field of its own up to Linux 6.5, then the lowest byte of `_flags_1`.
fn folio_order(types: &Types<'_>) -> u32 {
    types
        .field("folio", "_folio_order")
        .or_else(|| types.field("folio", "_flags_1"))
        .unwrap_or(Layout::MISSING)
}

/// Where the page cache of a file begins.
fn mapping_pages(types: &Types<'_>) -> Option<u32> {
    types.field("address_space", "i_pages")?.checked_add(types.field("xarray", "xa_head")?)
}

/// Where a node of the page cache has its slots. Only for nodes of 64, as every kernel but the smallest has them
/// (`CONFIG_BASE_SMALL`): the marks, which come next, tell.
fn node_slots(types: &Types<'_>) -> Option<u32> {
    const BYTES: u32 = 64 * 8;
    let slots = types.field("xa_node", "slots")?;
    let marks = types.field("xa_node", "tags").or_else(|| types.field("xa_node", "marks"))?;
    (marks.checked_sub(slots) == Some(BYTES)).then_some(slots)
}
