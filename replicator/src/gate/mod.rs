//! The gate: a FUSE file system mounted over the replicated directory itself.
//!
//! Only this module knows FUSE. It does not know the tracer, the link or the daemon: what it sees it reports to a
//! [`sink::Sink`]. What applications may expect of it is in `docs/semantics.md`.
//!
//! ```text
//! kernel --request--> device --> session (readers) --> request (typed) --> operations --> *at calls on the volume
//!                                                                             |---------> sink (report, intent, sync)
//! kernel <--answer--- device <------------------------ server (tables) <------'
//! ```
//!
//! Where the kernel offers it, requests come over io_uring instead of the device: `queue` is to it what the readers are to the device.
//!
//! Reads, writes and mappings of ordinary handles go past it: the kernel does them on the backing file (passthrough).

mod abi;
mod counters;
mod credentials;
mod device;
mod handles;
mod inodes;
mod kernel_cache;
mod listings;
mod mount;
mod operations;
mod place;
mod probe;
mod queue;
mod request;
mod server;
mod session;
pub mod sink;
pub mod strict;
mod transport;

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

pub use counters::{Counters, RequestCounts};
pub use kernel_cache::KernelCache;
pub use mount::{RecoverError, Recovered, recover};
pub use probe::{FuseProbe, probe};
pub use session::NegotiationError;
pub use transport::{Transport, available as io_uring_available};

use abi::KERNEL_VERSION;
use credentials::Identity;
use device::Device;
use handles::Handles;
use inodes::Inodes;
use listings::Listings;
use mount::{Detached, MountEntry};
use queue::{Job, Queue};
use server::Server;
use session::{End, Negotiated, Wishes};
use sink::Sink;
use strict::StrictFiles;

use crate::idle::Waiting;
use crate::status::StrictStatus;
use crate::uring::Commands;
use crate::volume::Volume;

/// Who moves the bytes of ordinary handles.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Passthrough {
    /// The kernel, where it can.
    #[default]
    Auto,
    /// The daemon: every write is seen, also msync; slower.
    Off,
}

/// How a gate is to be.
#[derive(Clone, Debug)]
pub struct GateOptions {
    /// Who moves the bytes.
    pub passthrough: Passthrough,
    /// How requests come.
    pub transport: Transport,
    /// Threads that read requests; over io_uring as many move bytes.
    pub readers: usize,
    /// How long [`Gate::unmount`] waits for those who still have something open before it cuts them off.
    pub grace: Duration,
    /// Which files are opened without passthrough although there is one.
    pub strict: Arc<StrictFiles>,
    /// Told of each request.
    pub waiting: Waiting,
}

impl Default for GateOptions {
    fn default() -> GateOptions {
        let processors = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        GateOptions {
            passthrough: Passthrough::Auto,
            transport: Transport::Read,
            // The kernel wakes them in turn, so that more than are needed cost a single client time (docs/measurements/metadata.md);
            // with only one, everybody would wait for whoever has a slow disk below.
            readers: processors.clamp(2, 3),
            grace: Duration::from_secs(10),
            strict: Arc::new(StrictFiles::new(Vec::new(), true)),
            waiting: Waiting::default(),
        }
    }
}

