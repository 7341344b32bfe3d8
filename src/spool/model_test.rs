//! Random sequences of appending, reading, releasing, giving up, failing, crashing and opening again,
//! against a model of what must still be there.
//!
//! `FANTAIL_TEST_SEED=N cargo test --release --lib spool::model_test` repeats one sequence; with
//! `FANTAIL_TEST_ALL=1` ten times as many are tried.

use std::collections::{BTreeMap, BTreeSet};

use rustix::io::Errno;

use super::damage_test::{entry, file, number, options};
use super::fake_disk_test::{FakeDisk, Fault, ID, Random};
use super::*;

const SEEDS: u64 = 5_000;
const STEPS: u64 = 60;
const FILES: u64 = 3;
const ERRNOS: [Errno; 4] = [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::IO];

/// An entry that was appended and is not released.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    number: u64,
    place: Place,
    file: FileId,
    start: u64,
    end: u64,
}

struct Model {
    random: Random,
    disk: FakeDisk,
    spool: Spool<FakeDisk>,
    /// Number of the next attempt at an entry.
    next: u64,
    /// Entries that there ever were an attempt to append.
    attempted: BTreeSet<u64>,
    kept: Vec<Kept>,
    /// Entries that were given up: they need not be there any more.
    dropped: BTreeSet<u64>,
    /// Up to where each file is spooled.
    ends: BTreeMap<FileId, u64>,
    /// What state.db has.
    confirmed: Option<Place>,
    /// Bytes were damaged: there may be holes.
    damaged: bool,
}

/// What a reader gets.
#[derive(Default)]
struct Seen {
    kept: Vec<Kept>,
    ends: BTreeMap<FileId, u64>,
    firsts: BTreeMap<FileId, u64>,
    damages: usize,
}

fn small() -> Options {
    Options {
        bytes_max: 40_000,
        segment_bytes: 2_500,
        ..options()
    }
}

impl Model {
    fn new(seed: u64) -> Self {
        let disk = FakeDisk::default();
        if seed % 2 == 1 {
            disk.be_short(seed);
        }
        let (spool, _) = Spool::open(disk.clone(), small(), None).expect("opened");
        Self {
            random: Random(seed),
            disk,
            spool,
            next: 0,
            attempted: BTreeSet::new(),
            kept: Vec::new(),
            dropped: BTreeSet::new(),
            ends: BTreeMap::new(),
            confirmed: None,
            damaged: false,
        }
    }

    fn step(&mut self) {
        if self.random.one_in(6) {
            self.disk.fail(Fault {
                at: self.random.below(6),
                times: 1 + self.random.below(3),
                errno: ERRNOS[self.random.index(ERRNOS.len())],
            });
        }
        match self.random.below(20) {
            0..9 => self.append(),
            9..12 => self.release(),
            12 => self.spool.seal(),
            13..15 => self.drop_oldest(),
            15 => self.reopen(true),
            16 => self.reopen(false),
            17 if self.random.one_in(20) => self.damage(),
            _ => {
                let from = self.confirmed.unwrap_or_else(|| self.spool.begin());
                self.check(from, true);
            }
        }
        self.disk.heal();
    }

    fn entry(&mut self, ends: &mut BTreeMap<FileId, u64>) -> Entry {
        let record = file(u8::try_from(self.random.below(FILES)).expect("small"));
        let mut entry = entry(0);
        let start = ends.get(&record.id).copied().unwrap_or(0);
        let end = start + 1 + self.random.below(20);
        ends.insert(record.id, end);
        let padding = " ".repeat(match self.random.below(30) {
            0 => 4_000,
            _ => self.random.index(200),
        });
        entry.body = format!("entry {}{padding}\n", self.next).into();
        entry.ranges[0] = Range {
            file: record.id,
            path: record.path.clone(),
            start,
            end,
            ..entry.ranges[0].clone()
        };
        entry.files = vec![record];
        self.attempted.insert(self.next);
        self.next += 1;
        entry
    }

