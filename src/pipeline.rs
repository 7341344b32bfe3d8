//! The one file that knows every stage: starts them, hands them their neighbours, performs what the
//! deciders ask for, and takes them down in the order in which the data flows.

pub mod meter;
pub mod preview;
pub(crate) mod reload;
mod report;
mod store;

use std::collections::HashSet;
use std::fs::File;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tracing::{debug, error, info, warn};

use crate::amqp::{self, Checked, Command, FailureKind};
use crate::config::{Config, WhenFull};
pub use crate::lane::SourceReport;
use crate::lane::{self, Input, Lane, Output};
use crate::model::credit::Credit;
use crate::model::{FileId, FileRecord, Range, Skipped};
use crate::publish::{Outcome, Queue, Target};
use crate::relay::{self, Action, Appended, Flow, Looked, Notice, Relay, Verdict};
use crate::spool::worker::{News, Order, Worker};
use crate::state::{Change, Durable, Loaded, State};
use crate::sys;
use crate::tail::descriptors::{Limits, open_files_max};
use crate::tail::discover::{Discovery, Memory, Sought, Waker};
use crate::tail::watch::{Hints, Watches};
use crate::tail::{Event, Tail};
use crate::telemetry::Recent;
use crate::telemetry::progress::{Progress, Stage};
use crate::telemetry::spell::{Over, Spell};
use crate::treat::Treatment;
use crate::wire::Sender as WireSender;
use meter::{Counts, Meter};
use reload::{Link, Relinking, Sources, tail_source};
use store::Store;

pub use reload::{Reload, Reloads};
pub use report::{Ask, LaneMeasures, Measures, Question, Questions, Silent, Totals, questions};
pub use store::Opened;

/// Of the time that a stop may take, so much is kept for saving the state and for the good-bye.
const STOP_RESERVE: Duration = Duration::from_secs(2);

/// A stage ended although nobody had told it to.
#[derive(Debug, thiserror::Error)]
#[error("the {0} stage ended early")]
pub struct StageEnded(&'static str);

/// What lets others see how the daemon is.
pub struct Watch {
    /// Is told as part of each answer.
    pub recent: Recent,
    /// Answered while the pipeline works.
    pub questions: Questions,
    /// Followed while the pipeline works.
    pub reloads: Reloads,
    /// Told when a stop begins, and how long it may take.
    pub stopping: Box<dyn FnOnce(Duration)>,
    /// Descriptors of deleted files that were kept when an earlier run ended.
    pub kept: Vec<(FileId, File)>,
    /// Told what to keep should this run crash.
    pub keep: Box<dyn Fn(Keep)>,
    /// Every stage tells there what it does.
    pub progress: Progress,
}

/// What becomes of the descriptor of a file that has no name any more.
#[derive(Debug)]
pub enum Keep {
    /// To be kept over a crash, under the file's id.
    Store(FileId, File),
    /// Not needed any more.
    Remove(FileId),
}

/// Runs until `stop`, and then until everything is confirmed or the time for it is up.
///
/// # Errors
/// A stage ended early: the daemon cannot go on.
pub async fn run(
    config: Config,
    state: State,
    loaded: Loaded,
    spool: Opened,
    watch: Watch,
    stop: impl Future<Output = ()>,
) -> Result<(), StageEnded> {
    let progress = watch.progress.clone();
    let work = work(config, state, loaded, spool, watch, stop);
    progress.watch(Stage::Relay, work).await
}

async fn work(
    config: Config,
    state: State,
    loaded: Loaded,
    spool: Opened,
    watch: Watch,
    stop: impl Future<Output = ()>,
) -> Result<(), StageEnded> {
    let (mut pipeline, stopping) = Pipeline::start(config, state, loaded, spool, watch);
    info!("ready");
    let stopped_at = pipeline.serve(stop).await?;
    stopping(pipeline.config.shutdown_timeout);
    let until = stopped_at + pipeline.config.shutdown_timeout;
    pipeline
        .finish(until.checked_sub(STOP_RESERVE).unwrap_or(stopped_at))
        .await;
    pipeline.take_down(until).await;
    Ok(())
}

/// Every stage, as its neighbours see it.
struct Pipeline {
    relay: Relay,
    lane: Sender<Input>,
    waker: Waker,
    outputs: UnboundedReceiver<Output>,
    store: Store,
    news: UnboundedReceiver<News>,
    changes: Option<Sender<Change>>,
    durable: UnboundedReceiver<Durable>,
    link: Link,
    /// Those that were replaced, and are not closed yet.
    links_before: Vec<JoinHandle<()>>,
    /// How the link connects.
    linked: amqp::Settings,
    relinking: Option<Relinking>,
    /// What is in force.
    config: Config,
    sender: WireSender,
    sources: Sources,
    reloads: Reloads,
    progress: Progress,
    ended: UnboundedReceiver<&'static str>,
    blocked: bool,
    failure: Spell,
    /// Queues that are not required,
    optional: HashSet<Arc<str>>,
    /// and those of them that were told to be absent.
    absent: HashSet<Arc<str>>,
    credit: Credit,
    reading: Credit,
    questions: Questions,
    memory: report::Memory,
    meter: Meter,
    /// The lane has handed over what it had,
    stopped: Option<Stopped>,
    /// and the relay was told that no more comes.
    closed: bool,
    keep: Box<dyn Fn(Keep)>,
}

/// What the lane said when it had handed over what it had.
#[derive(Clone, Copy, Debug)]
struct Stopped {
    /// Something of deleted files is not confirmed.
    deleted: bool,
}

/// How waiting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waited {
    Done,
    TimeIsUp,
}

