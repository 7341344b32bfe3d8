//! Random sequences of what happens to log files, against the lane and the simplest model of what
//! must come out of it: every line of every generation that a scan has seen, in order.
//!
//! `FANTAIL_TEST_SEED=N cargo test --release --lib model_test` repeats one sequence; with
//! `FANTAIL_TEST_ALL=1` ten times as many are tried, other ones each time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::rig_test::Driven;
use super::{Input, Output};
use crate::lines::Splitter;
use crate::model::{Batch, FileId, FileRecord, Format, Rewind, Skipped};
use crate::tail::Event;

/// Sequences of one run.
const SEQUENCES: u64 = 3_000;

const LINE_MAX: usize = 64;
const UNFINISHED_MAX: usize = 40;

/// What happens to the files, and to the agent.
#[derive(Clone, Debug)]
enum Step {
    /// Lines are written; without a line end at last if `unfinished`.
    Append {
        file: usize,
        lines: usize,
        unfinished: bool,
    },
    /// `a.log` becomes `a.log.1`, and that `a.log.2`.
    Rotate {
        file: usize,
    },
    /// Rename and create, with the first lines of the new one, in one moment.
    RotateAndAppend {
        file: usize,
    },
    Delete {
        file: usize,
    },
    /// Deleted, and made anew in the same moment.
    DeleteAndAppend {
        file: usize,
    },
    /// A second name that nobody looks for, so that a deleted file lives on; and a symbolic link that
    /// nobody may follow.
    Link {
        file: usize,
    },
    /// Emptied in place, after everything was read and confirmed.
    Truncate {
        file: usize,
    },
    /// logrotate's copytruncate: copied to `a.log.1`, then emptied, read or not.
    CopyTruncate {
        file: usize,
    },
    /// `a.log.1` becomes `a.log.1.gz`.
    Compress {
        file: usize,
    },
    /// Somebody writes on through the descriptor of the last rotated generation.
    AppendToRotated {
        file: usize,
    },
    Scan,
    Work {
        turns: usize,
    },
    /// So much time goes by, and everything is looked at.
    Wait {
        seconds: u64,
    },
    /// What was handed over is acknowledged and confirmed.
    Confirm,
    /// A topology check failed: back to what is confirmed.
    Rewind,
    /// The settings are others: batches are smaller or larger, and lines are treated anew.
    Reload,
    /// A clean stop and a start.
    Restart,
    /// kill -9 and a start.
    Crash,
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap_or(0)
    }

    fn step(&mut self) -> Step {
        let file = self.index(2);
        match self.below(27) {
            0..=5 => Step::Append {
                file,
                lines: self.index(4),
                unfinished: self.below(4) == 0,
            },
            6 => Step::Rotate { file },
            7 => Step::RotateAndAppend { file },
            8 => Step::Delete { file },
            9 => Step::Truncate { file },
            10 => Step::AppendToRotated { file },
            11..=13 => Step::Scan,
            14 | 15 => Step::Work {
                turns: 1 + self.index(6),
            },
            16 => Step::Wait {
                seconds: [1, 7, 90][self.index(3)],
            },
            17 => Step::Confirm,
            18 => Step::Rewind,
            19 | 20 => Step::CopyTruncate { file },
            21 => Step::DeleteAndAppend { file },
            22 => Step::Link { file },
            23 | 24 => Step::Compress { file },
            25 => Step::Reload,
            _ if self.below(2) == 0 => Step::Restart,
            _ => Step::Crash,
        }
    }
}

/// One generation as the model has it.
#[derive(Debug, Default)]
struct Generation {
    content: Vec<u8>,
    /// A scan saw it: from then on nothing of it may be missing.
    seen: bool,
    /// It may have been lost by nature: deleted while the agent did not run, or before it was seen
    /// again.
    excused: bool,
    /// It stands in a copy, which nobody writes to.
    copied: bool,
    /// It was written to since the last scan.
    written: bool,
    /// It had bytes when a scan saw it, so that the agent knows it over a restart.
    known: bool,
    /// Nobody finds its last line's end any more.
    ended: bool,
    /// It was compressed; and what the agent has made of that so far.
    packed: Option<Packed>,
}

/// What the agent has made of a compressed file: it is not open before it was looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packed {
    Made,
    Scanned,
    LookedInto,
}

