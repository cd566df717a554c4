//! How requests come: read from /dev/fuse by readers, or over io_uring by a queue for each processor.

use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::thread;

use super::device::Device;
use crate::uring::Commands;

/// The switch of the whole machine.
const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";
const POSSIBLE: &str = "/sys/devices/system/cpu/possible";
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// Who brings the requests.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Transport {
    /// io_uring where the machine has it switched on, else readers.
    Auto,
    /// Readers.
    #[default]
    Read,
    /// io_uring, or no gate.
    IoUring,
}

/// The rings for all queues, one for each processor this machine can have.
///
/// # Errors
/// Why there are none, for people.
pub fn prepare(device: &Device, wanted: Transport) -> Result<Vec<Commands>, String> {
    if wanted == Transport::Read {
        return Err("switched off".to_owned());
    }
    available()?;
    let queues = count(&processors(POSSIBLE)?);
    // Without a thread on each processor requests would be served elsewhere, for more than readers cost.
    for processor in processors_of(&processors(ONLINE)?) {
        try_pin(processor).map_err(|error| {
            format!(
                "the daemon may not run on processor {processor} ({error}); its cpuset leaves processors out"
            )
        })?;
    }
    (0..queues).map(|_| Commands::new(device.file()).map_err(|error| error.to_string())).collect()
}

/// Whether the machine offers it.
///
/// # Errors
/// Why not, with the remedy.
pub fn available() -> Result<(), String> {
    match fs::read_to_string(SWITCH) {
        Ok(value) if value.starts_with('Y') => Ok(()),
        Ok(_) => Err(format!("switched off on this machine: write Y to {SWITCH}")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err("the kernel has none (Linux 6.14 with CONFIG_FUSE_IO_URING)".to_owned())
        }
        Err(error) => Err(format!("{SWITCH}: {error}")),
    }
}

type Ranges = Vec<RangeInclusive<usize>>;

/// A list of processors as the kernel shows it, like `0-3,8`.
fn processors(path: &str) -> Result<Ranges, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    parse(text.trim()).ok_or_else(|| format!("{path} says {text:?}"))
}

fn parse(text: &str) -> Option<Ranges> {
    text.split(',')
        .map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse().ok()?..=last.parse().ok()?)
        })
        .collect()
}

fn processors_of(ranges: &Ranges) -> impl Iterator<Item = usize> + '_ {
    ranges.iter().cloned().flatten()
}

fn count(ranges: &Ranges) -> usize {
    processors_of(ranges).count()
}

fn try_pin(processor: usize) -> io::Result<()> {
    thread::scope(|scope| {
        let pinned = thread::Builder::new().spawn_scoped(scope, || pin(processor))?;
        pinned.join().unwrap_or_else(|_| Err(io::Error::from_raw_os_error(libc::EIO)))
    })
}

/// Have the calling thread run on this processor only.
///
/// # Errors
/// EINVAL where that processor is not there or not allowed.
pub fn pin(processor: usize) -> io::Result<()> {
    let mut set = nix::sched::CpuSet::new();
    set.set(processor)?;
    Ok(nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_read() {
        let numbers = |text| parse(text).map(|ranges| processors_of(&ranges).collect::<Vec<_>>());
        assert_eq!(numbers("0"), Some(vec![0]));
        assert_eq!(numbers("0-3,8"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(parse("0-3,8,10-11").map(|ranges| count(&ranges)), Some(7));
        for nonsense in ["", "a", "1-", "-1", "1,,2"] {
            assert_eq!(parse(nonsense), None, "{nonsense}");
        }
    }
}
