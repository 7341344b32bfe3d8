//! The ledger: receipts in, marks out. A receipt has two halves, the broker's acknowledgement and a
//! topology check begun after it that found every required queue; only both together move a mark.
//! What was handed to the spool is not read again either, but has yet to be confirmed. No I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::model::{Confirmed, Epoch, FileId, Mark, Range, Rewind};

/// What is known of every file's bytes.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: HashMap<FileId, Entry>,
    /// Files with acknowledged bytes, or ends, that no check has covered.
    dirty: HashSet<FileId>,
    /// Where the files of `dirty` were when the running check began.
    check: Option<HashMap<FileId, Reached>>,
}

#[derive(Debug)]
struct Entry {
    epoch: Epoch,
    confirmed: Reached,
    /// Everything before it is acknowledged.
    acknowledged: Reached,
    /// Everything before it was handed to the spool, or confirmed before the spool had anything,
    spooled: Reached,
    /// and everything before this is durable there.
    held: Reached,
    /// Everything before it is in the window, in the spool, or was there.
    taken: Reached,
    /// Acknowledged ranges behind a hole, by their start.
    ahead: BTreeMap<u64, Reached>,
    /// Nobody reads it any more; what the spool has of it is still to be confirmed.
    gone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reached {
    mark: Mark,
    eof: bool,
}

impl Ledger {
    /// A file goes on after `mark`.
    pub fn open(&mut self, file: FileId, mark: Mark) {
        if let Some(entry) = self.entries.get_mut(&file)
            && !entry.confirmed.covers(&entry.spooled)
        {
            // What the spool has of it is still to be confirmed.
            entry.epoch = 0;
            entry.ahead.clear();
            entry.gone = false;
            return;
        }
        let reached = Reached { mark, eof: false };
        self.entries.insert(file, Entry::new(reached, reached));
    }

    /// The spool, as it was found, holds a file's bytes between what is confirmed and `spooled`.
    pub fn recovered(&mut self, confirmed: &Confirmed, spooled: Confirmed) {
        let entry = Entry {
            gone: true,
            ..Entry::new(Reached::of(confirmed), Reached::of(&spooled))
        };
        self.entries.insert(spooled.file, entry);
    }

    /// A file is over and done with, but for what the spool has of it.
    pub fn forget(&mut self, file: FileId) {
        if let Some(entry) = self.entries.get_mut(&file) {
            entry.gone = true;
            self.drop_if_done(file);
        }
    }

    fn drop_if_done(&mut self, file: FileId) {
        let done = |entry: &Entry| entry.gone && entry.confirmed.covers(&entry.spooled);
        if self.entries.get(&file).is_some_and(done) {
            self.entries.remove(&file);
            self.dirty.remove(&file);
        }
    }

    /// Whether a batch with these ranges is as young as the youngest rewind of each of its files.
    #[must_use]
    pub fn is_current(&self, ranges: &[Range]) -> bool {
        ranges.iter().all(|range| self.range_is_current(range))
    }

    fn range_is_current(&self, range: &Range) -> bool {
        self.entries
            .get(&range.file)
            .is_some_and(|entry| entry.epoch == range.epoch)
    }

    /// Whether something acknowledged waits for a check.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// A batch with these ranges was taken on.
    pub fn taken(&mut self, ranges: &[Range]) {
        for range in ranges {
            if let Some(entry) = self.entries.get_mut(&range.file) {
                entry.taken = Reached::by(range);
            }
        }
    }

    /// A batch with these ranges was not taken on, because one of them is to be read again anyway:
    /// the others are read again too, from where the last batch that was taken on ends.
    pub fn refused(&mut self, ranges: &[Range]) -> Vec<Rewind> {
        let mut rewinds = Vec::new();
        for range in ranges {
            // A second range of the same file finds the epoch already newer.
            if self.range_is_current(range)
                && let Some(entry) = self.entries.get_mut(&range.file)
            {
                rewinds.push(entry.rewind(range.file, entry.taken));
            }
        }
        rewinds
    }

