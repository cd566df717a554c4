//! Which files are ours: what the caller said, and what the kernel programs were told of it.
//!
//! The programs tell of every file they know nothing about. Only a verdict "outside" makes them silent, and only for the very
//! inode it was given for: the table's key holds the inode's generation, so that a new file with an old number is unknown.

use std::collections::{HashMap, HashSet};

use aya::Pod;
use aya::maps::{HashMap as KernelMap, MapData};
use replicator_common::{MEMBERS_MAX, MemberKey, OF_SOME_VOLUME, OUTSIDE, Record, flag};
use replicator_core::ids::{FileId, VolumeId};

use super::ring::RecentVerdicts;
use super::{Resolve, Watch};

#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Key(MemberKey);

// SAFETY: integers only, without padding (its size is asserted where it is defined).
unsafe impl Pod for Key {}

/// An inode as the programs name it, without its generation.
type Inode = (u32, u64);

pub struct Members {
    table: KernelMap<MapData, Key, u32>,
    recent: RecentVerdicts,
    watches: Vec<Watch>,
    resolve: Option<Resolve>,
    /// What the caller said.
    inside: HashMap<Inode, VolumeId>,
    /// What is in the kernel's table: one generation per inode, the last one seen.
    told: HashMap<Inode, (u32, u32)>,
    passed_over: PassedOver,
}

/// Files outside of which something was not told, whether or not a verdict about them still stands: stores into their pages stay
/// silent until those are written back, also if the file is inside by then.
#[derive(Default)]
struct PassedOver {
    files: HashSet<Inode>,
    /// There were more than is remembered.
    any: bool,
}

impl PassedOver {
    /// So many are remembered (about 10 MB).
    const MAX: usize = 1 << 18;

    fn add(&mut self, inode: Inode) {
        if self.any || (self.files.len() >= PassedOver::MAX && !self.files.contains(&inode)) {
            self.any = true;
            self.files = HashSet::new();
        } else {
            self.files.insert(inode);
        }
    }

    /// Whether it may have been one. It is none from here on, if that can be told.
    fn take(&mut self, inode: Inode) -> bool {
        self.files.remove(&inode) || self.any
    }
}

/// Whose file a record is about.
pub enum Owner {
    /// A member of a volume.
    Member(VolumeId),
    /// A member that has just come in by a new name: its content is news, too.
    Arrived(VolumeId),
    /// Nobody's.
    Outside,
}

impl Members {
    pub fn new(
        table: KernelMap<MapData, Key, u32>,
        recent: RecentVerdicts,
        watches: Vec<Watch>,
        resolve: Option<Resolve>,
    ) -> Members {
        Members {
            table,
            recent,
            watches,
            resolve,
            inside: HashMap::new(),
            told: HashMap::new(),
            passed_over: PassedOver::default(),
        }
    }

    /// From now on this answers for files that nothing is known about.
    pub fn set_resolve(&mut self, resolve: Option<Resolve>) {
        self.resolve = resolve;
    }

    /// Whose file the record is about; tells the programs where that was not known.
    pub fn owner(&mut self, record: &Record) -> Owner {
        if let Some(volume) = self.known_volume(record) {
            return u16::try_from(volume).map_or(Owner::Outside, |volume| Owner::Member(VolumeId(volume)));
        }
        if let Some(watch) = self.whole(record.device) {
            return Owner::Member(watch.volume);
        }
        let inode = (record.device, record.inode);
        if record.flags & flag::MOVED != 0 {
            return self.arrival(record, inode);
        }
        let volume = self.inside.get(&inode).copied().or_else(|| self.ask(record));
        match volume {
            Some(volume) => {
                self.tell(inode, record.generation, u32::from(volume.0) + 1);
                Owner::Member(volume)
            }
            None => {
                self.passed_over.add(inode);
                self.tell(inode, record.generation, OUTSIDE);
                Owner::Outside
            }
        }
    }

    /// The number of the volume that the programs knew the file to be of. `None`: they did not, or the verdict was withdrawn
    /// since.
    fn known_volume(&self, record: &Record) -> Option<u32> {
        if record.flags & flag::MEMBER == 0 {
            return None;
        }
        if record.member != OF_SOME_VOLUME {
            return record.member.checked_sub(1);
        }
        let (generation, member) = self.told.get(&(record.device, record.inode))?;
        (*generation == record.generation).then_some(*member)?.checked_sub(1)
    }

