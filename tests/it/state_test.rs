//! state.db cannot be written, synced or read, while the daemon runs and while it starts: nothing is
//! lost, nothing is sent twice, no mark is past what is durable, and all goes on when the fault ends.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use crate::support::broker::Broker;
use crate::support::fault::Fault;
use crate::support::is_all;
use crate::support::random::Random;
use crate::support::trial::{Trial, is_confirmed};
use crate::support::wait::wait_for;

const MINUTE: Duration = Duration::from_secs(60);
const FAILS: &str = "state cannot be saved; trying again, new files wait";
const DOUBTED: &str = "state.db looks damaged; looking again";
const WORKS: &str = "state is saved again";

/// Everything of SQLite's in the state directory, and the directory itself.
fn state_files(trial: &Trial) -> Vec<PathBuf> {
    let state = trial.agent.state_dir();
    let names = ["agent-id", "agent-id.new", "lock"];
    let database = [
        "state.db",
        "state.db-wal",
        "state.db-shm",
        "state.db-journal",
    ];
    let files = names.iter().chain(&database).map(|name| state.join(name));
    files.chain([state.clone()]).collect()
}

/// How far a second reader of state.db finds the trial's files confirmed, all together.
fn durable_bytes(trial: &Trial) -> i64 {
    let path = trial.agent.state_dir().join("state.db");
    let database = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let sum = "SELECT coalesce(sum(confirmed), 0) FROM files";
    database.query_row(sum, [], |row| row.get(0)).unwrap()
}

fn confirmed_bytes(status: &Value) -> i64 {
    let files = status["files"].as_array().expect("files").iter();
    files
        .map(|file| file["confirmed"].as_i64().expect("bytes"))
        .sum()
}

/// Calls fail while a known file grows and a new one appears. If `killed`, that is how this run ends.
fn a_fault_comes_and_goes(broker: &Broker, call: &str, error: &str, named: &str, killed: bool) {
    let mut trial = Trial::new(broker);
    trial.gate.open();
    trial.start();
    let first = trial.write();
    trial.advance("all is confirmed", |status| is_confirmed(status, &first));
    let before = fs::metadata(&first).unwrap().len();

    let fault = Fault::begin(trial.agent.id(), &state_files(&trial), call, error);
    let lines = trial.extend(&first);
    wait_for(MINUTE, "lines go on to the broker", || {
        trial.metric("fantail_acknowledged_lines_total") == Some(lines)
    });
    let failures = format!("fantail_io_errors_total{{stage=\"state\",error=\"{named}\"}}");
    // A second apart, and between two of them are checks that could move a mark.
    wait_for(MINUTE, "saving was tried again and again", || {
        trial.metric(&failures).is_some_and(|times| times >= 3)
    });
    let status = trial.agent.status().expect("it answers");
    assert_eq!(confirmed_bytes(&status), before.cast_signed(), "{status}");
    assert!(confirmed_bytes(&status) <= durable_bytes(&trial));
    let stages = status["stages"].as_array().expect("stages");
    let is_failing = |stage: &Value| stage["name"] == "state" && stage["state"] == "failing";
    assert!(stages.iter().any(is_failing), "{status}");
    let second = trial.write();

    if killed {
        trial.agent.kill9();
        trial.start();
    } else {
        fault.end();
    }
    for path in [&first, &second] {
        trial.advance("all is confirmed", |status| is_confirmed(status, path));
    }
    if !killed {
        let log = trial.agent.stderr();
        let told = (log.matches(FAILS).count(), log.matches(WORKS).count());
        assert_eq!(told, (1, 1), "{log}");
    }
    assert!(trial.agent.term().status.success());
    let ledgers = trial.assert_queues_hold_all(broker);
    if !killed {
        ledgers.iter().for_each(|ledger| ledger.assert_no_repeats());
    }
}

#[test]
fn while_state_db_cannot_be_saved_lines_go_on_and_no_mark_passes_what_is_durable() {
    let broker = Broker::shared();
    std::thread::scope(|scope| {
        for (call, error, named, killed) in [
            ("pwrite64", "ENOSPC", "ENOSPC", false),
            ("pwrite64", "EROFS", "EIO", false),
            ("fsync", "EIO", "EIO", false),
            ("fsync", "ENOSPC", "EIO", true),
        ] {
            scope.spawn(move || {
                println!("{call} {error}");
                a_fault_comes_and_goes(broker, call, error, named, killed);
            });
        }
    });
}

