//! What a daemon wrote to its log, and what of it is a failure.
//!
//! ERROR means that a person must act, WARN that the node goes on degraded: a scenario that did not provoke it fails.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// How a line was meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// Everything below.
    Ordinary,
    /// Degraded, going on.
    Warning,
    /// A person must act.
    Error,
    /// The process met a bug of its own.
    Panic,
}

/// Lines of the log that are at least a warning.
///
/// # Errors
/// The file cannot be read.
pub fn complaints(path: &Path) -> Result<Vec<(Severity, String)>> {
    let text = fs::read(path).with_context(|| format!("read the log {}", path.display()))?;
    let text = String::from_utf8_lossy(&text);
    Ok(text
        .lines()
        .map(|line| (severity(line), line.to_owned()))
        .filter(|(severity, _)| *severity != Severity::Ordinary)
        .collect())
}

/// Complaints that hold none of the `expected` words. A panic is never expected.
///
/// # Errors
/// The file cannot be read.
pub fn unexpected(path: &Path, expected: &[&str]) -> Result<Vec<String>> {
    Ok(complaints(path)?
        .into_iter()
        .filter(|(severity, line)| {
            *severity == Severity::Panic || !expected.iter().any(|words| line.contains(words))
        })
        .map(|(_, line)| line)
        .collect())
}

/// The last lines, for an error message.
#[must_use]
pub fn tail(path: &Path, lines: usize) -> String {
    let Ok(text) = fs::read(path) else { return "(no log)".to_owned() };
    last(&String::from_utf8_lossy(&text), lines)
}

/// The last lines of a text.
#[must_use]
pub fn last(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn severity(line: &str) -> Severity {
    if line.contains("panicked at ") {
        return Severity::Panic;
    }
    let level = match serde_json::from_str::<Value>(line) {
        Ok(value) => value.get("level").and_then(Value::as_str).unwrap_or_default().to_owned(),
        // Text form: "<time> LEVEL target: words", or words written before logging began.
        Err(_) => line
            .split_whitespace()
            .find(|word| ["ERROR", "WARN"].contains(word))
            .unwrap_or_default()
            .to_owned(),
    };
    match level.as_str() {
        "ERROR" => Severity::Error,
        "WARN" => Severity::Warning,
        _ => Severity::Ordinary,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severity_is_read_from_both_forms() {
        assert_eq!(severity(r#"{"level":"WARN","fields":{"message":"x"}}"#), Severity::Warning);
        assert_eq!(severity(r#"{"level":"INFO","fields":{"message":"ERROR"}}"#), Severity::Ordinary);
        assert_eq!(severity("2026-01-01T00:00:00Z ERROR replicator: full"), Severity::Error);
        assert_eq!(severity("thread 'main' panicked at src/main.rs:1:1:"), Severity::Panic);
        assert_eq!(severity("some words"), Severity::Ordinary);
    }
}
