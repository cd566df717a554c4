//! The application of one module: started and stopped, never twice.
//!
//! ```text
//!            prepare              start(role)
//!  Unknown ----------> Stopped --------------> Started(role)
//!     ^                   ^                         |
//!     |  failed, or       +------------ stop -------+
//!     +--given up halfway---------------------------+
//! ```
//!
//! *Unknown* is what it is at first, and after anything that failed or was given up: something of it may run. From there nothing
//! is started before everything was stopped.
//!
//! A primary starts by its script `start-primary`, which prepares what the services need, then its services in order. It stops in
//! reverse: the services, then `stop-primary`. What does not stop is stopped by force: the unit is killed, the script is run a second
//! time with `REPLICATOR_FORCE=1`.

mod circumstances;
mod report;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::run::{Output, Runner};
use super::service::{ServiceError, ServiceManager, Systemctl};
use super::{Description, Role, ScriptName};

pub use circumstances::Circumstances;
pub(super) use circumstances::variables;
pub use report::{ApplicationError, Report, Step};

/// How often the logs are cut whose writers stay.
const BOUND_INTERVAL: Duration = Duration::from_secs(30);

/// Where a module lies on this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Paths {
    /// Its directory, in which the scripts are run.
    pub module: PathBuf,
    /// The logs of its scripts.
    pub logs: PathBuf,
    /// The records of what runs; must be empty after the machine was started.
    pub run: PathBuf,
}

impl Paths {
    /// The usual places of a module that is installed in `directory`.
    pub fn usual(directory: &Path, module: &str) -> Paths {
        Paths {
            module: directory.to_owned(),
            logs: Path::new("/var/log/replicator").join(module),
            run: Path::new("/run/replicator/modules").join(module),
        }
    }
}

/// What is known of the application.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Something of it may run.
    Unknown,
    /// Nothing of it runs.
    Stopped,
    /// It was started in this role.
    Started(Role),
}

/// The application of one module.
#[derive(Debug)]
pub struct Application {
    description: Arc<Description>,
    runner: Arc<Runner>,
    services: Arc<dyn ServiceManager>,
    state: State,
    report: Report,
    // Cuts the logs of what was left behind in the background; made with the first script.
    bounding: Option<AbortHandle>,
}

impl Application {
    /// The application of a module, with systemd for its services. Nothing is run yet.
    pub fn new(description: Arc<Description>, paths: &Paths) -> Application {
        Application::with_services(description, paths, Arc::new(Systemctl::default()))
    }

    /// With another manager of services.
    pub fn with_services(
        description: Arc<Description>,
        paths: &Paths,
        services: Arc<dyn ServiceManager>,
    ) -> Application {
        let runner = Arc::new(Runner::new(&description, &paths.module, &paths.run, &paths.logs));
        Application {
            description,
            runner,
            services,
            state: State::Unknown,
            report: Report::default(),
            bounding: None,
        }
    }

    /// What is known of it.
    pub fn state(&self) -> State {
        self.state
    }

    /// Its description.
    pub fn description(&self) -> &Arc<Description> {
        &self.description
    }

    /// What runs its scripts.
    pub fn runner(&self) -> &Arc<Runner> {
        &self.runner
    }

    /// What starts its services.
    pub fn services(&self) -> &Arc<dyn ServiceManager> {
        &self.services
    }

    /// What the last call did, whether it succeeded or not.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Say that it runs in this role although this object did not start it: the node's program was replaced under it.
    pub fn adopt(&mut self, role: Role) {
        self.state = State::Started(role);
    }

    /// Stop whatever an earlier life of this node left behind: scripts that still run, services, and by the script `prestart`, or
    /// `stop-primary` and `stop-secondary` if there is none, everything else. To be called once before the node takes a role.
    ///
    /// # Errors
    /// [`ApplicationError`]; the state stays unknown, and nothing can be started.
    pub async fn prepare(&mut self, circumstances: &Circumstances) -> Result<&Report, ApplicationError> {
        self.begin();
        self.state = State::Unknown;
        if let Some(leftover) = self.runner.end_leftovers().await?.into_iter().next() {
            return Err(ApplicationError::Leftover { leftover });
        }
        self.stop_services(false).await?;
        if self.has(ScriptName::Prestart) {
            self.script(ScriptName::Prestart, None, circumstances, false).await?;
        } else {
            for (script, role) in STOPPING {
                self.stop_script(script, role, circumstances, false).await?;
            }
        }
        self.state = State::Stopped;
        Ok(&self.report)
    }

    /// Start it in a role. Everything is stopped first if it is not known to be.
    ///
    /// If the future is dropped, scripts that run are killed, and the state is unknown.
    ///
    /// # Errors
    /// [`ApplicationError`]; the caller stops it then.
    pub async fn start(
        &mut self,
        role: Role,
        circumstances: &Circumstances,
    ) -> Result<&Report, ApplicationError> {
        self.begin();
        match self.state {
            State::Started(other) if other == role => return Err(ApplicationError::AlreadyStarted { role }),
            State::Started(role) => return Err(ApplicationError::StopFirst { role }),
            State::Unknown => {
                self.prepare(circumstances).await?;
            }
            State::Stopped => {}
        }
        self.state = State::Unknown;
        let script = match role {
            Role::Primary => ScriptName::StartPrimary,
            Role::Secondary => ScriptName::StartSecondary,
        };
        self.script(script, Some(role), circumstances, false).await?;
        if role == Role::Primary {
            self.start_services().await?;
        }
        self.state = State::Started(role);
        Ok(&self.report)
    }

