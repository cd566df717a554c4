//! The power of a mirror's machines ([`super::mirror::Options::machines`]).

use anyhow::{Result, bail};

use super::crash_disk::{Cut, Loss};
use super::machine::Machine;
use super::mirror::{Medium, Mirror};
use super::records::Random;

/// Blocks in the cache of the first disk when the power fails, at most: what a few fsyncs write.
const BLOCKS: u64 = 16;

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The one on which applications write.
    Primary,
    /// The one that holds the copy.
    Secondary,
}

impl Mirror {
    fn machine(&self, side: Side) -> Result<&Machine> {
        match &self.media[side as usize] {
            Medium::Machine(machine) => Ok(machine),
            Medium::Image(_) => bail!("this mirror's nodes have no machines"),
        }
    }

    /// The power of these machines fails at one moment: their disks stop, and whatever ran on them is gone.
    ///
    /// # Errors
    /// Something of it does not go.
    pub fn cut_power(&mut self, sides: &[Side], loss: Loss, random: &mut Random) -> Result<Cut> {
        let mut all = Cut::default();
        for side in sides {
            let node = if *side == Side::Primary { &self.primary } else { &self.secondary };
            self.machine(*side)?.set_running(node.pid().into_iter().collect());
        }
        if let Some(first) = sides.first() {
            let blocks = random.below(BLOCKS) as usize;
            self.machine(*first)?.fail_at(blocks, loss, random.clone());
        }
        for side in sides {
            let cut = self.machine(*side)?.cut(loss, random)?;
            all.unflushed += cut.unflushed;
            all.lost += cut.lost;
        }
        for side in sides {
            match side {
                Side::Primary => self.kill_primary_side()?,
                Side::Secondary => self.secondary.kill()?,
            }
        }
        sides.iter().try_for_each(|side| self.machine(*side)?.clear())?;
        Ok(all)
    }

    /// Their power is back, and what survived is mounted.
    ///
    /// # Errors
    /// A file system does not recover.
    pub fn restore_power(&self, sides: &[Side]) -> Result<()> {
        for side in sides {
            self.machine(*side)?.power_on()?;
            // What a real machine would take for that of another boot. This one's kernel has the same boot as before.
            let node = if *side == Side::Primary { &self.primary } else { &self.secondary };
            node.forget("register.moment")?;
            node.forget("succession")?;
        }
        Ok(())
    }
}
