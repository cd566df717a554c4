//! What is taken, and what is refused with which words.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const WHOLE: &str = r#"
[module]
name = "shop"
description = "The shop"
default-primary = "alpha"
failback = "automatic"
policy = "availability-first"
restart-budget = { count = 5, period = "2h" }

[mirror]
mode = "semi-sync"

[[directory]]
path = "/srv/shop"
must-exist = "data"

[[address]]
address = "10.0.0.100/24"
interface = "eth0"
announce = true

[[address]]
address = "fd00::100/64"

[environment]
COLOUR = "green"

[scripts]
prestart = "scripts/prestart"
start-primary = ["pg_ctlcluster", "15", "main", "start"]
stop-primary = { run = "/usr/local/bin/stop", timeout = "10s" }
timeout = "30s"
grace = "1s"
log-runs = 3
log-size = "64KiB"

[services]
units = ["nginx", "php-fpm.socket"]
stop-timeout = "5s"

[[checker]]
name = "process"
type = "process"
command = "shopd"
arguments = "--port [0-9]+"
at-most = 3

[[checker]]
name = "page"
type = "http"
url = "http://[fd00::100]:8080/health?full=1"
host = "shop.example.org"
status = [200, 204]
body-contains = "ok"
interval = "1s"
timeout = "500ms"
failures = 2
successes = 3
initial-delay = "10s"
when = "both"
action = "swap"

[[checker]]
name = "gateway"
type = "ping"
addresses = ["10.0.0.1", "fd00::1"]
pre = true
"#;

#[test]
fn a_whole_description_is_understood() {
    let shop = Description::parse(WHOLE).expect("a description");
    assert_eq!((shop.name.as_str(), shop.description.as_str()), ("shop", "The shop"));
    assert_eq!((shop.failback, shop.policy), (Failback::Automatic, Some(Policy::AvailabilityFirst)));
    assert_eq!(shop.restart_budget, RestartBudget { count: 5, period: Duration::from_secs(7200) });
    assert_eq!(shop.mirror.get("mode").and_then(toml::Value::as_str), Some("semi-sync"));
    assert_eq!(shop.directories[0].table.get("must-exist").and_then(toml::Value::as_str), Some("data"));
    let addresses: Vec<_> =
        shop.addresses.iter().map(|address| (address.address.to_string(), address.prefix)).collect();
    assert_eq!(addresses, [("10.0.0.100".to_owned(), 24), ("fd00::100".to_owned(), 64)]);
    assert!(shop.addresses[0].table.contains_key("announce"), "what is not known here goes on");
    assert_eq!(shop.services.units, ["nginx.service", "php-fpm.socket"]);
    let scripts = &shop.scripts.commands;
    assert_eq!(scripts[&ScriptName::Prestart].timeout, Duration::from_secs(30));
    assert_eq!(scripts[&ScriptName::StopPrimary].timeout, Duration::from_secs(10));
    assert_eq!(scripts[&ScriptName::StartPrimary].argv.len(), 4);
    let page = &shop.checkers[1];
    assert_eq!((page.thresholds.failures, page.thresholds.successes), (2, 3));
    assert_eq!((page.when, page.action), (When::Both, Action::Swap));
    let ProbeDescription::Http { address, host, target, .. } = &page.probe else { panic!("{page:?}") };
    assert_eq!((address.to_string().as_str(), host.as_str()), ("[fd00::100]:8080", "shop.example.org"));
    assert_eq!(target, "/health?full=1");
    let gateway = &shop.checkers[2];
    assert_eq!((gateway.pre, gateway.when, gateway.action), (true, When::Both, Action::Wait));
}

#[test]
fn a_name_is_enough() {
    let module = Description::parse("[module]\nname = \"m\"").expect("a description");
    assert_eq!(module.restart_budget, RestartBudget { count: 3, period: Duration::from_secs(24 * 3600) });
    assert!(module.checkers.is_empty() && module.directories.is_empty() && module.services.units.is_empty());
}

