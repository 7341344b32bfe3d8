//! What the pipeline remembers so that it can tell how the daemon is, and the way of a question
//! through it. Nobody waits here: who asks, waits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use crate::amqp;
use crate::config::Config;
use crate::lane;
use crate::model::{AgentId, FileId};
use crate::relay::Mode;
use crate::spool::worker::Size;
use crate::state::Loaded;
use crate::status::{self, BrokerState, FileState, SpoolMode, Status, time};
use crate::tail::report::{Condition, FileReport};
use crate::telemetry::progress::{Activity, Progress, Stage};
use crate::telemetry::{Logged, Recent};

use super::meter::Counts;

/// Questions that may wait for the pipeline.
const QUESTIONS_MAX: usize = 16;
/// A stage that takes longer than this to answer counts as silent.
const PATIENCE: Duration = Duration::from_secs(1);
/// A stage that has not come on for so long is told as held up.
const HELD_UP: Duration = Duration::from_secs(5);
/// Discovery counts as silent after so many poll intervals without a scan.
const SCANS_MISSED: u32 = 30;

/// Asks the pipeline how it is.
#[derive(Clone, Debug)]
pub struct Ask(mpsc::Sender<Question>);

/// What was asked, at the pipeline's end.
pub type Questions = mpsc::Receiver<Question>;

/// One question.
#[derive(Debug)]
pub enum Question {
    /// How everything is. Costs a `statx` for each file.
    Status(oneshot::Sender<Answer>),
    /// What has passed through so far. Costs nothing that grows with the number of files.
    Totals(oneshot::Sender<Passed>),
}

/// What the pipeline knows itself, at once, and what its lane will say.
#[derive(Debug)]
pub struct Answer {
    status: Status,
    counts: Counts,
    progress: Progress,
    asked: Instant,
    started: Timestamp,
    poll_interval: Duration,
    /// Files of which the spool has something, and how far each is confirmed.
    spooled: HashMap<FileId, u64>,
    spooled_since: Timestamp,
    lane: oneshot::Receiver<lane::Report>,
}

/// What the pipeline has counted itself, and what its lane will say.
#[derive(Debug)]
pub struct Passed {
    totals: Totals,
    lane: oneshot::Receiver<Vec<lane::SourceReport>>,
}

/// What has passed through the daemon since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes and lines read; nothing where the lane did not say.
    pub read: Option<(u64, u64)>,
    /// Bytes of bodies that were published.
    pub published_bytes: u64,
    /// Messages that were published.
    pub published_messages: u64,
    /// Lines that were acknowledged.
    pub acknowledged_lines: u64,
    /// Bytes in the spool now.
    pub spool_bytes: u64,
    /// There is a connection now, and the broker takes messages.
    pub connected: bool,
}

/// How the daemon is, with everything that is counted.
#[derive(Debug)]
pub struct Measures {
    /// As it is told to people.
    pub status: Status,
    /// What the pipeline has counted.
    pub counts: Counts,
    /// What the lane has; nothing where it did not say.
    pub lane: Option<LaneMeasures>,
}

/// What the lane has counted.
#[derive(Clone, Debug, Default)]
pub struct LaneMeasures {
    /// By source.
    pub sources: Vec<lane::SourceReport>,
    /// Bytes on disk that deleted files pin.
    pub deleted_bytes: u64,
}

/// The pipeline does not answer.
#[derive(Debug, thiserror::Error)]
#[error("the daemon does not answer")]
pub struct Silent;

/// Both ends of the way to the pipeline.
#[must_use]
pub fn questions() -> (Ask, Questions) {
    let (ask, questions) = mpsc::channel(QUESTIONS_MAX);
    (Ask(ask), questions)
}

impl Ask {
    /// How the daemon is. What a stage does not say in time is told as not known.
    ///
    /// # Errors
    /// Not even the pipeline said anything.
    pub async fn status(&self) -> Result<Status, Silent> {
        Ok(self.measures().await?.status)
    }

