//! PostgreSQL, kept by the module for it, under the load of clients that hold it to its word and of pgbench, loses its node again and again. The other node takes
//! over with a consistent database that has every row whose commit was answered; the dead one comes back and holds the same; nobody does anything.

mod load;

use std::fmt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use self::load::Load;
use super::{LOST, wait_alone};
use crate::lab::cluster::{Application, Cluster, MODULE, Options, SERVICE};
use crate::lab::image::MIB;
use crate::lab::{exec, interrupt, log, postgresql};
use crate::run::applications::{AMCHECK, PostgresPrograms};
use crate::scenarios::{Context, Outcome, passed};

/// Commits of each client before and after each change.
const COMMITS: u64 = 50;
/// Clients in the scenario.
const CLIENTS: u32 = 2;
/// Room for the database, its log and what a resync keeps aside.
const ROOM: u64 = 1024 * MIB;
/// Rows of so many cycles are kept.
const CYCLES_KEPT: u32 = 3;
/// What of the database's life on a node that dies is told.
const LOST_WITH_A_DATABASE: &[&str] = &["checker"];

/// One fail-over, and one after a swap.
pub fn run(context: &Context) -> Result<Outcome> {
    if PostgresPrograms::find()?.is_none() {
        return Ok(Outcome::NotRun("PostgreSQL is not installed".to_owned()));
    }
    let mut service = Service::begin(&Options { filesystem: context.fs, ..Options::default() }, CLIENTS)?;
    let done = [service.cycle(false)?, service.cycle(true)?];
    let answered = service.end()?;
    passed(format!("{answered} commits answered, 0 lost; {}; {}", done[0], done[1]))
}

/// A cluster with a database.
pub struct Service {
    cluster: Cluster,
    clients: u32,
    /// Number of the next cycle.
    next: u32,
    /// The node that serves.
    active: usize,
    answered: u64,
    transactions: u64,
}

/// What a cycle found.
#[derive(Debug)]
pub struct Done {
    killed: usize,
    /// Commits that clients were answered.
    answered: u64,
    /// Transactions of pgbench that the database has.
    transactions: u64,
    swap: Option<Duration>,
    /// Longest time that a client was without answers.
    pub failover: Duration,
    /// From the start of the node's daemon until both held the same.
    pub back: Duration,
}

impl Service {
    /// Node a serves an empty table and pgbench's, and node b holds the same.
    ///
    /// # Errors
    /// It does not come up.
    pub fn begin(options: &Options, clients: u32) -> Result<Service> {
        let options = Options { application: Application::PostgreSql, room: ROOM, ..options.clone() };
        let cluster = Cluster::start(&options)?;
        let service = Service { cluster, clients, next: 0, active: 0, answered: 0, transactions: 0 };
        service.ask(postgresql::TABLE)?;
        ensure!(service.ask("SHOW data_checksums")? == ["on"], "pages have no checksums");
        service.program("pgbench", &["-i", "-q", "-s", "2", postgresql::USER])?;
        Ok(service)
    }

    fn ask(&self, words: &str) -> Result<Vec<String>> {
        postgresql::ask(self.cluster.client_namespace(), SERVICE, words).with_context(|| words.to_owned())
    }

    fn program(&self, name: &str, arguments: &[&str]) -> Result<()> {
        let programs = PostgresPrograms::installed()?;
        let mut command = Command::new(programs.directory().join(name));
        command.args(["-h", &SERVICE.ip().to_string(), "-p", &SERVICE.port().to_string()]);
        command.args(["-U", postgresql::USER]).args(arguments);
        self.cluster.client_namespace().enter(&mut command)?;
        exec::run(&mut command)
    }

    /// The node that serves dies with its machine under load and comes back. `swaps`: before that the service moves by order.
    ///
    /// # Errors
    /// A promise does not hold; with what both nodes tell.
    pub fn cycle(&mut self, swaps: bool) -> Result<Done> {
        let number = self.next;
        self.next += 1;
        self.turn(number, swaps).map_err(|error| {
            let told = if interrupt::requested() { String::new() } else { self.told() };
            error.context(format!("cycle {number}\n{told}"))
        })
    }

