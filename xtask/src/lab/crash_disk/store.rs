//! What a disk with a cache holds: what was flushed, and of the rest anything when the power fails.
//!
//! Fault model: a write is in the cache until a flush ends that began after it, or until the disk writes it back by itself. When the
//! power fails, of each 4 KiB block that was written since, the disk holds what was there before or any of the later contents, or
//! sectors of 512 bytes of two of them mixed, independently of all other blocks. What was flushed is never lost.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::records::Random;

/// Bytes of a block.
const BLOCK: usize = 4096;
/// Bytes that a disk writes whole or not at all.
const SECTOR: usize = 512;
/// Later contents of one block that are kept.
const VERSIONS_MAX: usize = 4;
/// Blocks in the cache: what is more is written back.
const BLOCKS_MAX: usize = 16 << 10;

/// So often it is looked whether a process stands, and with pauses of this length.
const STOP_LOOKS: u32 = 1000;
const STOP_PAUSE: Duration = Duration::from_micros(200);

type Block = Box<[u8; BLOCK]>;

/// How much of what was not flushed a power cut takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Loss {
    /// All of it.
    All,
    /// A part, each block for itself, some of them torn.
    Some,
    /// Nothing: the order of the writes alone.
    Nothing,
}

/// What a power cut did.
#[derive(Clone, Copy, Default, Debug)]
pub struct Cut {
    /// Blocks that were in the cache.
    pub unflushed: u64,
    /// Of them, those that do not have their last content.
    pub lost: u64,
}

/// The disk.
#[derive(Debug)]
pub struct Store {
    stable: File,
    bytes: u64,
    cache: BTreeMap<u64, Vec<Block>>,
    off: bool,
    /// The power fails with the write that fills the cache with so many blocks.
    fails_at: Option<(usize, Loss, Random)>,
    /// What runs on the machine, and stops with it.
    running: Vec<Pid>,
    cut: Cut,
}

impl Store {
    /// A disk of this file's size, all of whose content is stable.
    ///
    /// # Errors
    /// The file cannot be looked at.
    pub fn new(stable: File) -> io::Result<Store> {
        let bytes = stable.metadata()?.len();
        let (cache, running) = (BTreeMap::new(), Vec::new());
        Ok(Store { stable, bytes, cache, off: false, fails_at: None, running, cut: Cut::default() })
    }

    /// Its size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn powered(&self) -> io::Result<()> {
        if self.off { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
    }

    fn current(&self, block: u64) -> io::Result<Block> {
        match self.cache.get(&block).and_then(|versions| versions.last()) {
            Some(content) => Ok(content.clone()),
            None => self.stable_block(block),
        }
    }

    fn stable_block(&self, block: u64) -> io::Result<Block> {
        let mut content = Box::new([0; BLOCK]);
        let start = block * BLOCK as u64;
        let length = (self.bytes.saturating_sub(start)).min(BLOCK as u64) as usize;
        self.stable.read_exact_at(&mut content[..length], start)?;
        Ok(content)
    }

    fn make_stable(&self, block: u64, content: &[u8; BLOCK]) -> io::Result<()> {
        let start = block * BLOCK as u64;
        let length = (self.bytes.saturating_sub(start)).min(BLOCK as u64) as usize;
        self.stable.write_all_at(&content[..length], start)
    }

    /// Read so many bytes, fewer at the end of the disk.
    ///
    /// # Errors
    /// It is off, or the file below fails.
    pub fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        self.powered()?;
        let end = self.bytes.min(offset + length as u64);
        let mut bytes = Vec::with_capacity(length);
        let mut at = offset;
        while at < end {
            let within = (at % BLOCK as u64) as usize;
            let count = (BLOCK - within).min((end - at) as usize);
            bytes.extend_from_slice(&self.current(at / BLOCK as u64)?[within..within + count]);
            at += count as u64;
        }
        Ok(bytes)
    }

    /// Write into the cache.
    ///
    /// # Errors
    /// It is off, or the file below fails.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.powered()?;
        let mut rest = bytes;
        let mut at = offset;
        while !rest.is_empty() {
            let within = (at % BLOCK as u64) as usize;
            let count = (BLOCK - within).min(rest.len());
            let mut content = self.current(at / BLOCK as u64)?;
            content[within..within + count].copy_from_slice(&rest[..count]);
            let versions = self.cache.entry(at / BLOCK as u64).or_default();
            if versions.len() == VERSIONS_MAX {
                versions.remove(0);
            }
            versions.push(content);
            rest = &rest[count..];
            at += count as u64;
            if let Some((blocks, loss, mut random)) = self.fails_at.take() {
                if self.cache.len() >= blocks {
                    self.cut(loss, &mut random)?;
                    return self.powered();
                }
                self.fails_at = Some((blocks, loss, random));
            }
        }
        // A disk writes back by itself, too, in any order.
        while self.cache.len() > BLOCKS_MAX {
            let Some((block, versions)) = self.cache.pop_first() else { break };
            if let Some(content) = versions.last() {
                self.make_stable(block, content)?;
            }
        }
        Ok(())
    }

    /// Make all that was written stable.
    ///
    /// # Errors
    /// It is off, or the file below fails.
    pub fn flush(&mut self) -> io::Result<()> {
        self.powered()?;
        for (block, versions) in &self.cache {
            if let Some(content) = versions.last() {
                self.make_stable(*block, content)?;
            }
        }
        self.cache.clear();
        Ok(())
    }

    /// The power is to fail in the middle of things: with the write that fills the cache with so many blocks.
    pub fn fail_at(&mut self, blocks: usize, loss: Loss, random: Random) {
        self.fails_at = Some((blocks.max(1), loss, random));
    }

    /// These processes run on the machine. When the power fails they stop, before they see that the disk has.
    pub fn set_running(&mut self, running: Vec<Pid>) {
        self.running = running;
    }

    /// Whether the power has failed.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.off
    }

    /// The power fails, if it has not: from now on everything is an error.
    ///
    /// # Errors
    /// The file below fails.
    pub fn cut(&mut self, loss: Loss, random: &mut Random) -> io::Result<Cut> {
        if self.off {
            return Ok(self.cut);
        }
        (self.off, self.fails_at) = (true, None);
        self.running.drain(..).for_each(stop);
        let mut found = Cut::default();
        for (block, mut versions) in std::mem::take(&mut self.cache) {
            found.unflushed += 1;
            let last = versions.len();
            versions.insert(0, self.stable_block(block)?);
            let at = match loss {
                Loss::All => 0,
                Loss::Nothing => last,
                Loss::Some => random.below(last as u64 + 1) as usize,
            };
            found.lost += u64::from(at != last);
            let mut content = versions[at].clone();
            if loss == Loss::Some && random.below(4) == 0 {
                let other = &versions[random.below(last as u64 + 1) as usize];
                for start in (0..BLOCK).step_by(SECTOR).filter(|_| random.below(2) == 0) {
                    content[start..start + SECTOR].copy_from_slice(&other[start..start + SECTOR]);
                }
            }
            self.make_stable(block, &content)?;
        }
        self.cut = found;
        Ok(found)
    }

    /// The power is back.
    pub fn power_on(&mut self) {
        self.off = false;
    }
}

