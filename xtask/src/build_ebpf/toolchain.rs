//! The compiler for the kernel programs: Debian's Rust with its prebuilt `core` for BPF, and a BPF linker on the same LLVM.
//!
//! Packages are fetched by name and unpacked into a folder: nothing is installed, nothing needs root. rustup's compiler cannot do
//! it, for it has no `core` for BPF, and to build one it needs sources that stable toolchains do not come with.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The version that made the committed object.
const PINNED: &str = "1.96.0+dfsg1-1~deb12u2";
const LINKER: &str = "0.13.0";
/// Changes whenever a folder made by an older recipe must be made anew.
const RECIPE: &str = "1";

/// Packages of the libraries that LLVM needs, for machines that do not have them.
const LIBRARIES: &[(&str, &str)] = &[
    ("libbsd.so.0", "libbsd0"),
    ("libedit.so.2", "libedit2"),
    ("libffi.so.8", "libffi8"),
    ("libicudata.so.72", "libicu72"),
    ("libicuuc.so.72", "libicu72"),
    ("liblzma.so.5", "liblzma5"),
    ("libmd.so.0", "libmd0"),
    ("libtinfo.so.6", "libtinfo6"),
    ("libxml2.so.2", "libxml2"),
    ("libz3.so.4", "libz3-4"),
    ("libzstd.so.1", "libzstd1"),
];

/// An unpacked compiler and a built linker.
pub struct Toolchain {
    directory: PathBuf,
    /// "rustc-web 1.96.0…"
    pub version: String,
    pinned: bool,
}

impl Toolchain {
    /// Fetch, unpack and build what is missing in the folder; quick if nothing is.
    pub fn prepare(directory: &Path) -> Result<Toolchain> {
        let stamp = directory.join("ready");
        if let Ok(text) = fs::read_to_string(&stamp)
            && let Some((recipe, version)) = text.trim().split_once(' ')
            && recipe == RECIPE
        {
            return Ok(Toolchain::at(directory, version));
        }
        for (program, package) in [("apt-get", "apt"), ("dpkg", "dpkg"), ("ldd", "libc-bin"), ("cc", "gcc")] {
            if Command::new(program).arg("--version").output().is_err() {
                bail!(
                    "{program} (Debian package {package}) is not here. The kernel programs are rebuilt with the packages of \
                     Debian 12 (rustc-web, libstd-rust-web-dev-bpf from its security suite); on another system use a container \
                     with Debian 12. The product itself does not need this: it embeds the committed object."
                );
            }
        }
        if directory.exists() {
            fs::remove_dir_all(directory).with_context(|| format!("remove {}", directory.display()))?;
        }
        fs::create_dir_all(directory.join("packages"))?;
        let version = fetch_compiler(directory)?;
        let toolchain = Toolchain::at(directory, &version);
        fetch_libraries(directory)?;
        write_wrapper(directory, "rustc", &directory.join("root/usr/bin/rustc"))?;
        build_linker(directory)?;
        write_wrapper(directory, "bpf-linker", &directory.join("linker/bin/bpf-linker"))?;
        let compiler =
            Command::new(toolchain.rustc()).arg("--version").output().context("start the compiler")?;
        if !compiler.status.success() {
            bail!("the unpacked compiler does not run: {}", String::from_utf8_lossy(&compiler.stderr).trim());
        }
        fs::remove_dir_all(directory.join("packages"))?;
        fs::write(&stamp, format!("{RECIPE} {version}\n"))?;
        Ok(toolchain)
    }

    fn at(directory: &Path, version: &str) -> Toolchain {
        Toolchain {
            directory: directory.to_owned(),
            version: format!("rustc-web {version}"),
            pinned: version == PINNED,
        }
    }

    /// The compiler.
    pub fn rustc(&self) -> PathBuf {
        self.directory.join("bin/rustc")
    }

    /// Where the compiler's own libraries are.
    pub fn sysroot(&self) -> PathBuf {
        self.directory.join("root/usr")
    }

    /// PATH with the linker in front.
    pub fn path(&self) -> Result<OsString> {
        let rest = std::env::var_os("PATH").unwrap_or_default();
        let folders = [self.directory.join("bin")].into_iter().chain(std::env::split_paths(&rest));
        std::env::join_paths(folders).context("PATH")
    }

    /// What to add to a message about differing bytes.
    pub fn hint(&self) -> String {
        if self.pinned {
            return String::new();
        }
        format!(
            "\nThe committed object was made by rustc-web {PINNED}, which Debian does not offer any more: another compiler may \
             make other bytes of the same sources."
        )
    }
}

/// Fetch and unpack the compiler, its libraries and LLVM; the names that carry versions are in the packages' dependencies.
fn fetch_compiler(directory: &Path) -> Result<String> {
    let pinned = ["rustc-web", "libstd-rust-web-dev", "libstd-rust-web-dev-bpf"];
    let at_version = |version: &str| pinned.map(|name| format!("{name}={version}"));
    let version = match download(directory, &at_version(PINNED)) {
        Ok(()) => PINNED.to_owned(),
        Err(first) => {
            // A fresh machine has no package lists, or old ones. Only root may update them.
            let _ = Command::new("apt-get").args(["-q", "update"]).status();
            if download(directory, &at_version(PINNED)).is_ok() {
                PINNED.to_owned()
            } else {
                let candidate = candidate("rustc-web").with_context(|| {
                    format!(
                        "apt knows no package rustc-web ({first:#}). Add Debian 12's security suite to \
                         /etc/apt/sources.list (deb http://deb.debian.org/debian-security bookworm-security main) and run \
                         `apt-get update` as root"
                    )
                })?;
                eprintln!("rustc-web {PINNED} is not to be had; taking {candidate}");
                download(directory, &at_version(&candidate)).with_context(|| {
                    format!(
                        "rustc-web {candidate} has no libstd-rust-web-dev-bpf: the security suite is missing"
                    )
                })?;
                candidate
            }
        }
    };
    let library = dependency(directory, "libstd-rust-web-dev_", "libstd-rust-web-")?;
    download(directory, &[format!("{library}={version}")])?;
    let llvm = dependency(directory, &format!("{library}_"), "libllvm")?;
    download(directory, std::slice::from_ref(&llvm))?;
    unpack_all(directory)?;
    fs::create_dir_all(directory.join("llvm/lib"))?;
    let major = llvm.trim_start_matches("libllvm");
    fs::write(directory.join("llvm/version"), major)?;
    let libraries = directory.join(LIBRARY_FOLDER);
    let shared = fs::read_dir(&libraries)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libLLVM.so.")))
        .with_context(|| format!("{llvm} has no libLLVM.so"))?;
    symlink(shared, directory.join("llvm/lib/libLLVM.so"))?;
    Ok(version)
}

