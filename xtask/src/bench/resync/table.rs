//! The figures for a person, and for a program.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::json;

use super::Part;

/// The table.
pub fn text(about: &str, parts: &[Part]) -> String {
    let mut text = format!("{about}\n");
    for part in parts {
        let _ = writeln!(text, "\n{}", part.name);
        for line in &part.lines {
            let _ = writeln!(text, "    {line}");
        }
    }
    let _ = writeln!(text, "\n{:<8} {:<8} {:>9}  bar", "", "part", "found");
    let bars = || parts.iter().flat_map(|part| &part.bars);
    for bar in bars() {
        let word = if bar.met { "passed" } else { "MISSED" };
        let _ = writeln!(text, "{word:<8} {:<8} {:>9.2}  {}", bar.job, bar.found, bar.bar);
    }
    let _ = write!(text, "\n{} of {} bars passed", bars().filter(|bar| bar.met).count(), bars().count());
    text
}

/// The same as JSON.
pub fn json(about: &str, parts: &[Part]) -> Result<String> {
    Ok(serde_json::to_string_pretty(&json!({ "about": about, "parts": parts }))?)
}
