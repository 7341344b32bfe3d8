//! The spool: batches on disk, in the order in which they came, while the broker does not take
//! them. Says what is durable and what is damaged; never decides when anything is spooled, and
//! never starts a thread.
//!
//! What happens when the process or the machine dies, operation by operation:
//!
//! | operation | order | a crash in between leaves |
//! | --- | --- | --- |
//! | [`append`](Spool::append) | entries and their mark in one write, `fdatasync`; for a new segment its directory too | entries without a mark, or with a mark and not whole: cut |
//! | rollover | footer, `fdatasync`, then the next segment | a segment without footer: read by its headers |
//! | [`release`](Spool::release) | the next segment durable if the last one goes, then `unlink`, then the directory | segments that are read once more |
//! | [`drop_oldest`](Spool::drop_oldest) | the small one whole beside, `fdatasync`, `rename`, directory | the old one or the new one |
//! | opening | the last group is written once more as it is, `fdatasync`, the directory; leftovers of `drop_oldest` are removed | the same as before |
//!
//! A segment is appended to only by the process that made it: whatever a crash or an error left at
//! its end stays as it is, and the next segment says how far this one counts.

mod contents;
pub mod disk;
mod look;
mod recover;
mod segment;
mod walk;
pub mod worker;

#[cfg(test)]
mod damage_test;
#[cfg(test)]
mod failing_test;
#[cfg(test)]
mod fake_disk_test;
#[cfg(test)]
mod golden_test;
#[cfg(test)]
mod model_test;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tracing::{error, info, warn};

use crate::model::credit::Permit;
use crate::model::{
    Batch, Coding, FileId, FileRecord, Format, LogPath, Mark, Range, Skipped, Stored,
};
pub use crate::model::{SpoolId, SpoolPlace as Place};
use contents::{Contents, Segment};
use disk::DiskFile;
pub use disk::{Disk, RealDisk};
pub use look::{Look, SegmentLook, SegmentState, look};
use segment::{Content, HEADER_LEN, Header, Key, Kind, MARK_LEN, Summary, decode_entry};
use walk::{Step, Walk, read_full, write_full};

/// The format of segments that this version writes.
pub const FORMAT: u32 = 1;
/// So many damaged segments are kept.
const ASIDE_KEPT: usize = 4;
/// A spool has room for so many segments at least, so that there is always one that can be released.
const SEGMENTS_LEAST: u64 = 4;
/// Bytes of what may not be durable that are read and written again at once.
const REWRITTEN_AT_ONCE: usize = 1 << 20;

/// Where the spool is and how large it may become.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its directory, made where it is missing.
    pub directory: PathBuf,
    /// Bytes of all segments together.
    pub bytes_max: u64,
    /// Bytes after which a segment is closed. A group of entries that is larger goes alone.
    pub segment_bytes: u64,
    /// What must stay free on the file system.
    pub free_min: FreeMin,
}

/// What must stay free on the file system, as unprivileged users have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreeMin {
    /// Bytes.
    Bytes(u64),
    /// Parts in a million of the file system's size.
    PartsPerMillion(u32),
}

/// A batch as it is stored.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name of the source: the routing key.
    pub source: Arc<str>,
    /// What the message accounts for, in offset order per file; the epochs are 0.
    pub ranges: Vec<Range>,
    /// Lines in the body.
    pub lines: u64,
    /// AMQP priority, 1 to 9; 0 for none.
    pub priority: u8,
    /// Length of the body before compression.
    pub bytes: u64,
    /// How lines stand in the body.
    pub format: Format,
    /// What the body is packed with, if it is.
    pub coding: Option<Coding>,
    /// The message's body.
    pub body: Bytes,
    /// When the batch was closed: seconds since 1970.
    pub closed_at: u64,
    /// What was known of each file of `ranges`, so that rows that state.db lacks can be made again.
    pub files: Vec<Arc<FileRecord>>,
}

