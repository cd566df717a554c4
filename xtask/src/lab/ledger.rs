//! A small server that keeps numbered records, and the client that holds it to its word.
//!
//! The client sends `number\n`; the server appends `number\n` to its file, syncs it, and answers `number\n`. What was answered must be in the file of
//! whichever node serves afterwards. With a database as the server ([`super::postgresql`]) only the conversation is another one.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::net::Namespace;

/// How long the client waits for an answer, and for a connection. An unanswered record is sent again on a new connection.
pub const PATIENCE: Duration = Duration::from_millis(500);
/// Pause between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(20);

/// Serve until killed.
///
/// # Errors
/// The address cannot be listened at, or the file not be opened.
pub fn serve(file: &Path, listen: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| format!("listen at {listen}"))?;
    let file = OpenOptions::new().create(true).append(true).open(file)?;
    let file = Arc::new(file);
    for stream in listener.incoming() {
        let (stream, file) = (stream?, Arc::clone(&file));
        thread::spawn(move || {
            if let Err(error) = keep(&stream, &file) {
                eprintln!("a client: {error:#}");
            }
        });
    }
    Ok(())
}

fn keep(stream: &TcpStream, mut file: &File) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut answers = stream;
    for line in BufReader::new(stream).lines() {
        let line = format!("{}\n", line?);
        file.write_all(line.as_bytes())?;
        file.sync_data()?;
        answers.write_all(line.as_bytes())?;
    }
    Ok(())
}

/// A client that writes all the time.
#[derive(Debug)]
pub struct Client {
    stop: Arc<AtomicBool>,
    /// Numbers that were answered, and when the last answer came.
    answered: Arc<AtomicU64>,
    gaps: Arc<Mutex<Vec<Gap>>>,
    thread: Option<JoinHandle<()>>,
}

/// A time without answers.
#[derive(Clone, Copy, Debug)]
pub struct Gap {
    /// When the last answer before it came.
    pub from: Instant,
    /// When the first after it did.
    pub to: Instant,
}

impl Gap {
    /// How long it was.
    #[must_use]
    pub fn span(&self) -> Duration {
        self.to - self.from
    }
}

/// Gaps shorter than this are not remembered.
const GAP: Duration = Duration::from_millis(100);

/// Gives a number to a server, and returns when the server has answered that it keeps it.
pub type Conversation = Box<dyn FnMut(u64) -> Result<()>>;

impl Client {
    /// Write to the server at an address, from a namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn start(namespace: &Namespace, server: SocketAddr) -> Result<Client> {
        Client::converse(namespace, move || connect(server))
    }

    /// Give one number after the other to whatever `connect` connects to. A number that was not answered is given again on a new connection.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn converse(
        namespace: &Namespace,
        connect: impl Fn() -> Result<Conversation> + Send + 'static,
    ) -> Result<Client> {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let gaps = Arc::new(Mutex::new(Vec::new()));
        let shared = (Arc::clone(&stop), Arc::clone(&answered), Arc::clone(&gaps));
        // The thread stays in the namespace it was started in.
        let thread = namespace.within(move || {
            Ok(thread::spawn(move || write_all_the_time(&connect, &shared.0, &shared.1, &shared.2)))
        })?;
        Ok(Client { stop, answered, gaps, thread: Some(thread) })
    }

    /// How many records were answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Acquire)
    }

    /// Times without answers so far.
    #[must_use]
    pub fn gaps(&self) -> Vec<Gap> {
        self.gaps.lock().map(|gaps| gaps.clone()).unwrap_or_default()
    }

    /// Stop, and how many records were answered.
    #[must_use]
    pub fn stop(mut self) -> u64 {
        self.end();
        self.answered()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.end();
    }
}

fn write_all_the_time(
    connect: &impl Fn() -> Result<Conversation>,
    stop: &AtomicBool,
    answered: &AtomicU64,
    gaps: &Mutex<Vec<Gap>>,
) {
    let mut last: Option<Instant> = None;
    while !stop.load(Ordering::Acquire) {
        let Ok(mut keep) = connect() else {
            // A client that is refused does not try as fast as it can.
            thread::sleep(PAUSE);
            continue;
        };
        while !stop.load(Ordering::Acquire) {
            let number = answered.load(Ordering::Acquire);
            if keep(number).is_err() {
                // Likewise.
                thread::sleep(PAUSE);
                break;
            }
            answered.store(number + 1, Ordering::Release);
            let at = Instant::now();
            if let Some(before) = last.replace(at)
                && at - before >= GAP
                && let Ok(mut gaps) = gaps.lock()
            {
                gaps.push(Gap { from: before, to: at });
            }
        }
    }
}

fn connect(server: SocketAddr) -> Result<Conversation> {
    conversation(TcpStream::connect_timeout(&server, PATIENCE)?)
}

/// Over a connection to the server.
///
/// # Errors
/// It is gone.
pub fn conversation(stream: TcpStream) -> Result<Conversation> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let (mut out, mut lines) = (stream.try_clone()?, BufReader::new(stream));
    Ok(Box::new(move |number| {
        out.write_all(format!("{number}\n").as_bytes())?;
        let mut line = String::new();
        lines.read_line(&mut line)?;
        ensure!(line.trim() == number.to_string(), "answered {line:?} to {number}");
        Ok(())
    }))
}

/// How many of the answered records, which begin with this number, a file lacks.
///
/// # Errors
/// The file cannot be read, or holds something that no client sent.
pub fn missing(file: &Path, first: u64, answered: u64) -> Result<u64> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let mut found = BTreeSet::new();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    for line in whole.lines() {
        match line.parse::<u64>() {
            Ok(number) => drop(found.insert(number)),
            Err(_) => bail!("{} holds {line:?}", file.display()),
        }
    }
    Ok(answered - found.range(first..first + answered).count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_counted_and_a_torn_end_is_not() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("ledger");
        fs::write(&file, "0\n1\n1\n3\n4").unwrap();
        assert_eq!(missing(&file, 0, 2).unwrap(), 0);
        assert_eq!(missing(&file, 0, 4).unwrap(), 1);
        assert_eq!(missing(&file, 0, 5).unwrap(), 2);
        assert_eq!(missing(&file, 3, 2).unwrap(), 1);
        fs::write(&file, "0\nx\n").unwrap();
        assert!(missing(&file, 0, 1).is_err());
    }
}
