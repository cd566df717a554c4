//! Each refusal by its variant; the example by its keys.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::document::{DIRECTORY, Document, KEYS};
use super::*;
use crate::patterns::{NamePattern, PatternError};

const EXAMPLE: &str = include_str!("../../../examples/replicator.toml");

const PRIMARY: &str = r#"
[node]
name = "alpha"
cluster = "demo"
role = "primary"
state-directory = "/var/lib/replicator"
[link]
peer = "10.0.0.2:7400"
[mirror]
directories = ["/srv/data"]
"#;

/// The minimal primary with more keys in some tables, such as `[("mirror", "mode = \"async\"")]`.
fn with(additions: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let mut text = PRIMARY.to_owned();
    for (section, line) in additions {
        let header = format!("[{section}]\n");
        if text.contains(&header) {
            text = text.replace(&header, &format!("{header}{line}\n"));
        } else {
            text.push_str(&format!("{header}{line}\n"));
        }
    }
    Config::parse(&text)
}

/// The minimal primary with some text in place of other.
fn replaced(from: &str, to: &str) -> Result<Config, ConfigError> {
    assert!(PRIMARY.contains(from));
    Config::parse(&PRIMARY.replace(from, to))
}

macro_rules! refused {
    ($result:expr, $pattern:pat $(if $guard:expr)?) => {{
        let result = $result;
        assert!(matches!(&result, Err($pattern) $(if $guard)?), "{result:?}");
        let message = result.unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
    }};
}

mod encryption;
mod trees;

#[test]
fn the_minimal_file_has_the_documented_defaults() {
    let config = with(&[]).unwrap();
    assert_eq!(config.node.control_socket, Path::new("/var/lib/replicator/control.sock"));
    assert_eq!(config.link.listen, None);
    assert_eq!(config.link.keep_alive_interval, Duration::from_millis(250));
    assert_eq!(config.link.dead_after, Duration::from_secs(3));
    assert_eq!(config.mirror.mode, Mode::Sync);
    assert_eq!(config.mirror.when_alone, WhenAlone::Release);
    assert_eq!(config.mirror.capture, Capture::Auto);
    assert_eq!(config.mirror.gate_transport, GateTransport::Read);
    assert!(config.mirror.gate);
    assert_eq!((config.mirror.window, config.mirror.trace_ring), (16 << 20, 16 << 20));
    assert_eq!((config.mirror.extents_per_file, config.mirror.extents_total), (4096, 262_144));
    assert_eq!(config.log, LogConfig { level: LogLevel::Info, format: LogFormat::Text });
}

#[test]
fn the_example_has_every_key_with_its_default() {
    let config = Config::parse(EXAMPLE).unwrap();
    let document = Document::parse(EXAMPLE).unwrap();
    // Serialized, the document has all keys its structs have: absent ones would be missing here.
    let written = toml::Table::try_from(&document).unwrap();
    let names: Vec<&str> = KEYS.iter().map(|(section, _)| *section).collect();
    assert_eq!(written.keys().len(), names.len() + 1, "all but [[directory]] are in KEYS");
    for (section, keys) in KEYS {
        let table = written[*section].as_table().unwrap();
        for key in *keys {
            assert!(table.contains_key(*key), "examples/replicator.toml lacks {section}.{key}");
        }
        assert_eq!(table.len(), keys.len(), "KEYS and the struct of [{section}] differ");
    }
    let (section, keys) = DIRECTORY;
    for table in written[section].as_array().unwrap() {
        let table = table.as_table().unwrap();
        assert_eq!(table.len(), keys.len(), "the keys and the struct of [[{section}]] differ");
        assert!(
            keys.iter().all(|key| table.contains_key(*key)),
            "examples/replicator.toml lacks one of {keys:?}"
        );
    }
    let minimal = with(&[]).unwrap();
    assert_eq!(config.mirror, minimal.mirror);
    assert_eq!(config.log, minimal.log);
    let link = LinkConfig { listen: None, cluster_key_file: None, ..config.link };
    assert_eq!(link, minimal.link);
}

#[test]
fn every_key_of_the_structs_is_known() {
    // Every struct refuses what it does not know, so a key in KEYS that is in no struct fails here; the other direction is the
    // test above.
    for (section, keys) in KEYS {
        for key in *keys {
            let text = format!("[{section}]\n{key} = {{}}\n");
            refused!(Document::parse(&text), ConfigError::Syntax { message, .. } if message.contains("invalid type"));
        }
    }
    let (section, keys) = DIRECTORY;
    for key in keys {
        let text = format!("[[{section}]]\n{key} = {{}}\n");
        refused!(Document::parse(&text), ConfigError::Syntax { message, .. } if message.contains("invalid type"));
    }
}

