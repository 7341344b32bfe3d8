//! What an operator is told of the watched set: how long each file is, how far it is read and
//! confirmed, and how old what is not confirmed is. Changes nothing.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{Tail, Tailed};
use crate::model::{FileId, LogPath, Skipped};
use crate::sys;

/// Bytes read within this time of each other are told as equally old.
const AGE_STEP: Duration = Duration::from_secs(1);
/// So many steps are kept of one file; then each two become one.
const STEPS_MAX: usize = 32;

/// One file, at one moment.
#[derive(Debug)]
pub struct FileReport {
    /// Its path.
    pub path: LogPath,
    /// Its id; nothing for a file that cannot be opened.
    pub id: Option<FileId>,
    /// Index of its source.
    pub source: usize,
    /// Bytes on disk, or, of a generation that was overwritten, those that were read.
    pub size: u64,
    /// Up to where it was read.
    pub read: u64,
    /// Up to where it is confirmed, durably.
    pub confirmed: u64,
    /// How long its oldest unconfirmed byte has been known. Of bytes that were not read yet only
    /// the last write is known, so that this is a lower bound.
    pub oldest_unconfirmed: Option<Duration>,
    /// What it is.
    pub condition: Condition,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Under the name that it was first matched under.
    Active,
    /// Renamed, or its inode holds another generation now.
    Rotated,
    /// Has no name any more.
    Deleted,
    /// Somebody compressed it.
    Compressed,
    /// Cannot be opened, or reading it failed.
    Unreadable,
}

impl Tail {
    /// Every file, and every path that cannot be opened, in no order. One `statx` a file.
    #[must_use]
    pub fn report(&self, now: Instant) -> Vec<FileReport> {
        let since_1970 = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let file = |(id, file): (&FileId, &Tailed)| {
            let wanted = file.wanted_to.is_none();
            wanted.then(|| file.report(*id, now, since_1970))
        };
        let refused = self.refused.iter().map(|(path, (source, _))| FileReport {
            path: LogPath::from(path.as_path()),
            id: None,
            source: *source,
            size: 0,
            read: 0,
            confirmed: 0,
            oldest_unconfirmed: None,
            condition: Condition::Unreadable,
        });
        let closed = self.left_alone.values().filter_map(|left| {
            let (id, found) = (left.known?, left.closed.as_ref()?);
            Some(FileReport {
                path: LogPath::from(found.path.as_path()),
                id: Some(id),
                source: found.source,
                size: found.size,
                read: found.size,
                confirmed: found.size,
                oldest_unconfirmed: None,
                condition: Condition::Active,
            })
        });
        let open = self.files.iter().filter_map(file);
        open.chain(refused).chain(closed).collect()
    }
}

impl Tail {
    /// Compressed files of a source that could not be unpacked.
    #[must_use]
    pub fn damaged_archives(&self, source: usize) -> u64 {
        self.damaged.get(source).copied().unwrap_or_default()
    }
}

impl Tailed {
    fn report(&self, id: FileId, now: Instant, since_1970: Duration) -> FileReport {
        let status = self
            .reader
            .as_ref()
            .and_then(|reader| sys::status(reader.file()).ok());
        let read = self
            .reader
            .as_ref()
            .map_or(self.batched.offset, |reader| reader.read_to());
        let size = match self.archive() {
            // How much there is shows at its end.
            Some(archive) => archive.end().unwrap_or(read),
            None => status.map_or(read, |status| status.size),
        };
        let confirmed = self.confirmed.offset;
        let written = status.map_or(Duration::ZERO, |status| {
            let modified = Duration::from_nanos(status.modified.max(0).cast_unsigned());
            since_1970.saturating_sub(modified)
        });
        let known = self.ages.oldest(now).unwrap_or(written);
        let condition = if self.failure.is_some() {
            Condition::Unreadable
        } else if status.is_some_and(|status| status.links == 0)
            || status.is_none() && self.lost_as == Skipped::Deleted
        {
            Condition::Deleted
        } else if self.archive().is_some() {
            Condition::Compressed
        } else if self.is_rotated() {
            Condition::Rotated
        } else {
            Condition::Active
        };
        FileReport {
            path: self.origin.path.clone(),
            id: Some(id),
            source: self.source,
            size,
            read,
            confirmed,
            oldest_unconfirmed: (size > confirmed).then_some(known),
            condition,
        }
    }
}

/// When the bytes of a file that are not confirmed were read.
#[derive(Debug, Default)]
pub(super) struct Ages {
    /// Bytes up to the offset, and from the previous one on, were first read then.
    steps: VecDeque<(u64, Instant)>,
}

impl Ages {
    /// Bytes up to `to` were read.
    pub(super) fn read(&mut self, to: u64, now: Instant) {
        match self.steps.back_mut() {
            // Read again.
            Some((end, _)) if *end >= to => return,
            Some((end, at)) if now.saturating_duration_since(*at) < AGE_STEP => {
                *end = to;
                return;
            }
            _ => {}
        }
        if self.steps.len() == STEPS_MAX {
            let pairs = self.steps.make_contiguous().chunks(2);
            let merged = |pair: &[(u64, Instant)]| (pair[pair.len() - 1].0, pair[0].1);
            self.steps = pairs.map(merged).collect();
        }
        self.steps.push_back((to, now));
    }

    /// Bytes up to `to` are confirmed.
    pub(super) fn confirmed(&mut self, to: u64) {
        while self.steps.pop_front_if(|(end, _)| *end <= to).is_some() {}
        if self.steps.is_empty() {
            // Ten thousand idle files must not hold ten thousand buffers.
            self.steps = VecDeque::new();
        }
    }

    fn oldest(&self, now: Instant) -> Option<Duration> {
        let (_, at) = self.steps.front()?;
        Some(now.saturating_duration_since(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_is_that_of_the_oldest_unconfirmed_byte() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut ages = Ages::default();
        assert_eq!(ages.oldest(at(0)), None);
        ages.read(100, at(0));
        ages.read(200, at(10));
        ages.read(150, at(11));
        assert_eq!(ages.oldest(at(20)), Some(Duration::from_secs(20)));
        ages.confirmed(99);
        assert_eq!(ages.oldest(at(20)), Some(Duration::from_secs(20)));
        ages.confirmed(100);
        assert_eq!(ages.oldest(at(20)), Some(Duration::from_secs(10)));
        ages.confirmed(200);
        assert_eq!(ages.oldest(at(20)), None);
    }

    #[test]
    fn a_long_backlog_takes_little_memory_and_never_looks_younger() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut ages = Ages::default();
        for second in 0..100_000 {
            ages.read(second + 1, at(second));
        }
        assert!(ages.steps.len() <= STEPS_MAX);
        for second in (0..99_999).step_by(977) {
            ages.confirmed(second);
            let oldest = ages.oldest(at(100_000)).expect("not confirmed");
            assert!(oldest >= Duration::from_secs(100_000 - second));
        }
    }
}
