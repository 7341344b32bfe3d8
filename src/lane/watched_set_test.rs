//! Many files, and what surrounds them: what is opened, remembered, forgotten and let go. A lane
//! with real files and a clock of the test's own; no broker.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::io::Write as _;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use super::rig_test::Driven;
use super::{Input, Output};
use crate::lines::Splitter;
use crate::model::{Batch, FileId, FileRecord, HEAD_LEN, Rewind, Skipped};
use crate::tail::descriptors::Limits;
use crate::tail::report::Condition;

/// A lane, and what a consumer has of it.
struct Rig {
    driven: Driven,
    /// What a consumer has, in the order in which it came: by generation, in order of appearance.
    delivered: BTreeMap<usize, Generation>,
    numbers: HashMap<FileId, usize>,
    lost: Vec<(Skipped, u64)>,
}

/// What came of one generation.
#[derive(Debug, Default)]
struct Generation {
    path: PathBuf,
    text: Vec<u8>,
    covered: u64,
    skipped: Vec<(Skipped, u64, u64)>,
    ended: bool,
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
    fn new(include: &str) -> Self {
        let mut driven = Driven::new(include, Splitter::new(1000));
        driven.start();
        Self {
            driven,
            delivered: BTreeMap::new(),
            numbers: HashMap::new(),
            lost: Vec::new(),
        }
    }

    fn tell(&mut self, input: Input) {
        self.driven.tell(input);
        self.receive();
    }

    fn work(&mut self) {
        for _ in 0..1_000_000 {
            let worked = self.turn();
            self.receive();
            if !worked {
                return;
            }
        }
        unreachable!("the lane never comes to rest");
    }

    fn scan(&mut self) {
        let scan = self.look();
        self.tell(Input::Scan(scan));
    }

    fn confirm(&mut self) {
        let confirmed = self.settle();
        self.tell(Input::Confirmed(confirmed));
    }

    /// A scan, everything read and confirmed.
    fn round(&mut self) {
        self.scan();
        self.work();
        self.confirm();
    }

    /// So many seconds with a round each.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            self.round();
        }
    }

    fn receive(&mut self) {
        while let Some(output) = self.next() {
            match output {
                Output::Lost(reason, bytes) => self.lost.push((reason, bytes)),
                Output::Batch(batch) => self.batch(&batch),
                Output::Tail(_) | Output::Full | Output::Stopped { .. } => {}
            }
        }
    }

    fn batch(&mut self, batch: &Batch) {
        for range in &batch.ranges {
            let number = self.numbers.len();
            let number = *self.numbers.entry(range.file).or_insert(number);
            let generation = self.delivered.entry(number).or_default();
            generation.path = range.path.as_path().to_path_buf();
            assert_eq!(range.start, generation.covered, "a hole or a repeat");
            generation.covered = range.end;
            generation.ended |= range.eof;
            if let Some(skipped) = range.skipped {
                let skipped = (skipped, range.start, range.end);
                generation.skipped.push(skipped);
            }
        }
        self.accept(batch);
        for line in batch.body.split_inclusive(|byte| *byte == b'\n') {
            let object: serde_json::Value = serde_json::from_slice(line).expect("ndjson");
            let id = object["log"]["file"]["id"].as_str().expect("an id");
            let id: FileId = id.parse().expect("hex");
            let text = object["message"].as_str().expect("text");
            let generation = self.delivered.get_mut(&self.numbers[&id]).expect("known");
            generation.text.extend(text.as_bytes());
            generation.text.push(b'\n');
        }
    }

    /// What came of each generation of a path, oldest first.
    fn texts(&self, name: &str) -> Vec<String> {
        let path = self.path(name);
        let generations = self.delivered.values();
        let here = generations.filter(|generation| generation.path == path);
        here.map(|generation| String::from_utf8_lossy(&generation.text).into_owned())
            .collect()
    }

    fn append(&self, name: &str, text: &str) {
        append(&self.path(name), text);
    }

    /// Descriptors of this process in the rig's directory, deleted ones included.
    fn open_files(&self) -> usize {
        let descriptors = fs::read_dir("/proc/self/fd").expect("a list");
        let targets = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        let here = |target: &PathBuf| target.starts_with(self.directory.path());
        targets.filter(here).count()
    }

    fn limited(include: &str, limits: Limits) -> Self {
        let mut rig = Self::new(include);
        rig.limits = limits;
        rig.start();
        rig
    }
}

fn append(path: &Path, text: &str) {
    let file = fs::OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .expect("written");
}

#[test]
fn a_deleted_file_is_let_go_without_any_further_event_and_forgotten_after_the_grace() {
    let mut rig = Rig::new("*.log");
    rig.append("a.log", "one\n");
    rig.round();
    fs::remove_file(rig.path("a.log")).expect("deleted");
    rig.pass(60);
    assert_eq!(rig.open_files(), 1, "somebody may write on");
    rig.pass(2);
    assert_eq!(rig.open_files(), 0);
    assert_eq!(rig.records.len(), 1, "it may turn up, packed");
    rig.pass(12);
    assert!(rig.records.is_empty());
    assert_eq!(rig.texts("a.log"), ["one\n"]);
    assert!(rig.delivered[&0].ended);
    assert!(rig.lost.is_empty());
}

#[test]
fn a_stop_that_comes_together_with_room_hands_over_what_waited_for_it() {
    let mut driven = Driven::new("*.log", Splitter::new(1000));
    driven.options.batch_bytes_max = 2000;
    driven.window = 10_000;
    driven.start();
    append(
        &driven.path("a.log"),
        &"a line of some length\n".repeat(100),
    );
    let scan = driven.look();
    driven.tell(Input::Scan(scan));
    while driven.turn() {}
    let out: Vec<Output> = std::iter::from_fn(|| driven.next()).collect();
    let is_full = |output: &Output| matches!(output, Output::Full);
    assert!(out.iter().any(is_full), "a batch waits for room");
    drop(out);
    let (inputs, received) = std::sync::mpsc::channel();
    for input in [Input::Room, Input::Stop, Input::Stop] {
        inputs.send(input).expect("received");
    }
    driven.run(&received);
    let mut left = std::iter::from_fn(|| driven.next());
    let is_stopped = |output: Output| matches!(output, Output::Stopped { .. });
    assert!(left.any(is_stopped), "it waits for what nobody tells");
}