    fn append(&mut self) {
        let mut ends = self.ends.clone();
        let count = 1 + self.random.below(4);
        let group: Vec<Entry> = (0..count).map(|_| self.entry(&mut ends)).collect();
        match self.spool.append(&group) {
            Ok(places) => {
                let kept = group.iter().zip(places).map(kept);
                self.kept.extend(kept);
                self.ends = ends;
            }
            Err(AppendError::Full(_)) => {
                assert!(self.spool.bytes() > 20_000, "full of nothing");
            }
            Err(AppendError::Io { .. }) => {}
            Err(error) => unreachable!("{error}"),
        }
    }

    fn release(&mut self) {
        let all = self.random.one_in(4);
        let place = match self.kept.len() {
            count if count > 0 && !all => self.kept[self.random.index(count)].place,
            _ => self.spool.end(),
        };
        if self.confirmed.is_some_and(|confirmed| confirmed > place) {
            return;
        }
        // Durable first.
        self.confirmed = Some(place);
        self.kept.retain(|kept| kept.place >= place);
        let before = self.spool.bytes();
        if self.spool.release(place).is_ok() && place == self.spool.end() {
            assert!(self.spool.bytes() <= before);
            assert!(self.spool.segments() <= 1);
        }
    }

    fn drop_oldest(&mut self) {
        let from = match self.confirmed {
            Some(place) => place,
            None => self.spool.begin(),
        };
        let segments = self.spool.contents.segments.iter();
        let before: BTreeSet<u64> = segments
            .filter(|segment| segment.content == Content::Dropped)
            .map(|segment| segment.number)
            .collect();
        let Ok(dropped) = self.spool.drop_oldest(from) else {
            return;
        };
        let Some(ranges) = dropped else {
            let left = self
                .kept
                .iter()
                .filter(|kept| kept.place.segment > from.segment);
            assert_eq!(left.count(), 0, "there was something to give up");
            return;
        };
        let inside = |kept: &Kept| {
            ranges.iter().any(|range| {
                let covers = range.start <= kept.start && kept.end <= range.end;
                range.file == kept.file && covers
            })
        };
        // The one that was given up is the oldest that was whole.
        let given_up = |segment: &&Segment| {
            segment.content == Content::Dropped && !before.contains(&segment.number)
        };
        let mut segments = self.spool.contents.segments.iter();
        let segment = segments.find(given_up).expect("one was given up").number;
        let gone = self
            .kept
            .iter()
            .filter(|kept| kept.place.segment == segment);
        let gone: BTreeSet<u64> = gone
            .map(|kept| {
                assert!(
                    inside(kept) || self.damaged,
                    "{kept:?} is not in {ranges:?}"
                );
                kept.number
            })
            .collect();
        self.kept.retain(|kept| !gone.contains(&kept.number));
        self.dropped.extend(gone);
    }

    fn reopen(&mut self, crash: bool) {
        self.disk.heal();
        if crash {
            self.disk.crash(&mut self.random);
        } else {
            self.disk.exit();
        }
        let confirmed = self.confirmed.map(|place| (ID, place));
        let opened = Spool::open(self.disk.clone(), small(), confirmed);
        let (spool, recovered) = opened.expect("opened");
        self.spool = spool;
        let from = recovered.from.expect("a place");
        if recovered.ignored {
            self.confirmed = recovered.from;
        }
        let cut = recovered.cut_bytes > 0 || !recovered.damaged.is_empty();
        if !self.damaged {
            assert_eq!(
                recovered.damaged,
                [],
                "{confirmed:?} {:?} {:#?}",
                recovered.from,
                self.spool.contents.segments
            );
        }
        let seen = self.check(from, false);
        if !cut && seen.damages == 0 {
            let told = |value: fn(&SpooledFile) -> u64| -> BTreeMap<FileId, u64> {
                let files = recovered.files.iter();
                files.map(|file| (file.record.id, value(file))).collect()
            };
            assert_eq!(told(|file| file.end.offset), seen.ends);
            if !self.damaged {
                assert_eq!(told(|file| file.first), seen.firsts);
                assert!(recovered.files.iter().all(|file| !file.holes));
            }
        }
        // Where the lanes go on.
        for file in &recovered.files {
            self.ends.insert(file.record.id, file.end.offset);
        }
        self.kept = seen.kept;
    }

