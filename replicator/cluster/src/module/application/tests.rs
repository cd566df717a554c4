//! With real scripts that write down what they were called for, and services that are played.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;

use super::*;
use crate::module::{Ended, ServiceFuture, UnitState};

/// Units that do as they are told, but for those that do not.
#[derive(Debug, Default)]
struct Played {
    log: Arc<Mutex<Vec<String>>>,
    failing: BTreeMap<&'static str, &'static str>,
}

impl Played {
    fn does(&self, order: &str, unit: &str) -> Result<(), ServiceError> {
        self.log.lock().expect("log").push(format!("{order} {unit}"));
        if self.failing.get(unit) == Some(&order) || self.failing.get(unit) == Some(&"all") {
            let (unit, message) = (unit.to_owned(), "played".to_owned());
            return Err(ServiceError::Refused { unit, what: "done", message });
        }
        Ok(())
    }
}

impl ServiceManager for Played {
    fn start<'a>(&'a self, unit: &'a str, _: Duration) -> ServiceFuture<'a, ()> {
        Box::pin(async move { self.does("start", unit) })
    }
    fn stop<'a>(&'a self, unit: &'a str, _: Duration) -> ServiceFuture<'a, ()> {
        Box::pin(async move { self.does("stop", unit) })
    }
    fn kill<'a>(&'a self, unit: &'a str, _: Duration) -> ServiceFuture<'a, ()> {
        Box::pin(async move { self.does("kill", unit) })
    }
    fn state<'a>(&'a self, _: &'a str) -> ServiceFuture<'a, UnitState> {
        Box::pin(async { Ok(UnitState::default()) })
    }
    fn set_enabled<'a>(&'a self, _: &'a str, _: bool) -> ServiceFuture<'a, ()> {
        Box::pin(async { Ok(()) })
    }
}

struct Place {
    directory: tempfile::TempDir,
    log: Arc<Mutex<Vec<String>>>,
}

impl Place {
    fn new() -> Place {
        Place { directory: tempfile::tempdir().expect("a directory"), log: Arc::default() }
    }

    /// A module whose scripts all run `script`; with what is said about the services.
    fn application(
        &self,
        names: &[&str],
        script: &str,
        units: &str,
        failing: &[(&'static str, &'static str)],
    ) -> Application {
        let path = self.directory.path().join("script");
        let head =
            "#!/bin/sh\necho \"$REPLICATOR_SCRIPT$([ $REPLICATOR_FORCE = 0 ] || echo ' force')\" >> done\n";
        fs::write(&path, format!("{head}{script}\n")).expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
        let scripts: String = names.iter().map(|name| format!("{name} = \"./script\"\n")).collect();
        let text = format!(
            "[module]\nname = \"m\"\n[scripts]\ntimeout = \"60s\"\ngrace = \"200ms\"\n{scripts}\n[services]\nunits = [{units}]"
        );
        let description = Arc::new(Description::parse(&text).expect("a description"));
        let services = Played { log: Arc::clone(&self.log), failing: failing.iter().copied().collect() };
        Application::with_services(description, &self.paths(), Arc::new(services))
    }

    fn paths(&self) -> Paths {
        let at = |name| self.directory.path().join(name);
        Paths { module: at(""), logs: at("log"), run: at("run") }
    }

    /// The scripts that ran since the last time.
    fn ran(&self) -> Vec<String> {
        let path = self.directory.path().join("done");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        text.lines().map(str::to_owned).collect()
    }

    /// What the services were told since the last time.
    fn told(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().expect("log"))
    }
}

fn circumstances() -> Circumstances {
    Circumstances { node: "alpha".into(), reason: "a test".into(), ..Circumstances::default() }
}

const ALL: &[&str] =
    &["prestart", "start-primary", "stop-primary", "start-secondary", "stop-secondary", "poststop"];

#[tokio::test]
async fn a_life() {
    let place = Place::new();
    let mut application = place.application(ALL, "", "\"a\", \"b\"", &[]);
    let now = circumstances();
    application.prepare(&now).await.expect("prepare");
    assert_eq!(place.ran(), ["prestart"]);
    assert_eq!(place.told(), ["stop b.service", "stop a.service"]);

    application.start(Role::Secondary, &now).await.expect("start");
    assert_eq!(application.state(), State::Started(Role::Secondary));
    let refused = application.start(Role::Primary, &now).await.err();
    assert!(matches!(refused, Some(ApplicationError::StopFirst { role: Role::Secondary })));
    application.stop(&now, false).await.expect("stop");
    assert_eq!(place.ran(), ["start-secondary", "stop-secondary"]);
    assert!(place.told().is_empty(), "a secondary has no services");

    application.start(Role::Primary, &now).await.expect("start");
    let refused = application.start(Role::Primary, &now).await.err();
    assert!(matches!(refused, Some(ApplicationError::AlreadyStarted { role: Role::Primary })));
    let report = application.stop(&now, false).await.expect("stop").clone();
    let names: Vec<&str> = report.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!((names, report.forced), (vec!["b.service", "a.service", "stop-primary"], false));
    application.finish(&now).await.expect("finish");
    assert_eq!(place.ran(), ["start-primary", "stop-primary", "poststop"]);
    assert_eq!(place.told(), ["start a.service", "start b.service", "stop b.service", "stop a.service"]);

    application.stop(&now, false).await.expect("stop");
    assert!(place.ran().is_empty() && place.told().is_empty(), "what is stopped is left alone");
}

