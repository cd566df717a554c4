//! Which script runs: a small file for each, so that a node that died meanwhile does not start the script a second time.
//!
//! The files lie in a directory that is empty after the machine was started (below /run): what ran before is gone then.
//!
//! The record is there before the process is. If the node dies between the two, the record names no process; then the script is
//! found by the number of the run in its environment.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::group::{self, Process};
use super::{RUN_VARIABLE, RunError};

/// What the file says.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Content {
    run: String,
    process: Option<(i32, u64)>,
}

/// The record of one script.
pub(super) struct Record {
    path: PathBuf,
    run: String,
}

impl Record {
    /// Say that run `run` of the script begins.
    pub(super) fn begin(directory: &Path, script: &str, run: &str) -> Result<Record, RunError> {
        let record = Record { path: path(directory, script), run: run.to_owned() };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .and_then(|()| record.write(None))
            .map_err(|source| RunError::Record { path: record.path.clone(), source })?;
        Ok(record)
    }

    /// Say which process it is.
    pub(super) fn running(&self, process: &Process) -> Result<(), RunError> {
        self.write(Some((process.pid, process.started)))
            .map_err(|source| RunError::Record { path: self.path.clone(), source })
    }

    /// The run has ended, and nothing of it is to be waited for.
    pub(super) fn ended(self) {
        remove(&self.path);
    }

    fn write(&self, process: Option<(i32, u64)>) -> io::Result<()> {
        let mut text = format!("run {}\n", self.run);
        if let Some((pid, started)) = process {
            text.push_str(&format!("process {pid} started {started}\n"));
        }
        // Not synced: after a loss of power the directory is empty anyway.
        let aside = self.path.with_extension("new");
        fs::write(&aside, text)?;
        fs::rename(&aside, &self.path)
    }
}

/// The number of the script's run that is recorded.
///
/// # Errors
/// [`RunError::Record`]: it cannot be read.
pub(super) fn run(directory: &Path, script: &str) -> Result<Option<String>, RunError> {
    let path = path(directory, script);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(parse(&text).map(|content| content.run)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(RunError::Record { path, source }),
    }
}

/// The processes of the script's last run that are still alive; its record is removed if there are none.
///
/// # Errors
/// [`RunError::Record`]: it cannot be read. Then nobody knows, and the script must not be started.
pub(super) fn alive(directory: &Path, script: &str) -> Result<Vec<Process>, RunError> {
    let path = path(directory, script);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(RunError::Record { path, source }),
    };
    // A record is renamed when it is whole. What is not one was not written by a node.
    let found = match parse(&text) {
        Some(Content { process: Some((pid, started)), .. }) => Process::look(pid)
            .into_iter()
            .filter(|process| process.alive() && process.started == started)
            .collect(),
        Some(Content { run, process: None }) => of_run(&run),
        None => Vec::new(),
    };
    if found.is_empty() {
        remove(&path);
    }
    Ok(found)
}

/// The scripts of which a record is there.
pub(super) fn scripts(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut scripts: Vec<String> = entries
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".run").map(str::to_owned))
        .collect();
    scripts.sort();
    scripts
}

fn path(directory: &Path, script: &str) -> PathBuf {
    directory.join(format!("{script}.run"))
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        // It does no harm: the process it names is not there any more.
        tracing::debug!(path = %path.display(), %error, "cannot remove the record of a run");
    }
}

fn parse(text: &str) -> Option<Content> {
    let mut lines = text.lines();
    let run = lines.next()?.strip_prefix("run ")?.to_owned();
    let process = match lines.next() {
        Some(line) => {
            let (pid, started) = line.strip_prefix("process ")?.split_once(" started ")?;
            Some((pid.parse().ok()?, started.parse().ok()?))
        }
        None => None,
    };
    Some(Content { run, process })
}

/// The processes with that run in their environment.
fn of_run(run: &str) -> Vec<Process> {
    let variable = format!("{RUN_VARIABLE}={run}");
    group::processes()
        .filter(|process| {
            let environment = fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let record = Record::begin(directory.path(), "start-primary", "7-1").expect("begin");
        let read = || parse(&fs::read_to_string(directory.path().join("start-primary.run")).expect("read"));
        assert_eq!(read(), Some(Content { run: "7-1".into(), process: None }));
        let own = Process::look(std::process::id().try_into().expect("pid")).expect("this process");
        record.running(&own).expect("running");
        assert_eq!(read(), Some(Content { run: "7-1".into(), process: Some((own.pid, own.started)) }));
        let found = alive(directory.path(), "start-primary").expect("look");
        assert_eq!(
            found.iter().map(|found| (found.pid, found.started)).collect::<Vec<_>>(),
            [(own.pid, own.started)]
        );
        assert_eq!(scripts(directory.path()), ["start-primary"]);
        record.ended();
        assert!(scripts(directory.path()).is_empty());
    }

    #[test]
    fn another_process_of_the_same_number_is_not_the_script() {
        let directory = tempfile::tempdir().expect("a directory");
        let record = Record::begin(directory.path(), "x", "7-1").expect("begin");
        let own = Process::look(std::process::id().try_into().expect("pid")).expect("this process");
        record.running(&Process { started: own.started + 1, ..own }).expect("running");
        assert!(alive(directory.path(), "x").expect("look").is_empty());
        assert!(scripts(directory.path()).is_empty(), "and the record is gone");
    }

    #[test]
    fn garbage_names_nobody() {
        for text in ["", "run", "process 1 started 1\n", "run a\nprocess 1\n", "run a\nprocess x started 1\n"]
        {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_script_that_was_not_recorded_in_time_is_found_by_its_environment() {
        let directory = tempfile::tempdir().expect("a directory");
        let run = format!("test-{}", std::process::id());
        let _record = Record::begin(directory.path(), "x", &run).expect("begin");
        let mut child =
            std::process::Command::new("sleep").arg("60").env(RUN_VARIABLE, &run).spawn().expect("sleep");
        let found = alive(directory.path(), "x").expect("look");
        let pid = i32::try_from(child.id()).expect("a pid");
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert_eq!(found.iter().map(|process| process.pid).collect::<Vec<_>>(), [pid]);
        assert!(alive(directory.path(), "x").expect("look").is_empty());
    }
}
