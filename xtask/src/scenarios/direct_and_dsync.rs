//! O_DSYNC and O_SYNC: each write that returned is on both nodes. O_DIRECT: its bytes, of whatever alignment the file
//! system takes, are on both after an fsync, also beside buffered writes to the same file.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use anyhow::{Context as _, Result};

use super::files::{open, require_copied};
use super::{Context, Outcome, passed};
use crate::lab::mirror::Mirror;
use crate::lab::records::Random;

const PAGE: usize = 4096;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::start(&context.options())?;
    let data = mirror.data().to_owned();
    let mut random = Random::new(5);
    let mut writes = 0;
    for (name, flags) in [("dsync", libc::O_DSYNC), ("sync", libc::O_SYNC)] {
        let file = open(&data.join(name), flags)?;
        for round in 0..40 {
            let length = 1 + random.below(30_000) as usize;
            file.write_all_at(&random.bytes(length), random.below(100_000))
                .with_context(|| format!("write to {name}"))?;
            require_copied(&mirror, name, &format!("{name} write {round}"))?;
            writes += 1;
        }
    }
    let direct = open(&data.join("direct"), libc::O_DIRECT)?;
    let buffered = open(&data.join("direct"), 0)?;
    let mut block = Aligned::new(16 * PAGE);
    for round in 0..40 {
        let pages = 1 + random.below(16) as usize;
        block.fill(&random.bytes(pages * PAGE));
        write_direct(&direct, &block.bytes()[..pages * PAGE], random.below(64) * PAGE as u64)?;
        if round % 4 == 0 {
            buffered.write_all_at(&random.bytes(500), random.below(200_000))?;
        }
        direct.sync_data()?;
        require_copied(&mirror, "direct", &format!("O_DIRECT round {round}"))?;
    }
    // Both at once: every write itself is the promise.
    let both = open(&data.join("both"), libc::O_DIRECT | libc::O_DSYNC)?;
    for round in 0..20 {
        block.fill(&random.bytes(PAGE));
        write_direct(&both, &block.bytes()[..PAGE], round * PAGE as u64)?;
        require_copied(&mirror, "both", &format!("O_DIRECT|O_DSYNC write {round}"))?;
        writes += 1;
    }
    drop((direct, buffered, both));
    mirror.wait_identical()?;
    let found = mirror.finish(&[])?;
    passed(format!("{writes} synchronous writes and 40 direct rounds read back; {} bytes", found.bytes))
}

fn write_direct(file: &File, bytes: &[u8], at: u64) -> Result<()> {
    let written = file.write_at(bytes, at).context("O_DIRECT write")?;
    if written != bytes.len() {
        return Err(io::Error::from(io::ErrorKind::WriteZero)).context("O_DIRECT write was short");
    }
    Ok(())
}

/// Memory that starts at a page.
struct Aligned {
    address: *mut u8,
    layout: Layout,
}

impl Aligned {
    fn new(length: usize) -> Aligned {
        let layout = Layout::from_size_align(length, PAGE).unwrap_or(Layout::new::<[u8; PAGE]>());
        // SAFETY: the layout's size is not zero.
        let address = unsafe { alloc_zeroed(layout) };
        assert!(!address.is_null(), "out of memory");
        Aligned { address, layout }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the memory is initialised (zeroed), as long as the layout says, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.address, self.layout.size()) }
    }

    fn fill(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.layout.size());
        // SAFETY: as in `bytes`, and `self` is borrowed mutably, so nobody else looks.
        let all = unsafe { std::slice::from_raw_parts_mut(self.address, self.layout.size()) };
        all[..bytes.len()].copy_from_slice(bytes);
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.address, self.layout) };
    }
}
