//! The daemon's local socket: one JSON request in a line, one answer in a line, for root only.

use std::fs;
use std::future::Future;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::control::{Answer, Request};

/// Longest request, in bytes.
pub(super) const REQUEST_BYTES_MAX: u64 = 64 << 10;
/// Longest answer, in bytes.
const ANSWER_BYTES_MAX: u64 = 4 << 20;
/// Clients served at a time.
const CLIENTS_MAX: usize = 16;
/// Longest pause of a client.
const IDLE_LIMIT: Duration = Duration::from_secs(10);

/// Why a daemon cannot be asked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum SocketError {
    /// Nobody listens.
    #[error("no cluster daemon answers at {path}; start it with \"replicator cluster run\", or name its directory with --directory", path = path.display())]
    NoDaemon { path: PathBuf },
    /// Another daemon has it.
    #[error("another cluster daemon answers at {path}; stop it first", path = path.display())]
    InUse { path: PathBuf },
    /// The system refused.
    #[error("cannot {operation} {path}: {source}", path = path.display())]
    System { operation: &'static str, path: PathBuf, source: io::Error },
    /// It does not answer in time, or not with an answer.
    #[error("the cluster daemon at {path} gave no answer: {why}", path = path.display())]
    NoAnswer { path: PathBuf, why: String },
}

/// A daemon's socket; removed when dropped.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.task.abort();
        let _ = fs::remove_file(&self.path);
    }
}

/// Answer at a path. One that a dead daemon left is replaced.
///
/// # Errors
/// [`SocketError::InUse`], [`SocketError::System`].
pub fn serve<F, A>(path: &Path, answer: F) -> Result<Socket, SocketError>
where
    F: Fn(Request) -> A + Send + Sync + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    let system = |operation| move |source| SocketError::System { operation, path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(directory).map_err(system("create the directory of"))?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(SocketError::InUse { path: path.to_owned() });
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(system("replace")(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(system("listen at"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(system("protect"))?;
    let (answer, places) = (Arc::new(answer), Arc::new(Semaphore::new(CLIENTS_MAX)));
    let task = tokio::spawn(async move {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                // A lack of descriptors must not become a busy loop.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                if let Err(error) = converse(stream, &*answer).await {
                    tracing::debug!(%error, "a client of the socket");
                }
                drop(place);
            });
        }
    });
    Ok(Socket { path: path.to_owned(), task })
}

pub(super) async fn converse<F, A>(mut stream: UnixStream, answer: &F) -> io::Result<()>
where
    F: Fn(Request) -> A,
    A: Future<Output = Answer>,
{
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let mut bounded = (&mut reader).take(REQUEST_BYTES_MAX);
        let read = timeout(IDLE_LIMIT, bounded.read_until(b'\n', &mut line)).await??;
        if read == 0 {
            return Ok(());
        }
        let said = match serde_json::from_slice(&line) {
            Ok(request) if line.last() == Some(&b'\n') => answer(request).await,
            Ok(_) => Answer::refused("the request is too long or cut off"),
            Err(error) => Answer::refused(format!("not a request: {error}")),
        };
        let mut line = serde_json::to_vec(&said)?;
        line.push(b'\n');
        timeout(IDLE_LIMIT, writer.write_all(&line)).await??;
    }
}

/// Ask the daemon at a path.
///
/// # Errors
/// [`SocketError`]
pub async fn ask(path: &Path, request: &Request, within: Duration) -> Result<Answer, SocketError> {
    let no_answer = |why: String| SocketError::NoAnswer { path: path.to_owned(), why };
    let asked = async {
        let mut stream = match UnixStream::connect(path).await {
            Ok(stream) => stream,
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                return Err(SocketError::NoDaemon { path: path.to_owned() });
            }
            Err(source) => {
                return Err(SocketError::System { operation: "connect to", path: path.to_owned(), source });
            }
        };
        let mut line = serde_json::to_vec(request).map_err(|error| no_answer(error.to_string()))?;
        line.push(b'\n');
        stream.write_all(&line).await.map_err(|error| no_answer(error.to_string()))?;
        let mut said = Vec::new();
        let mut bounded = BufReader::new(stream).take(ANSWER_BYTES_MAX);
        bounded.read_until(b'\n', &mut said).await.map_err(|error| no_answer(error.to_string()))?;
        serde_json::from_slice(&said).map_err(|error| no_answer(error.to_string()))
    };
    timeout(within, asked).await.unwrap_or_else(|_| Err(no_answer(format!("none within {within:?}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_are_answered_garbage_is_refused_and_a_second_daemon_too() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("run/control");
        let within = Duration::from_secs(10);
        assert!(matches!(ask(&path, &Request::Status, within).await, Err(SocketError::NoDaemon { .. })));
        let socket = serve(&path, |request| async move {
            match request {
                Request::Stop => Answer::Done,
                _ => Answer::refused("only stop"),
            }
        })
        .unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(ask(&path, &Request::Stop, within).await.unwrap(), Answer::Done);
        assert!(matches!(ask(&path, &Request::Status, within).await.unwrap(), Answer::Refused { .. }));
        assert!(matches!(serve(&path, |_| async { Answer::Done }), Err(SocketError::InUse { .. })));
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(b"nonsense\n{\"request\":\"stop\"}\n").await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        assert!(lines.next_line().await.unwrap().unwrap().contains("not a request"));
        assert!(lines.next_line().await.unwrap().unwrap().contains("done"));
        drop(socket);
        assert!(!path.exists());
    }
}
