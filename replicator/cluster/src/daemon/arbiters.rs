//! The arbiter that a cluster's description names, in its table `[arbiter]`.
//!
//! ```toml
//! [arbiter]
//! kind = "witness"                    # needs the file arbiter.key in the cluster directory
//! addresses = ["10.0.0.3:7410"]
//!
//! [arbiter]
//! kind = "etcd"
//! endpoints = ["http://10.0.0.3:2379"]
//!
//! [arbiter]
//! kind = "ping"                       # weak: it can let both nodes go on
//! targets = ["10.0.0.254"]
//! ```

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use serde::Deserialize;

use crate::arbiter::{
    AnyArbiter, EtcdArbiter, EtcdConfig, KeyError, PingArbiter, SetupError, WitnessArbiter, WitnessKey,
};

/// Name of the key file of a witness, in the cluster directory.
pub const KEY_FILE: &str = "arbiter.key";

/// What is wrong with the table.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ArbiterConfigError {
    /// It makes no sense.
    #[error("[arbiter]: {0}; kind is witness (with addresses), etcd (with endpoints) or ping (with targets)")]
    Table(#[from] toml::de::Error),
    /// The arbiter cannot be made of it.
    #[error("[arbiter]: {0}")]
    Setup(#[from] SetupError),
    /// The witness's key is not there.
    #[error(
        "the witness's key: {0}; \"replicator witness add-cluster\" makes it, it belongs into the cluster directory as {KEY_FILE}"
    )]
    Key(#[from] KeyError),
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
enum Table {
    Witness { addresses: Vec<SocketAddr> },
    Etcd { endpoints: Vec<String> },
    Ping { targets: Vec<IpAddr> },
}

/// The arbiter of a table; `directory`: the cluster's.
///
/// # Errors
/// [`ArbiterConfigError`]
pub fn arbiter(table: &toml::Table, directory: &Path) -> Result<AnyArbiter, ArbiterConfigError> {
    let table: Table = table.clone().try_into()?;
    Ok(match table {
        Table::Witness { addresses } => {
            let key = WitnessKey::read(&directory.join(KEY_FILE))?;
            AnyArbiter::Witness(WitnessArbiter::new(addresses, key)?)
        }
        Table::Etcd { endpoints } => AnyArbiter::Etcd(EtcdArbiter::new(EtcdConfig::new(endpoints))?),
        Table::Ping { targets } => AnyArbiter::Ping(PingArbiter::new(targets)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(text: &str) -> Result<AnyArbiter, ArbiterConfigError> {
        arbiter(&text.parse().unwrap(), Path::new("/nonexistent"))
    }

    #[test]
    fn each_kind_is_made_of_its_table_and_nothing_else() {
        assert!(matches!(made("kind = \"ping\"\ntargets = [\"192.0.2.1\"]"), Ok(AnyArbiter::Ping(_))));
        let etcd = made("kind = \"etcd\"\nendpoints = [\"http://127.0.0.1:2379\"]");
        assert!(matches!(etcd, Ok(AnyArbiter::Etcd(_))));
        let witness = made("kind = \"witness\"\naddresses = [\"127.0.0.1:7410\"]");
        assert!(matches!(witness, Err(ArbiterConfigError::Key(_))));
        for wrong in
            ["", "kind = \"dice\"", "kind = \"ping\"\naddresses = []", "kind = \"ping\"\ntargets = [\"a\"]"]
        {
            assert!(matches!(made(wrong), Err(ArbiterConfigError::Table(_))), "{wrong}");
        }
    }
}