#[test]
fn an_unknown_key_is_answered_with_the_one_that_was_meant() {
    let nearest = |result: Result<Config, ConfigError>| match result {
        Err(ConfigError::UnknownKey { key, nearest }) => (key, nearest),
        other => panic!("{other:?}"),
    };
    let cases = [
        ("mirror", "directorys = []", "mirror.directorys", Some("mirror.directories")),
        ("mirror", "hold_limit = \"1s\"", "mirror.hold_limit", Some("mirror.hold-limit")),
        ("link", "mode = \"sync\"", "link.mode", Some("mirror.mode")),
        ("link", "keepalive-interval = \"1s\"", "link.keepalive-interval", Some("link.keep-alive-interval")),
        ("node", "frobnicate = 1", "node.frobnicate", None),
        ("miror", "gate = true", "miror", Some("mirror")),
        ("mirror", "must-exist = \"x\"", "mirror.must-exist", Some("directory.must-exist")),
        ("telemetry-of-things", "x = 1", "telemetry-of-things", None),
    ];
    for (section, line, key, meant) in cases {
        assert_eq!(nearest(with(&[(section, line)])), (key.to_owned(), meant.map(str::to_owned)));
    }
    let top = Config::parse(&format!("name = \"x\"\n{PRIMARY}"));
    assert_eq!(nearest(top), ("name".into(), Some("node.name".into())));
}

#[test]
fn text_that_is_no_configuration_is_refused_with_its_place() {
    refused!(Config::parse("[node\n"), ConfigError::Syntax { line: 1, .. });
    refused!(with(&[("mirror", "gate = \"yes\"")]), ConfigError::Syntax { line: 10, .. });
    refused!(with(&[("mirror", "extents-per-file = -1")]), ConfigError::Syntax { .. });
    refused!(with(&[("mirror", "window = 16")]), ConfigError::Syntax { .. });
    refused!(Config::parse("node = 1"), ConfigError::Syntax { .. });
    refused!(Config::parse(""), ConfigError::Missing { .. });
    // Cut off anywhere, it is refused or still valid, and never a panic.
    for length in (0..EXAMPLE.len()).filter(|length| EXAMPLE.is_char_boundary(*length)) {
        let _ = Config::parse(&EXAMPLE[..length]);
    }
}

#[test]
fn keys_without_a_default_must_be_there() {
    for (line, key) in [
        ("name = \"alpha\"\n", "node.name"),
        ("cluster = \"demo\"\n", "node.cluster"),
        ("role = \"primary\"\n", "node.role"),
        ("state-directory = \"/var/lib/replicator\"\n", "node.state-directory"),
        ("directories = [\"/srv/data\"]\n", "mirror.directories"),
    ] {
        refused!(replaced(line, ""), ConfigError::Missing { key: missing, .. } if *missing == key);
    }
}

#[test]
fn a_role_needs_its_side_of_the_link() {
    refused!(
        replaced("peer = \"10.0.0.2:7400\"\n", ""),
        ConfigError::RoleNeeds { role: Role::Primary, key: "link.peer", .. }
    );
    refused!(
        replaced("\"primary\"", "\"secondary\""),
        ConfigError::RoleNeeds { role: Role::Secondary, key: "link.listen", .. }
    );
    let secondary = PRIMARY.replace("\"primary\"", "\"secondary\"").replace("peer =", "listen =");
    assert_eq!(Config::parse(&secondary).unwrap().node.role, Role::Secondary);
}

#[test]
fn words_out_of_the_list_are_refused() {
    refused!(
        replaced("\"primary\"", "\"master\""),
        ConfigError::Choice { key: "node.role", nearest: None, .. }
    );
    refused!(
        with(&[("mirror", "mode = \"semisync\"")]),
        ConfigError::Choice { key: "mirror.mode", nearest: Some("semi-sync"), .. }
    );
    refused!(
        with(&[("mirror", "when-alone = \"wait\"")]),
        ConfigError::Choice { key: "mirror.when-alone", .. }
    );
    refused!(
        with(&[("mirror", "capture = \"tracepoint\"")]),
        ConfigError::Choice { nearest: Some("tracepoints"), .. }
    );
    refused!(
        with(&[("log", "level = \"warning\"")]),
        ConfigError::Choice { key: "log.level", nearest: Some("warn"), .. }
    );
    refused!(with(&[("log", "format = \"xml\"")]), ConfigError::Choice { key: "log.format", .. });
}

