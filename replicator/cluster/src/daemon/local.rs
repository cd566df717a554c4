//! The edges of one module on this node.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use replicator_core::cluster::posture::Step;
use replicator_core::cluster::{CheckAction, Event, Role, Verdict};
use replicator_core::ids::Term;
use replicator_core::lineage::GenerationId;
use tokio::sync::{Mutex as Turns, mpsc};

use super::edges::Edges;
use super::known::KnownFile;
use super::mirror::{Mirror, Watched};
use super::runner::{Input, Inputs};
use crate::address::{AddressConfig, AddressError, AddressEvent, AddressStatus, Addresses};
use crate::arbiter::{self, Acquire, AnyArbiter, Arbiter, NodeId, RegisterName, Strength};
use crate::held::lock;
use crate::module::{
    self, Application, CheckerEvent, CheckerStatus, Checkers, Circumstances, Description, Phase,
};

/// Longest time an arbiter may take to answer. It is asked again.
const ARBITER_WITHIN: Duration = Duration::from_secs(2);
/// Findings of checkers that wait to be taken in.
const FINDINGS: usize = 64;

/// Who decides between the nodes, for one module.
#[derive(Debug)]
pub struct Judge {
    /// Whom to ask.
    pub arbiter: Arc<AnyArbiter>,
    /// For what.
    pub register: RegisterName,
    /// This node.
    pub node: NodeId,
    /// What is known of it.
    pub known: KnownFile,
}

/// Where and what a module is on this node.
#[derive(Debug)]
pub struct Setup {
    /// Its description.
    pub description: Arc<Description>,
    /// Where its files lie.
    pub paths: module::Paths,
    /// Where the addresses are recorded: need not survive a restart of the machine.
    pub run: PathBuf,
    /// Who decides between the nodes, if anybody.
    pub judge: Option<Judge>,
    /// This node's name and the peer's.
    pub names: (String, String),
}

/// The edges of a module.
pub struct Local<M> {
    mirror: Arc<Watched<M>>,
    application: Turns<Application>,
    /// The application was looked after at least once: nothing of an earlier life is left.
    prepared: AtomicBool,
    addresses: Addresses,
    judge: Option<Judge>,
    /// What is wrong with the arbiter, told once.
    distrust: Mutex<Option<String>>,
    checkers: Mutex<Option<Checkers>>,
    maintenance: AtomicBool,
    circumstances: Mutex<Circumstances>,
    peer_alive: AtomicBool,
    inputs: Inputs,
}

impl<M: Mirror> Local<M> {
    /// The edges of a module, with its mirror. What a dead daemon left of its addresses is removed.
    ///
    /// # Errors
    /// The addresses make no sense, or what was left cannot be removed.
    pub fn new(setup: Setup, mirror: M, inputs: Inputs) -> Result<Arc<Local<M>>, AddressError> {
        let Setup { description, paths, run, judge, names: (node, peer) } = setup;
        let (tell, happened) = mpsc::unbounded_channel();
        let addresses = Addresses::new(address_configs(&description), &run, tell)?;
        for (address, interface) in addresses.recover()?.foreign {
            tracing::warn!(module = description.name, %address, interface, "the system itself has this virtual address; it must not");
        }
        let circumstances = Circumstances { node, peer, ..Circumstances::default() };
        let local = Arc::new(Local {
            mirror: Watched::new(mirror, inputs.clone()),
            application: Turns::new(Application::new(description, &paths)),
            prepared: AtomicBool::new(false),
            addresses,
            judge,
            distrust: Mutex::default(),
            checkers: Mutex::default(),
            maintenance: AtomicBool::new(false),
            circumstances: Mutex::new(circumstances),
            peer_alive: AtomicBool::new(false),
            inputs,
        });
        tokio::spawn(listen(Arc::downgrade(&local), happened));
        Ok(local)
    }

    /// What the mirror says of itself, for people.
    pub async fn mirror_tells(&self) -> String {
        self.mirror.told().await
    }

    /// What scripts are told.
    pub fn set_circumstances(&self, change: impl FnOnce(&mut Circumstances)) {
        change(&mut lock(&self.circumstances));
    }

    /// Whether the peer is heard: only then somebody could answer for an address.
    pub fn set_peer_alive(&self, alive: bool) {
        self.peer_alive.store(alive, Ordering::Release);
    }

    /// Checkers show what they find and do nothing about it.
    pub fn set_maintenance(&self, on: bool) {
        self.maintenance.store(on, Ordering::Release);
        if let Some(checkers) = &*lock(&self.checkers) {
            checkers.set_maintenance(on);
        }
    }

    /// Whether maintenance is on.
    pub fn maintenance(&self) -> bool {
        self.maintenance.load(Ordering::Acquire)
    }

