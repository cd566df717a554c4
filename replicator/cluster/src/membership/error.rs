//! What can be wrong with a membership. Every message names the remedy.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::identity::ClusterId;

/// Why a description of a cluster is refused.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum DescriptionError {
    /// Not TOML, a value of the wrong type, an unknown or a missing key.
    #[error("line {line}, column {column}: {message}")]
    Syntax { line: usize, column: usize, message: String },
    /// Too large.
    #[error("a cluster's description has at most {limit} bytes, this has {bytes}; shorten its arbiter table")]
    TooLarge { bytes: usize, limit: usize },
    /// Made by a newer program.
    #[error(
        "format {found} of the description is newer than this program, which knows {known}; update replicator on this node"
    )]
    Format { found: u32, known: u32 },
    /// Version 0.
    #[error("version is 0; versions begin with 1 and grow with every change")]
    VersionZero,
    /// A name with characters that do not belong in one.
    #[error(
        "{key}: {value:?} is not a name; use 1 to 64 of the characters A-Z a-z 0-9 . _ - and begin with a letter or digit"
    )]
    Name { key: &'static str, value: String },
    /// Not an id.
    #[error(
        "{what}: {value:?} is not an id; it has 32 hexadecimal digits in lower case and is never written by hand"
    )]
    Id { what: &'static str, value: String },
    /// Not a fingerprint.
    #[error(
        "cluster.authority: {value:?} is not a fingerprint; it is sha256: and 64 hexadecimal digits in lower case"
    )]
    Fingerprint { value: String },
    /// No node or too many.
    #[error("a cluster has one or two nodes, the description names {count}; remove what is not one")]
    NodeCount { count: usize },
    /// Two nodes alike.
    #[error("both nodes have the {what} {value}; they must differ")]
    NodesAlike { what: &'static str, value: String },
    /// No address.
    #[error("node {node}: {key} names no address; name at least one")]
    NoAddress { node: String, key: &'static str },
    /// Too many addresses.
    #[error("node {node}: {key} names {count} addresses; at most {limit} are possible")]
    TooManyAddresses { node: String, key: &'static str, count: usize, limit: usize },
    /// An address nobody can reach.
    #[error(
        "node {node}: {key}: {value} cannot be the address of one node; name its own address (not a link-local one) and a port other than 0"
    )]
    Address { node: String, key: String, value: String },
    /// The same address twice.
    #[error(
        "{value} stands twice in the description (node {node}, {key}); every heartbeat and control address is written once"
    )]
    AddressTwice { node: String, key: String, value: String },
    /// A network on one side only.
    #[error(
        "node {node} has no heartbeat address in the network {network:?}, the other has; add it or remove the other's"
    )]
    NetworkMissing { node: String, network: String },
    /// One v4, the other v6.
    #[error(
        "the heartbeat addresses in the network {network:?} are of IPv4 on one node and of IPv6 on the other; use one of both"
    )]
    NetworkMixed { network: String },
    /// The description cannot be written as TOML.
    #[error("the description cannot be written ({0}); its arbiter table must hold keys and values only")]
    Unwritable(String),
}

/// Why a join token is none.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TokenError {
    /// Does not look like one.
    #[error("this is not a join token; it begins with {prefix:?} and is printed by \"replicator cluster invite\"", prefix = super::token::PREFIX)]
    NotAToken,
    /// A character that no token has.
    #[error("the token has a character that no token has, at position {position}; copy it again, as a whole")]
    Character { position: usize },
    /// Checksum wrong.
    #[error("the token has a typing error or is cut off; copy it again, as a whole")]
    Mistyped,
    /// Of another version.
    #[error(
        "the token is of version {found}, this program knows {known}; use the same replicator on both nodes"
    )]
    Version { found: u8, known: u8 },
    /// Expired, by this node's clock.
    #[error(
        "the token has expired by this node's clock; check the clocks of both nodes, or make a new token"
    )]
    Expired,
}

/// Why a shared secret is not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum SecretError {
    /// The file is no file of secrets.
    #[error("the file of the shared secrets is damaged ({why}); copy it from the other node, or join again")]
    Damaged { why: &'static str },
    /// Made by a newer program.
    #[error(
        "the file of the shared secrets has version {found}, this program knows 1; update replicator on this node"
    )]
    Newer { found: u32 },
    /// The offered one is not newer.
    #[error(
        "the offered secret {offered} is older than the current one {current}; rotate on the node that has the current one"
    )]
    Older { offered: u64, current: u64 },
    /// The same number, other bytes.
    #[error(
        "both nodes made a secret with the number {number}, and this node's stays; it is offered to the peer, nothing need be done"
    )]
    Rival { number: u64 },
    /// A confirmation of what was not offered.
    #[error(
        "the peer confirms the secret {confirmed}, which is neither the current nor the next; rotate again"
    )]
    NotOffered { confirmed: u64 },
    /// The number came to its end.
    #[error("there is no number after this secret's; found the cluster anew")]
    Exhausted,
}