    /// The first half of a receipt. It counts whatever the epoch: what is to be read again from
    /// before its ranges was taken out of the window before.
    pub fn acknowledged(&mut self, ranges: &[Range]) {
        for range in ranges {
            let Some(entry) = self.entries.get_mut(&range.file) else {
                continue;
            };
            entry.ahead.insert(range.start, Reached::by(range));
            entry.close_up();
            if entry.acknowledged != entry.confirmed {
                self.dirty.insert(range.file);
            }
        }
    }

    /// A batch was handed to the spool, and is not read from its files again.
    pub fn spooled(&mut self, ranges: &[Range]) {
        for range in ranges {
            if let Some(entry) = self.entries.get_mut(&range.file) {
                entry.spooled = Reached::by(range);
            }
        }
    }

    /// What was handed to the spool is durable there.
    pub fn held(&mut self, ranges: &[Range]) {
        for range in ranges {
            if let Some(entry) = self.entries.get_mut(&range.file) {
                entry.held = Reached::by(range);
            }
        }
    }

    /// The spool gave up what it could not make durable: that is read from its files again.
    pub fn given_up(&mut self) -> Vec<Rewind> {
        let mut rewinds = Vec::new();
        for (file, entry) in &mut self.entries {
            if entry.spooled != entry.held {
                entry.spooled = entry.held;
                rewinds.push(entry.go_back(*file));
            }
        }
        rewinds
    }

    /// Up to where a file's bytes are acknowledged.
    #[must_use]
    pub fn acknowledged_to(&self, file: FileId) -> Option<u64> {
        Some(self.entries.get(&file)?.acknowledged.mark.offset)
    }

    /// Up to where a file's bytes are confirmed.
    #[must_use]
    pub fn confirmed(&self, file: FileId) -> Option<Mark> {
        Some(self.entries.get(&file)?.confirmed.mark)
    }

    /// What was handed to the spool of a file and is not acknowledged: from where, up to where, and
    /// whether the file ends there.
    #[must_use]
    pub fn unacknowledged_in_spool(&self, file: FileId) -> Option<(u64, Mark, bool)> {
        let entry = self.entries.get(&file)?;
        let missing = !entry.acknowledged.covers(&entry.spooled);
        missing.then(|| {
            let from = entry.acknowledged.mark.offset;
            (from, entry.spooled.mark, entry.spooled.eof)
        })
    }

    /// A topology check begins: what is acknowledged now is confirmed if it succeeds.
    pub fn check_begins(&mut self) {
        let reached = |file: &FileId| {
            let entry = self.entries.get(file)?;
            Some((*file, entry.acknowledged))
        };
        self.check = Some(self.dirty.iter().filter_map(reached).collect());
    }

    /// The check found every required queue.
    pub fn check_succeeded(&mut self) -> Vec<Confirmed> {
        let mut confirmed = Vec::new();
        for (file, reached) in self.check.take().unwrap_or_default() {
            let Some(entry) = self.entries.get_mut(&file) else {
                continue;
            };
            entry.confirmed = reached;
            if entry.acknowledged == reached {
                self.dirty.remove(&file);
            }
            confirmed.push(Confirmed {
                file,
                mark: reached.mark,
                eof: reached.eof,
            });
            self.drop_if_done(file);
        }
        confirmed
    }

    /// The check came to no result.
    pub fn check_abandoned(&mut self) {
        self.check = None;
    }

    /// Nothing that was acknowledged since the last good check counts any more, and batches with the
    /// ranges `dropped` were taken out of the window without a receipt. What of this is not in the
    /// spool is read from its files again, with what came after it.
    pub fn take_back<'a>(&mut self, dropped: impl Iterator<Item = &'a Range>) -> Vec<Rewind> {
        self.check = None;
        let mut again: BTreeSet<FileId> = dropped.map(|range| range.file).collect();
        for file in std::mem::take(&mut self.dirty) {
            let Some(entry) = self.entries.get_mut(&file) else {
                continue;
            };
            if !entry.spooled.covers(&entry.acknowledged) {
                again.insert(file);
            }
            entry.acknowledged = entry.confirmed;
            entry.ahead.clear();
        }
        let go_back = |file| Some(self.entries.get_mut(&file)?.go_back(file));
        again.into_iter().filter_map(go_back).collect()
    }
}

