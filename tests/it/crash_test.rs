//! The agent is killed at each system call that makes something durable, of the spool and of
//! state.db, once and again while it recovers. Whatever it had said to be spooled, and whatever is
//! still in its files, is in every queue at the end.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::broker::Broker;
use crate::support::is_all;
use crate::support::random::Random;
use crate::support::trial::Trial;

/// So many agents at a time.
const PARALLEL: usize = 4;
/// More segments than a trial ever makes.
const SEGMENTS: u64 = 60;
/// What changes a disk, or makes a change durable.
const STEPS: [&str; 7] = [
    "openat",
    "pwrite64",
    "fdatasync",
    "fsync",
    "unlinkat",
    "ftruncate",
    "unlink",
];

/// Whose files are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Spool,
    State,
}

/// What `strace` does in front of a kind of system call on files of a part. It counts calls by
/// thread, and what it kills has not done the call.
#[derive(Clone, Debug)]
struct Point {
    part: Part,
    step: &'static str,
    /// As `signal=KILL:when=3`, `error=EIO:when=3..5`.
    what: String,
}

impl Point {
    /// Options of `strace` for a daemon with this state directory.
    fn tracer(&self, state: &Path) -> Vec<String> {
        let Self { part, step, what } = self;
        let mut options = part.watched(state);
        options.extend(["-e".to_owned(), format!("trace={step}")]);
        let inject = format!("inject={step}:{what}");
        options.extend([
            "-e".to_owned(),
            inject,
            "-o".to_owned(),
            "/dev/null".to_owned(),
        ]);
        options
    }
}

impl Part {
    /// Options of `strace` that restrict it to these files.
    fn watched(self, state: &Path) -> Vec<String> {
        let paths: Vec<PathBuf> = match self {
            Self::Spool => {
                let spool = state.join("spool");
                let segments = (1..=SEGMENTS).map(|number| spool.join(format!("{number:020}.seg")));
                segments.chain([spool.clone()]).collect()
            }
            Self::State => {
                let names = ["", "agent-id", "state.db", "state.db-wal", "state.db-shm"];
                names.map(|name| state.join(name)).into()
            }
        };
        let text = |path: &PathBuf| path.to_str().unwrap().trim_end_matches('/').to_owned();
        let option = |path| ["-P".to_owned(), text(path)];
        paths.iter().flat_map(option).collect()
    }
}

/// The first of the points is of the first run, and so on.
fn trial_with(broker: &Broker, points: &[Point]) -> Trial {
    let mut trial = Trial::new(broker);
    let state = trial.agent.state_dir();
    let tracers = points.iter().rev().map(|point| point.tracer(&state));
    trial.tracers = tracers.collect();
    trial
}

/// How often the busiest thread makes each step, over a trial in which nothing is killed.
fn reference(broker: &Broker, part: Part) -> BTreeMap<(Part, &'static str), usize> {
    let mut trial = Trial::new(broker);
    let trace = trial.path("trace");
    let mut tracer = part.watched(&trial.agent.state_dir());
    let traced = format!("trace={}", STEPS.join(","));
    let out = trace.to_str().unwrap().to_owned();
    tracer.extend(["-e".to_owned(), traced, "-o".to_owned(), out]);
    trial.tracers.push(tracer);
    trial.run();
    trial.assert_queues_hold_all(broker);
    counted(&fs::read_to_string(trace).unwrap(), part)
}