/// Why something about a membership was not done.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum MembershipError {
    // ---- the directory -----------------------------------------------------------------------------
    /// The system refused.
    #[error("cannot {operation} {path}: {source}", path = path.display())]
    System { operation: &'static str, path: PathBuf, source: io::Error },
    /// No cluster here.
    #[error("{path} is not a cluster directory; found a cluster with \"replicator cluster init\" or join one with \"replicator cluster join\"", path = path.display())]
    NotAMember { path: PathBuf },
    /// A cluster is here already.
    #[error("{path} exists and is not empty; a node is in one cluster: move the directory away if that one is given up", path = path.display())]
    AlreadyAMember { path: PathBuf },
    /// Others can read a secret.
    #[error("{path} can be read or written by others (mode {mode:04o}); make it chmod 600 (a directory 700), and rotate if somebody may have read it", path = path.display())]
    Exposed { path: PathBuf, mode: u32 },
    /// Larger than any such file.
    #[error("{path} is larger than {limit} bytes: it is not a file of a cluster; restore it or join again", path = path.display())]
    FileTooLarge { path: PathBuf, limit: u64 },
    /// A file with the wrong content.
    #[error("{path} is damaged ({why}); restore it from the other node where both have the same, or join again", path = path.display())]
    Damaged { path: PathBuf, why: String },
    /// The description is wrong.
    #[error("{path}: {source}", path = path.display())]
    Description { path: PathBuf, source: DescriptionError },
    /// Files of different clusters or nodes.
    #[error("the files in {path} do not belong together ({why}); restore all of them from one copy, or join again", path = path.display())]
    Inconsistent { path: PathBuf, why: String },

    // ---- values ------------------------------------------------------------------------------------
    /// What was given is no description.
    #[error("{0}")]
    Refused(#[from] DescriptionError),
    /// About a token.
    #[error("{0}")]
    Token(#[from] TokenError),
    /// About a shared secret.
    #[error("{0}")]
    Secret(#[from] SecretError),
    /// A description of another cluster.
    #[error(
        "the offered description is of the cluster {found}, this node is in {expected}; the peer is not a peer"
    )]
    OtherCluster { found: ClusterId, expected: ClusterId },
    /// A description without this node.
    #[error(
        "the offered description does not have this node as it is ({node}); join again if it was replaced"
    )]
    NotInDescription { node: String },
    /// The authority's key is not here.
    #[error("the cluster authority's key {path} is not on this node; do it on the other node, or copy the file from there", path = path.display())]
    NoAuthorityKey { path: PathBuf },
    /// The authority made no certificate, or one that does not hold.
    #[error("cannot make a certificate: {why}")]
    Certificate { why: String },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes ({0})")]
    Random(#[from] getrandom::Error),
    /// The clock is far off.
    #[error("this node's clock is out of all bounds; set it (is the time service running?)")]
    Clock,

    // ---- joining -----------------------------------------------------------------------------------
    /// Two nodes are there.
    #[error("the cluster has two nodes ({present}); to replace one, name it when the token is made")]
    Full { present: String },
    /// Nobody of that name to replace.
    #[error("{name} cannot be replaced: the only other node is {other}")]
    NotReplaceable { name: String, other: String },
    /// A token nobody can use.
    #[error(
        "a token needs 1 to 8 addresses where this node can be reached, with a port; {count} are given, or one cannot be dialled"
    )]
    TokenAddresses { count: usize },
    /// Nothing is waited for.
    #[error("there is no token that waits to be used; make one with \"replicator cluster invite\"")]
    NoToken,
    /// The time is over.
    #[error("the token expired before anybody used it; make a new one")]
    TokenExpired,
    /// Too many wrong proofs.
    #[error(
        "the token was withdrawn after {wrong} wrong attempts; find out who tries (see the journal) and make a new one"
    )]
    TokenWithdrawn { wrong: u32 },
    /// No address of the token answers.
    #[error("cannot join over {address}: {why}")]
    JoinFailed { address: SocketAddr, why: String },
    /// The other side's authority is another.
    #[error(
        "who answers at {address} is not the node that made the token (its authority has another fingerprint); somebody else has \
         that address, or is in between: nothing was told to it"
    )]
    NotTheInviter { address: SocketAddr },
    /// The other side said no.
    #[error("the node at {address} refuses: {message}")]
    JoinRefused { address: SocketAddr, message: String },
    /// The other side's answer is wrong.
    #[error(
        "the answer of {address} cannot be used ({why}); the token is used up: make a new one, with the same replicator on both nodes"
    )]
    JoinGarbage { address: SocketAddr, why: String },
}

impl MembershipError {
    pub(super) fn certificate(why: impl ToString) -> MembershipError {
        MembershipError::Certificate { why: why.to_string() }
    }
}
