//! Patterns of names: one pattern ([`NamePattern`]), and which names of a mirrored directory belong to its replicated tree
//! ([`Patterns`]).
//!
//! A name is left out if it, or a directory above it, matches a pattern of `exclude` and none of `include`. What lies below
//! a directory that is left out is left out with it, whatever `include` says. The decision depends on nothing but the path
//! below the mirrored directory and on whether it is a directory, so that both nodes come to the same.

mod name;

pub use name::{NamePattern, PatternError};

/// A pattern of `exclude` or `include`: a [`NamePattern`] with the slashes that gitignore(5) has at its ends. One at its
/// begin has it compared with the whole path, as one inside it does; one at its end has it match directories only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TreePattern {
    text: String,
    pattern: NamePattern,
    /// It is compared with the whole path, not with the last name of it.
    is_anchored: bool,
    directories_only: bool,
}

impl TreePattern {
    /// Read a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<TreePattern, PatternError> {
        if text.starts_with('!') {
            return Err(PatternError::Negated);
        }
        let body = text.strip_suffix('/').unwrap_or(text);
        let pattern = NamePattern::parse(body.strip_prefix('/').unwrap_or(body))?;
        Ok(TreePattern {
            text: text.to_owned(),
            is_anchored: body.starts_with('/') || pattern.has_slash(),
            directories_only: text.ends_with('/'),
            pattern,
        })
    }

    fn matches(&self, path: &[u8], directory: bool) -> bool {
        if self.directories_only && !directory {
            return false;
        }
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        self.pattern.matches(if self.is_anchored { path } else { name })
    }
}

/// The patterns of one directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Patterns {
    exclude: Vec<TreePattern>,
    include: Vec<TreePattern>,
    digest: [u8; 32],
}

impl Patterns {
    /// Leave out what the first say, but for what the second say; `None` if that is nothing.
    #[must_use]
    pub fn new(exclude: Vec<TreePattern>, include: Vec<TreePattern>) -> Option<Patterns> {
        if exclude.is_empty() {
            return None;
        }
        let digest = digest([&exclude, &include]);
        Some(Patterns { exclude, include, digest })
    }

    /// Whether a path below the directory is left out. `directory`: whether it is one.
    #[must_use]
    pub fn excludes(&self, path: &[u8], directory: bool) -> bool {
        let above = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        above.into_iter().any(|end| self.excludes_itself(path.get(..end).unwrap_or_default(), true))
            || self.excludes_itself(path, directory)
    }

    fn excludes_itself(&self, path: &[u8], directory: bool) -> bool {
        let any = |list: &[TreePattern]| list.iter().any(|pattern| pattern.matches(path, directory));
        any(&self.exclude) && !any(&self.include)
    }

    /// Whether the directories above a name matter beyond that they are left out themselves.
    #[must_use]
    pub fn look_at_paths(&self) -> bool {
        self.exclude.iter().chain(&self.include).any(|pattern| pattern.is_anchored)
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

/// The context is another one whenever the same text comes to mean something else: then nodes that differ in that do not agree.
fn digest(lists: [&[TreePattern]; 2]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("replicator exclude and include, language 1");
    for list in lists {
        let mut sorted: Vec<&str> = list.iter().map(|pattern| pattern.text.as_str()).collect();
        sorted.sort_unstable();
        sorted.dedup();
        hasher.update(&(sorted.len() as u64).to_le_bytes());
        for text in sorted {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(exclude: &[&str], include: &[&str]) -> Patterns {
        let read = |list: &[&str]| list.iter().map(|text| TreePattern::parse(text).unwrap()).collect();
        Patterns::new(read(exclude), read(include)).unwrap()
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
            ("**/cache", "a/b/cache/"),
            ("/**/z", "z"),
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
        let refused = |text: &str| TreePattern::parse(text).unwrap_err();
        assert_eq!(refused(""), PatternError::Empty);
        assert_eq!(refused("/"), PatternError::Empty);
        assert_eq!(refused("!a"), PatternError::Negated);
        assert_eq!(refused("a//b"), PatternError::Component);
        assert_eq!(refused("../a"), PatternError::Component);
        assert_eq!(refused("./a"), PatternError::Component);
        assert_eq!(refused(&"x".repeat(4097)), PatternError::TooLong);
        assert_eq!(refused("[a"), PatternError::Bracket);
        // One slash at each end, and no more.
        assert_eq!(refused("//"), PatternError::Empty);
        assert_eq!(refused("//a"), PatternError::Absolute);
        assert_eq!(refused("a//"), PatternError::Component);
        assert!(Patterns::new(Vec::new(), vec![TreePattern::parse("a").unwrap()]).is_none());
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
