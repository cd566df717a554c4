//! How harsh a world is: drawn once for each seed.

use crate::random::Random;
use crate::saboteur::Sabotage;

/// What there is, and what happens beside what happens in any world.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub volumes: u16,
    /// Names that are used in each directory.
    pub names: usize,
    /// What the application does before anything runs, so many times at most.
    pub before: usize,
    /// Files have names in many directories.
    pub links: bool,
    /// Directories are exchanged; behind the gate's back, any two files are, or one replaces the other, or gets one more name.
    pub exchanges: bool,
    /// Directories are moved while they are listed.
    pub moves: bool,
    /// A file that was synced is moved from directory to directory in quick succession, and who moved it syncs these.
    pub wanderer: bool,
    /// Files are replaced by new ones with their numbers, which are stored to through mappings at once.
    pub reuse: bool,
    /// Events are lost, also of directories and of files that are being compared.
    pub losses: bool,
    /// The secondary is restarted, and connections end, where it hurts: within a list, at the end of a resync.
    pub aimed: bool,
    /// The primary's machine loses its power, too, alone or together with the secondary's.
    pub power_cuts: bool,
    /// The primary keeps a safe set.
    pub safe_set: bool,
}

impl Shape {
    /// As a saboteur needs it: with what his fault is about, so that few seeds suffice to see it.
    pub fn for_saboteur(self, sabotage: Sabotage) -> Shape {
        let mut shape = self;
        shape.safe_set &= sabotage == Sabotage::None;
        match sabotage {
            Sabotage::UntoldLosses => shape.losses = true,
            Sabotage::DropsWhatIsLeft => shape.aimed = true,
            Sabotage::UnwaitedIntent | Sabotage::EarlySettle => {
                (shape.power_cuts, shape.safe_set) = (true, true);
            }
            Sabotage::WithheldLegacy => shape.safe_set = true,
            Sabotage::EarlyAnswer => {
                (shape.safe_set, shape.aimed) = (true, true);
                // Enough files that some are not in doubt.
                (shape.names, shape.before) = (16, 90);
            }
            Sabotage::UnsyncedRemoval => shape.power_cuts = true,
            _ => {}
        }
        shape
    }

    /// Every other world is a mild one.
    pub fn draw(random: &mut Random) -> Shape {
        let harsh = random.chance(50);
        let mut some = |percent| harsh && random.chance(percent);
        Shape {
            volumes: if some(40) { 2 } else { 1 },
            names: if some(40) { 16 } else { 6 },
            before: if some(40) { 90 } else { 12 },
            links: some(50),
            exchanges: some(50),
            moves: some(50),
            wanderer: some(50),
            losses: some(50),
            aimed: some(50),
            reuse: some(50),
            power_cuts: random.chance(50),
            safe_set: random.chance(60),
        }
    }
}
