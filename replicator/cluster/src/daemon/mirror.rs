//! What is asked of a module's mirror, and how it is watched.
//!
//! The mirror is a process of its own, which this package does not know: [`Mirror`] is carried out by whoever does. Orders and looks take
//! turns, and what a look finds is told before the next order begins: otherwise the controller could hear of a copy as it was before
//! it was outdated, and take it for whole.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use replicator_core::cluster::posture::Step;
use replicator_core::cluster::{CopyState, Event, MirrorView, Role};
use replicator_core::ids::Term;
use tokio::sync::{Mutex, Notify};

use super::runner::{Input, Inputs};
use crate::held::lock;

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// After so many looks in vain somebody is told.
const IN_VAIN: u32 = 20;

/// The mirror of one module on this node. Everything is bounded in time.
pub trait Mirror: Send + Sync + 'static {
    /// Start it; done when it serves its directories, or listens. Without `alone` a primary holds its callers until it has its
    /// peer, or is told to go alone. `force`: whatever its copy is.
    fn start(
        &self,
        role: Role,
        term: Term,
        alone: bool,
        force: bool,
    ) -> impl Future<Output = Result<(), String>> + Send;

    /// Stop it, by force in the end; also one that an earlier daemon left.
    fn stop(&self) -> impl Future<Output = Result<(), String>> + Send;

    /// Have all that the peer lacks sent and made durable there.
    fn drain(&self) -> impl Future<Output = Result<(), String>> + Send;

    /// While it does not run: mark the copy durably as outdated.
    fn outdate(&self, term: Term) -> impl Future<Output = Result<(), String>> + Send;

    /// Let a primary go on alone.
    fn go_alone(&self, term: Term) -> impl Future<Output = Result<(), String>> + Send;

    /// All that it says of itself, for people, as JSON; none: it does not answer.
    fn tell(&self) -> impl Future<Output = Option<String>> + Send;

    /// What it is, and its copy by its record.
    fn look(&self) -> impl Future<Output = Result<Look, String>> + Send;
}

/// What a look at a mirror finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    /// The process runs.
    pub running: bool,
    /// What it says.
    pub view: MirrorView,
    /// Its copy.
    pub copy: CopyState,
}

/// A mirror whose orders and looks take turns.
#[derive(Debug)]
pub struct Watched<M> {
    mirror: M,
    turn: Mutex<Turn>,
    again: Arc<Notify>,
    /// What was told last is to be told again.
    anew: AtomicBool,
    copy: std::sync::Mutex<Option<CopyState>>,
    inputs: Inputs,
}

#[derive(Default, Debug)]
struct Turn {
    /// The process is to run: it was started well and not stopped since.
    runs: bool,
    /// What was told last.
    told: Option<Look>,
    /// So many looks in a row found nothing.
    in_vain: u32,
    /// It is not looked at any more.
    over: bool,
}

impl<M: Mirror> Watched<M> {
    /// Watch a mirror, and tell what is found, until nobody has it any more.
    pub fn new(mirror: M, inputs: Inputs) -> Arc<Watched<M>> {
        let watched = Arc::new(Watched {
            mirror,
            turn: Mutex::default(),
            again: Arc::default(),
            anew: AtomicBool::new(false),
            copy: std::sync::Mutex::default(),
            inputs,
        });
        let weak = Arc::downgrade(&watched);
        tokio::spawn(async move {
            while let Some(watched) = weak.upgrade() {
                watched.look(&mut *watched.turn.lock().await).await;
                let again = Arc::clone(&watched.again);
                drop(watched);
                tokio::select! {
                    () = tokio::time::sleep(LOOK) => {}
                    () = again.notified() => {}
                }
            }
        });
        watched
    }

    /// What the mirror says of itself, whatever is under way; of one that does not answer, what was found of its copy last.
    pub async fn told(&self) -> String {
        match self.mirror.tell().await {
            Some(told) => told,
            None => format!("it does not answer; its copy, as it was found last: {:#?}\n", self.copy()),
        }
    }

    /// The copy, as it was found last.
    pub fn copy(&self) -> Option<CopyState> {
        *lock(&self.copy)
    }

    /// Look at once, and tell what is found though it is what was told last.
    pub fn look_again(&self) {
        self.anew.store(true, Ordering::Release);
        self.again.notify_one();
    }

    /// Do not look at it any more: when this returns nobody does, and another may be made of the same.
    pub async fn end(&self) {
        self.turn.lock().await.over = true;
    }

    async fn look(&self, turn: &mut Turn) {
        if turn.over {
            return;
        }
        match self.mirror.look().await {
            Ok(found) => {
                turn.in_vain = 0;
                *lock(&self.copy) = Some(found.copy);
                // What the record says after the end is told after it.
                if turn.runs && !found.running {
                    turn.runs = false;
                    turn.told = None;
                    self.tell(Event::MirrorEnded);
                }
                let anew = self.anew.swap(false, Ordering::AcqRel);
                if turn.told.replace(found) != Some(found) || anew {
                    self.tell(Event::Mirror(found.view, found.copy));
                }
            }
            Err(why) => {
                // One that is just ending, or starting, is not asked twice in vain for so long.
                turn.in_vain += 1;
                if turn.in_vain == IN_VAIN {
                    tracing::warn!(why, "cannot tell what the mirror does");
                }
            }
        }
    }

    fn tell(&self, event: Event) {
        // A module that is gone needs to know nothing.
        let _ = self.inputs.send(Input::Event(event));
    }

    /// Take a step that is about the mirror.
    ///
    /// # Errors
    /// For a person.
    pub async fn step(&self, step: Step) -> Result<(), String> {
        let mut turn = self.turn.lock().await;
        turn.runs = false;
        let result = match step {
            Step::StartMirror { role, term, alone, force } => {
                self.mirror.start(role, term, alone, force).await
            }
            Step::StopMirror => self.mirror.stop().await,
            Step::Drain => self.mirror.drain().await,
            _ => Err("this is not about the mirror".to_owned()),
        };
        if step != Step::StopMirror {
            // Before the end of an order is told, what it made of the copy is; after the end of the mirror what its record says.
            self.look(&mut turn).await;
        }
        turn.runs = match step {
            Step::StartMirror { .. } => result.is_ok(),
            Step::StopMirror => false,
            _ => true,
        };
        result
    }

    /// Mark the copy as outdated.
    ///
    /// # Errors
    /// For a person.
    pub async fn outdate(&self, term: Term) -> Result<(), String> {
        let mut turn = self.turn.lock().await;
        let result = self.mirror.outdate(term).await;
        self.look(&mut turn).await;
        result
    }

    /// Let it go on alone.
    pub async fn go_alone(&self, term: Term) {
        if let Err(why) = self.mirror.go_alone(term).await {
            // It is said again as long as it is not on record.
            tracing::debug!(why, "the mirror does not take the permission to go alone");
        }
    }
}
