//! The cluster's daemon, and what the mirror is to it: a process of this same program for each module.

mod process;
mod ready;
mod settings;

use std::path::Path;

use replicator_cluster::daemon::service::{self, Options, Places};

use process::MirrorProcess;
pub use process::told;

/// Run the cluster's daemon in the foreground until it is told to stop. `program`: this one, for the mirrors.
///
/// # Errors
/// What keeps it from starting or going on.
pub fn run(places: Places, options: Options, program: &Path) -> anyhow::Result<()> {
    // One thread: a mirror's process lives as long as the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let program = program.to_owned();
    runtime.block_on(service::run(places, options, move |description, place| {
        MirrorProcess::new(&program, description, place)
    }))?;
    Ok(())
}
