//! Looks after the application: one task for each checker, so that one that hangs holds up no other.
//!
//! A look that has not ended within its time limit has failed. Some looks cannot be given up (a file system that does not answer
//! keeps its caller in the kernel): they stay on a thread of their own, and until it returns no other is begun.

mod probe;
#[cfg(test)]
mod tests;
mod verdict;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::application::{Application, Circumstances};
use super::{Action, CheckerDescription, Role, When};
use probe::Probe;
pub use verdict::{Observation, Thresholds, Turn, Verdict, VerdictState};

/// What the checkers are for at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The module is to start: the pre-conditions are looked at.
    Waiting,
    /// The node has this role.
    Role(Role),
}

/// What a checker has to tell: the verdict is another one, or the action is due (again).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckerEvent {
    /// The checker's name.
    pub checker: String,
    /// Whether it is a pre-condition to start.
    pub pre: bool,
    /// What it thinks now.
    pub verdict: Verdict,
    /// What it asks for; never anything under maintenance or before the start.
    pub action: Option<Action>,
    /// Why, in words.
    pub reason: String,
}

/// What a checker thinks, to be shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckerStatus {
    /// The checker's name.
    pub checker: String,
    /// What it looks at, in a word.
    pub kind: &'static str,
    /// What it asks for when it is down.
    pub action: Action,
    /// Whether it is a pre-condition to start.
    pub pre: bool,
    /// What it thinks now.
    pub verdict: Verdict,
    /// For how long.
    pub since: Duration,
    /// Failures in a row.
    pub failures: u32,
    /// What the last look found; `None` before the first.
    pub last: Option<Observation>,
    /// How long the last look took.
    pub last_duration: Duration,
    /// Why it last was not well, empty if it always was.
    pub reason: String,
}

/// The checkers of one phase. They end when this is dropped.
#[derive(Debug)]
pub struct Checkers {
    tasks: Vec<AbortHandle>,
    watched: Vec<Arc<Watched>>,
    maintenance: Arc<AtomicBool>,
}

/// One checker, as its task and those who look at it share it.
#[derive(Debug)]
struct Watched {
    description: CheckerDescription,
    found: Mutex<Found>,
}

#[derive(Debug)]
struct Found {
    state: VerdictState,
    since: Instant,
    last: Option<Observation>,
    last_duration: Duration,
}

impl Checkers {
    /// Begin to look: in [`Phase::Waiting`] at the pre-conditions, in a role at everything that is for it, pre-conditions included.
    ///
    /// `events` is best made anew for each phase: what is still in it belongs to the phase it was made for. A receiver that does
    /// not receive holds the checkers up; one that is gone ends them.
    pub fn start(
        application: &Application,
        phase: Phase,
        circumstances: &Circumstances,
        events: &mpsc::Sender<CheckerEvent>,
    ) -> Checkers {
        let chosen = application.description().checkers.iter().filter(|checker| looks(checker, phase));
        let maintenance = Arc::new(AtomicBool::new(false));
        let mut checkers = Checkers { tasks: Vec::new(), watched: Vec::new(), maintenance };
        for description in chosen {
            let state = VerdictState::new(description.thresholds);
            let (since, last_duration) = (Instant::now(), Duration::ZERO);
            let found = Mutex::new(Found { state, since, last: None, last_duration });
            let watched = Arc::new(Watched { description: description.clone(), found });
            let task = Task {
                watched: Arc::clone(&watched),
                probe: Probe::new(description, application, phase, circumstances),
                acts: phase != Phase::Waiting,
                maintenance: Arc::clone(&checkers.maintenance),
                events: events.clone(),
            };
            checkers.tasks.push(tokio::spawn(task.run()).abort_handle());
            checkers.watched.push(watched);
        }
        checkers
    }

    /// Under maintenance verdicts are made and shown, but nothing is asked for. Who is still down when it ends asks again.
    pub fn set_maintenance(&self, maintenance: bool) {
        self.maintenance.store(maintenance, Ordering::Relaxed);
    }

    /// What each checker thinks, in the order of the description.
    pub fn status(&self) -> Vec<CheckerStatus> {
        self.watched.iter().map(|watched| watched.status()).collect()
    }

    /// Whether every pre-condition is met, as far as this phase looks at them.
    pub fn preconditions_met(&self) -> bool {
        self.watched
            .iter()
            .filter(|watched| watched.description.pre)
            .all(|watched| watched.found().state.verdict() == Verdict::Up)
    }
}

impl Drop for Checkers {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Whether a checker has anything to look at.
fn looks(checker: &CheckerDescription, phase: Phase) -> bool {
    match (phase, checker.when) {
        // Who waits for something to be well again has to look at it.
        (Phase::Waiting, _) => checker.pre || checker.action == Action::Wait,
        (Phase::Role(_), When::Both) => true,
        (Phase::Role(role), When::Primary) => role == Role::Primary,
        (Phase::Role(role), When::Secondary) => role == Role::Secondary,
    }
}

impl Watched {
    fn found(&self) -> MutexGuard<'_, Found> {
        // Each change is one assignment after the other, none of which can be left half done.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> CheckerStatus {
        let found = self.found();
        CheckerStatus {
            checker: self.description.name.clone(),
            kind: probe::kind(&self.description.probe),
            action: self.description.action,
            pre: self.description.pre,
            verdict: found.state.verdict(),
            since: found.since.elapsed(),
            failures: found.state.failures(),
            last: found.last.clone(),
            last_duration: found.last_duration,
            reason: found.state.reason().to_owned(),
        }
    }

    /// Take note of a look.
    fn observe(&self, observation: Observation, took: Duration) -> (Turn, Verdict, String) {
        let mut found = self.found();
        found.last = Some(observation.clone());
        found.last_duration = took;
        let turn = found.state.observe(observation);
        if turn.changed {
            found.since = Instant::now();
        }
        let verdict = found.state.verdict();
        let reason =
            if verdict == Verdict::Down { found.state.reason().to_owned() } else { "it works".to_owned() };
        (turn, verdict, reason)
    }
}

/// What one checker does.
struct Task {
    watched: Arc<Watched>,
    probe: Probe,
    acts: bool,
    maintenance: Arc<AtomicBool>,
    events: mpsc::Sender<CheckerEvent>,
}

impl Task {
    async fn run(mut self) {
        let watched = Arc::clone(&self.watched);
        let description = &watched.description;
        if self.acts {
            sleep(description.initial_delay).await;
        }
        let mut looks = interval(description.interval);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let begun = Instant::now();
            let observation = match timeout(description.timeout, self.probe.look()).await {
                Ok(observation) => observation,
                Err(_) => Observation::Failure(format!("no answer within {:?}", description.timeout)),
            };
            if !self.tell(observation, begun.elapsed()).await {
                return;
            }
        }
    }

    /// Take note of a look, and tell what it changed; whether somebody listens.
    async fn tell(&self, observation: Observation, took: Duration) -> bool {
        let description = &self.watched.description;
        let (turn, verdict, reason) = self.watched.observe(observation, took);
        let acts = turn.act && self.acts && !self.maintenance.load(Ordering::Relaxed);
        let action = Some(description.action).filter(|action| acts && *action != Action::None);
        if !turn.changed && action.is_none() {
            return !self.events.is_closed();
        }
        tracing::info!(checker = %description.name, ?verdict, ?action, %reason, "a checker has its verdict");
        let checker = description.name.clone();
        self.events
            .send(CheckerEvent { checker, pre: description.pre, verdict, action, reason })
            .await
            .is_ok()
    }
}
