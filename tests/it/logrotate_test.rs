//! Debian's logrotate against logs that are written as fast as the queues are drained: what it
//! leaves on the disk, and what was read before it was taken away, is in every queue, once.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flate2::read::GzDecoder;

use crate::support::agent::{Agent, Config, open_paths};
use crate::support::amqp::Consumer;
use crate::support::broker::Broker;
use crate::support::cut::Cut;
use crate::support::is_all;
use crate::support::logrotate::Logrotate;
use crate::support::message::Message;
use crate::support::numbered::{Delivered, Keeping, NumberedWriter, Piece, Recipe, Written};
use crate::support::oracle::{FileLedger, Ledger};
use crate::support::random::Random;
use crate::support::wait::wait_for;

const QUEUES: [&str; 3] = ["archive", "alerting", "search"];
const MINUTE: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_millis(100);

/// A writer pauses while the slowest queue is so many lines behind it: neither the broker's disk nor
/// the test's time is without end.
const AHEAD_LINES: u64 = 50_000;

/// Longer than it takes until a generation that does not change any more is over, and let go.
const LET_GO: Duration = Duration::from_secs(90);

/// Each log is rotated so often at least.
const ROTATIONS_MIN: u32 = 4;

/// Nothing that a test writes is deleted by it. logrotate tries every number up to it each time.
const KEEP_ALL: &str = "rotate 2000";

/// How a log is written and rotated.
struct Habit {
    name: &'static str,
    rules: &'static [&'static str],
    keeping: Keeping,
    /// Rotated only once the agent holds the generation: soon afterwards nobody could read it.
    waits_for_agent: bool,
}

const CREATE: Habit = Habit {
    name: "create",
    rules: &[KEEP_ALL, "create"],
    keeping: Keeping::Reopening,
    waits_for_agent: false,
};
const CREATE_COMPRESS: Habit = Habit {
    name: "create-compress",
    rules: &[KEEP_ALL, "create", "compress"],
    keeping: Keeping::Reopening,
    // gzip may be done before the writer is.
    waits_for_agent: true,
};
const CREATE_DELAYCOMPRESS: Habit = Habit {
    name: "create-delaycompress",
    rules: &[KEEP_ALL, "create", "compress", "delaycompress"],
    keeping: Keeping::Reopening,
    waits_for_agent: false,
};
/// Without `%s` there were one rotation a day.
const CREATE_DATEEXT: Habit = Habit {
    name: "create-dateext",
    rules: &[
        KEEP_ALL,
        "create",
        "compress",
        "dateext",
        "dateformat -%Y%m%d-%s",
    ],
    ..CREATE_COMPRESS
};
const COPYTRUNCATE: Habit = Habit {
    name: "copytruncate",
    rules: &[KEEP_ALL, "copytruncate"],
    keeping: Keeping::Holding,
    waits_for_agent: false,
};
const COPYTRUNCATE_COMPRESS: Habit = Habit {
    name: "copytruncate-compress",
    rules: &[KEEP_ALL, "copytruncate", "compress"],
    ..COPYTRUNCATE
};
/// Of what was rotated, only the last generation is there.
const DELETED: Habit = Habit {
    name: "deleted",
    rules: &["rotate 1", "create"],
    ..CREATE
};
/// What is older than two rotations is gone.
const OUTAGE: Habit = Habit {
    name: "outage",
    rules: &["rotate 2", "create"],
    ..CREATE
};
const CREATE_KILLED: Habit = Habit {
    name: "create-killed",
    ..CREATE
};
const DELAYCOMPRESS_KILLED: Habit = Habit {
    name: "delaycompress-killed",
    waits_for_agent: false,
    ..CREATE_DELAYCOMPRESS
};

/// How much is written, of each log at least.
struct Amount {
    time: Duration,
    lines: u64,
}

impl Amount {
    const BRIEF: Self = Self {
        time: Duration::from_secs(5),
        lines: 0,
    };

    /// With `FANTAIL_TEST_ALL` a minute, and `lines`.
    fn of_lines(lines: u64) -> Self {
        if is_all() {
            Self {
                time: MINUTE,
                lines,
            }
        } else {
            Self::BRIEF
        }
    }
}

