//! Known files: generations that the state knows and nobody reads now. Found by inode, by path and
//! by how they begin; due to be forgotten some time after they were seen last. Opens nothing.
//!
//! Nothing here walks over all that is known: a scan costs what it found, and what it missed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::passed::Passed;
use crate::model::{FileId, FileRecord, LogPath, Mark, Proof};

/// What lost its last name, or was not found, is remembered this long: a compressing tool may just
/// have made `NAME.N.gz` of it.
pub(super) const GRACE: Duration = Duration::from_secs(10);
/// And for so many scans that could have found it.
pub(super) const GRACE_SCANS: u32 = 3;
/// What has a name somewhere out of sight is remembered this long.
pub(super) const ELSEWHERE_FOR: Duration = Duration::from_secs(3600);
/// What no source looks for any more, or what lies on a file system that is not there.
pub(super) const AWAY_FOR: Duration = Duration::from_secs(7 * 24 * 3600);
/// So many are given up at one scan: each costs a look at the disk.
const DUE_MAX: usize = 1000;
/// So long it is remembered when a path was matched first, when nothing else is known of it.
const BIRTHS_FOR: Duration = Duration::from_secs(3600);
/// The kernel stamps files with a clock that ticks so often at least.
const CLOCK_TICK_NS: i64 = 10_000_000;

/// Where a known generation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// Proved under a name that scans see. Told when it is not any more.
    There,
    /// Not found yet, or not any more.
    Missed,
    /// Its inode was seen without a name: nothing with this inode number is it.
    Gone,
    /// Nobody looks where it is; to be remembered until then.
    Away(Instant),
}

#[derive(Debug)]
struct Remembered {
    record: FileRecord,
    whereabouts: Whereabouts,
    /// Places on the way to where it ended, of one that may turn up in a copy that ends before.
    passed: Passed,
}

/// Scans that should have found a generation, and did not.
#[derive(Debug, Default)]
struct Missed {
    since: Option<Instant>,
    scans: u32,
}

/// The generations of one path, by the proof of how they begin.
#[derive(Debug, Default)]
struct Heads {
    by_proof: HashMap<Proof, Vec<FileId>>,
    /// How many proofs there are of each length: a file is hashed once for each.
    lens: BTreeMap<u32, usize>,
}

/// The known generations.
#[derive(Debug, Default)]
pub(super) struct Known {
    records: HashMap<FileId, Remembered>,
    by_inode: HashMap<(u64, u64), Vec<FileId>>,
    by_path: HashMap<LogPath, Heads>,
    missed: HashMap<FileId, Missed>,
    away: BTreeSet<(Instant, FileId)>,
}

impl Known {
    /// What earlier runs knew. `sources` are looked for; what belongs to others stays for a while.
    pub(super) fn new(records: Vec<FileRecord>, sources: &HashSet<Arc<str>>, now: Instant) -> Self {
        let mut known = Self::default();
        for record in records {
            let whereabouts = if sources.contains(&record.source) {
                Whereabouts::Missed
            } else {
                Whereabouts::Away(now + AWAY_FOR)
            };
            known.insert(record, whereabouts);
        }
        known
    }

    /// From now on `sources` are looked for; what belongs to others stays for a while.
    pub(super) fn reload(&mut self, sources: &HashSet<Arc<str>>, now: Instant) {
        let looked_for = [Whereabouts::There, Whereabouts::Missed];
        let forsaken = |remembered: &&Remembered| {
            looked_for.contains(&remembered.whereabouts)
                && !sources.contains(&remembered.record.source)
        };
        let forsaken = self.records.values().filter(forsaken);
        let forsaken: Vec<FileRecord> = forsaken.map(|known| known.record.clone()).collect();
        for record in forsaken {
            self.insert(record, Whereabouts::Away(now + AWAY_FOR));
        }
    }

    /// Remembers a generation.
    pub(super) fn insert(&mut self, record: FileRecord, whereabouts: Whereabouts) {
        let id = record.id;
        let before = self.take(id);
        if whereabouts != Whereabouts::Gone {
            self.by_inode.entry(inode_of(&record)).or_default().push(id);
        }
        let heads = self.by_path.entry(record.path.clone()).or_default();
        let proof = record.identity.head;
        heads.by_proof.entry(proof).or_default().push(id);
        *heads.lens.entry(proof.len).or_default() += 1;
        match whereabouts {
            Whereabouts::There => {}
            Whereabouts::Missed | Whereabouts::Gone => {
                self.missed.insert(id, Missed::default());
            }
            Whereabouts::Away(until) => {
                self.away.insert((until, id));
            }
        }
        let remembered = Remembered {
            record,
            whereabouts,
            passed: before.map(|before| before.passed).unwrap_or_default(),
        };
        self.records.insert(id, remembered);
    }

