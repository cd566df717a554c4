//! A file without a name (O_TMPFILE) is written and synced, then gets its name: the name and all bytes are on the copy after
//! the fsync of the directory. Files that never get a name, and files deleted while open, leave nothing behind.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::files::{open, require_copied, sync_directory};
use super::{Context, Outcome, passed};
use crate::lab::mirror::Mirror;
use crate::lab::records::Random;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut mirror = Mirror::start(&context.options())?;
    let data = mirror.data().to_owned();
    let mut random = Random::new(6);
    for round in 0..20 {
        let name = format!("named{round}");
        let mut file = nameless(&data)?;
        file.write_all(&random.bytes(30_000))?;
        if round % 2 == 0 {
            file.sync_all().context("fsync of a file without a name")?;
        }
        give_name(&file, &data.join(&name))?;
        file.write_all(&random.bytes(100))?;
        file.sync_all()?;
        sync_directory(&data)?;
        require_copied(&mirror, &name, &format!("round {round}"))?;
    }
    let mut never = nameless(&data)?;
    never.write_all(&random.bytes(30_000))?;
    never.sync_all()?;
    let mut deleted = open(&data.join("deleted"), 0)?;
    deleted.write_all(&random.bytes(30_000))?;
    fs::remove_file(data.join("deleted"))?;
    deleted.write_all(&random.bytes(30_000))?;
    deleted.sync_all().context("fsync of a deleted file")?;
    sync_directory(&data)?;
    ensure!(!mirror.copy().join("deleted").exists(), "the deleted file is on the copy");
    drop((never, deleted));
    let found = mirror.wait_identical()?;
    ensure!(found.entries == 20, "{} entries instead of 20", found.entries);
    mirror.finish(&[])?;
    passed("20 files got their name after their bytes")
}

fn nameless(directory: &Path) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt;

    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_TMPFILE).mode(0o640);
    options.open(directory).context("open with O_TMPFILE")
}

fn give_name(file: &File, path: &Path) -> Result<()> {
    let from = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let to = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: both paths are NUL-terminated and outlive the call.
    let result = unsafe {
        libc::linkat(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::AT_SYMLINK_FOLLOW)
    };
    ensure!(result == 0, "linkat: {}", std::io::Error::last_os_error());
    Ok(())
}
