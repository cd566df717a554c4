//! A node's membership as its cluster directory holds it, and every change of it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::authority::{self, Authority, Fingerprint, Paper, certificate_in};
use super::description::{Description, Node, Policy, Stamp, is_dialable};
use super::error::MembershipError;
use super::expiry::{Expiry, Lifetime};
use super::files::{self, AUTHORITY, AUTHORITY_KEY, DESCRIPTION, NODE, SECRETS, Staging};
use super::identity::{ClusterId, NodeId, check_name, node_uri, parse_uri};
use super::pending::Pending;
use super::secrets::{KeyFile, Offer, Secret, Secrets, Taken};
use super::token::{ADDRESSES_MAX, Token, seconds};
use super::{NODES_MAX, TOKEN_LIFETIME};

mod change;

/// A node that becomes a member, as its operator describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewNode {
    /// Its name.
    pub name: String,
    /// Where it sends and receives heartbeats, by network.
    pub heartbeat: BTreeMap<String, SocketAddr>,
    /// Where it answers its peer.
    pub control: SocketAddr,
    /// Where its mirrors can be reached.
    pub mirror: Vec<IpAddr>,
}

impl NewNode {
    pub(super) fn with_id(self, id: NodeId) -> Node {
        let NewNode { name, heartbeat, control, mirror } = self;
        Node { name, id, heartbeat, control, mirror }
    }
}

/// A cluster to be founded.
#[derive(Clone, PartialEq, Debug)]
pub struct Founding {
    /// Its name.
    pub cluster: String,
    /// What decides when nobody else can.
    pub policy: Policy,
    /// The arbiter's settings, unread.
    pub arbiter: Option<toml::Table>,
    /// Its first node.
    pub node: NewNode,
}

/// A token to be issued.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenOrder {
    /// Where this node waits for the other, 1 to 8.
    pub addresses: Vec<SocketAddr>,
    /// How long.
    pub lifetime: Duration,
    /// The name of the other node if there is one already, and another machine is to take its place.
    pub replaces: Option<String>,
}

impl Default for TokenOrder {
    fn default() -> TokenOrder {
        TokenOrder { addresses: Vec::new(), lifetime: TOKEN_LIFETIME, replaces: None }
    }
}

/// What became of a description that the peer offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Adoption {
    /// It is this node's from now on.
    Taken,
    /// It is the one this node has.
    Same,
    /// This node's is newer: it is to be offered to the peer.
    Older,
}

/// What TLS needs to be this node and to know its peer.
pub struct Tls {
    /// The authority's certificate.
    pub authority: CertificateDer<'static>,
    /// This node's certificate.
    pub certificate: CertificateDer<'static>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// The peer, once there is one.
    pub peer: Option<TlsPeer>,
}

/// How the peer is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsPeer {
    /// Its name.
    pub name: String,
    /// The URI in its certificate.
    pub uri: String,
}

/// A node's membership: what its cluster directory held when it was read last.
pub struct Membership {
    directory: PathBuf,
    description: Description,
    name: String,
    node: NodeId,
    authority: CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    secrets: Secrets,
    renewable: bool,
}

impl Membership {
    /// Found a cluster: make its directory, of which only the parent may be there (or an empty directory).
    ///
    /// # Errors
    /// [`MembershipError`]; nothing was made then.
    pub fn found(
        directory: &Path,
        founding: Founding,
        now: SystemTime,
    ) -> Result<Membership, MembershipError> {
        let (id, node_id) = (ClusterId::random()?, NodeId::random()?);
        let Founding { cluster, policy, arbiter, node } = founding;
        let node = node.with_id(node_id);
        check_name("cluster.name", &cluster)?;
        check_name("node.name", &node.name)?;
        let made = authority::found(&cluster, now)?;
        let certificate = certificate_in(made.certificate.as_bytes())
            .ok_or_else(|| MembershipError::certificate("the authority's certificate cannot be read back"))?;
        let issued = Authority::load(&certificate, &made.key)?.issue(
            &node.name,
            &node_uri(id, &node.name, node_id),
            now,
        )?;
        let description = Description {
            version: 1,
            name: cluster,
            id,
            authority: Fingerprint::of(&certificate),
            policy,
            arbiter,
            nodes: vec![node],
        };
        description.check()?;
        let secrets = Secrets::found()?;
        let staging = Staging::begin(directory)?;
        let content = Content {
            description: description.to_text()?,
            authority: made.certificate,
            authority_key: made.key,
            node: node_pem(&issued.key, &issued.certificate),
            secrets: secrets.encode(),
            mirror_key: secrets.file_key(KeyFile::Mirror),
            witness_key: secrets.file_key(KeyFile::Witness),
        };
        content.write(&staging)?;
        staging.finish()?;
        Membership::open(directory)
    }