/// `strace`'s options for a run whose `nth` call of that kind fails.
fn tracer(trial: &Trial, call: &str, error: &str, nth: usize) -> Vec<String> {
    let mut options = vec!["-o".to_owned(), "/dev/null".to_owned()];
    for file in state_files(trial) {
        options.extend(["-P".to_owned(), file.to_str().unwrap().to_owned()]);
    }
    let inject = format!("inject={call}:error={error}:when={nth}");
    options.extend([
        "-e".to_owned(),
        format!("trace={call}"),
        "-e".to_owned(),
        inject,
    ]);
    options
}

/// Starts with that fault. Whether the daemon came to run; if not, it ended with 74 and said why once.
fn starts(trial: &mut Trial, options: Vec<String>) -> bool {
    trial.agent.set_tracer(options);
    trial.agent.start();
    let mut ready = false;
    wait_for(MINUTE, "it runs, or ends", || {
        ready = trial.agent.stderr().contains(" ready");
        ready || !trial.agent.is_running()
    });
    if ready {
        trial.agent.kill9();
        return true;
    }
    let status = trial.agent.wait(MINUTE);
    let log = trial.agent.stderr();
    assert_eq!(status.code(), Some(74), "{log}");
    let state = trial.agent.state_dir();
    assert_eq!(
        log.matches(&format!("{}", state.display())).count(),
        1,
        "{log}"
    );
    false
}

#[test]
fn a_start_at_which_state_db_fails_changes_nothing_and_the_next_one_goes_on() {
    let broker = Broker::shared();
    let mut random = Random::from_environment();
    let mut trial = Trial::new(broker);
    trial.gate.open();
    trial.start();
    let first = trial.write();
    trial.advance("all is confirmed", |status| is_confirmed(status, &first));
    trial.agent.kill9();
    let id = fs::read(trial.agent.state_dir().join("agent-id")).unwrap();

    // So many calls a start makes.
    let calls = [
        ("openat", 8),
        ("pread64", 12),
        ("pwrite64", 12),
        ("fsync", 5),
    ];
    let (mut failed, mut doubted) = (0, 0);
    for (call, count) in calls {
        let some = 1 + random.below(count);
        for nth in (1..=count).filter(|nth| is_all() || call == "pread64" || *nth == some) {
            println!("{call} {nth}");
            let options = tracer(&trial, call, "EIO", nth);
            failed += usize::from(!starts(&mut trial, options));
            doubted += trial.agent.stderr().matches(DOUBTED).count();
        }
    }
    assert!(
        failed > 0 && doubted > 0,
        "{failed} failed, {doubted} looked again"
    );
    trial.start();
    let second = trial.write();
    trial.advance("all is confirmed", |status| is_confirmed(status, &second));
    assert!(trial.agent.term().status.success());
    for ledger in trial.assert_queues_hold_all(broker) {
        ledger.assert_no_repeats();
    }
    let state = trial.agent.state_dir();
    assert_eq!(fs::read(state.join("agent-id")).unwrap(), id);
    let mut names = fs::read_dir(state)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    assert!(
        !names.any(|name| name.to_string_lossy().contains("damaged")),
        "state.db was set aside"
    );
}

#[test]
fn a_first_start_at_which_the_disk_fails_leaves_nothing_that_hinders_the_next_one() {
    let broker = Broker::shared();
    let mut random = Random::from_environment();
    let mut trial = Trial::new(broker);
    let calls = [("openat", 11), ("pwrite64", 20), ("fsync", 9)];
    let mut failed = 0;
    for (call, count) in calls {
        let some = 1 + random.below(count);
        for nth in (1..=count).filter(|nth| is_all() || *nth == some) {
            println!("{call} {nth}");
            let options = tracer(&trial, call, "ENOSPC", nth);
            failed += usize::from(!starts(&mut trial, options));
            assert!(starts(&mut trial, Vec::new()), "{call} {nth}");
            fs::remove_dir_all(trial.agent.state_dir()).unwrap();
        }
    }
    assert!(failed > 0, "no start failed");
}
