//! Bodies and headers as an honest peer makes them, about few files, so that they meet.

use replicator_core::action::{DataState, DurableScope};
use replicator_core::extent::Extent;
use replicator_core::ids::{COUNTED_MAX, Errno, FileId, FileKind, Generation, Sequence, Term, VolumeId};
use replicator_core::lineage::{GenerationId, Lineage, Tag};
use replicator_core::recovery::Recovered;
use replicator_core::resume::{Held, StreamId};
use replicator_core::reunion::Account;
use replicator_core::succession::{CopyOf, encode_copies};
use replicator_core::verify::Verdict;
use replicator_core::wire::attributes::{Attributes, InodeFlags, Timestamp};
use replicator_core::wire::body::{
    Ack, Digests, Holding, Resumption, encode_barrier, encode_extents, encode_files, encode_stream,
};
use replicator_core::wire::header::{Header, Kind, VERSION};
use replicator_core::wire::hello::{Hello, Refusal, RefusalReason, Role, VolumeIdentity};
use replicator_core::wire::namespace::{ListedEntry, NewNode, Operation};
use replicator_core::wire::seen::{Aspect, Findings, Seen, SeenState, encode_names};
use replicator_core::wire::verdict::encode_verdict;
use replicator_fuzz::Random;

pub fn file(random: &mut Random) -> FileId {
    let any = random.chance(5);
    let inode = if any { random.number() } else { 1 + random.below(6) as u64 };
    FileId { volume: VolumeId(if random.chance(95) { 0 } else { random.below(3) as u16 }), inode }
}

pub fn kind(random: &mut Random) -> FileKind {
    let kinds = [FileKind::Regular, FileKind::Regular, FileKind::Directory];
    if random.chance(90) {
        return *random.one(&kinds);
    }
    FileKind::from_u8(1 + random.below(7) as u8).unwrap()
}

fn name(random: &mut Random) -> Vec<u8> {
    let longest = if random.chance(95) { 6 } else { 255 };
    let length = 1 + random.below(longest);
    (0..length).map(|_| *random.one(b"abcdefgh\xff\x01 ")).collect()
}

fn node(random: &mut Random) -> NewNode {
    let kind = kind(random);
    let target = if kind == FileKind::Symlink { name(random) } else { Vec::new() };
    let (uid, gid) = (random.next() as u32, random.next() as u32);
    let mode = random.next() as u32 & 0o7777;
    NewNode { file: file(random), kind, mode, uid, gid, rdev: random.number(), target }
}

pub fn operation(random: &mut Random) -> Operation {
    match random.below(5) {
        0 => Operation::Create { parent: file(random), name: name(random), node: node(random) },
        1 => Operation::Link { parent: file(random), name: name(random), node: node(random) },
        2 => Operation::Unlink {
            parent: file(random),
            name: name(random),
            file: file(random),
            directory: random.chance(50),
            last: random.chance(50),
        },
        3 => Operation::Rename {
            old_parent: file(random),
            old_name: name(random),
            new_parent: file(random),
            new_name: name(random),
            file: file(random),
            other: random.chance(50).then(|| file(random)),
            other_last: random.chance(50),
            exchange: random.chance(50),
        },
        _ => Operation::List {
            directory: file(random),
            first: random.chance(70),
            last: random.chance(70),
            entries: (0..random.below(5))
                .map(|_| ListedEntry { name: name(random), node: node(random) })
                .collect(),
        },
    }
}

fn attributes(random: &mut Random) -> Attributes {
    let time = |random: &mut Random| Timestamp {
        seconds: random.number() as i64,
        nanoseconds: random.below(1_000_000_000) as u32,
    };
    let mut xattrs: Vec<(Vec<u8>, Vec<u8>)> =
        (0..random.below(4)).map(|_| (name(random), random.bytes(20))).collect();
    xattrs.sort();
    xattrs.dedup_by(|one, other| one.0 == other.0);
    Attributes {
        mode: random.next() as u32,
        uid: random.next() as u32,
        gid: random.next() as u32,
        size: random.number(),
        atime: time(random),
        mtime: time(random),
        xattrs,
        flags: Some(InodeFlags::of_bits(random.next() as u32)),
    }
}

