//! The thread that writes the safe set's log: one write for all that came while the last one was under way.

use std::io;
use std::sync::PoisonError;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use replicator_core::activity::Record;
use tracing::info;

use super::{Inner, Shared};
use crate::storage::activity::{ActivityDirectory, Log};

/// What nobody waits for is written this much later at most, with what comes meanwhile.
const LAZY: Duration = Duration::from_millis(50);
/// More files in doubt than this are not kept: everything is compared after a crash.
const FILES_MAX: usize = 1 << 20;

/// Write what is pending, again and again, until the end.
pub(super) fn commit_all(shared: &Shared) {
    let mut taking_in: Option<JoinHandle<io::Result<()>>> = None;
    let mut inner = shared.lock();
    loop {
        if inner.pending.is_empty() || inner.log.is_none() {
            if inner.ending {
                break;
            }
            inner = shared.work.wait(inner).unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        let lazy = |inner: &mut Inner| !inner.urgent && !inner.ending;
        let waited = shared.work.wait_timeout_while(inner, LAZY, lazy);
        inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        let Some(mut log) = inner.log.take() else { continue };
        let records = std::mem::take(&mut inner.pending);
        let (commit, turn, voided) = (inner.commit, inner.turns, inner.voided);
        inner.commit += 1;
        inner.urgent = false;
        inner.leaving = [0, inner.leaving[0]];
        inner.narrowing = [0, inner.narrowing[0]];
        drop(inner);
        let written = write(&shared.directory, voided, &mut log, &records, &mut taking_in);
        inner = shared.lock();
        inner.commits += 1;
        match written {
            // It was made void meanwhile.
            _ if inner.turns != turn => {}
            Ok(()) => {
                (inner.leaving[1], inner.narrowing[1]) = (0, 0);
                inner.committed = commit;
                inner.log = Some(log);
            }
            Err(error) => shared.fail(&mut inner, &error),
        }
        if inner.members.len() > FILES_MAX {
            info!("too many files are in doubt to be kept apart: after a crash everything is compared");
            shared.end_records(&mut inner);
        }
        shared.done.notify_all();
    }
    drop(inner);
    if let Some(taking_in) = taking_in {
        let _ = taking_in.join();
    }
}

/// Append the records, and go on to the next log when this one is full: the one before is taken into the base aside.
fn write(
    directory: &ActivityDirectory,
    voided: u64,
    log: &mut Log,
    records: &[Record],
    taking_in: &mut Option<JoinHandle<io::Result<()>>>,
) -> io::Result<()> {
    let mut rest = records;
    loop {
        let taken = log.append(rest)?;
        rest = rest.get(taken..).unwrap_or_default();
        if rest.is_empty() && !log.is_nearly_full() {
            return Ok(());
        }
        if let Some(before) = taking_in.take() {
            before.join().map_err(|_| io::Error::other("the thread that writes the base broke down"))??;
        }
        if !directory.has_base()? {
            // Forming: there is nothing to take the log into yet.
            if rest.is_empty() {
                return Ok(());
            }
            return Err(io::Error::other("too much is changed at once"));
        }
        let next = log.number() + 1;
        *log = directory.begin_log(next)?;
        let directory = directory.clone();
        let work = move || directory.take_in(next, voided);
        *taking_in = Some(thread::Builder::new().name("activity".to_owned()).spawn(work)?);
        if rest.is_empty() {
            return Ok(());
        }
    }
}