#[test]
fn what_is_written_anew_as_long_as_before_and_ends_alike_is_noticed() {
    let mut rig = Rig::new("*.log");
    let filler = "x".repeat(100);
    rig.append("a.log", &format!("1 {filler}\n"));
    rig.pass(2);
    fs::write(rig.path("a.log"), format!("2 {filler}\n")).expect("written");
    rig.pass(2);
    let texts = [format!("1 {filler}\n"), format!("2 {filler}\n")];
    assert_eq!(rig.texts("a.log"), texts);
}

#[test]
fn a_path_that_comes_back_as_it_was_is_a_new_generation() {
    let mut rig = Rig::new("*.log");
    for _ in 0..5 {
        rig.append("a.log", "the same\n");
        rig.pass(1);
        fs::remove_file(rig.path("a.log")).expect("deleted");
        rig.pass(70);
    }
    assert_eq!(rig.texts("a.log"), ["the same\n"; 5]);
}

#[test]
fn a_generation_that_turns_up_in_a_copy_after_it_was_deleted_is_not_read_again() {
    let mut rig = Rig::new("*.log");
    rig.append("a.log", "one\n");
    rig.round();
    rig.append("a.log.tmp", "one\n");
    fs::remove_file(rig.path("a.log")).expect("deleted");
    rig.pass(62);
    assert_eq!(rig.open_files(), 0);
    fs::rename(rig.path("a.log.tmp"), rig.path("a.log.1")).expect("renamed");
    rig.pass(30);
    assert_eq!(rig.texts("a.log"), ["one\n"]);
    assert_eq!(rig.records.len(), 1, "it lies there");
    assert_eq!(rig.open_files(), 0, "nothing is wanted of it");
    rig.append("a.log.1", "two\n");
    rig.pass(1);
    assert_eq!(rig.texts("a.log"), ["one\ntwo\n"]);
    fs::remove_file(rig.path("a.log.1")).expect("deleted");
    rig.pass(80);
    assert!(rig.records.is_empty());
}

#[test]
fn what_vanished_while_the_agent_was_down_is_forgotten_and_what_is_known_to_be_lost_is_said() {
    let mut rig = Rig::new("*.log");
    rig.append("a.log", "confirmed\n");
    rig.append("b.log", "confirmed\n");
    rig.round();
    rig.append("c.log", "never confirmed\n");
    rig.scan();
    rig.work();
    for name in ["a.log", "c.log"] {
        fs::remove_file(rig.path(name)).expect("deleted");
    }
    rig.start();
    // What was sent and not confirmed counts for nothing.
    rig.numbers.clear();
    rig.delivered.clear();
    rig.pass(10);
    assert_eq!(rig.records.len(), 3, "not before the grace is over");
    rig.pass(20);
    let paths: Vec<&Path> = rig
        .records
        .values()
        .map(|record| record.path.as_path())
        .collect();
    assert_eq!(paths, [rig.path("b.log")]);
    assert_eq!(rig.lost, [(Skipped::Deleted, 16)]);
    let said = rig.delivered.values().find(|generation| generation.ended);
    let said = said.expect("its end is said");
    assert_eq!(said.skipped, [(Skipped::Deleted, 0, 16)]);
}

#[test]
fn rows_of_short_lived_files_do_not_pile_up_over_restarts_and_in_one_run() {
    let mut rig = Rig::new("*.log");
    let mut most = 0;
    for number in 0..300 {
        let name = format!("{number}.log");
        rig.append(&name, "short-lived\n");
        rig.pass(1);
        fs::remove_file(rig.path(&name)).expect("deleted");
        if number % 100 == 50 {
            // Some of them vanish while nobody looks.
            rig.start();
        }
        most = most.max(rig.records.len());
    }
    // A minute until they are let go, the grace, and what was there at the moment.
    assert!(most < 100, "{most} rows");
    rig.pass(100);
    assert!(rig.records.is_empty());
    assert!(rig.lost.is_empty());
    for number in 0..300 {
        assert_eq!(rig.texts(&format!("{number}.log")), ["short-lived\n"]);
    }
}

#[test]
fn a_directory_that_cannot_be_seen_and_a_file_system_that_is_away_forget_nothing() {
    let mut rig = Rig::new("*.log");
    rig.append("a.log", "one\n");
    rig.append("b.log", "one\n");
    rig.round();
    for record in rig.records.values_mut() {
        if record.path.as_path().ends_with("b.log") {
            // As if it had come from another file system, which is not mounted now.
            record.identity.dev += 1;
        }
    }
    for name in ["a.log", "b.log"] {
        fs::remove_file(rig.path(name)).expect("deleted");
    }
    rig.start();
    for _ in 0..100 {
        rig.now += Duration::from_secs(1);
        let mut scan = rig.look();
        scan.unseen.push(rig.directory.path().to_path_buf());
        rig.tell(Input::Scan(scan));
    }
    assert_eq!(rig.records.len(), 2, "nobody could look");
    rig.pass(20);
    let paths: Vec<&Path> = rig
        .records
        .values()
        .map(|record| record.path.as_path())
        .collect();
    assert_eq!(paths, [rig.path("b.log")]);
    rig.now += Duration::from_secs(8 * 24 * 3600);
    rig.round();
    assert!(rig.records.is_empty());
}

#[test]
fn a_hundred_thousand_remembered_files_cost_a_scan_nothing_and_are_forgotten_in_turn() {
    const COUNT: u128 = 100_000;
    let mut rig = Rig::new("*.log");
    rig.append("a.log", "one\n");
    rig.round();
    let there = rig.records.values().next().cloned().expect("known");
    for number in 0..COUNT {
        let id = FileId(number.to_be_bytes());
        let path = rig.path(&format!("{number}.log"));
        let mut record = FileRecord {
            id,
            path: path.into(),
            ..there.clone()
        };
        record.identity.ino = 1 << 62 | u64::try_from(number).expect("small");
        rig.records.insert(id, record);
    }
    let begun = Instant::now();
    rig.start();
    let started = begun.elapsed();
    let begun = Instant::now();
    rig.round();
    let first = begun.elapsed();
    rig.append("a.log", "two\n");
    rig.pass(14);
    assert!(
        rig.records.len() > usize::try_from(COUNT).expect("small") - 10_000,
        "in turn"
    );
    let begun = Instant::now();
    rig.pass(1);
    let scan = begun.elapsed();
    for _ in 0..110 {
        rig.pass(1);
    }
    println!(
        "100,000 remembered files: taken in {started:?}, first scan {first:?}, a scan that forgets 1,000 of them {scan:?}"
    );
    assert_eq!(rig.records.len(), 1);
    assert_eq!(rig.texts("a.log"), ["one\ntwo\n"]);
}

