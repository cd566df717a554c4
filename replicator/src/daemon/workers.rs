//! Threads for the few system calls that may block for long and have no place on a data-plane ring: listing
//! directories, digests, syncfs, the state file.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use super::scheduling;

type Job = Box<dyn FnOnce() + Send>;

/// A fixed number of threads that run jobs in the order given. Each job posts its own answer.
pub struct Workers {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Start `count` threads.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(name: &str, count: usize) -> std::io::Result<Workers> {
        Workers::start_with(name, count, || {})
    }

    /// The same for work that must not take the processor from anybody.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start_background(name: &str, count: usize) -> std::io::Result<Workers> {
        Workers::start_with(name, count, scheduling::stay_in_the_background)
    }

    fn start_with(name: &str, count: usize, first: fn()) -> std::io::Result<Workers> {
        let (jobs, receiver) = mpsc::channel::<Job>();
        let receiver = Arc::new(Mutex::new(receiver));
        let threads = (0..count)
            .map(|number| {
                let receiver = Arc::clone(&receiver);
                thread::Builder::new().name(format!("{name}-{number}")).spawn(move || {
                    first();
                    work(&receiver);
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Workers { jobs: Some(jobs), threads })
    }

    /// Run a job when a thread is free.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        if let Some(jobs) = &self.jobs {
            // The threads end only after `jobs` is gone, so the receiver is there.
            let _ = jobs.send(Box::new(job));
        }
    }
}

fn work(receiver: &Mutex<Receiver<Job>>) {
    loop {
        let job = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(job) => job(),
            Err(_) => return,
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
