//! SQLite with a rollback journal whose removal, which is the commit, is synced; the library has no server, so the client is killed.

use std::process::Command;

use anyhow::{Result, ensure};

use super::{At, Engine};
use crate::setup;

pub struct Sqlite;

impl Engine for Sqlite {
    const NAME: &'static str = "SQLite";

    fn missing() -> Option<String> {
        super::missing(&["sqlite3"])
    }

    fn create(at: &At) -> Result<()> {
        let words = "CREATE TABLE record(number INTEGER PRIMARY KEY, words TEXT); \
                     CREATE INDEX by_words ON record(words);";
        super::query::<Sqlite>(at, words).map(drop)
    }

    fn server(_: &At) -> Result<Option<Command>> {
        Ok(None)
    }

    fn client(at: &At) -> Result<Command> {
        let mut client = Command::new(setup::program("sqlite3"));
        client.args(["-batch", "-bail", "-cmd", "PRAGMA synchronous=EXTRA"]).arg(at.data.join("db"));
        client.current_dir(&at.outside);
        at.namespace.enter(&mut client)?;
        Ok(client)
    }

    /// The shell keeps what it prints until there is much of it, and what it gives to a program only until that ends.
    fn transaction() -> String {
        "BEGIN; INSERT INTO record SELECT COALESCE(MAX(number), 0) + 1, HEX(RANDOMBLOB(300)) FROM record; \
         UPDATE record SET words = words || '+' WHERE number = 1; COMMIT;\n\
         .once '|cat'\nSELECT MAX(number) FROM record;\n"
            .to_owned()
    }

    fn check(at: &At) -> Result<()> {
        let found = super::query::<Sqlite>(at, "PRAGMA integrity_check;")?;
        ensure!(found.trim() == "ok", "SQLite says of the copy: {found}");
        Ok(())
    }
}