#[test]
fn more_files_than_may_be_open_take_turns_and_every_line_comes_once() {
    const FILES: usize = 50;
    let mut rig = Rig::limited(
        "*.log",
        Limits {
            open_max: 8,
            ..Limits::default()
        },
    );
    let mut wanted = vec![String::new(); FILES];
    for number in 0..4 {
        for (file, wanted) in wanted.iter_mut().enumerate() {
            let line = format!("line {number} of {file}\n");
            rig.append(&format!("{file}.log"), &line);
            wanted.push_str(&line);
        }
        for _ in 0..20 {
            rig.pass(1);
            assert!(rig.open_files() <= 8);
        }
    }
    for (file, wanted) in wanted.iter().enumerate() {
        assert_eq!(rig.texts(&format!("{file}.log")), [wanted.as_str()]);
    }
    assert_eq!(rig.records.len(), FILES, "none is forgotten");
    let report = rig.lane().tail.report(Instant::now());
    assert_eq!(report.len(), FILES, "closed ones are told too");
    // Over a restart as well.
    rig.start();
    for (file, wanted) in wanted.iter_mut().enumerate() {
        rig.append(&format!("{file}.log"), "more\n");
        wanted.push_str("more\n");
    }
    rig.pass(20);
    for (file, wanted) in wanted.iter().enumerate() {
        assert_eq!(rig.texts(&format!("{file}.log")), [wanted.as_str()]);
    }
}

#[test]
fn files_that_grow_without_end_do_not_keep_others_from_being_opened() {
    let limits = Limits {
        open_max: 4,
        ..Limits::default()
    };
    let mut rig = Rig::limited("*.log", limits);
    for file in 0..12 {
        rig.append(&format!("{file}.log"), "begin\n");
    }
    for _ in 0..60 {
        for file in 0..12 {
            rig.append(&format!("{file}.log"), "busy\n");
        }
        rig.pass(1);
    }
    assert_eq!(rig.delivered.len(), 12, "each had its turn while all grew");
    rig.pass(40);
    let wanted = format!("begin\n{}", "busy\n".repeat(60));
    for file in 0..12 {
        assert_eq!(rig.texts(&format!("{file}.log")), [wanted.as_str()]);
    }
}

#[test]
fn a_file_that_was_closed_for_others_is_opened_at_a_hint_and_found_again_when_it_was_renamed() {
    let limits = Limits {
        open_max: 1,
        ..Limits::default()
    };
    let mut rig = Rig::limited("*.log", limits);
    rig.append("a.log", "one\n");
    rig.append("b.log", "one\n");
    rig.pass(3);
    assert_eq!(rig.open_files(), 1);
    for name in ["a.log", "b.log", "a.log"] {
        rig.append(name, "two\n");
        let path = rig.path(name);
        let now = rig.now;
        rig.lane().tail.hint([path].into(), now);
        rig.work();
        rig.confirm();
    }
    assert_eq!(rig.texts("a.log"), ["one\ntwo\ntwo\n"]);
    assert_eq!(rig.texts("b.log"), ["one\ntwo\n"]);
    fs::rename(rig.path("b.log"), rig.path("b.log.1")).expect("renamed");
    rig.append("b.log.1", "three\n");
    rig.append("b.log", "new\n");
    rig.pass(100);
    assert_eq!(rig.texts("a.log"), ["one\ntwo\ntwo\n"]);
    assert_eq!(rig.texts("b.log"), ["one\ntwo\nthree\n", "new\n"]);
}

#[test]
fn deleted_files_beyond_the_limit_are_let_go_oldest_first_and_counted() {
    let text = format!("{}\n", "x".repeat(99)).repeat(1000);
    let limits = Limits {
        deleted_bytes_max: 150_000,
        ..Limits::default()
    };
    let mut rig = Rig::limited("*.log", limits);
    for name in ["a.log", "b.log"] {
        rig.append(name, "read\nunfinished");
    }
    rig.scan();
    rig.work();
    for name in ["a.log", "b.log"] {
        rig.append(name, &text);
        fs::remove_file(rig.path(name)).expect("deleted");
        rig.now += Duration::from_secs(1);
        rig.scan();
    }
    assert_eq!(rig.open_files(), 2);
    let over = rig.lane().tail.over_deleted_limit();
    let now = rig.now;
    for id in over {
        rig.lane().abandon(id, now);
    }
    assert_eq!(rig.open_files(), 1, "the disk has its space back");
    rig.pass(70);
    assert_eq!(rig.lost, [(Skipped::Deleted, 100_000)]);
    assert_eq!(rig.texts("a.log"), ["read\nunfinished\n"]);
    assert_eq!(rig.texts("b.log"), [format!("read\nunfinished{text}")]);
    let a = &rig.delivered[&0];
    assert_eq!(a.skipped, [(Skipped::Deleted, 15, 100_015)]);
    assert!(a.ended);
    rig.pass(15);
    assert!(rig.records.is_empty());
}

fn age(path: &Path, days: u64) {
    let file = fs::File::options().write(true).open(path).expect("opened");
    let then = SystemTime::now() - Duration::from_secs(days * 24 * 3600);
    file.set_modified(then).expect("set");
}

#[test]
fn a_file_that_was_too_old_when_it_was_found_goes_on_from_the_end_that_it_had() {
    let mut rig = Rig::new("*.log");
    rig.source.ignore_older = Some(Duration::from_secs(7 * 24 * 3600));
    rig.start();
    for name in ["old.log", "rotated.log", "replaced.log", "left.log"] {
        rig.append(name, "long ago\n");
        age(&rig.path(name), 3000);
    }
    rig.append("new.log", "now\n");
    rig.pass(3);
    assert_eq!(rig.open_files(), 1, "old ones are not held open");
    assert_eq!(rig.records.len(), 1);
    rig.append("old.log", "and now\n");
    // Rotated before anybody saw that it had grown.
    rig.append("rotated.log", "and now\n");
    fs::rename(rig.path("rotated.log"), rig.path("rotated.log.1")).expect("renamed");
    // Other bytes in the same inode: nothing of them was ignored.
    fs::write(rig.path("replaced.log"), "written anew, and longer\n").expect("written");
    rig.pass(3);
    assert_eq!(rig.texts("old.log"), ["and now\n"]);
    assert_eq!(rig.texts("rotated.log"), ["and now\n"]);
    assert_eq!(rig.texts("replaced.log"), ["written anew, and longer\n"]);
    assert_eq!(rig.texts("new.log"), ["now\n"]);
    assert_eq!(rig.texts("left.log"), [""; 0]);
    let mut generations = rig.delivered.values();
    let old = generations.find(|generation| generation.path == rig.path("old.log"));
    assert_eq!(old.expect("it").skipped, [(Skipped::Ignored, 0, 9)]);
    assert!(rig.lost.is_empty());
    // What is known is read on, however old it is.
    rig.start();
    rig.append("old.log", "more\n");
    age(&rig.path("old.log"), 3000);
    rig.pass(3);
    assert_eq!(rig.texts("old.log"), ["and now\nmore\n"]);
}

