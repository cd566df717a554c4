//! What a support bundle has of a node, piece by piece: what it runs on, its description, its modules, what they remember and logged.
//!
//! Only files that are named here are read, and of descriptions what could be secret is left out ([`redact`]); nothing of a cluster
//! directory but its description is ever opened. What scripts and applications write to their logs is theirs.
//!
//! Each piece is a text of at most [`PIECE_BYTES_MAX`] and is asked for by its name, so that it fits into an answer to the other node.

mod host;
mod redact;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::logs;
use super::service::Places;
use crate::module::{MODULE_FILE, Shelf};

/// Most bytes of a piece; of longer files the end. As JSON, in which a byte may become six, it fits into an answer.
pub const PIECE_BYTES_MAX: u64 = 512 << 10;
/// The piece with what the daemon and its mirrors logged last, where systemd keeps that.
pub const JOURNAL: &str = "journal";
/// Most logs of a module: the newest.
const LOGS_MAX: usize = 20;
/// Most bytes of a log: its end.
const LOG_BYTES_MAX: u64 = 64 << 10;

/// What is remembered of a module, as text, below its state directory.
const REMEMBERED: &[&str] =
    &["standing.json", "arbiter.json", "events.jsonl", "boot.toml", "mirror/decisions.log"];

/// Where a piece comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Source {
    Host(host::Piece),
    /// A description in TOML, less what may be secret.
    Toml(PathBuf),
    /// The end of a text, of so many bytes.
    Text(PathBuf, u64),
    /// What a module's mirror says of itself.
    Mirror(String),
}

/// The names of all pieces that there are now.
///
/// # Errors
/// For a person.
pub async fn pieces(places: &Places) -> Result<Vec<String>, String> {
    let found = aside(places, |places| sources(&places)).await?;
    Ok(found.into_iter().map(|(name, _)| name).collect())
}

/// A piece, or who has to be asked for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// This.
    Text(String),
    /// The mirror of a module: what it says of itself, of which nothing is secret.
    ByMirror(String),
}

/// One piece.
///
/// # Errors
/// For a person: there is no such piece, or it cannot be read.
pub async fn piece(places: &Places, name: &str) -> Result<Told, String> {
    let wanted = name.to_owned();
    let found = aside(places, move |places| sources(&places).into_iter().find(|(known, _)| *known == wanted));
    let Some((_, source)) = found.await? else {
        return Err(format!("there is no {name:?} in a bundle of this node"));
    };
    let text = match source {
        Source::Mirror(module) => return Ok(Told::ByMirror(module)),
        Source::Host(host::Piece::Journal) => host::journal().await,
        source => aside(places, |_| read(source)).await?.map_err(|error| format!("{name}: {error}"))?,
    };
    Ok(Told::Text(bounded(text)))
}

/// Do it on another thread: a disk that hangs must not hold up the node.
async fn aside<T: Send + 'static>(
    places: &Places,
    work: impl FnOnce(Places) -> T + Send + 'static,
) -> Result<T, String> {
    let places = places.clone();
    tokio::task::spawn_blocking(move || work(places)).await.map_err(|error| error.to_string())
}

fn sources(places: &Places) -> Vec<(String, Source)> {
    let mut all: Vec<(String, Source)> =
        host::Piece::ALL.into_iter().map(|piece| (piece.name().to_owned(), Source::Host(piece))).collect();
    add(&mut all, "cluster.toml".to_owned(), places.cluster.join("cluster.toml"), Source::Toml);
    for name in modules(places) {
        let (state, run) = (places.state.join(&name), places.run.join(&name));
        let module = Shelf::at(&places.modules).path(&name);
        let below = |file: &str| format!("modules/{name}/{file}");
        add(&mut all, below(MODULE_FILE), module.join(MODULE_FILE), Source::Toml);
        add(&mut all, below("mirror.toml"), run.join("mirror.toml"), Source::Toml);
        for file in REMEMBERED {
            add(&mut all, below(&file.replace('/', "-")), state.join(file), |path| {
                Source::Text(path, PIECE_BYTES_MAX)
            });
        }
        all.push((below("mirror.json"), Source::Mirror(name.clone())));
        let directory = places.logs.join(&name);
        for log in logs::names(&directory, LOGS_MAX).unwrap_or_default() {
            let path = directory.join(&log);
            all.push((below(&format!("logs/{log}")), Source::Text(path, LOG_BYTES_MAX)));
        }
    }
    all
}

fn add(all: &mut Vec<(String, Source)>, name: String, path: PathBuf, source: impl Fn(PathBuf) -> Source) {
    if path.symlink_metadata().is_ok_and(|found| found.is_file()) {
        all.push((name, source(path)));
    }
}

/// Installed modules, also those whose description is refused.
fn modules(places: &Places) -> Vec<String> {
    let listed = Shelf::at(&places.modules).list().unwrap_or_default();
    listed.into_iter().map(|listed| listed.name).collect()
}

fn read(source: Source) -> io::Result<String> {
    match source {
        Source::Host(piece) => piece.read(),
        Source::Toml(path) => Ok(redact::toml(&whole(&path)?)),
        Source::Text(path, bytes) => logs::read_end(&path, bytes).map(|(text, _)| text),
        Source::Mirror(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn whole(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > PIECE_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    fs::read_to_string(path)
}

/// The end of a text, if it is too long.
fn bounded(text: String) -> String {
    let from = text.len().saturating_sub(PIECE_BYTES_MAX as usize);
    let from = (from..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    if from == 0 { text } else { text.get(from..).unwrap_or_default().to_owned() }
}
