//! What a database has to do: clients with a ledger of what they were answered, and pgbench.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::super::{longest_gap, wait_answers};
use crate::lab::cluster::SERVICE;
use crate::lab::ledger::Client;
use crate::lab::net::Namespace;
use crate::lab::postgresql;
use crate::run::applications::PostgresPrograms;

/// Clients of one cycle, at most.
const CLIENTS_MAX: u32 = 100;
/// Transactions of pgbench a second: as many as leave the processors to the others.
const RATE: &str = "100";

/// The number of a cycle's first client.
pub fn first_client(cycle: u32) -> u32 {
    cycle * CLIENTS_MAX
}

/// See the module. Dropping it ends it.
pub struct Load {
    /// Number, and the client while it is at work.
    clients: Vec<(u32, Option<Client>)>,
    /// What they were answered, after their end.
    answered: Vec<u64>,
    /// Gaps of each client that do not count.
    known: Vec<usize>,
    bench: Option<Child>,
}

impl Load {
    pub fn start(namespace: &Namespace, cycle: u32, clients: u32) -> Result<Load> {
        ensure!((1..=CLIENTS_MAX).contains(&clients), "{clients} clients; up to {CLIENTS_MAX} are possible");
        let mut load = Load { clients: Vec::new(), answered: Vec::new(), known: Vec::new(), bench: None };
        for number in first_client(cycle)..first_client(cycle) + clients {
            load.clients.push((number, Some(postgresql::client(namespace, SERVICE, number)?)));
        }
        load.bench = Some(bench(namespace)?);
        load.forget_gaps();
        Ok(load)
    }

    fn at_work(&self) -> impl Iterator<Item = &Client> {
        self.clients.iter().filter_map(|(_, client)| client.as_ref())
    }

    /// Until each client was answered so many more.
    pub fn wait_for(&self, more: u64) -> Result<()> {
        self.at_work().try_for_each(|client| wait_answers(client, more))
    }

    /// Only later ones count.
    pub fn forget_gaps(&mut self) {
        self.known = self.at_work().map(|client| client.gaps().len()).collect();
    }

    /// The longest time in which a client was not answered.
    pub fn longest_gap(&self) -> Duration {
        self.at_work()
            .zip(&self.known)
            .map(|(client, known)| longest_gap(client, *known))
            .max()
            .unwrap_or_default()
    }

    /// Stop.
    pub fn end(&mut self) {
        self.end_bench();
        self.answered =
            self.clients.iter_mut().map(|(_, client)| client.take().map_or(0, Client::stop)).collect();
    }

    /// All answers.
    pub fn answered(&self) -> u64 {
        self.answered.iter().sum::<u64>() + self.at_work().map(Client::answered).sum::<u64>()
    }

    /// Every row that was answered until now is there.
    pub fn verify(&self, namespace: &Namespace) -> Result<()> {
        for (place, (number, client)) in self.clients.iter().enumerate() {
            let answered = client.as_ref().map_or_else(|| self.answered[place], Client::answered);
            let missing = postgresql::missing(namespace, SERVICE, *number, answered)?;
            ensure!(missing == 0, "{missing} of {answered} answered rows of client {number} are missing");
        }
        Ok(())
    }

    fn end_bench(&mut self) {
        if let Some(mut bench) = self.bench.take() {
            // The loop and what it started.
            let _ = killpg(Pid::from_raw(bench.id() as i32), Signal::SIGKILL);
            let _ = bench.wait();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end_bench();
    }
}

/// pgbench, begun again whenever it ends, as it does with its connections.
fn bench(namespace: &Namespace) -> Result<Child> {
    let programs = PostgresPrograms::installed()?;
    // Nothing else tells a client that waits that its server is gone with its machine.
    let server = format!(
        "host={} port={} user={user} dbname={user} connect_timeout=2 keepalives_idle=1 keepalives_interval=1 \
         keepalives_count=2 tcp_user_timeout=3000",
        SERVICE.ip(),
        SERVICE.port(),
        user = postgresql::USER
    );
    let mut command = Command::new("sh");
    let again = "while :; do \"$@\"; sleep 0.1; done";
    command.args(["-c", again, "bench"]).arg(programs.directory().join("pgbench"));
    command.args(["-n", "-c", "2", "-T", "3600", "--rate", RATE, &server]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    namespace.enter(&mut command)?;
    command.spawn().context("start pgbench")
}
