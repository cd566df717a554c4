//! A module on this node: its controller, and what becomes of its orders.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use replicator_core::cluster::posture::Step;
use replicator_core::cluster::{
    Action, Cause, Command, Config, Controller, Event, Refusal, Report, Standing, Word,
};
use replicator_core::ids::Time;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::edges::Edges;
use super::history::History;
use super::standing::StandingFile;
use super::words;

/// What comes to a module.
#[derive(Debug)]
// Most are reports, and there are few at a time.
#[allow(clippy::large_enum_variant)]
pub enum Input {
    /// Something that happened.
    Event(Event),
    /// An order, and where its answer goes.
    Command(Command, oneshot::Sender<Result<(), Refusal>>),
    /// The daemon ends; told when nothing of the module runs any more.
    Shutdown(oneshot::Sender<()>),
    /// What the edges want in the history.
    Tell(String),
    /// Answered when everything that came before is taken in: the controller lives.
    Probe(oneshot::Sender<()>),
    /// The last so many entries of the history.
    History(usize, oneshot::Sender<Vec<super::history::Entry>>),
    /// End, if the module is stopped and nothing of it runs; told whether. Nothing that was sent after it is taken in then.
    End(oneshot::Sender<bool>),
}

/// Where a module's inputs go.
pub type Inputs = mpsc::UnboundedSender<Input>;

/// What a module is made of.
#[derive(Debug)]
pub struct Parts<E> {
    /// Its name.
    pub name: String,
    /// Its controller's configuration.
    pub config: Config,
    /// What it remembers.
    pub standing: Standing,
    /// Where that is kept.
    pub file: StandingFile,
    /// What happened to it.
    pub history: History,
    /// What carries out its orders.
    pub edges: Arc<E>,
}

