//! A gate over a fresh directory, with a sink that records what it is told.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use replicator::gate::sink::{Intent, Sink, SyncReply};
use replicator::gate::strict::{Duty, StrictFiles};
use replicator::gate::{Gate, GateOptions, GateReport, Passthrough, Transport, io_uring_available, recover};
use replicator::patterns::NamePattern;
use replicator::volume::{Volume, VolumeError};
use replicator_core::event::SyncScope;
use replicator_core::extent::Extent;
use replicator_core::ids::{Errno, FileId, FileKind, VolumeId};
use replicator_core::wire::namespace::Operation;

pub use super::image::Image;
pub use super::quiet::Quiet;

/// Longest wait for a state.
pub const LIMIT: Duration = Duration::from_secs(30);

/// One thing the sink was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    Namespace(Operation),
    OpenForWrite(FileId),
    Written(FileId, Extent),
    Attributes(FileId),
    Forgotten(FileId),
    Replaced(FileId),
    Sync(SyncScope),
}

/// Records everything; answers syncs at once, or keeps them until told.
#[derive(Default)]
pub struct Recorder {
    seen: Mutex<Vec<Seen>>,
    holding: AtomicBool,
    /// Errno for syncs answered at once; 0 is success.
    sync_errno: AtomicI32,
    /// Errno for open intents; 0 is success.
    intent_errno: AtomicI32,
    /// Files that may be changed now, and those that were without being so.
    intended: Arc<Mutex<Vec<FileId>>>,
    unintended: Mutex<Vec<FileId>>,
    held: Mutex<Vec<(SyncScope, SyncReply)>>,
    arrived: Condvar,
    /// Directories whose names changed untold.
    changed: Mutex<Vec<FileId>>,
}

impl Image {
    pub fn ext4(megabytes: u64) -> Image {
        Image::of("ext4", megabytes).unwrap()
    }
}

impl Recorder {
    pub fn seen(&self) -> Vec<Seen> {
        self.lock().clone()
    }

    pub fn clear(&self) {
        self.lock().clear();
    }

    /// All namespace operations so far.
    pub fn operations(&self) -> Vec<Operation> {
        self.lock()
            .iter()
            .filter_map(|seen| match seen {
                Seen::Namespace(operation) => Some(operation.clone()),
                _ => None,
            })
            .collect()
    }

    pub fn saw(&self, wanted: &Seen) -> bool {
        self.lock().contains(wanted)
    }

    /// Extents reported written of a file.
    pub fn written(&self, file: FileId) -> Vec<Extent> {
        self.lock()
            .iter()
            .filter_map(|seen| match seen {
                Seen::Written(of, extent) if *of == file => Some(*extent),
                _ => None,
            })
            .collect()
    }

    pub fn hold_syncs(&self, hold: bool) {
        self.holding.store(hold, Ordering::SeqCst);
    }

    pub fn fail_syncs(&self, errno: i32) {
        self.sync_errno.store(errno, Ordering::SeqCst);
    }

    pub fn fail_intents(&self, errno: i32) {
        self.intent_errno.store(errno, Ordering::SeqCst);
    }

    /// The next held sync, waiting for it.
    pub fn take_held(&self) -> (SyncScope, SyncReply) {
        let mut held = self.held.lock().unwrap();
        let deadline = Instant::now() + LIMIT;
        while held.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no sync arrived");
            held = self.arrived.wait_timeout(held, left).unwrap().0;
        }
        held.remove(0)
    }

    /// Directories whose names changed untold since the last call.
    pub fn take_changed(&self) -> Vec<FileId> {
        std::mem::take(&mut self.changed.lock().unwrap())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap()
    }

    fn record(&self, seen: Seen) {
        self.lock().push(seen);
    }

    /// Whatever is told of is held just now by an intent that came before it. Kept for [`Recorder::unintended`]: who tells is no thread of
    /// a test.
    fn expect_intent(&self, file: FileId) {
        if !self.intended.lock().unwrap().contains(&file) {
            self.unintended.lock().unwrap().push(file);
        }
    }

    /// Files whose change was told without an intent.
    pub fn unintended(&self) -> Vec<FileId> {
        self.unintended.lock().unwrap().clone()
    }

    /// Files that are held by intents now.
    pub fn intended(&self) -> Vec<FileId> {
        self.intended.lock().unwrap().clone()
    }
}

/// An intent: takes its files out again.
struct Intended {
    files: Vec<FileId>,
    all: Arc<Mutex<Vec<FileId>>>,
}

impl Drop for Intended {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap();
        for file in &self.files {
            let place = all.iter().position(|held| held == file).unwrap();
            all.swap_remove(place);
        }
    }
}

