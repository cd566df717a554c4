//! How long each part of a start took: what a takeover waits for is seen in the log.

use std::fmt;
use std::time::{Duration, Instant};

/// The parts so far.
pub struct Stages {
    since: Instant,
    passed: Vec<(&'static str, Duration)>,
}

impl Stages {
    /// The first part begins.
    pub fn begin() -> Stages {
        Stages { since: Instant::now(), passed: Vec::new() }
    }

    /// That part is over, and the next one begins.
    pub fn end(&mut self, stage: &'static str) {
        let now = Instant::now();
        self.passed.push((stage, now.duration_since(self.since)));
        self.since = now;
    }
}

impl fmt::Display for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (stage, took)) in self.passed.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{stage} {:.1} ms", took.as_secs_f64() * 1000.0)?;
        }
        Ok(())
    }
}