    /// How the daemon is, with everything that is counted.
    ///
    /// # Errors
    /// Not even the pipeline said anything.
    pub async fn measures(&self) -> Result<Measures, Silent> {
        let mut answer = self.ask(Question::Status).await?;
        let mut measured = None;
        if let Ok(Ok(report)) = tokio::time::timeout(PATIENCE, &mut answer.lane).await {
            measured = Some(LaneMeasures {
                sources: report.sources.clone(),
                deleted_bytes: report.deleted_bytes,
            });
            answer.add_lane(report);
        } else {
            let lane = stage("lane", "silent", wall_clock(answer.asked));
            answer.status.stages.insert(0, lane);
        }
        tell_held_up(&mut answer.status.stages, &answer.progress, HELD_UP);
        Ok(Measures {
            status: answer.status,
            counts: answer.counts,
            lane: measured,
        })
    }

    /// What has passed through so far, at little cost.
    ///
    /// # Errors
    /// Not even the pipeline said anything.
    pub async fn totals(&self) -> Result<Totals, Silent> {
        let Passed { mut totals, lane } = self.ask(Question::Totals).await?;
        if let Ok(Ok(sources)) = tokio::time::timeout(PATIENCE, lane).await {
            let counts = sources.iter().map(|source| source.count);
            let sum =
                |(bytes, lines), count: lane::Count| (bytes + count.bytes, lines + count.read);
            totals.read = Some(counts.fold((0, 0), sum));
        }
        Ok(totals)
    }

    async fn ask<T>(&self, question: fn(oneshot::Sender<T>) -> Question) -> Result<T, Silent> {
        let asked = async {
            let (reply, answer) = oneshot::channel();
            self.0.send(question(reply)).await.map_err(|_| Silent)?;
            answer.await.map_err(|_| Silent)
        };
        let answer = tokio::time::timeout(PATIENCE, asked).await;
        answer.map_err(|_| Silent)?
    }
}

/// A word, and since when it holds.
#[derive(Debug)]
struct Since<T> {
    value: T,
    at: Timestamp,
}

impl<T: PartialEq> Since<T> {
    fn new(value: T) -> Self {
        let at = Timestamp::now();
        Self { value, at }
    }

    fn set(&mut self, value: T) {
        if self.value != value {
            *self = Self::new(value);
        }
    }
}

/// What is remembered.
pub(super) struct Memory {
    agent: AgentId,
    host: Arc<str>,
    config: status::Config,
    sources: Vec<Arc<str>>,
    poll_interval: Duration,
    recent: Recent,
    progress: Progress,
    started: Instant,
    started_at: Timestamp,
    broker: Since<BrokerState>,
    url: String,
    last_error: Option<String>,
    queues: Vec<status::Queue>,
    /// Those of the next link.
    wanted_queues: Option<Vec<status::Queue>>,
    relay: Since<&'static str>,
    saving: Since<bool>,
    mode: Since<Mode>,
    spool: Size,
    spool_limit: u64,
    /// What the spool had when batches began to go to it, and when that was.
    spool_at_first: Option<(Instant, u64)>,
    lost_bytes: u64,
}

impl Memory {
    pub(super) fn new(
        config: &Config,
        loaded: &Loaded,
        recent: Recent,
        progress: &Progress,
    ) -> Self {
        let started_at = Timestamp::now();
        Self {
            agent: loaded.agent,
            host: Arc::clone(&config.host),
            config: status::Config {
                path: config.path.to_string_lossy().into_owned(),
                loaded_at: time(config.loaded_at),
                reload_error: None,
            },
            sources: names(config),
            poll_interval: poll_interval(config),
            recent,
            progress: progress.clone(),
            started: Instant::now(),
            started_at,
            broker: Since::new(BrokerState::Connecting),
            url: String::new(),
            last_error: None,
            queues: queues(config),
            wanted_queues: None,
            relay: Since::new("connecting"),
            saving: Since::new(true),
            mode: Since::new(Mode::Direct),
            spool: Size::default(),
            spool_limit: config.spool.bytes_max,
            spool_at_first: None,
            lost_bytes: loaded.lost_bytes,
        }
    }

    /// Takes note of what became of a reload.
    pub(super) fn reloaded(&mut self, followed: Result<(), String>) {
        self.config.reload_error = followed.err();
    }

