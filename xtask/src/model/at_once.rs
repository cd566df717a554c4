//! A sequence whose processes run truly at once: nobody can foretell it, but the copy is the same in the end.

use anyhow::{Context, Result};

use super::ground::{Directories, Ground};
use super::operation::{Operation, Step};

/// Run it.
///
/// # Errors
/// A process or node is gone.
pub fn run(ground: &mut Ground, steps: &[Step]) -> Result<Vec<String>> {
    let directories = ground.begin()?;
    let found = within(ground, steps, &directories)?;
    ground.end(&directories)?;
    Ok(found)
}

fn within(ground: &mut Ground, steps: &[Step], directories: &Directories) -> Result<Vec<String>> {
    for (number, actor) in ground.through.iter_mut().enumerate() {
        let own: Vec<Operation> = steps
            .iter()
            .filter(|step| usize::from(step.actor) == number)
            .map(|step| step.operation.clone())
            .collect();
        actor.tell(&own)?;
    }
    for (number, actor) in ground.through.iter_mut().enumerate() {
        actor.answer().with_context(|| format!("process {number} on the gate"))?;
    }
    ground.settle(directories)
}
