//! A bundle of a node with everything in it, and what is not in it.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::SystemTime;

use super::*;
use crate::membership::{Founding, Membership, NewNode, Policy, TokenOrder};

/// Bytes that are not there by chance, if they are not always the same (room that is not used).
const WINDOW: usize = 12;
const DIFFERENT: usize = 4;

fn places(place: &Path) -> Places {
    let below = |name| place.join(name);
    Places {
        cluster: below("cluster"),
        modules: below("modules"),
        state: below("state"),
        run: below("run"),
        logs: below("logs"),
    }
}

/// A member of a cluster with a token out, a key of an arbiter, and a module that ran.
fn equip(places: &Places) {
    let node = NewNode {
        name: "alpha".to_owned(),
        heartbeat: [("lan".to_owned(), "10.0.0.1:7410".parse().unwrap())].into(),
        control: "10.0.0.1:7411".parse().unwrap(),
        mirror: vec!["10.0.0.1".parse().unwrap()],
    };
    let founding = Founding { cluster: "shop".to_owned(), policy: Policy::Manual, arbiter: None, node };
    let now = SystemTime::now();
    let mut membership = Membership::found(&places.cluster, founding, now).unwrap();
    let order = TokenOrder {
        addresses: vec!["10.0.0.1:7413".parse().unwrap()],
        lifetime: std::time::Duration::from_secs(60),
        replaces: None,
    };
    membership.issue_token(order, now).unwrap();
    put(&places.cluster.join("arbiter.key"), "arbiter-key-arbiter-key-arbiter-key");
    put(
        &places.modules.join("web/module.toml"),
        "[module]\nname = \"web\"\n[environment]\nPGPASSWORD = \"environment-secret-environment\"\n",
    );
    put(&places.modules.join("web/scripts/key.pem"), "-----BEGIN PRIVATE KEY----- of the application itself");
    put(
        &places.run.join("web/mirror.toml"),
        "[link]\ncluster-key-file = \"/etc/replicator/cluster/mirror.key\"\n",
    );
    put(&places.state.join("web/standing.json"), "{\"started\":true,\"was-active\":true}\n");
    put(&places.state.join("web/events.jsonl"), "{\"at\":1}\n");
    put(&places.logs.join("web/start-primary@1.log"), "started\n");
}

fn put(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

async fn all(places: &Places) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for name in pieces(places).await.unwrap() {
        let text = match piece(places, &name).await.unwrap() {
            Told::Text(text) => text,
            Told::ByMirror(module) => format!("the mirror of {module}"),
        };
        found.push((name, text));
    }
    found
}

#[tokio::test]
async fn everything_that_helps_is_in_it() {
    let place = tempfile::tempdir().unwrap();
    let places = places(place.path());
    equip(&places);
    let found = all(&places).await;
    let has = |name: &str, part: &str| {
        let text = found.iter().find(|(known, _)| known == name).map(|(_, text)| text.as_str());
        assert!(text.is_some_and(|text| text.contains(part)), "{name}: {text:?}");
    };
    has("versions", env!("CARGO_PKG_VERSION"));
    has("uname", "Linux");
    has("mounts", " / ");
    has("kernel", "/dev/fuse");
    has("cluster.toml", "alpha");
    has("modules/web/module.toml", "PGPASSWORD = \"(left out)\"");
    has("modules/web/mirror.toml", "/etc/replicator/cluster/mirror.key");
    has("modules/web/standing.json", "started");
    has("modules/web/events.jsonl", "at");
    has("modules/web/logs/start-primary@1.log", "started");
    has("modules/web/mirror.json", "the mirror of web");
    assert!(found.iter().any(|(name, _)| name == "journal"));
}

#[tokio::test]
async fn no_byte_of_a_secret_is_in_it() {
    let place = tempfile::tempdir().unwrap();
    let places = places(place.path());
    equip(&places);
    let found = all(&places).await;
    let told: Vec<u8> = found.iter().flat_map(|(_, text)| text.bytes()).collect();
    let mut secrets = vec![
        b"environment-secret-environment".to_vec(),
        fs::read(places.modules.join("web/scripts/key.pem")).unwrap(),
    ];
    let mut files = 0;
    for entry in fs::read_dir(&places.cluster).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() == "cluster.toml" {
            continue;
        }
        files += 1;
        let bytes = fs::read(entry.path()).unwrap();
        secrets.push(hex::encode(&bytes).into_bytes());
        secrets.push(bytes);
    }
    assert!(files >= 7, "authority, its key, node, secrets, two keys, token, arbiter: {files}");
    // What stands in the description, too, is no secret.
    let public = fs::read(places.cluster.join("cluster.toml")).unwrap();
    let public: HashSet<&[u8]> = public.windows(WINDOW).collect();
    let told: HashSet<&[u8]> = told.windows(WINDOW).filter(|window| !public.contains(window)).collect();
    let telling = |window: &&[u8]| window.iter().collect::<HashSet<_>>().len() >= DIFFERENT;
    for window in secrets.iter().flat_map(|secret| secret.windows(WINDOW)).filter(telling) {
        assert!(!told.contains(window), "{:?}", String::from_utf8_lossy(window));
    }
}

#[tokio::test]
async fn only_what_is_named_is_read() {
    let place = tempfile::tempdir().unwrap();
    let places = places(place.path());
    equip(&places);
    for name in [
        "secrets",
        "../cluster/authority.key",
        "modules/web/../../cluster/secrets",
        "modules/web/logs/../x.log",
        "",
    ] {
        assert!(piece(&places, name).await.is_err(), "{name}");
    }
    // A link in the place of a file leads nowhere.
    let standing = places.state.join("web/standing.json");
    fs::remove_file(&standing).unwrap();
    std::os::unix::fs::symlink(places.cluster.join("authority.key"), &standing).unwrap();
    assert!(!pieces(&places).await.unwrap().iter().any(|name| name.ends_with("standing.json")));
}

#[test]
fn a_long_text_loses_its_begin() {
    let text = "ä".repeat(PIECE_BYTES_MAX as usize);
    let end = bounded(text);
    assert!(end.len() as u64 <= PIECE_BYTES_MAX && end.starts_with('ä'));
    assert_eq!(bounded("short".to_owned()), "short");
}
