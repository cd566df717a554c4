//! Kernel programs that are loaded ahead of their use: what takes long is done, and nothing runs.
//!
//! Which hooks the kernel takes is known only after it was tried, so they are attached for a moment and let go. What they told in it is thrown away.

use super::programs::{Attached, Loaded};
use super::ring::Next;
use super::{Resolve, Tracer, TracerError, TracerOptions, Watch};

/// See the module. Dropping it frees everything.
pub struct PreparedTracer {
    tracer: Tracer,
    /// In the order in which they were attached.
    programs: Vec<Loaded>,
    watches: Vec<Watch>,
}

impl PreparedTracer {
    /// Load what these options need. `resolve` is of no use yet.
    ///
    /// # Errors
    /// As [`Tracer::start`].
    pub fn load(options: TracerOptions) -> Result<PreparedTracer, TracerError> {
        let watches = options.watches.clone();
        let mut tracer = Tracer::start(options)?;
        let programs = std::mem::take(&mut tracer.attached).into_iter().map(Attached::detach).collect();
        Ok(PreparedTracer { tracer, programs, watches })
    }

    /// What it was loaded for.
    #[must_use]
    pub fn watches(&self) -> &[Watch] {
        &self.watches
    }

    /// Attach the programs. From the return on, every change is told or counted as lost, as with [`Tracer::start`].
    ///
    /// # Errors
    /// The kernel refuses what it took before. Nothing is attached then.
    pub fn attach(self, resolve: Option<Resolve>) -> Result<Tracer, TracerError> {
        let PreparedTracer { mut tracer, programs, .. } = self;
        let system = |operation| move |source| TracerError::System { operation, source };
        tracer.members.set_resolve(resolve);
        let mut missed = 0;
        for program in &programs {
            missed += program.misses().map_err(system("read what a program missed"))?;
        }
        tracer.forget_all(missed);
        for program in programs {
            tracer.attached.push(program.attach().map_err(system("attach a kernel program"))?);
        }
        Ok(tracer)
    }
}

impl Tracer {
    /// Nothing that was told or lost until now is of interest. Only while nothing is attached. `missed`: what the programs missed.
    fn forget_all(&mut self, missed: u64) {
        let until = self.ring.producer_position();
        while let Next::Record(_) | Next::Malformed = self.ring.next(until) {}
        self.ring.release();
        self.counters.missed = missed;
        self.newly_lost();
    }
}
