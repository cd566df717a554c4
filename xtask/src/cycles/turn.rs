//! One cycle: load, an end, a look at who survived, a return, a look at both.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::load::Load;
use super::returned::{Bound, Returned};
use super::{End, Plan};
use crate::lab::crash_disk::Cut;
use crate::lab::mirror::Mirror;
use crate::lab::node::START_BOUND;
use crate::lab::power::Side;
use crate::lab::records::Random;
use crate::lab::wait;

/// Records of each writer before the end, at most so many more than the first.
const RECORDS: u64 = 25;

/// What is to be done.
pub struct Turn<'a> {
    pub cycle: u32,
    pub sides: &'static [Side],
    pub end: End,
    pub plan: &'a Plan,
}

/// What was found.
pub struct Done {
    sides: &'static [Side],
    pub acknowledged: u64,
    pub returned: Returned,
    cut: Option<Cut>,
    /// From the start of the daemon to a mirror.
    pub away: Duration,
}

impl Turn<'_> {
    /// # Errors
    /// A promise does not hold.
    pub fn run(&self, mirror: &mut Mirror, random: &mut Random) -> Result<Done> {
        let mut in_doubt = 0;
        if self.plan.require_bounded {
            let at_work = mirror
                .primary
                .wait_for("the safe set is at work", START_BOUND, |status| status.safe_set.on)?;
            // Files of the cycles before leave it only after a while.
            in_doubt = at_work.safe_set.files;
        }
        let mut load = Load::start(mirror, self.cycle, self.plan.writers)?;
        load.wait_for(1 + random.below(RECORDS))?;
        let cut = self.end(mirror, random)?;
        let primary_ended = self.sides.contains(&Side::Primary);
        if primary_ended {
            load.end()?;
            self.look_at_the_survivor(mirror, &load)?;
        } else {
            mirror.primary.wait_for("Alone", START_BOUND, |status| status.phase == "Alone")?;
            load.wait_for(1 + random.below(RECORDS))?;
        }
        if cut.is_some() {
            mirror.restore_power(self.sides)?;
        }
        let begin = Instant::now();
        mirror.start_nodes()?;
        let away = begin.elapsed();
        let returned = Returned::of(&mirror.primary.fresh_status()?);
        if !primary_ended {
            load.wait_for(1 + random.below(RECORDS))?;
            load.end()?;
        }
        mirror.wait_identical()?;
        let found = load.verify(mirror.data()).context("on the primary after the return")?;
        load.verify(mirror.copy()).context("on the secondary after the return")?;
        if self.plan.require_bounded {
            match Bound::of(self.sides) {
                Bound::InDoubt => {
                    let (files, bytes) = load.touched(mirror.data())?;
                    returned.require_bounded(in_doubt + files, bytes)?;
                }
                Bound::NotEverything => returned.require_resumed()?,
            }
        }
        load.remove(mirror.data())?;
        Ok(Done { sides: self.sides, acknowledged: found.acknowledged, returned, cut, away })
    }

    fn end(&self, mirror: &mut Mirror, random: &mut Random) -> Result<Option<Cut>> {
        match self.end {
            End::Power(loss) => mirror.cut_power(self.sides, loss, random).map(Some),
            End::Kill => {
                if self.sides.contains(&Side::Secondary) {
                    mirror.secondary.kill()?;
                }
                if self.sides.contains(&Side::Primary) {
                    mirror.kill_primary_side()?;
                }
                Ok(None)
            }
        }
    }

    /// The copy, before the primary is back: plain files that hold every acknowledged record.
    fn look_at_the_survivor(&self, mirror: &mut Mirror, load: &Load) -> Result<()> {
        if self.sides.contains(&Side::Secondary) {
            return Ok(());
        }
        mirror.secondary.wait_for("all that was received is applied", wait::SHORT, |status| {
            status.phase == "Waiting" && status.positions.applied >= status.positions.received
        })?;
        load.verify(mirror.copy()).context("on the secondary, while the primary is away")?;
        Ok(())
    }
}

impl fmt::Display for Done {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{:?}: {} acknowledged; ", self.sides, self.acknowledged)?;
        if let Some(cut) = self.cut {
            write!(to, "{} of {} blocks lost; ", cut.lost, cut.unflushed)?;
        }
        write!(to, "back in {:.2} s, {}", self.away.as_secs_f64(), self.returned)
    }
}