/// Why there is no gate, or why it does not go away.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The kernel offers no FUSE.
    #[error(
        "cannot open /dev/fuse: {0}; load the module with `modprobe fuse`, and give a container the device"
    )]
    Device(#[source] io::Error),
    /// The kernel and the gate do not understand each other.
    #[error(transparent)]
    Negotiation(#[from] NegotiationError),
    /// io_uring was asked for and is not to be had.
    #[error("requests cannot come over io_uring: {refusal}")]
    Transport {
        /// Why not, with the remedy.
        refusal: String,
    },
    /// A system call failed.
    #[error("cannot {operation} {path}: {source}")]
    System {
        /// The directory.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// What a gate does and has done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GateReport {
    /// FUSE protocol of the kernel.
    pub protocol: (u32, u32),
    /// The kernel moves the bytes of ordinary handles.
    pub passthrough: bool,
    /// Why it does not.
    pub passthrough_refusal: Option<String>,
    /// Requests come over io_uring.
    pub io_uring: bool,
    /// Why they do not.
    pub io_uring_refusal: Option<String>,
    /// Threads that serve requests.
    pub threads: usize,
    /// They all do. False after somebody else unmounted, aborted, or after a failure.
    pub serving: bool,
    /// An operation panicked: the gate has cut itself off.
    pub failed: bool,
    /// Requests since the mount.
    pub requests: RequestCounts,
    /// Files open.
    pub open_files: usize,
    /// Files whose bytes the kernel moves just now.
    pub backing_files: u64,
    /// Files the kernel knows.
    pub inodes: usize,
    /// Callers held until something is durable.
    pub held: u64,
    /// Files opened without passthrough although there is one.
    pub strict: StrictStatus,
}

/// A mounted gate of one volume. Dropping it without [`Gate::unmount`] takes the mount away without waiting.
#[derive(Debug)]
pub struct Gate {
    server: Arc<Server>,
    mount: MountEntry,
    threads: Vec<JoinHandle<()>>,
    /// Closed when the last thread has ended.
    ended: Mutex<mpsc::Receiver<()>>,
    passthrough_refusal: Option<String>,
    /// `None`: requests come over io_uring.
    io_uring_refusal: Option<String>,
    grace: Duration,
    detached: bool,
}

impl Gate {
    /// Mount over the volume's directory and serve.
    ///
    /// The volume was opened before: what a crashed daemon left must have been taken away with [`recover`].
    ///
    /// # Errors
    /// [`GateError`]; nothing is left mounted then.
    pub fn mount(volume: Arc<Volume>, options: GateOptions, sink: Arc<dyn Sink>) -> Result<Gate, GateError> {
        let system = |operation| {
            let path = volume.path.clone();
            move |source| GateError::System { path, operation, source }
        };
        raise_descriptor_limit();
        let inodes = Inodes::new(&volume).map_err(system("name by handle"))?;
        let device = Device::open().map_err(GateError::Device)?;
        // Before the mount: once the kernel agreed to queues, its callers wait for them.
        let rings = transport::prepare(&device, options.transport);
        if let (Transport::IoUring, Err(refusal)) = (options.transport, &rings) {
            return Err(GateError::Transport { refusal: refusal.clone() });
        }
        let mount = mount::attach(&volume, &device).map_err(system("mount over"))?;
        let prepared = prepare(&volume, &device, options.passthrough, rings.is_ok());
        let (negotiated, passthrough_refusal) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                let _ = mount::abort(&mount);
                let _ = mount::detach(&mount);
                return Err(error);
            }
        };
        let server = Arc::new(Server {
            volume,
            sink,
            device,
            negotiated,
            inodes,
            handles: Handles::new(),
            listings: Listings::default(),
            counters: Arc::default(),
            held: AtomicU64::new(0),
            backing_files: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            foreign_seen: AtomicBool::new(false),
            backing_refused: AtomicBool::new(false),
            strict: options.strict,
            waiting: options.waiting,
            ports: OnceLock::new(),
        });
        server.strict.attach(Arc::downgrade(&server));
        let (end, ended) = mpsc::channel();
        let mut gate = Gate {
            server,
            mount,
            threads: Vec::new(),
            ended: Mutex::new(ended),
            passthrough_refusal,
            io_uring_refusal: None,
            grace: options.grace,
            detached: false,
        };
        // From here on dropping the gate takes the mount away.
        gate.start_readers(options.readers.max(1), &end)?;
        gate.start_transport(rings, options.transport, options.readers.max(1), &end)?;
        tracing::info!(
            volume = %gate.server.volume.path.display(),
            protocol = %format_args!("{KERNEL_VERSION}.{}", negotiated.minor),
            passthrough = negotiated.passthrough,
            io_uring = gate.io_uring_refusal.is_none(),
            "gate mounted"
        );
        Ok(gate)
    }

    /// What it does and has done.
    #[must_use]
    pub fn report(&self) -> GateReport {
        let server = &self.server;
        GateReport {
            protocol: (KERNEL_VERSION, server.negotiated.minor),
            passthrough: server.negotiated.passthrough,
            passthrough_refusal: self.passthrough_refusal.clone(),
            io_uring: self.io_uring_refusal.is_none(),
            io_uring_refusal: self.io_uring_refusal.clone(),
            threads: self.threads.len(),
            serving: self.threads.iter().all(|thread| !thread.is_finished()),
            failed: server.failed.load(Ordering::Acquire),
            requests: server.counters.snapshot(),
            open_files: server.handles.len(),
            backing_files: server.backing_files.load(Ordering::Relaxed),
            inodes: server.inodes.len(),
            held: server.held.load(Ordering::Relaxed),
            strict: server.strict.report(server),
        }
    }

    /// The running counts of requests; they stay readable after the gate is gone.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.server.counters)
    }

    /// What the kernel keeps of names and attributes.
    #[must_use]
    pub fn kernel_cache(&self) -> KernelCache {
        KernelCache::new(&self.server)
    }

    /// Take the mount away and end. Whoever still has something open in it goes on, new opens are native, and this waits for
    /// the last close; after the grace time those who are left are cut off (ENOTCONN). The sink must go on answering meanwhile.
    ///
    /// # Errors
    /// [`GateError::System`] where the mount cannot be taken away (another one lies over it).
    pub fn unmount(mut self) -> Result<(), GateError> {
        let detached = self.detach()?;
        if detached == Detached::Lazily {
            tracing::info!(volume = %self.server.volume.path.display(), "gate still in use: waiting for the last close");
        }
        if self.wait(self.grace) {
            return Ok(());
        }
        tracing::warn!(
            volume = %self.server.volume.path.display(),
            held = self.server.held.load(Ordering::Relaxed),
            open = self.server.handles.len(),
            "gate still in use after the grace time: cutting off"
        );
        mount::abort(&self.mount).map_err(|source| self.system("abort the connection of", source))?;
        self.wait(self.grace);
        Ok(())
    }

    fn detach(&mut self) -> Result<Detached, GateError> {
        let detached = mount::detach(&self.mount).map_err(|source| self.system("unmount", source))?;
        self.detached = true;
        tracing::info!(volume = %self.server.volume.path.display(), how = ?detached, "gate unmounted");
        Ok(detached)
    }

    fn system(&self, operation: &'static str, source: io::Error) -> GateError {
        GateError::System { path: self.mount.point.clone(), operation, source }
    }

    /// Wait until all threads have ended; false if some have not in time.
    fn wait(&mut self, time: Duration) -> bool {
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(time) == Err(mpsc::RecvTimeoutError::Timeout) {
            return false;
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        self.server.close_all();
        true
    }

    fn start_readers(&mut self, count: usize, end: &mpsc::Sender<()>) -> Result<(), GateError> {
        (0..count).try_for_each(|number| self.start(format!("gate-{number}"), end, run_reader))
    }

    /// Have requests come over io_uring if the kernel agreed to it. Whatever does not go there goes to the readers.
    fn start_transport(
        &mut self,
        rings: Result<Vec<Commands>, String>,
        wanted: Transport,
        workers: usize,
        end: &mpsc::Sender<()>,
    ) -> Result<(), GateError> {
        let refusal = match rings {
            Ok(rings) if self.server.negotiated.io_uring => {
                let started = self.start_queues(rings, workers, end);
                if started.is_err() {
                    // Callers may be waiting for the queues.
                    let _ = mount::abort(&self.mount);
                }
                started?.err()
            }
            Ok(_) => Some("the kernel does not offer it".to_owned()),
            Err(refusal) => Some(refusal),
        };
        match &refusal {
            Some(refusal) if wanted == Transport::IoUring => {
                let _ = mount::abort(&self.mount);
                return Err(GateError::Transport { refusal: refusal.clone() });
            }
            Some(refusal) if self.server.negotiated.io_uring => {
                tracing::warn!(refusal, "requests do not come over io_uring");
            }
            _ => {}
        }
        self.io_uring_refusal = refusal;
        Ok(())
    }

    /// A thread for each queue, and some that move bytes for them. What the kernel has against the queues is no error: it goes on
    /// without.
    fn start_queues(
        &mut self,
        rings: Vec<Commands>,
        workers: usize,
        end: &mpsc::Sender<()>,
    ) -> Result<Result<(), String>, GateError> {
        let (jobs, receiver) = mpsc::channel::<Job>();
        let numbers = 0..u16::MAX;
        let queues: Vec<Queue> =
            numbers.zip(rings).map(|(number, ring)| Queue::new(number, ring, jobs.clone())).collect();
        let _ = self.server.ports.set(queues.iter().map(Queue::port).collect());
        // The workers end with the last queue.
        drop(jobs);
        let receiver = Arc::new(Mutex::new(receiver));
        for number in 0..workers {
            let receiver = Arc::clone(&receiver);
            self.start(format!("gate-w{number}"), end, move |server, mount, identity| {
                queue::work(&receiver, server, identity, || cut_off_aside(server, mount));
            })?;
        }
        let (registered, outcome) = mpsc::channel();
        for (number, queue) in queues.into_iter().enumerate() {
            let registered = registered.clone();
            self.start(format!("gate-q{number}"), end, move |server, mount, identity| {
                run_queue(queue, number, registered, server, mount, identity);
            })?;
        }
        drop(registered);
        Ok(outcome.iter().collect::<io::Result<()>>().map_err(|error| error.to_string()))
    }

    /// Start a thread that acts for callers.
    fn start(
        &mut self,
        name: String,
        end: &mpsc::Sender<()>,
        run: impl FnOnce(&Arc<Server>, &MountEntry, &mut Identity) + Send + 'static,
    ) -> Result<(), GateError> {
        let (ready, started) = mpsc::channel();
        let (server, mount, end) = (Arc::clone(&self.server), self.mount.clone(), end.clone());
        let thread = thread::Builder::new()
            .name(name)
            .spawn(move || {
                match Identity::adopt() {
                    Ok(mut identity) => {
                        let _ = ready.send(Ok(()));
                        run(&server, &mount, &mut identity);
                    }
                    Err(error) => drop(ready.send(Err(error))),
                }
                drop(end);
            })
            .map_err(|source| self.system("start a thread for", source))?;
        self.threads.push(thread);
        started
            .recv()
            .unwrap_or_else(|_| Err(io::Error::from_raw_os_error(libc::EIO)))
            .map_err(|source| self.system("take on the callers' identities for", source))
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if !self.detached
            && let Err(error) = self.detach()
        {
            tracing::error!(%error, "gate left mounted");
        }
    }
}