impl Sink for Recorder {
    fn namespace(&self, operation: Operation) {
        match &operation {
            Operation::Create { parent, node, .. } => {
                self.expect_intent(*parent);
                if node.kind != FileKind::Regular {
                    self.expect_intent(node.file);
                }
            }
            Operation::Link { parent, .. } | Operation::Unlink { parent, .. } => self.expect_intent(*parent),
            Operation::Rename { old_parent, new_parent, .. } => {
                self.expect_intent(*old_parent);
                self.expect_intent(*new_parent);
            }
            _ => {}
        }
        self.record(Seen::Namespace(operation));
    }

    fn intend(&self, files: &[FileId], made: bool) -> Result<Intent, Errno> {
        let errno = self.intent_errno.load(Ordering::SeqCst);
        if errno != 0 && !made {
            return Err(Errno(errno));
        }
        self.intended.lock().unwrap().extend_from_slice(files);
        Ok(Intent::new(Intended { files: files.to_vec(), all: Arc::clone(&self.intended) }))
    }

    fn open_for_write(&self, file: FileId) {
        self.expect_intent(file);
        self.record(Seen::OpenForWrite(file));
    }

    fn written(&self, file: FileId, extent: Extent) {
        self.expect_intent(file);
        self.record(Seen::Written(file, extent));
    }

    fn attributes(&self, file: FileId) {
        self.expect_intent(file);
        self.record(Seen::Attributes(file));
    }

    fn forgotten(&self, file: FileId) {
        self.record(Seen::Forgotten(file));
    }

    fn replaced(&self, file: FileId) {
        self.record(Seen::Replaced(file));
    }

    fn names_changed(&self, directory: FileId) {
        self.changed.lock().unwrap().push(directory);
    }

    fn sync(&self, scope: SyncScope, _backing: Arc<OwnedFd>, reply: SyncReply) {
        self.record(Seen::Sync(scope));
        if self.holding.load(Ordering::SeqCst) {
            self.held.lock().unwrap().push((scope, reply));
            self.arrived.notify_all();
            return;
        }
        match self.sync_errno.load(Ordering::SeqCst) {
            0 => reply.answer(Ok(())),
            errno => reply.answer(Err(Errno(errno))),
        }
    }
}

pub fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

/// Where the covered directory lies.
pub enum Ground {
    Temporary(tempfile::TempDir),
    Image(Image),
}

