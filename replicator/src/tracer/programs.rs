//! Loading the kernel programs.
//!
//! aya makes the maps, patches the settings and carries the programs' messages. The tracing programs themselves are loaded here:
//! aya looks in the kernel's own types only, and on distribution kernels xfs, btrfs, sometimes ext4 are modules.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use aya::maps::{Array, Map, MapData, RingBuf};
use aya::programs::RawTracePoint;
use aya::{Ebpf, EbpfLoader, Pod};
use aya_obj::Object;
use aya_obj::generated::{bpf_attach_type, bpf_insn, bpf_prog_type};
use replicator_common::{Counters, Hook, Settings};

use super::TracerError;
use super::btf::{Named, Types};
use super::hooks::{Place, ProgramKind};
use super::ring::{RecentVerdicts, Ring, SharedCounters};
use super::sys;

/// The compiled programs; `cargo xtask build-ebpf` makes them.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("replicator.bpf.o");

#[derive(Clone, Copy)]
#[repr(transparent)]
struct SettingsData(Settings);

// SAFETY: integers and arrays of integers only, without padding (asserted where it is defined).
unsafe impl Pod for SettingsData {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct CountersData(#[allow(dead_code)] Counters);

// SAFETY: three integers of the same size.
unsafe impl Pod for CountersData {}

/// The maps and the relocated programs, loaded with fixed settings; none runs before it is attached.
pub struct Programs {
    /// Owner of the maps.
    pub ebpf: Ebpf,
    instructions: HashMap<&'static str, Vec<bpf_insn>>,
}

/// An attached program. Dropping it detaches it.
#[derive(Debug)]
pub struct Attached {
    program: OwnedFd,
    _link: OwnedFd,
    lost: Lost,
}

/// A program that is loaded for its hook and not attached to it.
#[derive(Debug)]
pub struct Loaded(OwnedFd);

impl Loaded {
    /// How often it was due while it was attached, and did not run.
    pub fn misses(&self) -> io::Result<u64> {
        sys::misses(self.0.as_fd())
    }

    /// Attach it to the hook it was loaded for.
    pub fn attach(self) -> io::Result<Attached> {
        let link = sys::attach(self.0.as_fd())?;
        Ok(Attached { program: self.0, _link: link, lost: Lost::default() })
    }
}

/// What a program did not tell.
#[derive(Clone, Copy, Default, Debug)]
struct Lost {
    /// Runs that did not happen, as the kernel said last.
    missed: u64,
    /// How often the kernel began to refuse to say: each may hide misses.
    unreadable: u64,
    /// It refuses.
    is_unreadable: bool,
}

impl Lost {
    /// With what the kernel says now; the whole number.
    fn after(&mut self, misses: io::Result<u64>) -> u64 {
        match misses {
            Ok(missed) => {
                self.missed = self.missed.max(missed);
                self.is_unreadable = false;
            }
            Err(_) if self.is_unreadable => {}
            Err(error) => {
                tracing::warn!(%error, "what a kernel program missed cannot be read; taken for lost");
                self.unreadable += 1;
                self.is_unreadable = true;
            }
        }
        self.missed + self.unreadable
    }
}

impl Attached {
    /// Let it go and keep the program.
    pub fn detach(self) -> Loaded {
        Loaded(self.program)
    }

    /// How often it was due and did not run.
    pub fn misses(&self) -> io::Result<u64> {
        sys::misses(self.program.as_fd())
    }

    /// The same, with one more for each time that the kernel would not say. Never falls.
    pub fn lost(&mut self) -> u64 {
        let misses = self.misses();
        self.lost.after(misses)
    }
}

/// Why a hook is not attached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unattached {
    /// The kernel does not have it (any more).
    Absent,
    /// The kernel refused the program or its attachment.
    Refused {
        /// The error number.
        errno: i32,
    },
}

impl Programs {
    /// Make the maps.
    pub fn load(settings: &Settings, ring_bytes: u32, log: bool) -> Result<Programs, TracerError> {
        let settings = SettingsData(*settings);
        // aya-log's numbering: 0 is off, 3 is "info".
        let log_level: u8 = if log { 3 } else { 0 };
        let ebpf = EbpfLoader::new()
            .override_global("SETTINGS", &settings, true)
            .override_global(aya_log::LEVEL, &log_level, false)
            .map_max_entries("EVENTS", ring_bytes)
            .load(OBJECT)?;
        let instructions = relocate(&ebpf)?;
        Ok(Programs { ebpf, instructions })
    }

    /// The ring's consumer.
    pub fn ring(&self, bytes: u32) -> Result<Ring, TracerError> {
        let map = self.ebpf.map("EVENTS").ok_or(TracerError::Object("no ring buffer"))?;
        let map = RingBuf::try_from(map)?;
        Ring::new(map.as_fd(), bytes as usize)
            .map_err(|source| TracerError::System { operation: "map the ring buffer", source })
    }

    /// The programs' counters.
    pub fn counters(&self) -> Result<SharedCounters, TracerError> {
        let map = self.ebpf.map("COUNTERS").ok_or(TracerError::Object("no counters"))?;
        let Map::Array(data) = map else { return Err(TracerError::Object("counters are no array")) };
        let _: Array<&MapData, CountersData> = Array::try_from(map)?;
        SharedCounters::new(data.fd().as_fd())
            .map_err(|source| TracerError::System { operation: "map the counters", source })
    }

