//! A lane: one thread on which lines go from files into batches, in quanta, so that a busy file
//! starves nobody. It reads only while a finished batch finds its place in the window; when there
//! is none, the files wait.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use tokio::sync::oneshot;
use tracing::error;

use crate::batch::{self, Closed, Compressor, Line, Open};
use crate::lines::{self, Next};
use crate::model::credit::Credit;
use crate::model::{Batch, Compression, Confirmed, FileId, Format, Proof, Range, Rewind, Skipped};
use crate::tail::discover::Scan;
use crate::tail::reader::{Filled, Scratch};
use crate::tail::report::FileReport;
use crate::tail::watch::Hints;
use crate::tail::{Event, Registration, Tail};

/// Bytes that one file is read before the next one has its turn.
const QUANTUM: usize = 256 * 1024;
/// While fewer messages than this are unacknowledged, a batch need not be full to be closed.
const FEW_UNACKNOWLEDGED: usize = 4;
/// How often it is looked at what was waited for long enough, and what deleted files pin.
const CARE_INTERVAL: Duration = Duration::from_secs(1);
/// What a message takes of the window beside its body.
const MESSAGE_OVERHEAD: usize = 1024;

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
    /// Say how it is; answered within a quantum, room or no room.
    Report(oneshot::Sender<Report>),
    /// Read no more, hand over what has gathered, and end. Told again: end at once.
    Stop,
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
}

/// How a lane is.
#[derive(Debug)]
pub struct Report {
    /// Its sources' names, and the lines read of each since the start.
    pub sources: Vec<(Arc<str>, u64)>,
    /// Every file that it watches, in no order.
    pub files: Vec<FileReport>,
    /// Since when it reads nothing, because a batch finds no room in the window.
    pub full_since: Option<Instant>,
    /// When discovery last delivered.
    pub scanned: Option<Instant>,
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
    open: Vec<Open>,
    compressor: Compressor,
    /// Closed, and waiting for room in the window.
    parked: std::collections::VecDeque<Closed>,
    last_close: Instant,
    /// When the files of each source are looked at next, events or not.
    next_looks: Vec<Instant>,
    /// When it is looked for what is due next.
    next_care: Instant,
    /// Lines read, one per source.
    lines: Vec<u64>,
    full_since: Option<Instant>,
    scanned: Option<Instant>,
}

