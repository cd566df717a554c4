//! A database at work on the gate is killed -9 in the middle of its commits: first alone, then with the daemon and all of the primary's
//! side. The replica's copy, opened as a data directory of its own, recovers, is found consistent by the database's own checks, and holds
//! every transaction whose commit was acknowledged.

mod mariadb;
mod postgresql;
mod sqlite;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::files::{CRASHED, PEER_LOST};
use super::{Context, Outcome, passed};
use crate::lab::image::MIB;
use crate::lab::mirror::Mirror;
use crate::lab::net::Namespace;
use crate::lab::{exec, wait};
use crate::setup;

/// Sparse, and a database server's first files are large.
const IMAGE: u64 = 1536 * MIB;
/// Acknowledged transactions before each kill.
const TRANSACTIONS: u64 = 60;
/// Longest time until a server answers, or so many transactions are acknowledged.
const BOUND: Duration = Duration::from_secs(120);
/// The transactions of a client that nobody kills.
const MOST: usize = 100_000;

/// A kind of database.
trait Engine {
    /// What it is called.
    const NAME: &'static str;

    /// How many records there are, and the highest number, on a line each.
    const FOUND: &'static str = "SELECT COUNT(*) FROM record; SELECT MAX(number) FROM record;";

    /// Why it cannot be had here, if it cannot.
    fn missing() -> Option<String>;

    /// Make an empty database with the table `record (number, words)`.
    fn create(at: &At) -> Result<()>;

    /// The server's command line, which stays in the foreground; none for a library.
    fn server(at: &At) -> Result<Option<Command>>;

    /// A client that does the statements it reads and says at once what they give.
    fn client(at: &At) -> Result<Command>;

    /// One transaction for the client: a record with the next number, then, once it is committed, that number on a line.
    fn transaction() -> String;

    /// Find the database consistent, by its own means.
    fn check(at: &At) -> Result<()>;
}

/// Where a database is.
#[derive(Clone, Debug)]
struct At<'a> {
    /// Its data directory.
    data: PathBuf,
    /// Sockets, logs and the like.
    outside: PathBuf,
    /// In which its processes run.
    namespace: &'a Namespace,
}

/// MariaDB.
pub fn run_mariadb(context: &Context) -> Result<Outcome> {
    run::<mariadb::MariaDb>(context)
}

/// PostgreSQL.
pub fn run_postgresql(context: &Context) -> Result<Outcome> {
    run::<postgresql::PostgreSql>(context)
}

/// SQLite.
pub fn run_sqlite(context: &Context) -> Result<Outcome> {
    run::<sqlite::Sqlite>(context)
}

fn run<E: Engine>(context: &Context) -> Result<Outcome> {
    if let Some(why) = E::missing() {
        return Ok(Outcome::NotRun(why));
    }
    let mut mirror = Mirror::start(&context.options().sized(IMAGE))?;
    create::<E>(&mirror)?;
    let mut acknowledged = alone::<E>(&mut mirror)?;
    acknowledged += with_all::<E>(&mut mirror)?;
    mirror.start_nodes()?;
    mirror.wait_identical()?;
    mirror.finish(&[PEER_LOST, CRASHED, &["nguarded"]].concat())?;
    passed(format!("{acknowledged} acknowledged transactions around 2 kills, all in a consistent copy"))
}

fn create<E: Engine>(mirror: &Mirror) -> Result<()> {
    let at = on_gate(mirror, "create")?;
    fs::create_dir(&at.data)?;
    E::create(&at).with_context(|| format!("create a database of {}", E::NAME))
}

/// The server and its clients are killed, the mirror goes on.
fn alone<E: Engine>(mirror: &mut Mirror) -> Result<u64> {
    let at = on_gate(mirror, "alone")?;
    let mut work = Work::start::<E>(&at)?;
    work.wait_for(TRANSACTIONS)?;
    work.kill()?;
    let acknowledged = work.acknowledged()?;
    mirror.wait_identical()?;
    holds::<E>(mirror, "alone.copy", acknowledged)?;
    Ok(acknowledged)
}

/// Everything in the primary's namespace is killed, its daemon first.
fn with_all<E: Engine>(mirror: &mut Mirror) -> Result<u64> {
    let at = on_gate(mirror, "all")?;
    let mut work = Work::start::<E>(&at)?;
    let before = work.acknowledged()?;
    work.wait_for(TRANSACTIONS)?;
    mirror.kill_primary_side()?;
    let acknowledged = work.acknowledged()?;
    drop(work);
    mirror.secondary.wait_for("all that was received is applied", wait::SHORT, |status| {
        status.phase == "Waiting" && status.positions.applied >= status.positions.received
    })?;
    holds::<E>(mirror, "all.copy", acknowledged)?;
    Ok(acknowledged - before)
}

fn on_gate<'a>(mirror: &'a Mirror, name: &str) -> Result<At<'a>> {
    let outside = mirror.outside().join(name);
    fs::create_dir(&outside)?;
    Ok(At { data: mirror.data().join("database"), outside, namespace: &mirror.net.a })
}

