//! Which hooks to attach.
//!
//! ```text
//! function row:    <fs>_file_write_iter, else the file system's tracepoints, else generic_write_checks, else vfs_write
//! tracepoint row:  the file system's tracepoints
//! both:            writeback_dirty_folio (of every folio where nothing above tells buffered writes), iomap_dio_*,
//!                  mm_filemap_fault, mm_filemap_map_pages (in the function row else the functions of that name)
//! ```
//!
//! Whether a file system has a hook of its own for buffered writes is part of the settings, which are fixed before a program is
//! loaded. So the best case is assumed, and where a hook turns out to be refused everything is loaded once more without it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use aya::maps::{HashMap as KernelMap, PerCpuArray};
use aya_log::EbpfLogger;
use replicator_common::{Hook, Layout, Settings, WATCHED_MAX, Watched, watched};

use super::btf::{Btf, Types};
use super::hooks::{Cover, PLACES, Place, ProgramKind, Unresolved};
use super::layout::layout;
use super::members::Members;
use super::probe::{self, Finding};
use super::programs::{Attached, Programs, Unattached};
use super::report::{HookReport, HookState, TracerReport, Uncovered};
use super::{Row, Tracer, TracerCounters, TracerError, TracerOptions, Watch};

/// File systems whose pages go through the page cache and its tracepoint. Others (tmpfs: never written back; overlayfs: the
/// data belongs to another file system; network file systems: somebody else may write) are refused.
const WRITING_BACK: &[&str] = &["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs"];

/// How a file system tells of buffered writes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Buffered {
    /// The exit of its own write function.
    WriteIter,
    /// Its own tracepoints.
    Tracepoints,
    /// The hooks for all file systems.
    Generic,
}

/// The kernel's types, and those of the file systems that are modules.
struct TypeTables {
    kernel: Btf,
    modules: BTreeMap<String, Btf>,
}

impl TypeTables {
    fn load(filesystems: &BTreeSet<String>) -> Result<TypeTables, TracerError> {
        let kernel = Btf::kernel()?;
        let modules = filesystems
            .iter()
            .filter_map(|name| Some((name.clone(), Btf::module(name, &kernel).ok()?)))
            .collect();
        Ok(TypeTables { kernel, modules })
    }

    fn of(&self, place: &Place) -> Types<'_> {
        let module = place.filesystem.and_then(|name| self.modules.get(name));
        Types { kernel: &self.kernel, module }
    }

    fn layout(&self) -> Layout {
        // Of the fields, only those of xfs itself can be a module's.
        let module = self.modules.get("xfs");
        layout(&Types { kernel: &self.kernel, module })
    }
}

pub fn start(options: TracerOptions) -> Result<Tracer, TracerError> {
    let filesystems: BTreeSet<String> =
        options.watches.iter().map(|watch| watch.filesystem.as_str().to_owned()).collect();
    for name in &filesystems {
        if !WRITING_BACK.contains(&name.as_str()) {
            return Err(TracerError::Uncovered {
                filesystem: name.clone(),
                cover: Cover::Mapped,
                reason: "the kernel tells of dirty pages only where they are written back to a local disk"
                    .to_owned(),
            });
        }
    }
    let types = TypeTables::load(&filesystems)?;
    let (mut row, mut reason) = choose(options.row, &types);
    let (attempt, buffered) = match attach(&options, row, &types, &filesystems) {
        Err(error @ TracerError::Functions { .. }) if options.row == Row::Auto => {
            // The kernel takes the function that was tried, and not those that are needed.
            (row, reason) = (Row::Tracepoints, error.to_string());
            attach(&options, row, &types, &filesystems)?
        }
        result => result?,
    };
    attempt.finish(options, row, reason, &buffered)
}

/// How each file system tells of buffered writes.
type Plan = BTreeMap<String, Buffered>;

/// Load and attach the hooks of a row.
fn attach(
    options: &TracerOptions,
    row: Row,
    types: &TypeTables,
    filesystems: &BTreeSet<String>,
) -> Result<(Attempt, Plan), TracerError> {
    let best = if row == Row::Fentry { Buffered::WriteIter } else { Buffered::Tracepoints };
    let mut buffered: Plan = filesystems.iter().map(|name| (name.clone(), best)).collect();
    // Each round takes one step down for at least one file system, and there are two steps.
    let rounds = 2 * filesystems.len() + 1;
    for _ in 0..rounds {
        let attempt = Attempt::make(options, row, types, &buffered)?;
        let short = attempt.short_of(&buffered);
        if short.is_empty() {
            if row == Row::Fentry {
                attempt.require_functions()?;
            }
            return Ok((attempt, buffered));
        }
        for name in short {
            let step = match buffered.get(&name) {
                Some(Buffered::WriteIter) => Buffered::Tracepoints,
                _ => Buffered::Generic,
            };
            buffered.insert(name, step);
        }
    }
    Err(TracerError::Object("no set of hooks was found"))
}

