//! Idle processors that wake at once while callers wait.
//!
//! A held fsync, and every change of a name, is a chain of threads that sleep and wake each other, on both nodes. Where an idle
//! processor sleeps deeply, or a virtual one is given back to its host, each link of the chain costs up to fifty microseconds, which is
//! more than all the work (docs/measurements/wake-ups.md). The kernel lets a process ask for less: while somebody holds
//! `/dev/cpu_dma_latency` with a number of microseconds, no processor idles in a state that takes longer to leave
//! (Documentation/power/pm_qos_interface.rst). That costs power, so it is asked for only while calls come in quick succession.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use tracing::{debug, info};

const DEVICE: &str = "/dev/cpu_dma_latency";
const DRIVER: &str = "/sys/devices/system/cpu/cpuidle/current_driver";
/// The driver of guests whose processors are their own. Its only sleep says it takes a microsecond, and leaves the guest.
const GUEST_DRIVER: &str = "haltpoll";
/// Leaves the first sleeping state of ordinary processors (C1), and none below it.
const SHALLOW_MICROSECONDS: i32 = 2;
/// How long calls are counted.
const WINDOW: Duration = Duration::from_millis(10);
/// Calls in a window from which on they are many. Fewer wait for their disk rather than for each other.
const MANY: u32 = 4;

/// Counts those who wait. Cheap to clone and to use; the default one counts for nobody.
#[derive(Clone, Default, Debug)]
pub struct Waiting(Arc<Shared>);

#[derive(Default, Debug)]
struct Shared {
    calls: AtomicU32,
    stop: AtomicBool,
    keeper: OnceLock<Thread>,
}

impl Waiting {
    /// Somebody waits for an answer from now on.
    pub fn begins(&self) {
        // Relaxed: a count that decides nothing but power.
        if self.0.calls.fetch_add(1, Ordering::Relaxed) + 1 == MANY
            && let Some(keeper) = self.0.keeper.get()
        {
            keeper.unpark();
        }
    }
}

/// Asks the kernel for quick wake-ups while calls are many, until it is dropped.
#[derive(Debug)]
pub struct QuickWakeUps {
    waiting: Waiting,
    thread: Option<JoinHandle<()>>,
}

impl QuickWakeUps {
    /// Begin to watch.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start() -> io::Result<QuickWakeUps> {
        let latency = tolerable(&driver());
        QuickWakeUps::with(move || request(latency))
    }

    /// With another way to ask; what it returns is dropped when calls are few again.
    fn with<R>(ask: impl Fn() -> io::Result<R> + Send + 'static) -> io::Result<QuickWakeUps> {
        let waiting = Waiting::default();
        let shared = Arc::clone(&waiting.0);
        let thread = thread::Builder::new().name("wake-ups".to_owned()).spawn(move || keep(&shared, &ask))?;
        let _ = waiting.0.keeper.set(thread.thread().clone());
        Ok(QuickWakeUps { waiting, thread: Some(thread) })
    }

    /// Where to count.
    #[must_use]
    pub fn waiting(&self) -> Waiting {
        self.waiting.clone()
    }
}

impl Drop for QuickWakeUps {
    fn drop(&mut self) {
        self.waiting.0.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It cannot panic, and its end is all that is wanted.
            let _ = thread.join();
        }
    }
}

/// The kernel's answer to the question how idle processors are treated, for `replicator doctor`.
///
/// # Errors
/// The device cannot be opened.
pub fn describe() -> io::Result<String> {
    let driver = driver();
    let latency = tolerable(&driver);
    request(latency)?;
    Ok(match driver.as_str() {
        "" | "none" => "no driver of idle states: processors wake as quickly as they do".to_owned(),
        driver => format!("idle driver {driver}: at most {latency} us are asked for while callers wait"),
    })
}

/// Who puts idle processors to sleep; empty where that is not told.
fn driver() -> String {
    fs::read_to_string(DRIVER).unwrap_or_default().trim().to_owned()
}

fn tolerable(driver: &str) -> i32 {
    if driver == GUEST_DRIVER { 0 } else { SHALLOW_MICROSECONDS }
}

/// Ask for a latency, in microseconds, as long as the file is open.
fn request(microseconds: i32) -> io::Result<File> {
    let mut device = OpenOptions::new().write(true).open(DEVICE)?;
    device.write_all(&microseconds.to_ne_bytes())?;
    Ok(device)
}

fn keep<R>(shared: &Shared, ask: &impl Fn() -> io::Result<R>) {
    let calls_of_a_window = || {
        // Calls are counted over a time: there is no state to wait for.
        thread::sleep(WINDOW);
        shared.calls.swap(0, Ordering::Relaxed)
    };
    let stops = || shared.stop.load(Ordering::Acquire);
    while !stops() {
        // Nobody is woken for nothing: who makes the count full wakes this thread.
        if shared.calls.load(Ordering::Relaxed) < MANY {
            thread::park();
            continue;
        }
        shared.calls.store(0, Ordering::Relaxed);
        if calls_of_a_window() < MANY {
            continue;
        }
        let asked = match ask() {
            Ok(asked) => asked,
            Err(error) => {
                return info!(%error, "{DEVICE} cannot be used: idle processors sleep as the system has it");
            }
        };
        debug!("calls are many: idle processors are to wake at once");
        while !stops() && calls_of_a_window() >= MANY {}
        drop(asked);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    struct Asked(mpsc::Sender<bool>);

    impl Drop for Asked {
        fn drop(&mut self) {
            let _ = self.0.send(false);
        }
    }

    #[test]
    fn it_is_asked_for_while_calls_are_many_and_given_up_after() {
        let (sender, heard) = mpsc::channel();
        let wake_ups = QuickWakeUps::with(move || {
            sender.send(true).map_err(io::Error::other)?;
            Ok(Asked(sender.clone()))
        })
        .unwrap();
        let waiting = wake_ups.waiting();
        for _ in 0..2 {
            let deadline = Instant::now() + LIMIT;
            let asked = loop {
                waiting.begins();
                match heard.try_recv() {
                    Ok(asked) => break asked,
                    Err(_) => assert!(Instant::now() < deadline, "never asked for"),
                }
            };
            assert!(asked);
            assert_eq!(heard.recv_timeout(LIMIT), Ok(false), "given up");
        }
    }

    #[test]
    fn few_calls_ask_for_nothing() {
        let (sender, heard) = mpsc::channel();
        let wake_ups = QuickWakeUps::with(move || sender.send(()).map_err(io::Error::other)).unwrap();
        (1..MANY).for_each(|_| wake_ups.waiting().begins());
        drop(wake_ups);
        assert!(heard.try_recv().is_err());
    }

    #[test]
    fn the_end_gives_it_up() {
        let (sender, heard) = mpsc::channel();
        let wake_ups = QuickWakeUps::with(move || Ok(Asked(sender.clone()))).unwrap();
        let waiting = wake_ups.waiting();
        (0..10 * MANY).for_each(|_| waiting.begins());
        drop(wake_ups);
        // Whether it came to asking depends on who was quicker; nobody holds anything afterwards.
        assert!(heard.iter().all(|asked| !asked));
        waiting.begins();
    }

    #[test]
    fn the_kernel_takes_the_request() {
        let device = match request(SHALLOW_MICROSECONDS) {
            Ok(device) => device,
            Err(error) => return println!("not run: {DEVICE}: {error}"),
        };
        let in_force = || i32::from_ne_bytes(fs::read(DEVICE).unwrap().try_into().unwrap());
        assert!(in_force() <= SHALLOW_MICROSECONDS);
        drop(device);
    }
}
