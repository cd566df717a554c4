//! The modules of the laboratory: the ledger (or a database), and as many others as are wanted, which only mirror.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Result;

use super::{Application, Host, MODULE, Options, SERVICE, database};
use crate::worker;

/// First port of the mirrors.
const PORT: usize = 7420;

/// The name of the module with that number.
pub fn name(number: usize) -> String {
    if number == 0 { MODULE.to_owned() } else { format!("{MODULE}-{number}") }
}

/// Install all modules on a node.
pub fn install(host: &Host, options: &Options) -> Result<()> {
    for number in 0..options.modules {
        let directory = host.modules().join(name(number));
        fs::create_dir_all(&directory)?;
        if number == 0 && options.application == Application::PostgreSql {
            database::install(host, options, &directory)?;
            continue;
        }
        let text = if number == 0 { ledger(host, options)? } else { plain(host, number) };
        fs::write(directory.join("module.toml"), text)?;
        if number == 0 {
            script(&directory.join("start"), &start(host)?)?;
            script(&directory.join("stop"), &stop(host))?;
        }
    }
    Ok(())
}

/// Make a module that only mirrors in a directory that is not a node's shelf, and what it mirrors: for the product to install it. `more`: lines for its
/// table `[module]`.
pub fn prepare(host: &Host, number: usize, directory: &Path, more: &str) -> Result<()> {
    fs::create_dir_all(host.data(number))?;
    fs::create_dir_all(directory)?;
    let text = plain(host, number).replacen("[mirror]", &format!("{more}\n[mirror]"), 1);
    Ok(fs::write(directory.join("module.toml"), text)?)
}

fn plain(host: &Host, number: usize) -> String {
    format!(
        "[module]\nname = \"{}\"\ndescription = \"only mirrored\"\n[mirror]\nport = {}\n[[directory]]\npath = \"{}\"\n",
        name(number),
        PORT + number,
        host.data(number).display()
    )
}

fn ledger(host: &Host, options: &Options) -> Result<String> {
    Ok(format!(
        "{}\
         [[address]]\naddress = \"{}/24\"\ninterface = \"link0\"\n\
         [scripts]\n\
         start-primary = {{ run = \"./start\", timeout = \"10s\" }}\n\
         stop-primary = {{ run = \"./stop\", timeout = \"10s\" }}\n\
         [[checker]]\nname = \"answers\"\ntype = \"tcp\"\naddress = \"{SERVICE}\"\ninterval = \"1s\"\ntimeout = \"1s\"\n\
         failures = 5\ninitial-delay = \"5s\"\naction = \"restart\"\n",
        plain(host, 0).replacen("[mirror]", &format!("{}\n[mirror]", options.module), 1),
        SERVICE.ip(),
    ))
}

/// What is started says when, so that a scenario can tell how long it took.
fn start(host: &Host) -> Result<String> {
    Ok(format!(
        "#!/bin/sh\nset -eu\ncat /proc/uptime >> {times}\necho the ledger is started\n\
         setsid {program} worker ledger --file {file} --listen {SERVICE} </dev/null >>{log} 2>&1 &\necho $! > {pid}\n",
        times = host.file("started").display(),
        program = worker::program()?.display(),
        file = host.data(0).join("ledger").display(),
        log = host.file("ledger.log").display(),
        pid = host.file("run/ledger.pid").display(),
    ))
}

fn stop(host: &Host) -> String {
    format!(
        "#!/bin/sh\nset -eu\n[ -e {pid} ] || exit 0\npid=$(cat {pid})\nkill -9 \"$pid\" 2>/dev/null || true\n\
         runs() {{ case $(cut -d' ' -f3 \"/proc/$pid/stat\" 2>/dev/null) in '' | Z) return 1 ;; esac; }}\n\
         while runs; do sleep 0.02; done\nrm -f {pid}\n",
        pid = host.file("run/ledger.pid").display(),
    )
}

fn script(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}