/// A log that is written and rotated.
struct Log {
    habit: &'static Habit,
    path: PathBuf,
    recipe: Recipe,
    random: Random,
}

impl Log {
    fn start(
        habit: &'static Habit,
        directory: &Path,
        random: &mut Random,
    ) -> (Self, NumberedWriter, Logrotate) {
        let path = directory.join("logs").join(format!("{}.log", habit.name));
        let recipe = Recipe::new(directory, habit.name, random);
        let writer = NumberedWriter::start(&path, &recipe, habit.keeping);
        let told = (habit.keeping == Keeping::Reopening).then(|| writer.id());
        let logrotate = Logrotate::new(directory, &path, habit.rules, told);
        let log = Self {
            habit,
            path,
            recipe,
            random: random.fork(),
        };
        (log, writer, logrotate)
    }

    fn text(&self) -> &str {
        text(&self.path)
    }

    /// The numbers of the whole lines that are on the disk in files which the agent reads.
    fn survivors(&self) -> Vec<u64> {
        let entries = fs::read_dir(self.path.parent().unwrap()).unwrap();
        entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| text(path).starts_with(self.text()))
            .flat_map(|path| numbers_in(&path))
            .collect()
    }
}

fn is_packed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gz")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the test's own path is UTF-8")
}

/// What one queue has of the logs.
struct Taken {
    ledger: Ledger,
    delivered: Vec<Delivered>,
}

/// A queue that is being drained.
struct Drained {
    queue: &'static str,
    taken: Mutex<Taken>,
    /// Of each log the highest number that came, and 1: to be looked at without a lock.
    ends: Vec<AtomicU64>,
}

impl Taken {
    /// Generations whose end was not said.
    fn endless<'t>(&'t self, log: &'t Log) -> impl Iterator<Item = &'t FileLedger> {
        let files = self.ledger.generations(log.text()).into_iter();
        files.filter(|file| file.eof().is_none())
    }
}