    /// What each checker thinks.
    pub fn checkers(&self) -> Vec<CheckerStatus> {
        lock(&self.checkers).as_ref().map(Checkers::status).unwrap_or_default()
    }

    /// The state of the addresses.
    pub fn addresses(&self) -> Vec<AddressStatus> {
        self.addresses.status().unwrap_or_default()
    }

    /// Look at the conditions to start, from now on.
    pub async fn begin(self: &Arc<Self>) {
        let application = self.application.lock().await;
        self.look_after(&application, Phase::Waiting);
    }

    /// Nothing is looked at any more. For a module that is stopped.
    pub async fn end(&self) {
        // After whoever is just about to look.
        let application = self.application.lock().await;
        *lock(&self.checkers) = None;
        drop(application);
        self.mirror.end().await;
    }

    fn circumstances(&self) -> Circumstances {
        lock(&self.circumstances).clone()
    }

    fn tell(&self, input: Input) {
        // A module that is gone needs to know nothing.
        let _ = self.inputs.send(input);
    }

    // ---- the application ------------------------------------------------------------------------------------

    async fn start_application(&self, role: module::Role) -> Result<(), String> {
        let mut application = self.application.lock().await;
        application.start(role, &self.circumstances()).await.map_err(|error| error.to_string())?;
        self.prepared.store(true, Ordering::Release);
        self.look_after(&application, Phase::Role(role));
        Ok(())
    }

    async fn stop_application(&self, force: bool) -> Result<(), String> {
        *lock(&self.checkers) = None;
        let mut application = self.application.lock().await;
        let circumstances = self.circumstances();
        let stopped = if self.prepared.load(Ordering::Acquire) {
            application.stop(&circumstances, force).await.map(drop)
        } else {
            application.prepare(&circumstances).await.map(drop)
        };
        stopped.map_err(|error| error.to_string())?;
        self.prepared.store(true, Ordering::Release);
        self.look_after(&application, Phase::Waiting);
        Ok(())
    }

    /// What else runs on a secondary. That it fails is told, and keeps nobody from holding the copy.
    async fn secondary_scripts(&self, begins: bool) {
        let result = if begins {
            self.start_application(module::Role::Secondary).await
        } else {
            let mut application = self.application.lock().await;
            let circumstances = self.circumstances();
            if application.state() == module::State::Started(module::Role::Secondary) {
                *lock(&self.checkers) = None;
                let stopped = application.stop(&circumstances, false).await.map(drop);
                self.look_after(&application, Phase::Waiting);
                stopped.map_err(|error| error.to_string())
            } else {
                Ok(())
            }
        };
        if let Err(why) = result {
            self.tell(Input::Tell(format!("the scripts of a secondary: {why}")));
        }
    }

    async fn finish(&self) {
        let mut application = self.application.lock().await;
        if application.state() == module::State::Stopped
            && let Err(error) = application.finish(&self.circumstances()).await
        {
            self.tell(Input::Tell(format!("after the stop: {error}")));
        }
    }

    /// Begin to look in a phase, and tell what is found.
    fn look_after(&self, application: &Application, phase: Phase) {
        let (events, mut found) = mpsc::channel::<CheckerEvent>(FINDINGS);
        let checkers = Checkers::start(application, phase, &self.circumstances(), &events);
        checkers.set_maintenance(self.maintenance());
        let conditions: Vec<String> = checkers
            .status()
            .into_iter()
            .filter(|checker| checker.pre || checker.action == module::Action::Wait)
            .map(|checker| checker.checker)
            .collect();
        if phase == Phase::Waiting {
            self.tell(Input::Event(Event::Able(conditions.is_empty())));
        }
        *lock(&self.checkers) = Some(checkers);
        let inputs = self.inputs.clone();
        // Ends with the checkers, which alone can send.
        drop(events);
        tokio::spawn(async move {
            let mut up: std::collections::BTreeMap<String, bool> =
                conditions.into_iter().map(|name| (name, phase != Phase::Waiting)).collect();
            while let Some(event) = found.recv().await {
                let is_up = event.verdict == module::Verdict::Up;
                // A module that is gone needs to know nothing.
                let _ = inputs.send(Input::Tell(format!(
                    "checker {}: {}",
                    event.checker,
                    if is_up { "it works" } else { &event.reason }
                )));
                if let Some(condition) = up.get_mut(&event.checker) {
                    *condition = is_up;
                    let _ = inputs.send(Input::Event(Event::Able(up.values().all(|up| *up))));
                }
                if let Some(action) = event.action.and_then(check_action) {
                    let _ = inputs.send(Input::Event(Event::Check(action)));
                }
            }
        });
    }

    // ---- the arbiter ----------------------------------------------------------------------------------------