    /// Takes a generation out: it is read again, or forgotten.
    pub(super) fn remove(&mut self, id: FileId) -> Option<FileRecord> {
        Some(self.take(id)?.record)
    }

    fn take(&mut self, id: FileId) -> Option<Remembered> {
        let remembered = self.records.remove(&id)?;
        self.missed.remove(&id);
        if let Whereabouts::Away(until) = remembered.whereabouts {
            self.away.remove(&(until, id));
        }
        let record = &remembered.record;
        let inode = inode_of(record);
        if let Some(ids) = self.by_inode.get_mut(&inode) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_inode.remove(&inode);
            }
        }
        if let Some(heads) = self.by_path.get_mut(&record.path) {
            heads.remove(id, record.identity.head);
            if heads.by_proof.is_empty() {
                self.by_path.remove(&record.path);
            }
        }
        Some(remembered)
    }

    /// Keeps places on the way through a known generation.
    pub(super) fn keep_passed(&mut self, id: FileId, passed: Passed) {
        if let Some(remembered) = self.records.get_mut(&id) {
            remembered.passed = passed;
        }
    }

    /// Of the places that were kept, none but what proves a copy of `len` bytes is needed any more.
    pub(super) fn found_copy(&mut self, id: FileId, len: u64) {
        if let Some(remembered) = self.records.get_mut(&id) {
            remembered.passed.keep_before(len);
        }
    }

    /// The last place before `end` that was kept of a known generation.
    pub(super) fn passed_before(&self, id: FileId, end: u64) -> Option<&Mark> {
        self.records.get(&id)?.passed.before(end)
    }

    /// A generation, if it is known.
    pub(super) fn record(&self, id: FileId) -> Option<&FileRecord> {
        self.records.get(&id).map(|remembered| &remembered.record)
    }

    /// Where a generation is, if it is known.
    pub(super) fn whereabouts(&self, id: FileId) -> Option<Whereabouts> {
        self.records
            .get(&id)
            .map(|remembered| remembered.whereabouts)
    }

    /// Those that were known under an inode number.
    pub(super) fn at_inode(&self, inode: (u64, u64)) -> impl Iterator<Item = &FileRecord> {
        let ids = self.by_inode.get(&inode).into_iter().flatten();
        ids.filter_map(|id| Some(&self.records.get(id)?.record))
    }

    /// Whether something is known of a path.
    pub(super) fn is_looked_for(&self, path: &LogPath) -> bool {
        self.by_path.contains_key(path)
    }

    /// Whether scans see where it is.
    pub(super) fn is_there(&self, id: FileId) -> bool {
        let remembered = self.records.get(&id);
        remembered.is_some_and(|remembered| remembered.whereabouts == Whereabouts::There)
    }

    /// Those of a path that begin as `head` does: the first [`crate::model::HEAD_LEN`] bytes of a
    /// file, or all that it has.
    pub(super) fn begun_like(&self, path: &LogPath, head: &[u8]) -> Vec<&FileRecord> {
        let Some(heads) = self.by_path.get(path) else {
            return Vec::new();
        };
        let shown = |len: &u32| head.get(..*len as usize).map(Proof::of);
        let ids = heads
            .lens
            .keys()
            .filter_map(shown)
            .filter_map(|proof| heads.by_proof.get(&proof))
            .flatten();
        ids.filter_map(|id| Some(&self.records.get(id)?.record))
            .collect()
    }

    /// It does not lie in this inode any more.
    pub(super) fn miss(&mut self, id: FileId, inode: (u64, u64)) {
        let remembered = self.records.get(&id);
        let record = remembered.map(|remembered| &remembered.record);
        if let Some(record) = record.filter(|record| inode_of(record) == inode) {
            let record = record.clone();
            self.insert(record, Whereabouts::Missed);
        }
    }

    /// A scan is over, which was `blind` to some paths. Returns those that were not found for long
    /// enough, with how that is known; they stay until they are removed.
    pub(super) fn due(
        &mut self,
        blind: impl Fn(&FileRecord) -> bool,
        now: Instant,
    ) -> Vec<(FileRecord, Whereabouts)> {
        let mut due = Vec::new();
        for (id, missed) in &mut self.missed {
            let Some(Remembered {
                record,
                whereabouts,
                ..
            }) = self.records.get(id)
            else {
                continue;
            };
            if blind(record) {
                continue;
            }
            let since = *missed.since.get_or_insert(now);
            missed.scans = missed.scans.saturating_add(1);
            let waited = now.saturating_duration_since(since) >= GRACE;
            if waited && missed.scans >= GRACE_SCANS && due.len() < DUE_MAX {
                due.push((record.clone(), *whereabouts));
            }
        }
        for (until, id) in &self.away {
            if *until > now || due.len() >= DUE_MAX {
                break;
            }
            if let Some(Remembered {
                record,
                whereabouts,
                ..
            }) = self.records.get(id)
            {
                due.push((record.clone(), *whereabouts));
            }
        }
        due
    }
}

