//! Ping targets as arbiter: weak, and said to be so.
//!
//! A node has won if one of the targets answers an ICMP echo: it is not cut off from the network. What this cannot do:
//!
//! * **Both nodes may win.** If only the path between them is cut and both reach the target, both go on. Nothing is remembered, so
//!   nothing tells them apart, at whatever term.
//! * **A stale node that boots alone wins** like any other: there is no register that would know better.
//! * A target that is down while the nodes lose each other makes both wait.
//! * An answer is not authenticated. Who can send packets with the target's address can make a node win.
//!
//! It is of use where both nodes hang on one switch and the target is that network's router, so that who reaches the router would also
//! reach the peer if it lived. Targets should be at the edge, not behind it, and more than one.

mod echo;

use std::net::IpAddr;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use tokio::task::JoinSet;

use super::attempts::{ATTEMPT, Bounds, Fault, persist};
use super::error::{ArbiterError, SetupError};
use super::{Acquire, Arbiter, Outcome, Query, Reading, Strength, Verdict};

/// Asks whether anybody is there.
#[derive(Debug)]
pub struct PingArbiter {
    targets: Vec<IpAddr>,
    attempt: Duration,
}

impl PingArbiter {
    /// Win if one of these answers.
    ///
    /// # Errors
    /// [`SetupError::Nobody`], [`SetupError::Target`].
    pub fn new(targets: Vec<IpAddr>) -> Result<PingArbiter, SetupError> {
        if targets.is_empty() {
            return Err(SetupError::Nobody { arbiter: "ping", what: "target" });
        }
        for target in &targets {
            let why = match target {
                _ if target.is_loopback() => "it is this machine",
                _ if target.is_unspecified() => "it is no address",
                _ if target.is_multicast() => "it stands for many",
                IpAddr::V4(v4) if v4.is_broadcast() => "it stands for many",
                _ => continue,
            };
            return Err(SetupError::Target { target: *target, why });
        }
        Ok(PingArbiter { targets, attempt: ATTEMPT })
    }

    /// With another bound for one attempt.
    #[must_use]
    pub fn with_attempt(mut self, attempt: Duration) -> PingArbiter {
        self.attempt = attempt;
        self
    }

    /// One echo to each target that is not this machine; whether one came back.
    async fn anybody(&self) -> Result<(), Fault> {
        let own = own_addresses()
            .map_err(|error| Fault::Passing(format!("cannot list the own addresses: {error}")))?;
        let mut echoes = JoinSet::new();
        let mut why = "all targets are addresses of this machine".to_owned();
        for target in self.targets.iter().copied().filter(|target| !own.contains(target)) {
            echoes.spawn(async move { (target, echo::echo(target).await) });
        }
        while let Some(ended) = echoes.join_next().await {
            match ended {
                Ok((_, Ok(()))) => return Ok(()),
                Ok((target, Err(error))) => why = format!("{target}: {error}"),
                Err(error) => why = format!("an echo did not end: {error}"),
            }
        }
        Err(Fault::Passing(why))
    }
}

impl Arbiter for PingArbiter {
    async fn acquire(&self, request: &Acquire, within: Duration) -> Result<Outcome, ArbiterError> {
        let value = request.checked()?;
        let bounds = Bounds { within, attempt: self.attempt, places: 1 };
        persist(&self.name(), bounds, |_, _| self.anybody()).await?;
        Ok(Outcome { verdict: Verdict::Won { value }, known: request.known })
    }

    async fn read(&self, _: &Query, _: Duration) -> Result<Reading, ArbiterError> {
        Err(ArbiterError::RemembersNothing { arbiter: self.name() })
    }

    fn strength(&self) -> Strength {
        Strength::Weak
    }

    fn name(&self) -> String {
        let targets: Vec<_> = self.targets.iter().map(ToString::to_string).collect();
        format!("ping of {}", targets.join(", "))
    }
}

/// The addresses of this machine, the virtual one included while it is here: they answer whatever happens to the network.
fn own_addresses() -> nix::Result<Vec<IpAddr>> {
    let addresses = getifaddrs()?.filter_map(|interface| interface.address);
    Ok(addresses
        .filter_map(|address| match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
            (_, Some(v6)) => Some(IpAddr::V6(v6.ip())),
            _ => None,
        })
        .collect())
}
