//! The index of a set: a line for each thing that was kept, with a checksum, appended and synced before anything is overwritten.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use replicator_core::extent::{Extent, ExtentSet};
use serde::{Deserialize, Serialize};

/// What a file was when it was first touched.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Attributes {
    /// Where it was, from the volume's root on; bytes that are no printable ASCII as escapes.
    pub path: String,
    /// Its inode number on this node.
    pub inode: u64,
    /// Its handle on this node: the kernel's type, and the bytes in hexadecimal.
    pub handle: (i32, String),
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Modification time, in seconds since 1970.
    pub mtime: i64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub(super) enum Line {
    /// Ranges of this file follow.
    File { number: u64, file: Attributes },
    /// A range of it is kept; `data`: so many bytes of it are not holes.
    Range { number: u64, offset: u64, length: u64, data: u64 },
    /// A whole file is going to be moved here. `bytes`: what it occupies.
    Removed { number: u64, file: Attributes, bytes: u64 },
    /// A name was taken away from this inode; it may be found again, or be removed later.
    Displaced { inode: u64, path: String },
    /// Something was not kept.
    Incomplete,
}

/// What an index says.
#[derive(Default)]
pub(super) struct Content {
    pub entries: Vec<Entry>,
    /// Something is missing.
    pub incomplete: bool,
    /// Where names were that were taken away, by inode number.
    pub displaced: HashMap<u64, String>,
}

/// What is kept of a file.
#[derive(Clone, PartialEq, Debug)]
pub enum Kept {
    /// These ranges, as they were.
    Ranges(ExtentSet),
    /// All of it: it was removed.
    Removed,
}

/// One file of which something is kept.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// Its number in the set.
    pub number: u64,
    /// What it was.
    pub file: Attributes,
    /// What is kept.
    pub kept: Kept,
    /// What that occupies, in bytes.
    pub data: u64,
}

impl Entry {
    /// Bytes that were overwritten or removed.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match &self.kept {
            Kept::Ranges(ranges) => ranges.bytes(),
            Kept::Removed => self.file.size,
        }
    }
}

/// What an index says. A line that a power cut left in part is not there: what it is about was not
/// overwritten.
pub(super) fn read(path: &Path) -> io::Result<Content> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let mut entries = BTreeMap::new();
    let mut content = Content::default();
    for line in bytes.split(|byte| *byte == b'\n').filter_map(parse) {
        match line {
            Line::File { number, file } => {
                entries.insert(
                    number,
                    Entry { number, file, kept: Kept::Ranges(ExtentSet::default()), data: 0 },
                );
            }
            Line::Removed { number, file, bytes } => {
                entries.insert(number, Entry { number, file, kept: Kept::Removed, data: bytes });
            }
            Line::Range { number, offset, length, data } => {
                let Some(entry) = entries.get_mut(&number) else { continue };
                entry.data += data;
                if let Kept::Ranges(ranges) = &mut entry.kept {
                    ranges.insert(Extent::at(offset, length));
                }
            }
            Line::Displaced { inode, path } => {
                content.displaced.insert(inode, path);
            }
            Line::Incomplete => content.incomplete = true,
        }
    }
    content.entries = entries.into_values().collect();
    Ok(content)
}

fn parse(line: &[u8]) -> Option<Line> {
    let (checksum, json) = line.split_at_checked(9)?;
    let checksum = std::str::from_utf8(checksum).ok()?.strip_suffix(' ')?;
    let holds = u32::from_str_radix(checksum, 16).is_ok_and(|found| found == crc32c::crc32c(json));
    if holds { serde_json::from_slice(json).ok() } else { None }
}

/// An index that is appended to.
#[derive(Debug)]
pub(super) struct Index(File);

impl Index {
    pub fn open(path: &Path) -> io::Result<Index> {
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        // What a power cut left of the last line must not spoil the next.
        file.write_all(b"\n")?;
        Ok(Index(file))
    }

    /// Append lines and make them durable.
    pub fn append(&mut self, lines: &[Line]) -> io::Result<()> {
        self.note(lines)?;
        self.0.sync_data()
    }

    /// Append lines of which nothing depends on one.
    pub fn note(&mut self, lines: &[Line]) -> io::Result<()> {
        let mut text = Vec::new();
        for line in lines {
            let json = serde_json::to_vec(line)?;
            write!(text, "{:08x} ", crc32c::crc32c(&json))?;
            text.extend_from_slice(&json);
            text.push(b'\n');
        }
        self.0.write_all(&text)
    }
}
