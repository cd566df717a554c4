//! Random sequences: the same seed gives the same one.

use super::acl::{self, Acl};
use super::operation::{
    Copying, Flags, MAPS, Msync, Node, Operation, Path, Protection, Rename, SLOTS, Space, Step, Sync, Target,
    Via, Write,
};
use crate::lab::records::Random;

/// What kind of sequence is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Operations, the first ones that make directories not counted.
    pub operations: u64,
    /// Processes.
    pub actors: u8,
    /// The model knows each moment's state. Else no mappings are kept and no files protected: a store could end the process.
    pub foretold: bool,
}

/// Names that all processes use.
const SHARED: &[&str] = &[
    "a",
    "b",
    "d/a",
    "d/b",
    "d/s/a",
    "e/a",
    "e/b",
    "d",
    "e",
    "d/s",
    "e/t",
    "l",
    "d/l",
    "a name\nin two lines",
    "\u{e9}",
];
const DIRECTORIES: &[&str] = &["d", "e", "d/s"];
const KEYS: &[&str] = &["user.one", "user.two", "trusted.three"];
const MODES: &[u32] = &[0o644, 0o600, 0o755, 0o4755, 0o2755, 0o2644, 0o000, 0o1777, 0o6711];
/// What most offsets and lengths are below.
const NEAR: u64 = 20_000;
/// What all are below.
const FAR: u64 = 300_000;

struct Generator {
    random: Random,
    actors: u8,
    actor: u8,
    foretold: bool,
    tag: u64,
}

/// Make a sequence.
#[must_use]
pub fn sequence(seed: u64, plan: Plan) -> Vec<Step> {
    let Plan { actors, foretold, .. } = plan;
    let mut generator = Generator { random: Random::new(seed), actors, actor: 0, foretold, tag: 0 };
    let mut steps = beginning(plan.actors);
    for _ in 0..plan.operations {
        generator.actor = generator.random.below(u64::from(generator.actors)) as u8;
        let operation = generator.operation();
        steps.push(Step { actor: generator.actor, operation });
    }
    steps
}

/// Directories, and an open file for each process: most of what follows needs them.
fn beginning(actors: u8) -> Vec<Step> {
    let make =
        |actor, path: String| Step { actor, operation: Operation::MakeDirectory { path, mode: 0o755 } };
    let mut steps: Vec<Step> = DIRECTORIES.iter().map(|path| make(0, (*path).to_owned())).collect();
    let flags = Flags { read: true, write: true, create: true, ..Flags::default() };
    for actor in 0..actors {
        steps.push(make(actor, format!("own{actor}.d")));
        let open = Operation::Open { slot: 0, path: format!("own{actor}"), flags, mode: 0o644 };
        steps.push(Step { actor, operation: open });
    }
    steps
}

