//! File systems in disk images, traced.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use replicator::tracer::{Hook, Row, TraceEvent, Tracer, TracerOptions, Watch};
use replicator_core::extent::Extent;
use replicator_core::ids::{FileId, VolumeId};

pub const VOLUME: VolumeId = VolumeId(3);

/// A file system that is gone at the end of the test.
pub struct Image {
    directory: Option<tempfile::TempDir>,
    pub mount: PathBuf,
    pub filesystem: &'static str,
}

/// Print why a test does nothing here.
pub fn not_run(why: &str) {
    println!("not run: {why}");
}

fn run(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}

impl Image {
    /// Make and mount one; `None` (and says so) where that cannot be done.
    pub fn new(filesystem: &'static str, make: &[&str], options: &str) -> Option<Image> {
        if !nix::unistd::geteuid().is_root() {
            not_run("needs root");
            return None;
        }
        if let Some(mount) = std::env::var_os("REPLICATOR_TEST_EXT4") {
            if filesystem != "ext4" || !make.is_empty() || !options.is_empty() {
                not_run("this machine has one ext4 only");
                return None;
            }
            return Some(Image { directory: None, mount: mount.into(), filesystem });
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        let image = directory.path().join("image");
        let mount = directory.path().join("mount");
        fs::create_dir(&mount).expect("a mount point");
        let megabytes = if filesystem == "ext4" { 128 } else { 320 };
        let file = fs::File::create(&image).expect("an image");
        file.set_len(megabytes << 20).expect("room for an image");
        // Of so small a file system, mke2fs would make the blocks smaller than they are in practice.
        let usual: &[&str] =
            if filesystem == "ext4" && !make.contains(&"-b") { &["-b", "4096"] } else { &[] };
        let options = if options.is_empty() { "loop".to_owned() } else { format!("loop,{options}") };
        let made =
            run(Command::new(format!("mkfs.{filesystem}")).arg("-q").args(usual).args(make).arg(&image))
                .and_then(|()| run(Command::new("mount").args(["-o", &options]).arg(&image).arg(&mount)));
        if let Err(error) = made {
            not_run(&error);
            return None;
        }
        Some(Image { directory: Some(directory), mount, filesystem })
    }

    /// An empty directory of its own in it.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.mount.join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a directory");
        path
    }

    /// The watch for the whole file system.
    pub fn watch(&self) -> Watch {
        Watch {
            volume: VOLUME,
            kernel_device: kernel_device(&self.mount),
            filesystem: self.filesystem.to_owned(),
            root_inode: fs::metadata(&self.mount).expect("the mount point").ino(),
            whole_filesystem: true,
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.directory.is_some() {
            // Detached at once even if a panicking test still has a file open.
            let mount = std::ffi::CString::new(self.mount.to_string_lossy().as_bytes()).expect("no NUL");
            // SAFETY: the path is NUL-terminated.
            unsafe { libc::umount2(mount.as_ptr(), libc::MNT_DETACH) };
        }
    }
}

/// The superblock's device of the file system mounted there, from /proc/self/mountinfo.
fn kernel_device(mount: &Path) -> u32 {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let mount = fs::canonicalize(mount).expect("the mount point");
    let line = table
        .lines()
        .rfind(|line| line.split(' ').nth(4).is_some_and(|point| Path::new(point) == mount))
        .expect("the mount is listed");
    let (major, minor) = line.split(' ').nth(2).and_then(|device| device.split_once(':')).expect("a device");
    major.parse::<u32>().expect("a number") << 20 | minor.parse::<u32>().expect("a number")
}

/// Whether the running kernel is that version or a later one.
pub fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let mut numbers = release
        .split(|character: char| !character.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}

/// The row to test.
pub fn row() -> Row {
    match std::env::var("REPLICATOR_TEST_ROW").as_deref() {
        Ok("fentry") => Row::Fentry,
        Ok("auto") => Row::Auto,
        _ => Row::Tracepoints,
    }
}

/// Let the verifier's reasons be seen where a test is watched.
fn log() {
    let filter = std::env::var("REPLICATOR_TEST_LOG").unwrap_or_default();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stdout).try_init();
}

/// Options for tests that make the changes themselves: nobody is ignored.
pub fn options(watches: Vec<Watch>) -> TracerOptions {
    log();
    TracerOptions { row: row(), ring_bytes: 1 << 20, ignored_process: Some(0), ..TracerOptions::new(watches) }
}

/// A tracer and what it watches.
pub struct Traced {
    pub tracer: Tracer,
    pub image: Image,
}

/// One event, with the hook that told it.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub event: TraceEvent,
    pub hook: Hook,
}

impl Traced {
    /// Make, mount and trace a file system; `None` (and says so) where that cannot be done.
    pub fn new(filesystem: &'static str, make: &[&str], mount: &str) -> Option<Traced> {
        let image = Image::new(filesystem, make, mount)?;
        match Tracer::start(options(vec![image.watch()])) {
            Ok(tracer) => Some(Traced { tracer, image }),
            Err(error) => {
                let probe = replicator::tracer::probe();
                assert!(
                    !probe.typed_tracepoint.available || (row() == Row::Fentry && !probe.functions.available),
                    "the kernel has what is needed: {error}"
                );
                not_run(&error.to_string());
                None
            }
        }
    }

    /// Everything told by now.
    pub fn drain(&mut self) -> Vec<Seen> {
        let mut seen = Vec::new();
        for _ in 0..1000 {
            let drained = self.tracer.drain_records(usize::MAX, &mut |event, record| {
                seen.push(Seen { event, hook: Hook::from_u8(record.hook).expect("a known hook") });
            });
            assert_eq!(drained.lost, 0, "nothing may be lost in a quiet test");
            if drained.reached_end {
                return seen;
            }
        }
        panic!("the ring has no end");
    }

    /// What was told during the operation.
    pub fn during(&mut self, operation: impl FnOnce()) -> Vec<Seen> {
        self.drain();
        operation();
        self.drain()
    }
}

/// The file at a path, as events name it.
pub fn file(path: &Path) -> FileId {
    FileId { volume: VOLUME, inode: fs::symlink_metadata(path).expect("the file").ino() }
}

/// Parts of the range that no event about the file covers.
pub fn uncovered(seen: &[Seen], file: FileId, range: Extent) -> Vec<Extent> {
    let mut left = vec![range];
    for seen in seen {
        let (TraceEvent::Write { file: of, extent } | TraceEvent::Store { file: of, extent }) = seen.event
        else {
            continue;
        };
        if of != file {
            continue;
        }
        left = left
            .into_iter()
            .flat_map(|part| {
                [
                    Extent { start: part.start, end: part.end.min(extent.start) },
                    Extent { start: part.start.max(extent.end), end: part.end },
                ]
            })
            .filter(|part| !part.is_empty())
            .collect();
    }
    left
}

/// Assert that the events cover the range, and in the tracepoint row that this hook told of the file.
pub fn assert_covered(what: &str, seen: &[Seen], file: FileId, range: Extent, hook: Option<Hook>) {
    let left = uncovered(seen, file, range);
    assert!(left.is_empty(), "{what}: {left:?} of {range:?} not covered by {seen:?}");
    if let (Row::Tracepoints, Some(hook)) = (row(), hook) {
        assert!(seen.iter().any(|seen| seen.hook == hook), "{what}: {hook:?} did not tell, but {seen:?}");
    }
}

/// Assert that one of the events is this one.
pub fn assert_told(what: &str, seen: &[Seen], event: TraceEvent) {
    assert!(seen.iter().any(|seen| seen.event == event), "{what}: {event:?} is not among {seen:?}");
}