fn choose(wanted: Row, types: &TypeTables) -> (Row, String) {
    match wanted {
        Row::Auto => match probe::functions(&types.kernel) {
            Finding { available: true, .. } => {
                (Row::Fentry, "the kernel lets programs attach to functions".to_owned())
            }
            Finding { reason, .. } => {
                (Row::Tracepoints, format!("programs cannot be attached to functions: {reason}"))
            }
        },
        row => (row, "set by the configuration".to_owned()),
    }
}

/// Everything loaded and attached under one assumption.
struct Attempt {
    programs: Programs,
    attached: Vec<Attached>,
    states: BTreeMap<Hook, HookState>,
}

impl Attempt {
    fn make(
        options: &TracerOptions,
        row: Row,
        types: &TypeTables,
        buffered: &BTreeMap<String, Buffered>,
    ) -> Result<Attempt, TracerError> {
        let mut settings = Settings::UNSET;
        settings.layout = types.layout();
        settings.page_shift = page_shift();
        settings.watched = watched(&options.watches, buffered)?;
        let mut states = BTreeMap::new();
        let mut places = Vec::new();
        for place in PLACES {
            if !wanted(place, row, buffered) {
                states.insert(place.hook, HookState::NotNeeded);
                continue;
            }
            match place.resolve(&types.of(place)) {
                Ok(parameters) => {
                    settings.parameters[place.hook as usize] = parameters;
                    places.push(place);
                }
                Err(Unresolved::Absent) => {
                    states.insert(place.hook, HookState::Absent);
                }
                Err(Unresolved::Parameter(name)) => {
                    // There is something of that name, but not what this was written for.
                    tracing::debug!(hook = place.target, parameter = name, "unknown parameter");
                    states.insert(place.hook, HookState::Absent);
                }
            }
        }
        settings.own_tgid = match options.ignored_process {
            Some(process) => process,
            None => identity(options)?,
        };
        let programs = Programs::load(&settings, options.ring_bytes, options.log_programs)?;
        let mut attempt = Attempt { programs, attached: Vec::new(), states };
        // Those that stand in for others come last and only if they have to.
        places.sort_by_key(|place| stands_in_for(place.hook).is_some());
        for place in places {
            attempt.attach(place, &types.of(place));
        }
        Ok(attempt)
    }

    fn attach(&mut self, place: &Place, types: &Types<'_>) {
        let covered = stands_in_for(place.hook).is_some_and(|others| {
            others.iter().all(|other| self.states.get(other) == Some(&HookState::Attached))
        });
        let state = if covered {
            HookState::NotNeeded
        } else {
            match self.programs.attach(place, types) {
                Ok(attached) => {
                    self.attached.push(attached);
                    HookState::Attached
                }
                Err(Unattached::Absent) => HookState::Absent,
                Err(Unattached::Refused { errno }) => HookState::Refused { errno },
            }
        };
        self.states.insert(place.hook, state);
    }

    fn is_attached(&self, hook: Hook) -> bool {
        self.states.get(&hook) == Some(&HookState::Attached)
    }

    /// File systems whose buffered writes the attached hooks do not tell as assumed.
    fn short_of(&self, buffered: &BTreeMap<String, Buffered>) -> Vec<String> {
        let mut short = Vec::new();
        for (filesystem, how) in buffered {
            let mut hooks = PLACES
                .iter()
                .filter(|place| tells_buffered(place, filesystem, *how))
                .map(|place| place.hook)
                .peekable();
            let enough = match how {
                Buffered::Generic => true,
                _ => hooks.peek().is_some() && hooks.all(|hook| self.is_attached(hook)),
            };
            if !enough {
                short.push(filesystem.clone());
            }
        }
        short
    }

