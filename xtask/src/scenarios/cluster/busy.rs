//! Other processes want twice what the processors can give, with ordinary priority, while a client writes, with default settings. No node is lost, so nothing may
//! move: no term, no address, no application.

use std::process::{Child, Command, Stdio};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{LOST, Situation, longest_gap, wait_answers};
use crate::lab::cluster::{Cluster, MODULE, NodeStatus, Options, PlaceStatus, SERVICE};
use crate::lab::net::Namespace;
use crate::lab::{interrupt, wait};
use crate::scenarios::{Context, Outcome, passed};
use crate::worker;

/// Processes for each processor.
const EACH: usize = 2;
/// How long in the scenario; `cargo xtask soak --cluster` takes minutes.
const SLICE: Duration = Duration::from_secs(20);
/// Between two looks at the nodes.
const INTERVAL: Duration = Duration::from_millis(200);
/// What no node may say: a heartbeat that was late itself would have been the reason for anything.
const LATE: &str = "did not run";

/// A slice of it.
pub fn run(context: &Context) -> Result<Outcome> {
    passed(hold(&Options { filesystem: context.fs, ..Options::default() }, SLICE)?)
}

/// Make the situation for so long, and check; with figures.
///
/// # Errors
/// Something moved.
pub fn hold(options: &Options, time: Duration) -> Result<String> {
    let mut situation = Situation::begin(options)?;
    let Situation { cluster, client } = &mut situation;
    let (before, _) = standing(cluster)?;
    let (known, answered) = (client.gaps().len(), client.answered());
    let others = Others::start(cluster.client_namespace())?;
    let begin = Instant::now();
    let (mut looks, mut parted) = (0, 0);
    while begin.elapsed() < time {
        interrupt::check()?;
        let (now, mirrored) = standing(cluster)?;
        parted += u64::from(!mirrored);
        ensure!(
            now == before,
            "after {:.1?} it is {now:?}; before it was {before:?}\n{}\n{}",
            begin.elapsed(),
            cluster.hosts[0].tail(),
            cluster.hosts[1].tail()
        );
        looks += 1;
        wait::pause(INTERVAL);
    }
    wait_answers(client, 1)?;
    let (gap, answered) = (longest_gap(client, known), client.answered() - answered);
    drop(others);
    cluster.wait_roles(0)?;
    let (now, _) = standing(cluster)?;
    ensure!(now == before, "in the end it is {now:?}; before it was {before:?}");
    let expected: Vec<&str> = LOST.iter().copied().filter(|words| *words != LATE).collect();
    let all = situation.finish(0, &expected)?;
    Ok(format!(
        "{answered} answered in {:.0} s beside {EACH} processes for each processor ({all} in all, 0 lost); longest wait {gap:.2?}; \
         term, address, who is active and the application's start the same in {looks} looks; {parted} of them without a mirror",
        time.as_secs_f64()
    ))
}

/// What must not change.
#[derive(PartialEq, Eq, Debug)]
struct Standing {
    /// The term of each node in which it is active.
    active: Vec<Option<u64>>,
    /// On which of them the address is.
    address: Vec<bool>,
    /// When the application was started last.
    started: String,
}

/// That, and whether both nodes mirror: that the link is late for longer than it may be moves nothing.
fn standing(cluster: &mut Cluster) -> Result<(Standing, bool)> {
    let (mut active, mut mirrored) = (Vec::new(), true);
    for (node, role) in [(0, "primary"), (1, "secondary")] {
        let status = wait::until("a busy node to answer", wait::SHORT, || cluster.status(node))?;
        let module = of(&status)?;
        active.push(module.active_term);
        mirrored &= module.state == role;
    }
    let address =
        (0..2).map(|node| cluster.namespace(node).has_address(SERVICE.ip())).collect::<Result<_>>()?;
    let started = std::fs::read_to_string(cluster.hosts[0].file("started"))?;
    Ok((Standing { active, address, started }, mirrored))
}

fn of(status: &NodeStatus) -> Result<&PlaceStatus> {
    let module = status.modules.iter().find(|module| module.module == MODULE).context("the module")?;
    Ok(&module.here)
}

/// Processes that only burn time.
struct Others(Vec<Child>);

impl Others {
    /// In a namespace, so that nothing of them outlives the laboratory.
    fn start(namespace: &Namespace) -> Result<Others> {
        let mut others = Others(Vec::new());
        for _ in 0..EACH * available_parallelism()?.get() {
            let mut command = Command::new(worker::program()?);
            command.args(["worker", "burn"]).stdin(Stdio::null()).stdout(Stdio::null());
            namespace.enter(&mut command)?;
            others.0.push(command.spawn().context("start a busy process")?);
        }
        Ok(others)
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        for other in &mut self.0 {
            let _ = other.kill();
            let _ = other.wait();
        }
    }
}
