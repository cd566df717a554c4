//! A node: what is on its disk, what runs on it.

use std::collections::VecDeque;

use replicator_core::action::{DataState, StateRecord};
use replicator_core::cluster::posture::Step;
use replicator_core::cluster::{Controller, CopyState, Report, Standing};
use replicator_core::ids::Term;
use replicator_core::reunion::Account;

use super::heartbeat::Heart;
use super::mirror::Process;
use super::world::Happening;

/// What survives a loss of power.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub record: Option<StateRecord>,
    pub standing: Standing,
    /// The numbered writes, in order.
    pub data: Vec<u64>,
}

impl Disk {
    pub fn record(&self) -> StateRecord {
        self.record.unwrap_or(StateRecord::unknown())
    }
}

/// What a record says, as the controller is told of it.
pub fn copy_of(record: &StateRecord, primary: bool) -> CopyState {
    CopyState {
        account: Account {
            lineage: record.lineage,
            data: record.data,
            primary,
            crashed: record.crashed || (record.running && !primary),
            lost: record.lost,
            marked: record.alone,
        },
        term: record.term,
        alone: record.alone,
    }
}

/// Whether the copy is whole by its record.
pub fn is_whole(record: &StateRecord) -> bool {
    matches!(record.data, DataState::UpToDate | DataState::Consistent)
}

/// A step that is under way.
#[derive(Clone, Copy, Debug)]
pub struct UnderWay {
    pub id: u64,
    pub step: Step,
    pub well: bool,
    /// Until it is told; a drain: until it fails.
    pub until: u64,
}

/// The daemon's process.
#[derive(Debug)]
pub struct Daemon {
    pub controller: Controller,
    /// Numbers its runs; what belongs to another one is not for this.
    pub epoch: u64,
    pub say: Option<Report>,
    pub heart: Heart,
    pub under_way: Vec<UnderWay>,
    /// The request to the arbiter that is waited for.
    pub asked: Option<(u64, Term)>,
    pub timer: Option<u64>,
    /// What the mirror was last told to be.
    pub told: Option<(u64, replicator_core::cluster::MirrorView, CopyState)>,
}

/// A machine.
#[derive(Debug, Default)]
pub struct Node {
    pub disk: Disk,
    /// It has power.
    pub up: bool,
    pub daemon: Option<Daemon>,
    pub process: Option<Process>,
    pub application: bool,
    pub addresses: bool,
    /// It does not run since then.
    pub paused: Option<u64>,
    /// What came meanwhile.
    pub inbox: VecDeque<Happening>,
    /// Its clock is so much behind the world's, ns.
    pub behind: u64,
    /// Failures of steps in a row: there is a bound to bad luck.
    pub failures: u32,
    /// The conditions to run are there.
    pub able: bool,
}

impl Node {
    /// It does something.
    pub fn runs(&self) -> bool {
        self.up && self.paused.is_none()
    }

    /// Its daemon does something.
    pub fn decides(&self) -> bool {
        self.runs() && self.daemon.is_some()
    }

    pub fn hears_peer(&self) -> bool {
        self.daemon.as_ref().is_some_and(|daemon| daemon.heart.alive)
    }
}
