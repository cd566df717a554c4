//! A cluster directory: made, read, damaged, changed.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::authority::{self, Paper};
use super::*;

const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn new_node(name: &str, number: u8) -> NewNode {
    let at = |port: u16| SocketAddr::from(([10, 0, 0, number], port));
    NewNode {
        name: name.into(),
        heartbeat: BTreeMap::from([("lan".into(), at(7410))]),
        control: at(7411),
        mirror: vec![at(1).ip()],
    }
}

fn founding() -> Founding {
    Founding { cluster: "shop".into(), policy: Policy::default(), arbiter: None, node: new_node("alpha", 1) }
}

pub(super) struct Place {
    _temporary: TempDir,
    pub(super) path: PathBuf,
}

pub(super) fn place() -> Place {
    let temporary = TempDir::new().unwrap();
    let path = temporary.path().join("var").join("cluster");
    Place { _temporary: temporary, path }
}

pub(super) fn alpha(place: &Place) -> Membership {
    Membership::found(&place.path, founding(), SystemTime::now()).unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

const FILES: [&str; 7] =
    ["authority.key", "authority.pem", "cluster.toml", "mirror.key", "node.pem", "secrets", "witness.key"];

#[test]
fn a_cluster_that_is_founded_has_its_documented_files_for_its_owner_only() {
    let place = place();
    let alpha = alpha(&place);
    assert_eq!(names(&place.path), FILES);
    assert_eq!(names(place.path.parent().unwrap()), ["cluster"], "nothing is left aside");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place.path), 0o700);
    assert!(FILES.iter().all(|name| mode(&place.path.join(name)) == 0o600));
    assert_eq!(fs::read(place.path.join("secrets")).unwrap().len(), 168);
    for file in [KeyFile::Mirror, KeyFile::Witness] {
        let (path, key) = alpha.key_file(file).unwrap();
        let text = fs::read_to_string(path).unwrap();
        assert_eq!(text, format!("{}\n", data_encoding::HEXLOWER.encode(key.bytes())));
        assert!(text.trim().len() >= 32, "the mirror takes keys of 32 bytes and more");
    }
    assert_ne!(alpha.key_file(KeyFile::Mirror).unwrap().1, alpha.key_file(KeyFile::Witness).unwrap().1);
    assert!(alpha.peer().is_none() && alpha.tls().peer.is_none());
}

#[test]
fn the_certificates_say_who_and_how_long() {
    let place = place();
    let alpha = alpha(&place);
    let (tls, now) = (alpha.tls(), SystemTime::now());
    let uri = node_uri(alpha.description().id, "alpha", alpha.id());
    assert_eq!(Paper::read(&tls.certificate).unwrap().uri, Some(uri));
    authority::verify(&tls.certificate, &tls.authority, now).unwrap();
    assert_eq!(Fingerprint::of(&tls.authority), alpha.description().authority);
    let expiry = alpha.expiry(now).unwrap();
    assert!((364..=365).contains(&expiry.node.days_left), "{expiry:?}");
    assert!((3650..=3653).contains(&expiry.authority.days_left), "{expiry:?}");
    assert!(expiry.renewable && expiry.warning(now).is_none());
}

#[test]
fn one_directory_holds_one_cluster() {
    let place = place();
    let first = alpha(&place);
    let again = Membership::found(&place.path, founding(), SystemTime::now());
    assert!(matches!(again, Err(MembershipError::AlreadyAMember { .. })), "{again:?}");
    assert_eq!(Membership::open(&place.path).unwrap().id(), first.id());
}

#[test]
fn what_a_crash_left_is_in_nobodys_way() {
    let place = place();
    let aside = place.path.parent().unwrap().join(".cluster.new");
    fs::create_dir_all(aside.join("deep")).unwrap();
    fs::write(aside.join("node.pem"), "half").unwrap();
    fs::create_dir(&place.path).unwrap();
    let mut alpha = alpha(&place);
    assert!(!aside.exists());
    fs::write(place.path.join(".secrets.new"), "half").unwrap();
    fs::write(place.path.join(".cluster.toml.new"), "half").unwrap();
    alpha.reload().unwrap();
    alpha.propose_secret().unwrap();
    alpha.change_description(|description| description.policy = Policy::Manual).unwrap();
    assert!(Membership::open(&place.path).unwrap().secrets().is_rotating());
    let wrong = Founding { cluster: "no name".into(), ..founding() };
    let other = super::tests::place();
    assert!(Membership::found(&other.path, wrong, SystemTime::now()).is_err());
    assert!(!other.path.exists());
}

