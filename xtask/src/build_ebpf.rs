//! `cargo xtask build-ebpf`: the kernel programs from source.
//!
//! Nobody needs this to build the product, which embeds the committed object. It proves where those bytes come from: with the
//! same compiler the result is the same to the byte, in any folder, with any number of jobs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

mod object;
mod toolchain;

use toolchain::Toolchain;

/// The committed object, from the repository's root.
const OBJECT: &str = "replicator/src/tracer/replicator.bpf.o";
const TARGET: &str = "bpfel-unknown-none";

/// Arguments of `cargo xtask build-ebpf`.
#[derive(clap::Args)]
pub struct Args {
    /// Write nothing; compare with the committed object and fail if a byte differs.
    #[arg(long)]
    check: bool,
}

/// Run the command.
pub fn run(args: Args) -> Result<()> {
    let started = Instant::now();
    let root = root()?;
    let toolchain = Toolchain::prepare(&root.join("target/ebpf-toolchain"))?;
    let built = compile(&root, &toolchain)?;
    let built = fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    let built = object::strip(&built).context("strip the object")?;
    let committed = root.join(OBJECT);
    let seconds = started.elapsed().as_secs();
    if args.check {
        let present = fs::read(&committed).with_context(|| format!("read {OBJECT}"))?;
        if present != built {
            bail!(
                "{OBJECT} is not what {} makes of the sources ({}).\n\
                 If the sources changed, run `cargo xtask build-ebpf` and commit the result.{}",
                toolchain.version,
                difference(&present, &built),
                toolchain.hint(),
            );
        }
        println!(
            "{OBJECT}: {} bytes, the same as built from source by {} ({seconds} s)",
            built.len(),
            toolchain.version
        );
        return Ok(());
    }
    if fs::read(&committed).is_ok_and(|present| present == built) {
        println!("{OBJECT}: {} bytes, unchanged ({seconds} s)", built.len());
        return Ok(());
    }
    // Aside and renamed: a broken object would break every build of the product.
    let aside = committed.with_extension("o.new");
    fs::write(&aside, &built).with_context(|| format!("write {}", aside.display()))?;
    fs::rename(&aside, &committed).with_context(|| format!("write {OBJECT}"))?;
    println!("{OBJECT}: {} bytes, written ({seconds} s)", built.len());
    Ok(())
}

fn root() -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(manifest.parent().context("xtask lies in the repository's root")?.to_owned())
}

/// Compile, and return where the unstripped object is.
fn compile(root: &Path, toolchain: &Toolchain) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = root.join("replicator-ebpf/Cargo.toml");
    let target_directory = root.join("target/ebpf");
    // First, because the flags name the folders that it makes.
    let fetched = Command::new(&cargo)
        .args(["fetch", "--quiet", "--locked", "--manifest-path"])
        .arg(&manifest)
        .status();
    if !fetched.context("start cargo")?.success() {
        bail!("the crates of the kernel programs cannot be fetched");
    }
    let status = Command::new(&cargo)
        .args(["build", "--release", "--locked", "--target", TARGET])
        .arg("--manifest-path")
        .arg(&manifest)
        .arg("--target-dir")
        .arg(&target_directory)
        .env("PATH", toolchain.path()?)
        .env("RUSTC", toolchain.rustc())
        // The programs need assembly for a machine that the stable compiler only offers to itself.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(root, toolchain)?)
        // What the user configured for ordinary builds must not change the bytes.
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_BUILD_TARGET")
        .env_remove("CARGO_INCREMENTAL")
        .status()
        .context("start cargo")?;
    if !status.success() {
        bail!("the kernel programs do not compile");
    }
    Ok(target_directory.join(TARGET).join("release/replicator-ebpf"))
}

/// The compiler's flags, in cargo's encoding. Every folder of this machine that could get into the object is given a fixed name.
fn flags(root: &Path, toolchain: &Toolchain) -> Result<String> {
    let cargo_home = match std::env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => {
            Path::new(&std::env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?).join(".cargo")
        }
    };
    let mut flags = vec![
        "-Ctarget-cpu=v3".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        "--cfg=bpf_target_arch=\"x86_64\"".to_owned(),
        format!("--remap-path-prefix={}=/replicator", root.display()),
        format!("--remap-path-prefix={}=/rustc", toolchain.sysroot().display()),
    ];
    for registry in folders(&cargo_home.join("registry/src")) {
        flags.push(format!("--remap-path-prefix={}=/registry", registry.display()));
    }
    Ok(flags.join("\u{1f}"))
}

/// The folders in a folder, none if there is no such folder.
fn folders(parent: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    folders
}

fn difference(committed: &[u8], built: &[u8]) -> String {
    let first =
        committed.iter().zip(built).position(|(a, b)| a != b).unwrap_or(committed.len().min(built.len()));
    format!("{} bytes committed, {} built, first difference at byte {first}", committed.len(), built.len())
}
