//! What systemd is told of the daemon (`sd_notify(3)`): that it is ready, reloads or stops, how it is
//! in one line, and, while every stage makes progress, that it lives. On a thread of its own: should
//! systemd not take a message, nothing else waits for it.

use std::env;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{debug, warn};

use crate::model::FileId;
use crate::pipeline::{Ask, Keep};
use crate::status::{BrokerState, SpoolMode, Status, bytes};
use crate::telemetry::progress::{Activity, Progress, Stage};

/// Between two looks at what `systemctl status` shows.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// Between two attempts to learn that the pipeline runs.
const READY_EVERY: Duration = Duration::from_millis(50);
/// Between two words that a start goes on.
const START_EVERY: Duration = Duration::from_secs(10);
/// So long systemd waits for the next one; a start that works on one thing for longer says nothing.
const START_SPARE: Duration = Duration::from_secs(60);
/// How much longer than the daemon's own limit systemd waits for its end.
const STOP_SPARE: Duration = Duration::from_secs(5);

/// The way to tell systemd something. Without systemd nothing is told, and that is no error.
#[derive(Debug)]
pub(super) struct Notify(Option<UnboundedSender<News>>);

/// What the daemon does next.
#[derive(Debug)]
enum News {
    Reloading,
    Ready,
    Stopping(Duration),
    Keep(Keep),
}

impl Notify {
    /// Tells that the daemon is ready as soon as the pipeline answers, and how it is from then on.
    ///
    /// # Errors
    /// There is neither thread nor timer.
    pub(super) fn start(ask: Ask, progress: Progress) -> io::Result<Self> {
        if env::var_os("NOTIFY_SOCKET").is_none() {
            return Ok(Self(None));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        let (tell, news) = unbounded_channel();
        let work = move || {
            runtime.block_on(async {
                if let Err(error) = Teller::new(ask, progress, news).run().await {
                    warn!(%error, "systemd cannot be told anything");
                }
            });
        };
        // Ends when `tell` does. It is not waited for: a systemd that hangs must not hold up the end.
        let _ = thread::Builder::new()
            .name("notify".to_owned())
            .spawn(work)?;
        Ok(Self(Some(tell)))
    }

    /// The configuration is being read again; until [`Notify::ready`].
    pub(super) fn reloading(&self) {
        self.tell(News::Reloading);
    }

    /// The reload is over, however it went.
    pub(super) fn ready(&self) {
        self.tell(News::Ready);
    }

    /// The daemon stops, within that time.
    pub(super) fn stopping(&self, within: Duration) {
        self.tell(News::Stopping(within));
    }

    /// What becomes of a deleted file's descriptor.
    pub(super) fn keep(&self, keep: Keep) {
        self.tell(News::Keep(keep));
    }

    fn tell(&self, news: News) {
        if let Some(tell) = &self.0 {
            // A thread that has ended has said why.
            let _ = tell.send(news);
        }
    }
}

/// A start that goes on, and may take longer than systemd waits for one. Dropped, it is over.
#[derive(Debug)]
pub(super) struct Starting {
    /// Nothing is ever sent.
    _over: Option<Sender<()>>,
}

impl Starting {
    /// Tells so, again and again while there is progress.
    ///
    /// # Errors
    /// There is no thread.
    pub(super) fn begin(progress: Progress) -> io::Result<Self> {
        if env::var_os("NOTIFY_SOCKET").is_none() {
            return Ok(Self { _over: None });
        }
        let (over, is_over) = channel();
        let work = move || {
            if let Err(error) = tell_of_start(&progress, &is_over) {
                warn!(%error, "systemd cannot be told that the start goes on");
            }
        };
        let _ = thread::Builder::new()
            .name("start".to_owned())
            .spawn(work)?;
        Ok(Self { _over: Some(over) })
    }
}

fn tell_of_start(progress: &Progress, is_over: &Receiver<()>) -> io::Result<()> {
    let usec = u32::try_from(START_SPARE.as_micros()).unwrap_or(u32::MAX);
    loop {
        if stuck(|stage| progress.of(stage), START_SPARE).is_none() {
            sd_notify::notify(&[
                NotifyState::ExtendTimeoutUsec(usec),
                NotifyState::Status("starting: state and spool are read"),
            ])?;
        }
        match is_over.recv_timeout(START_EVERY) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// The thread's own.
struct Teller {
    ask: Ask,
    progress: Progress,
    news: UnboundedReceiver<News>,
    watchdog: Option<Duration>,
    shown: String,
    starving: bool,
}

impl Teller {
    fn new(ask: Ask, progress: Progress, news: UnboundedReceiver<News>) -> Self {
        Self {
            ask,
            progress,
            news,
            watchdog: sd_notify::watchdog_enabled(),
            shown: String::new(),
            starving: false,
        }
    }

    /// Until the daemon ends, or systemd does not listen.
    async fn run(mut self) -> io::Result<()> {
        if !self.wait_for_pipeline().await? {
            return Ok(());
        }
        let mut show = every(STATUS_EVERY);
        // systemd.service(5): half of the limit.
        let mut beat = self.watchdog.map(|limit| every(limit / 2));
        loop {
            tokio::select! {
                news = self.news.recv() => match news {
                    Some(news) => tell(news)?,
                    None => return Ok(()),
                },
                _ = show.tick() => self.show().await?,
                () = tick(beat.as_mut()) => self.beat().await?,
            }
        }
    }

    /// Whether it came to run: a daemon may be told to stop before.
    async fn wait_for_pipeline(&mut self) -> io::Result<bool> {
        loop {
            tokio::select! {
                news = self.news.recv() => match news {
                    Some(news) => tell(news)?,
                    None => return Ok(false),
                },
                answer = self.ask.status() => match answer {
                    Ok(status) => {
                        let text = text(&status);
                        sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&text)])?;
                        self.shown = text;
                        return Ok(true);
                    }
                    Err(_) => tokio::time::sleep(READY_EVERY).await,
                },
            }
        }
    }

