//! The registers: what one holds, changed by the rule of [`crate::arbiter::register`], durable before anything is said.
//!
//! Each register has a lock of its own, so one whose disk is slow does not hold up the others. In memory it is in one of these states:
//!
//! ```text
//!   Untouched --- its file was read and made durable ---> Settled --- a change begins ---> InDoubt
//!       ^ a damaged file: refused, and read again next time  ^                               |
//!                                                             '--- the change is durable ----'
//! ```
//!
//! A change that failed before the rename goes back to Settled with the old value. One that failed later stays in doubt until the
//! process ends: what is in the page cache may not be on the disk, and asking the disk once more does not tell (a failed fsync is
//! not retried).

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::fcntl::Flock;
use replicator_core::ids::Term;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;

use super::directory::Directory;
use super::error::RegisterError;
use super::{files, record};
use crate::arbiter::protocol::{Operation, Request, Status};
use crate::arbiter::register::{Decision, decide};
use crate::arbiter::{Known, RegisterName, Value, WitnessId, trust};

/// What is known of a register's file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Slot {
    /// Nothing.
    #[default]
    Untouched,
    /// It holds this, durably.
    Settled(Option<Value>),
    /// It holds the old or the new value.
    InDoubt,
}

type SharedSlot = Arc<AsyncMutex<Slot>>;

/// What is to be answered.
pub(super) type Reply = (Status, Option<Value>);

/// All registers of a witness.
#[derive(Debug)]
pub(super) struct Store {
    directory: Directory,
    registers_max: usize,
    slots: Mutex<HashMap<RegisterName, SharedSlot>>,
    // Held while the store lives, that is until the last request is done.
    _lock: Flock<File>,
}

impl Store {
    /// Work on this directory, alone.
    ///
    /// # Errors
    /// Those of [`Directory::lock`].
    pub(super) fn new(directory: Directory, registers_max: usize) -> Result<Store, super::WitnessError> {
        let lock = directory.lock()?;
        Ok(Store { directory, registers_max, slots: Mutex::default(), _lock: lock })
    }

