//! Work that may hang in the kernel (a file system that does not answer, a process that cannot be looked at) runs on a thread of
//! its own, which nobody has to wait for.
//!
//! A runtime's pool of blocking threads would not do: the runtime waits for its threads when it is shut down.

use std::io;
use std::thread;

use tokio::sync::oneshot;

/// Do `work` on a thread of its own. The receiver ends without a value if the thread panics.
///
/// # Errors
/// The system has no more threads.
pub(super) fn aside<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    let (sender, receiver) = oneshot::channel();
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        // Nobody may be there any more to receive it: that was decided by the time limit.
        let _ = sender.send(work());
    })?;
    Ok(receiver)
}
