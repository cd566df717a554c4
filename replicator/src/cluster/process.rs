//! A module's mirror as a process: started, stopped, asked over its control socket, and read from its state while it does not run.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use replicator_cluster::daemon::mirror::{Look, Mirror};
use replicator_cluster::daemon::service::MirrorPlace;
use replicator_cluster::module::Description;
use replicator_cluster::supervisor;
use replicator_core::action::StateRecord;
use replicator_core::cluster::{CopyState, MirrorView, Role};
use replicator_core::ids::Term;
use tokio::time::{Instant, sleep};

use super::ready::Ready;
use super::settings::configuration;
use crate::control::{self, ControlError, Order, Request, Response, ResyncScope};
use crate::daemon::{Instructions, name_id};
use crate::status::{StateStatus, Status};
use crate::storage::state::{StateDirectory, StateError};

/// Longest time until a mirror serves.
const START_BOUND: Duration = Duration::from_secs(30);
/// Longest time until a mirror that was asked to end has done so. Then it is killed.
const STOP_BOUND: Duration = Duration::from_secs(20);
/// Longest time in which all that the peer lacks must have been sent.
const DRAIN_BOUND: Duration = Duration::from_secs(60);
/// Longest time for one question.
const ASK_BOUND: Duration = Duration::from_secs(2);
/// Between two looks at something that is waited for.
const PAUSE: Duration = Duration::from_millis(10);

/// See the module.
#[derive(Debug)]
pub struct MirrorProcess {
    program: PathBuf,
    config: PathBuf,
    text: String,
    socket: PathBuf,
    state: PathBuf,
    names: (String, String),
    overrules: bool,
    keeps_ready: bool,
    ready: Ready,
    child: Mutex<Option<Child>>,
    /// The absence of its peer in which it asks, as it said last.
    asks: Arc<AtomicU64>,
}