impl Generator {
    fn below(&mut self, limit: u64) -> u64 {
        self.random.below(limit)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    fn slot(&mut self) -> u8 {
        self.below(u64::from(SLOTS)) as u8
    }

    fn map(&mut self) -> u8 {
        self.below(u64::from(MAPS)) as u8
    }

    fn path(&mut self) -> Path {
        if self.chance(65) {
            return self.pick(SHARED).to_owned();
        }
        let own = self.actor;
        match self.below(24) {
            0..=6 => format!("own{own}"),
            7..=11 => format!("own{own}.d"),
            12..=16 => format!("own{own}.d/x"),
            17..=21 => format!("d/own{own}"),
            22 => format!("{own}{}", "n".repeat(254)),
            _ => format!("{own}{}", "n".repeat(255)),
        }
    }

    /// By name, or by descriptor.
    fn target(&mut self) -> Target {
        if self.chance(60) { Target::Path(self.path()) } else { Target::Slot(self.slot()) }
    }

    fn at(&mut self) -> u64 {
        match self.below(10) {
            0 => 0,
            1 => self.below(5) * 4096,
            2 => self.below(FAR),
            _ => self.below(NEAR),
        }
    }

    fn length(&mut self) -> u64 {
        match self.below(12) {
            0 => 0,
            1 | 2 => 4096 * (1 + self.below(3)),
            3 => 1 + self.below(60_000),
            4..=6 => 1 + self.below(100),
            _ => 1 + self.below(9000),
        }
    }

    fn tag(&mut self) -> u64 {
        self.tag += 1;
        self.tag
    }

    fn flags(&mut self) -> Flags {
        let mut flags = Flags { read: true, write: true, create: true, ..Flags::default() };
        match self.below(16) {
            0 => flags.exclusive = true,
            1 => flags.truncate = true,
            2 => flags = Flags { read: true, ..Flags::default() },
            3 => flags = Flags { write: true, ..Flags::default() },
            4 | 5 => flags.append = true,
            6 => flags.sync = true,
            7 => flags.dsync = true,
            8 => flags.direct = true,
            9 => flags.nofollow = true,
            10 => flags.create = false,
            11 => flags = Flags { direct: true, dsync: true, ..flags },
            _ => (),
        }
        flags
    }

    fn operation(&mut self) -> Operation {
        match self.below(100) {
            0..=15 => {
                let (slot, path, flags) = (self.slot(), self.path(), self.flags());
                Operation::Open { slot, path, flags, mode: self.pick(&[0o644, 0o600, 0o777, 0o664]) }
            }
            16 | 17 => Operation::OpenNameless {
                slot: self.slot(),
                directory: self.pick(&["d", "e", "d/s", "a"]).to_owned(),
                exclusive: self.chance(15),
                mode: 0o640,
            },
            18 => Operation::Close { slot: self.slot() },
            19..=54 => self.data(),
            55..=62 => self.sync(),
            63..=82 => self.name(),
            83..=95 => self.attribute(),
            96 => Operation::StatSlot { slot: self.slot() },
            97 => Operation::List { path: self.path() },
            _ => Operation::Stat { path: self.path() },
        }
    }

    fn data(&mut self) -> Operation {
        let (slot, at, length) = (self.slot(), self.at(), self.length());
        let sync = self.pick(&[Msync::No, Msync::No, Msync::Async, Msync::Sync]);
        match self.below(40) {
            0..=14 => {
                let how = self.pick(&[
                    Write::Plain,
                    Write::Plain,
                    Write::Plain,
                    Write::Plain,
                    Write::Dsync,
                    Write::Append,
                ]);
                Operation::Write { slot, at, length, tag: self.tag(), how, via: self.via() }
            }
            15..=17 => Operation::Read { slot, at, length, via: self.via() },
            18..=22 => {
                Operation::Store { slot, at: at % 9000, length: 1 + length % 5000, tag: self.tag(), sync }
            }
            23 | 24 if self.foretold => {
                Operation::Map { map: self.map(), slot, length: 1 + self.below(40_000) }
            }
            25..=27 if self.foretold => {
                let map = self.map();
                Operation::StoreMapped {
                    map,
                    at: at % 5000,
                    length: 1 + length % 3000,
                    tag: self.tag(),
                    sync,
                }
            }
            28 if self.foretold => Operation::Unmap { map: self.map() },
            29 | 30 => Operation::Truncate { path: self.path(), length: at },
            31 | 32 => Operation::SetLength { slot, length: at },
            33..=36 => {
                let all =
                    [Space::Allocate, Space::Keep, Space::Punch, Space::Punch, Space::Zero, Space::ZeroKeep];
                Operation::Allocate { slot, space: self.pick(&all), at, length }
            }
            _ => {
                let how = self.pick(&[Copying::Range, Copying::Range, Copying::Send, Copying::Splice]);
                // Whole blocks may be shared instead of copied.
                let unit = self.pick(&[1, 1, 4096]);
                let whole = |number: u64| number / unit * unit;
                let (from_at, to_at) = (whole(self.below(9000)), whole(at));
                Operation::Copy { from: slot, to: self.slot(), from_at, to_at, length: whole(length), how }
            }
        }
    }

    fn via(&mut self) -> Via {
        self.pick(&[Via::Call, Via::Call, Via::Call, Via::Ring, Via::Aio])
    }

    fn sync(&mut self) -> Operation {
        match self.below(8) {
            0..=3 => Operation::Sync { slot: self.slot(), what: Sync::All, via: self.via() },
            4 | 5 => Operation::Sync { slot: self.slot(), what: Sync::Data, via: self.via() },
            6 => Operation::Sync { slot: self.slot(), what: Sync::System, via: Via::Call },
            _ => Operation::SyncPath { path: self.path() },
        }
    }

    fn name(&mut self) -> Operation {
        let path = self.path();
        match self.below(20) {
            0 | 1 => Operation::MakeDirectory { path, mode: self.pick(&[0o755, 0o700, 0o777, 0o1777]) },
            2 => Operation::RemoveDirectory { path },
            3..=5 => Operation::Unlink { path },
            6..=8 => Operation::Link { from: path, to: self.path() },
            9 | 10 => Operation::LinkSlot { slot: self.slot(), to: path },
            11 | 12 => {
                let contents = ["a", "d/a", "d", "e", "l", "none/x", "own0", "d/l"];
                Operation::Symlink { content: self.pick(&contents).to_owned(), path }
            }
            13 => Operation::MakeNode {
                path,
                node: self.pick(&[Node::Fifo, Node::Null, Node::Socket, Node::Block, Node::Whiteout]),
                mode: 0o660,
            },
            _ => {
                let how = self.pick(&[
                    Rename::Plain,
                    Rename::Plain,
                    Rename::Plain,
                    Rename::NoReplace,
                    Rename::Exchange,
                    Rename::Whiteout,
                ]);
                Operation::Rename { from: path, to: self.path(), how }
            }
        }
    }

    fn attribute(&mut self) -> Operation {
        let target = self.target();
        match self.below(16) {
            0..=2 => Operation::SetMode { target, mode: self.pick(MODES) },
            3 | 4 => {
                let ids = [None, Some(0), Some(1), Some(1000)];
                Operation::SetOwner { target, uid: self.pick(&ids), gid: self.pick(&ids) }
            }
            5 | 6 => Operation::SetTime {
                target,
                seconds: 1_000_000_000 + self.below(1000) as i64,
                nanoseconds: self.below(1_000_000_000) as i64,
            },
            7..=9 => Operation::SetAttribute {
                target,
                name: self.pick(KEYS).to_owned(),
                value: vec![b'a' + self.below(26) as u8; self.pick(&[0, 1, 20, 300])],
                flags: self.pick(&[0, 0, 0, libc::XATTR_CREATE, libc::XATTR_REPLACE]),
            },
            10 => Operation::RemoveAttribute { target, name: self.pick(KEYS).to_owned() },
            11 => Operation::RemoveAttribute {
                target,
                name: self.pick(&[acl::ACCESS, acl::DEFAULT]).to_owned(),
            },
            12 | 13 if self.foretold => Operation::SetProtection {
                target,
                // Most of what follows fails where much is protected.
                protection: self.pick(&[
                    Protection::Nothing,
                    Protection::Nothing,
                    Protection::Immutable,
                    Protection::AppendOnly,
                ]),
            },
            _ => {
                let mode = self.pick(&[0o644, 0o750, 0o777, 0o600]);
                let list = match self.below(4) {
                    0 => Acl::of_mode(mode),
                    _ => Acl::with_user(mode, 1000, self.below(8) as u32, self.below(8) as u32),
                };
                Operation::SetAttribute {
                    target,
                    name: self.pick(&[acl::ACCESS, acl::DEFAULT]).to_owned(),
                    value: list.bytes(),
                    flags: 0,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::operation::Outcome;
    use super::super::state::State;
    use super::*;

    const PLAN: Plan = Plan { operations: 200, actors: 3, foretold: true };

    #[test]
    fn a_seed_gives_one_sequence() {
        assert_eq!(sequence(5, PLAN), sequence(5, PLAN));
        assert_ne!(sequence(5, PLAN), sequence(6, PLAN));
        assert_eq!(sequence(5, PLAN).len(), 200 + beginning(3).len());
    }

    /// A sequence in which most calls are refused tries little; one in which none is tries no errors.
    #[test]
    fn most_operations_take_effect_and_every_kind_does_somewhere() {
        let (mut done, mut all) = (0, 0);
        let mut kinds = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let mut state = State::new(3);
            for step in sequence(seed, PLAN) {
                all += 1;
                if !state.allows(&step) {
                    continue;
                }
                if matches!(state.take(&step), Outcome::Done(_) | Outcome::Shown(_)) {
                    done += 1;
                    let words = format!("{:?}", step.operation);
                    kinds.insert(words.split([' ', '{']).next().unwrap_or_default().to_owned());
                }
            }
        }
        assert!((40..90).contains(&(done * 100 / all)), "{done} of {all}");
        assert_eq!(kinds.len(), 32, "{kinds:?}");
    }
}
