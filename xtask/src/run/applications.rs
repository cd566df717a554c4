//! Real applications at work in the mirrored directory.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::User;

use crate::lab::exec;
use crate::lab::mirror::Mirror;
use crate::product;
use crate::setup;

/// Source trees beside this repository's own are copied up to this many bytes.
const SOURCES: u64 = 48 << 20;

/// Copy real source trees into `target`: this repository, and of the packages it is built from as many as fit.
///
/// # Errors
/// cp failed.
pub fn copy_sources(target: &Path) -> Result<()> {
    let copy = |from: &Path, to: &Path| {
        exec::run(Command::new("cp").args(["-a", "--reflink=never", "--"]).arg(from).arg(to))
    };
    let own = target.join("repository");
    fs::create_dir(&own)?;
    for entry in fs::read_dir(product::repository())? {
        let entry = entry?;
        // What is built, and the history, whose files come and go while somebody works.
        if entry.file_name() != "target" && entry.file_name() != ".git" {
            copy(&entry.path(), &own)?;
        }
    }
    let packages = target.join("packages");
    fs::create_dir(&packages)?;
    let mut room = SOURCES;
    for package in packages_here() {
        let size = tree_size(&package)?;
        if size <= room {
            room -= size;
            copy(&package, &packages)?;
        }
    }
    Ok(())
}

fn packages_here() -> Vec<PathBuf> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let list = |path: &Path| -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    let Some(home) = home else { return Vec::new() };
    list(&home.join("registry/src")).iter().flat_map(|registry| list(registry)).collect()
}

fn tree_size(path: &Path) -> Result<u64> {
    let mut size = 0;
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        let meta = fs::symlink_metadata(&path)?;
        size += meta.len();
        if meta.is_dir() {
            open.extend(fs::read_dir(&path)?.flatten().map(|entry| entry.path()));
        }
    }
    Ok(size)
}

/// Transactions in an SQLite database, then the copy is looked at: it must hold them all. `received` is called in
/// between, where the mode promises less than that at once.
///
/// # Errors
/// SQLite failed, or the copy is damaged or lacks a committed transaction.
pub fn sqlite(
    mirror: &mut Mirror,
    journal: &str,
    transactions: u32,
    received: impl FnOnce(&mut Mirror) -> Result<()>,
) -> Result<String> {
    setup::require(&["sqlite3"])?;
    let name = format!("sqlite-{journal}");
    let directory = mirror.data().join(&name);
    fs::create_dir(&directory)?;
    // EXTRA: also the removal of the rollback journal, which is the commit, is synced.
    let mut script = format!(
        "PRAGMA journal_mode={journal}; PRAGMA synchronous=EXTRA; PRAGMA wal_autocheckpoint=50;\n\
         CREATE TABLE record(number INTEGER PRIMARY KEY, words TEXT);\n\
         CREATE INDEX by_words ON record(words);\n"
    );
    for number in 0..transactions {
        let words = format!("{:016x}", u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15)).repeat(8);
        script.push_str(&format!(
            "BEGIN; INSERT INTO record VALUES({number}, '{words}'); \
             UPDATE record SET words = words || '+' WHERE number = {}; COMMIT;\n",
            number / 2
        ));
    }
    query(&directory.join("db"), &script)?;
    received(mirror)?;
    // What SQLite removes when it closes is removed on the copy a moment later, and cp fails on a name that goes.
    mirror.wait_identical()?;
    // Looking at the copy in place would write into it.
    let aside = mirror.outside().join(&name);
    exec::run(Command::new("cp").args(["-a", "--"]).arg(mirror.copy().join(&name)).arg(&aside))?;
    let found = query(&aside.join("db"), "PRAGMA integrity_check; SELECT count(*) FROM record;")?;
    let found: Vec<&str> = found.split_whitespace().collect();
    ensure!(found == ["ok", &transactions.to_string()], "SQLite says of the copy: {found:?}");
    Ok(format!("{transactions} transactions, integrity ok on the copy"))
}

fn query(database: &Path, script: &str) -> Result<String> {
    let mut command = Command::new(setup::program("sqlite3"));
    command.args(["-batch", "-bail"]).arg(database);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("start sqlite3")?;
    let mut input = child.stdin.take().context("sqlite3's input")?;
    let written = input.write_all(script.as_bytes());
    drop(input);
    let output = child.wait_with_output()?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "sqlite3: {}: {}", output.status, words.trim());
    written?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Arguments of pg_amcheck with which each page of each table and index is read, against the other.
pub const AMCHECK: &[&str] = &["--install-missing", "--all", "--heapallindexed", "--parent-check"];

/// PostgreSQL's programs, and who runs them: they refuse to be root.
pub struct PostgresPrograms {
    directory: PathBuf,
    /// The user.
    pub user: User,
}

impl PostgresPrograms {
    /// Those of this machine; `None` where PostgreSQL is not installed.
    ///
    /// # Errors
    /// There is no user but root.
    pub fn find() -> Result<Option<PostgresPrograms>> {
        let Some(directory) = postgres_programs() else { return Ok(None) };
        let user = ["postgres", "nobody"].iter().find_map(|name| User::from_name(name).ok().flatten());
        let user = user.context("PostgreSQL refuses to be root, and there is no other user here")?;
        Ok(Some(PostgresPrograms { directory, user }))
    }

    /// As [`PostgresPrograms::find`], where they have to be there.
    ///
    /// # Errors
    /// They are not.
    pub fn installed() -> Result<PostgresPrograms> {
        PostgresPrograms::find()?.context("PostgreSQL is not installed")
    }

