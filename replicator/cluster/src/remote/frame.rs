//! Lines of JSON: bounded reading, and the envelopes around requests and answers.

use std::io;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// What a read of a line gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Line {
    /// A whole line.
    Whole,
    /// The stream ended before the first byte.
    End,
    /// The stream ended in the middle.
    Cut,
    /// The line is longer than it may be.
    TooLong,
}

/// Read a line of at most `most` bytes, its newline included.
pub(super) async fn read_line<R>(reader: &mut R, most: usize, line: &mut Vec<u8>) -> io::Result<Line>
where
    R: AsyncBufRead + Unpin,
{
    line.clear();
    reader.take(most as u64).read_until(b'\n', line).await?;
    Ok(match line.last() {
        None => Line::End,
        Some(b'\n') => Line::Whole,
        Some(_) if line.len() == most => Line::TooLong,
        Some(_) => Line::Cut,
    })
}

/// What the answerer says first.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Greeting {
    pub(super) replicator_control: u32,
}

/// A request on its way.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Asked<Q> {
    pub(super) id: u64,
    pub(super) within_ms: u64,
    pub(super) request: Q,
}

/// An answer on its way: one of the two is there.
#[derive(Serialize, Deserialize)]
#[serde(bound(deserialize = "A: Deserialize<'de>"))]
pub(super) struct Answered<A> {
    pub(super) id: u64,
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub(super) answer: Option<A>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) refused: Option<String>,
}

/// A line of JSON with its newline, if it has at most `most` bytes.
pub(super) fn encode<T: Serialize>(value: &T, most: usize) -> Result<Vec<u8>, Unsendable> {
    let mut bytes = serde_json::to_vec(value).map_err(Unsendable::Unwritable)?;
    bytes.push(b'\n');
    if bytes.len() > most { Err(Unsendable::TooLong(bytes.len())) } else { Ok(bytes) }
}

/// Why a value cannot be a line.
#[derive(Debug)]
pub(super) enum Unsendable {
    Unwritable(serde_json::Error),
    TooLong(usize),
}
