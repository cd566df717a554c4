//! One pattern of file names: of those that `mirror.strict-files` holds, and in the main of those that `exclude` and
//! `include` hold.
//!
//! ```text
//! *       any run of bytes but /          ?       one byte but /
//! **      any run of bytes, / included    [a-z]   one byte of these; [!a-z] one that is none of these, and no /
//! **/     any directories, also none      \x      the byte x itself
//! ```
//!
//! A pattern without a slash is matched against the file's name, one with a slash against its path from the mirrored
//! directory on. Names are bytes: they need not be UTF-8.

/// What is wrong with a pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PatternError {
    /// Nothing, or slashes only.
    #[error("it is empty")]
    Empty,
    /// Longer than any path.
    #[error("it is longer than a path can be")]
    TooLong,
    /// No name has it.
    #[error("no name has a NUL in it")]
    Nul,
    /// A slash that would mean nothing.
    #[error("write the path from the mirrored directory on, without the slash at its beginning")]
    Absolute,
    /// The path of the directory itself, where one from there on is meant.
    #[error("write the path from the mirrored directory on, without that directory's own")]
    OwnPath,
    /// An exception, as other tools write it.
    #[error("it begins with \"!\"; write exceptions into include, a name that begins so as \"\\!\"")]
    Negated,
    /// A part that no path has.
    #[error("a part between slashes is empty, \".\" or \"..\"")]
    Component,
    /// Nothing stands behind a backslash.
    #[error("it ends with a backslash")]
    Backslash,
    /// A class without its end.
    #[error("a bracket is not closed")]
    Bracket,
    /// A range of no byte.
    #[error("a range between brackets goes backwards")]
    Range,
}

/// A pattern of file names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamePattern {
    text: String,
    tokens: Vec<Token>,
    has_slash: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    Byte(u8),
    One,
    Class {
        negated: bool,
        ranges: Vec<(u8, u8)>,
    },
    Run,
    LongRun,
    /// The two tokens behind it, a long run and a slash, may be left out.
    Optional,
}

/// Longest pattern in bytes (PATH_MAX without its NUL).
const PATTERN_BYTES_MAX: usize = 4095;

impl NamePattern {
    /// Read a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<NamePattern, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > PATTERN_BYTES_MAX {
            return Err(PatternError::TooLong);
        }
        if text.contains('\0') {
            return Err(PatternError::Nul);
        }
        if text.starts_with('/') {
            return Err(PatternError::Absolute);
        }
        if text.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(PatternError::Component);
        }
        let tokens = tokens(text.as_bytes())?;
        Ok(NamePattern { text: text.to_owned(), tokens, has_slash: text.contains('/') })
    }

    /// Whether it speaks of a path, not of a name alone.
    #[must_use]
    pub fn has_slash(&self) -> bool {
        self.has_slash
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it stands for all of `name`. Takes time in proportion to the lengths of both, whatever they hold.
    #[must_use]
    pub fn matches(&self, name: &[u8]) -> bool {
        // All places in the pattern that the name read so far can have led to.
        let mut places = vec![false; self.tokens.len() + 1];
        let mut next = places.clone();
        places[0] = true;
        self.pass_runs(&mut places);
        for byte in name {
            next.fill(false);
            for (place, token) in self.tokens.iter().enumerate().filter(|(place, _)| places[*place]) {
                if token.takes(*byte) {
                    let stays = matches!(token, Token::Run | Token::LongRun);
                    next[place + usize::from(!stays)] = true;
                }
            }
            self.pass_runs(&mut next);
            std::mem::swap(&mut places, &mut next);
            if !places.contains(&true) {
                return false;
            }
        }
        places[self.tokens.len()]
    }

    /// A run may be empty.
    fn pass_runs(&self, places: &mut [bool]) {
        for (place, token) in self.tokens.iter().enumerate().filter(|(_, token)| token.may_be_nothing()) {
            if places[place] {
                places[place + 1] = true;
                if *token == Token::Optional {
                    places[place + 3] = true;
                }
            }
        }
    }
}

impl Token {
    fn may_be_nothing(&self) -> bool {
        matches!(self, Token::Run | Token::LongRun | Token::Optional)
    }

    fn takes(&self, byte: u8) -> bool {
        match self {
            Token::Byte(own) => *own == byte,
            Token::One | Token::Run => byte != b'/',
            Token::LongRun => true,
            Token::Optional => false,
            Token::Class { negated, ranges } => {
                byte != b'/' && ranges.iter().any(|(from, to)| (*from..=*to).contains(&byte)) != *negated
            }
        }
    }
}

