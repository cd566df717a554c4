//! Kernels and tools from Debian packages, unpacked into a folder: nothing is installed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// An unpacked kernel.
pub struct Kernel {
    /// "6.12.117+deb12-cloud-amd64"
    pub release: String,
    /// The image to boot.
    pub image: PathBuf,
    modules: PathBuf,
}

impl Kernel {
    /// Fetch the newest cloud kernel of a series, unless it is there already.
    pub fn fetch(cache: &Path, series: &str) -> Result<Kernel> {
        let package = newest(series)?;
        let folder = cache.join(&package);
        unpack(&folder, &package)?;
        let release = package.trim_start_matches("linux-image-").trim_end_matches("-unsigned").to_owned();
        let image = folder.join("boot").join(format!("vmlinuz-{release}"));
        let modules = ["lib/modules", "usr/lib/modules"]
            .iter()
            .map(|path| folder.join(path).join(&release))
            .find(|path| path.is_dir())
            .with_context(|| format!("{package} has no modules"))?;
        if !image.is_file() {
            bail!("{package} has no {}", image.display());
        }
        Ok(Kernel { release, image, modules })
    }

    /// The modules of these names and what they depend on, in the order to load them. Names that are built into the
    /// kernel, or that it does not have, are left out.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut files = BTreeMap::new();
        find_modules(&self.modules, &mut files)?;
        let mut loaded = Vec::new();
        for name in names {
            collect(name, &files, &mut loaded)?;
        }
        Ok(loaded)
    }
}

fn collect(name: &str, files: &BTreeMap<String, PathBuf>, loaded: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let Some(path) = files.get(name) else { return Ok(()) };
    if loaded.iter().any(|(present, _)| present == name) {
        return Ok(());
    }
    let bytes = decompressed(path)?;
    for dependency in dependencies(&bytes) {
        collect(&dependency, files, loaded)?;
    }
    loaded.push((name.to_owned(), bytes));
    Ok(())
}

/// Every module file below a folder, by the module's name.
fn find_modules(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            find_modules(&path, files)?;
        } else if let Some(name) = path.file_name().and_then(|name| name.to_str())
            && let Some((module, _)) = name.split_once(".ko")
        {
            files.insert(module.replace('-', "_"), path);
        }
    }
    Ok(())
}

fn decompressed(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_some_and(|extension| extension == "xz") {
        let output =
            Command::new("xz").args(["--decompress", "--stdout"]).arg(path).output().context("start xz")?;
        if !output.status.success() {
            bail!("xz cannot unpack {}", path.display());
        }
        return Ok(output.stdout);
    }
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// What a module says it depends on (`depends=` in its `.modinfo`).
fn dependencies(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(at) = module.windows(key.len()).position(|window| window == key) else { return Vec::new() };
    let rest = &module[at + key.len()..];
    let end = rest.iter().position(|byte| *byte == 0).unwrap_or(0);
    String::from_utf8_lossy(&rest[..end])
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

/// The newest package of a series that apt knows.
fn newest(series: &str) -> Result<String> {
    let prefix = format!("linux-image-{series}.");
    let output = Command::new("apt-cache").args(["pkgnames", &prefix]).output().context("start apt-cache")?;
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    names
        .lines()
        .filter(|name| name.ends_with("-cloud-amd64-unsigned"))
        .max_by_key(|name| {
            name.split(|character: char| !character.is_ascii_digit())
                .filter_map(|number| number.parse().ok())
                .collect::<Vec<u32>>()
        })
        .map(str::to_owned)
        .with_context(|| {
            format!("apt knows no package {prefix}*-cloud-amd64-unsigned (Debian 12 with its security suite has them)")
        })
}

/// A shell and small tools that need no libraries.
pub fn busybox(cache: &Path) -> Result<PathBuf> {
    let folder = cache.join("busybox-static");
    unpack(&folder, "busybox-static")?;
    ["bin/busybox", "usr/bin/busybox"]
        .iter()
        .map(|path| folder.join(path))
        .find(|path| path.is_file())
        .context("busybox-static has no busybox")
}

/// Fetch a package and unpack it into a folder, which appears only when it is complete.
fn unpack(folder: &Path, package: &str) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let aside = folder.with_extension("new");
    let _ = fs::remove_dir_all(&aside);
    fs::create_dir_all(&aside)?;
    let output = Command::new("apt-get")
        .args(["-q", "download", package])
        .current_dir(&aside)
        .env("LC_ALL", "C")
        .output()
        .context("start apt-get")?;
    if !output.status.success() {
        bail!("apt-get download {package}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let file = fs::read_dir(&aside)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get fetched no file")?;
    let status = Command::new("dpkg").arg("-x").arg(&file).arg(&aside).status().context("start dpkg")?;
    if !status.success() {
        bail!("dpkg cannot unpack {package}");
    }
    fs::remove_file(&file)?;
    fs::rename(&aside, folder).with_context(|| format!("make {}", folder.display()))
}
