//! A lane: one thread on which lines go from files into batches, in quanta, so that a busy file
//! starves nobody. It reads only while a finished batch finds its place in the window; when there
//! is none, the files wait.

mod account;
mod groups;
mod place;
mod reload;
mod salvage;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::batch::{self, Closed, Compressor, Open};
use crate::model::credit::{Credit, MESSAGE_OVERHEAD};
use crate::model::{Batch, Compression, Confirmed, FileId, Format, Rewind, Skipped};
use crate::sys;
use crate::tail::discover::Scan;
use crate::tail::reader::{Filled, Scratch};
use crate::tail::report::FileReport;
use crate::tail::watch::Hints;
use crate::tail::{Event, Registration, Tail};
use crate::telemetry::progress;
use crate::treat::Treatment;
use groups::Groups;
pub use reload::{Settings, Settled};

/// Bytes that one file is read before the next one has its turn.
const QUANTUM: usize = 256 * 1024;
/// While fewer messages than this are unacknowledged, a batch need not be full to be closed.
pub(crate) const FEW_UNACKNOWLEDGED: usize = 4;
/// How often it is looked at what was waited for long enough, and what deleted files pin.
const CARE_INTERVAL: Duration = Duration::from_secs(1);

/// What a lane is told.
#[derive(Debug)]
pub enum Input {
    /// What discovery saw.
    Scan(Scan),
    /// Some files were written to: the hints tell which.
    Written,
    /// Room came back in the window.
    Room,
    /// The ids of these files are durable.
    Registered(Vec<FileId>),
    /// These marks are durable.
    Confirmed(Vec<Confirmed>),
    /// Read these files again.
    Rewind(Vec<Rewind>),
    /// The broker takes bodies of at most so many bytes: batches are full before that.
    Limit(usize),
    /// Go on with these settings.
    Reload(Box<Settings>),
    /// Say how it is; answered within a quantum, room or no room.
    Report(oneshot::Sender<Report>),
    /// Say what it has counted; the same without a look at any file.
    Count(oneshot::Sender<Vec<SourceReport>>),
    /// Read no more, and hand over what has gathered. Told again: end at once.
    Stop,
    /// After a stop: read deleted files to their end, because nobody can later, and end.
    Salvage,
}

/// What a lane brings forth.
#[derive(Debug)]
pub enum Output {
    /// News of files.
    Tail(Event),
    /// A batch, in its holder's hands from now on.
    Batch(Batch),
    /// So many bytes cannot be delivered any more; each byte is told once.
    Lost(Skipped, u64),
    /// A batch finds no room in the window. Told again if it finds none after room came back.
    Full,
    /// After a stop: everything that had gathered was handed over.
    Stopped {
        /// Something of deleted files is not confirmed: nobody can read it later.
        deleted: bool,
    },
}

/// How a lane is.
#[derive(Debug)]
pub struct Report {
    /// Its sources, in the configuration's order.
    pub sources: Vec<SourceReport>,
    /// Every file that it watches, in no order; the index of its source is that in `sources`.
    pub files: Vec<FileReport>,
    /// Since when it reads nothing, because a batch finds no room in the window.
    pub full_since: Option<Instant>,
    /// When discovery last delivered.
    pub scanned: Option<Instant>,
    /// Bytes on disk that deleted files pin.
    pub deleted_bytes: u64,
}

/// How a source's lines are, since the start.
#[derive(Clone, Debug)]
pub struct SourceReport {
    /// Its name.
    pub name: Arc<str>,
    /// What became of its lines.
    pub count: Count,
    /// Compressed files that could not be unpacked.
    pub damaged_archives: u64,
}

/// What was read, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Bytes read; those that are read again count again.
    pub bytes: u64,
    /// Lines read; a split one once.
    pub read: u64,
    /// Lines dropped because they match no pattern of `keep`; of a split one each part.
    pub dropped_by_keep: u64,
    /// Lines dropped because they match a pattern of `drop`; of a split one each part.
    pub dropped_by_drop: u64,
}

