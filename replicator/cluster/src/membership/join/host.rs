//! The issuing side.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use data_encoding::HEXLOWER;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use zeroize::Zeroizing;

use super::super::authority::read_request;
use super::super::description::{Description, Node};
use super::super::directory::{Content, Membership, NewNode};
use super::super::error::MembershipError;
use super::super::files;
use super::super::pending::{BINDING_BYTES, Pending, Verdict, WRONG_MAX};
use super::channel::{binding, read_line, server};
use super::{ALPN, JoinLimits, JoinRequest, JoinResponse, PROOF_BYTES, REQUEST_BYTES_MAX, VERSION, Welcome};

/// Pause after accept(2) failed, so that a lack of descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often it is looked whether the token still waits: another may have been issued, or it may have been withdrawn.
const LOOK: Duration = Duration::from_secs(5);

/// A node that has joined.
#[derive(Clone, PartialEq, Debug)]
pub struct Joined {
    /// The node.
    pub node: Node,
    /// The description with it.
    pub description: Description,
    /// From where it came.
    pub from: SocketAddr,
}

/// What a proof was made with, on which channel.
#[derive(Clone)]
struct Shown {
    id: [u8; 16],
    proof: [u8; 32],
    binding: Zeroizing<[u8; BINDING_BYTES]>,
}

/// Why a conversation did not make a member.
enum Ended {
    /// The other side is told this, and the log.
    Refused(String),
    /// The token is gone with it.
    Withdrawn,
    /// The other side cannot be told anything.
    Broken(String),
}

