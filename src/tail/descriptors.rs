//! Descriptors: when there are more log files than may be open, they take turns; what deleted files
//! pin on the disk is bounded.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tracing::{debug, info, warn};

use super::discover::Found;
use super::known::Whereabouts;
use super::rotation::LeftAlone;
use super::{Registration, Tail, Tailed};
use crate::model::{FileId, Skipped};
use crate::sys;

/// Of the descriptors that the process may have, a tenth is kept for the broker, SQLite, sockets
/// and directories, and at most and at least so many.
const RESERVE_MIN: u64 = 32;
const RESERVE_MAX: u64 = 256;
/// After so long a file that is read without end is closed, if others wait.
const TURN: Duration = Duration::from_secs(5);
/// What stands in the place of an error for a file that waits.
pub(super) const WAITS: &str = "more log files than may be open at once; it waits for its turn";

/// How much the watched set may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Log files that may be open at once.
    pub open_max: usize,
    /// Bytes on disk that deleted files may pin.
    pub deleted_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            open_max: usize::MAX,
            deleted_bytes_max: 5 << 30,
        }
    }
}

/// Log files that may be open when the process may have `limit` descriptors.
#[must_use]
pub fn open_files_max(limit: Option<u64>) -> usize {
    let Some(limit) = limit else {
        return usize::MAX;
    };
    let reserve = (limit / 10).clamp(RESERVE_MIN, RESERVE_MAX);
    let rest = limit.saturating_sub(reserve).max(limit / 4).max(1);
    usize::try_from(rest).unwrap_or(usize::MAX)
}

/// The turns that files take.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Inodes that could not be opened for want of descriptors, and since when they wait.
    waiting: HashMap<(u64, u64), Instant>,
    /// It was tried in vain to make room since the last scan.
    full: bool,
    /// Said to be short of descriptors.
    said: bool,
}

impl Turns {
    pub(super) fn scan_begins(&mut self) {
        self.full = false;
    }

    pub(super) fn any_waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether files take turns now, or did until now.
    pub(super) fn taken(&self) -> bool {
        self.said || self.any_waits()
    }
}

/// Whether an error says that there is no descriptor left.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    let errors = [Errno::MFILE, Errno::NFILE].map(|errno| Some(errno.raw_os_error()));
    errors.contains(&error.raw_os_error())
}

impl Tail {
    /// Whether one more file may be opened; closes idle ones for it.
    pub(super) fn has_room(&mut self, now: Instant) -> bool {
        if self.by_inode.len() >= self.limits.open_max && !self.turns.full {
            self.make_room(now);
        }
        self.by_inode.len() < self.limits.open_max
    }

    /// Closes files that are idle. Whether there was one.
    pub(super) fn make_room(&mut self, now: Instant) -> bool {
        if self.turns.full {
            return false;
        }
        let several = (self.by_inode.len() / 16).max(1);
        let idle = self.files.iter().filter(|(_, file)| file.may_be_closed());
        let mut idle: Vec<(Instant, FileId)> = idle.map(|(id, file)| (file.changed, *id)).collect();
        idle.sort_unstable();
        let before = self.by_inode.len();
        for (_, id) in idle {
            if before - self.by_inode.len() >= several {
                break;
            }
            self.close(id, now);
        }
        self.turns.full = self.by_inode.len() == before;
        !self.turns.full
    }

    /// A file cannot be opened for want of descriptors: it is neither deleted nor forgotten.
    pub(super) fn put_off(&mut self, found: &Found, now: Instant) {
        self.turns.waiting.entry(found.inode).or_insert(now);
        let reason = (found.source, WAITS.to_owned());
        self.refused.insert(found.path.clone(), reason);
        if !std::mem::replace(&mut self.turns.said, true) {
            let open = self.by_inode.len();
            warn!(
                open,
                "more log files than may be open at once; they take turns"
            );
        }
    }

