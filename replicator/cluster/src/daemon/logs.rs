//! The logs of a module's scripts, for whoever asks: their ends, or what came since.
//!
//! A log is cut at its beginning when it grows, and goes away with the next runs: a position behind the end means that it was cut.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// Most bytes of logs in one answer. As JSON, in which a byte may become six, they fit into an answer.
pub const BYTES_MAX: u64 = 512 << 10;
/// Most lines that are told at once.
pub const LINES_MAX: usize = 10_000;
/// Most logs in one answer: the newest.
const LOGS_MAX: usize = 200;

/// A part of a log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Part {
    /// The log's name, "start-primary@2026-01-01T00-00-00.000000Z.log".
    pub log: String,
    /// What stands there; bytes that are no text are replaced.
    pub text: String,
    /// The position behind it.
    pub end: u64,
}

/// The last lines of the logs in a directory, the newest log last. A directory that is not there holds none.
///
/// # Errors
/// The directory cannot be read.
pub fn last(directory: &Path, lines: usize) -> io::Result<Vec<Part>> {
    let mut left = lines.min(LINES_MAX);
    let mut budget = BYTES_MAX;
    let mut parts = Vec::new();
    for (log, _) in newest_first(directory)? {
        if left == 0 || budget == 0 {
            break;
        }
        // One that was removed meanwhile, or cannot be read, hides no other.
        let Ok((text, end)) = read_end(&directory.join(&log), budget) else { continue };
        let text = last_lines(&text, left);
        budget = budget.saturating_sub(text.len() as u64);
        left -= text.lines().count().min(left);
        parts.push(Part { log, text: text.to_owned(), end });
    }
    parts.reverse();
    Ok(parts)
}

/// What came since: of logs that are named, from that position on; of others all. What does not fit comes with the next question.
///
/// # Errors
/// The directory cannot be read.
pub fn since(directory: &Path, known: &BTreeMap<String, u64>) -> io::Result<Vec<Part>> {
    let mut budget = BYTES_MAX;
    let mut parts = Vec::new();
    let mut logs = newest_first(directory)?;
    logs.reverse();
    for (log, size) in logs {
        let from = known.get(&log).copied().filter(|from| *from <= size).unwrap_or(0);
        if from == size || budget == 0 {
            continue;
        }
        let Ok(bytes) = read_from(&directory.join(&log), from, budget) else { continue };
        budget = budget.saturating_sub(bytes.len() as u64);
        let end = from + bytes.len() as u64;
        parts.push(Part { log, text: String::from_utf8_lossy(&bytes).into_owned(), end });
    }
    Ok(parts)
}

/// Where the logs in a directory end now.
///
/// # Errors
/// The directory cannot be read.
pub fn ends(directory: &Path) -> io::Result<BTreeMap<String, u64>> {
    Ok(newest_first(directory)?.into_iter().collect())
}

/// Names of the newest logs in a directory, the newest first.
///
/// # Errors
/// The directory cannot be read.
pub fn names(directory: &Path, most: usize) -> io::Result<Vec<String>> {
    Ok(newest_first(directory)?.into_iter().take(most).map(|(name, _)| name).collect())
}

/// Names and sizes of the newest logs.
fn newest_first(directory: &Path) -> io::Result<Vec<(String, u64)>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut logs = Vec::new();
    for entry in entries {
        let entry = entry?;
        let (Ok(name), Ok(found)) = (entry.file_name().into_string(), entry.metadata()) else { continue };
        if found.is_file() && name.ends_with(".log") {
            let changed = found.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            logs.push((changed, name, found.len()));
        }
    }
    logs.sort_by(|one, other| (other.0, &other.1).cmp(&(one.0, &one.1)));
    logs.truncate(LOGS_MAX);
    Ok(logs.into_iter().map(|(_, name, size)| (name, size)).collect())
}

/// The last bytes of a file, from the begin of a line on, and its size.
///
/// # Errors
/// It is no plain file, or cannot be read.
pub fn read_end(path: &Path, bytes: u64) -> io::Result<(String, u64)> {
    let size = open(path)?.metadata()?.len();
    let from = size.saturating_sub(bytes);
    let read = read_from(path, from, bytes)?;
    let begin = match read.iter().position(|byte| *byte == b'\n') {
        Some(newline) if from > 0 => newline + 1,
        _ => 0,
    };
    let text = String::from_utf8_lossy(read.get(begin..).unwrap_or_default()).into_owned();
    Ok((text, from + read.len() as u64))
}

