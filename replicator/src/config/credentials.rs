//! The files with which this node shows its peer who it is, and knows its peer.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use replicator_cluster::tls::{Configurations, Credentials, PeerName};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::error::ConfigError;

/// Largest such file in bytes; a larger one is surely not one.
const FILE_BYTES_MAX: u64 = 256 << 10;
/// Bits of a file's mode with which somebody else may read it.
const OTHERS: u32 = 0o007;

/// How the link is encrypted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// PEM with the authority's certificate; several while one authority follows another.
    pub authority: PathBuf,
    /// PEM with this node's certificate.
    pub certificate: PathBuf,
    /// PEM with its key; may be the same file.
    pub key: PathBuf,
    /// The only URI in the peer's certificate.
    pub peer: String,
}

impl TlsFiles {
    /// Read the files as they are now: each connection is made with those of its moment.
    ///
    /// # Errors
    /// [`ConfigError`]: one cannot be read, holds something else, the key can be read by others, or they do not belong together. That
    /// they have expired is no error: the peer refuses them.
    pub fn configurations(&self, protocol: &[u8]) -> Result<Configurations, ConfigError> {
        let credentials = self.read()?;
        if credentials.are_of_the_peer() {
            return Err(ConfigError::OwnIdentity { value: self.peer.clone() });
        }
        credentials.configurations(protocol).map_err(|source| ConfigError::Tls { source })
    }

    fn read(&self) -> Result<Credentials, ConfigError> {
        let authority = read("link.authority-file", &self.authority, false)?;
        // A file with both is read once: certificate and key are replaced together there.
        let together = self.key == self.certificate;
        let certificate = read("link.certificate-file", &self.certificate, together)?;
        let key =
            if together { certificate.clone() } else { read("link.certificate-key-file", &self.key, true)? };
        let lacks = |key, path: &Path, what| ConfigError::TlsContent { key, path: path.to_owned(), what };
        let authorities: Vec<_> = CertificateDer::pem_slice_iter(&authority).filter_map(Result::ok).collect();
        if authorities.is_empty() {
            return Err(lacks("link.authority-file", &self.authority, "certificate"));
        }
        Ok(Credentials {
            authorities,
            certificate: CertificateDer::from_pem_slice(&certificate)
                .map_err(|_| lacks("link.certificate-file", &self.certificate, "certificate"))?,
            key: PrivateKeyDer::from_pem_slice(&key)
                .map_err(|_| lacks("link.certificate-key-file", &self.key, "private key"))?,
            peer: PeerName { name: self.peer.clone(), uri: self.peer.clone() },
        })
    }
}

fn read(key: &'static str, path: &Path, secret: bool) -> Result<Vec<u8>, ConfigError> {
    let unreadable = |source| ConfigError::TlsUnreadable { key, path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    if secret && file.metadata().map_err(unreadable)?.permissions().mode() & OTHERS != 0 {
        return Err(ConfigError::TlsExposed { key, path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}
