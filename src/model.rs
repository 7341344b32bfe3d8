//! The nouns that every stage shares: ids, paths, proofs, ranges and batches. Knows no stage.

pub mod credit;

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use credit::Permit;

/// How many bytes before an offset are compared and hashed to prove that a file still holds what
/// was read from it.
pub const PROOF_LEN: usize = 64;

/// Declares a 128-bit id that is shown as 32 lower-case hex digits.
macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<Self, NotAnId> {
                parse_hex(text).map($name).ok_or(NotAnId)
            }
        }
    };
}

hex_id! {
    /// One installation: a state directory.
    AgentId
}
hex_id! {
    /// One generation of one log file. Random; durable before its first byte is published.
    FileId
}
hex_id! {
    /// Names the ranges of a message: the same ranges have the same id on every attempt.
    MessageId
}

hex_id! {
    /// One spool: its directory from the first segment on. Random; in the header of each segment.
    SpoolId
}

/// Where an entry of the spool begins. Ordered as entries were appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpoolPlace {
    /// Number of the segment.
    pub segment: u64,
    /// Bytes from the beginning of its file.
    pub offset: u64,
}

impl fmt::Display for SpoolPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {} at byte {}", self.segment, self.offset)
    }
}

impl AgentId {
    /// A new random id.
    ///
    /// # Errors
    /// The kernel's random source failed.
    pub fn random() -> Result<Self, getrandom::Error> {
        random_bytes().map(Self)
    }
}

impl SpoolId {
    /// A new random id.
    ///
    /// # Errors
    /// The kernel's random source failed.
    pub fn random() -> Result<Self, getrandom::Error> {
        random_bytes().map(Self)
    }
}

impl FileId {
    /// A new random id.
    ///
    /// # Errors
    /// The kernel's random source failed.
    pub fn random() -> Result<Self, getrandom::Error> {
        random_bytes().map(Self)
    }
}

fn random_bytes() -> Result<[u8; 16], getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

fn parse_hex(text: &str) -> Option<[u8; 16]> {
    let digits = text.as_bytes();
    if digits.len() != 32 {
        return None;
    }
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(bytes)
}

/// A text that should have been 32 hex digits.
#[derive(Debug, thiserror::Error)]
#[error("not an id of 32 hex digits")]
pub struct NotAnId;

/// The path under which a generation was first matched. Never changes; any bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogPath(Arc<Path>);

impl LogPath {
    /// The path's bytes as the file system has them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_os_str().as_bytes()
    }

    /// The path.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// The path from its bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(Path::new(OsStr::from_bytes(bytes)).into())
    }
}

impl From<PathBuf> for LogPath {
    fn from(path: PathBuf) -> Self {
        Self(path.into())
    }
}

impl From<&Path> for LogPath {
    fn from(path: &Path) -> Self {
        Self(path.into())
    }
}

impl fmt::Debug for LogPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A hash of some bytes of a file, and how many there were. A hash, not the bytes: state.db must
/// not hold what a log line holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Proof {
    /// How many bytes were hashed.
    pub len: u32,
    /// The first half of their SHA-256.
    pub hash: [u8; 16],
}

impl Proof {
    /// The proof of `bytes`, all of them.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let digest = Sha256::digest(bytes);
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest[..16]);
        Self {
            len: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            hash,
        }
    }

    /// The proof of the end of `bytes`: its last [`PROOF_LEN`] bytes or fewer.
    #[must_use]
    pub fn of_end(bytes: &[u8]) -> Self {
        Self::of(&bytes[bytes.len().saturating_sub(PROOF_LEN)..])
    }
}

/// The proof of no bytes, which every beginning of a file gives.
impl Default for Proof {
    fn default() -> Self {
        Self::of(&[])
    }
}

/// How far something is known about a file, with the proof of the bytes right before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Mark {
    /// Bytes from the beginning of the file.
    pub offset: u64,
    /// Proof of the bytes right before `offset`.
    pub proof: Proof,
}

impl Mark {
    /// The one that is further on.
    #[must_use]
    pub fn max_by_offset(self, other: Self) -> Self {
        if other.offset > self.offset {
            other
        } else {
            self
        }
    }
}

/// Counts the rewinds of a file. What belongs to an older epoch is discarded.
pub type Epoch = u32;

/// Why bytes are accounted for without being delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Skipped {
    /// They were there before `read_from = "end"` looked first.
    ReadFrom,
    /// They were there while the file counted as too old to be read.
    Ignored,
    /// The file was truncated before they could be read.
    Truncated,
    /// They are zeros that nobody wrote: a writer went on behind the place where its file was cut.
    Hole,
    /// The file was deleted before they could be read.
    Deleted,
    /// What they were compressed into, or the spool that held them, is damaged.
    Damaged,
    /// The spool was full, and the oldest of it was given up.
    DropOldest,
}

