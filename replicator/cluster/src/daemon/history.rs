//! What happened to a module, and why: the last entries in memory, all of them in a file that is cut when it grows.
//!
//! One line of JSON for each entry. The file is for people; nothing relies on it, and a full disk ends nothing.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Entries in memory.
const KEPT: usize = 500;
/// Bytes after which the file is put aside as `.1`, and a new one begun.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// One thing that happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Entry {
    /// Seconds since 1970, by this node's clock; nothing is decided by it.
    pub at: u64,
    /// The node that tells it.
    pub node: String,
    /// In which state the module was then: `primary`, ...
    pub state: String,
    /// What happened, in words.
    pub what: String,
}

/// See the module.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
    node: String,
    entries: VecDeque<Entry>,
}

impl History {
    /// That of a module whose file is in a directory; what the file holds is known again.
    #[must_use]
    pub fn open(directory: &Path, node: &str) -> History {
        let path = directory.join("events.jsonl");
        let mut entries = VecDeque::new();
        if let Ok(file) = File::open(&path) {
            for line in BufReader::new(file).lines().map_while(Result::ok) {
                if let Ok(entry) = serde_json::from_str(&line) {
                    entries.push_back(entry);
                    if entries.len() > KEPT {
                        entries.pop_front();
                    }
                }
            }
        }
        History { path, node: node.to_owned(), entries }
    }

    /// Something happened.
    pub fn tell(&mut self, state: &str, what: String) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let entry = Entry { at, node: self.node.clone(), state: state.to_owned(), what };
        if let Err(error) = self.append(&entry) {
            tracing::warn!(path = %self.path.display(), %error, "cannot write the history");
        }
        self.entries.push_back(entry);
        if self.entries.len() > KEPT {
            self.entries.pop_front();
        }
    }

    fn append(&self, entry: &Entry) -> io::Result<()> {
        if fs::metadata(&self.path).is_ok_and(|found| found.len() > FILE_BYTES_MAX) {
            fs::rename(&self.path, self.path.with_extension("jsonl.1"))?;
        }
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        OpenOptions::new().create(true).append(true).open(&self.path)?.write_all(&line)
    }

    /// The last so many, the oldest first.
    #[must_use]
    pub fn last(&self, count: usize) -> Vec<Entry> {
        let skipped = self.entries.len().saturating_sub(count);
        self.entries.iter().skip(skipped).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_known_after_a_restart_and_a_torn_line_is_passed_over() {
        let place = tempfile::tempdir().unwrap();
        let mut history = History::open(place.path(), "alpha");
        history.tell("waiting", "the peer is lost".to_owned());
        history.tell("alone", "the arbiter granted the term".to_owned());
        let file = place.path().join("events.jsonl");
        let mut text = fs::read(&file).unwrap();
        text.extend(b"{\"at\":1,\"no");
        fs::write(&file, text).unwrap();
        let history = History::open(place.path(), "alpha");
        assert_eq!(history.last(1)[0].what, "the arbiter granted the term");
        assert_eq!(history.last(10).len(), 2);
        assert_eq!(history.last(10)[0].state, "waiting");
    }

    #[test]
    fn neither_file_nor_memory_grow_without_bound() {
        let place = tempfile::tempdir().unwrap();
        let mut history = History::open(place.path(), "alpha");
        let long = "x".repeat(4096);
        for _ in 0..KEPT + 50 {
            history.tell("primary", long.clone());
        }
        assert_eq!(history.last(usize::MAX).len(), KEPT);
        let size = fs::metadata(place.path().join("events.jsonl")).unwrap().len();
        assert!(size < FILE_BYTES_MAX + 8192, "{size}");
    }
}
