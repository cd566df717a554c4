//! The membership, as the parts of a daemon share it.

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use super::service::ServiceError;
use crate::held::lock;
use crate::membership::{Membership, MembershipError};
use crate::remote::{self, Credentials, Keyring};

/// A node's membership. What is done with it waits for its turn, for the directory's lock and for the disk, and therefore on a thread of its own.
#[derive(Clone, Debug)]
pub struct Member(Arc<Mutex<Membership>>);

impl Member {
    /// Share it.
    #[must_use]
    pub fn new(membership: Membership) -> Member {
        Member(Arc::new(Mutex::new(membership)))
    }

    /// Do something with it, to the end, though whoever asked for it is gone.
    ///
    /// # Errors
    /// For a person.
    pub async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Membership) -> Result<T, MembershipError> + Send + 'static,
    ) -> Result<T, String> {
        let membership = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || work(&mut lock(&membership)));
        done.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    /// Have a certificate renewed, and use it from the next connection on: any (`anew`), or one that is due. Also takes in one that a command has made.
    ///
    /// # Errors
    /// For a person. What was used before is used on.
    pub async fn renew(&self, keyring: &Keyring, anew: bool) -> Result<(), String> {
        let keyring = keyring.clone();
        let replaced = self.with(move |membership| {
            let now = SystemTime::now();
            membership.reload()?;
            // That it cannot be renewed is no reason not to take in what is there.
            let renewed =
                if anew { membership.renew_certificate(now) } else { membership.renew_if_due(now).map(drop) };
            let replaced = credentials(membership)
                .map_err(|error| error.to_string())
                .and_then(|credentials| keyring.replace(credentials).map_err(|error| error.to_string()));
            renewed.map(|()| replaced)
        });
        replaced.await?.map_err(|error| format!("the renewed certificate cannot be used: {error}"))
    }

    /// What is to be said of the certificates' end, if it is near.
    ///
    /// # Errors
    /// For a person.
    pub async fn warning(&self) -> Result<Option<String>, String> {
        let now = SystemTime::now();
        self.with(move |membership| {
            Ok(membership.expiry(now)?.warning(now).map(|warning| warning.to_string()))
        })
        .await
    }
}

/// What the channel between the nodes is protected with.
///
/// # Errors
/// There is no other node.
pub fn credentials(membership: &Membership) -> Result<Credentials, ServiceError> {
    let tls = membership.tls();
    let peer = tls.peer.ok_or(ServiceError::NoPeer)?;
    Ok(Credentials {
        authorities: vec![tls.authority],
        certificate: tls.certificate,
        key: tls.key,
        peer: remote::PeerName { name: peer.name, uri: peer.uri },
    })
}
