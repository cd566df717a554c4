//! Names move faster than the stream: renames over existing names, exchanges, moves between directories, directories
//! moved, names reused at once. Both trees end the same. Order of the namespace log is what is tried here.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::thread;

use anyhow::{Result, anyhow};

use super::files::rename;
use super::{Context, Outcome, passed};
use crate::lab::mirror::Mirror;
use crate::lab::records::Random;

const THREADS: u64 = 3;
const OPERATIONS: u64 = 1500;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::start(&context.options())?;
    let data = mirror.data().to_owned();
    for directory in 0..4 {
        fs::create_dir(data.join(format!("d{directory}")))?;
    }
    let data = &data;
    let done = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|seed| scope.spawn(move || storm(data, seed))).collect();
        threads.into_iter().try_fold(0, |sum, thread| {
            Ok::<u64, anyhow::Error>(sum + thread.join().map_err(|_| anyhow!("a thread panicked"))??)
        })
    })?;
    mirror.wait_identical()?;
    let found = mirror.finish(&[])?;
    passed(format!("{done} operations took effect; {} entries identical", found.entries))
}

/// Operations that met a name which was not there (or there) any more do not count, and are no failure.
fn storm(data: &Path, seed: u64) -> Result<u64> {
    let mut random = Random::new(seed + 100);
    let mut done = 0;
    for number in 0..OPERATIONS {
        let mut name = || data.join(format!("d{}", random.below(4))).join(format!("n{}", random.below(12)));
        let (one, other) = (name(), name());
        let result = match random.below(8) {
            0 | 1 => fs::write(&one, format!("{seed} {number}")),
            2 => rename(&one, &other, libc::RENAME_EXCHANGE),
            3 => rename(&one, &other, libc::RENAME_NOREPLACE),
            4 => fs::remove_file(&one),
            5 => fs::create_dir(&one).and_then(|()| fs::write(one.join("inner"), "x")),
            _ => rename(&one, &other, 0),
        };
        match result {
            Ok(()) => done += 1,
            Err(error) if is_expected(&error) => (),
            Err(error) => return Err(anyhow!("operation {number} of storm {seed}: {error}")),
        }
    }
    Ok(done)
}

fn is_expected(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound
            | ErrorKind::AlreadyExists
            | ErrorKind::IsADirectory
            | ErrorKind::NotADirectory
            | ErrorKind::DirectoryNotEmpty
            | ErrorKind::InvalidInput
    )
}
