//! What is measured: the calls, and the tree they are made on.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow};
// The standard library's call also asks for the time of birth, which costs the first such call of a file a request of its own.
use nix::sys::stat::lstat;

use crate::lab::records::Random;

/// Files to a directory.
const FILES_PER_DIRECTORY: usize = 20;
/// Bytes of a small file.
const SMALL_BYTES: usize = 1024;
/// Sizes in the tree: what a tree of sources looks like.
const SIZES: std::ops::Range<u64> = 200..12_000;
/// How often what is over in no time is done again.
const PASSES: usize = 4;
/// What the search looks for; it is in no file.
const NEEDLE: &[u8] = b"\xff\xfe\xfd\xfc needle";

/// The work of one thread: how many operations were done.
type Work = fn(&Plan, &Part) -> Result<u64>;

/// One job. They run in the order of [`JOBS`], each on what the ones before it left.
pub struct Job {
    /// Its name.
    pub name: &'static str,
    /// What one operation is.
    pub about: &'static str,
    /// Not measured.
    pub before: fn(&Plan) -> Result<()>,
    /// Measured.
    pub work: Work,
}

const fn job(name: &'static str, about: &'static str, work: Work) -> Job {
    Job { name, about, before: |_| Ok(()), work }
}

/// All jobs.
pub const JOBS: &[Job] = &[
    job("stat-new", "stat of a name the gate has not shown yet (warm below it)", stat_new),
    job("list-new", "readdir + stat of each, directory not shown yet (warm below it)", list_new),
    Job { before: warm, ..job("stat", "stat, warm", stat) },
    job("list", "readdir + stat of each, warm; an operation is a file", list),
    job("grep", "list, open, read all, close, search; warm; an operation is a file", grep),
    Job { before: make_small, ..job("create", "create + write 1 KiB + close", create) },
    job("stat-written", "first stat after the write", stat_small),
    job("open", "open + read 1 KiB + close", open),
    job("rename", "rename in the same directory", rename),
    job("unlink", "unlink", unlink),
    Job { before: make_new, ..job("mkdir", "mkdir", mkdir) },
    job("rmdir", "rmdir", rmdir),
    Job {
        before: make_untarred,
        ..job("untar", "create, write, times, owner, mode, close of a file, in new directories", untar)
    },
    job("rm-rf", "remove a tree; an operation is a file or directory", remove),
];

/// What the threads of one run work on.
#[derive(Clone, Debug)]
pub struct Plan {
    root: PathBuf,
    parts: Vec<Part>,
}

/// One thread's share.
#[derive(Clone, Debug)]
pub struct Part {
    number: usize,
    /// Directories of the tree.
    directories: Vec<usize>,
}

impl Plan {
    /// `files` in directories of twenty, shared out among `threads`.
    pub fn new(root: PathBuf, files: usize, threads: usize) -> Plan {
        let directories = files.div_ceil(FILES_PER_DIRECTORY).max(2 * threads);
        let part = |number| Part { number, directories: (number..directories).step_by(threads).collect() };
        Plan { root, parts: (0..threads).map(part).collect() }
    }

    /// Write the tree.
    pub fn prepare(&self) -> Result<()> {
        for part in &self.parts {
            for directory in part.directories(&self.root.join("source")) {
                fs::create_dir_all(&directory.path)?;
                for file in directory.files() {
                    fs::write(file.path, file.content)?;
                }
            }
        }
        File::open(&self.root)?.sync_all()?;
        Ok(())
    }

    /// Let each part be worked on by a thread of its own; returns the operations and the time from the common start to the last end.
    pub fn on_all_threads(&self, work: Work) -> Result<(u64, Duration)> {
        let start = Barrier::new(self.parts.len() + 1);
        std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .parts
                .iter()
                .map(|part| {
                    let start = &start;
                    scope.spawn(move || {
                        start.wait();
                        work(self, part)
                    })
                })
                .collect();
            start.wait();
            let begin = Instant::now();
            let mut operations = 0;
            for thread in threads {
                operations += thread.join().map_err(|_| anyhow!("a worker broke down"))??;
            }
            Ok((operations, begin.elapsed()))
        })
    }

    fn on_all_parts(&self, work: impl Fn(&Part) -> Result<()>) -> Result<()> {
        self.parts.iter().try_for_each(work)
    }
}

