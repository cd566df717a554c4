//! Bringing a node up and taking it down.
//!
//! Up, on the primary: state recorded, kernel programs attached, data plane running, *then* the gate is mounted: from the
//! first call that passes it, everything is seen and answered. Down in the opposite order.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use replicator_cluster::supervisor::Supervisor;
use replicator_core::action::StateRecord;
use replicator_core::checkpoint::Checkpoint;
use replicator_core::config::{PrimaryConfig, SecondaryConfig};
use replicator_core::ids::{FileId, Time, VolumeId};
use replicator_core::node::Node;
use replicator_core::succession::Inheritance;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{error, info, warn};

use super::behind::{self, Behind};
use super::capture::{self, Prepared, Selected};
use super::checkpoint::{
    Preparation, fitting, identity as checkpoint_identity, lasting_identity, succession_identity,
};
use super::engine::{Engine, Parts, Role as RoleParts};
use super::gatekeeper::Gatekeeper;
use super::handle::Stop;
use super::instructions::Instructions;
use super::left::{Found, copies_of, crashed, inherited, load_record, name_id};
use super::mailbox::Mailbox;
use super::message::{Message, Next};
use super::nested::NestedMounts;
use super::orders::Orders;
use super::primary::Primary;
use super::publish::Publisher;
use super::register::Registrar;
use super::safe_set::SafeSet;
use super::secondary::Secondary;
use super::sessions::Sessions;
use super::settings::{identity, primary_config, random, random_bits, secondary_config};
use super::settling::Settling;
use super::stages::Stages;
use super::state::StateKeeper;
use super::workers::Workers;
use crate::config::{Config, ConfigError, CpuLatency, GateTransport, Mode, Role, TreeConfig, WhenFull};
use crate::control::{self, NodeView};
use crate::gate::strict::StrictFiles;
use crate::gate::{self, Counters, Gate, GateReport};
use crate::idle::{QuickWakeUps, Waiting};
use crate::link::handshake::Timeouts;
use crate::notify::local_changes::LocalChanges;
use crate::status::{Status, StrictStatus, VolumeStatus};
use crate::storage::checkpoint::VolumeCheckpoint;
use crate::storage::divergence::Limit;
use crate::storage::protection::{self, Protection};
use crate::storage::replica::Replica;
use crate::storage::state::{NodeState, StateDirectory};
use crate::uring::Ring;
use crate::volume::{Volume, exists_below};

/// Submission places of the data plane's ring: twice as many file operations can be under way.
const RING_ENTRIES: u32 = 1024;
const WORKERS: usize = 3;
/// Threads that read for verifications.
const BACKGROUND_WORKERS: usize = 2;
/// How often it is looked whether the gates still serve, and whether something was mounted inside the directories.
const GATE_CHECK: Duration = Duration::from_secs(1);

/// Run a node until it is told to stop. `prepared`: with the same configuration.
///
/// # Errors
/// What keeps the node from starting or going on.
pub fn run(config: Config, instructions: &Instructions, prepared: Prepared) -> anyhow::Result<()> {
    let mut stages = Stages::begin();
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "a node needs root (it opens files by handle, mounts, and loads kernel programs); run it as root"
        );
    }
    raise_limits();
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("catch signals")?;
    let state = StateDirectory::open(&config.node.state_directory)?;
    for path in protection::recover(&config.node.state_directory)? {
        warn!(path = %path.display(), "a read-only mount left by a crashed daemon was taken away");
    }
    let volumes = open_volumes(&config)?;
    let found = load_record(&config, instructions, &state)?;
    let term = found.now.term.0;
    stages.end("directories");
    let node = StartedNode::start(&config, instructions, state, volumes, found, prepared, &mut stages)?;
    info!(node = %config.node.name, role = %config.node.role, term, took = %stages, "running");
    let stop = node.stop_handle();
    let supervisor = Supervisor::from_environment();
    supervisor.ready(&format!("{} of {}", config.node.role, config.node.cluster));
    let watcher = thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            info!(signal, "stopping");
            supervisor.stopping();
            stop.request_stop();
        }
    });
    watcher.context("start the signal thread")?;
    node.wait()
}

