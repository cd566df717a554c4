//! `replicator status`

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::Duration;
use std::{env, thread};

use anyhow::bail;
use clap::Args;

use super::progress::{resync_line, verify_line};
use super::{NodeArguments, exit, one_line, print, print_while_read};
use crate::control::{self, ControlError, Request, Response};
use crate::status::{CaptureStatus, Colour, Counters, Status, StrictStatus, VolumeStatus};

/// Time between two answers of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// State of a hook that another one makes superfluous.
const NOT_NEEDED: &str = "not needed";

/// Arguments of `status`.
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    node: NodeArguments,
    /// Print the status as JSON; with --watch one line per second
    #[arg(long)]
    json: bool,
    /// Print the status every second until interrupted
    #[arg(long)]
    watch: bool,
}

/// Ask a node for its status and print it; the exit code tells its colour.
///
/// # Errors
/// No daemon answers, or it cannot be asked.
pub fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let socket = arguments.node.socket()?;
    if arguments.watch {
        return watch(&socket, arguments.json);
    }
    let status = match ask(&socket) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("replicator: {}", one_line(&error));
            return Ok(code_of_failure(&error));
        }
    };
    let text = if arguments.json { super::pretty_json(&status)? } else { render(&status, coloured()) };
    print(&text)?;
    Ok(match status.colour {
        Colour::Green => exit::OK,
        Colour::Orange => exit::ORANGE,
        Colour::Red => exit::RED,
    })
}

fn code_of_failure(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<ControlError>() {
        Some(ControlError::NoDaemon { .. }) => exit::NO_DAEMON,
        _ => exit::UNANSWERED,
    }
}

/// What the node says of itself.
///
/// # Errors
/// No daemon answers.
pub(super) fn ask(socket: &Path) -> anyhow::Result<Status> {
    match control::request(socket, &Request::Status)? {
        Response::Status { status } => Ok(*status),
        other => bail!("the daemon answered the question for its status with {other:?}"),
    }
}

/// Print again and again, also while the daemon is away; ends by a signal, or when standard output is closed.
fn watch(socket: &Path, json: bool) -> anyhow::Result<u8> {
    let clear = if io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
    loop {
        let text = match (ask(socket), json) {
            (Ok(status), true) => serde_json::to_string(&status)? + "\n",
            (Ok(status), false) => format!("{clear}{}\n", render(&status, coloured())),
            (Err(error), true) => serde_json::json!({ "error": one_line(&error) }).to_string() + "\n",
            (Err(error), false) => format!("{clear}{}\n", one_line(&error)),
        };
        if !print_while_read(&text)? {
            return Ok(exit::OK);
        }
        // The promised pace of the output; nothing is waited for.
        thread::sleep(WATCH_INTERVAL);
    }
}

fn coloured() -> bool {
    io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none()
}

/// The status for a person: one aligned line per subject.
#[must_use]
pub fn render(status: &Status, coloured: bool) -> String {
    let mut lines: Vec<(&str, String)> = vec![("node", headline(status, coloured)), ("peer", peer(status))];
    lines.push(("capture", capture(status)));
    lines.extend(hooks_in_trouble(status).into_iter().map(|line| ("", line)));
    lines.extend(behind(&status.capture).into_iter().map(|line| ("", line)));
    lines.extend(status.volumes.iter().flat_map(volume));
    let at = status.positions;
    lines.push((
        "stream",
        format!(
            "queued {}  sent {}  received {}  applied {}  synced {}",
            at.queued, at.sent, at.received, at.applied, at.synced
        ),
    ));
    lines.push((
        "dirty",
        format!(
            "{} in {}, {} in flight, lag {}, {:.2} s",
            bytes(status.dirty.bytes),
            counted(status.dirty.files, "file"),
            bytes(status.dirty.in_flight_bytes),
            bytes(status.lag.bytes),
            status.lag.seconds
        ),
    ));
    lines.push((
        "rate",
        format!(
            "captured {}/s, sent {}/s",
            bytes(status.rate.captured_bytes_per_second),
            bytes(status.rate.sent_bytes_per_second)
        ),
    ));
    lines.push(("fsync", fsync(status)));
    if status.resync.active || status.resync.files > 0 || status.resync.resumed {
        lines.push(("resync", resync(status)));
        if status.resync.active {
            lines.push(("", resync_line(&status.resync)));
        }
    }
    if status.verify.number > 0 {
        lines.push(("verify", format!("{}: {}", status.verify.state, verify_line(&status.verify))));
    }
    if status.reunion.refused {
        let found = &status.reunion.text;
        lines.push((
            "refused",
            format!("{found}: no session before an operator decides (replicator resync --dry-run)"),
        ));
    }
    if !status.reunion.keeping.is_empty() {
        lines.push(("keeps", format!("what only this node had in generation {}", status.reunion.keeping)));
    }
    lines.push(("traffic", traffic(&status.counters)));
    lines.push(("trouble", trouble(status)));
    lines.iter().fold(String::new(), |mut text, (subject, line)| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{subject:<8} {line}");
        text
    })
}

