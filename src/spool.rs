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
//! | opening | nothing is written, leftovers of `drop_oldest` are removed | the same as before |
//!
//! A segment is appended to only by the process that made it: whatever a crash or an error left at
//! its end stays as it is, and the next segment says how far this one counts.

pub mod disk;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::model::credit::Permit;
use crate::model::{Batch, Coding, FileRecord, Format, LogPath, Mark, Range};
pub use crate::model::{SpoolId, SpoolPlace as Place};
pub use disk::{Disk, RealDisk};

/// The format of segments that this version writes.
pub const FORMAT: u32 = 1;

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

    /// The batch again, its ranges in epoch 0.
    #[must_use]
    pub fn into_batch(self, permit: Permit) -> Batch {
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
    NoRecord(crate::model::FileId),
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
    id: SpoolId,
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
        disk: D,
        options: Options,
        confirmed: Option<(SpoolId, Place)>,
    ) -> Result<(Self, Recovered), SpoolError> {
        let _ = (disk, confirmed);
        Err(unbuilt(&options.directory))
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> SpoolId {
        self.id
    }

    /// Appends entries, all or none: durable when it returns. Each place is where an entry begins.
    /// On an error nothing of them counts; the segment in which it happened is never appended to
    /// again, so that trying again writes elsewhere.
    ///
    /// # Errors
    /// There is no room, or a system call failed.
    pub fn append(&mut self, entries: &[Entry]) -> Result<Vec<Place>, AppendError> {
        let _ = entries;
        Err(AppendError::Io {
            stage: Stage::Create,
            path: self.options.directory.clone(),
            source: io::Error::other("not built yet"),
        })
    }

    /// The entry at or behind `place`.
    ///
    /// # Errors
    /// The segment cannot be read.
    pub fn read(&mut self, place: Place) -> Result<Next, ReadError> {
        Err(ReadError {
            path: self.options.directory.clone(),
            source: io::Error::other("not built yet"),
            behind: place,
        })
    }

    /// Where the first segment's first entry is, or would be.
    #[must_use]
    pub fn begin(&self) -> Place {
        Place {
            segment: 1,
            offset: 0,
        }
    }

    /// Behind the last entry.
    #[must_use]
    pub fn end(&self) -> Place {
        self.begin()
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        0
    }

    /// How many there are.
    #[must_use]
    pub fn segments(&self) -> usize {
        0
    }

    /// Whether entries of so many bytes ([`Entry::stored_len`]) would fit now.
    ///
    /// # Errors
    /// As `statvfs(3)`.
    pub fn has_room(&self, bytes: u64) -> io::Result<bool> {
        let _ = bytes;
        self.disk.space()?;
        Err(io::Error::other("not built yet"))
    }

    /// Closes the segment that is appended to, if anything is in it: it gets its footer, and can be
    /// released. Without a footer, for want of room perhaps, it is closed too.
    pub fn seal(&mut self) {}

    /// Everything before `place` is done with. Unlinks the segments that lie wholly before it, but
    /// for the one that is appended to.
    ///
    /// # Errors
    /// As `unlink(2)` and `fsync(2)`; what is not unlinked yet is, the next time.
    pub fn release(&mut self, place: Place) -> io::Result<()> {
        let _ = place;
        Err(io::Error::other("not built yet"))
    }

    /// Makes room by giving up the oldest closed segment at or behind `from`. In its place stands a
    /// small one that accounts for its ranges without lines, so that order and tiling stay. Returns
    /// the ranges that had lines, in order per file; nothing if there is no such segment.
    ///
    /// # Errors
    /// A system call failed: the segment is there as before.
    pub fn drop_oldest(&mut self, from: Place) -> io::Result<Option<Vec<Range>>> {
        let _ = from;
        Err(io::Error::other("not built yet"))
    }
}

fn unbuilt(path: &Path) -> SpoolError {
    SpoolError::Io {
        path: path.to_path_buf(),
        source: io::Error::other("not built yet"),
    }
}

/// The number in the name of a segment, if it is one.
fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}
