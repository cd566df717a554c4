//! Two nodes as a cluster: a client, a witness, a service on a virtual address.
//!
//! ```text
//!   client 10.77.0.3 ---+                  +--- witness 10.77.0.4
//!                       +---- switch ------+
//!   a 10.77.0.1 --------+                  +-------- 10.77.0.2 b
//!   a 10.78.0.1 ------------ second network -------- 10.78.0.2 b
//! ```
//!
//! The cluster is founded and joined by the product's own commands. Its module keeps a ledger ([`super::ledger`]) on 10.77.0.100, or the database that
//! `modules/postgresql` starts does.

mod database;
mod host;
mod module;
mod status;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::compare;
use super::image::{Filesystem, MIB};
use super::ledger::{self, Client};
use super::net::{Lan, Namespace};
use super::place::Place;
use super::status::Status;
use super::{exec, wait};
use crate::{product, setup};
use anyhow::{Context, Result, bail, ensure};

pub use database::OWN as DATABASE_OWN;
pub use host::Host;
pub use module::{name as module_name, prepare as prepare_module};
pub use status::{ModuleStatus, NodeStatus, Place as PlaceStatus, Secret as SecretStatus};

/// Name of the module.
pub const MODULE: &str = "ledger";
/// Where the service is found.
pub const SERVICE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 77, 0, 100)), 7000);
/// Port of heartbeats, of the control channel, and of the witness.
pub const HEARTBEAT: u16 = 7410;
const CONTROL: u16 = 7411;
const WITNESS: u16 = 7412;
/// Longest time until a cluster has come to a state, on a busy machine: what a resync sends waits for its disks.
pub const SETTLE_BOUND: Duration = Duration::from_secs(150);

/// What serves on the virtual address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Application {
    /// [`super::ledger`].
    Ledger,
    /// PostgreSQL, by the module for it.
    PostgreSql,
}

/// What kind of cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// `consistency-first`, `availability-first`, `manual`.
    pub policy: &'static str,
    /// Whether there is a witness.
    pub witness: bool,
    /// `normal`, `fast`, `calm`.
    pub heartbeat: &'static str,
    /// File system of both nodes.
    pub filesystem: Filesystem,
    /// More lines for the module's `[module]` table.
    pub module: &'static str,
    /// How many modules there are: the one that serves, and others without addresses.
    pub modules: usize,
    /// What the first of them is.
    pub application: Application,
    /// Bytes of each node's file system.
    pub room: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            policy: "consistency-first",
            witness: true,
            heartbeat: "normal",
            filesystem: Filesystem::Ext4,
            module: "",
            modules: 1,
            application: Application::Ledger,
            room: 256 * MIB,
        }
    }
}

/// Dropping it takes everything down.
#[derive(Debug)]
pub struct Cluster {
    // Dropped in this order: daemons, then namespaces with what still runs in them, then file systems, then the directory.
    /// The nodes, a and b.
    pub hosts: [Host; 2],
    witness: Option<Child>,
    lan: Lan,
    options: Options,
    place: Place,
}

impl Cluster {
    /// Found the cluster and install the module on both nodes. No daemon runs, but for the witness.
    ///
    /// # Errors
    /// The machine lacks something, or a command of the product failed.
    pub fn build(options: &Options) -> Result<Cluster> {
        setup::require_root("two nodes on one machine")?;
        setup::require(&["ip", "nft", "mount", "umount", "fusermount3", options.filesystem.maker()])?;
        setup::require_fuse()?;
        let program = product::build()?;
        let place = Place::new()?;
        let lan = Lan::new(&place, &["a", "b", "c", "w"])?;
        let host = |name: &'static str| Host::new(name, &program, &place, options);
        let hosts = [host("a")?, host("b")?];
        let mut cluster = Cluster { hosts, witness: None, lan, options: options.clone(), place };
        cluster.found()?;
        cluster.join()?;
        if options.witness {
            cluster.start_witness()?;
        }
        for host in &cluster.hosts {
            module::install(host, options)?;
        }
        if options.application == Application::PostgreSql {
            database::create(&cluster.hosts)?;
        }
        Ok(cluster)
    }

