//! The single looks.

mod disk;
mod http;
mod network;
mod ping;
mod process;
mod tcp;
#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::super::application::{Application, Circumstances, variables};
use super::super::aside::aside;
use super::super::run::{Output, Runner};
use super::super::service::ServiceManager;
use super::super::{CheckerDescription, ProbeDescription, ProcessDescription, ScriptCommand, SpaceLimit};
use super::{Observation, Phase};

/// Time that is left to a script to be ended after its own limit, so that the checker's does not cut it short.
const SCRIPT_MARGIN: Duration = Duration::from_millis(50);

/// What looks for one checker.
pub(super) struct Probe {
    name: String,
    what: What,
    // The look that was given up and has not returned yet.
    hanging: Option<oneshot::Receiver<Observation>>,
}

enum What {
    Blocking(Arc<Blocking>),
    Tcp { address: std::net::SocketAddr, send: String, expect: String },
    Http(http::Question),
    Service { services: Arc<dyn ServiceManager>, unit: String },
    Script { runner: Arc<Runner>, command: ScriptCommand, variables: Vec<(&'static str, String)> },
}

/// A look that may hang in the kernel.
enum Blocking {
    Process(ProcessDescription),
    Ping { addresses: Vec<IpAddr>, limit: Duration },
    Interface { interface: String },
    Address { address: IpAddr, interface: Option<String> },
    Disk { path: std::path::PathBuf, free: SpaceLimit, inodes: Option<SpaceLimit> },
}

impl Probe {
    pub(super) fn new(
        checker: &CheckerDescription,
        application: &Application,
        phase: Phase,
        circumstances: &Circumstances,
    ) -> Probe {
        let blocking = |blocking| What::Blocking(Arc::new(blocking));
        let what = match checker.probe.clone() {
            ProbeDescription::Process(process) => blocking(Blocking::Process(process)),
            ProbeDescription::Ping { addresses } => {
                blocking(Blocking::Ping { addresses, limit: checker.timeout })
            }
            ProbeDescription::Interface { interface } => blocking(Blocking::Interface { interface }),
            ProbeDescription::Address { address, interface } => {
                blocking(Blocking::Address { address, interface })
            }
            ProbeDescription::Disk { path, free, inodes } => blocking(Blocking::Disk { path, free, inodes }),
            ProbeDescription::Tcp { address, send, expect } => What::Tcp { address, send, expect },
            ProbeDescription::Http { address, host, target, status, contains } => {
                What::Http(http::Question { address, host, target, status, contains })
            }
            ProbeDescription::Service { unit } => {
                What::Service { services: Arc::clone(application.services()), unit }
            }
            ProbeDescription::Script(command) => {
                let role = match phase {
                    Phase::Waiting => None,
                    Phase::Role(role) => Some(role),
                };
                let variables = variables(application.description(), role, circumstances, false);
                let timeout = command.timeout.saturating_sub(SCRIPT_MARGIN).max(command.timeout / 2);
                let command = ScriptCommand { timeout, ..command };
                What::Script { runner: Arc::clone(application.runner()), command, variables }
            }
        };
        Probe { name: format!("checker-{}", checker.name), what, hanging: None }
    }

    /// Look once. If the future is dropped, the look is given up.
    pub(super) async fn look(&mut self) -> Observation {
        match &self.what {
            What::Blocking(blocking) => {
                let blocking = Arc::clone(blocking);
                self.look_aside(blocking).await
            }
            What::Tcp { address, send, expect } => tcp::look(*address, send, expect).await,
            What::Http(question) => http::look(question).await,
            What::Service { services, unit } => service(services.as_ref(), unit).await,
            What::Script { runner, command, variables } => {
                script(runner, &self.name, command, variables).await
            }
        }
    }

    /// Look on a thread of its own, unless the one before has not returned.
    async fn look_aside(&mut self, blocking: Arc<Blocking>) -> Observation {
        // A look from the time before says nothing about now; but it must be over before there is another.
        let over = self
            .hanging
            .as_mut()
            .is_none_or(|hanging| !matches!(hanging.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        if !over {
            return Observation::Failure("the look before still hangs in the kernel".into());
        }
        match aside("checker", move || blocking.look()) {
            Ok(receiver) => {
                // Kept before it is waited for: this future may be dropped there.
                let receiver = self.hanging.insert(receiver);
                receiver
                    .await
                    .unwrap_or_else(|_| Observation::Failure("the look ended without a result".into()))
            }
            Err(error) => Observation::Failure(format!("no thread for the look: {error}")),
        }
    }
}

impl Blocking {
    fn look(&self) -> Observation {
        let result = match self {
            Blocking::Process(process) => process::look(process),
            Blocking::Ping { addresses, limit } => ping::look(addresses, *limit),
            Blocking::Interface { interface } => network::interface(interface),
            Blocking::Address { address, interface } => network::address(*address, interface.as_deref()),
            Blocking::Disk { path, free, inodes } => disk::look(path, *free, *inodes),
        };
        result.map_or_else(Observation::Failure, |()| Observation::Success)
    }
}

/// What a checker looks at, in a word.
pub(super) fn kind(probe: &ProbeDescription) -> &'static str {
    match probe {
        ProbeDescription::Process(_) => "process",
        ProbeDescription::Service { .. } => "service",
        ProbeDescription::Tcp { .. } => "tcp",
        ProbeDescription::Http { .. } => "http",
        ProbeDescription::Ping { .. } => "ping",
        ProbeDescription::Interface { .. } => "interface",
        ProbeDescription::Address { .. } => "address",
        ProbeDescription::Disk { .. } => "disk",
        ProbeDescription::Script(_) => "script",
    }
}

async fn service(services: &dyn ServiceManager, unit: &str) -> Observation {
    match services.state(unit).await {
        Ok(state) if state.is_active() => Observation::Success,
        Ok(state) => Observation::Failure(format!("{unit} is {} ({})", state.active, state.sub)),
        Err(error) => failure(error),
    }
}

async fn script(
    runner: &Runner,
    name: &str,
    command: &ScriptCommand,
    variables: &[(&'static str, String)],
) -> Observation {
    match runner.run(name, command, variables, Output::Latest).await {
        Ok(outcome) if outcome.ended.succeeded() => Observation::Success,
        Ok(outcome) => {
            let said = outcome.last_line.map(|line| format!(": {line}")).unwrap_or_default();
            Observation::Failure(format!("the script {}{said}", outcome.ended))
        }
        Err(error) => failure(error),
    }
}

fn failure(error: impl Display) -> Observation {
    Observation::Failure(error.to_string())
}
