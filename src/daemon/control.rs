//! The control socket: a Unix socket of the agent's user, over which this host's root and the
//! agent's own user ask the daemon. On a thread of its own, and bounded in everything: whatever a
//! client does, neither the pipeline nor another client waits for it.
//!
//! A request is one line of JSON, `{"request":"status"}`, with `"protocol":1` in it if the client
//! likes. The answer is one line of JSON: what was asked for, or
//! `{"error":{"code":"…","message":"…"}}`. Then the connection is closed.

use std::ffi::{OsStr, OsString};
use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::pipeline::Ask;
use crate::sys;

/// The protocol that this version speaks.
const PROTOCOL: u32 = 1;
/// Longest request, line end included.
const REQUEST_MAX: u64 = 4096;
/// So many connections at once; while there are no fewer, those that wait for their client are
/// ended after [`PAUSE`], and those that wait for the daemon are not.
const CONNECTIONS_MAX: usize = 8;
/// Time for a client to say what it wants.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a client to take the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a connection could not be accepted (no descriptors are left, most likely), and what
/// a client has for its turn while others wait.
const PAUSE: Duration = Duration::from_millis(100);

/// The socket in use. Dropped, it is gone.
#[derive(Debug)]
pub(super) struct Control {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
    _socket: Socket,
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
enum ControlError {
    #[error("its directory {} cannot be used: {source}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("what stands there is no socket; it is left alone")]
    NotASocket,
    #[error("another process answers there")]
    Taken,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Control {
    /// Listens at `path` and answers with the help of `ask`. Without the socket the daemon does all
    /// its work; so that is a warning.
    pub(super) fn start(path: &Path, ask: Ask) -> Option<Self> {
        let started = Socket::listen(path).and_then(|(socket, listener)| {
            let (stop, stopped) = oneshot::channel();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let work = move || {
                runtime.block_on(async {
                    if let Ok(listener) = tokio::net::UnixListener::from_std(listener) {
                        serve(&listener, &ask, stopped).await;
                    }
                });
            };
            let thread = thread::Builder::new().name("control".to_owned());
            Ok(Self {
                stop: Some(stop),
                thread: Some(thread.spawn(work)?),
                _socket: socket,
            })
        });
        match started {
            Ok(control) => {
                info!(?path, "control socket");
                Some(control)
            }
            Err(error) => {
                warn!(?path, %error, "no control socket: `fantail status` will not work");
                None
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // The thread has ended already if nobody hears this.
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

/// The socket's name in the file system.
#[derive(Debug)]
struct Socket {
    directory: OwnedFd,
    name: OsString,
    inode: (u64, u64),
}

impl Socket {
    /// The state lock is held by now: whoever answers at `path` is not an agent of this state.
    fn listen(path: &Path) -> Result<(Self, UnixListener), ControlError> {
        let (parent, name) = parts(path)?;
        let directory = open_directory(parent).map_err(|source| ControlError::Directory {
            path: parent.to_path_buf(),
            source,
        })?;
        remove_stale(&directory, name, path)?;
        let listener = match sys::listen(&directory, name, path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(ControlError::Taken);
            }
            listener => listener?,
        };
        let (inode, _) = sys::socket_at(&directory, name)?;
        let name = name.to_owned();
        Ok((
            Self {
                directory,
                name,
                inode,
            },
            listener,
        ))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Somebody else's by now, perhaps.
        if sys::socket_at(&self.directory, &self.name).is_ok_and(|(inode, _)| inode == self.inode) {
            // A crash leaves it too, and the next start removes it.
            let _ = sys::remove_at(&self.directory, &self.name);
        }
    }
}

fn parts(path: &Path) -> io::Result<(&Path, &OsStr)> {
    let name = path.file_name();
    let name = name.ok_or_else(|| io::Error::other("the path has no last component"))?;
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    Ok((parent.unwrap_or(Path::new(".")), name))
}

/// Opens the directory; makes it where it is missing, but none above it.
fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    match DirBuilder::new().mode(0o750).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sys::open_directory(path),
    }
}

/// Removes what a crash has left: a socket at which nobody answers, and nothing else.
fn remove_stale(directory: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), ControlError> {
    match sys::socket_at(directory, name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
        Ok((_, false)) => return Err(ControlError::NotASocket),
        Ok((_, true)) => {}
    }
    match sys::connect(directory, name, path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Ok(sys::remove_at(directory, name)?)
        }
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error.into()),
        _ => Err(ControlError::Taken),
    }
}

/// Answers until it is told to stop.
async fn serve(listener: &tokio::net::UnixListener, ask: &Ask, stopped: oneshot::Receiver<()>) {
    let mut stopped = pin!(stopped);
    let mut connections = JoinSet::new();
    let mut open: Vec<(AbortHandle, Turn)> = Vec::new();
    loop {
        open.retain(|(connection, _)| !connection.is_finished());
        let full = open.len() >= CONNECTIONS_MAX;
        tokio::select! {
            _ = &mut stopped => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if !full => match accepted {
                Ok((stream, _)) => {
                    let turn = Turn::default();
                    let talk = talk(stream, ask.clone(), turn.clone());
                    open.push((connections.spawn(talk), turn));
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
            // Somebody may be waiting to be accepted.
            () = tokio::time::sleep(PAUSE), if full => {
                let waits = |(_, turn): &&(AbortHandle, Turn)| turn.is_clients_for(PAUSE);
                open.iter().filter(waits).for_each(|(connection, _)| connection.abort());
            }
        }
    }
}

/// Since when it has been the client's turn to do something; nothing while it is the daemon's.
#[derive(Clone, Debug)]
struct Turn(Arc<Mutex<Option<Instant>>>);

impl Default for Turn {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Some(Instant::now()))))
    }
}