impl Heads {
    fn remove(&mut self, id: FileId, proof: Proof) {
        if let Some(ids) = self.by_proof.get_mut(&proof) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_proof.remove(&proof);
            }
        }
        if let Some(count) = self.lens.get_mut(&proof.len) {
            *count -= 1;
            if *count == 0 {
                self.lens.remove(&proof.len);
            }
        }
    }
}

fn inode_of(record: &FileRecord) -> (u64, u64) {
    (record.identity.dev, record.identity.ino)
}

/// What tells a generation of a path that was missed from one that lay there before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Births {
    /// When the path was matched first: what lay there then is left alone, also the copies of a
    /// file that is copied and truncated, which are all younger than that file.
    matched: i64,
    /// Generations that are open or known.
    held: usize,
    /// When the last of them went.
    left: Instant,
}

impl Births {
    /// Whether what was born then came after the path was matched first. That a younger generation
    /// is known says nothing: a scan may have seen that one, and not yet the new name of this one.
    pub(super) fn are_before(&self, born: i64) -> bool {
        // The kernel's clock ticks every few milliseconds: in doubt, younger.
        born >= self.matched - CLOCK_TICK_NS
    }
}

/// The births of all paths, forgotten an hour after nothing else is known of a path.
#[derive(Debug, Default)]
pub(super) struct Paths {
    births: HashMap<LogPath, Births>,
    /// Paths of which nothing was held, in the order in which they were left.
    left: VecDeque<(Instant, LogPath)>,
}

impl Paths {
    /// One more generation is open or known, which was found then.
    pub(super) fn hold(&mut self, path: &LogPath, found: i64, now: Instant) {
        let births = self.births.entry(path.clone()).or_insert(Births {
            matched: found,
            held: 0,
            left: now,
        });
        births.held += 1;
        births.matched = births.matched.min(found);
    }

    /// One of them is neither open nor known any more.
    pub(super) fn release(&mut self, path: &LogPath, now: Instant) {
        let Some(births) = self.births.get_mut(path) else {
            return;
        };
        births.held = births.held.saturating_sub(1);
        if births.held == 0 {
            births.left = now;
            self.left.push_back((now, path.clone()));
        }
    }

    /// Of one path.
    pub(super) fn births(&self, path: &LogPath) -> Option<Births> {
        self.births.get(path).copied()
    }

    /// The clock that stamps files was set back, and showed no less than `earliest` since: what is
    /// born from now on may bear a stamp that lies before that of what was found.
    pub(super) fn set_back(&mut self, earliest: i64) {
        for births in self.births.values_mut() {
            births.matched = births.matched.min(earliest);
        }
    }

