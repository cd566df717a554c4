//! The register an arbiter keeps for one module of one cluster, and the one rule by which it changes.
//!
//! Pure: every arbiter that remembers (the witness, etcd) decides by [`decide`] and differs only in where the value lies.
//!
//! ```text
//!   no value                               -> granted
//!   a higher term than the stored one      -> granted
//!   the stored term, asked by its holder   -> granted again (an answer was lost, the holder asks once more)
//!   everything else                        -> refused, with what is stored
//! ```
//!
//! Nothing takes a grant away but a higher term: there is no clock, no lease and no release. So two nodes that parted at term T and
//! both ask for T+1 get one winner, whenever they ask, and a node that boots with an older term is refused for good.

use std::fmt;
use std::str::FromStr;

use replicator_core::ids::Term;
use replicator_core::lineage::GenerationId;

/// Longest name of a module, in bytes.
pub const MODULE_NAME_BYTES_MAX: usize = 64;

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = NotAnIdentity;

            /// 32 hexadecimal digits.
            fn from_str(text: &str) -> Result<Self, NotAnIdentity> {
                let mut bytes = [0; 16];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| NotAnIdentity)?;
                Ok(Self(bytes))
            }
        }
    };
}

identity!(
    /// A cluster, by random bytes drawn when it was made.
    ClusterId
);
identity!(
    /// A node, by random bytes drawn when it joined its cluster.
    NodeId
);
identity!(
    /// A witness, by random bytes drawn when its directory was made. A directory that is made anew is another witness. Of an etcd
    /// cluster: its own cluster id.
    WitnessId
);

/// A text that is no identity.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not an identity; it is 32 hexadecimal digits")]
pub struct NotAnIdentity;

/// The name of a module: 1 to 64 of the characters `A-Z a-z 0-9 . _ -`, so that it can be part of a file's name and of a path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModuleName(Box<str>);

/// A text that is no module's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not the name of a module; use 1 to {MODULE_NAME_BYTES_MAX} of the characters A-Z a-z 0-9 . _ -")]
pub struct NotAModuleName;

impl ModuleName {
    /// Take this as a name.
    ///
    /// # Errors
    /// [`NotAModuleName`]: empty, too long, or with other characters.
    pub fn new(name: &str) -> Result<ModuleName, NotAModuleName> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let fits = (1..=MODULE_NAME_BYTES_MAX).contains(&name.len());
        if fits && name.bytes().all(allowed) { Ok(ModuleName(name.into())) } else { Err(NotAModuleName) }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ModuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Which register: each module of each cluster has one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RegisterName {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its module.
    pub module: ModuleName,
}

impl fmt::Display for RegisterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "module {} of cluster {}", self.module, self.cluster)
    }
}

/// What a register holds: the last primacy that was granted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Value {
    /// Its number.
    pub term: Term,
    /// The node it was granted to.
    pub holder: NodeId,
    /// The generation of the data the holder goes on with.
    pub generation: GenerationId,
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "term {} of node {}, generation {}", self.term, self.holder, self.generation)
    }
}

/// What a register says to a node that asks for a primacy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// It is granted; this is what the register holds from now on.
    Grant(Value),
    /// It is not; this is what the register holds, unchanged.
    Refuse(Value),
}

/// Decide on `asked` where `stored` is what the register holds.
///
/// When a holder asks again, the later generation counts: the higher number, and between equal numbers the one asked for now (the
/// node drew another tag because it stopped before it had recorded the first). A lower number is what a late copy of an old request
/// has, and does not take the record back.
#[must_use]
pub fn decide(stored: Option<Value>, asked: Value) -> Decision {
    let Some(stored) = stored else { return Decision::Grant(asked) };
    if asked.term > stored.term {
        return Decision::Grant(asked);
    }
    if asked.term < stored.term || asked.holder != stored.holder {
        return Decision::Refuse(stored);
    }
    if asked.generation.number < stored.generation.number {
        return Decision::Grant(stored);
    }
    Decision::Grant(asked)
}
