//! Mounting, unmounting, crashing, coming back.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use replicator::gate::{Gate, GateOptions, Passthrough, RecoverError, Recovered, probe, recover};
use replicator::volume::{Volume, VolumeError};
use replicator_core::ids::VolumeId;

use super::support::{Fixture, Ground, Quiet, Recorder, both, errno, options, runnable, wait_for};

const SERVED: &str = "REPLICATOR_GATE_TEST_SERVE";

/// Not a test: the process that `Daemon` starts and kills. By hand it serves a directory for measurements, with
/// `REPLICATOR_GATE_TEST_READERS=<n>` threads and, with `REPLICATOR_GATE_TEST_OFF=1`, without passthrough.
#[test]
fn serve_for_another_test() {
    let Some(path) = std::env::var_os(SERVED) else { return };
    let volume = Arc::new(Volume::open(VolumeId(0), path.as_ref()).unwrap());
    let mut options = options();
    if let Some(readers) = std::env::var("REPLICATOR_GATE_TEST_READERS").ok().and_then(|n| n.parse().ok()) {
        options.readers = readers;
    }
    if std::env::var_os("REPLICATOR_GATE_TEST_OFF").is_some() {
        options.passthrough = Passthrough::Off;
    }
    let _gate = Gate::mount(volume, options, Arc::new(Quiet)).unwrap();
    println!("serving");
    // Until the parent goes or kills.
    let _ = std::io::stdin().read(&mut [0]);
}

/// Another process that serves a gate.
struct Daemon(Child);

impl Daemon {
    fn start(ground: &Ground) -> Daemon {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "lifecycle::serve_for_another_test", "--nocapture"])
            .env(SERVED, ground.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("serving") {
            line.clear();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "the daemon ended");
        }
        Daemon(child)
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Takes away whatever a failing test left.
struct Cleared(Ground);

impl Drop for Cleared {
    fn drop(&mut self) {
        let path = self.0.path_or_raw();
        while Command::new("umount")
            .arg("-l")
            .arg(&path)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
        {}
    }
}

trait RawPath {
    fn path_or_raw(&self) -> std::path::PathBuf;
}

impl RawPath for Ground {
    fn path_or_raw(&self) -> std::path::PathBuf {
        match self {
            Ground::Temporary(directory) => directory.path().to_owned(),
            Ground::Image(image) => image.path(),
        }
    }
}

#[test]
fn a_mount_left_by_a_killed_daemon_is_replaced() {
    if !runnable() {
        return;
    }
    let ground = Cleared(Ground::temporary());
    let path = ground.0.path();
    assert_eq!(recover(&path).unwrap(), Recovered::Clean);
    let daemon = Daemon::start(&ground.0);
    fs::write(path.join("file"), b"before").unwrap();
    let old = OpenOptions::new().read(true).write(true).open(path.join("file")).unwrap();

    assert!(matches!(recover(&path), Err(RecoverError::Served { .. })), "a living daemon is left alone");
    daemon.kill();
    wait_for("the connection's end", || fs::metadata(&path).is_err());
    assert_eq!(errno(fs::metadata(path.join("file"))), libc::ENOTCONN);
    assert_eq!(recover(&path).unwrap(), Recovered::Removed(1));
    assert_eq!(recover(&path).unwrap(), Recovered::Clean);
    assert_eq!(fs::read(path.join("file")).unwrap(), b"before");

    let daemon = Daemon::start(&ground.0);
    fs::write(path.join("again"), b"served").unwrap();
    // Whoever was there before has a descriptor that can no more be synced.
    assert_eq!(errno(old.sync_all()), libc::ENOTCONN);
    daemon.kill();
    let link = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(&path, link.path().join("link")).unwrap();
    assert_eq!(recover(&link.path().join("link")).unwrap(), Recovered::Removed(1), "also by a symlink to it");
    assert_eq!(fs::read(path.join("again")).unwrap(), b"served");
    drop(old);
}

