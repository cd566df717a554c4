//! The safe set: which files may differ from the peer's, on record before they do ([`replicator_core::activity`]).
//!
//! ```text
//!  Off --base of the core--> Forming --files were looked at--> On --events lost, all is compared--> Off
//!   ^                          |                                |
//!   +--- void, or failed ------+--------------------------------+
//! ```
//!
//! Whoever is about to change a file holds an [`Intent`] while he does. Only the first intent of a file that is not in the set waits, and only
//! while the set is `On`: until it is durable. Many that wait share one write (group commit). A file leaves when nobody has held it for a
//! while and both nodes have it durably, which the data plane finds out ([`super::settling`]).
//!
//! A file that was just made need not wait: the directory it was made in is in the set, durably, and the records are in order.

mod committer;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use replicator_core::activity::{Activity, Record};
use replicator_core::ids::{Errno, FileId};
use tracing::warn;

use crate::storage::activity::{ActivityDirectory, Base, Log};
use crate::storage::survey::Fingerprints;

/// What is known of a file in the set.
#[derive(Debug, Default)]
struct Member {
    /// Who is changing it now: open descriptors for writing, operations under way.
    holders: usize,
    /// When it was last taken hold of, or noted, in the count of such moments.
    touched: u64,
    /// The commit that its intent is in; `None`: the record, if there is one, does not say that all of it is in doubt.
    commit: Option<u64>,
    /// It was made within the directory of another member.
    made: bool,
    /// In the queue of those that nobody holds.
    queued: bool,
    /// When it was touched.
    since: Option<Instant>,
    /// Only a part of it is in doubt, by its record.
    narrowed: bool,
}

/// A member that nobody holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Idle {
    /// The file.
    pub file: FileId,
    /// When it was last touched, in the count of such moments.
    pub touched: u64,
    /// Only a part of it is in doubt, by its record.
    pub narrowed: bool,
}

/// Where the set stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Nothing is recorded: after a crash everything is compared.
    Off,
    /// Recorded, but there is no base yet to make use of it.
    Forming,
    /// At work.
    On,
    /// The base can be neither relied on nor taken away: no file may be changed that is not in the set.
    Broken,
}

struct Inner {
    state: State,
    members: HashMap<FileId, Member>,
    touches: u64,
    /// Members that nobody holds any more, since when; some are held again, or gone.
    released: VecDeque<(Instant, FileId)>,
    /// To be written with the next commit.
    pending: Vec<Record>,
    /// Number of the next commit.
    commit: u64,
    /// All up to here are durable.
    committed: u64,
    /// Somebody waits for the next commit.
    urgent: bool,
    /// The log, while no commit is being written.
    log: Option<Log>,
    /// The number of the log that was begun first.
    number: u64,
    ending: bool,
    commits: u64,
    /// Files that left, which is not on record yet: of the next commit, and of the one being written.
    leaving: [usize; 2],
    /// The same of files of which a part is left in doubt.
    narrowing: [usize; 2],
    /// How many members are narrowed.
    narrowed: usize,
    /// Directories whose lists may not be answered.
    relisted: Vec<FileId>,
    /// How often records were begun or ended.
    turns: u64,
    /// [`ActivityDirectory::voided`] when they were begun.
    voided: u64,
}

struct Shared {
    inner: Mutex<Inner>,
    /// There is something to write, or the end is near.
    work: Condvar,
    /// A commit has ended.
    done: Condvar,
    /// The state is `Forming` or `On`: a look that takes no lock.
    records: AtomicBool,
    /// Lists may not be answered: the same.
    relisted: AtomicBool,
    departures: AtomicU64,
    directory: ActivityDirectory,
}

