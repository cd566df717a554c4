//! systemctl is played by a script that keeps the states of units in files; the true one is asked where systemd runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::*;

const LIMIT: Duration = Duration::from_secs(20);

/// A systemd of files: `<unit>` holds the active state, `<unit>.boot` the state of the unit file. The orders are in `orders`.
const PLAYED: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 1
for unit; do :; done
echo "$*" >> orders
case "$1" in
show)
    if [ -e "$unit" ]; then echo LoadState=loaded; else echo LoadState=not-found; fi
    echo "ActiveState=$(cat "$unit" 2>/dev/null || echo inactive)"
    echo SubState=played
    echo "UnitFileState=$(cat "$unit.boot" 2>/dev/null)" ;;
start)
    case "$unit" in
    refused*) echo "Job for $unit failed." >&2; exit 1 ;;
    dies*) echo failed > "$unit" ;;
    hangs*) exec sleep 600 ;;
    *) echo active > "$unit" ;;
    esac ;;
stop)
    case "$unit" in deaf*) [ "$2" = --no-block ] || exec sleep 600 ;; *) echo inactive > "$unit" ;; esac ;;
kill) echo failed > "$unit" ;;
enable) echo enabled > "$unit.boot" ;;
disable) echo disabled > "$unit.boot" ;;
reset-failed) exit 1 ;;
esac
"#;

struct Played {
    directory: tempfile::TempDir,
    manager: Systemctl,
}

impl Played {
    fn new(units: &[(&str, &str)]) -> Played {
        let directory = tempfile::tempdir().expect("a directory");
        let program = directory.path().join("systemctl");
        fs::write(&program, PLAYED).expect("write");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
        for (unit, state) in units {
            fs::write(directory.path().join(unit), state).expect("write");
        }
        let manager = Systemctl::with(program, directory.path().into());
        Played { directory, manager }
    }

    fn state(&self, unit: &str) -> String {
        fs::read_to_string(self.directory.path().join(unit)).unwrap_or_default().trim().to_owned()
    }
}

#[tokio::test]
async fn a_unit_is_started_and_stopped() {
    let played = Played::new(&[("a.service", "inactive")]);
    played.manager.start("a.service", LIMIT).await.expect("start");
    assert_eq!(played.state("a.service"), "active");
    assert!(played.manager.state("a.service").await.expect("state").is_active());
    played.manager.stop("a.service", LIMIT).await.expect("stop");
    assert_eq!(played.state("a.service"), "inactive");
}

#[tokio::test]
async fn what_is_refused_is_told_with_its_reason() {
    let played = Played::new(&[("refused.service", "inactive"), ("dies.service", "inactive")]);
    let refused = played.manager.start("refused.service", LIMIT).await;
    assert!(
        matches!(&refused, Err(ServiceError::Refused { message, .. }) if message == "Job for refused.service failed."),
        "{refused:?}"
    );
    let died = played.manager.start("dies.service", LIMIT).await;
    assert!(matches!(&died, Err(ServiceError::NotAsAsked { active, .. }) if active == "failed"), "{died:?}");
    let none = played.manager.start("none.service", LIMIT).await;
    assert!(matches!(none, Err(ServiceError::NoUnit { .. })), "{none:?}");
    // Stopped is what it is to be.
    played.manager.stop("none.service", LIMIT).await.expect("stop");
}

#[tokio::test]
async fn what_hangs_is_given_up() {
    let played = Played::new(&[("hangs.service", "inactive"), ("deaf.service", "active")]);
    let limit = Duration::from_millis(300);
    let hung = played.manager.start("hangs.service", limit).await;
    assert!(matches!(hung, Err(ServiceError::TimedOut { .. })), "{hung:?}");
    let deaf = played.manager.stop("deaf.service", limit).await;
    assert!(matches!(deaf, Err(ServiceError::TimedOut { .. })), "{deaf:?}");
    played.manager.kill("deaf.service", LIMIT).await.expect("kill");
    assert_eq!(played.state("deaf.service"), "failed");
}

#[tokio::test]
async fn boot_start_is_switched() {
    let played = Played::new(&[("a.service", "inactive")]);
    played.manager.set_enabled("a.service", true).await.expect("enable");
    assert!(played.manager.state("a.service").await.expect("state").starts_at_boot());
    played.manager.set_enabled("a.service", false).await.expect("disable");
    assert!(!played.manager.state("a.service").await.expect("state").starts_at_boot());
}

#[tokio::test]
async fn a_name_is_never_an_option() {
    let played = Played::new(&[]);
    let _ = played.manager.state("--force").await;
    assert!(played.state("orders").ends_with("-- --force"), "{}", played.state("orders"));
}

#[tokio::test]
async fn without_systemd_that_is_said() {
    let manager = Systemctl::with("systemctl".into(), "/nonexistent/systemd".into());
    let refused = manager.start("a.service", LIMIT).await;
    assert!(matches!(refused, Err(ServiceError::NotThere { .. })), "{refused:?}");
}

#[tokio::test]
async fn the_true_systemd_answers() {
    if !std::path::Path::new("/run/systemd/system").is_dir() {
        eprintln!("not run: systemd does not run on this machine");
        return;
    }
    let manager = Systemctl::default();
    let state = manager.state("-.mount").await.expect("a state");
    assert!(state.is_there() && state.is_active(), "{state:?}");
    let state = manager.state("there-is-none-such.service").await.expect("a state");
    assert!(!state.is_there() && state.is_stopped(), "{state:?}");
}
