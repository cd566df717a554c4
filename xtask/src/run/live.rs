//! What a person sees while two nodes run.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::lab::mirror::Mirror;
use crate::lab::status::Status;
use crate::lab::{interrupt, wait};

const INTERVAL: Duration = Duration::from_secs(1);

/// Say where to write and how to look.
pub fn introduce(mirror: &Mirror) {
    let program = mirror.primary.program.display();
    println!("Two nodes mirror a directory. Write here, as any application would:");
    println!("    {}", mirror.data().display());
    println!("The copy on the other node (plain files; do not write there):");
    println!("    {}", mirror.copy().display());
    println!("Look:");
    for node in [&mirror.primary, &mirror.secondary] {
        println!("    {program} status --socket {}", node.socket.display());
    }
    for node in [&mirror.primary, &mirror.secondary] {
        println!("    less {}    # log of node {}", node.log.display(), node.name);
    }
    println!("    diff -r --no-dereference {} {}", mirror.data().display(), mirror.copy().display());
    println!("Kill a node and see: kill -9 {}", mirror.secondary.pid().map_or(0, nix::unistd::Pid::as_raw));
    println!("Ctrl-C takes everything down.\n");
}

/// Show how both nodes are until Ctrl-C. A node that was killed meanwhile is started again.
///
/// # Errors
/// A node cannot be started again.
pub fn watch(mirror: &mut Mirror) -> Result<()> {
    let terminal = std::io::stdout().is_terminal();
    let mut lines = 0;
    if !terminal {
        println!("{}", HEADING);
    }
    while !interrupt::requested() {
        let begin = Instant::now();
        let looked = (look(mirror, true), look(mirror, false));
        if interrupt::requested() {
            break;
        }
        let text = match looked {
            (Some(primary), Some(secondary)) if terminal => table(&primary, &secondary),
            (Some(primary), _) if !terminal => line(&primary),
            _ => restart(mirror)?,
        };
        let mut out = std::io::stdout().lock();
        // Up over the last table, then clear to the end of the screen.
        if terminal && lines > 0 {
            write!(out, "\x1b[{lines}A\x1b[J")?;
        }
        writeln!(out, "{text}")?;
        out.flush()?;
        lines = text.lines().count();
        // Until the next second or Ctrl-C.
        let _ = wait::until("", INTERVAL.saturating_sub(begin.elapsed()), || Ok(None::<()>));
    }
    println!();
    Ok(())
}

fn look(mirror: &mut Mirror, primary: bool) -> Option<Status> {
    let node = if primary { &mut mirror.primary } else { &mut mirror.secondary };
    node.status().ok().flatten()
}

/// Start again what was killed.
fn restart(mirror: &mut Mirror) -> Result<String> {
    let mut words = "a node does not answer".to_owned();
    if !mirror.secondary.is_running() {
        mirror.secondary.kill()?;
        mirror.start_secondary()?;
        words = "node b had ended and was started again".to_owned();
    }
    if !mirror.primary.is_running() {
        mirror.primary.kill()?;
        mirror.start_primary()?;
        words = "node a had ended and was started again".to_owned();
    }
    Ok(words)
}

const HEADING: &str =
    "phase        written/s     sent/s      dirty  in flight    lag  fsync p50    p90    p99  lost";

fn line(status: &Status) -> String {
    format!(
        "{:<10} {:>11} {:>10} {:>10} {:>10} {:>5.1}s {:>7.0} us {:>6.0} {:>6.0} {:>5}",
        status.phase,
        bytes(status.rate.captured_bytes_per_second),
        bytes(status.rate.sent_bytes_per_second),
        bytes(status.dirty.bytes as f64),
        bytes(status.dirty.in_flight_bytes as f64),
        status.lag.seconds,
        status.barriers.p50_us,
        status.barriers.p90_us,
        status.barriers.p99_us,
        status.counters.events_lost,
    )
}

fn table(primary: &Status, secondary: &Status) -> String {
    let peer = |status: &Status| {
        let peer = status.peer.clone().unwrap_or_default();
        let name = if peer.name.is_empty() { "peer" } else { &peer.name };
        format!("{name} {}", if peer.connected { "connected" } else { "absent" })
    };
    let node = |status: &Status| {
        let word = match status.colour.as_str() {
            "green" => format!("\x1b[32m{:<10}\x1b[0m", status.word),
            "orange" => format!("\x1b[33m{:<10}\x1b[0m", status.word),
            _ => format!("\x1b[31m{:<10}\x1b[0m", status.word),
        };
        format!(
            "node {:<3} {word} {:<10} {:<18} memory {:>9}  sent {:>9}  received {:>9}  errors {}",
            status.node,
            status.phase,
            peer(status),
            bytes(status.memory_bytes as f64),
            bytes(status.counters.bytes_sent as f64),
            bytes(status.counters.bytes_received as f64),
            status.counters.errors,
        )
    };
    let mut lines = vec![node(primary), node(secondary)];
    for volume in &primary.volumes {
        let data = if volume.passthrough { "passthrough" } else { "through the daemon" };
        lines.push(format!("{} ({}): gate {}, {data}", volume.path, volume.filesystem, volume.gate));
    }
    lines.push(format!(
        "capture: {} ({} hooks), mode {}; {} events, {} lost, {} widened; {} frames, {} sessions; {} dirty files",
        primary.capture.row,
        primary.capture.hooks.len(),
        primary.mode,
        primary.counters.events,
        primary.counters.events_lost,
        primary.counters.widened,
        primary.counters.frames_sent + primary.counters.frames_received,
        primary.counters.sessions,
        primary.dirty.files,
    ));
    lines.push(format!(
        "fsyncs: {} answered, {} waiting",
        primary.barriers.answered, primary.barriers.waiting
    ));
    if primary.resync.active {
        lines.push(format!(
            "resync: {} files, {} compared, {} sent",
            primary.resync.files,
            bytes(primary.resync.bytes_compared as f64),
            bytes(primary.resync.bytes_sent as f64)
        ));
    }
    lines.push(HEADING.to_owned());
    lines.push(line(primary));
    lines.join("\n")
}

/// A number of bytes for a person.
#[must_use]
pub fn bytes(number: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB"];
    let mut number = number;
    let mut unit = 0;
    while number >= 1024.0 && unit + 1 < units.len() {
        number /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{number:.0} B") } else { format!("{number:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn bytes_are_written_with_the_largest_unit_that_fits() {
        assert_eq!(bytes(0.0), "0 B");
        assert_eq!(bytes(1023.0), "1023 B");
        assert_eq!(bytes(1536.0), "1.5 KiB");
        assert_eq!(bytes(5e12), "4656.6 GiB");
    }
}
