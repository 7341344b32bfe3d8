//! Which files have a group of lines (multiline) to which more may come, and until when it is
//! waited for.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::lines::Progress;
use crate::model::FileId;

/// The groups of one lane that have begun.
#[derive(Debug, Default)]
pub(super) struct Groups {
    begun: HashMap<FileId, Begun>,
    due: BTreeSet<(Instant, FileId)>,
}

/// A group that has begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    /// Where it begins in the file.
    start: u64,
    /// What is known of it.
    pub(super) progress: Progress,
    due: Instant,
}

impl Groups {
    /// What is known of the group of `file` that begins at `start`.
    pub(super) fn at(&self, file: FileId, start: u64) -> Option<Begun> {
        let begun = self.begun.get(&file).copied();
        begun.filter(|begun| begun.start == start)
    }

    /// More of a file was looked at: its group begins at `start`, and is waited for from now on.
    pub(super) fn set(
        &mut self,
        file: FileId,
        start: u64,
        progress: Progress,
        timeout: Duration,
        now: Instant,
    ) {
        self.clear(file);
        let due = now + timeout;
        let begun = Begun {
            start,
            progress,
            due,
        };
        self.begun.insert(file, begun);
        self.due.insert((due, file));
    }

    /// The file has no group that more may come to.
    pub(super) fn clear(&mut self, file: FileId) {
        if let Some(begun) = self.begun.remove(&file) {
            self.due.remove(&(begun.due, file));
        }
    }

    /// When the next group has been waited for long enough.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Files whose group has been waited for long enough; each is told once.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<FileId> {
        let later = self.due.split_off(&(now, FileId([0xff; 16])));
        let due = std::mem::replace(&mut self.due, later);
        due.into_iter().map(|(_, file)| file).collect()
    }
}

impl Begun {
    /// Whether it has been waited for long enough.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due <= now
    }
}
