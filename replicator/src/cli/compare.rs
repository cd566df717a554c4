//! `replicator compare`

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::{exit, one_line, pretty_json, print};
use crate::storage::compare_trees::{Difference, compare_trees};

/// Arguments of `compare`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The first tree
    #[arg(value_name = "A")]
    first: PathBuf,
    /// The second tree
    #[arg(value_name = "B")]
    second: PathBuf,
    /// Print the differences as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    identical: bool,
    differences: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    /// Relative to both roots; bytes that are not UTF-8 are shown as U+FFFD.
    path: String,
    /// The whole sentence, the path quoted and escaped.
    difference: String,
}

/// Compare two trees: exit code 0 if they are identical, 1 if not, 2 if that cannot be found out, as diff(1) does.
///
/// # Errors
/// The result cannot be printed.
pub fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let (first, second) = (&arguments.first, &arguments.second);
    let compared = compare_trees(first, second)
        .with_context(|| format!("cannot compare {} with {}", first.display(), second.display()));
    let differences = match compared {
        Ok(differences) => differences,
        Err(error) => {
            eprintln!("replicator: {}", one_line(&error));
            return Ok(exit::NOT_COMPARED);
        }
    };
    let code = if differences.is_empty() { exit::OK } else { exit::DIFFERENT };
    print(&if arguments.json { json(&differences)? } else { text(&differences) })?;
    Ok(code)
}

fn json(differences: &[Difference]) -> anyhow::Result<String> {
    let lines = differences.iter().map(|difference| Line {
        path: difference.path.to_string_lossy().into_owned(),
        difference: difference.to_string(),
    });
    pretty_json(&Report { identical: differences.is_empty(), differences: lines.collect() })
}

fn text(differences: &[Difference]) -> String {
    if differences.is_empty() {
        return "identical\n".into();
    }
    differences.iter().fold(String::new(), |mut text, difference| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{difference}");
        text
    })
}
