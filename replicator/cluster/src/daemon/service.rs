//! The daemon from its start to its end: what is on the disk becomes a running node that can be asked.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use replicator_core::cluster::Policy;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use super::control::{Answer, Desk, Peer, Request};
use super::member::{Member, credentials};
use super::mirror::Mirror;
use super::module::policy_of;
use super::node::{Node, NodeSetup};
use super::rotation::{self, Rotation};
use super::{arbiters, socket};
use crate::health::{Health, HealthState, Look};
use crate::heartbeat::{HeartbeatConfig, Path as Network, Preset};
use crate::membership::{self, Membership};
use crate::module::{self, Shelf};
use crate::remote::{self, Keyring, PeerIdentity, Remote, Server};
use crate::supervisor::Supervisor;

/// How long the other node may take to answer what is passed on to it.
const PEER_WITHIN: Duration = Duration::from_secs(5);
/// How long an end in order may take: the applications' own limits are shorter.
const STOP_BOUND: Duration = Duration::from_secs(600);
/// How often it is looked whether certificates are to be renewed.
const RENEWAL: Duration = Duration::from_secs(3600);

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Places {
    /// The cluster directory.
    pub cluster: PathBuf,
    /// The installed modules.
    pub modules: PathBuf,
    /// What must survive a restart of the machine.
    pub state: PathBuf,
    /// What need not.
    pub run: PathBuf,
    /// Logs of scripts.
    pub logs: PathBuf,
}

impl Places {
    /// The daemon's local socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run.join("cluster.sock")
    }
}

/// Where a module's mirror lives, and whom it speaks to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MirrorPlace {
    /// The cluster's and this node's name.
    pub names: (String, String),
    /// Where it listens as the secondary.
    pub listen: SocketAddr,
    /// Where its peer does.
    pub peer: SocketAddr,
    /// The secret of the link.
    pub key_file: PathBuf,
    /// With what the link is encrypted unless the module does without.
    pub tls: MirrorTls,
    /// Its own state.
    pub state: PathBuf,
    /// Its configuration file and socket.
    pub run: PathBuf,
    /// A peer that was not heard on the link for this long is lost. Shorter than the heartbeat's, so that the link is given up first.
    pub dead_after: Duration,
    /// Both nodes may go on alone, and what the one has that stays replaces what the other has, which is kept aside.
    pub overrules: bool,
    /// A secondary is to have at hand what it needs as the primary, at the cost of the memory for it.
    pub keeps_ready: bool,
}

/// What a mirror's link is encrypted with. The files are replaced when certificates are renewed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MirrorTls {
    /// PEM with the authority's certificate.
    pub authority: PathBuf,
    /// PEM with this node's key and certificate.
    pub node: PathBuf,
    /// The URI in the peer's certificate.
    pub peer: String,
}

/// What the daemon is told beside what is on the disk.
#[derive(Clone, Debug)]
pub struct Options {
    /// How quickly a dead peer is noticed.
    pub preset: Preset,
    /// Where load balancers may ask.
    pub health: Option<SocketAddr>,
}