#[test]
fn names_are_plain() {
    for name in ["", "two words", "nöde", "a/b", &"x".repeat(65)] {
        refused!(replaced("\"alpha\"", &format!("{name:?}")), ConfigError::Name { key: "node.name", .. });
    }
    refused!(replaced("\"demo\"", "\"demo!\""), ConfigError::Name { key: "node.cluster", .. });
}

#[test]
fn addresses_are_numbers_and_can_be_dialled() {
    for text in ["10.0.0.2", "beta:7400", "10.0.0.2:70000", "fd00::2:7400", ""] {
        refused!(
            replaced("\"10.0.0.2:7400\"", &format!("{text:?}")),
            ConfigError::Address { key: "link.peer", .. }
        );
    }
    for text in ["0.0.0.0:7400", "10.0.0.2:0", "[::]:7400"] {
        refused!(replaced("10.0.0.2:7400", text), ConfigError::AddressNotDialable { .. });
    }
    refused!(with(&[("link", "listen = \"0.0.0.0:0\"")]), ConfigError::PortZero { key: "link.listen", .. });
    assert!(replaced("10.0.0.2:7400", "[fd00::2]:7400").is_ok());
}

#[test]
fn a_resync_has_a_cap_or_none() {
    let cap = |text| with(&[("mirror", text)]).map(|config| config.mirror.resync_rate_max);
    assert_eq!(cap("resync-rate-max = \"100MiB\"").unwrap(), Some(100 << 20));
    assert_eq!(cap("resync-rate-max = \"none\"").unwrap(), None);
    assert_eq!(cap("").unwrap(), None);
    refused!(
        cap("resync-rate-max = \"1KiB\""),
        ConfigError::OutOfBounds { key: "mirror.resync-rate-max", .. }
    );
    refused!(cap("resync-rate-max = \"fast\""), ConfigError::Size { key: "mirror.resync-rate-max", .. });
}

#[test]
fn durations_have_units_and_sense() {
    refused!(with(&[("link", "dead-after = \"3\"")]), ConfigError::Duration { key: "link.dead-after", .. });
    refused!(with(&[("mirror", "settle = \"fast\"")]), ConfigError::Duration { key: "mirror.settle", .. });
    refused!(
        with(&[("mirror", "hold-limit = \"2h\"")]),
        ConfigError::DurationTooLong { key: "mirror.hold-limit", .. }
    );
    for (section, key) in [
        ("link", "keep-alive-interval"),
        ("link", "dead-after"),
        ("link", "reconnect-min"),
        ("link", "reconnect-max"),
        ("mirror", "hold-limit"),
        ("mirror", "barrier-limit"),
        ("mirror", "confirm-interval"),
        ("mirror", "resync-within"),
    ] {
        let full = format!("{section}.{key}");
        refused!(
            with(&[(section, &format!("{key} = \"0ms\""))]),
            ConfigError::DurationZero { key } if *key == full
        );
    }
    assert_eq!(with(&[("mirror", "settle = \"0ms\"")]).unwrap().mirror.settle, Duration::ZERO);
    refused!(with(&[("link", "dead-after = \"250ms\"")]), ConfigError::DeadBeforeKeepAlive { .. });
    refused!(
        with(&[("mirror", "resync-within = \"31d\"")]),
        ConfigError::DurationTooLong { key: "mirror.resync-within", .. }
    );
    assert_eq!(
        with(&[("mirror", "resync-within = \"2d\"")]).unwrap().mirror.resync_within,
        Duration::from_secs(2 * 24 * 3600)
    );
    refused!(with(&[("link", "reconnect-min = \"10s\"")]), ConfigError::ReconnectBounds { .. });
}