    /// The function row is there for what tracepoints do not show: for each of these, at least one function is attached and
    /// none is refused. (Writes and stores may come from either.)
    fn require_functions(&self) -> Result<(), TracerError> {
        for cover in [Cover::Shape, Cover::Names, Cover::Attributes] {
            let functions = || {
                PLACES.iter().filter(|place| place.covers == cover && place.kind != ProgramKind::Tracepoint)
            };
            for place in functions() {
                if let Some(HookState::Refused { errno }) = self.states.get(&place.hook) {
                    let source = io::Error::from_raw_os_error(*errno);
                    return Err(TracerError::Functions { cover, function: place.target, source });
                }
            }
            if !functions().any(|place| self.is_attached(place.hook)) {
                let function = functions().next().map_or("", |place| place.target);
                let source = io::ErrorKind::NotFound.into();
                return Err(TracerError::Functions { cover, function, source });
            }
        }
        Ok(())
    }

    fn finish(
        mut self,
        options: TracerOptions,
        row: Row,
        reason: String,
        buffered: &BTreeMap<String, Buffered>,
    ) -> Result<Tracer, TracerError> {
        if !self.is_attached(Hook::WritebackDirtyFolio) {
            let state = self.states.get(&Hook::WritebackDirtyFolio);
            return Err(TracerError::Uncovered {
                filesystem: buffered.keys().cloned().collect::<Vec<_>>().join(", "),
                cover: Cover::Mapped,
                reason: format!("the tracepoint writeback_dirty_folio is not to be had ({state:?})"),
            });
        }
        let uncovered = buffered.keys().flat_map(|name| self.uncovered(name, row)).collect();
        let hooks = PLACES
            .iter()
            .map(|place| HookReport {
                hook: place.hook,
                name: place.target,
                kind: place.kind,
                state: self.states.get(&place.hook).copied().unwrap_or(HookState::NotNeeded),
                covers: place.covers,
            })
            .collect();
        let report = TracerReport { row, reason, ring_bytes: options.ring_bytes, hooks, uncovered };
        let ring = self.programs.ring(options.ring_bytes)?;
        let shared = self.programs.counters()?;
        let recent = self.programs.recent_verdicts(devices(&options.watches))?;
        let mut ebpf = self.programs.ebpf;
        let members = ebpf.take_map("MEMBERS").ok_or(TracerError::Object("no membership table"))?;
        let filtered = ebpf.take_map("FILTERED").ok_or(TracerError::Object("no filter counters"))?;
        let table = KernelMap::try_from(members)?;
        let members = Members::new(table, recent, options.watches, options.resolve);
        let filtered = PerCpuArray::try_from(filtered)?;
        let logger = if options.log_programs { logger(&mut ebpf) } else { None };
        for attached in &self.attached {
            attached
                .misses()
                .map_err(|source| TracerError::System { operation: "read what a program missed", source })?;
        }
        self.attached.shrink_to_fit();
        Ok(Tracer {
            ring,
            shared,
            filtered,
            members,
            attached: self.attached,
            report,
            counters: TracerCounters::default(),
            lost_told: 0,
            page_bytes: u64::from(page_size()),
            logger,
            _ebpf: ebpf,
        })
    }

    /// What goes unseen on a file system.
    fn uncovered(&self, filesystem: &str, row: Row) -> Vec<Uncovered> {
        // One that the kernel does not have is replaced by another there; one that it refuses leaves a gap.
        let covered = |cover: Cover| {
            let of = PLACES.iter().filter(|place| {
                place.covers == cover && place.filesystem.is_none_or(|name| name == filesystem)
            });
            if cover == Cover::Remapped {
                return [
                    [Hook::MmFilemapFault, Hook::FilemapFault],
                    [Hook::MmFilemapMapPages, Hook::FilemapMapPages],
                ]
                .iter()
                .all(|either| either.iter().any(|hook| self.is_attached(*hook)));
            }
            if cover == Cover::Direct && !self.is_attached(Hook::IomapDioComplete) {
                // The other hooks tell of its beginning only, where it is asynchronous.
                return false;
            }
            let states: Vec<_> = of.filter_map(|place| self.states.get(&place.hook)).collect();
            states.iter().any(|state| matches!(state, HookState::Attached))
                && !states.iter().any(|state| matches!(state, HookState::Refused { .. }))
        };
        let mut covers = vec![
            Cover::Direct,
            Cover::Remapped,
            Cover::Shape,
            Cover::Copied,
            Cover::Names,
            Cover::Attributes,
            Cover::Synced,
        ];
        if row == Row::Tracepoints && filesystem == "ext4" {
            // It cannot share extents: a copy is a write.
            covers.retain(|cover| *cover != Cover::Copied);
        }
        covers
            .into_iter()
            .filter(|cover| !covered(*cover))
            .map(|cover| Uncovered { filesystem: filesystem.to_owned(), cover })
            .collect()
    }
}