pub fn generation(random: &mut Random) -> GenerationId {
    let number =
        if random.chance(90) { 1 + random.below(6) as u64 } else { 1 + random.number() % COUNTED_MAX };
    GenerationId { number: Generation(number), tag: Tag(random.below(4) as u64) }
}

pub fn account(random: &mut Random) -> Account {
    let mut lineage = Lineage::beginning_with(generation(random));
    if random.chance(30) {
        lineage.shared = generation(random);
    }
    for place in 0..random.below(4) {
        lineage.history[place] = generation(random);
    }
    Account {
        lineage,
        data: DataState::from_u8(random.below(4) as u8).unwrap(),
        primary: random.chance(50),
        crashed: random.chance(20),
        lost: random.chance(10),
        marked: random.chance(50),
    }
}

pub fn stream(random: &mut Random) -> StreamId {
    StreamId { incarnation: [random.below(3) as u8; 16], number: random.below(4) as u64 }
}

pub fn held(random: &mut Random) -> Held {
    Held { stream: stream(random), received: Sequence(random.number()) }
}

pub fn extents(random: &mut Random) -> Vec<Extent> {
    let mut at = 0_u64;
    (0..random.below(5))
        .map(|_| {
            let start = at + random.below(100_000) as u64;
            at = start + 1 + random.below(100_000) as u64;
            Extent { start, end: at }
        })
        .collect()
}

pub fn scope(random: &mut Random) -> DurableScope {
    match random.below(4) {
        0 => DurableScope::Everything,
        1 => DurableScope::Volume(VolumeId(random.below(2) as u16)),
        _ => DurableScope::Files((0..random.below(5)).map(|_| (file(random), random.chance(50))).collect()),
    }
}

pub fn verdict(random: &mut Random) -> Verdict {
    match random.below(5) {
        0 => Verdict::Same,
        1 => Verdict::Extents(extents(random)),
        2 => Verdict::Details(random.bytes(60)),
        3 => Verdict::Absent,
        _ => Verdict::Unreadable(Errno(random.next() as i32 & i32::MAX)),
    }
}

fn hello(random: &mut Random) -> Hello {
    let volumes: Vec<VolumeIdentity> = (0..random.below(4))
        .map(|_| VolumeIdentity { device: random.number(), inode: random.number() })
        .collect();
    let patterns = if random.chance(30) { vec![random.array(); volumes.len()] } else { Vec::new() };
    Hello {
        lowest: 1,
        highest: VERSION + random.below(2) as u16,
        cluster: name(random),
        node: name(random),
        role: *random.one(&[Role::Primary, Role::Secondary]),
        mode: random.below(4) as u8,
        nonce: random.array(),
        boot: random.array(),
        volumes,
        generation: Generation(random.number()),
        term: Term(random.number()),
        data: DataState::UpToDate,
        patterns,
    }
}

fn put_file(bytes: &mut Vec<u8>, file: FileId) {
    bytes.extend(file.volume.0.to_le_bytes());
    bytes.extend(file.inode.to_le_bytes());
}

fn put_list(random: &mut Random, bytes: &mut Vec<u8>, mut member: impl FnMut(&mut Random, &mut Vec<u8>)) {
    let count = random.below(4);
    bytes.extend((count as u32).to_le_bytes());
    (0..count).for_each(|_| member(random, bytes));
}

/// A `Legacy`; what it is made of is not known outside of the core.
pub fn legacy(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_list(random, &mut bytes, |random, bytes| bytes.extend(encode_stream(stream(random))));
    put_list(random, &mut bytes, |random, bytes| {
        put_file(bytes, file(random));
        bytes.push(random.below(2) as u8);
    });
    put_list(random, &mut bytes, |random, bytes| put_file(bytes, file(random)));
    put_list(random, &mut bytes, |random, bytes| {
        put_file(bytes, file(random));
        bytes.push(random.below(8) as u8);
        (0..3).for_each(|_| bytes.extend(encode_extents(&extents(random))));
    });
    bytes
}

