//! One boot of an emulated machine that runs the tests and powers off.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::archive::Archive;
use super::package::Kernel;

/// The emulator.
pub const EMULATOR: &str = "qemu-system-x86_64";

/// QEMU 7.2 loses flags after `cmpxchg16b` when it emulates: kernels crash at random unless they are told not to use it.
const PROCESSOR: &str = "max,la57=off,cx16=off";

/// Emulation is slow; the guest powers off long before this.
const LIMIT: Duration = Duration::from_secs(1500);

/// Loaded in the guest, as far as they are modules there.
const MODULES: &[&str] = &["crc32c_generic", "crc32c_intel", "ext4", "xfs", "btrfs", "loop"];

/// Programs that the tests start.
const PROGRAMS: &[&str] = &["mkfs.ext4", "mkfs.xfs", "mkfs.btrfs"];

/// Begins the lines of the guest's own script.
const MARK: &str = "replicator-guest:";

/// What to boot and run.
pub struct Guest<'a> {
    pub kernel: &'a Kernel,
    pub busybox: &'a Path,
    pub tests: &'a Path,
    pub rows: &'a [String],
    pub filter: Option<&'a str>,
}

/// How one row's tests ended.
pub struct Outcome {
    pub row: String,
    pub passed: usize,
    pub failures: Vec<String>,
    pub not_run: Vec<String>,
}

impl Guest<'_> {
    /// Boot, wait for the end, and read the console.
    pub fn run(&self, cache: &Path, verbose: bool) -> Result<Vec<Outcome>> {
        let archive = cache.join(format!("{}.initramfs", self.kernel.release));
        fs::write(&archive, self.archive()?).with_context(|| format!("write {}", archive.display()))?;
        let console = cache.join(format!("{}.console", self.kernel.release));
        let ended = self.boot(&archive, &console)?;
        fs::remove_file(&archive)?;
        let text = String::from_utf8_lossy(&fs::read(&console)?).into_owned();
        if verbose {
            print!("{text}");
        }
        if !ended || !text.contains(&format!("{MARK} end")) {
            let tail: Vec<&str> = text.lines().rev().take(30).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            bail!(
                "the guest with {} did not come to its end; console ({}):\n{}",
                self.kernel.release,
                console.display(),
                tail.join("\n")
            );
        }
        Ok(self.rows.iter().map(|row| outcome(row, &text)).collect())
    }

    /// Everything that the guest consists of.
    fn archive(&self) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for directory in ["/proc", "/sys", "/dev", "/tmp", "/bin", "/sbin"] {
            archive.directory(directory);
        }
        let mut script = String::from(
            "#!/bin/busybox sh\n\
             /bin/busybox --install -s /bin\n\
             export PATH=/bin:/sbin LD_LIBRARY_PATH=/lib\n\
             mount -t proc proc /proc\nmount -t sysfs sys /sys\nmount -t devtmpfs dev /dev\nmount -t tmpfs tmp /tmp\n",
        );
        for (name, bytes) in self.kernel.modules(MODULES)? {
            let path = format!("/modules/{name}.ko");
            archive.file(&path, 0o644, &bytes);
            script.push_str(&format!("insmod {path}\n"));
        }
        let mut libraries = BTreeSet::new();
        archive.file("/bin/busybox", 0o755, &read(self.busybox)?);
        archive.file("/bin/tests", 0o755, &read(self.tests)?);
        libraries.extend(shared_libraries(self.tests)?);
        for program in PROGRAMS {
            if let Some(path) = find(program) {
                archive.file(&format!("/sbin/{program}"), 0o755, &read(&path)?);
                libraries.extend(shared_libraries(&path)?);
            }
        }
        for library in libraries {
            // The loader is at the place that is compiled into the programs, everything else is found by name.
            let name = library.file_name().context("a library's name")?.to_string_lossy().into_owned();
            let place =
                if name.starts_with("ld-linux") { format!("/lib64/{name}") } else { format!("/lib/{name}") };
            archive.file(&place, 0o755, &read(&library)?);
        }
        let filter = self.filter.unwrap_or_default();
        for row in self.rows {
            script.push_str(&format!(
                "echo '{MARK} row {row}'\n\
                 REPLICATOR_TEST_ROW={row} REPLICATOR_TEST_LOG=replicator=debug /bin/tests --test-threads 1 --nocapture {filter} 2>&1\n"
            ));
        }
        script.push_str(&format!("echo '{MARK} end'\npoweroff -f\n"));
        archive.file("/init", 0o755, script.as_bytes());
        Ok(archive.finish())
    }

    /// Whether the guest powered off by itself in time.
    fn boot(&self, archive: &Path, console: &Path) -> Result<bool> {
        let output = File::create(console).with_context(|| format!("write {}", console.display()))?;
        let mut emulator = Command::new(EMULATOR)
            .args(["-accel", "tcg", "-cpu", PROCESSOR, "-m", "2048", "-smp", "2"])
            .args(["-nographic", "-no-reboot", "-nic", "none"])
            .arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(archive)
            .args(["-append", "console=ttyS0 quiet panic=-1 rdinit=/init"])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("start {EMULATOR}"))?;
        let started = Instant::now();
        loop {
            if emulator.try_wait()?.is_some() {
                return Ok(true);
            }
            if started.elapsed() > LIMIT {
                emulator.kill()?;
                emulator.wait()?;
                return Ok(false);
            }
            // Between two looks: a child has no end to wait for with a limit.
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// What the console says about one row.
fn outcome(row: &str, console: &str) -> Outcome {
    let mark = format!("{MARK} row {row}");
    let mut outcome = Outcome { row: row.to_owned(), passed: 0, failures: Vec::new(), not_run: Vec::new() };
    let mut ended = false;
    // The firmware leaves control sequences before the first line.
    let lines = console.lines().map(str::trim_end).skip_while(|line| !line.ends_with(&mark)).skip(1);
    for line in lines.take_while(|line| !line.contains(MARK)) {
        if let Some(at) = line.find("not run: ") {
            outcome.not_run.push(line[at..].to_owned());
        }
        // "test result: FAILED. 20 passed; 2 failed; ..."
        if let Some(counts) = line.strip_prefix("test result: ") {
            ended = true;
            let number = |what: &str| {
                counts
                    .split([';', '.'])
                    .find_map(|part| part.trim().strip_suffix(what)?.trim().parse::<usize>().ok())
            };
            outcome.passed = number("passed").unwrap_or(0);
            if number("failed") != Some(0) && outcome.failures.is_empty() {
                outcome.failures.push("see the console".to_owned());
            }
        }
        if let Some(name) = line.strip_prefix("    ")
            && !name.contains(' ')
            && name.contains("::")
            && !outcome.failures.iter().any(|failure| failure == name)
        {
            outcome.failures.push(name.to_owned());
        }
    }
    if !ended {
        outcome.failures.push("the tests did not come to their end".to_owned());
    }
    outcome.not_run.sort();
    outcome.not_run.dedup();
    outcome
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// The shared libraries of a program, the loader included.
fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("start ldd")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect())
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/sbin".into(), "/usr/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}
