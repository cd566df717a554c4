//! `[[checker]]`

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use toml::Table;

use super::error::ModuleError;
use super::section::{Section, size};
use super::validate::{interface, once, unit};
use super::{
    Action, CheckerDescription, Pattern, ProbeDescription, ProcessDescription, ScriptCommand, SpaceLimit,
    Thresholds, When, scripts,
};

pub(super) const ACTIONS: &[(&str, Action)] = &[
    ("restart", Action::Restart),
    ("stop-start", Action::StopStart),
    ("swap", Action::Swap),
    ("wait", Action::Wait),
    ("none", Action::None),
];
const WHENS: &[(&str, When)] =
    &[("primary", When::Primary), ("secondary", When::Secondary), ("both", When::Both)];
/// Keys of every checker.
const COMMON: &[&str] = &[
    "name",
    "type",
    "when",
    "pre",
    "interval",
    "timeout",
    "initial-delay",
    "failures",
    "successes",
    "action",
];
const CHECKERS_MAX: usize = 128;
const INTERVAL_MAX: Duration = Duration::from_secs(24 * 3600);
/// Shortest interval: more looks than that are themselves the load.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);
const THRESHOLD_MAX: u32 = 1000;
/// Longest name of a process that the kernel keeps (`TASK_COMM_LEN` less its NUL).
const COMMAND_BYTES_MAX: usize = 15;

type Build = fn(&Section<'_>, Duration) -> Result<ProbeDescription, ModuleError>;

/// What a checker looks at, its word, its own keys, and who reads them.
#[derive(Clone, Copy)]
struct Kind {
    keys: &'static [&'static str],
    build: Build,
}

const KINDS: &[(&str, Kind)] = &[
    ("process", Kind { keys: &["pid-file", "command", "arguments", "at-least", "at-most"], build: process }),
    ("service", Kind { keys: &["unit"], build: service }),
    ("tcp", Kind { keys: &["address", "send", "expect"], build: tcp }),
    ("http", Kind { keys: &["url", "host", "status", "body-contains"], build: http }),
    ("ping", Kind { keys: &["addresses"], build: ping }),
    ("interface", Kind { keys: &["interface"], build: of_interface }),
    ("address", Kind { keys: &["address", "interface"], build: address }),
    ("disk", Kind { keys: &["path", "min-free", "min-free-inodes"], build: disk }),
    ("script", Kind { keys: &["run"], build: script }),
];

/// All `[[checker]]` tables.
pub(super) fn checkers(file: &Section<'_>) -> Result<Vec<CheckerDescription>, ModuleError> {
    let tables = file.tables("checker", CHECKERS_MAX)?;
    let checkers = tables.into_iter().map(checker).collect::<Result<Vec<_>, _>>()?;
    once("checker.name", checkers.iter().map(|checker| checker.name.as_str()))?;
    Ok(checkers)
}

fn checker(table: &Table) -> Result<CheckerDescription, ModuleError> {
    let at = match table.get("name").and_then(toml::Value::as_str) {
        Some(name) => format!("checker[{name}]"),
        None => "checker".to_owned(),
    };
    // The keys depend on the type, so that is read first.
    let keys: Vec<&str> = table.keys().map(String::as_str).collect();
    let words = Section::open(&at, table, &keys)?;
    let kind = words.choice("type", KINDS)?.ok_or_else(|| ModuleError::Missing {
        key: words.key("type"),
        remedy: "say what is looked at: process, service, tcp, http, ping, interface, address, disk or script",
    })?;
    let known: Vec<&str> = COMMON.iter().chain(kind.keys).copied().collect();
    let section = Section::open(&at, table, &known)?;
    let pre = section.flag("pre", false)?;
    let when = section.choice("when", WHENS)?.unwrap_or(if pre { When::Both } else { When::Primary });
    let interval = section.positive("interval", Duration::from_secs(5), INTERVAL_MAX)?;
    if interval < INTERVAL_MIN {
        return Err(
            section.contradiction("interval", "shorter than 10ms: the checks would be the load; write more")
        );
    }
    let timeout = section.positive("timeout", Duration::from_secs(5), TIMEOUT_MAX)?;
    let action =
        section.choice("action", ACTIONS)?.unwrap_or(if pre { Action::Wait } else { Action::Restart });
    if when == When::Secondary && matches!(action, Action::Swap) {
        return Err(section.contradiction(
            "action",
            "a secondary cannot give up being primary: \"swap\" needs when = \"primary\"",
        ));
    }
    Ok(CheckerDescription {
        name: section.name("name", "give the checker a name")?,
        probe: (kind.build)(&section, timeout)?,
        when,
        pre,
        interval,
        timeout,
        initial_delay: section.duration("initial-delay", Duration::ZERO, TIMEOUT_MAX)?,
        thresholds: Thresholds {
            failures: section.count("failures", 3, 1, THRESHOLD_MAX)?,
            successes: section.count("successes", 1, 1, THRESHOLD_MAX)?,
        },
        action,
    })
}