/// Descriptors for the data plane's caches and the gate's handles.
fn raise_limits() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        warn!(%error, "cannot raise the limit of open files");
    }
}

fn open_volumes(config: &Config) -> anyhow::Result<Vec<Arc<Volume>>> {
    let mut volumes = Vec::new();
    for (number, (directory, tree)) in config.mirror.directories.iter().zip(&config.mirror.trees).enumerate()
    {
        gate::recover(directory)?;
        let id = VolumeId(u16::try_from(number).context("too many directories")?);
        let volume = Volume::open(id, directory)?.with_patterns(tree.patterns.clone());
        require_guard(&volume, tree)?;
        volumes.push(Arc::new(volume));
    }
    Ok(volumes)
}

/// Refuse a directory without what it must hold. Asked of the descriptor that everything is done through, before anything is:
/// what a check by path saw, a crashed daemon's mount may have covered, or may have been mounted over since.
fn require_guard(volume: &Volume, tree: &TreeConfig) -> anyhow::Result<()> {
    let Some(missing) = tree.must_exist.clone() else { return Ok(()) };
    let path = volume.path.clone();
    match exists_below(volume.root(), &missing) {
        Ok(true) => Ok(()),
        Ok(false) => Err(ConfigError::MustExist { path, missing }.into()),
        Err(error) => Err(error).with_context(|| format!("cannot look at {}", path.join(missing).display())),
    }
}

/// A running node.
struct StartedNode {
    data_plane: thread::JoinHandle<anyhow::Result<()>>,
    gates: Vec<Gate>,
    behind: Option<Behind>,
    _preparation: Option<Preparation>,
    stop: Stop,
    mailbox: Arc<Mailbox<Message>>,
    nested: NestedMounts,
    // Dropped after the data plane has ended.
    copy: Option<GuardedCopy>,
    _wake_ups: Option<QuickWakeUps>,
    _control: control::ControlServer,
}

/// The secondary's directories, guarded against others while it runs.
struct GuardedCopy {
    changes: Option<LocalChanges>,
    _protection: Option<Protection>,
}

impl GuardedCopy {
    fn new(
        config: &Config,
        volumes: &[Arc<Volume>],
        mailbox: &Arc<Mailbox<Message>>,
    ) -> anyhow::Result<GuardedCopy> {
        let mailbox = Arc::clone(mailbox);
        let tell = move |found| mailbox.post(Message::LocalChanges(found));
        let changes = LocalChanges::watch(volumes.to_vec(), tell)
            .inspect_err(|error| warn!(%error, "changes that others make to the copy are not noticed here"))
            .ok();
        let protection = if config.mirror.protect_secondary {
            Some(Protection::put(&config.node.state_directory, volumes)?)
        } else {
            None
        };
        Ok(GuardedCopy { changes, _protection: protection })
    }
}

