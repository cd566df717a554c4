//! From the text to the description: defaults, units, contradictions.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use toml::Table;

use super::error::ModuleError;
use super::section::Section;
use super::{Address, Description, Directory, Failback, Policy, RestartBudget, Services, checkers, scripts};

/// Tables of the file.
const TABLES: &[&str] =
    &["module", "mirror", "directory", "address", "environment", "scripts", "services", "checker"];
/// Keys of `[module]`.
const MODULE: &[&str] = &["name", "description", "default-primary", "failback", "policy", "restart-budget"];
const FAILBACKS: &[(&str, Failback)] = &[("manual", Failback::Manual), ("automatic", Failback::Automatic)];
const POLICIES: &[(&str, Policy)] = &[
    ("consistency-first", Policy::ConsistencyFirst),
    ("availability-first", Policy::AvailabilityFirst),
    ("manual", Policy::Manual),
];
/// As many as the mirror takes.
const DIRECTORIES_MAX: usize = 256;
const ADDRESSES_MAX: usize = 64;
const UNITS_MAX: usize = 64;
const BUDGET_COUNT_MAX: u32 = 1000;
const BUDGET_PERIOD_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Longest time anything of the application may take.
pub(super) const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
/// Endings of the names of systemd's units; see systemd.unit(5).
const UNIT_KINDS: &[&str] = &[
    ".service",
    ".socket",
    ".target",
    ".mount",
    ".timer",
    ".path",
    ".slice",
    ".scope",
    ".automount",
    ".swap",
    ".device",
];

/// Parse and validate.
pub(super) fn parse(text: &str) -> Result<Description, ModuleError> {
    let table: Table = toml::from_str(text).map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        ModuleError::Syntax {
            line: before.matches('\n').count() + 1,
            column: before.rsplit('\n').next().unwrap_or_default().chars().count() + 1,
            message: error.message().replace('\n', "; "),
        }
    })?;
    let file = Section::open("", &table, TABLES)?;
    let remedy = "write [module] and below it name = \"...\"";
    let module =
        file.table("module")?.ok_or_else(|| ModuleError::Missing { key: "module".into(), remedy })?;
    let module = Section::open("module", module, MODULE)?;
    let mirror = file.table("mirror")?.cloned().unwrap_or_default();
    if mirror.contains_key("directories") {
        let why = "the directories are told by [[directory]] tables with a path; remove the key";
        return Err(ModuleError::Contradiction { key: "mirror.directories".into(), why });
    }
    Ok(Description {
        name: module.name("name", "give the module a name")?,
        description: module.text("description")?.unwrap_or_default().to_owned(),
        default_primary: default_primary(&module)?,
        failback: failback(&module)?,
        policy: module.choice("policy", POLICIES)?,
        restart_budget: restart_budget(&module)?,
        mirror,
        directories: directories(&file)?,
        addresses: addresses(&file)?,
        environment: environment(&file)?,
        scripts: scripts::scripts(&file)?,
        services: services(&file)?,
        checkers: checkers::checkers(&file)?,
        digest: blake3::hash(text.as_bytes()),
    })
}

fn default_primary(module: &Section<'_>) -> Result<Option<String>, ModuleError> {
    if module.value("default-primary").is_none() {
        return Ok(None);
    }
    module.name("default-primary", "name a node").map(Some)
}

fn failback(module: &Section<'_>) -> Result<Failback, ModuleError> {
    let failback = module.choice("failback", FAILBACKS)?.unwrap_or_default();
    if failback == Failback::Automatic && module.value("default-primary").is_none() {
        let why = "\"automatic\" needs module.default-primary: the node to which the application returns";
        return Err(module.contradiction("failback", why));
    }
    Ok(failback)
}

fn restart_budget(module: &Section<'_>) -> Result<RestartBudget, ModuleError> {
    let (count, period) = (3, Duration::from_secs(24 * 3600));
    let Some(table) = module.table("restart-budget")? else { return Ok(RestartBudget { count, period }) };
    let budget = Section::open("module.restart-budget", table, &["count", "period"])?;
    Ok(RestartBudget {
        count: budget.count("count", count, 0, BUDGET_COUNT_MAX)?,
        period: budget.positive("period", period, BUDGET_PERIOD_MAX)?,
    })
}

fn directories(file: &Section<'_>) -> Result<Vec<Directory>, ModuleError> {
    let mut directories: Vec<Directory> = Vec::new();
    for table in file.tables("directory", DIRECTORIES_MAX)? {
        // The other keys are the mirror's, which looks at them itself.
        let keys: Vec<&str> = table.keys().map(String::as_str).collect();
        let section = Section::open("directory", table, &keys)?;
        let path = section.absolute("path", "name a directory, like \"/var/lib/application\"")?;
        if path.parent().is_none() {
            return Err(section.form(
                "path",
                "/",
                "a directory that can be mirrored",
                "/var/lib/application",
            ));
        }
        if directories.iter().any(|other| other.path == path) {
            return Err(ModuleError::Twice { key: section.key("path"), value: path.display().to_string() });
        }
        directories.push(Directory { path, table: table.clone() });
    }
    Ok(directories)
}

