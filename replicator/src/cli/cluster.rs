//! `replicator cluster`: two nodes become one cluster, and its daemon.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use replicator_cluster::daemon::catalogue::Reloaded;
use replicator_cluster::daemon::control::{Answer, Order, Request};
use replicator_cluster::daemon::service::Options;
use replicator_cluster::daemon::status::{ModuleStatus, NodeStatus, Place, SecretStatus};
use replicator_cluster::heartbeat::Preset;
use replicator_cluster::membership::{
    Description, Founding, JoinLimits, Membership, NewNode, Policy, Token, TokenOrder, host_join, join,
};

use super::module::Switch;
use super::places::{OnNode, PlacesArguments, unexpected};
use super::{exit, logs, pretty_json, print, print_while_read, runtime, snapshot};
use crate::config::{LogConfig, LogFormat, LogLevel};
use crate::{cluster, telemetry};

/// Pause between two pictures of `status --watch`.
const WATCH: Duration = Duration::from_secs(1);

/// Arguments of `cluster`.
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Found a cluster, on its first node
    Init(InitArguments),
    /// Make a token for the other node, show it, and wait until it is used
    Invite(InviteArguments),
    /// Join a cluster with its token, on the other node
    Join(JoinArguments),
    /// Run the cluster's daemon in the foreground until SIGTERM, SIGINT or "replicator cluster stop"
    Run(RunArguments),
    /// Show both nodes and their modules
    Status(StatusArguments),
    /// Stop the daemon in order: what can goes on on the other node
    Stop(OnlyPlaces),
    /// Keep a node from becoming active, in all its modules; those that are active there go to the other node
    Standby(StandbyArguments),
    /// What a node's daemon and its mirrors logged last, where systemd runs the daemon
    Logs(logs::DaemonArguments),
    /// Write what helps who looks for a fault, of both nodes, to one file; without secrets
    Snapshot(snapshot::Arguments),
    /// Renew this node's certificate, and give both nodes a new secret for their heartbeats, without an interruption
    Rotate(OnlyPlaces),
    /// Have a node's daemon look at its installed modules again, and take what has changed
    Reload(OnNode),
    /// Print the cluster's description, or replace its policy or arbiter
    Describe(DescribeArguments),
}

#[derive(Args, Debug)]
struct OnlyPlaces {
    #[command(flatten)]
    places: PlacesArguments,
}

#[derive(Args, Debug)]
struct NodeArguments {
    /// This node's name
    #[arg(long, value_name = "NAME")]
    node: String,
    /// A network between the nodes and this node's address and port in it; may be repeated. The same networks on both nodes
    #[arg(long, value_name = "NETWORK=ADDRESS:PORT", required = true, value_parser = network)]
    heartbeat: Vec<(String, SocketAddr)>,
    /// Where this node answers the other
    #[arg(long, value_name = "ADDRESS:PORT")]
    control: SocketAddr,
    /// Where this node's mirrors can be reached
    #[arg(long, value_name = "ADDRESS")]
    mirror: IpAddr,
}

impl NodeArguments {
    fn new_node(&self) -> anyhow::Result<NewNode> {
        let mut heartbeat = BTreeMap::new();
        for (network, address) in &self.heartbeat {
            if heartbeat.insert(network.clone(), *address).is_some() {
                bail!("the network {network} is named twice");
            }
        }
        Ok(NewNode { name: self.node.clone(), heartbeat, control: self.control, mirror: vec![self.mirror] })
    }
}

