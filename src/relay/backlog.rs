//! What the relay knows of the spool: how far its entries are read, acknowledged and confirmed, and
//! what of it is missing. No I/O.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::ledger::Ledger;
use crate::model::{FileId, LogPath, Proof, Range, Skipped, SpoolPlace as Place};

/// Names a look into the spool; what comes of an older one is discarded.
pub type Turn = u64;

/// The way of entries through the window.
#[derive(Debug)]
pub(super) struct Backlog {
    /// What lies before it was read.
    cursor: Place,
    /// What lies before it is durable.
    end: Place,
    /// Everything before it is acknowledged,
    acknowledged: Place,
    /// was when the running check began,
    checked: Option<Place>,
    /// and is confirmed.
    confirmed: Place,
    /// Bytes behind the cursor.
    left: u64,
    /// The look that is waited for.
    looking: Option<Turn>,
    turn: Turn,
    /// The last look found no room for what comes next.
    starved: bool,
    /// Batches that were handed over and are not durable.
    pub(super) appending: usize,
    /// Files of which it has something: source and path.
    files: BTreeMap<FileId, (Arc<str>, LogPath)>,
    /// Up to where entries of these files were read since the cursor was set back.
    read_to: HashMap<FileId, u64>,
    /// Up to where bytes of these files are counted as lost.
    counted: HashMap<FileId, u64>,
}

impl Backlog {
    /// What was found at the start: entries from `begin` to `end`, `left` bytes of them.
    pub(super) fn new(begin: Place, end: Place, left: u64) -> Self {
        Self {
            cursor: begin,
            end,
            acknowledged: begin,
            checked: None,
            confirmed: begin,
            left,
            looking: None,
            turn: 0,
            starved: false,
            appending: 0,
            files: BTreeMap::new(),
            read_to: HashMap::new(),
            counted: HashMap::new(),
        }
    }

    /// Whether there is nothing that was not read, and nothing is on its way there.
    pub(super) fn is_read(&self) -> bool {
        self.is_at_end() && self.appending == 0 && self.looking.is_none()
    }

    /// Whether everything durable was read.
    pub(super) fn is_at_end(&self) -> bool {
        self.cursor >= self.end
    }

    /// Bytes that were not read yet.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Whether something acknowledged waits for a check.
    pub(super) fn is_dirty(&self) -> bool {
        self.acknowledged > self.confirmed
    }

    /// `batches` are durable, before `end`.
    pub(super) fn appended(&mut self, batches: usize, end: Place, bytes: u64) {
        self.appending = self.appending.saturating_sub(batches);
        self.end = end;
        self.left = self.left.saturating_add(bytes);
    }

    /// So many batches that were handed over are forgotten.
    pub(super) fn forgotten(&mut self, batches: usize) {
        self.appending = self.appending.saturating_sub(batches);
    }

    /// Something of a file is in the spool, or on its way there.
    pub(super) fn has(&mut self, file: FileId, source: &Arc<str>, path: &LogPath) {
        let named = || (Arc::clone(source), path.clone());
        self.files.entry(file).or_insert_with(named);
    }

    /// Files of which it has something.
    pub(super) fn files(&self) -> impl Iterator<Item = FileId> {
        self.files.keys().copied()
    }

    /// What it should have had and did not, now that everything was read: a range and its source.
    pub(super) fn missing_at_end(&self, ledger: &Ledger) -> Vec<(Arc<str>, Range)> {
        let missing = |(file, (source, path)): (&FileId, &(Arc<str>, LogPath))| {
            let (start, mark, eof) = ledger.unacknowledged_in_spool(*file)?;
            let range = Range {
                file: *file,
                path: path.clone(),
                start,
                end: mark.offset,
                skipped: (start < mark.offset).then_some(Skipped::Damaged),
                eof,
                epoch: 0,
                proof: mark.proof,
            };
            Some((Arc::clone(source), range))
        };
        self.files.iter().filter_map(missing).collect()
    }

    /// Everything that it had is acknowledged.
    pub(super) fn is_emptied(&mut self) {
        self.files.clear();
    }

    pub(super) fn end(&self) -> Place {
        self.end
    }

    /// The next look, if one is due: the turn and where it begins.
    pub(super) fn look(&mut self, window_is_empty: bool) -> Option<(Turn, Place)> {
        if self.looking.is_some() || self.is_at_end() || self.starved && !window_is_empty {
            return None;
        }
        self.turn += 1;
        self.looking = Some(self.turn);
        Some((self.turn, self.cursor))
    }

    /// A look is over. Whether it is the one that was waited for.
    pub(super) fn looked(&mut self, turn: Turn, behind: Place, left: u64) -> bool {
        if self.looking != Some(turn) {
            return false;
        }
        self.looking = None;
        self.starved = behind <= self.cursor;
        self.cursor = self.cursor.max(behind);
        self.left = left;
        true
    }

    /// An entry holds `range`. What is missing before it, if anything is.
    pub(super) fn read(&mut self, range: &Range, ledger: &Ledger) -> Option<Range> {
        let acknowledged = ledger.acknowledged_to(range.file)?;
        let read_to = self.read_to.entry(range.file).or_insert(acknowledged);
        let from = (*read_to).max(acknowledged);
        *read_to = range.end.max(from);
        (range.start > from).then(|| Range {
            start: from,
            end: range.start,
            skipped: Some(Skipped::Damaged),
            eof: false,
            proof: Proof::default(),
            ..range.clone()
        })
    }

    /// How many of the bytes of a missing range have not been counted as lost.
    pub(super) fn count_lost(&mut self, range: &Range) -> u64 {
        let counted = self.counted.entry(range.file).or_insert(range.start);
        let new = range.end.saturating_sub(range.start.max(*counted));
        *counted = range.end.max(*counted);
        new
    }

    /// Everything before `place` is acknowledged.
    pub(super) fn acknowledged(&mut self, place: Place) {
        self.acknowledged = self.acknowledged.max(place);
    }

    pub(super) fn check_begins(&mut self) {
        self.checked = Some(self.acknowledged);
    }

    /// The check was good: everything before the place returned is confirmed, if that is news.
    pub(super) fn check_succeeded(&mut self) -> Option<Place> {
        let checked = self.checked.take()?;
        if checked <= self.confirmed {
            return None;
        }
        self.confirmed = checked;
        Some(checked)
    }

    pub(super) fn check_abandoned(&mut self) {
        self.checked = None;
    }

    /// What is not confirmed is read again.
    pub(super) fn go_back(&mut self) {
        self.check_abandoned();
        if self.cursor > self.confirmed {
            // How much that is, the next look tells.
            self.left = u64::MAX;
        }
        self.cursor = self.confirmed;
        self.acknowledged = self.confirmed;
        self.looking = None;
        self.starved = false;
        self.read_to.clear();
    }
}
