//! A node of the model: its controller, its record, its mirror, and what was ordered and is not carried out.

use std::collections::VecDeque;

use replicator_core::action::{DataState, StateRecord};
use replicator_core::cluster::{Config, Controller, MirrorView, NodeId, Report, Role, Standing, Verdict};
use replicator_core::ids::{Generation, Term, Time};
use replicator_core::lineage::{GenerationId, Lineage, Tag};

/// Ordered, and not carried out; in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    GoAlone(Term),
    Outdate(Term),
    Ask(Term),
    /// The arbiter's answer is on its way.
    Answer(Term, Verdict),
}

/// Where its end of the session stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum End {
    /// A resync is under way; the copy of the secondary is not whole.
    Syncing,
    /// The primary is not recorded to be alone any more; the peer may be told that it is up to date.
    Exposed,
    /// It holds the same, on record.
    Same,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub it: Controller,
    pub record: StateRecord,
    pub standing: Standing,
    pub role: Option<Role>,
    pub session: Option<End>,
    pub say: Option<Report>,
    pub alive: bool,
    pub heard: Option<Report>,
    pub orders: VecDeque<Order>,
}

pub fn config(node: usize) -> Config {
    let id = |node: usize| NodeId([node as u8 + 1; 16]);
    let mut config = Config::new(id(node), id(1 - node));
    config.arbiter = true;
    config
}

impl Node {
    pub fn new(node: usize) -> Node {
        let standing = Standing { started: true, was_active: node == 0, standby: false };
        let current = GenerationId { number: Generation(1), tag: Tag(1) };
        let record = StateRecord {
            term: Term(1),
            lineage: Lineage::beginning_with(current),
            data: DataState::UpToDate,
            ..StateRecord::unknown()
        };
        Node {
            it: Controller::new(config(node), standing, Time(0)),
            record,
            standing,
            role: None,
            session: None,
            say: None,
            alive: false,
            heard: None,
            orders: VecDeque::new(),
        }
    }

    /// Callers are answered by this node alone, with the term on record.
    pub fn answers_alone(&self) -> bool {
        let open = matches!(self.session, None | Some(End::Syncing));
        self.role == Some(Role::Primary) && self.record.alone && open
    }

    pub fn view(&self) -> MirrorView {
        MirrorView {
            connected: self.session.is_some(),
            mirrored: self.session == Some(End::Same),
            asks: self.role == Some(Role::Primary) && self.session.is_none() && !self.record.alone,
        }
    }
}
