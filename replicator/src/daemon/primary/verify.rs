//! Reading for a verification, and what it finds.

use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

use replicator_core::event::{Event, ReadOutcome};
use replicator_core::ids::{FileId, ReadId};
use replicator_core::verify::{Difference, Looked, VerifyPart};

use super::super::engine::Core;
use super::super::message::Message;
use super::Primary;
use super::reads::outcome_of;
use crate::control::ResyncScope;
use crate::storage::{reader, verify};
use crate::volume::Volume;

impl Primary {
    pub(super) fn read_verify(
        &mut self,
        core: &mut Core,
        read: ReadId,
        file: FileId,
        part: VerifyPart,
        fine: bool,
    ) {
        let Some(volume) = self.volume(file.volume).cloned() else {
            return core.tell(Event::VerifyRead { read, outcome: ReadOutcome::Gone });
        };
        let mailbox = Arc::clone(&core.mailbox);
        core.background.run(move || {
            let message = |result: io::Result<(Vec<u8>, Looked)>| {
                let (outcome, payload) = match result {
                    Ok((payload, looked)) => (ReadOutcome::Read(looked), payload),
                    // Its state tells that it is no regular file.
                    Err(error) if reader::has_no_bytes(&error) => (ReadOutcome::Gone, Vec::new()),
                    Err(error) => (outcome_of(&error), Vec::new()),
                };
                Message::VerifyRead { read, outcome, payload }
            };
            match part {
                VerifyPart::State => {
                    mailbox.post_urgent(message(verify::read_state(&volume, file.inode, fine)));
                }
                VerifyPart::Contents(extent) => {
                    mailbox.post_urgent(message(verify::read_contents(&volume, file.inode, extent, fine)));
                }
                VerifyPart::Names => {
                    // In the order of the operations.
                    let _order = volume.lock_namespace();
                    mailbox.post_urgent(message(verify::read_names(&volume, file.inode, fine)));
                }
            }
        });
    }

    /// What was done to the file before this moment is in the kernel's ring or in the mailbox when the message is taken.
    pub(super) fn await_capture(&mut self, core: &mut Core, read: ReadId, file: FileId) {
        if let Ok(descriptor) = self.open(file, ()) {
            self.settled = None;
            self.wait_for_writers(file, &descriptor, 0);
        }
        core.mailbox.post_urgent(Message::CaptureAwaited(read));
    }

    pub(super) fn report_difference(&mut self, core: &mut Core, file: FileId, difference: Difference) {
        let Some(reports) = &self.reports else { return };
        if reports.add(file, difference) {
            let (reports, volumes) = (Arc::clone(reports), self.volumes.clone());
            core.background.run(move || reports.place(&volumes));
        }
    }

    /// An operator wants something to be compared, or sent now.
    pub(super) fn on_resync(&mut self, core: &mut Core, number: u64, what: ResyncScope) {
        core.publisher().on_resync_asked(number);
        let files = match what {
            ResyncScope::Changed => Vec::new(),
            ResyncScope::Full => self.volumes.iter().map(|volume| volume.root_file()).collect(),
            ResyncScope::File { path } => {
                let (volumes, mailbox) = (self.volumes.clone(), Arc::clone(&core.mailbox));
                return core.background.run(move || {
                    mailbox.post_urgent(match find(&volumes, &path) {
                        Ok(file) => Message::Answer(Event::ResyncRequested { number, files: vec![file] }),
                        Err(error) => {
                            Message::ResyncFailed { number, why: format!("{}: {error}", path.display()) }
                        }
                    });
                });
            }
        };
        core.tell(Event::ResyncRequested { number, files });
    }
}

/// The file with that path, found below the gate.
fn find(volumes: &[Arc<Volume>], path: &Path) -> io::Result<FileId> {
    let outside = || io::Error::new(io::ErrorKind::NotFound, "not in a mirrored directory");
    let is_plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let volume = volumes.iter().filter(|_| is_plain).find_map(|volume| {
        let below = path.strip_prefix(&volume.path).ok()?;
        Some((volume, below))
    });
    let (volume, below) = volume.ok_or_else(outside)?;
    Ok(volume.file(verify::number_at(volume, below)?))
}