#[test]
fn a_stopped_daemon_is_not_taken_for_dead() {
    if !runnable() {
        return;
    }
    let ground = Cleared(Ground::temporary());
    let path = ground.0.path();
    let daemon = Daemon::start(&ground.0);
    let pid = nix::unistd::Pid::from_raw(daemon.0.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let stopped = || {
        fs::read_dir(format!("/proc/{pid}/task")).unwrap().all(|task| {
            let status = fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
            status.rsplit(") ").next().unwrap().starts_with('T')
        })
    };
    wait_for("all its threads to stop", stopped);
    let result = recover(&path);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
    assert!(matches!(result, Err(RecoverError::Silent { .. })), "{result:?}");
    assert!(matches!(recover(&path), Err(RecoverError::Served { .. })));
    daemon.kill();
    wait_for("recovery", || recover(&path).is_ok());
}

#[test]
fn a_volume_is_served_once() {
    if !runnable() {
        return;
    }
    let fixture = Fixture::new(Passthrough::Auto);
    assert!(matches!(recover(&fixture.path()), Err(RecoverError::Served { .. })));
    // Through the gate, so not the same directory: the file system has no handles that outlive a daemon.
    let second = Volume::open(VolumeId(9), &fixture.path());
    assert!(second.is_err() || matches!(second, Err(VolumeError::InUse { .. })) || is_fuse(&second));
}

fn is_fuse(volume: &Result<Volume, VolumeError>) -> bool {
    volume.as_ref().is_ok_and(|volume| volume.filesystem.starts_with("fuse"))
}

#[test]
fn unmounting_while_idle_leaves_plain_files() {
    both(|mut fixture| {
        fs::create_dir(fixture.join("directory")).unwrap();
        fs::write(fixture.join("directory/file"), b"plain").unwrap();
        let shown = fs::metadata(fixture.join("directory")).unwrap().dev();
        assert_ne!(shown, fixture.volume.device);
        fixture.unmount();
        let metadata = fs::metadata(fixture.join("directory/file")).unwrap();
        assert_eq!(metadata.dev(), fixture.volume.device);
        assert_eq!(fs::read(fixture.join("directory/file")).unwrap(), b"plain");
    });
}

/// Whoever has something open goes on until the last close; everybody else is on the plain directory at once.
#[test]
fn unmounting_while_busy_serves_until_the_last_close() {
    both(|mut fixture| {
        let path = fixture.join("file");
        fs::write(&path, b"0123456789").unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let device = fixture.volume.device;
        let recorder = Arc::clone(&fixture.recorder);
        let user = std::thread::spawn(move || {
            wait_for("the mount to be gone", || fs::metadata(&path).is_ok_and(|m| m.dev() == device));
            file.write_all_at(b"late", 0).unwrap();
            file.sync_all().unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"late456789");
            let synced = recorder.seen().iter().any(|seen| matches!(seen, super::support::Seen::Sync(_)));
            assert!(synced, "the gate still holds the old descriptor's fsync");
        });
        fixture.unmount();
        user.join().unwrap();
    });
}

/// The wait is bounded: a descriptor that stays open is cut off.
#[test]
fn unmounting_cuts_off_who_does_not_go() {
    if !runnable() {
        return;
    }
    let ground = Cleared(Ground::temporary());
    let volume = Arc::new(Volume::open(VolumeId(0), &ground.0.path()).unwrap());
    let options = GateOptions { grace: Duration::from_millis(100), ..options() };
    let gate = Gate::mount(Arc::clone(&volume), options, Arc::new(Recorder::default())).unwrap();
    let file = File::create(volume.path.join("file")).unwrap();
    gate.unmount().unwrap();
    assert_eq!(errno(file.sync_all()), libc::ENOTCONN);
    drop(file);
    fs::write(volume.path.join("file"), b"plain").unwrap();
}

#[test]
fn somebody_elses_unmount_is_noticed() {
    if !runnable() {
        return;
    }
    let mut fixture = Fixture::new(Passthrough::Auto);
    assert!(fixture.report().serving);
    super::support::run("umount", &[fixture.path().to_str().unwrap()]);
    fixture.wait_for("the readers' end", |fixture| !fixture.report().serving);
    assert!(!fixture.report().failed);
    fixture.unmount();
}

#[test]
fn dropping_a_gate_takes_the_mount_away() {
    if !runnable() {
        return;
    }
    let ground = Cleared(Ground::temporary());
    let volume = Arc::new(Volume::open(VolumeId(0), &ground.0.path()).unwrap());
    let gate = Gate::mount(Arc::clone(&volume), options(), Arc::new(Recorder::default())).unwrap();
    fs::write(volume.path.join("file"), b"x").unwrap();
    drop(gate);
    assert_eq!(fs::metadata(volume.path.join("file")).unwrap().dev(), volume.device);
}

