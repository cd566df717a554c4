//! What whoever decides on roles tells this node: answered when it is on record, or at once if it is passed over.

use std::sync::mpsc::SyncSender;

use replicator_core::action::{DataState, Phase};
use replicator_core::event::Event;
use replicator_core::ids::Term;
use replicator_core::snapshot::Snapshot;

use super::engine::{Engine, Role};

/// How it is answered. Room for one answer, so that to give it never waits.
pub type Answer = SyncSender<Result<(), String>>;

/// What is to be on record, and who waits for it.
pub struct Told {
    what: What,
    term: Term,
    answer: Answer,
}

#[derive(Clone, Copy)]
enum What {
    Alone,
    Outdated,
}

impl Told {
    fn is_recorded(&self, snapshot: &Snapshot) -> bool {
        let record = snapshot.record;
        record.term >= self.term
            && match self.what {
                What::Alone => record.alone && snapshot.asks.is_none(),
                // What is being replaced is not whole either.
                What::Outdated => record.data <= DataState::Outdated,
            }
    }

    /// Whether it will not be: the absence that it was about is over.
    fn is_over(&self, snapshot: &Snapshot) -> bool {
        matches!(self.what, What::Alone) && snapshot.asks.is_some()
    }
}

impl<R: Role> Engine<R> {
    pub(super) fn on_go_alone(&mut self, term: Term, absence: Option<u64>, answer: Answer) {
        let before = self.core.node.snapshot();
        self.core.tell(Event::GoAlone { term, absence });
        self.settle();
        let after = self.core.node.snapshot();
        // One that runs alone holds callers until a higher term is on record.
        let raised = (before.phase, after.phase) == (Phase::Alone, Phase::Holding);
        let refused = match (before.asks, after.asks) {
            (Some(_), None) => None,
            (None, _) if raised => None,
            (None, _) if before.record.alone && before.record.term >= term => None,
            (None, _) => {
                Some("it does not ask: both nodes hold the same, or it goes on alone as it is".to_owned())
            }
            (Some(asks), Some(_)) => {
                let heard = before.deposed.unwrap_or_default().max(before.record.term);
                Some(format!(
                    "it asks in its absence {asks} of the peer, for a term that is not lower than {heard}"
                ))
            }
        };
        self.wait_for(Told { what: What::Alone, term, answer }, refused);
    }

    pub(super) fn on_outdate(&mut self, term: Term, answer: Answer) {
        self.core.tell(Event::Outdate { term });
        self.settle();
        let known = self.core.node.snapshot().record.term;
        let refused = (known > term).then(|| format!("it knows of term {known}"));
        self.wait_for(Told { what: What::Outdated, term, answer }, refused);
    }

    fn wait_for(&mut self, told: Told, refused: Option<String>) {
        match refused {
            // Whoever asked may have gone.
            Some(why) => drop(told.answer.try_send(Err(why))),
            None => {
                self.core.told.push(told);
                self.review_told();
            }
        }
    }

    /// Answer what is on record by now.
    pub(super) fn review_told(&mut self) {
        if self.core.told.is_empty() {
            return;
        }
        let snapshot = self.core.node.snapshot();
        self.core.told.retain(|told| {
            let over =
                || Err("the peer was back before it was on record, or its absence is another one".to_owned());
            let result = match (told.is_recorded(&snapshot), told.is_over(&snapshot)) {
                (true, _) => Ok(()),
                (false, true) => over(),
                (false, false) => return true,
            };
            drop(told.answer.try_send(result));
            false
        });
    }
}