/// Tells that a thread has ended, however it did.
struct TellEnd(&'static str, UnboundedSender<&'static str>);

impl Drop for TellEnd {
    fn drop(&mut self) {
        // Nobody listens any more: the process ends.
        let _ = self.1.send(self.0);
    }
}

impl Pipeline {
    fn start(
        config: Config,
        state: State,
        mut loaded: Loaded,
        spool: Opened,
        watch: Watch,
    ) -> (Self, Box<dyn FnOnce(Duration)>) {
        let (tell_end, ended) = unbounded_channel();
        let progress = watch.progress.clone();
        let spawn = |stage: Stage, work: Box<dyn FnOnce() + Send>| {
            let name = stage.as_str();
            let tell = TellEnd(name, tell_end.clone());
            let progress = progress.clone();
            thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || {
                    let _tell = tell;
                    let _entered = progress.enter(stage);
                    work();
                })
                .is_ok()
                // Without a thread there is no stage: its end was told when `tell` was dropped.
                .then_some(())
        };

        let (changes, change_inputs) = channel();
        let (tell_durable, durable) = unbounded_channel();
        spawn(
            Stage::State,
            Box::new(move || {
                state.run(&change_inputs, move |done| {
                    let _ = tell_durable.send(done);
                });
            }),
        );

        let (lane, lane_inputs) = channel();
        let (tell_output, outputs) = unbounded_channel();
        let sender = WireSender {
            agent: loaded.agent,
            host: Arc::clone(&config.host),
        };
        let hints = Hints::default();
        let credit = {
            let lane = lane.clone();
            Credit::new(config.max_in_flight, move || {
                // The lane has ended: it needs no room.
                let _ = lane.send(Input::Room);
            })
        };
        let reading = Credit::new(config.max_in_flight, || {});
        let Opened { spool, recovered } = spool;
        let begin = recovered.from.unwrap_or_else(|| spool.begin());
        let flow = Flow {
            credit: credit.clone(),
            reading: reading.clone(),
            begin,
            end: spool.end(),
            left: if begin < spool.end() { u64::MAX } else { 0 },
        };
        let mut relay = relay(&config, sender.clone(), flow);
        let (spooled, made) = store::take_in(recovered, &mut loaded);
        spooled.iter().for_each(|spooled| spooled.tell(&mut relay));
        for record in made {
            // The state stage has ended, and that is noticed by its end.
            let _ = changes.send(Change::Register(record));
        }
        let (orders, order_inputs) = channel();
        let (tell_news, news) = unbounded_channel();
        let store = Store::new(spool.id(), orders);
        let work = {
            let (reading, drop_oldest) = (
                reading.clone(),
                config.spool.when_full == WhenFull::DropOldest,
            );
            move || {
                let tell = move |told| {
                    let _ = tell_news.send(told);
                };
                Worker::new(spool, begin, reading, drop_oldest, tell).run(&order_inputs);
            }
        };
        spawn(Stage::Spool, Box::new(work));
        let options = lane_options(&config);
        let sources = Sources::new(&config.sources, loaded.scanned.clone());
        let had = loaded
            .files
            .iter()
            .map(|file| file.path.as_path().to_path_buf())
            .collect();
        let told = report::Memory::new(&config, &loaded, watch.recent, &progress);
        let mut meter = Meter::default();
        meter.counts.state_resets = u64::from(loaded.reset);
        let tail = tail(&config, loaded).inheriting(watch.kept, Instant::now());
        let treatments = treatments(&config);
        let work = {
            let (hints, credit, sender) = (hints.clone(), credit.clone(), sender.clone());
            move || {
                let send = move |output| {
                    let _ = tell_output.send(output);
                };
                let len_max = |source: &str| sender.ranges_len_max(source);
                let lane = Lane::new(options, tail, treatments, len_max, hints, credit, send);
                lane.run(&lane_inputs);
            }
        };
        spawn(Stage::Lane, Box::new(work));

