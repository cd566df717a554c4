//! Membership: which two nodes are a cluster, and how each proves that it is one of them.
//!
//! A cluster is founded on one node ([`Membership::found`]) and joined by the other with a token ([`Membership::issue_token`],
//! [`host_join`], [`join`]). Both then hold a **cluster directory**, mode 0700, every file mode 0600:
//!
//! | file | form | what |
//! |---|---|---|
//! | `cluster.toml` | TOML, see `description` | the cluster and its nodes; the same on both, the higher version wins |
//! | `authority.pem` | one PEM `CERTIFICATE` | the certificate of the cluster's own authority (ECDSA P-256, 10 years) |
//! | `authority.key` | one PEM `PRIVATE KEY` (PKCS #8) | the authority's key |
//! | `node.pem` | PEM `PRIVATE KEY`, then PEM `CERTIFICATE` | this node's key and certificate (1 year), replaced together |
//! | `secrets` | 168 bytes, see `secrets` | the shared secrets: current, previous, next |
//! | `mirror.key` | 64 hexadecimal digits and a newline | what the mirror takes as `link.cluster-key-file` |
//! | `witness.key` | 64 hexadecimal digits and a newline | what this cluster shows its witness |
//! | `join-token` | TOML, see `pending` | what is known of the token that was issued last, until it is used; on one node only |
//! | `lock` | empty | locked while something is changed |
//!
//! A file is replaced aside, synced and renamed; the directory as a whole is made beside its place (`.<name>.new`) and renamed, so
//! that a crash leaves the state before or the one after. Changes are made under the lock and on what is on the disk then, so the
//! daemon and a command may both make some; who holds a [`Membership`] sees those of others after [`Membership::reload`].
//!
//! **Identity.** A certificate's only URI is `replicator://<cluster id>/<node name>/<node id>`, both ids as 32 hexadecimal digits. A
//! node that is replaced gets a new id, so the certificate of the one before is worth nothing from then on, though it is valid.
//!
//! **The authority's key is on both nodes**, so that each renews its own certificate and either can take in a replacement of the
//! other. The price: who steals a node's directory can make certificates of this cluster until the cluster is founded anew; with
//! the key on one node only, the thief of the other would have been out with the next description. Since the thief of either has
//! the data and the shared secret anyway, and a cluster that cannot renew its certificates after the loss of one node would be
//! worse, the key is copied.
//!
//! **Secrets.** The shared secret is rotated (`secrets`): both nodes accept the old and the new while they change. Keys are derived
//! with blake3's `derive_key`, each for one use. The mirror's and the witness's key are files of their own and do *not* follow a
//! rotation: running mirrors and the witness know only one key. [`Membership::rekey`] replaces them, on both nodes, while the
//! mirrors are stopped.
//!
//! **The clock.** Certificates and tokens depend on it, the shared secret does not: heartbeats go on whatever the clock says.
//!
//! Invariants: this module knows nothing of how the keys are used, and sends nothing but what a join needs. No secret is shown by
//! `Debug` or written to a log.

mod authority;
mod description;
mod directory;
mod error;
mod expiry;
mod files;
mod identity;
mod join;
mod pending;
mod secrets;
#[cfg(test)]
mod tests;
mod token;

pub use authority::Fingerprint;
pub use description::{Description, Node, Policy, Stamp};
pub use directory::{Adoption, Founding, Membership, NewNode, Tls, TlsPeer, TokenOrder};
pub use error::{DescriptionError, MembershipError, SecretError, TokenError};
pub use expiry::{Expiry, Lifetime, WARN_BEFORE};
pub use identity::{ClusterId, NodeId, node_uri};
pub use join::{JoinLimits, Joined, host_join, join};
pub use secrets::{DerivedKey, KeyFile, Offer, Secret, Secrets, Taken};
pub use token::{TOKEN_LIFETIME, Token};

/// Most nodes of a cluster.
pub const NODES_MAX: usize = 2;
