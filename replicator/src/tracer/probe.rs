//! What the running kernel offers to the tracer, for `doctor` and for the choice of a row.

use std::fs;
use std::os::fd::AsFd;

use aya_obj::generated::{bpf_attach_type, bpf_insn, bpf_prog_type};

use super::btf::{Btf, Named, Types};
use super::sys::{self, Load};

/// One thing that was tried.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What.
    pub name: &'static str,
    /// Whether it can be used.
    pub available: bool,
    /// Why not, or what was found.
    pub reason: String,
}

/// Everything that was tried.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BpfProbe {
    /// Release of the running kernel.
    pub kernel: String,
    /// The kernel's type information.
    pub types: Finding,
    /// Ring buffers.
    pub ring_buffer: Finding,
    /// Raw tracepoints without types.
    pub raw_tracepoint: Finding,
    /// Raw tracepoints with types: the tracepoint row needs these.
    pub typed_tracepoint: Finding,
    /// Entries and exits of functions: the function row needs these.
    pub functions: Finding,
    /// CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN of this process.
    pub capabilities: Vec<Finding>,
}

/// Try everything. Changes nothing: what is loaded or attached is gone again on return.
#[must_use]
pub fn probe() -> BpfProbe {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    let types = Btf::kernel();
    let (typed_tracepoint, functions) = match &types {
        Ok(types) => (typed_tracepoint(types), functions(types)),
        Err(error) => {
            let missing = |name| Finding { name, available: false, reason: error.to_string() };
            (missing("typed tracepoints"), missing("function entries and exits"))
        }
    };
    BpfProbe {
        kernel,
        types: Finding {
            name: "type information",
            available: types.is_ok(),
            reason: types.map_or_else(|error| error.to_string(), |_| "/sys/kernel/btf/vmlinux".to_owned()),
        },
        ring_buffer: ring_buffer(),
        raw_tracepoint: raw_tracepoint(),
        typed_tracepoint,
        functions,
        capabilities: capabilities(),
    }
}

/// `return 0`
fn nothing() -> [bpf_insn; 2] {
    const MOVE: u8 = 0xb7;
    const EXIT: u8 = 0x95;
    let instruction = |code| {
        // SAFETY: the structure consists of integers.
        let mut instruction: bpf_insn = unsafe { std::mem::zeroed() };
        instruction.code = code;
        instruction
    };
    [instruction(MOVE), instruction(EXIT)]
}

/// Load a program that does nothing, and attach it where it was made for.
fn attempt(
    name: &'static str,
    program_type: bpf_prog_type,
    attach: Option<(bpf_attach_type, u32)>,
) -> Finding {
    let (attach_type, attach_to) = attach.map_or((0, 0), |(kind, id)| (kind as u32, id));
    let program = Load {
        name: "probe",
        program_type: program_type as u32,
        attach_type,
        attach_to,
        module: None,
        instructions: &nothing(),
    };
    let failed = |operation: &str, errno: i32| Finding {
        name,
        available: false,
        reason: format!("{operation}: {}", std::io::Error::from_raw_os_error(errno)),
    };
    let program = match sys::load(&program) {
        Ok(program) => program,
        Err(refused) => return failed("the kernel refuses the program", refused.errno),
    };
    if attach.is_some()
        && let Err(error) = sys::attach(program.as_fd())
    {
        return failed("the kernel refuses to attach", error.raw_os_error().unwrap_or(libc::EIO));
    }
    Finding { name, available: true, reason: "works".to_owned() }
}

fn raw_tracepoint() -> Finding {
    attempt("raw tracepoints", bpf_prog_type::BPF_PROG_TYPE_RAW_TRACEPOINT, None)
}

/// Whether typed tracepoints can be used.
pub fn typed_tracepoint(types: &Btf) -> Finding {
    let name = "typed tracepoints";
    // A quiet one that every kernel with block devices has.
    let Some(id) = Types::kernel(types).find(Named::Typedef, "btf_trace_writeback_dirty_folio") else {
        return Finding { name, available: false, reason: "no tracepoint writeback_dirty_folio".to_owned() };
    };
    attempt(name, bpf_prog_type::BPF_PROG_TYPE_TRACING, Some((bpf_attach_type::BPF_TRACE_RAW_TP, id.0)))
}

/// Whether programs can be attached to functions.
pub fn functions(types: &Btf) -> Finding {
    let name = "function entries and exits";
    // Made for tests and called by nobody; else a rare one.
    let types = Types::kernel(types);
    let id =
        ["bpf_fentry_test1", "vfs_rename"].iter().find_map(|function| types.find(Named::Function, function));
    let Some(id) = id else {
        return Finding { name, available: false, reason: "no function to try".to_owned() };
    };
    attempt(name, bpf_prog_type::BPF_PROG_TYPE_TRACING, Some((bpf_attach_type::BPF_TRACE_FEXIT, id.0)))
}

fn ring_buffer() -> Finding {
    let name = "ring buffer";
    match sys::make_ring_buffer() {
        Ok(_) => Finding { name, available: true, reason: "works".to_owned() },
        Err(error) => Finding { name, available: false, reason: error.to_string() },
    }
}

/// Numbers of linux/capability.h.
const CAPABILITIES: &[(&str, u32)] = &[("CAP_BPF", 39), ("CAP_PERFMON", 38), ("CAP_SYS_ADMIN", 21)];

fn capabilities() -> Vec<Finding> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    CAPABILITIES
        .iter()
        .map(|(name, number)| {
            let available = effective >> number & 1 == 1;
            let reason = if available { "effective" } else { "not effective" };
            Finding { name, available, reason: reason.to_owned() }
        })
        .collect()
}