    /// The directory.
    pub(super) fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Answer a request whose proof holds. `None`: for all of `patience` the register was busy with other requests (its disk is slow):
    /// nothing was done.
    pub(super) async fn answer(self: &Arc<Self>, request: Request, patience: Duration) -> Option<Reply> {
        if request.witness != self.directory.identity() {
            return Some((Status::OtherWitness, None));
        }
        if let Operation::Acquire(asked) = &request.operation
            && (asked.term == Term(0) || asked.term == Term(u64::MAX))
        {
            return Some((Status::Senseless, None));
        }
        let register = request.register.clone();
        let slot = self.slots().entry(register.clone()).or_default().clone();
        // Without a bound, those who have long gone would keep the places of others.
        let mut held = timeout(patience, slot.clone().lock_owned()).await.ok()?;
        let store = self.clone();
        // Once begun, it is carried to its end, whether or not the node still waits.
        let done = tokio::task::spawn_blocking(move || store.apply(&mut held, &request)).await;
        self.forget(&register, slot);
        Some(match done {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => {
                tracing::error!("{error}");
                (status_of(&error), None)
            }
            Err(error) => {
                tracing::error!(%error, "a request was not carried to its end");
                (Status::NotDurable, None)
            }
        })
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<RegisterName, SharedSlot>> {
        // Nothing is done under this lock that could leave the map in pieces.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keep no memory for a register that holds nothing and that nobody else asks for, so that questions do not add up.
    fn forget(&self, register: &RegisterName, slot: SharedSlot) {
        let mut slots = self.slots();
        let empty = slot.try_lock().is_ok_and(|slot| matches!(*slot, Slot::Untouched | Slot::Settled(None)));
        // The map's and this one: with the map locked, nobody can take another.
        if empty && Arc::strong_count(&slot) == 2 {
            slots.remove(register);
        }
    }

    fn apply(&self, slot: &mut Slot, request: &Request) -> Result<Reply, RegisterError> {
        let stored = self.settle(slot, &request.register)?;
        let known = Known { witness: request.witness, term: request.known };
        let term = stored.map(|value| value.term);
        if trust(Some(known), self.directory.identity(), term).is_err() {
            let register = &request.register;
            tracing::error!(%register, known = %request.known, held = ?term, "a node knows of a later grant: is this an old copy of the directory?");
            return Ok((Status::Behind, stored));
        }
        let asked = match &request.operation {
            Operation::Read => return Ok((Status::Holds, stored)),
            Operation::Acquire(asked) => *asked,
        };
        match decide(stored, asked) {
            Decision::Refuse(current) => {
                tracing::info!(register = %request.register, %asked, %current, "refused");
                Ok((Status::Refused, Some(current)))
            }
            Decision::Grant(value) if stored == Some(value) => Ok((Status::Granted, stored)),
            Decision::Grant(value) => {
                self.change(slot, &request.register, stored, value)?;
                let before = stored.map_or_else(|| "nothing".to_owned(), |value| value.to_string());
                tracing::info!(register = %request.register, now = %value, %before, "granted");
                Ok((Status::Granted, Some(value)))
            }
        }
    }

    /// What the register holds, durably.
    fn settle(&self, slot: &mut Slot, register: &RegisterName) -> Result<Option<Value>, RegisterError> {
        match *slot {
            Slot::Settled(value) => return Ok(value),
            Slot::InDoubt => return Err(RegisterError::InDoubt { register: register.clone() }),
            Slot::Untouched => {}
        }
        let path = self.directory.register_path(register);
        // One more than there can be, so that a longer file is noticed.
        let bytes = files::read_durable(&path, record::REGISTER_BYTES as u64 + 1).map_err(|failed| {
            let (register, path) = (register.clone(), path.clone());
            RegisterError::Unreadable { register, path, operation: failed.step, source: failed.source }
        })?;
        let value = match bytes {
            None => None,
            Some(bytes) => Some(self.decode(&bytes, register).map_err(|why| RegisterError::Damaged {
                register: register.clone(),
                path,
                why,
            })?),
        };
        *slot = Slot::Settled(value);
        Ok(value)
    }

    fn decode(&self, bytes: &[u8], register: &RegisterName) -> Result<Value, &'static str> {
        let identity: WitnessId = self.directory.identity();
        record::decode_register(bytes, identity, register)
    }

    /// Let the register hold `value`, durably.
    fn change(
        &self,
        slot: &mut Slot,
        register: &RegisterName,
        stored: Option<Value>,
        value: Value,
    ) -> Result<(), RegisterError> {
        let path = self.directory.register_path(register);
        let failed = |operation, source| {
            let (register, path) = (register.clone(), path.clone());
            RegisterError::NotWritten { register, path, operation, source }
        };
        if stored.is_none() {
            self.make_room(register, &failed)?;
        }
        let bytes = record::encode_register(self.directory.identity(), register, &value);
        *slot = Slot::InDoubt;
        match files::replace(&path, &bytes) {
            Ok(()) => {
                *slot = Slot::Settled(Some(value));
                Ok(())
            }
            Err(error) if error.in_doubt => {
                tracing::error!(%register, step = error.step, source = %error.source, "a change could not be made durable");
                Err(RegisterError::InDoubt { register: register.clone() })
            }
            Err(error) => {
                *slot = Slot::Settled(stored);
                Err(failed(error.step, error.source))
            }
        }
    }

    /// A directory for the first register of a cluster, and a bound on their number. Requests for several new ones at the same moment
    /// may each find the last place free; the next one does not.
    fn make_room(
        &self,
        register: &RegisterName,
        failed: &impl Fn(&'static str, io::Error) -> RegisterError,
    ) -> Result<(), RegisterError> {
        let directory = self.directory.registers_path(register.cluster);
        files::make_directory(&directory).map_err(|error| failed(error.step, error.source))?;
        let entries = fs::read_dir(&directory).map_err(|source| failed("list the directory of", source))?;
        let registers = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().as_encoded_bytes().ends_with(b".register"))
            .count();
        if registers >= self.registers_max {
            return Err(RegisterError::Full { register: register.clone(), limit: self.registers_max });
        }
        Ok(())
    }
}

fn status_of(error: &RegisterError) -> Status {
    match error {
        RegisterError::Damaged { .. } | RegisterError::Unreadable { .. } => Status::Unreadable,
        RegisterError::NotWritten { .. } | RegisterError::InDoubt { .. } => Status::NotDurable,
        RegisterError::Full { .. } => Status::Full,
    }
}