    /// A file that was not known as a member got a new name in a directory that may be inside. What was known about it does
    /// not hold, and for a directory nothing about what is below it. A "no" is not kept: whoever is asked may be about to
    /// hear of the new name.
    fn arrival(&mut self, record: &Record, inode: Inode) -> Owner {
        if record.flags & flag::DIRECTORY != 0 {
            self.forget_outside();
        } else {
            self.untell(inode);
        }
        match self.inside.get(&inode).copied().or_else(|| self.ask(record)) {
            Some(volume) => {
                self.tell(inode, record.generation, u32::from(volume.0) + 1);
                Owner::Arrived(volume)
            }
            None => {
                self.passed_over.add(inode);
                Owner::Outside
            }
        }
    }

    fn whole(&self, device: u32) -> Option<&Watch> {
        self.watches.iter().find(|watch| watch.kernel_device == device && watch.whole_filesystem)
    }

    /// Ask the caller. Without anybody to ask, a file of the only volume on its device is taken for a member.
    fn ask(&self, record: &Record) -> Option<VolumeId> {
        let mut candidates = self.watches.iter().filter(|watch| watch.kernel_device == record.device);
        match &self.resolve {
            Some(resolve) => candidates
                .find(|watch| {
                    let file = FileId { volume: watch.volume, inode: record.inode };
                    watch.root_inode == record.inode || resolve(file, record.generation)
                })
                .map(|watch| watch.volume),
            None => candidates.next().map(|watch| watch.volume),
        }
    }

    /// The caller knows: inside, or not (any more).
    pub fn set(&mut self, volume: VolumeId, inode: u64, inside: bool) {
        for device in self.devices(volume) {
            if inside {
                self.inside.insert((device, inode), volume);
                let known = self.told.get(&(device, inode)).copied();
                if known.is_some_and(|(_, member)| member != u32::from(volume.0) + 1) {
                    self.untell((device, inode));
                }
            } else {
                self.inside.remove(&(device, inode));
                self.untell((device, inode));
            }
        }
    }

    /// The caller found the file inside: it was taken for one outside, or has moved. Who is asked about it next knows better, so that
    /// nothing is to be noted. Returns whether anything of it may have been passed over.
    pub fn found_inside(&mut self, volume: VolumeId, inode: u64) -> bool {
        let mut passed_over = false;
        for device in self.devices(volume) {
            let inode = (device, inode);
            if self.told.get(&inode).is_some_and(|(_, member)| *member == OUTSIDE) {
                self.untell(inode);
            }
            passed_over |= self.passed_over.take(inode);
        }
        passed_over
    }

    /// The file is gone, or nothing is known about it.
    pub fn forget(&mut self, volume: VolumeId, inode: u64) {
        self.set(volume, inode, false);
    }

    fn devices(&self, volume: VolumeId) -> Vec<u32> {
        self.watches.iter().filter(|watch| watch.volume == volume).map(|watch| watch.kernel_device).collect()
    }

    fn tell(&mut self, inode: Inode, generation: u32, member: u32) {
        let subvolumes = |watch: &Watch| watch.kernel_device == inode.0 && watch.filesystem == "btrfs";
        if member == OUTSIDE && self.watches.iter().any(subvolumes) {
            // Inode numbers of btrfs are per subvolume: the verdict might hit another file.
            return;
        }
        self.untell(inode);
        if self.told.len() >= MEMBERS_MAX as usize {
            self.forget_outside();
        }
        let key = MemberKey { inode: inode.1, device: inode.0, generation };
        // A table that is full means that the file stays unknown and is told of again.
        if self.told.len() < MEMBERS_MAX as usize && self.table.insert(Key(key), member, 0).is_ok() {
            self.told.insert(inode, (generation, member));
            self.recent.put(key, member == OUTSIDE);
        }
    }

    fn untell(&mut self, inode: Inode) {
        if let Some((generation, _)) = self.told.remove(&inode) {
            self.remove(MemberKey { inode: inode.1, device: inode.0, generation });
        }
    }

    fn forget_outside(&mut self) {
        let outside: Vec<_> = self.told.extract_if(|_, (_, member)| *member == OUTSIDE).collect();
        for ((device, inode), (generation, _)) in outside {
            self.remove(MemberKey { inode, device, generation });
        }
    }

    /// Take a verdict back, first from where the programs look first.
    fn remove(&mut self, key: MemberKey) {
        self.recent.take_back(key);
        // The only reason to fail is that it is not there.
        let _ = self.table.remove(&Key(key));
    }

    /// Entries in the kernel's table.
    pub fn told(&self) -> usize {
        self.told.len()
    }
}