impl Entry {
    /// The entry of a batch. `files` has a record of each file of its ranges.
    #[must_use]
    pub fn of(batch: &Batch, files: Vec<Arc<FileRecord>>) -> Self {
        let stored = |range: &Range| Range {
            epoch: 0,
            ..range.clone()
        };
        Self {
            source: Arc::clone(&batch.source),
            ranges: batch.ranges.iter().map(stored).collect(),
            lines: batch.lines,
            priority: batch.priority,
            bytes: batch.bytes,
            format: batch.format,
            coding: batch.coding,
            body: batch.body.clone(),
            closed_at: batch.closed_at,
            files,
        }
    }

    /// The batch again, its ranges in epoch 0, with the place that it came from.
    #[must_use]
    pub fn into_batch(self, stored: Stored, permit: Permit) -> Batch {
        Batch {
            source: self.source,
            ranges: self.ranges,
            lines: self.lines,
            priority: self.priority,
            bytes: self.bytes,
            format: self.format,
            coding: self.coding,
            body: self.body,
            closed_at: self.closed_at,
            stored: Some(stored),
            permit,
        }
    }
}

/// Why there is no spool.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Somebody may have planted it.
    #[error("{} is not a {wanted} of fantail's own; move it away", path.display())]
    Planted {
        /// A symbolic link, a FIFO, a directory.
        path: PathBuf,
        /// What should be there: `directory` or `regular file`.
        wanted: &'static str,
    },
    /// Another agent uses it.
    #[error("another fantail holds {}", .0.display())]
    Locked(PathBuf),
    /// A newer version wrote it.
    #[error("{} has format {found}, newer than this version's {FORMAT}; nothing was touched", path.display())]
    Newer {
        /// The segment.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// A system call failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// On this file.
        path: PathBuf,
        /// How.
        source: io::Error,
    },
}

/// Why nothing was appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// There is no room. Nothing was touched.
    #[error("{0}")]
    Full(Limit),
    /// A range is of a file whose record is not among the entry's: nothing was touched.
    #[error("an entry without a record of file {0}")]
    NoRecord(FileId),
    /// A system call failed. Trying again writes elsewhere.
    #[error("{}: {stage} failed: {source}", path.display())]
    Io {
        /// Doing what.
        stage: Stage,
        /// On this file.
        path: PathBuf,
        /// How.
        source: io::Error,
    },
}

impl AppendError {
    /// Whether it is for want of room, by our limits or the file system's.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Full(_) => true,
            Self::NoRecord(_) => false,
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
        }
    }
}

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Limit {
    /// The spool's own.
    #[error("the spool would have {wanted} bytes; at most {most} are allowed")]
    Bytes {
        /// What it would have.
        wanted: u64,
        /// What it may have.
        most: u64,
    },
    /// What must stay free on the file system.
    #[error("{free} bytes would be free on the file system of the spool; {least} must stay so")]
    Free {
        /// What would be free afterwards.
        free: u64,
        /// What must be.
        least: u64,
    },
}

/// What was being done when a system call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Looking how much is free.
    Space,
    /// Making a segment.
    Create,
    /// Writing.
    Write,
    /// Making it durable.
    Sync,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Space => "asking for free space",
            Self::Create => "creating",
            Self::Write => "writing",
            Self::Sync => "syncing",
        })
    }
}

/// A segment could not be read. Others may be: go on at `behind`, and come back later.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct ReadError {
    /// The segment.
    pub path: PathBuf,
    /// How.
    pub source: io::Error,
    /// Where the next segment begins.
    pub behind: Place,
}

/// What stands at a place.
#[derive(Clone, Debug)]
pub enum Next {
    /// An entry.
    Entry {
        /// Where it begins.
        place: Place,
        /// Where it ends.
        behind: Place,
        /// It.
        entry: Entry,
    },
    /// Something that was an entry, or several.
    Damaged(Damage),
    /// Nothing more.
    End,
}

/// A stretch of the spool that cannot be read any more, or is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where it begins.
    pub at: Place,
    /// Where what can be read goes on.
    pub behind: Place,
    /// How long it is, as far as that is known.
    pub bytes: u64,
    /// What is wrong.
    pub what: What,
}