#[derive(Args, Debug)]
struct InitArguments {
    #[command(flatten)]
    places: PlacesArguments,
    /// The cluster's name
    #[arg(long, value_name = "NAME")]
    name: String,
    #[command(flatten)]
    node: NodeArguments,
    /// What happens when the nodes do not hear each other
    #[arg(long, default_value = "consistency-first")]
    policy: PolicyArgument,
    /// The arbiter, as TOML: 'kind = "witness"' and what it needs; see docs/cluster.md
    #[arg(long, value_name = "TOML", value_parser = table)]
    arbiter: Option<toml::Table>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PolicyArgument {
    /// Rather nobody than two
    ConsistencyFirst,
    /// Rather two than nobody
    AvailabilityFirst,
    /// A person decides
    Manual,
}

impl From<PolicyArgument> for Policy {
    fn from(policy: PolicyArgument) -> Policy {
        match policy {
            PolicyArgument::ConsistencyFirst => Policy::ConsistencyFirst,
            PolicyArgument::AvailabilityFirst => Policy::AvailabilityFirst,
            PolicyArgument::Manual => Policy::Manual,
        }
    }
}

#[derive(Args, Debug)]
struct InviteArguments {
    #[command(flatten)]
    places: PlacesArguments,
    /// Where this node waits for the other
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// How long the token is valid
    #[arg(long, value_name = "SPAN", default_value = "1h", value_parser = humantime::parse_duration)]
    lifetime: Duration,
    /// The node whose place another machine takes
    #[arg(long, value_name = "NODE")]
    replaces: Option<String>,
}

#[derive(Args, Debug)]
struct JoinArguments {
    #[command(flatten)]
    places: PlacesArguments,
    #[command(flatten)]
    node: NodeArguments,
    /// The token
    token: String,
}

#[derive(Args, Debug)]
struct RunArguments {
    #[command(flatten)]
    places: PlacesArguments,
    /// How quickly a node that is not heard is taken for dead: normal 3 s, fast 1 s, calm 10 s. The same on both nodes
    #[arg(long, default_value = "normal")]
    heartbeat: PresetArgument,
    /// Where load balancers may ask which node serves
    #[arg(long, value_name = "ADDRESS:PORT")]
    health: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PresetArgument {
    Normal,
    Fast,
    Calm,
}

#[derive(Args, Debug)]
struct StatusArguments {
    #[command(flatten)]
    places: PlacesArguments,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
    /// Show it again every second until Ctrl-C
    #[arg(long)]
    watch: bool,
}

#[derive(Args, Debug)]
struct StandbyArguments {
    #[command(flatten)]
    on: OnNode,
    /// Whether
    #[arg(default_value = "on")]
    switch: Switch,
}

#[derive(Args, Debug)]
struct DescribeArguments {
    #[command(flatten)]
    places: PlacesArguments,
    /// The new policy. The daemons take it at their next start
    #[arg(long)]
    policy: Option<PolicyArgument>,
    /// The new arbiter, as TOML; an empty text: none
    #[arg(long, value_name = "TOML", value_parser = table)]
    arbiter: Option<toml::Table>,
}

/// Run the command.
///
/// # Errors
/// What kept it from being done.
pub fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    match &arguments.command {
        Command::Init(arguments) => init(arguments),
        Command::Invite(arguments) => invite(arguments),
        Command::Join(arguments) => join_cluster(arguments),
        Command::Run(arguments) => daemon(arguments),
        Command::Status(arguments) => status(arguments),
        Command::Stop(arguments) => {
            arguments.places.ask(None, Request::Stop)?;
            Ok(exit::OK)
        }
        Command::Standby(arguments) => standby(arguments),
        Command::Logs(arguments) => logs::run_daemon(arguments),
        Command::Snapshot(arguments) => snapshot::run(arguments),
        Command::Rotate(arguments) => rotate(&arguments.places),
        Command::Reload(arguments) => reload(arguments),
        Command::Describe(arguments) => describe(arguments),
    }
}

/// The daemon does it, because it speaks with the secret. Without one there is only the certificate to renew.
fn rotate(places: &PlacesArguments) -> anyhow::Result<u8> {
    let secret = match places.ask_if_running(&Request::Rotate)? {
        Some(Answer::Rotated { secret }) => secret,
        Some(other) => return Err(unexpected(&other)),
        None => {
            let mut membership = Membership::open(&places.places().cluster)?;
            membership.renew_certificate(SystemTime::now())?;
            print(
                "the certificate is renewed, and used when the daemon starts; the shared secret is NOT rotated: no daemon runs here\n",
            )?;
            return Ok(exit::OK);
        }
    };
    print(&format!("the certificate is renewed and in use; {}\n", say(&secret)))?;
    Ok(exit::OK)
}

/// How far a rotation is.
fn say(secret: &SecretStatus) -> String {
    let SecretStatus { number, next, previous, waits } = secret;
    match (next, previous) {
        (Some(next), _) => {
            let why = waits.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            format!("secret {number}; secret {next} waits until the other node has it{why}")
        }
        (None, Some(previous)) => {
            format!(
                "secret {number}; secret {previous} is accepted until both nodes were heard with the new one"
            )
        }
        (None, None) => format!("secret {number}"),
    }
}

/// What a daemon has taken from its shelf.
pub(super) fn reload(on: &OnNode) -> anyhow::Result<u8> {
    match on.places.ask(on.node.as_deref(), Request::Reload)? {
        Answer::Reloaded { reloaded } => tell(&reloaded),
        other => Err(unexpected(&other)),
    }
}

/// Tell what has become of the modules.
pub(super) fn tell(reloaded: &Reloaded) -> anyhow::Result<u8> {
    let Reloaded { taken, removed, waiting, refused } = reloaded;
    let line = |module: &String, what: &str| format!("{module:<20} {what}\n");
    let mut text = String::new();
    taken.iter().for_each(|module| text += &line(module, "the daemon has it as it is installed"));
    removed.iter().for_each(|module| text += &line(module, "the daemon does not have it any more"));
    waiting.iter().for_each(|module| {
        text += &line(module, "it runs: what has changed is taken when it is stopped and started again")
    });
    refused.iter().for_each(|(module, why)| text += &line(module, &format!("NOT TAKEN: {why}")));
    print(if text.is_empty() { "nothing has changed for the daemon\n" } else { &text })?;
    Ok(if refused.is_empty() { exit::OK } else { exit::FAILED })
}

fn init(arguments: &InitArguments) -> anyhow::Result<u8> {
    let founding = Founding {
        cluster: arguments.name.clone(),
        policy: arguments.policy.into(),
        arbiter: arguments.arbiter.clone(),
        node: arguments.node.new_node()?,
    };
    let directory = arguments.places.places().cluster;
    let membership = Membership::found(&directory, founding, SystemTime::now())?;
    print(&format!(
        "cluster {} ({}) is founded in {}; next: replicator cluster invite\n",
        membership.description().name,
        membership.description().id,
        directory.display()
    ))?;
    Ok(exit::OK)
}

fn invite(arguments: &InviteArguments) -> anyhow::Result<u8> {
    let directory = arguments.places.places().cluster;
    let mut membership = Membership::open(&directory)?;
    let order = TokenOrder {
        addresses: vec![arguments.listen],
        lifetime: arguments.lifetime,
        replaces: arguments.replaces.clone(),
    };
    let token = membership.issue_token(order, SystemTime::now())?;
    drop(membership);
    let runtime = runtime()?;
    let joined = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(arguments.listen)
            .await
            .with_context(|| format!("cannot listen at {}", arguments.listen))?;
        print(&format!("{}\n", token.reveal()))?;
        Ok::<_, anyhow::Error>(host_join(&directory, listener, JoinLimits::default()).await?)
    })?;
    print(&format!("{} has joined, from {}\n", joined.node.name, joined.from))?;
    Ok(exit::OK)
}