    /// This is in force from now on; but for the link, of which [`Memory::relinked`] tells.
    pub(super) fn configured(&mut self, config: &Config) {
        self.config.loaded_at = time(config.loaded_at);
        self.sources = names(config);
        self.poll_interval = poll_interval(config);
        self.spool_limit = config.spool.bytes_max;
        self.wanted_queues = Some(queues(config));
    }

    /// Another link has taken the place of the one that there was.
    pub(super) fn relinked(&mut self) {
        self.broker.set(BrokerState::Connecting);
        self.url.clear();
        self.last_error = None;
        if let Some(queues) = self.wanted_queues.take() {
            self.queues = queues;
        }
    }

    /// Takes note of what the link reports.
    pub(super) fn link(&mut self, event: &amqp::Event) {
        match event {
            amqp::Event::Connecting { address } => self.url.clone_from(address),
            amqp::Event::Connected { address } => {
                self.url.clone_from(address);
                self.broker.set(BrokerState::Connected);
            }
            amqp::Event::Disconnected(failure) => {
                self.last_error = Some(failure.to_string());
                let had = matches!(
                    self.broker.value,
                    BrokerState::Connected | BrokerState::Blocked
                );
                self.broker.set(if had {
                    BrokerState::Connecting
                } else {
                    BrokerState::Down
                });
                for queue in &mut self.queues {
                    (queue.present, queue.drift) = (None, None);
                }
            }
            amqp::Event::Blocked(reason) => {
                self.last_error = Some(format!("blocked: {reason}"));
                self.broker.set(BrokerState::Blocked);
            }
            amqp::Event::Unblocked => self.broker.set(BrokerState::Connected),
            amqp::Event::Seen(seen) => {
                for (name, present) in seen {
                    self.queue(name).for_each(|queue| {
                        queue.present = Some(*present);
                    });
                }
            }
            amqp::Event::Drift { queue, difference } => {
                self.queue(queue).for_each(|queue| {
                    queue.drift = Some(difference.clone());
                });
            }
            amqp::Event::Outcome { .. } | amqp::Event::Checked(_) | amqp::Event::Made(_) => {}
        }
    }

    fn queue(&mut self, name: &str) -> impl Iterator<Item = &mut status::Queue> {
        self.queues
            .iter_mut()
            .filter(move |queue| queue.name == name)
    }

    /// Takes note of what the relay does.
    pub(super) fn relay(&mut self, state: &'static str) {
        self.relay.set(state);
    }

    /// Takes note of how batches flow.
    pub(super) fn mode(&mut self, mode: Mode) {
        self.mode.set(mode);
        if mode == Mode::Spooling {
            let bytes = self.spool.bytes;
            self.spool_at_first.get_or_insert((Instant::now(), bytes));
        } else {
            self.spool_at_first = None;
        }
    }

    /// In how many seconds the spool is full if it goes on growing as it did since the broker took
    /// nothing any more.
    fn spool_is_full_in(&self) -> Option<u64> {
        let (since, first) = self.spool_at_first?;
        let grown = self
            .spool
            .bytes
            .checked_sub(first)
            .filter(|grown| *grown > 0)?;
        let left = self.spool_limit.saturating_sub(self.spool.bytes);
        let seconds = u128::from(left) * since.elapsed().as_millis() / u128::from(grown) / 1000;
        u64::try_from(seconds).ok()
    }

    /// Takes note of how much the spool holds.
    pub(super) fn spool(&mut self, size: Size) {
        self.spool = size;
    }

    /// Takes note of whether the state can be saved.
    pub(super) fn saving(&mut self, works: bool) {
        self.saving.set(works);
    }

    /// So many more bytes are lost.
    pub(super) fn lost(&mut self, bytes: u64) {
        self.lost_bytes = self.lost_bytes.saturating_add(bytes);
    }

    /// Answers; the lane is given `reply` to say its part.
    pub(super) fn answer(
        &self,
        question: oneshot::Sender<Answer>,
        counts: Counts,
        in_flight: usize,
        spooled: HashMap<FileId, u64>,
        ask_lane: impl FnOnce(oneshot::Sender<lane::Report>),
    ) {
        let (reply, lane) = oneshot::channel();
        ask_lane(reply);
        let answer = Answer {
            status: self.status(in_flight),
            counts,
            progress: self.progress.clone(),
            asked: Instant::now(),
            started: self.started_at,
            poll_interval: self.poll_interval,
            spooled,
            spooled_since: self.mode.at,
            lane,
        };
        // Who asked may have stopped waiting.
        let _ = question.send(answer);
    }

