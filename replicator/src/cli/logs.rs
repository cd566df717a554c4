//! `replicator module logs`: what a module's scripts wrote; `replicator cluster logs`: what the daemon and its mirrors did. On this node or the other.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use replicator_cluster::daemon::bundle;
use replicator_cluster::daemon::control::{Answer, Request};
use replicator_cluster::daemon::logs::{Part, last_lines};

use super::module::Ordered;
use super::places::{PlacesArguments, unexpected};
use super::{exit, pretty_json, print_while_read};

/// Names of logs, and how far they were read, in bytes.
type Positions = BTreeMap<String, u64>;

/// Pause between two looks with `--follow`.
const PAUSE: Duration = Duration::from_secs(1);

/// Arguments of `module logs`.
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    ordered: Ordered,
    /// The last so many lines, of all scripts together
    #[arg(long, default_value_t = 100)]
    lines: usize,
    /// Go on with what is written from now on, until Ctrl-C
    #[arg(long)]
    follow: bool,
    /// Print JSON instead of text
    #[arg(long, conflicts_with = "follow")]
    json: bool,
}

/// Arguments of `cluster logs`.
#[derive(Args, Debug)]
pub struct DaemonArguments {
    #[command(flatten)]
    places: PlacesArguments,
    /// On which node; without: on this one
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// The last so many lines, of at most 2000
    #[arg(long, default_value_t = 100)]
    lines: usize,
}

/// Show what the daemon's unit wrote to the journal: its own log and its mirrors'.
///
/// # Errors
/// The daemon does not answer, or refuses.
pub fn run_daemon(arguments: &DaemonArguments) -> anyhow::Result<u8> {
    let request = Request::Piece { name: bundle::JOURNAL.to_owned() };
    let text = match arguments.places.ask(arguments.node.as_deref(), request)? {
        Answer::Piece { text } => text,
        other => return Err(unexpected(&other)),
    };
    print_while_read(last_lines(&text, arguments.lines))?;
    Ok(exit::OK)
}

/// Run the command.
///
/// # Errors
/// The daemon does not answer, or refuses.
pub fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let (mut parts, mut known) = ask(arguments, None)?;
    if arguments.json {
        print_while_read(&pretty_json(&parts)?)?;
        return Ok(exit::OK);
    }
    let mut shown = String::new();
    loop {
        known.extend(parts.iter().map(|part| (part.log.clone(), part.end)));
        if !print_while_read(&text(&parts, &mut shown))? || !arguments.follow {
            return Ok(exit::OK);
        }
        std::thread::sleep(PAUSE);
        (parts, _) = ask(arguments, Some(known.clone()))?;
    }
}

fn ask(arguments: &Arguments, since: Option<Positions>) -> anyhow::Result<(Vec<Part>, Positions)> {
    let Ordered { places, node, module } = &arguments.ordered;
    let request = Request::Logs { module: module.clone(), lines: arguments.lines, since };
    match places.ask(node.as_deref(), request)? {
        Answer::Logs { parts, ends } => Ok((parts, ends)),
        other => Err(unexpected(&other)),
    }
}

/// As tail(1) shows several files. `shown` is the log that was shown last.
fn text(parts: &[Part], shown: &mut String) -> String {
    let mut text = String::new();
    for part in parts.iter().filter(|part| !part.text.is_empty()) {
        if *shown != part.log {
            text += &format!("==> {} <==\n", part.log);
            part.log.clone_into(shown);
        }
        text += &part.text;
        if !part.text.ends_with('\n') {
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_goes_on_has_one_heading() {
        let part = |log: &str, text: &str| Part { log: log.to_owned(), text: text.to_owned(), end: 0 };
        let mut shown = String::new();
        let first = text(&[part("a", "1\n"), part("b", "2")], &mut shown);
        assert_eq!(first, "==> a <==\n1\n==> b <==\n2\n");
        assert_eq!(text(&[part("b", "3\n"), part("c", "")], &mut shown), "3\n");
    }
}
