//! With real processes: what a script may do to its runner.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::module::Description;

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        Place { directory: tempfile::tempdir().expect("a directory") }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn runner(&self, scripts: &str) -> Runner {
        let text =
            format!("[module]\nname = \"m\"\n[environment]\nCOLOUR = \"green\"\n[scripts]\n{scripts}\n");
        let description = Description::parse(&text).expect("a description");
        Runner::new(&description, self.path(), &self.path().join("run"), &self.path().join("log"))
    }

    fn script(&self, text: &str, timeout: Duration) -> ScriptCommand {
        let path = self.path().join("script");
        let aside = self.path().join("script.new");
        fs::write(&aside, format!("#!/bin/sh\n{text}\n")).expect("write");
        fs::set_permissions(&aside, fs::Permissions::from_mode(0o755)).expect("chmod");
        fs::rename(&aside, &path).expect("rename");
        ScriptCommand { argv: vec!["./script".into(), "one".into()], timeout }
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path().join(name)).ok()
    }

    /// Wait for a file with a number in it.
    async fn pid(&self, name: &str) -> i32 {
        for _ in 0..500 {
            if let Some(pid) = self.read(name).and_then(|text| text.trim().parse().ok()) {
                return pid;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the script did not write {name}");
    }
}

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);

fn alive(pid: i32) -> bool {
    Process::look(pid).is_some_and(|process| process.alive())
}