/// See the module. A handle; all of them are of one set.
#[derive(Clone)]
pub struct SafeSet {
    shared: Arc<Shared>,
    committer: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// Held while files are being changed.
pub struct Intent {
    shared: Arc<Shared>,
    files: Vec<FileId>,
}

/// How many files are in the set, for people.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Size {
    /// Whether a crash is followed by a comparison of these files alone.
    pub is_on: bool,
    /// Files and directories in doubt, as far as is on record.
    pub files: usize,
    /// Those of which only a part is, as far as is on record.
    pub narrowed: usize,
    /// Writes to the log since the start.
    pub commits: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Have everything up to this commit written, and wait for that, as long as the set is at work.
    fn wait_for<'a>(&'a self, mut inner: MutexGuard<'a, Inner>, commit: u64) -> MutexGuard<'a, Inner> {
        while inner.state == State::On && inner.committed < commit {
            inner.urgent = true;
            self.work.notify_one();
            inner = self.done.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        inner
    }
}

impl SafeSet {
    /// A set in that directory, which goes on from what a run left that crashed, if anything.
    ///
    /// # Errors
    /// What the system returns.
    pub fn start(directory: ActivityDirectory, left: Option<&Base>) -> io::Result<SafeSet> {
        let log = match left {
            Some(base) => {
                let log = directory.begin_log(base.number)?;
                directory.store_base(base, directory.voided())?;
                Some(log)
            }
            None => {
                directory.make_void()?;
                None
            }
        };
        let mut members = HashMap::new();
        let mut released = VecDeque::new();
        for file in left.into_iter().flat_map(|base| base.activity.doubtful()) {
            // What is in doubt of it may be a part: to be recorded anew when it is touched.
            members.insert(file, Member { queued: true, ..Member::default() });
            released.push_back((Instant::now(), file));
        }
        let inner = Inner {
            state: if log.is_some() { State::On } else { State::Off },
            members,
            touches: 0,
            released,
            pending: Vec::new(),
            commit: 1,
            committed: 0,
            urgent: false,
            number: log.as_ref().map_or(0, Log::number),
            log,
            ending: false,
            commits: 0,
            leaving: [0; 2],
            narrowing: [0; 2],
            narrowed: 0,
            relisted: Vec::new(),
            turns: 0,
            voided: directory.voided(),
        };
        let shared = Arc::new(Shared {
            records: AtomicBool::new(inner.state == State::On),
            relisted: AtomicBool::new(false),
            departures: AtomicU64::new(0),
            inner: Mutex::new(inner),
            work: Condvar::new(),
            done: Condvar::new(),
            directory,
        });
        let committing = Arc::clone(&shared);
        let committer = thread::Builder::new()
            .name("safe-set".to_owned())
            .spawn(move || committer::commit_all(&committing))?;
        Ok(SafeSet { shared, committer: Arc::new(Mutex::new(Some(committer))) })
    }

    /// These files are about to be changed. Returns when it is on record that they may be; what changes them, and tells of it, comes
    /// while the answer is held. `made`: they were just made, in a directory that is held.
    ///
    /// # Errors
    /// EIO: it can be neither recorded nor made sure that the record is not made use of.
    pub fn intend(&self, files: &[FileId], made: bool) -> Result<Intent, Errno> {
        let mut inner = self.shared.lock();
        let (mut needed, was_empty) = (0, inner.pending.is_empty());
        for &file in files {
            let commit = inner.hold(file, made);
            needed = needed.max(commit.unwrap_or(0));
        }
        if was_empty && !inner.pending.is_empty() {
            self.shared.work.notify_one();
        }
        // From here on it is let go when it is dropped.
        let intent = Intent { shared: Arc::clone(&self.shared), files: files.to_vec() };
        inner = self.shared.wait_for(inner, needed);
        let broken = inner.state == State::Broken && inner.committed < needed;
        drop(inner);
        if broken { Err(Errno(libc::EIO)) } else { Ok(intent) }
    }

    /// The file was changed, or may have been, by somebody who was not asked before. Nobody waits.
    pub fn note(&self, file: FileId) {
        if self.records() {
            let mut inner = self.shared.lock();
            inner.touch(file, false);
            inner.release(file);
            self.shared.work.notify_one();
        }
    }

    /// Changes whenever a file has left the set: those noted before may have to be noted again.
    #[must_use]
    pub fn departures(&self) -> u64 {
        self.shared.departures.load(Ordering::Acquire)
    }

    /// Record this. Nobody waits.
    pub fn record(&self, record: Record) {
        if self.records() {
            self.shared.lock().push(record);
            self.shared.work.notify_one();
        }
    }

    /// The directory is about to be listed for the peer: returns when that is on record. Where it cannot be, nothing that was recorded is made
    /// use of.
    pub fn relist(&self, directory: FileId) {
        if !self.records() {
            return;
        }
        let mut inner = self.shared.lock();
        inner.touch(directory, false);
        let needed = inner.push(Record::Relist(directory));
        inner.relisted.push(directory);
        self.shared.relisted.store(true, Ordering::Release);
        inner.release(directory);
        drop(self.shared.wait_for(inner, needed));
    }

    /// Whether there are lists of which it is not on record that they were answered.
    #[must_use]
    pub fn awaits_answers(&self) -> bool {
        self.shared.relisted.load(Ordering::Acquire)
    }

    /// All lists are answered, and what follows from the answers was recorded before this. Nobody waits.
    pub fn answered(&self) {
        let mut inner = self.shared.lock();
        self.shared.relisted.store(false, Ordering::Release);
        for directory in std::mem::take(&mut inner.relisted) {
            inner.push(Record::Listed(directory));
        }
        self.shared.work.notify_one();
    }

    /// Whether anything is recorded.
    #[must_use]
    pub fn records(&self) -> bool {
        self.shared.records.load(Ordering::Acquire)
    }

