//! `replicator check-config`

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{code_of, exit, load, one_line, pretty_json, print};

/// Arguments of `check-config`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The configuration file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Look at the text only, not at this machine's directories and files
    #[arg(long)]
    offline: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    valid: bool,
    error: Option<String>,
    warnings: Vec<String>,
}

/// Check a configuration: exit code 0 if it is valid, 78 if not.
///
/// # Errors
/// The result cannot be printed.
pub fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let result = load(&arguments.file).and_then(|config| {
        let warnings = if arguments.offline { Vec::new() } else { config.validate_system()? };
        Ok(warnings.iter().map(ToString::to_string).collect::<Vec<_>>())
    });
    let code = result.as_ref().map_or_else(code_of, |_| exit::OK);
    if arguments.json {
        let report = match result {
            Ok(warnings) => Report { valid: true, error: None, warnings },
            Err(error) => Report { valid: false, error: Some(one_line(&error)), warnings: Vec::new() },
        };
        print(&pretty_json(&report)?)?;
        return Ok(code);
    }
    for warning in result? {
        eprintln!("warning: {warning}");
    }
    print(&format!("{} is valid\n", arguments.file.display()))?;
    Ok(code)
}