    async fn judge(&self, judge: &Judge, term: Term) -> Result<Verdict, String> {
        let known = judge.known.load()?;
        let generation = self.mirror.copy().map_or(GenerationId::NONE, |copy| copy.account.lineage.current);
        let request =
            Acquire { register: judge.register.clone(), term, holder: judge.node, generation, known };
        let outcome =
            judge.arbiter.acquire(&request, ARBITER_WITHIN).await.map_err(|error| error.to_string())?;
        if judge.arbiter.strength() == Strength::Exclusive {
            // What is not remembered may not be relied on later.
            judge.known.store(outcome.known)?;
        }
        Ok(match outcome.verdict {
            arbiter::Verdict::Won { .. } => Verdict::Won,
            arbiter::Verdict::Lost { current } => {
                Verdict::Lost { term: current.term, own: current.holder == judge.node }
            }
        })
    }
}

impl<M: Mirror> Edges for Local<M> {
    async fn step(&self, step: Step) -> Result<(), String> {
        match step {
            Step::StartMirror { role, .. } => {
                self.mirror.step(step).await?;
                if role == Role::Secondary {
                    self.secondary_scripts(true).await;
                }
                Ok(())
            }
            Step::StopMirror => {
                self.secondary_scripts(false).await;
                self.mirror.step(step).await?;
                self.finish().await;
                Ok(())
            }
            Step::Drain => self.mirror.step(step).await,
            Step::TakeAddresses => {
                let probe = self.peer_alive.load(Ordering::Acquire);
                self.addresses.take(probe).await.map(drop).map_err(|error| error.to_string())
            }
            Step::GiveUpAddresses => {
                // Within a second at most, and nothing of this node may go on before it is done.
                self.addresses.give_up().map(drop).map_err(|error| error.to_string())
            }
            Step::StartApplication => self.start_application(module::Role::Primary).await,
            Step::StopApplication { force } => self.stop_application(force).await,
        }
    }

    fn ended(&self, step: Step) {
        if step == Step::StopMirror {
            self.mirror.look_again();
        }
    }

    fn not_outdated(&self) {
        self.mirror.look_again();
    }

    async fn outdate(&self, term: Term) -> Result<(), String> {
        self.mirror.outdate(term).await
    }

    async fn go_alone(&self, term: Term) {
        self.mirror.go_alone(term).await;
    }

    async fn ask_arbiter(&self, term: Term) -> Verdict {
        let Some(judge) = &self.judge else { return Verdict::Unreachable };
        let answer = self.judge(judge, term).await;
        let mut distrust = lock(&self.distrust);
        match answer {
            Ok(verdict) => {
                *distrust = None;
                verdict
            }
            Err(why) => {
                if distrust.as_ref() != Some(&why) {
                    self.tell(Input::Tell(format!("{}: {why}", judge.arbiter.name())));
                    *distrust = Some(why);
                }
                Verdict::Unreachable
            }
        }
    }

    fn announce(&self) {
        self.addresses.announce();
    }
}

/// What happens to addresses that are held.
async fn listen<M: Mirror>(
    local: std::sync::Weak<Local<M>>,
    mut happened: mpsc::UnboundedReceiver<AddressEvent>,
) {
    while let Some(event) = happened.recv().await {
        let Some(local) = local.upgrade() else { return };
        match event {
            AddressEvent::Rival { address, mac } => {
                local.tell(Input::Tell(format!("{mac} claims to have {address}, too")));
                local.tell(Input::Event(Event::Rival));
            }
            AddressEvent::Lost { address } => {
                local.tell(Input::Tell(format!("{address} was taken away by somebody; it is taken again")));
                if let Err(error) = local.addresses.take(false).await {
                    local.tell(Input::Tell(format!("{address}: {error}")));
                }
            }
            AddressEvent::Carrier { interface, up } => {
                let what = if up { "has a carrier again" } else { "lost its carrier" };
                local.tell(Input::Tell(format!("{interface} {what}")));
            }
        }
    }
}

fn check_action(action: module::Action) -> Option<CheckAction> {
    Some(match action {
        module::Action::Restart => CheckAction::Restart,
        module::Action::StopStart => CheckAction::StopStart,
        module::Action::Swap => CheckAction::Swap,
        module::Action::Wait => CheckAction::Wait,
        module::Action::None => return None,
    })
}

fn address_configs(description: &Description) -> Vec<AddressConfig> {
    let config = |address: &module::Address| {
        // The prefix was checked with the description.
        let net =
            ipnet::IpNet::new(address.address, address.prefix).unwrap_or_else(|_| address.address.into());
        AddressConfig { address: net, interface: address.interface.clone(), probe: true, outgoing: false }
    };
    description.addresses.iter().map(config).collect()
}