    /// Build, start both daemons, choose the first node, and wait until both hold the same.
    ///
    /// # Errors
    /// As [`Cluster::build`]; or it does not come up.
    pub fn start(options: &Options) -> Result<Cluster> {
        let mut cluster = Cluster::build(options)?;
        cluster.start_daemons()?;
        for number in 0..options.modules {
            let name = module::name(number);
            for node in 0..2 {
                cluster.order(node, &["start", &name])?;
            }
        }
        for number in 0..options.modules {
            cluster.promote_first(&module::name(number))?;
        }
        cluster.wait_roles(0)?;
        Ok(cluster)
    }

    /// Choose node a, as soon as the nodes have met.
    fn promote_first(&mut self, module: &str) -> Result<()> {
        let mut refused = String::new();
        let promoted = wait::until("the nodes to meet", SETTLE_BOUND, || {
            let promoted = self.order(0, &["promote", module]);
            Ok(promoted.map_err(|error| refused = format!("{error:#}")).ok().map(drop))
        });
        promoted.with_context(|| format!("{refused}; log:\n{}", self.hosts[0].tail()))
    }

    /// Start both daemons and wait until they answer.
    ///
    /// # Errors
    /// One does not come up.
    pub fn start_daemons(&mut self) -> Result<()> {
        (0..2).try_for_each(|node| self.start_daemon(node))
    }

