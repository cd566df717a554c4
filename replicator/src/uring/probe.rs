//! What the running kernel offers of io_uring.

use std::io;

use io_uring::{IoUring, Probe, cqueue, opcode, squeue};

/// What keeps io_uring from being used.
#[derive(Debug, thiserror::Error)]
pub enum UringError {
    /// The kernel was built without it or is older than 5.1.
    #[error("this kernel has no io_uring; replicator needs Linux 5.15 or newer")]
    Absent,
    /// It is there, and forbidden.
    #[error(
        "io_uring is forbidden here: set the sysctl kernel.io_uring_disabled to 0, and in a container allow the \
         io_uring system calls in its seccomp profile"
    )]
    Forbidden,
    /// Part of it is missing.
    #[error("this kernel's io_uring has no {name} ({purpose}); replicator needs Linux 5.15 or newer")]
    Missing {
        /// Kernel's name of the part.
        name: &'static str,
        /// What it is needed for.
        purpose: &'static str,
    },
    /// A system call failed for another reason.
    #[error("cannot {operation} an io_uring: {source}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl UringError {
    pub(super) fn from_setup(source: io::Error) -> UringError {
        match source.raw_os_error() {
            Some(libc::ENOSYS) => UringError::Absent,
            Some(libc::EPERM | libc::EACCES) => UringError::Forbidden,
            _ => UringError::System { operation: "set up", source },
        }
    }
}

/// One part of io_uring and whether this kernel has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Feature {
    /// The kernel's name.
    pub name: &'static str,
    /// What it does for replicator.
    pub purpose: &'static str,
    /// Whether replicator cannot run without it.
    pub required: bool,
    /// Whether this kernel has it.
    pub available: bool,
}

/// All parts that replicator uses or could use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Features {
    /// The parts, required ones first.
    pub list: Vec<Feature>,
    /// How rings are set up on this kernel, best first that is accepted: "defer-taskrun", "coop-taskrun" or "plain".
    pub setup: &'static str,
}

impl Features {
    /// The first required part that is not available.
    #[must_use]
    pub fn missing(&self) -> Option<Feature> {
        self.list.iter().find(|feature| feature.required && !feature.available).copied()
    }

    /// Whether the part with that name is available.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.list.iter().any(|feature| feature.name == name && feature.available)
    }
}

/// Ask the kernel. Makes a small ring and closes it again.
///
/// # Errors
/// [`UringError`] if no ring can be made at all; a missing part is no error here (see [`Features::missing`]).
pub fn probe() -> Result<Features, UringError> {
    let (ring, setup) = setup(8)?;
    features(&ring, setup)
}

pub(super) fn features(ring: &IoUring, setup: &'static str) -> Result<Features, UringError> {
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|source| UringError::System { operation: "probe", source })?;
    let parameters = ring.params();
    let mut list = Vec::new();
    let mut add = |required, name, purpose, available| {
        list.push(Feature { name, purpose, required, available });
    };
    add(true, "FEAT_NODROP", "completions are never lost", parameters.is_feature_nodrop());
    add(true, "FEAT_EXT_ARG", "waiting with a limit", parameters.is_feature_ext_arg());
    add(true, "OP_READ", "reading files, wake-ups", probe.is_supported(opcode::Read::CODE));
    add(true, "OP_WRITE", "writing files", probe.is_supported(opcode::Write::CODE));
    add(true, "OP_FSYNC", "making files durable", probe.is_supported(opcode::Fsync::CODE));
    add(true, "OP_SEND", "sending frames", probe.is_supported(opcode::Send::CODE));
    add(true, "OP_SENDMSG", "sending several frames at once", probe.is_supported(opcode::SendMsg::CODE));
    add(true, "OP_RECV", "receiving frames", probe.is_supported(opcode::Recv::CODE));
    add(true, "OP_POLL_ADD", "watching descriptors", probe.is_supported(opcode::PollAdd::CODE));
    add(true, "OP_ASYNC_CANCEL", "giving up operations", probe.is_supported(opcode::AsyncCancel::CODE));
    add(false, "FEAT_FAST_POLL", "sockets without worker threads", parameters.is_feature_fast_poll());
    add(
        false,
        "SETUP_SINGLE_ISSUER, SETUP_DEFER_TASKRUN",
        "completions are handled only when asked for, in batches",
        setup == DEFER_TASKRUN,
    );
    add(
        false,
        "SETUP_COOP_TASKRUN",
        "no interrupt for a completion",
        setup == DEFER_TASKRUN || setup == COOP_TASKRUN,
    );
    add(false, "OP_SEND_ZC", "sending without a copy", probe.is_supported(opcode::SendZc::CODE));
    // These two have no probe of their own. Provided buffer rings came with 5.19 like OP_SOCKET, multishot receiving
    // with 6.0 like OP_SEND_ZC (io_uring_register_buf_ring(3), io_uring_prep_recv_multishot(3)).
    add(
        false,
        "REGISTER_PBUF_RING",
        "buffers provided to the kernel",
        probe.is_supported(opcode::Socket::CODE),
    );
    add(
        false,
        "RECV_MULTISHOT",
        "receiving again and again with one operation",
        probe.is_supported(opcode::SendZc::CODE),
    );
    let registered = ring.submitter().register_buffers_sparse(1).is_ok();
    if registered {
        // Only asked whether it works; if it cannot be undone the table of one empty place costs nothing.
        let _ = ring.submitter().unregister_buffers();
    }
    add(false, "REGISTER_BUFFERS2", "registered buffers", registered);
    Ok(Features { list, setup })
}

const DEFER_TASKRUN: &str = "defer-taskrun";
const COOP_TASKRUN: &str = "coop-taskrun";
const PLAIN: &str = "plain";

/// A ring with the best setup flags that this kernel takes. It is made disabled: its issuer is the thread that
/// enables it, so it can be made in one thread and handed to another.
pub(super) fn setup<E: squeue::EntryMarker>(
    entries: u32,
) -> Result<(IoUring<E, cqueue::Entry>, &'static str), UringError> {
    for kind in [DEFER_TASKRUN, COOP_TASKRUN, PLAIN] {
        let mut builder = IoUring::<E, cqueue::Entry>::builder();
        builder.setup_r_disabled().setup_clamp();
        match kind {
            // Linux 6.1. TASKRUN_FLAG: the crate asks for pending completion work only if the kernel announces it.
            DEFER_TASKRUN => {
                builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_submit_all()
            }
            // Linux 5.19.
            COOP_TASKRUN => builder.setup_coop_taskrun().setup_taskrun_flag().setup_submit_all(),
            _ => &mut builder,
        };
        match builder.build(entries) {
            Ok(ring) => return Ok((ring, kind)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && kind != PLAIN => {}
            Err(error) => return Err(UringError::from_setup(error)),
        }
    }
    Err(UringError::from_setup(io::Error::from_raw_os_error(libc::EINVAL)))
}
