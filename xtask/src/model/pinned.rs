//! Sequences that once led to a difference, kept as they were found: a seed means another sequence when the generator changes.

use anyhow::{Context, Result};

use super::operation::Step;

/// Name and steps of each.
const PINNED: &[(&str, &str)] = &[];

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