/// Limits and pauses.
#[derive(Clone, Debug)]
pub struct Options {
    /// How lines stand in a body.
    pub format: Format,
    /// How bodies are packed.
    pub compression: Option<Compression>,
    /// Bytes of body before compression at which a batch is full.
    pub batch_bytes_max: usize,
    /// Lines at which a batch is full.
    pub batch_lines_max: u64,
    /// Least time between two batches that are not full.
    pub linger: Duration,
    /// How long a batch may wait for a line that accounts for nothing but dropped ones.
    pub lineless_linger: Duration,
    /// Bytes of unfinished lines held in memory; beyond it the longest is read again later.
    pub unfinished_max: usize,
    /// Bytes of open batches of all sources; beyond it the largest is closed.
    pub open_max: usize,
    /// After so long without a change a rotated file's last line counts as finished.
    pub settle: Duration,
    /// After so long without a change a rotated file is over.
    pub let_go: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            format: Format::default(),
            compression: None,
            batch_bytes_max: 1024 * 1024,
            batch_lines_max: 10_000,
            linger: Duration::from_millis(2),
            lineless_linger: Duration::from_secs(60),
            unfinished_max: 8 * 1024 * 1024,
            open_max: 8 * 1024 * 1024,
            settle: Duration::from_secs(5),
            let_go: Duration::from_secs(60),
        }
    }
}

/// One lane's state.
pub struct Lane<S: Fn(Output)> {
    options: Options,
    tail: Tail,
    hints: Hints,
    credit: Credit,
    send: S,
    scratch: Scratch,
    /// One per source.
    treatments: Vec<Arc<Treatment>>,
    /// One per source.
    open: Vec<Open>,
    /// Since when the open batch of a source accounts for nothing but dropped lines; one per
    /// source.
    lineless_since: Vec<Option<Instant>>,
    compressor: Compressor,
    /// Groups of lines to which more may come.
    groups: Groups,
    /// Closed, and waiting for room in the window.
    parked: std::collections::VecDeque<Closed>,
    last_close: Instant,
    /// When the files of each source are looked at next, events or not.
    next_looks: Vec<Instant>,
    /// When it is looked for what is due next.
    next_care: Instant,
    /// One per source.
    counts: Vec<Count>,
    /// Indexes of the sources that there are, in the configuration's order.
    order: Vec<usize>,
    /// The number of the last reload.
    reload: u64,
    /// The broker takes no larger bodies.
    body_max: Option<usize>,
    full_since: Option<Instant>,
    /// It was told that there is no room.
    told_full: bool,
    scanned: Option<Instant>,
}

impl<S: Fn(Output)> Lane<S> {
    /// A lane that reads `tail`'s files. `treatments` are its sources', `ranges_len_max` is the limit of the `ranges` header for
    /// a source's messages.
    pub fn new(
        options: Options,
        tail: Tail,
        treatments: Vec<Treatment>,
        ranges_len_max: impl Fn(&str) -> usize,
        hints: Hints,
        credit: Credit,
        send: S,
    ) -> Self {
        let sources = tail.sources().len();
        debug_assert_eq!(treatments.len(), sources);
        let open = tail
            .sources()
            .iter()
            .map(|source| {
                let limits = batch::Limits {
                    bytes_max: options.batch_bytes_max,
                    lines_max: options.batch_lines_max,
                    ranges_len_max: ranges_len_max(&source.name),
                };
                Open::new(Arc::clone(&source.name), options.format, limits)
            })
            .collect();
        let now = Instant::now();
        let intervals: Vec<Duration> = tail
            .sources()
            .iter()
            .map(|source| source.poll_interval)
            .collect();
        Self {
            last_close: now.checked_sub(options.linger).unwrap_or(now),
            next_looks: intervals.iter().map(|interval| now + *interval).collect(),
            next_care: now + CARE_INTERVAL,
            compressor: Compressor::new(options.compression),
            groups: Groups::default(),
            options,
            tail,
            hints,
            credit,
            send,
            scratch: Scratch::default(),
            treatments: treatments.into_iter().map(Arc::new).collect(),
            open,
            lineless_since: vec![None; sources],
            parked: std::collections::VecDeque::new(),
            counts: vec![Count::default(); sources],
            order: (0..sources).collect(),
            reload: 0,
            body_max: None,
            full_since: None,
            told_full: false,
            scanned: None,
        }
    }