#[test]
fn ten_links_to_one_file_are_one_file_and_links_of_links_are_followed_when_they_may_be() {
    use std::os::unix::fs::symlink;
    let mut rig = Rig::new("**/*.log");
    fs::create_dir_all(rig.path("real/deep")).expect("made");
    fs::create_dir(rig.path("outside")).expect("made");
    rig.append("real/target", "behind links\n");
    rig.append("outside/x.txt", "in a linked directory\n");
    for number in 0..10 {
        symlink("real/target", rig.path(&format!("{number}.log"))).expect("linked");
    }
    symlink("3.log", rig.path("chain.log")).expect("linked");
    symlink(rig.path("real"), rig.path("real/deep/up")).expect("linked");
    symlink("/", rig.path("real/deep/root")).expect("linked");
    fs::remove_file(rig.path("real/deep/root")).expect("removed");
    symlink("../real", rig.path("outside/there")).expect("linked");
    symlink("broken", rig.path("broken.log")).expect("linked");
    rig.append("real/deep/d.log", "in two directories\n");
    rig.pass(2);
    assert_eq!(rig.texts("real/deep/d.log"), ["in two directories\n"]);
    assert_eq!(
        rig.delivered.len(),
        1,
        "no link is followed unless it may be"
    );
    rig.selection.follow_links = true;
    rig.pass(2);
    assert_eq!(rig.texts("0.log"), ["behind links\n"], "the link's name");
    rig.append("real/target", "more\n");
    rig.append("real/deep/d.log", "more\n");
    rig.pass(2);
    assert_eq!(rig.texts("0.log"), ["behind links\nmore\n"]);
    assert_eq!(rig.texts("real/deep/d.log"), ["in two directories\nmore\n"]);
    assert_eq!(rig.delivered.len(), 2);
    let passed_over = rig.memory.notices().passed_over();
    let circle = passed_over
        .iter()
        .any(|(path, _)| path.ends_with("deep/up"));
    assert!(circle, "{passed_over:?}");
}

#[test]
fn a_link_that_is_pointed_elsewhere_thirty_times_gives_every_line_of_every_target() {
    use std::os::unix::fs::symlink;
    let mut rig = Rig::new("*.log");
    rig.selection.follow_links = true;
    let mut wanted = Vec::new();
    for number in 0..30 {
        let target = format!("target-{number}");
        let lines: String = (0..100).map(|line| format!("{number}: {line}\n")).collect();
        rig.append(&target, &lines);
        symlink(&target, rig.path("new")).expect("linked");
        fs::rename(rig.path("new"), rig.path("current.log")).expect("renamed");
        rig.scan();
        wanted.push(lines + "late\n");
        // Whoever has it open writes on.
        rig.append(&target, "late\n");
    }
    rig.pass(70);
    assert_eq!(rig.texts("current.log"), wanted);
    assert_eq!(rig.open_files(), 1, "the others are let go");
}

#[test]
fn directories_that_link_to_each_other_are_looked_into_a_bounded_number_of_times() {
    use std::os::unix::fs::symlink;
    let mut rig = Rig::new("**/*.log");
    rig.selection.follow_links = true;
    // Without a bound, two to the power of thirty ways to the last one.
    for number in 0..30 {
        fs::create_dir(rig.path(&format!("d{number}"))).expect("made");
        for side in ["left", "right"] {
            let target = format!("../d{}", number + 1);
            symlink(target, rig.path(&format!("d{number}/{side}"))).expect("linked");
        }
    }
    fs::create_dir(rig.path("d30")).expect("made");
    rig.append("d30/a.log", "one\n");
    rig.pass(2);
    assert_eq!(rig.delivered.len(), 1);
    assert_eq!(rig.delivered[&0].text, b"one\n");
}

/// From now on this thread is nobody: what it may not read, root could.
fn become_nobody(rig: &Rig) {
    use rustix::process::{Uid, geteuid};
    if geteuid().is_root() {
        let nobody = 65_534;
        let mut all = vec![rig.directory.path().to_path_buf()];
        while let Some(path) = all.pop() {
            std::os::unix::fs::chown(&path, Some(nobody), None).expect("given away");
            if let Ok(entries) = fs::read_dir(&path) {
                all.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
            }
        }
        let nobody = Uid::from_raw(nobody);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("set");
    }
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
}

