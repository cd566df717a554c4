//! PostgreSQL as the application of the cluster, kept by `modules/postgresql` as it is shipped: its description with this laboratory's paths, its scripts as
//! they are.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use toml::{Table, Value};

use super::{Host, MODULE, Options, SERVICE};
use crate::lab::exec;
use crate::product;
use crate::run::applications::PostgresPrograms;

/// What each node has for itself in the root of the data: the first names that the module's description leaves out.
pub const OWN: &[&str] = &["postmaster.pid", "postmaster.opts", "pg_stat_tmp"];

/// A file in the data that a node looks for at its start, by the module's description.
const GUARD: &str = "PG_VERSION";

/// Install the module on a node.
pub fn install(host: &Host, options: &Options, directory: &Path) -> Result<()> {
    let shipped = product::repository().join("modules/postgresql");
    exec::run(Command::new("cp").arg("-a").arg(shipped.join("scripts")).arg(directory))?;
    let text = fs::read_to_string(shipped.join("module.toml"))?;
    let mut module: Table = text.parse().context("the module's description")?;
    adapt(&mut module, host, options)?;
    fs::write(directory.join("module.toml"), toml::to_string(&module)?)?;
    prepare(host)
}

/// The laboratory's paths instead of Debian's.
fn adapt(module: &mut Table, host: &Host, options: &Options) -> Result<()> {
    let data = host.data(0).to_string_lossy().into_owned();
    let shipped = module["environment"]["PGDATA"].as_str().context("PGDATA")?.to_owned();
    replace(module, &shipped, &data);
    let more: Table = options.module.parse().context("more lines of the module")?;
    let head = module["module"].as_table_mut().context("[module]")?;
    head.insert("name".to_owned(), MODULE.into());
    head.extend(more);
    let programs = PostgresPrograms::installed()?;
    let environment = module["environment"].as_table_mut().context("[environment]")?;
    let known = [
        ("PG_CONFIG", text(&host.file("postgresql.conf"))),
        ("PG_BIN", text(programs.directory())),
        ("PG_USER", programs.user.name),
        ("PG_LOG", text(&host.file("postgresql.log"))),
        ("PG_SOCKET", text(&host.file("sockets"))),
        ("PGPORT", SERVICE.port().to_string()),
    ];
    for (key, value) in known {
        ensure!(environment.insert(key.to_owned(), value.into()).is_some(), "the module has no {key}");
    }
    let address = [("address", format!("{}/24", SERVICE.ip())), ("interface", "link0".to_owned())];
    let address = Table::from_iter(address.map(|(key, value)| (key.to_owned(), Value::from(value))));
    module.insert("address".to_owned(), Value::Array(vec![address.into()]));
    Ok(())
}

/// A path wherever it, or one below it, is named.
fn replace(table: &mut Table, from: &str, to: &str) {
    for (_, value) in table {
        replace_in(value, from, to);
    }
}

fn replace_in(value: &mut Value, from: &str, to: &str) {
    match value {
        Value::String(text) if text.starts_with(from) => *text = text.replacen(from, to, 1),
        Value::Array(values) => values.iter_mut().for_each(|value| replace_in(value, from, to)),
        Value::Table(table) => replace(table, from, to),
        _ => {}
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// What an operator has to do on each node, as the module's README says.
fn prepare(host: &Host) -> Result<()> {
    let programs = PostgresPrograms::installed()?;
    let (log, sockets, config) =
        (host.file("postgresql.log"), host.file("sockets"), host.file("postgresql.conf"));
    fs::write(&log, "")?;
    programs.own(&log, 0o600)?;
    fs::create_dir(&sockets)?;
    programs.own(&sockets, 0o755)?;
    // Segments in the data directory: what lies elsewhere would be left there by a server that is killed.
    let settings = format!(
        "listen_addresses = '*'\nunix_socket_directories = '{}'\nshared_buffers = 32MB\nmax_wal_size = 96MB\nmin_wal_size = 32MB\n\
         dynamic_shared_memory_type = mmap\nautovacuum_naptime = 10s\n",
        sockets.display()
    );
    fs::write(&config, settings)?;
    programs.own(&host.data(0), 0o700)
}

/// A new database in the data of the first node, and on the other what its mirror looks for.
pub fn create(hosts: &[Host; 2]) -> Result<()> {
    let (programs, data) = (PostgresPrograms::installed()?, hosts[0].data(0));
    programs.create(programs.command("initdb", &data), &data)?;
    let access = data.join("pg_hba.conf");
    let known = fs::read_to_string(&access)?;
    fs::write(&access, known + "host all all 10.77.0.0/24 trust\n")?;
    Ok(fs::write(hosts[1].data(0).join(GUARD), "")?)
}
