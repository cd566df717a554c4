//! What both nodes' data are to each other, as the status tells it.

use serde::{Deserialize, Serialize};

/// What was found when the nodes met last.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReunionStatus {
    /// "new", "same", "ahead", "behind", "diverged", "unrelated", seen from the primary; empty: they have not met yet, or the peer is of an
    /// older version.
    pub relation: String,
    /// Whose data both shall have: "primary", "secondary", or "operator" if that is for a person to say.
    pub source: String,
    /// How much has to be looked at: "nothing", "marks", "safe-set", "everything".
    pub scope: String,
    /// What only the other node has is kept aside before it is overwritten.
    pub keeps: bool,
    /// No session begins before an operator says whose data both shall have.
    pub refused: bool,
    /// The finding in words.
    pub text: String,
    /// This node's generation.
    pub generation: String,
    /// The generation that both nodes had last, while this node goes on alone.
    pub shared: String,
    /// What of this copy is being replaced and kept aside, by its generation; empty: nothing.
    pub keeping: String,
}
