//! The spool's thread: appends what it is given, a group at a time, reads when it is told to, and
//! tries again for as long as the disk refuses. What it reports as appended is durable.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::{AppendError, Disk, Entry, Limit, Next, Options, Place, Spool};
use crate::model::credit::{Credit, MESSAGE_OVERHEAD};
use crate::model::{Batch, FileRecord, Range, Stored};
use crate::telemetry::progress;
use crate::telemetry::spell::{Over, Spell};

/// Pause before a disk that refused is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// A segment that cannot be read so many times in a row is passed over.
const READS_MAX: u32 = 10;

/// What the spool's thread is told.
#[derive(Debug)]
pub enum Order {
    /// Make this durable; with what is known of its files.
    Append(Batch, Vec<Arc<FileRecord>>),
    /// Forget what is not durable yet.
    Recall,
    /// Read entries as far as there is credit.
    Look {
        /// Named in the answer.
        turn: u64,
        /// Where to begin.
        from: Place,
    },
    /// What lies before it is confirmed, durably.
    Release(Place),
    /// From now on these limits hold; with the second, the oldest goes where there is no room.
    Limits(Options, bool),
}

/// What it tells.
#[derive(Debug)]
pub enum News {
    /// So many batches are durable.
    Appended {
        /// How many.
        batches: usize,
        /// Their ranges, in order.
        ranges: Vec<Range>,
        /// Where the spool ends now.
        end: Place,
        /// By how much it grew.
        bytes: u64,
    },
    /// So many batches are forgotten, and were not durable.
    Recalled(usize),
    /// What a look found.
    Looked {
        /// Which look.
        turn: u64,
        /// What there was credit for.
        batches: Vec<Batch>,
        /// Where the next one goes on.
        behind: Place,
        /// Bytes behind that.
        left: u64,
    },
    /// The oldest were given up for want of room: these ranges are not delivered.
    Dropped(Vec<Range>),
    /// How much there is.
    Size(Size),
}

/// How much a spool holds, and whether it takes more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Bytes on disk.
    pub bytes: u64,
    /// Files.
    pub segments: usize,
    /// Why nothing can be appended at present.
    pub refuses: Option<String>,
}

/// What the thread works on.
pub struct Worker<D: Disk, T: Fn(News)> {
    spool: Spool<D>,
    /// What may be out of what was read.
    reading: Credit,
    /// When there is no room, the oldest goes.
    drop_oldest: bool,
    tell: T,
    pending: VecDeque<(Batch, Entry)>,
    /// When a disk that refused is asked again.
    retry: Option<Instant>,
    look: Option<Look>,
    /// Everything before it may be on its way to the broker.
    read_to: Place,
    /// Why nothing can be appended at present.
    refuses: Option<String>,
    refusing: Spell,
    /// What is done with stays on the disk.
    keeping: Spell,
    /// The oldest stays: what accounts for its end needs some room itself.
    giving_up: Spell,
    /// What was told last.
    size: Option<Size>,
    /// Segments whose damage was told.
    told: HashSet<u64>,
}

/// A look that the disk refused.
struct Look {
    turn: u64,
    from: Place,
    due: Instant,
    tries: u32,
}

impl<D: Disk, T: Fn(News)> Worker<D, T> {
    /// A worker on an opened spool, everything of which from `from` on is still to be read.
    pub fn new(spool: Spool<D>, from: Place, reading: Credit, drop_oldest: bool, tell: T) -> Self {
        Self {
            spool,
            reading,
            drop_oldest,
            tell,
            pending: VecDeque::new(),
            retry: None,
            look: None,
            read_to: from,
            refuses: None,
            refusing: Spell::default(),
            keeping: Spell::default(),
            giving_up: Spell::default(),
            size: None,
            told: HashSet::new(),
        }
    }