pub fn recovered(random: &mut Random) -> Vec<u8> {
    let odd = (0..random.below(4)).map(|_| file(random)).collect();
    Recovered { stream: stream(random), odd }.encode()
}

pub fn copies(random: &mut Random) -> Vec<u8> {
    let copy = |random: &mut Random| {
        let here = file(random);
        let original = FileId { volume: here.volume, inode: random.number() };
        CopyOf { original, here, kind: kind(random) }
    };
    let copies: Vec<CopyOf> = (0..random.below(4)).map(|_| copy(random)).collect();
    encode_copies(&copies)
}

pub fn ack(random: &mut Random) -> Ack {
    let mut three = [random.number(), random.number(), random.number()];
    if random.chance(80) {
        three = three.map(|number| number % 40);
    }
    three.sort_unstable();
    Ack { received: Sequence(three[2]), applied: Sequence(three[1]), synced: Sequence(three[0]) }
}

pub fn holding(random: &mut Random) -> Vec<u8> {
    let generation = Generation(if random.chance(80) { random.below(7) as u64 } else { random.number() });
    Holding { generation, held: random.chance(60).then(|| held(random)) }.encode()
}

fn findings(random: &mut Random) -> Vec<u8> {
    let mut findings = Findings::default();
    for _ in 0..random.below(6) {
        let (here, there) = (random.bytes(20), random.bytes(20));
        findings.push(*random.one(&Aspect::ALL), &name(random), &here, &there);
    }
    findings.encode()
}

fn state(random: &mut Random) -> Vec<u8> {
    let kind = kind(random);
    SeenState { kind, rdev: random.number(), target: name(random), attributes: attributes(random) }.encode()
}

fn names(random: &mut Random) -> Vec<u8> {
    let mut names: Vec<(Vec<u8>, u64)> =
        (0..random.below(5)).map(|_| (name(random), random.number())).collect();
    names.sort();
    names.dedup_by(|one, other| one.0 == other.0);
    encode_names(&names)
}

/// Any body.
pub fn any(random: &mut Random) -> Vec<u8> {
    match random.below(21) {
        0 | 1 => operation(random).encode(),
        2 => attributes(random).encode(1 + random.below(usize::from(VERSION)) as u16),
        3 => hello(random).encode(),
        4 => random.array::<32>().to_vec(),
        5 => {
            let reason = RefusalReason::from_u8(random.below(12) as u8);
            Refusal { reason, text: String::from_utf8_lossy(&name(random)).into_owned() }.encode()
        }
        6 => ack(random).encode(),
        7 => {
            let digests = (0..random.below(5)).map(|_| random.array()).collect();
            Digests { block_bytes: 1 + random.next() as u32 % 65_536, digests }.encode()
        }
        8 => encode_barrier(&scope(random)),
        9 => encode_stream(stream(random)),
        10 => Resumption { stream: stream(random), from: held(random) }.encode(),
        11 => holding(random),
        12 => account(random).encode(),
        13 => encode_extents(&extents(random)),
        14 => encode_files(&(0..random.below(5)).map(|_| file(random)).collect::<Vec<_>>()),
        15 => encode_verdict(&verdict(random)),
        16 => legacy(random),
        17 => copies(random),
        18 => recovered(random),
        19 => match random.below(3) {
            0 => names(random),
            1 => findings(random),
            _ => state(random),
        },
        _ => {
            let whole = state(random);
            let digest = random.array();
            if random.chance(50) { Seen::Digest(digest) } else { Seen::Whole(&whole) }.encode()
        }
    }
}

/// A header with numbers in all places.
pub fn header(random: &mut Random) -> Header {
    Header {
        kind: *random.one(&Kind::ALL),
        flags: random.below(4) as u16,
        term: Term(random.number()),
        sequence: Sequence(random.number()),
        file: file(random),
        offset: random.number(),
        length: random.number(),
    }
}
