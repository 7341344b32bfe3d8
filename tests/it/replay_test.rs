//! Real logs, an hour of them in half a minute, each in its own rhythm, while Debian's logrotate
//! renames or cuts them.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use regex::bytes::Regex;

use crate::support::agent::{Agent, Config};
use crate::support::amqp::Consumer;
use crate::support::broker::Broker;
use crate::support::cut::Cut;
use crate::support::logrotate::Logrotate;
use crate::support::numbered::Keeping;
use crate::support::oracle::{FileLedger, Ledger, complete_lines};
use crate::support::random::Random;
use crate::support::wait::wait_for;
use crate::support::writers::eight_logs;

const QUEUES: [&str; 3] = ["archive", "alerting", "search"];
const MINUTE: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_millis(100);

/// What an hour becomes.
const LAPSE: Duration = Duration::from_secs(20);

/// Longer silences are cut short: some logs are of days.
const SILENCE_MAX: u64 = 60;
const DAY: u64 = 24 * 60 * 60;

/// A log, and how it is rotated.
struct Replayed {
    path: PathBuf,
    /// Lines with their ends.
    lines: Vec<Vec<u8>>,
    keeping: Keeping,
    logrotate: Logrotate,
    random: Random,
}

impl Replayed {
    fn new(
        directory: &Path,
        (name, content): (String, Vec<u8>),
        keeping: Keeping,
        random: Random,
    ) -> Self {
        let path = directory.join("logs").join(name);
        let way = match keeping {
            Keeping::Reopening => "create",
            Keeping::Holding => "copytruncate",
        };
        let lines = complete_lines(&content).split_inclusive(|byte| *byte == b'\n');
        Self {
            lines: lines.map(<[u8]>::to_vec).collect(),
            keeping,
            logrotate: Logrotate::new(directory, &path, &["rotate 1000", way], None),
            random,
            path,
        }
    }

    fn text(&self) -> &str {
        self.path.to_str().expect("the test's own path is UTF-8")
    }

    /// Writes all lines when they are due. A line may be finished no sooner than the next one is due.
    fn play(&self) -> Vec<Vec<u8>> {
        let mut random = self.random.clone();
        let mut program = Program::start(&self.path, self.keeping);
        let begun = Instant::now();
        let mut rest: &[u8] = &[];
        for (line, due) in self.lines.iter().zip(due(&self.lines)) {
            thread::sleep(due.saturating_sub(begun.elapsed()));
            program.write(rest);
            let cut = if random.once_in(10) {
                random.below(line.len())
            } else {
                line.len()
            };
            program.write(&line[..cut]);
            rest = &line[cut..];
        }
        program.write(rest);
        program.generations
    }

    /// Rotates whenever the log has grown to a random size, until all is `calm`; how often.
    fn rotate(&self, calm: &AtomicBool) -> u32 {
        let mut random = self.random.clone().fork();
        let mut rotations = 0;
        loop {
            let size = 2_000 + random.below(20_000) as u64;
            wait_for(2 * MINUTE, "a log has grown to be rotated", || {
                let grown = fs::metadata(&self.path).is_ok_and(|status| status.len() >= size);
                grown || calm.load(Ordering::Acquire)
            });
            if calm.load(Ordering::Acquire) {
                return rotations;
            }
            self.logrotate.rotate();
            rotations += 1;
        }
    }

    /// What logrotate made of it.
    fn rotated(&self) -> Vec<Vec<u8>> {
        let entries = fs::read_dir(self.path.parent().unwrap()).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let prefix = format!("{}.", self.text());
        paths
            .filter(|path| path.to_str().unwrap().starts_with(&prefix))
            .map(|path| fs::read(path).unwrap())
            .collect()
    }

    /// The first thing in which a queue differs from what was `written`, in words.
    fn difference(&self, ledger: &Ledger, written: &[Vec<u8>], cut: &Cut) -> Option<String> {
        let files = ledger.generations(self.text());
        match self.keeping {
            Keeping::Reopening if files.len() != written.len() => {
                Some(format!("{} generations of {}", files.len(), written.len()))
            }
            Keeping::Reopening => files
                .iter()
                .zip(written)
                .find_map(|(file, content)| file.difference(content)),
            Keeping::Holding => self.lost(&files, written, cut).err(),
        }
    }