    /// Read a cluster directory.
    ///
    /// # Errors
    /// [`MembershipError`]: it is none, others can read it, a file is damaged, or the files do not belong together. That a
    /// certificate has expired is no error.
    pub fn open(directory: &Path) -> Result<Membership, MembershipError> {
        files::check_directory(directory)?;
        let need = |name: &str| {
            files::read(directory, name)?
                .ok_or_else(|| MembershipError::NotAMember { path: directory.to_owned() })
        };
        let damaged = |name: &str, why: &str| MembershipError::Damaged {
            path: directory.join(name),
            why: why.to_owned(),
        };
        let description = read_description(directory, &need(DESCRIPTION)?)?;
        let authority =
            certificate_in(&need(AUTHORITY)?).ok_or_else(|| damaged(AUTHORITY, "it holds no certificate"))?;
        let pem = need(NODE)?;
        let certificate = certificate_in(&pem).ok_or_else(|| damaged(NODE, "it holds no certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| damaged(NODE, "it holds no key"))?;
        let secrets = Secrets::decode(&need(SECRETS)?)?;
        let renewable = files::read(directory, AUTHORITY_KEY)?.is_some();
        let (name, node) = identity(directory, &description, &authority, &certificate)?;
        Ok(Membership {
            directory: directory.to_owned(),
            description,
            name,
            node,
            authority,
            certificate,
            key,
            secrets,
            renewable,
        })
    }

    /// Read the directory again; it is as before if that fails.
    ///
    /// # Errors
    /// As [`Membership::open`].
    pub fn reload(&mut self) -> Result<(), MembershipError> {
        *self = Membership::open(&self.directory)?;
        Ok(())
    }

    /// The cluster directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The cluster.
    #[must_use]
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// This node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// This node's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.node
    }

    /// The other node, once there is one.
    #[must_use]
    pub fn peer(&self) -> Option<&Node> {
        self.description.other(&self.name)
    }

    /// The shared secrets.
    #[must_use]
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// A key that is a file of its own, and its path.
    ///
    /// # Errors
    /// The file is missing, damaged, or can be read by others.
    pub fn key_file(&self, file: KeyFile) -> Result<(PathBuf, Secret), MembershipError> {
        let path = self.directory.join(file.name());
        let damaged = |why: &str| MembershipError::Damaged { path: path.clone(), why: why.to_owned() };
        let bytes = files::read(&self.directory, file.name())?.ok_or_else(|| damaged("it is missing"))?;
        let text = std::str::from_utf8(bytes.trim_ascii()).map_err(|_| damaged("it is not text"))?;
        let key =
            super::identity::from_hex(text).ok_or_else(|| damaged("it is not 64 hexadecimal digits"))?;
        Ok((path, Secret::from_bytes(key)))
    }

    /// The authority's certificate, and this node's with its key, as files: for a process that is to see their replacement by itself.
    #[must_use]
    pub fn tls_files(&self) -> (PathBuf, PathBuf) {
        (self.directory.join(AUTHORITY), self.directory.join(NODE))
    }

    /// What TLS needs.
    #[must_use]
    pub fn tls(&self) -> Tls {
        let peer = self.peer().map(|peer| TlsPeer {
            name: peer.name.clone(),
            uri: node_uri(self.description.id, &peer.name, peer.id),
        });
        Tls {
            authority: self.authority.clone(),
            certificate: self.certificate.clone(),
            key: self.key.clone_key(),
            peer,
        }
    }

    /// How long the certificates are good for.
    ///
    /// # Errors
    /// A certificate cannot be read.
    pub fn expiry(&self, now: SystemTime) -> Result<Expiry, MembershipError> {
        let read = |certificate, name| {
            Paper::read(certificate).ok_or_else(|| MembershipError::Damaged {
                path: self.directory.join(name),
                why: "its certificate cannot be read".to_owned(),
            })
        };
        Ok(Expiry {
            node: Lifetime::new(&read(&self.certificate, NODE)?, now),
            authority: Lifetime::new(&read(&self.authority, AUTHORITY)?, now),
            renewable: self.renewable,
        })
    }

    /// The authority with its key.
    fn load_authority(&self) -> Result<Authority, MembershipError> {
        let pem = files::read(&self.directory, AUTHORITY_KEY)?;
        let path = self.directory.join(AUTHORITY_KEY);
        let pem = pem.ok_or_else(|| MembershipError::NoAuthorityKey { path: path.clone() })?;
        let text = std::str::from_utf8(&pem).ok();
        let text = text.ok_or_else(|| MembershipError::Damaged { path, why: "it is not text".to_owned() })?;
        Authority::load(&self.authority, text)
    }
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership")
            .field("directory", &self.directory)
            .field("name", &self.name)
            .field("version", &self.description.version)
            .finish_non_exhaustive()
    }
}

