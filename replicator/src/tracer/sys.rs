//! The bpf(2) calls that aya does not make: tracing programs on a module's functions, a test run, and what a program missed.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use aya_obj::generated::{bpf_attr, bpf_btf_info, bpf_cmd, bpf_insn, bpf_map_type, bpf_prog_info};

/// The verifier's words when it refuses, at most.
const LOG_BYTES: usize = 1 << 16;

/// A program that the kernel did not take.
#[derive(Debug)]
pub struct Refused {
    /// The error number.
    pub errno: i32,
    /// What the verifier says, if it came so far.
    pub log: String,
}

/// A program to load.
pub struct Load<'a> {
    /// Name shown by tools, at most 15 bytes.
    pub name: &'a str,
    /// `bpf_prog_type`.
    pub program_type: u32,
    /// `bpf_attach_type`.
    pub attach_type: u32,
    /// Number of the type it attaches to, 0 for none.
    pub attach_to: u32,
    /// The module whose type that is; `None` for the kernel itself.
    pub module: Option<BorrowedFd<'a>>,
    /// The program.
    pub instructions: &'a [bpf_insn],
}

fn zeroed() -> bpf_attr {
    // SAFETY: the union consists of integers and integer arrays; the kernel wants unused parts to be zero.
    unsafe { std::mem::zeroed() }
}

fn bpf(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: `attributes` is a valid bpf_attr of the size given, and what its pointers refer to is alive in the callers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_int,
            attributes as *mut bpf_attr,
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel just returned this descriptor; nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Load a program; if it is refused, once more to hear why.
pub fn load(program: &Load<'_>) -> Result<OwnedFd, Refused> {
    match load_once(program, &mut []) {
        Ok(fd) => Ok(fd),
        Err(first) if first.raw_os_error() == Some(libc::EPERM) => {
            Err(Refused { errno: libc::EPERM, log: String::new() })
        }
        Err(first) => {
            let mut log = vec![0; LOG_BYTES];
            match load_once(program, &mut log) {
                Ok(fd) => Ok(fd),
                Err(_) => Err(Refused {
                    errno: first.raw_os_error().unwrap_or(libc::EIO),
                    log: CStr::from_bytes_until_nul(&log)
                        .map(|text| text.to_string_lossy().into_owned())
                        .unwrap_or_default(),
                }),
            }
        }
    }
}

fn load_once(program: &Load<'_>, log: &mut [u8]) -> io::Result<OwnedFd> {
    let mut attributes = zeroed();
    // SAFETY: all bytes of the union are initialised, and the fields are integers.
    let load = unsafe { &mut attributes.__bindgen_anon_3 };
    for (to, from) in load.prog_name.iter_mut().take(15).zip(program.name.bytes()) {
        *to = from as libc::c_char;
    }
    load.prog_type = program.program_type;
    load.expected_attach_type = program.attach_type;
    load.attach_btf_id = program.attach_to;
    if let Some(module) = program.module {
        load.__bindgen_anon_1.attach_btf_obj_fd = module.as_raw_fd() as u32;
    }
    load.insns = program.instructions.as_ptr() as u64;
    load.insn_cnt = u32::try_from(program.instructions.len()).unwrap_or(u32::MAX);
    // The helpers in use are for GPL-compatible programs; the object's licence section says the same.
    load.license = c"Dual MIT/GPL".as_ptr() as u64;
    if !log.is_empty() {
        load.log_level = 1;
        load.log_buf = log.as_mut_ptr() as u64;
        load.log_size = u32::try_from(log.len()).unwrap_or(u32::MAX);
    }
    bpf(bpf_cmd::BPF_PROG_LOAD, &mut attributes).map(owned)
}

/// Attach a loaded tracing program to what it was loaded for. Closing the descriptor detaches it.
pub fn attach(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attributes = zeroed();
    attributes.raw_tracepoint.prog_fd = program.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attributes).map(owned)
}

/// Run a loaded raw tracepoint program once, in this thread.
pub fn test_run(program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = zeroed();
    attributes.test.prog_fd = program.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attributes).map(|_| ())
}

/// Make a ring buffer of one page, to see whether the kernel can.
pub fn make_ring_buffer() -> io::Result<OwnedFd> {
    let mut attributes = zeroed();
    // SAFETY: all bytes of the union are initialised, and the fields are integers.
    let map = unsafe { &mut attributes.__bindgen_anon_1 };
    map.map_type = bpf_map_type::BPF_MAP_TYPE_RINGBUF as u32;
    // SAFETY: takes no memory.
    map.max_entries = u32::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    bpf(bpf_cmd::BPF_MAP_CREATE, &mut attributes).map(owned)
}

/// How often a program was due and did not run, because it was running already on that processor (Linux 5.12).
pub fn misses(program: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: the structure consists of integers.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    let mut attributes = zeroed();
    attributes.info.bpf_fd = program.as_raw_fd() as u32;
    attributes.info.info_len = size_of::<bpf_prog_info>() as u32;
    attributes.info.info = &raw mut info as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attributes)?;
    // SAFETY: the kernel wrote this member: how much it filled in.
    let filled = unsafe { attributes.info.info_len } as usize;
    if filled < std::mem::offset_of!(bpf_prog_info, recursion_misses) + size_of::<u64>() {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    Ok(info.recursion_misses)
}

/// The descriptor of a loaded module's type information, by the module's name.
pub fn module_types(module: &str) -> io::Result<OwnedFd> {
    // The kernel numbers its type information upwards; a machine has a few hundred at most.
    const MODULES_MAX: usize = 65_536;
    let mut id = 0;
    for _ in 0..MODULES_MAX {
        let mut attributes = zeroed();
        attributes.__bindgen_anon_6.__bindgen_anon_1.start_id = id;
        bpf(bpf_cmd::BPF_BTF_GET_NEXT_ID, &mut attributes)?;
        // SAFETY: the kernel wrote this member.
        id = unsafe { attributes.__bindgen_anon_6.next_id };
        let mut attributes = zeroed();
        attributes.__bindgen_anon_6.__bindgen_anon_1.btf_id = id;
        let Ok(fd) = bpf(bpf_cmd::BPF_BTF_GET_FD_BY_ID, &mut attributes).map(owned) else { continue };
        let mut name = [0_u8; 64];
        // SAFETY: the structure consists of integers.
        let mut info: bpf_btf_info = unsafe { std::mem::zeroed() };
        info.name = name.as_mut_ptr() as u64;
        info.name_len = name.len() as u32;
        let mut attributes = zeroed();
        attributes.info.bpf_fd = fd.as_raw_fd() as u32;
        attributes.info.info_len = size_of::<bpf_btf_info>() as u32;
        attributes.info.info = &raw mut info as u64;
        if bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attributes).is_err() || info.kernel_btf == 0 {
            continue;
        }
        if CStr::from_bytes_until_nul(&name).is_ok_and(|found| found.to_bytes() == module.as_bytes()) {
            return Ok(fd);
        }
    }
    Err(io::Error::from_raw_os_error(libc::ENOENT))
}
