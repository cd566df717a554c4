//! `replicator verify`

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;

use super::progress::{extent_of, verify_line, watch};
use super::status::{ask, bytes};
use super::{NodeArguments, exit, pretty_json, print};
use crate::control::{self, Order, Request, Response};
use crate::status::{Status, VerifyStatus};
use crate::verification::{Found, VerifyReport};

/// How long the report may take, once all is compared, to find the paths of differing files.
const PLACING_LIMIT: Duration = Duration::from_secs(60);

/// Arguments of `verify`.
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    node: NodeArguments,
    /// Send what differs to the copy again
    #[arg(long)]
    repair: bool,
    /// Read at most so much each second, on either node: like "50MiB/s"; "none" for no limit
    #[arg(long, value_name = "RATE", default_value = "100MiB/s", value_parser = parse_rate)]
    rate: Rate,
    /// Wait for the end and print what differs (the default)
    #[arg(long, conflicts_with = "detach")]
    wait: bool,
    /// Begin and return; "replicator status" shows how far it is, "replicator verify --report" what it found
    #[arg(long)]
    detach: bool,
    /// Print what the last verification has found so far
    #[arg(long, conflicts_with_all = ["repair", "detach", "wait", "stop"])]
    report: bool,
    /// End the verification that is under way
    #[arg(long, conflicts_with_all = ["repair", "detach", "wait"])]
    stop: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Bytes each second; none: no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Rate(Option<u64>);

fn parse_rate(text: &str) -> Result<Rate, String> {
    if text == "none" {
        return Ok(Rate(None));
    }
    let wrong =
        || format!("{text:?} is no rate; write a whole number and B, KiB, MiB or GiB, like \"100MiB/s\"");
    let size = text.strip_suffix("/s").unwrap_or(text);
    let digits = size.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = size.split_at(digits);
    let unit: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(wrong()),
    };
    let rate = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    rate.filter(|rate| *rate > 0).map(|rate| Rate(Some(rate))).ok_or_else(wrong)
}

/// What `--json` prints.
#[derive(Serialize)]
struct Verified<'a> {
    verify: &'a VerifyStatus,
    report: &'a VerifyReport,
}

/// Compare both copies.
///
/// # Errors
/// No daemon answers, or it does not take the order.
pub fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let socket = arguments.node.socket()?;
    if arguments.stop {
        order(&socket, Order::StopVerify)?;
        print("stopped\n")?;
        return Ok(exit::OK);
    }
    let before = ask(&socket)?;
    if arguments.report {
        return finish(&socket, &before, arguments.json);
    }
    let talks = !arguments.json;
    if talks {
        print(&cost(&before, arguments))?;
    }
    let Rate(bytes_per_second) = arguments.rate;
    let number = order(&socket, Order::Verify { repair: arguments.repair, bytes_per_second })?;
    if arguments.detach {
        print(&format!("verification {number} is under way\n"))?;
        return Ok(exit::OK);
    }
    let show = |status: &Status| {
        let verify = &status.verify;
        (verify.files_examined, verify.files, verify_line(verify))
    };
    let over = |status: &Status| {
        status.verify.number >= number && !matches!(status.verify.state.as_str(), "running" | "healing")
    };
    let after = watch(&socket, !talks, show, over)?;
    if after.verify.number != number {
        bail!("another verification was begun meanwhile");
    }
    finish(&socket, &after, arguments.json)
}

fn cost(status: &Status, arguments: &Arguments) -> String {
    let rate = match arguments.rate {
        Rate(Some(rate)) => format!("at most {}/s", bytes(rate)),
        Rate(None) => "as fast as both disks read".to_owned(),
    };
    let repair = if arguments.repair { "what differs is sent again" } else { "nothing is changed" };
    format!(
        "compares {} on both nodes, {rate}; only digests travel; the application goes on; {repair}\n",
        extent_of(status)
    )
}

/// Give an order; its number.
pub(super) fn order(socket: &Path, order: Order) -> anyhow::Result<u64> {
    match control::request(socket, &Request::Order { order })? {
        Response::Taken { number } => Ok(number),
        other => bail!("the daemon answered an order with {other:?}"),
    }
}

/// The report, once it is known where all that differs lies.
fn report_of(socket: &Path) -> anyhow::Result<VerifyReport> {
    let deadline = Instant::now() + PLACING_LIMIT;
    loop {
        let report = match control::request(socket, &Request::VerifyReport)? {
            Response::VerifyReport { report } => report,
            other => bail!("the daemon answered the question for a report with {other:?}"),
        };
        if report.pending == 0 || Instant::now() >= deadline {
            return Ok(report);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn finish(socket: &Path, status: &Status, json: bool) -> anyhow::Result<u8> {
    let report = report_of(socket).context("the verification ended, but its report could not be had")?;
    let verify = &status.verify;
    let text =
        if json { pretty_json(&Verified { verify, report: &report })? } else { render(verify, &report) };
    print(&text)?;
    Ok(match verify.state.as_str() {
        "done" if verify.differences > verify.repaired => exit::DIFFERENT,
        "done" => exit::OK,
        _ => exit::NOT_COMPARED,
    })
}

/// The result for a person: a line for each difference, then what was done.
fn render(verify: &VerifyStatus, report: &VerifyReport) -> String {
    let mut text: String = report.found.iter().map(line).collect();
    if report.more > 0 {
        text += &format!("... and {} more\n", report.more);
    }
    if report.pending > 0 {
        text += &format!("... and {} of which the path is not known yet\n", report.pending);
    }
    let end = match verify.state.as_str() {
        "" => "no verification since the daemon started",
        "done" if verify.differences == 0 => "identical",
        "done" if verify.repaired == verify.differences => "repaired",
        "done" => "different",
        "interrupted" => "interrupted: the session ended, begin again",
        "refused" => "refused: the nodes are not mirrored, or the peer cannot",
        other => other,
    };
    text + &format!("{end}: {}\n", verify_line(verify))
}

fn line(found: &Found) -> String {
    let values = match (found.here.as_str(), found.there.as_str()) {
        ("", "") => String::new(),
        (here, "") => format!(": {here}"),
        (here, there) => format!(": here {here}, copy {there}"),
    };
    let ranges: Vec<String> = found.ranges.iter().map(|(from, to)| format!("{from}..{to}")).collect();
    let ranges = if ranges.is_empty() { String::new() } else { format!(" {}", ranges.join(", ")) };
    // A name may hold anything; a report is lines.
    let path: String = found.path.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    format!("{path}: {}{ranges}{values}\n", found.what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_units() {
        assert_eq!(parse_rate("100MiB/s"), Ok(Rate(Some(100 << 20))));
        assert_eq!(parse_rate("4KiB"), Ok(Rate(Some(4096))));
        assert_eq!(parse_rate("none"), Ok(Rate(None)));
        for text in ["", "100", "MiB/s", "0MiB/s", "-1MiB", "1MB/s", "99999999999GiB", "1.5MiB"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn each_difference_is_a_line() {
        let found = Found {
            path: "/srv/a\nb".into(),
            what: "contents".into(),
            ranges: vec![(0, 4096), (8192, 12288)],
            ..Found::default()
        };
        assert_eq!(line(&found), "/srv/a\u{fffd}b: contents 0..4096, 8192..12288\n");
        let found = Found { what: "mode".into(), here: "0644".into(), there: "0600".into(), ..found };
        assert!(line(&Found { ranges: vec![], ..found }).ends_with(": mode: here 0644, copy 0600\n"));
    }
}
