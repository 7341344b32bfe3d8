//! Lines that are one, lines that are long, and bytes that are odd, through a lane: what comes out, in
//! which ranges, and what is held meanwhile.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Duration;

use encoding_rs::{Encoding, SHIFT_JIS, UTF_16BE, UTF_16LE, WINDOWS_1252};
use regex::bytes::Regex;

use super::rig_test::Driven;
use super::{Input, Output};
use crate::lines::{Grouping, Rule, Splitter};
use crate::model::{Batch, FileId, Skipped};
use crate::tail::Event;
use crate::treat::Treatment;

/// A lane on one file, and what came out of it.
pub(super) struct Rig {
    driven: Driven,
    /// The generation that was found last.
    last: Option<FileId>,
    /// Offset, bytes, whether it is a part, and the text of each line.
    pub(super) lines: Vec<(u64, u64, bool, String)>,
    /// Up to where ranges tile the last generation that was found,
    pub(super) tiled: u64,
    /// and what of it they skip.
    skipped: Vec<(Skipped, u64)>,
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
    fn new(splitter: Splitter) -> Self {
        Self::treating(splitter, Treatment::default(), Duration::ZERO)
    }

    pub(super) fn treating(
        splitter: Splitter,
        treatment: Treatment,
        lineless_linger: Duration,
    ) -> Self {
        let mut driven = Driven::new("a.log", splitter);
        driven.treatment = treatment;
        driven.options.lineless_linger = lineless_linger;
        driven.window = 64 << 20;
        driven.start();
        Self {
            driven,
            last: None,
            lines: Vec::new(),
            tiled: 0,
            skipped: Vec::new(),
        }
    }

    fn grouped(rule: Rule) -> Self {
        let grouping = Grouping {
            rule,
            lines_max: 100,
            bytes_max: 10_000,
            timeout: Duration::from_secs(3),
        };
        Self::new(Splitter {
            grouping: Some(grouping),
            ..Splitter::new(1 << 20)
        })
    }

    fn path(&self) -> PathBuf {
        self.driven.path("a.log")
    }

    pub(super) fn append(&mut self, text: impl AsRef<[u8]>) {
        let mut options = OpenOptions::new();
        let mut file = options
            .create(true)
            .append(true)
            .open(self.path())
            .expect("opened");
        file.write_all(text.as_ref()).expect("written");
    }

    /// Lets so much time go by, and the lane do what there is to do.
    pub(super) fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        let scan = self.look();
        self.tell(Input::Scan(scan));
        while self.turn() {
            self.receive();
        }
    }

    fn tell(&mut self, input: Input) {
        self.driven.tell(input);
        self.receive();
    }

    fn receive(&mut self) {
        while let Some(output) = self.next() {
            match output {
                Output::Tail(Event::Register(record)) => {
                    self.last = Some(record.id);
                    self.tiled = 0;
                }
                Output::Batch(batch) => self.take(&batch),
                _ => {}
            }
        }
    }

    fn take(&mut self, batch: &Batch) {
        for range in &batch.ranges {
            if self.last != Some(range.file) {
                continue;
            }
            assert_eq!(range.start, self.tiled, "ranges tile the file");
            self.tiled = range.end;
            self.skipped
                .extend(range.skipped.map(|why| (why, range.end - range.start)));
        }
        self.accept(batch);
        for line in batch.body.split_inclusive(|byte| *byte == b'\n') {
            let object: serde_json::Value = serde_json::from_slice(line).expect("ndjson");
            let log = &object["log"];
            let number = |key: &str| log[key].as_u64().expect("a number");
            let part = log["partial"].as_bool().unwrap_or(false);
            let text = object["message"].as_str().expect("a text").to_owned();
            self.lines
                .push((number("offset"), number("bytes"), part, text));
        }
    }

    /// A start after everything that came out was confirmed.
    pub(super) fn restart(&mut self) {
        self.settle();
        self.start();
    }

    fn confirm(&mut self) {
        let confirmed = self.settle();
        self.tell(Input::Confirmed(confirmed));
    }

    fn texts(&self) -> Vec<&str> {
        self.lines.iter().map(|line| &*line.3).collect()
    }
}

fn indented() -> Rule {
    Rule::Continuation(Regex::new(r"^\s").expect("a pattern"))
}

#[test]
fn a_group_waits_for_more_until_its_time_is_over_and_then_only_for_whole_lines() {
    let mut rig = Rig::grouped(indented());
    rig.append("one\n  a\n");
    rig.wait(1);
    rig.append("  b\n  unfin");
    rig.wait(2);
    assert!(rig.lines.is_empty(), "more may come");
    rig.wait(2);
    assert!(rig.lines.is_empty(), "the last write was two seconds ago");
    rig.wait(1);
    assert_eq!(rig.lines, [(0, 12, false, "one\n  a\n  b".to_owned())]);
    rig.append("ished\ntwo\n");
    rig.wait(1);
    assert_eq!(rig.texts()[1..], ["  unfinished"]);
    rig.wait(3);
    assert_eq!(rig.texts()[2..], ["two"]);
    assert_eq!(rig.tiled, fs::metadata(rig.path()).expect("there").len());
}