    /// How many bytes of a truncated log are missing, if nothing else is wrong.
    fn lost(&self, files: &[&FileLedger], written: &[Vec<u8>], cut: &Cut) -> Result<u64, String> {
        let mut unmatched = files.to_vec();
        let mut missing = 0;
        // Of a file that was cut twice between two looks, one truncation is reported.
        let (mut cut_last, mut waits) = (false, false);
        // How much of each was delivered.
        let mut delivered = Vec::new();
        for (number, content) in written.iter().enumerate() {
            let same = |file: &&FileLedger| {
                file.delivered() > 0 && file.difference_up_to_a_cut(content).is_none()
            };
            let file = unmatched
                .iter()
                .position(same)
                .map(|at| unmatched.remove(at));
            if let Some(file) = file {
                if number == 0 || cut.was_begun(file.id()) {
                    cut_last = cut.was_truncated(file.id());
                }
                waits = file.eof().is_none() && cut.waits_for_copy(file.id());
            }
            let came = file.map_or(0, FileLedger::delivered);
            let whole = came == content.len() as u64;
            let excused = cut_last && !waits;
            if !whole && (!excused || number + 1 == written.len()) {
                let size = content.len();
                return Err(format!("{came} of {size} bytes of generation {number}"));
            }
            missing += content.len() as u64 - came;
            delivered.push(came as usize);
        }
        if let Some(file) = unmatched.iter().find(|file| file.delivered() > 0) {
            return Err(format!("nobody wrote this: {}", file.summary()));
        }
        for copy in self.rotated() {
            let whole = complete_lines(&copy);
            let mut generations = written.iter().zip(&delivered);
            if !generations.any(|(of, came)| of.starts_with(whole) && *came >= whole.len()) {
                return Err(format!("a copy of {} bytes is missing", copy.len()));
            }
        }
        Ok(missing)
    }
}

/// When each line is due.
fn due(lines: &[Vec<u8>]) -> Vec<Duration> {
    let time = Regex::new(r"(?-u)(\d\d):(\d\d):(\d\d)|^\d{6} (\d\d)(\d\d)(\d\d) ").unwrap();
    let second = |line: &[u8]| {
        let found = time.captures(line)?;
        let mut parts = found.iter().skip(1).flatten();
        let mut part = || {
            std::str::from_utf8(parts.next()?.as_bytes())
                .ok()?
                .parse::<u64>()
                .ok()
        };
        Some(part()? * 3600 + part()? * 60 + part()?)
    };
    let (mut now, mut last) = (0, None);
    let mut seconds = Vec::new();
    for line in lines {
        // A line without a time belongs to the one before.
        let at = second(line).or(last);
        if let (Some(at), Some(last)) = (at, last) {
            now += ((at + DAY - last) % DAY).min(SILENCE_MAX);
        }
        last = at;
        seconds.push(now);
    }
    let all = now.max(1) as f64;
    let evenly = |index: usize| index as f64 / lines.len() as f64;
    seconds
        .iter()
        .enumerate()
        .map(|(index, at)| {
            if now == 0 {
                evenly(index)
            } else {
                *at as f64 / all
            }
        })
        .map(|part| LAPSE.mul_f64(part))
        .collect()
}

/// A program that logs, and takes note of what stands in which generation of its log.
struct Program {
    path: PathBuf,
    keeping: Keeping,
    file: File,
    /// Where it ended after the last write; nothing in a new file.
    end: Option<u64>,
    generations: Vec<Vec<u8>>,
}

impl Program {
    fn start(path: &Path, keeping: Keeping) -> Self {
        let file = OpenOptions::new().append(true).create(true).open(path);
        Self {
            path: path.to_owned(),
            keeping,
            file: file.unwrap(),
            end: None,
            generations: Vec::new(),
        }
    }

    fn write(&mut self, piece: &[u8]) {
        if piece.is_empty() {
            return;
        }
        if self.keeping == Keeping::Reopening {
            self.reopen_if_renamed();
        }
        assert_eq!(self.file.write(piece).unwrap(), piece.len());
        // Who appends alone finds his own end before what he wrote, or a file that was cut.
        let end = self.file.stream_position().unwrap();
        if self.end != Some(end - piece.len() as u64) {
            self.generations.push(Vec::new());
        }
        self.end = Some(end);
        self.generations
            .last_mut()
            .unwrap()
            .extend_from_slice(piece);
    }

    /// As Python's `WatchedFileHandler` does.
    fn reopen_if_renamed(&mut self) {
        let inode = self.file.metadata().unwrap().ino();
        // Between renaming and creating there is nothing: then the old one is good enough.
        let Ok(there) = OpenOptions::new().append(true).open(&self.path) else {
            return;
        };
        if there.metadata().unwrap().ino() != inode {
            self.file = there;
            self.end = None;
        }
    }
}

