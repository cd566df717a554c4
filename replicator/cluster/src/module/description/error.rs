//! What can be wrong with a module's description. Every message names the key and the remedy.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a description is refused.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ModuleError {
    /// The file cannot be read.
    #[error("cannot read the module's description {path}: {source}", path = path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// The file is too large to be a description.
    #[error("{path} is larger than {limit} bytes: it is not the description of a module", path = path.display())]
    FileTooLarge { path: PathBuf, limit: u64 },
    /// Not TOML.
    #[error("line {line}, column {column}: {message}")]
    Syntax { line: usize, column: usize, message: String },
    /// A key that does not exist.
    #[error("unknown key {key}{hint}; modules/README.md lists all keys", hint = did_you_mean(nearest.as_deref()))]
    UnknownKey { key: String, nearest: Option<String> },
    /// A key that has no default.
    #[error("{key} is missing: {remedy}")]
    Missing { key: String, remedy: &'static str },
    /// A value of another type.
    #[error("{key} is {found}; write {expected}")]
    Type { key: String, expected: &'static str, found: &'static str },
    /// A word that is none of the allowed ones.
    #[error("{key}: {value:?} is not one of {allowed}{hint}", hint = did_you_mean(nearest.as_deref()))]
    Choice { key: String, value: String, allowed: String, nearest: Option<String> },
    /// A name with characters that do not belong in one.
    #[error(
        "{key}: {value:?} is not a name; use 1 to 64 of the characters A-Z a-z 0-9 . _ - and begin with a letter or digit"
    )]
    Name { key: String, value: String },
    /// The description of another module.
    #[error(
        "module.name is {name:?}, but the module lies in a directory {directory:?}; give both the same name"
    )]
    NameOfAnother { name: String, directory: String },
    /// Not a duration.
    #[error("{key}: {value:?} is not a duration ({source}); write it like \"250ms\", \"3s\" or \"1m 30s\"")]
    Duration { key: String, value: String, source: humantime::DurationError },
    /// A duration that must not be zero.
    #[error("{key} is zero; it must be longer")]
    DurationZero { key: String },
    /// A duration beyond all sense.
    #[error("{key}: {value:?} is too long; at most {limit:?} makes sense (is the unit right?)")]
    DurationTooLong { key: String, value: Duration, limit: Duration },
    /// Not a size.
    #[error(
        "{key}: {value:?} is not a size; write a whole number and one of B, KiB, MiB, GiB, like \"16MiB\""
    )]
    Size { key: String, value: String },
    /// Neither a share nor a size.
    #[error("{key}: {value:?} is neither a share like \"10%\" nor a size like \"5GiB\"")]
    Space { key: String, value: String },
    /// A number outside of its bounds.
    #[error("{key}: {value} is out of bounds; it must be {least} to {most}")]
    OutOfBounds { key: String, value: i64, least: i64, most: i64 },
    /// A value that is not what the key takes.
    #[error("{key}: {value:?} is not {what}; write it like {example:?}")]
    Form { key: String, value: String, what: &'static str, example: &'static str },
    /// A pattern that stands for nothing.
    #[error("{key}: {value:?} is not a regular expression: {why}")]
    Pattern { key: String, value: String, why: String },
    /// Something that must be there once is there twice.
    #[error("{key}: {value:?} is there twice; name it once")]
    Twice { key: String, value: String },
    /// More than there may be.
    #[error("{key} has {count} entries; at most {limit} are possible")]
    TooMany { key: String, count: usize, limit: usize },
    /// Keys that exclude each other.
    #[error("{key}: {why}")]
    Contradiction { key: String, why: &'static str },
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map(|nearest| format!("; did you mean {nearest}?")).unwrap_or_default()
}
