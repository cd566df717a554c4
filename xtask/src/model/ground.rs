//! Where sequences run: the gate of a running mirror, a plain directory on the same file system type, and processes in both.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::actor::Actor;
use super::observe::{self, Depth};
use super::operation::{Operation, Outcome};
use super::protection::release;
use super::sparse;
use super::state::State;
use crate::lab::compare;
use crate::lab::image::{Filesystem, LoopImage};
use crate::lab::mirror::{Mirror, Options};
use crate::lab::place::Place;
use crate::lab::status::Status;
use crate::lab::wait;

/// Longest time until the copy of a sequence's directory is the same in full.
const SAME_BOUND: Duration = Duration::from_secs(20);

/// Longest time until the primary knows of nothing that was deleted.
const LEFT_BOUND: Duration = Duration::from_secs(10);

/// A mirror, a plain file system, and processes on both. One serves many sequences, each in a directory of its own.
pub struct Ground {
    /// Processes on the gate.
    pub through: Vec<Actor>,
    /// The same on the plain file system.
    pub natively: Vec<Actor>,
    /// The two nodes.
    pub mirror: Mirror,
    filesystem: Filesystem,
    plain: LoopImage,
    _place: Place,
    sequences: u64,
    /// Sessions of the primary when it was last asked.
    sessions: u64,
    /// Lengths of both logs when the last sequence began.
    logged: [usize; 2],
    /// Files that earlier sequences left dirty, and that were reported.
    left: u64,
}

/// The directories of one sequence.
#[derive(Clone, Debug)]
pub struct Directories {
    /// On the gate.
    pub gate: PathBuf,
    /// On the plain file system.
    pub plain: PathBuf,
    /// The copy.
    pub copy: PathBuf,
}

impl Ground {
    /// Start everything.
    ///
    /// # Errors
    /// The machine lacks something, or a node does not come up.
    pub fn new(options: &Options, actors: u8) -> Result<Ground> {
        let place = Place::new()?;
        let plain = LoopImage::new(place.path(), "plain", options.filesystem, options.primary_bytes)?;
        let mirror = Mirror::start(options)?;
        let natively = (0..actors).map(|_| Actor::start(None)).collect::<Result<_>>()?;
        let mut ground = Ground {
            through: Vec::new(),
            natively,
            mirror,
            filesystem: options.filesystem,
            plain,
            _place: place,
            sequences: 0,
            sessions: 0,
            logged: [0; 2],
            left: 0,
        };
        ground.circumstances()?;
        ground.start_actors(actors)?;
        Ok(ground)
    }

    /// Start the processes on the gate, again after they were killed with it.
    ///
    /// # Errors
    /// One does not start.
    pub fn start_actors(&mut self, actors: u8) -> Result<()> {
        self.through.clear();
        for _ in 0..actors {
            self.through.push(Actor::start(Some(&self.mirror.net.a))?);
        }
        Ok(())
    }

    /// Make directories for a sequence, on the copy too, and let all processes work in them.
    ///
    /// # Errors
    /// They cannot be made, or the copy does not come.
    pub fn begin(&mut self) -> Result<Directories> {
        let name = format!("s{}", self.sequences);
        self.sequences += 1;
        for (known, node) in self.logged.iter_mut().zip(self.mirror.nodes()) {
            *known = fs::metadata(&node.log).map_or(0, |meta| meta.len() as usize);
        }
        let at = |root: &Path| root.join(&name);
        let (gate, plain, copy) = (at(self.mirror.data()), at(self.plain.path()), at(self.mirror.copy()));
        for directory in [&gate, &plain] {
            fs::create_dir(directory).with_context(|| format!("create {}", directory.display()))?;
        }
        fs::File::open(&gate)?.sync_all().context("fsync of a new directory")?;
        for (actors, directory) in [(&mut self.through, &gate), (&mut self.natively, &plain)] {
            actors.iter_mut().try_for_each(|actor| actor.enter(directory))?;
        }
        Ok(Directories { gate, plain, copy })
    }

    /// Let all processes leave a sequence's directories, which closes all they have open, and delete them.
    ///
    /// # Errors
    /// A process is gone, or a directory cannot be deleted.
    pub fn end(&mut self, directories: &Directories) -> Result<()> {
        let (data, plain) = (self.mirror.data().to_owned(), self.plain.path().to_owned());
        for (actors, root) in [(&mut self.through, &data), (&mut self.natively, &plain)] {
            actors.iter_mut().try_for_each(|actor| actor.enter(root))?;
        }
        for directory in [&directories.gate, &directories.plain] {
            let deleted = fs::remove_dir_all(directory).or_else(|_| {
                release(directory)?;
                fs::remove_dir_all(directory)
            });
            deleted.with_context(|| format!("delete {}", directory.display()))?;
        }
        Ok(())
    }