async fn dies(pid: i32) -> bool {
    for _ in 0..500 {
        if !alive(pid) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

#[tokio::test]
async fn a_script_gets_its_environment_and_its_output_is_logged() {
    let place = Place::new();
    let command = place.script(
        "echo \"$1 $COLOUR $REPLICATOR_MODULE $REPLICATOR_SCRIPT $REPLICATOR_ROLE $REPLICATOR_TIMEOUT\"; pwd >&2; exit 3",
        LONG,
    );
    let variables = [("REPLICATOR_ROLE", "primary\0".to_owned())];
    let outcome =
        place.runner("").run("start-primary", &command, &variables, Output::Kept).await.expect("a run");
    assert_eq!(outcome.ended, Ended::Failed { code: 3 });
    let log = fs::read_to_string(outcome.log.expect("a log")).expect("read");
    let place = fs::canonicalize(place.path()).expect("the place");
    assert_eq!(log, format!("one green m start-primary primary  60\n{}\n", place.display()));
    assert_eq!(outcome.last_line, Some(place.display().to_string()));
}

#[tokio::test]
async fn nothing_of_the_nodes_own_environment_reaches_a_script() {
    let place = Place::new();
    let command = place.script("env | cut -d= -f1 | sort | tr '\\n' ' '", LONG);
    let outcome = place.runner("").run("x", &command, &[], Output::Kept).await.expect("a run");
    let names = outcome.last_line.expect("a line");
    assert_eq!(
        names,
        "COLOUR HOME LANG PATH PWD REPLICATOR_MODULE REPLICATOR_MODULE_DIRECTORY REPLICATOR_RUN REPLICATOR_SCRIPT \
         REPLICATOR_TIMEOUT"
    );
}

#[tokio::test]
async fn what_takes_too_long_is_ended_with_its_children() {
    let place = Place::new();
    let command = place.script("sleep 600 & echo $! > child; wait", SHORT);
    let outcome = place.runner("").run("x", &command, &[], Output::Kept).await.expect("a run");
    assert_eq!(outcome.ended, Ended::TimedOut { killed: false, remains: false });
    assert!(dies(place.pid("child").await).await);
}

#[tokio::test]
async fn what_does_not_hear_is_killed_with_its_children() {
    let place = Place::new();
    // Neither the script nor its grandchild listens to SIGTERM.
    let command = place.script(
        "trap '' TERM; sh -c 'trap \"\" TERM; echo $$ > child; while :; do sleep 600; done' & while :; do sleep 600; done",
        SHORT,
    );
    let runner = place.runner("grace = \"200ms\"");
    let outcome = runner.run("x", &command, &[], Output::Kept).await.expect("a run");
    assert_eq!(outcome.ended, Ended::TimedOut { killed: true, remains: false });
    assert!(dies(place.pid("child").await).await);
}

#[tokio::test]
async fn a_script_that_ends_on_request_but_leaves_a_deaf_child_is_killed_too() {
    let place = Place::new();
    let command = place.script("(trap '' TERM; sh -c 'echo $$ > child; exec sleep 600') & wait", SHORT);
    let runner = place.runner("grace = \"200ms\"");
    let outcome = runner.run("x", &command, &[], Output::Kept).await.expect("a run");
    assert_eq!(outcome.ended, Ended::TimedOut { killed: true, remains: false });
    assert!(dies(place.pid("child").await).await);
}

#[tokio::test]
async fn the_application_stays_in_the_background_with_its_output() {
    let place = Place::new();
    let command = place.script(
        "sh -c 'echo $$ > child; while [ ! -e go ]; do sleep 0.05; done; echo spoke; exec sleep 600' &",
        LONG,
    );
    let runner = place.runner("log-runs = 1");
    let outcome = runner.run("x", &command, &[], Output::Kept).await.expect("a run");
    assert_eq!(outcome.ended, Ended::Succeeded);
    let child = place.pid("child").await;
    assert!(alive(child), "it is the application");
    fs::write(place.path().join("go"), "").expect("write");
    let log = outcome.log.expect("a log");
    for _ in 0..500 {
        if fs::read_to_string(&log).expect("read").contains("spoke") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(fs::read_to_string(&log).expect("read").contains("spoke"));
    // Its log is not removed for the sake of a newer one, for it is written to.
    runner.run("x", &place.script("true", LONG), &[], Output::Kept).await.expect("a run");
    assert!(log.exists());
    group::signal(Process::look(child).expect("the child").group, nix::sys::signal::Signal::SIGKILL);
    assert!(dies(child).await);
}

#[tokio::test]
async fn a_run_that_nobody_waits_for_any_more_is_killed_and_can_be_repeated() {
    let place = Place::new();
    let command = place.script("sleep 600 & echo $! > child; wait", LONG);
    let runner = place.runner("");
    {
        let run = runner.run("x", &command, &[], Output::Kept);
        tokio::pin!(run);
        let child = tokio::select! {
            _ = &mut run => panic!("it does not end"),
            child = place.pid("child") => child,
        };
        assert!(alive(child));
    }
    assert!(dies(place.pid("child").await).await);
    let again = runner.run("x", &place.script("true", LONG), &[], Output::Kept).await.expect("a run");
    assert_eq!(again.ended, Ended::Succeeded);
}

#[tokio::test]
async fn a_script_is_not_run_twice_at_a_time() {
    let place = Place::new();
    let command = place.script("echo $$ > first; exec sleep 600", LONG);
    let runner = place.runner("");
    let first = {
        let (runner, command) = (runner.clone(), command.clone());
        tokio::spawn(async move { runner.run("x", &command, &[], Output::Kept).await })
    };
    let pid = place.pid("first").await;
    let running = Leftover { script: "x".into(), pids: vec![pid] };
    assert_eq!(runner.running().expect("look"), [running]);
    assert_eq!(runner.leftovers().expect("look"), [], "it is of this life");
    let second = runner.run("x", &command, &[], Output::Kept).await;
    assert!(
        matches!(second, Err(RunError::StillRunning { pid: running, .. }) if running == pid),
        "{second:?}"
    );
    first.abort();
    assert!(dies(pid).await);
}

#[tokio::test]
async fn what_an_earlier_life_left_running_is_found_and_ended() {
    let place = Place::new();
    let runner = place.runner("grace = \"200ms\"");
    // As a node leaves it that is killed while the script runs.
    let record = Record::begin(&place.path().join("run"), "start-primary", "7-1").expect("a record");
    let mut child = std::process::Command::new("sh");
    std::os::unix::process::CommandExt::process_group(&mut child, 0);
    let mut child = child.args(["-c", "trap '' TERM; sleep 600; sleep 600"]).spawn().expect("sh");
    let pid = i32::try_from(child.id()).expect("a pid");
    record.running(&Process::look(pid).expect("the process")).expect("recorded");
    let leftover = Leftover { script: "start-primary".into(), pids: vec![pid] };
    assert_eq!(runner.leftovers().expect("look"), [leftover]);
    assert_eq!(runner.end_leftovers().await.expect("end"), []);
    assert!(child.wait().expect("wait").signal().is_some());
}

#[tokio::test]
async fn a_program_that_is_not_there_is_told_and_nothing_is_left() {
    let place = Place::new();
    let command = ScriptCommand { argv: vec!["scripts/none".into()], timeout: LONG };
    let runner = place.runner("");
    let refused = runner.run("x", &command, &[], Output::Kept).await;
    let expected = place.path().join("scripts/none");
    assert!(matches!(refused, Err(RunError::Start { program, .. }) if program == expected));
    assert!(runner.running().expect("look").is_empty());
}

#[tokio::test]
async fn without_a_log_a_script_runs_nevertheless() {
    let place = Place::new();
    fs::write(place.path().join("log"), "no directory").expect("write");
    let outcome =
        place.runner("").run("x", &place.script("echo hello", LONG), &[], Output::Kept).await.expect("a run");
    assert_eq!((outcome.ended, outcome.log), (Ended::Succeeded, None));
}

#[tokio::test]
async fn without_a_record_a_script_does_not_run() {
    let place = Place::new();
    fs::write(place.path().join("run"), "no directory").expect("write");
    let refused = place.runner("").run("x", &place.script("touch ran", LONG), &[], Output::Kept).await;
    assert!(matches!(refused, Err(RunError::Record { .. })), "{refused:?}");
    assert!(!place.path().join("ran").exists());
}

#[tokio::test]
async fn a_script_that_writes_without_end_does_not_fill_the_disk() {
    let place = Place::new();
    let command = place.script("yes | head -c 50000000; sleep 600", Duration::from_secs(5));
    let runner = place.runner("log-size = \"64KiB\"");
    let outcome = runner.run("x", &command, &[], Output::Kept).await.expect("a run");
    let length = fs::metadata(outcome.log.expect("a log")).expect("look").len();
    assert!(length <= 64 << 10, "{length} bytes");
}