    /// A file that may have waited is open.
    pub(super) fn had_its_turn(&mut self, inode: (u64, u64)) {
        self.turns.waiting.remove(&inode);
    }

    /// Who has waited longest comes first.
    pub(super) fn sort_by_turn(&self, wanted: &mut [&Found], now: Instant) {
        let since = |found: &&Found| self.turns.waiting.get(&found.inode).copied();
        wanted.sort_by_key(|found| since(found).unwrap_or(now));
    }

    /// A scan is over: who waits is to have a turn.
    pub(super) fn pass_turns_on(&mut self, there: impl Fn(&(u64, u64)) -> bool, now: Instant) {
        self.turns.waiting.retain(|inode, _| there(inode));
        for file in self.files.values_mut() {
            file.yields = false;
        }
        let count = self.turns.waiting.len();
        if count == 0 {
            if std::mem::take(&mut self.turns.said) {
                info!("every log file is open or idle again");
            }
            return;
        }
        let long = |file: &&mut Tailed| {
            let lives = file.reader.is_some() && file.rotated.is_none() && file.failure.is_none();
            lives && now.saturating_duration_since(file.opened) >= TURN
        };
        let mut long: Vec<&mut Tailed> = self.files.values_mut().filter(long).collect();
        long.sort_by_key(|file| file.opened);
        for file in long.into_iter().take(count) {
            file.yields = true;
        }
    }

    /// Closes a file that may be closed. It is opened again when it changes, or, if it was asked to
    /// yield with bytes unread, when its next turn comes.
    fn close(&mut self, id: FileId, now: Instant) {
        let Some(file) = self.files.get(&id) else {
            return;
        };
        let (Some(reader), Some(link)) = (&file.reader, file.link.clone()) else {
            return;
        };
        let Ok(status) = sys::status(reader.file()) else {
            return;
        };
        let (idle, inode) = (status.size == file.batched.offset, file.inode);
        if status.links == 0 || !idle && !file.yields {
            return;
        }
        let Some(file) = self.take_out(id, now) else {
            return;
        };
        debug!(path = ?file.origin.path, file = %id, "log file closed for others");
        let (source, fixed) = (file.source, file.fixed.clone());
        let record = self.record(id, &file);
        let known = record.as_ref().map(|record| record.id);
        if let Some(record) = record {
            let whereabouts = if idle {
                Whereabouts::There
            } else {
                Whereabouts::Missed
            };
            self.remember(record, whereabouts, now);
        }
        if !idle {
            self.turns.waiting.insert(inode, now);
            return;
        }
        let modified = i128::from(status.modified);
        let found = fixed.map(|(fixed, follow_links)| Found {
            source,
            matched: true,
            packed: None,
            rotated_from: None,
            path: link.clone(),
            fixed,
            follow_links,
            inode,
            size: status.size,
            modified,
        });
        let left = LeftAlone {
            path: link,
            version: (status.size, modified),
            known,
            closed: found,
        };
        if let Some(found) = &left.closed {
            self.closed.insert(found.path.clone(), inode);
        }
        self.left_alone.insert(inode, left);
    }

    /// Deleted files that pin more on the disk than they may: the oldest, until the others may
    /// stay.
    #[must_use]
    pub fn over_deleted_limit(&self) -> Vec<FileId> {
        let pinned = |id: &FileId| {
            let file = self.files.get(id)?;
            // Nothing may be said of one whose id is not durable.
            if file.registration != Registration::Durable {
                return None;
            }
            let status = sys::status(file.reader.as_ref()?.file()).ok()?;
            (status.links == 0).then_some((file.rotated, *id, status.allocated))
        };
        let mut deleted: Vec<_> = self.rotated.iter().filter_map(pinned).collect();
        let mut sum: u64 = deleted.iter().map(|(_, _, bytes)| bytes).sum();
        deleted.sort_unstable();
        let mut over = Vec::new();
        for (_, id, bytes) in deleted {
            if sum <= self.limits.deleted_bytes_max {
                break;
            }
            sum -= bytes;
            over.push(id);
        }
        over
    }

