//! A node: its heartbeat, and what it means for the modules.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use replicator_core::cluster::{Command, Event, Policy, Readiness, Refusal, Report, Word};
use tokio::sync::{Mutex as Turns, MutexGuard as Turn, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::gossip::{self, Said};
use super::history::Entry;
use super::local::Local;
use super::mirror::Mirror;
use super::module::{self, Ground, Module};
use super::runner::Input;
use super::service::Places;
use super::words;
use crate::arbiter::AnyArbiter;
use crate::heartbeat::{self, Heartbeat, HeartbeatConfig, HeartbeatError, PathState};
use crate::held::lock;
use crate::module::Description;

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
    /// The modules.
    pub modules: Vec<Description>,
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

/// How the mirror of a module is made.
pub type MakeMirror<M> = Box<dyn Fn(&Description) -> Result<M, String> + Send + Sync>;

/// A running node.
pub struct Node<M> {
    ground: Ground,
    make: MakeMirror<M>,
    /// A module is in here from its start until it has ended.
    modules: Mutex<BTreeMap<String, Arc<Module<M>>>>,
    heartbeat: Arc<Heartbeat>,
    shared: Arc<Shared>,
    /// Who has it may change which modules there are; whether the node ends, and nobody may any more.
    turns: Turns<bool>,
}

/// What is said and heard.
#[derive(Default, Debug)]
pub(super) struct Shared {
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
        mirror: impl Fn(&Description) -> Result<M, String> + Send + Sync + 'static,
    ) -> Result<Arc<Node<M>>, StartError> {
        let count = setup.modules.len();
        if count > gossip::MODULES_MAX {
            return Err(StartError::TooMany { count, limit: gossip::MODULES_MAX });
        }
        let (events, incoming) = mpsc::unbounded_channel();
        // The heartbeat may not wait for anything, and this channel has no bound: a beat is small, and the daemon takes it in at once.
        let heartbeat = Heartbeat::start(setup.heartbeat.clone(), move |event| drop(events.send(event)))?;
        tracing::info!(capabilities = ?heartbeat.capabilities(), "heartbeat");
        let node = Arc::new(Node {
            ground: Ground::of(&setup),
            make: Box::new(mirror),
            modules: Mutex::default(),
            heartbeat: Arc::new(heartbeat),
            shared: Arc::default(),
            turns: Turns::new(false),
        });
        for description in &setup.modules {
            let started =
                node.make_mirror(description).and_then(|mirror| node.start_module(description, mirror));
            let module =
                started.map_err(|why| StartError::Module { module: description.name.clone(), why })?;
            node.put(module);
        }
        tokio::spawn(Arc::clone(&node).listen(incoming, setup.heartbeat.dead_after));
        Ok(node)
    }

    // ---- which modules there are ----------------------------------------------------------------------------

    /// The right to change which there are.
    pub(super) async fn turn(&self) -> Result<Turn<'_, bool>, String> {
        let ends = self.turns.lock().await;
        if *ends { Err("the daemon is being stopped".to_owned()) } else { Ok(ends) }
    }

    pub(super) fn make_mirror(&self, description: &Description) -> Result<M, String> {
        (self.make)(description)
    }

    pub(super) fn start_module(&self, description: &Description, mirror: M) -> Result<Module<M>, String> {
        module::start(&self.ground, description, mirror, &self.shared, &self.heartbeat)
    }

    /// Have a module that was started, in the place of one that has ended. It is told what the others were.
    pub(super) fn put(&self, module: Module<M>) {
        let name = module.description.name.clone();
        // What happens from here on is told to all that are in the table, so it is told at least once.
        let mut modules = lock(&self.modules);
        {
            let heard = lock(&self.shared.heard);
            module.local.set_peer_alive(heard.alive);
            module.send(Input::Event(Event::PeerAlive(heard.alive)));
            if let Some(report) = heard.said.reports.get(&name) {
                module.hear(*report);
            }
        }
        modules.insert(name, Arc::new(module));
    }

    /// A module that has ended is not there any more.
    pub(super) fn take_away(&self, name: &str) {
        lock(&self.modules).remove(name);
        lock(&self.shared.said).reports.remove(name);
        self.shared.publish(&self.heartbeat);
    }

    pub(super) fn module(&self, name: &str) -> Option<Arc<Module<M>>> {
        lock(&self.modules).get(name).cloned()
    }

    pub(super) fn module_names(&self) -> Vec<String> {
        lock(&self.modules).keys().cloned().collect()
    }

    fn all(&self) -> Vec<Arc<Module<M>>> {
        lock(&self.modules).values().cloned().collect()
    }

    // ---- what the heartbeat tells ---------------------------------------------------------------------------

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
        for module in self.all() {
            module.local.set_peer_alive(alive);
            module.send(Input::Event(Event::PeerAlive(alive)));
        }
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
        let reports = said.reports.clone();
        lock(&self.shared.heard).said = said;
        for (name, report) in reports {
            if let Some(module) = self.module(&name) {
                module.hear(report);
            }
        }
        if echoed {
            self.tell_all(|| Event::Echoed);
        }
        let answers = std::mem::replace(&mut lock(&self.shared.said).echo, counter) != counter;
        if answers {
            self.shared.publish(&self.heartbeat);
        }
    }

    fn tell_all(&self, event: impl Fn() -> Event) {
        for module in self.all() {
            module.send(Input::Event(event()));
        }
    }

    /// This node's name and the other's.
    #[must_use]
    pub fn names(&self) -> (&str, &str) {
        (&self.ground.names.0, &self.ground.names.1)
    }

    /// Where its files are.
    #[must_use]
    pub fn places(&self) -> &Places {
        &self.ground.places
    }

    /// Each node hears the other.
    #[must_use]
    pub fn is_peer_alive(&self) -> bool {
        lock(&self.shared.heard).alive
    }

    /// The heartbeat, for who changes its key.
    #[must_use]
    pub fn ears(&self) -> Arc<Heartbeat> {
        Arc::clone(&self.heartbeat)
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
    pub fn local(&self, module: &str) -> Option<Arc<Local<M>>> {
        self.module(module).map(|module| Arc::clone(&module.local))
    }

    /// The description of a module.
    #[must_use]
    pub fn description(&self, module: &str) -> Option<Arc<Description>> {
        self.module(module).map(|module| Arc::clone(&module.description))
    }

    /// What is installed in the place of a module and was not taken, for people.
    #[must_use]
    pub fn pending(&self, module: &str) -> Option<String> {
        self.module(module)?.pending()
    }

    /// Order something of a module; answered when it has begun. `None`: there is no such module.
    pub async fn command(&self, module: &str, command: Command) -> Option<Result<(), Refusal>> {
        let (answer, answered) = oneshot::channel();
        self.module(module)?.send(Input::Command(command, answer));
        Some(answered.await.unwrap_or(Err(Refusal::Busy)))
    }

    /// Note in a module's history what is done to it.
    pub fn tell(&self, module: &str, what: String) {
        if let Some(module) = self.module(module) {
            module.send(Input::Tell(what));
        }
    }

    /// The last so many entries of a module's history.
    pub async fn history(&self, module: &str, count: usize) -> Option<Vec<Entry>> {
        let (answer, answered) = oneshot::channel();
        self.module(module)?.send(Input::History(count, answer));
        answered.await.ok()
    }

    /// Done when each module's controller has taken in all that came to it before: for a watchdog, which is told nothing as long as one of
    /// them hangs.
    pub async fn probe(&self) {
        for module in self.all() {
            let (answer, answered) = oneshot::channel();
            module.send(Input::Probe(answer));
            if answered.await.is_err() && !module.is_leaving() {
                // Its controller is gone, which never happens to a module that is not ended.
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
        match tokio::time::timeout_at(deadline, self.turns.lock()).await {
            Ok(mut ends) => *ends = true,
            Err(_) => tracing::error!("a change of the modules does not end"),
        }
        let mut waiting = Vec::new();
        for module in self.all() {
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

impl Shared {
    /// What this node says of a module from now on; it is told with the next [`Shared::publish`].
    pub(super) fn report(&self, module: &str, report: Report) {
        lock(&self.said).reports.insert(module.to_owned(), report);
    }

    pub(super) fn publish(&self, heartbeat: &Heartbeat) {
        let bytes = gossip::encode(&lock(&self.said));
        if let Err(error) = heartbeat.publish(bytes) {
            tracing::error!(%error, "the other node cannot be told how this one is");
        }
    }
}
