//! Forty modules on one pair of nodes: they start, fail over and return, each by itself.

use anyhow::Result;

use super::{SERVICE_BOUND, Situation, longest_gap, wait_answers};
use crate::lab::cluster::{Options, module_name};
use crate::scenarios::{Context, Outcome, passed};

const MODULES: usize = 40;

/// Make the situation and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let options = Options { filesystem: context.fs, modules: MODULES, ..Options::default() };
    let mut situation = Situation::begin(&options)?;
    let Situation { cluster, client } = &mut situation;
    let known = client.gaps().len();
    cluster.kill(0)?;
    for number in 0..MODULES {
        let module = module_name(number);
        cluster.wait_for(1, &module, "alone, ready", SERVICE_BOUND, |found| found.here.is_ready("alone"))?;
    }
    wait_answers(client, 200)?;
    let gap = longest_gap(client, known);
    cluster.come_back(0)?;
    let answered = situation.end(1)?;
    passed(format!(
        "{MODULES} modules failed over and returned; {answered} answered, 0 lost; without answers: {gap:.2?}"
    ))
}