/// Takes a queue until it is `over`.
fn drain(broker: &Broker, queue: &str, ledger: &Mutex<Ledger>, over: &AtomicBool) {
    let mut consumer = Consumer::open(&broker.url(), queue);
    loop {
        let last = over.load(Ordering::Acquire);
        match consumer.next(PATIENCE) {
            Some(message) => ledger.lock().unwrap().take(&message),
            None if last && consumer.ready() == 0 => return,
            None => {}
        }
    }
}

/// Ends what watches it, also when the test fails.
struct EndOnDrop<'f>(&'f AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn an_hour_of_real_logs_is_in_every_queue_once_whether_they_are_renamed_or_cut() {
    let mut random = Random::from_environment();
    let directory = tempfile::tempdir().unwrap();
    let logs = directory.path().join("logs");
    fs::create_dir(&logs).unwrap();
    let broker = Broker::start();
    let config = Config::new(&broker.url()).source("app", &logs.join("*.log"));
    let mut agent = Agent::new(directory.path(), config);
    agent.start();
    wait_for(MINUTE, "the queues are there", || {
        QUEUES.iter().all(|queue| broker.amqp().queue_exists(queue))
    });
    let ways = [Keeping::Reopening, Keeping::Holding].into_iter().cycle();
    let logs: Vec<Replayed> = eight_logs(&mut random)
        .into_iter()
        .zip(ways)
        .map(|(log, way)| Replayed::new(directory.path(), log, way, random.fork()))
        .collect();
    let ledgers = QUEUES.map(|_| Mutex::new(Ledger::new()));
    let (calm, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let written = thread::scope(|scope| {
        let (_calm, _over) = (EndOnDrop(&calm), EndOnDrop(&over));
        for (queue, ledger) in QUEUES.iter().zip(&ledgers) {
            scope.spawn(|| drain(&broker, queue, ledger, &over));
        }
        let playing: Vec<_> = logs.iter().map(|log| scope.spawn(|| log.play())).collect();
        // What lies beside a path when it is first matched is nobody's business.
        wait_for(MINUTE, "every log is known", || {
            let ledger = ledgers[0].lock().unwrap();
            let known = |log: &Replayed| !ledger.generations(log.text()).is_empty();
            logs.iter().all(known)
        });
        let rotating: Vec<_> = logs
            .iter()
            .map(|log| scope.spawn(|| log.rotate(&calm)))
            .collect();
        let written = playing.into_iter().map(|log| log.join().unwrap());
        let written: Vec<Vec<Vec<u8>>> = written.collect();
        calm.store(true, Ordering::Release);
        for (log, rotating) in logs.iter().zip(rotating) {
            let (rotations, lines) = (rotating.join().unwrap(), log.lines.len());
            println!("{}: {lines} lines, {rotations} rotations", log.text());
            assert!(rotations > 2, "hardly rotated");
        }
        // What has not come by then is told below.
        let end = Instant::now() + MINUTE;
        wait_for(2 * MINUTE, "everything is in every queue", || {
            let cut = Cut::said_in(&agent.stderr());
            let complete = |ledger: &Mutex<Ledger>| {
                let ledger = ledger.lock().unwrap();
                let mut logs = logs.iter().zip(&written);
                logs.all(|(log, written)| log.difference(&ledger, written, &cut).is_none())
            };
            ledgers.iter().all(complete) && agent.lag() == Some(0) || Instant::now() >= end
        });
        written
    });
    let cut = Cut::said_in(&agent.stderr());
    let lost_bytes = agent.lost_bytes();
    for ledger in ledgers {
        let ledger = ledger.into_inner().unwrap();
        ledger.assert_clean();
        ledger.assert_no_repeats();
        let (mut missing, mut skipped) = (0, 0);
        for (log, written) in logs.iter().zip(&written) {
            let difference = log.difference(&ledger, written, &cut);
            assert_eq!(difference, None, "{}", log.text());
            let files = ledger.generations(log.text());
            let delivered: u64 = files.iter().map(|file| file.delivered()).sum();
            let covered: u64 = files.iter().map(|file| file.covered_bytes()).sum();
            skipped += covered - delivered;
            missing += written.iter().map(Vec::len).sum::<usize>() as u64 - delivered;
        }
        println!("{missing} bytes missing, {lost_bytes} counted as lost");
        assert_eq!(
            skipped, lost_bytes,
            "what is said to be skipped, and what is counted"
        );
        assert!(
            skipped <= missing,
            "{skipped} of {missing} bytes counted as lost"
        );
    }
}