fn join_cluster(arguments: &JoinArguments) -> anyhow::Result<u8> {
    let token = Token::parse(&arguments.token)?;
    let node = arguments.node.new_node()?;
    let runtime = runtime()?;
    let membership = runtime.block_on(join(&arguments.places.places().cluster, &token, node))?;
    print(&format!(
        "{} is a member of {}; next, on both nodes: install modules, and start the daemon\n",
        membership.name(),
        membership.description().name
    ))?;
    Ok(exit::OK)
}

fn daemon(arguments: &RunArguments) -> anyhow::Result<u8> {
    telemetry::start(LogConfig { level: LogLevel::Info, format: LogFormat::Text })?;
    if !nix::unistd::geteuid().is_root() {
        bail!("the cluster's daemon needs root: it mounts, takes addresses and starts applications");
    }
    let preset = match arguments.heartbeat {
        PresetArgument::Normal => Preset::Normal,
        PresetArgument::Fast => Preset::Fast,
        PresetArgument::Calm => Preset::Calm,
    };
    let program = std::env::current_exe().context("find this program")?;
    cluster::run(arguments.places.places(), Options { preset, health: arguments.health }, &program)?;
    Ok(exit::OK)
}

fn status(arguments: &StatusArguments) -> anyhow::Result<u8> {
    loop {
        let status = arguments.places.status()?;
        let text = if arguments.json { pretty_json(&status)? } else { show(&status) };
        if !arguments.watch {
            print(&text)?;
            return Ok(colour(&status));
        }
        if !print_while_read(&format!("\x1b[H\x1b[2J{text}"))? {
            return Ok(exit::OK);
        }
        std::thread::sleep(WATCH);
    }
}