fn tokens(text: &[u8]) -> Result<Vec<Token>, PatternError> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let [first, after @ ..] = rest {
        rest = after;
        let token = match first {
            b'*' => {
                let stars = rest.iter().take_while(|byte| **byte == b'*').count();
                rest = &rest[stars..];
                if stars > 0 && rest.first() == Some(&b'/') && begins_part(&tokens) {
                    tokens.push(Token::Optional);
                }
                if stars == 0 { Token::Run } else { Token::LongRun }
            }
            b'?' => Token::One,
            b'[' => {
                let (class, after) = class(rest)?;
                rest = after;
                class
            }
            b'\\' => {
                let [escaped, after @ ..] = rest else { return Err(PatternError::Backslash) };
                rest = after;
                Token::Byte(*escaped)
            }
            byte => Token::Byte(*byte),
        };
        tokens.push(token);
    }
    Ok(tokens)
}

/// Whether what comes next begins a part of the path.
fn begins_part(tokens: &[Token]) -> bool {
    tokens.last().is_none_or(|last| *last == Token::Byte(b'/'))
}

/// What stands between brackets; the opening one was taken.
fn class(text: &[u8]) -> Result<(Token, &[u8]), PatternError> {
    let (negated, text) = match text {
        [b'!' | b'^', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mut ranges = Vec::new();
    let mut rest = text;
    loop {
        match rest {
            // A closing bracket that stands first is meant itself.
            [b']', after @ ..] if !ranges.is_empty() => return Ok((Token::Class { negated, ranges }, after)),
            [from, b'-', to, after @ ..] if *to != b']' => {
                if from > to {
                    return Err(PatternError::Range);
                }
                ranges.push((*from, *to));
                rest = after;
            }
            [byte, after @ ..] => {
                ranges.push((*byte, *byte));
                rest = after;
            }
            [] => return Err(PatternError::Bracket),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        NamePattern::parse(pattern).unwrap().matches(name.as_bytes())
    }

    #[test]
    fn each_sign_stands_for_what_it_says() {
        let cases = [
            ("data.mdb", "data.mdb", "data.mdbx xdata.mdb data_mdb"),
            ("*.mdb", ".mdb a.mdb a.b.mdb", "a.mdb.x a/b.mdb mdb"),
            ("a?c", "abc a.c", "ac abbc a/c"),
            ("[a-cx]1", "a1 c1 x1", "d1 -1 a a11"),
            ("[!a-c]1", "d1 ]1", "a1 1 /1"),
            ("[]]x", "]x", "x []x"),
            ("[a-]x", "ax -x", "bx"),
            ("a/*.db", "a/x.db a/.db", "x.db a/b/x.db b/a/x.db"),
            ("a/**.db", "a/x.db a/b/x.db a/b/c/.db", "x.db b/x.db a.db"),
            ("**/log", "log a/log a/b/log", "a/blog blog log/a"),
            ("a/**/log", "a/log a/b/log a/b/c/log", "log alog a/blog a/b/clog b/a/log"),
            ("a/**/**/b", "a/b a/x/b a/x/y/b", "ab a/xb"),
            ("a**/b", "a/b ax/b ax/y/b", "b/b a/y"),
            ("a/**", "a/x a/x/y", "a b/a/x"),
            ("\\*", "*", "a \\* **"),
            ("*a*a*a", "aaa banana-a xaxaxa", "aa aab"),
        ];
        for (pattern, good, bad) in cases {
            good.split(' ').for_each(|name| assert!(matches(pattern, name), "{pattern} takes {name}"));
            bad.split(' ').for_each(|name| assert!(!matches(pattern, name), "{pattern} leaves {name}"));
        }
        assert!(!matches("?*", "") && matches("*", ""));
        assert!(NamePattern::parse("*.[d]b").unwrap().matches(b"\xff\xfe.db"), "names are bytes");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let long = "x".repeat(PATTERN_BYTES_MAX + 1);
        for text in
            ["", "/a", "a//b", "a/", "./a", "../a", "a/..", "[abc", "[", "[!]", "[z-a]", "a\\", "a\0", &long]
        {
            assert!(NamePattern::parse(text).is_err(), "{text:?}");
        }
        assert!(NamePattern::parse("a/b").unwrap().has_slash());
        assert!(!NamePattern::parse("a").unwrap().has_slash());
    }

    /// A pattern that makes a backtracking matcher take years.
    #[test]
    fn many_stars_end() {
        let pattern = NamePattern::parse(&"*a".repeat(100)).unwrap();
        assert!(!pattern.matches("a".repeat(99).as_bytes()));
        assert!(pattern.matches("a".repeat(255).as_bytes()));
    }
}