    /// Answers without a look at any file.
    pub(super) fn total(
        &self,
        question: oneshot::Sender<Passed>,
        counts: &Counts,
        ask_lane: impl FnOnce(oneshot::Sender<Vec<lane::SourceReport>>),
    ) {
        let (reply, lane) = oneshot::channel();
        ask_lane(reply);
        let totals = Totals {
            read: None,
            published_bytes: counts.published_bytes,
            published_messages: counts.published_messages,
            acknowledged_lines: counts.acknowledged_lines,
            spool_bytes: self.spool.bytes,
            connected: self.broker.value == BrokerState::Connected,
        };
        // Who asked may have stopped waiting.
        let _ = question.send(Passed { totals, lane });
    }

    /// All but what the lane knows.
    fn status(&self, in_flight: usize) -> Status {
        let unknown = |name: &Arc<str>| status::Source {
            name: name.to_string(),
            files: None,
            lines: None,
            dropped: None,
            lag: None,
        };
        let saving = if self.saving.value {
            "running"
        } else {
            "failing"
        };
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            agent: self.agent.to_string(),
            host: self.host.to_string(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            config: self.config.clone(),
            broker: status::Broker {
                state: self.broker.value,
                url: self.url.clone(),
                since: time(self.broker.at),
                last_error: self.last_error.clone(),
                in_flight_bytes: in_flight as u64,
            },
            queues: self.queues.clone(),
            spool: status::Spool {
                bytes: self.spool.bytes,
                limit_bytes: self.spool_limit,
                segments: self.spool.segments as u64,
                mode: match self.mode.value {
                    Mode::Direct => SpoolMode::Direct,
                    Mode::Spooling => SpoolMode::Spooling,
                    Mode::Draining => SpoolMode::Draining,
                },
                full_in_s: self.spool_is_full_in(),
            },
            sources: self.sources.iter().map(unknown).collect(),
            files: None,
            stages: vec![
                stage("relay", self.relay.value, self.relay.at),
                stage("link", "running", self.started_at),
                self.spool_stage(),
                stage("state", saving, self.saving.at),
            ],
            lost_bytes: self.lost_bytes,
            errors: self.recent.entries().into_iter().map(logged).collect(),
        }
    }
}

impl Memory {
    fn spool_stage(&self) -> status::Stage {
        if self.spool.refuses.is_some() {
            return stage("spool", "full", self.mode.at);
        }
        let state = match self.mode.value {
            Mode::Direct => "idle",
            Mode::Spooling => "spooling",
            Mode::Draining => "draining",
        };
        stage("spool", state, self.mode.at)
    }
}

fn names(config: &Config) -> Vec<Arc<str>> {
    let sources = config.sources.iter();
    sources.map(|source| Arc::clone(&source.name)).collect()
}

/// How often something is looked for at least.
fn poll_interval(config: &Config) -> Duration {
    let intervals = config.sources.iter().map(|source| source.poll_interval);
    intervals.min().unwrap_or(Duration::from_secs(60))
}

fn queues(config: &Config) -> Vec<status::Queue> {
    let queue = |queue: &amqp::Queue| status::Queue {
        name: queue.name.to_string(),
        kind: queue.kind.as_str().to_owned(),
        present: None,
        required: queue.required,
        drift: None,
    };
    config.broker.topology.queues.iter().map(queue).collect()
}

