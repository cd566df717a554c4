//! `replicator cluster snapshot`: what helps who looks for a fault, of both nodes, in one file. Without secrets.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;
use replicator_cluster::daemon::bundle::{self, Told};
use replicator_cluster::daemon::control::{Answer, Request};

use super::places::PlacesArguments;
use super::{exit, pretty_json, print, runtime};
use crate::cluster;

/// What this node is called where its daemon does not say.
const NAMELESS: &str = "this-node";
/// After so many pieces in a row that could not be had the other node is taken for gone.
const IN_VAIN: usize = 3;
/// Longest time `replicator doctor` may take.
const DOCTOR_LIMIT: Duration = Duration::from_secs(60);
const ABOUT: &str = "\
What a node of a replicator cluster is, runs on, remembers and logged: one directory for each node that could be asked.

No file of a cluster's keys, tokens or certificates was read. Of descriptions the values of [environment] and of keys that may be secret are
left out. Logs are as scripts, applications and the daemon wrote them: look into them before you give this to others.

What could not be had is in missing.txt.
";

/// Arguments of `cluster snapshot`.
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    places: PlacesArguments,
    /// The file [default: replicator-snapshot-TIME.tar.gz, here]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Of this node only
    #[arg(long)]
    only_here: bool,
}

/// Run the command.
///
/// # Errors
/// The file cannot be written. What cannot be had is told in it.
pub fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let now = SystemTime::now();
    let time = humantime::format_rfc3339_seconds(now).to_string().replace(':', "-");
    let name = format!("replicator-snapshot-{time}");
    let path = arguments.output.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
    let mut open = OpenOptions::new();
    let file = open.write(true).create_new(true).mode(0o600).open(&path);
    let file = file.with_context(|| format!("cannot create {}", path.display()))?;
    let written = Snapshot::new(file, &name, now).fill(arguments);
    if let Err(error) = written {
        // Half of one helps nobody.
        let _ = std::fs::remove_file(&path);
        return Err(error.context(format!("cannot write {}", path.display())));
    }
    print(&format!("{}\n", path.display()))?;
    Ok(exit::OK)
}

struct Snapshot {
    archive: tar::Builder<GzEncoder<File>>,
    name: String,
    time: u64,
    missing: String,
}

impl Snapshot {
    fn new(file: File, name: &str, now: SystemTime) -> Snapshot {
        Snapshot {
            archive: tar::Builder::new(GzEncoder::new(file, Compression::default())),
            name: name.to_owned(),
            time: now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            missing: String::new(),
        }
    }

    fn fill(mut self, arguments: &Arguments) -> anyhow::Result<()> {
        let places = &arguments.places;
        self.add("README", ABOUT)?;
        let status = places.status();
        let (here, peer) = match &status {
            Ok(status) => (status.node.as_str(), Some(status.peer.as_str())),
            Err(_) => (NAMELESS, None),
        };
        self.put(
            here,
            "status.json",
            status
                .as_ref()
                .map_err(ToString::to_string)
                .and_then(|status| pretty_json(status).map_err(|error| error.to_string())),
        )?;
        self.this_node(here, places)?;
        match peer {
            Some(peer) if !arguments.only_here => self.other_node(peer, places)?,
            Some(_) => {}
            None => self.lack("the other node: the daemon of this one, which would ask it, does not answer"),
        }
        let missing = std::mem::take(&mut self.missing);
        self.add("missing.txt", &missing)?;
        let file = self.archive.into_inner()?.finish()?;
        file.sync_all()?;
        Ok(())
    }

    /// By its own files, so also without a daemon.
    fn this_node(&mut self, node: &str, places: &PlacesArguments) -> anyhow::Result<()> {
        let (places, runtime) = (places.places(), runtime()?);
        let names = runtime.block_on(bundle::pieces(&places)).map_err(anyhow::Error::msg)?;
        for name in names {
            let told = runtime.block_on(bundle::piece(&places, &name));
            let text = told.map(|told| match told {
                Told::Text(text) => text,
                Told::ByMirror(module) => {
                    cluster::told(&places.run.join(&module), &places.state.join(&module).join("mirror"))
                }
            });
            self.put(node, &name, text)?;
        }
        self.put(node, "doctor.txt", runtime.block_on(doctor()))
    }

    fn other_node(&mut self, node: &str, places: &PlacesArguments) -> anyhow::Result<()> {
        let ask = |request| places.ask(Some(node), request).map_err(|error| error.to_string());
        let status = match ask(Request::Status) {
            Ok(Answer::Status { status }) => pretty_json(&status).map_err(|error| error.to_string()),
            other => Err(unexpected(other)),
        };
        let silent = status.is_err();
        self.put(node, "status.json", status)?;
        if silent {
            return Ok(());
        }
        let names = match ask(Request::Pieces) {
            Ok(Answer::Pieces { names }) => names,
            other => {
                self.lack(&format!("{node}: {}", unexpected(other)));
                return Ok(());
            }
        };
        let mut in_vain = 0;
        for name in names {
            let text = match ask(Request::Piece { name: name.clone() }) {
                Ok(Answer::Piece { text }) => Ok(text),
                other => Err(unexpected(other)),
            };
            in_vain = if text.is_ok() { 0 } else { in_vain + 1 };
            self.put(node, &name, text)?;
            if in_vain == IN_VAIN {
                self.lack(&format!("{node}: it does not answer any more; the rest was not asked for"));
                break;
            }
        }
        Ok(())
    }

    /// A piece, or that it could not be had.
    fn put(&mut self, node: &str, name: &str, text: Result<String, String>) -> anyhow::Result<()> {
        // The names of the other node's pieces are what it says.
        let plain = Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)));
        match text {
            Ok(text) if plain => self.add(&format!("{node}/{name}"), &text)?,
            Ok(_) => self.lack(&format!("{node}: {name:?} is no name")),
            Err(why) => self.lack(&format!("{node}/{name}: {why}")),
        }
        Ok(())
    }

    fn lack(&mut self, what: &str) {
        self.missing += &format!("{}\n", what.replace('\n', " "));
    }

    fn add(&mut self, name: &str, text: &str) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.time);
        self.archive.append_data(&mut header, Path::new(&self.name).join(name), text.as_bytes())
    }
}

fn unexpected(answer: Result<Answer, String>) -> String {
    match answer {
        Err(error) => error,
        Ok(_) => "the daemon answers something else; are both of the same version?".to_owned(),
    }
}

/// What this host offers, as `replicator doctor` says it.
async fn doctor() -> Result<String, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = tokio::process::Command::new(program);
    command.arg("doctor").stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(DOCTOR_LIMIT, command.output()).await;
    let output = output.map_err(|_| format!("it did not end within {DOCTOR_LIMIT:?}"))?;
    let output = output.map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}
