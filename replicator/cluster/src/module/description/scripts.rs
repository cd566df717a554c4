//! `[scripts]`, and what a script is wherever one is named.

use std::collections::BTreeMap;
use std::path::{Component, Path};
use std::time::Duration;

use toml::{Table, Value};

use super::error::ModuleError;
use super::section::Section;
use super::validate::TIMEOUT_MAX;
use super::{ScriptCommand, ScriptName, Scripts};

const KEYS: &[&str] = &[
    "prestart",
    "start-primary",
    "stop-primary",
    "start-secondary",
    "stop-secondary",
    "poststop",
    "timeout",
    "grace",
    "log-runs",
    "log-size",
];
/// Longest time between SIGTERM and SIGKILL.
const GRACE_MAX: Duration = Duration::from_secs(600);
const LOG_RUNS_MAX: u32 = 1000;
/// Bounds of the log of one run: below, a message would not fit; above, nobody reads it.
const LOG_SIZE_BOUNDS: (u64, u64) = (4 << 10, 1 << 30);

/// `[scripts]`
pub(super) fn scripts(file: &Section<'_>) -> Result<Scripts, ModuleError> {
    let empty = Table::new();
    let table = file.table("scripts")?.unwrap_or(&empty);
    let section = Section::open("scripts", table, KEYS)?;
    let timeout = section.positive("timeout", Duration::from_secs(60), TIMEOUT_MAX)?;
    let mut commands = BTreeMap::new();
    for name in ScriptName::ALL {
        if let Some(value) = section.value(name.word()) {
            commands.insert(name, command(&section.key(name.word()), value, timeout)?);
        }
    }
    let log_size = section.size("log-size", 1 << 20)?;
    if !(LOG_SIZE_BOUNDS.0..=LOG_SIZE_BOUNDS.1).contains(&log_size) {
        return Err(section.contradiction("log-size", "must be 4KiB to 1GiB"));
    }
    Ok(Scripts {
        commands,
        grace: section.duration("grace", Duration::from_secs(5), GRACE_MAX)?,
        log_runs: section.count("log-runs", 10, 1, LOG_RUNS_MAX)? as usize,
        log_size,
    })
}

/// A script in any of its forms: a path, a list of program and arguments, or a table with `run` and `timeout`.
fn command(key: &str, value: &Value, timeout: Duration) -> Result<ScriptCommand, ModuleError> {
    let Value::Table(table) = value else {
        return Ok(ScriptCommand { argv: argv(key, value)?, timeout });
    };
    let section = Section::open(key, table, &["run", "timeout"])?;
    let remedy = "name what is run, like run = \"scripts/start\"";
    let run = section.value("run").ok_or_else(|| ModuleError::Missing { key: section.key("run"), remedy })?;
    Ok(ScriptCommand {
        argv: argv(&section.key("run"), run)?,
        timeout: section.positive("timeout", timeout, TIMEOUT_MAX)?,
    })
}

/// Program and arguments.
pub(super) fn argv(key: &str, value: &Value) -> Result<Vec<String>, ModuleError> {
    let form = |value: &str| ModuleError::Form {
        key: key.to_owned(),
        value: value.to_owned(),
        what: "a program: a path below the module's directory or from / on, without \"..\"",
        example: "scripts/start-primary",
    };
    let argv: Option<Vec<String>> = match value {
        Value::String(path) => Some(vec![path.clone()]),
        Value::Array(list) => list.iter().map(|entry| entry.as_str().map(str::to_owned)).collect(),
        _ => None,
    };
    let argv = argv.ok_or_else(|| form(&value.to_string()))?;
    let Some(program) = argv.first() else { return Err(form("[]")) };
    // A bare name is looked for in PATH, but a path alone is meant as one of a file of the module.
    let bare = !program.contains('/') && value.is_str();
    let parents = Path::new(program).components().any(|part| part == Component::ParentDir);
    if program.is_empty()
        || program.ends_with('/')
        || parents
        || bare
        || argv.iter().any(|text| text.contains('\0'))
    {
        return Err(form(program));
    }
    Ok(argv)
}
