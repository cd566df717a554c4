//! The modules that come with the project: each is understood, whole, and explains itself; the generic one works as it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use replicator_cluster::module::{
    Application, Circumstances, Description, Failback, Finding, MODULE_FILE, Paths, ProbeDescription, Role,
    Shelf, State, Systemctl, check,
};

/// Every module there must be.
const MODULES: &[&str] = &[
    "apache",
    "docker",
    "k3s",
    "libvirt-kvm",
    "mariadb",
    "mirror",
    "mysql",
    "nginx",
    "podman",
    "postgresql",
    "redis",
    "sqlite-app",
];
/// What each README tells.
const SECTIONS: &[&str] = &[
    "## Directories",
    "## Services",
    "## Checkers",
    "## Durability",
    "## To do on installation, on both nodes",
];

fn place() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../modules")
}

fn modules() -> Vec<(PathBuf, Description)> {
    let listed = Shelf::at(place()).list().expect("the modules");
    listed
        .into_iter()
        .map(|module| {
            let description = module.description.unwrap_or_else(|error| panic!("{error}"));
            (place().join(module.name), description)
        })
        .collect()
}

#[test]
fn all_are_there_and_understood() {
    let names: Vec<String> = modules().into_iter().map(|(_, description)| description.name).collect();
    assert_eq!(names, MODULES);
}

#[test]
fn each_has_what_a_module_needs() {
    for (path, module) in modules() {
        let name = &module.name;
        assert!(!module.description.is_empty(), "{name}: a description");
        assert_eq!(
            module.failback,
            Failback::Manual,
            "{name}: nothing moves by itself unless somebody says so"
        );
        assert!(!module.directories.is_empty(), "{name}: directories");
        assert!(module.addresses.is_empty(), "{name}: an address that is nobody's own is not configured");
        let kind = |probe: &ProbeDescription| matches!(probe, ProbeDescription::Disk { .. });
        assert!(
            module.checkers.iter().any(|checker| !kind(&checker.probe)),
            "{name}: a checker of the application"
        );
        let watched = module.checkers.iter().filter_map(|checker| match &checker.probe {
            ProbeDescription::Disk { path, .. } => Some(path),
            _ => None,
        });
        for watched in watched {
            assert!(
                module.directories.iter().any(|directory| directory.path == *watched),
                "{name}: {}",
                watched.display()
            );
        }
        let readme = fs::read_to_string(path.join("README.md")).expect("a README");
        assert!(readme.starts_with(&format!("# {name}")), "{name}: the README's title");
        if name != "mirror" {
            for section in SECTIONS {
                assert!(readme.contains(section), "{name}: {section}");
            }
        }
        for checker in module.checkers {
            let told = readme.contains(&format!("* `{}`", checker.name));
            assert!(told || name == "mirror", "{name}: the README tells of the checker {}", checker.name);
        }
    }
}

#[tokio::test]
async fn nothing_is_wrong_with_them_but_what_is_not_installed_here() {
    let here = tempfile::tempdir().expect("a directory");
    let shelf = Shelf::at(here.path().join("modules"));
    for (path, _) in modules() {
        let module = shelf.install(&path, false).expect("installed");
        let findings = check(&module, &shelf.path(&module.name), &Systemctl::default()).await;
        let installed = |finding: &&Finding| {
            !matches!(
                finding,
                Finding::DirectoryMissing { .. }
                    | Finding::UnitMissing { .. }
                    | Finding::UnitUnknown { .. }
                    | Finding::StartsAtBoot { .. }
            )
        };
        let wrong: Vec<String> = findings
            .errors
            .iter()
            .chain(&findings.warnings)
            .filter(installed)
            .map(ToString::to_string)
            .collect();
        assert!(wrong.is_empty(), "{}: {wrong:?}", module.name);
    }
}

#[test]
fn their_scripts_are_understood_by_the_shell() {
    let mut scripts = 0;
    for (path, _) in modules() {
        for entry in fs::read_dir(path.join("scripts")).into_iter().flatten() {
            let script = entry.expect("a script").path();
            let checked = Command::new("sh").arg("-n").arg(&script).output().expect("sh");
            assert!(
                checked.status.success(),
                "{}: {}",
                script.display(),
                String::from_utf8_lossy(&checked.stderr)
            );
            scripts += 1;
        }
    }
    assert!(scripts > 10, "only {scripts} scripts were found");
}

/// A copy of a module in a directory of the test, with other variables.
fn copy(name: &str, to: &Path, environment: &[(&str, String)]) -> (Description, Paths) {
    let shelf = Shelf::at(to.join("modules"));
    let mut description = shelf.install(&place().join(name), false).expect("installed");
    for (variable, value) in environment {
        let known = description.environment.insert((*variable).to_owned(), value.clone());
        assert!(known.is_some(), "{name} has no {variable}");
    }
    assert!(shelf.path(name).join(MODULE_FILE).exists());
    let paths = Paths { module: shelf.path(name), logs: to.join("log"), run: to.join("run") };
    (description, paths)
}

fn alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// An application that writes where it was told, and listens to SIGTERM or not.
fn application(place: &Path, listens: bool) -> String {
    let path = place.join("application");
    let trap = if listens { "" } else { "trap '' TERM\n" };
    let text = format!("#!/bin/sh\n{trap}touch {}/began\nwhile :; do sleep 0.1; done\n", place.display());
    fs::write(&path, text).expect("write");
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    path.display().to_string()
}

#[tokio::test]
async fn the_generic_module_starts_and_stops_an_application() {
    for listens in [true, false] {
        let place = tempfile::tempdir().expect("a directory");
        let pid_file = place.path().join("pid");
        let environment = [
            ("APPLICATION", application(place.path(), listens)),
            ("PID_FILE", pid_file.display().to_string()),
        ];
        let (mut description, paths) = copy("mirror", place.path(), &environment);
        if !listens {
            for command in description.scripts.commands.values_mut() {
                command.timeout = Duration::from_secs(2);
            }
        }
        let mut application = Application::new(Arc::new(description), &paths);
        let now = Circumstances::default();
        application.start(Role::Primary, &now).await.expect("start");
        let pid = fs::read_to_string(&pid_file).expect("a pid");
        while !place.path().join("began").exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(alive(&pid));

        // Another life of the node finds it, and does not start a second one beside it.
        let mut other = Application::new(Arc::clone(application.description()), &paths);
        let report = other.prepare(&now).await.expect("prepare").clone();
        assert_eq!(report.forced, !listens, "{report:?}");
        assert!(!alive(&pid));
        assert!(!pid_file.exists());

        other.start(Role::Primary, &now).await.expect("start");
        let pid = fs::read_to_string(&pid_file).expect("a pid");
        other.stop(&now, true).await.expect("stop");
        assert!(!alive(&pid));
        assert_eq!(other.state(), State::Stopped);
    }
}
