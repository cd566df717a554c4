//! `cargo xtask check`: what keeps the parts apart, and text and code together.
//!
//! Every rule is a function from text to findings, so that it is tested on text that breaks it.

mod dependencies;
mod documents;
mod edges;
mod source;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::lab::exec;
use crate::product;

/// Arguments of `cargo xtask check`.
#[derive(clap::Args)]
pub struct Args {}

/// Something a rule has to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The file, below the repository.
    pub file: String,
    /// The line, from 1; 0 means the whole file.
    pub line: usize,
    /// What is wrong.
    pub what: String,
    /// A warning is shown; the rest fails.
    pub warning: bool,
}

impl Finding {
    /// A finding that fails the check.
    #[must_use]
    pub fn new(file: &str, line: usize, what: impl Into<String>) -> Finding {
        Finding { file: file.to_owned(), line, what: what.into(), warning: false }
    }

    /// A finding that is only shown.
    #[must_use]
    pub fn warning(file: &str, line: usize, what: impl Into<String>) -> Finding {
        Finding { warning: true, ..Finding::new(file, line, what) }
    }
}

/// A file of the repository.
#[derive(Clone, Debug)]
pub struct Text {
    /// Its path below the repository.
    pub path: String,
    /// Its content.
    pub content: String,
}

/// Run the command.
pub fn run(_args: Args) -> Result<()> {
    let root = product::repository();
    let texts = texts(&root)?;
    let metadata = metadata()?;
    let mut findings = dependencies::core(&metadata);
    findings.extend(dependencies::simulation(&metadata));
    for text in &texts {
        if text.path.ends_with(".rs") {
            findings.extend(source::rules(text));
            findings.extend(edges::rules(text));
        }
        findings.extend(documents::local_paths(text));
        if text.path.ends_with(".md") {
            findings.extend(documents::links(text, |path| root.join(path).exists()));
        }
    }
    findings.extend(documents::required(|path| root.join(path).exists()));
    let mut failed = 0;
    for finding in &findings {
        let word = if finding.warning { "warning" } else { "error" };
        failed += usize::from(!finding.warning);
        println!("{word}: {}:{}: {}", finding.file, finding.line, finding.what);
    }
    println!("{} files checked, {failed} errors, {} warnings", texts.len(), findings.len() - failed);
    if failed > 0 {
        bail!("the repository breaks its own rules");
    }
    Ok(())
}

fn metadata() -> Result<serde_json::Value> {
    let text = exec::output(product::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    serde_json::from_str(&text).context("read cargo metadata")
}

/// All text files that belong to the repository, as git knows them (also new ones that are not ignored); without git, all
/// files outside the build directory.
fn texts(root: &Path) -> Result<Vec<Text>> {
    let mut git = Command::new("git");
    git.current_dir(root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let paths: Vec<PathBuf> = match exec::output(&mut git) {
        Ok(list) => list.split('\0').filter(|path| !path.is_empty()).map(PathBuf::from).collect(),
        Err(_) => walk(root)?,
    };
    let mut texts = Vec::new();
    for path in paths {
        // A file deleted and not yet committed, or one that is no text (the kernel object), is no affair of these rules.
        if let Ok(content) = fs::read_to_string(root.join(&path)) {
            texts.push(Text { path: path.to_string_lossy().into_owned(), content });
        }
    }
    Ok(texts)
}

fn walk(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(path) = open.pop() {
        for entry in fs::read_dir(root.join(&path))? {
            let entry = entry?;
            let below = path.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                if !["target", ".git"].iter().any(|name| entry.file_name() == *name) {
                    open.push(below);
                }
            } else {
                found.push(below);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with this text, for the rules' own tests.
    pub fn text(path: &str, content: &str) -> Text {
        Text { path: path.to_owned(), content: content.to_owned() }
    }

    #[test]
    fn the_files_of_this_package_are_found_with_and_without_git() {
        let root = product::repository();
        for paths in [
            walk(&root).unwrap(),
            texts(&root).unwrap().iter().map(|text| text.path.clone().into()).collect(),
        ] {
            assert!(paths.contains(&PathBuf::from("xtask/src/check/mod.rs")));
            assert!(!paths.iter().any(|path| path.starts_with("target")));
        }
    }
}