/// What is logged while `work` runs.
fn logged(work: impl FnOnce()) -> String {
    use std::sync::{Arc, Mutex, PoisonError};
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let written = Written::default();
    let writer = written.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .finish();
    tracing::subscriber::with_default(subscriber, work);
    let all = written.0.lock().unwrap_or_else(PoisonError::into_inner);
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn what_may_not_be_read_for_a_while_goes_on_where_it_was_and_is_said_once() {
    let mut rig = Rig::new("**/*.log");
    fs::create_dir(rig.path("d")).expect("made");
    rig.append("a.log", "one\n");
    rig.append("d/b.log", "one\n");
    rig.append("never.log", "hidden\n");
    become_nobody(&rig);
    set_mode(&rig.path("never.log"), 0);
    rig.pass(2);
    rig.start();
    set_mode(&rig.path("a.log"), 0);
    set_mode(&rig.path("d"), 0);
    let told = logged(|| {
        rig.pass(100);
        rig.now += Duration::from_secs(30 * 24 * 3600);
        rig.pass(20);
    });
    for (text, count) in [
        ("log file cannot be read", 2),
        ("directory cannot be read", 1),
    ] {
        assert_eq!(told.matches(text).count(), count, "{told}");
    }
    assert_eq!(rig.records.len(), 2, "unreadable is not deleted");
    let report = rig.lane().tail.report(Instant::now());
    let unreadable = report
        .iter()
        .filter(|file| file.condition == Condition::Unreadable);
    assert_eq!(unreadable.count(), 2);
    set_mode(&rig.path("d"), 0o755);
    for name in ["a.log", "d/b.log", "never.log"] {
        set_mode(&rig.path(name), 0o644);
        rig.append(name, "two\n");
    }
    let told = logged(|| rig.pass(2));
    assert_eq!(
        told.matches("log file can be read now").count(),
        2,
        "{told}"
    );
    assert_eq!(rig.texts("a.log"), ["one\ntwo\n"]);
    assert_eq!(rig.texts("d/b.log"), ["one\ntwo\n"]);
    assert_eq!(rig.texts("never.log"), ["hidden\ntwo\n"]);
    // Open files are not touched by it.
    set_mode(&rig.path("a.log"), 0);
    let hidden = fs::OpenOptions::new().append(true).open(rig.path("a.log"));
    assert!(hidden.is_err(), "nobody may write either");
    rig.pass(2);
    assert_eq!(rig.records.len(), 3);
}

#[test]
fn what_takes_the_place_of_a_file_is_passed_over_until_it_is_a_file_again() {
    use std::os::unix::fs::symlink;
    type Maker = fn(&Path);
    let kinds: [(&str, Maker); 4] = [
        ("directory", |path| fs::create_dir(path).expect("made")),
        ("named pipe", |path| {
            let mode = rustix::fs::Mode::from_raw_mode(0o644);
            let kind = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).expect("made");
        }),
        ("socket", |path| {
            std::os::unix::net::UnixListener::bind(path).expect("bound");
        }),
        ("symbolic link", |path| {
            symlink("/etc/passwd", path).expect("linked");
        }),
    ];
    let mut rig = Rig::new("*.log");
    let mut wanted = Vec::new();
    for (kind, make) in kinds {
        let path = rig.path("a.log");
        rig.append("a.log", &format!("before the {kind}\n"));
        rig.pass(1);
        fs::remove_file(&path).expect("removed");
        make(&path);
        rig.pass(70);
        assert_eq!(rig.open_files(), 0, "{kind}");
        if kind == "directory" {
            fs::remove_dir(&path).expect("removed");
        } else {
            fs::remove_file(&path).expect("removed");
        }
        wanted.push(format!("before the {kind}\n"));
    }
    rig.append("a.log", "a file again\n");
    wanted.push("a file again\n".to_owned());
    rig.pass(1);
    assert_eq!(rig.texts("a.log"), wanted);
}

#[test]
fn what_is_compressed_in_a_way_that_is_not_read_is_passed_over_and_that_is_said_once() {
    let mut rig = Rig::new("*");
    for name in ["a.log", "a.log.1.xz", "a.log.2.bz2"] {
        rig.append(name, "bytes\n");
    }
    let told = logged(|| rig.pass(3));
    assert_eq!(rig.delivered.len(), 1);
    assert_eq!(rig.texts("a.log"), ["bytes\n"]);
    assert_eq!(told.matches("compressed with xz").count(), 1, "{told}");
    assert_eq!(told.matches("compressed with bzip2").count(), 1, "{told}");
    rig.selection.compressed = false;
    assert_eq!(logged(|| rig.pass(1)), "", "nothing compressed is wanted");
}

#[test]
fn the_age_of_a_link_to_a_directory_says_nothing_of_the_files_in_it() {
    use std::os::unix::fs::symlink;
    let mut rig = Rig::new("*/a.log");
    rig.selection.follow_links = true;
    rig.source.ignore_older = Some(Duration::from_secs(3600));
    rig.start();
    fs::create_dir(rig.path("real")).expect("made");
    rig.append("real/a.log", "one\n");
    let elsewhere = tempfile::tempdir().expect("a directory");
    append(&elsewhere.path().join("a.log"), "two\n");
    let link = rig.path("link");
    symlink(elsewhere.path(), &link).expect("linked");
    // Link and directories are of 1970, the files of today.
    for path in [&link, elsewhere.path(), &rig.path("real")] {
        let old = rustix::fs::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let times = rustix::fs::Timestamps {
            last_access: old,
            last_modification: old,
        };
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(rustix::fs::CWD, path, &times, flags).expect("set");
    }
    rig.pass(2);
    append(&link.join("a.log"), "three\n");
    rig.pass(1);
    assert_eq!(rig.texts("real/a.log"), ["one\n"]);
    assert_eq!(rig.texts("link/a.log"), ["two\nthree\n"]);
}

#[test]
fn a_hundred_megabytes_that_are_deleted_unread_come_out_whole_and_then_the_descriptor_goes() {
    let mut rig = Rig::new("*.log");
    let line = format!("{}\n", "x".repeat(899));
    let text = line.repeat(100_000_000 / line.len() + 1);
    rig.append("a.log", &text);
    rig.scan();
    fs::remove_file(rig.path("a.log")).expect("deleted");
    rig.pass(90);
    assert!(rig.texts("a.log") == [text], "whole, and once");
    assert!(rig.delivered[&0].ended && rig.lost.is_empty());
    assert_eq!((rig.open_files(), rig.records.len()), (0, 0));
}

#[test]
fn planted_links_make_nobody_read_another_file() {
    use std::os::unix::fs::symlink;
    let mut rig = Rig::new("**/*.log");
    let elsewhere = tempfile::tempdir().expect("a directory");
    let secret = elsewhere.path().join("secret.log");
    fs::write(&secret, "secret\n").expect("written");
    symlink(elsewhere.path(), rig.path("planted")).expect("linked");
    symlink(&secret, rig.path("planted.log")).expect("linked");
    fs::create_dir(rig.path("d")).expect("made");
    rig.append("d/a.log", "one\n");
    rig.pass(1);
    // Between the scan that saw a directory, and the open.
    let seen = rig.look();
    rig.start();
    fs::rename(rig.path("d"), rig.path("away")).expect("renamed");
    fs::write(elsewhere.path().join("a.log"), "secret, too\n").expect("written");
    symlink(elsewhere.path(), rig.path("d")).expect("linked");
    rig.tell(Input::Scan(seen));
    rig.work();
    rig.confirm();
    rig.pass(2);
    let all = rig.delivered.values();
    let secret = all.filter(|generation| generation.text.windows(6).any(|text| text == b"secret"));
    assert_eq!(secret.count(), 0);
    assert_eq!(
        rig.texts("d/a.log"),
        ["one\n"],
        "and under its new name it is the same"
    );
}

