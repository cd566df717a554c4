//! Whether the link is encrypted, and with what.

use super::*;

/// The minimal primary with these lines in `[link]`.
fn link(lines: &[&str]) -> Result<Option<TlsFiles>, ConfigError> {
    let additions: Vec<_> = lines.iter().map(|line| ("link", *line)).collect();
    with(&additions).map(|config| config.link.tls)
}

const AUTHORITY: &str = "authority-file = \"/etc/a.pem\"";
const CERTIFICATE: &str = "certificate-file = \"/etc/n.pem\"";
const PEER: &str = "peer-identity = \"replicator://demo/beta\"";

#[test]
fn who_names_certificates_wants_them_used() {
    let tls = link(&[AUTHORITY, CERTIFICATE, PEER]).unwrap().expect("encrypted");
    assert_eq!(
        (tls.authority.as_path(), tls.certificate.as_path()),
        (Path::new("/etc/a.pem"), Path::new("/etc/n.pem"))
    );
    assert_eq!((tls.key.as_path(), tls.peer.as_str()), (Path::new("/etc/n.pem"), "replicator://demo/beta"));
    let apart = link(&[
        "encryption = \"tls\"",
        AUTHORITY,
        CERTIFICATE,
        PEER,
        "certificate-key-file = \"/etc/k.pem\"",
    ]);
    assert_eq!(apart.unwrap().expect("encrypted").key, Path::new("/etc/k.pem"));
    assert_eq!(link(&[]).unwrap(), None);
    assert_eq!(link(&["encryption = \"none\"", AUTHORITY, CERTIFICATE, PEER]).unwrap(), None);
}

#[test]
fn half_of_what_it_takes_is_refused() {
    refused!(link(&["encryption = \"tls\""]), ConfigError::TlsNeeds { key: "link.certificate-file", .. });
    refused!(link(&[AUTHORITY, PEER]), ConfigError::TlsNeeds { key: "link.certificate-file", .. });
    refused!(link(&[CERTIFICATE, PEER]), ConfigError::TlsNeeds { key: "link.authority-file", .. });
    refused!(link(&[AUTHORITY, CERTIFICATE]), ConfigError::TlsNeeds { key: "link.peer-identity", .. });
    refused!(link(&["certificate-key-file = \"/etc/k\""]), ConfigError::TlsNeeds { .. });
    refused!(link(&["encryption = \"ssl\""]), ConfigError::Choice { key: "link.encryption", .. });
    refused!(link(&["authority-file = \"a.pem\""]), ConfigError::Relative { key: "link.authority-file", .. });
    for wrong in ["beta", "://beta", "replicator://", "replicator://demo/b eta"] {
        refused!(link(&[&format!("peer-identity = {wrong:?}")]), ConfigError::Identity { .. });
    }
}

/// A file with this content and mode.
fn file(directory: &Path, name: &str, content: &str, mode: u32) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn files_are_looked_at_and_the_key_is_a_secret() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let authority = rcgen::generate_simple_self_signed(["authority".to_owned()]).unwrap();
    let node = rcgen::generate_simple_self_signed(["node".to_owned()]).unwrap();
    let both = node.signing_key.serialize_pem() + &node.cert.pem();
    let good = TlsFiles {
        authority: file(at, "authority.pem", &authority.cert.pem(), 0o644),
        certificate: file(at, "node.pem", &both, 0o600),
        key: at.join("node.pem"),
        peer: "replicator://demo/beta".to_owned(),
    };
    good.configurations(b"test").unwrap();
    let apart = TlsFiles {
        certificate: file(at, "node.crt", &node.cert.pem(), 0o644),
        key: file(at, "node.key", &node.signing_key.serialize_pem(), 0o600),
        ..good.clone()
    };
    apart.configurations(b"test").unwrap();
    let missing = TlsFiles { authority: at.join("missing"), ..good.clone() };
    refused!(missing.configurations(b""), ConfigError::TlsUnreadable { key: "link.authority-file", .. });
    let exposed = file(at, "exposed.pem", &both, 0o644);
    let exposed = TlsFiles { certificate: exposed.clone(), key: exposed, ..good.clone() };
    refused!(exposed.configurations(b""), ConfigError::TlsExposed { .. });
    let empty = file(at, "empty.pem", "", 0o600);
    refused!(
        TlsFiles { authority: empty.clone(), ..good.clone() }.configurations(b""),
        ConfigError::TlsContent { what: "certificate", .. }
    );
    refused!(
        TlsFiles { key: empty, ..good.clone() }.configurations(b""),
        ConfigError::TlsContent { what: "private key", .. }
    );
    let other = file(at, "other.key", &authority.signing_key.serialize_pem(), 0o600);
    refused!(TlsFiles { key: other, ..good }.configurations(b""), ConfigError::Tls { .. });
}