impl StartedNode {
    fn start(
        config: &Config,
        instructions: &Instructions,
        state: StateDirectory,
        volumes: Vec<Arc<Volume>>,
        found: Found,
        prepared: Prepared,
        stages: &mut Stages,
    ) -> anyhow::Result<StartedNode> {
        let record = found.now;
        let ids =
            NodeState { cluster: name_id(&config.node.cluster), node: name_id(&config.node.name), record };
        let role = config.node.role;
        let before = NodeState { record: found.before, ..ids };
        let kept =
            fitting(state.take_checkpoint()?, checkpoint_identity(role, &before, &volumes), volumes.len());
        let lasting = lasting_identity(Role::Primary, &ids, &volumes);
        let activity = state.activity()?;
        // Of a run as the primary, whatever this one is.
        let left = if kept.is_none() { crashed(&activity, lasting) } else { None };
        let inherited = inherited(&state, succession_identity(&before, &volumes))?
            .filter(|_| kept.is_none() && left.is_none());
        // Of a run as the secondary that crashed. It is used once, by a secondary that has nothing better; the application waits for a primary.
        let register = state.register()?;
        let register_identity = lasting_identity(Role::Secondary, &ids, &volumes);
        let recorded = if role == Role::Secondary && kept.is_none() && left.is_none() && inherited.is_none() {
            register.take(register_identity)
        } else {
            register.make_void().map(|()| None)
        };
        let recorded = recorded.context("take away what is on record of the copy")?;
        // It is worth nothing with a state that is lost, damaged, or an older copy.
        let recorded = recorded.filter(|recorded| recorded.generation == Some(record.lineage.current));
        // Before the first caller is answered it must be on record how callers are answered; and what a node is that was in the other role.
        if role == Role::Primary || found.before != record {
            state.store(&ids)?;
        }
        stages.end("state");
        let ring = Ring::new(RING_ENTRIES)?;
        let mailbox = Arc::new(Mailbox::new(ring.waker()));
        let sessions = open_sessions(config, &volumes, record, &mailbox)?;
        let (mut publisher, published) = Publisher::new(first_status(config, &volumes));
        let orders = Arc::new(Orders::new(Arc::clone(&mailbox)));
        let reports = Arc::clone(&orders.reports);
        let stop = Stop {
            mailbox: Arc::clone(&mailbox),
            requested: Arc::default(),
            hands_over: Arc::default(),
            waiter: thread::current(),
            published,
            orders,
        };
        let began = Instant::now();
        let parts = |node, publisher, settling, prepares| -> anyhow::Result<Parts> {
            Ok(Parts {
                node,
                ring,
                mailbox: Arc::clone(&mailbox),
                workers: Workers::start("worker", WORKERS).context("start the workers")?,
                background: Workers::start_background("verify", BACKGROUND_WORKERS)
                    .context("start the workers")?,
                sessions,
                state: StateKeeper::new(state, ids, role),
                publisher,
                settling,
                prepares,
                began,
            })
        };
        let wake_ups = match config.node.cpu_latency {
            CpuLatency::Adaptive => Some(QuickWakeUps::start().context("start the watch over wake-ups")?),
            CpuLatency::System => None,
        };
        let waiting = wake_ups.as_ref().map(QuickWakeUps::waiting).unwrap_or_default();
        let directories = volumes.iter().map(|volume| volume.path.clone()).collect();
        let mut gates = Vec::new();
        let mut behind = None;
        let mut copy = None;
        let mut preparation = None;
        let data_plane = match role {
            Role::Secondary => {
                let guarded = GuardedCopy::new(config, &volumes, &mailbox)?;
                let resumes = guarded.changes.is_some();
                copy = Some(guarded);
                let settings = SecondaryConfig { resumes, ..secondary_config(config) };
                let mut node = Node::secondary(settings, record, Time(0));
                let limit = Limit {
                    bytes: config.mirror.keep_diverged,
                    drops: config.mirror.keep_diverged_when_full == WhenFull::DropOldest,
                };
                let replica = Arc::new(Replica::new(volumes.clone()));
                let register = if resumes {
                    let (replica, posts) = (Arc::clone(&replica), Arc::clone(&mailbox));
                    Registrar::start(register, register_identity, replica, posts)
                        .context("start to keep the register")?
                } else {
                    Registrar::none()
                };
                let (copy, posts) = (Arc::clone(&replica), Arc::clone(&mailbox));
                let secondary = Secondary::start(volumes.clone(), copy, register, waiting, limit, posts)
                    .context("start the thread that changes the copy")?;
                // What an earlier run took away and did not yet delete is not to be deleted by this one.
                secondary.keep_aside(record.keeping);
                let (kept, left) = (kept.filter(|_| resumes), left.filter(|_| resumes));
                let posts = Arc::clone(&mailbox);
                if let Some(left) = left {
                    preparation = Some(Preparation::of_predecessor(volumes, *left, replica, posts)?);
                } else if let Some(inherited) = inherited.filter(|_| resumes) {
                    let kept = copies_of(&inherited, &volumes);
                    node.restore(Checkpoint::Secondary(inherited.held));
                    preparation = Some(Preparation::of_secondary(volumes, kept, replica, posts)?);
                } else if let Some(kept) = kept {
                    node.restore(kept.core);
                    let looks = |kept: VolumeCheckpoint| (kept.fingerprints, kept.copies);
                    let kept = kept.volumes.into_iter().map(looks).collect();
                    preparation = Some(Preparation::of_secondary(volumes, kept, replica, posts)?);
                } else if let Some(recorded) = recorded.filter(|_| resumes) {
                    preparation = Some(Preparation::of_recovered(volumes, recorded, replica, posts)?);
                }
                let prepares = preparation.is_some();
                let set = SafeSet::start(activity, None).context("take away what an earlier run recorded")?;
                let settling = Settling::new(set, None, config.mirror.safe_set_idle);
                let engine = Engine::new(parts(node, publisher, settling, prepares)?, secondary);
                run_data_plane(engine, &mailbox, &stop)?
            }
            Role::Primary => {
                let Selected { tracer, passthrough, row, why } = capture::select(config, &volumes, prepared)?;
                info!(row, why, "capture");
                stages.end("capture");
                publisher.on_capture(row, &why, tracer.as_ref().map(|tracer| tracer.report()));
                let (unread, watching) = behind::watch(config.mirror.gate, row, &volumes);
                let watched = watching.watched;
                publisher.on_watch(watching);
                // Where names change that nobody tells of, only a comparison finds them.
                let incarnation = (watched || row == "fentry").then(random).transpose()?;
                let settings = PrimaryConfig {
                    incarnation,
                    tags: random_bits()?,
                    go_alone: instructions.go_alone,
                    ..primary_config(config, &volumes)
                };
                let mut node = Node::primary(settings, record, Time(0));
                let strict: Vec<_> = volumes.iter().map(|_| strict_files(config)).collect();
                let mut primary = Primary::new(volumes.clone(), strict.clone(), tracer, !config.mirror.gate);
                primary.report_to(reports);
                // Who changes files is asked only at the gate.
                let records = incarnation.is_some() && config.mirror.gate;
                let left = left.filter(|_| records);
                let set = SafeSet::start(activity, left.as_deref()).context("begin the safe set's log")?;
                let (mut former, mut doubtful) = (None, HashSet::new());
                if let Some(kept) = kept.filter(|_| incarnation.is_some()) {
                    node.restore(kept.core);
                    former = Some(kept.volumes.into_iter().map(|volume| volume.fingerprints).collect());
                } else if let Some(left) = left {
                    node.restore_activity(&left.activity);
                    let wholly = |file: &FileId| left.activity.is_wholly_doubtful(*file);
                    doubtful = left.activity.doubtful().filter(wholly).collect();
                    former = Some(left.fingerprints);
                }
                if let Some(former) = former {
                    let (volumes, mailbox) = (volumes.clone(), Arc::clone(&mailbox));
                    preparation = Some(Preparation::of_primary(volumes, former, doubtful, mailbox)?);
                } else if let Some(inherited) = inherited.filter(|_| incarnation.is_some()) {
                    let former =
                        copies_of(&inherited, &volumes).into_iter().map(|(inodes, _)| inodes).collect();
                    let (volumes, mailbox) = (volumes.clone(), Arc::clone(&mailbox));
                    node.inherit(Inheritance::new(inherited.held, inherited.copies));
                    preparation = Some(Preparation::of_successor(volumes, former, mailbox)?);
                }
                let prepares = preparation.is_some();
                let settling =
                    Settling::new(set.clone(), records.then_some(lasting), config.mirror.safe_set_idle);
                let engine = Engine::new(parts(node, publisher, settling, prepares)?, primary);
                let data_plane = run_data_plane(engine, &mailbox, &stop)?;
                stages.end("data plane");
                behind = unread.map(|unread| Behind::start(unread, &mailbox)).transpose()?;
                if config.mirror.gate {
                    let transport = match config.mirror.gate_transport {
                        GateTransport::Auto => gate::Transport::Auto,
                        GateTransport::Read => gate::Transport::Read,
                        GateTransport::IoUring => gate::Transport::IoUring,
                    };
                    let options =
                        gate::GateOptions { passthrough, transport, ..gate::GateOptions::default() };
                    gates = mount(&volumes, &strict, &options, &waiting, &mailbox, &set)?;
                }
                if let Some(behind) = &mut behind {
                    behind.attach(gates.iter().map(Gate::kernel_cache).collect())?;
                }
                mailbox.post(Message::Gates(state_of(&gates)));
                stages.end("gates");
                data_plane
            }
        };
        let mut nested = NestedMounts::new(directories);
        if let Some(points) = nested.changed(true) {
            mailbox.post(Message::NestedMounts(points));
        }
        // Last: a node that answers is one that runs.
        let control = control::serve(&config.node.control_socket, Arc::new(stop.clone()))?;
        stages.end("control");
        Ok(StartedNode {
            data_plane,
            gates,
            behind,
            _preparation: preparation,
            stop,
            mailbox,
            nested,
            copy,
            _wake_ups: wake_ups,
            _control: control,
        })
    }