/// An operation that panics ends the gate in the open: its callers get errors, nobody waits, the mount is gone.
#[test]
fn a_panic_ends_the_gate_in_the_open() {
    if !runnable() {
        return;
    }
    struct Panicking;
    impl replicator::gate::sink::Sink for Panicking {
        fn namespace(&self, _: replicator_core::wire::namespace::Operation) {
            panic!("on purpose");
        }
        fn intend(
            &self,
            _: &[replicator_core::ids::FileId],
            _: bool,
        ) -> Result<replicator::gate::sink::Intent, replicator_core::ids::Errno> {
            Ok(replicator::gate::sink::Intent::none())
        }
        fn open_for_write(&self, _: replicator_core::ids::FileId) {}
        fn written(&self, _: replicator_core::ids::FileId, _: replicator_core::extent::Extent) {}
        fn attributes(&self, _: replicator_core::ids::FileId) {}
        fn forgotten(&self, _: replicator_core::ids::FileId) {}
        fn replaced(&self, _: replicator_core::ids::FileId) {}
        fn names_changed(&self, _: replicator_core::ids::FileId) {}
        fn sync(
            &self,
            _: replicator_core::event::SyncScope,
            _: Arc<std::os::fd::OwnedFd>,
            _: replicator::gate::sink::SyncReply,
        ) {
        }
    }
    let ground = Cleared(Ground::temporary());
    let volume = Arc::new(Volume::open(VolumeId(0), &ground.0.path()).unwrap());
    let gate = Gate::mount(Arc::clone(&volume), options(), Arc::new(Panicking)).unwrap();
    let error = fs::create_dir(volume.path.join("directory")).unwrap_err();
    assert!(matches!(error.raw_os_error(), Some(libc::EIO | libc::ECONNABORTED)), "{error}");
    wait_for("the failure to be reported", || gate.report().failed && !gate.report().serving);
    wait_for("the mount to be gone", || {
        fs::metadata(&volume.path).is_ok_and(|metadata| metadata.dev() == volume.device)
    });
    gate.unmount().unwrap();
}

/// What the daemon changes below is seen after an invalidation.
#[test]
fn changes_below_are_seen_after_invalidation() {
    both(|fixture| {
        let path = fixture.join("file");
        fs::write(&path, b"old").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(errno(fs::metadata(fixture.join("new"))), libc::ENOENT);
        let inode = fs::metadata(&path).unwrap().ino();
        let below = fixture.volume.open_file(inode, libc::O_WRONLY | libc::O_TRUNC).unwrap();
        File::from(below).write_all(b"changed").unwrap();
        nix::sys::stat::mkdirat(fixture.volume.root(), "new", nix::sys::stat::Mode::S_IRWXU).unwrap();
        fixture.gate().kernel_cache().invalidate(inode);
        fixture.gate().kernel_cache().invalidate_entry(fixture.volume.root_inode, b"new");
        assert_eq!(fs::metadata(&path).unwrap().len(), 7);
        assert_eq!(fs::read(&path).unwrap(), b"changed");
        assert!(fs::metadata(fixture.join("new")).unwrap().is_dir());
        assert_eq!(errno(fs::metadata(fixture.join("other"))), libc::ENOENT);
        nix::sys::stat::mkdirat(fixture.volume.root(), "other", nix::sys::stat::Mode::S_IRWXU).unwrap();
        let removed = nix::unistd::UnlinkatFlags::RemoveDir;
        nix::unistd::unlinkat(fixture.volume.root(), "new", removed).unwrap();
        if fixture.gate().kernel_cache().invalidate_all() {
            assert_eq!(errno(fs::metadata(fixture.join("new"))), libc::ENOENT);
            assert!(fs::metadata(fixture.join("other")).unwrap().is_dir());
        } else {
            println!("not run: the kernel drops no names at once (Linux 6.16)");
        }
    });
}

/// A file that came into the tree behind the gate is told of by its directory, once, when it is found.
#[test]
fn a_name_nobody_told_of_is_reported() {
    both(|fixture| {
        fs::write(fixture.join("told"), b"x").unwrap();
        assert!(fs::metadata(fixture.join("told")).is_ok());
        assert_eq!(fixture.recorder.take_changed(), []);
        nix::sys::stat::mkdirat(fixture.volume.root(), "untold", nix::sys::stat::Mode::S_IRWXU).unwrap();
        for _ in 0..2 {
            assert!(fs::metadata(fixture.join("untold")).unwrap().is_dir());
        }
        assert_eq!(fixture.recorder.take_changed(), [fixture.volume.root_file()]);
    });
}

/// Names that the mount table has to escape, on a file system of its own.
#[test]
fn odd_paths_and_whole_file_systems_work() {
    if !runnable() {
        return;
    }
    let ground = Ground::Image(super::support::Image::ext4(16));
    fs::create_dir(ground.path().join("with space\\and back\tslash")).unwrap();
    let odd = ground.path().join("with space\\and back\tslash");
    let volume = Arc::new(Volume::open(VolumeId(0), &odd).unwrap());
    let gate = Gate::mount(Arc::clone(&volume), options(), Arc::new(Recorder::default())).unwrap();
    fs::write(odd.join("file"), b"x").unwrap();
    assert!(matches!(recover(&odd), Err(RecoverError::Served { .. })));
    gate.unmount().unwrap();
    let fixture = Fixture::over(ground, Passthrough::Auto);
    assert!(fixture.volume.whole_filesystem);
    fs::write(fixture.join("file"), b"x").unwrap();
    assert!(fixture.join("lost+found").is_dir());
}

#[test]
fn the_host_can_be_asked() {
    if !runnable() {
        return;
    }
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let found = probe();
    assert_eq!(found.protocol.map(|(major, _)| major), Some(7), "{found:?}");
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count(), before.lines().count());
}