/// Of a trace with lines like `4711 fsync(5) = 0`.
fn counted(trace: &str, part: Part) -> BTreeMap<(Part, &'static str), usize> {
    let mut by_thread: HashMap<(&str, &'static str), usize> = HashMap::new();
    for line in trace.lines() {
        let Some((thread, call)) = line.split_once(' ') else {
            continue;
        };
        let call = call.trim_start();
        let is_it = |step: &&&str| {
            call.strip_prefix(**step)
                .is_some_and(|rest| rest.starts_with('('))
        };
        if let Some(step) = STEPS.iter().find(is_it) {
            *by_thread.entry((thread, step)).or_default() += 1;
        }
    }
    let mut most = BTreeMap::new();
    for ((_, step), count) in by_thread {
        let known = most.entry((part, step)).or_default();
        *known = count.max(*known);
    }
    most
}

/// Where trials are killed: everywhere, in turn once, twice and three times in a row; or at each kind
/// of step, at a place that the seed says.
fn cases(steps: &BTreeMap<(Part, &'static str), usize>, random: &mut Random) -> Vec<Vec<Point>> {
    let mut cases = Vec::new();
    for (&(part, step), &count) in steps {
        let point = |nth: usize| Point {
            part,
            step,
            what: format!("signal=KILL:when={nth}"),
        };
        // A recovery is short: its kills come early.
        let row = |nth, times: usize| {
            let again = (1..times).map(point);
            [point(nth)]
                .into_iter()
                .chain(again)
                .collect::<Vec<Point>>()
        };
        if is_all() {
            cases.extend((1..=count).map(|nth| row(nth, 1 + nth % 3)));
        } else {
            cases.push(row(1 + random.below(count), 1 + random.below(3)));
        }
    }
    cases
}

#[test]
fn a_disk_that_fails_for_a_while_is_told_once_and_nothing_is_lost() {
    let broker = Broker::shared();
    let refuses = [
        "the spool cannot be written; files are not read until it can",
        "the spool takes lines again",
    ];
    let unreadable = ["the spool cannot be read; trying again"];
    let troubles: [(&'static str, &str, &[&str]); 6] = [
        ("pwrite64", "error=EIO:when=5..7", &refuses),
        ("pwrite64", "error=EDQUOT:when=5..6", &refuses),
        ("fdatasync", "error=EIO:when=6", &refuses),
        ("fsync", "error=EIO:when=3", &refuses),
        ("openat", "error=EROFS:when=6..8", &refuses),
        ("pread64", "error=EIO:when=20..22", &unreadable),
    ];
    std::thread::scope(|scope| {
        for (step, what, told) in troubles {
            scope.spawn(move || {
                println!("{step} {what}");
                let trouble = Point {
                    part: Part::Spool,
                    step,
                    what: what.to_owned(),
                };
                let mut trial = trial_with(broker, &[trouble]);
                trial.run();
                trial.assert_queues_hold_all(broker);
                assert_eq!(trial.killed, 0);
                let log = trial.agent.stderr();
                for text in told {
                    assert_eq!(log.matches(text).count(), 1, "{step} {what}: {log}");
                }
            });
        }
    });
}

#[test]
fn a_kill_at_any_durable_step_loses_nothing_that_was_spooled() {
    let broker = Broker::shared();
    let mut random = Random::from_environment();
    let mut steps = reference(broker, Part::Spool);
    steps.extend(reference(broker, Part::State));
    println!("{steps:?}");
    for step in ["openat", "pwrite64", "fdatasync", "fsync", "unlinkat"] {
        assert!(
            steps.contains_key(&(Part::Spool, step)),
            "{step}: {steps:?}"
        );
    }
    assert!(steps.contains_key(&(Part::State, "pwrite64")), "{steps:?}");

    let cases = cases(&steps, &mut random);
    let (next, killed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                while let Some(kills) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let trial = std::panic::catch_unwind(|| {
                        let mut trial = trial_with(broker, kills);
                        trial.run();
                        trial.assert_queues_hold_all(broker);
                        trial.killed
                    });
                    match trial {
                        Ok(times) => killed.fetch_add(times.min(1), Ordering::Relaxed),
                        Err(_) => failed
                            .lock()
                            .map(|mut failed| failed.push(kills))
                            .map_or(0, |()| 0),
                    };
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(
        failed.is_empty(),
        "{} of {}: {failed:?}",
        failed.len(),
        cases.len()
    );
    // The last of many steps does not come in every run.
    let killed = killed.into_inner();
    assert!(
        killed * 2 > cases.len(),
        "{killed} of {} were killed",
        cases.len()
    );
}
