//! Whether a module can run on this machine.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::super::service::{ServiceError, ServiceManager};
use super::super::{Description, MODULE_FILE, ProbeDescription, ScriptCommand, ScriptName};

/// Where bare names of programs are looked for; as the scripts find it.
const PATH: &[&str] = &["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Longest first line of a script that is looked at, in bytes; the kernel takes no longer one.
const INTERPRETER_BYTES_MAX: u64 = 256;

/// What is wrong with a module on this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Finding {
    /// A script is not there.
    ScriptMissing { script: String, path: PathBuf },
    /// A script cannot be executed.
    NotExecutable { script: String, path: PathBuf },
    /// Somebody else can change what runs as root.
    Writable { script: String, path: PathBuf },
    /// What runs a script is not there.
    InterpreterMissing { script: String, path: PathBuf, interpreter: PathBuf },
    /// A script does not say what runs it.
    NoInterpreter { script: String, path: PathBuf },
    /// A program is nowhere in the path.
    ProgramMissing { script: String, program: String },
    /// What is started cannot be stopped.
    NoStop { start: &'static str, stop: &'static str },
    /// A directory is not there.
    DirectoryMissing { path: PathBuf },
    /// A unit is not there.
    UnitMissing { unit: String, load: String },
    /// A unit is started by the machine, before anybody knows whether this node is primary.
    StartsAtBoot { unit: String },
    /// A unit's state is not known.
    UnitUnknown { unit: String, why: String },
    /// An interface is not there.
    InterfaceMissing { interface: String },
    /// Nothing is started.
    NothingToStart,
    /// Nobody looks whether the application works.
    NoChecker,
}

/// What is wrong, in two degrees.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Findings {
    /// With these it cannot run.
    pub errors: Vec<Finding>,
    /// With these it can, but not well.
    pub warnings: Vec<Finding>,
}

impl Findings {
    /// Whether nothing is in its way.
    pub fn usable(&self) -> bool {
        self.errors.is_empty()
    }

    fn add(&mut self, finding: Finding) {
        match finding {
            Finding::StartsAtBoot { .. }
            | Finding::InterfaceMissing { .. }
            | Finding::NothingToStart
            | Finding::NoChecker
            | Finding::NoInterpreter { .. } => self.warnings.push(finding),
            _ => self.errors.push(finding),
        }
    }
}

/// Look whether the module in `directory` can run on this machine. Changes nothing.
pub async fn check(description: &Description, directory: &Path, services: &dyn ServiceManager) -> Findings {
    let mut findings = Findings::default();
    for path in [directory.to_owned(), directory.join(MODULE_FILE)] {
        if fs::metadata(&path).is_ok_and(|metadata| writable(&metadata)) {
            findings.add(Finding::Writable { script: MODULE_FILE.to_owned(), path });
        }
    }
    for (name, command) in &description.scripts.commands {
        program(name.word(), command, directory, &mut findings);
    }
    for checker in &description.checkers {
        if let ProbeDescription::Script(command) = &checker.probe {
            program(&format!("checker {}", checker.name), command, directory, &mut findings);
        }
    }
    stops(description, &mut findings);
    for mirrored in &description.directories {
        if !mirrored.path.is_dir() {
            findings.add(Finding::DirectoryMissing { path: mirrored.path.clone() });
        }
    }
    units(description, services, &mut findings).await;
    interfaces(description, &mut findings);
    if description.checkers.is_empty() {
        findings.add(Finding::NoChecker);
    }
    findings
}

/// Whether a program is there and can be run.
fn program(script: &str, command: &ScriptCommand, directory: &Path, findings: &mut Findings) {
    let program = command.argv.first().map(String::as_str).unwrap_or_default();
    let script = script.to_owned();
    if !program.contains('/') {
        if !PATH.iter().any(|place| executable(&Path::new(place).join(program))) {
            findings.add(Finding::ProgramMissing { script, program: program.to_owned() });
        }
        return;
    }
    let path = directory.join(program);
    let Ok(metadata) = fs::metadata(&path) else {
        findings.add(Finding::ScriptMissing { script, path });
        return;
    };
    if !executable(&path) {
        findings.add(Finding::NotExecutable { script: script.clone(), path: path.clone() });
    }
    if writable(&metadata) {
        findings.add(Finding::Writable { script: script.clone(), path: path.clone() });
    }
    match interpreter(&path) {
        Some(Some(interpreter)) if !interpreter.exists() => {
            findings.add(Finding::InterpreterMissing { script, path, interpreter });
        }
        Some(None) => findings.add(Finding::NoInterpreter { script, path }),
        _ => {}
    }
}

