//! Checkers as tasks, of an application that is one file: as long as it is there, the checker's script succeeds.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::super::{Description, Paths};
use super::*;

struct Place {
    directory: tempfile::TempDir,
    application: Application,
}

const SCRIPT: &str = "#!/bin/sh\n[ -e works ] && exit 0\necho \"it is gone\"\nexit 1\n";

impl Place {
    /// With checkers of the type script, each with more keys.
    fn new(checkers: &[(&str, &str, &str)]) -> Place {
        let directory = tempfile::tempdir().expect("a directory");
        let mut text = "[module]\nname = \"m\"\n".to_owned();
        for (name, script, keys) in checkers {
            let path = directory.path().join(name);
            fs::write(&path, script).expect("write");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
            text.push_str(&format!(
                "[[checker]]\nname = {name:?}\ntype = \"script\"\nrun = \"./{name}\"\n{keys}\n"
            ));
        }
        let at = |name| directory.path().join(name);
        let paths = Paths { module: at(""), logs: at("log"), run: at("run") };
        let description = Arc::new(Description::parse(&text).expect("a description"));
        Place { application: Application::new(description, &paths), directory }
    }

    fn works(&self, works: bool) {
        let path = self.directory.path().join("works");
        if works {
            fs::write(path, "").expect("write");
        } else {
            let _ = fs::remove_file(path);
        }
    }

    fn start(&self, phase: Phase) -> (Checkers, mpsc::Receiver<CheckerEvent>) {
        let (sender, receiver) = mpsc::channel(16);
        (Checkers::start(&self.application, phase, &Circumstances::default(), &sender), receiver)
    }
}

const PRIMARY: Phase = Phase::Role(Role::Primary);
const QUICK: &str = "interval = \"20ms\"\ntimeout = \"20s\"\nfailures = 2";

async fn next(events: &mut mpsc::Receiver<CheckerEvent>) -> CheckerEvent {
    timeout(Duration::from_secs(60), events.recv()).await.expect("an event in time").expect("an event")
}

#[tokio::test]
async fn a_checker_tells_what_becomes_of_the_application() {
    let place = Place::new(&[("c", SCRIPT, QUICK)]);
    place.works(true);
    let (checkers, mut events) = place.start(PRIMARY);
    let up = next(&mut events).await;
    assert_eq!((up.checker.as_str(), up.verdict, up.action), ("c", Verdict::Up, None));
    place.works(false);
    let down = next(&mut events).await;
    assert_eq!((down.verdict, down.action), (Verdict::Down, Some(Action::Restart)));
    assert!(down.reason.contains("it is gone"), "{}", down.reason);
    // It stays so: the action is asked for again.
    assert_eq!(next(&mut events).await.action, Some(Action::Restart));
    place.works(true);
    let mut up = next(&mut events).await;
    while up.verdict == Verdict::Down {
        up = next(&mut events).await;
    }
    assert_eq!((up.verdict, up.action), (Verdict::Up, None));
    let status = checkers.status();
    assert_eq!(
        (status[0].kind, status[0].verdict, status[0].last.as_ref()),
        ("script", Verdict::Up, Some(&Observation::Success))
    );
}

#[tokio::test]
async fn one_that_hangs_is_down_and_holds_up_no_other() {
    let keys = "interval = \"20ms\"\ntimeout = \"200ms\"\nfailures = 2\naction = \"swap\"";
    let place = Place::new(&[("hangs", "#!/bin/sh\nexec sleep 600\n", keys), ("fine", SCRIPT, QUICK)]);
    place.works(true);
    let (checkers, mut events) = place.start(PRIMARY);
    let mut verdicts = std::collections::BTreeMap::new();
    while verdicts.len() < 2 {
        let event = next(&mut events).await;
        verdicts.insert(event.checker, (event.verdict, event.action));
    }
    assert_eq!(verdicts.get("fine"), Some(&(Verdict::Up, None)));
    assert_eq!(verdicts.get("hangs"), Some(&(Verdict::Down, Some(Action::Swap))));
    drop(checkers);
    // Its script is ended with it.
    for _ in 0..500 {
        if place.application.runner().running().expect("look").is_empty() {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("{:?}", place.application.runner().running());
}

#[tokio::test]
async fn under_maintenance_nothing_is_asked_for() {
    let place = Place::new(&[("c", SCRIPT, QUICK)]);
    let (checkers, mut events) = place.start(PRIMARY);
    checkers.set_maintenance(true);
    let down = next(&mut events).await;
    assert_eq!((down.verdict, down.action), (Verdict::Down, None));
    assert_eq!(checkers.status()[0].verdict, Verdict::Down);
    checkers.set_maintenance(false);
    assert_eq!(next(&mut events).await.action, Some(Action::Restart), "who is still down asks again");
}

#[tokio::test]
async fn preconditions_are_waited_for() {
    let pre = format!("{QUICK}\npre = true");
    let place = Place::new(&[("pre", SCRIPT, &pre), ("other", SCRIPT, QUICK)]);
    let (checkers, mut events) = place.start(Phase::Waiting);
    assert_eq!(checkers.status().len(), 1, "only what is to be met before the start");
    let down = next(&mut events).await;
    assert_eq!((down.verdict, down.action, down.pre), (Verdict::Down, None, true));
    assert!(!checkers.preconditions_met());
    place.works(true);
    assert_eq!(next(&mut events).await.verdict, Verdict::Up);
    assert!(checkers.preconditions_met());
}

#[tokio::test]
async fn each_role_has_its_checkers() {
    let both = format!("{QUICK}\nwhen = \"both\"");
    let secondary = format!("{QUICK}\nwhen = \"secondary\"");
    let place = Place::new(&[("p", SCRIPT, QUICK), ("s", SCRIPT, &secondary), ("b", SCRIPT, &both)]);
    let names = |phase| {
        let (checkers, _events) = place.start(phase);
        checkers.status().into_iter().map(|status| status.checker).collect::<Vec<_>>()
    };
    assert_eq!(names(PRIMARY), ["p", "b"]);
    assert_eq!(names(Phase::Role(Role::Secondary)), ["s", "b"]);
    assert!(names(Phase::Waiting).is_empty());
}

#[tokio::test]
async fn before_the_application_had_time_to_start_nobody_looks() {
    let keys = "interval = \"20ms\"\ninitial-delay = \"1h\"";
    let place = Place::new(&[("late", SCRIPT, keys), ("now", SCRIPT, QUICK)]);
    let (checkers, mut events) = place.start(PRIMARY);
    assert_eq!(next(&mut events).await.checker, "now");
    assert_eq!(checkers.status()[0].last, None);
}

#[tokio::test]
async fn nobody_listens_and_the_checkers_end() {
    let place = Place::new(&[("c", SCRIPT, QUICK)]);
    let (checkers, events) = place.start(PRIMARY);
    drop(events);
    for _ in 0..500 {
        if checkers.tasks.iter().all(AbortHandle::is_finished) {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("they still look");
}
