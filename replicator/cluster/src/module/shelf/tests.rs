//! Modules in directories of the test.

use std::os::unix::fs::symlink;
use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::module::{ServiceError, ServiceFuture, ServiceManager, Systemctl, UnitState};

/// Units as they are written down: name, whether it is there, whether it starts at boot.
#[derive(Debug, Default)]
struct Played {
    units: Mutex<Vec<(String, bool, bool)>>,
}

impl Played {
    fn new(units: &[(&str, bool, bool)]) -> Played {
        Played { units: Mutex::new(units.iter().map(|unit| (unit.0.to_owned(), unit.1, unit.2)).collect()) }
    }

    fn at_boot(&self) -> Vec<String> {
        let units = self.units.lock().expect("units");
        units.iter().filter(|unit| unit.2).map(|unit| unit.0.clone()).collect()
    }
}

impl ServiceManager for Played {
    fn start<'a>(&'a self, _: &'a str, _: Duration) -> ServiceFuture<'a, ()> {
        Box::pin(async { Ok(()) })
    }
    fn stop<'a>(&'a self, _: &'a str, _: Duration) -> ServiceFuture<'a, ()> {
        Box::pin(async { Ok(()) })
    }
    fn kill<'a>(&'a self, _: &'a str, _: Duration) -> ServiceFuture<'a, ()> {
        Box::pin(async { Ok(()) })
    }
    fn state<'a>(&'a self, unit: &'a str) -> ServiceFuture<'a, UnitState> {
        Box::pin(async move {
            let units = self.units.lock().expect("units");
            let found = units.iter().find(|known| known.0 == unit && known.1);
            Ok(UnitState {
                load: if found.is_some() { "loaded" } else { "not-found" }.into(),
                active: "inactive".into(),
                enabled: if found.is_some_and(|unit| unit.2) { "enabled" } else { "disabled" }.into(),
                ..UnitState::default()
            })
        })
    }
    fn set_enabled<'a>(&'a self, name: &'a str, enabled: bool) -> ServiceFuture<'a, ()> {
        Box::pin(async move {
            let mut units = self.units.lock().expect("units");
            match units.iter_mut().find(|unit| unit.0 == name && unit.1) {
                Some(unit) => unit.2 = enabled,
                None => return Err(ServiceError::NoUnit { unit: name.into(), load: "not-found".into() }),
            }
            Ok(())
        })
    }
}

fn module(parent: &Path, name: &str, more: &str) -> PathBuf {
    let directory = parent.join(name);
    fs::create_dir_all(directory.join("scripts")).expect("create");
    fs::write(directory.join(MODULE_FILE), format!("[module]\nname = {name:?}\n{more}")).expect("write");
    for (path, mode) in [(directory.clone(), 0o755), (directory.join(MODULE_FILE), 0o644)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
    }
    script(&directory, "start", "#!/bin/sh\n", 0o775);
    directory
}

fn script(directory: &Path, name: &str, text: &str, mode: u32) {
    let path = directory.join("scripts").join(name);
    fs::write(&path, text).expect("write");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
}

#[test]
fn modules_are_installed_listed_replaced_and_removed() {
    let place = tempfile::tempdir().expect("a directory");
    let shelf = Shelf::at(place.path().join("etc/modules"));
    assert!(shelf.list().expect("list").is_empty(), "the directory need not be there");
    let first = module(&place.path().join("first"), "shop", "description = \"first\"");
    let second = module(&place.path().join("second"), "shop", "description = \"second\"");
    shelf.install(&first, false).expect("install");
    assert!(matches!(shelf.install(&second, false), Err(ShelfError::Exists { .. })));
    assert_eq!(shelf.load("shop").expect("load").description, "first");
    let mode = fs::metadata(shelf.path("shop").join("scripts/start")).expect("look").mode();
    assert_eq!(mode & 0o777, 0o755, "nobody else may write to what runs as root");
    shelf.install(&second, true).expect("install");
    assert_eq!(shelf.load("shop").expect("load").description, "second");
    let names: Vec<String> = shelf.list().expect("list").into_iter().map(|module| module.name).collect();
    assert_eq!(names, ["shop"], "what is kept is not listed");
    shelf.remove("shop").expect("remove");
    assert!(matches!(shelf.load("shop"), Err(ShelfError::NoModule { .. })));
    assert!(matches!(shelf.load("../shop"), Err(ShelfError::NoModule { .. })));
}

#[test]
fn a_module_that_is_refused_hides_no_other() {
    let place = tempfile::tempdir().expect("a directory");
    module(place.path(), "good", "");
    module(place.path(), "bad", "nonsense = 1");
    let listed = Shelf::at(place.path()).list().expect("list");
    let found: Vec<(&str, bool)> =
        listed.iter().map(|module| (module.name.as_str(), module.description.is_ok())).collect();
    assert_eq!(found, [("bad", false), ("good", true)]);
}

