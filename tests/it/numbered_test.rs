//! Shows that the judgement on numbered lines can fail, and that who writes them and who judges them
//! mean the same lines.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::numbered::{Delivered, Generation, Keeping, NumberedWriter, Recipe, Written};
use crate::support::oracle::NewLine;
use crate::support::random::Random;
use crate::support::wait::wait_for;

const MINUTE: Duration = Duration::from_secs(60);

/// Lines with their ends, as one queue's consumer would show them.
struct Shown {
    recipe: Recipe,
    delivered: Delivered,
}

impl Shown {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let recipe = Recipe::new(directory.path(), "a", &mut Random::from_environment());
        Self {
            delivered: Delivered::new(recipe.clone()),
            recipe,
        }
    }

    fn line(&self, number: u64) -> Vec<u8> {
        let mut line = Vec::new();
        self.recipe.line(number, &mut line);
        line
    }

    fn show(&mut self, file: &str, offset: u64, content: &[u8], line_end: bool) -> u64 {
        let bytes = content.len() as u64 + u64::from(line_end);
        self.delivered.take(&NewLine {
            path: "/a",
            file,
            offset,
            bytes,
            content,
        });
        offset + bytes
    }

    /// Lines of a generation, from its beginning on; returns its size.
    fn show_all(&mut self, file: &str, numbers: impl IntoIterator<Item = u64>) -> u64 {
        numbers.into_iter().fold(0, |offset, number| {
            let line = self.line(number);
            self.show(file, offset, &line, true)
        })
    }

    fn is_clean(&self) -> bool {
        self.delivered.violations().is_empty()
    }
}

#[test]
fn lines_that_follow_each_other_in_every_generation_are_clean() {
    let mut shown = Shown::new();
    shown.show_all("1", 0..10);
    let end = shown.show_all("2", 10..20);
    let torn = shown.line(20);
    shown.show("2", end, &torn[..5], false);
    assert!(shown.is_clean());
    let delivered = &shown.delivered;
    assert_eq!((delivered.lines(), delivered.end()), (20, 20));
    assert!(delivered.has(19) && !delivered.has(20));
    assert!(delivered.pieces()[1].torn && !delivered.pieces()[0].torn);
}

#[test]
fn a_line_that_is_lost_altered_joined_repeated_or_behind_a_torn_one_is_found() {
    type Change = fn(&mut Shown, u64);
    let changes: [(&str, Change); 6] = [
        ("lost", |shown, end| {
            let line = shown.line(11);
            shown.show("1", end, &line, true);
        }),
        ("altered", |shown, end| {
            let mut line = shown.line(10);
            let last = line.len() - 1;
            line[last] ^= 1;
            shown.show("1", end, &line, true);
        }),
        ("joined", |shown, end| {
            let line = [shown.line(10), shown.line(11)].concat();
            shown.show("1", end, &line, true);
        }),
        ("repeated", |shown, _| {
            shown.show_all("2", 9..12);
        }),
        ("behind a torn one", |shown, end| {
            let line = shown.line(10);
            let end = shown.show("1", end, &line[..3], false);
            shown.show("1", end, &line[3..], true);
        }),
        ("at a wrong place", |shown, end| {
            let line = shown.line(10);
            shown.show("1", end + 1, &line, true);
        }),
    ];
    for (name, change) in changes {
        let mut shown = Shown::new();
        let end = shown.show_all("1", 0..10);
        assert!(shown.is_clean());
        change(&mut shown, end);
        assert!(!shown.is_clean(), "{name}");
    }
}

#[test]
fn a_generation_that_is_missing_or_cut_or_that_nobody_wrote_is_found() {
    let mut shown = Shown::new();
    let bytes = ["1", "2"].map(|file| match file {
        "1" => shown.show_all(file, 0..10),
        _ => shown.show_all(file, 10..20),
    });
    let generations: Vec<Generation> = [0, 10]
        .into_iter()
        .zip(bytes)
        .map(|(first, bytes)| Generation {
            first,
            lines: 10,
            bytes,
        })
        .collect();
    let difference = |change: fn(&mut Vec<Generation>)| {
        let mut generations = generations.clone();
        change(&mut generations);
        shown.delivered.difference(&Written {
            lines: 20,
            bytes: bytes.iter().sum(),
            generations,
        })
    };
    assert_eq!(difference(|_| {}), None);
    let changes: [fn(&mut Vec<Generation>); 4] = [
        |of| of[0].bytes += 1,
        |of| of[1].first += 1,
        |of| of.push(of[1]),
        |of| of.truncate(1),
    ];
    for change in changes {
        assert!(difference(change).is_some());
    }
}

#[test]
fn the_writer_writes_the_lines_of_the_recipe_and_tells_its_generations() {
    let directory = tempfile::tempdir().unwrap();
    let mut random = Random::from_environment();
    for keeping in [Keeping::Reopening, Keeping::Holding] {
        let recipe = Recipe::new(directory.path(), "a", &mut random);
        let log = directory.path().join(format!("{keeping:?}"));
        let writer = NumberedWriter::start(&log, &recipe, keeping);
        let grown = || fs::metadata(&log).is_ok_and(|status| status.len() > 200_000);
        wait_for(MINUTE, "the log has grown", grown);
        let renamed = directory.path().join("renamed");
        match keeping {
            Keeping::Reopening => {
                fs::rename(&log, &renamed).unwrap();
                let id = Pid::from_raw(writer.id() as i32).unwrap();
                kill_process(id, Signal::HUP).unwrap();
            }
            Keeping::Holding => {
                let log = fs::OpenOptions::new().write(true).open(&log);
                log.unwrap().set_len(0).unwrap();
            }
        }
        wait_for(MINUTE, "the log has grown again", grown);
        let written = writer.finish();
        let [first, second] = written.generations[..] else {
            panic!("not two generations: {written:?}");
        };
        assert_eq!(first.first, 0);
        assert_eq!(second.first, first.lines);
        assert_eq!(written.bytes, first.bytes + second.bytes);
        assert_holds(&log, second.first, second.lines, &recipe);
        if keeping == Keeping::Reopening {
            assert_holds(&renamed, 0, first.lines, &recipe);
            assert_eq!(fs::metadata(&renamed).unwrap().len(), first.bytes);
        }
        assert_eq!(fs::metadata(&log).unwrap().len(), second.bytes);
    }
}

fn assert_holds(log: &Path, first: u64, lines: u64, recipe: &Recipe) {
    let content = fs::read(log).unwrap();
    let mut expected = Vec::new();
    for number in first..first + lines {
        let mut line = Vec::new();
        recipe.line(number, &mut line);
        expected.extend(line);
        expected.push(b'\n');
    }
    assert!(content == expected, "{} has other lines", log.display());
}