/// Open the copy elsewhere (recovery writes into it), check it, and require that it holds numbers without a gap up to one that is not
/// below `acknowledged`.
fn holds<E: Engine>(mirror: &Mirror, name: &str, acknowledged: u64) -> Result<()> {
    let outside = mirror.outside().join(name);
    fs::create_dir(&outside)?;
    let data = outside.join("database");
    exec::run(Command::new("cp").args(["-a", "--"]).arg(mirror.copy().join("database")).arg(&data))?;
    let at = At { data, outside, namespace: &mirror.net.b };
    let server = E::server(&at)?.map(|command| Server::start::<E>(command, &at)).transpose()?;
    let found = query::<E>(&at, E::FOUND)?;
    let numbers: Vec<u64> = found.lines().filter_map(|line| line.trim().parse().ok()).collect();
    ensure!(
        matches!(numbers[..], [count, most] if count == most && most >= acknowledged),
        "{acknowledged} transactions were acknowledged; the copy has {numbers:?} (records, highest number)"
    );
    E::check(&at).with_context(|| format!("{} finds its copy inconsistent", E::NAME))?;
    drop(server);
    Ok(())
}

/// Give statements to a client, and return what it says.
fn query<E: Engine>(at: &At, words: &str) -> Result<String> {
    let script = at.outside.join("query");
    fs::write(&script, words)?;
    let mut command = E::client(at)?;
    let output = command.stdin(File::open(&script)?).output()?;
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{words}: {}: {}", output.status, complaint.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A server that answers; killed when dropped, with its children.
struct Server(Child);

impl Server {
    fn start<E: Engine>(mut command: Command, at: &At) -> Result<Server> {
        let log = at.outside.join("log");
        let output = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut server = Server(command.spawn().with_context(|| format!("start {}", E::NAME))?);
        let mut last = String::new();
        let answers = wait::until("a database server to answer", BOUND, || {
            if let Some(status) = server.0.try_wait()? {
                bail!("it ended: {status}");
            }
            match query::<E>(at, "SELECT 1;") {
                Ok(_) => Ok(Some(())),
                Err(error) => {
                    last = format!("{error:#}");
                    Ok(None)
                }
            }
        });
        let words = || format!("{last}; its log:\n{}", fs::read_to_string(&log).unwrap_or_default());
        answers.with_context(words)?;
        Ok(server)
    }

    /// Ask it to end in order.
    fn stop(&mut self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.0.id() as i32), signal)?;
        wait::until("a database server to end", BOUND, || Ok(self.0.try_wait()?)).map(drop)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        kill_family(self.0.id());
        let _ = self.0.wait();
    }
}

/// Kill -9 a process, then its children, which could otherwise go on for a moment without it.
fn kill_family(id: u32) {
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    let all = std::iter::once(id as i32).chain(children.split_whitespace().filter_map(|id| id.parse().ok()));
    for id in all {
        let _ = kill(Pid::from_raw(id), Signal::SIGKILL);
    }
}

/// A server and a client that commits one transaction after the other.
struct Work {
    server: Option<Server>,
    client: Child,
    said: PathBuf,
}

impl Work {
    fn start<E: Engine>(at: &At) -> Result<Work> {
        let server = E::server(at)?.map(|command| Server::start::<E>(command, at)).transpose()?;
        let (script, said) = (at.outside.join("script"), at.outside.join("said"));
        fs::write(&script, E::transaction().repeat(MOST))?;
        let complaints = File::create(at.outside.join("complaints"))?;
        let mut command = E::client(at)?;
        command.stdin(File::open(&script)?).stdout(File::create(&said)?).stderr(complaints);
        let client = command.spawn().with_context(|| format!("start a client of {}", E::NAME))?;
        Ok(Work { server, client, said })
    }

    /// The highest number that a commit was acknowledged for: of the last whole line.
    fn acknowledged(&self) -> Result<u64> {
        let said = fs::read_to_string(&self.said)?;
        let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
        Ok(whole.lines().rev().find_map(|line| line.trim().parse().ok()).unwrap_or(0))
    }

    fn wait_for(&mut self, more: u64) -> Result<()> {
        let goal = self.acknowledged()? + more;
        wait::until("transactions to be acknowledged", BOUND, || {
            if let Some(status) = self.client.try_wait()? {
                bail!("the client ended: {status}");
            }
            Ok((self.acknowledged()? >= goal).then_some(()))
        })
        .with_context(|| self.complaints())
    }

    fn complaints(&self) -> String {
        let path = self.said.parent().unwrap_or(Path::new("")).join("complaints");
        format!("the client said: {}", fs::read_to_string(path).unwrap_or_default())
    }

    /// Kill -9 the server, or the client where that is the database.
    fn kill(&mut self) -> Result<()> {
        if self.server.take().is_none() {
            kill_family(self.client.id());
        }
        // A client whose server is gone ends by itself.
        wait::until("the client to end", BOUND, || Ok(self.client.try_wait()?)).map(drop)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

/// Why programs cannot be had, if they cannot be installed either.
fn missing(programs: &[&str]) -> Option<String> {
    setup::require(programs).err().map(|error| format!("{error:#}"))
}