    fn stop_handle(&self) -> Stop {
        self.stop.clone()
    }

    /// Wait for the order to stop, or for the data plane's end; take everything down.
    fn wait(mut self) -> anyhow::Result<()> {
        let mut result = Ok(());
        let mut shown: Vec<StrictStatus> = Vec::new();
        while !self.stop.requested.load(Ordering::Acquire) && !self.data_plane.is_finished() {
            thread::park_timeout(GATE_CHECK);
            if let Some(points) = self.nested.changed(false) {
                self.mailbox.post(Message::NestedMounts(points));
            }
            let gates = state_of(&self.gates);
            let strict: Vec<_> = gates.iter().map(|(report, _)| report.strict.clone()).collect();
            let broken = gates.iter().find(|(report, _)| !report.serving).map(|(report, _)| report.failed);
            if shown != strict {
                shown = strict;
                self.mailbox.post(Message::Gates(gates));
            }
            if let Some(failed) = broken {
                error!(
                    failed,
                    "a gate serves no more: the node stops, applications see errors until it is started again"
                );
                result = Err(anyhow!("a gate was unmounted or cut off by somebody or something else"));
                break;
            }
        }
        // First the gate: no caller may wait for a data plane that is gone.
        for gate in self.gates {
            if let Err(error) = gate.unmount() {
                result = Err(anyhow::Error::from(error).context("unmount the gate"));
            }
        }
        let changes = self.copy.as_mut().and_then(|copy| copy.changes.take());
        let watch = Box::new((self.behind, changes));
        let next = match (&result, self.stop.hands_over.load(Ordering::Acquire)) {
            (Err(_), _) => Next::Anew,
            (Ok(()), false) => Next::Same,
            (Ok(()), true) => Next::Other,
        };
        self.mailbox.post_urgent(Message::Stop { watch, next });
        match self.data_plane.join() {
            Ok(ended) => ended.and(result),
            Err(_) => bail!("the data plane broke down; what it was is in the log above"),
        }
    }
}