struct Rig {
    driven: Driven,
    format: Format,
    epochs: HashMap<FileId, u32>,
    /// What a consumer with coverage has: line by offset.
    delivered: HashMap<FileId, BTreeMap<u64, Vec<u8>>>,
    covered: HashMap<FileId, u64>,
    /// Said to have lost bytes.
    lossy: HashSet<FileId>,
    model: Vec<Generation>,
    /// The generation at each path.
    current: [Option<usize>; 2],
    /// At `.1` and `.2`.
    rotated: [[Option<usize>; 2]; 2],
    /// The first generation of this path that was seen when it had bytes.
    had: [Option<usize>; 2],
    lines: usize,
    links: usize,
}

impl Deref for Rig {
    type Target = Driven;
    fn deref(&self) -> &Driven {
        &self.driven
    }
}

impl DerefMut for Rig {
    fn deref_mut(&mut self) -> &mut Driven {
        &mut self.driven
    }
}

impl Rig {
    fn new(manner: Manner) -> Self {
        let Manner { format, keeps } = manner;
        let mut driven = Driven::new("*.log", Splitter::new(LINE_MAX));
        // Small, so that budgets and full batches are met all the time.
        driven.options.format = format;
        driven.options.batch_bytes_max = 600;
        driven.options.unfinished_max = UNFINISHED_MAX;
        driven.keeps = keeps;
        driven.start();
        Self {
            driven,
            format,
            epochs: HashMap::new(),
            delivered: HashMap::new(),
            covered: HashMap::new(),
            lossy: HashSet::new(),
            model: Vec::new(),
            current: [None; 2],
            rotated: [[None; 2]; 2],
            had: [None; 2],
            lines: 0,
            links: 0,
        }
    }

    fn path(&self, file: usize, suffix: &str) -> PathBuf {
        let name = ["a", "b"][file];
        self.driven.path(&format!("{name}.log{suffix}"))
    }

    fn start(&mut self) {
        self.driven.start();
        self.epochs.clear();
    }

    fn tell(&mut self, input: Input) {
        self.driven.tell(input);
        self.receive();
    }

    fn turn(&mut self) -> bool {
        let worked = self.driven.turn();
        self.receive();
        worked
    }

    fn work(&mut self) {
        for _ in 0..10_000 {
            if !self.turn() {
                for generation in &mut self.model {
                    if generation.packed == Some(Packed::Scanned) {
                        generation.packed = Some(Packed::LookedInto);
                        generation.known |= generation.seen && !generation.content.is_empty();
                        generation.written = false;
                    }
                }
                return;
            }
        }
        unreachable!("the lane never comes to rest");
    }

    fn receive(&mut self) {
        while let Some(output) = self.next() {
            match output {
                Output::Tail(Event::Resumed(record)) => {
                    self.epochs.remove(&record.id);
                    let covered = self.covered.get(&record.id).copied().unwrap_or(0);
                    assert!(
                        record.confirmed.offset <= covered,
                        "resumed beyond what was delivered"
                    );
                }
                Output::Tail(_) => {}
                // What is lost is judged by the ranges that say so.
                Output::Lost(..) | Output::Full | Output::Stopped { .. } => {}
                Output::Batch(batch) => self.batch(&batch),
            }
        }
    }

    /// Judges a batch as a consumer with coverage does. One of an older epoch is dropped, and its
    /// younger files are sent back, as the relay does it.
    fn batch(&mut self, batch: &Batch) {
        let current =
            |rig: &Self, file, epoch| rig.epochs.get(&file).copied().unwrap_or(0) == epoch;
        if !batch
            .ranges
            .iter()
            .all(|range| current(self, range.file, range.epoch))
        {
            let young: Vec<FileId> = batch
                .ranges
                .iter()
                .filter(|range| current(self, range.file, range.epoch))
                .map(|range| range.file)
                .collect();
            return self.rewind(young);
        }
        for range in &batch.ranges {
            assert!(
                self.records.contains_key(&range.file),
                "published before its id was durable"
            );
            let reached = self.reached.get(&range.file).map(|(mark, _)| mark.offset);
            let reached = reached.unwrap_or(self.records[&range.file].confirmed.offset);
            assert_eq!(range.start, reached, "a hole or a repeat within an epoch");
            self.reached
                .insert(range.file, (range.end_mark(), range.eof));
            if let Some(skipped) = range.skipped {
                assert!(matches!(skipped, Skipped::Truncated | Skipped::Deleted));
                self.lossy.insert(range.file);
            }
        }
        if self.format == Format::Lines {
            self.bytes(batch);
        } else {
            self.objects(batch);
        }
        for range in &batch.ranges {
            let covered = self.covered.entry(range.file).or_default();
            assert!(range.start <= *covered, "a range was left out");
            *covered = range.end.max(*covered);
        }
    }

