//! Reads what `cargo test` says: how many tests there were, and which of them said that this machine cannot run them.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result};

/// What was counted.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Tests that ran and passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// Tests that said `not run: <why>`.
    pub not_run: Vec<(String, String)>,
}

/// Run `cargo test -- --show-output`, and show what it says without the output of the tests that passed.
///
/// # Errors
/// It cannot be started.
pub fn run(mut command: Command) -> Result<(ExitStatus, Counts)> {
    let mut reader = Reader::default();
    let status = lines(&mut command, |line| reader.line(line).then(|| line.to_owned()))?;
    Ok((status, reader.counts()))
}

/// Run a command, hand each line of its standard output to `each` and print what it returns.
///
/// # Errors
/// It cannot be started.
pub fn lines(command: &mut Command, mut each: impl FnMut(&str) -> Option<String>) -> Result<ExitStatus> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {:?}", command.get_program()))?;
    let output = child.stdout.take().context("its output")?;
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    while output.by_ref().read_until(b'\n', &mut line)? > 0 {
        if let Some(shown) = each(String::from_utf8_lossy(&line).trim_end()) {
            println!("{shown}");
        }
        line.clear();
    }
    Ok(child.wait()?)
}

#[derive(Default)]
struct Reader {
    passed: u64,
    failed: u64,
    /// Inside the outputs of tests that passed.
    successes: bool,
    test: String,
    not_run: Vec<(String, String)>,
}

impl Reader {
    /// Take in a line; whether it is to be shown.
    fn line(&mut self, line: &str) -> bool {
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.successes = false;
            self.passed += before(counts, " passed");
            self.failed += before(counts, " failed");
            return true;
        }
        if line == "failures:" {
            self.successes = false;
        } else if line == "successes:" {
            self.successes = true;
        }
        if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            name.clone_into(&mut self.test);
        }
        if let Some(why) = line.trim_start().strip_prefix("not run:")
            && !self.not_run.iter().any(|(test, _)| *test == self.test)
        {
            self.not_run.push((self.test.clone(), why.trim().to_owned()));
        }
        !self.successes
    }

    fn counts(self) -> Counts {
        Counts {
            passed: self.passed.saturating_sub(self.not_run.len() as u64),
            failed: self.failed,
            not_run: self.not_run,
        }
    }
}

/// The number directly before `word`.
fn before(text: &str, word: &str) -> u64 {
    text.split(word).next().and_then(|front| front.split_whitespace().next_back()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\
running 3 tests
test a::one ... ok
test a::two ... ok
test a::three ... FAILED

successes:

---- a::one stdout ----
not run: no /dev/kvm
---- a::two stdout ----
chatter

successes:
    a::one
    a::two

failures:

---- a::three stdout ----
it broke

test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.21s
running 1 test
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";

    #[test]
    fn tests_are_counted_and_those_not_run_are_named() {
        let mut reader = Reader::default();
        let shown: Vec<&str> = SAID.lines().filter(|line| reader.line(line)).collect();
        assert!(!shown.contains(&"chatter") && shown.contains(&"it broke"));
        let not_run = vec![("a::one".to_owned(), "no /dev/kvm".to_owned())];
        assert_eq!(reader.counts(), Counts { passed: 2, failed: 1, not_run });
    }
}
