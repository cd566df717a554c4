//! Names are bytes: newlines, spaces, leading dashes, backslashes, bytes that are no UTF-8, 255 bytes, deep paths. None of them is
//! taken for anything else.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context as _, Result};

use super::files::{require_copied, write_synced};
use super::{Context, Outcome, passed};
use crate::lab::mirror::Mirror;

const DEPTH: usize = 60;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::start(&context.options())?;
    let data = mirror.data().to_owned();
    let names: Vec<Vec<u8>> = vec![
        b" ".to_vec(),
        b"two\nlines".to_vec(),
        b"tab\there".to_vec(),
        b"-rf".to_vec(),
        b"back\\slash\\012".to_vec(),
        b"\xff\xfe not utf-8 \x80".to_vec(),
        b"%s%n{}$(x)`y`'\"*?".to_vec(),
        b"...".to_vec(),
        "\u{fc}n\u{ef}c\u{f6}d\u{e9} \u{1f980}".as_bytes().to_vec(),
        vec![b'n'; 255],
        vec![0xc3; 255],
        b"\x01\x7f".to_vec(),
    ];
    for name in &names {
        let name = OsStr::from_bytes(name);
        write_synced(&data.join(name), b"content")?;
        require_copied(&mirror, name, "odd name")?;
        let directory = data.join("in").join(name);
        fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        fs::rename(data.join(name), directory.join(name))?;
    }
    let mut deep = data.join("deep");
    for _ in 0..DEPTH {
        deep.push("d".repeat(40));
    }
    fs::create_dir_all(&deep)?;
    write_synced(&deep.join("bottom"), b"deep")?;
    let below = deep.strip_prefix(&data)?.join("bottom");
    require_copied(&mirror, below, "deep path")?;
    mirror.wait_identical()?;
    mirror.finish(&[])?;
    passed(format!("{} names as files and directories, a path of {DEPTH} levels", names.len()))
}