impl Reached {
    fn of(confirmed: &Confirmed) -> Self {
        Self {
            mark: confirmed.mark,
            eof: confirmed.eof,
        }
    }

    fn by(range: &Range) -> Self {
        Self {
            mark: range.end_mark(),
            eof: range.eof,
        }
    }

    /// Whether it is as far as another one.
    fn covers(&self, other: &Self) -> bool {
        let (offset, least) = (self.mark.offset, other.mark.offset);
        offset > least || offset == least && (self.eof || !other.eof)
    }
}

impl Entry {
    fn new(confirmed: Reached, spooled: Reached) -> Self {
        Self {
            epoch: 0,
            confirmed,
            acknowledged: confirmed,
            spooled,
            held: spooled,
            taken: spooled,
            ahead: BTreeMap::new(),
            gone: false,
        }
    }

    /// Moves over what lies ahead without a hole.
    fn close_up(&mut self) {
        while let Some((&start, &reached)) = self.ahead.first_key_value() {
            if start > self.acknowledged.mark.offset {
                return;
            }
            self.ahead.pop_first();
            if reached.mark.offset > self.acknowledged.mark.offset {
                self.acknowledged = reached;
            } else if reached.mark.offset == self.acknowledged.mark.offset {
                self.acknowledged.eof |= reached.eof;
            }
        }
    }

    /// Reads again what is neither acknowledged nor handed to the spool.
    fn go_back(&mut self, file: FileId) -> Rewind {
        self.ahead.clear();
        let to = if self.spooled.covers(&self.acknowledged) {
            self.spooled
        } else {
            self.acknowledged.eof = false;
            self.acknowledged
        };
        self.rewind(file, to)
    }

    fn rewind(&mut self, file: FileId, to: Reached) -> Rewind {
        self.epoch += 1;
        self.taken = to;
        Rewind {
            file,
            epoch: self.epoch,
            to: to.mark,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LogPath, Proof};

    const FILE: FileId = FileId([7; 16]);

    fn range(start: u64, end: u64, epoch: Epoch) -> Range {
        Range {
            file: FILE,
            path: LogPath::from_bytes(b"/a"),
            start,
            end,
            skipped: None,
            eof: false,
            epoch,
            proof: Proof::of(&end.to_be_bytes()),
        }
    }

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.open(FILE, Mark::default());
        ledger
    }

    fn offsets(confirmed: &[Confirmed]) -> Vec<u64> {
        confirmed
            .iter()
            .map(|confirmed| confirmed.mark.offset)
            .collect()
    }

    #[test]
    fn an_acknowledgement_moves_no_mark_until_a_check_that_began_after_it() {
        let mut ledger = ledger();
        ledger.acknowledged(&[range(0, 10, 0)]);
        ledger.check_begins();
        ledger.acknowledged(&[range(10, 20, 0)]);
        assert_eq!(offsets(&ledger.check_succeeded()), [10]);
        assert!(ledger.is_dirty());
        ledger.check_begins();
        assert_eq!(offsets(&ledger.check_succeeded()), [20]);
        assert!(!ledger.is_dirty());
    }

    #[test]
    fn a_mark_never_passes_a_hole() {
        let mut ledger = ledger();
        ledger.acknowledged(&[range(10, 20, 0)]);
        ledger.check_begins();
        assert_eq!(offsets(&ledger.check_succeeded()), [0u64; 0]);
        ledger.acknowledged(&[range(0, 10, 0)]);
        ledger.check_begins();
        assert_eq!(offsets(&ledger.check_succeeded()), [20]);
    }