/// One directory of the tree.
struct Directory {
    path: PathBuf,
    number: usize,
}

/// One file of it.
struct TreeFile {
    path: PathBuf,
    content: Vec<u8>,
}

impl Part {
    /// The share of the tree below `base`, in a directory of this part's own.
    fn directories(&self, base: &Path) -> impl Iterator<Item = Directory> {
        let base = self.below(base);
        self.directories
            .iter()
            .map(move |number| Directory { path: base.join(format!("directory-{number}")), number: *number })
    }

    fn below(&self, base: &Path) -> PathBuf {
        base.join(format!("part-{}", self.number))
    }
}

impl Directory {
    fn names(&self) -> impl Iterator<Item = PathBuf> {
        (0..FILES_PER_DIRECTORY).map(|number| self.path.join(format!("file-{number}")))
    }

    /// The files with their content: the same at each call.
    fn files(&self) -> impl Iterator<Item = TreeFile> {
        let mut random = Random::new(self.number as u64);
        self.names().map(move |path| {
            let length = SIZES.start + random.below(SIZES.end - SIZES.start);
            TreeFile { path, content: random.bytes(length as usize) }
        })
    }
}

fn source(plan: &Plan) -> PathBuf {
    plan.root.join("source")
}

fn small(plan: &Plan) -> PathBuf {
    plan.root.join("small")
}

fn untarred(plan: &Plan) -> PathBuf {
    plan.root.join("untarred")
}

/// Half of the tree is for one job, half for the other: a name is new only once.
fn half(plan: &Plan, part: &Part, which: usize) -> Vec<Directory> {
    part.directories(&source(plan)).skip(which).step_by(2).collect()
}

fn stat_new(plan: &Plan, part: &Part) -> Result<u64> {
    let mut count = 0;
    for directory in half(plan, part, 0) {
        for path in directory.names() {
            lstat(&path)?;
            count += 1;
        }
    }
    Ok(count)
}

fn list_new(plan: &Plan, part: &Part) -> Result<u64> {
    half(plan, part, 1).iter().map(|directory| list_one(&directory.path)).sum()
}

fn list_one(directory: &Path) -> Result<u64> {
    let mut count = 0;
    for entry in fs::read_dir(directory)? {
        lstat(&entry?.path())?;
        count += 1;
    }
    Ok(count)
}

fn warm(plan: &Plan) -> Result<()> {
    plan.on_all_parts(|part| {
        for directory in part.directories(&source(plan)) {
            list_one(&directory.path)?;
        }
        Ok(())
    })
}

fn stat(plan: &Plan, part: &Part) -> Result<u64> {
    let paths: Vec<PathBuf> =
        part.directories(&source(plan)).flat_map(|directory| directory.names().collect::<Vec<_>>()).collect();
    for path in std::iter::repeat_n(&paths, PASSES).flatten() {
        lstat(path)?;
    }
    Ok((paths.len() * PASSES) as u64)
}

fn list(plan: &Plan, part: &Part) -> Result<u64> {
    let mut count = 0;
    for _ in 0..PASSES {
        for directory in part.directories(&source(plan)) {
            count += list_one(&directory.path)?;
        }
    }
    Ok(count)
}

fn grep(plan: &Plan, part: &Part) -> Result<u64> {
    let mut buffer = vec![0; SIZES.end as usize];
    let mut count = 0;
    for directory in part.directories(&source(plan)) {
        for entry in fs::read_dir(&directory.path)? {
            let content = read_all(&mut File::open(entry?.path())?, &mut buffer)?;
            if content.windows(NEEDLE.len()).any(|window| window == NEEDLE) {
                return Err(anyhow!("found what is not there"));
            }
            count += 1;
        }
    }
    Ok(count)
}

/// Read to the end, without asking for the size first: `buffer` holds the largest file of the tree and more.
fn read_all<'a>(file: &mut File, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let mut filled = 0;
    loop {
        match file.read(&mut buffer[filled..])? {
            0 => return Ok(&buffer[..filled]),
            length => filled += length,
        }
    }
}

fn make_small(plan: &Plan) -> Result<()> {
    make_directories(plan, &small(plan))
}

fn make_directories(plan: &Plan, base: &Path) -> Result<()> {
    plan.on_all_parts(|part| {
        for directory in part.directories(base) {
            fs::create_dir_all(directory.path)?;
        }
        Ok(())
    })
}