#[test]
fn a_group_that_had_begun_before_a_restart_is_whole_afterwards() {
    let mut rig = Rig::grouped(Rule::Start(Regex::new("^[0-9]").expect("a pattern")));
    rig.append("1 first\n2 one\n tw");
    rig.wait(1);
    assert_eq!(rig.texts(), ["1 first"]);
    rig.restart();
    rig.append("o\n three\n3 last\n");
    rig.wait(1);
    assert_eq!(rig.texts(), ["1 first", "2 one\n two\n three"]);
    assert_eq!(rig.lines[1].0, 8);
    rig.wait(3);
    assert_eq!(rig.texts()[2..], ["3 last"]);
}

#[test]
fn a_group_goes_on_over_thousands_of_reads_and_is_closed_by_its_limits() {
    let mut rig = Rig::grouped(indented());
    rig.append("one\n");
    rig.wait(1);
    for number in 0..250 {
        rig.append(format!(" {number}\n"));
        rig.wait(1);
    }
    rig.append("two\n");
    rig.wait(1);
    let lines: Vec<usize> = rig
        .texts()
        .iter()
        .map(|text| text.lines().count())
        .collect();
    assert_eq!(lines, [100, 100, 51]);
}

#[test]
fn a_line_of_100_mb_leaves_in_parts_also_over_a_restart_in_its_middle() {
    const PART: usize = 1 << 20;
    let mut rig = Rig::new(Splitter::new(PART));
    rig.append("before\n");
    let piece = vec![b'x'; 1_000_000];
    for number in 0..100 {
        rig.append(&piece);
        rig.wait(1);
        rig.confirm();
        if number == 50 {
            rig.restart();
        }
        // What is held is the rest of the line, less than one part, and one quantum.
        assert!(rig.lane().tail.unfinished().0 <= PART + super::QUANTUM);
        assert!(rig.lane().scratch.capacity() <= 4 * PART);
    }
    rig.append("\nok\n");
    rig.wait(1);
    let (first, last) = (&rig.lines[0], &rig.lines[rig.lines.len() - 1]);
    assert_eq!((&*first.3, &*last.3), ("before", "ok"));
    let long = &rig.lines[1..rig.lines.len() - 1];
    assert_eq!(
        long.iter().map(|line| line.3.len()).sum::<usize>(),
        100_000_000
    );
    assert!(
        long.iter()
            .all(|line| line.3.bytes().all(|byte| byte == b'x'))
    );
    let parts = long.iter().filter(|line| line.2).count();
    assert_eq!((parts, long.len()), (95, 96));
    assert_eq!(rig.tiled, fs::metadata(rig.path()).expect("there").len());
}

/// What a writer does that does not append, after its file was cut: it goes on at its old place.
fn write_at(rig: &Rig, offset: u64, text: &str) {
    let file = OpenOptions::new().write(true).open(rig.path());
    let file = file.expect("opened");
    file.write_all_at(text.as_bytes(), offset).expect("written");
}

fn cut(rig: &Rig) {
    let file = OpenOptions::new().write(true).open(rig.path());
    file.expect("opened").set_len(0).expect("cut");
}

#[test]
fn zeros_before_the_place_where_a_writer_went_on_are_skipped_and_never_a_line() {
    for (length, seen_empty) in [(6, true), (6, false), (3 << 20, true), (3 << 20, false)] {
        let mut rig = Rig::new(Splitter::new(1 << 20));
        let line = "x".repeat(length - 1) + "\n";
        rig.append(&line[..]);
        rig.wait(1);
        let lines = rig.lines.len();
        cut(&rig);
        if seen_empty {
            rig.wait(1);
        }
        write_at(&rig, length as u64, "after\nlater\n");
        rig.wait(1);
        assert_eq!(rig.texts()[lines..], ["after", "later"]);
        assert_eq!(rig.skipped, [(Skipped::Hole, length as u64)]);
        assert_eq!(rig.lines[lines].0, length as u64);
        assert_eq!(rig.tiled, length as u64 + 12);
    }
}

#[test]
fn a_hole_that_was_made_while_the_agent_was_down_is_skipped_too() {
    let mut rig = Rig::new(Splitter::new(1 << 20));
    rig.append("before\nlast\n");
    rig.wait(1);
    rig.confirm();
    cut(&rig);
    write_at(&rig, 12, "after\n");
    rig.restart();
    rig.wait(1);
    assert_eq!(rig.texts(), ["before", "last", "after"]);
    assert_eq!(rig.skipped, [(Skipped::Hole, 12)]);
}

#[test]
fn zeros_that_stand_in_a_line_are_content_and_a_sparse_beginning_is_not() {
    let mut rig = Rig::new(Splitter::new(1 << 20));
    rig.append("\0\0a\nb\0\n");
    rig.wait(1);
    assert_eq!(rig.texts(), ["\0\0a", "b\0"]);
    assert!(rig.skipped.is_empty());

    let mut rig = Rig::new(Splitter::new(1 << 20));
    rig.append("");
    // Where fewer than a block of them, the file system keeps them like others.
    write_at(&rig, 1 << 20, "after\n");
    rig.wait(1);
    assert_eq!(rig.texts(), ["after"]);
    assert_eq!(rig.skipped, [(Skipped::Hole, 1 << 20)]);
}

