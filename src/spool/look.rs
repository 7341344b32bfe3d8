//! A look at a spool from outside: without its lock, beside a daemon that goes on using it.

use std::path::Path;

use super::contents::Contents;
use super::disk::{Disk, RealDisk};
use super::segment::Content;
use super::{Damage, Next, Place, ReadError, SpoolError, SpoolId, recover};

/// What is in a spool.
#[derive(Debug)]
pub struct Look {
    disk: RealDisk,
    contents: Contents<<RealDisk as Disk>::File>,
    /// Damage that showed without reading bodies; reading meets it again.
    pub damaged: Vec<Damage>,
    /// Bytes behind the last commit: left by a crash, or being written now.
    pub cut_bytes: u64,
}

/// One segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentLook {
    /// Its number.
    pub number: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Entries: messages.
    pub entries: u64,
    /// Lines in them.
    pub lines: u64,
    /// Files of which it has something.
    pub files: usize,
    /// When its first batch was closed, in seconds since 1970; nothing if it has none.
    pub first_closed_at: Option<u64>,
    /// What it is.
    pub state: SegmentState,
    /// Where its first entry is.
    pub begin: Place,
    /// Where its last entry ends.
    pub end: Place,
}

/// What a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentState {
    /// It has its footer.
    Sealed,
    /// It has none: it is appended to, or was when the daemon ended.
    Open,
    /// It was given up; what is left says so.
    Dropped,
    /// Something in it cannot be read.
    Damaged,
}

/// Looks at the spool in `directory`.
///
/// # Errors
/// It cannot be read, or is of a newer format, or holds planted links.
pub fn look(directory: &Path) -> Result<Look, SpoolError> {
    let disk = RealDisk::look(directory).map_err(|source| SpoolError::Io {
        path: directory.to_path_buf(),
        source,
    })?;
    let survey = recover::survey(&disk, directory, None)?;
    Ok(Look {
        disk,
        contents: survey.contents,
        damaged: survey.recovered.damaged,
        cut_bytes: survey.recovered.cut_bytes,
    })
}

impl Look {
    /// The spool's id.
    #[must_use]
    pub fn id(&self) -> SpoolId {
        self.contents.id
    }

    /// Its segments, in order.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentLook> {
        let segments = self.contents.segments.iter();
        segments
            .map(|segment| SegmentLook {
                number: segment.number,
                bytes: segment.size,
                entries: segment.totals.entries,
                lines: segment.totals.lines,
                files: segment.files,
                first_closed_at: (segment.totals.entries > 0)
                    .then_some(segment.totals.first_closed_at),
                state: match segment.content {
                    _ if segment.damaged => SegmentState::Damaged,
                    Content::Dropped => SegmentState::Dropped,
                    Content::Batches if segment.sealed => SegmentState::Sealed,
                    Content::Batches => SegmentState::Open,
                },
                begin: segment.begin(),
                end: segment.end(),
            })
            .collect()
    }

    /// Where the first entry is.
    #[must_use]
    pub fn begin(&self) -> Place {
        self.contents.begin()
    }

    /// The entry at or behind `place`.
    ///
    /// # Errors
    /// The segment cannot be read.
    pub fn read(&mut self, place: Place) -> Result<Next, ReadError> {
        self.contents.read(&self.disk, place)
    }
}