    fn objects(&mut self, batch: &Batch) {
        for line in batch.body.split_inclusive(|byte| *byte == b'\n') {
            let object: serde_json::Value = serde_json::from_slice(line).expect("ndjson");
            let (log, message) = (&object["log"], &object["message"]);
            let id: FileId = log["file"]["id"]
                .as_str()
                .expect("an id")
                .parse()
                .expect("hex");
            let (offset, bytes) = (
                log["offset"].as_u64().expect("offset"),
                log["bytes"].as_u64().expect("bytes"),
            );
            let message = message.as_str().expect("text").as_bytes().to_vec();
            assert!(bytes - message.len() as u64 <= 1);
            self.deliver(id, offset, bytes, message);
        }
    }

    /// The body is the bytes of its ranges, all of one file.
    fn bytes(&mut self, batch: &Batch) {
        let mut body = &batch.body[..];
        for range in &batch.ranges {
            assert_eq!(range.file, batch.ranges[0].file);
            let mut offset = range.start;
            while range.skipped.is_none() && offset < range.end {
                let line_end = body.iter().position(|byte| *byte == b'\n');
                let whole = line_end.map_or(body.len(), |at| at + 1);
                let left = usize::try_from(range.end - offset).expect("small");
                let (line, rest) = body.split_at(whole.min(left));
                assert!(!line.is_empty(), "the body ends before its ranges");
                let message = line.strip_suffix(b"\n").unwrap_or(line).to_vec();
                self.deliver(range.file, offset, line.len() as u64, message);
                (body, offset) = (rest, offset + line.len() as u64);
            }
        }
        assert!(body.is_empty(), "the body goes beyond its ranges");
    }

    fn deliver(&mut self, id: FileId, offset: u64, bytes: u64, message: Vec<u8>) {
        let covered = self.covered.get(&id).copied().unwrap_or(0);
        if offset + bytes > covered {
            self.delivered
                .entry(id)
                .or_default()
                .insert(offset, message);
        }
    }

    fn rewind(&mut self, files: Vec<FileId>) {
        let mut rewinds = Vec::new();
        for file in files {
            let to = self.records[&file].confirmed;
            self.reached.remove(&file);
            let epoch = self.epochs.entry(file).or_default();
            *epoch += 1;
            rewinds.push(Rewind {
                file,
                epoch: *epoch,
                to,
            });
        }
        self.tell(Input::Rewind(rewinds));
    }

    fn confirm(&mut self) {
        let confirmed = self.settle();
        self.tell(Input::Confirmed(confirmed));
    }

    fn scan(&mut self) {
        for file in 0..2 {
            let had = self.had[file];
            for generation in self.rotated[file].into_iter().flatten() {
                self.model[generation].seen |= had.is_some_and(|had| had < generation);
                if let Some(packed) = &mut self.model[generation].packed {
                    if *packed == Packed::Made {
                        *packed = Packed::Scanned;
                    }
                    if *packed != Packed::LookedInto {
                        continue;
                    }
                }
                self.model[generation].written = false;
                let empty = self.model[generation].content.is_empty();
                self.model[generation].known |= self.model[generation].seen && !empty;
            }
            if let Some(index) = self.current[file] {
                let current = &mut self.model[index];
                current.seen = true;
                current.written = false;
                if !current.content.is_empty() {
                    current.known = true;
                    self.had[file].get_or_insert(index);
                }
            }
        }
        let scan = self.look();
        self.tell(Input::Scan(scan));
    }

