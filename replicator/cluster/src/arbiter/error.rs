//! Why there is no verdict.

use std::io;
use std::path::PathBuf;

use super::known::Distrust;

/// Why an arbiter gave no verdict. None of these is a win, and none says that somebody else has won.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ArbiterError {
    /// No usable answer came within the time. The request may have been carried out all the same: asking again is safe.
    #[error("{arbiter} did not answer in time: {why}")]
    Unreachable { arbiter: String, why: String },
    /// An answer came, proven to be the arbiter's, and it cannot be right.
    #[error("{arbiter} is not to be trusted: {why}")]
    Untrustworthy { arbiter: String, why: Distrust },
    /// The arbiter answered that it cannot say.
    #[error("{arbiter} cannot decide: {why}")]
    Incapable { arbiter: String, why: String },
    /// The request is one that no arbiter takes.
    #[error("the arbiter is asked for {what}: {remedy}")]
    Invalid { what: &'static str, remedy: &'static str },
    /// This arbiter has no memory that could be read.
    #[error("{arbiter} remembers nothing; a witness or etcd does")]
    RemembersNothing { arbiter: String },
}

/// Why an arbiter cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum SetupError {
    /// Nobody to ask.
    #[error("the {arbiter} arbiter has no {what}; name at least one")]
    Nobody { arbiter: &'static str, what: &'static str },
    /// An endpoint that is no URL of this kind.
    #[error("{endpoint:?} is not an endpoint of etcd; write it like \"http://10.0.0.3:2379\"")]
    Endpoint { endpoint: String },
    /// An encrypted endpoint without anything to check it by.
    #[error(
        "the endpoint {endpoint:?} is encrypted; name the certificate authority that etcd's certificate is checked by"
    )]
    NoAuthority { endpoint: String },
    /// A certificate or key that cannot be understood.
    #[error("{path} holds no {what} in PEM form", path = path.display())]
    Pem { path: PathBuf, what: &'static str },
    /// A file that cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    /// An address whose answer says nothing.
    #[error("{target} cannot be a ping target: {why}; name a router or a server that both nodes reach")]
    Target { target: std::net::IpAddr, why: &'static str },
    /// A witness key that cannot be used.
    #[error(transparent)]
    Key(#[from] super::key::KeyError),
}
