//! Which names of a mirrored directory belong to its replicated tree: exclusion and inclusion patterns.
//!
//! A name is left out if it, or a directory above it, matches a pattern of `exclude` and none of `include`. What lies below
//! a directory that is left out is left out with it, whatever `include` says. The decision depends on nothing but the path
//! below the mirrored directory and on whether it is a directory, so that both nodes come to the same.
//!
//! A pattern is a glob as gitignore(5) has them: `*` and `?` do not match `/`, `**` does; with a `/` at its begin or inside it
//! is compared with the whole path, else with the last name of the path; with a `/` at its end it matches directories only.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};

/// Longest pattern in bytes; a longer one is surely not one.
const PATTERN_BYTES_MAX: usize = 4096;

/// What is wrong with a pattern.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PatternError {
    /// Nothing, or slashes only.
    #[error("it is empty")]
    Empty,
    /// Longer than any path.
    #[error("it is longer than {PATTERN_BYTES_MAX} bytes")]
    TooLong,
    /// An exception, as other tools write it.
    #[error("it begins with \"!\"; write exceptions into include, a name that begins so as \"\\\\!\"")]
    Negated,
    /// A component that no path has.
    #[error("no path below the directory has an empty, \".\" or \"..\" component")]
    Component,
    /// Not a glob.
    #[error("{0}")]
    Glob(String),
}

/// A list of patterns.
#[derive(Clone, Debug)]
struct Globs {
    set: GlobSet,
    /// Of each pattern: whether it matches directories only.
    directories: Vec<bool>,
}

impl Globs {
    fn new(patterns: &[String]) -> Result<Globs, (String, PatternError)> {
        let mut set = GlobSetBuilder::new();
        let mut directories = Vec::new();
        for pattern in patterns {
            let failed = |error| (pattern.clone(), error);
            let (glob, directory) = parse(pattern).map_err(failed)?;
            let built = GlobBuilder::new(&glob).literal_separator(true).backslash_escape(true).build();
            set.add(built.map_err(|error| failed(PatternError::Glob(error.kind().to_string())))?);
            directories.push(directory);
        }
        let set =
            set.build().map_err(|error| (patterns.join(", "), PatternError::Glob(error.to_string())))?;
        Ok(Globs { set, directories })
    }

    fn matches(&self, path: &[u8], directory: bool) -> bool {
        let candidate = Candidate::new(Path::new(OsStr::from_bytes(path)));
        let found = self.set.matches_candidate(&candidate);
        found.iter().any(|number| directory || self.directories.get(*number) == Some(&false))
    }
}

/// A pattern as a glob over the whole path, and whether it is for directories only.
fn parse(pattern: &str) -> Result<(String, bool), PatternError> {
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(PatternError::TooLong);
    }
    if pattern.starts_with('!') {
        return Err(PatternError::Negated);
    }
    let (body, directory) = match pattern.strip_suffix('/') {
        Some(body) => (body, true),
        None => (pattern, false),
    };
    let rooted = body.strip_prefix('/');
    let plain = rooted.unwrap_or(body);
    if plain.is_empty() {
        return Err(PatternError::Empty);
    }
    if plain.split('/').any(|component| ["", ".", ".."].contains(&component)) {
        return Err(PatternError::Component);
    }
    let anchored = rooted.is_some() || plain.contains('/');
    Ok((if anchored { plain.to_owned() } else { format!("**/{plain}") }, directory))
}

/// The patterns of one directory.
#[derive(Clone, Debug)]
pub struct Patterns {
    exclude: Globs,
    include: Globs,
    digest: [u8; 32],
}

impl Patterns {
    /// Patterns from the configuration's lists; `None` if nothing is excluded.
    ///
    /// # Errors
    /// The pattern that makes no sense, and why.
    pub fn new(exclude: &[String], include: &[String]) -> Result<Option<Patterns>, (String, PatternError)> {
        let (excluded, included) = (Globs::new(exclude)?, Globs::new(include)?);
        if exclude.is_empty() {
            return Ok(None);
        }
        let digest = digest(exclude, include);
        Ok(Some(Patterns { exclude: excluded, include: included, digest }))
    }

    /// Whether a path below the directory is left out. `directory`: whether it is one.
    #[must_use]
    pub fn excludes(&self, path: &[u8], directory: bool) -> bool {
        let above = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        above.into_iter().any(|end| self.excludes_itself(path.get(..end).unwrap_or_default(), true))
            || self.excludes_itself(path, directory)
    }

    fn excludes_itself(&self, path: &[u8], directory: bool) -> bool {
        self.exclude.matches(path, directory) && !self.include.matches(path, directory)
    }