/// Wait at a listener for the node that uses the token of this cluster directory. Who holds a [`Membership`] of the directory
/// has to reload it afterwards.
///
/// # Errors
/// [`MembershipError::NoToken`], [`MembershipError::TokenExpired`], [`MembershipError::TokenWithdrawn`], or the directory cannot be
/// used. What single strangers do wrong is logged and no error.
pub async fn host_join(
    directory: &Path,
    listener: TcpListener,
    limits: JoinLimits,
) -> Result<Joined, MembershipError> {
    let tls = Membership::open(directory)?.tls();
    let config =
        server(vec![tls.certificate, tls.authority], tls.key).map_err(MembershipError::certificate)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let places = Arc::new(Semaphore::new(limits.connections.max(1)));
    let admitting = Arc::new(AtomicUsize::new(0));
    let mut conversations = JoinSet::new();
    loop {
        let looked = directory.to_owned();
        match tokio::task::spawn_blocking(move || look(&looked)).await {
            Ok(Ok(())) => {}
            // Raised before the token goes: who uses it just now is to be heard to the end.
            Ok(Err(MembershipError::NoToken)) if admitting.load(Ordering::SeqCst) > 0 => {}
            Ok(Err(error)) => return Err(error),
            Err(error) => tracing::error!(%error, "cannot look at the join token"),
        }
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = conversations.join_next() => match ended {
                Ok(Some(result)) => return result,
                _ => continue,
            },
            () = tokio::time::sleep(LOOK) => continue,
        };
        match accepted {
            Ok((stream, from)) => {
                let Ok(place) = places.clone().try_acquire_owned() else {
                    tracing::debug!(%from, "a connection of a node that wants to join is closed: there are too many");
                    continue;
                };
                let (acceptor, admitting) = (acceptor.clone(), admitting.clone());
                let host = Host { directory: directory.to_owned(), acceptor, limits, from, admitting };
                conversations.spawn(async move {
                    let result = host.serve(stream).await;
                    if result.is_none() {
                        // Who tries again and again fills its places and not the journal.
                        tokio::time::sleep(limits.pause).await;
                    }
                    drop(place);
                    result
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a node that wants to join");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether the token still waits. One that has expired is removed.
fn look(directory: &Path) -> Result<(), MembershipError> {
    let _lock = files::lock(directory)?;
    let pending = Pending::read(directory)?.ok_or(MembershipError::NoToken)?;
    if pending.has_expired(SystemTime::now()) {
        files::remove(directory, files::TOKEN)?;
        return Err(MembershipError::TokenExpired);
    }
    Ok(())
}

/// One conversation.
#[derive(Clone)]
struct Host {
    directory: PathBuf,
    acceptor: TlsAcceptor,
    limits: JoinLimits,
    from: SocketAddr,
    /// How many are being made members now.
    admitting: Arc<AtomicUsize>,
}

impl Host {
    /// `Some` if waiting is over.
    async fn serve(self, stream: TcpStream) -> Option<Result<Joined, MembershipError>> {
        let from = self.from;
        let channel = tokio::time::timeout(self.limits.conversation, self.acceptor.accept(stream)).await;
        let mut stream = match channel {
            Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(ALPN) => stream,
            Ok(Ok(_)) => return refused(from, "the other side speaks another protocol"),
            Ok(Err(error)) => return refused(from, &error.to_string()),
            Err(_) => return refused(from, "no handshake in time"),
        };
        let heard = tokio::time::timeout(self.limits.conversation, self.hear(&mut stream)).await;
        let heard = heard.unwrap_or_else(|_| Err(Ended::Broken("not done in time".to_owned())));
        // What follows is short and not to be given up in the middle.
        let ended = match heard {
            Ok((shown, request)) => self.make_member(shown, request).await,
            Err(ended) => Err(ended),
        };
        match ended {
            Ok((joined, content)) => {
                tracing::info!(%from, node = %joined.node.name, id = %joined.node.id, "a node has joined the cluster");
                // It is a member from here on, whether it hears of it or not.
                if let Err(error) = self.tell(&mut stream, JoinResponse::Joined(welcome(content))).await {
                    tracing::warn!(%from, %error, node = %joined.node.name,
                        "the node that joined may not have heard of it; if so, make a token that replaces it");
                }
                Some(Ok(joined))
            }
            Err(Ended::Refused(why)) => {
                tracing::warn!(%from, why, "refused a node that wants to join");
                let _ = self.tell(&mut stream, JoinResponse::Refused(why)).await;
                None
            }
            Err(Ended::Withdrawn) => {
                tracing::error!(%from, "the join token was withdrawn: {WRONG_MAX} wrong proofs were made under its id");
                Some(Err(MembershipError::TokenWithdrawn { wrong: WRONG_MAX }))
            }
            Err(Ended::Broken(why)) => refused(from, &why),
        }
    }

    async fn tell(&self, stream: &mut TlsStream<TcpStream>, response: JoinResponse) -> io::Result<()> {
        let mut line = Zeroizing::new(serde_json::to_vec(&response)?);
        line.push(b'\n');
        let told = async {
            stream.write_all(&line).await?;
            stream.flush().await?;
            stream.shutdown().await
        };
        tokio::time::timeout(self.limits.conversation, told).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// The proof, which must be right, and the request.
    async fn hear(&self, stream: &mut TlsStream<TcpStream>) -> Result<(Shown, JoinRequest), Ended> {
        let broken = |error: io::Error| Ended::Broken(error.to_string());
        let binding = binding(stream.get_ref().1).map_err(|error| Ended::Broken(error.to_string()))?;
        let mut bytes = [0; PROOF_BYTES];
        stream.read_exact(&mut bytes).await.map_err(broken)?;
        let (Some(id), Some(proof)) = (bytes.first_chunk().copied(), bytes.last_chunk().copied()) else {
            return Err(Ended::Broken("no proof".to_owned()));
        };
        let shown = Shown { id, proof, binding };
        let (host, judged) = (self.clone(), shown.clone());
        blocking(move || host.judge(&judged)).await?;
        let line = read_line(stream, REQUEST_BYTES_MAX).await.map_err(broken)?;
        // Who made the right proof may know what is wrong.
        let request: JoinRequest = serde_json::from_slice(&line).map_err(|error| {
            Ended::Refused(format!("the request is none: {error}; are both nodes of the same version?"))
        })?;
        Ok((shown, request))
    }

    async fn make_member(&self, shown: Shown, request: JoinRequest) -> Result<(Joined, Content), Ended> {
        self.admitting.fetch_add(1, Ordering::SeqCst);
        let host = self.clone();
        let result = blocking(move || host.admit(&shown, request)).await;
        if result.is_err() {
            self.admitting.fetch_sub(1, Ordering::SeqCst);
        }
        result
    }

    /// Look at a proof; wrong ones are counted.
    fn judge(&self, shown: &Shown) -> Result<(), Ended> {
        let _lock = files::lock(&self.directory).map_err(own)?;
        let pending = Pending::read(&self.directory).map_err(own)?;
        let verdict = pending.as_ref().map_or(Verdict::Unknown, |pending| {
            pending.judge(&shown.id, shown.proof, &shown.binding, SystemTime::now())
        });
        match (verdict, pending) {
            (Verdict::Right, _) => Ok(()),
            (Verdict::Wrong, Some(pending)) => match pending.count_wrong(&self.directory).map_err(own)? {
                Some(wrong) => Err(Ended::Refused(format!("the proof is wrong ({wrong} so far)"))),
                None => Err(Ended::Withdrawn),
            },
            (Verdict::Expired, _) => Err(Ended::Refused("the token has expired; make a new one".to_owned())),
            _ => Err(Ended::Refused(
                "no such token: it was used, or a newer one was made; make a new one".to_owned(),
            )),
        }
    }

    /// Use the token up, then make the other side a member.
    fn admit(&self, shown: &Shown, request: JoinRequest) -> Result<(Joined, Content), Ended> {
        let refuse = |error: MembershipError| Ended::Refused(error.to_string());
        if request.version != VERSION {
            return Err(Ended::Refused(format!("version {} of a join is not known here", request.version)));
        }
        let signing = read_request(&request.request).map_err(refuse)?;
        let id =
            request.node.id.parse().map_err(|error: super::super::DescriptionError| refuse(error.into()))?;
        let new = request.node;
        let new =
            NewNode { name: new.name, heartbeat: new.heartbeat, control: new.control, mirror: new.mirror };
        let node = new.with_id(id);
        let mut membership = Membership::open(&self.directory).map_err(own)?;
        let now = SystemTime::now();
        // What cannot become a member shall not cost the token.
        let pending = Pending::read(&self.directory).map_err(own)?;
        let replaces = pending.and_then(|pending| pending.replaces);
        membership.with_node(node.clone(), replaces.as_deref()).map_err(refuse)?;
        let is_it =
            |pending: &Pending| pending.judge(&shown.id, shown.proof, &shown.binding, now) == Verdict::Right;
        let Some(pending) = membership.consume_token(is_it).map_err(own)? else {
            return Err(Ended::Refused("somebody else has used the token; make a new one".to_owned()));
        };
        let content =
            membership.admit(node.clone(), pending.replaces.as_deref(), &signing, now).map_err(own)?;
        let description = membership.description().clone();
        Ok((Joined { node, description, from: self.from }, content))
    }
}

fn refused(from: SocketAddr, why: &str) -> Option<Result<Joined, MembershipError>> {
    tracing::warn!(%from, why, "refused a connection that was to join the cluster");
    None
}

/// Trouble of this node's own: the other side is not told what.
fn own(error: MembershipError) -> Ended {
    tracing::error!(%error, "a node cannot join");
    Ended::Refused("the issuing node has trouble of its own; see its journal".to_owned())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Ended> + Send + 'static,
) -> Result<T, Ended> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Ended::Broken(error.to_string())),
    }
}

fn welcome(content: Content) -> Box<Welcome> {
    Box::new(Welcome {
        description: content.description,
        authority: content.authority,
        authority_key: content.authority_key.to_string(),
        certificate: content.node.to_string(),
        secrets: HEXLOWER.encode(&content.secrets),
        mirror_key: content.mirror_key.hex().to_string(),
        witness_key: content.witness_key.hex().to_string(),
    })
}