/// A mirrored directory, and what is mounted inside it.
fn volume(volume: &VolumeStatus) -> Vec<(&'static str, String)> {
    let passthrough = if volume.passthrough { ", passthrough" } else { "" };
    let transport = if volume.transport == "io-uring" { ", requests over io_uring" } else { "" };
    let why = if volume.why.is_empty() { String::new() } else { format!(": {}", volume.why) };
    let protected = if volume.protected { ", protected" } else { "" };
    let line = format!(
        "{} on {}, gate {}{passthrough}{transport}{protected}{why}",
        volume.path, volume.filesystem, volume.gate
    );
    let mut lines = vec![("volume", line)];
    lines.extend(strict(&volume.strict).into_iter().map(|line| ("", line)));
    if !volume.nested_mounts.is_empty() {
        lines.push(("", format!("not mirrored, mounted inside: {}", volume.nested_mounts.join(", "))));
    }
    lines
}

fn headline(status: &Status, coloured: bool) -> String {
    let word = format!("{:?}", status.word).to_lowercase();
    let colour = format!("{:?}", status.colour).to_lowercase();
    let code = match status.colour {
        Colour::Green => "32",
        Colour::Orange => "33",
        Colour::Red => "31",
    };
    let word = if coloured {
        format!("\x1b[1;{code}m{word} ({colour})\x1b[0m")
    } else {
        format!("{word} ({colour})")
    };
    format!(
        "{}: {word}, {}, mode {}, configured as {}, up {}, {} of memory",
        status.node,
        status.phase,
        status.mode,
        status.role,
        uptime(status.uptime_seconds),
        bytes(status.memory_bytes)
    )
}

fn uptime(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    humantime::format_duration(Duration::from_secs(whole)).to_string()
}

fn peer(status: &Status) -> String {
    let peer = &status.peer;
    let name = if peer.name.is_empty() { "not met yet" } else { &peer.name };
    let address = if peer.address.is_empty() { String::new() } else { format!(" at {}", peer.address) };
    if !peer.connected {
        return format!("{name}{address}, not connected");
    }
    let proof = if peer.authenticated { "authenticated" } else { "NOT authenticated" };
    let cover = if peer.encrypted { "encrypted" } else { "not encrypted" };
    format!("{name}{address}, connected, {proof}, {cover}, protocol {}", peer.version)
}

fn capture(status: &Status) -> String {
    let capture = &status.capture;
    if capture.row.is_empty() {
        return "none, the copy is only written by this node".into();
    }
    let attached = capture.hooks.iter().filter(|hook| hook.state == "attached").count();
    let wanted = capture.hooks.iter().filter(|hook| hook.state != NOT_NEEDED).count();
    let why = if capture.why.is_empty() { String::new() } else { format!(": {}", capture.why) };
    format!("{}, {attached} of {wanted} hooks{why}", capture.row)
}

/// The kernel programs that should be attached and are not, together where the reason is the same.
fn hooks_in_trouble(status: &Status) -> Vec<String> {
    let mut by_reason: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for hook in
        status.capture.hooks.iter().filter(|hook| !["attached", NOT_NEEDED].contains(&hook.state.as_str()))
    {
        by_reason.entry((&hook.state, &hook.why)).or_default().push(&hook.name);
    }
    let lines = by_reason.into_iter().map(|((state, why), names)| {
        let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
        format!("{state}{why}: {}", names.join(", "))
    });
    lines.collect()
}

