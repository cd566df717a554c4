//! Rules for every Rust file.

use super::{Finding, Text};

/// A file beyond this many lines is asking to be two.
const LONG: usize = 600;
/// A file beyond this many lines is refused.
const TOO_LONG: usize = 1000;

/// What must not be in a source file: the words (in two parts, so that this file does not hold them), and why.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    ("todo", "!(", "unfinished work is not committed"),
    ("unimplemented", "!(", "unfinished work is not committed"),
    ("#[ign", "ore", "what a machine cannot run is reported as not run"),
];

/// In tests: needs a reason in a comment on the same line or just above.
const SLEEP: (&str, &str) = ("thread::", "sleep(");

/// How far above a reason may stand.
const ABOVE: usize = 4;

/// Check one source file.
pub fn rules(text: &Text) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines: Vec<&str> = text.content.lines().collect();
    if !opens_with_comment(&lines) {
        findings.push(Finding::new(&text.path, 1, "a file opens with a module comment (//!)"));
    }
    if lines.len() > TOO_LONG {
        findings.push(Finding::new(&text.path, 0, format!("{} lines; split it by meaning", lines.len())));
    } else if lines.len() > LONG {
        findings.push(Finding::warning(
            &text.path,
            0,
            format!("{} lines are asking to be two files", lines.len()),
        ));
    }
    let mut testing = text.path.contains("tests") || text.path.starts_with("xtask/");
    for (number, line) in code(&text.content) {
        for (front, back, why) in FORBIDDEN {
            if line.contains(&format!("{front}{back}")) {
                findings.push(Finding::new(&text.path, number, *why));
            }
        }
        testing |= line.contains("#[cfg(test)]");
        if testing && line.contains(&[SLEEP.0, SLEEP.1].concat()) && !has_comment(&lines, number, "//") {
            let why = "wait for a state, never for a time; if it must be, a comment says why";
            findings.push(Finding::new(&text.path, number, why));
        }
        if is_unsafe(&line)
            && !has_comment(&lines, number, "SAFETY:")
            && !has_comment(&lines, number, "# Safety")
        {
            findings.push(Finding::new(
                &text.path,
                number,
                "unsafe without `// SAFETY:` naming its conditions",
            ));
        }
    }
    findings
}

/// The lines that are code, with their numbers from 1: comments are cut off, and so are the insides of plain string literals.
pub fn code(content: &str) -> impl Iterator<Item = (usize, String)> + '_ {
    content.lines().enumerate().map(|(index, line)| (index + 1, strip(line)))
}

/// A line without its comment and without what its string literals hold. Literals over several lines are not followed:
/// what is inside them is taken for code, which at worst is a finding too many.
fn strip(line: &str) -> String {
    let mut stripped = String::with_capacity(line.len());
    let mut characters = line.chars().peekable();
    let mut quoted = false;
    while let Some(character) = characters.next() {
        match character {
            '\\' if quoted => drop(characters.next()),
            '"' => {
                quoted = !quoted;
                stripped.push(character);
            }
            '\'' if !quoted && characters.peek() == Some(&'"') => {
                // The character literal '"'.
                characters.next();
                characters.next();
            }
            '/' if !quoted && characters.peek() == Some(&'/') => break,
            _ if quoted => (),
            _ => stripped.push(character),
        }
    }
    stripped
}

fn opens_with_comment(lines: &[&str]) -> bool {
    lines.iter().find(|line| !line.trim().is_empty()).is_some_and(|line| line.starts_with("//!"))
}

fn is_unsafe(line: &str) -> bool {
    let block = line.contains("unsafe {") || line.trim_start().starts_with("unsafe impl");
    block && !line.contains("unsafe fn")
}

/// Whether a comment with `word` stands on the line or directly above it (other lines of one statement between).
fn has_comment(lines: &[&str], number: usize, word: &str) -> bool {
    let index = number - 1;
    let comment = |line: &str| line.find("//").is_some_and(|at| line[at..].contains(word));
    if lines.get(index).is_some_and(|line| comment(line)) {
        return true;
    }
    // Up over the statement's beginning to the comment block, and through that.
    let mut between = 0;
    for line in lines[..index].iter().rev() {
        if line.trim_start().starts_with("//") {
            if comment(line) {
                return true;
            }
        } else {
            between += 1;
            if between > ABOVE || line.trim().is_empty() {
                return false;
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::tests::text;
    use super::*;

    fn findings(content: &str) -> Vec<Finding> {
        rules(&text("x.rs", content))
    }

    fn count(body: &str) -> usize {
        findings(&format!("//! A file.\n\n{body}\n")).len()
    }

    #[test]
    fn a_clean_file_has_no_findings() {
        assert_eq!(count("fn f() {}"), 0);
    }

    #[test]
    fn a_file_without_a_module_comment_is_found() {
        assert_eq!(findings("use std::fs;\n").len(), 1);
        assert_eq!(findings("\n//! Fine.\n").len(), 0);
    }

    #[test]
    fn unfinished_and_ignored_is_found_but_not_in_comments_and_strings() {
        for (front, back, _) in FORBIDDEN {
            assert_eq!(count(&format!("    {front}{back}")), 1);
            assert_eq!(count(&format!("    // {front}{back}")), 0);
            assert_eq!(count(&format!("    let x = \"{front}{back}\";")), 0);
        }
    }

    #[test]
    fn a_sleep_in_a_test_needs_a_reason() {
        let sleep = ["std::thread::", "sleep(time);"].concat();
        assert_eq!(count(&format!("#[cfg(test)]\n    {sleep}")), 1);
        assert_eq!(count(&format!("#[cfg(test)]\n    // Between two looks.\n    {sleep}")), 0);
        assert_eq!(count(&format!("    {sleep}")), 0);
    }

    #[test]
    fn unsafe_needs_its_conditions() {
        let block = ["unsaf", "e { f() }"].concat();
        assert_eq!(count(&format!("    let x = {block};")), 1);
        assert_eq!(count(&format!("    // SAFETY: f has no conditions.\n    let x = {block};")), 0);
        assert_eq!(count(&format!("    // SAFETY: none.\n    let x =\n        {block};")), 0);
        assert_eq!(count(&format!("    // SAFETY: of another.\n    g();\n\n    let x = {block};")), 1);
    }

    #[test]
    fn a_file_that_grew_is_shown_and_then_refused() {
        let long = |lines: usize| findings(&format!("//! A file.\n{}", "fn f() {}\n".repeat(lines)));
        assert!(long(LONG).iter().all(|finding| finding.warning) && long(LONG).len() == 1);
        assert!(long(TOO_LONG).iter().any(|finding| !finding.warning));
    }
}
