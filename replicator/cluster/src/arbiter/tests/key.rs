//! The key file: what is written is read, what others can read or what is something else is refused.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use crate::arbiter::{ClusterId, KeyError, WitnessId, WitnessKey};

#[test]
fn a_key_file_is_read_as_it_was_written_and_only_if_it_is_its_owners() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let key = WitnessKey::draw(ClusterId([1; 16]), WitnessId([2; 16])).unwrap();
    fs::write(&path, key.to_file()).unwrap();
    for mode in [0o640, 0o604, 0o660, 0o601] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        assert!(matches!(WitnessKey::read(&path), Err(KeyError::Exposed { .. })), "mode {mode:o}");
    }
    for mode in [0o600, 0o400] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        assert_eq!(WitnessKey::read(&path).unwrap(), key);
    }
    assert!(matches!(WitnessKey::read(&directory.path().join("none")), Err(KeyError::Read { .. })));
}

#[test]
fn another_file_is_not_taken_for_a_key() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let good = WitnessKey::draw(ClusterId([1; 16]), WitnessId([2; 16])).unwrap().to_file();
    let cut = good.len() - 2;
    let texts = [
        String::new(),
        good[..cut].to_owned(),
        good.replace("key 1", "key 2"),
        good.replace("cluster", "clutter"),
        good.replace("witness 02", "witness 2"),
        format!("{good}more\n"),
        format!("{good}{good}"),
        "x".repeat(10_000),
    ];
    for text in texts {
        fs::write(&path, &text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(WitnessKey::read(&path), Err(KeyError::Form { .. })), "{text:?}");
    }
}

#[test]
fn a_key_is_not_shown() {
    let key = WitnessKey::draw(ClusterId([1; 16]), WitnessId([2; 16])).unwrap();
    let secret = key.to_file().lines().last().unwrap().trim_start_matches("key ").to_owned();
    assert_eq!(secret.len(), 64);
    let shown = format!("{key:?}");
    assert!(!shown.contains(&secret) && !shown.contains(&format!("{:?}", key.secret())), "{shown}");
}
