//! Everything about a file that is not its bytes: mode, owner, times, extended attributes, access lists. After an fsync
//! of the file it is on the copy; without one, once the writers rest.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Result, ensure};

use super::files::write_synced;
use super::{Context, Outcome, passed};
use crate::lab::mirror::Mirror;
use crate::lab::{exec, xattr};
use crate::setup;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    setup::require(&["setfacl"])?;
    let mut mirror = Mirror::start(&context.options())?;
    let data = mirror.data().to_owned();
    for number in 0..12_u32 {
        let path = data.join(format!("f{number}"));
        write_synced(&path, b"bytes")?;
        chown(&path, Some(1000 + number), Some(2000 + number))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4700 + number))?;
        xattr::set(&path, "user.purpose", format!("number {number}").as_bytes())?;
        xattr::set(&path, "trusted.binary", &[0, 255, 10, number as u8])?;
        let file = File::open(&path)?;
        file.set_modified(UNIX_EPOCH + Duration::new(1_600_000_000 + u64::from(number), 123_456_789))?;
        file.sync_all()?;
        let (one, other) = (fs::metadata(&path)?, fs::metadata(mirror.copy().join(format!("f{number}")))?);
        let facts =
            |meta: &fs::Metadata| (meta.mode(), meta.uid(), meta.gid(), meta.mtime(), meta.mtime_nsec());
        ensure!(facts(&one) == facts(&other), "after the fsync: {:?} / {:?}", facts(&one), facts(&other));
        let copied = xattr::all(&mirror.copy().join(format!("f{number}")))?;
        ensure!(xattr::all(&path)? == copied, "after the fsync the attributes differ: {copied:?}");
    }
    let acl = |arguments: &[&str], name: &str| {
        exec::run(Command::new(setup::program("setfacl")).args(arguments).arg(data.join(name)))
    };
    acl(&["-m", "u:1234:rwx,g:4321:r"], "f1")?;
    fs::create_dir(data.join("directory"))?;
    acl(&["-d", "-m", "u:1234:rw"], "directory")?;
    fs::set_permissions(data.join("directory"), fs::Permissions::from_mode(0o2775))?;
    fs::write(data.join("directory/inherits"), "x")?;
    xattr::set(&data.join("directory"), "user.on-directory", b"yes")?;
    acl(&["-b"], "f1")?;
    acl(&["-m", "u:7:r"], "f2")?;
    fs::File::open(data.join("directory"))?.set_modified(UNIX_EPOCH + Duration::from_secs(5))?;
    let root = fs::Permissions::from_mode(0o750);
    fs::set_permissions(&data, root)?;
    mirror.wait_identical()?;
    mirror.finish(&[])?;
    passed("12 files after their fsync; access lists, directories and the root at rest")
}