impl Answer {
    /// Adds what the lane said.
    fn add_lane(&mut self, report: lane::Report) {
        let status = &mut self.status;
        // A reload may lie between the two.
        let named: HashMap<String, usize> = status
            .sources
            .iter()
            .enumerate()
            .map(|(index, source)| (source.name.clone(), index))
            .collect();
        let place = |index: usize| named.get(&*report.sources.get(index)?.name).copied();
        for said in &report.sources {
            let Some(&index) = named.get(&*said.name) else {
                continue;
            };
            let source = &mut status.sources[index];
            (source.files, source.lag) = (Some(0), Some(0));
            let dropped = said.count.dropped_by_keep + said.count.dropped_by_drop;
            (source.lines, source.dropped) = (Some(said.count.read), Some(dropped));
        }
        let mut files = Vec::with_capacity(report.files.len());
        for mut file in report.files {
            // For whoever reads it, what is safe in the spool counts as confirmed.
            if let Some(confirmed) = file.id.and_then(|id| self.spooled.get(&id)) {
                file.confirmed = file.confirmed.min(*confirmed);
                if file.confirmed < file.size {
                    let age = Timestamp::now().duration_since(self.spooled_since);
                    file.oldest_unconfirmed =
                        Duration::try_from(age).ok().max(file.oldest_unconfirmed);
                }
            }
            let lag = file.size.saturating_sub(file.confirmed);
            let Some(index) = place(file.source) else {
                continue;
            };
            let source = &mut status.sources[index];
            source.files = source.files.map(|files| files + 1);
            source.lag = source.lag.map(|sum| sum.saturating_add(lag));
            files.push(shown(&file, &source.name, lag));
        }
        files.sort_by(|a, b| (&a.path, &a.id).cmp(&(&b.path, &b.id)));
        status.files = Some(files);

        let lane = match report.full_since {
            Some(since) => stage("lane", "full", wall_clock(since)),
            None => stage("lane", "running", self.started),
        };
        let scanned = report.scanned.map_or(self.started, wall_clock);
        let silence = Duration::try_from(Timestamp::now().duration_since(scanned));
        let discovery = if silence.is_ok_and(|silence| silence > self.poll_interval * SCANS_MISSED)
        {
            stage("discovery", "silent", scanned)
        } else {
            stage("discovery", "running", self.started)
        };
        status.stages.splice(0..0, [discovery, lane]);
    }
}

/// A stage that has not come on for `so_long` is told as such, whatever it said last.
fn tell_held_up(stages: &mut [status::Stage], progress: &Progress, so_long: Duration) {
    for told in stages {
        let known = Stage::ALL.iter().find(|known| known.as_str() == told.name);
        let activity = known.map_or(Activity::Waiting, |known| progress.of(*known));
        let state = match activity {
            Activity::Calling(time) if time >= so_long => "in a system call",
            Activity::Working(time) if time >= so_long => "stuck",
            _ => continue,
        };
        let now = Timestamp::now();
        let since = now.checked_sub(activity.stalled()).unwrap_or(now);
        *told = stage(&told.name, state, since);
    }
}

fn shown(file: &FileReport, source: &str, lag: u64) -> status::File {
    status::File {
        path: String::from_utf8_lossy(file.path.as_bytes()).into_owned(),
        id: file.id.map(|id| id.to_string()),
        source: source.to_owned(),
        size: file.size,
        read: file.read,
        confirmed: file.confirmed,
        lag,
        oldest_unconfirmed_s: file.oldest_unconfirmed.map(|age| age.as_secs()),
        state: match file.condition {
            Condition::Active => FileState::Active,
            Condition::Rotated => FileState::Rotated,
            Condition::Compressed => FileState::Compressed,
            Condition::Deleted => FileState::Deleted,
            Condition::Unreadable => FileState::Unreadable,
        },
    }
}

fn stage(name: &str, state: &str, since: Timestamp) -> status::Stage {
    status::Stage {
        name: name.to_owned(),
        state: state.to_owned(),
        since: time(since),
    }
}

fn logged(logged: Logged) -> status::Error {
    status::Error {
        time: time(logged.at),
        level: logged.level.to_string(),
        message: logged.message,
    }
}

