//! What was checked, what came of it, and what was not run and why.

use std::time::Duration;

/// How one thing ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Holds; the words are figures.
    Passed(String),
    /// Does not hold; the words say what was found.
    Failed(String),
    /// This machine cannot run it; the words say why.
    NotRun(String),
}

/// One line of a report.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was checked.
    pub name: String,
    /// What came of it.
    pub verdict: Verdict,
    /// How long it took.
    pub time: Duration,
    /// How many checks the line stands for (a `cargo test` counts each of its tests).
    pub passed: u64,
    /// The same.
    pub failed: u64,
    /// The same.
    pub skipped: u64,
}

/// All lines.
#[derive(Clone, Default, Debug)]
pub struct Report {
    /// In the order in which they were checked.
    pub rows: Vec<Row>,
}

impl Row {
    /// A line that stands for one check.
    #[must_use]
    pub fn new(name: &str, verdict: Verdict, time: Duration) -> Row {
        let (passed, failed, skipped) = match &verdict {
            Verdict::Passed(_) => (1, 0, 0),
            Verdict::Failed(_) => (0, 1, 0),
            Verdict::NotRun(_) => (0, 0, 1),
        };
        Row { name: name.to_owned(), verdict, time, passed, failed, skipped }
    }
}

impl Report {
    /// Add a line and show it at once.
    pub fn add(&mut self, row: Row) {
        println!("{}", line(&row));
        self.rows.push(row);
    }

    /// Whether nothing failed.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.rows.iter().all(|row| row.failed == 0)
    }

    /// Show all lines again, those that need attention last.
    pub fn print(&self) {
        for verdict in [0, 1, 2] {
            for row in self.rows.iter().filter(|row| rank(&row.verdict) == verdict) {
                println!("{}", line(row));
            }
        }
    }

    /// The closing line.
    #[must_use]
    pub fn summary(&self) -> String {
        let sum = |count: fn(&Row) -> u64| self.rows.iter().map(count).sum::<u64>();
        format!(
            "{} passed, {} failed, {} skipped",
            sum(|row| row.passed),
            sum(|row| row.failed),
            sum(|row| row.skipped)
        )
    }
}

fn rank(verdict: &Verdict) -> u8 {
    match verdict {
        Verdict::Passed(_) => 0,
        Verdict::NotRun(_) => 1,
        Verdict::Failed(_) => 2,
    }
}

fn line(row: &Row) -> String {
    let (word, words) = match &row.verdict {
        Verdict::Passed(words) => ("passed", words),
        Verdict::Failed(words) => ("FAILED", words),
        Verdict::NotRun(words) => ("not run", words),
    };
    let words = words.trim_end().replace('\n', "\n      ");
    format!("{word:<8} {:<30} {:>6.1} s  {words}", row.name, row.time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_line_counts_checks_not_lines() {
        let mut report = Report::default();
        report.rows.push(Row::new("one", Verdict::Passed(String::new()), Duration::ZERO));
        report.rows.push(Row { passed: 7, ..Row::new("many", Verdict::NotRun("x".into()), Duration::ZERO) });
        assert_eq!(report.summary(), "8 passed, 0 failed, 1 skipped");
        assert!(report.is_good());
        report.rows.push(Row::new("bad", Verdict::Failed("y".into()), Duration::ZERO));
        assert!(!report.is_good());
    }
}
