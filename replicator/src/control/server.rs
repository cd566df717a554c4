//! The answering side, on a thread of its own with a tokio runtime.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::{Semaphore, oneshot};

use super::client::connect;
use super::{ControlError, NodeView, REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX, Request, Response};

/// Clients served at a time; more wait until one leaves.
pub const CLIENTS_MAX: usize = 16;
/// Longest pause of a client before it is let go, and longest time it may take to accept an answer.
pub const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// Longest time until what a node is told is on record; shorter than clients wait.
const RECORD_LIMIT: Duration = Duration::from_secs(3);
/// Pause after accept(2) failed, so that a lack of descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running control server. Dropping it closes the socket, removes it and waits for the thread.
#[derive(Debug)]
pub struct ControlServer {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    socket: PathBuf,
    inode: u64,
    // Held while the server lives: tells the socket of a living daemon from that of a dead one.
    _lock: Flock<File>,
}

/// Answer requests at the socket `path` until the returned server is dropped.
///
/// The directory is created (mode 0700) if it is missing, the socket has mode 0600. The socket of a dead daemon is replaced. Beside the
/// socket an empty file `<path>.lock` stays for good.
///
/// # Errors
/// [`ControlError::InUse`] if another daemon has the socket, [`ControlError::NotASocket`], [`ControlError::System`].
pub fn serve(path: &Path, view: Arc<dyn NodeView>) -> Result<ControlServer, ControlError> {
    let system = |operation| move |source| ControlError::System { operation, path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(system("create the directory of the socket"))?;
    }
    let lock = lock(path)?;
    remove_stale(path)?;
    let listener = listen_at(path).map_err(system("listen at"))?;
    let inode = fs::symlink_metadata(path).map_err(system("look at"))?.ino();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("start a runtime for"))?;
    let listener = {
        let _inside = runtime.enter();
        tokio::net::UnixListener::from_std(listener).map_err(system("listen at"))?
    };
    let (stop, stopped) = oneshot::channel();
    let thread = thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, view) => {}
                    _ = stopped => {}
                }
            });
        })
        .map_err(system("start a thread for"))?;
    Ok(ControlServer { stop: Some(stop), thread: Some(thread), socket: path.to_owned(), inode, _lock: lock })
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // The thread's own panic was reported by the panic hook; there is nothing to add here.
            let _ = thread.join();
        }
        let ours = fs::symlink_metadata(&self.socket).is_ok_and(|found| found.ino() == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.socket) {
            tracing::debug!(path = %self.socket.display(), %error, "cannot remove the control socket");
        }
    }
}

/// Take the lock of the socket's owner.
fn lock(path: &Path) -> Result<Flock<File>, ControlError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let system = |operation, source| ControlError::System { operation, path: name.clone(), source };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&name)
        .map_err(|source| system("open", source))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, Errno::EWOULDBLOCK)) => Err(ControlError::InUse { path: path.to_owned() }),
        Err((_, errno)) => Err(system("lock", errno.into())),
    }
}

/// Remove the socket of a dead daemon. Nothing else is removed.
fn remove_stale(path: &Path) -> Result<(), ControlError> {
    let system = |operation, source| ControlError::System { operation, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system("look at", error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ControlError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    // The lock says that no daemon of ours has it; another program might.
    match connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| system("remove the stale socket", error))
        }
        _ => Err(ControlError::InUse { path: path.to_owned() }),
    }
}

/// A listening socket that only its owner can connect to, from the first moment on.
fn listen_at(path: &Path) -> io::Result<UnixListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // bind(2) gives the file the mode of the socket's own inode less the umask (net/unix/af_unix.c, unix_bind_bsd), so there is
    // no moment with a wider one.
    nix::sys::stat::fchmod(&fd, nix::sys::stat::Mode::from_bits_truncate(0o600))?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&fd, Backlog::new(CLIENTS_MAX as i32)?)?;
    Ok(UnixListener::from(fd))
}

