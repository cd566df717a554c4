//! Which packages of libraries the program needs, by what the linker has written into it.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use object::Endianness;
use object::elf::{DT_NEEDED, FileHeader64};
use object::read::elf::{Dyn, FileHeader};

/// A library's name, and the package that it comes in.
const PACKAGES: &[(&str, &str)] = &[
    ("libc.so.6", "libc6"),
    ("libm.so.6", "libc6"),
    ("ld-linux-x86-64.so.2", "libc6"),
    ("ld-linux-aarch64.so.1", "libc6"),
    ("libgcc_s.so.1", "libgcc-s1"),
];
/// How versions of the C library begin.
const VERSION: &str = "GLIBC_";

/// The line `Depends:` of a program.
///
/// # Errors
/// It is no program of 64 bits, or needs a library that is in no package known here.
pub fn needed(program: &[u8]) -> Result<String> {
    let (libraries, version) = read(program).context("read what the program needs")?;
    let mut packages = BTreeSet::new();
    for library in libraries {
        match PACKAGES.iter().find(|(name, _)| *name == library) {
            Some((_, "libc6")) => packages.insert(format!("libc6 (>= {}.{})", version.0, version.1)),
            Some((_, package)) => packages.insert((*package).to_owned()),
            None => bail!("the program needs {library}: name its package in xtask/src/package/libraries.rs"),
        };
    }
    Ok(packages.into_iter().collect::<Vec<_>>().join(", "))
}

/// Libraries by name, and the highest version of the C library that one of its functions wants.
fn read(program: &[u8]) -> Result<(BTreeSet<String>, (u32, u32))> {
    let header = FileHeader64::<Endianness>::parse(program)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, program)?;
    let mut libraries = BTreeSet::new();
    if let Some((entries, link)) = sections.dynamic(endian, program)? {
        let strings = sections.strings(endian, program, link)?;
        for entry in entries.iter().filter(|entry| entry.tag32(endian).map(i64::from) == Some(DT_NEEDED)) {
            libraries.insert(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned());
        }
    }
    let mut highest = (0, 0);
    if let Some((mut needs, link)) = sections.gnu_verneed(endian, program)? {
        let strings = sections.strings(endian, program, link)?;
        while let Some((_, mut versions)) = needs.next()? {
            while let Some(version) = versions.next()? {
                let name = String::from_utf8_lossy(version.name(endian, strings)?).into_owned();
                highest = highest.max(glibc(&name).unwrap_or_default());
            }
        }
    }
    Ok((libraries, highest))
}

/// "GLIBC_2.34", "GLIBC_2.2.5".
fn glibc(name: &str) -> Option<(u32, u32)> {
    let mut numbers = name.strip_prefix(VERSION)?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// This machine's architecture, as Debian calls it.
///
/// # Errors
/// The product is not built for it.
pub fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no package is built for {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(glibc("GLIBC_2.34") > glibc("GLIBC_2.4"));
        assert_eq!(glibc("GLIBC_2.2.5"), Some((2, 2)));
        assert_eq!(glibc("GCC_3.0"), None);
    }

    #[test]
    fn this_program_needs_the_c_library_and_says_which() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let needed = needed(&own).unwrap();
        assert!(needed.starts_with("libc6 (>= 2."), "{needed}");
        assert!(super::needed(b"#!/bin/sh\n").is_err());
    }
}