    /// Works until it is told to stop, or nobody can tell it anything any more.
    pub fn run(mut self, inputs: &Receiver<Input>) {
        loop {
            loop {
                progress::step();
                match inputs.try_recv() {
                    Ok(Input::Stop) => return self.finish(inputs),
                    Ok(input) => self.take(input, Instant::now()),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            let now = Instant::now();
            let worked = self.turn(now);
            let wait = self.wait(now);
            self.tell();
            if worked {
                continue;
            }
            match progress::wait(|| inputs.recv_timeout(wait)) {
                Ok(Input::Stop) => return self.finish(inputs),
                Ok(input) => self.take(input, Instant::now()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Takes one input, for whoever drives the lane without [`Lane::run`].
    pub fn input(&mut self, input: Input, now: Instant) {
        self.take(input, now);
        self.tell();
    }

    /// Does one quantum of work, for whoever drives the lane without [`Lane::run`]. Whether there
    /// was any.
    pub fn step(&mut self, now: Instant) -> bool {
        let worked = self.turn(now);
        self.tell();
        worked
    }

    /// Hands over what has gathered.
    fn finish(mut self, inputs: &Receiver<Input>) {
        for source in 0..self.open.len() {
            self.close(source, Instant::now());
        }
        // Room may have come back together with the stop: nobody tells it again.
        self.hand_over();
        self.tell();
        while !self.parked.is_empty() {
            match progress::wait(|| inputs.recv()) {
                // Told a second time: nobody is left to hand anything to.
                Ok(Input::Stop) | Err(_) => return,
                Ok(Input::Salvage) => return self.salvage(inputs),
                Ok(input) => self.take_stopped(input),
            }
        }
        let deleted = self.tail.has_deleted_unconfirmed();
        (self.send)(Output::Stopped { deleted });
        loop {
            match progress::wait(|| inputs.recv()) {
                Ok(Input::Salvage) => return self.salvage(inputs),
                Ok(Input::Stop) | Err(_) => return,
                Ok(input) => self.take_stopped(input),
            }
        }
    }

    /// What still matters when nothing new is looked for.
    fn take_stopped(&mut self, input: Input) {
        match input {
            Input::Scan(_) | Input::Written | Input::Reload(_) => {}
            Input::Room => {
                self.told_full = false;
                self.hand_over();
            }
            input => self.take(input, Instant::now()),
        }
    }

    fn take(&mut self, input: Input, now: Instant) {
        match input {
            // Discovery had not heard of the reload yet.
            Input::Scan(scan) if scan.reload != self.reload => {}
            Input::Scan(scan) => {
                self.scanned = Some(now);
                self.tail.apply(&scan, now);
                self.tail.tell_deleted();
                for (id, size) in self.tail.take_vanished() {
                    self.skip_beginning(id, now);
                    self.lose(id, size, now);
                    self.say_eof(id, now);
                }
            }
            Input::Written => self.tail.hint(self.hints.take(), now),
            Input::Room => self.told_full = false,
            Input::Registered(ids) => {
                ids.into_iter().for_each(|id| self.tail.registered(id, now));
            }
            Input::Confirmed(confirmed) => {
                self.tail.confirmed(&confirmed, now);
            }
            Input::Limit(bytes) => {
                self.body_max = Some(bytes);
                self.open.iter_mut().for_each(|open| open.limit(bytes));
            }
            Input::Reload(settings) => self.reload(*settings, now),
            Input::Rewind(rewinds) => self.rewind(&rewinds, now),
            Input::Report(reply) => self.report(reply),
            Input::Count(reply) => {
                // Who asked may have stopped waiting.
                let _ = reply.send(self.counted());
            }
            // All callers of this function deal with these themselves.
            Input::Stop | Input::Salvage => {}
        }
    }

    fn report(&self, reply: oneshot::Sender<Report>) {
        let order = self.order.iter().enumerate();
        let place: HashMap<usize, usize> = order.map(|(place, index)| (*index, place)).collect();
        let mut files = self.tail.report(Instant::now());
        // What is left of a source that there is no more is told of nobody's.
        files.retain_mut(|file| {
            let place = place.get(&file.source);
            place.is_some_and(|place| {
                file.source = *place;
                true
            })
        });
        // Who asked may have stopped waiting.
        let _ = reply.send(Report {
            sources: self.counted(),
            files,
            full_since: self.full_since,
            scanned: self.scanned,
            deleted_bytes: self.tail.deleted_bytes(),
        });
    }

    fn counted(&self) -> Vec<SourceReport> {
        let source = |index: &usize| SourceReport {
            name: Arc::clone(&self.tail.source(*index).name),
            count: self.counts[*index],
            damaged_archives: self.tail.damaged_archives(*index),
        };
        self.order.iter().map(source).collect()
    }

    /// One quantum of work. Whether there was any.
    fn turn(&mut self, now: Instant) -> bool {
        for source in 0..self.next_looks.len() {
            if now >= self.next_looks[source] {
                self.tail.look_at_all(source);
                self.next_looks[source] = now + self.tail.source(source).poll_interval;
            }
        }
        if now >= self.next_care {
            self.next_care = now + CARE_INTERVAL;
            for id in self.tail.orphans_due(now) {
                self.give_up(id, now);
            }
            for id in self.tail.over_deleted_limit() {
                self.abandon(id, now);
            }
            self.tail.tell_deleted();
        }
        for id in self.groups.take_due(now) {
            if self.has_reader(id) {
                self.tail.enqueue(id);
            } else {
                self.groups.clear(id);
            }
        }
        let examined = self.tail.examine(now);
        self.hand_over();
        let next = if self.parked.is_empty() {
            self.tail.next(now)
        } else {
            None
        };
        if let Some(id) = next {
            self.look(id, now);
            self.keep_within_budgets(now);
        }
        self.close_due(Instant::now());
        next.is_some() || examined
    }

    /// How long there is nothing to do unless an input comes.
    fn wait(&self, now: Instant) -> Duration {
        let mut until = self.next_care;
        for next_look in &self.next_looks {
            until = until.min(*next_look);
        }
        if self.parked.is_empty() && self.credit.fewer_than(FEW_UNACKNOWLEDGED) {
            let lingers = (0..self.open.len()).filter_map(|source| self.lingers(source));
            let due = lingers.map(|(since, linger)| since + linger).min();
            until = due.map_or(until, |due| due.min(until));
        }
        until = self.groups.next_due().map_or(until, |due| due.min(until));
        until.saturating_duration_since(now)
    }

    /// Tells what the watched set has to tell.
    fn tell(&mut self) {
        for event in self.tail.take_events() {
            (self.send)(Output::Tail(event));
        }
    }

    fn look(&mut self, id: FileId, now: Instant) {
        let Some(before) = self.tail.get_mut(id).map(|file| file.read_to()) else {
            return;
        };
        if let Err(error) = self.read(id, now) {
            self.tail.failed(id, &error, now);
        }
        if let Some(file) = self.tail.get_mut(id) {
            let (source, read_to) = (file.source, file.read_to());
            self.counts[source].bytes += read_to.saturating_sub(before);
        }
        self.tail.note_unfinished(id);
    }

    /// Reads one quantum of a file into its source's batch.
    fn read(&mut self, id: FileId, now: Instant) -> std::io::Result<()> {
        let Some(file) = self.tail.get_mut(id) else {
            return Ok(());
        };
        if file.registration != Registration::Durable {
            self.tail.register(id)?;
            self.tail.at_end_if_empty(id, now);
            return Ok(());
        }
        if file.batched.offset < file.begins.offset {
            self.skip_beginning(id, now);
            return self.tail.has_more(id, now);
        }
        let source = file.source;
        // Where nothing is held to compare with: before the first byte, and while an unfinished
        // line is not kept.
        let unheld = file
            .reader
            .as_ref()
            .is_some_and(|reader| reader.read_to() == 0 || reader.has_forgotten());
        if unheld && !self.tail.begins_as_known(id)? {
            return self.tail.begin_anew(id, Scratch::default(), now);
        }
        if unheld && self.skip_hole(id, now)? {
            return Ok(());
        }
        let line_max = self.tail.source(source).splitter.held_max();
        let file = self.tail.get_mut(id);
        let Some(reader) = file.and_then(|file| file.reader.as_mut()) else {
            return Ok(());
        };
        match reader.fill(&mut self.scratch, QUANTUM, line_max)? {
            Filled::Data { searched } => {
                if !self.tail.begins_as_known(id)? {
                    self.scratch.forget_new(searched);
                    return self.tail.begin_anew(id, self.scratch.part(), now);
                }
                self.take_new(id, searched, now);
                self.tail.has_more(id, now)
            }
            Filled::Longer => self.tail.has_more(id, now),
            Filled::End => {
                if !self.tail.rests_as_known(id)? {
                    return self.tail.begin_anew(id, Scratch::default(), now);
                }
                self.tail.at_end(id);
                self.at_end(id, now)
            }
            Filled::Changed => self.tail.begin_anew(id, self.scratch.part(), now),
        }
    }

    fn rewind(&mut self, rewinds: &[Rewind], now: Instant) {
        // What has gathered of these files is older than the rewind. It goes out closed, so that
        // whoever knows the epochs discards it and sends its other files back too.
        let rewound: HashSet<FileId> = rewinds.iter().map(|rewind| rewind.file).collect();
        for source in 0..self.open.len() {
            if self.open[source]
                .files()
                .any(|file| rewound.contains(&file))
            {
                self.close(source, now);
            }
        }
        for rewind in rewinds {
            let end = self
                .tail
                .get_mut(rewind.file)
                .map(|file| file.batched.offset);
            match self.tail.rewind(rewind) {
                Ok(true) => {}
                // The bytes to go back to are gone. Perhaps a copy has them.
                Ok(false) if self.has_reader(rewind.file) => {
                    let begun = self.tail.begin_anew(rewind.file, Scratch::default(), now);
                    if let Err(error) = begun {
                        self.tail.failed(rewind.file, &error, now);
                    }
                }
                Ok(false) => {
                    self.lose(rewind.file, end.unwrap_or_default(), now);
                    self.say_eof(rewind.file, now);
                }
                Err(error) => self.tail.failed(rewind.file, &error, now),
            }
            self.tail.note_unfinished(rewind.file);
        }
    }

    fn has_reader(&mut self, id: FileId) -> bool {
        self.tail
            .get_mut(id)
            .is_some_and(|file| file.reader.is_some())
    }

    fn keep_within_budgets(&mut self, now: Instant) {
        while let (sum, Some(largest)) = self.tail.unfinished()
            && sum > self.options.unfinished_max
        {
            let file = self.tail.get_mut(largest);
            if let Some(reader) = file.and_then(|file| file.reader.as_mut()) {
                reader.forget_unfinished();
            }
            self.tail.note_unfinished(largest);
        }
        let gathered: usize = self.open.iter().map(Open::len).sum();
        if gathered > self.options.open_max {
            let largest = (0..self.open.len()).max_by_key(|source| self.open[*source].len());
            largest
                .into_iter()
                .for_each(|source| self.close(source, now));
        }
    }

    /// Closes what has gathered, if a batch may leave that is not full.
    fn close_due(&mut self, now: Instant) {
        for source in 0..self.open.len() {
            if self.open[source].waits_for_a_line() {
                self.lineless_since[source].get_or_insert(now);
            }
        }
        let is_due = |source: &usize| {
            let lingers = self.lingers(*source);
            lingers.is_some_and(|(since, linger)| now.saturating_duration_since(since) >= linger)
        };
        let due: Vec<usize> = (0..self.open.len()).filter(is_due).collect();
        if due.is_empty() || !self.parked.is_empty() {
            return;
        }
        if self.credit.fewer_than(FEW_UNACKNOWLEDGED) {
            due.into_iter().for_each(|source| self.close(source, now));
        }
    }

    /// Since when and how long the open batch of a source lingers, though it is not full.
    fn lingers(&self, source: usize) -> Option<(Instant, Duration)> {
        let open = &self.open[source];
        if open.is_empty() {
            return None;
        }
        Some(match self.lineless_since[source] {
            Some(since) if open.waits_for_a_line() => (since, self.options.lineless_linger),
            _ => (self.last_close, self.options.linger),
        })
    }

    fn close(&mut self, source: usize, now: Instant) {
        if self.open[source].is_empty() {
            return;
        }
        let closed = self.open[source].close(sys::seconds_since_1970(), &mut self.compressor);
        if closed.is_empty() {
            return;
        }
        self.last_close = now;
        self.lineless_since[source] = None;
        self.parked.push_back(closed);
        self.hand_over();
    }

    /// Hands closed batches on, as far as the window has room.
    fn hand_over(&mut self) {
        while let Some(closed) = self.parked.front() {
            let Some(permit) = self.credit.take(closed.len() + MESSAGE_OVERHEAD) else {
                self.full_since.get_or_insert_with(Instant::now);
                if !std::mem::replace(&mut self.told_full, true) {
                    (self.send)(Output::Full);
                }
                return;
            };
            // News of a file goes before the bytes of the file.
            self.tell();
            if let Some(closed) = self.parked.pop_front() {
                (self.send)(Output::Batch(closed.admit(permit)));
            }
        }
        self.full_since = None;
    }
}

#[cfg(test)]
mod content_test;
#[cfg(test)]
mod model_test;
#[cfg(test)]
mod rig_test;
#[cfg(test)]
mod treating_test;
#[cfg(test)]
mod watched_set_test;
