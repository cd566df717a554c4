//! PostgreSQL with checksums on each page.

use std::os::unix::fs::chown;
use std::process::Command;

use anyhow::Result;
use nix::sys::signal::Signal;

use super::{At, Engine, Server};
use crate::lab::exec;
use crate::run::applications::{AMCHECK, PostgresPrograms};

pub struct PostgreSql;

impl Engine for PostgreSql {
    const NAME: &'static str = "PostgreSQL";

    fn missing() -> Option<String> {
        PostgresPrograms::find().ok().flatten().is_none().then(|| "PostgreSQL is not installed".to_owned())
    }

    fn create(at: &At) -> Result<()> {
        PostgresPrograms::installed()?.create(command("initdb", at)?, &at.data)?;
        let mut server = Server::start::<PostgreSql>(server(at)?, at)?;
        super::query::<PostgreSql>(at, "CREATE TABLE record(number INT PRIMARY KEY, words TEXT);")?;
        server.stop(Signal::SIGINT)
    }

    fn server(at: &At) -> Result<Option<Command>> {
        server(at).map(Some)
    }

    fn client(at: &At) -> Result<Command> {
        let mut client = command("psql", at)?;
        client.args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "-v", "ON_ERROR_STOP=1"]);
        client.arg("-h").arg(&at.outside).args(["-U", "postgres", "postgres"]);
        Ok(client)
    }

    fn transaction() -> String {
        "BEGIN; INSERT INTO record SELECT COALESCE(MAX(number), 0) + 1, REPEAT(MD5(RANDOM()::TEXT), 20) FROM record; \
         UPDATE record SET words = words || '+' WHERE number = 1; COMMIT; SELECT MAX(number) FROM record;\n"
            .to_owned()
    }

    /// Each page of each table and index is read, against the other.
    fn check(at: &At) -> Result<()> {
        let mut check = command("pg_amcheck", at)?;
        exec::run(check.args(AMCHECK).arg("-h").arg(&at.outside).args(["-U", "postgres"]))
    }
}

fn server(at: &At) -> Result<Command> {
    let mut server = command("postgres", at)?;
    server.arg("-D").arg(&at.data).arg("-k").arg(&at.outside);
    // In the data directory: what lies elsewhere would be left there by a server that is killed.
    server.args([
        "-c",
        "listen_addresses=",
        "-c",
        "shared_buffers=32MB",
        "-c",
        "dynamic_shared_memory_type=mmap",
    ]);
    Ok(server)
}

fn command(program: &str, at: &At) -> Result<Command> {
    let programs = PostgresPrograms::installed()?;
    // Its sockets.
    chown(&at.outside, Some(programs.user.uid.as_raw()), Some(programs.user.gid.as_raw()))?;
    let mut command = programs.command(program, &at.outside);
    at.namespace.enter(&mut command)?;
    Ok(command)
}