#[test]
fn two_names_of_one_file_are_one_file_until_the_last_of_them_is_gone() {
    let mut rig = Rig::new("*.log");
    rig.append("a.log", "one\n");
    fs::hard_link(rig.path("a.log"), rig.path("b.log")).expect("linked");
    rig.pass(1);
    rig.append("b.log", "two\n");
    rig.pass(1);
    fs::remove_file(rig.path("a.log")).expect("removed");
    rig.append("b.log", "three\n");
    rig.pass(80);
    rig.append("b.log", "four\n");
    rig.pass(1);
    rig.start();
    rig.append("b.log", "five\n");
    rig.pass(1);
    assert_eq!(rig.delivered.len(), 1);
    assert_eq!(rig.texts("a.log"), ["one\ntwo\nthree\nfour\nfive\n"]);
    fs::remove_file(rig.path("b.log")).expect("removed");
    rig.pass(80);
    assert!(rig.records.is_empty());
}

#[test]
fn names_of_all_kinds_are_matched_as_bytes_and_known_again() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let mut rig = Rig::new("*.log");
    let names: [&[u8]; 6] = [
        b"with space.log",
        b"new\nline.log",
        b"not-utf-8-\xff\xfe.log",
        b"[0-1]{a,b}?*.log",
        "ümläut…🦀.log".as_bytes(),
        b"-rf.log",
    ];
    for _ in 0..2 {
        for name in names {
            append(
                &rig.directory.path().join(OsStr::from_bytes(name)),
                "line\n",
            );
        }
        rig.pass(1);
        rig.start();
    }
    rig.pass(1);
    assert_eq!(rig.delivered.len(), names.len());
    for generation in rig.delivered.values() {
        assert_eq!(generation.text, b"line\nline\n");
    }
}

#[test]
fn files_that_look_alike_are_told_apart() {
    let mut rig = Rig::new("*.log");
    let header = "the same header\n".repeat(128);
    for number in 0..50 {
        rig.append(&format!("{number}.log"), &header);
        rig.append(&format!("empty-{number}.log"), "");
    }
    rig.pass(1);
    for number in 0..50 {
        rig.append(&format!("{number}.log"), &format!("{number}\n"));
        rig.append(&format!("empty-{number}.log"), &format!("{number}\n"));
    }
    rig.start();
    rig.pass(2);
    for number in 0..50 {
        let wanted = format!("{header}{number}\n");
        assert_eq!(rig.texts(&format!("{number}.log")), [wanted]);
        let wanted = format!("{number}\n");
        assert_eq!(rig.texts(&format!("empty-{number}.log")), [wanted]);
    }
}

#[test]
fn a_file_that_is_moved_over_another_or_into_sight_is_read_once_from_its_beginning() {
    let mut rig = Rig::new("*.log");
    rig.append("a.log", "old\n");
    rig.pass(1);
    rig.append("a.log", "old, unread\n");
    rig.append("a.tmp", "new\n");
    fs::rename(rig.path("a.tmp"), rig.path("a.log")).expect("renamed");
    rig.append("b.tmp", "written before it was seen\n");
    fs::rename(rig.path("b.tmp"), rig.path("b.log")).expect("renamed");
    rig.pass(2);
    assert_eq!(rig.texts("a.log"), ["old\nold, unread\n", "new\n"]);
    assert_eq!(rig.texts("b.log"), ["written before it was seen\n"]);
}

#[test]
fn times_of_files_decide_nothing_about_their_bytes() {
    let mut rig = Rig::new("*.log");
    rig.append("a.log", "one\n");
    rig.pass(1);
    let path = rig.path("a.log");
    let before = fs::metadata(&path)
        .and_then(|status| status.modified())
        .expect("known");
    let set = |time: SystemTime| {
        let file = fs::File::options().write(true).open(&path).expect("opened");
        file.set_modified(time).expect("set");
    };
    // Two writes within one tick.
    rig.append("a.log", "two\n");
    set(before);
    rig.pass(1);
    rig.append("a.log", "three\n");
    set(before);
    rig.pass(1);
    // From the future, from long ago, and only touched.
    for offset in [86_400, 2 * 86_400] {
        set(before + Duration::from_secs(offset));
        rig.pass(1);
        set(before - Duration::from_secs(offset));
        rig.pass(1);
    }
    rig.append("a.log", "four\n");
    rig.pass(70);
    rig.start();
    set(before + Duration::from_secs(86_400));
    rig.append("a.log", "five\n");
    rig.pass(1);
    assert_eq!(rig.texts("a.log"), ["one\ntwo\nthree\nfour\nfive\n"]);
}

#[test]
fn a_clock_that_is_set_while_the_agent_runs_loses_repeats_and_stalls_nothing() {
    const DAY: i64 = 86_400;
    for first in [DAY, -DAY, 0] {
        let mut rig = Rig::new("*.log");
        rig.wrong.store(first, Ordering::Relaxed);
        rig.start();
        if first > 0 {
            rig.append("a.log.9", "lay there before\n");
        }
        rig.append("a.log", "0\n");
        rig.pass(2);
        let mut wanted = vec!["0\n".to_owned()];
        // Set right, and wrong again in either way. Each time one generation is rotated that is not
        // seen before it has lost its name.
        for (round, wrong) in [0, DAY, 0, -DAY, 0].into_iter().enumerate() {
            rig.wrong.store(wrong, Ordering::Relaxed);
            for number in (1..8).rev() {
                let name = |number: usize| rig.path(&format!("a.log.{number}"));
                let _ = fs::rename(name(number), name(number + 1));
            }
            fs::rename(rig.path("a.log"), rig.path("a.log.1")).expect("renamed");
            rig.pass(1);
            let missed = format!("missed {round}\n");
            rig.append("a.log.0", &missed);
            let live = format!("live {round}\n");
            rig.append("a.log", &live);
            rig.pass(2);
            let texts = rig.texts("a.log");
            assert!(texts.contains(&missed), "{first} {wrong}: {texts:?}");
            fs::remove_file(rig.path("a.log.0")).expect("removed");
            rig.pass(90);
            wanted.extend([missed, live]);
        }
        let mut texts = rig.texts("a.log");
        texts.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(texts, wanted, "{first}");
        assert!(rig.lost.is_empty());
    }
}