fn read_from(path: &Path, from: u64, bytes: u64) -> io::Result<Vec<u8>> {
    let mut file = open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut read = Vec::new();
    file.take(bytes).read_to_end(&mut read)?;
    Ok(read)
}

/// A plain file, and no link to another.
fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// The last so many lines of a text.
#[must_use]
pub fn last_lines(text: &str, count: usize) -> &str {
    if count == 0 {
        return "";
    }
    let whole = text.strip_suffix('\n').unwrap_or(text);
    match whole.rmatch_indices('\n').nth(count.saturating_sub(1)) {
        Some((newline, _)) => text.get(newline + 1..).unwrap_or_default(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Logs with their contents, each newer than the one before.
    fn place(logs: &[(&str, &str)]) -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        for (age, (name, text)) in logs.iter().enumerate() {
            let path = place.path().join(name);
            fs::write(&path, text).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1000 + age as u64);
            File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        }
        place
    }

    fn texts(parts: &[Part]) -> Vec<(&str, &str)> {
        parts.iter().map(|part| (part.log.as_str(), part.text.as_str())).collect()
    }

    #[test]
    fn the_last_lines_are_those_of_the_newest_logs() {
        let place = place(&[("a.log", "1\n2\n3\n"), ("b.log", "4\n5"), ("note.txt", "no log\n")]);
        assert_eq!(texts(&last(place.path(), 3).unwrap()), [("a.log", "3\n"), ("b.log", "4\n5")]);
        assert_eq!(texts(&last(place.path(), 1).unwrap()), [("b.log", "5")]);
        assert_eq!(texts(&last(place.path(), 100).unwrap()), [("a.log", "1\n2\n3\n"), ("b.log", "4\n5")]);
        assert_eq!(last(&place.path().join("none"), 10).unwrap(), []);
    }

    #[test]
    fn what_came_since_is_told_once_and_a_cut_log_from_its_begin() {
        let place = place(&[("a.log", "one\ntwo\n")]);
        assert_eq!(ends(place.path()).unwrap(), [("a.log".to_owned(), 8)].into());
        let known = |parts: &[Part]| parts.iter().map(|part| (part.log.clone(), part.end)).collect();
        let seen: BTreeMap<String, u64> = known(&last(place.path(), 10).unwrap());
        assert_eq!(since(place.path(), &seen).unwrap(), []);
        fs::write(place.path().join("a.log"), "one\ntwo\nthree\n").unwrap();
        fs::write(place.path().join("b.log"), "new\n").unwrap();
        let mut more = since(place.path(), &seen).unwrap();
        more.sort_by(|one, other| one.log.cmp(&other.log));
        assert_eq!(texts(&more), [("a.log", "three\n"), ("b.log", "new\n")]);
        fs::write(place.path().join("a.log"), "cut\n").unwrap();
        let mut again = since(place.path(), &known(&more)).unwrap();
        again.retain(|part| part.log == "a.log");
        assert_eq!(texts(&again), [("a.log", "cut\n")]);
    }

    #[test]
    fn an_answer_is_bounded_and_links_lead_nowhere() {
        let long = "x".repeat(1023) + "\n";
        let place = place(&[("a.log", &long.repeat(1024)), ("b.log", &long.repeat(300))]);
        std::os::unix::fs::symlink("/etc/passwd", place.path().join("c.log")).unwrap();
        let parts = last(place.path(), usize::MAX).unwrap();
        let bytes: usize = parts.iter().map(|part| part.text.len()).sum();
        assert!(bytes as u64 <= BYTES_MAX && bytes > 500 << 10, "{bytes}");
        assert!(parts.iter().all(|part| part.text.starts_with('x') && part.log != "c.log"));
        let parts = since(place.path(), &BTreeMap::new()).unwrap();
        assert!(parts.iter().map(|part| part.text.len() as u64).sum::<u64>() <= BYTES_MAX);
    }
}
