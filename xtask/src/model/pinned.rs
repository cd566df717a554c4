//! Sequences that once led to a difference, kept as they were found: a seed means another sequence when the generator changes.

use anyhow::{Context, Result};

use super::operation::Step;

/// Name and steps of each.
const PINNED: &[(&str, &str)] = &[
    // On btrfs: the write came into a page that the daemon had made dirty, and was not seen.
    ("allocated_behind_the_end", include_str!("pinned/allocated_behind_the_end.json")),
    // The gate left the set-group-id bit.
    ("chown_to_nobody_else", include_str!("pinned/chown_to_nobody_else.json")),
    // The model opened what the kernel keeps closed (O_CREAT of somebody's device in a directory for all).
    ("device_in_a_sticky_directory", include_str!("pinned/device_in_a_sticky_directory.json")),
    // The last block of the hole stayed allocated on the copy.
    ("hole_at_the_end", include_str!("pinned/hole_at_the_end.json")),
    // The new file was on the copy with its mode and without its list.
    ("inherited_access_list", include_str!("pinned/inherited_access_list.json")),
    // The model took a refused whiteout for one that leaves no trace.
    ("whiteout_over_a_full_directory", include_str!("pinned/whiteout_over_a_full_directory.json")),
];

/// All of them.
///
/// # Errors
/// One cannot be read any more.
pub fn all() -> Result<Vec<(&'static str, Vec<Step>)>> {
    PINNED
        .iter()
        .map(|(name, text)| {
            Ok((*name, serde_json::from_str(text).with_context(|| format!("pinned {name}"))?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn all_can_be_read() {
        super::all().unwrap();
    }
}