#[test]
fn directories_made_and_moved_at_once_with_their_files_are_found() {
    let mut rig = Rig::new("**/*.log");
    for number in 0..500 {
        let directory = rig.path(&format!("{number}/b/c"));
        fs::create_dir_all(&directory).expect("made");
        append(&directory.join("x.log"), "made at once\n");
    }
    let tree = tempfile::tempdir_in(rig.directory.path().parent().expect("it has one"));
    let tree = tree.expect("a directory").keep();
    fs::create_dir(tree.join("deep")).expect("made");
    append(&tree.join("deep/y.log"), "moved in\n");
    fs::rename(&tree, rig.path("tree")).expect("renamed");
    // A file where the pattern has a directory is none.
    append(&rig.path("z.log"), "at the top\n");
    rig.round();
    for number in 0..500 {
        let name = format!("{number}/b/c/x.log");
        assert_eq!(rig.texts(&name), ["made at once\n"], "{name}");
    }
    assert_eq!(rig.texts("tree/deep/y.log"), ["moved in\n"]);
    assert_eq!(rig.texts("z.log"), ["at the top\n"]);
    // Gone with everything in it.
    fs::remove_dir_all(rig.path("tree")).expect("removed");
    rig.pass(80);
    assert_eq!(rig.open_files(), 501);
    assert_eq!(rig.records.len(), 501);
}

#[test]
fn hot_files_do_not_keep_ten_thousand_idle_ones_waiting() {
    const FILES: usize = 10_000;
    let mut rig = Rig::limited(
        "*.log",
        Limits {
            open_max: 1000,
            ..Limits::default()
        },
    );
    // As many descriptors as there are files would be asking much of whoever runs this.
    for file in 0..FILES {
        rig.append(&format!("{file:05}.log"), "idle\n");
    }
    let hot = |number: usize| format!("{:05}.log", number * 1000);
    let burst = "hot\n".repeat(1000);
    let mut rounds = 0;
    while rig.delivered.len() < FILES {
        for number in 0..10 {
            rig.append(&hot(number), &burst);
        }
        rig.pass(1);
        rounds += 1;
        assert!(
            rounds < 200,
            "{} of them after {rounds} rounds",
            rig.delivered.len()
        );
    }
    rig.pass(30);
    let mut by_path: HashMap<PathBuf, Vec<Vec<u8>>> = HashMap::new();
    for generation in std::mem::take(&mut rig.delivered).into_values() {
        let texts = by_path.entry(generation.path).or_default();
        texts.push(generation.text);
    }
    for file in 0..FILES {
        let name = format!("{file:05}.log");
        let texts = by_path.remove(&rig.path(&name)).unwrap_or_default();
        let wanted = if file % 1000 == 0 {
            format!("idle\n{}", burst.repeat(rounds))
        } else {
            "idle\n".to_owned()
        };
        assert!(texts == [wanted.as_bytes()], "{name}");
    }
}

#[test]
fn a_file_whose_disk_fails_is_tried_again_ever_more_rarely_and_holds_up_nobody() {
    use std::os::unix::fs::symlink;
    let mut rig = Rig::new("*.log");
    rig.selection.follow_links = true;
    // Its first bytes belong to nothing that is mapped: EIO.
    symlink("/proc/self/mem", rig.path("bad.log")).expect("linked");
    rig.append("good.log", "one\n");
    let told = logged(|| {
        for _ in 0..200 {
            rig.append("good.log", "more\n");
            rig.pass(1);
        }
    });
    assert_eq!(
        told.matches("reading a log file failed").count(),
        1,
        "{told}"
    );
    assert!(told.contains("Input/output error"), "{told}");
    let report = rig.lane().tail.report(Instant::now());
    let bad = report
        .iter()
        .find(|file| file.path.as_path() == rig.path("bad.log"));
    let condition = bad.map(|file| file.condition);
    assert_eq!(condition, Some(Condition::Unreadable));
    let wanted = format!("one\n{}", "more\n".repeat(200));
    assert_eq!(rig.texts("good.log"), [wanted]);
    fs::remove_file(rig.path("bad.log")).expect("removed");
    rig.append("bad.log", "another disk\n");
    rig.pass(1);
    assert_eq!(rig.texts("bad.log"), ["another disk\n"]);
}

#[test]
fn what_another_machine_deleted_is_counted_and_let_go_and_what_is_there_is_tried_again() {
    let mut rig = Rig::new("*.log");
    for name in ["gone.log", "there.log"] {
        rig.append(name, "one\n");
    }
    rig.pass(1);
    let id = |rig: &Rig, name: &str| {
        let path = rig.path(name);
        let mut records = rig.records.values();
        let record = records.find(|record| record.path.as_path() == path);
        record.expect("known").id
    };
    let (gone, there) = (id(&rig, "gone.log"), id(&rig, "there.log"));
    // Read, but not confirmed, and sent back; then its bytes cannot be had any more.
    rig.append("gone.log", "two\n");
    rig.now += Duration::from_secs(1);
    rig.scan();
    rig.work();
    fs::remove_file(rig.path("gone.log")).expect("deleted");
    rig.scan();
    let (to, now) = (rig.records[&gone].confirmed, rig.now);
    rig.delivered
        .get_mut(&rig.numbers[&gone])
        .expect("known")
        .covered = to.offset;
    rig.reached.clear();
    let rewind = Rewind {
        file: gone,
        epoch: 1,
        to,
    };
    let stale = || io::Error::from(io::ErrorKind::StaleNetworkFileHandle);
    rig.lane().tail.rewind(&rewind).expect("read");
    let told = logged(|| {
        for id in [gone, gone, there] {
            rig.lane().tail.failed(id, &stale(), now);
        }
        rig.append("there.log", "two\n");
        rig.pass(3);
    });
    assert_eq!(
        told.matches("reading a log file failed").count(),
        2,
        "each once: {told}"
    );
    assert_eq!(rig.lost, [(Skipped::Deleted, 4)]);
    assert!(rig.delivered[&rig.numbers[&gone]].ended);
    assert_eq!(rig.texts("there.log"), ["one\ntwo\n"]);
    rig.pass(30);
    assert_eq!((rig.open_files(), rig.records.len()), (1, 1));
}

