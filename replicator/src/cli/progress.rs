//! Waiting for long work while a person watches: a bar on standard error, if that is a terminal.

use std::path::Path;
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::status::{ask, bytes};
use crate::status::{Resync, Status, VerifyStatus};

/// Time between two looks at the status.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Ask for the status again and again until `is_over` says so; `show` gives what the bar shows: parts done, parts in all, text.
///
/// # Errors
/// The daemon does not answer any more; the work itself goes on if the daemon does.
pub fn watch(
    socket: &Path,
    quiet: bool,
    show: impl Fn(&Status) -> (u64, u64, String),
    mut is_over: impl FnMut(&Status) -> bool,
) -> anyhow::Result<Status> {
    let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(1) };
    let style = ProgressStyle::with_template("{bar:30} {percent:>3}% {msg}");
    // The template is a constant that parses; with the default style the bar shows less.
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    loop {
        let status = ask(socket)?;
        let (done, all, text) = show(&status);
        bar.set_length(all.max(done).max(1));
        bar.set_position(done);
        bar.set_message(text);
        if is_over(&status) {
            bar.finish_and_clear();
            return Ok(status);
        }
        thread::sleep(LOOK_INTERVAL);
    }
}

/// How far a resync is, in a line.
pub fn resync_line(resync: &Resync) -> String {
    let at_least = if resync.all_found { "" } else { "at least " };
    let of = resync.files_examined + resync.files_left;
    format!(
        "{} of {at_least}{of} files examined, {} of {at_least}{} compared, {} to send, {} sent{}",
        resync.files_examined,
        bytes(resync.bytes_compared),
        bytes(resync.bytes_found),
        bytes(resync.bytes_to_send),
        bytes(resync.bytes_sent),
        pace(resync.active, resync.bytes_per_second, resync.seconds_left)
    )
}

/// How far a verification is, in a line.
pub fn verify_line(verify: &VerifyStatus) -> String {
    let unsettled = match verify.unsettled {
        0 => String::new(),
        count => format!(", {count} changed each time they were looked at"),
    };
    format!(
        "{} of {} files, {} examined, {} differences, {} repaired{unsettled}{}",
        verify.files_examined,
        verify.files,
        bytes(verify.bytes_examined),
        verify.differences,
        verify.repaired,
        pace(verify.state == "running", verify.bytes_per_second, verify.seconds_left)
    )
}

fn pace(active: bool, bytes_per_second: u64, seconds_left: Option<f64>) -> String {
    if !active {
        return String::new();
    }
    let left = match seconds_left {
        Some(seconds) if seconds.is_finite() && seconds < 1e9 => {
            let whole = Duration::from_secs(seconds.ceil() as u64);
            format!("about {} left", humantime::format_duration(whole))
        }
        _ => "time left unknown".to_owned(),
    };
    format!(", {}/s, {left}", bytes(bytes_per_second))
}

/// What is mirrored, and how much it may be: the bytes and files in use on the file systems, so that the tree has no more.
pub fn extent_of(status: &Status) -> String {
    let mut seen = Vec::new();
    let (mut in_use, mut files) = (0, 0);
    let mut paths = Vec::new();
    for volume in &status.volumes {
        paths.push(volume.path.as_str());
        let Ok(found) = nix::sys::statvfs::statvfs(volume.path.as_str()) else { continue };
        let id = found.filesystem_id();
        if !seen.contains(&id) {
            seen.push(id);
            in_use += found.blocks().saturating_sub(found.blocks_free()) * found.fragment_size();
            files += found.files().saturating_sub(found.files_free());
        }
    }
    format!("{}: at most {files} files and {}", paths.join(", "), bytes(in_use))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_claimed() {
        let mut resync = Resync { active: true, files_examined: 3, files_left: 2, ..Resync::default() };
        let line = resync_line(&resync);
        assert!(line.starts_with("3 of at least 5 files examined") && line.ends_with("time left unknown"));
        resync.all_found = true;
        resync.seconds_left = Some(61.2);
        let line = resync_line(&resync);
        assert!(line.starts_with("3 of 5 files") && line.ends_with("about 1m 2s left"), "{line}");
        resync.active = false;
        assert!(resync_line(&resync).ends_with("sent"));
    }
}
