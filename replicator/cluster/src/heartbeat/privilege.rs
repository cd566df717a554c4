//! What the system grants to the heartbeat's thread: memory that is not taken away, and the processor before others.

use std::fs;
use std::hint::black_box;
use std::io;

/// More than the thread's calls need.
const STACK_BYTES: usize = 128 << 10;
/// Above everything that is not real-time, and below the system's own real-time threads.
const PRIORITY: i32 = 1;
/// What is left where real-time is refused.
const NICENESS: i32 = -15;

/// What was granted when the heartbeat started. It works without; but then load on this machine may look like a dead node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// Is the memory locked which the thread needs?
    pub memory: Memory,
    /// When does the thread run?
    pub scheduling: Scheduling,
}

/// The memory of the heartbeat's thread.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Memory {
    /// Its stack, its state, its buffers and the program's code are not taken away under memory pressure.
    Locked,
    /// The system refused at least a part, and why.
    Unlocked {
        /// For a person.
        why: String,
    },
}

/// When the heartbeat's thread runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scheduling {
    /// Before everything that is not real-time (`SCHED_RR`, lowest priority).
    RealTime,
    /// Like others, with more weight.
    Preferred {
        /// Why real-time was refused, for a person.
        why: String,
    },
    /// Like others.
    Ordinary {
        /// Why more was refused, for a person.
        why: String,
    },
}

/// Ask for a real-time priority for the calling thread, or what comes next.
pub(super) fn prefer_this_thread() -> Scheduling {
    let parameter = libc::sched_param { sched_priority: PRIORITY };
    // What this thread may start inherits nothing.
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // SAFETY: thread 0 is the calling one, and `parameter` is a valid sched_param for the duration of the call.
    if unsafe { libc::sched_setscheduler(0, policy, &parameter) } == 0 {
        return Scheduling::RealTime;
    }
    let why = format!("SCHED_RR: {}", io::Error::last_os_error());
    // SAFETY: takes numbers only. On Linux, 0 is the calling thread (setpriority(2), "C library/kernel differences").
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) } == 0 {
        return Scheduling::Preferred { why };
    }
    Scheduling::Ordinary { why: format!("{why}; niceness: {}", io::Error::last_os_error()) }
}

/// Lock the calling thread's stack, the program's code, and `more`, which must stay where it is.
pub(super) fn lock_memory(more: &[(*const u8, usize)]) -> Memory {
    let stack = lock_stack().map_err(|error| format!("stack: {error}"));
    let state = more.iter().try_for_each(|(address, length)| lock(*address as usize, *length, 0));
    let code = lock_code().map_err(|error| format!("code: {error}"));
    match stack.and(state.map_err(|error| format!("state: {error}"))).and(code) {
        Ok(()) => Memory::Locked,
        Err(why) => Memory::Unlocked { why: format!("{why}; raise LimitMEMLOCK= of this service") },
    }
}

/// Use so much stack once, so that it is there, and lock it.
#[inline(never)]
fn lock_stack() -> io::Result<()> {
    let mut pages = [0u8; STACK_BYTES];
    black_box(&mut pages);
    lock(pages.as_ptr() as usize, pages.len(), 0)
}

/// The program and its libraries: each page once it is used. Read from the disk when they are needed, they would be late.
fn lock_code() -> io::Result<()> {
    for line in fs::read_to_string("/proc/self/maps")?.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some(access)) = (words.next(), words.next()) else { continue };
        if !access.contains('x') || !words.any(|word| word.starts_with('/')) {
            continue;
        }
        let address = |text| usize::from_str_radix(text, 16).ok();
        if let Some((Some(begin), Some(end))) = range.split_once('-').map(|(a, b)| (address(a), address(b))) {
            lock(begin, end.saturating_sub(begin), libc::MLOCK_ONFAULT)?;
        }
    }
    Ok(())
}

fn lock(address: usize, length: usize, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: mlock2 changes no memory and no meaning of it; an address that is not mapped is refused with ENOMEM.
    match unsafe { libc::mlock2(address as *const libc::c_void, length, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
