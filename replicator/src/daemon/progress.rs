//! How fast long work goes on, and how long the rest takes. The core has no clock: this is computed from what it says now and then.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use replicator_core::snapshot::Snapshot;
use replicator_core::verify::VerifyState;

use crate::status::{Status, VerifyStatus};

/// Rates are over about this long: what is shown neither jumps nor is long out of date.
const WINDOW: Duration = Duration::from_secs(10);
/// What is said in between adds nothing.
const SAMPLE_EVERY: Duration = Duration::from_millis(250);
/// From less than this, no rate follows.
const SPAN_MIN: Duration = Duration::from_millis(500);

/// How much is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Done {
    /// Bytes examined and sent.
    pub bytes: u64,
    /// Files examined.
    pub files: u64,
}

/// The pace of one piece of work.
#[derive(Debug, Default)]
pub struct Pace {
    /// Which piece: another one begins anew.
    number: u64,
    samples: VecDeque<(Instant, Done)>,
}

/// A pace, each second.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Rates {
    /// Bytes per second.
    pub bytes: f64,
    /// Files per second.
    pub files: f64,
}

impl Pace {
    /// So much of the piece with that number is done at this moment; how fast it went lately.
    pub fn sample(&mut self, number: u64, now: Instant, done: Done) -> Rates {
        let falls = self.samples.back().is_some_and(|(_, before)| before.bytes > done.bytes);
        if std::mem::replace(&mut self.number, number) != number || falls {
            self.samples.clear();
        }
        if self.samples.back().is_none_or(|(at, _)| now.duration_since(*at) >= SAMPLE_EVERY) {
            self.samples.push_back((now, done));
        }
        while self.samples.len() > 2
            && self.samples.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW)
        {
            self.samples.pop_front();
        }
        let Some((at, then)) = self.samples.front() else { return Rates::default() };
        let span = now.duration_since(*at);
        if span < SPAN_MIN {
            return Rates::default();
        }
        let rate = |then: u64, now: u64| now.saturating_sub(then) as f64 / span.as_secs_f64();
        Rates { bytes: rate(then.bytes, done.bytes), files: rate(then.files, done.files) }
    }
}

/// Progress of what is under way.
#[derive(Debug, Default)]
pub struct Progress {
    resync: Pace,
    verify: Pace,
    /// Counts the pieces of work called resync: sessions, and what operators ask for.
    number: u64,
    /// Bytes of all files that were listed before it began.
    listed_before: Option<u64>,
}

impl Progress {
    /// Another resync begins.
    pub fn restart(&mut self) {
        self.number += 1;
        self.listed_before = None;
    }

    /// Show how far it is. `listed`: bytes of the files that lists have named since the start.
    pub fn show(&mut self, status: &mut Status, snapshot: &Snapshot, listed: u64, now: Instant) {
        let progress = snapshot.resync;
        let resync = &mut status.resync;
        let before = *self.listed_before.get_or_insert(listed);
        let asked = snapshot.asked.is_some_and(|asked| asked.number == resync.asked && !asked.done);
        resync.active |= asked && resync.asked_failed.is_empty();
        resync.asked_done = snapshot.asked.is_some_and(|asked| asked.number == resync.asked && asked.done);
        resync.files_left = progress.files_left;
        resync.files_examined = progress.names_listed.saturating_sub(progress.files_left);
        resync.bytes_found = listed.saturating_sub(before);
        resync.bytes_to_send = if resync.active { snapshot.dirty_bytes } else { 0 };
        resync.all_found = progress.directories_left == 0;
        let bytes = progress.bytes_compared + progress.bytes_sent;
        let done = Done { bytes, files: resync.files_examined };
        let rates = self.resync.sample(self.number, now, done);
        (resync.bytes_per_second, resync.seconds_left) = (0, None);
        if resync.active {
            resync.bytes_per_second = rates.bytes as u64;
            let bytes_left = resync.bytes_found.saturating_sub(bytes).max(resync.bytes_to_send);
            // What is not found yet has no end that could be told.
            let left = seconds_left(bytes_left, resync.files_left, rates);
            resync.seconds_left = left.filter(|_| resync.all_found);
        }
        self.show_verify(&mut status.verify, snapshot, now);
    }

    fn show_verify(&mut self, verify: &mut VerifyStatus, snapshot: &Snapshot, now: Instant) {
        let Some(progress) = snapshot.verify else { return };
        let done = Done { bytes: progress.bytes_examined, files: progress.files_examined };
        let rates = self.verify.sample(progress.number, now, done);
        let running = progress.state == VerifyState::Running;
        let files_left = progress.files.saturating_sub(progress.files_examined);
        *verify = VerifyStatus {
            number: progress.number,
            state: format!("{:?}", progress.state).to_lowercase(),
            files: progress.files,
            files_examined: progress.files_examined,
            bytes_examined: progress.bytes_examined,
            differences: progress.differences,
            unsettled: progress.unsettled,
            repaired: progress.repaired,
            bytes_per_second: if running { rates.bytes as u64 } else { 0 },
            seconds_left: seconds_left(0, files_left, rates).filter(|_| running),
        };
    }
}

/// Seconds that the rest takes, by whichever of both takes longer; `None` where nothing goes on, so that nobody knows.
pub fn seconds_left(bytes_left: u64, files_left: u64, rates: Rates) -> Option<f64> {
    let of = |left: u64, rate: f64| match (left, rate) {
        (0, _) => Some(0.0),
        (_, rate) if rate > 0.0 => Some(left as f64 / rate),
        _ => None,
    };
    match (of(bytes_left, rates.bytes), of(files_left, rates.files)) {
        (Some(bytes), Some(files)) => Some(bytes.max(files)),
        (Some(one), None) | (None, Some(one)) if one > 0.0 => Some(one),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(bytes: u64, files: u64) -> Done {
        Done { bytes, files }
    }

    #[test]
    fn a_pace_is_that_of_the_last_seconds() {
        let begin = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.sample(1, begin, done(0, 0)), Rates::default());
        // Ten seconds at 100 bytes each second, then ten at 1000.
        let mut last = Rates::default();
        for second in 1..=20_u64 {
            let bytes = if second <= 10 { second * 100 } else { 1000 + (second - 10) * 1000 };
            last = pace.sample(1, begin + Duration::from_secs(second), done(bytes, second));
        }
        assert!((last.bytes - 1000.0).abs() < 1.0, "{last:?}");
        assert!((last.files - 1.0).abs() < 0.01, "{last:?}");
    }

    #[test]
    fn another_piece_of_work_has_a_pace_of_its_own() {
        let begin = Instant::now();
        let mut pace = Pace::default();
        pace.sample(1, begin, done(0, 0));
        assert!(pace.sample(1, begin + Duration::from_secs(1), done(5000, 1)).bytes > 0.0);
        assert_eq!(pace.sample(2, begin + Duration::from_secs(2), done(0, 0)), Rates::default());
    }

    #[test]
    fn the_rest_takes_as_long_as_its_slower_part() {
        let rates = Rates { bytes: 100.0, files: 2.0 };
        assert_eq!(seconds_left(1000, 4, rates), Some(10.0));
        assert_eq!(seconds_left(100, 40, rates), Some(20.0));
        assert_eq!(seconds_left(0, 0, rates), Some(0.0));
        // A large file: no file ends, bytes go on.
        assert_eq!(seconds_left(1000, 3, Rates { bytes: 100.0, files: 0.0 }), Some(10.0));
        assert_eq!(seconds_left(1000, 3, Rates::default()), None);
    }
}
