//! The rotation of the secret that both nodes share, while they run and hear each other.
//!
//! What is durable is `membership`'s ([`Secrets`](crate::membership::Secrets): `propose`, `take`, `confirm`, `retire`), and what is accepted is the heartbeat's
//! ([`Heartbeat::rekey`]). Here is the order of both, and what is to be done again after a crash:
//!
//! | this node has on its disk | it accepts | so it |
//! |---|---|---|
//! | the current secret | it | has nothing to do |
//! | a next one | the current and the next | offers the next one to the other node, until that one has it; then confirms |
//! | a previous one | the previous and the current | forgets the previous one when its heartbeat has: then the other node sends with the current one |
//!
//! Each row follows from the disk alone, so a node that died in between goes on where it was. Whatever one node accepts, the other accepts one of it: a
//! node accepts before it offers, takes before it answers, and forgets only what the other does not use any more, which uses nothing that it has not on its disk.
//!
//! **Both at once**: each offers its own; the one with the greater digest stays, its maker refuses the other's offer, and the other takes it. No node holds a lock
//! while it waits for the other, so both offers arrive.
//!
//! A rotation is not begun before the one before is over on this node: three secrets at a time are one more than a heartbeat accepts.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

use super::control::{Answer, Peer, Request};
use super::member::Member;
use super::status::SecretStatus;
use crate::heartbeat::{Heartbeat, Key, KeyId};
use crate::held::lock;
use crate::membership::{Membership, MembershipError, Offer, Secrets};

/// Between two attempts to go on with a rotation.
const RETRY: Duration = Duration::from_secs(2);

/// What listens and speaks with the secret's keys.
pub trait Ears: Send + Sync + 'static {
    /// Accept this key, too, and use it when the peer accepts it.
    fn accept(&self, key: Key);

    /// The one key that is accepted, if there is no other.
    fn only_key(&self) -> Option<KeyId>;
}

impl Ears for Heartbeat {
    fn accept(&self, key: Key) {
        self.rekey(key);
    }

    fn only_key(&self) -> Option<KeyId> {
        let snapshot = self.snapshot();
        (!snapshot.key_changing).then_some(snapshot.newest_key)
    }
}

/// The rotation on one node.
#[derive(Debug)]
pub struct Rotation<E = Heartbeat> {
    member: Member,
    ears: Arc<E>,
    again: Notify,
    status: Arc<Mutex<SecretStatus>>,
}

impl<E: Ears> Rotation<E> {
    /// Of a node whose ears were started with what [`keys`] says of the same secrets.
    #[must_use]
    pub fn new(member: Member, ears: Arc<E>) -> Rotation<E> {
        Rotation { member, ears, again: Notify::new(), status: Arc::default() }
    }

    /// How far it is.
    #[must_use]
    pub fn status(&self) -> SecretStatus {
        lock(&self.status).clone()
    }

    /// Go on with what there is to do, now and whenever there is something.
    pub async fn run(&self, peer: &impl Peer) {
        loop {
            let again = self.again.notified();
            let goes_on = match self.go_on(peer).await {
                Ok(()) => {
                    let status = self.status();
                    status.next.is_some() || status.previous.is_some()
                }
                Err(error) => {
                    tracing::error!(%error, "the rotation of the shared secret cannot go on");
                    true
                }
            };
            if goes_on {
                // Whoever is not there is asked again, and what the heartbeat still accepts is looked at again.
                let _ = tokio::time::timeout(RETRY, again).await;
            } else {
                again.await;
            }
        }
    }