    fn append(&mut self, generation: usize, path: &Path, lines: usize, unfinished: bool) {
        let mut text = String::new();
        for line in 0..lines {
            self.lines += 1;
            // Now and then longer than a line may be.
            let filler = "x".repeat(if self.lines.is_multiple_of(7) {
                150
            } else {
                self.lines % 5
            });
            let end = if unfinished && line + 1 == lines {
                ""
            } else {
                "\n"
            };
            text.push_str(&format!("{} {filler}{end}", self.lines));
        }
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .expect("opened");
        file.write_all(text.as_bytes()).expect("written");
        self.model[generation].content.extend(text.as_bytes());
        self.model[generation].written = true;
    }

    fn at(&mut self, file: usize) -> usize {
        *self.current[file].get_or_insert_with(|| {
            self.model.push(Generation::default());
            self.model.len() - 1
        })
    }

    /// `.1` becomes `.2`, and what was `.2` is gone.
    fn make_way(&mut self, file: usize) {
        let [first, second] = self.rotated[file];
        if let Some(second) = second {
            self.model[second].excused |= self.model[second].written;
        }
        for suffix in ["", ".gz"] {
            let _ = fs::remove_file(self.path(file, &format!(".2{suffix}")));
            let from = self.path(file, &format!(".1{suffix}"));
            let _ = fs::rename(from, self.path(file, &format!(".2{suffix}")));
        }
        self.rotated[file] = [None, first];
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Append {
                file,
                lines,
                unfinished,
            } => {
                let generation = self.at(file);
                let path = self.path(file, "");
                self.append(generation, &path, lines, unfinished);
            }
            Step::Rotate { file } => {
                let Some(generation) = self.current[file].take() else {
                    return;
                };
                self.make_way(file);
                fs::rename(self.path(file, ""), self.path(file, ".1")).expect("renamed");
                self.model[generation].ended = true;
                self.rotated[file][0] = Some(generation);
            }
            Step::CopyTruncate { file } => {
                let Some(generation) = self.current[file].take() else {
                    return;
                };
                self.make_way(file);
                let path = self.path(file, "");
                fs::copy(&path, self.path(file, ".1")).expect("copied");
                OpenOptions::new()
                    .write(true)
                    .truncate(true)
                    .open(path)
                    .expect("truncated");
                self.model[generation].ended = true;
                self.rotated[file][0] = Some(generation);
                self.model[generation].copied = true;
                // No scan has seen the copy.
                self.model[generation].written = true;
                // The next generation is there, empty.
                self.at(file);
            }
            Step::RotateAndAppend { file } => {
                self.step(&Step::Rotate { file });
                self.step(&Step::Append {
                    file,
                    lines: 3,
                    unfinished: false,
                });
            }
            Step::Delete { file } => {
                let Some(generation) = self.current[file].take() else {
                    return;
                };
                fs::remove_file(self.path(file, "")).expect("deleted");
                self.model[generation].ended = true;
            }
            Step::DeleteAndAppend { file } => {
                self.step(&Step::Delete { file });
                self.step(&Step::Append {
                    file,
                    lines: 3,
                    unfinished: false,
                });
            }
            Step::Link { file } => {
                if self.current[file].is_some() {
                    self.links += 1;
                    let path = self.path(file, "");
                    let kept = self.path(file, &format!(".kept-by-{}", self.links));
                    fs::hard_link(&path, kept).expect("linked");
                    let planted = format!("planted-{}.log", self.links);
                    let planted = self.directory.path().join(planted);
                    std::os::unix::fs::symlink(path, planted).expect("linked");
                }
            }
            Step::Truncate { file } => {
                let Some(generation) = self.current[file] else {
                    return;
                };
                self.scan();
                self.wait(2);
                // What is not confirmed by now would be lost by a rewind, and counted.
                self.confirm();
                self.model[generation].ended = true;
                let path = self.path(file, "");
                OpenOptions::new()
                    .write(true)
                    .truncate(true)
                    .open(path)
                    .expect("truncated");
                self.current[file] = None;
                // As long as it stays empty, and after every length: found out at the next read.
                let generation = self.at(file);
                self.model[generation].seen = true;
                // Until it is clear that there is no copy.
                self.wait(2);
                for _ in 0..3 {
                    self.scan();
                }
                self.wait(11);
                self.confirm();
            }
            Step::AppendToRotated { file } => {
                let Some(generation) = self.rotated[file][0] else {
                    return;
                };
                if !self.model[generation].copied && self.model[generation].packed.is_none() {
                    let path = self.path(file, ".1");
                    self.append(generation, &path, 1, false);
                }
            }
            Step::Compress { file } => {
                let Some(generation) = self.rotated[file][0] else {
                    return;
                };
                if self.model[generation].packed.is_none() {
                    pack(&self.path(file, ".1"));
                    // Whoever writes on writes into what is deleted.
                    let generation = &mut self.model[generation];
                    generation.packed = Some(Packed::Made);
                    generation.written |= !generation.seen;
                }
            }
            Step::Scan => self.scan(),
            Step::Work { turns } => {
                for _ in 0..turns {
                    self.turn();
                }
            }
            Step::Wait { seconds } => self.wait(seconds),
            Step::Confirm => self.confirm(),
            Step::Rewind => {
                let files = self.reached.keys().copied().collect();
                self.rewind(files);
            }
            Step::Reload => {
                let small = self.options.batch_bytes_max < 1000;
                self.options.batch_bytes_max = if small { 1 << 20 } else { 400 };
                self.driven.reload(true, true);
                self.receive();
            }
            Step::Restart | Step::Crash => {
                if matches!(step, Step::Restart) {
                    self.work();
                    self.confirm();
                }
                let kept = self.kept_contents();
                for (index, generation) in self.model.iter_mut().enumerate() {
                    if kept.contains(&generation.content) {
                        continue;
                    }
                    // Nobody holds what was not looked into.
                    if generation
                        .packed
                        .is_some_and(|packed| packed != Packed::LookedInto)
                    {
                        (generation.packed, generation.written) = (Some(Packed::Made), true);
                    }
                    let on_disk = self.current.iter().chain(self.rotated.as_flattened());
                    generation.excused |= !on_disk.flatten().any(|there| *there == index);
                    generation.excused |= !generation.known && !self.current.contains(&Some(index));
                }
                for file in 0..2 {
                    // Of a path without any generation left nothing is known.
                    let path = self.path(file, "");
                    let known = |record: &FileRecord| record.path.as_path() == path;
                    if !self.records.values().any(known) {
                        self.had[file] = None;
                    }
                }
                self.start();
                self.scan();
            }
        }
    }

    /// What the files hold whose descriptors outlive the agent.
    fn kept_contents(&self) -> HashSet<Vec<u8>> {
        let content = |file: &fs::File| {
            let size = file.metadata().expect("a size").len();
            let mut content = vec![0; usize::try_from(size).expect("small")];
            file.read_exact_at(&mut content, 0).expect("read");
            content
        };
        self.driven.kept.values().map(content).collect()
    }

    fn wait(&mut self, seconds: u64) {
        self.work();
        self.now += Duration::from_secs(seconds);
        self.work();
    }

    /// Lets everything come to its end, and compares.
    fn judge(mut self) {
        self.scan();
        self.wait(2);
        self.confirm();
        for seconds in [2, 2, 10, 10, 100, 2] {
            self.scan();
            self.wait(seconds);
            self.confirm();
        }
        let mut delivered: Vec<(FileId, Vec<u8>)> = Vec::new();
        for (id, lines) in &self.delivered {
            let mut text = Vec::new();
            for (offset, line) in lines {
                if text.len() as u64 == *offset {
                    text.extend(line);
                } else {
                    // The line before ended here, with a line end in between.
                    text.push(b'\n');
                    text.extend(line);
                }
                assert_eq!(
                    text.len() as u64,
                    offset + line.len() as u64,
                    "a line is missing"
                );
            }
            if self.covered[id] == text.len() as u64 + 1 {
                text.push(b'\n');
            }
            let covered = self.covered[id];
            let lossy = self.lossy.contains(id) && covered > text.len() as u64;
            assert!(
                lossy || covered == text.len() as u64,
                "ranges and lines disagree"
            );
            delivered.push((*id, text));
        }
        for generation in &self.model {
            let content = &generation.content;
            let complete = content
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |at| at + 1);
            let wanted = if generation.ended {
                content.len()
            } else {
                complete
            };
            // Every line begins with a number of its own.
            let number = |text: &[u8]| text.split(|byte| *byte == b' ').next().map(<[u8]>::to_vec);
            let begins = |text: &[u8]| !content.is_empty() && number(text) == number(content);
            let have: Vec<&(FileId, Vec<u8>)> =
                delivered.iter().filter(|(_, text)| begins(text)).collect();
            assert!(have.len() <= 1, "one generation under two ids");
            let text = have.first().map_or(&[][..], |(_, text)| text);
            let (shown, came) = (
                String::from_utf8_lossy(content),
                String::from_utf8_lossy(text),
            );
            assert!(content.starts_with(text), "of {shown:?} came {came:?}");
            let lossy = have.first().is_some_and(|(id, _)| self.lossy.contains(id));
            // A long unfinished line is not held, nor the longest when there are several, and is
            // gone when it is truncated away.
            let unheld = content.len() - complete > UNFINISHED_MAX / 4;
            assert!(!lossy || generation.excused || unheld, "lost without need");
            if generation.seen && !generation.excused && !lossy {
                // Whole parts of a long line go out before its end is there.
                let parts = !generation.ended && content.len() - complete > LINE_MAX;
                let fine = text.len() == wanted || parts && text.len() > wanted;
                let shown = String::from_utf8_lossy(content);
                assert!(
                    fine,
                    "of {shown:?} came {:?}",
                    String::from_utf8_lossy(text)
                );
            }
        }
        let known = |text: &[u8]| {
            self.model
                .iter()
                .any(|generation| generation.content.starts_with(text))
        };
        assert!(delivered.iter().all(|(_, text)| known(text)), "invented");
    }
}