    /// Forgets what was left long ago.
    pub(super) fn forget_old(&mut self, now: Instant) {
        let old = |left: Instant| now.saturating_duration_since(left) >= BIRTHS_FOR;
        while let Some((_, path)) = self.left.pop_front_if(|(left, _)| old(*left)) {
            let births = self.births.get(&path);
            if births.is_some_and(|births| births.held == 0 && old(births.left)) {
                self.births.remove(&path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Identity, Mark};

    fn record(number: u64, path: &[u8], head: &[u8]) -> FileRecord {
        FileRecord {
            id: FileId(u128::from(number).to_be_bytes()),
            source: "app".into(),
            path: LogPath::from_bytes(path),
            found: 0,
            identity: Identity {
                dev: 1,
                ino: number,
                born: None,
                head: Proof::of(head),
            },
            begins: Mark::default(),
            confirmed: Mark::default(),
            ended: false,
        }
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_generation_is_found_by_its_path_and_beginning_until_it_is_removed() {
        let mut known = Known::default();
        let (a, b) = (LogPath::from_bytes(b"/a"), LogPath::from_bytes(b"/b"));
        known.insert(record(1, b"/a", b"one"), Whereabouts::Missed);
        known.insert(record(2, b"/a", b"one and more"), Whereabouts::Missed);
        known.insert(record(3, b"/a", b"two"), Whereabouts::Gone);
        known.insert(record(4, b"/b", b"one"), Whereabouts::There);
        let like = |known: &Known, path, head: &[u8]| {
            let found = known.begun_like(path, head);
            let mut inodes: Vec<u64> = found.iter().map(|record| record.identity.ino).collect();
            inodes.sort_unstable();
            inodes
        };
        assert_eq!(like(&known, &a, b"one and more, much more"), [1, 2]);
        assert_eq!(like(&known, &a, b"one"), [1]);
        assert_eq!(like(&known, &a, b"on"), [0u64; 0]);
        assert_eq!(like(&known, &a, b"two"), [3]);
        assert_eq!(like(&known, &b, b"one and more"), [4]);
        assert_eq!(known.at_inode((1, 1)).count(), 1);
        // Its inode number may be another file's by now.
        assert_eq!(known.at_inode((1, 3)).count(), 0);
        known.remove(record(1, b"/a", b"one").id);
        assert_eq!(like(&known, &a, b"one and more"), [2]);
        assert_eq!(known.at_inode((1, 1)).count(), 0);
        for number in 2..=4 {
            known.remove(record(number, b"", b"").id);
        }
        assert!(known.by_path.is_empty() && known.by_inode.is_empty() && known.missed.is_empty());
    }

    #[test]
    fn what_is_missed_is_due_after_a_grace_that_begins_with_the_first_scan_that_could_see_it() {
        let begun = Instant::now();
        let mut known = Known::default();
        known.insert(record(1, b"/a", b"one"), Whereabouts::Missed);
        let due = |known: &mut Known, blind: bool, at: u64| {
            known.due(|_| blind, begun + seconds(at)).len()
        };
        for at in 0..100 {
            assert_eq!(due(&mut known, true, at), 0, "nothing was seen");
        }
        assert_eq!(due(&mut known, false, 100), 0);
        assert_eq!(due(&mut known, false, 111), 0, "only the second scan");
        assert_eq!(due(&mut known, true, 112), 0);
        assert_eq!(due(&mut known, false, 113), 1);
        // Found again, and missed again: from the beginning.
        known.insert(record(1, b"/a", b"one"), Whereabouts::There);
        assert_eq!(due(&mut known, false, 200), 0);
        known.miss(record(1, b"", b"").id, (1, 7));
        assert_eq!(due(&mut known, false, 300), 0, "it lies elsewhere by now");
        known.miss(record(1, b"", b"").id, (1, 1));
        for (at, count) in [(301, 0), (302, 0), (312, 1)] {
            assert_eq!(due(&mut known, false, at), count);
        }
    }

    #[test]
    fn what_no_source_looks_for_is_remembered_for_a_while() {
        let begun = Instant::now();
        let mut known = Known::new(
            vec![record(1, b"/a", b"one")],
            &["other".into()].into(),
            begun,
        );
        let late = begun + AWAY_FOR;
        for at in [begun, begun + seconds(100), late - seconds(1)] {
            assert!(known.due(|_| false, at).is_empty());
        }
        assert_eq!(known.due(|_| false, late).len(), 1);
    }

    #[test]
    fn births_are_remembered_an_hour_longer_than_the_generations() {
        let begun = Instant::now();
        let path = LogPath::from_bytes(b"/a");
        let mut paths = Paths::default();
        let tick = CLOCK_TICK_NS;
        paths.hold(&path, 9 * tick, begun);
        paths.hold(&path, 5 * tick, begun);
        paths.release(&path, begun);
        paths.forget_old(begun + BIRTHS_FOR * 2);
        let births = paths.births(&path).expect("one is held");
        assert!(births.are_before(4 * tick) && !births.are_before(4 * tick - 1));
        paths.release(&path, begun + BIRTHS_FOR * 2);
        paths.forget_old(begun + BIRTHS_FOR * 3 - seconds(1));
        assert!(paths.births(&path).is_some());
        // Held again in the meantime, and left again: the hour begins anew.
        paths.hold(&path, 10, begun + BIRTHS_FOR * 3 - seconds(1));
        paths.release(&path, begun + BIRTHS_FOR * 3 - seconds(1));
        paths.forget_old(begun + BIRTHS_FOR * 3);
        assert!(paths.births(&path).is_some());
        paths.forget_old(begun + BIRTHS_FOR * 4);
        assert!(paths.births(&path).is_none());
    }
}
