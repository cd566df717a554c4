//! What the secondary has on record of its copy, for the case that it crashes: which file is which, as it was when something was confirmed last, or later.

use replicator_core::recovery::Recovered;
use replicator_core::resume::StreamId;

use super::*;

/// See the module.
#[derive(Clone, Debug)]
pub struct Register {
    stream: StreamId,
    generation: GenerationId,
    known: BTreeMap<FileId, u64>,
}

impl World {
    /// Whether this world's secondary keeps one.
    pub(super) fn draw_register(seed: u64) -> Option<Random> {
        let mut random = Random::new(seed ^ 0x4E61_57E4);
        random.chance(75).then_some(random)
    }

    fn register_of_now(&self) -> Option<Register> {
        let (stream, generation) = self.secondary.holds()?;
        let begun = self.secondary_disk.register.get().is_some();
        // It begins when all is known; from then on it follows.
        (begun || !self.replica.is_resyncing()).then(|| Register {
            stream,
            generation,
            known: self.replica.known.clone(),
        })
    }

    /// A secondary has something to go on from: that is where a crash shows most. Where the primary has, too, it may crash at the same moment.
    pub(super) fn crash_with_register(&mut self) {
        let established = self.secondary_disk.register.get().is_some();
        let Some(random) = self.register.as_mut().filter(|_| established) else { return };
        let crashes = random.chance(40);
        if crashes && self.safe_set.is_on() && random.chance(40) {
            match self.shape.power_cuts && random.chance(60) {
                true => self.cut_primary(),
                false => self.kill_primary(),
            }
        }
        let Some(random) = &mut self.register else { return };
        match crashes.then(|| random.chance(60)) {
            Some(true) => self.crash_secondary(),
            Some(false) => self.restart_secondary(),
            None => {}
        }
    }

    /// Before something is confirmed: all that was applied before is on record.
    pub(super) fn keep_register(&mut self) {
        let lags = self.sabotage == Sabotage::StaleRegister
            && self.secondary_disk.register.get().is_some()
            && self.random.chance(90);
        if self.register.is_none() || lags {
            return;
        }
        let register = self.register_of_now();
        self.secondary_disk.register.replace(register, Reached::Synced);
    }

    /// What is on record is worth nothing any more, where nothing is held.
    pub(super) fn review_register(&mut self) {
        if self.secondary.holds().is_none() {
            self.forget_register();
        }
    }

    pub(super) fn forget_register(&mut self) {
        if self.secondary_disk.register.get().is_some() {
            self.secondary_disk.register.replace(None, Reached::Synced);
        }
    }

    /// The secondary's process is gone. Records that nobody waited for may have been written.
    pub(super) fn end_register(&mut self) -> Option<Register> {
        let random = self.register.as_mut()?;
        let later = random.chance(50) && self.secondary_disk.register.get().is_some();
        let written = if later { self.register_of_now() } else { None };
        self.secondary_disk.register.settle();
        let found = written.or_else(|| self.secondary_disk.register.get().clone());
        // It is used once.
        self.forget_register();
        found
    }

    /// The next process goes on from it, unless others changed the copy meanwhile.
    pub(super) fn recover(&mut self, register: Option<Register>) {
        let (Some(register), Some(random)) = (register, self.register.as_mut()) else { return };
        let state = self.secondary_disk.record.get().lineage.current;
        if random.chance(5) || register.generation != state {
            return;
        }
        let mut odd = self.replica.recover(&register.known);
        if self.sabotage == Sabotage::StaleRegister {
            odd.clear();
        }
        let recovered = Recovered { stream: register.stream, odd };
        self.secondary.recover(Recovered::decode(&recovered.encode()).unwrap());
        self.stats.registers += 1;
    }
}