fn run_reader(server: &Arc<Server>, mount: &MountEntry, identity: &mut Identity) {
    match session::serve(server, identity) {
        End::Unmounted => tracing::debug!("reader ends: unmounted"),
        End::Aborted => {
            tracing::warn!(volume = %server.volume.path.display(), "reader ends: connection aborted")
        }
        End::Panicked => cut_off(server, mount, PANICKED),
    }
    server.close_queues();
}

fn run_queue(
    mut queue: Queue,
    number: usize,
    registered: mpsc::Sender<io::Result<()>>,
    server: &Arc<Server>,
    mount: &MountEntry,
    identity: &mut Identity,
) {
    if let Err(error) = transport::pin(number) {
        // A processor that is not there yet.
        tracing::debug!(%error, number, "queue not bound to its processor");
    }
    let outcome = queue.register();
    let refused = outcome.is_err();
    let _ = registered.send(outcome);
    // Whoever waits for all of them waits for this.
    drop(registered);
    if refused {
        return;
    }
    match queue.run(server, identity, || cut_off_aside(server, mount)) {
        queue::End::Over => tracing::debug!(number, "queue ends"),
        queue::End::Broken => cut_off(server, mount, "its io_uring cannot be used"),
    }
}

/// As [`cut_off`], where the kernel may wait for this thread before it lets the mount go.
fn cut_off_aside(server: &Arc<Server>, mount: &MountEntry) {
    let (server, mount) = (Arc::clone(server), mount.clone());
    let started = thread::Builder::new()
        .name("gate-cut-off".to_owned())
        .spawn(move || cut_off(&server, &mount, PANICKED));
    if let Err(error) = started {
        tracing::error!(%error, "no thread to cut the gate off");
    }
}