/// Stop a process, all threads of it but for those in an uninterruptible wait, which stop before they come out of it.
fn stop(pid: Pid) {
    // One that has ended needs no stop.
    if kill(pid, Signal::SIGSTOP).is_err() {
        return;
    }
    let stands = |task: &Path| {
        let status = fs::read_to_string(task.join("stat")).unwrap_or_default();
        status.rsplit(") ").next().is_none_or(|rest| !rest.starts_with(['R', 'S']))
    };
    for _ in 0..STOP_LOOKS {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        if tasks.map(|task| task.path()).all(|task| stands(&task)) {
            return;
        }
        sleep(STOP_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> Store {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 << 10).unwrap();
        Store::new(file).unwrap()
    }

    #[test]
    fn what_was_flushed_stays_and_the_rest_goes() {
        let (mut store, mut random) = (store(), Random::new(1));
        store.write(100, &[1; 9000]).unwrap();
        store.flush().unwrap();
        store.write(200, &[2; 50]).unwrap();
        store.write(30_000, &[3; 50]).unwrap();
        assert_eq!(store.read(199, 3).unwrap(), [1, 2, 2]);
        let cut = store.cut(Loss::All, &mut random).unwrap();
        assert_eq!((cut.unflushed, cut.lost), (2, 2));
        assert!(store.read(0, 1).is_err() && store.write(0, &[1]).is_err() && store.flush().is_err());
        store.power_on();
        assert_eq!(store.read(99, 9002).unwrap(), [&[0][..], &[1; 9000], &[0]].concat());
        assert_eq!(store.read(30_000, 50).unwrap(), [0; 50]);
    }

    #[test]
    fn a_part_may_be_lost_kept_or_torn() {
        let mut random = Random::new(5);
        let (mut lost, mut kept, mut torn, mut between) = (false, false, false, false);
        for _ in 0..200 {
            let mut store = store();
            store.write(0, &[1; BLOCK]).unwrap();
            store.write(0, &[2; BLOCK]).unwrap();
            store.cut(Loss::Some, &mut random).unwrap();
            store.power_on();
            let found = store.read(0, BLOCK).unwrap();
            let all = |byte| found.iter().all(|found| *found == byte);
            lost |= all(0);
            between |= all(1);
            kept |= all(2);
            torn |= !all(0) && !all(1) && !all(2);
        }
        assert!(lost && kept && torn && between);
    }

    #[test]
    fn it_fails_with_the_write_that_was_meant() {
        let mut store = store();
        store.fail_at(2, Loss::All, Random::new(1));
        store.write(0, &[1; 100]).unwrap();
        store.write(200, &[1; 100]).unwrap();
        assert!(!store.is_off());
        assert!(store.write(20_000, &[1; 100]).is_err() && store.is_off());
        assert_eq!(store.cut(Loss::All, &mut Random::new(1)).unwrap().unflushed, 2);
    }

    #[test]
    fn nothing_lost_is_as_written_to_the_end_of_the_disk() {
        let (mut store, mut random) = (store(), Random::new(1));
        store.write((64 << 10) - 10, &[7; 10]).unwrap();
        store.cut(Loss::Nothing, &mut random).unwrap();
        store.power_on();
        assert_eq!(store.read((64 << 10) - 10, 100).unwrap(), [7; 10]);
    }
}