/// What logrotate does: packs a file, keeps its time, and deletes it when that is done.
fn pack(path: &Path) {
    let mut packed = path.as_os_str().to_owned();
    packed.push(".gz");
    let modified = fs::metadata(path).and_then(|found| found.modified());
    let file = fs::File::create(packed).expect("made");
    let level = flate2::Compression::fast();
    let mut encoder = flate2::write::GzEncoder::new(&file, level);
    let content = fs::read(path).expect("read");
    encoder.write_all(&content).expect("packed");
    encoder.finish().expect("packed");
    file.set_modified(modified.expect("a time")).expect("set");
    fs::remove_file(path).expect("deleted");
}

/// How the agent is set up.
#[derive(Clone, Copy, Debug)]
struct Manner {
    format: Format,
    /// Descriptors of deleted files are kept over a restart.
    keeps: bool,
}

fn fails(manner: Manner, steps: &[Step]) -> bool {
    let run = || {
        let mut rig = Rig::new(manner);
        steps.iter().for_each(|step| rig.step(step));
        rig.judge();
    };
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err()
}

/// Leaves out steps for as long as it still fails.
fn shrink(manner: Manner, mut steps: Vec<Step>) -> Vec<Step> {
    let mut at = 0;
    while at < steps.len() {
        let mut fewer = steps.clone();
        fewer.remove(at);
        if fails(manner, &fewer) {
            steps = fewer;
            at = 0;
        } else {
            at += 1;
        }
    }
    steps
}