impl Drained {
    fn new(queue: &'static str, logs: &[Log]) -> Self {
        let delivered = logs.iter().map(|log| Delivered::new(log.recipe.clone()));
        Self {
            queue,
            taken: Mutex::new(Taken {
                ledger: Ledger::new().keeping_no_lines(),
                delivered: delivered.collect(),
            }),
            ends: logs.iter().map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Takes the queue until it is `over`, and then what is left in it.
    fn drain(&self, broker: &Broker, logs: &[Log], over: &AtomicBool) {
        let mut consumer = Consumer::open(&broker.url(), self.queue);
        loop {
            let last = over.load(Ordering::Acquire);
            match consumer.next(PATIENCE) {
                Some(message) => self.take(&message, logs),
                None if last && consumer.ready() == 0 => return,
                None => {}
            }
        }
    }

    fn end(&self, log: usize) -> u64 {
        self.ends[log].load(Ordering::Acquire)
    }

    fn take(&self, message: &Message, logs: &[Log]) {
        let mut taken = self.taken.lock().unwrap();
        let Taken { ledger, delivered } = &mut *taken;
        ledger.take_with(message, &mut |line| {
            let log = logs.iter().position(|log| log.text() == line.path);
            delivered[log.expect("one of the logs")].take(&line);
        });
        for (end, delivered) in self.ends.iter().zip(delivered) {
            end.store(delivered.end(), Ordering::Release);
        }
    }
}

/// What happened to each log.
struct Outcome {
    logs: Vec<Log>,
    written: Vec<Written>,
    rotations: Vec<u32>,
    /// In the order of `QUEUES`.
    taken: [Taken; 3],
    lost_bytes: u64,
    /// What the agent logged since its last start.
    stderr: String,
    survivors: Vec<Vec<u64>>,
}

/// Ends what watches it, also when the test fails.
struct EndOnDrop<'f>(&'f AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Writes and rotates logs for a while, until everything is in every queue. `disturb` is called again
/// and again while there is writing.
fn storm(
    habits: &[&'static Habit],
    amount: &Amount,
    mut disturb: impl FnMut(&mut Agent, &mut Random),
) -> Outcome {
    let mut random = Random::from_environment();
    let directory = tempfile::tempdir().unwrap();
    let logs = directory.path().join("logs");
    fs::create_dir(&logs).unwrap();
    let broker = Broker::start();
    let sources = habits.iter().fold(Config::new(&broker.url()), |of, habit| {
        of.source(habit.name, &logs.join(format!("{}.log", habit.name)))
    });
    let mut agent = Agent::new(directory.path(), sources);
    agent.start();
    wait_for(MINUTE, "the queues are there", || {
        QUEUES.iter().all(|queue| broker.amqp().queue_exists(queue))
    });

    let (mut logs, mut writers, mut logrotates) = (Vec::new(), Vec::new(), Vec::new());
    for habit in habits {
        let (log, writer, logrotate) = Log::start(habit, directory.path(), &mut random);
        logs.push(log);
        writers.push(writer);
        logrotates.push(logrotate);
    }
    let drained = QUEUES.map(|queue| Drained::new(queue, &logs));
    let (calm, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let agent_id = AtomicU32::new(agent.id());
    let rotations: Vec<AtomicU32> = logs.iter().map(|_| AtomicU32::new(0)).collect();
    let (written, survivors, lost_bytes) = thread::scope(|scope| {
        let (_calm, _over) = (EndOnDrop(&calm), EndOnDrop(&over));
        for drained in &drained {
            scope.spawn(|| drained.drain(&broker, &logs, &over));
        }
        // What lies beside a path when it is first matched is nobody's business.
        wait_for(MINUTE, "every log is known", || {
            hold_back(&mut writers, &drained);
            let known = |drained: &Drained| (0..logs.len()).all(|index| drained.end(index) > 0);
            drained.iter().all(known)
        });
        let mut rotating = Vec::new();
        for ((log, logrotate), rotations) in logs.iter().zip(&logrotates).zip(&rotations) {
            let (agent, calm) = (&agent_id, &calm);
            rotating.push(scope.spawn(|| rotate(log, logrotate, agent, calm, rotations)));
        }
        let begun = Instant::now();
        wait_for(20 * MINUTE, "enough is written", || {
            hold_back(&mut writers, &drained);
            disturb(&mut agent, &mut random);
            if agent.is_running() {
                agent_id.store(agent.id(), Ordering::Release);
            }
            let rotated = |often: &AtomicU32| often.load(Ordering::Acquire) >= ROTATIONS_MIN;
            begun.elapsed() >= amount.time
                && writers.iter().all(|writer| writer.lines() >= amount.lines)
                && rotations.iter().all(rotated)
        });
        calm.store(true, Ordering::Release);
        rotating
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        writers.iter_mut().for_each(|writer| writer.pause(false));
        let written = writers.into_iter().map(NumberedWriter::finish);
        let written: Vec<Written> = written.collect();
        if !agent.is_running() {
            agent.start();
        }
        println!("written and rotated for {:?}", begun.elapsed());
        let survivors: Vec<Vec<u64>> = logs.iter().map(Log::survivors).collect();
        // What has not come by then is told by what judges, better than here.
        let end = Instant::now() + 3 * MINUTE;
        wait_for(4 * MINUTE, "everything is in every queue", || {
            let complete = |drained: &Drained| {
                let taken = drained.taken.lock().unwrap();
                is_complete(&taken, &logs, &written, &survivors, &agent)
            };
            drained.iter().all(complete) && agent.lag() == Some(0) || Instant::now() >= end
        });
        println!("in every queue after {:?}", begun.elapsed());
        if amount.time > Amount::BRIEF.time {
            // What comes again when generations are let go must be seen.
            wait_for(2 * LET_GO, "all generations but the last are over", || {
                let ended = |drained: &Drained| {
                    let taken = drained.taken.lock().unwrap();
                    logs.iter().all(|log| taken.endless(log).count() <= 1)
                };
                drained.iter().all(ended)
            });
        }
        let lost_bytes = agent.lost_bytes();
        (written, survivors, lost_bytes)
    });
    Outcome {
        logs,
        written,
        rotations: rotations.into_iter().map(AtomicU32::into_inner).collect(),
        taken: drained.map(|drained| drained.taken.into_inner().unwrap()),
        lost_bytes,
        stderr: agent.stderr(),
        survivors,
    }
}

/// Pauses writers that are too far ahead of the slowest queue.
fn hold_back(writers: &mut [NumberedWriter], drained: &[Drained]) {
    for (index, writer) in writers.iter_mut().enumerate() {
        let ends = drained.iter().map(|drained| drained.end(index));
        let slowest = ends.min().unwrap_or(0);
        writer.pause(writer.lines() > slowest + AHEAD_LINES);
    }
}

/// Rotates a log whenever it has grown to a random size, until all is `calm`, and counts.
fn rotate(
    log: &Log,
    logrotate: &Logrotate,
    agent: &AtomicU32,
    calm: &AtomicBool,
    rotations: &AtomicU32,
) {
    let mut random = log.random.clone();
    let mut rotated_at = 0;
    loop {
        let size = 100_000 + random.below(1_500_000) as u64;
        let is_dated = log.habit.rules.contains(&"dateext");
        wait_for(2 * MINUTE, "a log has grown to be rotated", || {
            let grown = fs::metadata(&log.path).is_ok_and(|status| status.len() >= size);
            let named = !is_dated || (since_1970() - TICK).as_secs() > rotated_at;
            calm.load(Ordering::Acquire)
                || grown
                    && named
                    && (!log.habit.waits_for_agent
                        || open_paths(agent.load(Ordering::Acquire)).contains(&log.path))
        });
        if calm.load(Ordering::Acquire) {
            return;
        }
        logrotate.rotate();
        rotated_at = since_1970().as_secs();
        rotations.fetch_add(1, Ordering::Release);
    }
}

/// logrotate's clock ticks up to 10 ms later than ours.
const TICK: Duration = Duration::from_millis(20);

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// Whether a queue has all that can still come.
fn is_complete(
    taken: &Taken,
    logs: &[Log],
    written: &[Written],
    survivors: &[Vec<u64>],
    agent: &Agent,
) -> bool {
    let mut cut = None;
    let mut has_all = |index: usize| {
        let (log, delivered) = (&logs[index], &taken.delivered[index]);
        if log.habit.keeping == Keeping::Reopening {
            return delivered.lines() == written[index].lines;
        }
        let cut = cut.get_or_insert_with(|| Cut::said_in(&agent.stderr()));
        delivered.end() == written[index].lines
            && survivors[index].iter().all(|line| delivered.has(*line))
            && taken
                .endless(log)
                .all(|file| !cut.waits_for_copy(file.id()))
    };
    (0..logs.len()).all(&mut has_all)
}

/// Of the whole lines in a file, packed or not.
fn numbers_in(path: &Path) -> Vec<u64> {
    let file = fs::File::open(path).unwrap();
    let mut content: Box<dyn BufRead> = if is_packed(path) {
        Box::new(BufReader::new(GzDecoder::new(file)))
    } else {
        Box::new(BufReader::new(file))
    };
    let (mut numbers, mut line) = (Vec::new(), Vec::new());
    loop {
        line.clear();
        content.read_until(b'\n', &mut line).unwrap();
        if !line.ends_with(b"\n") {
            return numbers;
        }
        let digits = line.split(|byte| *byte == b' ').next().unwrap();
        numbers.push(std::str::from_utf8(digits).unwrap().parse().unwrap());
    }
}

impl Outcome {
    fn print(&self) {
        for (index, log) in self.logs.iter().enumerate() {
            let Written { lines, bytes, .. } = self.written[index];
            let missing = lines - self.taken[0].delivered[index].lines();
            println!(
                "{}: {lines} lines, {bytes} bytes, {} rotations; {missing} lines missing",
                log.habit.name, self.rotations[index]
            );
        }
        println!("counted as lost: {} bytes", self.lost_bytes);
    }

    /// Nothing is missing, whatever was rotated where.
    fn assert_whole(&self) {
        self.print();
        for (taken, index) in self.each() {
            let (log, written) = (&self.logs[index], &self.written[index]);
            taken.ledger.assert_clean();
            let delivered = &taken.delivered[index];
            delivered.assert_clean();
            assert_eq!(delivered.difference(written), None, "{}", log.habit.name);
            assert_eq!(delivered.lines(), written.lines);
            let files = taken.ledger.generations(log.text());
            let bytes: Option<u64> = files.iter().map(|file| file.covered_to()).sum();
            assert_eq!(bytes, Some(written.bytes), "bytes accounted for");
            let skipped = files.iter().find(|file| !file.skipped().is_empty());
            assert!(skipped.is_none(), "{}", skipped.unwrap().summary());
        }
        assert_eq!(self.lost_bytes, 0);
        self.assert_rotated();
    }

    /// What is missing was cut before it could be read, and is counted as far as it was known.
    fn assert_lost_only_what_was_cut(&self) {
        self.print();
        for taken in &self.taken {
            let (mut missing, mut skipped) = (0, 0);
            for index in 0..self.logs.len() {
                let lost = self.lost(taken, index);
                missing += lost.missing;
                skipped += lost.skipped;
                let delivered = &taken.delivered[index];
                let lost = self.survivors[index]
                    .iter()
                    .find(|line| !delivered.has(**line));
                assert_eq!(lost, None, "a line that is on the disk");
            }
            taken.ledger.assert_clean();
            taken.ledger.assert_no_repeats();
            println!("missing: {missing} bytes");
            assert_eq!(
                self.lost_bytes, skipped,
                "what is counted, and what is said to be skipped"
            );
            assert!(
                skipped <= missing,
                "{skipped} of {missing} bytes counted as lost"
            );
        }
        self.assert_rotated();
    }

    /// What a queue lacks of one log.
    fn lost(&self, taken: &Taken, index: usize) -> Lost {
        let (log, delivered) = (&self.logs[index], &taken.delivered[index]);
        delivered.assert_clean();
        let cut = Cut::said_in(&self.stderr);
        let mut pieces: HashMap<u64, &Piece> = delivered
            .pieces()
            .iter()
            .map(|piece| (piece.first, piece))
            .collect();
        assert_eq!(
            pieces.len(),
            delivered.pieces().len(),
            "a generation came twice"
        );
        let files = taken.ledger.generations(log.text());
        let covered: u64 = files.iter().map(|file| file.covered_bytes()).sum();
        let came: u64 = pieces.values().map(|piece| piece.bytes).sum();
        let mut lost = Lost {
            skipped: covered - came,
            missing: 0,
        };
        // Of a file that was cut twice between two looks, one truncation is reported.
        let mut cut_last = false;
        for generation in &self.written[index].generations {
            let piece = pieces.remove(&generation.first);
            if let Some(piece) = piece
                && (piece.first == 0 || cut.was_begun(&piece.file))
            {
                cut_last = cut.was_truncated(&piece.file);
            }
            let came = piece.map_or(0, |piece| piece.bytes);
            assert!(came <= generation.bytes, "{piece:?} of {generation:?}");
            let excused = came == generation.bytes || cut_last;
            assert!(excused, "{piece:?} of {generation:?}, and not reported");
            if let Some(piece) = piece {
                let file = files.iter().find(|file| file.id() == piece.file).unwrap();
                let end = file.covered_to().expect("no gap");
                assert!(
                    end <= generation.bytes,
                    "{generation:?}: {}",
                    file.summary()
                );
                let reasons = file.skipped().iter().map(|skipped| &*skipped.reason);
                assert!(
                    { reasons }.all(|reason| reason == "truncated"),
                    "{}",
                    file.summary()
                );
            }
            lost.missing += generation.bytes - came;
        }
        assert!(
            pieces.is_empty(),
            "begin where no generation began: {pieces:?}"
        );
        lost
    }

    /// Every queue, with the index of every log.
    fn each(&self) -> impl Iterator<Item = (&Taken, usize)> {
        let indexes = 0..self.logs.len();
        self.taken
            .iter()
            .flat_map(move |taken| indexes.clone().map(move |index| (taken, index)))
    }

    /// The test was one.
    fn assert_rotated(&self) {
        let few = self.rotations.iter().find(|often| **often < ROTATIONS_MIN);
        assert_eq!(few, None, "so few rotations");
    }
}

/// Bytes of a log that a queue does not have, and those of them that it was told of.
struct Lost {
    missing: u64,
    skipped: u64,
}

#[test]
fn what_logrotate_renames_packs_or_dates_at_full_speed_is_whole_in_every_queue_once() {
    let habits = [
        &CREATE,
        &CREATE_COMPRESS,
        &CREATE_DELAYCOMPRESS,
        &CREATE_DATEEXT,
    ];
    let outcome = storm(&habits, &Amount::of_lines(1_700_000), |_, _| {});
    outcome.assert_whole();
    for taken in &outcome.taken {
        taken.ledger.assert_no_repeats();
    }
}

#[test]
fn copytruncate_loses_only_what_was_written_between_a_look_and_the_cut() {
    let habits = [&COPYTRUNCATE, &COPYTRUNCATE_COMPRESS];
    let outcome = storm(&habits, &Amount::of_lines(1_600_000), |_, _| {});
    outcome.assert_lost_only_what_was_cut();
}

#[test]
fn an_agent_that_is_killed_every_second_finds_again_what_was_rotated_meanwhile() {
    let habits = [&CREATE_KILLED, &DELAYCOMPRESS_KILLED];
    let mut kills = 0;
    let mut is_down = false;
    let mut next = None;
    let outcome = storm(&habits, &Amount::of_lines(0), |agent, random| {
        let now = Instant::now();
        if now < *next.get_or_insert(now + Duration::from_secs(1)) {
            return;
        }
        let after = if is_down {
            agent.start();
            Duration::from_secs(1)
        } else {
            assert!(agent.is_running(), "the agent ended by itself");
            agent.kill9();
            kills += 1;
            Duration::from_millis(random.below(500) as u64)
        };
        is_down = !is_down;
        next = Some(Instant::now() + after);
    });
    println!("{kills} kills");
    assert!(kills > 2, "{kills} kills");
    outcome.assert_whole();
}

#[test]
fn generations_deleted_while_the_broker_stands_still_are_delivered_from_open_descriptors() {
    const ROTATIONS: u32 = 12;
    let mut random = Random::from_environment();
    let directory = tempfile::tempdir().unwrap();
    let logs = directory.path().join("logs");
    fs::create_dir(&logs).unwrap();
    let broker = Broker::start();
    let config = Config::new(&broker.url())
        .set("broker", "max_in_flight = \"1MiB\"")
        .set("broker", "heartbeat = \"60s\"")
        .source("app", &logs.join("*.log"));
    let mut agent = Agent::new(directory.path(), config);
    agent.start();
    wait_for(MINUTE, "the queues are there", || {
        QUEUES.iter().all(|queue| broker.amqp().queue_exists(queue))
    });
    broker.pause();
    let (log, mut writer, logrotate) = Log::start(&DELETED, directory.path(), &mut random);
    for _ in 0..ROTATIONS {
        wait_for(MINUTE, "the log has grown", || {
            fs::metadata(&log.path).is_ok_and(|status| status.len() >= 500_000)
        });
        writer.pause(true);
        wait_for(MINUTE, "the agent holds the generation", || {
            agent.open_paths().contains(&log.path)
        });
        writer.pause(false);
        logrotate.rotate();
    }
    let written = writer.finish();
    let deleted = agent.open_paths();
    let deleted = deleted
        .iter()
        .filter(|path| text(path).ends_with(" (deleted)"));
    assert!(
        deleted.count() as u32 >= ROTATIONS - 1,
        "{:?}",
        agent.open_paths()
    );
    broker.resume();
    let logs = vec![log];
    let drained = QUEUES.map(|queue| Drained::new(queue, &logs));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _over = EndOnDrop(&over);
        for drained in &drained {
            scope.spawn(|| drained.drain(&broker, &logs, &over));
        }
        wait_for(5 * MINUTE, "everything is in every queue", || {
            let complete = |drained: &Drained| drained.end(0) == written.lines;
            drained.iter().all(complete)
        });
    });
    let outcome = Outcome {
        survivors: Vec::new(),
        logs,
        written: vec![written],
        rotations: vec![ROTATIONS],
        taken: drained.map(|drained| drained.taken.into_inner().unwrap()),
        lost_bytes: agent.lost_bytes(),
        stderr: agent.stderr(),
    };
    outcome.assert_whole();
}

/// What a rotation deletes while nobody holds it must be in the spool.
fn wait_until_all_rotated_is_spooled(agent: &Agent) {
    agent.wait_for_status("all rotated files are in the spool", |status| {
        let files = status["files"].as_array();
        let is_read = files.is_some_and(|files| {
            let mut rotated = files.iter().filter(|file| file["state"] == "rotated");
            rotated.all(|file| file["read"] == file["size"])
        });
        is_read && status["spool"]["mode"] == "spooling" && status["broker"]["in_flight_bytes"] == 0
    });
}

#[test]
fn an_outage_in_which_files_are_deleted_and_the_agent_is_killed_twice_leaves_no_gap() {
    const ROTATIONS: u32 = 12;
    const KILLED_AFTER: [u32; 2] = [4, 8];
    const MEMORY_MAX: u64 = 96 << 20;
    let (lines, window) = if is_all() {
        (5_000_000, "16MiB")
    } else {
        (200_000, "1MiB")
    };
    let mut random = Random::from_environment();
    let directory = tempfile::tempdir().unwrap();
    let logs = directory.path().join("logs");
    fs::create_dir(&logs).unwrap();
    let mut broker = Broker::start();
    // Without compression it would be gigabytes in the spool and in each queue.
    let config = Config::new(&broker.url())
        .set("broker", &format!("max_in_flight = {window:?}"))
        .set("batch", "compression = \"zstd\"")
        .set("spool", "max_bytes = \"4GiB\"\nmin_free = \"0%\"")
        .source_with("app", &logs.join("*.log"), "poll_interval = \"200ms\"");
    let mut agent = Agent::new(directory.path(), config);
    agent.start();
    wait_for(MINUTE, "the queues are there", || {
        QUEUES.iter().all(|queue| broker.amqp().queue_exists(queue))
    });
    let (log, mut writer, logrotate) = Log::start(&OUTAGE, directory.path(), &mut random);
    let is_known = |agent: &Agent| agent.open_paths().contains(&log.path);
    wait_for(MINUTE, "the log is known", || is_known(&agent));
    broker.stop();
    let mut peak = 0;
    for rotation in 1..=ROTATIONS {
        wait_for(10 * MINUTE, "the log has grown", || {
            writer.lines() >= lines * u64::from(rotation) / u64::from(ROTATIONS)
        });
        if KILLED_AFTER.contains(&rotation) {
            writer.pause(true);
            wait_until_all_rotated_is_spooled(&agent);
            peak = peak.max(agent.resident_peak());
            agent.kill9();
            writer.pause(false);
            logrotate.rotate();
            agent.start();
        } else {
            wait_for(MINUTE, "the log is known", || is_known(&agent));
            logrotate.rotate();
        }
    }
    let written = writer.finish();
    let status = agent.wait_for_status("the spool is used", |status| {
        status["spool"]["mode"] == "spooling" && status["spool"]["segments"].as_u64() > Some(0)
    });
    println!("in the spool: {}", status["spool"]);

    let begun = Instant::now();
    broker.start_again();
    let logs = vec![log];
    let drained = QUEUES.map(|queue| Drained::new(queue, &logs));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _over = EndOnDrop(&over);
        for drained in &drained {
            scope.spawn(|| drained.drain(&broker, &logs, &over));
        }
        wait_for(20 * MINUTE, "everything is in every queue", || {
            let complete = |drained: &Drained| drained.end(0) == written.lines;
            drained.iter().all(complete)
        });
    });
    println!("drained in {:?}", begun.elapsed());
    agent.wait_for_status("the spool is empty", |status| {
        status["spool"]["mode"] == "direct"
    });
    peak = peak.max(agent.resident_peak());
    println!("peak {} MiB", peak >> 20);
    assert!(peak < MEMORY_MAX, "{peak} bytes");
    let outcome = Outcome {
        survivors: Vec::new(),
        logs,
        written: vec![written],
        rotations: vec![ROTATIONS],
        taken: drained.map(|drained| drained.taken.into_inner().unwrap()),
        lost_bytes: agent.lost_bytes(),
        stderr: agent.stderr(),
    };
    outcome.assert_whole();
}
