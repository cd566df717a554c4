//! Verifications: while all goes on, they find nothing, because nothing differs but what is on its way. At the end somebody else
//! changes something in the copy: that is found, and nothing else, and healed.

use std::collections::BTreeMap;

use replicator_core::verify::VerifyRequest;

use super::*;
use crate::replica::{Corruption, Seen};

/// Bound on a verification at the end, in steps.
const STEPS_TO_VERIFY: u64 = 200_000;

/// When is verified, and what came of it.
#[derive(Debug)]
pub(super) struct Verification {
    /// Draws of its own, so that worlds in which nothing is verified are what they were.
    random: Random,
    active: bool,
    number: u64,
    /// The resync that was asked for last.
    asked: u64,
    /// Counted as come to its end.
    ended: u64,
    /// What is wrong with the copy, if anything is.
    corrupted: Option<(FileId, Corruption)>,
    found: Vec<(FileId, Difference)>,
}

impl Verification {
    pub(super) fn draw(seed: u64) -> Verification {
        let mut random = Random::new(seed ^ 0x5EED_0F7E_21F1);
        let active = random.chance(40);
        Verification { random, active, number: 0, asked: 0, ended: 0, corrupted: None, found: Vec::new() }
    }
}

impl Verification {
    /// Whether directories were listed again because an operator wanted it.
    pub(super) fn has_asked(&self) -> bool {
        self.asked > 0
    }

    pub(super) fn is_corrupted(&self) -> bool {
        self.corrupted.is_some()
    }
}

impl World {
    /// The state of the verification that was asked for last.
    fn verify_state(&self) -> Option<VerifyState> {
        let progress = self.primary.snapshot().verify?;
        (progress.number == self.verification.number).then_some(progress.state)
    }

    fn request_verify(&mut self, repair: bool) {
        self.verification.number += 1;
        let bytes_per_second = self.verification.random.chance(30).then_some(2_000_000);
        let request = VerifyRequest { number: self.verification.number, repair, bytes_per_second };
        self.tell_primary(Event::VerifyRequested(request));
    }

    /// An operator has something compared, or nothing.
    fn request_resync(&mut self) {
        let files: Vec<u64> = self.files.files.keys().copied().collect();
        let files = match self.verification.random.below(3) {
            0 => Vec::new(),
            1 => (0..self.shape.volumes).map(|volume| id(root_of(VolumeId(volume)))).collect(),
            _ => self.verification.random.one(&files).map(id).into_iter().collect(),
        };
        self.verification.asked += 1;
        self.tell_primary(Event::ResyncRequested { number: self.verification.asked, files });
    }

    /// While everything goes on.
    pub(super) fn verify_sometimes(&mut self) {
        if !self.verification.active
            || !self.faults
            || !matches!(self.sabotage, Sabotage::None | Sabotage::LostWrites)
        {
            return;
        }
        let state = self.verify_state();
        if state == Some(VerifyState::Done) && self.verification.ended < self.verification.number {
            self.verification.ended = self.verification.number;
            self.stats.verified += 1;
            self.stats.unsettled += self.primary.snapshot().verify.map_or(0, |progress| progress.unsettled);
        }
        let under_way = matches!(state, Some(VerifyState::Running | VerifyState::Healing));
        if self.verification.random.below(1500) == 0 {
            self.request_resync();
        }
        if under_way && self.verification.random.below(2000) == 0 {
            self.tell_primary(Event::VerifyStopped);
        } else if !under_way
            && self.verification.random.chance(5)
            && self.primary.snapshot().phase == Phase::Mirrored
        {
            let repair = self.verification.random.chance(50);
            self.request_verify(repair);
        }
    }

    pub(super) fn found_different(&mut self, file: FileId, difference: Difference) {
        if matches!(difference, Difference::UnreadableHere(..)) && self.faults {
            return;
        }
        match self.verification.corrupted {
            Some((corrupted, _)) if corrupted == file => self.verification.found.push((file, difference)),
            about => self.fail(format!("no-false-difference: {file:?} {difference:?}, corrupted {about:?}")),
        }
    }

