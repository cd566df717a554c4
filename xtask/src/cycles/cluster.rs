//! The same with a whole cluster: the node that serves a database dies, the other takes over, the dead one comes back; every other time the service is moved back by
//! order before. What must hold after each is told in [`crate::scenarios::cluster::postgresql`].

use std::time::{Duration, Instant};

use anyhow::Result;

use super::Plan;
use crate::lab::cluster::Options;
use crate::lab::{interrupt, watchdog};
use crate::run::applications::PostgresPrograms;
use crate::scenarios::cluster::postgresql::{Done, Service};

/// Longest time of one cycle, on a busy machine.
const CYCLE_BOUND: Duration = Duration::from_secs(400);

/// Run the cycles.
pub fn run(plan: &Plan) -> Result<()> {
    if PostgresPrograms::find()?.is_none() {
        println!("not run: PostgreSQL is not installed");
        return Ok(());
    }
    let options = Options { filesystem: plan.surroundings.fs, ..Options::default() };
    let mut service = Service::begin(&options, plan.writers)?;
    let begin = Instant::now();
    let (mut gaps, mut returns) = (Vec::new(), Vec::new());
    for cycle in 0..plan.cycles {
        interrupt::check()?;
        let _bound = watchdog::arm("a cycle", CYCLE_BOUND);
        let done: Done = service.cycle(cycle % 2 == 1)?;
        println!("cycle {cycle}: {done}");
        gaps.push(done.failover);
        returns.push(done.back);
    }
    let answered = service.end()?;
    println!(
        "passed: {} cycles in {:.0} s: {answered} commits answered, 0 lost; the database consistent and both trees the same each time; \
         without answers {}; same again {} after a return",
        plan.cycles,
        begin.elapsed().as_secs_f64(),
        spread(gaps),
        spread(returns),
    );
    Ok(())
}

/// Least, median and most.
fn spread(mut spans: Vec<Duration>) -> String {
    spans.sort_unstable();
    let at = |place: usize| spans.get(place).map_or(0.0, Duration::as_secs_f64);
    format!("{:.1} to {:.1} s (median {:.1})", at(0), at(spans.len().saturating_sub(1)), at(spans.len() / 2))
}
