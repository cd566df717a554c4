//! Running a system tool: its words are kept when it fails.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Run to the end and return what it wrote to standard output.
///
/// # Errors
/// It could not be started, or it failed; the message holds the command line and what it wrote to standard error.
pub fn output(command: &mut Command) -> Result<String> {
    command.stdin(Stdio::null());
    let line = describe(command);
    let output = command.output().with_context(|| format!("start `{line}`"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("`{line}`: {}: {}", output.status, words.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Run to the end; the output is shown only in the error.
///
/// # Errors
/// As [`output`].
pub fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Run to the end with the terminal's own output and input.
///
/// # Errors
/// It could not be started, or it failed.
pub fn show(command: &mut Command) -> Result<()> {
    let line = describe(command);
    let status = command.status().with_context(|| format!("start `{line}`"))?;
    if !status.success() {
        bail!("`{line}`: {status}");
    }
    Ok(())
}

/// The command line as a person would type it (without quoting).
#[must_use]
pub fn describe(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}
