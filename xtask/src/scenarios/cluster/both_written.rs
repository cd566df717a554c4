//! The nodes are cut apart while a client *on each* writes to its own node's server, and to no other. Whichever node goes on: records are answered by one of them
//! only, from the moment in which both could.

use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};

use super::LOST;
use crate::lab::cluster::{Cluster, MODULE, Options, SERVICE, SETTLE_BOUND};
use crate::lab::ledger::{self, Client, Conversation};
use crate::lab::wait;
use crate::scenarios::{Context, Outcome, passed};

/// Answers before and after the change.
const ENOUGH: usize = 100;
/// How much longer the cut lasts: whoever wanted to answer, too, has done so.
const AND_THEN: Duration = Duration::from_secs(5);
/// Numbers of different clients do not meet.
const APART: u64 = 1 << 40;

/// What is cut off from what, and back.
type Cut = (&'static str, fn(&Cluster) -> Result<()>);

/// The primary's node is a at first; each cut begins with the node active that the last one left so.
const CUTS: [Cut; 3] = [
    ("a from all", |cluster| cluster.isolate(0)),
    ("each other", |cluster| {
        let other = "10.77.0.2, 10.78.0.2";
        cluster
            .namespace(0)
            .block(&[&format!("ip saddr {{ {other} }}")], &[&format!("ip daddr {{ {other} }}")])
    }),
    ("a from all again", |cluster| cluster.isolate(0)),
];

/// Make each cut and check.
pub fn run(context: &Context) -> Result<Outcome> {
    let mut cluster = Cluster::start(&Options { filesystem: context.fs, ..Options::default() })?;
    let (mut active, mut told, mut kept) = (0, Vec::new(), Vec::new());
    for (number, cut) in (0..).zip(CUTS) {
        let local = [Local::start(&cluster, 0, 2 * number)?, Local::start(&cluster, 1, 2 * number + 1)?];
        local[active].wait_for(ENOUGH)?;
        (cut.1)(&cluster)?;
        let parted = Instant::now();
        let stays = wait::until("a node to go on alone", SETTLE_BOUND, || {
            let answers = |node: usize| local[node].after(parted) >= ENOUGH;
            Ok((0..2).find(|node| answers(*node) && is_alone(&mut cluster, *node)))
        })?;
        wait::pause(AND_THEN);
        let answers = local.each_ref().map(Local::answers);
        ensure!(answers[active].iter().any(|at| *at < parted), "the active node answered nothing before");
        exclusive(&answers, active, stays, parted)
            .map_err(|error| error.context(format!("cut {}", cut.0)))?;
        cluster.namespace(0).unblock()?;
        cluster.wait_roles(stays)?;
        for local in local {
            kept.push((local.offset, local.client.stop()));
        }
        told.push(format!("{}: {} went on", cut.0, ["a", "b"][stays]));
        active = stays;
    }
    let file = cluster.hosts[active].data(0).join("ledger");
    for (offset, answered) in &kept {
        let missing = ledger::missing(&file, *offset, *answered)?;
        ensure!(missing == 0, "{missing} of {answered} answered records are missing");
    }
    cluster.wait_identical()?;
    cluster.finish(LOST)?;
    let answered: u64 = kept.iter().map(|(_, answered)| answered).sum();
    passed(format!("{answered} answered, 0 lost, never by both; {}", told.join("; ")))
}

fn is_alone(cluster: &mut Cluster, node: usize) -> bool {
    let status = cluster.status(node).ok().flatten();
    status.is_some_and(|status| {
        status.modules.iter().any(|found| found.module == MODULE && found.here.is_ready("alone"))
    })
}

/// The node that was active may have answered until the other began; from then on, and for good, only that one.
fn exclusive(answers: &[Vec<Instant>; 2], active: usize, stays: usize, parted: Instant) -> Result<()> {
    let other = 1 - stays;
    if stays == active {
        let late = answers[other].len();
        ensure!(late == 0, "{late} records were answered by the secondary, too");
        return Ok(());
    }
    let first = answers[stays].iter().min();
    ensure!(first.is_some_and(|first| *first >= parted), "the secondary answered before the cut");
    let late = answers[other].iter().filter(|at| Some(*at) >= first).count();
    ensure!(late == 0, "{late} records were answered by the former primary after the other had begun to");
    Ok(())
}

/// Connect to an address that this node itself has: nobody else can come from it.
fn connect_to_own(server: SocketAddr) -> Result<TcpStream> {
    let SocketAddr::V4(address) = server else { bail!("{server} is not of this laboratory") };
    let own = SockaddrIn::from(SocketAddrV4::new(*address.ip(), 0));
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(socket.as_raw_fd(), &own)?;
    connect(socket.as_raw_fd(), &SockaddrIn::from(address))?;
    Ok(TcpStream::from(socket))
}

/// A client that writes to the server of its own node only.
struct Local {
    client: Client,
    offset: u64,
    answers: Arc<Mutex<Vec<Instant>>>,
}

impl Local {
    fn start(cluster: &Cluster, node: usize, number: u64) -> Result<Local> {
        let (answers, offset) = (Arc::<Mutex<Vec<Instant>>>::default(), number * APART);
        let shared = Arc::clone(&answers);
        let client = Client::converse(cluster.namespace(node), move || {
            let stream = connect_to_own(SERVICE)?;
            let (mut keep, answers) = (ledger::conversation(stream)?, Arc::clone(&shared));
            let keep = move |number| {
                keep(offset + number)?;
                answers.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                Ok(())
            };
            Ok(Box::new(keep) as Conversation)
        })?;
        Ok(Local { client, offset, answers })
    }

    fn answers(&self) -> Vec<Instant> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn after(&self, since: Instant) -> usize {
        self.answers().iter().filter(|at| **at >= since).count()
    }

    fn wait_for(&self, count: usize) -> Result<()> {
        wait::until("answers of the own node", SETTLE_BOUND, || {
            Ok((self.answers().len() >= count).then_some(()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_both_are_found() {
        let parted = Instant::now();
        let at = |millis: u64| parted + Duration::from_millis(millis);
        let before = parted.checked_sub(Duration::from_millis(1)).unwrap();
        // It stays where it was.
        assert!(exclusive(&[vec![before, at(5)], vec![]], 0, 0, parted).is_ok());
        assert!(exclusive(&[vec![before, at(5)], vec![at(6)]], 0, 0, parted).is_err());
        // It moves.
        assert!(exclusive(&[vec![before, at(1)], vec![at(3), at(4)]], 0, 1, parted).is_ok());
        assert!(exclusive(&[vec![before, at(3)], vec![at(3), at(4)]], 0, 1, parted).is_err());
        assert!(exclusive(&[vec![before, at(9)], vec![at(3), at(4)]], 0, 1, parted).is_err());
        assert!(exclusive(&[vec![before], vec![before, at(4)]], 0, 1, parted).is_err());
    }
}
