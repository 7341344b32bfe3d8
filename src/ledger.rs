//! The ledger: receipts in, marks out. A receipt has two halves, the broker's acknowledgement and a
//! topology check begun after it that found every required queue; only both together move a mark.
//! No I/O.

use std::collections::{BTreeMap, HashMap, HashSet};

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
    /// Acknowledged ranges behind a hole, by their start.
    ahead: BTreeMap<u64, Reached>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reached {
    mark: Mark,
    eof: bool,
}

impl Ledger {
    /// A file goes on after `mark`.
    pub fn open(&mut self, file: FileId, mark: Mark) {
        let reached = Reached { mark, eof: false };
        self.entries.insert(
            file,
            Entry {
                epoch: 0,
                confirmed: reached,
                acknowledged: reached,
                ahead: BTreeMap::new(),
            },
        );
    }

    /// A file is over and done with.
    pub fn forget(&mut self, file: FileId) {
        self.entries.remove(&file);
        self.dirty.remove(&file);
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

    /// The first half of a receipt. Ranges of an older epoch say nothing: they are read again.
    pub fn acknowledged(&mut self, ranges: &[Range]) {
        for range in ranges {
            let Some(entry) = self.entries.get_mut(&range.file) else {
                continue;
            };
            if entry.epoch != range.epoch {
                continue;
            }
            let reached = Reached {
                mark: range.end_mark(),
                eof: range.eof,
            };
            entry.ahead.insert(range.start, reached);
            entry.close_up();
            if entry.acknowledged != entry.confirmed {
                self.dirty.insert(range.file);
            }
        }
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
        }
        confirmed
    }

    /// The check came to no result.
    pub fn check_abandoned(&mut self) {
        self.check = None;
    }

    /// A required queue was missing: nothing that was acknowledged since the last good check
    /// counts.
    pub fn check_failed(&mut self) -> Vec<Rewind> {
        self.check = None;
        let dirty = std::mem::take(&mut self.dirty);
        dirty
            .into_iter()
            .filter_map(|file| {
                let entry = self.entries.get_mut(&file)?;
                entry.acknowledged = entry.confirmed;
                Some(entry.rewind(file))
            })
            .collect()
    }

    /// A batch was dropped without a receipt: its bytes are read again.
    pub fn dropped(&mut self, ranges: &[Range]) -> Vec<Rewind> {
        let mut rewinds = Vec::new();
        for range in ranges {
            // A second range of the same file finds the epoch already newer.
            if self.range_is_current(range)
                && let Some(entry) = self.entries.get_mut(&range.file)
            {
                rewinds.push(entry.rewind(range.file));
            }
        }
        rewinds
    }
}

impl Entry {
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

    fn rewind(&mut self, file: FileId) -> Rewind {
        self.epoch += 1;
        self.ahead.clear();
        self.acknowledged.eof = false;
        Rewind {
            file,
            epoch: self.epoch,
            to: self.acknowledged.mark,
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
        let rewinds = ledger.check_failed();
        assert_eq!(rewinds.len(), 1);
        assert_eq!(rewinds[0].to, good[0].mark);
        assert_eq!(rewinds[0].epoch, 1);
        ledger.acknowledged(&[range(20, 30, 0)]);
        assert!(!ledger.is_dirty());
        assert!(!ledger.is_current(&[range(10, 20, 0)]));
        assert!(ledger.is_current(&[range(10, 20, 1)]));
    }

    #[test]
    fn a_dropped_batch_is_read_again_from_what_was_acknowledged() {
        let mut ledger = ledger();
        ledger.acknowledged(&[range(0, 10, 0)]);
        let rewinds = ledger.dropped(&[range(10, 20, 0), range(20, 30, 0)]);
        assert_eq!(rewinds.len(), 1);
        assert_eq!(rewinds[0].to.offset, 10);
        assert!(ledger.dropped(&[range(10, 20, 0)]).is_empty());
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