    /// What the primary says is dirty although nothing is there any more, in words: marks that nothing clears would keep an absence of
    /// the peer from ending.
    ///
    /// # Errors
    /// The primary is gone.
    pub fn left_dirty(&mut self) -> Result<Vec<String>> {
        let before = self.left;
        // What was done last may not be counted yet.
        self.mirror.primary.fresh_status()?;
        let gone = |status: &Status| status.dirty.files <= before;
        let settled = self.mirror.primary.wait_for("nothing is dirty", LEFT_BOUND, gone);
        match (settled, self.mirror.primary.status()?) {
            (Err(_), Some(status)) if !gone(&status) => {
                self.left = status.dirty.files;
                Ok(vec![format!("after all was deleted: {:?}", status.dirty)])
            }
            (Err(error), None) => Err(error),
            _ => Ok(Vec::new()),
        }
    }

    /// What explains a difference, in words: whether the peer was absent since that was last asked, which releases what waits for it,
    /// and what both nodes logged since the sequence began.
    ///
    /// # Errors
    /// The primary is gone, or a log cannot be read.
    pub fn circumstances(&mut self) -> Result<Vec<String>> {
        let status = self.mirror.primary.fresh_status()?;
        let before = std::mem::replace(&mut self.sessions, status.counters.sessions);
        let mut found = vec![format!("the primary says {}; {before} sessions before", status.summary())];
        for (node, known) in self.mirror.nodes().into_iter().zip(self.logged) {
            let logged = fs::read(&node.log).with_context(|| format!("read {}", node.log.display()))?;
            let since = String::from_utf8_lossy(logged.get(known..).unwrap_or_default());
            found.extend(since.lines().map(|line| format!("log of {}: {line}", node.name)));
        }
        Ok(found)
    }

    /// What the model begins a sequence with.
    #[must_use]
    pub fn state(&self) -> State {
        let mut state = State::new(self.natively.len());
        state.late_writes = self.filesystem != Filesystem::Ext4;
        state
    }

    /// One process does one thing on both sides.
    ///
    /// # Errors
    /// A process is gone.
    pub fn take(&mut self, actor: u8, operation: &Operation) -> Result<(Outcome, Outcome)> {
        let operation = std::slice::from_ref(operation);
        let (through, natively) =
            (&mut self.through[usize::from(actor)], &mut self.natively[usize::from(actor)]);
        through.tell(operation)?;
        natively.tell(operation)?;
        let only = |mut all: Vec<Outcome>| all.pop().context("an answer to one operation");
        Ok((only(through.answer().context("on the gate")?)?, only(natively.answer().context("natively")?)?))
    }

    /// Sync every file and directory; what each of these syncs promises must be on the copy when the last one has returned. Then
    /// wait until the copy is the same in full. What differs is returned in words.
    ///
    /// # Errors
    /// A tree cannot be read, or a sync failed.
    pub fn settle(&mut self, directories: &Directories) -> Result<Vec<String>> {
        let seen = observe::directory(&directories.gate)?;
        sync_all(&directories.gate, &seen)?;
        let seen = observe::directory(&directories.gate)?;
        let copy = observe::directory(&directories.copy);
        let found =
            copy.map(|copy| observe::differences(&seen, &copy, Depth::Synced)).unwrap_or_else(unreadable);
        if !found.is_empty() {
            return Ok(named("gate / copy, right after all was synced", found));
        }
        let mut last = Vec::new();
        let same = wait::until("the copy to be the same in full", SAME_BOUND, || {
            last = directories.differences();
            Ok(last.is_empty().then_some(()))
        });
        if let Err(error) = same {
            last.push(format!("{error:#}"));
            return Ok(named("gate / copy, at the end", last));
        }
        Ok(named("gate / copy, holes", sparse::differences(&directories.gate, &directories.copy)?))
    }
}

impl Directories {
    /// In what the copy differs from the gate, in full.
    #[must_use]
    pub fn differences(&self) -> Vec<String> {
        compare::trees(&self.gate, &self.copy).map(|found| found.differences).unwrap_or_else(unreadable)
    }
}

/// A tree that cannot be read, as a difference.
#[must_use]
pub fn unreadable(error: anyhow::Error) -> Vec<String> {
    vec![format!("{error:#}")]
}

/// Put words before each difference.
#[must_use]
pub fn named(what: &str, found: Vec<String>) -> Vec<String> {
    found.into_iter().map(|difference| format!("{what}: {difference}")).collect()
}

fn sync_all(root: &Path, seen: &observe::Tree) -> Result<()> {
    for (path, entry) in seen {
        let file = matches!(entry.content, observe::Content::Bytes(_));
        if file || entry.content == observe::Content::Directory {
            let full = root.join(path);
            fs::File::open(&full)
                .and_then(|file| file.sync_all())
                .with_context(|| format!("fsync of {}", full.display()))?;
        }
    }
    Ok(())
}