    /// Works until nobody gives orders any more.
    pub fn run(mut self, orders: &Receiver<Order>) {
        self.tell_size();
        loop {
            let due = self.due();
            let order = progress::wait(|| match due {
                None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => orders.recv_timeout(due.saturating_duration_since(Instant::now())),
            });
            match order {
                Ok(order) => {
                    self.obey(order);
                    // What came in the meantime goes into the same group.
                    orders.try_iter().for_each(|order| self.obey(order));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let now = Instant::now();
            if !self.pending.is_empty() && self.retry.is_none_or(|retry| retry <= now) {
                self.append();
            }
            if let Some(look) = self.look.take_if(|look| look.due <= now) {
                self.look(&look);
            }
            self.tell_size();
        }
    }

    fn due(&self) -> Option<Instant> {
        let look = self.look.as_ref().map(|look| look.due);
        [self.retry, look].into_iter().flatten().min()
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Append(batch, files) => {
                let entry = Entry::of(&batch, files);
                self.pending.push_back((batch, entry));
            }
            Order::Recall => {
                let batches = self.pending.len();
                self.pending.clear();
                self.retry = None;
                (self.tell)(News::Recalled(batches));
            }
            Order::Look { turn, from } => self.look(&Look {
                turn,
                from,
                due: Instant::now(),
                tries: 0,
            }),
            Order::Release(place) => self.release(place),
            Order::Limits(limits, drop_oldest) => {
                self.spool.resize(&limits);
                self.drop_oldest = drop_oldest;
                // There may be room now.
                self.retry = self.retry.map(|_| Instant::now());
            }
        }
    }

    /// Makes what waits durable, all of it at once, or as much as there is room for.
    fn append(&mut self) {
        self.retry = None;
        let group = self.group();
        let waiting = self.pending.iter().take(group);
        let mut entries: Vec<Entry> = waiting.map(|(_, entry)| entry.clone()).collect();
        while !entries.is_empty() {
            let before = self.spool.bytes();
            let error = match progress::call(|| self.spool.append(&entries)) {
                Ok(_) => {
                    self.appended(&entries, before);
                    return;
                }
                Err(error) => error,
            };
            if error.is_full() {
                if self.drop_oldest && self.give_up_oldest() {
                    continue;
                }
                if entries.len() > 1 {
                    entries.truncate(entries.len() / 2);
                    continue;
                }
            }
            return self.refused(&error);
        }
    }

    /// How many of those that wait go together: what fits into a segment, and one at least.
    fn group(&self) -> usize {
        let mut left = self.spool.segment_bytes();
        let fits = |(_, entry): &&(Batch, Entry)| {
            let len = entry.stored_len();
            let fits = len <= left;
            left = left.saturating_sub(len);
            fits
        };
        self.pending.iter().take_while(fits).count().max(1)
    }

    fn appended(&mut self, entries: &[Entry], before: u64) {
        self.refuses = None;
        if let Some(Over { times, seconds }) = self.refusing.over(Instant::now()) {
            info!(failures = times, seconds, "the spool takes lines again");
        }
        self.giving_up.over(Instant::now());
        let ranges = entries
            .iter()
            .flat_map(|entry| entry.ranges.iter().cloned());
        (self.tell)(News::Appended {
            batches: entries.len(),
            ranges: ranges.collect(),
            end: self.spool.end(),
            bytes: self.spool.bytes().saturating_sub(before),
        });
        // Their permits go back: there is room for more.
        self.pending.drain(..entries.len());
        if !self.pending.is_empty() {
            self.retry = Some(Instant::now());
        }
    }

    fn refused(&mut self, error: &AppendError) {
        if let AppendError::Io { source, .. } = error {
            progress::failed(source);
        }
        self.retry = Some(Instant::now() + RETRY);
        let reason = error.to_string();
        if self.refusing.met(&kind_of(error), Instant::now()) {
            if matches!(error, AppendError::Full(_)) {
                warn!(
                    reason,
                    "the spool is full; files are not read until there is room"
                );
            } else {
                error!(
                    reason,
                    "the spool cannot be written; files are not read until it can"
                );
            }
        }
        self.refuses = Some(reason);
    }

    /// Whether something was given up.
    fn give_up_oldest(&mut self) -> bool {
        let mut dropped = progress::call(|| self.spool.drop_oldest(self.read_to));
        if matches!(dropped, Ok(None)) {
            self.spool.seal();
            dropped = progress::call(|| self.spool.drop_oldest(self.read_to));
        }
        match dropped {
            Ok(Some(ranges)) => {
                self.giving_up.over(Instant::now());
                (self.tell)(News::Dropped(ranges));
                true
            }
            Ok(None) => false,
            Err(error) => {
                progress::failed(&error);
                if self.giving_up.met(&error.to_string(), Instant::now()) {
                    warn!(%error, "the oldest of the spool cannot be given up; trying again");
                }
                false
            }
        }
    }

    fn look(&mut self, look: &Look) {
        let Look { turn, tries, .. } = *look;
        let mut at = look.from;
        let mut batches = Vec::new();
        loop {
            progress::step();
            match progress::call(|| self.spool.read(at)) {
                Ok(Next::Entry {
                    place,
                    behind,
                    entry,
                }) => {
                    let Some(permit) = self.reading.take(entry.body.len() + MESSAGE_OVERHEAD)
                    else {
                        break;
                    };
                    let stored = Stored { at: place, behind };
                    batches.push(entry.into_batch(stored, permit));
                    at = behind;
                }
                Ok(Next::Damaged(damage)) => {
                    if self.told.insert(damage.at.segment) {
                        error!(segment = damage.at.segment, offset = damage.at.offset, bytes = damage.bytes, what = %damage.what, "the spool is damaged; the rest of it is delivered");
                    }
                    at = damage.behind;
                }
                Ok(Next::End) => {
                    // Behind the last entry stands its mark.
                    at = at.max(self.spool.end());
                    break;
                }
                Err(error) if batches.is_empty() && tries < READS_MAX => {
                    progress::failed(&error.source);
                    if tries == 0 {
                        warn!(%error, "the spool cannot be read; trying again");
                    }
                    self.look = Some(Look {
                        turn,
                        from: at,
                        due: Instant::now() + RETRY,
                        tries: tries + 1,
                    });
                    return;
                }
                Err(error) if batches.is_empty() => {
                    error!(%error, "a segment of the spool cannot be read; passed over");
                    at = error.behind;
                }
                // What was read goes first.
                Err(_) => break,
            }
        }
        self.read_to = self.read_to.max(at);
        let end = self.spool.end();
        let left = if at.segment == end.segment {
            end.offset.saturating_sub(at.offset)
        } else if at < end {
            self.spool.bytes()
        } else {
            0
        };
        (self.tell)(News::Looked {
            turn,
            batches,
            behind: at,
            left,
        });
    }

    fn release(&mut self, place: Place) {
        let mut place = place;
        if matches!(progress::call(|| self.spool.read(place)), Ok(Next::End)) {
            self.spool.seal();
            place = place.max(self.spool.end());
        }
        match progress::call(|| self.spool.release(place)) {
            Ok(()) => self.removes_again(),
            Err(error) if self.keeping.met(&error.to_string(), Instant::now()) => {
                progress::failed(&error);
                warn!(%error, "segments that are done with cannot be removed; trying again");
            }
            Err(error) => progress::failed(&error),
        }
        // There may be room now.
        self.retry = self.retry.map(|_| Instant::now());
    }

    fn removes_again(&mut self) {
        if let Some(Over { times, seconds }) = self.keeping.over(Instant::now()) {
            info!(failures = times, seconds, "segments can be removed again");
        }
    }

    fn tell_size(&mut self) {
        let size = Size {
            bytes: self.spool.bytes(),
            segments: self.spool.segments(),
            refuses: self.refuses.clone(),
        };
        if self.size.as_ref() != Some(&size) {
            self.size = Some(size.clone());
            (self.tell)(News::Size(size));
        }
    }
}

/// What an error has in common with the next of its kind, which is in another call or at another place.
fn kind_of(error: &AppendError) -> String {
    match error {
        AppendError::Full(Limit::Bytes { .. }) => "the spool's limit".to_owned(),
        AppendError::Full(Limit::Free { .. }) => "the file system's room".to_owned(),
        AppendError::NoRecord(_) => "a file without a record".to_owned(),
        AppendError::Io { source, .. } => source.to_string(),
    }
}