/// What there is to say of changes behind the gate; nothing where they are watched and there are none.
fn behind(capture: &CaptureStatus) -> Vec<String> {
    let behind = &capture.behind;
    let mut lines = Vec::new();
    if !behind.watched && !behind.why.is_empty() && capture.row != "fentry" {
        lines.push(format!("names and attributes behind the gate are NOT seen: {}", behind.why));
    }
    let all =
        [(behind.names, "name"), (behind.attributes, "set of attributes"), (behind.contents, "content")];
    let some: Vec<String> =
        all.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} x {what}")).collect();
    if !some.is_empty() {
        let last = if behind.last.is_empty() { String::new() } else { format!(", last: {}", behind.last) };
        lines.push(format!("changed behind the gate, NOT held by any fsync: {}{last}", some.join(", ")));
    }
    if behind.lost > 0 {
        lines.push(format!(
            "lost changes behind the gate {}: everything was compared",
            counted(behind.lost, "time")
        ));
    }
    lines
}

/// What there is to say of files that are opened without passthrough; nothing where there are none.
fn strict(strict: &StrictStatus) -> Vec<String> {
    let mut lines = Vec::new();
    if strict.files > 0 {
        let unrecorded = match strict.unrecorded {
            0 => String::new(),
            count => format!(", {count} NOT marked on disk"),
        };
        let files = counted(strict.files, "strict file");
        lines.push(format!("{files}: {} open and held{unrecorded}", strict.held));
    }
    if strict.waiting > 0 {
        let more = if strict.waiting > strict.waiting_paths.len() as u64 { ", ..." } else { "" };
        lines.push(format!(
            "{} still open with passthrough, NOT held until everybody closed and unmapped: {}{more}",
            counted(strict.waiting, "strict file"),
            strict.waiting_paths.join(", ")
        ));
    }
    if !strict.last_unguarded.is_empty() {
        lines.push(format!("last unguarded sync: {}", strict.last_unguarded));
    }
    lines
}

fn fsync(status: &Status) -> String {
    let barriers = status.barriers;
    format!(
        "answered {}, waiting {}, failed {}; held p50 {} us, p90 {} us, p99 {} us, max {} us",
        barriers.answered,
        barriers.waiting,
        barriers.failed,
        barriers.p50_us,
        barriers.p90_us,
        barriers.p99_us,
        barriers.max_us
    )
}

fn resync(status: &Status) -> String {
    let resync = &status.resync;
    let how = match resync.why.as_str() {
        _ if resync.resumed => ", resumed".to_owned(),
        "" => String::new(),
        why => format!(", everything compared ({why})"),
    };
    format!(
        "{}{how}: {} to list, {} found, {} of {} compared, {} sent",
        if resync.active { "under way" } else { "done" },
        counted(resync.directories, "directory"),
        counted(resync.files, "file"),
        bytes(resync.bytes_compared),
        counted(resync.files_compared, "file"),
        bytes(resync.bytes_sent)
    )
}

fn traffic(counters: &Counters) -> String {
    format!(
        "{}, {}; frames {} out ({}), {} in ({})",
        counted(counters.events, "event"),
        counted(counters.sessions, "session"),
        counters.frames_sent,
        bytes(counters.bytes_sent),
        counters.frames_received,
        bytes(counters.bytes_received)
    )
}

/// The counters that are zero on a good day.
fn trouble(status: &Status) -> String {
    let (counters, behind) = (&status.counters, &status.capture.behind);
    let all = [
        (counters.events_lost, "events lost"),
        (counters.widened, "marks widened"),
        (counters.frames_refused, "frames refused"),
        (counters.handshakes_refused, "handshakes refused"),
        (counters.unguarded_syncs, "unguarded syncs"),
        (behind.names + behind.attributes + behind.contents, "changes behind the gate"),
        (behind.lost, "losses of changes behind the gate"),
        (counters.errors, "errors"),
        (counters.local_changes, "local changes"),
    ];
    let some: Vec<String> =
        all.iter().filter(|(count, _)| *count > 0).map(|(count, name)| format!("{count} {name}")).collect();
    if some.is_empty() { "none".into() } else { some.join(", ") }
}