/// What is wrong with a stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum What {
    /// Its checksums do not fit.
    #[error("damaged")]
    Damaged,
    /// The segment ends before what was durable in it.
    #[error("cut off")]
    CutOff,
    /// The segment is gone.
    #[error("missing")]
    Missing,
    /// Checksums fit, but this version makes no sense of it.
    #[error("not understood")]
    Unknown,
}

/// What was found when the spool was opened.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Where to begin to read: the given place, or the beginning where that does not exist.
    pub from: Option<Place>,
    /// The given place does not exist, or is one of another spool. Then `from` has to be remembered in
    /// its stead before anything is appended: later there may be something at that place.
    pub ignored: bool,
    /// The files of which the spool has something from there on, in the order of their first entry.
    pub files: Vec<SpooledFile>,
    /// Damage that showed without reading bodies; reading meets it again.
    pub damaged: Vec<Damage>,
    /// Bytes behind the last commit that a crash left.
    pub cut_bytes: u64,
}

/// What the spool has of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpooledFile {
    /// What was known of it when it was spooled last.
    pub record: Arc<FileRecord>,
    /// Its path.
    pub path: LogPath,
    /// Lowest start of a range.
    pub first: u64,
    /// Highest end of a range.
    pub end: Mark,
    /// Its end was said.
    pub eof: bool,
    /// Between `first` and `end` is something that no range covers.
    pub holes: bool,
}

/// The spool of one agent, opened and locked.
#[derive(Debug)]
pub struct Spool<D: Disk> {
    disk: D,
    options: Options,
    contents: Contents<D::File>,
    /// The last segment, as long as it may be appended to.
    active: Option<Active<D::File>>,
    /// Names were removed, and that is not durable yet.
    names_changed: bool,
}

#[derive(Debug)]
struct Active<F> {
    file: F,
    summary: Summary,
}

impl<D: Disk> Spool<D> {
    /// Locks the directory and finds out what is in it. `confirmed` is the place up to which state.db
    /// says that everything is confirmed, in the spool of that id; a place that does not exist, or
    /// another id, is ignored, loudly. Reads headers and footers of closed segments, and the last
    /// segment whole.
    ///
    /// # Errors
    /// It cannot be used: a planted link, another agent, a newer format. Nothing was touched then.
    pub fn open(
        mut disk: D,
        options: Options,
        confirmed: Option<(SpoolId, Place)>,
    ) -> Result<(Self, Recovered), SpoolError> {
        disk.lock(&options.directory)?;
        let survey = recover::survey(&disk, &options.directory, confirmed)?;
        let recovered = survey.recovered;
        let mut spool = Self {
            disk,
            options,
            contents: survey.contents,
            active: None,
            names_changed: false,
        };
        spool.make_durable(survey.unproved).map_err(|source| {
            let path = spool.contents.path(spool.end().segment);
            SpoolError::Io { path, source }
        })?;
        spool.sweep();
        if let Some(first) = survey.unknown.first() {
            let (directory, count) = (&spool.options.directory, survey.unknown.len());
            warn!(
                ?directory,
                ?first,
                count,
                "what is not fantail's is in the spool's directory; it is left alone"
            );
        }
        if let Some((id, place)) = confirmed.filter(|_| recovered.ignored) {
            let there = spool.id();
            warn!(told = %id, %there, %place, "state.db tells of a place that the spool does not have: all of it counts as unconfirmed");
        }
        if recovered.cut_bytes > 0 {
            let bytes = recovered.cut_bytes;
            info!(
                bytes,
                "what was being spooled at the end was not whole, and does not count"
            );
        }
        for damage in &recovered.damaged {
            spool.say(damage);
        }
        Ok((spool, recovered))
    }