fn manner_of(seed: u64) -> Manner {
    let format = match seed % 3 {
        0 => Format::Ndjson,
        1 => Format::Json,
        _ => Format::Lines,
    };
    let keeps = seed.is_multiple_of(2);
    Manner { format, keeps }
}

fn steps_of(seed: u64) -> Vec<Step> {
    let mut random = Random(seed);
    let count = 5 + random.below(40);
    (0..count).map(|_| random.step()).collect()
}

#[test]
fn whatever_happens_to_the_files_every_line_that_was_seen_comes_out_once_and_in_order() {
    let given = std::env::var("FANTAIL_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let (first, count) = match given {
        Some(seed) => (seed, 1),
        // Others each time, and more of them: a change is tried on the same ones as the last.
        None if std::env::var_os("FANTAIL_TEST_ALL").is_some() => {
            (u64::from(std::process::id()) << 32, 10 * SEQUENCES)
        }
        None => (1, SEQUENCES),
    };
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let failed = (first..first + count).find(|seed| fails(manner_of(*seed), &steps_of(*seed)));
    let least = failed.map(|seed| (seed, shrink(manner_of(seed), steps_of(seed))));
    std::panic::set_hook(hook);
    if let Some((seed, steps)) = least {
        eprintln!("FANTAIL_TEST_SEED={seed} fails; the least that fails: {steps:#?}");
        let mut rig = Rig::new(manner_of(seed));
        steps.iter().for_each(|step| rig.step(step));
        rig.judge();
        unreachable!("it failed a moment ago");
    }
}
