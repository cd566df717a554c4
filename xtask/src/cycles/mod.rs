//! `cargo xtask cycles` and `cargo xtask powercut`: a node is killed, or its machine loses its power, under load, and returns; again
//! and again, the same mirror.
//!
//! What must hold after each: every record that was acknowledged is on the node that survived, and on both after the return; both
//! trees are the same. What each return compared and sent is told, and with `--require-bounded` must be what was open or changed
//! (`returned::Bound`).

mod cluster;
mod load;
mod returned;
mod turn;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::lab::crash_disk::Loss;
use crate::lab::image::MIB;
use crate::lab::mirror::{Mirror, Surroundings};
use crate::lab::power::Side;
use crate::lab::records::Random;
use crate::lab::status::Status;
use crate::lab::{interrupt, place, watchdog};
use crate::setup;
use returned::Returned;
use turn::Turn;

/// Longest time of one cycle, on a busy machine.
const CYCLE_BOUND: Duration = Duration::from_secs(120);
/// Longest time until files that nobody changes any more have left the safe set, and how many may be in it then.
const SETTLED_BOUND: Duration = Duration::from_secs(60);
const QUIET_FILES: u64 = 16;
const IMAGE: u64 = 256 * MIB;

/// Words in logs that a killed node explains.
const KILLED: &[&str] = &["crashed", "peer", "session", "link", "connect", "alone"];
/// And what a daemon says in the moment in which its machine's disk is off already.
const WITHOUT_POWER: &[&str] =
    &["Input/output error", "Read-only file system", "os error 5", "Errno(5)", "Errno(30)", "shut down"];

/// Who ends in a cycle.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Who {
    /// The node on which the applications write, with them.
    Primary,
    /// The node that holds the copy.
    Secondary,
    /// Both at one moment.
    Both,
    /// Each of these in turn.
    Turns,
}

impl Who {
    fn sides(self, cycle: u32) -> &'static [Side] {
        match self {
            Who::Primary => &[Side::Primary],
            Who::Secondary => &[Side::Secondary],
            Who::Both => &[Side::Primary, Side::Secondary],
            Who::Turns => [Who::Primary, Who::Secondary, Who::Both][cycle as usize % 3].sides(0),
        }
    }
}

/// What both commands are told.
#[derive(clap::Args)]
pub struct Plan {
    /// How many cycles.
    #[arg(long, default_value_t = 20)]
    cycles: u32,
    /// Processes that append records, each with an fsync.
    #[arg(long, default_value_t = 2)]
    writers: u32,
    /// Files that lie beside and are not changed.
    #[arg(long, default_value_t = 300)]
    files: u32,
    /// Fail if a return of the primary, or of both, compared more files than were in doubt, or their bytes more than twice, or one of the secondary everything.
    #[arg(long)]
    require_bounded: bool,
    /// Same seed, same moments and same losses, as far as the machine allows.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    surroundings: Surroundings,
}

/// Arguments of `cargo xtask cycles`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    plan: Plan,
    /// Whose daemon is killed.
    #[arg(long, value_enum, default_value_t = Who::Turns)]
    kill: Who,
    /// A whole cluster with a database on its virtual address: whichever node serves dies with its machine.
    #[arg(long, conflicts_with_all = ["kill", "require_bounded", "files", "seed", "capture"])]
    cluster: bool,
}

/// Arguments of `cargo xtask powercut`.
#[derive(clap::Args)]
pub struct PowercutArgs {
    #[command(flatten)]
    plan: Plan,
    /// Whose machine loses its power.
    #[arg(long, value_enum, default_value_t = Who::Turns)]
    who: Who,
    /// How much of what was not flushed is lost.
    #[arg(long, value_enum, default_value_t = Loss::Some)]
    loss: Loss,
}

/// How a node ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// kill -9 of the daemon; of the primary, of the applications, too.
    Kill,
    /// The machine's power fails.
    Power(Loss),
}

/// Run `cargo xtask cycles`.
pub fn run(args: Args) -> Result<()> {
    if args.cluster {
        return prepare().map_or(Ok(()), |()| cluster::run(&args.plan));
    }
    cycles(&args.plan, args.kill, End::Kill)
}

/// Run `cargo xtask powercut`.
pub fn run_powercut(args: PowercutArgs) -> Result<()> {
    cycles(&args.plan, args.who, End::Power(args.loss))
}

/// Clear away what a dead run left. `None`: this machine cannot run nodes, which was told.
fn prepare() -> Option<()> {
    if let Err(why) = setup::require_root("two nodes on one machine") {
        println!("not run: {why}");
        return None;
    }
    interrupt::watch();
    place::clear_dead();
    Some(())
}

fn cycles(plan: &Plan, who: Who, end: End) -> Result<()> {
    if prepare().is_none() {
        return Ok(());
    }
    // The writers never rest: a return that gave way to them for hours would be no cycle.
    let mut options = plan.surroundings.options().sized(IMAGE).with("mirror.resync-within", "5s");
    options.machines = matches!(end, End::Power(_));
    let expected = if options.machines { [KILLED, WITHOUT_POWER].concat() } else { KILLED.to_vec() };
    let mut mirror = Mirror::start(&options)?;
    load::plant(mirror.data(), plan.files)?;
    mirror.wait_identical()?;
    if plan.require_bounded {
        let settled = |status: &Status| status.safe_set.on && status.safe_set.files < QUIET_FILES;
        mirror.primary.wait_for("what was planted is in doubt no more", SETTLED_BOUND, settled)?;
    }
    let begin = Instant::now();
    let mut random = Random::new(plan.seed);
    let mut total = Total::default();
    for cycle in 0..plan.cycles {
        let _bound = watchdog::arm("a cycle", CYCLE_BOUND);
        let turn = Turn { cycle, sides: who.sides(cycle), end, plan };
        let done = turn.run(&mut mirror, &mut random).with_context(|| format!("cycle {cycle}"))?;
        println!("cycle {cycle}: {done}");
        total.add(&done);
    }
    let found = mirror.finish(&expected)?;
    println!(
        "passed: {} cycles in {:.0} s: {} acknowledged records, 0 lost; identical each time ({} entries at the end); {}",
        plan.cycles,
        begin.elapsed().as_secs_f64(),
        total.acknowledged,
        found.entries,
        total.returns()
    );
    Ok(())
}

/// Over all cycles.
#[derive(Default)]
struct Total {
    acknowledged: u64,
    cycles: u64,
    most: Returned,
    /// Returns that compared everything.
    unbounded: u64,
    returned: Duration,
}

impl Total {
    fn add(&mut self, done: &turn::Done) {
        self.acknowledged += done.acknowledged;
        self.cycles += 1;
        self.returned += done.away;
        self.unbounded += u64::from(!done.returned.resumed);
        self.most.keep_most(&done.returned);
    }

    fn returns(&self) -> String {
        let mean = self.returned.as_secs_f64() / self.cycles.max(1) as f64;
        let (unbounded, most) = (self.unbounded, &self.most);
        format!("a return takes {mean:.2} s; {unbounded} compared everything; at most {most}")
    }
}
