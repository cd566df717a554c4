//! The words of the controller.

use alloc::boxed::Box;
use core::time::Duration;

use super::posture::Step;
use crate::action::DataState;
use crate::ids::Term;
use crate::reunion::Account;

/// A node of the cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct NodeId(pub [u8; 16]);

/// What happens when the nodes do not hear each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// Nobody is active without its peer's consent or the arbiter's; else callers are held.
    ConsistencyFirst,
    /// The arbiter is asked if there is one; where it does not answer, or there is none, both go on.
    AvailabilityFirst,
    /// The primary goes on; the secondary is promoted by an operator only.
    Manual,
}

/// How many automatic restarts there may be in a period.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// So many.
    pub count: usize,
    /// In so long.
    pub period: Duration,
}

/// What the operator has decided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// The other.
    pub peer: NodeId,
    /// See there.
    pub policy: Policy,
    /// Whether an arbiter is configured.
    pub arbiter: bool,
    /// Who shall be the primary if both could.
    pub default_primary: Option<NodeId>,
    /// The default primary takes the role back so long after both nodes hold the same again; none: by an operator only.
    pub failback_after: Option<Duration>,
    /// A secondary waits that long before it asks the arbiter, so that the active node is first where only the way between them broke.
    pub handicap: Duration,
    /// Without an answer of the arbiter it is asked again so often.
    pub ask_again: Duration,
    /// A peer that is heard and does not answer a wish for so long counts as not heard.
    pub yield_limit: Duration,
    /// A node that starts waits that long for its peer before it takes it for absent.
    pub boot_wait: Duration,
    /// What failed is begun again so much later.
    pub retry: Duration,
    /// See there.
    pub budget: Budget,
}

impl Config {
    /// The defaults.
    #[must_use]
    pub fn new(node: NodeId, peer: NodeId) -> Config {
        Config {
            node,
            peer,
            policy: Policy::ConsistencyFirst,
            arbiter: false,
            default_primary: None,
            failback_after: None,
            handicap: Duration::from_millis(100),
            ask_again: Duration::from_secs(1),
            yield_limit: Duration::from_secs(3),
            boot_wait: Duration::from_secs(4),
            retry: Duration::from_secs(1),
            budget: Budget { count: 3, period: Duration::from_secs(24 * 3600) },
        }
    }
}

/// What must survive a restart of this node, beside the mirror's own record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// The module is to run here.
    pub started: bool,
    /// This node was active last.
    pub was_active: bool,
    /// It runs here, and is not to become active.
    pub standby: bool,
}

/// What this node's copy is, by the mirror's record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyState {
    /// Its data.
    pub account: Account,
    /// The highest term it has run in, or yielded to.
    pub term: Term,
    /// It is recorded that it runs alone: nobody else has what was acknowledged since.
    pub alone: bool,
}

impl CopyState {
    /// It holds everything that was acknowledged, as far as this node can know.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        matches!(self.account.data, DataState::UpToDate | DataState::Consistent)
    }

    /// The term up to which it will not be active by itself.
    #[must_use]
    pub fn yields(&self) -> Option<Term> {
        (!self.is_whole()).then_some(self.term)
    }

    /// There is no data here that counts.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.account.lineage.current.is_none()
    }
}

/// In which role a mirror runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// It captures.
    Primary,
    /// It receives.
    Secondary,
}

/// What the mirror's process says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MirrorView {
    /// A session is open: the peer was heard on the link within its dead time.
    pub connected: bool,
    /// Both nodes hold the same, and callers wait for both.
    pub mirrored: bool,
    /// A primary: callers are held until it is told to go alone.
    pub asks: bool,
}

/// What the arbiter says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The term is this node's.
    Won,
    /// It, or a higher one, is another's.
    Lost {
        /// The term that is given.
        term: Term,
        /// To this node itself, by what it does not remember: its record is older than that.
        own: bool,
    },
    /// It does not answer, or is not to be trusted.
    Unreachable,
}

/// What an operator orders.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Run the module here.
    Start,
    /// Do not. An active node leaves the application to its peer if that is ready.
    Stop,
    /// The other node is to be active.
    Swap,
    /// This node is not to become active, though it holds the copy; one that is active leaves the application to its peer. Until it is said
    /// otherwise, or the module is started, or this node promoted. A node that is active because its peer did not take over is not on standby.
    Standby {
        /// Or no longer.
        on: bool,
    },
    /// Stop and start the application, here.
    Restart,
    /// This node is to be active. By force: whatever its copy and the peer are.
    Promote {
        /// Whatever is known.
        force: bool,
    },
}

/// Why a command is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The module is stopped here.
    Stopped,
    /// This node is not active.
    NotActive,
    /// This node is active already.
    Active,
    /// The peer is active.
    PeerActive,
    /// The peer cannot take over: it is not there, its copy is not whole, or its application cannot run there.
    PeerNotReady,
    /// This node's copy is not known to hold everything that was acknowledged.
    NotWhole,
    /// Something is under way.
    Busy,
}

/// What a checker wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CheckAction {
    /// Stop and start the application.
    Restart,
    /// Stop everything, leave it to the peer if that is ready, and start again.
    StopStart,
    /// Leave it to the peer if that is ready; else as `Restart`.
    Swap,
    /// Stop, and wait until the conditions to run are there again; the peer may take over.
    Wait,
}