/// Whether others than its owner can change it.
fn writable(metadata: &fs::Metadata) -> bool {
    metadata.mode() & 0o022 != 0
}

fn executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o111 != 0)
}

/// What runs a script by its first line: `None` for a program or what cannot be read, `Some(None)` for a text that does not say.
fn interpreter(path: &Path) -> Option<Option<PathBuf>> {
    let mut line = Vec::new();
    BufReader::new(File::open(path).ok()?).take(INTERPRETER_BYTES_MAX).read_until(b'\n', &mut line).ok()?;
    if line.starts_with(b"\x7fELF") {
        return None;
    }
    let text = String::from_utf8_lossy(&line);
    Some(text.strip_prefix("#!").and_then(|rest| rest.split_whitespace().next()).map(PathBuf::from))
}

fn stops(description: &Description, findings: &mut Findings) {
    let has = |script: ScriptName| description.scripts.commands.contains_key(&script);
    let pairs = [
        (ScriptName::StartPrimary, ScriptName::StopPrimary),
        (ScriptName::StartSecondary, ScriptName::StopSecondary),
    ];
    for (start, stop) in pairs {
        if has(start) && !has(stop) {
            findings.add(Finding::NoStop { start: start.word(), stop: stop.word() });
        }
    }
    if !has(ScriptName::StartPrimary) && description.services.units.is_empty() {
        findings.add(Finding::NothingToStart);
    }
}

async fn units(description: &Description, services: &dyn ServiceManager, findings: &mut Findings) {
    for unit in &description.services.units {
        let unit = unit.clone();
        match services.state(&unit).await {
            Ok(state) if !state.is_there() => findings.add(Finding::UnitMissing { unit, load: state.load }),
            Ok(state) if state.starts_at_boot() => findings.add(Finding::StartsAtBoot { unit }),
            Ok(_) => {}
            Err(error) => {
                let gone = matches!(error, ServiceError::NotThere { .. });
                findings.add(Finding::UnitUnknown { unit, why: error.to_string() });
                if gone {
                    return;
                }
            }
        }
    }
}

fn interfaces(description: &Description, findings: &mut Findings) {
    let of_addresses = description.addresses.iter().filter_map(|address| address.interface.as_ref());
    let of_checkers = description.checkers.iter().filter_map(|checker| match &checker.probe {
        ProbeDescription::Interface { interface } => Some(interface),
        _ => None,
    });
    let mut names: Vec<&String> = of_addresses.chain(of_checkers).collect();
    names.sort();
    names.dedup();
    for interface in names {
        if !Path::new("/sys/class/net").join(interface).exists() {
            findings.add(Finding::InterfaceMissing { interface: interface.clone() });
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::ScriptMissing { script, path } => {
                write!(f, "{script}: {} is not there; create it, or correct the path", path.display())
            }
            Finding::NotExecutable { script, path } => {
                write!(f, "{script}: {} cannot be executed; chmod 755 it", path.display())
            }
            Finding::Writable { script, path } => {
                write!(
                    f,
                    "{script}: {} runs as root, and others can change it; chmod go-w it",
                    path.display()
                )
            }
            Finding::InterpreterMissing { script, path, interpreter } => {
                let (path, interpreter) = (path.display(), interpreter.display());
                write!(f, "{script}: {path} is run by {interpreter}, which is not there; install it")
            }
            Finding::NoInterpreter { script, path } => {
                write!(f, "{script}: {} does not begin with #!; write #!/bin/sh", path.display())
            }
            Finding::ProgramMissing { script, program } => {
                write!(f, "{script}: there is no program {program}; install it, or write its path")
            }
            Finding::NoStop { start, stop } => {
                write!(
                    f,
                    "there is a script {start} and none {stop}: what is started must be stopped; add it"
                )
            }
            Finding::DirectoryMissing { path } => {
                write!(
                    f,
                    "the directory {} is not there; create it, or install the application",
                    path.display()
                )
            }
            Finding::UnitMissing { unit, load } => {
                write!(
                    f,
                    "there is no unit {unit} ({load}); install the application, or correct services.units"
                )
            }
            Finding::StartsAtBoot { unit } => {
                write!(
                    f,
                    "{unit} is started at boot, on both nodes; systemctl disable it (installing the module does)"
                )
            }
            Finding::UnitUnknown { unit, why } => write!(f, "{unit}: {why}"),
            Finding::InterfaceMissing { interface } => {
                write!(
                    f,
                    "there is no network interface {interface} here (yet); correct the name if that is wrong"
                )
            }
            Finding::NothingToStart => {
                f.write_str("nothing is started: neither a script start-primary nor services")
            }
            Finding::NoChecker => {
                f.write_str("nobody looks whether the application works: add a [[checker]]")
            }
        }
    }
}