/// Run the engine on a thread of its own. However it ends, callers are answered and the waiting main thread wakes.
fn run_data_plane<R: RoleParts + Send + 'static>(
    engine: Engine<R>,
    mailbox: &Arc<Mailbox<Message>>,
    stop: &Stop,
) -> anyhow::Result<thread::JoinHandle<anyhow::Result<()>>> {
    struct Ended {
        mailbox: Arc<Mailbox<Message>>,
        waiter: thread::Thread,
    }
    impl Drop for Ended {
        fn drop(&mut self) {
            self.mailbox.close();
            self.waiter.unpark();
        }
    }
    let ended = Ended { mailbox: Arc::clone(mailbox), waiter: stop.waiter.clone() };
    thread::Builder::new()
        .name("data-plane".to_owned())
        .spawn(move || {
            let _ended = ended;
            engine.run()
        })
        .context("start the data plane")
}

/// Where no fsync is held no other sync need be: in mode `async` the kernel's own durability is all that is promised.
fn strict_files(config: &Config) -> Arc<StrictFiles> {
    let holds = config.mirror.gate && config.mirror.mode != Mode::Async;
    let patterns = if holds { config.mirror.strict_files.clone() } else { Vec::new() };
    Arc::new(StrictFiles::new(patterns, holds))
}

