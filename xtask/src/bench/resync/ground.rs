//! What everything is held against: the tree, and programs that do nothing but read it, write it, or fill the cable.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::lab::image::MIB;
use crate::lab::interrupt;
use crate::lab::mirror::Mirror;
use crate::lab::records::Random;

/// Bytes of one of the large files.
const LARGE_BYTES: u64 = 256 * MIB;
/// Bytes of a small file.
pub const SMALL_BYTES: u64 = 4096;
const FILES_PER_DIRECTORY: usize = 100;
/// Read and written at once.
const PIECE: usize = MIB as usize;
/// Bytes sent to find out what the cable takes.
const CABLE_BYTES: u64 = 1024 * MIB;
const CABLE_PORT: u16 = 7601;
/// USER_HZ, which is the same on all architectures that matter here.
const TICKS_PER_SECOND: f64 = 100.0;

/// What is mirrored.
#[derive(Clone, Copy, Debug)]
pub struct Tree {
    /// In large files.
    pub bytes: u64,
    /// Small files.
    pub files: usize,
}

impl Tree {
    /// All bytes of all files.
    pub fn all_bytes(&self) -> u64 {
        self.bytes + self.files as u64 * SMALL_BYTES
    }

    /// Size of each large file.
    pub fn large(&self) -> impl Iterator<Item = (u64, u64)> {
        let all = self.bytes;
        (0..all.div_ceil(LARGE_BYTES))
            .map(move |number| (number, LARGE_BYTES.min(all - number * LARGE_BYTES)))
    }

    /// Write it. The bytes are such that nothing can be left out of them.
    pub fn make(&self, root: &Path) -> Result<()> {
        let block = Random::new(5).bytes(16 * PIECE);
        for (number, size) in self.large() {
            interrupt::check()?;
            let mut file = File::create(large(root, number))?;
            for piece in 0..size.div_ceil(MIB) {
                // No two pieces are the same.
                let shift = ((number * 1009 + piece * 37) % (15 * MIB)) as usize;
                let length = (size - piece * MIB).min(MIB) as usize;
                file.write_all(&(number << 32 | piece).to_le_bytes())?;
                file.write_all(&block[shift..shift + length - 8])?;
            }
            file.sync_all()?;
        }
        for first in (0..self.files).step_by(FILES_PER_DIRECTORY) {
            interrupt::check()?;
            let directory = root.join(format!("small/{}", first / FILES_PER_DIRECTORY));
            fs::create_dir_all(&directory)?;
            for file in first..self.files.min(first + FILES_PER_DIRECTORY) {
                let shift = file * 64 % (15 * PIECE);
                fs::write(
                    directory.join(format!("file-{file}")),
                    &block[shift..shift + SMALL_BYTES as usize],
                )?;
            }
        }
        sync(root)
    }
}

/// Path of a large file.
pub fn large(root: &Path, number: u64) -> PathBuf {
    root.join(format!("large-{number}"))
}

/// Make a file system durable.
pub fn sync(root: &Path) -> Result<()> {
    Ok(nix::unistd::syncfs(File::open(root)?)?)
}

/// Nothing is left to be written, and nothing is in the page cache.
pub fn settle(mirror: &Mirror) -> Result<()> {
    sync(mirror.outside())?;
    nix::unistd::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("empty the page cache")
}

/// Delete everything in a directory.
pub fn clear(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() { fs::remove_dir_all(&path)? } else { fs::remove_file(&path)? }
    }
    Ok(())
}

/// Read every file below, one after the other; how many bytes there were.
pub fn read(directory: &Path) -> Result<u64> {
    let mut buffer = vec![0; PIECE];
    walk(directory, &mut |path| {
        let mut file = File::open(path)?;
        let mut all = 0;
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(all),
                read => all += read as u64,
            }
        }
    })
}

/// Read both trees at once, as two nodes would; seconds.
pub fn read_both(mirror: &Mirror) -> Result<f64> {
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| read(mirror.copy()));
        read(mirror.data())?;
        other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    Ok(begin.elapsed().as_secs_f64())
}

/// Copy a tree from one file system to another by reading and writing, and make it durable; seconds.
pub fn copy(from: &Path, to: &Path) -> Result<f64> {
    let begin = Instant::now();
    let mut buffer = vec![0; PIECE];
    walk(from, &mut |path| {
        let target = to.join(path.strip_prefix(from)?);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        let (mut source, mut target) = (File::open(path)?, File::create(target)?);
        loop {
            match source.read(&mut buffer)? {
                0 => return Ok(0),
                read => target.write_all(&buffer[..read])?,
            }
        }
    })?;
    sync(to)?;
    Ok(begin.elapsed().as_secs_f64())
}

fn walk(directory: &Path, visit: &mut impl FnMut(&Path) -> Result<u64>) -> Result<u64> {
    let mut all = 0;
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        interrupt::check()?;
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                left.push(entry.path());
            } else {
                all += visit(&entry.path())?;
            }
        }
    }
    Ok(all)
}

/// What one plain connection takes, in bytes per second.
pub fn cable(mirror: &Mirror) -> Result<f64> {
    let address = mirror.net.b.socket(CABLE_PORT);
    let listener = mirror.net.b.within(|| Ok(TcpListener::bind(address)?))?;
    std::thread::scope(|scope| {
        let receiver = scope.spawn(move || -> Result<()> {
            let (mut stream, _) = listener.accept()?;
            let mut buffer = vec![0; PIECE];
            while stream.read(&mut buffer)? > 0 {}
            stream.write_all(&[1])?;
            Ok(())
        });
        let begin = Instant::now();
        mirror.net.a.within(|| {
            let mut stream = TcpStream::connect(address)?;
            let piece = vec![7; PIECE];
            for _ in 0..CABLE_BYTES / MIB {
                stream.write_all(&piece)?;
            }
            stream.shutdown(std::net::Shutdown::Write)?;
            stream.read_exact(&mut [0])?;
            Ok(())
        })?;
        let took = begin.elapsed().as_secs_f64();
        receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(CABLE_BYTES as f64 / took)
    })
}

/// Processor seconds of a process so far, with all its threads and the children it has waited for (proc(5), stat).
pub fn processor(pid: nix::unistd::Pid) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = text.rsplit_once(") ").context("a process's state")?.1;
    // utime, stime, cutime, cstime are the 14th field and those behind it; this begins with the third.
    let ticks: u64 = fields.split(' ').skip(11).take(4).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// The machine's load average over the last minute, as the kernel writes it.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_made_read_and_copied_whole() {
        let place = tempfile::tempdir().unwrap();
        let (from, to) = (place.path().join("from"), place.path().join("to"));
        fs::create_dir_all(&from).unwrap();
        fs::create_dir_all(&to).unwrap();
        let tree = Tree { bytes: 3 * MIB + 5000, files: 120 };
        tree.make(&from).unwrap();
        assert_eq!(read(&from).unwrap(), tree.all_bytes());
        copy(&from, &to).unwrap();
        assert_eq!(fs::read(large(&from, 0)).unwrap(), fs::read(large(&to, 0)).unwrap());
        let last = "small/1/file-119";
        assert_eq!(fs::read(from.join(last)).unwrap(), fs::read(to.join(last)).unwrap());
        clear(&to).unwrap();
        assert_eq!(read(&to).unwrap(), 0);
    }
}
