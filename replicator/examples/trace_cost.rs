//! What tracing costs the writer: CPU time of a thread per 4 KiB pwrite(2) on ext4, in interleaved rounds, as JSON.
//!
//! `cargo run --release --package replicator --example trace_cost -- [rounds] [writes per round]`
//!
//! Needs root and BPF. The modes: `off`; `other-device`: attached, the file's device is not watched; `other-tree`: watched, but
//! the file is outside of the replicated directory; `delivered`: told, with a consumer that polls every millisecond.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use replicator::tracer::{Tracer, TracerOptions, Watch};
use replicator_core::ids::VolumeId;

const BLOCK: usize = 4096;
const FILE_BYTES: u64 = 64 << 20;
const MODES: [&str; 4] = ["off", "other-device", "other-tree", "delivered"];

/// An ext4 in a file; unmounted on drop.
struct Image {
    _directory: tempfile::TempDir,
    mount: PathBuf,
}

impl Image {
    fn new() -> Result<Image> {
        let directory = tempfile::tempdir()?;
        let image = directory.path().join("image");
        let mount = directory.path().join("mount");
        fs::create_dir(&mount)?;
        File::create(&image)?.set_len(192 << 20)?;
        let run = |command: &mut Command| -> Result<()> {
            let output = command.output().with_context(|| format!("start {command:?}"))?;
            ensure!(
                output.status.success(),
                "{command:?}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
            Ok(())
        };
        run(Command::new("mkfs.ext4").args(["-q", "-b", "4096"]).arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mount))?;
        Ok(Image { _directory: directory, mount })
    }

    fn watch(&self, whole: bool) -> Result<Watch> {
        let metadata = fs::metadata(&self.mount)?;
        // On ext4, stat's device is the superblock's.
        let device = metadata.dev();
        Ok(Watch {
            volume: VolumeId(0),
            kernel_device: u32::try_from((device >> 8 & 0xfff) << 20 | device & 0xff)?,
            filesystem: "ext4".to_owned(),
            root_inode: metadata.ino(),
            whole_filesystem: whole,
        })
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.mount).status();
    }
}

fn thread_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Nanoseconds of CPU per write, at pseudo-random blocks of the file.
fn write(file: &File, writes: u64) -> Result<f64> {
    let bytes = [0x5a; BLOCK];
    let blocks = FILE_BYTES / BLOCK as u64;
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let before = thread_cpu();
    for _ in 0..writes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        file.write_all_at(&bytes, (state >> 33) % blocks * BLOCK as u64)?;
    }
    Ok((thread_cpu() - before).as_nanos() as f64 / writes as f64)
}

fn options(watch: Watch) -> TracerOptions {
    TracerOptions { ignored_process: Some(0), ..TracerOptions::new(vec![watch]) }
}

/// One round of one mode: nanoseconds per write, and how many events were told.
fn round(mode: &str, image: &Image, other: &Image, file: &File, writes: u64) -> Result<(f64, u64)> {
    let mut options = match mode {
        "off" => return Ok((write(file, writes)?, 0)),
        "other-device" => options(other.watch(true)?),
        "other-tree" => options(image.watch(false)?),
        _ => options(image.watch(true)?),
    };
    if mode == "other-tree" {
        options.resolve = Some(Box::new(|_, _| false));
    }
    let mut tracer = Tracer::start(options)?;
    // What is only once is not the price: the verdict about the file, the first dirty pages.
    write(file, writes / 10)?;
    tracer.drain(usize::MAX, &mut |_| ());
    let stop = AtomicBool::new(false);
    let nanoseconds = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let started = Instant::now();
                tracer.drain(1 << 20, &mut |_| ());
                std::thread::sleep(Duration::from_millis(1).saturating_sub(started.elapsed()));
            }
        });
        let nanoseconds = write(file, writes);
        stop.store(true, Ordering::Relaxed);
        nanoseconds
    })?;
    let counters = tracer.counters();
    ensure!(counters.dropped == 0 && counters.missed == 0, "events were lost: {counters:?}");
    Ok((nanoseconds, counters.told))
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn prefill(path: &Path) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    let chunk = vec![1; 1 << 20];
    for number in 0..FILE_BYTES >> 20 {
        file.write_all_at(&chunk, number << 20)?;
    }
    file.sync_all()?;
    Ok(file)
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let rounds: usize = arguments.next().map_or(Ok(51), |text| text.parse())?;
    let writes: u64 = arguments.next().map_or(Ok(10_000), |text| text.parse())?;
    let (image, other) = (Image::new()?, Image::new()?);
    let file = prefill(&image.mount.join("file"))?;
    write(&file, writes)?;
    let mut samples: Vec<Vec<f64>> = vec![Vec::new(); MODES.len()];
    let mut told = [0; MODES.len()];
    for number in 0..rounds {
        for step in 0..MODES.len() {
            // Another order in each round, so that what builds up within one hits every mode.
            let mode = (number + step) % MODES.len();
            let (nanoseconds, events) = round(MODES[mode], &image, &other, &file, writes)?;
            samples[mode].push(nanoseconds);
            told[mode] = events;
        }
    }
    drop(file);
    let modes: Vec<_> = MODES
        .iter()
        .zip(&samples)
        .zip(told)
        .map(|((name, values), events)| {
            // Against the same round's "off": what else the machine does changes more slowly than that.
            let added: Vec<f64> = values.iter().zip(&samples[0]).map(|(value, off)| value - off).collect();
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            serde_json::json!({
                "mode": name,
                "nanoseconds": median(values).round(),
                "nanoseconds_least": least.round(),
                "nanoseconds_added": median(&added).round(),
                "events": events,
            })
        })
        .collect();
    println!(
        "{}",
        serde_json::to_string_pretty(&serde_json::json!({
            "operation": "pwrite 4 KiB, random, ext4, page cache; CPU time of the writing thread",
            "rounds": rounds,
            "writes_per_round": writes,
            "modes": modes,
        }))?
    );
    Ok(())
}
