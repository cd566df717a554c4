//! Sets of files that are large, change one file at a time, and are copied now and then, where nobody may be kept waiting for the copy.
//!
//! Numbers of files lie close together, so a set is a map of blocks of bits. A copy shares the blocks with the set it is of, and each of both
//! makes a block its own when it changes it first: to copy a set of a million files takes what to copy some thousand pointers takes, unless they
//! lie so far apart that each has a block of its own.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use crate::ids::{FileId, VolumeId};

/// Files of a block.
const FILES: u64 = 256;
const WORDS: usize = (FILES / 64) as usize;

/// Which of the files of a block are in the set; never empty.
type Block = [u64; WORDS];

/// See the module.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct FileSet {
    blocks: BTreeMap<(VolumeId, u64), Arc<Block>>,
    files: usize,
}

/// The place of a file: its block, the word in it, the bit in that.
fn place(file: FileId) -> ((VolumeId, u64), usize, u64) {
    let bit = file.inode % FILES;
    ((file.volume, file.inode / FILES), (bit / 64) as usize, 1 << (bit % 64))
}

impl FileSet {
    /// Whether the file is in it.
    #[must_use]
    pub fn contains(&self, file: &FileId) -> bool {
        let (block, word, bit) = place(*file);
        self.blocks.get(&block).and_then(|block| block.get(word)).is_some_and(|word| word & bit != 0)
    }

    /// Put the file in. Whether it was not.
    pub fn insert(&mut self, file: FileId) -> bool {
        let (block, word, bit) = place(file);
        let block = self.blocks.entry(block).or_insert_with(|| Arc::new([0; WORDS]));
        if block.get(word).is_none_or(|word| word & bit != 0) {
            return false;
        }
        if let Some(word) = Arc::make_mut(block).get_mut(word) {
            *word |= bit;
        }
        self.files += 1;
        true
    }

    /// Take the file out. Whether it was in.
    pub fn remove(&mut self, file: &FileId) -> bool {
        let (number, word, bit) = place(*file);
        let Some(block) = self.blocks.get_mut(&number) else { return false };
        if block.get(word).is_none_or(|word| word & bit == 0) {
            return false;
        }
        let bits = Arc::make_mut(block);
        if let Some(word) = bits.get_mut(word) {
            *word &= !bit;
        }
        if bits.iter().all(|word| *word == 0) {
            self.blocks.remove(&number);
        }
        self.files -= 1;
        true
    }

    /// How many files are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.files
    }

    /// The files, ascending.
    pub fn iter(&self) -> impl Iterator<Item = FileId> + '_ {
        self.blocks.iter().flat_map(|(&(volume, number), block)| files_of(volume, number, block, 0))
    }

    /// The first file behind this one; of all, if there is none.
    #[must_use]
    pub fn first_behind(&self, file: Option<FileId>) -> Option<FileId> {
        let Some(file) = file else { return self.iter().next() };
        let (block, ..) = place(file);
        let mut blocks = self.blocks.range(block..);
        blocks.find_map(|(&(volume, number), bits)| {
            let from = if (volume, number) == block { file.inode % FILES + 1 } else { 0 };
            files_of(volume, number, bits, from).next()
        })
    }
}

/// The files of a block from this bit on.
fn files_of(volume: VolumeId, number: u64, block: &Block, from: u64) -> impl Iterator<Item = FileId> + '_ {
    let is_in = |bit: &u64| block.get((bit / 64) as usize).is_some_and(|word| word & 1 << (bit % 64) != 0);
    (from..FILES).filter(is_in).map(move |bit| FileId { volume, inode: number * FILES + bit })
}

impl FromIterator<FileId> for FileSet {
    fn from_iter<T: IntoIterator<Item = FileId>>(files: T) -> FileSet {
        let mut set = FileSet::default();
        for file in files {
            set.insert(file);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;
    use alloc::vec::Vec;
    use core::ops::Bound;

    use proptest::prelude::*;

    use super::*;

    fn any_file() -> impl Strategy<Value = FileId> {
        // Close together, so that files meet; at both ends of the numbers.
        let inode = prop_oneof![0..3000_u64, (u64::MAX - 1500)..=u64::MAX];
        (0..2_u16, inode).prop_map(|(volume, inode)| FileId { volume: VolumeId(volume), inode })
    }

    proptest! {
        /// It is what a plain set is, and a copy is not changed by what the set it is of goes through.
        #[test]
        fn it_is_a_set_and_a_copy_is_one_of_its_own(
            steps in prop::collection::vec((any_file(), any::<bool>()), 0..200),
            later in prop::collection::vec((any_file(), any::<bool>()), 0..50),
            looked in any_file(),
        ) {
            let (mut set, mut plain) = (FileSet::default(), BTreeSet::new());
            let step = |set: &mut FileSet, plain: &mut BTreeSet<FileId>, (file, inserts): (FileId, bool)| {
                let changed = if inserts { set.insert(file) } else { set.remove(&file) };
                let expected = if inserts { plain.insert(file) } else { plain.remove(&file) };
                (changed, expected)
            };
            for one in steps {
                let (changed, expected) = step(&mut set, &mut plain, one);
                prop_assert_eq!(changed, expected);
            }
            let (copy, kept) = (set.clone(), plain.clone());
            for one in later {
                step(&mut set, &mut plain, one);
            }
            for (set, plain) in [(&set, &plain), (&copy, &kept)] {
                prop_assert_eq!(set.iter().collect::<Vec<_>>(), plain.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(set.len(), plain.len());
                prop_assert_eq!(set.contains(&looked), plain.contains(&looked));
                let behind = (Bound::Excluded(looked), Bound::Unbounded);
                prop_assert_eq!(set.first_behind(Some(looked)), plain.range(behind).next().copied());
                prop_assert_eq!(set.first_behind(None), plain.first().copied());
                prop_assert_eq!(&plain.iter().copied().collect::<FileSet>(), set);
            }
        }
    }

    /// What a copy costs does not grow with the files, but with the blocks they lie in.
    #[test]
    fn a_copy_shares_what_neither_changes() {
        let file = |inode| FileId { volume: VolumeId(0), inode };
        let mut set: FileSet = (0..10 * FILES).map(file).collect();
        let copy = set.clone();
        set.remove(&file(3));
        let shared =
            |number| Arc::ptr_eq(&set.blocks[&(VolumeId(0), number)], &copy.blocks[&(VolumeId(0), number)]);
        assert!(!shared(0) && (1..10).all(shared));
        assert_eq!((set.len() + 1, copy.len()), (copy.len(), 10 * FILES as usize));
    }
}
