//! A mirror's process that waits to be the primary: all that does not depend on the moment is done (`replicator run --when-told`), so that a takeover waits for
//! less. Its own standard input tells it to begin, and that it is not needed any more when that is closed: it never outlives the daemon.

use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::daemon::Instructions;

/// So long after its mirror was stopped it is kept: a takeover stops the secondary first.
const KEPT: Duration = Duration::from_secs(10);

/// The one process of a mirror that waits, if there is one.
#[derive(Debug, Default)]
pub struct Ready(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: Option<(Child, ChildStdin)>,
    /// Since when the mirror does not run.
    unused: Option<Instant>,
}

impl Ready {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Have one, if there is none. That it cannot be had costs a takeover some time, and nothing else.
    pub fn prepare(&self, program: &Path, config: &Path) {
        let mut state = self.lock();
        state.unused = None;
        if state.is_waiting() {
            return;
        }
        let mut command = Command::new(program);
        command.arg("run").arg("--config").arg(config).args(["--role", "primary", "--when-told"]);
        command.stdin(Stdio::piped());
        super::process::apart(&mut command);
        match command.spawn() {
            Ok(mut child) => state.waiting = child.stdin.take().map(|told| (child, told)),
            Err(error) => tracing::warn!(%error, "no process waits to be the primary"),
        }
    }

    /// Tell it to begin. `None`: there is none that could; another has to be started.
    pub fn begin(&self, instructions: &Instructions) -> Option<Child> {
        let mut state = self.lock();
        if !state.is_waiting() {
            return None;
        }
        let (mut child, mut told) = state.waiting.take()?;
        let line = serde_json::to_string(instructions).ok()? + "\n";
        match told.write_all(line.as_bytes()) {
            Ok(()) => Some(child),
            Err(error) => {
                tracing::warn!(%error, "the process that waited to be the primary is gone");
                drop(told);
                end(&mut child);
                None
            }
        }
    }

    /// To be called again and again while the mirror does not run: one that nobody needs any more is ended.
    pub fn unused(&self) {
        let mut state = self.lock();
        let since = *state.unused.get_or_insert_with(Instant::now);
        if since.elapsed() < KEPT {
            return;
        }
        state.end();
    }
}

impl State {
    fn is_waiting(&mut self) -> bool {
        let waits = self.waiting.as_mut().is_some_and(|(child, _)| matches!(child.try_wait(), Ok(None)));
        if !waits {
            self.waiting = None;
        }
        waits
    }

    fn end(&mut self) {
        if let Some((mut child, _)) = self.waiting.take() {
            end(&mut child);
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.end();
    }
}

/// It holds nothing that would have to be put in order.
fn end(child: &mut Child) {
    if let Err(error) = child.kill().and_then(|()| child.wait()) {
        tracing::warn!(%error, "a process that waited to be the primary does not end");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    /// A place, and a program of these words that is called as the real one, with `told` in the place as its configuration.
    fn program(words: &str) -> (tempfile::TempDir, PathBuf, PathBuf) {
        let place = tempfile::tempdir().unwrap();
        let (program, config) = (place.path().join("program"), place.path().join("told"));
        fs::write(&program, format!("#!/bin/sh\n{words}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        (place, program, config)
    }

    fn instructions() -> Instructions {
        Instructions { term: Some(9), go_alone: true, force: None }
    }

    #[test]
    fn it_is_told_once_and_then_the_mirrors_own() {
        let (_place, program, told) = program("read -r line && echo \"$*|$line\" > \"$3\"");
        let ready = Ready::default();
        ready.prepare(&program, &told);
        ready.prepare(&program, &told);
        let mut child = ready.begin(&instructions()).expect("one waits");
        assert!(ready.begin(&instructions()).is_none(), "there was one only");
        assert!(child.wait().unwrap().success());
        let said = fs::read_to_string(&told).unwrap();
        let (arguments, line) = said.trim().split_once('|').unwrap();
        assert_eq!(arguments, format!("run --config {} --role primary --when-told", told.display()));
        assert_eq!(serde_json::from_str::<Instructions>(line).unwrap(), instructions());
    }

    #[test]
    fn one_that_ended_is_not_told_and_another_can_be_had() {
        let (_place, program, told) = program("exit 1");
        let ready = Ready::default();
        ready.prepare(&program, &told);
        while ready.lock().is_waiting() {
            std::thread::yield_now();
        }
        assert!(ready.begin(&instructions()).is_none());
        fs::write(&program, "#!/bin/sh\nread -r line\n").unwrap();
        ready.prepare(&program, &told);
        assert!(ready.begin(&instructions()).is_some_and(|mut child| child.wait().unwrap().success()));
    }

    #[test]
    fn one_that_is_not_needed_ends() {
        let (_place, program, told) = program("read -r line || echo ended > \"$3\"");
        let ready = Ready::default();
        ready.prepare(&program, &told);
        let (mut child, input) = ready.lock().waiting.take().unwrap();
        // As when the daemon is gone.
        drop(input);
        assert!(child.wait().unwrap().success());
        assert_eq!(fs::read_to_string(&told).unwrap(), "ended\n");
        ready.prepare(&program, &told);
        ready.unused();
        assert!(ready.lock().is_waiting(), "its mirror is to be the primary, perhaps");
        let since = Instant::now().checked_sub(KEPT).expect("the machine runs long enough");
        ready.lock().unused = Some(since);
        ready.unused();
        assert!(!ready.lock().is_waiting());
    }
}