fn addresses(file: &Section<'_>) -> Result<Vec<Address>, ModuleError> {
    let mut addresses: Vec<Address> = Vec::new();
    for table in file.tables("address", ADDRESSES_MAX)? {
        let keys: Vec<&str> = table.keys().map(String::as_str).collect();
        let section = Section::open("address", table, &keys)?;
        let text = section.needed("address", "name an address with its prefix, like \"10.0.0.100/24\"")?;
        let (address, prefix) = with_prefix(text)
            .ok_or_else(|| section.form("address", text, "an IP address with its prefix", "10.0.0.100/24"))?;
        if addresses.iter().any(|other| other.address == address) {
            return Err(ModuleError::Twice { key: section.key("address"), value: address.to_string() });
        }
        let interface = section.text("interface")?.map(|name| interface(&section, name)).transpose()?;
        let mut rest = table.clone();
        rest.remove("address");
        rest.remove("interface");
        addresses.push(Address { address, prefix, interface, table: rest });
    }
    Ok(addresses)
}

/// An address that a node can have, and its prefix.
fn with_prefix(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let prefix: u8 = prefix.parse().ok()?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let usable = !address.is_unspecified() && !address.is_multicast();
    (usable && (1..=bits).contains(&prefix)).then_some((address, prefix))
}

/// The name of a network interface: at most 15 bytes (`IFNAMSIZ`), no `/`, no white space.
pub(super) fn interface(section: &Section<'_>, name: &str) -> Result<String, ModuleError> {
    let plain =
        !name.bytes().any(|byte| byte == b'/' || byte.is_ascii_whitespace() || byte.is_ascii_control());
    if name.is_empty() || name.len() > 15 || !plain || name == "." || name == ".." {
        return Err(section.form("interface", name, "the name of a network interface", "eth0"));
    }
    Ok(name.to_owned())
}

fn environment(file: &Section<'_>) -> Result<BTreeMap<String, String>, ModuleError> {
    let Some(table) = file.table("environment")? else { return Ok(BTreeMap::new()) };
    let keys: Vec<&str> = table.keys().map(String::as_str).collect();
    let section = Section::open("environment", table, &keys)?;
    let mut environment = BTreeMap::new();
    for key in keys {
        let head = key.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
        if !head || !key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(section.form(key, key, "the name of a variable", "PGDATA"));
        }
        if key.starts_with("REPLICATOR_") {
            return Err(section
                .contradiction(key, "names that begin with REPLICATOR_ are set by the node; use another"));
        }
        let value = section.needed(key, "give it a value")?;
        if value.contains('\0') {
            return Err(section.contradiction(key, "a variable cannot hold a NUL"));
        }
        environment.insert(key.to_owned(), value.to_owned());
    }
    Ok(environment)
}

fn services(file: &Section<'_>) -> Result<Services, ModuleError> {
    let empty = Table::new();
    let table = file.table("services")?.unwrap_or(&empty);
    let section = Section::open("services", table, &["units", "start-timeout", "stop-timeout"])?;
    let mut units: Vec<String> = Vec::new();
    for text in section.texts("units")? {
        let unit = unit(&section, "units", &text)?;
        if units.contains(&unit) {
            return Err(ModuleError::Twice { key: section.key("units"), value: unit });
        }
        units.push(unit);
    }
    if units.len() > UNITS_MAX {
        return Err(ModuleError::TooMany { key: section.key("units"), count: units.len(), limit: UNITS_MAX });
    }
    Ok(Services {
        units,
        start_timeout: section.positive("start-timeout", Duration::from_secs(60), TIMEOUT_MAX)?,
        stop_timeout: section.positive("stop-timeout", Duration::from_secs(60), TIMEOUT_MAX)?,
    })
}

/// The whole name of a systemd unit: without an ending it is a service.
pub(super) fn unit(section: &Section<'_>, key: &str, text: &str) -> Result<String, ModuleError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    let name = if UNIT_KINDS.iter().any(|kind| text.ends_with(kind)) {
        text.to_owned()
    } else {
        format!("{text}.service")
    };
    let plain = text.bytes().next().is_some_and(|byte| byte != b'-' && byte != b'.');
    if !plain || name.len() > 255 || !name.bytes().all(allowed) {
        return Err(section.form(key, text, "the name of a systemd unit", "postgresql@15-main.service"));
    }
    Ok(name)
}

/// Whether the names of a list are there once each.
pub(super) fn once<'a>(key: &str, names: impl Iterator<Item = &'a str>) -> Result<(), ModuleError> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(ModuleError::Twice { key: key.to_owned(), value: name.to_owned() });
        }
    }
    Ok(())
}
