//! A node: its heartbeat, and what it means for the modules.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use replicator_core::cluster::{Command, Config, Event, NodeId, Policy, Readiness, Refusal, Report, Word};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::gossip::{self, Said};
use super::history::{Entry, History};
use super::known::KnownFile;
use super::local::{Judge, Local, Setup};
use super::mirror::Mirror;
use super::runner::{self, Input, Inputs, Parts};
use super::service::Places;
use super::standing::StandingFile;
use super::words;
use crate::arbiter::{self, AnyArbiter, ClusterId, ModuleName, RegisterName};
use crate::heartbeat::{self, Heartbeat, HeartbeatConfig, HeartbeatError, PathState};
use crate::held::lock;
use crate::module::{self, Description, Failback};

/// What a node is told at its start.
#[derive(Debug)]
pub struct NodeSetup {
    /// This node's name and the peer's.
    pub names: (String, String),
    /// With whom it speaks, and how often.
    pub heartbeat: HeartbeatConfig,
    /// What happens when the nodes do not hear each other; a module may have its own.
    pub policy: Policy,
    /// Who decides then.
    pub arbiter: Option<Arc<AnyArbiter>>,
    /// Where everything is; below some of it is one directory for each module.
    pub places: Places,
    /// The modules, and the directories they are installed in.
    pub modules: Vec<(Description, PathBuf)>,
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StartError {
    /// The heartbeat.
    #[error(transparent)]
    Heartbeat(#[from] HeartbeatError),
    /// A module.
    #[error("module {module}: {why}")]
    Module { module: String, why: String },
    /// More modules than there may be.
    #[error("there are {count} modules; at most {limit} are possible")]
    TooMany { count: usize, limit: usize },
}

/// A running node.
pub struct Node<M> {
    names: (String, String),
    places: Places,
    modules: BTreeMap<String, Module<M>>,
    heartbeat: Arc<Heartbeat>,
    shared: Arc<Shared>,
}

/// One of its modules.
struct Module<M> {
    description: Arc<Description>,
    inputs: Inputs,
    local: Arc<Local<M>>,
}

/// What is said and heard.
#[derive(Default, Debug)]
struct Shared {
    said: Mutex<Said>,
    heard: Mutex<Heard>,
}

#[derive(Default, Debug)]
struct Heard {
    said: Said,
    /// Each node hears the other.
    alive: bool,
}

/// How a module is, on both nodes.
#[derive(Clone, Copy, Debug)]
pub struct Both {
    /// On this node.
    pub here: Report,
    /// On the other, if it has it and was ever heard.
    pub peer: Option<Report>,
}

impl<M: Mirror> Node<M> {
    /// Start a node; its modules start as they remember. `mirror` makes the mirror of a module. To be called within a runtime of one thread.
    ///
    /// # Errors
    /// [`StartError`]
    pub fn start(
        setup: NodeSetup,
        mirror: impl Fn(&Description) -> Result<M, String>,
    ) -> Result<Arc<Node<M>>, StartError> {
        let count = setup.modules.len();
        if count > gossip::MODULES_MAX {
            return Err(StartError::TooMany { count, limit: gossip::MODULES_MAX });
        }
        let shared = Arc::new(Shared::default());
        let (events, incoming) = mpsc::unbounded_channel();
        // The heartbeat may not wait for anything, and this channel has no bound: a beat is small, and the daemon takes it in at once.
        let heartbeat = Heartbeat::start(setup.heartbeat.clone(), move |event| drop(events.send(event)))?;
        let heartbeat = Arc::new(heartbeat);
        tracing::info!(capabilities = ?heartbeat.capabilities(), "heartbeat");
        let mut modules = BTreeMap::new();
        for (description, directory) in &setup.modules {
            let name = description.name.clone();
            let wrong = |why: String| StartError::Module { module: name.clone(), why };
            let mirror = mirror(description).map_err(wrong)?;
            let module = start_module(&setup, description, directory, mirror, &shared, &heartbeat);
            modules.insert(name.clone(), module.map_err(|why| StartError::Module { module: name, why })?);
        }
        let node = Arc::new(Node { names: setup.names, places: setup.places, modules, heartbeat, shared });
        tokio::spawn(Arc::clone(&node).listen(incoming, setup.heartbeat.dead_after));
        Ok(node)
    }

    /// Take in what the heartbeat tells, until it ends.
    async fn listen(
        self: Arc<Self>,
        mut incoming: mpsc::UnboundedReceiver<heartbeat::Event>,
        patience: Duration,
    ) {
        let mut paths: BTreeMap<usize, PathState> = BTreeMap::new();
        // A node that hears and is not heard is given as long as one that is not heard.
        let mut doubtful: Option<Instant> = None;
        loop {
            let event = tokio::select! {
                event = incoming.recv() => event,
                () = sleep_until(doubtful.unwrap_or_else(Instant::now)), if doubtful.is_some() => {
                    doubtful = None;
                    self.set_alive(false);
                    continue;
                }
            };
            match event {
                None => return,
                Some(heartbeat::Event::Late { by }) => self.late(by),
                Some(heartbeat::Event::Heard { payload, .. }) => self.heard(&payload),
                Some(heartbeat::Event::PeerDead) => {
                    // What is told of the single paths comes after this.
                    paths.clear();
                    doubtful = None;
                    self.set_alive(false);
                }
                Some(heartbeat::Event::Path { index, state }) => {
                    tracing::info!(path = index, ?state, "heartbeat");
                    paths.insert(index, state);
                    if paths.values().any(|state| *state == PathState::Up) {
                        doubtful = None;
                        self.set_alive(true);
                    } else if self.is_peer_alive() && doubtful.is_none() {
                        doubtful = Some(Instant::now() + patience);
                    }
                }
                Some(_) => {}
            }
        }
    }

    fn late(&self, by: Duration) {
        tracing::warn!(?by, "this node did not run for a while");
        self.tell_all(|| Event::Late);
        lock(&self.shared.said).counter += 1;
        self.shared.publish(&self.heartbeat);
    }

    fn set_alive(&self, alive: bool) {
        let changed = std::mem::replace(&mut lock(&self.shared.heard).alive, alive) != alive;
        if !changed {
            return;
        }
        tracing::info!(alive, "the other node");
        for module in self.modules.values() {
            module.local.set_peer_alive(alive);
        }
        self.tell_all(|| Event::PeerAlive(alive));
    }

    fn heard(&self, payload: &[u8]) {
        let said = match gossip::decode(payload) {
            Ok(said) => said,
            Err(error) => {
                tracing::warn!(%error, "what the other node says makes no sense");
                return;
            }
        };
        let echoed = said.echo == lock(&self.shared.said).counter;
        let counter = said.counter;
        for (name, report) in &said.reports {
            if let Some(module) = self.modules.get(name) {
                module
                    .local
                    .set_circumstances(|known| words::word(report.word).clone_into(&mut known.peer_state));
                module.send(Input::Event(Event::Heard(*report)));
            }
        }
        lock(&self.shared.heard).said = said;
        if echoed {
            self.tell_all(|| Event::Echoed);
        }
        let answers = std::mem::replace(&mut lock(&self.shared.said).echo, counter) != counter;
        if answers {
            self.shared.publish(&self.heartbeat);
        }
    }

    fn tell_all(&self, event: impl Fn() -> Event) {
        for module in self.modules.values() {
            module.send(Input::Event(event()));
        }
    }

    /// This node's name and the other's.
    #[must_use]
    pub fn names(&self) -> (&str, &str) {
        (&self.names.0, &self.names.1)
    }

    /// Where its files are.
    #[must_use]
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Each node hears the other.
    #[must_use]
    pub fn is_peer_alive(&self) -> bool {
        lock(&self.shared.heard).alive
    }

    /// What the heartbeat knows.
    #[must_use]
    pub fn heartbeat(&self) -> heartbeat::Snapshot {
        self.heartbeat.snapshot()
    }

    /// Each module, by its name.
    #[must_use]
    pub fn modules(&self) -> BTreeMap<String, Both> {
        let (said, heard) = (lock(&self.shared.said), lock(&self.shared.heard));
        let both = |(name, here): (&String, &Report)| {
            (name.clone(), Both { here: *here, peer: heard.said.reports.get(name).copied() })
        };
        said.reports.iter().map(both).collect()
    }

    /// The edges of a module.
    #[must_use]
    pub fn local(&self, module: &str) -> Option<&Arc<Local<M>>> {
        self.modules.get(module).map(|module| &module.local)
    }

    /// The description of a module.
    #[must_use]
    pub fn description(&self, module: &str) -> Option<&Arc<Description>> {
        self.modules.get(module).map(|module| &module.description)
    }

    /// Order something of a module; answered when it has begun. `None`: there is no such module.
    pub async fn command(&self, module: &str, command: Command) -> Option<Result<(), Refusal>> {
        let (answer, answered) = oneshot::channel();
        self.modules.get(module)?.send(Input::Command(command, answer));
        Some(answered.await.unwrap_or(Err(Refusal::Busy)))
    }

    /// Note in a module's history what is done to it.
    pub fn tell(&self, module: &str, what: String) {
        if let Some(module) = self.modules.get(module) {
            module.send(Input::Tell(what));
        }
    }

    /// The last so many entries of a module's history.
    pub async fn history(&self, module: &str, count: usize) -> Option<Vec<Entry>> {
        let (answer, answered) = oneshot::channel();
        self.modules.get(module)?.send(Input::History(count, answer));
        answered.await.ok()
    }

    /// Done when each module's controller has taken in all that came to it before: for a watchdog, which is told nothing as long as one of
    /// them hangs.
    pub async fn probe(&self) {
        for module in self.modules.values() {
            let (answer, answered) = oneshot::channel();
            module.send(Input::Probe(answer));
            if answered.await.is_err() {
                // Its controller is gone, which never happens while the node lives.
                std::future::pending::<()>().await;
            }
        }
    }

    /// For the health URL: whether this node serves a module, and its state. With an empty name: whether it serves any.
    #[must_use]
    pub fn health(&self, module: &str) -> Option<(bool, &'static str)> {
        let serves = |report: &Report| {
            matches!(report.word, Word::Primary | Word::Alone) && report.readiness == Readiness::Ready
        };
        let said = lock(&self.shared.said);
        if module.is_empty() {
            let any = said.reports.values().any(serves);
            return Some((any, if any { "serving" } else { "idle" }));
        }
        let report = said.reports.get(module)?;
        Some((serves(report), words::word(report.word)))
    }

    /// Stop everything in order: what can goes on on the other node. Returns when nothing runs here any more and the other node knows it, or after `bound`.
    pub async fn stop(&self, bound: Duration) {
        let deadline = Instant::now() + bound;
        let mut waiting = Vec::new();
        for module in self.modules.values() {
            let (ended, at_rest) = oneshot::channel();
            module.send(Input::Shutdown(ended));
            waiting.push(at_rest);
        }
        for at_rest in waiting {
            if tokio::time::timeout_at(deadline, at_rest).await.is_err() {
                tracing::error!("a module does not come to rest; what still runs of it is left behind");
                return;
            }
        }
        // It is no use to wait for one who is not there.
        while self.is_peer_alive() && Instant::now() < deadline {
            let snapshot = self.heartbeat.snapshot();
            if snapshot.peer_holds >= snapshot.published {
                return;
            }
            // Between two looks at what the other node says to hold; the bound is above.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl<M> Module<M> {
    fn send(&self, input: Input) {
        // Its runner lives as long as the node.
        let _ = self.inputs.send(input);
    }
}

impl Shared {
    fn publish(&self, heartbeat: &Heartbeat) {
        let bytes = gossip::encode(&lock(&self.said));
        if let Err(error) = heartbeat.publish(bytes) {
            tracing::error!(%error, "the other node cannot be told how this one is");
        }
    }
}

fn start_module<M: Mirror>(
    setup: &NodeSetup,
    description: &Description,
    directory: &std::path::Path,
    mirror: M,
    shared: &Arc<Shared>,
    heartbeat: &Arc<Heartbeat>,
) -> Result<Module<M>, String> {
    let name = description.name.clone();
    let description = Arc::new(description.clone());
    let state = setup.places.state.join(&name);
    let file = StandingFile::new(&state).map_err(|error| format!("{}: {error}", state.display()))?;
    let standing = match file.load() {
        Ok(standing) => standing.unwrap_or_default(),
        Err(error) => {
            tracing::error!(module = name, %error, "what was to run is not known: the module stays stopped until an operator starts it");
            Default::default()
        }
    };
    let (inputs, incoming) = mpsc::unbounded_channel();
    let judge = match &setup.arbiter {
        Some(arbiter) => Some(Judge {
            arbiter: Arc::clone(arbiter),
            register: RegisterName {
                cluster: ClusterId(setup.heartbeat.cluster),
                module: ModuleName::new(&name).map_err(|error| error.to_string())?,
            },
            node: arbiter::NodeId(setup.heartbeat.node),
            known: KnownFile::new(&state),
        }),
        None => None,
    };
    let paths = module::Paths {
        module: directory.to_owned(),
        logs: setup.places.logs.join(&name),
        run: setup.places.run.join(&name).join("application"),
    };
    let local = Local::new(
        Setup {
            description: Arc::clone(&description),
            paths,
            run: setup.places.run.join(&name).join("addresses"),
            judge,
            names: setup.names.clone(),
        },
        mirror,
        inputs.clone(),
    )
    .map_err(|error| error.to_string())?;
    let parts = Parts {
        name: name.clone(),
        config: controller_config(setup, &description),
        standing,
        file,
        history: History::open(&state, &setup.names.0),
        edges: Arc::clone(&local),
    };
    let publish = {
        let (shared, heartbeat) = (Arc::clone(shared), Arc::clone(heartbeat));
        let local = Arc::downgrade(&local);
        move |report: Report| {
            lock(&shared.said).reports.insert(name.clone(), report);
            if let Some(local) = local.upgrade() {
                local.set_circumstances(|known| {
                    known.term = report.active.map_or(known.term, |term| term.0);
                    words::cause(report.cause).clone_into(&mut known.reason);
                });
            }
            shared.publish(&heartbeat);
        }
    };
    tokio::spawn(runner::run(parts, inputs.clone(), incoming, publish));
    tokio::spawn({
        let local = Arc::clone(&local);
        async move { local.begin().await }
    });
    Ok(Module { description, inputs, local })
}

/// What happens to a module when the nodes do not hear each other: as it says itself, or as the cluster has it.
pub(super) fn policy_of(description: &Description, cluster: Policy) -> Policy {
    match description.policy {
        Some(module::Policy::ConsistencyFirst) => Policy::ConsistencyFirst,
        Some(module::Policy::AvailabilityFirst) => Policy::AvailabilityFirst,
        Some(module::Policy::Manual) => Policy::Manual,
        None => cluster,
    }
}

fn controller_config(setup: &NodeSetup, description: &Description) -> Config {
    let (node, peer) = (NodeId(setup.heartbeat.node), NodeId(setup.heartbeat.peer));
    let default = description.default_primary.as_ref();
    let named = |name: &String| match () {
        () if *name == setup.names.0 => Some(node),
        () if *name == setup.names.1 => Some(peer),
        () => None,
    };
    let mut config = Config::new(node, peer);
    config.policy = policy_of(description, setup.policy);
    config.arbiter = setup.arbiter.is_some();
    config.default_primary = default.and_then(named);
    config.failback_after = (description.failback == Failback::Automatic).then_some(FAILBACK_AFTER);
    config.handicap = setup.heartbeat.interval / 2;
    config.yield_limit = setup.heartbeat.dead_after;
    config.boot_wait = setup.heartbeat.dead_after + setup.heartbeat.interval * 4;
    config.budget.count = description.restart_budget.count as usize;
    config.budget.period = description.restart_budget.period;
    config
}

/// A default primary takes its role back when both nodes have held the same for so long: a network that comes and goes does not move
/// the application each time.
const FAILBACK_AFTER: Duration = Duration::from_secs(10);