/// The same for each module that runs on a node. One that refuses keeps no other from it.
fn standby(arguments: &StandbyArguments) -> anyhow::Result<u8> {
    let StandbyArguments { on: OnNode { places, node }, switch } = arguments;
    let status = match places.ask(node.as_deref(), Request::Status)? {
        Answer::Status { status } => status,
        other => return Err(unexpected(&other)),
    };
    let order = Order::Standby { on: *switch == Switch::On };
    let mut code = exit::OK;
    for module in status.modules.iter().filter(|module| module.here.state != "stopped") {
        let request = Request::Order { module: module.module.clone(), order: order.clone() };
        let said = match places.ask(node.as_deref(), request) {
            Ok(_) => "done".to_owned(),
            Err(error) => {
                code = exit::FAILED;
                format!("NOT DONE: {error:#}")
            }
        };
        print(&format!("{:<20} {said}\n", module.module))?;
    }
    Ok(code)
}

/// The worst of the modules on this node, as the exit code.
fn colour(status: &NodeStatus) -> u8 {
    let of = |module: &ModuleStatus| match module.here.readiness.as_str() {
        "ready" => exit::OK,
        "transient" => exit::ORANGE,
        // Nobody wants it to run.
        _ if module.here.state == "stopped" => exit::OK,
        _ => exit::RED,
    };
    status.modules.iter().map(of).max().unwrap_or(exit::OK)
}

fn show(status: &NodeStatus) -> String {
    let heard =
        if status.peer_alive { "both hear each other" } else { "NOT HEARD, or does not hear this node" };
    let mut text = format!("{} and {}: {heard}\n", status.node, status.peer);
    for (number, path) in status.paths.iter().enumerate() {
        let trip = path.round_trip_ms.map_or_else(|| "-".to_owned(), |trip| format!("{trip:.2} ms"));
        text += &format!(
            "  network {}: {}, round trip {trip}, longest gap {:.0} ms\n",
            number + 1,
            path.state,
            path.longest_gap_ms
        );
    }
    if let Some(secret) = &status.secret {
        text += &format!("  {}\n", say(secret));
    }
    for module in &status.modules {
        text += &format!(
            "\n{}{}\n",
            module.module,
            if module.maintenance { " (maintenance: checkers only show)" } else { "" }
        );
        if let Some(pending) = &module.pending {
            text += &format!("  NOT AS INSTALLED: {pending}\n");
        }
        text += &line(&status.node, &module.here);
        match &module.peer {
            Some(peer) => text += &line(&status.peer, peer),
            None => text += &format!("  {:<16} not known here\n", status.peer),
        }
        for address in &module.addresses {
            let held = if address.held { "here" } else { "not here" };
            text += &format!("  address {} {held}\n", address.address);
        }
        for checker in module.checkers.iter().filter(|checker| checker.verdict != "up") {
            text += &format!("  checker {}: {} {}\n", checker.checker, checker.verdict, checker.reason);
        }
    }
    text
}

fn line(node: &str, place: &Place) -> String {
    let data = place.data.as_deref().unwrap_or("unknown data");
    let cause = if place.cause.is_empty() { String::new() } else { format!(": {}", place.cause) };
    format!("  {node:<16} {:<10} {:<10} {data}{cause}\n", place.state, place.readiness)
}

fn describe(arguments: &DescribeArguments) -> anyhow::Result<u8> {
    let mut membership = Membership::open(&arguments.places.places().cluster)?;
    if arguments.policy.is_some() || arguments.arbiter.is_some() {
        membership.change_description(|description: &mut Description| {
            if let Some(policy) = arguments.policy {
                description.policy = policy.into();
            }
            if let Some(arbiter) = &arguments.arbiter {
                description.arbiter = Some(arbiter.clone()).filter(|table| !table.is_empty());
            }
        })?;
    }
    print(&membership.description().to_text()?)?;
    Ok(exit::OK)
}

fn network(text: &str) -> Result<(String, SocketAddr), String> {
    let (network, address) = text.split_once('=').ok_or("write it like lan=10.0.0.1:7410")?;
    let address = address.parse().map_err(|error| format!("{address}: {error}"))?;
    Ok((network.to_owned(), address))
}

fn table(text: &str) -> Result<toml::Table, String> {
    text.parse().map_err(|error: toml::de::Error| error.message().to_owned())
}