#[test]
fn offsets_go_beyond_2_gib_in_a_file_and_over_its_truncation() {
    let mut rig = Rig::new(Splitter::new(1 << 20));
    rig.append("");
    for (round, start) in [(1_u64 << 31) - 5, 1 << 31, (1 << 31) + 1, 1 << 32]
        .into_iter()
        .enumerate()
    {
        write_at(&rig, start, "over\nthe border\n");
        rig.wait(1);
        let offsets = [rig.lines[2 * round].0, rig.lines[2 * round + 1].0];
        assert_eq!(offsets, [start, start + 5]);
        assert_eq!(rig.tiled, start + 16);
        rig.confirm();
        cut(&rig);
        rig.wait(1);
    }
    assert_eq!(rig.texts(), ["over", "the border"].repeat(4));
}

#[test]
fn a_line_of_any_length_up_to_the_limit_is_whole() {
    let mut rig = Rig::new(Splitter::new(1 << 20));
    let around = |at: usize| [at - 1, at, at + 1];
    let lengths = [4096, 65_536, 262_144, (1 << 20) - 2].map(around);
    let mut lengths = lengths.concat();
    lengths.push(1 << 20);
    for end in ["\n", "\r\n"] {
        for length in &lengths {
            rig.append("x".repeat(*length) + end);
        }
        rig.wait(1);
    }
    let came: Vec<usize> = rig.lines.iter().map(|line| line.3.len()).collect();
    assert_eq!(came, lengths.repeat(2));
    assert!(rig.lines.iter().all(|line| !line.2), "none is a part");
}

#[test]
fn it_is_the_same_wherever_the_writes_were_cut() {
    let text = "é\r\n\r\n\n€uro\rstill\n\n\u{10a0a}\r\nlast\n";
    let mut rig = Rig::new(Splitter::new(1 << 20));
    for byte in text.bytes() {
        rig.append([byte]);
        rig.wait(1);
    }
    let expected = ["é", "", "", "€uro\rstill", "", "\u{10a0a}", "last"];
    assert_eq!(rig.texts(), expected);
    assert_eq!(rig.tiled, text.len() as u64);
}

#[test]
fn line_ends_alone_move_the_mark() {
    let mut rig = Rig::new(Splitter::new(1 << 20));
    rig.append("\n".repeat(10_000));
    rig.wait(1);
    assert_eq!((rig.tiled, rig.lines.len()), (10_000, 10_000));
    rig.confirm();
    rig.restart();
    rig.append("\n\n");
    rig.wait(1);
    assert_eq!((rig.tiled, rig.lines.len()), (10_002, 10_002));
}

fn encoded(encoding: &'static Encoding) -> Rig {
    let treatment = Treatment {
        encoding,
        ..Treatment::default()
    };
    let splitter = Splitter {
        encoding,
        ..Splitter::new(100)
    };
    Rig::treating(splitter, treatment, Duration::ZERO)
}

#[test]
fn a_file_in_utf_16_leaves_in_utf_8_with_offsets_in_its_own_bytes() {
    for (encoding, little) in [(UTF_16LE, true), (UTF_16BE, false)] {
        let bytes = |text: &str| -> Vec<u8> {
            let pair = |unit: u16| match little {
                true => unit.to_le_bytes(),
                false => unit.to_be_bytes(),
            };
            text.encode_utf16().flat_map(pair).collect()
        };
        let mut rig = encoded(encoding);
        // In pieces that cut code units and surrogate pairs.
        for piece in bytes("\u{feff}first\r\n\u{10a0a}\u{a0a}\nlast\n").chunks(3) {
            rig.append(piece);
            rig.wait(1);
        }
        assert_eq!(rig.texts(), ["first", "\u{10a0a}\u{a0a}", "last"]);
        let offsets: Vec<(u64, u64)> = rig.lines.iter().map(|line| (line.0, line.1)).collect();
        assert_eq!(offsets, [(0, 16), (16, 8), (24, 10)]);
        rig.confirm();
        rig.restart();
        rig.append(bytes(&("\u{10a0a}".repeat(60) + "\n")));
        rig.wait(1);
        let long: String = rig.texts()[3..].concat();
        assert_eq!(long, "\u{10a0a}".repeat(60), "split between characters");
        assert_eq!(rig.lines.len(), 6);
    }
}

#[test]
fn older_encodings_are_decoded_and_what_is_wrong_in_them_is_kept() {
    let mut rig = encoded(WINDOWS_1252);
    rig.append(b"caf\xe9 \x80\n");
    rig.wait(1);
    assert_eq!(rig.texts(), ["café €"]);
    let mut rig = encoded(SHIFT_JIS);
    // The second byte of a character may look like a backslash, never like a line feed.
    rig.append(b"\x83\x5c\x82\xa0\n\x83\n");
    rig.wait(1);
    assert_eq!(rig.texts(), ["ソあ", "\u{fffd}"]);
}