impl Skipped {
    /// The word on the wire and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReadFrom => "read_from",
            Self::Ignored => "ignored",
            Self::Truncated => "truncated",
            Self::Hole => "hole",
            Self::Deleted => "deleted",
            Self::Damaged => "damaged",
            Self::DropOldest => "drop_oldest",
        }
    }
}

/// Bytes `[start, end)` of one file that a message accounts for.
#[derive(Clone, Debug)]
pub struct Range {
    /// Which generation.
    pub file: FileId,
    /// Its path.
    pub path: LogPath,
    /// First byte.
    pub start: u64,
    /// One past the last byte; equal to `start` only to say `eof` afterwards.
    pub end: u64,
    /// Set when no line of these bytes is delivered.
    pub skipped: Option<Skipped>,
    /// This generation ends here.
    pub eof: bool,
    /// The epoch of the file when the bytes were read.
    pub epoch: Epoch,
    /// Proof of the bytes right before `end`.
    pub proof: Proof,
}

impl Range {
    /// The mark that stands once this range and all before it are safe.
    #[must_use]
    pub fn end_mark(&self) -> Mark {
        Mark {
            offset: self.end,
            proof: self.proof,
        }
    }
}

/// How lines stand in a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A JSON object a line, each with its LF.
    #[default]
    Ndjson,
    /// One JSON object, of one line.
    Json,
    /// The bytes as they stand in the file, all of one file.
    Lines,
}

/// What a body was packed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// How bodies are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compression {
    /// With what.
    pub coding: Coding,
    /// How hard: one of the coding's levels.
    pub level: u8,
}

/// The lines that travel in one AMQP message. Has exactly one holder; dropped without a receipt,
/// it was not delivered.
#[derive(Debug)]
pub struct Batch {
    /// Name of the source: the routing key.
    pub source: Arc<str>,
    /// What the message accounts for, in offset order per file.
    pub ranges: Vec<Range>,
    /// Lines in the body.
    pub lines: u64,
    /// AMQP priority, 1 to 9; 0 for none.
    pub priority: u8,
    /// Length of the body before compression.
    pub bytes: u64,
    /// How they stand in the body.
    pub format: Format,
    /// What the body is packed with, if it is.
    pub coding: Option<Coding>,
    /// The message's body.
    pub body: Bytes,
    /// When the batch was closed: seconds since 1970.
    pub closed_at: u64,
    /// Where it lies in the spool, if it came from there: then it can be dropped without being read
    /// from its files again.
    pub stored: Option<Stored>,
    /// Place in the window, given back when this batch is acknowledged or dropped.
    pub permit: Permit,
}

/// Where a batch lies in the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its entry begins there.
    pub at: SpoolPlace,
    /// What comes behind it is behind this place.
    pub behind: SpoolPlace,
}

/// What proves that an open file is the one that we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Device number.
    pub dev: u64,
    /// Inode number. Holds only while a descriptor is held: file systems use them again at once.
    pub ino: u64,
    /// Birth time in nanoseconds since 1970, where the file system knows it.
    pub born: Option<i64>,
    /// Proof of the first bytes: up to [`HEAD_LEN`], fewer while the file is shorter.
    pub head: Proof,
}

/// How many of a file's first bytes its head proof covers, once it has them.
pub const HEAD_LEN: usize = 1024;

/// What is durable about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRecord {
    /// Its id.
    pub id: FileId,
    /// The source that matched it.
    pub source: Arc<str>,
    /// Its path.
    pub path: LogPath,
    /// When it was found first, in nanoseconds since 1970.
    pub found: i64,
    /// Its proofs.
    pub identity: Identity,
    /// Where its lines begin to be delivered; beyond 0 only with `read_from = "end"`.
    pub begins: Mark,
    /// How far it is confirmed.
    pub confirmed: Mark,
    /// It ends there.
    pub ended: bool,
}

impl FileRecord {
    /// How long it is known to have been, at least.
    #[must_use]
    pub fn least_size(&self) -> u64 {
        let head = u64::from(self.identity.head.len);
        head.max(self.begins.offset).max(self.confirmed.offset)
    }
}

/// How far a file is confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// Which file.
    pub file: FileId,
    /// Up to where.
    pub mark: Mark,
    /// Its end was said and confirmed too.
    pub eof: bool,
}

/// An order to read a file again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewind {
    /// Which file.
    pub file: FileId,
    /// Its epoch from now on.
    pub epoch: Epoch,
    /// From where.
    pub to: Mark,
}