    /// What a process that was killed wrote last is read, but perhaps from the kernel's memory alone:
    /// it was not synced yet, or that failed, after which the kernel counts pages as clean that are not
    /// on the disk. So the last group is written once more, as it is, and synced before it counts.
    fn make_durable(&self, unproved: Option<u64>) -> io::Result<()> {
        let last = self.contents.segments.last();
        let Some((group, last)) = unproved.zip(last) else {
            return self.disk.sync();
        };
        // The first group was written together with the header.
        let mut at = if group <= HEADER_LEN { 0 } else { group };
        let end = last.end.min(last.size);
        let file = self.disk.open_to_write(&file_name(last.number))?;
        let mut buffer = vec![0; REWRITTEN_AT_ONCE];
        while at < end {
            let left = usize::try_from(end - at).unwrap_or(usize::MAX);
            let part = left.min(buffer.len());
            let read = read_full(&file, &mut buffer[..part], at)?;
            write_full(&file, &buffer[..read], at)?;
            at += part as u64;
        }
        file.sync()?;
        self.disk.sync()
    }

    /// Once a segment, however much of it is damaged.
    fn say(&mut self, damage: &Damage) {
        let bytes = damage.bytes;
        if damage.what == What::Missing {
            let (from, to) = (damage.at, damage.behind);
            error!(%from, %to, bytes, "a part of the spool is missing");
            return;
        }
        let index = self.contents.index_from(damage.at.segment);
        let Some(segment) = self.contents.segments.get_mut(index) else {
            return;
        };
        if !std::mem::replace(&mut segment.said, true) {
            let path = self.contents.path(damage.at.segment);
            let at = damage.at.offset;
            error!(?path, at, bytes, what = %damage.what, "a segment of the spool is damaged; the rest of it is used, and it will be kept under damaged/");
        }
    }

    /// Removes what a `drop_oldest` that was interrupted left behind.
    fn sweep(&mut self) {
        let names = self.disk.list().unwrap_or_default();
        for (name, _) in names.iter().filter(|(name, _)| recover::is_leftover(name)) {
            match self.disk.unlink(name) {
                Ok(()) => self.names_changed = true,
                Err(error) => warn!(name, %error, "a leftover in the spool cannot be removed"),
            }
        }
    }

    /// Its id. It is durable with the first segment.
    #[must_use]
    pub fn id(&self) -> SpoolId {
        self.contents.id
    }