fn counted(count: u64, thing: &str) -> String {
    match (count, thing.strip_suffix('y')) {
        (1, _) => format!("1 {thing}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        _ => format!("{count} {thing}s"),
    }
}

/// A number of bytes with the largest unit that leaves at least one.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count as f64;
    let mut unit = "B";
    for larger in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{HookStatus, VolumeStatus};

    #[test]
    fn sizes_are_short() {
        let shown: Vec<String> = [0, 1023, 1024, 1536, u64::MAX].into_iter().map(bytes).collect();
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "16384.0 PiB"]);
    }

    #[test]
    fn even_an_empty_status_is_rendered_line_by_line() {
        let text = render(&Status::default(), false);
        assert!(text.lines().all(|line| line.len() > 9 && line.as_bytes()[8] == b' '), "{text}");
        assert!(!text.contains('\x1b'));
        assert!(render(&Status::default(), true).contains("\x1b[1;31m"));
    }

    #[test]
    fn hooks_are_named_where_one_is_missing() {
        let hook = |name: &str, state: &str, why: &str| HookStatus {
            name: name.into(),
            state: state.into(),
            why: why.into(),
            ..HookStatus::default()
        };
        let mut status = Status::default();
        status.capture.row = "tracepoints".into();
        status.capture.hooks = vec![
            hook("a", "attached", ""),
            hook("b", NOT_NEEDED, "a covers it"),
            hook("c", "refused", "EPERM"),
            hook("d", "refused", "EPERM"),
        ];
        let text = render(&status, false);
        assert!(
            text.contains("capture  tracepoints, 1 of 3 hooks\n         refused (EPERM): c, d\n"),
            "{text}"
        );
    }

    #[test]
    fn a_strict_file_that_is_not_held_yet_is_named() {
        let mut status = Status { volumes: vec![VolumeStatus::default()], ..Status::default() };
        assert!(!render(&status, false).contains("strict"));
        status.volumes[0].strict = StrictStatus {
            files: 9,
            held: 1,
            waiting: 2,
            unrecorded: 1,
            waiting_paths: vec!["a.mdb".into()],
            last_unguarded: "b/c".into(),
        };
        let text = render(&status, false);
        assert!(text.contains("9 strict files: 1 open and held, 1 NOT marked on disk\n"), "{text}");
        assert!(text.contains("NOT held until everybody closed and unmapped: a.mdb, ...\n"), "{text}");
        assert!(text.contains("last unguarded sync: b/c\n"), "{text}");
    }

    #[test]
    fn changes_behind_the_gate_are_named() {
        let mut status = Status::default();
        status.capture.behind.watched = true;
        assert!(!render(&status, false).contains("behind"));
        status.capture.behind.names = 3;
        status.capture.behind.last = "a/b".into();
        let text = render(&status, false);
        assert!(text.contains("behind the gate, NOT held by any fsync: 3 x name, last: a/b\n"), "{text}");
        assert!(text.contains("trouble  3 changes behind the gate\n"), "{text}");
        status.capture.behind.watched = false;
        status.capture.behind.why = "no fanotify".into();
        assert!(render(&status, false).contains("behind the gate are NOT seen: no fanotify\n"));
    }

    #[test]
    fn what_is_mounted_inside_is_named() {
        let mut status = Status::default();
        let nested_mounts = vec!["/srv/data/inner".to_owned()];
        let path = "/srv/data".to_owned();
        status.volumes = vec![VolumeStatus { path, nested_mounts, ..VolumeStatus::default() }];
        let text = render(&status, false);
        assert!(text.contains("\n         not mirrored, mounted inside: /srv/data/inner\n"), "{text}");
    }

    #[test]
    fn nothing_that_went_wrong_is_hidden() {
        let mut status = Status::default();
        assert!(render(&status, false).contains("trouble  none"));
        status.counters.events_lost = 7;
        assert!(render(&status, false).contains("trouble  7 events lost"));
    }
}