        let memory = Memory::new(had);
        let sought = |(index, source): (usize, &crate::config::Source)| Sought {
            source: index,
            selection: source.selection.clone(),
            interval: source.poll_interval,
        };
        let looked_for = config.sources.iter().enumerate().map(sought);
        let (discovery, waker) = Discovery::new(looked_for.collect(), memory);
        let work = {
            let (written, deliver, waker) = (lane.clone(), lane.clone(), waker.clone());
            move || {
                let written = move || {
                    let _ = written.send(Input::Written);
                };
                let watches = Watches::new(hints, written, move || waker.wake());
                discovery.run(watches, move |scan| deliver.send(Input::Scan(scan)).is_ok());
            }
        };
        spawn(Stage::Discovery, Box::new(work));

        let pipeline = Self {
            relay,
            lane,
            waker,
            outputs,
            store,
            news,
            changes: Some(changes),
            durable,
            link: Link::start(config.broker.clone(), &watch.progress),
            links_before: Vec::new(),
            linked: config.broker.clone(),
            relinking: None,
            sender,
            sources,
            reloads: watch.reloads,
            progress: watch.progress,
            ended,
            blocked: false,
            failure: Spell::default(),
            optional: optional(&config),
            absent: HashSet::new(),
            credit,
            reading,
            questions: watch.questions,
            memory: told,
            meter,
            config,
            stopped: None,
            closed: false,
            keep: watch.keep,
        };
        (pipeline, watch.stopping)
    }

    /// Moves everything along until `stop`; returns when that was.
    async fn serve(&mut self, stop: impl Future<Output = ()>) -> Result<Instant, StageEnded> {
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return Ok(Instant::now()),
                step = self.step() => if let Some(name) = step {
                    error!(stage = name, "stage ended early");
                    return Err(StageEnded(name));
                },
            }
            self.relink_if_settled();
        }
    }

    /// The lanes hand over what they have; then everything that is out is waited for, and the last
    /// topology check.
    async fn finish(&mut self, until: Instant) {
        info!("stopping");
        self.reloads.close();
        while self.reloads.try_recv().is_ok() {}
        self.abandon_relinking();
        let _ = self.lane.send(Input::Stop);
        let now = Instant::now();
        let half = now + until.saturating_duration_since(now) / 2;
        let mut waited = self.wait_until(half, Self::is_confirmed).await;
        if waited == Waited::TimeIsUp && !self.stopped.is_none_or(|stopped| stopped.deleted) {
            // The other half is for deleted files.
            waited = self.wait_until(until, Self::is_confirmed).await;
        }
        match waited {
            Waited::Done if self.relay.can_progress() => info!("everything is confirmed"),
            Waited::Done => {
                info!("no broker to wait for; what is not confirmed goes out after the next start");
            }
            Waited::TimeIsUp => warn!("time is up; what is not confirmed will be sent again"),
        }
        self.act(|relay, _, actions| relay.salvage(actions));
        let _ = self.lane.send(Input::Salvage);
        let salvaged = |pipeline: &mut Self| {
            let ended = pipeline.outputs.is_closed() && pipeline.outputs.is_empty();
            ended && pipeline.relay.is_spooled()
        };
        if self.wait_until(until, salvaged).await == Waited::TimeIsUp {
            warn!("time is up; what was not read of deleted log files is lost");
        }
    }

    /// Whether the lane has handed over what it had, and all of it is confirmed, or cannot be.
    fn is_confirmed(&mut self) -> bool {
        if self.stopped.is_some() && !std::mem::replace(&mut self.closed, true) {
            self.act(|relay, now, actions| relay.close(now, actions));
        }
        self.closed && self.relay.is_done() || !self.relay.can_progress()
    }

    async fn wait_until(&mut self, until: Instant, is_done: impl Fn(&mut Self) -> bool) -> Waited {
        let deadline = tokio::time::sleep_until(until.into());
        let mut deadline = std::pin::pin!(deadline);
        while !is_done(self) {
            tokio::select! {
                () = &mut deadline => return Waited::TimeIsUp,
                // A stage that ends now was told to, or has told why.
                _ = self.step() => {}
            }
        }
        Waited::Done
    }

    /// Closes what flows out of the relay, and waits for the last stages.
    async fn take_down(mut self, until: Instant) {
        self.link.commands = None;
        self.changes = None;
        self.store.close();
        // A lane that still waits for room waits no more. Discovery ends when the lane has.
        let _ = self.lane.send(Input::Stop);
        self.outputs.close();
        self.waker.wake();
        let ends = async {
            let mut missing = vec!["state", "spool", "lane", "discovery"];
            while !missing.is_empty() {
                match self.ended.recv().await {
                    Some(name) => missing.retain(|stage| *stage != name),
                    None => break,
                }
            }
        };
        let all = async {
            ends.await;
            // Its failure would be its end, which is what is waited for.
            for link in self.links_before {
                let _ = link.await;
            }
            let _ = self.link.task.await;
        };
        if tokio::time::timeout_at(until.into(), all).await.is_err() {
            warn!("some stages did not end in time; left behind");
        }
    }

    /// Waits for one thing to happen and deals with it. The name of a stage that has ended.
    async fn step(&mut self) -> Option<&'static str> {
        let deadline = self.relay.deadline();
        let relinking_until = self.relinking_until();
        tokio::select! {
            biased;
            name = self.ended.recv() => return name,
            Some(reload) = self.reloads.recv() => self.reload(reload),
            // Whoever calls this looks whether it is time.
            () = sleep_until(relinking_until) => {}
            Some(durable) = self.durable.recv() => self.durable(durable),
            Some(news) = self.news.recv() => self.spool_news(news),
            Some(question) = self.questions.recv() => self.answer(question),
            event = self.link.events.recv() => match event {
                Some(event) => self.link_event(event),
                None => return Some("link"),
            },
            Some(output) = self.outputs.recv() => self.output(output),
            () = sleep_until(deadline) => self.act(Relay::advance),
        }
        None
    }

    /// The lane is asked too, and not waited for: it may be busy.
    fn answer(&self, question: Question) {
        let counts = Counts {
            acknowledged_lines: self.relay.acknowledged_lines(),
            ..self.meter.counts.clone()
        };
        // A lane that has ended says nothing, which is an answer.
        match question {
            Question::Status(reply) => {
                let in_flight = self.credit.bytes() + self.reading.bytes();
                let spooled = self.relay.spooled().collect();
                let ask_lane = |reply| drop(self.lane.send(Input::Report(reply)));
                self.memory
                    .answer(reply, counts, in_flight, spooled, ask_lane);
            }
            Question::Totals(reply) => {
                let ask_lane = |reply| drop(self.lane.send(Input::Count(reply)));
                self.memory.total(reply, &counts, ask_lane);
            }
        }
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Batch(batch) => {
                self.act(|relay, now, actions| relay.batch(batch, now, actions));
            }
            Output::Full => self.act(Relay::advance),
            Output::Stopped { deleted } => self.stopped = Some(Stopped { deleted }),
            Output::Tail(Event::Register(record)) => {
                self.relay.opened(record.id, record.confirmed);
                self.store.opened(Arc::new(record.clone()));
                self.change(Change::Register(record));
            }
            Output::Tail(Event::Resumed(record)) => {
                self.relay.opened(record.id, record.confirmed);
                // What the lane goes on from may be safe in the spool alone.
                let confirmed = self.relay.confirmed(record.id);
                let confirmed = confirmed.unwrap_or(record.confirmed);
                self.store.opened(Arc::new(FileRecord {
                    confirmed,
                    ..(*record).clone()
                }));
            }
            Output::Tail(Event::Identified(file, identity)) => {
                self.store.identified(file, identity);
                self.change(Change::Identified(file, identity));
            }
            Output::Tail(Event::Forget(file)) => {
                self.relay.forget(file);
                self.store.forget(file);
                self.change(Change::Forget(file));
            }
            Output::Tail(Event::Scanned(source)) => self.change(Change::Scanned(source)),
            Output::Tail(Event::Unlinked(file, descriptor)) => {
                (self.keep)(Keep::Store(file, descriptor));
            }
            Output::Tail(Event::Released(file)) => (self.keep)(Keep::Remove(file)),
            Output::Lost(reason, bytes) => {
                self.memory.lost(bytes);
                self.meter.lost(reason, bytes);
                self.change(Change::Lost(reason, bytes));
            }
        }
    }

    fn durable(&mut self, durable: Durable) {
        self.memory.saving(!durable.failing);
        // A lane that has ended needs no news.
        if !durable.registered.is_empty() {
            let _ = self.lane.send(Input::Registered(durable.registered));
        }
        if !durable.confirmed.is_empty() {
            let _ = self.lane.send(Input::Confirmed(durable.confirmed));
        }
        if let Some(place) = durable.spool_done {
            self.store.order(Order::Release(place));
        }
    }

    fn spool_news(&mut self, news: News) {
        match news {
            News::Appended {
                batches,
                ranges,
                end,
                bytes,
            } => {
                let marks = store::marks(&ranges);
                let appended = Appended {
                    batches,
                    ranges,
                    end,
                    bytes,
                };
                self.act(|relay, now, actions| relay.appended(&appended, now, actions));
                // A lane that has ended needs no news.
                let _ = self.lane.send(Input::Confirmed(marks));
            }
            News::Recalled(batches) => {
                self.act(|relay, now, actions| relay.recalled(batches, now, actions));
            }
            News::Looked {
                turn,
                batches,
                behind,
                left,
            } => {
                debug!(turn, batches = batches.len(), %behind, left, "the spool was read");
                let looked = Looked {
                    turn,
                    batches,
                    behind,
                    left,
                };
                self.act(|relay, now, actions| relay.looked(looked, now, actions));
            }
            News::Dropped(ranges) => {
                for range in ranges {
                    self.lost(&range, range.end - range.start, Skipped::DropOldest);
                }
            }
            News::Size(size) => self.memory.spool(size),
        }
    }

    /// Bytes that were in the spool cannot be delivered.
    fn lost(&mut self, range: &Range, bytes: u64, reason: Skipped) {
        error!(path = ?range.path, file = %range.file, start = range.start, end = range.end, reason = reason.as_str(), "bytes lost");
        self.memory.lost(bytes);
        self.meter.lost(reason, bytes);
        self.change(Change::Lost(reason, bytes));
    }

    fn link_event(&mut self, event: amqp::Event) {
        self.memory.link(&event);
        self.meter.link(&event);
        match event {
            // What nothing hangs on but what is told of it.
            amqp::Event::Connecting { .. } => {}
            amqp::Event::Seen(seen) => self.seen(&seen),
            amqp::Event::Connected { address } => {
                info!(address, "connected to the broker");
                self.act(|relay, _, actions| relay.connected(actions));
            }
            amqp::Event::Disconnected(failure) => {
                self.blocked = false;
                if self.failure.met(&failure.text, Instant::now()) {
                    warn!(
                        reason = failure.text,
                        advice = failure.advice,
                        "no connection to the broker; trying again"
                    );
                }
                let access_refused = failure.kind == FailureKind::Access;
                let most = match failure.kind {
                    FailureKind::TooLarge { limit } => usize::try_from(limit).ok(),
                    _ => None,
                };
                self.act(|relay, now, actions| {
                    relay.disconnected(access_refused);
                    if let Some(most) = most {
                        relay.too_large(most, actions);
                    }
                    relay.advance(now, actions);
                });
            }
            amqp::Event::Outcome { tag, outcome } => {
                let outcome = match outcome {
                    amqp::Outcome::Ack => {
                        // A connection alone mends nothing: the next message may be refused again.
                        if let Some(over) = self.failure.over(Instant::now()) {
                            let Over { times, seconds } = over;
                            info!(
                                failures = times,
                                seconds, "the broker confirms messages again"
                            );
                        }
                        Outcome::Ack
                    }
                    amqp::Outcome::Nack => Outcome::Nack,
                    amqp::Outcome::Returned => Outcome::Returned,
                };
                self.act(|relay, now, actions| relay.outcome(tag, outcome, now, actions));
            }
            amqp::Event::Checked(checked) => {
                let verdict = match checked {
                    Checked::Good => Verdict::Good,
                    Checked::Missing(names) => Verdict::Missing(names),
                    Checked::Wrong(what) => Verdict::Wrong(what),
                };
                self.act(|relay, now, actions| relay.checked(verdict, now, actions));
            }
            amqp::Event::Made(made) => {
                self.act(|relay, now, actions| relay.made(made, now, actions));
            }
            amqp::Event::Blocked(reason) => {
                self.blocked = true;
                warn!(reason, "the broker takes no messages for the time being");
                self.act(|relay, now, actions| relay.blocked(true, now, actions));
            }
            amqp::Event::Unblocked => {
                if std::mem::take(&mut self.blocked) {
                    info!("the broker takes messages again");
                }
                self.act(|relay, now, actions| relay.blocked(false, now, actions));
            }
            amqp::Event::Drift { queue, difference } => {
                warn!(
                    %queue,
                    difference,
                    "a queue is not as configured; publishing goes on"
                );
            }
        }
    }

    /// Of queues that are required the relay tells.
    fn seen(&mut self, seen: &[(Arc<str>, bool)]) {
        for (queue, present) in seen
            .iter()
            .filter(|(queue, _)| self.optional.contains(queue))
        {
            if *present && self.absent.remove(queue) {
                info!(%queue, "a queue that is not required is there");
            } else if !present && self.absent.insert(Arc::clone(queue)) {
                warn!(%queue, "a queue that is not required is absent; publishing goes on");
            }
        }
    }

    /// Lets the relay decide, and does what it asks for.
    fn act(&mut self, decide: impl FnOnce(&mut Relay, Instant, &mut Vec<Action>)) {
        let mut actions = Vec::new();
        self.relay.tell_time(sys::seconds_since_1970());
        decide(&mut self.relay, Instant::now(), &mut actions);
        self.memory.relay(self.relay.state());
        self.memory.mode(self.relay.mode());
        for action in actions {
            match action {
                Action::Publish {
                    tag,
                    target,
                    message,
                } => {
                    let queue = match target {
                        Target::Exchange => None,
                        Target::Queue(name) => Some(name),
                    };
                    self.meter.published(tag, queue.clone(), &message);
                    let attempt = amqp::Attempt {
                        tag,
                        queue,
                        message,
                    };
                    self.command(Command::Publish(attempt));
                }
                Action::Check => {
                    self.meter.check();
                    self.command(Command::Check);
                }
                Action::Make => self.command(Command::Make),
                Action::Limit(bytes) => {
                    warn!(
                        bytes,
                        "the broker takes smaller messages only; batches are made smaller"
                    );
                    let _ = self.lane.send(Input::Limit(bytes));
                }
                Action::Rewind(rewinds) => {
                    // A lane that has ended reads nothing again; the next start does.
                    let _ = self.lane.send(Input::Rewind(rewinds));
                }
                Action::Confirmed(confirmed, done) => {
                    self.meter.confirmed();
                    self.store.confirmed(&confirmed);
                    for confirmed in confirmed {
                        self.change(Change::Confirmed(confirmed));
                    }
                    if let Some(place) = done {
                        self.change(self.store.done(place));
                    }
                }
                Action::Append(batch) => self.store.append(batch),
                Action::Recall => {
                    debug!("what the spool has not taken yet goes directly");
                    self.store.order(Order::Recall);
                }
                Action::Look { turn, from } => self.store.order(Order::Look { turn, from }),
                Action::Lost(range, bytes) => self.lost(&range, bytes, Skipped::Damaged),
                Action::Notice(notice) => {
                    if let Notice::SendingAgain { .. } = notice {
                        self.meter.sending_again();
                    }
                    tell(&notice);
                }
            }
        }
    }

    fn command(&self, command: Command) {
        if let Some(commands) = &self.link.commands {
            // The link has ended, and that is noticed by its events.
            let _ = commands.send(command);
        }
    }

    fn change(&self, change: Change) {
        if let Some(changes) = &self.changes {
            // The state stage has ended, and that is noticed by its end.
            let _ = changes.send(change);
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

fn tell(notice: &Notice) {
    match notice {
        Notice::TopologyGood { bad_checks: 0 } => info!("exchange and queues are there"),
        Notice::TopologyGood { bad_checks } => info!(bad_checks, "exchange and queues are there"),
        Notice::TopologyMissing(what) => {
            warn!(what, "exchange or queues are missing; making them");
        }
        Notice::TopologyBad(what) => error!(
            what,
            "exchange and queues are not as they must be; nothing is published"
        ),
        Notice::SendingAgain { files } => warn!(
            files,
            "sending again what was sent since the last good check"
        ),
        Notice::Unrouted => warn!("a message was routed to no queue"),
        Notice::QueueRefuses(Some(queue)) => warn!(%queue, "queue refuses messages; trying again"),
        Notice::QueueRefuses(None) => {
            warn!("a queue refuses messages; offering them to each queue");
        }
        Notice::Spooling => warn!("the broker takes nothing; lines go to the spool"),
        Notice::Direct => info!("the spool is empty; lines go straight to the broker again"),
        Notice::QueuesAccept { refusals } => {
            info!(refusals, "the refused message is in every queue now");
        }
    }
}

fn lane_options(config: &Config) -> lane::Options {
    lane::Options {
        format: config.batch.format,
        compression: config.batch.compression,
        batch_bytes_max: config.batch.bytes_max,
        batch_lines_max: config.batch.lines_max,
        linger: config.batch.linger,
        ..lane::Options::default()
    }
}

fn treatments(config: &Config) -> Vec<Treatment> {
    let treatment = |source: &crate::config::Source| source.treatment.clone();
    config.sources.iter().map(treatment).collect()
}

fn tail(config: &Config, loaded: Loaded) -> Tail {
    let source = |source: &crate::config::Source| {
        let first_scan = !loaded.scanned.contains(&*source.name);
        tail_source(source, first_scan)
    };
    let sources = config.sources.iter().map(source).collect();
    Tail::new(Arc::clone(&config.host), sources, loaded.files).within(limits(config))
}

fn limits(config: &Config) -> Limits {
    Limits {
        open_max: open_files_max(sys::open_files_limit()),
        deleted_bytes_max: config.deleted_bytes_max,
    }
}

fn optional(config: &Config) -> HashSet<Arc<str>> {
    let queues = config.broker.topology.queues.iter();
    let optional = queues.filter(|queue| !queue.required);
    optional.map(|queue| Arc::clone(&queue.name)).collect()
}

fn relay(config: &Config, sender: WireSender, flow: Flow) -> Relay {
    Relay::new(relay_options(config), sender, queues(config), flow)
}

fn relay_options(config: &Config) -> relay::Options {
    relay::Options {
        check_interval: config.check_interval,
        declare: config.broker.topology.declare,
    }
}

fn queues(config: &Config) -> Vec<Queue> {
    let queue = |queue: &amqp::Queue| Queue {
        name: Arc::clone(&queue.name),
        required: queue.required,
    };
    config.broker.topology.queues.iter().map(queue).collect()
}