impl Turn {
    fn set(&self, clients_since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = clients_since;
    }

    fn is_clients_for(&self, time: Duration) -> bool {
        let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| since.elapsed() >= time)
    }
}

#[derive(Debug, Deserialize)]
struct Request {
    request: String,
    #[serde(default = "protocol")]
    protocol: u32,
}

fn protocol() -> u32 {
    PROTOCOL
}

#[derive(Debug, Serialize)]
struct Refusal {
    code: &'static str,
    message: String,
}

/// One connection: a request, an answer.
async fn talk(mut stream: UnixStream, ask: Ask, turn: Turn) {
    let (reader, mut writer) = stream.split();
    let mut line = Vec::new();
    let mut reader = BufReader::new(reader.take(REQUEST_MAX));
    let answer = match timeout(REQUEST_TIMEOUT, reader.read_until(b'\n', &mut line)).await {
        Ok(Ok(0) | Err(_)) => return,
        Ok(Ok(_)) => {
            turn.set(None);
            answer(&line, &ask).await
        }
        Err(_) => Err(refusal("timeout", "no whole request came in time")),
    };
    let mut text = match answer {
        Ok(text) => text,
        Err(refusal) => {
            serde_json::to_vec(&serde_json::json!({ "error": refusal })).unwrap_or_default()
        }
    };
    text.push(b'\n');
    turn.set(Some(Instant::now()));
    // A client that does not read, or has gone, has had its time.
    let _ = timeout(ANSWER_TIMEOUT, writer.write_all(&text)).await;
}

async fn answer(line: &[u8], ask: &Ask) -> Result<Vec<u8>, Refusal> {
    if !line.ends_with(b"\n") && line.len() as u64 == REQUEST_MAX {
        let message = format!("a request has at most {REQUEST_MAX} bytes");
        return Err(refusal("bad_request", message));
    }
    let request: Request = serde_json::from_slice(line)
        .map_err(|error| refusal("bad_request", format!("not a request: {error}")))?;
    if request.protocol != PROTOCOL {
        let message = format!("this daemon speaks protocol {PROTOCOL}");
        return Err(refusal("unknown_protocol", message));
    }
    match request.request.as_str() {
        "status" => {
            let status = ask.status().await;
            let status = status.map_err(|silent| refusal("silent", silent.to_string()))?;
            serde_json::to_vec(&status).map_err(|error| refusal("internal", error.to_string()))
        }
        _ => Err(refusal("unknown_request", "known requests: status")),
    }
}

fn refusal(code: &'static str, message: impl Into<String>) -> Refusal {
    Refusal {
        code,
        message: message.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};

    #[test]
    fn the_socket_is_the_owners_alone_and_gone_when_dropped() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("run/control.sock");
        let (socket, _listener) = Socket::listen(&path).expect("listening");
        let metadata = fs::symlink_metadata(&path).expect("there");
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        let parent = fs::metadata(directory.path().join("run")).expect("there");
        assert_eq!(parent.permissions().mode() & 0o777 & !0o750, 0);
        assert!(matches!(Socket::listen(&path), Err(ControlError::Taken)));
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_anything_else_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("control.sock");
        drop(UnixListener::bind(&path).expect("bound"));
        let (first, _listener) = Socket::listen(&path).expect("listening");
        fs::remove_file(&path).expect("removed");
        fs::write(&path, "precious").expect("written");
        drop(first);
        assert!(matches!(
            Socket::listen(&path),
            Err(ControlError::NotASocket)
        ));
        assert_eq!(fs::read(&path).expect("there"), b"precious");
        fs::remove_file(&path).expect("removed");

        let other = directory.path().join("other.sock");
        drop(UnixListener::bind(&other).expect("bound"));
        symlink(&other, &path).expect("linked");
        assert!(matches!(
            Socket::listen(&path),
            Err(ControlError::NotASocket)
        ));
        assert!(other.exists());
        symlink(directory.path(), directory.path().join("run")).expect("linked");
        let through = directory.path().join("run/control.sock");
        assert!(matches!(
            Socket::listen(&through),
            Err(ControlError::Directory { .. })
        ));
    }

    #[test]
    fn a_path_longer_than_a_sockets_address_works() {
        let directory = tempfile::tempdir().expect("a directory");
        let long = directory.path().join("d".repeat(200));
        fs::create_dir(&long).expect("made");
        let path = long.join("control.sock");
        let (_socket, _listener) = Socket::listen(&path).expect("listening");
        let opened = sys::open_directory(&long).expect("opened");
        sys::connect(&opened, "control.sock".as_ref(), &path).expect("connected");
    }
}
