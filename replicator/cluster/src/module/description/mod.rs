//! A module's description: the file `module.toml`, parsed once into a validated struct.
//!
//! Only the text is looked at: what is wrong with this machine (a script that is not there, a unit that starts at boot) is
//! found by [`check`](super::check). `[mirror]` and `[[directory]]` are the mirror's own and go on to it as they stand.

mod checkers;
mod error;
mod scripts;
mod section;
#[cfg(test)]
mod tests;
mod validate;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Table;

use super::checker::Thresholds;

pub use error::ModuleError;
pub(super) use section::is_name;

/// Name of the description in a module's directory.
pub const MODULE_FILE: &str = "module.toml";
/// Largest description in bytes; a larger one is surely not one.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A validated description.
#[derive(Clone, Debug)]
pub struct Description {
    /// The module's name, which is that of its directory.
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// The node on which the application is to run if it can choose.
    pub default_primary: Option<String>,
    /// Whether the application returns to that node by itself.
    pub failback: Failback,
    /// When a node may go alone; `None`: as the cluster has it.
    pub policy: Option<Policy>,
    /// How often the module may be restarted without a person.
    pub restart_budget: RestartBudget,
    /// `[mirror]` as it stands: the keys of the mirror.
    pub mirror: Table,
    /// What is mirrored; none, one, or several directories.
    pub directories: Vec<Directory>,
    /// The virtual addresses.
    pub addresses: Vec<Address>,
    /// What the scripts find in their environment beside the `REPLICATOR_` variables.
    pub environment: BTreeMap<String, String>,
    /// What is run when the role changes.
    pub scripts: Scripts,
    /// The systemd units of the primary.
    pub services: Services,
    /// What looks after the application.
    pub checkers: Vec<CheckerDescription>,
    /// Of the text, by which a changed description is known.
    pub digest: blake3::Hash,
}

/// Whether the application returns to the default primary.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Failback {
    /// When somebody asks for it.
    #[default]
    Manual,
    /// As soon as that node has all the data.
    Automatic,
}

/// When a node may go alone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Policy {
    /// When an arbiter says so.
    ConsistencyFirst,
    /// When the peer is lost.
    AvailabilityFirst,
    /// When an operator says so.
    Manual,
}

/// How often a module may be restarted without a person.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RestartBudget {
    /// So many times; zero: never.
    pub count: u32,
    /// Within this time.
    pub period: Duration,
}

/// One mirrored directory.
#[derive(Clone, PartialEq, Debug)]
pub struct Directory {
    /// From / on.
    pub path: PathBuf,
    /// The whole table, `path` included: the keys of the mirror.
    pub table: Table,
}

/// One virtual address.
#[derive(Clone, PartialEq, Debug)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// Bits of the network's part.
    pub prefix: u8,
    /// The interface that carries it; `None`: the one that is in the network already.
    pub interface: Option<String>,
    /// The other keys of the table, as they stand.
    pub table: Table,
}

/// A program to run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScriptCommand {
    /// Program and arguments; at least the program. A relative path with a `/` in it is one below the module's directory; a bare
    /// name is looked for in `PATH`.
    pub argv: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
}

/// When a script is run.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum ScriptName {
    /// Before anything is started: stops what an earlier life of this node left behind.
    Prestart,
    /// When the node becomes primary, before the services.
    StartPrimary,
    /// When it no longer is, after the services.
    StopPrimary,
    /// When the node becomes secondary.
    StartSecondary,
    /// When it no longer is.
    StopSecondary,
    /// When the module has stopped.
    Poststop,
}

/// What is run when the role changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scripts {
    /// The scripts that are there.
    pub commands: BTreeMap<ScriptName, ScriptCommand>,
    /// Time between the request to end (SIGTERM) and the end (SIGKILL) of a script that took too long.
    pub grace: Duration,
    /// Logs that are kept of each script.
    pub log_runs: usize,
    /// Bytes that are kept of the output of one run.
    pub log_size: u64,
}

/// The systemd units of the primary.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Services {
    /// In the order in which they are started; stopped in reverse.
    pub units: Vec<String>,
    /// How long one may take to become active.
    pub start_timeout: Duration,
    /// How long one may take to stop before it is killed.
    pub stop_timeout: Duration,
}

/// What looks after one aspect of the application.
#[derive(Clone, Debug)]
pub struct CheckerDescription {
    /// Its name, of which there is one in the module.
    pub name: String,
    /// What is looked at.
    pub probe: ProbeDescription,
    /// In which role.
    pub when: When,
    /// Whether it must be up before the module starts.
    pub pre: bool,
    /// From the beginning of one look to that of the next.
    pub interval: Duration,
    /// A look that takes longer has failed.
    pub timeout: Duration,
    /// Before the first look, so that the application can start.
    pub initial_delay: Duration,
    /// How many looks make a verdict.
    pub thresholds: Thresholds,
    /// What is asked for when it is down.
    pub action: Action,
}