#[test]
fn a_file_system_that_has_another_number_after_a_reboot_brings_the_same_files() {
    let mut rig = Rig::new("*.log");
    rig.append("a.log", "one\n");
    rig.append("b.log", "one\n");
    rig.pass(1);
    for record in rig.records.values_mut() {
        record.identity.dev += 1;
        if record.path.as_path().ends_with("b.log") {
            // That one was made at another time: another file system's, by chance.
            record.identity.born = record.identity.born.map(|born| born - 1);
        }
    }
    rig.start();
    for name in ["a.log", "b.log"] {
        rig.append(name, "two\n");
    }
    rig.pass(1);
    assert_eq!(rig.texts("a.log"), ["one\ntwo\n"]);
    assert_eq!(rig.texts("b.log"), ["one\n", "one\ntwo\n"]);
    rig.start();
    rig.append("a.log", "three\n");
    rig.pass(1);
    assert_eq!(
        rig.texts("a.log"),
        ["one\ntwo\nthree\n"],
        "the new number is kept"
    );
}

#[test]
fn a_copy_whose_name_went_to_another_file_before_it_was_needed_does_not_take_it_back() {
    let mut rig = Rig::new("*.log");
    let copy_and_truncate = |rig: &Rig| {
        let (live, copy) = (rig.path("a.log"), rig.path("a.log.1"));
        let _ = fs::rename(&copy, rig.path("a.log.2"));
        fs::copy(&live, copy).expect("copied");
        let live = fs::File::options().write(true).open(live);
        live.and_then(|live| live.set_len(0)).expect("truncated");
    };
    rig.append("a.log", "one\n");
    rig.scan();
    copy_and_truncate(&rig);
    rig.scan();
    copy_and_truncate(&rig);
    fs::rename(rig.path("a.log.1"), rig.path("a.log.2")).expect("renamed");
    fs::rename(rig.path("a.log"), rig.path("a.log.1")).expect("renamed");
    rig.scan();
    rig.work();
    rig.pass(90);
    rig.append("a.log.1", "written late\n");
    rig.pass(5);
    assert_eq!(rig.texts("a.log"), ["one\n", "written late\n"]);
}
#[test]
fn a_directory_that_is_made_later_is_looked_into_then() {
    let mut rig = Rig::new("later/deep/*.log");
    rig.pass(3);
    fs::create_dir_all(rig.path("later/deep")).expect("made");
    rig.append("later/deep/a.log", "one\n");
    rig.pass(1);
    assert_eq!(rig.texts("later/deep/a.log"), ["one\n"]);
}

#[test]
fn a_file_that_is_gone_or_closed_to_us_between_the_look_and_the_opening_harms_nobody() {
    let mut rig = Rig::new("*.log");
    for name in ["a.log", "b.log", "c.log"] {
        rig.append(name, "one\n");
    }
    let seen = rig.look();
    fs::remove_file(rig.path("a.log")).expect("removed");
    fs::remove_file(rig.path("b.log")).expect("removed");
    fs::create_dir(rig.path("b.log")).expect("made");
    rig.tell(Input::Scan(seen));
    rig.work();
    assert_eq!(rig.texts("c.log"), ["one\n"]);
    fs::remove_dir(rig.path("b.log")).expect("removed");
    for name in ["a.log", "b.log"] {
        rig.append(name, "back\n");
    }
    rig.pass(2);
    assert_eq!(rig.texts("a.log"), ["back\n"]);
    assert_eq!(rig.texts("b.log"), ["back\n"]);
}

#[test]
fn a_copy_that_has_only_begun_to_be_written_is_not_taken_for_another_generation() {
    let mut rig = Rig::new("*.log");
    let text = "one line and another\n".repeat(1000);
    rig.append("a.log", &text);
    rig.pass(1);
    for len in [0, 10, 500, 5000, text.len()] {
        fs::write(rig.path("a.log.1"), &text[..len]).expect("copied");
        rig.pass(1);
    }
    let live = fs::File::options().write(true).open(rig.path("a.log"));
    live.and_then(|live| live.set_len(0)).expect("truncated");
    rig.append("a.log", "next\n");
    rig.pass(90);
    assert_eq!(rig.texts("a.log"), [text, "next\n".to_owned()]);
}

#[test]
fn what_is_known_of_a_generation_that_was_cut_unread_is_lost_before_its_end_is_said() {
    let mut rig = Rig::new("*.log");
    let text = "never read\n".repeat(100);
    rig.append("a.log", &text);
    rig.scan();
    let live = fs::File::options().write(true).open(rig.path("a.log"));
    live.and_then(|live| live.set_len(0)).expect("truncated");
    for _ in 0..15 {
        rig.append("a.log", "next\n");
        rig.pass(1);
    }
    let head = HEAD_LEN as u64;
    assert!(rig.delivered[&1].ended);
    assert_eq!(
        rig.delivered[&1].skipped,
        [(Skipped::Truncated, 0, head)],
        "with its end, and not later"
    );
    rig.pass(30);
    assert_eq!(rig.lost, [(Skipped::Truncated, head)]);
    assert_eq!(rig.texts("a.log"), ["next\n".repeat(15), String::new()]);
}

#[test]
fn a_rotation_between_the_look_and_the_opening_hides_nothing() {
    let mut rig = Rig::new("*.log");
    rig.append("a.log", "first\n");
    rig.round();
    fs::rename(rig.path("a.log"), rig.path("a.log.1")).expect("renamed");
    rig.append("a.log", "second\n");
    let seen = rig.look();
    fs::rename(rig.path("a.log.1"), rig.path("a.log.2")).expect("renamed");
    fs::rename(rig.path("a.log"), rig.path("a.log.1")).expect("renamed");
    rig.append("a.log", "third\n");
    rig.tell(Input::Scan(seen));
    rig.work();
    rig.pass(3);
    assert_eq!(rig.texts("a.log"), ["first\n", "second\n", "third\n"]);
    assert!(rig.lost.is_empty());
}

#[test]
fn a_generation_that_a_scan_missed_although_it_saw_the_next_one_is_read() {
    let mut rig = Rig::new("*.log");
    rig.append("a.log", "first\n");
    rig.round();
    fs::rename(rig.path("a.log"), rig.path("a.log.1")).expect("renamed");
    rig.append("a.log", "second\n");
    // Its new name was not in the directory yet when that was read.
    fs::rename(rig.path("a.log"), rig.path("hidden")).expect("renamed");
    rig.append("a.log", "third\n");
    rig.pass(1);
    fs::rename(rig.path("hidden"), rig.path("a.log.2")).expect("renamed");
    rig.pass(3);
    assert_eq!(rig.texts("a.log"), ["first\n", "third\n", "second\n"]);
}

mod inherited_test;
mod packed_test;
mod reload_test;