    /// Start a node's daemon, if it does not run, and wait until it answers.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start_daemon(&mut self, node: usize) -> Result<()> {
        let (host, namespace) = (&mut self.hosts[node], &self.lan.hosts[node]);
        host.start(namespace, self.options.heartbeat)
    }

    /// The network of a node.
    #[must_use]
    pub fn namespace(&self, node: usize) -> &Namespace {
        &self.lan.hosts[node]
    }

    /// The client's.
    #[must_use]
    pub fn client_namespace(&self) -> &Namespace {
        &self.lan.hosts[2]
    }

    /// The witness's.
    #[must_use]
    pub fn witness_namespace(&self) -> &Namespace {
        &self.lan.hosts[3]
    }

    /// A client that writes to the service all the time.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn client(&self) -> Result<Client> {
        Client::start(self.client_namespace(), SERVICE)
    }

    /// Kill -9 everything that runs on a node at once, and take its network away with it, as a machine that loses its power: the addresses are
    /// gone, what was written and not synced stays (disks are the machine's, which lives on).
    ///
    /// # Errors
    /// Something survived.
    pub fn kill(&mut self, node: usize) -> Result<()> {
        self.lan.hosts[node]
            .block(&["meta l4proto { tcp, udp, icmp }"], &["meta l4proto { tcp, udp, icmp }"])?;
        self.lan.hosts[node].kill_all()?;
        self.hosts[node].forget();
        self.lan.hosts[node].remove_address(SERVICE.ip());
        Ok(())
    }

    /// The machine is there again; its daemon is not started.
    ///
    /// # Errors
    /// nft(8) failed.
    pub fn revive(&mut self, node: usize) -> Result<()> {
        self.hosts[node].clean_up();
        self.lan.hosts[node].unblock()
    }

    /// A node that was killed comes back, and holds the copy of the active one.
    ///
    /// # Errors
    /// It does not.
    pub fn come_back(&mut self, node: usize) -> Result<()> {
        self.revive(node)?;
        self.start_daemon(node)?;
        self.wait_roles(1 - node)
    }

    /// Cut a node off from all others, or from those whose addresses match.
    ///
    /// # Errors
    /// nft(8) failed.
    pub fn isolate(&self, node: usize) -> Result<()> {
        self.lan.hosts[node].block(&["iifname != lo"], &["oifname != lo"])
    }

    /// Run `replicator module ...` on a node; what it says.
    ///
    /// # Errors
    /// It failed; with its words.
    pub fn order(&self, node: usize, arguments: &[&str]) -> Result<String> {
        self.hosts[node].module(&self.lan.hosts[node], arguments)
    }

    /// A command on a node as a person types it.
    #[must_use]
    pub fn command_line(&self, node: usize, words: &str) -> String {
        self.hosts[node].command_line(&self.lan.hosts[node], words)
    }

    /// What a node's daemon says.
    ///
    /// # Errors
    /// It ended by itself.
    pub fn status(&mut self, node: usize) -> Result<Option<NodeStatus>> {
        self.hosts[node].status(&self.lan.hosts[node])
    }

    /// Wait until the first module's mirror on a node has a property.
    ///
    /// # Errors
    /// `bound` passed; with what it says.
    pub fn wait_mirror(
        &self,
        node: usize,
        what: &str,
        condition: impl Fn(&Status) -> bool,
    ) -> Result<Status> {
        let mut last = None;
        let found = wait::until(what, SETTLE_BOUND, || {
            last = self.hosts[node].mirror(&self.lan.hosts[node])?;
            Ok(last.clone().filter(|status| condition(status)))
        });
        found.with_context(|| format!("{last:?}"))
    }

    /// Wait until a module on a node has a property.
    ///
    /// # Errors
    /// A daemon ended, or `bound` passed; with the end of its log.
    pub fn wait_for(
        &mut self,
        node: usize,
        module: &str,
        what: &str,
        bound: Duration,
        property: impl Fn(&ModuleStatus) -> bool,
    ) -> Result<ModuleStatus> {
        let mut last = None;
        let name = self.hosts[node].name;
        let found = wait::until(&format!("{module} on {name}: {what}"), bound, || {
            let status = self.status(node)?;
            let found =
                status.and_then(|status| status.modules.into_iter().find(|found| found.module == module));
            last = found.clone().or(last.take());
            Ok(found.filter(|found| property(found)))
        });
        found.with_context(|| {
            let told = self.order(node, &["events", module]).unwrap_or_default();
            format!("last status: {last:?}; what happened:\n{told}\nlog:\n{}", self.hosts[node].tail())
        })
    }

    /// Wait until a node is active and ready with all modules, and the other holds the copies.
    ///
    /// # Errors
    /// It does not come to that.
    pub fn wait_roles(&mut self, active: usize) -> Result<()> {
        for number in 0..self.options.modules {
            let module = module::name(number);
            self.wait_for(active, &module, "primary, ready", SETTLE_BOUND, |found| {
                found.here.state == "primary" && found.here.readiness == "ready"
            })?;
            self.wait_for(1 - active, &module, "secondary, ready", SETTLE_BOUND, |found| {
                found.here.state == "secondary" && found.here.readiness == "ready"
            })?;
        }
        Ok(())
    }

    /// Which node is active by what the nodes say; none, or both, is told so.
    ///
    /// # Errors
    /// A daemon ended by itself.
    pub fn active(&mut self) -> Result<Vec<usize>> {
        let mut active = Vec::new();
        for node in 0..2 {
            let Some(status) = self.status(node)? else { continue };
            if status.modules.iter().any(|module| matches!(module.here.state.as_str(), "primary" | "alone")) {
                active.push(node);
            }
        }
        Ok(active)
    }

    /// Nothing that was answered is missing on the active node, and both trees are the same.
    ///
    /// # Errors
    /// Something is.
    pub fn check(&mut self, active: usize, answered: u64) -> Result<()> {
        self.check_answered(active, answered)?;
        self.wait_identical()
    }

    /// Nothing that was answered is missing on the active node.
    ///
    /// # Errors
    /// Something is.
    pub fn check_answered(&self, active: usize, answered: u64) -> Result<()> {
        let missing = ledger::missing(&self.hosts[active].data(0).join("ledger"), 0, answered)?;
        ensure!(
            missing == 0,
            "{missing} of {answered} answered records are missing on {}",
            self.hosts[active].name
        );
        Ok(())
    }

    /// Both trees are the same.
    ///
    /// # Errors
    /// They are not, within a bound.
    pub fn wait_identical(&self) -> Result<()> {
        let own = match self.options.application {
            Application::Ledger => &[][..],
            Application::PostgreSql => DATABASE_OWN,
        };
        for number in 0..self.options.modules {
            let (one, other) = (self.hosts[0].data(number), self.hosts[1].data(number));
            let mut last = String::new();
            let same = wait::until("both trees to be the same", SETTLE_BOUND, || {
                let found = compare::trees_but(&one, &other, own)?;
                last = format!("{found:?}");
                Ok(found.is_identical().then_some(()))
            });
            same.with_context(|| last)?;
        }
        Ok(())
    }

    /// Take everything down in order; no daemon may have complained of anything but what has one of these words.
    ///
    /// # Errors
    /// A daemon does not stop, or complained.
    pub fn finish(mut self, expected: &[&str]) -> Result<()> {
        for node in [1, 0] {
            self.hosts[node].stop()?;
        }
        let mut complaints = BTreeSet::new();
        for host in &self.hosts {
            complaints.extend(host.complaints(expected)?);
        }
        if !complaints.is_empty() {
            let complaints: Vec<_> = complaints.into_iter().collect();
            bail!("unexpected in the logs:\n{}", complaints.join("\n"));
        }
        Ok(())
    }

    // ---- founding -------------------------------------------------------------------------------------------

    fn found(&self) -> Result<()> {
        let arbiter =
            format!("kind = \"witness\"\naddresses = [\"{}\"]", self.witness_namespace().socket(WITNESS));
        let mut command = self.hosts[0].command(&self.lan.hosts[0], &["cluster", "init", "--name", "lab"])?;
        command.args(["--policy", self.options.policy]);
        if self.options.witness {
            command.args(["--arbiter", &arbiter]);
        }
        command.args(self.node_arguments(0));
        exec::run(&mut command)
    }

    fn join(&self) -> Result<()> {
        let listen = self.lan.hosts[0].socket(7413).to_string();
        let mut command =
            self.hosts[0].command(&self.lan.hosts[0], &["cluster", "invite", "--listen", &listen])?;
        let mut inviting = command.stdout(Stdio::piped()).spawn()?;
        let mut said = BufReader::new(inviting.stdout.take().context("its output")?).lines();
        let token = said.next().context("it shows a token")??;
        let mut command = self.hosts[1].command(&self.lan.hosts[1], &["cluster", "join"])?;
        command.args(self.node_arguments(1)).arg(token);
        let joined = exec::run(&mut command);
        if joined.is_err() {
            let _ = inviting.kill();
        }
        joined.and(inviting.wait().context("wait for it").and_then(|status| {
            ensure!(status.success(), "the invitation ended with {status}");
            Ok(())
        }))
    }

    fn node_arguments(&self, node: usize) -> Vec<String> {
        let number = node + 1;
        vec![
            "--node".to_owned(),
            self.hosts[node].name.to_owned(),
            format!("--heartbeat=lan=10.77.0.{number}:{HEARTBEAT}"),
            format!("--heartbeat=second=10.78.0.{number}:{HEARTBEAT}"),
            format!("--control=10.77.0.{number}:{CONTROL}"),
            format!("--mirror=10.77.0.{number}"),
        ]
    }

    fn witness_directory(&self) -> PathBuf {
        self.place.path().join("witness")
    }

    /// Start the witness, which then knows the cluster.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_witness(&mut self) -> Result<()> {
        let namespace = &self.lan.hosts[3];
        let directory = self.witness_directory();
        if !directory.exists() {
            let described = self.hosts[0].command(&self.lan.hosts[0], &["cluster", "describe"])?.output()?;
            let text = String::from_utf8(described.stdout)?;
            let id = text.parse::<toml::Table>()?["cluster"]["id"]
                .as_str()
                .context("the cluster's id")?
                .to_owned();
            let mut command = Command::new(&self.hosts[0].program);
            command.args(["witness", "add-cluster", "--directory"]).arg(&directory).arg(id);
            let key = command.output()?;
            ensure!(key.status.success(), "add-cluster: {}", String::from_utf8_lossy(&key.stderr));
            for host in &self.hosts {
                host.keep_secret("arbiter.key", &key.stdout)?;
            }
        }
        let mut command = Command::new(&self.hosts[0].program);
        command.args(["witness", "run", "--directory"]).arg(&directory);
        command.args(["--listen", &namespace.socket(WITNESS).to_string()]);
        let log =
            fs::OpenOptions::new().create(true).append(true).open(self.place.path().join("witness.log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        namespace.enter(&mut command)?;
        self.witness = Some(command.spawn()?);
        let address = namespace.socket(WITNESS);
        wait::until("the witness to listen", wait::SHORT, || {
            namespace.within(|| Ok(std::net::TcpStream::connect(address).ok().map(drop)))
        })
    }

    /// Kill the witness.
    pub fn stop_witness(&mut self) {
        if let Some(mut witness) = self.witness.take() {
            let _ = witness.kill();
            let _ = witness.wait();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop_witness();
        // What runs on a node uses its file system.
        for (host, namespace) in self.hosts.iter_mut().zip(&self.lan.hosts) {
            if let Err(error) = namespace.kill_all() {
                eprintln!("warning: {error:#}");
            }
            host.forget();
            host.clean_up();
        }
    }
}