fn logger(ebpf: &mut aya::Ebpf) -> Option<Box<dyn FnMut() + Send>> {
    match EbpfLogger::init(ebpf) {
        Ok(mut logger) => Some(Box::new(move || logger.flush())),
        Err(error) => {
            tracing::warn!(%error, "the kernel programs' own messages cannot be read");
            None
        }
    }
}

/// This process as the initial PID namespace numbers it: the kernel programs compare with that, and taking a number from
/// another namespace would silence somebody else.
fn identity(options: &TracerOptions) -> Result<u32, TracerError> {
    let mut programs = Programs::load(&Settings::UNSET, page_size(), options.log_programs)?;
    let counters = programs.counters()?;
    let identity = programs.identify(&counters);
    if options.log_programs
        && let Some(mut flush) = logger(&mut programs.ebpf)
    {
        flush();
    }
    identity
}

/// The file systems that are watched, in the order in which the programs number them.
fn devices(watches: &[Watch]) -> Vec<u32> {
    let devices: BTreeSet<u32> = watches.iter().map(|watch| watch.kernel_device).collect();
    devices.into_iter().collect()
}

/// The settings' list of file systems.
fn watched(
    watches: &[Watch],
    buffered: &BTreeMap<String, Buffered>,
) -> Result<[Watched; WATCHED_MAX], TracerError> {
    let devices = devices(watches);
    let mut list = [Watched::default(); WATCHED_MAX];
    if devices.len() > WATCHED_MAX {
        return Err(TracerError::TooManyDevices { limit: WATCHED_MAX });
    }
    for (entry, device) in list.iter_mut().zip(devices) {
        entry.device = device;
        for watch in watches.iter().filter(|watch| watch.kernel_device == device) {
            if watch.whole_filesystem {
                entry.flags |= watched::WHOLE;
            }
            if buffered.get(watch.filesystem.as_str()).is_some_and(|how| *how != Buffered::Generic) {
                entry.flags |= watched::BUFFERED;
            }
        }
    }
    Ok(list)
}

/// Whether a hook tells buffered writes of that file system in that way.
fn tells_buffered(place: &Place, filesystem: &str, how: Buffered) -> bool {
    place.covers == Cover::Buffered
        && place.filesystem == Some(filesystem)
        && match how {
            Buffered::WriteIter => place.kind == ProgramKind::Exit,
            Buffered::Tracepoints => place.kind == ProgramKind::Tracepoint,
            Buffered::Generic => false,
        }
}

/// Whether a hook is part of the plan.
fn wanted(place: &Place, row: Row, buffered: &BTreeMap<String, Buffered>) -> bool {
    if let Some(filesystem) = place.filesystem {
        let Some(how) = buffered.get(filesystem) else { return false };
        return match (place.covers, place.kind) {
            (Cover::Buffered, _) => tells_buffered(place, filesystem, *how),
            // In the function row, the functions tell these of every file system.
            (Cover::Shape | Cover::Copied, _) => row == Row::Tracepoints,
            _ => true,
        };
    }
    match (place.kind, place.covers) {
        (ProgramKind::Tracepoint, _) => true,
        (_, Cover::Buffered) => row == Row::Fentry && buffered.values().any(|how| *how == Buffered::Generic),
        (_, Cover::Synced) => {
            // Where the file system has no tracepoint for it.
            row == Row::Fentry
                && buffered.keys().any(|name| {
                    !PLACES
                        .iter()
                        .any(|place| place.covers == Cover::Synced && place.filesystem == Some(name.as_str()))
                })
        }
        _ => row == Row::Fentry,
    }
}

/// Hooks that make this one unnecessary if all of them are attached.
fn stands_in_for(hook: Hook) -> Option<&'static [Hook]> {
    match hook {
        Hook::VfsWrite => Some(&[Hook::GenericWriteChecks]),
        Hook::DoTruncate => Some(&[Hook::NotifyChange]),
        Hook::FilemapFault => Some(&[Hook::MmFilemapFault]),
        Hook::FilemapMapPages => Some(&[Hook::MmFilemapMapPages]),
        Hook::XfsFileDirectWrite => Some(&[Hook::IomapDioComplete]),
        _ => None,
    }
}

fn page_size() -> u32 {
    // SAFETY: takes no memory.
    u32::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

fn page_shift() -> u32 {
    page_size().trailing_zeros()
}