    /// Bytes on disk that deleted files pin.
    #[must_use]
    pub fn deleted_bytes(&self) -> u64 {
        let pinned = |id: &FileId| {
            let status = sys::status(self.files.get(id)?.reader.as_ref()?.file()).ok()?;
            (status.links == 0).then_some(status.allocated)
        };
        self.rotated.iter().filter_map(pinned).sum()
    }

    /// Whether some deleted file is not confirmed to its end.
    #[must_use]
    pub fn has_deleted_unconfirmed(&self) -> bool {
        self.files.values().any(|file| {
            if file.wanted_to.is_some() {
                return false;
            }
            let status = file.reader.as_ref().map(|reader| sys::status(reader.file()));
            matches!(status, Some(Ok(status)) if status.links == 0 && status.size > file.confirmed.offset)
        })
    }

    /// Deleted files that were not read to their end, oldest first.
    #[must_use]
    pub fn deleted_and_unread(&self) -> Vec<FileId> {
        let unread = |(id, file): (&FileId, &Tailed)| {
            let reader = file.reader.as_ref()?;
            let status = sys::status(reader.file()).ok()?;
            let unread = status.size > file.batched.offset && reader.archive().is_none();
            (status.links == 0 && unread && file.wanted_to.is_none()).then_some((file.rotated, *id))
        };
        let mut files: Vec<_> = self.files.iter().filter_map(unread).collect();
        files.sort_unstable();
        files.into_iter().map(|(_, id)| id).collect()
    }

    /// Up to where a file was read, if it is open.
    #[must_use]
    pub fn read_to(&self, id: FileId) -> Option<u64> {
        Some(self.files.get(&id)?.reader.as_ref()?.read_to())
    }

    /// How long a file is, if it is open.
    #[must_use]
    pub fn size(&self, id: FileId) -> Option<u64> {
        let reader = self.files.get(&id)?.reader.as_ref()?;
        Some(sys::status(reader.file()).ok()?.size)
    }

    /// Closes a deleted file for good. How long it was.
    pub fn abandon(&mut self, id: FileId) -> Option<u64> {
        let file = self.files.get_mut(&id)?;
        let reader = file.reader.take()?;
        file.lost_as = Skipped::Deleted;
        file.drained = true;
        let size = match reader.archive() {
            Some(archive) => archive.end().unwrap_or(file.size_seen),
            None => sys::status(reader.file()).map_or(file.size_seen, |status| status.size),
        };
        if self.by_inode.get(&file.inode) == Some(&id) {
            self.by_inode.remove(&file.inode);
        }
        warn!(path = ?file.origin.path, file = %id, read = reader.read_to(), size, "deleted log files take more than max_deleted_bytes; letting the oldest go");
        self.unfinished.set(id, 0);
        self.release_successors(id);
        Some(size.max(reader.read_to()))
    }
}

impl Tailed {
    /// Whether all that was read of it is confirmed, and it lies where it is looked for.
    fn may_be_closed(&self) -> bool {
        let Some(reader) = &self.reader else {
            return false;
        };
        let settled = match self.registration {
            Registration::Empty => true,
            Registration::Asked => false,
            Registration::Durable => {
                self.confirmed.offset == self.batched.offset
                    && self.batched.offset >= self.begins.offset
                    && !self.eof_batched
            }
        };
        settled
            && self.rotated.is_none()
            && self.link.is_some()
            && self.copy.is_none()
            && self.predecessor.is_none()
            && self.failure.is_none()
            && (self.yields || reader.read_to() == self.batched.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_descriptors_are_kept_for_others() {
        let cases = [(40, 10), (100, 68), (1024, 922), (1 << 20, (1 << 20) - 256)];
        for (limit, open) in cases {
            assert_eq!(open_files_max(Some(limit)), open, "{limit}");
        }
        assert_eq!(open_files_max(None), usize::MAX);
    }
}
