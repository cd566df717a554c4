//! MariaDB with InnoDB, each commit flushed.

use std::process::Command;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::{At, Engine, Server};
use crate::lab::exec;
use crate::setup;

const DATABASE: &str = "mirrored";

pub struct MariaDb;

impl Engine for MariaDb {
    const NAME: &'static str = "MariaDB";
    const FOUND: &'static str =
        "SELECT COUNT(*) FROM mirrored.record; SELECT MAX(number) FROM mirrored.record;";

    fn missing() -> Option<String> {
        super::missing(&["innochecksum", "mariadb", "mariadb-check", "mariadb-install-db", "mariadbd"])
    }

    fn create(at: &At) -> Result<()> {
        let mut install = program("mariadb-install-db", at)?;
        install.args(["--user=root", "--auth-root-authentication-method=normal", "--skip-test-db"]);
        exec::run(install.arg(data(at)))?;
        let mut server = Server::start::<MariaDb>(server(at)?, at)?;
        let words = format!(
            "CREATE DATABASE {DATABASE}; \
             CREATE TABLE {DATABASE}.record(number INT PRIMARY KEY, words TEXT) ENGINE=InnoDB;"
        );
        exec::run(plain_client(at)?.args(["--execute", &words]))?;
        server.stop(Signal::SIGTERM)
    }

    fn server(at: &At) -> Result<Option<Command>> {
        server(at).map(Some)
    }

    fn client(at: &At) -> Result<Command> {
        // No database is named: the first question is whether the server answers, and there is none yet.
        let mut client = plain_client(at)?;
        client.args(["--batch", "--skip-column-names", "--unbuffered"]);
        Ok(client)
    }

    fn transaction() -> String {
        "BEGIN; INSERT INTO mirrored.record SELECT COALESCE(MAX(number), 0) + 1, REPEAT(MD5(RAND()), 20) FROM mirrored.record; \
         UPDATE mirrored.record SET words = CONCAT(words, '+') WHERE number = 1; COMMIT; SELECT MAX(number) FROM mirrored.record;\n"
            .to_owned()
    }

    fn check(at: &At) -> Result<()> {
        let mut check = program("mariadb-check", at)?;
        check.args([&socket(at), "--user=root", "--all-databases", "--check", "--extended"]);
        let found = exec::output(&mut check)?;
        let bad: Vec<&str> = found.lines().filter(|line| !line.ends_with(" OK")).collect();
        ensure!(bad.is_empty() && !found.is_empty(), "mariadb-check: {}", bad.join("\n"));
        // Each page has a checksum of its own; those of a file that is in use may be half written.
        exec::run(plain_client(at)?.args(["--execute", "FLUSH TABLES mirrored.record FOR EXPORT"]))?;
        exec::run(program("innochecksum", at)?.arg(at.data.join(DATABASE).join("record.ibd")))
    }
}

fn server(at: &At) -> Result<Command> {
    let mut server = program("mariadbd", at)?;
    server.args([&data(at), &socket(at), &format!("--pid-file={}", at.outside.join("pid").display())]);
    server.args(["--user=root", "--skip-networking", "--innodb-flush-log-at-trx-commit=1"]);
    server.args(["--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M"]);
    Ok(server)
}

fn plain_client(at: &At) -> Result<Command> {
    let mut client = program("mariadb", at)?;
    client.args([&socket(at), "--user=root"]);
    Ok(client)
}

/// One of MariaDB's programs, without this machine's settings of it.
fn program(name: &str, at: &At) -> Result<Command> {
    let mut command = Command::new(setup::program(name));
    if name != "innochecksum" {
        command.arg("--no-defaults");
    }
    command.current_dir(&at.outside);
    at.namespace.enter(&mut command)?;
    Ok(command)
}

fn data(at: &At) -> String {
    format!("--datadir={}", at.data.display())
}

fn socket(at: &At) -> String {
    format!("--socket={}", at.outside.join("socket").display())
}
