//! One thing a host offers, or does not.

use serde::Serialize;

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// What was looked at, such as "fuse-device".
    pub name: String,
    /// Whether it is there.
    pub state: State,
    /// What exactly was found, and the remedy if it is missing.
    pub detail: String,
}

/// Whether something is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is there, as a node wants it.
    Yes,
    /// It is not there, or not as a node wants it.
    No,
    /// It could not be found out.
    Unknown,
}

impl Finding {
    /// It is there.
    pub fn yes(name: impl Into<String>, detail: impl Into<String>) -> Finding {
        Finding { name: name.into(), state: State::Yes, detail: detail.into() }
    }

    /// It is not there.
    pub fn no(name: impl Into<String>, detail: impl Into<String>) -> Finding {
        Finding { name: name.into(), state: State::No, detail: detail.into() }
    }

    /// It could not be found out.
    pub fn unknown(name: impl Into<String>, detail: impl Into<String>) -> Finding {
        Finding { name: name.into(), state: State::Unknown, detail: detail.into() }
    }

    /// There or not, with one detail for both.
    pub fn of(name: impl Into<String>, there: bool, detail: impl Into<String>) -> Finding {
        if there { Finding::yes(name, detail) } else { Finding::no(name, detail) }
    }
}

/// The state of a finding in a list; unknown if nobody looked.
#[must_use]
pub fn state_of(findings: &[Finding], name: &str) -> State {
    findings.iter().find(|finding| finding.name == name).map_or(State::Unknown, |finding| finding.state)
}
