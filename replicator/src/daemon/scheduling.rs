//! Threads' places in the scheduler (sched(7)): what nobody waits for must not take the processor from whom somebody waits for.
//!
//! All of it is a matter of speed only: that the kernel refuses changes nothing.

/// The place of a thread for which somebody waits now and then.
#[derive(Default)]
pub struct Priority {
    background: Option<bool>,
}

impl Priority {
    /// Somebody waits for the calling thread, or nobody does.
    pub fn set(&mut self, awaited: bool) {
        if self.background != Some(!awaited) {
            self.background = Some(!awaited);
            be_nice(if awaited { 0 } else { BACKGROUND_NICE });
        }
    }
}

/// Nice value of threads that nobody waits for.
const BACKGROUND_NICE: i32 = 10;

/// For the calling thread: nobody waits for it.
pub fn stay_in_the_background() {
    be_nice(BACKGROUND_NICE);
}

fn be_nice(nice: i32) {
    // SAFETY: setpriority takes no memory. On Linux "process 0" is the calling thread.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
}
