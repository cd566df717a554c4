//! Certificates of a lab's nodes: an authority, and for each node the files that its link is encrypted with.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::config::NodeConfig;

/// An authority, and where the files of its nodes are.
#[derive(Debug)]
pub struct Papers {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: PathBuf,
}

impl Papers {
    /// A new authority, whose files go into a directory, which is made.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn new(directory: &Path) -> Result<Papers> {
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let papers = Papers { issuer, directory: directory.to_owned() };
        papers.write("authority.pem", &papers.issuer.pem())?;
        Ok(papers)
    }

    /// Give a node a key and a certificate, in place of those that it has.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn issue(&self, node: &str) -> Result<()> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::URI(uri(node).as_str().try_into()?)];
        let certificate = params.signed_by(&key, &self.issuer)?;
        self.write(&format!("{node}.pem"), &(key.serialize_pem() + &certificate.pem()))
    }

    /// Have a node encrypt its link with what it was given, and take the bearer of the other name for its peer.
    pub fn use_in(&self, config: &mut NodeConfig, node: &str, peer: &str) {
        let path = |name: &str| self.directory.join(name).to_string_lossy().into_owned();
        config.set("link.encryption", "tls");
        config.set("link.authority-file", path("authority.pem"));
        config.set("link.certificate-file", path(&format!("{node}.pem")));
        config.set("link.peer-identity", uri(peer));
    }

    /// Replace a file as a renewal does.
    fn write(&self, name: &str, content: &str) -> Result<()> {
        let (path, aside) = (self.directory.join(name), self.directory.join(".aside"));
        fs::write(&aside, content)?;
        fs::set_permissions(&aside, fs::Permissions::from_mode(0o600))?;
        fs::rename(&aside, &path).with_context(|| format!("write {}", path.display()))
    }
}

fn uri(node: &str) -> String {
    format!("replicator://lab/{node}")
}
