//! **answered-once**: each command gets exactly one answer, and nothing else gets one.

use replicator_core::cluster::{Action, Event};

use super::Broken;

pub struct Check;

impl Check {
    pub fn handled(&self, event: &Event, actions: &[Action]) -> Result<(), Broken> {
        let mut answers = actions.iter().filter_map(|action| match action {
            Action::Answer(number, _) => Some(*number),
            _ => None,
        });
        let wanted = match event {
            Event::Command(number, _) => Some(*number),
            _ => None,
        };
        if answers.next() == wanted && answers.next().is_none() {
            return Ok(());
        }
        Err(("answered-once", format!("{event:?}: {actions:?}")))
    }
}