    /// Equal for the same patterns (in any order), and for no others.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }
}

/// A path below a directory with one more name; the directory's own is empty.
#[must_use]
pub fn joined(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

fn digest(exclude: &[String], include: &[String]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for list in [exclude, include] {
        let mut sorted: Vec<&String> = list.iter().collect();
        sorted.sort();
        sorted.dedup();
        hasher.update(&(sorted.len() as u64).to_le_bytes());
        for pattern in sorted {
            hasher.update(&(pattern.len() as u64).to_le_bytes());
            hasher.update(pattern.as_bytes());
        }
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(exclude: &[&str], include: &[&str]) -> Patterns {
        let owned = |list: &[&str]| list.iter().map(|pattern| (*pattern).to_owned()).collect::<Vec<_>>();
        Patterns::new(&owned(exclude), &owned(include)).unwrap().unwrap()
    }

    fn excludes(exclude: &[&str], include: &[&str], path: &str) -> bool {
        let (plain, directory) = path.strip_suffix('/').map_or((path, false), |plain| (plain, true));
        patterns(exclude, include).excludes(plain.as_bytes(), directory)
    }

    #[test]
    fn patterns_match_as_those_of_gitignore() {
        let yes = [
            ("*.tmp", "a.tmp"),
            ("*.tmp", "deep/down/a.tmp"),
            ("*.tmp", "a.tmp/below"),
            ("/top", "top"),
            ("a/b", "a/b"),
            ("a/b", "a/b/c"),
            ("a/*", "a/x"),
            ("a/**", "a/x/y"),
            ("**/cache", "cache/"),
            ("x/**/y", "x/y"),
            ("x/**/y", "x/1/2/y"),
            ("cache/", "a/cache/"),
            ("cache/", "a/cache/file"),
            ("[ab]?", "b1"),
            ("\\!odd", "!odd"),
            ("\\*", "*"),
        ];
        let no = [
            ("*.tmp", "a.tmpx"),
            ("/top", "below/top"),
            ("a/b", "x/a/b"),
            ("a/*", "a"),
            ("cache/", "a/cache"),
            ("a?b", "a/b"),
            ("*", ""),
            ("\\*", "x"),
            (".hidden", "hidden"),
        ];
        for (pattern, path) in yes {
            assert!(excludes(&[pattern], &[], path), "{pattern} leaves {path} out");
        }
        for (pattern, path) in no {
            assert!(path.is_empty() || !excludes(&[pattern], &[], path), "{pattern} leaves {path} in");
        }
    }

    #[test]
    fn an_exception_holds_for_the_name_and_not_below_what_is_left_out() {
        assert!(!excludes(&["*.log"], &["keep.log"], "a/keep.log"));
        assert!(excludes(&["*.log"], &["keep.log"], "a/other.log"));
        assert!(excludes(&["logs/"], &["keep.log"], "logs/keep.log"), "the directory above is left out");
        // Only some of the directory.
        let only = |path| excludes(&["/*"], &["/data", "/etc/"], path);
        assert!(!only("data/deep/file") && !only("etc/") && !only("etc/file"));
        assert!(only("other") && only("other/data") && only("etc"));
    }

    #[test]
    fn names_are_any_bytes() {
        let patterns = patterns(&["a*z"], &[]);
        assert!(patterns.excludes(b"a\xff\xfez", false));
        assert!(patterns.excludes(b"dir\n\x80/a\nz", false));
        assert!(!patterns.excludes(b"\xffaz", false));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        let refused = |pattern: &str| Patterns::new(&[pattern.to_owned()], &[]).unwrap_err().1;
        assert_eq!(refused(""), PatternError::Empty);
        assert_eq!(refused("/"), PatternError::Empty);
        assert_eq!(refused("!a"), PatternError::Negated);
        assert_eq!(refused("a//b"), PatternError::Component);
        assert_eq!(refused("../a"), PatternError::Component);
        assert_eq!(refused("./a"), PatternError::Component);
        assert_eq!(refused(&"x".repeat(4097)), PatternError::TooLong);
        assert!(matches!(refused("[a"), PatternError::Glob(_)));
        assert!(Patterns::new(&[], &[]).unwrap().is_none());
    }

    #[test]
    fn the_digest_tells_lists_apart_and_not_their_order() {
        let one = patterns(&["a", "b"], &["c"]).digest();
        assert_eq!(one, patterns(&["b", "a", "a"], &["c"]).digest());
        assert_ne!(one, patterns(&["a"], &["b", "c"]).digest());
        assert_ne!(one, patterns(&["ab"], &["c"]).digest());
        assert_ne!(one, patterns(&["a", "b"], &[]).digest());
    }
}