/// In which role a checker looks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum When {
    Primary,
    Secondary,
    Both,
}

/// What a checker that is down asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// Stop and start the application here.
    Restart,
    /// Stop the module here and start it again: the other node takes over if it can.
    StopStart,
    /// Exchange the roles.
    Swap,
    /// Stop the module here until the checker is up again.
    Wait,
    /// Nothing: the verdict is shown.
    None,
}

impl Action {
    /// The word in the file.
    pub fn word(self) -> &'static str {
        checkers::ACTIONS.iter().find(|(_, action)| *action == self).map_or("none", |(word, _)| word)
    }
}

/// What a checker looks at.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum ProbeDescription {
    /// Processes are there.
    Process(ProcessDescription),
    /// A systemd unit is active.
    Service { unit: String },
    /// A connection is accepted, and what is sent is answered by something that contains what is expected.
    Tcp { address: SocketAddr, send: String, expect: String },
    /// A GET is answered with one of these status codes (none: 200 to 399) and a body that contains this.
    Http { address: SocketAddr, host: String, target: String, status: Vec<u16>, contains: String },
    /// One of these answers an ICMP echo.
    Ping { addresses: Vec<IpAddr> },
    /// A network interface is up and has a carrier.
    Interface { interface: String },
    /// An address is on this node (on this interface).
    Address { address: IpAddr, interface: Option<String> },
    /// A file system has room left.
    Disk { path: PathBuf, free: SpaceLimit, inodes: Option<SpaceLimit> },
    /// A script ends with 0; its time limit is the checker's.
    Script(ScriptCommand),
}

/// Which processes must be there.
#[derive(Clone, Debug)]
pub struct ProcessDescription {
    /// File with the number of the process, in its first line.
    pub pid_file: Option<PathBuf>,
    /// The name as in `ps -o comm`: at most 15 bytes.
    pub command: Option<String>,
    /// Is found in the arguments, joined by spaces.
    pub arguments: Option<Pattern>,
    /// So many at least.
    pub at_least: u32,
    /// So many at most; `None`: any number.
    pub at_most: Option<u32>,
}

/// A regular expression.
#[derive(Clone, Debug)]
pub struct Pattern(pub(super) regex_lite::Regex);

impl Pattern {
    /// Whether it is found in `text`.
    pub fn found_in(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

/// How much must be left.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum SpaceLimit {
    /// Of hundred.
    Percent(f64),
    /// Bytes (inodes: pieces).
    Amount(u64),
}

impl ScriptName {
    /// Every script, in the order of a life.
    pub const ALL: [ScriptName; 6] = [
        ScriptName::Prestart,
        ScriptName::StartPrimary,
        ScriptName::StopPrimary,
        ScriptName::StartSecondary,
        ScriptName::StopSecondary,
        ScriptName::Poststop,
    ];

    /// The key in the file, which is also the name of the logs.
    pub fn word(self) -> &'static str {
        match self {
            ScriptName::Prestart => "prestart",
            ScriptName::StartPrimary => "start-primary",
            ScriptName::StopPrimary => "stop-primary",
            ScriptName::StartSecondary => "start-secondary",
            ScriptName::StopSecondary => "stop-secondary",
            ScriptName::Poststop => "poststop",
        }
    }
}

impl Description {
    /// Read and validate the description in a module's directory, whose name must be the module's.
    ///
    /// # Errors
    /// [`ModuleError`], the first that is found.
    pub fn load(directory: &Path) -> Result<Description, ModuleError> {
        let description = Description::read(&directory.join(MODULE_FILE))?;
        let name = directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name != description.name {
            return Err(ModuleError::NameOfAnother { name: description.name, directory: name });
        }
        Ok(description)
    }

    /// Read and validate a description, wherever it lies.
    ///
    /// # Errors
    /// [`ModuleError`], the first that is found.
    pub fn read(path: &Path) -> Result<Description, ModuleError> {
        let unreadable = |source| ModuleError::Unreadable { path: path.to_owned(), source };
        let length = fs::metadata(path).map_err(unreadable)?.len();
        if length > FILE_BYTES_MAX {
            return Err(ModuleError::FileTooLarge { path: path.to_owned(), limit: FILE_BYTES_MAX });
        }
        Description::parse(&fs::read_to_string(path).map_err(unreadable)?)
    }

    /// Parse and validate a description's text.
    ///
    /// # Errors
    /// [`ModuleError`], the first that is found.
    pub fn parse(text: &str) -> Result<Description, ModuleError> {
        validate::parse(text)
    }
}
