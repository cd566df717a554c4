//! `replicator module`: what the cluster keeps running.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use replicator_cluster::daemon::control::{Answer, Order, Request};
use replicator_cluster::daemon::delivery::ModulePart;
use replicator_cluster::daemon::standing::StandingFile;
use replicator_cluster::module::{
    BootError, BootState, Listed, Piece, ServiceError, Shelf, Systemctl, check, pack,
};

use super::cluster::{reload, tell};
use super::places::{OnNode, PlacesArguments, unexpected};
use super::{exit, logs, pretty_json, print, runtime};

/// Arguments of `module`.
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// List the installed modules
    List(OnlyPlaces),
    /// Make a directory with the beginnings of a module
    Init(InitArguments),
    /// Check an installed module against this machine
    Check(Named),
    /// Install a module from a directory, or replace it; a running daemon takes it at once, or when the module is started next after a stop
    Install(InstallArguments),
    /// Remove an installed module; its data stays
    Remove(Named),
    /// Have a node's daemon look at its installed modules again, and take what has changed
    Reload(OnNode),
    /// Run the module on a node
    Start(Ordered),
    /// Stop it on a node; if that one is active, the other takes over
    Stop(Ordered),
    /// Give the application to the other node (on the active one, or with --node)
    Swap(Ordered),
    /// Stop and start the application
    Restart(Ordered),
    /// Make a node the active one, where the cluster does not choose by itself
    Promote(PromoteArguments),
    /// Keep a node from becoming active, though it holds the copy; one that is active gives the application to the other
    Standby(StandbyArguments),
    /// What happened to the module, and why
    Events(EventsArguments),
    /// What the module's scripts wrote
    Logs(logs::Arguments),
    /// Let checkers show what they find, and do nothing
    Maintenance(MaintenanceArguments),
}

#[derive(Args, Debug)]
struct OnlyPlaces {
    #[command(flatten)]
    places: PlacesArguments,
}

#[derive(Args, Debug)]
struct Named {
    #[command(flatten)]
    places: PlacesArguments,
    /// The module's name
    module: String,
}

#[derive(Args, Debug)]
struct InitArguments {
    /// Where the directory is made
    #[arg(long, value_name = "DIRECTORY", default_value = ".")]
    into: PathBuf,
    /// The module's name
    module: String,
}

#[derive(Args, Debug)]
struct InstallArguments {
    #[command(flatten)]
    places: PlacesArguments,
    /// Replace an installed one of this name
    #[arg(long)]
    replace: bool,
    /// Install it on the other node, too, through the daemons of both: at most 200 files with 4 MiB
    #[arg(long)]
    both: bool,
    /// The directory with module.toml
    source: PathBuf,
}

/// A module on a node.
#[derive(Args, Debug)]
pub(super) struct Ordered {
    #[command(flatten)]
    pub(super) places: PlacesArguments,
    /// On which node; without: on this one
    #[arg(long, value_name = "NAME")]
    pub(super) node: Option<String>,
    /// The module's name
    pub(super) module: String,
}

#[derive(Args, Debug)]
struct PromoteArguments {
    #[command(flatten)]
    ordered: Ordered,
    /// Whatever this copy and the other node are: what only the other node has is lost for the service, and kept aside there
    #[arg(long, requires = "reason")]
    force: bool,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Args, Debug)]
