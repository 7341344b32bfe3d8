//! HTTP: metrics, health, the status and the page, on a thread and a runtime of its own, so that no
//! client holds the pipeline up. Bounded: connections, their time, and what they may send.

mod answers;
mod exposition;
mod history;
mod metrics;
mod page;
mod process;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{error, info, warn};

use crate::config;
use crate::pipeline::Ask;
use crate::telemetry::progress::Progress;
use crate::telemetry::spell::Spell;
use answers::{Shared, router};

/// So many connections at once; one more, and the oldest is ended. Each may hold an answer of some
/// megabytes that its client does not take.
const CONNECTIONS_MAX: usize = 16;
/// Time for a client to say what it wants.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest header, request line included.
const HEADER_MAX: usize = 16 * 1024;
/// After so long a connection takes no further request,
const CONNECTION_FOR: Duration = Duration::from_secs(30);
/// and what is answered then has so long to be taken.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Pauses before an address that cannot be listened at is tried again: doubling, from the first to the
/// last.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Pause after a connection could not be accepted: no descriptors are left, most likely.
const PAUSE: Duration = Duration::from_millis(100);

/// What is served, as configured, from now on.
#[derive(Debug)]
pub(super) struct Http {
    ask: Ask,
    progress: Progress,
    settings: config::Http,
    running: Option<Running>,
}

impl Http {
    /// Serves nothing before it is configured.
    pub(super) fn new(ask: Ask, progress: Progress) -> Self {
        Self {
            ask,
            progress,
            settings: config::Http::default(),
            running: None,
        }
    }

    /// Serves as `settings` say, from now on. An address that cannot be listened at is tried again and
    /// again, and holds nothing else up.
    pub(super) fn configure(&mut self, settings: config::Http) {
        if settings == self.settings && self.running.is_some() == settings.listen.is_some() {
            return;
        }
        self.settings = settings;
        // The address may be the same.
        self.running = None;
        let Some(address) = settings.listen else {
            return;
        };
        let shared = Shared::new(self.ask.clone(), self.progress.clone(), settings.expose);
        match Running::start(address, shared) {
            Ok(running) => self.running = Some(running),
            Err(error) => error!(%error, "no thread for HTTP: nothing is served"),
        }
    }
}

/// The thread that serves. Dropped, it ends.
#[derive(Debug)]
struct Running {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Running {
    fn start(address: SocketAddr, shared: Shared) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let work = move || {
            runtime.block_on(async {
                let mut stopped = pin!(stopped);
                tokio::select! {
                    _ = &mut stopped => {}
                    () = run(address, Arc::new(shared)) => {}
                }
            });
        };
        let thread = thread::Builder::new().name("http".to_owned());
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread.spawn(work)?),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The thread has ended already if nobody hears this.
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

async fn run(address: SocketAddr, shared: Arc<Shared>) {
    let serving = async {
        let listener = listen(address).await;
        serve(&listener, &router(Arc::clone(&shared))).await;
    };
    tokio::join!(serving, history::keep(&shared));
}

/// Tries until it listens. Says once what is wrong, and again when that is something else.
async fn listen(address: SocketAddr) -> TcpListener {
    let mut pause = RETRY_FIRST;
    let mut failing = Spell::default();
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                let failures = failing.over(Instant::now()).map(|over| over.times);
                info!(%address, failures, "serving HTTP");
                return listener;
            }
            Err(error) => {
                let text = error.to_string();
                if failing.met(&text, Instant::now()) {
                    let advice = match error.kind() {
                        io::ErrorKind::AddrInUse => "another process listens there",
                        io::ErrorKind::AddrNotAvailable => "this machine has no such address",
                        io::ErrorKind::PermissionDenied => {
                            "ports below 1024 are root's; take another one"
                        }
                        _ => "change `listen` under [http]",
                    };
                    warn!(%address, error = text, advice, "HTTP is not served: the address cannot be listened at; trying again");
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

async fn serve(listener: &TcpListener, router: &Router) {
    let mut connections = JoinSet::new();
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {
                open.retain(|connection| !connection.is_finished());
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if open.len() >= CONNECTIONS_MAX
                        && let Some(oldest) = open.pop_front()
                    {
                        oldest.abort();
                    }
                    open.push_back(connections.spawn(talk(stream, router.clone())));
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
        }
    }
}

/// One connection. What is wrong with it is the client's.
async fn talk(stream: TcpStream, router: Router) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let router = router.layer(axum::Extension(answers::Local(local.ip().to_canonical())));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    if tokio::time::timeout(CONNECTION_FOR, &mut connection)
        .await
        .is_err()
    {
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(ANSWER_TIMEOUT, connection).await;
    }
}
