//! The tracer: kernel programs that see each write which bypasses the daemon.
//!
//! Only this module knows aya and BTF. It does not know the gate, the link or the daemon: it is polled, and hands out
//! [`TraceEvent`]s.
//!
//! An event may come before the change is complete, but then with the inode locked: whoever reads the file's state because
//! of an event must take the inode's lock once before (on every file system here, `lseek` with `SEEK_DATA` or `SEEK_HOLE`
//! does), or it may see the old size or the old bytes after having cleared the mark.

pub mod btf;
mod hooks;
mod layout;
mod members;
mod plan;
mod prepared;
mod probe;
mod programs;
mod report;
mod ring;
mod sys;

use std::io;
use std::time::{Duration, Instant};

use aya::maps::{MapData, PerCpuArray};
use aya::{Ebpf, Pod};
use replicator_common::{Filtered, Kind, Record, flag};
use replicator_core::extent::Extent;
use replicator_core::ids::{FileId, VolumeId};

pub use hooks::{Cover, ProgramKind};
pub use prepared::PreparedTracer;
pub use probe::{BpfProbe, Finding, probe};
pub use replicator_common::Hook;
pub use report::{HookReport, HookState, TracerReport, Uncovered};

use members::{Members, Owner};
use programs::Attached;
use ring::{Next, Ring, SharedCounters};

/// One thing a kernel program saw. Ranges are upper bounds where the kernel gives no exact one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TraceEvent {
    /// These bytes were written, punched, zeroed or cut off.
    Write {
        /// The file.
        file: FileId,
        /// The bytes.
        extent: Extent,
    },
    /// From now on, or since a moment ago, these bytes may change through a shared mapping in silence, until they have been
    /// written back: a page of a mapped file became dirty, or was written to, or a dirty one was mapped. To be read only
    /// after a local sync that begins later. (Where a file system has no better hook for writes, any page that becomes dirty.)
    Store {
        /// The file.
        file: FileId,
        /// The folio's bytes.
        extent: Extent,
    },
    /// Mode, owner, times or extended attributes changed.
    Attributes {
        /// The file.
        file: FileId,
    },
    /// Names in this directory changed.
    Directory {
        /// The directory.
        directory: FileId,
    },
    /// A sync the gate cannot hold was done by a foreign process (msync, RWF_DSYNC).
    UnguardedSync {
        /// The file.
        file: FileId,
    },
}

/// A replicated directory to watch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Watch {
    /// Which.
    pub volume: VolumeId,
    /// The superblock's device in the kernel's own encoding (major << 20 | minor).
    pub kernel_device: u32,
    /// The file system's name as in /proc/filesystems.
    pub filesystem: String,
    /// Inode number of the directory.
    pub root_inode: u64,
    /// Every file of the device belongs to it: nothing is looked up.
    pub whole_filesystem: bool,
}

/// Which set of hooks to use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Row {
    /// The best one that the kernel permits.
    #[default]
    Auto,
    /// Function entries and exits, with tracepoints for what functions do not show.
    Fentry,
    /// Tracepoints only.
    Tracepoints,
}

/// Answers whether a file of that volume's device belongs to the volume. Called while draining, for files nothing is known
/// about; the number is the inode's generation. The answer is kept until [`Tracer::set_membership`] or [`Tracer::forget`].
pub type Resolve = Box<dyn Fn(FileId, u32) -> bool + Send>;

/// How to trace.
pub struct TracerOptions {
    /// Which set of hooks to use.
    pub row: Row,
    /// Size of the ring buffer in bytes: a power of two, at least a page.
    pub ring_bytes: u32,
    /// What to watch.
    pub watches: Vec<Watch>,
    /// Whether the kernel programs' own messages go to the log.
    pub log_programs: bool,
    /// Who knows about files that were not announced by [`Tracer::set_membership`]. Without, every file of a watched device
    /// is taken for a member.
    pub resolve: Option<Resolve>,
    /// The process whose doings are not told, as the initial PID namespace numbers it. `None`: this process.
    pub ignored_process: Option<u32>,
}

impl TracerOptions {
    /// Default size of the ring: a fifth of a second of two writers at full speed.
    pub const RING_BYTES: u32 = 16 << 20;

    /// Watch these with the best set of hooks.
    #[must_use]
    pub fn new(watches: Vec<Watch>) -> TracerOptions {
        TracerOptions {
            row: Row::Auto,
            ring_bytes: TracerOptions::RING_BYTES,
            watches,
            log_programs: false,
            resolve: None,
            ignored_process: None,
        }
    }
}