/// The time of day at which `instant` was.
fn wall_clock(instant: Instant) -> Timestamp {
    let now = Timestamp::now();
    now.checked_sub(instant.elapsed()).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Memory {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("fantail.toml");
        std::fs::write(&path, "[[source]]\ninclude = [\"/a.log\"]\n").expect("written");
        let config = crate::config::load(&path).expect("valid");
        let loaded = Loaded {
            agent: AgentId([1; 16]),
            files: Vec::new(),
            scanned: std::collections::HashSet::new(),
            lost_bytes: 7,
            spool_done: None,
            reset: false,
        };
        Memory::new(&config, &loaded, Recent::default(), &Progress::default())
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime")
            .block_on(future)
    }

    #[test]
    fn what_a_silent_lane_would_know_is_told_as_unknown() {
        let (ask, mut questions) = questions();
        let mut held = None;
        let (status, ()) = block_on(async {
            tokio::join!(ask.status(), async {
                // Whatever else was asked is not answered.
                if let Some(Question::Status(question)) = questions.recv().await {
                    let counts = Counts::default();
                    memory().answer(question, counts, 5, HashMap::new(), |reply| {
                        held = Some(reply);
                    });
                }
            })
        });
        let status = status.expect("the pipeline answered");
        assert!(status.files.is_none());
        assert_eq!(status.sources[0].lag, None);
        assert_eq!(status.lost_bytes, 7);
        assert_eq!(status.broker.in_flight_bytes, 5);
        assert_eq!(
            (&*status.stages[0].name, &*status.stages[0].state),
            ("lane", "silent")
        );
    }

    #[test]
    fn a_pipeline_that_does_not_answer_is_not_waited_for() {
        let (ask, questions) = questions();
        assert!(block_on(ask.status()).is_err());
        drop(questions);
        assert!(block_on(ask.status()).is_err());
    }

    #[test]
    fn a_stage_that_does_not_come_on_is_told_as_such() {
        let progress = Progress::default();
        let long = Duration::from_millis(20);
        let told = || {
            let mut stages = vec![
                stage("lane", "running", Timestamp::now()),
                stage("spool", "idle", Timestamp::now()),
            ];
            tell_held_up(&mut stages, &progress, long);
            stages
                .into_iter()
                .map(|stage| stage.state)
                .collect::<Vec<_>>()
        };
        assert_eq!(told(), ["running", "idle"]);
        let _entered = progress.enter(Stage::Lane);
        let reaches = || {
            let until = Instant::now() + Duration::from_secs(60);
            while progress.of(Stage::Lane).stalled() < long {
                assert!(Instant::now() < until);
                std::thread::yield_now();
            }
            told()
        };
        assert_eq!(reaches(), ["stuck", "idle"]);
        let called = crate::telemetry::progress::call(reaches);
        assert_eq!(called, ["in a system call", "idle"]);
        crate::telemetry::progress::wait(|| assert_eq!(told(), ["running", "idle"]));
    }

    #[test]
    fn it_is_told_when_a_spool_that_grows_will_be_full() {
        let mut memory = memory();
        let size = |bytes| Size {
            bytes,
            ..Size::default()
        };
        memory.spool(size(1000));
        memory.mode(Mode::Spooling);
        assert_eq!(memory.spool_is_full_in(), None);
        let a_minute_ago = Instant::now().checked_sub(Duration::from_mins(1));
        memory.spool_at_first = a_minute_ago.map(|since| (since, 1000));
        memory.spool_limit = 11_000;
        memory.spool(size(6000));
        assert_eq!(memory.spool_is_full_in(), Some(60));
        memory.mode(Mode::Draining);
        assert_eq!(memory.spool_is_full_in(), None);
    }

    #[test]
    fn a_connection_is_down_only_after_an_attempt_failed() {
        let failed = || amqp::Event::Disconnected(amqp::Failure::other("refused"));
        let address = String::new;
        let mut memory = memory();
        let mut states = Vec::new();
        for event in [
            amqp::Event::Connecting { address: address() },
            failed(),
            amqp::Event::Connecting { address: address() },
            amqp::Event::Connected { address: address() },
            amqp::Event::Seen(vec![("search".into(), true)]),
            amqp::Event::Blocked("low on disk".to_owned()),
            failed(),
            failed(),
        ] {
            memory.link(&event);
            let search = memory.queues.iter().find(|queue| queue.name == "search");
            states.push((memory.broker.value, search.and_then(|queue| queue.present)));
        }
        use BrokerState::{Blocked, Connected, Connecting, Down};
        assert_eq!(
            states,
            [
                (Connecting, None),
                (Down, None),
                (Down, None),
                (Connected, None),
                (Connected, Some(true)),
                (Blocked, Some(true)),
                (Connecting, None),
                (Down, None),
            ]
        );
    }
}