/// Why the daemon cannot start or go on.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ServiceError {
    /// The cluster directory.
    #[error(transparent)]
    Membership(#[from] membership::MembershipError),
    /// The other node has not joined.
    #[error(
        "this cluster has one node only; make a token with \"replicator cluster invite\", and join the other node with it"
    )]
    NoPeer,
    /// The networks of both nodes do not fit.
    #[error("the description names no network on which both nodes are")]
    NoNetwork,
    /// The node.
    #[error(transparent)]
    Start(#[from] super::node::StartError),
    /// The modules.
    #[error(transparent)]
    Shelf(#[from] module::ShelfError),
    /// The arbiter.
    #[error(transparent)]
    Arbiter(#[from] arbiters::ArbiterConfigError),
    /// The local socket.
    #[error(transparent)]
    Socket(#[from] socket::SocketError),
    /// The channel between the nodes.
    #[error(transparent)]
    Remote(#[from] remote::RemoteError),
    /// The certificates.
    #[error(transparent)]
    Credentials(#[from] remote::CredentialsError),
    /// The health URL.
    #[error(transparent)]
    Health(#[from] crate::health::HealthError),
    /// The system.
    #[error("cannot {operation}: {source}")]
    System { operation: &'static str, source: std::io::Error },
}

/// Run until SIGTERM, SIGINT or an order to stop. `mirror` makes the mirror of a module of this description at this place.
///
/// To be run on a runtime of one thread: the mirrors' processes end with the thread that started them.
///
/// # Errors
/// [`ServiceError`]
pub async fn run<M: Mirror>(
    places: Places,
    options: Options,
    mirror: impl Fn(&module::Description, MirrorPlace) -> Result<M, String> + Send + Sync + 'static,
) -> Result<(), ServiceError> {
    let system = |operation| move |source| ServiceError::System { operation, source };
    let mut terminated = signal(SignalKind::terminate()).map_err(system("catch SIGTERM"))?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(system("catch SIGINT"))?;
    let mut membership = Membership::open(&places.cluster)?;
    membership.renew_if_due(SystemTime::now())?;
    let setup = setup(&places, &options, &membership)?;
    let site = MirrorSite::new(&places, &membership, setup.heartbeat.dead_after, options.preset)?;
    let node = Node::start(setup, move |description| mirror(description, site.place(description)?))?;
    let keyring = Keyring::new(credentials(&membership)?)?;
    let (own, peer) = both(&membership)?;
    let member = Member::new(membership);
    let desk = Arc::new(Desk {
        node: Arc::clone(&node),
        member: member.clone(),
        keyring: keyring.clone(),
        rotation: Arc::new(Rotation::new(member.clone(), node.ears())),
        deliveries: Arc::default(),
        peer: Other(Remote::new(peer.control, keyring.clone(), remote::Options::default())),
        stop: Arc::new(Notify::new()),
    });
    let server = {
        let desk = Arc::clone(&desk);
        let handler = move |who: PeerIdentity, request: Request| {
            let desk = Arc::clone(&desk);
            async move { desk.answer_peer(&who.name, request).await }
        };
        Server::bind(own.control, keyring.clone(), remote::Limits::default(), handler).await?
    };
    let socket = {
        let desk = Arc::clone(&desk);
        socket::serve(&places.socket(), move |request| {
            let desk = Arc::clone(&desk);
            async move { desk.answer(request).await }
        })?
    };
    let health = match options.health {
        Some(address) => Some(Health::serve(address, health(&node))?),
        None => None,
    };
    tokio::spawn(renew(member, keyring));
    tokio::spawn({
        let desk = Arc::clone(&desk);
        async move { desk.rotation.run(&desk.peer).await }
    });
    tracing::info!(node = node.names().0, peer = node.names().1, "running");
    let supervisor = Arc::new(Supervisor::from_environment());
    supervisor.ready(&format!("{} of a cluster with {}", node.names().0, node.names().1));
    tokio::spawn(pulse(Arc::clone(&node), Arc::clone(&supervisor)));
    tokio::select! {
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
        () = desk.stop.notified() => {}
    }
    tracing::info!("stopping");
    supervisor.stopping();
    // A second signal ends it at once: what runs is left for the next start to stop.
    tokio::select! {
        () = node.stop(STOP_BOUND) => {}
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    drop((socket, server, health));
    Ok(())
}

fn both(membership: &Membership) -> Result<(membership::Node, membership::Node), ServiceError> {
    let own = membership.description().node(membership.name()).ok_or(ServiceError::NoPeer)?;
    let peer = membership.peer().ok_or(ServiceError::NoPeer)?;
    Ok((own.clone(), peer.clone()))
}

fn setup(places: &Places, options: &Options, membership: &Membership) -> Result<NodeSetup, ServiceError> {
    let (own, peer) = both(membership)?;
    let description = membership.description();
    // In the order of their names, which is the same on both nodes.
    let networks = own.heartbeat.iter().filter_map(|(network, local)| {
        peer.heartbeat.get(network).map(|peer| Network { local: *local, peer: *peer })
    });
    let networks: Vec<_> = networks.collect();
    if networks.is_empty() {
        return Err(ServiceError::NoNetwork);
    }
    let (key, next_key) = rotation::keys(membership.secrets());
    let ids = (own.id.0, peer.id.0);
    let heartbeat = HeartbeatConfig {
        next_key,
        ..HeartbeatConfig::new(description.id.0, ids, key, networks, options.preset)
    };
    let arbiter = match &description.arbiter {
        Some(table) => Some(Arc::new(arbiters::arbiter(table, membership.directory())?)),
        None => None,
    };
    let mut modules = Vec::new();
    for module::Listed { name, description } in Shelf::at(&places.modules).list()? {
        match description {
            Ok(description) => modules.push(description),
            // The others go on; this one is not there until it is right.
            Err(error) => tracing::error!(module = name, %error, "a module is passed over"),
        }
    }
    Ok(NodeSetup {
        names: (own.name, peer.name),
        heartbeat,
        policy: policy(membership),
        arbiter,
        places: places.clone(),
        modules,
    })
}

/// What happens when the nodes do not hear each other.
fn policy(membership: &Membership) -> Policy {
    match membership.description().policy {
        membership::Policy::ConsistencyFirst => Policy::ConsistencyFirst,
        membership::Policy::AvailabilityFirst => Policy::AvailabilityFirst,
        membership::Policy::Manual => Policy::Manual,
    }
}

/// Port of a module that names none in its table `[mirror]`.
const MIRROR_PORT: i64 = 7420;

/// Where the mirrors of all modules live.
struct MirrorSite {
    cluster: String,
    own: membership::Node,
    peer: membership::Node,
    key_file: PathBuf,
    tls: MirrorTls,
    state: PathBuf,
    run: PathBuf,
    policy: Policy,
    dead_after: Duration,
    preset: Preset,
}

impl MirrorSite {
    fn new(
        places: &Places,
        membership: &Membership,
        dead_after: Duration,
        preset: Preset,
    ) -> Result<MirrorSite, ServiceError> {
        let (own, peer) = both(membership)?;
        let (key_file, _) = membership.key_file(membership::KeyFile::Mirror)?;
        let (authority, node) = membership.tls_files();
        let peer_uri = membership.tls().peer.ok_or(ServiceError::NoPeer)?.uri;
        Ok(MirrorSite {
            cluster: membership.description().name.clone(),
            own,
            peer,
            key_file,
            tls: MirrorTls { authority, node, peer: peer_uri },
            state: places.state.clone(),
            run: places.run.clone(),
            policy: policy(membership),
            dead_after,
            preset,
        })
    }

    fn place(&self, description: &module::Description) -> Result<MirrorPlace, String> {
        let port = match description.mirror.get("port") {
            None => MIRROR_PORT,
            Some(port) => port.as_integer().ok_or("mirror.port is not a number")?,
        };
        let port = u16::try_from(port).map_err(|_| "mirror.port is not a port")?;
        let address = |node: &membership::Node| match node.mirror.first() {
            Some(address) => Ok(SocketAddr::new(*address, port)),
            None => Err(format!("the cluster's description has no mirror address of {}", node.name)),
        };
        Ok(MirrorPlace {
            names: (format!("{}.{}", self.cluster, description.name), self.own.name.clone()),
            listen: address(&self.own)?,
            peer: address(&self.peer)?,
            key_file: self.key_file.clone(),
            tls: self.tls.clone(),
            state: self.state.join(&description.name).join("mirror"),
            run: self.run.join(&description.name),
            dead_after: self.dead_after * 4 / 5,
            overrules: policy_of(description, self.policy) == Policy::AvailabilityFirst,
            // Who wants to wait for nothing has the memory.
            keeps_ready: self.preset == Preset::Fast,
        })
    }
}

/// Tell the service manager that the node lives, as long as all its controllers do.
async fn pulse<M: Mirror>(node: Arc<Node<M>>, supervisor: Arc<Supervisor>) {
    let Some(pulse) = supervisor.pulse() else { return };
    loop {
        node.probe().await;
        supervisor.alive();
        tokio::time::sleep(pulse).await;
    }
}

/// Keep the certificates valid, and take in those that a command has made.
async fn renew(member: Member, keyring: Keyring) {
    loop {
        tokio::time::sleep(RENEWAL).await;
        if let Err(error) = member.renew(&keyring, false).await {
            tracing::error!(%error, "the node's certificate cannot be renewed");
        }
        if let Ok(Some(warning)) = member.warning().await {
            tracing::warn!("{warning}");
        }
    }
}

fn health<M: Mirror>(node: &Arc<Node<M>>) -> Arc<Look> {
    let node = Arc::clone(node);
    Arc::new(move |module| {
        let (serving, word) = node.health(module)?;
        Some(HealthState { serving, word: word.into() })
    })
}

/// The other node.
struct Other(Remote<Request, Answer>);

impl Peer for Other {
    async fn ask(&self, request: Request) -> Answer {
        match self.0.ask(&request, PEER_WITHIN).await {
            Ok(answer) => answer,
            Err(error) => Answer::Refused { message: format!("the other node: {error}") },
        }
    }
}