    fn turn(&mut self, cycle: u32, swaps: bool) -> Result<Done> {
        let mut load = Load::start(self.cluster.client_namespace(), cycle, self.clients)?;
        load.wait_for(COMMITS)?;
        let swap = if swaps { Some(self.swap(&mut load)?) } else { None };
        let killed = self.active;
        load.forget_gaps();
        self.cluster.kill(killed)?;
        self.active = 1 - killed;
        wait_alone(&mut self.cluster, self.active)?;
        load.wait_for(COMMITS)?;
        let failover = load.longest_gap();
        load.verify(self.cluster.client_namespace()).context("after the takeover")?;
        let returns = Instant::now();
        self.cluster.come_back(killed)?;
        let back = returns.elapsed();
        load.wait_for(COMMITS)?;
        load.end();
        load.verify(self.cluster.client_namespace()).context("at the end of the cycle")?;
        let transactions = self.verify_database(cycle)?;
        self.ask("CHECKPOINT")?;
        self.cluster.wait_identical()?;
        let answered = load.answered();
        self.answered += answered;
        Ok(Done { killed, answered, transactions, swap, failover, back })
    }

    fn swap(&mut self, load: &mut Load) -> Result<Duration> {
        load.forget_gaps();
        self.cluster.order(self.active, &["swap", MODULE])?;
        self.active = 1 - self.active;
        self.cluster.wait_roles(self.active)?;
        load.wait_for(COMMITS)?;
        load.verify(self.cluster.client_namespace()).context("after the swap")?;
        Ok(load.longest_gap())
    }

    /// By its own checks every page is sound, tables and indexes agree, and no transaction of pgbench is there in part. How many of them came in this cycle.
    fn verify_database(&mut self, cycle: u32) -> Result<u64> {
        self.ask(&format!(
            "DELETE FROM record WHERE client < {}",
            load::first_client(cycle.saturating_sub(CYCLES_KEPT))
        ))?;
        self.program("pg_amcheck", AMCHECK)?;
        let failures = self.ask("SELECT coalesce(sum(checksum_failures), 0) FROM pg_stat_database")?;
        ensure!(failures == ["0"], "{failures:?} pages have a wrong checksum");
        let sums = "SELECT count(*), coalesce(sum(delta), 0) = (SELECT sum(abalance) FROM pgbench_accounts), \
                    coalesce(sum(delta), 0) = (SELECT sum(tbalance) FROM pgbench_tellers), \
                    coalesce(sum(delta), 0) = (SELECT sum(bbalance) FROM pgbench_branches) FROM pgbench_history";
        let found = self.ask(sums)?.join(" ");
        let (count, same) = found.split_once(' ').unwrap_or_default();
        ensure!(same == "t t t", "sums of pgbench's tables differ: {found}");
        let count: u64 = count.parse().context("a count")?;
        let more = count.checked_sub(self.transactions).filter(|more| *more > 0);
        let more =
            more.with_context(|| format!("{count} transactions of pgbench, {} before", self.transactions))?;
        self.transactions = count;
        Ok(more)
    }

    fn told(&self) -> String {
        let mut told = String::new();
        for (node, host) in self.cluster.hosts.iter().enumerate() {
            let events =
                self.cluster.order(node, &["events", MODULE]).unwrap_or_else(|error| format!("{error:#}"));
            let server = log::tail(&host.file("postgresql.log"), 40);
            told += &format!(
                "-- {}: events\n{events}\n-- log\n{}\n-- server\n{server}\n",
                host.name,
                host.tail()
            );
        }
        told
    }

    /// Take everything down in order. How many commits were answered in all.
    ///
    /// # Errors
    /// A daemon does not stop, or complained of what no lost node explains.
    pub fn end(self) -> Result<u64> {
        self.cluster.finish(&[LOST, LOST_WITH_A_DATABASE].concat())?;
        Ok(self.answered)
    }
}

impl fmt::Display for Done {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(swap) = self.swap {
            write!(to, "swapped ({:.2} s without answers), ", swap.as_secs_f64())?;
        }
        write!(
            to,
            "{} killed: {:.2} s without answers, same again {:.2} s after its return ({} commits answered, {} of pgbench)",
            ["a", "b"][self.killed],
            self.failover.as_secs_f64(),
            self.back.as_secs_f64(),
            self.answered,
            self.transactions
        )
    }
}
