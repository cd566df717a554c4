//! What scripts write: a file for each run, bounded in size and number.
//!
//! The output goes to the file, not through a pipe: a script may leave the application behind in the background, which then
//! holds it open for as long as it lives. Such a file is still bounded, by cutting it from time to time, and stays when older
//! logs are removed: else its room would be taken and nobody could read it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use tokio::time::timeout;

use super::super::aside::aside;

/// How long a disk is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// Attempts to find a name that is free: one for each microsecond.
const ATTEMPTS_MAX: usize = 10_000;
/// Bytes of a log that are looked at for its last line.
const TAIL_BYTES: u64 = 4096;
/// Longest last line in characters.
const LINE_CHARACTERS_MAX: usize = 300;

/// The logs of a module.
#[derive(Clone, Debug)]
pub(super) struct Logs {
    directory: PathBuf,
    runs: usize,
    bytes: u64,
    bounding: Arc<AtomicBool>,
}

/// Do something with the logs, which lie on a disk that may hang: then the application must be started and stopped nevertheless.
pub(super) async fn patiently<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let done = timeout(PATIENCE, aside("logs", work)?).await.map_err(|_| io::ErrorKind::TimedOut)?;
    done.map_err(|_| io::ErrorKind::Other.into())
}

impl Logs {
    pub(super) fn new(directory: PathBuf, runs: usize, bytes: u64) -> Logs {
        Logs { directory, runs, bytes, bounding: Arc::default() }
    }

    /// A new log of `script`; what is older than the last runs is removed.
    pub(super) fn begin(&self, script: &str) -> io::Result<(PathBuf, File)> {
        DirBuilder::new().recursive(true).mode(0o750).create(&self.directory)?;
        let mut open = OpenOptions::new();
        // Appending, so that the writer goes on behind what is left when the file is cut.
        open.append(true).create_new(true).mode(0o640);
        for _ in 0..ATTEMPTS_MAX {
            let time = humantime::format_rfc3339_micros(SystemTime::now()).to_string().replace(':', "-");
            let path = self.directory.join(format!("{script}@{time}.log"));
            match open.open(&path) {
                Ok(file) => {
                    // Without a lock (a file system that has none) the log may be removed while it is written to.
                    lock(&file, libc::LOCK_SH);
                    self.remove_old(script);
                    return Ok((path, file));
                }
                // The time goes on.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// The one log of something that runs too often to keep each: it begins anew.
    pub(super) fn begin_anew(&self, script: &str) -> io::Result<(PathBuf, File)> {
        DirBuilder::new().recursive(true).mode(0o750).create(&self.directory)?;
        let path = self.directory.join(format!("{script}.log"));
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(&path)?;
        file.set_len(0)?;
        Ok((path, file))
    }

    /// Cut every log that has become too large, on a thread of its own; nothing happens while the last time still goes on.
    pub(super) fn bound_aside(&self) {
        if self.bounding.swap(true, Ordering::AcqRel) {
            return;
        }
        let logs = self.clone();
        let begun = aside("logs", move || {
            logs.bound();
            logs.bounding.store(false, Ordering::Release);
        });
        if begun.is_err() {
            self.bounding.store(false, Ordering::Release);
        }
    }

    /// Cut every log that has become too large.
    pub(super) fn bound(&self) {
        for path in self.all() {
            if let Err(error) = cut(&path, self.bytes) {
                tracing::debug!(path = %path.display(), %error, "cannot cut a log");
            }
        }
    }

    /// The logs of a script, the oldest first.
    fn of(&self, script: &str) -> Vec<PathBuf> {
        let prefix = format!("{script}@");
        let of_script = |path: &PathBuf| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&prefix))
        };
        let mut logs: Vec<PathBuf> = self.all().filter(of_script).collect();
        logs.sort();
        logs
    }

    fn all(&self) -> impl Iterator<Item = PathBuf> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "log"))
    }

    /// Remove what is older than the last runs.
    fn remove_old(&self, script: &str) {
        let logs = self.of(script);
        let surplus = logs.len().saturating_sub(self.runs);
        for path in logs.iter().take(surplus).filter(|path| !is_held(path)) {
            if let Err(error) = fs::remove_file(path) {
                tracing::debug!(path = %path.display(), %error, "cannot remove an old log");
            }
        }
    }
}

/// Lock the open file; the lock lasts until the last process that inherited it has closed it (flock(2)). Whether it was free.
///
/// Not by a guard: that would take the lock away from those who inherited it, too.
fn lock(file: &File, operation: libc::c_int) -> bool {
    // SAFETY: flock(2) takes a descriptor, which is open as long as `file` is borrowed, and touches no memory.
    unsafe { libc::flock(file.as_raw_fd(), operation | libc::LOCK_NB) == 0 }
}

/// Whether a process still writes to it.
fn is_held(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| !lock(&file, libc::LOCK_EX))
}

/// Keep the end of a log that is larger than `limit`. What is written at this very moment may be lost.
pub(super) fn cut(path: &Path, limit: u64) -> io::Result<()> {
    let length = fs::metadata(path)?.len();
    if length <= limit {
        return Ok(());
    }
    let file = OpenOptions::new().read(true).append(true).open(path)?;
    let mut end = vec![0; usize::try_from(limit / 2).unwrap_or(0)];
    let from = length.saturating_sub(end.len() as u64);
    file.read_exact_at(&mut end, from)?;
    file.set_len(0)?;
    let mut file = file;
    writeln!(file, "[{from} bytes were cut here: the log is limited to {limit} bytes]")?;
    file.write_all(&end)
}

/// The last line of a log that says something.
pub(super) fn last_line(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES))).ok()?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail).ok()?;
    let text = String::from_utf8_lossy(&tail);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.chars().filter(|character| !character.is_control()).take(LINE_CHARACTERS_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_runs_are_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let logs = Logs::new(directory.path().into(), 3, 1 << 20);
        let paths: Vec<PathBuf> = (0..5).map(|_| logs.begin("start-primary").expect("a log").0).collect();
        let (other, _) = logs.begin("start").expect("a log of another script");
        let mut expected: Vec<PathBuf> = paths[2..].to_vec();
        expected.sort();
        assert_eq!(logs.of("start-primary"), expected);
        assert_eq!(logs.of("start"), [other]);
    }

    #[test]
    fn a_log_that_is_written_to_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let logs = Logs::new(directory.path().into(), 1, 1 << 20);
        let (first, held) = logs.begin("x").expect("a log");
        let (second, _) = logs.begin("x").expect("a log");
        assert_eq!(logs.of("x"), [first.clone(), second.clone()]);
        drop(held);
        let (third, _) = logs.begin("x").expect("a log");
        assert_eq!(logs.of("x"), [third]);
    }

    #[test]
    fn a_large_log_keeps_its_end_and_goes_on_behind_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let logs = Logs::new(directory.path().into(), 1, 1000);
        let (path, mut file) = logs.begin("x").expect("a log");
        for line in 0..1000 {
            writeln!(file, "line {line}").expect("write");
        }
        logs.bound();
        writeln!(file, "the last").expect("write");
        let text = fs::read_to_string(&path).expect("read");
        assert!(text.len() < 1000, "{} bytes", text.len());
        assert!(text.starts_with('[') && text.ends_with("line 999\nthe last\n"), "{text}");
        assert_eq!(last_line(&path).as_deref(), Some("the last"));
    }

    #[test]
    fn of_an_empty_log_there_is_no_last_line() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("x.log");
        fs::write(&path, "\n \n\n").expect("write");
        assert_eq!(last_line(&path), None);
        assert_eq!(last_line(&directory.path().join("y.log")), None);
    }
}