#[test]
fn what_does_not_belong_in_a_module_is_not_installed_and_nothing_is_left() {
    let place = tempfile::tempdir().expect("a directory");
    let shelf = Shelf::at(place.path().join("modules"));
    let with_link = module(&place.path().join("a"), "shop", "");
    symlink("/etc/shadow", with_link.join("scripts/shadow")).expect("link");
    assert!(matches!(shelf.install(&with_link, false), Err(ShelfError::Kind { .. })));
    let large = module(&place.path().join("b"), "shop", "");
    fs::write(large.join("image"), vec![0; 17 << 20]).expect("write");
    assert!(matches!(shelf.install(&large, false), Err(ShelfError::TooLarge { .. })));
    let left: Vec<_> = fs::read_dir(place.path().join("modules")).expect("list").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_new_module_is_whole() {
    let place = tempfile::tempdir().expect("a directory");
    let directory = Shelf::init(place.path(), "my-shop").expect("init");
    let description = Description::load(&directory).expect("a module");
    assert_eq!(description.name, "my-shop");
    let findings = check(&description, &directory, &Systemctl::default()).await;
    let expected = Finding::DirectoryMissing { path: "/srv/application".into() };
    assert!(findings.errors.iter().all(|finding| *finding == expected), "{findings:?}");
    assert!(matches!(Shelf::init(place.path(), "my-shop"), Err(ShelfError::Exists { .. })));
    assert!(matches!(Shelf::init(place.path(), "../x"), Err(ShelfError::Name { .. })));
}

#[tokio::test]
async fn what_is_wrong_with_a_module_is_found() {
    let place = tempfile::tempdir().expect("a directory");
    let more = "[[directory]]\npath = \"/there/is/none\"\n[[address]]\naddress = \"10.0.0.1/8\"\ninterface = \"none0\"\n\
                [scripts]\nprestart = \"scripts/none\"\nstart-primary = \"scripts/plain\"\nstart-secondary = \"scripts/open\"\n\
                stop-secondary = [\"there-is-no-such-program\"]\npoststop = \"scripts/strange\"\n\
                [services]\nunits = [\"a\", \"b\", \"c\"]";
    let directory = module(place.path(), "shop", more);
    script(&directory, "plain", "#!/bin/sh\n", 0o644);
    script(&directory, "open", "echo\n", 0o777);
    script(&directory, "strange", "#!/usr/bin/there-is-none -x\n", 0o755);
    let services = Played::new(&[("a.service", true, false), ("b.service", true, true)]);
    let description = Description::load(&directory).expect("a module");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).expect("chmod");
    let findings = check(&description, &directory, &services).await;
    let path = |name| directory.join("scripts").join(name);
    let expected = [
        Finding::Writable { script: "module.toml".into(), path: directory.clone() },
        Finding::ScriptMissing { script: "prestart".into(), path: path("none") },
        Finding::NotExecutable { script: "start-primary".into(), path: path("plain") },
        Finding::Writable { script: "start-secondary".into(), path: path("open") },
        Finding::ProgramMissing {
            script: "stop-secondary".into(),
            program: "there-is-no-such-program".into(),
        },
        Finding::InterpreterMissing {
            script: "poststop".into(),
            path: path("strange"),
            interpreter: "/usr/bin/there-is-none".into(),
        },
        Finding::NoStop { start: "start-primary", stop: "stop-primary" },
        Finding::DirectoryMissing { path: "/there/is/none".into() },
        Finding::UnitMissing { unit: "c.service".into(), load: "not-found".into() },
    ];
    assert_eq!(findings.errors, expected);
    let expected = [
        Finding::NoInterpreter { script: "start-secondary".into(), path: path("open") },
        Finding::StartsAtBoot { unit: "b.service".into() },
        Finding::InterfaceMissing { interface: "none0".into() },
        Finding::NoChecker,
    ];
    assert_eq!(findings.warnings, expected);
    assert!(!findings.usable());
}

#[tokio::test]
async fn the_start_at_boot_is_taken_over_and_given_back() {
    let place = tempfile::tempdir().expect("a directory");
    let directory = module(place.path(), "shop", "[services]\nunits = [\"a\", \"b\"]");
    let description = Description::load(&directory).expect("a module");
    let services = Played::new(&[("a.service", true, true), ("b.service", true, false)]);
    let boot = BootState::at(place.path().join("state/boot.toml"));
    let disabled = Switched { disabled: vec!["a.service".to_owned()], enabled: Vec::new() };
    assert_eq!(boot.take_over(&description, &services).await.expect("take over"), disabled);
    assert!(services.at_boot().is_empty());
    // Once more changes nothing and forgets nothing.
    assert_eq!(boot.take_over(&description, &services).await.expect("take over"), Switched::default());
    assert_eq!(boot.give_back(&services).await.expect("give back"), ["a.service"]);
    assert_eq!(services.at_boot(), ["a.service"]);
    assert!(boot.give_back(&services).await.expect("give back").is_empty());
}

#[tokio::test]
async fn a_unit_that_is_no_longer_the_modules_starts_at_boot_as_before() {
    let place = tempfile::tempdir().expect("a directory");
    let description = |units: &str| {
        let directory = module(place.path(), "shop", &format!("[services]\nunits = [{units}]"));
        Description::load(&directory).expect("a module")
    };
    let services =
        Played::new(&[("a.service", true, true), ("b.service", true, true), ("c.service", true, false)]);
    let boot = BootState::at(place.path().join("state/boot.toml"));
    boot.take_over(&description("\"a\", \"c\""), &services).await.expect("take over");
    assert_eq!(services.at_boot(), ["b.service"]);
    let switched = boot.take_over(&description("\"b\", \"c\""), &services).await.expect("take over");
    assert_eq!(
        switched,
        Switched { disabled: vec!["b.service".to_owned()], enabled: vec!["a.service".to_owned()] }
    );
    assert_eq!(services.at_boot(), ["a.service"]);
    assert_eq!(boot.give_back(&services).await.expect("give back"), ["b.service"]);
    assert_eq!(services.at_boot(), ["a.service", "b.service"], "what did not start before does not now");
}
