//! **stale-never-promotes**: a copy that its record does not call whole does not become a primary's, but by force. Nor is that so much as ordered.

use replicator_core::action::StateRecord;

use super::Broken;
use crate::cluster::node::is_whole;

pub struct Check;

impl Check {
    /// A primary starts on what this record is about. `allowed`: there never was anything, or an operator says so.
    pub fn primary(&self, found: &StateRecord, allowed: bool) -> Result<(), Broken> {
        if allowed || is_whole(found) {
            return Ok(());
        }
        Err(("stale-never-promotes", format!("a primary is started on {found:?}")))
    }
}
