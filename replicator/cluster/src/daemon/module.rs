//! A module of a node, from its start to its end: its description, its runner and its edges.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use replicator_core::cluster::{Config, Event, NodeId, Policy, Report};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::history::History;
use super::known::KnownFile;
use super::local::{Judge, Local, Setup};
use super::mirror::Mirror;
use super::node::{NodeSetup, Shared};
use super::runner::{self, Input, Inputs, Parts};
use super::service::Places;
use super::standing::StandingFile;
use super::words;
use crate::arbiter::{self, AnyArbiter, ClusterId, ModuleName, RegisterName};
use crate::heartbeat::Heartbeat;
use crate::held::lock;
use crate::module::{self, Description, Failback, Shelf};

/// A default primary takes its role back when both nodes have held the same for so long: a network that comes and goes does not move
/// the application each time.
const FAILBACK_AFTER: Duration = Duration::from_secs(10);

/// What all modules of a node have in common.
pub(super) struct Ground {
    pub(super) names: (String, String),
    pub(super) places: Places,
    policy: Policy,
    arbiter: Option<Arc<AnyArbiter>>,
    cluster: [u8; 16],
    ids: ([u8; 16], [u8; 16]),
    interval: Duration,
    dead_after: Duration,
}

impl Ground {
    pub(super) fn of(setup: &NodeSetup) -> Ground {
        let heartbeat = &setup.heartbeat;
        Ground {
            names: setup.names.clone(),
            places: setup.places.clone(),
            policy: setup.policy,
            arbiter: setup.arbiter.clone(),
            cluster: heartbeat.cluster,
            ids: (heartbeat.node, heartbeat.peer),
            interval: heartbeat.interval,
            dead_after: heartbeat.dead_after,
        }
    }
}

/// One module. It lives until [`Module::end`]; dropping it does not end it.
pub(super) struct Module<M> {
    pub(super) description: Arc<Description>,
    pub(super) local: Arc<Local<M>>,
    inputs: Inputs,
    runner: Mutex<Option<JoinHandle<()>>>,
    /// It is being ended, or has ended.
    leaving: AtomicBool,
    /// What is installed in its place and was not taken, for people.
    pending: Mutex<Option<String>>,
}

impl<M: Mirror> Module<M> {
    pub(super) fn send(&self, input: Input) {
        // One that has ended needs to know nothing.
        let _ = self.inputs.send(input);
    }

    /// What the other node says of it.
    pub(super) fn hear(&self, report: Report) {
        self.local.set_circumstances(|known| words::word(report.word).clone_into(&mut known.peer_state));
        self.send(Input::Event(Event::Heard(report)));
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    pub(super) fn pending(&self) -> Option<String> {
        lock(&self.pending).clone()
    }

    pub(super) fn set_pending(&self, pending: Option<String>) {
        *lock(&self.pending) = pending;
    }

    /// End it, if it is stopped and nothing of it runs; whether it has ended. Nothing of it acts any more then.
    pub(super) async fn end(&self) -> bool {
        self.leaving.store(true, Ordering::Release);
        let (answer, answered) = oneshot::channel();
        self.send(Input::End(answer));
        if !answered.await.unwrap_or(false) {
            self.leaving.store(false, Ordering::Release);
            return false;
        }
        let runner = lock(&self.runner).take();
        if let Some(runner) = runner {
            // It has answered as the last thing it does; a panic is told by the runtime.
            let _ = runner.await;
        }
        self.local.end().await;
        true
    }
}

/// Start a module; it does what it remembers.
pub(super) fn start<M: Mirror>(
    ground: &Ground,
    description: &Description,
    mirror: M,
    shared: &Arc<Shared>,
    heartbeat: &Arc<Heartbeat>,
) -> Result<Module<M>, String> {
    let name = description.name.clone();
    let description = Arc::new(description.clone());
    let state = ground.places.state.join(&name);
    let file = StandingFile::new(&state).map_err(|error| format!("{}: {error}", state.display()))?;
    let standing = match file.load() {
        Ok(standing) => standing.unwrap_or_default(),
        Err(error) => {
            tracing::error!(module = name, %error, "what was to run is not known: the module stays stopped until an operator starts it");
            Default::default()
        }
    };
    let (inputs, incoming) = mpsc::unbounded_channel();
    let local = Local::new(
        Setup {
            description: Arc::clone(&description),
            paths: paths(ground, &name),
            run: ground.places.run.join(&name).join("addresses"),
            judge: judge(ground, &name, &state)?,
            names: ground.names.clone(),
        },
        mirror,
        inputs.clone(),
    )
    .map_err(|error| error.to_string())?;
    let parts = Parts {
        name: name.clone(),
        config: controller_config(ground, &description),
        standing,
        file,
        history: History::open(&state, &ground.names.0),
        edges: Arc::clone(&local),
    };
    let publish = {
        let (shared, heartbeat) = (Arc::clone(shared), Arc::clone(heartbeat));
        let local = Arc::downgrade(&local);
        move |report: Report| {
            shared.report(&name, report);
            if let Some(local) = local.upgrade() {
                local.set_circumstances(|known| {
                    known.term = report.active.map_or(known.term, |term| term.0);
                    words::cause(report.cause).clone_into(&mut known.reason);
                });
            }
            shared.publish(&heartbeat);
        }
    };
    let runner = tokio::spawn(runner::run(parts, inputs.clone(), incoming, publish));
    tokio::spawn({
        let local = Arc::clone(&local);
        async move { local.begin().await }
    });
    Ok(Module {
        description,
        local,
        inputs,
        runner: Mutex::new(Some(runner)),
        leaving: AtomicBool::new(false),
        pending: Mutex::default(),
    })
}

fn paths(ground: &Ground, name: &str) -> module::Paths {
    module::Paths {
        module: Shelf::at(&ground.places.modules).path(name),
        logs: ground.places.logs.join(name),
        run: ground.places.run.join(name).join("application"),
    }
}

/// Who decides between the nodes, for a module.
fn judge(ground: &Ground, name: &str, state: &Path) -> Result<Option<Judge>, String> {
    let Some(arbiter) = &ground.arbiter else { return Ok(None) };
    Ok(Some(Judge {
        arbiter: Arc::clone(arbiter),
        register: RegisterName {
            cluster: ClusterId(ground.cluster),
            module: ModuleName::new(name).map_err(|error| error.to_string())?,
        },
        node: arbiter::NodeId(ground.ids.0),
        known: KnownFile::new(state),
    }))
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

fn controller_config(ground: &Ground, description: &Description) -> Config {
    let (node, peer) = (NodeId(ground.ids.0), NodeId(ground.ids.1));
    let default = description.default_primary.as_ref();
    let named = |name: &String| match () {
        () if *name == ground.names.0 => Some(node),
        () if *name == ground.names.1 => Some(peer),
        () => None,
    };
    let mut config = Config::new(node, peer);
    config.policy = policy_of(description, ground.policy);
    config.arbiter = ground.arbiter.is_some();
    config.default_primary = default.and_then(named);
    config.failback_after = (description.failback == Failback::Automatic).then_some(FAILBACK_AFTER);
    config.handicap = ground.interval / 2;
    config.yield_limit = ground.dead_after;
    config.boot_wait = ground.dead_after + ground.interval * 4;
    config.budget.count = description.restart_budget.count as usize;
    config.budget.period = description.restart_budget.period;
    config
}