async fn accept(listener: tokio::net::UnixListener, view: Arc<dyn NodeView>) {
    let places = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let view = view.clone();
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, &*view).await {
                        tracing::debug!(%error, "a control client left in the middle");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a control client");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serve one client until it leaves, pauses too long or sends something too long.
pub(super) async fn converse(stream: tokio::net::UnixStream, view: &dyn NodeView) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::with_capacity(REQUEST_BYTES_MAX, reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut bounded = (&mut reader).take(REQUEST_BYTES_MAX as u64);
        match tokio::time::timeout(IDLE_LIMIT, bounded.read_until(b'\n', &mut line)).await {
            Err(_) | Ok(Ok(0)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Ok(Ok(_)) => {}
        }
        let whole = line.last() == Some(&b'\n');
        let response = if whole {
            answer(&line, view).await
        } else {
            refusal("a request is one line of at most 4096 bytes")
        };
        let bytes = encode(&response);
        let written = tokio::time::timeout(IDLE_LIMIT, writer.write_all(&bytes)).await;
        // After the answer, which would be lost if the daemon were gone first.
        if response == Response::Stopping {
            tracing::info!("stop requested over the control socket");
            view.request_stop();
        }
        written.map_err(|_| io::ErrorKind::TimedOut)??;
        if !whole {
            return Ok(());
        }
    }
}

pub(super) async fn answer(line: &[u8], view: &dyn NodeView) -> Response {
    match serde_json::from_slice(line) {
        Ok(Request::Status) => Response::Status { status: Box::new(view.status()) },
        Ok(Request::Stop) => Response::Stopping,
        Ok(Request::HandOver) => {
            view.hand_over();
            Response::Stopping
        }
        Ok(Request::Ping) => Response::Pong,
        Ok(Request::Order { order }) => {
            let taken = view.order(&order);
            tracing::info!(?order, ?taken, "order over the control socket");
            match taken {
                Ok(number) => Response::Taken { number },
                Err(why) => refusal(&why),
            }
        }
        Ok(Request::VerifyReport) => Response::VerifyReport { report: view.verify_report() },
        Ok(Request::OverwritePeer { reason }) => begun(view.overwrite_peer(&reason)),
        Ok(Request::GoAlone { term, absence }) => {
            tracing::info!(term, absence, "over the control socket: this primary may go on alone");
            recorded(view.go_alone(term, absence)).await
        }
        Ok(Request::Outdate { term }) => {
            tracing::info!(term, "over the control socket: the primary may go on without this copy");
            recorded(view.outdate(term)).await
        }
        Ok(Request::DiscardDivergence { id }) => begun(view.discard_divergence(&id)),
        Err(error) => refusal(&format!("not a request: {error}")),
    }
}

/// Wait until it is on record, on a thread that may wait.
async fn recorded(begun: Result<Receiver<Result<(), String>>, String>) -> Response {
    let answered = match begun {
        Ok(answered) => answered,
        Err(message) => return refusal(&message),
    };
    let waited = tokio::task::spawn_blocking(move || answered.recv_timeout(RECORD_LIMIT)).await;
    match waited {
        Ok(Ok(Ok(()))) => Response::Recorded,
        Ok(Ok(Err(message))) => refusal(&message),
        Ok(Err(RecvTimeoutError::Timeout)) => refusal(
            "it is taken, but not on record yet: the disk with the state directory is slow, or fails; look at the status",
        ),
        Ok(Err(RecvTimeoutError::Disconnected)) | Err(_) => refusal("the node is stopping"),
    }
}

fn begun(result: Result<(), String>) -> Response {
    result.map_or_else(|message| refusal(&message), |()| Response::Begun)
}

fn refusal(message: &str) -> Response {
    Response::Refused { message: message.to_owned() }
}

fn encode(response: &Response) -> Vec<u8> {
    let fallback = || br#"{"answer":"refused","message":"the answer cannot be written"}"#.to_vec();
    let mut bytes = serde_json::to_vec(response)
        .ok()
        .filter(|bytes| bytes.len() < RESPONSE_BYTES_MAX)
        .unwrap_or_else(fallback);
    bytes.push(b'\n');
    bytes
}