/// How a step ended.
pub type StepResult = Result<(), ()>;

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// The peer says this of itself.
    Heard(Report),
    /// The peer has heard what this node said after it was [`Event::Late`], and what it says now came after that.
    Echoed,
    /// Whether each node hears the other on some path.
    PeerAlive(bool),
    /// This node did not run for a while: what it took for true may be over.
    Late,
    /// What the mirror is, and its copy.
    Mirror(MirrorView, CopyState),
    /// The mirror's process ended by itself.
    MirrorEnded,
    /// A step has ended.
    Done(Step, StepResult),
    /// The copy is durably outdated, or could not be marked so.
    Outdated(Term, StepResult),
    /// The answer for a term.
    Arbiter(Term, Verdict),
    /// A command, with a number for its answer.
    Command(u64, Command),
    /// A checker wants something.
    Check(CheckAction),
    /// Whether the conditions to run the application here are there.
    Able(bool),
    /// A rival showed the virtual address.
    Rival,
    /// This node's daemon ends: as a stop, but what is to run is remembered.
    Shutdown,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Say this to the peer, from now on. Everything in it is durable.
    Publish(Box<Report>),
    /// Make it durable; no answer.
    Remember(Standing),
    /// Take a step; answered by [`Event::Done`].
    Step(Step),
    /// Mark the copy durably as outdated with a term; answered by [`Event::Outdated`].
    Outdate(Term),
    /// Tell the mirror to go on alone with a term. Without effect while a session is there.
    GoAlone(Term),
    /// Ask for a term; answered by [`Event::Arbiter`].
    AskArbiter(Term),
    /// Announce the addresses again.
    Announce,
    /// Answer a command.
    Answer(u64, Result<(), Refusal>),
    /// Something an operator wants to hear of.
    Tell(Cause),
}

/// One word for a node, for display.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Word {
    #[default]
    Stopped = 0,
    Waiting = 1,
    Alone = 2,
    Primary = 3,
    Secondary = 4,
}

/// How ready it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Readiness {
    /// Red: it will not change by itself.
    #[default]
    NotReady = 0,
    /// Orange: something is under way.
    Transient = 1,
    /// Green.
    Ready = 2,
}

/// Why something is as it is, or changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Cause {
    /// All is as it should be.
    #[default]
    None = 0,
    OperatorStart = 1,
    OperatorStop = 2,
    OperatorSwap = 3,
    OperatorPromote = 4,
    OperatorForce = 5,
    /// The peer is not heard on any path.
    PeerLost = 6,
    /// The peer yielded.
    PeerYielded = 7,
    /// By what both have, this node was elected.
    Elected = 8,
    /// It ran alone before, so nobody has anything newer.
    SoleSurvivor = 9,
    /// The arbiter granted the term.
    ArbiterWon = 10,
    /// The arbiter gave the term to the other node.
    ArbiterLost = 11,
    /// The arbiter does not answer; callers are held.
    ArbiterSilent = 12,
    /// No arbiter is configured, and the policy wants one; callers are held.
    ArbiterMissing = 13,
    /// By policy, without an arbiter.
    PolicyAlone = 14,
    /// The peer is active with a higher term.
    PeerActive = 15,
    /// This node did not run for a while.
    Late = 16,
    /// Waits for the peer.
    WaitsForPeer = 17,
    /// This copy is not whole, or may be outdated.
    NotWhole = 18,
    /// The copies parted, or neither has data: an operator has to decide.
    OperatorNeeded = 19,
    /// The other node has the newer data.
    PeerNewer = 20,
    /// A condition to run is missing.
    NotAble = 21,
    /// A checker's action.
    Checker = 22,
    /// The application did not start or stop.
    ApplicationFailed = 23,
    /// The mirror ended or did not start.
    MirrorFailed = 24,
    /// The addresses could not be taken.
    AddressFailed = 25,
    /// There were too many restarts.
    BudgetSpent = 26,
    /// The default primary takes its role back.
    Failback = 27,
    /// A resync is under way.
    Syncing = 28,
    /// Being started.
    Starting = 29,
    /// Being stopped.
    Stopping = 30,
    /// By its record, this node does not know of a term that was granted to it: an older state was put back.
    RecordOlder = 31,
    /// An operator keeps this node from becoming active.
    OnStandby = 32,
    /// An operator lets this node become active again.
    OperatorStandbyOff = 33,
    /// The peer did not take over: this node goes on, and is not on standby.
    StandbyFailed = 34,
}

/// What a node says of itself. Everything in it is durable, and stays true until it says something else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// For display.
    pub word: Word,
    /// For display.
    pub readiness: Readiness,
    /// For display.
    pub cause: Cause,
    /// The module is to run there.
    pub started: bool,
    /// The application can run there.
    pub able: bool,
    /// It is active, or becomes or ceases to be so, with that term.
    pub active: Option<Term>,
    /// Its copy, if known, and nothing of it runs as a primary.
    pub copy: Option<CopyState>,
    /// It runs as a secondary and holds the same as the primary, or the other way round.
    pub mirrored: bool,
    /// It wants the other to yield to this term.
    pub wants: Option<Term>,
    /// That is an operator's wish: who has no data yields, too.
    pub insists: bool,
    /// It was active last.
    pub was_active: bool,
}

impl Report {
    /// The term in which it is active, or was when it acknowledged what nobody else has.
    #[must_use]
    pub fn claims(&self) -> Option<Term> {
        self.active.or_else(|| self.copy.filter(|copy| copy.alone && copy.is_whole()).map(|copy| copy.term))
    }

    /// The term that this node leaves to the other.
    #[must_use]
    pub fn yields(&self) -> Option<Term> {
        if self.active.is_some() { None } else { self.copy.as_ref().and_then(CopyState::yields) }
    }
}
