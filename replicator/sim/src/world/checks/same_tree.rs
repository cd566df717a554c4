//! same-tree: when nothing goes wrong any more and nothing is under way, both trees are the same, and so is what is durable of the copy.

use super::*;

impl World {
    pub(in crate::world) fn check_same_tree(&self) -> Result<(), String> {
        self.replica.same_tree(&self.files, false).map_err(|reason| format!("same-tree: {reason}"))?;
        self.replica.same_tree(&self.files, true).map_err(|reason| format!("same-tree, durable: {reason}"))
    }
}