#[test]
fn sizes_and_numbers_are_bounded() {
    for text in ["16", "16MB", "1.5MiB", "MiB", "-1KiB", "99999999999999999999B", "17179869184GiB"] {
        refused!(
            with(&[("mirror", &format!("window = {text:?}"))]),
            ConfigError::Size { key: "mirror.window", .. }
        );
    }
    refused!(with(&[("mirror", "window = \"1KiB\"")]), ConfigError::OutOfBounds { key: "mirror.window", .. });
    refused!(with(&[("mirror", "window = \"5GiB\"")]), ConfigError::OutOfBounds { .. });
    assert_eq!(with(&[("mirror", "window = \"64 KiB\"")]).unwrap().mirror.window, 65536);
    for text in ["0B", "1KiB", "12MiB", "4097B"] {
        refused!(
            with(&[("mirror", &format!("trace-ring = {text:?}"))]),
            ConfigError::RingSize { key: "mirror.trace-ring", .. }
        );
    }
    refused!(with(&[("mirror", "trace-ring = \"2GiB\"")]), ConfigError::OutOfBounds { .. });
    refused!(
        with(&[("mirror", "extents-per-file = 0")]),
        ConfigError::OutOfBounds { key: "mirror.extents-per-file", .. }
    );
    refused!(
        with(&[("mirror", "extents-total = 4000000000")]),
        ConfigError::OutOfBounds { key: "mirror.extents-total", .. }
    );
    refused!(
        with(&[("mirror", "extents-total = 4095")]),
        ConfigError::ExtentBudget { total: 4095, per_file: 4096 }
    );
}

#[test]
fn the_gate_is_needed_to_hold_an_fsync() {
    refused!(with(&[("mirror", "gate = false")]), ConfigError::ModeNeedsGate { mode: Mode::Sync });
    refused!(
        with(&[("mirror", "gate = false\nmode = \"semi-sync\"")]),
        ConfigError::ModeNeedsGate { mode: Mode::SemiSync }
    );
    refused!(
        with(&[("mirror", "gate = false\nmode = \"async\"\ncapture = \"gate\"")]),
        ConfigError::CaptureNeedsGate { capture: Capture::Gate }
    );
    assert!(with(&[("mirror", "gate = false\nmode = \"async\"")]).is_ok());
}