struct EventsArguments {
    #[command(flatten)]
    ordered: Ordered,
    /// The last so many
    #[arg(long, default_value_t = 30)]
    count: usize,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct StandbyArguments {
    #[command(flatten)]
    ordered: Ordered,
    /// Whether
    #[arg(default_value = "on")]
    switch: Switch,
}

#[derive(Args, Debug)]
struct MaintenanceArguments {
    #[command(flatten)]
    ordered: Ordered,
    /// Whether
    switch: Switch,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Switch {
    On,
    Off,
}

/// Run the command.
///
/// # Errors
/// What kept it from being done.
pub fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    match &arguments.command {
        Command::List(arguments) => list(&shelf(&arguments.places)),
        Command::Init(arguments) => {
            let path = Shelf::init(&arguments.into, &arguments.module)?;
            print(&format!("{}: edit module.toml, then install it\n", path.display()))?;
            Ok(exit::OK)
        }
        Command::Check(arguments) => look(&shelf(&arguments.places), &arguments.module),
        Command::Install(arguments) => install(arguments),
        Command::Remove(arguments) => remove(arguments),
        Command::Reload(arguments) => reload(arguments),
        Command::Start(ordered) => order(ordered, Order::Start),
        Command::Stop(ordered) => order(ordered, Order::Stop),
        Command::Swap(ordered) => order(ordered, Order::Swap),
        Command::Restart(ordered) => order(ordered, Order::Restart),
        Command::Promote(arguments) => {
            let PromoteArguments { ordered, force, reason } = arguments;
            order(ordered, Order::Promote { force: *force, reason: reason.clone() })
        }
        Command::Standby(arguments) => {
            order(&arguments.ordered, Order::Standby { on: arguments.switch == Switch::On })
        }
        Command::Events(arguments) => events(arguments),
        Command::Logs(arguments) => logs::run(arguments),
        Command::Maintenance(arguments) => {
            order(&arguments.ordered, Order::Maintenance { on: arguments.switch == Switch::On })
        }
    }
}

fn shelf(places: &PlacesArguments) -> Shelf {
    Shelf::at(places.places().modules)
}

/// Where it is kept which units the machine started before a module was installed.
fn boot(places: &PlacesArguments, module: &str) -> BootState {
    BootState::at(places.places().state.join(module).join("boot.toml"))
}

/// On this node, and on the other if that is wanted.
fn install(arguments: &InstallArguments) -> anyhow::Result<u8> {
    if !arguments.both {
        return install_here(arguments);
    }
    // What cannot be sent, or to nobody, is not installed here either.
    let (description, pieces) = pack(&arguments.source)?;
    let peer = arguments.places.status()?.peer;
    let code = install_here(arguments)?;
    let name = description.name;
    let sent = send(&arguments.places, &name, arguments.replace, pieces);
    let answer = sent.with_context(|| format!("{name} is installed on this node, and NOT on {peer}"))?;
    let Answer::Installed { notes, reloaded } = answer else { return Err(unexpected(&answer)) };
    print(&format!("{name} is installed on {peer}\n"))?;
    notes.iter().try_for_each(|note| print(&format!("{peer}: {note}\n")))?;
    Ok(code.max(tell(&reloaded)?))
}

/// Send a module to the other node, which checks it and has it at once. What it answers to the last part.
fn send(places: &PlacesArguments, name: &str, replace: bool, pieces: Vec<Piece>) -> anyhow::Result<Answer> {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    // It only has to differ from that of whoever sends at the same time.
    let id = since.as_secs() << 32 | u64::from(since.subsec_nanos()) ^ u64::from(std::process::id());
    places.ask_peer(Request::Deliver { part: ModulePart::Begin { id, module: name.to_owned(), replace } })?;
    for piece in pieces {
        places.ask_peer(Request::Deliver { part: ModulePart::Piece { id, piece } })?;
    }
    places.ask_peer(Request::Deliver { part: ModulePart::End { id } })
}

/// First the module is there as a whole; then nobody else starts its units. Whatever fails after that is told, and done by installing it again.
fn install_here(arguments: &InstallArguments) -> anyhow::Result<u8> {
    let places = &arguments.places;
    let shelf = shelf(places);
    let description = shelf.install(&arguments.source, arguments.replace)?;
    let name = &description.name;
    print(&format!("{name} is installed in {}\n", shelf.path(name).display()))?;
    let switched = runtime()?.block_on(boot(places, name).take_over(&description, &Systemctl::default()));
    match switched {
        Ok(switched) => switched.lines().try_for_each(|line| print(&format!("{line}\n")))?,
        // Nothing is started at boot where nobody starts anything; "check" tells that the module cannot run so.
        Err(BootError::Service(error @ ServiceError::NotThere { .. })) => {
            print(&format!("warning: {error}\n"))?
        }
        Err(error) => {
            return Err(anyhow::Error::new(error).context(format!(
                "{name} is installed, but its units may still be started at boot; install it again with --replace"
            )));
        }
    }
    told(places, name)
}

/// A daemon that runs looks at its modules again; another will when it starts.
fn told(places: &PlacesArguments, module: &str) -> anyhow::Result<u8> {
    match places.ask_if_running(&Request::Reload)? {
        Some(Answer::Reloaded { reloaded }) => {
            tell(&reloaded)?;
            Ok(if reloaded.refused.contains_key(module) { exit::FAILED } else { exit::OK })
        }
        Some(other) => Err(unexpected(&other)),
        None => Ok(exit::OK),
    }
}

/// As long as the units are not what they were before, the module stays.
fn remove(arguments: &Named) -> anyhow::Result<u8> {
    let Named { places, module } = arguments;
    let shelf = shelf(places);
    shelf.existing(module)?;
    let state = places.places().state.join(module);
    // Its units would be started at boot again, on this node and, by the cluster, on the other.
    if state.is_dir() && StandingFile::new(&state)?.load()?.is_some_and(|standing| standing.started) {
        bail!("{module} is to run on this node; stop it first (replicator module stop {module})");
    }
    if let Some(Answer::Status { status }) = places.ask_if_running(&Request::Status)?
        && let Some(found) = status.modules.iter().find(|found| found.module == *module)
        && (found.here.state != "stopped" || found.here.readiness == "transient")
    {
        bail!("{module} is being stopped on this node; remove it when that has ended");
    }
    let enabled = runtime()?.block_on(boot(places, module).give_back(&Systemctl::default()))?;
    shelf.remove(module)?;
    for unit in enabled {
        print(&format!("{unit} is started at boot again, as before\n"))?;
    }
    told(places, module)
}

fn list(shelf: &Shelf) -> anyhow::Result<u8> {
    let mut text = String::new();
    let mut code = exit::OK;
    for Listed { name, description } in shelf.list()? {
        match description {
            Ok(description) => text += &format!("{name:<20} {}\n", description.description),
            Err(error) => {
                code = exit::FAILED;
                text += &format!("{name:<20} NOT USABLE: {error}\n");
            }
        }
    }
    print(&text)?;
    Ok(code)
}

fn look(shelf: &Shelf, name: &str) -> anyhow::Result<u8> {
    let description = shelf.load(name)?;
    let runtime = runtime()?;
    let findings = runtime.block_on(check(&description, &shelf.path(name), &Systemctl::default()));
    let mut text = String::new();
    for error in &findings.errors {
        text += &format!("error: {error}\n");
    }
    for warning in &findings.warnings {
        text += &format!("warning: {warning}\n");
    }
    if findings.usable() {
        text += &format!("{name} can run here\n");
    }
    print(&text)?;
    Ok(if findings.usable() { exit::OK } else { exit::FAILED })
}

fn order(ordered: &Ordered, order: Order) -> anyhow::Result<u8> {
    let request = Request::Order { module: ordered.module.clone(), order };
    match ordered.places.ask(ordered.node.as_deref(), request)? {
        Answer::Done => Ok(exit::OK),
        other => Err(unexpected(&other)),
    }
}

fn events(arguments: &EventsArguments) -> anyhow::Result<u8> {
    let ordered = &arguments.ordered;
    let request = Request::Events { module: ordered.module.clone(), count: arguments.count };
    let entries = match ordered.places.ask(ordered.node.as_deref(), request)? {
        Answer::Events { entries } => entries,
        other => return Err(unexpected(&other)),
    };
    if arguments.json {
        print(&pretty_json(&entries)?)?;
        return Ok(exit::OK);
    }
    let mut text = String::new();
    for entry in entries {
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(entry.at);
        let at = humantime::format_rfc3339_seconds(at);
        text += &format!("{at} {:<12} {:<10} {}\n", entry.node, entry.state, entry.what);
    }
    print(&text)?;
    Ok(exit::OK)
}