/// All files of a new directory.
pub(super) struct Content {
    pub(super) description: String,
    pub(super) authority: String,
    pub(super) authority_key: Zeroizing<String>,
    pub(super) node: Zeroizing<String>,
    pub(super) secrets: Zeroizing<Vec<u8>>,
    pub(super) mirror_key: Secret,
    pub(super) witness_key: Secret,
}

impl Content {
    pub(super) fn write(&self, staging: &Staging) -> Result<(), MembershipError> {
        staging.write(DESCRIPTION, self.description.as_bytes())?;
        staging.write(AUTHORITY, self.authority.as_bytes())?;
        staging.write(AUTHORITY_KEY, self.authority_key.as_bytes())?;
        staging.write(NODE, self.node.as_bytes())?;
        staging.write(SECRETS, &self.secrets)?;
        staging.write(KeyFile::Mirror.name(), &key_text(&self.mirror_key))?;
        staging.write(KeyFile::Witness.name(), &key_text(&self.witness_key))
    }
}

/// The content of `node.pem`.
pub(super) fn node_pem(key: &str, certificate: &str) -> Zeroizing<String> {
    let mut pem = Zeroizing::new(String::with_capacity(key.len() + certificate.len()));
    pem.push_str(key);
    pem.push_str(certificate);
    pem
}

fn key_text(key: &Secret) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(Vec::with_capacity(65));
    text.extend_from_slice(key.hex().as_bytes());
    text.push(b'\n');
    text
}

fn read_description(directory: &Path, bytes: &[u8]) -> Result<Description, MembershipError> {
    let path = directory.join(DESCRIPTION);
    let text = std::str::from_utf8(bytes)
        .map_err(|_| MembershipError::Damaged { path: path.clone(), why: "it is not text".to_owned() })?;
    Description::parse(text).map_err(|source| MembershipError::Description { path, source })
}

/// Which node this is, if all files are of the same cluster and node.
pub(super) fn identity(
    directory: &Path,
    description: &Description,
    authority: &CertificateDer<'static>,
    certificate: &CertificateDer<'_>,
) -> Result<(String, NodeId), MembershipError> {
    let inconsistent =
        |why: &str| MembershipError::Inconsistent { path: directory.to_owned(), why: why.to_owned() };
    if Fingerprint::of(authority) != description.authority {
        return Err(inconsistent("authority.pem is not the authority of cluster.toml"));
    }
    let paper = Paper::read(certificate).ok_or_else(|| inconsistent("node.pem cannot be read"))?;
    // At the middle of its own time: the signature is looked at, not the clock.
    let middle = paper.not_before + paper.not_after.duration_since(paper.not_before).unwrap_or_default() / 2;
    authority::verify(certificate, authority, middle)
        .map_err(|error| inconsistent(&format!("node.pem is not issued by authority.pem: {error}")))?;
    let uri = paper.uri.as_deref().and_then(parse_uri);
    let (cluster, name, id) = uri.ok_or_else(|| inconsistent("node.pem names no node"))?;
    if cluster != description.id {
        return Err(inconsistent("node.pem is of another cluster than cluster.toml"));
    }
    match description.node(&name) {
        Some(node) if node.id == id => Ok((name, id)),
        _ => Err(inconsistent("node.pem is of a node that cluster.toml does not have (any more)")),
    }
}