impl<S: Fn(Output)> Lane<S> {
    /// A lane that reads `tail`'s files. `ranges_len_max` is the limit of the `ranges` header for
    /// a source's messages.
    pub fn new(
        options: Options,
        tail: Tail,
        ranges_len_max: impl Fn(&str) -> usize,
        hints: Hints,
        credit: Credit,
        send: S,
    ) -> Self {
        let lines = vec![0; tail.sources().len()];
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
            options,
            tail,
            hints,
            credit,
            send,
            scratch: Scratch::default(),
            open,
            parked: std::collections::VecDeque::new(),
            lines,
            full_since: None,
            scanned: None,
        }
    }

    /// Works until it is told to stop, or nobody can tell it anything any more.
    pub fn run(mut self, inputs: &Receiver<Input>) {
        loop {
            loop {
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
            match inputs.recv_timeout(wait) {
                Ok(Input::Stop) => return self.finish(inputs),
                Ok(input) => self.take(input, Instant::now()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Hands over what has gathered.
    fn finish(mut self, inputs: &Receiver<Input>) {
        for source in 0..self.open.len() {
            self.close(source, Instant::now());
        }
        self.tell();
        while !self.parked.is_empty() {
            match inputs.recv() {
                Ok(Input::Room) => self.hand_over(),
                Ok(Input::Report(reply)) => self.report(reply),
                // Told a second time: nobody is left to hand anything to.
                Ok(Input::Stop) | Err(_) => return,
                // Nothing is read any more, so there is nothing to look for or to go back to.
                Ok(_) => {}
            }
        }
    }

    fn take(&mut self, input: Input, now: Instant) {
        match input {
            Input::Scan(scan) => {
                self.scanned = Some(now);
                self.tail.apply(&scan, now);
                for (id, size) in self.tail.take_vanished() {
                    self.skip_beginning(id, now);
                    self.lose(id, size, now);
                    self.say_eof(id, now);
                }
            }
            Input::Written => self.tail.hint(self.hints.take(), now),
            Input::Room => {}
            Input::Registered(ids) => ids.into_iter().for_each(|id| self.tail.registered(id)),
            Input::Confirmed(confirmed) => {
                self.tail.confirmed(&confirmed, now);
            }
            Input::Rewind(rewinds) => self.rewind(&rewinds, now),
            Input::Report(reply) => self.report(reply),
            // Both callers of this function return at once on a stop.
            Input::Stop => {}
        }
    }

    fn report(&self, reply: oneshot::Sender<Report>) {
        let names = self.tail.sources().iter().map(|source| &source.name);
        // Who asked may have stopped waiting.
        let _ = reply.send(Report {
            sources: names.cloned().zip(self.lines.iter().copied()).collect(),
            files: self.tail.report(Instant::now()),
            full_since: self.full_since,
            scanned: self.scanned,
        });
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
        }
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
        next.is_some()
    }

    /// How long there is nothing to do unless an input comes.
    fn wait(&self, now: Instant) -> Duration {
        let mut until = self.next_care;
        for next_look in &self.next_looks {
            until = until.min(*next_look);
        }
        let gathered = self.open.iter().any(|open| !open.is_empty());
        if gathered && self.parked.is_empty() && self.credit.fewer_than(FEW_UNACKNOWLEDGED) {
            until = until.min(self.last_close + self.options.linger);
        }
        until.saturating_duration_since(now)
    }

    /// Tells what the watched set has to tell.
    fn tell(&mut self) {
        for event in self.tail.take_events() {
            (self.send)(Output::Tail(event));
        }
    }

    fn look(&mut self, id: FileId, now: Instant) {
        if let Err(error) = self.read(id, now) {
            self.tail.failed(id, &error, now);
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
        let line_max = self.tail.source(source).line_max;
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
                self.take_lines(id, searched, line_max, now);
                self.tail.has_more(id, now)
            }
            Filled::Longer => self.tail.has_more(id, now),
            Filled::End => {
                self.tail.at_end(id);
                self.at_end(id, line_max, now)
            }
            Filled::Changed => self.tail.begin_anew(id, self.scratch.part(), now),
        }
    }

    /// Accounts for what lies before the place where delivery begins.
    fn skip_beginning(&mut self, id: FileId, now: Instant) {
        let Some(file) = self.tail.get_mut(id) else {
            return;
        };
        if file.batched.offset < file.begins.offset {
            let range = batch::bare_range(
                &file.origin,
                (file.batched.offset, file.begins.offset),
                Some(file.begins_as),
                false,
                file.epoch,
                file.begins.proof,
            );
            self.account(id, range, now);
        }
    }

    /// Puts the whole lines of the scratch buffer into batches.
    fn take_lines(&mut self, id: FileId, searched: usize, line_max: usize, now: Instant) {
        let scratch = std::mem::take(&mut self.scratch);
        let timestamp = timestamp();
        let Some(file) = self.tail.get_mut(id) else {
            return;
        };
        let (source, origin, epoch) = (file.source, file.origin.clone(), file.epoch);
        let unread = scratch.unread();
        let mut at = 0;
        let mut complete = true;
        loop {
            let mut piece = lines::next(&unread[at..], searched.saturating_sub(at), line_max);
            if piece == Next::Unfinished {
                break;
            }
            let open = &mut self.open[source];
            let mut full = open
                .begin(&origin, scratch.offset() + at as u64, epoch)
                .is_err();
            let begun = at;
            while !full && piece != Next::Unfinished {
                let line = line_of(unread, at, scratch.offset(), piece, &timestamp);
                match open.push(&origin, &line) {
                    Ok(()) => {
                        self.lines[source] += u64::from(!line.partial);
                        at += piece.bytes();
                        piece = lines::next(&unread[at..], searched.saturating_sub(at), line_max);
                    }
                    Err(batch::Full) => full = true,
                }
            }
            if at > begun {
                let mark = scratch.mark(at);
                open.end(id, mark.offset, mark.proof);
                if let Some(file) = self.tail.get_mut(id) {
                    file.batched = mark;
                }
            }
            if full {
                self.close(source, now);
                if !self.parked.is_empty() {
                    complete = false;
                    break;
                }
            }
        }
        if let Some(reader) = self.tail.get_mut(id).and_then(|file| file.reader.as_mut()) {
            if complete {
                reader.keep(&scratch, at);
            } else {
                reader.advance(&scratch, at);
            }
        }
        self.scratch = scratch;
    }

    /// A file has nothing new: if it was rotated a while ago, its last line counts as finished,
    /// and in the end the file as over.
    fn at_end(&mut self, id: FileId, line_max: usize, now: Instant) -> std::io::Result<()> {
        let (settle, let_go) = (self.options.settle, self.options.let_go);
        let Some(file) = self.tail.get_mut(id) else {
            return Ok(());
        };
        let (settled, over) = (file.settled(settle, now), file.settled(let_go, now));
        let Some(reader) = &mut file.reader else {
            return Ok(());
        };
        if reader.read_to() > reader.line_start() {
            if settled {
                reader.recall(&mut self.scratch, line_max)?;
                reader.fill(&mut self.scratch, 0, line_max)?;
                let consumed = self.take_last_line(id, line_max, now);
                if let Some(reader) = self.tail.get_mut(id).and_then(|file| file.reader.as_mut()) {
                    reader.advance(&self.scratch, consumed);
                }
            }
        } else if file.batched.offset > 0 && !file.eof_batched && file.is_left() && over {
            self.say_eof(id, now);
        }
        Ok(())
    }

    /// The rest of a truncated generation turned up in no copy: delivers what was read of its last
    /// line, accounts for what is known to be lost, and says its end.
    fn give_up(&mut self, id: FileId, now: Instant) {
        let Some((rest, size)) = self.tail.give_up_orphan(id) else {
            return;
        };
        let Some(file) = self.tail.get_mut(id) else {
            return;
        };
        let (source, batched) = (file.source, file.batched.offset);
        let line_max = self.tail.source(source).line_max;
        // After a rewind the last line does not follow on what is in batches any more.
        if batched == rest.offset() {
            let scratch = std::mem::replace(&mut self.scratch, rest);
            self.take_last_line(id, line_max, now);
            self.scratch = scratch;
        }
        self.lose(id, size, now);
        self.say_eof(id, now);
    }

    /// Lets go of a deleted file before it was read to its end: delivers what was read of its last
    /// line, accounts for the rest, and says its end.
    fn abandon(&mut self, id: FileId, now: Instant) {
        let Some(file) = self.tail.get_mut(id) else {
            return;
        };
        let source = file.source;
        let line_max = self.tail.source(source).line_max;
        let reader = self.tail.get_mut(id).and_then(|file| file.reader.as_mut());
        if let Some(reader) = reader.filter(|reader| reader.held() > 0) {
            reader.lay_out_unfinished(&mut self.scratch);
            self.take_last_line(id, line_max, now);
        }
        if let Some(size) = self.tail.abandon(id) {
            self.skip_beginning(id, now);
            self.lose(id, size, now);
            self.say_eof(id, now);
        }
    }

    /// Puts what the scratch buffer holds of a line without an end into the batch. Returns how
    /// many bytes that was.
    fn take_last_line(&mut self, id: FileId, line_max: usize, now: Instant) -> usize {
        let scratch = std::mem::take(&mut self.scratch);
        let timestamp = timestamp();
        let mut at = 0;
        if let Some(file) = self.tail.get_mut(id) {
            let (source, origin, epoch) = (file.source, file.origin.clone(), file.epoch);
            loop {
                let piece = lines::last(&scratch.unread()[at..], line_max);
                if piece == Next::Unfinished {
                    break;
                }
                let line = line_of(scratch.unread(), at, scratch.offset(), piece, &timestamp);
                let open = &mut self.open[source];
                let pushed = open
                    .begin(&origin, line.offset, epoch)
                    .and_then(|()| open.push(&origin, &line));
                if pushed == Err(batch::Full) {
                    self.close(source, now);
                    continue;
                }
                self.lines[source] += u64::from(!line.partial);
                at += piece.bytes();
                let mark = scratch.mark(at);
                open.end(id, mark.offset, mark.proof);
                if let Some(file) = self.tail.get_mut(id) {
                    file.batched = mark;
                }
            }
        }
        self.scratch = scratch;
        at
    }

    /// Accounts for bytes up to `end` that cannot be read any more, if there are any.
    fn lose(&mut self, id: FileId, end: u64, now: Instant) {
        let Some(file) = self.tail.get_mut(id) else {
            return;
        };
        let (start, path) = (file.batched.offset, file.origin.path.clone());
        if end <= start {
            return;
        }
        // After a rewind the same bytes are missed again.
        let new_end = file.lost_from.map_or(end, |counted| counted.min(end));
        if start < new_end {
            let reason = file.lost_as;
            error!(?path, file = %id, start, end = new_end, reason = reason.as_str(), "bytes lost");
            file.lost_from = Some(start);
            (self.send)(Output::Lost(reason, new_end - start));
        }
        let range = batch::bare_range(
            &file.origin,
            (start, end),
            Some(file.lost_as),
            false,
            file.epoch,
            Proof::default(),
        );
        self.account(id, range, now);
    }

    fn say_eof(&mut self, id: FileId, now: Instant) {
        let Some(file) = self.tail.get_mut(id) else {
            return;
        };
        let at = file.batched;
        let range = batch::bare_range(
            &file.origin,
            (at.offset, at.offset),
            None,
            true,
            file.epoch,
            at.proof,
        );
        self.account(id, range, now);
        if let Some(file) = self.tail.get_mut(id) {
            file.eof_batched = true;
        }
    }

    /// Puts a range without lines into the batch of its source.
    fn account(&mut self, id: FileId, range: Range, now: Instant) {
        let Some(file) = self.tail.get_mut(id) else {
            return;
        };
        file.batched = range.end_mark();
        let (source, origin) = (file.source, file.origin.clone());
        if self.open[source].account(&origin, range.clone()) == Err(batch::Full) {
            self.close(source, now);
            // An empty batch takes any one range.
            let _ = self.open[source].account(&origin, range);
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
        let lingered = now.saturating_duration_since(self.last_close) >= self.options.linger;
        let gathered = self.open.iter().any(|open| !open.is_empty());
        if !gathered || !lingered || !self.parked.is_empty() {
            return;
        }
        if self.credit.fewer_than(FEW_UNACKNOWLEDGED) {
            for source in 0..self.open.len() {
                self.close(source, now);
            }
        }
    }

    fn close(&mut self, source: usize, now: Instant) {
        if self.open[source].is_empty() {
            return;
        }
        let closed = self.open[source].close(seconds_since_1970(), &mut self.compressor);
        if closed.is_empty() {
            return;
        }
        self.last_close = now;
        self.parked.push_back(closed);
        self.hand_over();
    }

    /// Hands closed batches on, as far as the window has room.
    fn hand_over(&mut self) {
        while let Some(closed) = self.parked.front() {
            let Some(permit) = self.credit.take(closed.len() + MESSAGE_OVERHEAD) else {
                self.full_since.get_or_insert_with(Instant::now);
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

/// The piece that stands `at` bytes into `unread`, whose first byte has `offset` in the file.
fn line_of<'a>(
    unread: &'a [u8],
    at: usize,
    offset: u64,
    piece: Next,
    timestamp: &'a str,
) -> Line<'a> {
    let (content, partial) = match piece {
        Next::Line { content, .. } => (content, false),
        Next::Part { content } => (content, true),
        Next::Unfinished => (0, false),
    };
    Line {
        timestamp,
        offset: offset + at as u64,
        raw: &unread[at..at + piece.bytes()],
        content: &unread[at..at + content],
        partial,
    }
}

/// The present time as `@timestamp` shows it: UTC with milliseconds.
fn timestamp() -> String {
    Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
        .to_string()
}

fn seconds_since_1970() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod model_test;
#[cfg(test)]
mod watched_set_test;
