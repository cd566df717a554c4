//! The cluster's own authority: what makes certificates, and what is read from them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use data_encoding::HEXLOWER;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, SanType,
};
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use zeroize::Zeroizing;

use super::error::{DescriptionError, MembershipError};
use super::expiry::DAY;
use super::identity::from_hex;

const AUTHORITY_DAYS: u64 = 3652;
const NODE_DAYS: u64 = 365;
/// How far the peer's clock may be behind when a certificate is new.
const BEFORE: Duration = Duration::from_secs(DAY);

/// SHA-256 of a certificate in DER, as `openssl x509 -fingerprint -sha256` shows it (with colons).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// That of a certificate.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Fingerprint {
        let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
        // SHA-256 has 32 bytes; zeroes would be the fingerprint of nothing.
        Fingerprint(digest.as_ref().try_into().unwrap_or_default())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = DescriptionError;

    fn from_str(text: &str) -> Result<Fingerprint, DescriptionError> {
        let digits = text.strip_prefix("sha256:").and_then(from_hex);
        digits.map(Fingerprint).ok_or_else(|| DescriptionError::Fingerprint { value: text.to_owned() })
    }
}

/// What a certificate says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Paper {
    /// Its URI, if it has exactly one.
    pub(super) uri: Option<String>,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

impl Paper {
    pub(super) fn read(certificate: &CertificateDer<'_>) -> Option<Paper> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let at = |seconds: i64| {
            SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
        };
        let names = parsed.subject_alternative_name().ok()?;
        let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        let mut uris = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        let uri = uris.next().map(str::to_owned).filter(|_| uris.next().is_none());
        Some(Paper {
            uri,
            not_before: at(parsed.validity().not_before.timestamp())?,
            not_after: at(parsed.validity().not_after.timestamp())?,
        })
    }
}

/// A key and its certificate as PEM.
pub(super) struct Issued {
    pub(super) certificate: String,
    pub(super) key: Zeroizing<String>,
}

/// What a joining node asks for with its public key, as PEM.
pub(super) struct Requested {
    pub(super) request: String,
    pub(super) key: Zeroizing<String>,
}

/// The authority, able to make certificates.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    not_after: SystemTime,
}

fn date(time: SystemTime) -> Result<OffsetDateTime, MembershipError> {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| MembershipError::Clock)?.as_secs();
    let seconds = i64::try_from(seconds).map_err(|_| MembershipError::Clock)?;
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| MembershipError::Clock)
}

/// From a day ago for so many days.
fn validity(now: SystemTime, days: u64) -> Result<(SystemTime, SystemTime), MembershipError> {
    // Before 1970 and a day no certificate is worth making; after 9999 none can be written.
    let from = now.checked_sub(BEFORE).ok_or(MembershipError::Clock)?;
    let to = now.checked_add(Duration::from_secs(days * DAY)).ok_or(MembershipError::Clock)?;
    Ok((from, to))
}

fn key_pair() -> Result<KeyPair, MembershipError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(MembershipError::certificate)
}

fn named(name: &str) -> DistinguishedName {
    let mut full = DistinguishedName::new();
    full.push(DnType::OrganizationName, "replicator");
    full.push(DnType::CommonName, name);
    full
}

/// Make the authority of a new cluster.
pub(super) fn found(cluster: &str, now: SystemTime) -> Result<Issued, MembershipError> {
    let key = key_pair()?;
    let (from, to) = validity(now, AUTHORITY_DAYS)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = named(&format!("cluster {cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = (date(from)?, date(to)?);
    let pem = Zeroizing::new(key.serialize_pem());
    let made = CertifiedIssuer::self_signed(params, key).map_err(MembershipError::certificate)?;
    Ok(Issued { certificate: made.pem(), key: pem })
}

/// Make a key and ask for a certificate.
pub(super) fn request(node: &str) -> Result<Requested, MembershipError> {
    let key = key_pair()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = named(node);
    let request = params.serialize_request(&key).map_err(MembershipError::certificate)?;
    let request = request.pem().map_err(MembershipError::certificate)?;
    Ok(Requested { request, key: Zeroizing::new(key.serialize_pem()) })
}

impl Authority {
    /// The authority with this certificate and key. The key must be the certificate's.
    pub(super) fn load(
        certificate: &CertificateDer<'static>,
        key: &str,
    ) -> Result<Authority, MembershipError> {
        let key = KeyPair::from_pem(key).map_err(MembershipError::certificate)?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(certificate).map_err(MembershipError::certificate)?;
        if *parsed.public_key().subject_public_key.data != *key.public_key_raw() {
            return Err(MembershipError::certificate("the authority's key is not that of its certificate"));
        }
        let paper = Paper::read(certificate)
            .ok_or_else(|| MembershipError::certificate("the authority's certificate cannot be read"))?;
        let issuer = Issuer::from_ca_cert_der(certificate, key).map_err(MembershipError::certificate)?;
        Ok(Authority { issuer, not_after: paper.not_after })
    }

    /// A new key and a certificate for it.
    pub(super) fn issue(&self, node: &str, uri: &str, now: SystemTime) -> Result<Issued, MembershipError> {
        let key = key_pair()?;
        let certificate = self.certify(&key, node, uri, now)?;
        Ok(Issued { certificate, key: Zeroizing::new(key.serialize_pem()) })
    }

    /// A certificate for the key of a request. Nothing but the key is taken from it.
    pub(super) fn certify_request(
        &self,
        request: &CertificateSigningRequestParams,
        node: &str,
        uri: &str,
        now: SystemTime,
    ) -> Result<String, MembershipError> {
        self.certify(&request.public_key, node, uri, now)
    }

    fn certify(
        &self,
        key: &impl PublicKeyData,
        node: &str,
        uri: &str,
        now: SystemTime,
    ) -> Result<String, MembershipError> {
        let (from, to) = validity(now, NODE_DAYS)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named(node);
        let uri = uri.try_into().map_err(MembershipError::certificate)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = (date(from)?, date(to.min(self.not_after))?);
        let made = params.signed_by(key, &self.issuer).map_err(MembershipError::certificate)?;
        Ok(made.pem())
    }
}

/// A joining node's request: well-formed, signed by its key, of the kind that this cluster uses.
pub(super) fn read_request(pem: &str) -> Result<CertificateSigningRequestParams, MembershipError> {
    let request = CertificateSigningRequestParams::from_pem(pem).map_err(MembershipError::certificate)?;
    if *request.public_key.algorithm() != PKCS_ECDSA_P256_SHA256 {
        return Err(MembershipError::certificate("the joining node's key is not of ECDSA P-256"));
    }
    Ok(request)
}

/// The first certificate in a PEM text.
pub(super) fn certificate_in(pem: &[u8]) -> Option<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem).ok()
}

/// Whether a certificate is the authority's, valid at a time and for a node.
pub(super) fn verify(
    certificate: &CertificateDer<'_>,
    authority: &CertificateDer<'static>,
    now: SystemTime,
) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    let algorithms = provider.signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(
        &ParsedCertificate::try_from(certificate)?,
        &roots,
        &[],
        now,
        algorithms,
    )
}