impl MirrorProcess {
    /// The mirror of a module. Nothing is started.
    ///
    /// # Errors
    /// For a person: its configuration makes no sense, or cannot be written.
    pub fn new(
        program: &Path,
        description: &Description,
        place: MirrorPlace,
    ) -> Result<MirrorProcess, String> {
        let (text, _) = configuration(description, &place)?;
        fs::create_dir_all(&place.run).map_err(|error| format!("{}: {error}", place.run.display()))?;
        Ok(MirrorProcess {
            program: program.to_owned(),
            config: place.run.join("mirror.toml"),
            text,
            socket: socket(&place.run),
            state: place.state,
            names: place.names,
            overrules: place.overrules,
            keeps_ready: place.keeps_ready,
            ready: Ready::default(),
            child: Mutex::default(),
            asks: Arc::default(),
        })
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the process ended, if it has.
    fn ended(&self) -> Option<ExitStatus> {
        let mut child = self.child();
        let ended = child.as_mut().and_then(|child| child.try_wait().ok().flatten());
        if ended.is_some() {
            *child = None;
        }
        ended
    }

    fn is_running(&self) -> bool {
        self.ended();
        self.child().is_some()
    }

    async fn ask(&self, request: Request) -> Result<Response, ControlError> {
        let socket = self.socket.clone();
        let asked =
            tokio::task::spawn_blocking(move || control::request_within(&socket, &request, ASK_BOUND));
        asked
            .await
            .unwrap_or_else(|_| Err(ControlError::Late { path: self.socket.clone(), limit: ASK_BOUND }))
    }

    async fn status(&self) -> Result<Status, ControlError> {
        match self.ask(Request::Status).await? {
            Response::Status { status } => Ok(*status),
            _ => Err(ControlError::Garbage { path: self.socket.clone(), why: "not a status".to_owned() }),
        }
    }

    fn spawn(&self, arguments: &[String]) -> Result<Child, String> {
        fs::write(&self.config, &self.text).map_err(|error| format!("{}: {error}", self.config.display()))?;
        let mut command = Command::new(&self.program);
        command.arg("run").arg("--config").arg(&self.config).args(arguments).stdin(Stdio::null());
        apart(&mut command);
        command.spawn().map_err(|error| format!("{}: {error}", self.program.display()))
    }

    /// A primary: the process that waits for that, or a new one.
    fn begin_primary(&self, instructions: &Instructions) -> Result<Child, String> {
        if let Some(child) = self.ready.begin(instructions) {
            return Ok(child);
        }
        let mut arguments = vec!["--role".to_owned(), "primary".to_owned()];
        arguments.extend(instructions.term.iter().flat_map(|term| ["--term".to_owned(), term.to_string()]));
        arguments.extend(instructions.go_alone.then(|| "--go-alone".to_owned()));
        if let Some(reason) = &instructions.force {
            arguments.extend(["--force-promote".to_owned(), "--reason".to_owned(), reason.clone()]);
        }
        self.spawn(&arguments)
    }

    /// Wait until a condition holds; whether it did within the bound.
    async fn until(&self, bound: Duration, mut holds: impl FnMut() -> bool) -> bool {
        let deadline = Instant::now() + bound;
        while !holds() {
            if Instant::now() > deadline {
                return false;
            }
            sleep(PAUSE).await;
        }
        true
    }

    /// Stop a mirror that an earlier daemon started, if there is one.
    async fn stop_orphan(&self) -> Result<(), String> {
        match self.ask(Request::HandOver).await {
            Err(ControlError::NoDaemon { .. }) => {}
            Err(error) => return Err(error.to_string()),
            Ok(_) => {
                tracing::info!(config = %self.config.display(), "a mirror that an earlier daemon left is stopped")
            }
        }
        let free =
            || !matches!(StateDirectory::record_of_stopped(&self.state), Err(StateError::InUse { .. }));
        if self.until(STOP_BOUND, free).await {
            return Ok(());
        }
        Err(format!("a mirror that an earlier daemon left does not end; it uses {}", self.state.display()))
    }

    /// Both nodes went on alone, as the policy lets them. This one is active still: the other gave way and holds nothing that counts any more.
    async fn overrule(&self) {
        let reason =
            "both nodes went on alone under availability-first, and this one stayed active".to_owned();
        if let Err(error) = self.ask(Request::OverwritePeer { reason }).await {
            tracing::debug!(%error, "the other node's data is not replaced yet");
        }
    }

    fn copy_of_stopped(&self) -> Result<CopyState, StateError> {
        let record = match StateDirectory::record_of_stopped(&self.state) {
            Ok(Some(state)) => state.record,
            Ok(None) => StateRecord::unknown(),
            Err(
                error @ (StateError::InUse { .. } | StateError::System { .. } | StateError::Newer { .. }),
            ) => {
                return Err(error);
            }
            // Nothing is known of the copy. The mirror puts the file aside when it starts.
            Err(_) => StateRecord { lost: true, ..StateRecord::unknown() },
        };
        Ok(CopyState { account: record.account(), term: record.term, alone: record.alone })
    }

    async fn look_at_running(&self) -> Result<Look, String> {
        let status = self.status().await.map_err(|error| error.to_string())?;
        self.asks.store(status.state.asks, Ordering::Release);
        if self.overrules && status.reunion.refused {
            self.overrule().await;
        }
        let copy = copy_of(&status.state).ok_or("the mirror says something that has no meaning here")?;
        let view = MirrorView {
            connected: status.peer.connected,
            mirrored: matches!(status.phase.as_str(), "Mirrored" | "Following"),
            asks: status.state.asks != 0,
        };
        Ok(Look { running: true, view, copy })
    }
}

/// Not in the terminal's group: who stops the daemon does not stop its mirrors before their turn. And not one of whom the service manager is told.
pub fn apart(command: &mut Command) {
    command.process_group(0);
    for name in supervisor::VARIABLES {
        command.env_remove(name);
    }
}

/// The control socket of a module's mirror.
fn socket(run: &Path) -> PathBuf {
    run.join("mirror.sock")
}

/// What a mirror says of itself, or its record if it does not answer, for people: where no cluster's daemon runs that could be asked.
pub fn told(run: &Path, state: &Path) -> String {
    let error = match control::request_within(&socket(run), &Request::Status, ASK_BOUND) {
        Ok(answer) => return serde_json::to_string_pretty(&answer).unwrap_or_default() + "\n",
        Err(error) => error,
    };
    let record = StateDirectory::record_of_stopped(state).map(|state| state.map(|state| state.record));
    format!("{error}\nits record: {record:#?}\n")
}

fn copy_of(state: &StateStatus) -> Option<CopyState> {
    let mut account = state.account()?;
    account.primary = false;
    Some(CopyState { account, term: Term(state.term), alone: state.alone })
}

impl Mirror for MirrorProcess {
    async fn start(&self, role: Role, term: Term, alone: bool, force: bool) -> Result<(), String> {
        if self.is_running() {
            return Err("it runs already".to_owned());
        }
        let child = match role {
            Role::Secondary => self.spawn(&["--role".to_owned(), "secondary".to_owned()])?,
            Role::Primary => {
                let reason = "promoted by force by an operator of the cluster; the module's history says why";
                let force = force.then(|| reason.to_owned());
                self.begin_primary(&Instructions { term: Some(term.0), go_alone: alone, force })?
            }
        };
        *self.child() = Some(child);
        let deadline = Instant::now() + START_BOUND;
        loop {
            if let Some(status) = self.ended() {
                return Err(format!("it ended at once ({status}); the log says why"));
            }
            // Last of all it answers: then it serves, or listens.
            if self.socket.exists() && self.look_at_running().await.is_ok() {
                if self.keeps_ready && role == Role::Secondary {
                    self.ready.prepare(&self.program, &self.config);
                }
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("it does not answer within {START_BOUND:?}"));
            }
            sleep(PAUSE).await;
        }
    }