#[tokio::test]
async fn nothing_is_started_before_everything_was_stopped() {
    let place = Place::new();
    let mut application = place.application(&["start-primary", "stop-primary"], "", "", &[]);
    application.start(Role::Primary, &circumstances()).await.expect("start");
    assert_eq!(place.ran(), ["stop-primary", "start-primary"]);
}

#[tokio::test]
async fn what_does_not_stop_is_stopped_by_force() {
    let place = Place::new();
    let script = "[ $REPLICATOR_SCRIPT = start-primary ] || [ $REPLICATOR_FORCE = 1 ]";
    let mut application = place.application(ALL, script, "\"a\", \"b\"", &[("b.service", "stop")]);
    application.adopt(Role::Primary);
    let report = application.stop(&circumstances(), false).await.expect("stop").clone();
    assert!(report.forced);
    assert_eq!(place.ran(), ["stop-primary", "stop-primary force"]);
    assert_eq!(place.told(), ["stop b.service", "kill b.service", "stop a.service"]);
    assert_eq!(application.state(), State::Stopped);
}

#[tokio::test]
async fn what_hangs_is_stopped_by_force() {
    let place = Place::new();
    let script = "[ $REPLICATOR_FORCE = 1 ] || exec sleep 600";
    let mut application = place.application(&["stop-primary"], script, "", &[]);
    let mut description = (*application.description).clone();
    for command in description.scripts.commands.values_mut() {
        command.timeout = Duration::from_millis(300);
    }
    application.description = Arc::new(description);
    application.adopt(Role::Primary);
    let report = application.stop(&circumstances(), false).await.expect("stop").clone();
    let first = report.steps.first().and_then(|step| step.outcome.as_ref()).map(|outcome| outcome.ended);
    assert_eq!(first, Some(Ended::TimedOut { killed: false, remains: false }));
    assert_eq!(place.ran(), ["stop-primary", "stop-primary force"]);
}

#[tokio::test]
async fn force_at_once_asks_nobody() {
    let place = Place::new();
    let mut application = place.application(ALL, "", "\"a\"", &[]);
    application.adopt(Role::Primary);
    application.stop(&circumstances(), true).await.expect("stop");
    assert_eq!(place.ran(), ["stop-primary force"]);
    assert_eq!(place.told(), ["kill a.service"]);
}

#[tokio::test]
async fn what_cannot_be_stopped_hinders_no_other_step_and_no_start_follows() {
    let place = Place::new();
    let mut application = place.application(
        ALL,
        "[ $REPLICATOR_SCRIPT != prestart ] || exit 9",
        "\"a\", \"b\"",
        &[("b.service", "all")],
    );
    application.adopt(Role::Primary);
    let failed = application.stop(&circumstances(), false).await.err();
    assert!(matches!(failed, Some(ApplicationError::Service(_))), "{failed:?}");
    assert_eq!(place.told(), ["stop b.service", "kill b.service", "stop a.service"]);
    assert_eq!(place.ran(), ["stop-primary"]);
    assert_eq!(application.state(), State::Unknown);
    let refused = application.start(Role::Primary, &circumstances()).await.err();
    assert!(matches!(refused, Some(ApplicationError::Service(_))), "{refused:?}");
    assert!(place.ran().is_empty(), "start-primary was not run");
}

#[tokio::test]
async fn a_start_that_fails_says_why_and_leaves_the_rest_alone() {
    let place = Place::new();
    let script = "[ $REPLICATOR_SCRIPT != start-primary ] || { echo 'no licence'; exit 5; }";
    let mut application = place.application(ALL, script, "\"a\"", &[]);
    application.prepare(&circumstances()).await.expect("prepare");
    place.told();
    let failed = application.start(Role::Primary, &circumstances()).await.map(|_| ()).expect_err("fails");
    assert!(
        matches!(&failed, ApplicationError::Script { outcome } if outcome.ended == Ended::Failed { code: 5 }
            && outcome.last_line.as_deref() == Some("no licence")),
        "{failed}"
    );
    assert!(place.told().is_empty(), "no service was started");
    assert_eq!(application.state(), State::Unknown);
    place.ran();
    application.stop(&circumstances(), false).await.expect("stop");
    assert_eq!(place.ran(), ["stop-secondary", "stop-primary"]);
    assert_eq!(place.told(), ["stop a.service"]);
}

#[tokio::test]
async fn a_service_that_fails_stops_the_start_there() {
    let place = Place::new();
    let mut application = place.application(&[], "", "\"a\", \"b\", \"c\"", &[("b.service", "start")]);
    application.prepare(&circumstances()).await.expect("prepare");
    place.told();
    let failed = application.start(Role::Primary, &circumstances()).await.err();
    assert!(matches!(failed, Some(ApplicationError::Service(_))), "{failed:?}");
    assert_eq!(place.told(), ["start a.service", "start b.service"]);
}

#[tokio::test]
async fn a_start_that_is_given_up_leaves_nothing_behind() {
    let place = Place::new();
    let script = "[ $REPLICATOR_SCRIPT != start-primary ] || { touch begun; exec sleep 600; }";
    let mut application = place.application(ALL, script, "", &[]);
    application.prepare(&circumstances()).await.expect("prepare");
    let begun = place.directory.path().join("begun");
    let now = circumstances();
    tokio::select! {
        _ = application.start(Role::Primary, &now) => panic!("it does not end"),
        () = async { while !begun.exists() { sleep(Duration::from_millis(20)).await } } => {}
    }
    assert_eq!(application.state(), State::Unknown);
    application.stop(&circumstances(), false).await.expect("stop");
    assert!(application.runner.running().expect("look").is_empty());
    assert_eq!(application.state(), State::Stopped);
}