/// What the gates look like, with their running counts.
fn state_of(gates: &[Gate]) -> Vec<(GateReport, Arc<Counters>)> {
    gates.iter().map(|gate| (gate.report(), gate.counters())).collect()
}

fn mount(
    volumes: &[Arc<Volume>],
    strict: &[Arc<StrictFiles>],
    options: &gate::GateOptions,
    waiting: &Waiting,
    mailbox: &Arc<Mailbox<Message>>,
    set: &SafeSet,
) -> anyhow::Result<Vec<Gate>> {
    let mut gates: Vec<Gate> = Vec::new();
    for (volume, strict) in volumes.iter().zip(strict) {
        let sink = Arc::new(Gatekeeper::new(Arc::clone(mailbox), Arc::clone(volume), set.clone()));
        let strict = Arc::clone(strict);
        let waiting = waiting.clone();
        let options = gate::GateOptions { strict, waiting, ..options.clone() };
        match Gate::mount(Arc::clone(volume), options, sink) {
            Ok(gate) => {
                info!(directory = %volume.path.display(), "gate mounted");
                gates.push(gate);
            }
            Err(error) => {
                for gate in gates {
                    if let Err(error) = gate.unmount() {
                        warn!(%error, "cannot take a gate down again");
                    }
                }
                return Err(anyhow::Error::from(error).context("mount the gate"));
            }
        }
    }
    Ok(gates)
}

fn open_sessions(
    config: &Config,
    volumes: &[Arc<Volume>],
    record: StateRecord,
    mailbox: &Arc<Mailbox<Message>>,
) -> anyhow::Result<Sessions> {
    let identity = identity(config, volumes, record)?;
    let timeouts = Timeouts::default();
    let mailbox = Arc::clone(mailbox);
    Ok(match config.node.role {
        Role::Primary => {
            let peer = config.link.peer.context("link.peer is missing")?;
            Sessions::dialing(identity, timeouts, peer, mailbox)
        }
        Role::Secondary => {
            let listen = config.link.listen.context("link.listen is missing")?;
            Sessions::listening(identity, timeouts, listen, mailbox)?
        }
    })
}

/// What never changes while the node runs.
fn first_status(config: &Config, volumes: &[Arc<Volume>]) -> Status {
    Status {
        node: config.node.name.clone(),
        role: config.node.role,
        mode: config.mirror.mode,
        volumes: volumes
            .iter()
            .map(|volume| VolumeStatus {
                path: volume.path.display().to_string(),
                filesystem: volume.filesystem.clone(),
                gate: "off".to_owned(),
                protected: config.node.role == Role::Secondary && config.mirror.protect_secondary,
                ..VolumeStatus::default()
            })
            .collect(),
        ..Status::default()
    }
}
