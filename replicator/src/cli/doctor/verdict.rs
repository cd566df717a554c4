//! Which capture row and mode follow from what was found.

use serde::Serialize;

use super::finding::{Finding, State, state_of};
use super::{edges, process};
use crate::cli::exit;
use crate::config::Capture;

/// What a node would do on this host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Verdict {
    /// Whether a node can run at all.
    pub can_run: bool,
    /// Whether fsyncs can be held ("sync", "semi-sync").
    pub fsync_held: bool,
    /// The capture row.
    pub row: Capture,
    /// Why this row and mode.
    pub why: Vec<String>,
}

impl Verdict {
    /// The exit code of `doctor`.
    #[must_use]
    pub fn code(&self) -> u8 {
        if !self.can_run {
            exit::RED
        } else if self.row == Capture::Fentry || self.row == Capture::Tracepoints {
            exit::OK
        } else {
            exit::ORANGE
        }
    }
}

/// Follow the table of capture rows. `host` holds the findings about host, process and edges; `directories` those about
/// the configuration and its directories.
#[must_use]
pub fn verdict(host: &[Finding], directories: &[Finding]) -> Verdict {
    let mut why = Vec::new();
    let gate = state_of(host, "fuse-device") != State::No && state_of(host, edges::FUSE) != State::No;
    let (row, reason) = row(host, gate);
    why.push(reason.to_owned());
    if !gate {
        why.push(
            "no gate, because FUSE cannot be used: only mode \"async\" with gate = false is left".to_owned(),
        );
        if row != Capture::Fentry {
            why.push(
                "cannot run: without the gate nothing but row fentry captures names and attributes"
                    .to_owned(),
            );
        }
    }
    let obstacles: Vec<String> = obstacles(host, directories).collect();
    let can_run = obstacles.is_empty() && (gate || row == Capture::Fentry);
    why.extend(obstacles);
    Verdict { can_run, fsync_held: gate && can_run, row, why }
}

fn row(host: &[Finding], gate: bool) -> (Capture, &'static str) {
    let is = |name| state_of(host, name);
    if is("btf") == State::No || is("bpf-types") == State::No {
        (Capture::Gate, "row gate, because without BTF no kernel program can find its fields")
    } else if is("bpf-ring-buffer") == State::No {
        (Capture::Gate, "row gate, because the kernel has no ring buffer for events (Linux 5.8)")
    } else if gate && is(edges::PASSTHROUGH) == State::No {
        (
            Capture::Gate,
            "row gate, because FUSE has no passthrough here (Linux 6.9): the daemon handles each WRITE",
        )
    } else if is(edges::TRAMPOLINES) == State::Yes {
        (Capture::Fentry, "row fentry, because fentry/fexit programs may be attached")
    } else if is(edges::TRACEPOINTS) == State::Yes {
        (Capture::Tracepoints, "row tracepoints, because tracepoints are permitted and fentry/fexit is not")
    } else if is(edges::TRAMPOLINES) == State::No && is(edges::TRACEPOINTS) == State::No {
        (Capture::Gate, "row gate, because kernel programs are refused")
    } else {
        (Capture::Auto, "row not known before the start, because the kernel was not asked for programs")
    }
}

/// What a node cannot do without and does not have.
fn obstacles<'a>(host: &'a [Finding], directories: &'a [Finding]) -> impl Iterator<Item = String> + 'a {
    let of_host = |finding: &&Finding| {
        let name = finding.name.as_str();
        process::VITAL.contains(&name) || ["initial-user-namespace", edges::IO_URING].contains(&name)
    };
    let of_directories = |finding: &&Finding| {
        ["configuration", "directory", "file-handles", "writable"].contains(&finding.name.as_str())
    };
    let all = host.iter().filter(of_host).chain(directories.iter().filter(of_directories));
    all.filter(|finding| finding.state == State::No)
        .map(|finding| format!("cannot run: {}: {}", finding.name, finding.detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(fentry: State, tracepoints: State, passthrough: State) -> Vec<Finding> {
        let finding = |name: &str, state| Finding { name: name.into(), state, detail: String::new() };
        vec![
            finding("CAP_SYS_ADMIN", State::Yes),
            finding("fuse-device", State::Yes),
            finding("btf", State::Yes),
            finding(edges::TRAMPOLINES, fentry),
            finding(edges::TRACEPOINTS, tracepoints),
            finding(edges::PASSTHROUGH, passthrough),
        ]
    }

    #[test]
    fn the_best_permitted_row_is_taken() {
        use State::{No, Unknown, Yes};
        let row =
            |fentry, tracepoints, passthrough| verdict(&host(fentry, tracepoints, passthrough), &[]).row;
        assert_eq!(row(Yes, Yes, Yes), Capture::Fentry);
        assert_eq!(row(No, Yes, Yes), Capture::Tracepoints);
        assert_eq!(row(No, No, Yes), Capture::Gate);
        assert_eq!(row(Yes, Yes, No), Capture::Gate);
        assert_eq!(row(Unknown, Unknown, Unknown), Capture::Auto);
    }

    #[test]
    fn what_a_node_cannot_do_without_is_red() {
        let mut findings = host(State::Yes, State::Yes, State::Yes);
        assert_eq!(verdict(&findings, &[]).code(), exit::OK);
        assert_eq!(verdict(&findings, &[Finding::no("directory", "missing")]).code(), exit::RED);
        findings[0].state = State::No;
        let verdict = verdict(&findings, &[]);
        assert!(!verdict.can_run && !verdict.fsync_held);
        assert_eq!(verdict.code(), exit::RED);
    }

    #[test]
    fn without_fuse_only_tracing_is_left() {
        let mut findings = host(State::Yes, State::Yes, State::Unknown);
        findings[1].state = State::No;
        let traced = verdict(&findings, &[]);
        assert!(traced.can_run && !traced.fsync_held);
        findings[3].state = State::No;
        assert!(!verdict(&findings, &[]).can_run);
    }
}
