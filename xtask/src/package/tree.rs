//! The tree that is packed: what lies where.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::control::{About, gzip, md5sums};
use crate::lab::exec;
use crate::product;

const PROGRAM: &str = "usr/sbin/replicator";
const DOCUMENTS: &str = "usr/share/doc/replicator";
const MODULES: &str = "usr/share/replicator/modules";
const MANUAL: &str = "usr/share/man/man8";
/// What an operator may change: kept over upgrades, and gone with a purge.
pub const SETTINGS: &[(&str, &str)] = &[
    ("packaging/debian/replicator-cluster.default", "etc/default/replicator-cluster"),
    ("packaging/debian/replicator-witness.default", "etc/default/replicator-witness"),
    ("packaging/debian/needrestart.conf", "etc/needrestart/conf.d/replicator.conf"),
];
/// The units, by their names in `packaging/systemd`.
pub const UNITS: &[&str] =
    &["replicator-cluster.service", "replicator-witness.service", "replicator@.service"];
/// Where they go.
pub const UNIT_DIRECTORY: &str = "usr/lib/systemd/system";
const COMPLETIONS: &[(&str, &str)] = &[
    ("bash", "usr/share/bash-completion/completions/replicator"),
    ("zsh", "usr/share/zsh/vendor-completions/_replicator"),
    ("fish", "usr/share/fish/vendor_completions.d/replicator.fish"),
];
const SCRIPTS: &[&str] = &["postinst", "prerm", "postrm"];

/// Make the tree.
///
/// # Errors
/// Something of it is missing, or cannot be written.
pub fn lay(root: &Path, program: &Path, about: &About) -> Result<()> {
    let repository = product::repository();
    copy(program, &root.join(PROGRAM), 0o755)?;
    said_by_the_program(root, program)?;
    for unit in UNITS {
        copy(&repository.join("packaging/systemd").join(unit), &root.join(UNIT_DIRECTORY).join(unit), 0o644)?;
    }
    for (from, to) in SETTINGS {
        copy(&repository.join(from), &root.join(to), 0o644)?;
    }
    copy_tree(&repository.join("modules"), &root.join(MODULES))?;
    documents(root, &repository, about)?;
    // Keys are below it.
    make_directory(&root.join("etc/replicator"), 0o700)?;
    own_files(root, &repository, about)
}

/// Manual pages and completions, by the program itself.
fn said_by_the_program(root: &Path, program: &Path) -> Result<()> {
    let pages = root.join("pages");
    make_directory(&pages, 0o755)?;
    exec::run(Command::new(program).args(["man", "--into"]).arg(&pages))?;
    make_directory(&root.join(MANUAL), 0o755)?;
    for page in fs::read_dir(&pages)? {
        let page = page?;
        let name = page.file_name().to_string_lossy().into_owned();
        write_gzip(&fs::read_to_string(page.path())?, &root.join(MANUAL).join(format!("{name}.gz")))?;
    }
    fs::remove_dir_all(&pages)?;
    for (shell, to) in COMPLETIONS {
        write(&root.join(to), &exec::output(Command::new(program).args(["completions", shell]))?)?;
    }
    Ok(())
}

fn documents(root: &Path, repository: &Path, about: &About) -> Result<()> {
    let place = root.join(DOCUMENTS);
    copy_tree(&repository.join("docs"), &place.join("docs"))?;
    copy_tree(&repository.join("examples"), &place.join("examples"))?;
    for name in ["README.md", "ARCHITECTURE.md"] {
        copy(&repository.join(name), &place.join(name), 0o644)?;
    }
    copy(&repository.join("packaging/debian/copyright"), &place.join("copyright"), 0o644)?;
    // The documents' links to modules lead on.
    symlink("../../replicator/modules", place.join("modules")).context("link the modules")?;
    write_gzip(&fs::read_to_string(repository.join("CHANGELOG.md"))?, &place.join("changelog.gz"))?;
    write_gzip(&about.changelog()?, &place.join("changelog.Debian.gz"))
}

/// What is the package's own: control, conffiles, md5sums, scripts.
fn own_files(root: &Path, repository: &Path, about: &About) -> Result<()> {
    let (files, bytes) = files(root)?;
    let own = root.join("DEBIAN");
    write(&own.join("control"), &about.control(bytes.div_ceil(1024)))?;
    let settings: String = SETTINGS.iter().map(|(_, to)| format!("/{to}\n")).collect();
    write(&own.join("conffiles"), &settings)?;
    let settings = |path: &PathBuf| SETTINGS.iter().any(|(_, to)| Path::new(to) == path);
    let fixed: Vec<PathBuf> = files.into_iter().filter(|path| !settings(path)).collect();
    write(&own.join("md5sums"), &md5sums(root, &fixed)?)?;
    for script in SCRIPTS {
        copy(&repository.join("packaging/debian").join(script), &own.join(script), 0o755)?;
    }
    Ok(())
}

/// All files below a directory, without links, in order, and their bytes in all.
///
/// # Errors
/// A directory cannot be read.
pub fn files(root: &Path) -> Result<(Vec<PathBuf>, u64)> {
    let (mut found, mut bytes, mut open) = (Vec::new(), 0, vec![root.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                bytes += entry.metadata()?.size();
                found.push(entry.path().strip_prefix(root)?.to_owned());
            }
        }
    }
    found.sort();
    Ok((found, bytes))
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    for path in files(from)?.0 {
        let mode = if fs::metadata(from.join(&path))?.mode() & 0o100 == 0 { 0o644 } else { 0o755 };
        copy(&from.join(&path), &to.join(&path), mode)?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    make_parent(to)?;
    fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    set_mode(to, mode)
}

fn write(to: &Path, text: &str) -> Result<()> {
    make_parent(to)?;
    fs::write(to, text).with_context(|| format!("write {}", to.display()))?;
    set_mode(to, 0o644)
}

fn write_gzip(text: &str, to: &Path) -> Result<()> {
    make_parent(to)?;
    gzip(text, to)?;
    set_mode(to, 0o644)
}

fn make_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), |parent| make_directory(parent, 0o755))
}

/// A directory and those above it, whatever the mask of this process is.
fn make_directory(path: &Path, mode: u32) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    make_parent(path)?;
    fs::create_dir(path).with_context(|| format!("create {}", path.display()))?;
    set_mode(path, mode)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of {}", path.display()))
}