    /// How large it is.
    #[must_use]
    pub fn size(&self) -> Size {
        let inner = self.shared.lock();
        Size {
            is_on: inner.state == State::On,
            files: inner.members.len() + inner.leaving.iter().sum::<usize>(),
            narrowed: inner.narrowed.saturating_sub(inner.narrowing.iter().sum()),
            commits: inner.commits,
        }
    }

    // ---- base --------------------------------------------------------------------------------------------

    /// From now on everything is recorded. What is changed after this is in the set; what was before is in the base that is to come, if
    /// the core is asked for it once it has been told of all that was changed before. Returns the base's number.
    ///
    /// # Errors
    /// What the system returns; nothing is recorded then.
    pub fn begin(&self) -> io::Result<u64> {
        let number = self.shared.lock().number + 2;
        let log = self.shared.directory.begin_log(number)?;
        let mut inner = self.shared.lock();
        if inner.state != State::Off {
            return Err(io::Error::other("the safe set is at work, or broken"));
        }
        inner.state = State::Forming;
        inner.turns += 1;
        inner.voided = self.shared.directory.voided();
        self.shared.records.store(true, Ordering::Release);
        inner.log = Some(log);
        inner.number = number;
        let held: Vec<FileId> = inner.members.keys().copied().collect();
        for file in held {
            inner.enter(file, false);
        }
        self.shared.work.notify_one();
        Ok(number)
    }

    /// Members that were made since the records were begun.
    #[must_use]
    pub fn made(&self) -> Vec<FileId> {
        let inner = self.shared.lock();
        inner.members.iter().filter(|(_, member)| member.made).map(|(file, _)| *file).collect()
    }

    /// Put the base in its place: from now on a crash is followed by a comparison of what is in the set alone. What is not in doubt has to be
    /// durable here.
    ///
    /// # Errors
    /// What the system returns; nothing is made use of then.
    pub fn establish(
        &self,
        identity: [u8; 32],
        number: u64,
        activity: Activity,
        fingerprints: Vec<Fingerprints>,
    ) -> io::Result<()> {
        let base = Base { number, identity, activity, fingerprints };
        let voided;
        {
            let void = || io::Error::other("what was recorded was made void meanwhile");
            let mut inner = self.shared.lock();
            // Another set may be forming by now, which has its own base to come.
            if inner.state != State::Forming || inner.number != number {
                return Err(void());
            }
            for file in base.activity.doubtful() {
                inner.touch(file, false);
                inner.release(file);
            }
            // Before the base is there, so that nobody is answered whose intent it would have to be followed by.
            let needed = if inner.pending.is_empty() { inner.commit - 1 } else { inner.commit };
            inner.state = State::On;
            inner = self.shared.wait_for(inner, needed);
            if inner.state != State::On || inner.number != number {
                return Err(void());
            }
            voided = inner.voided;
        }
        self.shared.directory.store_base(&base, voided).inspect_err(|_| self.give_up(number))
    }

    /// The base with this number does not come. A set that was begun since is left alone.
    pub fn give_up(&self, number: u64) {
        let mut inner = self.shared.lock();
        if inner.number == number && inner.state != State::Off {
            self.shared.end_records(&mut inner);
        }
    }

    /// What is recorded is not to be made use of: events were lost, or everything is compared.
    pub fn make_void(&self) {
        let mut inner = self.shared.lock();
        if inner.state != State::Off {
            self.shared.end_records(&mut inner);
        }
    }

    /// The node ends: a base is of no use any more if `void`, else it is for the next run.
    pub fn end(&self, void: bool) {
        if void {
            self.make_void();
        }
        self.shared.lock().ending = true;
        self.shared.work.notify_all();
        let committer = self.committer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(committer) = committer {
            // A panic of the thread was reported when it happened.
            let _ = committer.join();
        }
    }

    // ---- settling ----------------------------------------------------------------------------------------

    /// Members that nobody has held or touched for that long; at most so many. They are not told again before they are postponed or touched.
    #[must_use]
    pub fn idle(&self, least: Duration, most: usize) -> Vec<Idle> {
        let mut inner = self.shared.lock();
        let mut idle = Vec::new();
        if inner.state != State::On {
            return idle;
        }
        for _ in 0..inner.released.len() {
            let Some(&(since, file)) = inner.released.front() else { break };
            if idle.len() >= most || since.elapsed() < least {
                break;
            }
            inner.released.pop_front();
            let Some(member) = inner.members.get_mut(&file) else { continue };
            member.queued = false;
            if member.holders > 0 {
                continue;
            }
            let since = member.since.filter(|since| since.elapsed() < least);
            match since {
                Some(since) => {
                    member.queued = true;
                    inner.released.push_back((since, file));
                }
                None => idle.push(Idle { file, touched: member.touched, narrowed: member.narrowed }),
            }
        }
        idle
    }

    /// How many are waiting to be looked at.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.lock().released.len()
    }

