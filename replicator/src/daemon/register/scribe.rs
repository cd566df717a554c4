//! The thread that writes the register's log.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use replicator_core::ids::{Errno, Sequence, SessionId};
use tracing::warn;

use super::Told;
use crate::daemon::mailbox::Mailbox;
use crate::daemon::message::Message;
use crate::storage::register::{Entry, Log, RegisterDirectory};

/// What is to be done.
pub(super) enum Job {
    /// Make the log with that number: what follows goes into it.
    Begin(u64),
    /// Append this, durably, and say so with [`Message::Recorded`].
    Append { entries: Vec<Entry>, told: Option<(SessionId, Sequence)> },
    /// Append this; it need not be durable.
    Note(Vec<Entry>),
}

/// The thread.
pub(super) struct Scribe {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Scribe {
    pub(super) fn start(directory: RegisterDirectory, mailbox: Arc<Mailbox<Message>>) -> io::Result<Scribe> {
        let (jobs, receiver) = mpsc::channel();
        let mut work = Work { directory, mailbox, log: None, full: false };
        let thread = thread::Builder::new().name("register".to_owned()).spawn(move || work.run(&receiver))?;
        Ok(Scribe { jobs: Some(jobs), thread: Some(thread) })
    }

    pub(super) fn order(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // The thread ends only after `jobs` is gone, so the receiver is there.
            let _ = jobs.send(job);
        }
    }

    /// No more jobs come. `waits`: until what was ordered is done.
    pub(super) fn end(&mut self, waits: bool) {
        self.jobs = None;
        if let Some(thread) = self.thread.take().filter(|_| waits) {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

struct Work {
    directory: RegisterDirectory,
    mailbox: Arc<Mailbox<Message>>,
    log: Option<Log>,
    /// It was told that the log is nearly full.
    full: bool,
}

impl Work {
    fn run(&mut self, jobs: &Receiver<Job>) {
        let mut next = jobs.recv().ok();
        while let Some(job) = next.take() {
            match job {
                Job::Begin(number) => self.begin(number),
                Job::Note(entries) => {
                    let noted = self.log.as_mut().map(|log| log.note(&entries));
                    if let Some(Err(error)) = noted {
                        warn!(%error, "the end of the register cannot be written");
                    }
                }
                Job::Append { mut entries, told } => {
                    // Whoever came meanwhile shares the append.
                    let mut all = vec![told];
                    next = jobs.try_recv().ok();
                    while let Some(Job::Append { entries: more, told }) = &mut next {
                        entries.append(more);
                        all.push(told.take());
                        next = jobs.try_recv().ok();
                    }
                    self.append(&entries, all);
                }
            }
            next = next.or_else(|| jobs.recv().ok());
        }
    }

    fn begin(&mut self, number: u64) {
        self.full = false;
        match self.directory.begin_log(number) {
            Ok(log) => {
                self.log = Some(log);
                self.tell(Told::Begun(number));
            }
            Err(error) => {
                warn!(%error, "no log of the register can be made: after a crash everything is compared");
                self.log = None;
                self.tell(Told::Lost(number));
            }
        }
    }

    fn append(&mut self, entries: &[Entry], all: Vec<Option<(SessionId, Sequence)>>) {
        let result = self.write(entries);
        for told in all {
            self.mailbox.post_urgent(Message::Recorded { told, result });
        }
        if let Some(log) = &self.log
            && log.is_nearly_full()
            && !std::mem::replace(&mut self.full, true)
        {
            self.tell(Told::NearlyFull(log.number()));
        }
    }

    /// Where it cannot be written, nothing that was is gone on from.
    fn write(&mut self, entries: &[Entry]) -> Result<(), Errno> {
        let Some(log) = &mut self.log else { return Ok(()) };
        let error = match log.append(entries) {
            Ok(written) if written == entries.len() => return Ok(()),
            Ok(_) => io::Error::other("the log is full"),
            Err(error) => error,
        };
        let number = log.number();
        warn!(%error, "the register cannot be written: after a crash everything is compared");
        self.log = None;
        let void = self.directory.make_void();
        self.tell(Told::Lost(number));
        void.map_err(|error| {
            warn!(%error, "what is on record of the copy cannot be taken away");
            Errno(error.raw_os_error().unwrap_or(libc::EIO))
        })
    }

    fn tell(&self, told: Told) {
        self.mailbox.post(Message::Register(told));
    }
}
