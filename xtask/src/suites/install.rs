//! The suites' programs from the Rust registry, installed by name below target/.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::lab::exec;
use crate::{product, setup};

/// A suite from the Rust registry. The version is fixed, so that a result is compared with one of the same tests.
struct Crate {
    name: &'static str,
    version: &'static str,
}

/// pjdfstest, built against libacl.
///
/// # Errors
/// It cannot be installed.
pub fn pjdfstest() -> Result<PathBuf> {
    // The library's header tells whether the development package is here.
    setup::require_file("/usr/include/sys/acl.h", "libacl1-dev")?;
    Crate { name: "pjdfstest", version: "0.2.2" }.installed()
}

/// fsx.
///
/// # Errors
/// It cannot be installed.
pub fn fsx() -> Result<PathBuf> {
    Crate { name: "fsx", version: "0.3.2" }.installed()
}

impl Crate {
    /// The program, installed if it is not here yet.
    fn installed(&self) -> Result<PathBuf> {
        let root = product::target()?.join("suites").join(format!("{}-{}", self.name, self.version));
        let program = root.join("bin").join(self.name);
        if program.exists() {
            return Ok(program);
        }
        fs::create_dir_all(&root)?;
        let package = format!("{}@{}", self.name, self.version);
        eprintln!("installing: {package}");
        let mut command = product::cargo();
        // Not in the repository: its settings are not those of another package.
        command.current_dir(&root).args(["install", "--quiet", "--locked", "--no-track", "--root"]);
        exec::show(command.arg(&root).arg(&package)).with_context(|| format!("install {package}"))?;
        if !program.exists() {
            bail!("{package} was installed without its program {}", program.display());
        }
        Ok(program)
    }
}
