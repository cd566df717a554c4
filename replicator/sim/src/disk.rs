//! A machine's disk, as far as it holds a node's own files: what was not synced may be lost, torn or kept when the power fails.
//!
//! A node that is killed reads what it wrote last (the page cache survives it). A machine that loses its power reads what reached
//! the disk: everything that was synced, and of the rest anything. Each kind of file says what that means by [`PowerCut`].

use crate::random::Random;

/// Something on a disk that goes back to a state it may have reached, when the power fails.
pub trait PowerCut {
    /// The power fails, and comes back.
    fn power_cut(&mut self, random: &mut Random);
}

/// How far the replacement of a file came that is written aside, synced, renamed, and made lasting by a sync of its directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reached {
    /// It failed before the rename: the old one is there.
    Aside,
    /// It failed after the rename: the new one is read, and after a power cut either of them.
    Renamed,
    /// All of it was done.
    Synced,
}

/// A small file that is only ever replaced as a whole: state file, checkpoint. It is never torn.
#[derive(Clone, Debug)]
pub struct Replaced<T> {
    /// What a node reads that was only killed.
    visible: T,
    /// What one of a machine reads that lost its power: one of these.
    possible: Vec<T>,
}

impl<T: Clone> Replaced<T> {
    /// One that was made durable.
    pub fn new(value: T) -> Replaced<T> {
        Replaced { possible: vec![value.clone()], visible: value }
    }

    /// What the running machine reads.
    pub fn get(&self) -> &T {
        &self.visible
    }

    /// What is read now is made durable: its directory is synced. A node does so with what it finds at its start, because an earlier
    /// run may have ended between rename and sync.
    pub fn settle(&mut self) {
        self.possible = vec![self.visible.clone()];
    }

    /// Whether that holds for whatever is read after a power cut.
    pub fn surely(&self, holds: impl Fn(&T) -> bool) -> bool {
        self.possible.iter().all(holds)
    }

    /// Replace it, as far as that went.
    pub fn replace(&mut self, value: T, reached: Reached) {
        match reached {
            Reached::Aside => {}
            Reached::Renamed => {
                self.possible.push(value.clone());
                self.visible = value;
            }
            Reached::Synced => *self = Replaced::new(value),
        }
    }
}

impl<T: Clone> PowerCut for Replaced<T> {
    fn power_cut(&mut self, random: &mut Random) {
        let at = random.below(self.possible.len());
        *self = Replaced::new(self.possible[at].clone());
    }
}

/// What is read where a record of a journal lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found<R> {
    /// Its checksum holds.
    Whole(R),
    /// A part of it is missing: the checksum does not hold.
    Torn,
}

/// A file to which records are appended. What follows the last sync may be cut off anywhere after a power cut, and records before
/// that end may be torn in any order, because blocks reach the disk in any order.
#[derive(Clone, Debug)]
pub struct Journal<R> {
    records: Vec<Found<R>>,
    synced: usize,
    /// What may be found instead after a power cut: from before it was written anew.
    former: Option<Vec<Found<R>>>,
}

impl<R: Clone> Default for Journal<R> {
    fn default() -> Self {
        Journal::new()
    }
}

impl<R: Clone> Journal<R> {
    /// An empty one that was made durable.
    #[must_use]
    pub fn new() -> Journal<R> {
        Journal { records: Vec::new(), synced: 0, former: None }
    }

    /// Written, not synced. Returns how many records there are now: a sync that begins after this covers as many.
    pub fn append(&mut self, record: R) -> usize {
        self.records.push(Found::Whole(record));
        self.records.len()
    }

    /// A sync has ended well that covers so many records.
    pub fn synced(&mut self, records: usize) {
        self.synced = self.synced.max(records.min(self.records.len()));
    }

    /// Written anew, with these records and nothing else, aside.
    pub fn rewrite(&mut self, records: Vec<R>, reached: Reached) {
        if reached == Reached::Aside {
            return;
        }
        let records: Vec<Found<R>> = records.into_iter().map(Found::Whole).collect();
        let before = std::mem::replace(&mut self.records, records);
        self.synced = self.records.len();
        self.former = (reached == Reached::Renamed).then_some(before);
    }

    /// What is read now is made durable, as [`Replaced::settle`].
    pub fn settle(&mut self) {
        (self.synced, self.former) = (self.records.len(), None);
    }

    /// What a start of the node reads. It has to end at the first torn record by its own means.
    pub fn read(&self) -> &[Found<R>] {
        &self.records
    }
}

impl<R: Clone> PowerCut for Journal<R> {
    fn power_cut(&mut self, random: &mut Random) {
        if let Some(former) = self.former.take().filter(|_| random.chance(50)) {
            self.records = former;
        } else {
            let length = self.synced + random.below(self.records.len() - self.synced + 1);
            self.records.truncate(length);
            for record in &mut self.records[self.synced..] {
                if random.chance(30) {
                    *record = Found::Torn;
                }
            }
        }
        self.synced = self.records.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_is_the_old_or_the_new_one_until_it_is_synced() {
        let mut random = Random::new(7);
        let after = |reached: Reached, random: &mut Random| {
            let mut file = Replaced::new(1);
            file.replace(2, reached);
            let read = *file.get();
            file.power_cut(random);
            (read, *file.get())
        };
        let many =
            |reached, random: &mut Random| (0..100).map(|_| after(reached, random)).collect::<Vec<_>>();
        assert!(many(Reached::Aside, &mut random).iter().all(|found| *found == (1, 1)));
        assert!(many(Reached::Synced, &mut random).iter().all(|found| *found == (2, 2)));
        let renamed = many(Reached::Renamed, &mut random);
        assert!(renamed.contains(&(2, 1)) && renamed.contains(&(2, 2)));
    }

    #[test]
    fn a_journal_keeps_what_was_synced_and_anything_of_the_rest() {
        let mut random = Random::new(7);
        let (mut cut, mut torn, mut kept) = (false, false, false);
        for _ in 0..200 {
            let mut journal = Journal::new();
            let covered = journal.append(0);
            journal.append(1);
            journal.append(2);
            journal.synced(covered);
            journal.power_cut(&mut random);
            let found = journal.read();
            assert_eq!(found[0], Found::Whole(0));
            cut |= found.len() < 3;
            torn |= found.get(1) == Some(&Found::Torn) && found.get(2) == Some(&Found::Whole(2));
            kept |= found.len() == 3 && !found.contains(&Found::Torn);
        }
        assert!(cut && torn && kept);
    }

    #[test]
    fn a_journal_that_was_written_anew_is_the_old_or_the_new_one() {
        let mut random = Random::new(7);
        let (mut old, mut new) = (false, false);
        for _ in 0..100 {
            let mut journal = Journal::new();
            journal.append(1);
            journal.rewrite(vec![2], Reached::Renamed);
            journal.power_cut(&mut random);
            old |= journal.read().contains(&Found::Whole(1));
            new |= journal.read() == [Found::Whole(2)];
        }
        assert!(old && new);
    }
}