#[test]
fn directories_are_absolute_apart_and_away_from_the_node_s_own_files() {
    let directories = |list: &str| replaced("[\"/srv/data\"]", list);
    refused!(directories("[]"), ConfigError::NoDirectories);
    refused!(directories("[\"srv/data\"]"), ConfigError::Relative { key: "mirror.directories", .. });
    refused!(directories("[\"/srv/../etc\"]"), ConfigError::ParentComponent { .. });
    refused!(directories("[\"/\"]"), ConfigError::RootDirectory);
    refused!(directories("[\"/srv/data\", \"/srv//data/./\"]"), ConfigError::DuplicateDirectory { .. });
    refused!(
        directories("[\"/srv/data/inner\", \"/srv/data\"]"),
        ConfigError::NestedDirectories { outer, .. } if outer == Path::new("/srv/data")
    );
    assert!(directories("[\"/srv/data\", \"/srv/data2\"]").is_ok());
    for list in ["[\"/var/lib\"]", "[\"/var/lib/replicator\"]"] {
        refused!(directories(list), ConfigError::InsideMirror { key: "node.state-directory", .. });
    }
    refused!(
        with(&[("node", "control-socket = \"/srv/data/control.sock\"")]),
        ConfigError::InsideMirror { key: "node.control-socket", .. }
    );
    refused!(
        with(&[("node", "control-socket = \"control.sock\"")]),
        ConfigError::Relative { key: "node.control-socket", .. }
    );
    refused!(
        with(&[("node", &format!("control-socket = \"/run/{}\"", "x".repeat(103)))]),
        ConfigError::SocketPathTooLong { length: 108, .. }
    );
    refused!(
        with(&[("link", "cluster-key-file = \"key\"")]),
        ConfigError::Relative { key: "link.cluster-key-file", .. }
    );
    let many: Vec<String> = (0..257).map(|number| format!("\"/srv/{number}\"")).collect();
    refused!(
        directories(&format!("[{}]", many.join(","))),
        ConfigError::TooManyDirectories { count: 257, .. }
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let directory = tempfile::tempdir().unwrap();
    refused!(Config::load(&directory.path().join("none.toml")), ConfigError::Unreadable { .. });
    refused!(Config::load(directory.path()), ConfigError::Unreadable { .. });
    let large = directory.path().join("large.toml");
    fs::File::create(&large).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
    refused!(Config::load(&large), ConfigError::FileTooLarge { .. });
}

/// A machine to validate against: directories in a temporary one.
struct Machine {
    root: tempfile::TempDir,
}

impl Machine {
    fn new(directories: &[&str]) -> Machine {
        let machine = Machine { root: tempfile::tempdir().unwrap() };
        for directory in directories {
            fs::create_dir_all(machine.path(directory)).unwrap();
        }
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        fs::canonicalize(self.root.path()).unwrap().join(name)
    }

    fn config(&self, directories: &[&str]) -> Config {
        let mut config = with(&[]).unwrap();
        config.node.state_directory = self.path("state");
        config.node.control_socket = self.path("state/control.sock");
        config.mirror.directories = directories.iter().map(|directory| self.path(directory)).collect();
        config.mirror.trees = vec![TreeConfig::default(); directories.len()];
        config
    }

    fn validate(&self, directories: &[&str]) -> Result<Vec<ConfigWarning>, ConfigError> {
        self.config(directories).validate_system()
    }
}

#[test]
fn directories_must_be_there() {
    let machine = Machine::new(&["a", "b"]);
    fs::write(machine.path("file"), "").unwrap();
    assert_eq!(machine.validate(&["a", "b"]).unwrap(), [ConfigWarning::NoClusterKey]);
    refused!(machine.validate(&["a", "none"]), ConfigError::DirectoryMissing { path } if path.ends_with("none"));
    refused!(machine.validate(&["file"]), ConfigError::NotADirectory { .. });
    refused!(machine.validate(&["file/below"]), ConfigError::NotADirectory { .. });
}

#[test]
fn a_symlink_hides_no_overlap() {
    let machine = Machine::new(&["a/inner", "state"]);
    symlink(machine.path("a"), machine.path("same")).unwrap();
    symlink(machine.path("a/inner"), machine.path("nested")).unwrap();
    symlink(machine.path("."), machine.path("all")).unwrap();
    symlink("loop", machine.path("loop")).unwrap();
    symlink("/", machine.path("slash")).unwrap();
    refused!(machine.validate(&["a", "same"]), ConfigError::DuplicateDirectory { .. });
    refused!(machine.validate(&["nested", "a"]), ConfigError::NestedDirectories { outer, .. } if outer.ends_with("a"));
    refused!(machine.validate(&["all"]), ConfigError::InsideMirror { key: "node.state-directory", .. });
    refused!(machine.validate(&["loop"]), ConfigError::PathUnusable { .. });
    refused!(machine.validate(&["slash"]), ConfigError::RootDirectory);
    // The state directory itself, one that is yet to be made, and one that is reached through a link.
    refused!(machine.validate(&["state"]), ConfigError::InsideMirror { .. });
    let mut config = machine.config(&["a"]);
    config.node.state_directory = machine.path("same/yet/to/come");
    refused!(config.validate_system(), ConfigError::InsideMirror { key: "node.state-directory", .. });
    config.node.state_directory = machine.path("state");
    config.node.control_socket = machine.path("same/control.sock");
    refused!(config.validate_system(), ConfigError::InsideMirror { key: "node.control-socket", .. });
}

/// A bind mount that goes away with the test.
struct BindMount(PathBuf);

impl BindMount {
    fn new(source: &Path, point: &Path) -> Result<BindMount, nix::Error> {
        use nix::mount::{MsFlags, mount};
        mount(Some(source), point, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(BindMount(point.to_owned()))
    }
}

impl Drop for BindMount {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_bind_mount_hides_no_overlap() {
    let machine = Machine::new(&["a/inner", "bound", "state", "c/point"]);
    let bound = match BindMount::new(&machine.path("a/inner"), &machine.path("bound")) {
        Ok(bound) => bound,
        Err(errno) => return println!("not run: a bind mount needs root: {errno}"),
    };
    refused!(
        machine.validate(&["a", "bound"]),
        ConfigError::NestedDirectories { inner, .. } if inner.ends_with("bound")
    );
    refused!(machine.validate(&["bound", "a/inner"]), ConfigError::DuplicateDirectory { .. });
    drop(bound);
    assert!(machine.validate(&["a", "bound"]).is_ok());
    let _inside = BindMount::new(&machine.path("a"), &machine.path("c/point")).unwrap();
    refused!(
        machine.validate(&["c"]),
        ConfigError::NestedMounts { points, .. } if *points == [machine.path("c/point")]
    );
    let mut config = machine.config(&["c"]);
    config.mirror.nested_mounts = NestedMounts::Ignore;
    let warnings = config.validate_system().unwrap();
    assert!(
        warnings.iter().any(|warning| matches!(warning, ConfigWarning::MountInside { .. })),
        "{warnings:?}"
    );
}

#[test]
fn the_key_file_is_long_enough_and_private() {
    let machine = Machine::new(&["a"]);
    let mut config = machine.config(&["a"]);
    let path = machine.path("cluster.key");
    config.link.cluster_key_file = Some(path.clone());
    refused!(config.validate_system(), ConfigError::ClusterKeyUnreadable { .. });
    let write = |bytes: usize, mode| {
        fs::write(&path, vec![7; bytes]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    write(31, 0o600);
    refused!(config.validate_system(), ConfigError::ClusterKeyLength { length: 31, .. });
    write(CLUSTER_KEY_BYTES_MAX + 1, 0o600);
    refused!(config.validate_system(), ConfigError::ClusterKeyLength { .. });
    write(32, 0o640);
    assert_eq!(
        config.validate_system().unwrap(),
        [ConfigWarning::ClusterKeyMode { path: path.clone(), mode: 0o640 }]
    );
    write(32, 0o600);
    assert_eq!(config.validate_system().unwrap(), []);
    let secret = config.cluster_key().unwrap().unwrap();
    assert_eq!(secret.bytes(), [7; 32]);
    assert_eq!(format!("{secret:?}"), "ClusterSecret(32 bytes)");
    fs::write(&path, [&[b' '; 8][..], &[7; 32], b"\n"].concat()).unwrap();
    assert_eq!(config.cluster_key().unwrap(), Some(secret));
    fs::write(&path, [&[7; 31][..], b"\n\n"].concat()).unwrap();
    refused!(config.validate_system(), ConfigError::ClusterKeyLength { length: 31, .. });
}

#[test]
fn a_key_without_effect_is_told() {
    let machine = Machine::new(&["a"]);
    let mut config = machine.config(&["a"]);
    config.mirror.mode = Mode::Async;
    for held in [WhenAlone::Hold, WhenAlone::Ask] {
        config.mirror.when_alone = held;
        let warnings = config.validate_system().unwrap();
        assert!(
            warnings.iter().any(|warning| matches!(warning, ConfigWarning::WithoutEffect { .. })),
            "{warnings:?}"
        );
    }
}

#[test]
fn a_role_is_taken_if_the_link_has_an_address_for_it() {
    assert_eq!(with(&[("mirror", "when-alone = \"ask\"")]).unwrap().mirror.when_alone, WhenAlone::Ask);
    let mut config = with(&[]).unwrap();
    (config.link.peer, config.link.listen) = ("10.0.0.2:7400".parse().ok(), None);
    config.take_role(Role::Primary).unwrap();
    assert_eq!(config.node.role, Role::Primary);
    refused!(config.take_role(Role::Secondary), ConfigError::RoleNeeds { key: "link.listen", .. });
    assert_eq!(config.node.role, Role::Primary);
    (config.link.peer, config.link.listen) = (None, "10.0.0.2:7400".parse().ok());
    refused!(config.take_role(Role::Primary), ConfigError::RoleNeeds { key: "link.peer", .. });
    config.take_role(Role::Secondary).unwrap();
}

#[test]
fn patterns_of_strict_files_are_read_or_refused() {
    let config = with(&[("mirror", "strict-files = [\"*.mdb\", \"ldap/**\"]")]).unwrap();
    let texts: Vec<&str> = config.mirror.strict_files.iter().map(NamePattern::text).collect();
    assert_eq!(texts, ["*.mdb", "ldap/**"]);
    refused!(
        with(&[("mirror", "strict-files = [\"*.mdb\", \"/srv/data/x\"]")]),
        ConfigError::Pattern { key: "mirror.strict-files", value, .. } if value == "/srv/data/x"
    );
    let many = format!("strict-files = [{}]", "\"x\",".repeat(257));
    refused!(with(&[("mirror", &many)]), ConfigError::OutOfBounds { value: 257, .. });
    let machine = Machine::new(&["a"]);
    let mut config = machine.config(&["a"]);
    config.mirror.strict_files = vec![NamePattern::parse("*.mdb").unwrap()];
    config.mirror.mode = Mode::Async;
    assert!(
        config.validate_system().unwrap().iter().any(|warning| matches!(
            warning,
            ConfigWarning::WithoutEffect { key: "mirror.strict-files", .. }
        ))
    );
}
