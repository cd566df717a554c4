//! `replicator stop`

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;

use super::{NodeArguments, exit, print};
use crate::control::{self, ControlError, Request};

/// How often is looked whether the daemon is gone.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Arguments of `stop`.
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    node: NodeArguments,
    /// Longest time to wait for its end, like "30s"; "0s" does not wait
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    within: Duration,
    /// It starts next in the other role: nothing is kept for one in this, which saves a look at all files
    #[arg(long)]
    hand_over: bool,
}

/// Ask a node to stop and wait until it is gone.
///
/// # Errors
/// No daemon answers, or it is not gone in time.
pub fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let socket = arguments.node.socket()?;
    let request = if arguments.hand_over { Request::HandOver } else { Request::Stop };
    control::request(&socket, &request)?;
    if arguments.within.is_zero() {
        print("stopping\n")?;
        return Ok(exit::OK);
    }
    wait_gone(&socket, arguments.within)?;
    print("stopped\n")?;
    Ok(exit::OK)
}

fn wait_gone(socket: &Path, within: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + within;
    while Instant::now() < deadline {
        match control::request(socket, &Request::Ping) {
            Err(ControlError::NoDaemon { .. }) => return Ok(()),
            // It may go away in the middle of an answer.
            _ => thread::sleep(LOOK_INTERVAL),
        }
    }
    bail!("the daemon was asked to stop and still answers after {within:?}; its log says what it waits for")
}