fn process(section: &Section<'_>, _: Duration) -> Result<ProbeDescription, ModuleError> {
    let pid_file = match section.value("pid-file") {
        Some(_) => Some(section.absolute("pid-file", "name the file")?),
        None => None,
    };
    let command = section.text("command")?.map(str::to_owned);
    if let Some(name) = command.as_deref().filter(|name| name.is_empty() || name.len() > COMMAND_BYTES_MAX) {
        let what = "the name of a process: 1 to 15 bytes, the kernel keeps no more (see ps -o comm)";
        return Err(section.form("command", name, what, "postgres"));
    }
    let arguments = section.text("arguments")?.map(|text| pattern(section, "arguments", text)).transpose()?;
    if pid_file.is_none() && command.is_none() && arguments.is_none() {
        let remedy = "say which process: pid-file, command, or arguments";
        return Err(ModuleError::Missing { key: section.key("command"), remedy });
    }
    let at_least = section.count("at-least", 1, 0, 100_000)?;
    let at_most = match section.value("at-most") {
        Some(_) => Some(section.count("at-most", 0, 0, 100_000)?),
        None => None,
    };
    if at_most.is_some_and(|most| most < at_least) {
        return Err(section.contradiction("at-most", "is less than at-least; raise it"));
    }
    if pid_file.is_some() && (at_least > 1 || at_most.is_some()) {
        return Err(section.contradiction("pid-file", "names one process: remove at-least and at-most"));
    }
    Ok(ProbeDescription::Process(ProcessDescription { pid_file, command, arguments, at_least, at_most }))
}

fn pattern(section: &Section<'_>, key: &str, text: &str) -> Result<Pattern, ModuleError> {
    regex_lite::RegexBuilder::new(text).size_limit(1 << 20).build().map(Pattern).map_err(|error| {
        ModuleError::Pattern { key: section.key(key), value: text.to_owned(), why: error.to_string() }
    })
}

fn service(section: &Section<'_>, _: Duration) -> Result<ProbeDescription, ModuleError> {
    let text = section.needed("unit", "name the unit, like \"nginx.service\"")?;
    Ok(ProbeDescription::Service { unit: unit(section, "unit", text)? })
}

fn tcp(section: &Section<'_>, _: Duration) -> Result<ProbeDescription, ModuleError> {
    let text = |key| section.text(key).map(|text| text.unwrap_or_default().to_owned());
    Ok(ProbeDescription::Tcp {
        address: section.socket_address("address", "name where the application listens")?,
        send: text("send")?,
        expect: text("expect")?,
    })
}