/// Do something for each name of a small file.
fn each_small(plan: &Plan, part: &Part, mut call: impl FnMut(&Path) -> io::Result<()>) -> Result<u64> {
    let mut count = 0;
    for directory in part.directories(&small(plan)) {
        for path in directory.names() {
            call(&path).with_context(|| path.display().to_string())?;
            count += 1;
        }
    }
    Ok(count)
}

fn create(plan: &Plan, part: &Part) -> Result<u64> {
    let content = Random::new(part.number as u64).bytes(SMALL_BYTES);
    each_small(plan, part, |path| File::create_new(path)?.write_all(&content))
}

fn stat_small(plan: &Plan, part: &Part) -> Result<u64> {
    each_small(plan, part, |path| Ok(lstat(path).map(drop)?))
}

fn open(plan: &Plan, part: &Part) -> Result<u64> {
    let mut content = [0; SMALL_BYTES];
    each_small(plan, part, |path| File::open(path)?.read_exact(&mut content))
}

/// The other name of a small file.
fn renamed(path: &Path) -> PathBuf {
    let name = path.file_name().map(OsStr::as_bytes).unwrap_or_default();
    path.with_file_name(OsStr::from_bytes(&[b"renamed-", name].concat()))
}

fn rename(plan: &Plan, part: &Part) -> Result<u64> {
    each_small(plan, part, |path| fs::rename(path, renamed(path)))
}

fn unlink(plan: &Plan, part: &Part) -> Result<u64> {
    each_small(plan, part, |path| fs::remove_file(renamed(path)))
}

fn make_new(plan: &Plan) -> Result<()> {
    fs::remove_dir_all(small(plan))?;
    make_directories(plan, &small(plan))
}

/// As many directories as there are files: one for each name.
fn mkdir(plan: &Plan, part: &Part) -> Result<u64> {
    each_small(plan, part, |path| fs::create_dir(path))
}

fn rmdir(plan: &Plan, part: &Part) -> Result<u64> {
    each_small(plan, part, |path| fs::remove_dir(path))
}

fn make_untarred(plan: &Plan) -> Result<()> {
    fs::remove_dir_all(small(plan))?;
    plan.on_all_parts(|part| Ok(fs::create_dir_all(part.below(&untarred(plan)))?))
}

/// The calls of tar(1) as root for each member.
fn untar(plan: &Plan, part: &Part) -> Result<u64> {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000);
    let mut count = 0;
    for directory in part.directories(&untarred(plan)) {
        fs::create_dir(&directory.path)?;
        for TreeFile { path, content } in directory.files() {
            let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
            file.write_all(&content)?;
            file.set_modified(time)?;
            fchown(&file, Some(0), Some(0))?;
            file.set_permissions(fs::Permissions::from_mode(0o644))?;
            count += 1;
        }
    }
    Ok(count)
}

fn remove(plan: &Plan, part: &Part) -> Result<u64> {
    fs::remove_dir_all(part.below(&untarred(plan)))?;
    Ok((part.directories.len() * (FILES_PER_DIRECTORY + 1) + 1) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each thread number does the same operations, and all of them leave the tree as it was.
    #[test]
    fn every_job_runs_and_leaves_the_tree_as_it_was() {
        for threads in [1, 3] {
            let place = tempfile::tempdir().unwrap();
            let plan = Plan::new(place.path().to_owned(), 240, threads);
            plan.prepare().unwrap();
            for round in 0..2 {
                for job in JOBS {
                    (job.before)(&plan).unwrap();
                    let (operations, _) = plan.on_all_threads(job.work).unwrap();
                    let expected = match job.name {
                        "stat-new" | "list-new" => 120,
                        "stat" | "list" => 960,
                        "rm-rf" => 240 + 12 + threads as u64,
                        _ => 240,
                    };
                    assert_eq!(operations, expected, "{} in round {round}", job.name);
                }
            }
            let base = source(&plan);
            let mut left = 0;
            for directory in plan.parts.iter().flat_map(|part| part.directories(&base)) {
                left += list_one(&directory.path).unwrap();
            }
            assert_eq!(left, 240);
            assert_eq!(list_one(&untarred(&plan)).unwrap(), 0);
        }
    }
}
