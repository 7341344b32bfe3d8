//! The daemon: opens the state, runs the pipeline under signals, and says with which code to leave.

mod control;
mod http;
mod notify;
mod reload;

use std::process::exit;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::config::Config;
use crate::pipeline::reload::spool_options;
use crate::pipeline::{self, Opened, StageEnded, Watch};
use crate::spool::{RealDisk, Spool, SpoolError};
use crate::state::{Change, State, StateError};
use crate::sys;
use crate::telemetry::Recent;
use crate::telemetry::progress::{Progress, Stage};
use control::Control;
use http::Http;
use notify::{Notify, Starting};

/// Why the daemon could not run, or not go on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The spool cannot be used.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// A stage ended early.
    #[error(transparent)]
    Stage(#[from] StageEnded),
    /// No signals, timers or sockets.
    #[error("the runtime could not be started: {0}")]
    Runtime(std::io::Error),
}

/// Runs until SIGTERM or SIGINT. A second one leaves at once, like a crash. `recent` is told to
/// whoever asks.
///
/// # Errors
/// It could not run, or not go on.
pub fn run(config: Config, recent: Recent) -> Result<(), DaemonError> {
    let kept = notify::kept();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(DaemonError::Runtime)?;
    // Before anything that takes time: until somebody listens, this signal ends the process.
    let hangup = runtime
        .block_on(async { signal(SignalKind::hangup()) })
        .map_err(DaemonError::Runtime)?;
    let names: Vec<_> = config
        .sources
        .iter()
        .map(|source| source.name.clone())
        .collect();
    let progress = Progress::default();
    let starting = Starting::begin(progress.clone()).map_err(DaemonError::Runtime)?;
    let entered = progress.enter(Stage::State);
    let (mut state, loaded) = State::open(&config.state_dir, &names)?;
    drop(entered);
    let entered = progress.enter(Stage::Spool);
    let (spool, recovered) =
        Spool::open(RealDisk::new(), spool_options(&config), loaded.spool_done)?;
    if let (Some(from), true) = (recovered.from, recovered.ignored) {
        // The place that the state has may come to be later, and would skip what is there then.
        state.save(Change::SpoolDone(spool.id(), from))?;
    }
    drop((entered, starting));
    let spool = Opened { spool, recovered };
    let limit = sys::raise_open_files_limit();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        agent = %loaded.agent,
        host = %config.host,
        sources = config.sources.len(),
        known_files = loaded.files.len(),
        open_files_max = limit,
        "starting"
    );
    for warning in &config.warnings {
        warn!(warning = warning.in_one_line(), "doubtful configuration");
    }
    if config.sources.is_empty() {
        warn!("no [[source]] is configured; running idle");
    }
    let (ask, questions) = pipeline::questions();
    let notify = Notify::start(ask.clone(), progress.clone()).map_err(DaemonError::Runtime)?;
    let notify = Arc::new(notify);
    let control = Control::start(&config.control, ask.clone());
    let mut http = Http::new(ask, progress.clone());
    http.configure(config.http);
    let (reload, reloads) = tokio::sync::mpsc::unbounded_channel();
    let (stopping, keeping) = (Arc::clone(&notify), Arc::clone(&notify));
    let watch = Watch {
        recent,
        questions,
        reloads,
        stopping: Box::new(move |within| stopping.stopping(within)),
        kept,
        keep: Box::new(move |what| keeping.keep(what)),
        progress,
    };
    let path = config.path.clone();
    let ran = runtime.block_on(async {
        tokio::spawn(reload::follow(hangup, path, reload, http, notify));
        let stop = stop_signal().map_err(DaemonError::Runtime)?;
        Ok(pipeline::run(config, state, loaded, spool, watch, stop).await?)
    });
    drop(control);
    // A task that hangs in the library must not keep the process.
    runtime.shutdown_background();
    ran
}

/// Completes with the first SIGTERM or SIGINT; from then on another one ends the process.
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            warn!("second signal; leaving at once");
            // As a shell reports a process that a SIGTERM ended.
            exit(143);
        });
    })
}
