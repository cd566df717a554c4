//! `docs/protocol.md` says what the code does: numbers and names of kinds, and which have a position.

use replicator_core::wire::header::{HEADER_BYTES, Kind, PAYLOAD_MAX};

const DOCUMENT: &str = include_str!("../../../docs/protocol.md");

/// Rows of the table under a heading, as trimmed cells, without the table's own head.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let section =
        DOCUMENT.split(heading).nth(1).expect("the heading is there").split("\n## ").next().unwrap();
    let lines = section.lines().filter(|line| line.starts_with('|')).skip(2);
    lines.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

#[test]
fn every_kind_has_its_row() {
    let rows = rows("\n## Kinds\n");
    assert_eq!(rows.len(), Kind::ALL.len());
    for (row, kind) in rows.iter().zip(Kind::ALL) {
        assert_eq!(row[0], (kind as u16).to_string());
        assert_eq!(row[1], format!("{kind:?}"));
        assert_eq!(row[3] == "yes", kind.is_sequenced(), "{kind:?}");
    }
}

#[test]
fn the_header_is_described_without_gaps() {
    let mut at = 0;
    for row in rows("\n## Frame\n") {
        assert_eq!(row[0], at.to_string(), "{row:?}");
        at += row[1].parse::<usize>().expect("a length in bytes");
    }
    assert_eq!(at, HEADER_BYTES);
    assert_eq!(PAYLOAD_MAX, 4 << 20);
}