/// What keeps the tracer from starting.
#[derive(Debug, thiserror::Error)]
pub enum TracerError {
    /// The kernel's type information is needed and cannot be had.
    #[error("no type information of the running kernel: {0}")]
    Btf(#[from] btf::BtfError),
    /// The maps could not be made, or the object was refused as a whole.
    #[error("cannot load the kernel programs: {0}")]
    Load(#[from] aya::EbpfError),
    /// A map of an unexpected kind.
    #[error("cannot use a map of the kernel programs: {0}")]
    Map(#[from] aya::maps::MapError),
    /// The program that identifies this process was refused.
    #[error("cannot load a kernel program: {0}")]
    Program(#[from] aya::programs::ProgramError),
    /// The kernel refused a call.
    #[error("cannot {operation}: {source}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The embedded object is not the one this was written for.
    #[error("the embedded kernel programs are unusable: {0}")]
    Object(&'static str),
    /// Something that changes files without the daemon cannot be seen.
    #[error("on {filesystem}, {} cannot be seen: {reason}", cover.name())]
    Uncovered {
        /// The file system.
        filesystem: String,
        /// What.
        cover: Cover,
        /// Why.
        reason: String,
    },
    /// The function row was asked for, and a function that it needs cannot be had.
    #[error("a program cannot be attached to the function {function}, for {}: {source}", cover.name())]
    Functions {
        /// What it makes visible.
        cover: Cover,
        /// The function.
        function: &'static str,
        /// Why not; `NotFound` if the kernel does not have it.
        source: io::Error,
    },
    /// More file systems than the kernel programs have room for.
    #[error("more than {limit} file systems to watch")]
    TooManyDevices {
        /// How many there may be.
        limit: usize,
    },
}

/// What one [`Tracer::drain`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Drained {
    /// Records taken out of the ring.
    pub taken: usize,
    /// Events that are known since this call to be lost: any watched file may have changed anywhere.
    pub lost: u64,
    /// Everything told before the call was taken out. If not, the limit was reached or a processor is still writing down a
    /// record: call again.
    pub reached_end: bool,
}

/// What the tracer counted since it started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TracerCounters {
    /// Events the kernel programs had to tell.
    pub told: u64,
    /// Events taken out of the ring.
    pub delivered: u64,
    /// Events that found the ring full.
    pub dropped: u64,
    /// Runs of a program that did not happen, because it was running on that processor already.
    pub missed: u64,
    /// Events of the ignored process.
    pub filtered_own: u64,
    /// Events on files outside, filtered in the kernel.
    pub filtered_outside: u64,
    /// Events on files outside, taken out of the ring and dropped here.
    pub resolved_outside: u64,
    /// Records that made no sense.
    pub malformed: u64,
    /// Files the kernel programs know the membership of.
    pub members: u64,
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct FilteredData(Filtered);

// SAFETY: two integers of the same size.
unsafe impl Pod for FilteredData {}

/// How long [`Tracer::drain`] waits for a record that another processor is writing down.
const BUSY_PATIENCE: Duration = Duration::from_millis(1);

/// The attached kernel programs and the consumer of what they tell. Dropping it detaches everything.
pub struct Tracer {
    ring: Ring,
    shared: SharedCounters,
    filtered: PerCpuArray<MapData, FilteredData>,
    members: Members,
    attached: Vec<Attached>,
    report: TracerReport,
    counters: TracerCounters,
    /// Drops and misses already told to the caller.
    lost_told: u64,
    page_bytes: u64,
    /// Hands the programs' own messages to the log.
    logger: Option<Box<dyn FnMut() + Send>>,
    /// Owner of the remaining maps.
    _ebpf: Ebpf,
}

impl Tracer {
    /// Load and attach the programs. From the return on, every change is told or counted as lost.
    ///
    /// # Errors
    /// [`TracerError`]; `Uncovered` if buffered writes or stores to mappings of a watched file system would go unseen. Hooks that
    /// are refused where another covers them are in the report.
    pub fn start(options: TracerOptions) -> Result<Tracer, TracerError> {
        plan::start(options)
    }

    /// The row taken and why, and the state of each hook.
    #[must_use]
    pub fn report(&self) -> &TracerReport {
        &self.report
    }

    /// Take out what was told before this call, at most `limit` records, in the order of the ring.
    pub fn drain(&mut self, limit: usize, emit: &mut dyn FnMut(TraceEvent)) -> Drained {
        self.drain_records(limit, &mut |event, _| emit(event))
    }

    /// As [`Tracer::drain`], but for runs of programs that were skipped, which cost a system call per program to ask for: they
    /// are told by the next [`Tracer::drain`]. Dropped events are told at once.
    pub fn drain_ring(&mut self, limit: usize, emit: &mut dyn FnMut(TraceEvent)) -> Drained {
        let mut drained = self.take_out(limit, &mut |event, _| emit(event));
        drained.lost += self.newly_lost();
        drained
    }

    /// As [`Tracer::drain`], with the record as the kernel program told it (for tests and diagnosis).
    pub fn drain_records(&mut self, limit: usize, emit: &mut dyn FnMut(TraceEvent, &Record)) -> Drained {
        let mut drained = self.take_out(limit, emit);
        self.counters.missed = self.attached.iter_mut().map(Attached::lost).sum();
        drained.lost += self.newly_lost();
        if let Some(logger) = &mut self.logger {
            logger();
        }
        drained
    }

    fn take_out(&mut self, limit: usize, emit: &mut dyn FnMut(TraceEvent, &Record)) -> Drained {
        let until = self.ring.producer_position();
        let mut drained = Drained::default();
        let mut patience = None;
        while drained.taken < limit {
            match self.ring.next(until) {
                Next::Record(record) => {
                    patience = None;
                    drained.taken += 1;
                    self.counters.delivered += 1;
                    for event in self.events(&record).into_iter().flatten() {
                        emit(event, &record);
                    }
                }
                Next::Malformed => {
                    drained.taken += 1;
                    drained.lost += 1;
                    self.counters.malformed += 1;
                }
                Next::Busy => {
                    let since = *patience.get_or_insert_with(Instant::now);
                    if since.elapsed() > BUSY_PATIENCE {
                        break;
                    }
                    std::thread::yield_now();
                }
                Next::End => break,
            }
        }
        self.ring.release();
        drained.reached_end = self.ring.reached(until);
        drained
    }

    /// To be called after the ring was emptied: what was lost before is counted by then.
    fn newly_lost(&mut self) -> u64 {
        self.counters.dropped = self.shared.dropped();
        let lost = self.counters.dropped + self.counters.missed;
        let newly = lost.saturating_sub(self.lost_told);
        self.lost_told = self.lost_told.max(lost);
        newly
    }

    /// What a record means. A write to a mapped file is two events: its bytes are there, and the same pages may change again in
    /// silence.
    fn events(&mut self, record: &Record) -> [Option<TraceEvent>; 2] {
        let Some(kind) = Kind::from_u8(record.kind) else {
            self.counters.malformed += 1;
            return [None, None];
        };
        let (volume, arrived) = match self.members.owner(record) {
            Owner::Member(volume) => (volume, false),
            Owner::Arrived(volume) => (volume, true),
            Owner::Outside => {
                self.counters.resolved_outside += 1;
                return [None, None];
            }
        };
        let file = FileId { volume, inode: record.inode };
        let is_mapped = record.flags & flag::MAPPED != 0;
        if arrived && record.flags & flag::DIRECTORY == 0 {
            let store = TraceEvent::Store { file, extent: Extent::WHOLE };
            return [Some(TraceEvent::Write { file, extent: Extent::WHOLE }), is_mapped.then_some(store)];
        }
        let extent = Extent::at(record.offset, record.length);
        let event = match kind {
            Kind::Write if extent.is_empty() => TraceEvent::Attributes { file },
            Kind::Write => TraceEvent::Write { file, extent },
            Kind::Store => TraceEvent::Store { file, extent },
            Kind::Attributes => TraceEvent::Attributes { file },
            Kind::Directory => TraceEvent::Directory { directory: file },
            Kind::Sync => TraceEvent::UnguardedSync { file },
        };
        let store = (kind == Kind::Write && is_mapped && !extent.is_empty())
            .then(|| TraceEvent::Store { file, extent: self.whole_pages(extent) });
        [Some(event), store]
    }

    fn whole_pages(&self, extent: Extent) -> Extent {
        let within = self.page_bytes - 1;
        let end = match extent.end.checked_add(within) {
            Some(end) => end & !within,
            None => Extent::END,
        };
        Extent { start: extent.start & !within, end }
    }

    /// Say whether a file belongs to the volume. To be called with `true` for a new file before anybody can write to it without the
    /// daemon, and with `false` for one that was moved out.
    pub fn set_membership(&mut self, volume: VolumeId, inode: u64, inside: bool) {
        self.members.set(volume, inode, inside);
    }

    /// A file was found inside the volume: a verdict that it lies outside, by which nothing of it is told, is taken back. Returns
    /// whether anything of it may have gone untold: then its content is unknown, and stores into it may stay silent until the
    /// next sync.
    pub fn found_inside(&mut self, volume: VolumeId, inode: u64) -> bool {
        self.members.found_inside(volume, inode)
    }

    /// Forget what is known about an inode, because the file is gone.
    pub fn forget(&mut self, volume: VolumeId, inode: u64) {
        self.members.forget(volume, inode);
    }

    /// What was counted since the start.
    pub fn counters(&mut self) -> TracerCounters {
        self.counters.told = self.shared.sequence();
        self.counters.members = self.members.told() as u64;
        if let Ok(values) = self.filtered.get(&0, 0) {
            self.counters.filtered_own = values.iter().map(|value| value.0.own).sum();
            self.counters.filtered_outside = values.iter().map(|value| value.0.outside).sum();
        }
        self.counters
    }
}