/// A minimal module with something more.
fn refused(more: &str) -> ModuleError {
    match Description::parse(&format!("[module]\nname = \"m\"\n{more}")) {
        Ok(_) => panic!("taken: {more}"),
        Err(error) => error,
    }
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest() {
    let table = [
        ("defaultprimary = \"a\"", "module.defaultprimary", Some("module.default-primary")),
        ("[script]", "script", Some("scripts")),
        ("[scripts]\nstart_primary = \"a/b\"", "scripts.start_primary", Some("scripts.start-primary")),
        ("[services]\nunit = [\"a\"]", "services.unit", Some("services.units")),
        (
            "[[checker]]\nname = \"c\"\ntype = \"tcp\"\naddress = \"127.0.0.1:1\"\nintervall = \"1s\"",
            "checker[c].intervall",
            Some("checker[c].interval"),
        ),
        // A key of another kind of checker is not one of this.
        (
            "[[checker]]\nname = \"c\"\ntype = \"tcp\"\naddress = \"127.0.0.1:1\"\nbody-contains = \"x\"",
            "checker[c].body-contains",
            None,
        ),
    ];
    for (more, wrong, meant) in table {
        match refused(more) {
            ModuleError::UnknownKey { key, nearest } => {
                assert_eq!((key.as_str(), nearest.as_deref()), (wrong, meant), "{more}");
            }
            other => panic!("{more}: {other}"),
        }
    }
}

/// The key an error names.
fn key_of(error: &ModuleError) -> &str {
    match error {
        ModuleError::UnknownKey { key, .. }
        | ModuleError::Missing { key, .. }
        | ModuleError::Type { key, .. }
        | ModuleError::Choice { key, .. }
        | ModuleError::Name { key, .. }
        | ModuleError::Duration { key, .. }
        | ModuleError::DurationZero { key }
        | ModuleError::DurationTooLong { key, .. }
        | ModuleError::Size { key, .. }
        | ModuleError::Space { key, .. }
        | ModuleError::OutOfBounds { key, .. }
        | ModuleError::Form { key, .. }
        | ModuleError::Pattern { key, .. }
        | ModuleError::Twice { key, .. }
        | ModuleError::TooMany { key, .. }
        | ModuleError::Contradiction { key, .. } => key,
        _ => "",
    }
}

#[test]
fn what_is_wrong_is_named_by_its_key() {
    let checker = |rest: &str| format!("[[checker]]\nname = \"c\"\n{rest}");
    let tcp = |rest: &str| checker(&format!("type = \"tcp\"\naddress = \"127.0.0.1:1\"\n{rest}"));
    let table = [
        ("failback = \"automatic\"".to_owned(), "module.failback"),
        ("policy = \"none\"".into(), "module.policy"),
        ("restart-budget = { period = \"0s\" }".into(), "module.restart-budget.period"),
        ("restart-budget = { count = -1 }".into(), "module.restart-budget.count"),
        ("[mirror]\ndirectories = [\"/a\"]".into(), "mirror.directories"),
        ("[directory]\npath = \"/a\"".into(), "directory"),
        ("[[directory]]\npath = \"a\"".into(), "directory.path"),
        ("[[directory]]\npath = \"/\"".into(), "directory.path"),
        ("[[directory]]\npath = \"/a/../b\"".into(), "directory.path"),
        ("[[directory]]\npath = \"/a\"\n[[directory]]\npath = \"/a\"".into(), "directory.path"),
        ("[[address]]\naddress = \"10.0.0.1\"".into(), "address.address"),
        ("[[address]]\naddress = \"10.0.0.1/33\"".into(), "address.address"),
        ("[[address]]\naddress = \"0.0.0.0/8\"".into(), "address.address"),
        ("[[address]]\naddress = \"10.0.0.1/8\"\ninterface = \"../eth0\"".into(), "address.interface"),
        ("[environment]\nREPLICATOR_ROLE = \"x\"".into(), "environment.REPLICATOR_ROLE"),
        ("[environment]\n\"A B\" = \"x\"".into(), "environment.A B"),
        ("[environment]\nA = 1".into(), "environment.A"),
        ("[scripts]\nprestart = \"true\"".into(), "scripts.prestart"),
        ("[scripts]\nprestart = \"../true\"".into(), "scripts.prestart"),
        ("[scripts]\nprestart = []".into(), "scripts.prestart"),
        ("[scripts]\nprestart = [\"a\", 1]".into(), "scripts.prestart"),
        ("[scripts]\nprestart = { timeout = \"1s\" }".into(), "scripts.prestart.run"),
        ("[scripts]\nprestart = { run = \"a/b\", timeout = \"0s\" }".into(), "scripts.prestart.timeout"),
        ("[scripts]\ntimeout = \"25h\"".into(), "scripts.timeout"),
        ("[scripts]\nlog-size = \"1 B\"".into(), "scripts.log-size"),
        ("[scripts]\nlog-size = \"many\"".into(), "scripts.log-size"),
        ("[services]\nunits = [\"--force\"]".into(), "services.units"),
        ("[services]\nunits = [\"a/b\"]".into(), "services.units"),
        ("[services]\nunits = [\"a\", \"a.service\"]".into(), "services.units"),
        ("[services]\nunits = \"a\"".into(), "services.units"),
        ("[[checker]]\ntype = \"tcp\"\naddress = \"127.0.0.1:1\"".into(), "checker.name"),
        (checker(""), "checker[c].type"),
        (checker("type = \"udp\""), "checker[c].type"),
        (checker("type = \"tcp\"\naddress = \"localhost:80\""), "checker[c].address"),
        (checker("type = \"tcp\"\naddress = \"127.0.0.1:0\""), "checker[c].address"),
        (tcp("interval = \"1ms\""), "checker[c].interval"),
        (tcp("interval = \"soon\""), "checker[c].interval"),
        (tcp("failures = 0"), "checker[c].failures"),
        (tcp("action = \"reboot\""), "checker[c].action"),
        (tcp("when = \"secondary\"\naction = \"swap\""), "checker[c].action"),
        (format!("{}\n{}", tcp(""), tcp("")), "checker.name"),
        (checker("type = \"http\"\nurl = \"https://127.0.0.1/\""), "checker[c].url"),
        (checker("type = \"http\"\nurl = \"http://example.org/\""), "checker[c].url"),
        (checker("type = \"http\"\nurl = \"http://127.0.0.1/a b\""), "checker[c].url"),
        (checker("type = \"http\"\nurl = \"http://127.0.0.1/\"\nhost = \"a\\r\\nb\""), "checker[c].host"),
        (checker("type = \"http\"\nurl = \"http://127.0.0.1/\"\nstatus = [99]"), "checker[c].status"),
        (checker("type = \"process\""), "checker[c].command"),
        (checker("type = \"process\"\ncommand = \"longer-than-15-bytes\""), "checker[c].command"),
        (checker("type = \"process\"\narguments = \"(\""), "checker[c].arguments"),
        (checker("type = \"process\"\ncommand = \"a\"\nat-least = 2\nat-most = 1"), "checker[c].at-most"),
        (checker("type = \"process\"\npid-file = \"/run/a\"\nat-least = 2"), "checker[c].pid-file"),
        (checker("type = \"ping\"\naddresses = []"), "checker[c].addresses"),
        (checker("type = \"ping\"\naddresses = [\"gateway\"]"), "checker[c].addresses"),
        (checker("type = \"disk\"\npath = \"/\""), "checker[c].min-free"),
        (checker("type = \"disk\"\npath = \"/\"\nmin-free = \"101%\""), "checker[c].min-free"),
        (checker("type = \"disk\"\npath = \"/\"\nmin-free = \"NaN%\""), "checker[c].min-free"),
        (checker("type = \"script\""), "checker[c].run"),
        (checker("type = \"interface\"\ninterface = \"\""), "checker[c].interface"),
    ];
    for (more, key) in table {
        let error = refused(&more);
        assert_eq!(key_of(&error), key, "{more}\n{error}");
    }
}

#[test]
fn what_is_no_toml_is_told_with_its_place() {
    let error = Description::parse("[module]\nname = \"m\"\nbroken").expect_err("no TOML");
    assert!(matches!(error, ModuleError::Syntax { line: 3, .. }), "{error}");
}

#[test]
fn a_module_has_the_name_of_its_directory() {
    let place = tempfile::tempdir().expect("a directory");
    let directory = place.path().join("shop");
    fs::create_dir(&directory).expect("create");
    fs::write(directory.join(MODULE_FILE), "[module]\nname = \"other\"").expect("write");
    let error = Description::load(&directory).expect_err("another name");
    assert!(matches!(error, ModuleError::NameOfAnother { .. }), "{error}");
    fs::write(directory.join(MODULE_FILE), "[module]\nname = \"shop\"").expect("write");
    assert_eq!(Description::load(&directory).expect("a module").name, "shop");
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC*") {
        let _ = Description::parse(&text);
    }

    #[test]
    fn no_value_makes_it_panic(
        section in prop::sample::select(vec!["module", "[directory]", "[address]", "scripts", "services", "[checker]", "environment"]),
        key in prop::sample::select(vec!["name", "type", "path", "address", "units", "prestart", "url", "run", "min-free", "timeout", "addresses"]),
        value in prop_oneof!["\"\\PC{0,12}\"", "[0-9]{1,20}", "\\[\"[a-z:/.%0-9]{0,9}\"\\]", "\\{ [a-z]{1,5} = 1 \\}"],
        kind in prop::sample::select(vec!["tcp", "http", "ping", "disk", "script", "process"]),
    ) {
        let _ = Description::parse(&format!("[{section}]\ntype = \"{kind}\"\nname = \"m\"\n{key} = {value}\n"));
        let _ = Description::parse(&format!("[{section}]\n{key} = {value}\n"));
    }
}