const LIBRARY_FOLDER: &str = "root/usr/lib/x86_64-linux-gnu";

fn download(directory: &Path, packages: &[String]) -> Result<()> {
    let output = Command::new("apt-get")
        .args(["-q", "download"])
        .args(packages)
        .current_dir(directory.join("packages"))
        .env("LC_ALL", "C")
        .output()
        .context("start apt-get")?;
    if !output.status.success() {
        bail!("apt-get download {}: {}", packages.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// The version that apt would install.
fn candidate(package: &str) -> Result<String> {
    let output = Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    match version {
        Some(version) if version != "(none)" => Ok(version.to_owned()),
        _ => bail!("no candidate"),
    }
}

/// The first dependency of a fetched package whose name begins so.
fn dependency(directory: &Path, file_prefix: &str, name_prefix: &str) -> Result<String> {
    let file = packages(directory)?
        .into_iter()
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(file_prefix)))
        .with_context(|| format!("no package {file_prefix}* was fetched"))?;
    let output = Command::new("dpkg-deb").arg("--field").arg(&file).arg("Depends").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split(',')
        .filter_map(|entry| entry.split_whitespace().next())
        .find(|name| name.starts_with(name_prefix))
        .map(str::to_owned)
        .with_context(|| format!("{} depends on no {name_prefix}*: {text}", file.display()))
}

fn packages(directory: &Path) -> Result<Vec<PathBuf>> {
    let folder = directory.join("packages");
    let entries = fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
    Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
}

/// Unpack what was fetched, and forget it.
fn unpack_all(directory: &Path) -> Result<()> {
    for package in packages(directory)? {
        let status = Command::new("dpkg").arg("-x").arg(&package).arg(directory.join("root")).status()?;
        if !status.success() {
            bail!("dpkg cannot unpack {}", package.display());
        }
        fs::remove_file(&package)?;
    }
    Ok(())
}

/// Fetch the libraries that LLVM needs and this machine does not have, until none is missing.
fn fetch_libraries(directory: &Path) -> Result<()> {
    for _ in 0..LIBRARIES.len() {
        let missing = missing_libraries(directory)?;
        if missing.is_empty() {
            return Ok(());
        }
        let mut packages = BTreeSet::new();
        for library in &missing {
            let (_, package) = LIBRARIES
                .iter()
                .find(|(name, _)| name == library)
                .with_context(|| format!("LLVM needs {library}, which this machine does not have"))?;
            packages.insert((*package).to_owned());
        }
        download(directory, &packages.into_iter().collect::<Vec<_>>())?;
        unpack_all(directory)?;
    }
    let missing = missing_libraries(directory)?;
    if !missing.is_empty() {
        bail!("LLVM needs libraries that this machine does not have: {}", missing.join(", "));
    }
    Ok(())
}

fn missing_libraries(directory: &Path) -> Result<Vec<String>> {
    let output = Command::new("ldd")
        .arg(directory.join("llvm/lib/libLLVM.so"))
        .env("LD_LIBRARY_PATH", directory.join(LIBRARY_FOLDER))
        .output()
        .context("start ldd")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text
        .lines()
        .filter(|line| line.contains("not found"))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect())
}

/// A script that starts a program with the unpacked libraries.
fn write_wrapper(directory: &Path, name: &str, program: &Path) -> Result<()> {
    let folder = directory.join("bin");
    fs::create_dir_all(&folder)?;
    let path = folder.join(name);
    let mut file = fs::File::create(&path).with_context(|| format!("write {}", path.display()))?;
    writeln!(file, "#!/bin/sh")?;
    writeln!(
        file,
        "LD_LIBRARY_PATH='{}' exec '{}' \"$@\"",
        directory.join(LIBRARY_FOLDER).display(),
        program.display()
    )?;
    file.set_permissions(fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn build_linker(directory: &Path) -> Result<()> {
    let major = fs::read_to_string(directory.join("llvm/version"))?;
    eprintln!("building bpf-linker {LINKER} for LLVM {major} (once)");
    let build = directory.join("linker-build");
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["install", "bpf-linker", "--version", LINKER, "--locked", "--no-default-features"])
        .args(["--features", &format!("llvm-{major}"), "--config", "profile.release.debug=0"])
        .arg("--root")
        .arg(directory.join("linker"))
        .arg("--target-dir")
        .arg(&build)
        .env("LLVM_PREFIX", directory.join("llvm"))
        .status()
        .context("start cargo")?;
    if !status.success() {
        bail!("bpf-linker {LINKER} does not build against LLVM {major}");
    }
    fs::remove_dir_all(&build)?;
    Ok(())
}