fn http(section: &Section<'_>, _: Duration) -> Result<ProbeDescription, ModuleError> {
    let url = section.needed("url", "name what is asked for, like \"http://127.0.0.1:8080/health\"")?;
    let (address, authority, target) = split_url(url).ok_or_else(|| {
        let what =
            "an http URL with an IP address (for https use a script with curl; names are not looked up)";
        section.form("url", url, what, "http://127.0.0.1:8080/health")
    })?;
    let host = section.text("host")?.unwrap_or(authority);
    if host.is_empty() || host.bytes().any(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control()) {
        return Err(section.form("host", host, "the name of a host", "www.example.org"));
    }
    let codes = match section.value("status") {
        Some(toml::Value::Array(codes)) => codes.as_slice(),
        Some(code) => std::slice::from_ref(code),
        None => &[],
    };
    let code = |value: &toml::Value| value.as_integer().and_then(|code| u16::try_from(code).ok());
    let valid = |value| code(value).filter(|code| (100..600).contains(code));
    let status = codes.iter().map(valid).collect::<Option<Vec<u16>>>().ok_or_else(|| {
        let found = section.value("status").map(ToString::to_string).unwrap_or_default();
        section.form("status", &found, "a status code or a list of such", "[200, 204]")
    })?;
    Ok(ProbeDescription::Http {
        address,
        host: host.to_owned(),
        target: target.to_owned(),
        status,
        contains: section.text("body-contains")?.unwrap_or_default().to_owned(),
    })
}

/// Address, authority and target of a URL.
fn split_url(url: &str) -> Option<(SocketAddr, &str, &str)> {
    let rest = url.strip_prefix("http://")?;
    let (authority, target) = match rest.find('/') {
        Some(slash) => rest.split_at_checked(slash)?,
        None => (rest, "/"),
    };
    let plain = target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    let address = authority.parse::<SocketAddr>().ok().or_else(|| {
        let host = authority.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(authority);
        host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 80))
    })?;
    (plain && address.port() != 0).then_some((address, authority, target))
}

fn ping(section: &Section<'_>, _: Duration) -> Result<ProbeDescription, ModuleError> {
    let texts = section.texts("addresses")?;
    let addresses = texts.iter().map(|text| section.ip("addresses", text)).collect::<Result<Vec<_>, _>>()?;
    if addresses.is_empty() || addresses.len() > 16 {
        let remedy = "name 1 to 16 addresses, of which one at least must answer";
        return Err(ModuleError::Missing { key: section.key("addresses"), remedy });
    }
    Ok(ProbeDescription::Ping { addresses })
}

fn of_interface(section: &Section<'_>, _: Duration) -> Result<ProbeDescription, ModuleError> {
    let name = section.needed("interface", "name the interface, like \"eth0\"")?;
    Ok(ProbeDescription::Interface { interface: interface(section, name)? })
}

fn address(section: &Section<'_>, _: Duration) -> Result<ProbeDescription, ModuleError> {
    let text = section.needed("address", "name the address that must be on this node")?;
    Ok(ProbeDescription::Address {
        address: section.ip("address", text)?,
        interface: section.text("interface")?.map(|name| interface(section, name)).transpose()?,
    })
}

fn disk(section: &Section<'_>, _: Duration) -> Result<ProbeDescription, ModuleError> {
    let space = |key: &str, text: &str| {
        let limit = match text.strip_suffix('%') {
            Some(share) => share
                .trim()
                .parse()
                .ok()
                .filter(|share| (0.0..=100.0).contains(share))
                .map(SpaceLimit::Percent),
            None => size(text).or_else(|| text.parse().ok()).map(SpaceLimit::Amount),
        };
        limit.ok_or_else(|| ModuleError::Space { key: section.key(key), value: text.to_owned() })
    };
    let inodes = section.text("min-free-inodes")?.map(|text| space("min-free-inodes", text)).transpose()?;
    Ok(ProbeDescription::Disk {
        path: section.absolute("path", "name a directory of the file system")?,
        free: space("min-free", section.needed("min-free", "say how much, like \"10%\" or \"5GiB\"")?)?,
        inodes,
    })
}

fn script(section: &Section<'_>, timeout: Duration) -> Result<ProbeDescription, ModuleError> {
    let remedy = "name the script, like run = \"scripts/check\"";
    let run = section.value("run").ok_or_else(|| ModuleError::Missing { key: section.key("run"), remedy })?;
    Ok(ProbeDescription::Script(ScriptCommand { argv: scripts::argv(&section.key("run"), run)?, timeout }))
}