    /// Stop it: each step plainly first (unless `force`), and by force if that fails. All steps are done, whatever becomes of the others.
    ///
    /// # Errors
    /// [`ApplicationError`]: the first step that failed even by force. The state is unknown then.
    pub async fn stop(
        &mut self,
        circumstances: &Circumstances,
        force: bool,
    ) -> Result<&Report, ApplicationError> {
        self.begin();
        let state = std::mem::replace(&mut self.state, State::Unknown);
        let mut failure = None;
        if matches!(state, State::Unknown | State::Started(Role::Primary)) {
            failure = self.stop_services(force).await.err();
        }
        for (script, role) in STOPPING {
            if matches!(state, State::Unknown) || state == State::Started(role) {
                let stopped = self.stop_script(script, role, circumstances, force).await;
                failure = failure.or(stopped.err());
            }
        }
        match failure {
            None => {
                self.state = State::Stopped;
                Ok(&self.report)
            }
            Some(error) => Err(error),
        }
    }

    /// Run `poststop`: the module has stopped.
    ///
    /// # Errors
    /// [`ApplicationError`]
    pub async fn finish(&mut self, circumstances: &Circumstances) -> Result<&Report, ApplicationError> {
        self.begin();
        self.script(ScriptName::Poststop, None, circumstances, false).await?;
        Ok(&self.report)
    }

    fn begin(&mut self) {
        self.report = Report::default();
        if self.bounding.is_none() {
            let runner = Arc::clone(&self.runner);
            let bounding = tokio::spawn(async move {
                loop {
                    sleep(BOUND_INTERVAL).await;
                    runner.bound_logs();
                }
            });
            self.bounding = Some(bounding.abort_handle());
        }
    }

    fn has(&self, script: ScriptName) -> bool {
        self.description.scripts.commands.contains_key(&script)
    }

    async fn start_services(&mut self) -> Result<(), ApplicationError> {
        let description = Arc::clone(&self.description);
        for unit in &description.services.units {
            let begun = Instant::now();
            let started = self.services.start(unit, description.services.start_timeout).await;
            self.unit_step(unit, false, begun, started.as_ref().err());
            started?;
        }
        Ok(())
    }

    /// Stop all services, the last first; the first failure that force could not mend.
    async fn stop_services(&mut self, force: bool) -> Result<(), ApplicationError> {
        let description = Arc::clone(&self.description);
        let limit = description.services.stop_timeout;
        let mut failure = None;
        for unit in description.services.units.iter().rev() {
            let begun = Instant::now();
            let mut stopped = if force {
                self.services.kill(unit, limit).await
            } else {
                self.services.stop(unit, limit).await
            };
            self.unit_step(unit, force, begun, stopped.as_ref().err());
            let hopeless =
                matches!(stopped, Err(ServiceError::NotThere { .. } | ServiceError::Program { .. }));
            if stopped.is_err() && !force && !hopeless {
                let begun = Instant::now();
                stopped = self.services.kill(unit, limit).await;
                self.unit_step(unit, true, begun, stopped.as_ref().err());
            }
            failure = failure.or(stopped.err());
        }
        failure.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Run a script that stops, and a second time by force if it fails.
    async fn stop_script(
        &mut self,
        script: ScriptName,
        role: Role,
        circumstances: &Circumstances,
        force: bool,
    ) -> Result<(), ApplicationError> {
        let stopped = self.script(script, Some(role), circumstances, force).await;
        match stopped {
            Err(ApplicationError::Script { .. }) if !force => {
                self.script(script, Some(role), circumstances, true).await
            }
            stopped => stopped,
        }
    }

    /// Run a script, if the module has it.
    async fn script(
        &mut self,
        script: ScriptName,
        role: Option<Role>,
        circumstances: &Circumstances,
        force: bool,
    ) -> Result<(), ApplicationError> {
        let description = Arc::clone(&self.description);
        let Some(command) = description.scripts.commands.get(&script) else { return Ok(()) };
        let variables = variables(&description, role, circumstances, force);
        let begun = Instant::now();
        self.report.forced |= force;
        let run = self.runner.run(script.word(), command, &variables, Output::Kept).await;
        let result = match &run {
            Ok(outcome) if outcome.ended.succeeded() => Ok(()),
            Ok(outcome) => Err(ApplicationError::Script { outcome: outcome.clone() }),
            Err(_) => Ok(()),
        };
        let (outcome, refused) = match run {
            Ok(outcome) => (Some(outcome), None),
            Err(error) => (None, Some(error)),
        };
        let failure = refused
            .as_ref()
            .map(ToString::to_string)
            .or_else(|| result.as_ref().err().map(ToString::to_string));
        self.step(Step {
            name: script.word().to_owned(),
            force,
            duration: begun.elapsed(),
            outcome,
            failure,
        });
        refused.map_or(result, |error| Err(error.into()))
    }

    fn unit_step(&mut self, unit: &str, force: bool, begun: Instant, failure: Option<&ServiceError>) {
        self.report.forced |= force;
        let failure = failure.map(ToString::to_string);
        self.step(Step { name: unit.to_owned(), force, duration: begun.elapsed(), outcome: None, failure });
    }

    fn step(&mut self, step: Step) {
        let module = &self.description.name;
        match &step.failure {
            None => {
                tracing::info!(%module, step = %step.name, force = step.force, duration = ?step.duration, "done")
            }
            Some(failure) => {
                tracing::warn!(%module, step = %step.name, force = step.force, %failure, "failed")
            }
        }
        self.report.steps.push(step);
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        if let Some(bounding) = self.bounding.take() {
            bounding.abort();
        }
    }
}

/// What stops the application, and which role.
const STOPPING: [(ScriptName, Role); 2] =
    [(ScriptName::StopSecondary, Role::Secondary), (ScriptName::StopPrimary, Role::Primary)];