    async fn show(&mut self) -> io::Result<()> {
        let Ok(status) = self.ask.status().await else {
            return Ok(());
        };
        let text = text(&status);
        if text != self.shown {
            sd_notify::notify(&[NotifyState::Status(&text)])?;
            self.shown = text;
        }
        Ok(())
    }

    /// Feeds the watchdog, unless something hangs. A pipeline that does not answer does: it never
    /// waits for a disk.
    async fn beat(&mut self) -> io::Result<()> {
        let limit = self.watchdog.unwrap_or(Duration::MAX);
        let hangs = match self.ask.totals().await {
            Ok(_) => stuck(|stage| self.progress.of(stage), limit),
            Err(_) => Some(Stage::Relay),
        };
        let Some(stage) = hangs else {
            self.starving = false;
            return sd_notify::notify(&[NotifyState::Watchdog]);
        };
        if !std::mem::replace(&mut self.starving, true) {
            let stage = stage.as_str();
            warn!(stage, "no progress; the watchdog is not fed");
        }
        Ok(())
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

async fn tick(interval: Option<&mut Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

fn tell(news: News) -> io::Result<()> {
    debug!(?news, "telling systemd");
    match news {
        News::Reloading => {
            let now = NotifyState::monotonic_usec_now()?;
            sd_notify::notify(&[NotifyState::Reloading, now])
        }
        News::Ready => sd_notify::notify(&[NotifyState::Ready]),
        News::Keep(what) => {
            keep(&what);
            Ok(())
        }
        News::Stopping(within) => {
            let usec = u32::try_from((within + STOP_SPARE).as_micros()).unwrap_or(u32::MAX);
            sd_notify::notify(&[
                NotifyState::Stopping,
                NotifyState::ExtendTimeoutUsec(usec),
                NotifyState::Status("stopping: what is under way is being confirmed"),
            ])
        }
    }
}

/// What systemd does not keep is lost should this process crash, and nothing else is.
fn keep(keep: &Keep) {
    let told = match keep {
        Keep::Store(id, file) => {
            let name = id.to_string();
            // It is kept until it is taken back, whatever could be read from it.
            let forever = NotifyState::Custom("FDPOLL=0");
            let store = [NotifyState::FdStore, NotifyState::FdName(&name), forever];
            sd_notify::notify_with_fds(&store, &[file.as_fd()])
        }
        Keep::Remove(id) => remove(&id.to_string()),
    };
    if let Err(error) = told {
        debug!(%error, "systemd does not keep a descriptor");
    }
}

fn remove(name: &str) -> io::Result<()> {
    sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)])
}

/// Descriptors of deleted files that systemd kept when an earlier run ended, by the files' ids. To be
/// called before anything else is opened.
pub(super) fn kept() -> Vec<(FileId, File)> {
    let kept = sd_listen_fds::get().unwrap_or_else(|error| {
        warn!(%error, "what systemd hands over is not understood");
        Vec::new()
    });
    let known = |(name, descriptor): (Option<String>, sd_listen_fds::OwnedFd)| {
        let name = name.unwrap_or_default();
        let id: Option<FileId> = name.parse().ok();
        if id.is_none() {
            warn!(
                name,
                "systemd hands over a descriptor that is no log file's; closing it"
            );
            // Nobody needs it who is told of it each time.
            let _ = remove(&name);
        }
        Some((id?, File::from(descriptor.into_std())))
    };
    kept.into_iter().filter_map(known).collect()
}

/// The stage that has worked on one thing for longer than `limit`. One that waits for a neighbour, or for
/// a disk, is not stuck: nothing is gained by killing it.
fn stuck(activity: impl Fn(Stage) -> Activity, limit: Duration) -> Option<Stage> {
    let is_stuck =
        |stage: &Stage| matches!(activity(*stage), Activity::Working(time) if time > limit);
    Stage::ALL.into_iter().find(is_stuck)
}

/// How the daemon is, for `systemctl status`.
fn text(status: &Status) -> String {
    let broker = match status.broker.state {
        BrokerState::Connected => "broker connected",
        BrokerState::Connecting => "connecting to the broker",
        BrokerState::Blocked => "broker takes nothing",
        BrokerState::Down => "no broker",
    };
    let sum: Option<u64> = status.sources.iter().map(|source| source.lag).sum();
    let lag = sum.map_or_else(|| "not known".to_owned(), bytes);
    let mut text = if status.sources.is_empty() {
        format!("{broker}, idle: no source is configured")
    } else {
        format!("{broker}, lag {lag}")
    };
    if status.spool.mode != SpoolMode::Direct {
        text += &format!(", spool {}", bytes(status.spool.bytes));
    }
    if status.lost_bytes > 0 {
        text += &format!(", lost {}", bytes(status.lost_bytes));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stage_that_works_on_one_thing_for_too_long_starves_the_watchdog() {
        let limit = Duration::from_secs(10);
        let (long, short) = (Duration::from_secs(11), Duration::from_secs(9));
        for (activity, hangs) in [
            (Activity::Working(long), true),
            (Activity::Working(short), false),
            (Activity::Calling(long), false),
            (Activity::Waiting, false),
        ] {
            let of = |stage| match stage {
                Stage::Spool => activity,
                _ => Activity::Calling(long),
            };
            let stuck = stuck(of, limit);
            assert_eq!(stuck, hangs.then_some(Stage::Spool), "{activity:?}");
        }
    }
}