    fn damage(&mut self) {
        self.damaged = true;
        let names = self.disk.names();
        if names.is_empty() {
            return;
        }
        let name = &names[self.random.index(names.len())];
        let mut bytes = self.disk.bytes(name);
        if bytes.is_empty() {
            return;
        }
        let from = self.random.index(bytes.len());
        let len = 1 + self.random.index(200);
        for byte in bytes[from..].iter_mut().take(len) {
            *byte = u8::try_from(self.random.below(256)).expect("a byte");
        }
        self.disk.put(name, &bytes);
        self.reopen(false);
    }

    /// Reads all from `from` on. `same` is the process that appended: nothing else may be there.
    fn check(&mut self, from: Place, same: bool) -> Seen {
        let mut seen = Seen::default();
        let mut place = from;
        let mut last = None;
        for step in 0.. {
            assert!(step < 10_000, "no end");
            let behind = match self.spool.read(place).expect("read") {
                Next::End => break,
                Next::Damaged(damage) => {
                    assert!(self.damaged, "{damage:?}");
                    seen.damages += 1;
                    damage.behind
                }
                Next::Entry {
                    place,
                    behind,
                    entry,
                } => {
                    let [range] = &entry.ranges[..] else {
                        unreachable!("{entry:?}");
                    };
                    let end = seen.ends.entry(range.file).or_insert(range.start);
                    assert!(
                        self.damaged || range.start <= *end,
                        "a hole before {entry:?}"
                    );
                    *end = range.end.max(*end);
                    let first = seen.firsts.entry(range.file).or_insert(range.start);
                    *first = range.start.min(*first);
                    if entry.lines > 0 {
                        let kept = kept((&entry, place));
                        assert!(self.attempted.contains(&kept.number));
                        assert!(last < Some(kept.number), "{last:?} before {kept:?}");
                        last = Some(kept.number);
                        seen.kept.push(kept);
                    } else {
                        assert_eq!(range.skipped, Some(Skipped::DropOldest));
                    }
                    behind
                }
            };
            assert!(behind > place);
            place = behind;
        }
        let has = |kept: &&Kept| seen.kept.contains(kept);
        let missing: Vec<_> = self.kept.iter().filter(|kept| !has(kept)).collect();
        assert!(missing.is_empty() || self.damaged, "{missing:?}");
        if same && !self.damaged {
            let known =
                |kept: &&Kept| self.kept.contains(kept) || self.dropped.contains(&kept.number);
            let unknown: Vec<_> = seen.kept.iter().filter(|kept| !known(kept)).collect();
            assert!(unknown.is_empty(), "{unknown:?} was never appended");
        }
        seen
    }
}

fn kept((entry, place): (&Entry, Place)) -> Kept {
    let range = &entry.ranges[0];
    Kept {
        number: number(entry),
        place,
        file: range.file,
        start: range.start,
        end: range.end,
    }
}

#[test]
fn what_was_durable_is_there_and_nothing_else_whatever_happens() {
    let run = |seed| {
        let mut model = Model::new(seed);
        for _ in 0..STEPS {
            model.step();
        }
        model.reopen(true);
    };
    let given = std::env::var("FANTAIL_TEST_SEED");
    if let Some(seed) = given.ok().and_then(|seed| seed.parse().ok()) {
        return run(seed);
    }
    let all = std::env::var_os("FANTAIL_TEST_ALL").is_some();
    for seed in 0..if all { 10 * SEEDS } else { SEEDS } {
        let ran = std::panic::catch_unwind(|| run(seed));
        assert!(ran.is_ok(), "FANTAIL_TEST_SEED={seed} fails");
    }
}
