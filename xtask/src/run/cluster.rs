//! The whole cluster: two nodes, a client that writes to the virtual address, and what becomes of it when nodes die.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::lab::cluster::{Cluster, MODULE, Options, SERVICE};
use crate::lab::ledger::Client;
use crate::lab::{interrupt, wait};
use crate::report::{Report, Row, Verdict};
use crate::scenarios::cluster::{LOST, failover};

const INTERVAL: Duration = Duration::from_secs(1);

/// Show the cluster until Ctrl-C. A node that was killed meanwhile is started again.
///
/// # Errors
/// It does not come up.
pub fn show(options: &Options) -> Result<()> {
    let mut cluster = Cluster::start(options)?;
    let client = cluster.client()?;
    introduce(&cluster);
    while !interrupt::requested() {
        let begin = Instant::now();
        println!("{}", line(&mut cluster, &client)?);
        // Until the next second or Ctrl-C.
        let _ = wait::until("", INTERVAL.saturating_sub(begin.elapsed()), || Ok(None::<()>));
    }
    let answered = client.stop();
    println!("\n{answered} records answered; taking everything down");
    let active = cluster.active()?;
    if let [active] = active.as_slice() {
        cluster.check_answered(*active, answered)?;
        println!("0 acknowledged records lost");
    }
    cluster.finish(LOST)
}

fn introduce(cluster: &Cluster) {
    println!(
        "Two nodes, a and b, keep a small server on {SERVICE}; a client writes numbered records to it all the time."
    );
    println!("Look and order (a; the same for b):");
    println!("    {}", cluster.command_line(0, "cluster status"));
    println!("    {}", cluster.command_line(0, &format!("module swap {MODULE}")));
    println!("    {}", cluster.command_line(0, &format!("module events {MODULE}")));
    println!("Kill the machine of a and see (it is started again after ten seconds):");
    println!("    ip netns pids {} | xargs kill -9", cluster.namespace(0).name());
    println!("Ctrl-C takes everything down.\n");
}

/// How long a node that was killed stays away.
const AWAY: Duration = Duration::from_secs(10);

fn line(cluster: &mut Cluster, client: &Client) -> Result<String> {
    let mut words = Vec::new();
    for node in 0..2 {
        let name = cluster.hosts[node].name;
        if !cluster.hosts[node].is_running() {
            words.push(format!("{name}: dead"));
            if cluster.hosts[node].dead_for() > AWAY {
                cluster.kill(node)?;
                cluster.revive(node)?;
                cluster.start_daemon(node)?;
            }
            continue;
        }
        let status = cluster.status(node)?;
        let module =
            status.and_then(|status| status.modules.into_iter().find(|module| module.module == MODULE));
        words.push(module.map_or_else(
            || format!("{name}: does not answer"),
            |module| format!("{name}: {} {}", module.here.state, module.here.readiness),
        ));
    }
    let gap =
        client.gaps().last().map(|gap| format!(", last interruption {:.2?}", gap.span())).unwrap_or_default();
    Ok(format!("{}; {} records answered{gap}", words.join(", "), client.answered()))
}

/// Without a person: kill, failover, return, failback, swap; with times.
///
/// # Errors
/// A promise did not hold; the report says which.
pub fn smoke(report: &mut Report, options: &Options) -> Result<()> {
    let begin = Instant::now();
    let result = take(options);
    let verdict = match &result {
        Ok(words) => Verdict::Passed(words.clone()),
        Err(error) => Verdict::Failed(format!("{error:#}")),
    };
    report.add(Row::new("cluster: failover, failback, swap", verdict, begin.elapsed()));
    result.map(drop)
}

fn take(options: &Options) -> Result<String> {
    let failover::Found { answered, begun, failover, back, swap } = failover::measure(options)?;
    Ok(format!(
        "0 acknowledged records lost of {answered}; start script {begun:.2} s after the kill, client without answers for \
         {failover:.2?}; failback {back:.1?} after the return; swap {swap:.2?}"
    ))
}