    /// Begin a rotation, or go on with the one under way, as far as it gets now. The rest is done by [`Rotation::run`].
    ///
    /// # Errors
    /// For a person: the one before is not over, or a disk refuses.
    pub async fn begin(&self, peer: &impl Peer) -> Result<SecretStatus, String> {
        self.look().await?;
        // In one turn, since the other node's secret may be taken at any moment.
        let former = self.change(|membership| {
            membership.reload()?;
            match membership.secrets().others() {
                (None, Some(previous)) => Ok(Some(previous)),
                _ => membership.propose_secret().map(|_| None),
            }
        });
        if let Some(previous) = former.await? {
            return Err(format!(
                "the rotation before is not over: secret {previous} is accepted until the other node was heard for some seconds with the one after it; \
                 try again then"
            ));
        }
        let gone_on = self.go_on(peer).await;
        self.again.notify_one();
        gone_on.map(|()| self.status())
    }

    /// Take what the other node offers. What it is told when this returns is durable, and accepted.
    ///
    /// # Errors
    /// For a person: it is not taken.
    pub async fn take(&self, offer: Offer) -> Result<(), String> {
        let number = offer.number;
        self.change(move |membership| membership.take_secret(offer).map(drop)).await?;
        tracing::info!(number, "this node has the secret that the other node made");
        self.again.notify_one();
        Ok(())
    }

    /// Do what there is to do now.
    async fn go_on(&self, peer: &impl Peer) -> Result<(), String> {
        let Some(offer) = self.look().await? else { return Ok(()) };
        let number = offer.number;
        match peer.ask(Request::TakeSecret { offer }).await {
            Answer::Done => {
                self.change(move |membership| match membership.confirm_secret(number) {
                    // Meanwhile this node took another one from its peer.
                    Err(MembershipError::Secret(crate::membership::SecretError::NotOffered { .. })) => Ok(()),
                    confirmed => confirmed,
                })
                .await?;
                tracing::info!(number, "the other node has the new secret");
            }
            Answer::Refused { message } => self.waits(number, message),
            other => {
                self.waits(
                    number,
                    format!("the other node answers {other:?}; are both of the same version?"),
                );
            }
        }
        Ok(())
    }

    fn waits(&self, number: u64, why: String) {
        let mut status = lock(&self.status);
        if status.next == Some(number) && status.waits.as_ref() != Some(&why) {
            tracing::info!(number, why, "the rotation of the shared secret waits");
            status.waits = Some(why);
        }
    }

    /// See how far it is, and forget what nobody uses. What is to be offered, if anything.
    async fn look(&self) -> Result<Option<Offer>, String> {
        let ears = Arc::clone(&self.ears);
        self.change(move |membership| {
            membership.reload()?;
            let secrets = membership.secrets();
            let over = ears.only_key() == Some(newest(secrets).id());
            if !secrets.is_rotating() && over && membership.retire_secret()? {
                let number = membership.secrets().number();
                tracing::info!(number, "the rotation of the shared secret is over");
            }
            let secrets = membership.secrets();
            Ok(secrets.is_rotating().then(|| secrets.offer()))
        })
        .await
    }

    /// Change the secrets, and have the heartbeat accept what they are then.
    async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Membership) -> Result<T, MembershipError> + Send + 'static,
    ) -> Result<T, String> {
        let (ears, status) = (Arc::clone(&self.ears), Arc::clone(&self.status));
        let changing = self.member.with(move |membership| {
            let done = work(membership);
            let secrets = membership.secrets();
            ears.accept(newest(secrets));
            let mut status = lock(&status);
            let (next, previous) = secrets.others();
            let waits = status.waits.take().filter(|_| next.is_some() && next == status.next);
            *status = SecretStatus { number: secrets.number(), next, previous, waits };
            done
        });
        changing.await
    }
}

/// The keys a heartbeat is to be started with: the one that the other node accepts for certain, and the other that it may use.
#[must_use]
pub fn keys(secrets: &Secrets) -> (Key, Option<Key>) {
    let (sure, other) = secrets.heartbeat_pair();
    (Key::new(*sure.key.bytes()), other.map(|other| Key::new(*other.key.bytes())))
}

/// The key that both nodes will use.
fn newest(secrets: &Secrets) -> Key {
    let (sure, other) = keys(secrets);
    other.unwrap_or(sure)
}

#[cfg(test)]
mod tests;