    #[test]
    fn a_failed_check_sends_back_to_the_last_good_one_and_old_receipts_count_for_nothing() {
        let mut ledger = ledger();
        ledger.acknowledged(&[range(0, 10, 0)]);
        ledger.check_begins();
        let good = ledger.check_succeeded();
        ledger.acknowledged(&[range(10, 20, 0)]);
        ledger.check_begins();
        let rewinds = ledger.take_back([].iter());
        assert_eq!(rewinds.len(), 1);
        assert_eq!(rewinds[0].to, good[0].mark);
        assert_eq!(rewinds[0].epoch, 1);
        assert!(!ledger.is_dirty());
        assert!(!ledger.is_current(&[range(10, 20, 0)]));
        assert!(ledger.is_current(&[range(10, 20, 1)]));
    }

    #[test]
    fn a_dropped_batch_is_read_again_from_what_was_acknowledged() {
        let mut ledger = ledger();
        ledger.acknowledged(&[range(0, 10, 0)]);
        ledger.check_begins();
        ledger.check_succeeded();
        let rewinds = ledger.take_back([range(10, 20, 0), range(20, 30, 0)].iter());
        assert_eq!(rewinds.len(), 1);
        assert_eq!(rewinds[0].to.offset, 10);
    }

    #[test]
    fn what_is_not_taken_on_is_read_again_from_what_was() {
        let mut ledger = ledger();
        ledger.taken(&[range(0, 10, 0)]);
        let rewinds = ledger.refused(&[range(10, 20, 0), range(20, 30, 0)]);
        assert_eq!(rewinds.len(), 1);
        assert_eq!(rewinds[0].to.offset, 10);
        assert!(ledger.refused(&[range(10, 20, 0)]).is_empty());
        // What was taken on before counts all the same.
        ledger.acknowledged(&[range(0, 10, 0)]);
        assert!(ledger.is_dirty());
    }

    #[test]
    fn what_the_spool_has_is_not_read_again_whatever_was_acknowledged() {
        let mut ledger = ledger();
        ledger.spooled(&[range(0, 10, 0)]);
        ledger.acknowledged(&[range(0, 10, 0)]);
        assert!(ledger.take_back([].iter()).is_empty());
        ledger.acknowledged(&[range(0, 10, 0)]);
        ledger.acknowledged(&[range(10, 20, 0)]);
        let rewinds = ledger.take_back([].iter());
        assert_eq!(rewinds[0].to.offset, 10);
        assert_eq!(ledger.acknowledged_to(FILE), Some(0));
    }

    #[test]
    fn what_the_spool_gave_up_is_read_again() {
        let mut ledger = ledger();
        ledger.spooled(&[range(0, 10, 0)]);
        ledger.held(&[range(0, 10, 0)]);
        assert!(ledger.given_up().is_empty());
        ledger.spooled(&[range(10, 20, 0)]);
        let rewinds = ledger.given_up();
        assert_eq!(rewinds[0].to.offset, 10);
    }

    #[test]
    fn a_file_that_is_gone_stays_until_the_spool_is_done_with_it() {
        let mut ledger = ledger();
        ledger.spooled(&[range(0, 10, 0)]);
        ledger.forget(FILE);
        assert_eq!(ledger.acknowledged_to(FILE), Some(0));
        ledger.acknowledged(&[range(0, 10, 0)]);
        ledger.check_begins();
        assert_eq!(ledger.check_succeeded().len(), 1);
        assert_eq!(ledger.acknowledged_to(FILE), None);
    }

    #[test]
    fn an_end_said_afterwards_is_confirmed_like_bytes() {
        let mut ledger = ledger();
        ledger.acknowledged(&[range(0, 10, 0)]);
        ledger.check_begins();
        ledger.check_succeeded();
        ledger.acknowledged(&[Range {
            eof: true,
            ..range(10, 10, 0)
        }]);
        assert!(ledger.is_dirty());
        ledger.check_begins();
        let confirmed = ledger.check_succeeded();
        assert!(confirmed[0].eof);
    }
}