const PANICKED: &str = "an operation panicked";

/// Nothing more may be served.
fn cut_off(server: &Server, mount: &MountEntry, why: &str) {
    tracing::error!(
        volume = %server.volume.path.display(),
        why,
        "the gate is cut off, its users get ENOTCONN; restart the daemon"
    );
    if let Err(error) = mount::abort(mount) {
        tracing::error!(%error, "the connection cannot be aborted");
    }
    if let Err(error) = mount::detach(mount) {
        tracing::error!(%error, "the mount cannot be taken away");
    }
}

/// Agree with the kernel, and find out whether it takes backing files of this file system.
fn prepare(
    volume: &Volume,
    device: &Device,
    passthrough: Passthrough,
    io_uring: bool,
) -> Result<(Negotiated, Option<String>), GateError> {
    let wanted = passthrough == Passthrough::Auto;
    let mut negotiated = session::negotiate(device, Wishes { passthrough: wanted, io_uring })?;
    if !wanted {
        return Ok((negotiated, Some("switched off".to_owned())));
    }
    if !negotiated.passthrough {
        let reason = "the kernel has none (Linux 6.9 with CONFIG_FUSE_PASSTHROUGH)";
        return Ok((negotiated, Some(reason.to_owned())));
    }
    match try_backing(volume, device) {
        Ok(()) => Ok((negotiated, None)),
        Err(error) => {
            negotiated.passthrough = false;
            let reason = format!("the kernel takes no backing file of {}: {error}", volume.filesystem);
            tracing::warn!(volume = %volume.path.display(), %error, "no passthrough: data goes through the daemon");
            Ok((negotiated, Some(reason)))
        }
    }
}

fn try_backing(volume: &Volume, device: &Device) -> io::Result<()> {
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    match nix::fcntl::openat(volume.root(), c".", flags, Mode::S_IRUSR) {
        Ok(file) => {
            let id = device.open_backing(file.as_fd())?;
            device.close_backing(id);
            Ok(())
        }
        // No file without a name here: the first open will tell.
        Err(_) => Ok(()),
    }
}

/// Every open file of an application is one here.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, soft, hard, "the limit of open files cannot be raised");
    }
}
