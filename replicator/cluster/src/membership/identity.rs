//! Who is meant: ids and names of clusters and nodes.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;

use super::error::DescriptionError;

/// Most bytes of a name.
const NAME_BYTES_MAX: usize = 64;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// A new one.
            ///
            /// # Errors
            /// The system gives no random bytes.
            pub fn random() -> Result<$name, getrandom::Error> {
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes)?;
                Ok($name(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = DescriptionError;

            fn from_str(text: &str) -> Result<$name, DescriptionError> {
                from_hex(text).map($name).ok_or_else(|| DescriptionError::Id { what: $what, value: text.to_owned() })
            }
        }
    };
}

id!(
    /// A cluster. Random, made when the cluster is founded.
    ClusterId,
    "cluster.id"
);
id!(
    /// A node, as long as it is a member: one that is replaced gets another. Random.
    NodeId,
    "node.id"
);

/// So many bytes in hexadecimal digits, in lower case.
pub(super) fn from_hex<const BYTES: usize>(text: &str) -> Option<[u8; BYTES]> {
    HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

/// The URI in a node's certificate.
#[must_use]
pub fn node_uri(cluster: ClusterId, name: &str, node: NodeId) -> String {
    format!("replicator://{cluster}/{name}/{node}")
}

/// The parts of such a URI.
pub(super) fn parse_uri(uri: &str) -> Option<(ClusterId, String, NodeId)> {
    let mut parts = uri.strip_prefix("replicator://")?.split('/');
    let cluster = parts.next()?.parse().ok()?;
    let name = parts.next()?;
    check_name("node.name", name).ok()?;
    let node = parts.next()?.parse().ok()?;
    parts.next().is_none().then(|| (cluster, name.to_owned(), node))
}

/// Whether a name can be a name: in a file, in a URI, on a command line.
pub(super) fn check_name(key: &'static str, value: &str) -> Result<(), DescriptionError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let begins = value.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if begins && value.len() <= NAME_BYTES_MAX && value.bytes().all(fits) {
        Ok(())
    } else {
        Err(DescriptionError::Name { key, value: value.chars().take(NAME_BYTES_MAX + 1).collect() })
    }
}