    /// Give a file or directory to who runs them.
    ///
    /// # Errors
    /// What the system returns.
    pub fn own(&self, path: &Path, mode: u32) -> Result<()> {
        chown(path, Some(self.user.uid.as_raw()), Some(self.user.gid.as_raw()))?;
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
    }

    /// Make an empty database with checksums on each page in a directory, which is given to who runs them. `initdb`: the program, as it is to be run.
    ///
    /// # Errors
    /// initdb failed.
    pub fn create(&self, mut initdb: Command, data: &Path) -> Result<()> {
        self.own(data, 0o700)?;
        initdb.args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--data-checksums", "-D"]);
        exec::run(initdb.arg(data))
    }

    /// Where they are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// One of them, working in `directory`. A namespace may still be entered: that is done as root, before the user takes over.
    #[must_use]
    pub fn command(&self, program: &str, directory: &Path) -> Command {
        let mut command = Command::new(setup::program("setpriv"));
        command.args(["--reuid", &self.user.uid.to_string(), "--regid", &self.user.gid.to_string()]);
        command.args(["--clear-groups", "--"]).arg(self.directory.join(program));
        command.current_dir(directory).env("LC_ALL", "C").env("HOME", directory);
        command
    }
}

/// A PostgreSQL server whose data is mirrored.
pub struct Postgres {
    programs: PostgresPrograms,
    data: PathBuf,
    /// Its socket and log: not mirrored.
    outside: PathBuf,
}

impl Postgres {
    /// Make a database cluster in the mirrored directory and start the server, in the primary's namespace. `None` where
    /// PostgreSQL is not installed.
    ///
    /// # Errors
    /// initdb or the start failed.
    pub fn start(mirror: &Mirror) -> Result<Option<Postgres>> {
        let Some(programs) = PostgresPrograms::find()? else { return Ok(None) };
        let outside = mirror.outside().join("postgres");
        let data = mirror.data().join("postgres");
        for path in [&outside, &data] {
            fs::create_dir(path)?;
            programs.own(path, 0o700)?;
        }
        let postgres = Postgres { programs, data, outside };
        let data = postgres.data.to_string_lossy().into_owned();
        postgres.run(mirror, "initdb", &["-A", "trust", "-U", "postgres", "-E", "UTF8", "-D", &data])?;
        let options = format!(
            "-c listen_addresses='' -c unix_socket_directories='{}' -c max_wal_size=64MB -c shared_buffers=32MB",
            postgres.outside.display()
        );
        let log = postgres.outside.join("log").to_string_lossy().into_owned();
        postgres.run(mirror, "pg_ctl", &["-D", &data, "-l", &log, "-w", "-o", &options, "start"])?;
        Ok(Some(postgres))
    }

    /// Run pgbench for some seconds; returns what it measured.
    ///
    /// # Errors
    /// It failed, or the history does not hold as many rows as transactions were committed.
    pub fn bench(&self, mirror: &Mirror, seconds: u32) -> Result<String> {
        let socket = self.outside.to_string_lossy().into_owned();
        let common = ["-h", socket.as_str(), "-U", "postgres"];
        self.run(mirror, "pgbench", &[&common[..], &["-i", "-q", "-s", "2", "postgres"]].concat())?;
        let seconds = seconds.to_string();
        let said =
            self.run(mirror, "pgbench", &[&common[..], &["-c", "4", "-T", &seconds, "postgres"]].concat())?;
        let figure = |words: &str| {
            let line = said.lines().find(|line| line.starts_with(words))?;
            line[words.len()..].split_whitespace().next().map(str::to_owned)
        };
        let done = figure("number of transactions actually processed: ").context("pgbench's count")?;
        let tps = figure("tps = ").unwrap_or_default();
        let count = "SELECT count(*) FROM pgbench_history";
        let rows = self.run(mirror, "psql", &[&common[..], &["-At", "-c", count, "postgres"]].concat())?;
        if rows.trim() != done.split('/').next().unwrap_or_default() {
            bail!("{done} transactions were committed, the history has {}", rows.trim());
        }
        Ok(format!("{done} transactions, {tps} per second"))
    }

    /// Stop the server in order.
    ///
    /// # Errors
    /// It does not stop.
    pub fn stop(self, mirror: &Mirror) -> Result<()> {
        let data = self.data.to_string_lossy().into_owned();
        self.run(mirror, "pg_ctl", &["-D", &data, "-w", "-m", "fast", "stop"]).map(drop)
    }

    fn run(&self, mirror: &Mirror, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.programs.command(program, &self.outside);
        command.args(arguments);
        mirror.net.a.enter(&mut command)?;
        // pg_ctl leaves the server behind with its own outputs, which must not be a pipe that is waited on.
        if program == "pg_ctl" {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let status = command.status().context("start pg_ctl")?;
            let log = fs::read_to_string(self.outside.join("log")).unwrap_or_default();
            ensure!(status.success(), "pg_ctl {}: {status}; its log:\n{log}", arguments.join(" "));
            return Ok(String::new());
        }
        exec::output(&mut command)
    }
}

/// Where PostgreSQL's programs are: in PATH, or where Debian puts them.
fn postgres_programs() -> Option<PathBuf> {
    let complete =
        |path: &PathBuf| ["initdb", "pg_ctl", "pgbench", "psql"].iter().all(|name| path.join(name).exists());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.flatten().map(|entry| entry.path().join("bin")).collect())
        .unwrap_or_default();
    versions.sort();
    std::env::split_paths(&path).chain(versions.into_iter().rev()).find(complete)
}
