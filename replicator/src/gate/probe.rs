//! What this host offers for a gate, without touching any of its directories.

use std::os::fd::AsRawFd;
use std::{fs, io, thread};

use nix::mount::MsFlags;

use super::abi::{KERNEL_VERSION, init};
use super::device::Device;
use super::session::{Negotiated, Wishes, negotiate};

/// What `doctor` shows.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct FuseProbe {
    /// Protocol of the kernel, if a test mount worked.
    pub protocol: Option<(u32, u32)>,
    /// The kernel can read and write backing files itself (Linux 6.9, `CONFIG_FUSE_PASSTHROUGH`).
    pub passthrough: bool,
    /// The kernel can repeat requests that a dead daemon left (Linux 6.9), for a later takeover.
    pub resend: bool,
    /// What is missing or in the way, each a sentence with its remedy.
    pub problems: Vec<String>,
}

/// Try it: a mount in a mount namespace of its own, gone when this returns.
#[must_use]
pub fn probe() -> FuseProbe {
    let outcome =
        thread::Builder::new().name("gate-probe".to_owned()).spawn(try_mount).map(thread::JoinHandle::join);
    let mut probe = FuseProbe::default();
    match outcome {
        Ok(Ok(Ok(negotiated))) => {
            probe.protocol = Some((KERNEL_VERSION, negotiated.minor));
            probe.passthrough = negotiated.offered & init::PASSTHROUGH != 0;
            probe.resend = negotiated.offered & init::HAS_RESEND != 0;
            if !probe.passthrough {
                probe.problems.push(
                    "the kernel has no FUSE passthrough (Linux 6.9 with CONFIG_FUSE_PASSTHROUGH): all data would go \
                     through the daemon, which is slower"
                        .to_owned(),
                );
            }
        }
        Ok(Ok(Err(problem))) => probe.problems.push(problem),
        Ok(Err(_)) => probe.problems.push("the FUSE probe panicked".to_owned()),
        Err(error) => probe.problems.push(format!("cannot start a thread: {error}")),
    }
    probe.problems.extend(request_timeout());
    probe
}

/// A limit on requests would abort the mount while an fsync waits.
fn request_timeout() -> Option<String> {
    let seconds = ["default_request_timeout", "max_request_timeout"].iter().find_map(|name| {
        let value = fs::read_to_string(format!("/proc/sys/fs/fuse/{name}")).ok()?;
        value.trim().parse::<u64>().ok().filter(|seconds| *seconds != 0)
    })?;
    Some(format!(
        "fs.fuse limits requests to {seconds} s: an fsync that waits longer would abort the mount; set \
         fs.fuse.default_request_timeout and fs.fuse.max_request_timeout to 0"
    ))
}

fn try_mount() -> Result<Negotiated, String> {
    let device = Device::open().map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            format!("/dev/fuse cannot be opened ({error}): load the module with `modprobe fuse`")
        }
        _ => format!("/dev/fuse cannot be opened ({error}): run as root, and give a container the device"),
    })?;
    let in_own_namespace = |device: &Device| -> io::Result<()> {
        // SAFETY: unshare takes no memory; the thread alone gets a new mount namespace and ends with this function.
        if unsafe { libc::unshare(libc::CLONE_FS | libc::CLONE_NEWNS) } < 0 {
            return Err(io::Error::last_os_error());
        }
        nix::mount::mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )?;
        let options = format!("fd={},rootmode=40755,user_id=0,group_id=0", device.fd().as_raw_fd());
        let target = std::env::temp_dir();
        nix::mount::mount(
            Some("replicator-probe"),
            &target,
            Some(super::mount::FILESYSTEM_TYPE),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
            Some(options.as_str()),
        )?;
        Ok(())
    };
    in_own_namespace(&device).map_err(|error| {
        format!("a FUSE file system cannot be mounted ({error}): CAP_SYS_ADMIN is needed")
    })?;
    negotiate(&device, Wishes { passthrough: true, io_uring: false }).map_err(|error| error.to_string())
}