    async fn stop(&self) -> Result<(), String> {
        let pid = self.child().as_ref().and_then(|child| i32::try_from(child.id()).ok()).map(Pid::from_raw);
        let Some(pid) = pid.filter(|_| self.is_running()) else { return self.stop_orphan().await };
        // In order, and without the look at all files that a restart in the same role could use: who takes over waits for it.
        if self.ask(Request::HandOver).await.is_err() {
            kill(pid, Signal::SIGTERM).map_err(|error| format!("SIGTERM: {error}"))?;
        }
        if self.until(STOP_BOUND, || !self.is_running()).await {
            return Ok(());
        }
        tracing::error!(%pid, "a mirror does not end in order: it is killed");
        kill(pid, Signal::SIGKILL).map_err(|error| format!("SIGKILL: {error}"))?;
        if self.until(STOP_BOUND, || !self.is_running()).await {
            return Ok(());
        }
        Err(format!("process {pid} cannot be ended: it waits in the kernel"))
    }

    async fn drain(&self) -> Result<(), String> {
        // What was stored in mapped files is captured when it is written back.
        tokio::task::spawn_blocking(nix::unistd::sync).await.map_err(|error| error.to_string())?;
        let deadline = Instant::now() + DRAIN_BOUND;
        loop {
            let order = Request::Order { order: Order::Resync { what: ResyncScope::Changed } };
            let number = match self.ask(order).await.map_err(|error| error.to_string())? {
                Response::Taken { number } => number,
                other => return Err(format!("it answers {other:?}")),
            };
            let status = loop {
                let status = self.status().await.map_err(|error| error.to_string())?;
                if status.phase != "Mirrored" {
                    return Err(format!("the nodes are not mirrored any more (phase {})", status.phase));
                }
                if !status.resync.asked_failed.is_empty() {
                    return Err(status.resync.asked_failed);
                }
                if status.resync.asked == number && status.resync.asked_done {
                    break status;
                }
                if Instant::now() > deadline {
                    return Err(format!("the peer does not have all within {DRAIN_BOUND:?}"));
                }
                sleep(PAUSE).await;
            };
            if status.dirty.files == 0 && status.dirty.in_flight_bytes == 0 {
                return Ok(());
            }
        }
    }

    async fn outdate(&self, term: Term) -> Result<(), String> {
        let (state, names) = (self.state.clone(), self.names.clone());
        let outdated = tokio::task::spawn_blocking(move || {
            StateDirectory::outdate_stopped(&state, (name_id(&names.0), name_id(&names.1)), term)
        });
        outdated.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    async fn go_alone(&self, term: Term) -> Result<(), String> {
        // 0: it does not ask, because it runs alone already. Its peer may have yielded to a higher term than it has.
        let absence = Some(self.asks.load(Ordering::Acquire));
        match self.ask(Request::GoAlone { term: term.0, absence }).await {
            Ok(Response::Recorded) => Ok(()),
            Ok(other) => Err(format!("it answers {other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn tell(&self) -> Option<String> {
        serde_json::to_string_pretty(&self.status().await.ok()?).ok()
    }

    async fn look(&self) -> Result<Look, String> {
        if self.is_running() {
            return self.look_at_running().await;
        }
        self.ready.unused();
        match self.copy_of_stopped() {
            Ok(copy) => {
                self.asks.store(0, Ordering::Release);
                Ok(Look { running: false, view: MirrorView::default(), copy })
            }
            // One that an earlier daemon left; it is stopped before anything else.
            Err(StateError::InUse { .. }) => self.look_at_running().await,
            Err(error) => Err(error.to_string()),
        }
    }
}
