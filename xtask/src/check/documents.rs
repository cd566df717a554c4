//! Rules for text: links lead somewhere, nothing speaks of the machine it was written on.

use super::{Finding, Text};

/// Files without which the repository is not whole.
const REQUIRED: &[&str] = &[
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "LICENSE",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    ".ci/run",
    "ci/README.md",
    "examples/replicator.toml",
];

/// Beginnings of paths that exist on one machine only (in parts, so that this file does not hold them).
const LOCAL: &[(&str, &str)] = &[("/wor", "k/"), ("/home", "/"), ("/Use", "rs/"), ("../sha", "red")];

/// Every required file is there.
pub fn required(exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    REQUIRED.iter().filter(|path| !exists(path)).map(|path| Finding::new(path, 0, "is missing")).collect()
}

/// No file names a path of the machine it was written on.
pub fn local_paths(text: &Text) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.content.lines().enumerate() {
        for (front, back) in LOCAL {
            let path = format!("{front}{back}");
            let found = line.match_indices(&path).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                !before.is_some_and(|before| before.is_alphanumeric() || "._-/}>".contains(before))
            });
            if found {
                findings.push(Finding::new(&text.path, index + 1, format!("names the local path {path}")));
            }
        }
    }
    findings
}

/// Every relative link of a document leads to a file of the repository.
pub fn links(text: &Text, exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let directory = text.path.rsplit_once('/').map_or("", |(directory, _)| directory);
    let mut findings = Vec::new();
    let mut fenced = false;
    for (index, line) in text.content.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for (at, _) in line.match_indices("](") {
            let rest = &line[at + 2..];
            let Some(end) = rest.find(')') else { continue };
            let target = rest[..end].split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            if !exists(&resolve(directory, target)) {
                findings.push(Finding::new(
                    &text.path,
                    index + 1,
                    format!("links to {target}, which is not there"),
                ));
            }
        }
    }
    findings
}

/// A path relative to a directory, with `.` and `..` taken away.
fn resolve(directory: &str, target: &str) -> String {
    let mut parts: Vec<&str> = directory.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => (),
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::super::tests::text;
    use super::*;

    #[test]
    fn a_link_to_nowhere_is_found() {
        let document = text(
            "docs/a.md",
            "[one](b.md#part) [two](../README.md) [three](https://example.org/x) [four](#here)\n```\n[x](no.md)\n```\n",
        );
        let there = ["docs/b.md", "README.md"];
        assert_eq!(links(&document, |path| there.contains(&path)), []);
        assert_eq!(links(&document, |path| path == "README.md").len(), 1);
    }

    #[test]
    fn a_local_path_is_found() {
        let path = ["see /wor", "k/tree/x"].concat();
        assert_eq!(local_paths(&text("a.md", &path)).len(), 1);
        assert_eq!(local_paths(&text("a.md", "target/work/x, a framework/x")), []);
    }

    #[test]
    fn a_missing_file_is_found() {
        assert_eq!(required(|path| path != "README.md").len(), 1);
        assert_eq!(required(|_| true), []);
    }
}