impl Ground {
    pub fn temporary() -> Ground {
        Ground::Temporary(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> PathBuf {
        match self {
            Ground::Temporary(directory) => fs::canonicalize(directory.path()).unwrap(),
            Ground::Image(image) => fs::canonicalize(image.path()).unwrap(),
        }
    }
}

/// A mounted gate; unmounted on drop whatever happens.
pub struct Fixture {
    gate: Option<Gate>,
    pub recorder: Arc<Recorder>,
    pub volume: Arc<Volume>,
    pub strict: Arc<StrictFiles>,
    pub ground: Ground,
}

/// How requests come in these tests: `read` or `io-uring` in this variable forces one of them.
pub const TRANSPORT: &str = "REPLICATOR_GATE_TEST_TRANSPORT";

/// Options as the environment wants them.
pub fn options() -> GateOptions {
    let transport = match std::env::var(TRANSPORT).as_deref() {
        Ok("read") => Transport::Read,
        Ok("io-uring") => Transport::IoUring,
        Ok(other) => panic!("{TRANSPORT} is read or io-uring, not {other}"),
        Err(_) => Transport::Auto,
    };
    GateOptions { transport, ..GateOptions::default() }
}

/// Strict files as a daemon has them that holds fsyncs.
pub fn strict_files(patterns: &[&str]) -> Arc<StrictFiles> {
    let patterns = patterns.iter().map(|pattern| NamePattern::parse(pattern).unwrap()).collect();
    Arc::new(StrictFiles::new(patterns, true))
}

impl Fixture {
    /// Over a directory of the machine's own file system.
    pub fn new(passthrough: Passthrough) -> Fixture {
        Fixture::over(Ground::temporary(), passthrough)
    }

    pub fn over(ground: Ground, passthrough: Passthrough) -> Fixture {
        let path = ground.path();
        Fixture::at(ground, &path, passthrough)
    }

    /// Over a directory somewhere on the ground.
    pub fn at(ground: Ground, path: &Path, passthrough: Passthrough) -> Fixture {
        Fixture::with_strict(ground, path, passthrough, strict_files(&[]))
    }

    /// With these files strict.
    pub fn with_strict(
        ground: Ground,
        path: &Path,
        passthrough: Passthrough,
        strict: Arc<StrictFiles>,
    ) -> Fixture {
        recover(path).unwrap();
        let volume = Arc::new(open_volume(path));
        let recorder = Arc::new(Recorder::default());
        let options = GateOptions {
            passthrough,
            grace: Duration::from_secs(5),
            strict: Arc::clone(&strict),
            ..options()
        };
        let gate = Gate::mount(Arc::clone(&volume), options, Arc::clone(&recorder) as Arc<dyn Sink>).unwrap();
        if passthrough == Passthrough::Auto && !gate.report().passthrough {
            println!("not run: passthrough ({:?})", gate.report().passthrough_refusal);
        }
        Fixture { gate: Some(gate), recorder, volume, strict, ground }
    }

    pub fn path(&self) -> PathBuf {
        self.volume.path.clone()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.volume.path.join(name)
    }

    pub fn report(&self) -> GateReport {
        self.gate.as_ref().unwrap().report()
    }

    pub fn gate(&self) -> &Gate {
        self.gate.as_ref().unwrap()
    }

    /// The file id of a path's inode number.
    pub fn file(&self, path: &Path) -> FileId {
        use std::os::unix::fs::MetadataExt;
        self.volume.file(fs::symlink_metadata(path).unwrap().ino())
    }

    /// Do what a daemon does whose tracer has seen a sync of this file pass the gate. True if its attributes changed.
    pub fn saw_unguarded_sync(&self, file: FileId) -> bool {
        self.strict.seen(file.inode) == Duty::Attend && self.strict.attend(&self.volume, file.inode)
    }

    /// Take the gate away; the ground stays.
    pub fn unmount(&mut self) {
        self.gate.take().unwrap().unmount().unwrap();
    }

    /// Wait until `condition` holds: releases are asynchronous.
    pub fn wait_for(&self, what: &str, condition: impl Fn(&Fixture) -> bool) {
        wait_for(what, || condition(self));
    }
}

pub fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let unintended = self.recorder.unintended();
        assert!(
            std::thread::panicking() || unintended.is_empty(),
            "changed without an intent: {unintended:?}"
        );
        self.recorder.hold_syncs(false);
        self.recorder.held.lock().unwrap().clear();
        if let Some(gate) = self.gate.take()
            && let Err(error) = gate.unmount()
        {
            eprintln!("unmount: {error}");
            let _ = Command::new("umount").arg("-l").arg(self.ground.path()).status();
        }
    }
}

/// Whether this machine can run these tests; says so if not.
pub fn runnable() -> bool {
    if !nix::unistd::geteuid().is_root() {
        println!("not run: needs root");
        return false;
    }
    if fs::File::open("/dev/fuse").is_err() {
        println!("not run: needs /dev/fuse");
        return false;
    }
    if options().transport == Transport::IoUring
        && let Err(refusal) = io_uring_available()
    {
        println!("not run: FUSE over io_uring: {refusal}");
        return false;
    }
    true
}

/// Open a volume that a fixture before may have had. Its lock lives as long as a copy of the descriptor does, and the child of another
/// test has one from its fork(2) until its exec(2).
fn open_volume(path: &Path) -> Volume {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match Volume::open(VolumeId(3), path) {
            Err(VolumeError::InUse { .. }) if Instant::now() < deadline => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

/// Run a test with passthrough and without.
pub fn both(test: impl Fn(Fixture)) {
    both_over(|| Some(Ground::temporary()), test);
}

/// The same over another ground, if there is one.
pub fn both_over(ground: impl Fn() -> Option<Ground>, test: impl Fn(Fixture)) {
    if !runnable() {
        return;
    }
    for passthrough in [Passthrough::Auto, Passthrough::Off] {
        println!("passthrough {passthrough:?}");
        let Some(ground) = ground() else { return };
        test(Fixture::over(ground, passthrough));
    }
}

/// A small file system of its own.
pub fn small_ext4() -> Option<Ground> {
    Some(Ground::Image(Image::ext4(16)))
}

/// The error number of a failed call.
pub fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap_or(-1)
}

/// Run `inside` with other file-system credentials in a thread of its own.
pub fn as_user<T: Send>(uid: u32, gid: u32, groups: &[u32], inside: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                // SAFETY: the bare system calls change this thread only, which ends with the closure; the groups are
                // readable for their number.
                unsafe {
                    assert_eq!(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()), 0);
                    assert_eq!(libc::syscall(libc::SYS_setresgid, gid, gid, gid), 0);
                    assert_eq!(libc::syscall(libc::SYS_setresuid, uid, uid, uid), 0);
                }
                inside()
            })
            .join()
            .unwrap()
    })
}