    /// The table of recent verdicts about the files of these file systems, in the order in which the programs number them.
    pub fn recent_verdicts(&self, devices: Vec<u32>) -> Result<RecentVerdicts, TracerError> {
        let map = self.ebpf.map("VERDICTS").ok_or(TracerError::Object("no table of recent verdicts"))?;
        let Map::Array(data) = map else { return Err(TracerError::Object("recent verdicts are no array")) };
        RecentVerdicts::new(data.fd().as_fd(), devices)
            .map_err(|source| TracerError::System { operation: "map the recent verdicts", source })
    }

    /// Run the program that notes who runs it, and return what it saw: this process as the initial PID namespace numbers it.
    pub fn identify(&mut self, counters: &SharedCounters) -> Result<u32, TracerError> {
        let program =
            self.ebpf.program_mut("identify").ok_or(TracerError::Object("no program `identify`"))?;
        let program: &mut RawTracePoint = program.try_into()?;
        program.load()?;
        sys::test_run(program.fd()?.as_fd())
            .map_err(|source| TracerError::System { operation: "run a kernel program", source })?;
        u32::try_from(counters.identity())
            .ok()
            .filter(|tgid| *tgid != 0)
            .ok_or(TracerError::Object("no identity"))
    }

    /// Load a hook's program and attach it.
    pub fn attach(&self, place: &Place, types: &Types<'_>) -> Result<Attached, Unattached> {
        let (type_name, named, attach_type) = match place.kind {
            ProgramKind::Tracepoint => {
                (format!("btf_trace_{}", place.target), Named::Typedef, bpf_attach_type::BPF_TRACE_RAW_TP)
            }
            ProgramKind::Entry => {
                (place.target.to_owned(), Named::Function, bpf_attach_type::BPF_TRACE_FENTRY)
            }
            ProgramKind::Exit => (place.target.to_owned(), Named::Function, bpf_attach_type::BPF_TRACE_FEXIT),
        };
        let kernel = Types::kernel(types.kernel);
        let (attach_to, module) = match (kernel.find(named, &type_name), place.filesystem) {
            (Some(id), _) => (id, None),
            (None, Some(module)) => {
                let id = types.find(named, &type_name).ok_or(Unattached::Absent)?;
                (id, Some(sys::module_types(module).map_err(|error| refused(&error))?))
            }
            (None, None) => return Err(Unattached::Absent),
        };
        let name = place.hook.program();
        let program = self.load_program(name, attach_type, attach_to.0, module.as_ref().map(AsFd::as_fd))?;
        Loaded(program).attach().map_err(|error| refused(&error))
    }

    fn load_program(
        &self,
        name: &str,
        attach_type: bpf_attach_type,
        attach_to: u32,
        module: Option<BorrowedFd<'_>>,
    ) -> Result<OwnedFd, Unattached> {
        let instructions = self.instructions.get(name).ok_or(Unattached::Absent)?;
        sys::load(&sys::Load {
            name,
            program_type: bpf_prog_type::BPF_PROG_TYPE_TRACING as u32,
            attach_type: attach_type as u32,
            attach_to,
            module,
            instructions,
        })
        .map_err(|refused| {
            if !refused.log.is_empty() {
                // What was tried last is what was refused.
                let last = refused.log.lines().rev().take(60).collect::<Vec<_>>();
                let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
                tracing::debug!(program = name, errno = refused.errno, "the verifier refuses:\n{last}");
            }
            Unattached::Refused { errno: refused.errno }
        })
    }
}

fn refused(error: &io::Error) -> Unattached {
    Unattached::Refused { errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

/// The programs' instructions, with the maps' descriptors in them.
fn relocate(ebpf: &Ebpf) -> Result<HashMap<&'static str, Vec<bpf_insn>>, TracerError> {
    let mut object = Object::parse(OBJECT).map_err(|_| TracerError::Object("cannot be parsed"))?;
    let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    let fds: HashMap<&str, RawFd> =
        ebpf.maps().filter_map(|(name, map)| Some((name, descriptor(map)?))).collect();
    let maps = std::mem::take(&mut object.maps);
    let located = maps.iter().filter_map(|(name, map)| Some((name.as_str(), *fds.get(name.as_str())?, map)));
    object
        .relocate_maps(located, &sections)
        .and_then(|()| object.relocate_calls(&sections))
        .map_err(|_| TracerError::Object("cannot be relocated"))?;
    let mut instructions = HashMap::new();
    for hook in Hook::ALL {
        let name = hook.program();
        let program = object.programs.get(name).ok_or(TracerError::Object("a program is missing"))?;
        let function = object.functions.get(&program.function_key());
        let function = function.ok_or(TracerError::Object("a program is missing"))?;
        instructions.insert(name, function.instructions.clone());
    }
    Ok(instructions)
}

fn descriptor(map: &Map) -> Option<RawFd> {
    let (Map::Array(data)
    | Map::HashMap(data)
    | Map::LruHashMap(data)
    | Map::PerCpuArray(data)
    | Map::RingBuf(data)) = map
    else {
        return None;
    };
    Some(data.fd().as_fd().as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misses_that_cannot_be_read_are_lost_once() {
        let refused = || Err(io::Error::from_raw_os_error(libc::EPERM));
        let mut lost = Lost::default();
        assert_eq!(lost.after(Ok(2)), 2);
        assert_eq!(lost.after(refused()), 3);
        assert_eq!(lost.after(refused()), 3);
        assert_eq!(lost.after(Ok(5)), 6);
        assert_eq!(lost.after(refused()), 7);
    }
}
