//! What the package says of itself.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::lab::exec;

/// What is said of a package.
pub struct About {
    /// With its revision, "0.1.0-1".
    pub version: String,
    /// "Name <address>".
    pub maintainer: String,
    /// The packages it needs.
    pub depends: String,
    /// As Debian calls it.
    pub architecture: &'static str,
    /// Seconds since 1970.
    pub date: u64,
}

const DESCRIPTION: &str = "\
Description: mirror cluster for two ordinary Linux servers
 Directories of one server are mirrored to another as they are written; an
 fsync returns when both hold the data. A cluster of both moves the
 application, its directories and its virtual address to the other server
 when one is lost.
";

impl About {
    /// The file `control`; `size` is what is installed, in KiB.
    pub fn control(&self, size: u64) -> String {
        let About { version, maintainer, depends, architecture, .. } = self;
        format!(
            "Package: replicator\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: {maintainer}\n\
             Installed-Size: {size}\nDepends: {depends}\nRecommends: iproute2, fuse3\nSection: admin\nPriority: optional\n\
             {DESCRIPTION}"
        )
    }

    /// Debian's own changelog: what the program's says is in that.
    ///
    /// # Errors
    /// date(1) does not say.
    pub fn changelog(&self) -> Result<String> {
        let mut date = Command::new("date");
        date.args(["--utc", "--rfc-email", "--date"]).arg(format!("@{}", self.date)).env("LC_ALL", "C");
        let date = exec::output(&mut date)?;
        let (version, maintainer) = (&self.version, &self.maintainer);
        Ok(format!(
            "replicator ({version}) unstable; urgency=medium\n\n  * See changelog.gz.\n\n -- {maintainer}  {}\n",
            date.trim()
        ))
    }
}

/// Compress a text, the same text to the same bytes.
///
/// # Errors
/// The file cannot be written.
pub fn gzip(text: &str, to: &Path) -> Result<()> {
    let file = fs::File::create(to).with_context(|| format!("write {}", to.display()))?;
    let mut encoder = flate2::GzBuilder::new().write(file, flate2::Compression::best());
    encoder.write_all(text.as_bytes())?;
    encoder.finish()?;
    Ok(())
}

/// The file `md5sums` of these files below `root`, by which `dpkg --verify` finds what was changed.
///
/// # Errors
/// A file cannot be read.
pub fn md5sums(root: &Path, files: &[PathBuf]) -> Result<String> {
    exec::output(Command::new("md5sum").arg("--").args(files).current_dir(root))
}
