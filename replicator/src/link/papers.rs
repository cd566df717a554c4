//! For tests: authorities, and the files in which two nodes keep what they have of one.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use replicator_cluster::tls::any_name;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use tempfile::TempDir;
use time::OffsetDateTime;

use super::handshake::PROTOCOL;
use super::records::Records;
use crate::config::TlsFiles;

pub(super) const ALPHA: &str = "replicator://c1/alpha";
pub(super) const BETA: &str = "replicator://c1/beta";

/// An authority, and a directory for what it gives out.
pub(super) struct Papers {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

/// When a certificate is valid, in seconds from now.
pub(super) const TODAY: (i64, i64) = (-3600, 86_400);

impl Papers {
    pub(super) fn new() -> Papers {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        Papers { issuer, directory: tempfile::tempdir().expect("a directory") }
    }

    /// Write a file whole or not at all, as a renewal does.
    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        let aside = self.directory.path().join("aside");
        let mut file =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(&aside).expect("a file");
        file.write_all(content.as_bytes()).expect("written");
        fs::rename(&aside, &path).expect("renamed");
        path
    }

    /// The files of a node with this URI that takes the bearer of `peer` for its peer.
    pub(super) fn files(&self, own: &str, peer: &str, valid: (i64, i64)) -> TlsFiles {
        let node = own.rsplit('/').next().expect("a name");
        let authority = self.write("authority.pem", &self.issuer.pem());
        let certificate = self.write(&format!("{node}.pem"), &self.issue(own, valid));
        TlsFiles { authority, key: certificate.clone(), certificate, peer: peer.to_owned() }
    }

    /// A key and a certificate for it, as PEM.
    fn issue(&self, uri: &str, valid: (i64, i64)) -> String {
        let at = |seconds: i64| {
            let (now, span) = (OffsetDateTime::now_utc(), Duration::from_secs(seconds.unsigned_abs()));
            if seconds < 0 { now - span } else { now + span }
        };
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = (at(valid.0), at(valid.1));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("a URI"))];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        key.serialize_pem() + &certificate.pem()
    }

    pub(super) fn alpha(&self) -> TlsFiles {
        self.files(ALPHA, BETA, TODAY)
    }

    pub(super) fn beta(&self) -> TlsFiles {
        self.files(BETA, ALPHA, TODAY)
    }

    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }
}

/// Both ends of TLS before their handshake: alpha connects, beta listens.
pub(super) fn strangers() -> (Records, Records) {
    let papers = Papers::new();
    let client = papers.alpha().configurations(PROTOCOL).expect("credentials").client;
    let server = papers.beta().configurations(PROTOCOL).expect("credentials").server;
    (
        Records::client(UnbufferedClientConnection::new(client, any_name()).expect("a client")),
        Records::server(UnbufferedServerConnection::new(server).expect("a server")),
    )
}

/// Let both ends do their handshake, in portions of so many bytes.
pub(super) fn introduce(client: &mut Records, server: &mut Records, portion: usize) {
    // On their way to the client, and to the server.
    let mut wire = [Vec::new(), Vec::new()];
    let mut arrived = [Vec::new(), Vec::new()];
    while !(client.is_established() && server.is_established()) {
        for (records, at) in [(&mut *client, 0), (&mut *server, 1)] {
            let now = portion.min(wire[at].len());
            arrived[at].extend(wire[at].drain(..now));
            let done = records.open(&mut arrived[at], &mut |_| panic!("nothing was sent yet"));
            arrived[at].drain(..done.expect("a handshake"));
            wire[1 - at].extend(records.take_pending());
        }
    }
    assert!(wire.iter().chain(&arrived).all(Vec::is_empty));
}

/// Both ends of an established TLS connection.
pub(super) fn acquainted() -> (Records, Records) {
    let (mut client, mut server) = strangers();
    introduce(&mut client, &mut server, usize::MAX);
    (client, server)
}