#[test]
fn a_directory_or_file_that_others_can_read_is_refused() {
    let place = place();
    alpha(&place);
    let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for name in ["node.pem", "secrets", "authority.key"] {
        set(&place.path.join(name), 0o640);
        let opened = Membership::open(&place.path);
        assert!(matches!(opened, Err(MembershipError::Exposed { mode: 0o640, .. })), "{name}: {opened:?}");
        set(&place.path.join(name), 0o600);
    }
    set(&place.path, 0o750);
    assert!(matches!(Membership::open(&place.path), Err(MembershipError::Exposed { .. })));
    set(&place.path, 0o700);
    Membership::open(&place.path).unwrap();
    assert!(matches!(Membership::open(Path::new("/nowhere")), Err(MembershipError::NotAMember { .. })));
}

#[test]
fn a_damaged_file_is_an_error_and_never_taken() {
    let place = place();
    let whole = alpha(&place);
    let garbage: [&[u8]; 4] =
        [b"", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &[0; 70_000]];
    for name in ["cluster.toml", "authority.pem", "node.pem", "secrets"] {
        let path = place.path.join(name);
        let bytes = fs::read(&path).unwrap();
        for damage in garbage.iter().copied().chain([&bytes[..bytes.len() / 2]]) {
            fs::write(&path, damage).unwrap();
            assert!(Membership::open(&place.path).is_err(), "{name} with {} bytes", damage.len());
        }
        fs::remove_file(&path).unwrap();
        let missing = Membership::open(&place.path);
        assert!(matches!(missing, Err(MembershipError::NotAMember { .. })), "{missing:?}");
        symlink("/dev/zero", &path).unwrap();
        assert!(Membership::open(&place.path).is_err());
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    fs::write(place.path.join("mirror.key"), "short").unwrap();
    assert!(matches!(whole.key_file(KeyFile::Mirror), Err(MembershipError::Damaged { .. })));
    assert_eq!(Membership::open(&place.path).unwrap().id(), whole.id());
}

#[test]
fn files_of_two_clusters_are_not_mixed() {
    let (one, other) = (place(), place());
    let ours = alpha(&one);
    alpha(&other);
    for name in ["cluster.toml", "authority.pem", "node.pem"] {
        let own = fs::read(one.path.join(name)).unwrap();
        fs::copy(other.path.join(name), one.path.join(name)).unwrap();
        let mixed = Membership::open(&one.path);
        assert!(matches!(mixed, Err(MembershipError::Inconsistent { .. })), "{name}: {mixed:?}");
        fs::write(one.path.join(name), own).unwrap();
    }
    fs::copy(other.path.join("authority.key"), one.path.join("authority.key")).unwrap();
    let mut mixed = Membership::open(&one.path).unwrap();
    let renewed = mixed.renew_certificate(SystemTime::now());
    assert!(matches!(renewed, Err(MembershipError::Certificate { .. })), "{renewed:?}");
    assert_eq!(mixed.tls().certificate, ours.tls().certificate);
}

#[test]
fn a_certificate_is_renewed_when_two_thirds_are_over() {
    let place = place();
    let mut alpha = alpha(&place);
    let (now, first) = (SystemTime::now(), alpha.tls().certificate);
    assert!(!alpha.renew_if_due(now).unwrap());
    assert!(!alpha.renew_if_due(now + 230 * DAY).unwrap());
    assert_eq!(alpha.tls().certificate, first);
    let later = now + 250 * DAY;
    assert!(alpha.renew_if_due(later).unwrap());
    let renewed = alpha.tls();
    assert_ne!(renewed.certificate, first);
    authority::verify(&renewed.certificate, &renewed.authority, now + 500 * DAY).unwrap();
    assert_eq!(Paper::read(&renewed.certificate).unwrap().uri, Paper::read(&first).unwrap().uri);
    // The clock was ahead and is right again: the certificate is not valid yet.
    assert!(alpha.renew_if_due(now).unwrap());
    assert_eq!(Membership::open(&place.path).unwrap().tls().certificate, alpha.tls().certificate);
}

#[test]
fn a_certificate_does_not_outlive_the_authority_and_is_not_renewed_in_vain() {
    let place = place();
    let mut alpha = alpha(&place);
    let late = SystemTime::now() + 3600 * DAY;
    alpha.renew_certificate(late).unwrap();
    let expiry = alpha.expiry(late).unwrap();
    assert_eq!(expiry.node.not_after, expiry.authority.not_after);
    let last = late + 51 * DAY;
    assert!(!alpha.renew_if_due(last).unwrap());
    assert!(alpha.expiry(last).unwrap().warning(last).unwrap().contains("anew"));
}

#[test]
fn without_the_authoritys_key_nothing_is_signed_and_all_else_goes_on() {
    let place = place();
    let mut alpha = alpha(&place);
    fs::remove_file(place.path.join("authority.key")).unwrap();
    alpha.reload().unwrap();
    let later = SystemTime::now() + 340 * DAY;
    assert!(!alpha.renew_if_due(later).unwrap());
    assert!(matches!(alpha.renew_certificate(later), Err(MembershipError::NoAuthorityKey { .. })));
    let order = TokenOrder { addresses: vec!["10.0.0.1:7412".parse().unwrap()], ..TokenOrder::default() };
    assert!(matches!(alpha.issue_token(order, later), Err(MembershipError::NoAuthorityKey { .. })));
    assert!(alpha.expiry(later).unwrap().warning(later).unwrap().contains("authority.key"));
    alpha.propose_secret().unwrap();
}

#[test]
fn a_change_that_cannot_be_written_changes_nothing() {
    let place = place();
    let mut alpha = alpha(&place);
    // Root writes everywhere, but not over a directory.
    for name in [".secrets.new", ".cluster.toml.new", ".node.pem.new"] {
        fs::create_dir(place.path.join(name)).unwrap();
    }
    let (certificate, before) = (alpha.tls().certificate, alpha.description().clone());
    let system = |result: Result<(), MembershipError>| matches!(result, Err(MembershipError::System { .. }));
    assert!(system(alpha.propose_secret().map(drop)));
    assert!(system(alpha.renew_certificate(SystemTime::now())));
    assert!(system(alpha.change_description(|description| description.policy = Policy::Manual).map(drop)));
    for seen in [&alpha, &Membership::open(&place.path).unwrap()] {
        assert!(!seen.secrets().is_rotating());
        assert_eq!((&seen.tls().certificate, seen.description()), (&certificate, &before));
    }
}

#[test]
fn changes_of_others_are_not_lost() {
    let place = place();
    let mut daemon = alpha(&place);
    let mut command = Membership::open(&place.path).unwrap();
    command.change_description(|description| description.policy = Policy::Manual).unwrap();
    daemon.change_description(|description| description.name = "bank".into()).unwrap();
    let seen = Membership::open(&place.path).unwrap();
    assert_eq!((seen.description().version, seen.description().policy), (3, Policy::Manual));
    assert_eq!(seen.description().name, "bank");
}

#[test]
fn of_two_descriptions_the_newer_one_wins_on_both_sides() {
    let place = place();
    let mut alpha = alpha(&place);
    let old = alpha.description().clone();
    let with = |change: fn(&mut Description)| {
        let mut changed = old.clone();
        changed.version = 2;
        change(&mut changed);
        changed
    };
    let (one, other) = (with(|d| d.policy = Policy::Manual), with(|d| d.policy = Policy::AvailabilityFirst));
    let (less, greater) =
        if one.stamp().unwrap() < other.stamp().unwrap() { (one, other) } else { (other, one) };
    let mut offer = |description: &Description| alpha.adopt_description(&description.to_text().unwrap());
    assert_eq!(offer(&old).unwrap(), Adoption::Same);
    assert_eq!(offer(&less).unwrap(), Adoption::Taken);
    assert_eq!(offer(&greater).unwrap(), Adoption::Taken, "of the same version, and yet one of them wins");
    assert_eq!(offer(&less).unwrap(), Adoption::Older);
    assert_eq!(offer(&old).unwrap(), Adoption::Older);
    assert_eq!(offer(&greater).unwrap(), Adoption::Same);
    assert_eq!(Membership::open(&place.path).unwrap().description(), &greater);
}

#[test]
fn a_description_of_others_is_not_adopted() {
    let (place, elsewhere) = (place(), super::tests::place());
    let mut alpha = alpha(&place);
    let other = super::tests::alpha(&elsewhere);
    let before = alpha.description().clone();
    let foreign = Description { version: 9, ..other.description().clone() };
    let offered = alpha.adopt_description(&foreign.to_text().unwrap());
    assert!(matches!(offered, Err(MembershipError::OtherCluster { .. })), "{offered:?}");
    let mut without = Description { version: 9, ..before.clone() };
    without.nodes = vec![new_node("beta", 2).with_id(NodeId([5; 16]))];
    let offered = alpha.adopt_description(&without.to_text().unwrap());
    assert!(matches!(offered, Err(MembershipError::NotInDescription { .. })), "{offered:?}");
    let mut renamed = Description { version: 9, ..before.clone() };
    renamed.nodes[0].id = NodeId([5; 16]);
    assert!(alpha.adopt_description(&renamed.to_text().unwrap()).is_err());
    assert!(alpha.adopt_description("nonsense").is_err());
    assert!(alpha.change_description(|description| description.nodes.clear()).is_err());
    assert_eq!(Membership::open(&place.path).unwrap().description(), &before);
}

#[test]
fn the_files_keys_follow_a_rotation_only_when_asked() {
    let place = place();
    let mut alpha = alpha(&place);
    let key = |alpha: &Membership| alpha.key_file(KeyFile::Mirror).unwrap().1;
    let (mirror, heartbeat) = (key(&alpha), alpha.secrets().heartbeat_key());
    let offer = alpha.propose_secret().unwrap();
    alpha.confirm_secret(offer.number).unwrap();
    assert_ne!(alpha.secrets().heartbeat_key(), heartbeat);
    assert_eq!(alpha.secrets().heartbeat_keys().len(), 2);
    assert_eq!(key(&alpha), mirror);
    alpha.rekey(KeyFile::Mirror).unwrap();
    assert_ne!(key(&alpha), mirror);
    assert!(alpha.retire_secret().unwrap() && !alpha.retire_secret().unwrap());
    assert_eq!(Membership::open(&place.path).unwrap().secrets(), alpha.secrets());
}

#[test]
fn a_token_is_made_for_who_has_room() {
    let place = place();
    let mut alpha = alpha(&place);
    let now = SystemTime::now();
    let order = |addresses: &[&str], replaces: Option<&str>| TokenOrder {
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        replaces: replaces.map(str::to_owned),
        ..TokenOrder::default()
    };
    for wrong in [&[][..], &["0.0.0.0:7412"], &["10.0.0.1:0"], &["10.0.0.1:1"; 9]] {
        let issued = alpha.issue_token(order(wrong, None), now);
        assert!(matches!(issued, Err(MembershipError::TokenAddresses { .. })), "{issued:?}");
    }
    let here = &["10.0.0.1:7412"];
    let issued = alpha.issue_token(order(here, Some("beta")), now);
    assert!(matches!(issued, Err(MembershipError::NotReplaceable { .. })), "{issued:?}");
    let token = alpha.issue_token(order(here, None), now).unwrap();
    assert!(
        !token.has_expired(now + Duration::from_secs(3598))
            && token.has_expired(now + Duration::from_secs(3600))
    );
    let text = fs::read_to_string(place.path.join("join-token")).unwrap();
    assert!(!text.contains(&data_encoding::HEXLOWER.encode(&*token.secret)), "the secret itself is not kept");
    alpha.change_description(|d| d.nodes.push(new_node("beta", 2).with_id(NodeId([5; 16])))).unwrap();
    let issued = alpha.issue_token(order(here, None), now);
    assert!(matches!(issued, Err(MembershipError::Full { .. })), "{issued:?}");
    assert!(alpha.issue_token(order(here, Some("gamma")), now).is_err());
    alpha.issue_token(order(here, Some("beta")), now).unwrap();
}

#[test]
fn uris_are_read_exactly() {
    use super::identity::parse_uri;
    let (cluster, node) = (ClusterId([1; 16]), NodeId([0xab; 16]));
    let uri = node_uri(cluster, "alpha", node);
    assert_eq!(parse_uri(&uri), Some((cluster, "alpha".to_owned(), node)));
    for wrong in [
        format!("{uri}/"),
        uri.to_uppercase(),
        uri.replace("alpha", ""),
        uri.replace("//", "/"),
        String::new(),
    ] {
        assert_eq!(parse_uri(&wrong), None, "{wrong}");
    }
}