    /// Look at a member again later.
    pub fn postpone(&self, file: FileId) {
        self.shared.lock().release(file);
    }

    /// The file is settled, unless it was touched since. Whether it was taken out.
    pub fn settle(&self, idle: Idle, record: Record) -> bool {
        self.end_doubt(idle, record, true)
    }

    /// Only a part of the file is in doubt, unless it was touched since.
    pub fn narrow(&self, idle: Idle, record: Record) -> bool {
        self.end_doubt(idle, record, false)
    }

    fn end_doubt(&self, idle: Idle, record: Record, wholly: bool) -> bool {
        let Idle { file, touched, .. } = idle;
        let mut inner = self.shared.lock();
        let unchanged = |member: &Member| member.holders == 0 && member.touched == touched;
        if inner.state != State::On || !inner.members.get(&file).is_some_and(unchanged) {
            return false;
        }
        inner.push(record);
        let inner = &mut *inner;
        if let Some(member) = inner.members.get_mut(&file) {
            inner.narrowed -= usize::from(member.narrowed);
            (member.commit, member.made, member.narrowed) = (None, false, !wholly);
            inner.narrowed += usize::from(member.narrowed);
            inner.narrowing[0] += usize::from(member.narrowed);
        }
        if wholly {
            inner.members.remove(&file);
            inner.leaving[0] += 1;
        }
        self.shared.departures.fetch_add(1, Ordering::Release);
        self.shared.work.notify_one();
        true
    }
}

impl Drop for Intent {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        for file in self.files.drain(..) {
            if let Some(member) = inner.members.get_mut(&file) {
                member.holders = member.holders.saturating_sub(1);
            }
            inner.release(file);
        }
    }
}

impl Inner {
    /// Somebody is changing the file. The commit he has to wait for.
    fn hold(&mut self, file: FileId, made: bool) -> Option<u64> {
        let commit = self.touch(file, made);
        if let Some(member) = self.members.get_mut(&file) {
            member.holders += 1;
            if member.made {
                return None;
            }
        }
        commit
    }

    /// The file is in the set from now on. The commit with its intent.
    fn touch(&mut self, file: FileId, made: bool) -> Option<u64> {
        self.touches += 1;
        let touched = self.touches;
        let member = self.members.entry(file).or_default();
        (member.touched, member.since) = (touched, Some(Instant::now()));
        if made {
            // Whatever had the number before.
            (member.made, member.commit) = (true, None);
        }
        self.enter(file, made)
    }

    fn enter(&mut self, file: FileId, new: bool) -> Option<u64> {
        if self.state == State::Off {
            return None;
        }
        let recorded = self.members.get(&file).and_then(|member| member.commit);
        if recorded.is_some() {
            return recorded;
        }
        let commit = match self.state {
            State::Broken => u64::MAX,
            _ => self.push(Record::Intent { file, new }),
        };
        if let Some(member) = self.members.get_mut(&file) {
            member.commit = Some(commit);
            self.narrowed -= usize::from(std::mem::take(&mut member.narrowed));
        }
        Some(commit)
    }

    /// Add to the next commit, whose number is returned.
    fn push(&mut self, record: Record) -> u64 {
        self.pending.push(record);
        self.commit
    }

    /// Nobody may hold the file any more.
    fn release(&mut self, file: FileId) {
        let Some(member) = self.members.get_mut(&file).filter(|member| member.holders == 0) else { return };
        if self.state == State::Off {
            self.members.remove(&file);
        } else if !std::mem::replace(&mut member.queued, true) {
            self.released.push_back((Instant::now(), file));
        }
    }
}

impl Shared {
    /// Nothing is recorded any more, and what was is taken away.
    fn end_records(&self, inner: &mut Inner) {
        let gone = self.directory.make_void();
        inner.state = if gone.is_ok() { State::Off } else { State::Broken };
        self.records.store(false, Ordering::Release);
        inner.pending.clear();
        inner.released.clear();
        inner.log = None;
        inner.turns += 1;
        inner.members.retain(|_, member| member.holders > 0);
        for member in inner.members.values_mut() {
            (member.commit, member.queued, member.narrowed) = (None, false, false);
        }
        inner.narrowed = 0;
        inner.relisted.clear();
        self.relisted.store(false, Ordering::Release);
        (inner.leaving, inner.narrowing) = ([0; 2], [0; 2]);
        self.departures.fetch_add(1, Ordering::Release);
        if let Err(error) = gone {
            warn!(%error, "what was recorded for a crash of this node cannot be taken away: files that are not open cannot be changed");
        }
        self.done.notify_all();
    }

    fn fail(&self, inner: &mut Inner, error: &io::Error) {
        warn!(%error, "which files are changed cannot be recorded: after a crash everything is compared");
        self.end_records(inner);
    }
}

#[cfg(test)]
mod tests;