    /// Appends entries, all or none: durable when it returns. Each place is where an entry begins.
    /// On an error nothing of them counts; the segment in which it happened is never appended to
    /// again, so that trying again writes elsewhere.
    ///
    /// # Errors
    /// There is no room, or a system call failed.
    pub fn append(&mut self, entries: &[Entry]) -> Result<Vec<Place>, AppendError> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        for entry in entries {
            let lacks = |range: &&Range| entry.record(range.file).is_none();
            if let Some(range) = entry.ranges.iter().find(lacks) {
                return Err(AppendError::NoRecord(range.file));
            }
        }
        let group = entries.iter().map(Entry::stored_len).sum::<u64>() + MARK_LEN;
        self.check_room(group)?;
        if self.is_too_full_for(group) {
            self.seal();
        }
        if self.active.is_some() {
            self.extend(entries)
        } else {
            self.start(entries)
        }
    }

    /// From now on it may become so large. It stays where it is.
    pub fn resize(&mut self, options: &Options) {
        let directory = std::mem::take(&mut self.options.directory);
        self.options = Options {
            directory,
            ..options.clone()
        };
    }

    /// Bytes after which a segment is closed.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        let most = self.options.bytes_max / SEGMENTS_LEAST;
        self.options.segment_bytes.min(most)
    }

    fn is_too_full_for(&self, group: u64) -> bool {
        let most = self.segment_bytes();
        let last = self.contents.segments.last();
        last.is_some_and(|last| !last.is_empty() && last.end.saturating_add(group) > most)
    }

    fn check_room(&self, group: u64) -> Result<(), AppendError> {
        let limit = self.limit(group).map_err(|source| AppendError::Io {
            stage: Stage::Space,
            path: self.options.directory.clone(),
            source,
        })?;
        limit.map_or(Ok(()), |limit| Err(AppendError::Full(limit)))
    }

    /// The limit that keeps a group of so many bytes out, if one does.
    fn limit(&self, group: u64) -> io::Result<Option<Limit>> {
        let footer = self
            .active
            .as_ref()
            .map(|active| active.summary.footer_len());
        let growth = group
            .saturating_add(HEADER_LEN)
            .saturating_add(footer.unwrap_or(0));
        let wanted = self.bytes().saturating_add(growth);
        // Where nothing is there is room for anything: a batch beyond the limit would wait for ever.
        let is_empty = self.contents.segments.iter().all(Segment::is_empty);
        if wanted > self.options.bytes_max && !is_empty {
            let most = self.options.bytes_max;
            return Ok(Some(Limit::Bytes { wanted, most }));
        }
        let space = self.disk.space()?;
        let least = self.options.free_min.of(space.total);
        let free = space.free.saturating_sub(growth);
        Ok((free < least).then_some(Limit::Free { free, least }))
    }

    /// Appends to the segment that there is.
    fn extend(&mut self, entries: &[Entry]) -> Result<Vec<Place>, AppendError> {
        let (Some(active), Some(last)) = (&mut self.active, self.contents.segments.last_mut())
        else {
            return self.start(entries);
        };
        let (number, at) = (last.number, last.end);
        let mut bytes = Vec::new();
        let key = Key::new(self.contents.id, number);
        let written = group_of(&key, &mut bytes, at, entries).and_then(|offsets| {
            write_full(&active.file, &bytes, at).map_err(failed(Stage::Write))?;
            active.file.sync().map_err(failed(Stage::Sync))?;
            Ok(offsets)
        });
        match written {
            Ok(offsets) => {
                last.end = at + bytes.len() as u64;
                last.size = last.size.max(last.end);
                self.count(entries);
                Ok(places(number, &offsets))
            }
            Err(failed) => {
                self.abandon();
                Err(failed.at(self.contents.path(number)))
            }
        }
    }

    /// Appends to a new segment; without entries, makes one that has none.
    fn start(&mut self, entries: &[Entry]) -> Result<Vec<Place>, AppendError> {
        let number = self.contents.next_number;
        let path = self.contents.path(number);
        let key = self.contents.key(number);
        let header = Header {
            content: Content::Batches,
            id: self.contents.id,
            number,
            previous: self.contents.segments.last().map(Segment::end),
        };
        let mut bytes = header.encode();
        let offsets = if entries.is_empty() {
            Vec::new()
        } else {
            group_of(&key, &mut bytes, HEADER_LEN, entries)
                .map_err(|failed| failed.at(path.clone()))?
        };
        // Also one that could not be made is never made again: a crash may bring it back.
        self.contents.next_number = number.saturating_add(1);
        let name = file_name(number);
        let file = self.disk.create(&name).map_err(|source| AppendError::Io {
            stage: Stage::Create,
            path: path.clone(),
            source,
        })?;
        let written = write_full(&file, &bytes, 0)
            .map_err(failed(Stage::Write))
            .and_then(|()| file.sync().map_err(failed(Stage::Sync)))
            .and_then(|()| self.disk.sync().map_err(failed(Stage::Sync)));
        if let Err(failed) = written {
            // What stays there nevertheless is passed over by what the next segment says.
            let _ = self.disk.unlink(&name);
            self.names_changed = true;
            return Err(failed.at(path));
        }
        let size = bytes.len() as u64;
        self.contents.segments.push(Segment {
            number,
            content: Content::Batches,
            size,
            end: size,
            sealed: false,
            previous: header.previous,
            gap: None,
            damaged: false,
            said: false,
            totals: segment::Totals::default(),
            files: 0,
        });
        self.active = Some(Active {
            file,
            summary: Summary::default(),
        });
        self.names_changed = false;
        self.count(entries);
        Ok(places(number, &offsets))
    }

    fn count(&mut self, entries: &[Entry]) {
        if let (Some(active), Some(last)) = (&mut self.active, self.contents.segments.last_mut()) {
            for entry in entries {
                active.summary.add(entry);
            }
            last.totals = active.summary.totals;
            last.files = active.summary.files.len();
        }
    }

    /// Lets the segment be in which something went wrong. What was durable in it before still is.
    fn abandon(&mut self) {
        let (Some(active), Some(last)) = (self.active.take(), self.contents.segments.last_mut())
        else {
            return;
        };
        // Only to have the room back; what the next segment says of this one is what counts.
        let _ = active.file.truncate(last.end);
        last.size = active.file.size().unwrap_or(last.size);
    }

    /// The entry at or behind `place`, which is one that `append`, `read` or `open` gave.
    ///
    /// # Errors
    /// The segment cannot be read.
    pub fn read(&mut self, place: Place) -> Result<Next, ReadError> {
        let next = self.contents.read(&self.disk, place);
        if let Ok(Next::Damaged(damage)) = &next {
            self.say(damage);
        }
        next
    }

    /// Where the first segment's first entry is, or will be.
    #[must_use]
    pub fn begin(&self) -> Place {
        self.contents.begin()
    }

    /// Behind the last entry.
    #[must_use]
    pub fn end(&self) -> Place {
        self.contents.end()
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.contents.bytes()
    }

    /// How many there are.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.contents.segments.len()
    }

    /// Whether a group of entries of so many bytes ([`Entry::stored_len`]) would fit now.
    ///
    /// # Errors
    /// As `statvfs(3)`.
    pub fn has_room(&self, bytes: u64) -> io::Result<bool> {
        Ok(self.limit(bytes.saturating_add(MARK_LEN))?.is_none())
    }

    /// Closes the segment that is appended to, if anything is in it: it gets its footer, and can be
    /// released. Without a footer, for want of room perhaps, it is closed too.
    pub fn seal(&mut self) {
        let Some(last) = self.contents.segments.last_mut() else {
            return;
        };
        let Some(active) = self.active.take_if(|_| !last.is_empty()) else {
            return;
        };
        let key = Key::new(self.contents.id, last.number);
        let Some(footer) = key.footer(last.end, &active.summary) else {
            return;
        };
        let written = write_full(&active.file, &footer, last.end).and_then(|()| active.file.sync());
        if let Err(error) = written {
            let number = last.number;
            warn!(number, %error, "a segment of the spool could not be closed well; it is read all the same");
            let _ = active.file.truncate(last.end);
        } else {
            last.sealed = true;
        }
        last.size = active.file.size().unwrap_or(last.end);
    }

    /// Everything before `place` is done with. Unlinks the segments that lie wholly before it. The one
    /// that is appended to goes only when nothing at all is left; then an empty one takes its place,
    /// which keeps id and numbers.
    ///
    /// # Errors
    /// As `unlink(2)` and `fsync(2)`; what is not unlinked yet is, the next time.
    pub fn release(&mut self, place: Place) -> io::Result<()> {
        while let Some(first) = self.contents.segments.first() {
            if first.end() > place || self.is_needed_still()? {
                break;
            }
            self.remove_segment(0)?;
        }
        if self.names_changed {
            self.disk.sync()?;
            self.names_changed = false;
        }
        Ok(())
    }

    /// Whether the first segment is the last one too, and stays: because nothing is in it.
    /// Otherwise the next one is made.
    fn is_needed_still(&mut self) -> io::Result<bool> {
        let [only] = &self.contents.segments[..] else {
            return Ok(false);
        };
        if only.is_empty() {
            return Ok(true);
        }
        self.active = None;
        match self.start(&[]) {
            Ok(_) => Ok(false),
            Err(AppendError::Io { source, .. }) => Err(source),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn remove_segment(&mut self, index: usize) -> io::Result<()> {
        let segment = &self.contents.segments[index];
        let (number, name) = (segment.number, file_name(segment.number));
        if segment.damaged {
            self.disk.set_aside(&name, ASIDE_KEPT)?;
        }
        match self.disk.unlink(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.names_changed = true;
        self.contents.close(number);
        self.contents.segments.remove(index);
        Ok(())
    }

    /// Makes room by giving up the oldest closed segment at or behind `from`; if only the one that is
    /// appended to is left, that. In its place stands a small one that accounts for its ranges without
    /// lines, so that order and tiling stay. Returns the ranges that had lines, in order per file;
    /// nothing if there is no such segment.
    ///
    /// # Errors
    /// A system call failed: the segment is there as before.
    pub fn drop_oldest(&mut self, from: Place) -> io::Result<Option<Vec<Range>>> {
        let Some(index) = self.oldest_from(from) else {
            return Ok(None);
        };
        if index + 1 == self.contents.segments.len() {
            self.seal();
            self.active = None;
        }
        let segment = self.contents.segments[index].clone();
        let mut left = Left::default();
        let before = index.checked_sub(1).filter(|before| {
            let before = &self.contents.segments[*before];
            before.content == Content::Dropped && before.begin() >= from
        });
        if let Some(before) = before {
            self.gather(before, &mut left)?;
        }
        self.gather(index, &mut left)?;
        let previous = before.map_or(segment.previous, |before| {
            self.contents.segments[before].previous
        });
        self.replace(index, previous, &left)?;
        // What has been joined to this one goes when this one is durable. Should it stay, its ranges
        // only repeat.
        let joined = self.disk.sync().and_then(|()| match before {
            Some(before) => self.remove_segment(before),
            None => Ok(()),
        });
        if let Err(error) = joined {
            self.names_changed = true;
            warn!(%error, "what was given up of the spool may still be there after a crash");
        }
        info!(
            segment = segment.number,
            ranges = left.dropped.len(),
            "the spool is full: its oldest segment was given up"
        );
        Ok(Some(left.dropped))
    }

    fn oldest_from(&self, from: Place) -> Option<usize> {
        self.contents.segments.iter().position(|segment| {
            segment.content == Content::Batches && !segment.is_empty() && segment.begin() >= from
        })
    }

    /// What has to be accounted for when a segment is given up.
    fn gather(&self, index: usize, left: &mut Left) -> io::Result<()> {
        let segment = &self.contents.segments[index];
        let file = self.disk.open(&file_name(segment.number))?;
        let key = self.contents.key(segment.number);
        let mut walk = Walk::new(&file, key, HEADER_LEN, segment.end);
        loop {
            match walk.next()? {
                Step::End => return Ok(()),
                Step::Record { head, meta, .. } if head.kind == Kind::Entry => {
                    if let Some(entry) = decode_entry(&meta, Bytes::new()) {
                        left.add(&entry);
                    }
                }
                Step::Record { .. } | Step::Damaged { .. } => {}
            }
        }
    }

    /// Puts a segment that holds what is left in the place of the one that is given up.
    fn replace(&mut self, index: usize, previous: Option<Place>, left: &Left) -> io::Result<()> {
        let segment = &self.contents.segments[index];
        let number = segment.number;
        let (key, name) = (self.contents.key(number), file_name(number));
        let beside = name.replace(".seg", ".tmp");
        let header = Header {
            content: Content::Dropped,
            id: self.contents.id,
            number,
            previous,
        };
        let mut bytes = header.encode();
        let mut summary = Summary::default();
        if !left.entries.is_empty() {
            let group = key.put_group(&mut bytes, HEADER_LEN, &left.entries);
            group.ok_or(io::ErrorKind::FileTooLarge)?;
        }
        for entry in &left.entries {
            summary.add(entry);
        }
        let end = bytes.len() as u64;
        let footer = key.footer(end, &summary);
        bytes.extend(footer.ok_or(io::ErrorKind::FileTooLarge)?);
        if segment.damaged {
            self.disk.set_aside(&name, ASIDE_KEPT)?;
        }
        let written = self.disk.create(&beside).and_then(|file| {
            write_full(&file, &bytes, 0)?;
            file.sync()?;
            self.disk.rename(&beside, &name)
        });
        if let Err(error) = written {
            let _ = self.disk.unlink(&beside);
            return Err(error);
        }
        self.contents.close(number);
        let segment = &mut self.contents.segments[index];
        *segment = Segment {
            content: Content::Dropped,
            size: bytes.len() as u64,
            end,
            sealed: true,
            previous,
            damaged: false,
            said: false,
            totals: summary.totals,
            files: summary.files.len(),
            ..segment.clone()
        };
        Ok(())
    }
}

impl FreeMin {
    /// Bytes that must stay free where there are `total`.
    fn of(self, total: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::PartsPerMillion(parts) => {
                let bytes = u128::from(total) * u128::from(parts) / 1_000_000;
                u64::try_from(bytes).unwrap_or(u64::MAX)
            }
        }
    }
}

/// What is left of entries that are given up: their ranges, as few as tile the same bytes.
#[derive(Debug, Default)]
struct Left {
    /// One range in each, in order per file.
    entries: Vec<Entry>,
    /// The last entry of each file.
    last: HashMap<FileId, usize>,
    /// What had lines, or could have.
    dropped: Vec<Range>,
    /// The last of these of each file.
    last_dropped: HashMap<FileId, usize>,
}

impl Left {
    fn add(&mut self, entry: &Entry) {
        for range in &entry.ranges {
            let Some(record) = entry.record(range.file) else {
                continue;
            };
            if range.skipped.is_none() {
                self.drop(range);
            }
            let range = Range {
                skipped: range.skipped.or(Some(Skipped::DropOldest)),
                ..range.clone()
            };
            let last = self.last.get(&range.file).map(|at| &mut self.entries[*at]);
            if let Some(last) = last
                && let [joined] = &mut last.ranges[..]
                && join(joined, &range)
            {
                last.closed_at = entry.closed_at;
                last.files = vec![Arc::clone(record)];
                continue;
            }
            self.last.insert(range.file, self.entries.len());
            self.entries.push(Entry {
                source: Arc::clone(&entry.source),
                ranges: vec![range],
                lines: 0,
                priority: 0,
                bytes: 0,
                format: entry.format,
                coding: None,
                body: Bytes::new(),
                closed_at: entry.closed_at,
                files: vec![Arc::clone(record)],
            });
        }
    }

    fn drop(&mut self, range: &Range) {
        let range = Range {
            skipped: Some(Skipped::DropOldest),
            ..range.clone()
        };
        let last = self.last_dropped.get(&range.file);
        if !last.is_some_and(|last| join(&mut self.dropped[*last], &range)) {
            self.last_dropped.insert(range.file, self.dropped.len());
            self.dropped.push(range);
        }
    }
}

/// Makes two ranges one, if the second goes on where the first ends.
fn join(range: &mut Range, next: &Range) -> bool {
    let goes_on = range.file == next.file
        && range.skipped == next.skipped
        && range.end == next.start
        && !range.eof;
    if goes_on {
        (range.end, range.proof, range.eof) = (next.end, next.proof, next.eof);
    }
    goes_on
}

/// What failed, without the file on which.
#[derive(Debug)]
struct Failed(Stage, io::Error);

impl Failed {
    fn at(self, path: PathBuf) -> AppendError {
        let Self(stage, source) = self;
        AppendError::Io {
            stage,
            path,
            source,
        }
    }
}

fn failed(stage: Stage) -> impl Fn(io::Error) -> Failed {
    move |source| Failed(stage, source)
}

/// Puts a group behind `bytes`. Returns where its entries begin.
fn group_of(
    key: &Key,
    bytes: &mut Vec<u8>,
    at: u64,
    entries: &[Entry],
) -> Result<Vec<u64>, Failed> {
    let group = key.put_group(bytes, at, entries);
    group.ok_or_else(|| Failed(Stage::Write, io::ErrorKind::FileTooLarge.into()))
}

fn places(segment: u64, offsets: &[u64]) -> Vec<Place> {
    let place = |offset: &u64| Place {
        segment,
        offset: *offset,
    };
    offsets.iter().map(place).collect()
}

/// The name of a segment.
fn file_name(number: u64) -> String {
    format!("{number:020}.seg")
}

/// The number in the name of a segment, if it is one.
fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}