/// See the module.
struct Runner<E> {
    name: String,
    controller: Controller,
    file: StandingFile,
    history: History,
    edges: Arc<E>,
    inputs: Inputs,
    began: Instant,
    answers: HashMap<u64, oneshot::Sender<Result<(), Refusal>>>,
    next_answer: u64,
    ended: Option<oneshot::Sender<()>>,
    /// What is under way, by the thing it is about.
    under_way: HashMap<Thing, (Step, JoinHandle<()>)>,
    /// What else is under way.
    beside: JoinSet<()>,
    publish: Box<dyn Fn(Report) + Send>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Thing {
    Mirror,
    Addresses,
    Application,
}

impl Thing {
    fn of(step: Step) -> Thing {
        match step {
            Step::StartMirror { .. } | Step::StopMirror | Step::Drain => Thing::Mirror,
            Step::TakeAddresses | Step::GiveUpAddresses => Thing::Addresses,
            Step::StartApplication | Step::StopApplication { .. } => Thing::Application,
        }
    }
}

/// Run a module until it is ended, or its inputs are closed. `publish` is called with what the node says of it whenever that changes.
pub async fn run<E: Edges>(
    parts: Parts<E>,
    inputs: Inputs,
    mut incoming: mpsc::UnboundedReceiver<Input>,
    publish: impl Fn(Report) + Send + 'static,
) {
    let Parts { name, config, standing, file, history, edges } = parts;
    let mut runner = Runner {
        name,
        controller: Controller::new(config, standing, Time(0)),
        file,
        history,
        edges,
        inputs,
        began: Instant::now(),
        answers: HashMap::new(),
        next_answer: 0,
        ended: None,
        under_way: HashMap::new(),
        beside: JoinSet::new(),
        publish: Box::new(publish),
    };
    runner.event(Event::Tick).await;
    loop {
        let now = runner.now();
        let wait = runner.controller.next_deadline().map(|at| at.since(now));
        tokio::select! {
            input = incoming.recv() => match input {
                Some(Input::End(answer)) => {
                    let ends = runner.ends().await;
                    // Who asked may be gone; it must not have to ask again whether it has ended.
                    if answer.send(ends).is_ok() && ends {
                        return;
                    }
                }
                Some(input) => runner.input(input).await,
                None => return,
            },
            () = tokio::time::sleep(wait.unwrap_or(Duration::MAX)), if wait.is_some() => runner.event(Event::Tick).await,
        }
    }
}

impl<E: Edges> Runner<E> {
    fn now(&self) -> Time {
        Time(u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    async fn input(&mut self, input: Input) {
        match input {
            Input::Event(event) => self.event(event).await,
            Input::Command(command, answer) => {
                self.next_answer += 1;
                self.answers.insert(self.next_answer, answer);
                self.event(Event::Command(self.next_answer, command)).await;
            }
            Input::Shutdown(ended) => {
                self.ended = Some(ended);
                self.event(Event::Shutdown).await;
            }
            Input::Tell(what) => self.tell(what),
            // Who asked may be gone.
            Input::Probe(answer) => drop(answer.send(())),
            Input::History(count, answer) => drop(answer.send(self.history.last(count))),
            // It is the loop that ends.
            Input::End(answer) => drop(answer.send(false)),
        }
    }

    /// Whether it may end: it is stopped, and nothing of it runs. What was begun and matters no more has ended then, too.
    async fn ends(&mut self) -> bool {
        let stopped = self.controller.report().word == Word::Stopped;
        if !stopped || !self.controller.is_at_rest() || self.ended.is_some() {
            return false;
        }
        for (_, (_, task)) in self.under_way.drain() {
            // All that is left of it is its end.
            let _ = task.await;
        }
        while self.beside.join_next().await.is_some() {}
        true
    }

    /// Let something go on beside the module's steps.
    fn beside(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        while self.beside.try_join_next().is_some() {}
        self.beside.spawn(task);
    }

    async fn event(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.controller.handle(self.now(), event, &mut actions);
        for action in actions {
            self.perform(action).await;
        }
        if self.controller.is_at_rest()
            && let Some(ended) = self.ended.take()
        {
            // Who waited may be gone.
            let _ = ended.send(());
        }
    }

    async fn perform(&mut self, action: Action) {
        match action {
            Action::Publish(report) => (self.publish)(*report),
            Action::Remember(standing) => self.remember(standing).await,
            Action::Step(step) => self.step(step),
            Action::Outdate(term) => {
                let (edges, inputs) = (Arc::clone(&self.edges), self.inputs.clone());
                self.beside(async move {
                    let result = edges.outdate(term).await;
                    report(&inputs, "mark the copy as outdated", &result);
                    let failed = result.is_err();
                    send(&inputs, Event::Outdated(term, result.map_err(drop)));
                    if failed {
                        edges.not_outdated();
                    }
                });
            }
            Action::GoAlone(term) => {
                let edges = Arc::clone(&self.edges);
                self.beside(async move { edges.go_alone(term).await });
            }
            Action::AskArbiter(term) => {
                let (edges, inputs) = (Arc::clone(&self.edges), self.inputs.clone());
                self.beside(async move {
                    let verdict = edges.ask_arbiter(term).await;
                    send(&inputs, Event::Arbiter(term, verdict));
                });
            }
            Action::Announce => self.edges.announce(),
            Action::Answer(number, answer) => {
                if let Some(waiting) = self.answers.remove(&number) {
                    // Who asked may be gone.
                    let _ = waiting.send(answer);
                }
            }
            Action::Tell(cause) => self.tell_cause(cause),
        }
    }

    /// In order with the other orders: what is started after it may rely on it.
    async fn remember(&mut self, standing: Standing) {
        let file = self.file.clone();
        let stored = tokio::task::spawn_blocking(move || file.store(standing)).await;
        let error = match stored {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        self.tell(format!("what the module is to do after a restart cannot be recorded: {error}"));
    }

    fn step(&mut self, step: Step) {
        let thing = Thing::of(step);
        if let Some((broken_off, former)) = self.under_way.remove(&thing)
            && !former.is_finished()
        {
            former.abort();
            // Each step has its answer, and this one before the one that broke it off.
            send(&self.inputs, Event::Done(broken_off, Err(())));
        }
        let (edges, inputs) = (Arc::clone(&self.edges), self.inputs.clone());
        let task = tokio::spawn(async move {
            let result = edges.step(step).await;
            report(&inputs, name_of(step), &result);
            send(&inputs, Event::Done(step, result.map_err(drop)));
            edges.ended(step);
        });
        self.under_way.insert(thing, (step, task));
    }

    fn tell_cause(&mut self, cause: Cause) {
        self.tell(words::cause(cause).to_owned());
    }

    fn tell(&mut self, what: String) {
        let state = words::word(self.controller.report().word);
        tracing::info!(module = %self.name, state, "{what}");
        self.history.tell(state, what);
    }
}

fn name_of(step: Step) -> &'static str {
    match step {
        Step::StartMirror { .. } => "start the mirror",
        Step::StopMirror => "stop the mirror",
        Step::Drain => "send the peer all it lacks",
        Step::TakeAddresses => "take the addresses",
        Step::GiveUpAddresses => "give up the addresses",
        Step::StartApplication => "start the application",
        Step::StopApplication { .. } => "stop the application",
    }
}

/// Failures go to the history with their reason; the controller needs only that there was one.
fn report(inputs: &Inputs, what: &str, result: &Result<(), String>) {
    if let Err(why) = result {
        // A runner that is gone needs no history.
        let _ = inputs.send(Input::Tell(format!("cannot {what}: {why}")));
    }
}

fn send(inputs: &Inputs, event: Event) {
    // A runner that is gone has no use for it.
    let _ = inputs.send(Input::Event(event));
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::Mode;
    use replicator_core::cluster::{NodeId, Verdict};
    use replicator_core::ids::Term;

    use super::*;

    /// Everything ends well at once.
    struct Obliging;

    impl Edges for Obliging {
        async fn step(&self, _: Step) -> Result<(), String> {
            Ok(())
        }

        async fn outdate(&self, _: Term) -> Result<(), String> {
            Ok(())
        }

        async fn go_alone(&self, _: Term) {}

        async fn ask_arbiter(&self, _: Term) -> Verdict {
            Verdict::Unreachable
        }

        fn announce(&self) {}
    }

    #[tokio::test]
    async fn a_controller_that_hangs_answers_no_probe() {
        let place = tempfile::tempdir().unwrap();
        // What is to be remembered goes into a pipe that nobody reads: a disk that does not answer.
        let pipe = place.path().join("standing.json.new");
        nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        let (inputs, incoming) = mpsc::unbounded_channel();
        let parts = Parts {
            name: "web".to_owned(),
            config: Config::new(NodeId([1; 16]), NodeId([2; 16])),
            standing: Standing::default(),
            file: StandingFile::new(place.path()).unwrap(),
            history: History::open(place.path(), "alpha"),
            edges: Arc::new(Obliging),
        };
        let task = tokio::spawn(run(parts, inputs.clone(), incoming, |_| {}));
        let probe = || {
            let (answer, answered) = oneshot::channel();
            inputs.send(Input::Probe(answer)).unwrap();
            answered
        };
        probe().await.unwrap();
        let (answer, told) = oneshot::channel();
        inputs.send(Input::Command(Command::Start, answer)).unwrap();
        let mut answered = probe();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(answered.try_recv().is_err(), "it hangs, and is taken for alive");
        // Opened for both, so that this does not hang either.
        let reader = std::fs::File::options().read(true).write(true).open(&pipe).unwrap();
        answered.await.unwrap();
        told.await.unwrap().unwrap();
        drop((reader, inputs));
        task.abort();
    }
}