    pub(super) fn read_to_verify(
        &mut self,
        read: ReadId,
        file: FileId,
        part: VerifyPart,
        fine: bool,
    ) -> ReadOutcome<Looked> {
        let Some(found) = self.files.files.get(&inode_of(file)) else { return ReadOutcome::Gone };
        if self.faults && self.random.chance(2) {
            return ReadOutcome::Failed(EIO);
        }
        let size = found.cells.len() as u64;
        let (seen, end) = match part {
            VerifyPart::State => (Seen::State(found.kind, found.attributes, size), size),
            VerifyPart::Names if found.kind != FileKind::Directory || found.links == 0 => {
                return ReadOutcome::Gone;
            }
            VerifyPart::Names => {
                let entry = |(name, inode): (&String, &u64)| {
                    (name.clone().into_bytes(), (id(*inode), self.files.files[inode].kind))
                };
                (Seen::Names(found.entries.iter().map(entry).collect::<BTreeMap<_, _>>()), 0)
            }
            VerifyPart::Contents(extent) => {
                let end = extent.end.min(size).max(extent.start);
                let cells = found.cells.get(extent.start as usize..end as usize).unwrap_or_default();
                (Seen::Contents(cells.to_vec(), if fine { 2 } else { 4 }), end)
            }
        };
        self.held_reads.insert(read, Payload::Verify(seen));
        ReadOutcome::Read(Looked { end, bytes: 4096 })
    }

    /// Whether all is done that was asked for.
    pub(super) fn has_done_what_was_asked(&self) -> bool {
        self.primary
            .snapshot()
            .asked
            .is_none_or(|asked| asked.done || asked.number != self.verification.asked)
    }

    /// Both copies are the same. Change something in one, find it, heal it.
    pub(super) fn verify_at_the_end(&mut self) -> Result<(), String> {
        if !self.verification.active || self.sabotage != Sabotage::None || !self.may_verify() {
            return Ok(());
        }
        let Some((file, corruption)) = self.replica.corrupt(&mut self.verification.random) else {
            return Ok(());
        };
        self.verification.corrupted = Some((file, corruption));
        for repair in [false, true] {
            self.request_verify(repair);
            self.run_to_the_end_of_verify(file)?;
            let found = std::mem::take(&mut self.verification.found);
            let is_it = |(_, difference): &(FileId, Difference)| match (difference, corruption) {
                (Difference::Details(VerifyPart::State, _), Corruption::State)
                | (Difference::Details(VerifyPart::Names, _), Corruption::Names) => true,
                (Difference::Contents(extents), Corruption::Contents(at)) => {
                    let end = (at / 2 * 2 + 2).min(self.files.files[&inode_of(file)].cells.len() as u64);
                    *extents == [Extent { start: at / 2 * 2, end }]
                }
                _ => false,
            };
            if found.len() != 1 || !found.iter().all(is_it) {
                return Err(format!("found-and-healed: {file:?} {corruption:?}, found {found:?}"));
            }
        }
        self.stats.corrupted += 1;
        for _ in 0..STEPS_TO_VERIFY {
            self.step();
            if self.is_quiet() {
                return self.check_same_tree();
            }
        }
        Err(format!("found-and-healed: not healed: {:?}", self.primary.snapshot()))
    }

    /// The present session may be of a version that has no verification.
    fn may_verify(&mut self) -> bool {
        self.request_verify(false);
        let may = self.verify_state() != Some(VerifyState::Refused);
        self.tell_primary(Event::VerifyStopped);
        may
    }

    /// The application goes on, but leaves that file alone.
    fn run_to_the_end_of_verify(&mut self, corrupted: FileId) -> Result<(), String> {
        for _ in 0..STEPS_TO_VERIFY {
            if self.verification.random.chance(3) {
                let mut others = self.files.of_kind(FileKind::Regular);
                others.retain(|inode| id(*inode) != corrupted);
                match self.verification.random.below(3) {
                    0 => self.truncate_something(&others),
                    1 => self.store_something(&others),
                    _ => self.write_something(&others),
                }
            }
            self.step();
            if let Some(reason) = self.failure.take() {
                return Err(reason);
            }
            if self.verify_state() == Some(VerifyState::Done) {
                return Ok(());
            }
        }
        Err(format!("found-and-healed: no end: {:?}\n{:?}", self.primary.snapshot(), self.primary))
    }
}
