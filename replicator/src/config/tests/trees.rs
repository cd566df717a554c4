//! `[[directory]]` tables: what belongs to the tree of a mirrored directory.

use super::*;

/// The minimal primary with one `[[directory]]` table of `/srv/data`.
fn with_directory(lines: &str) -> Result<Config, ConfigError> {
    Config::parse(&format!("{PRIMARY}[[directory]]\npath = \"/srv/data\"\n{lines}\n"))
}

#[test]
fn a_directory_s_table_belongs_to_a_mirrored_directory() {
    refused!(
        Config::parse(&format!("{PRIMARY}[[directory]]\n")),
        ConfigError::Missing { key: "directory.path", .. }
    );
    refused!(
        Config::parse(&format!("{PRIMARY}[[directory]]\npath = \"/srv/other\"\n")),
        ConfigError::NotMirrored { path } if path == Path::new("/srv/other")
    );
    refused!(with_directory("[[directory]]\npath = \"/srv//data/\""), ConfigError::DirectoryTwice { .. });
    refused!(
        with_directory("must_exist = \"x\""),
        ConfigError::UnknownKey { key, nearest: Some(nearest) }
            if key == "directory.must_exist" && nearest == "directory.must-exist"
    );
    refused!(Config::parse(&format!("{PRIMARY}[directory]\n")), ConfigError::Syntax { .. });
}

#[test]
fn what_must_exist_is_below_the_directory() {
    let must_exist = |path: &str| with_directory(&format!("must-exist = {path:?}"));
    for path in ["/etc/passwd", "..", "a/../b", ".", "./"] {
        refused!(must_exist(path), ConfigError::NotBelow { key: "directory.must-exist", .. });
    }
    refused!(must_exist(".replicator/orphans"), ConfigError::Reserved { .. });
    let found = must_exist("./base//PG_VERSION/").unwrap().mirror.trees;
    assert_eq!(found, [TreeConfig { must_exist: Some("base/PG_VERSION".into()), ..TreeConfig::default() }]);
    assert_eq!(must_exist("").unwrap().mirror.trees, [TreeConfig::default()]);
}

#[test]
fn patterns_are_checked_with_the_rest() {
    refused!(
        with_directory("exclude = [\"*.tmp\", \"!keep\"]"),
        ConfigError::Pattern { key: "directory.exclude", value, why: PatternError::Negated } if value == "!keep"
    );
    refused!(
        with_directory("exclude = [\"a\"]\ninclude = [\"[a\"]"),
        ConfigError::Pattern { key: "directory.include", why: PatternError::Bracket, .. }
    );
    refused!(
        with_directory("exclude = [\"/srv/data/cache\"]"),
        ConfigError::Pattern { why: PatternError::OwnPath, .. }
    );
    assert!(with_directory("exclude = [\"/srv/database\", \"/cache/\"]").is_ok());
    let many = format!("exclude = [{}]", "\"x\",".repeat(257));
    refused!(with_directory(&many), ConfigError::OutOfBounds { key: "directory.exclude", value: 257, .. });
    refused!(with_directory("include = [\"a\"]"), ConfigError::IncludeAlone { .. });
    let trace_only =
        "gate = false\nmode = \"async\"\n[[directory]]\npath = \"/srv/data\"\nexclude = [\"a\"]\n";
    refused!(Config::parse(&format!("{PRIMARY}{trace_only}")), ConfigError::ExcludeNeedsGate { .. });
    let found = with_directory("exclude = [\"*.tmp\"]\ninclude = [\"keep.tmp\"]").unwrap();
    let patterns = found.mirror.trees[0].patterns.as_ref().unwrap();
    assert!(patterns.excludes(b"a/b.tmp", false) && !patterns.excludes(b"a/keep.tmp", false));
}

#[test]
fn a_directory_without_its_guard_is_refused() {
    let machine = Machine::new(&["a/inner", "b"]);
    let guarded = |guard: &str| {
        let mut config = machine.config(&["b", "a"]);
        config.mirror.trees[1].must_exist = Some(guard.into());
        config.validate_system()
    };
    refused!(
        guarded("inner/version"),
        ConfigError::MustExist { path, missing } if path.ends_with("a") && missing == Path::new("inner/version")
    );
    fs::write(machine.path("a/inner/version"), "").unwrap();
    assert!(guarded("inner/version").is_ok());
    assert!(guarded("inner").is_ok());
    refused!(guarded("inner/version/below"), ConfigError::MustExist { .. });
    // A link is something; what lies beyond one that leads out of the directory is not in it.
    symlink("nowhere", machine.path("a/dangling")).unwrap();
    assert!(guarded("dangling").is_ok());
    fs::write(machine.path("b/outside"), "").unwrap();
    symlink(machine.path("b"), machine.path("a/out")).unwrap();
    refused!(guarded("out/outside"), ConfigError::MustExist { .. });
}
