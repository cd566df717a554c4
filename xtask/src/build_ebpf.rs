//! `cargo xtask build-ebpf`.

/// Arguments of `cargo xtask build-ebpf`.
#[derive(clap::Args)]
pub struct Args {}

/// Run the command.
pub fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
