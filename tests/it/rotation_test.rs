//! Rotation over the agent's own death: what was renamed, or copied and truncated, while it did not
//! run goes on where it was.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::time::Duration;

use crate::support::agent::{Agent, Config};
use crate::support::amqp::Consumer;
use crate::support::broker::Broker;
use crate::support::oracle::Ledger;
use crate::support::wait::wait_for;
use crate::support::writers::{append, numbered_lines};

const MINUTE: Duration = Duration::from_secs(60);

fn text(path: &Path) -> &str {
    path.to_str().expect("the test's own path is UTF-8")
}

fn truncate(path: &Path) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(0).unwrap();
}

#[test]
fn what_was_rotated_twice_while_the_agent_was_dead_is_read_from_where_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let logs = directory.path().join("logs");
    fs::create_dir(&logs).unwrap();
    let broker = Broker::start();
    let (renamed, copied) = (logs.join("renamed.log"), logs.join("copied.log"));
    let files = [("renamed", &renamed), ("copied", &copied)];
    let config = Config::new(&broker.url())
        .set("broker", "check_interval = \"200ms\"")
        .source("app", &logs.join("*.log"));
    let mut agent = Agent::new(directory.path(), config);
    let mut generations = vec![Vec::new(), Vec::new()];
    let write = |of: &mut Vec<Vec<Vec<u8>>>, number: usize| {
        for (index, (name, path)) in files.iter().enumerate() {
            let lines = numbered_lines(&format!("{name} {number}, line"), 3000);
            append(path, &lines);
            match of[index].get_mut(number) {
                Some(content) => content.extend(&lines),
                None => of[index].push(lines),
            }
        }
    };
    write(&mut generations, 0);
    // What lay there before the paths were first matched is nobody's business, though it is younger
    // than the files themselves, as copies are.
    for (_, path) in files {
        append(&path.with_extension("log.9"), b"before everything\n");
        append(
            &path.with_extension("log-20261121"),
            b"before everything, too\n",
        );
    }
    wait_for(MINUTE, "the clock of the file system has ticked", || {
        let probe = tempfile::NamedTempFile::new_in(directory.path()).unwrap();
        let born = |path: &Path| fs::metadata(path).unwrap().created().unwrap();
        let before = born(&copied.with_extension("log-20261121"));
        born(probe.path()) > before + Duration::from_millis(50)
    });
    agent.start();
    let mut ledger = Ledger::new();
    wait_for(MINUTE, "the queue is there", || {
        broker.amqp().queue_exists("search")
    });
    let whole = |of: &[Vec<Vec<u8>>]| -> u64 {
        of.iter()
            .flatten()
            .map(|content| content.len() as u64)
            .sum()
    };
    {
        let mut consumer = Consumer::open(&broker.url(), "search");
        let size = whole(&generations);
        ledger.take_until(&mut consumer, MINUTE, "the first lines", |ledger| {
            ledger.covered_bytes() == size
        });
    }
    agent.kill9();
    for number in 0..2 {
        write(&mut generations, number);
        for (_, path) in files {
            let one = path.with_extension("log.1");
            if number == 1 {
                fs::rename(&one, path.with_extension("log.2")).unwrap();
            }
            if path == &renamed {
                fs::rename(path, one).unwrap();
            } else {
                fs::copy(path, one).unwrap();
                truncate(path);
            }
        }
    }
    write(&mut generations, 2);
    agent.start();
    let mut consumer = Consumer::open(&broker.url(), "search");
    let size = whole(&generations);
    ledger.take_until(&mut consumer, MINUTE, "every generation", |ledger| {
        ledger.covered_bytes() == size
    });
    ledger.take_rest(&mut consumer, MINUTE);
    ledger.assert_clean();
    for (generations, (_, path)) in generations.iter().zip(files) {
        let wanted: Vec<&[u8]> = generations.iter().map(Vec::as_slice).collect();
        ledger.assert_holds_generations(text(path), &wanted);
    }
}

#[test]
fn copytruncate_at_full_speed_loses_only_what_is_counted_and_repeats_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let logs = directory.path().join("logs");
    fs::create_dir(&logs).unwrap();
    let broker = Broker::start();
    let path = logs.join("a.log");
    let config = Config::new(&broker.url()).source("app", &path);
    let mut agent = Agent::new(directory.path(), config);
    append(&path, b"begin\n");
    agent.start();
    agent.wait_for_log("log file found", MINUTE);
    // Between copy and truncation nobody writes here, so that nothing may be missing.
    let mut generations = vec![b"begin\n".to_vec()];
    for number in 0..8 {
        let lines = numbered_lines(&format!("generation {number}, line"), 20_000);
        append(&path, &lines);
        generations.last_mut().unwrap().extend(&lines);
        let _ = fs::rename(path.with_extension("log.1"), path.with_extension("log.2"));
        fs::copy(&path, path.with_extension("log.1")).unwrap();
        truncate(&path);
        let lines = numbered_lines(&format!("begin of {number}, line"), 10);
        append(&path, &lines);
        generations.push(lines);
        // The next rotation may come when the copy was seen: only then may `.2` be overwritten.
        wait_for(MINUTE, "the truncation was noticed", || {
            agent.stderr().matches("was truncated").count() > number
        });
        wait_for(MINUTE, "the copy was found or not needed", || {
            let stderr = agent.stderr();
            stderr.matches("goes on in its copy").count() > number
        });
    }
    let mut ledger = Ledger::new();
    wait_for(MINUTE, "the queue is there", || {
        broker.amqp().queue_exists("search")
    });
    let mut consumer = Consumer::open(&broker.url(), "search");
    let size: u64 = generations.iter().map(|content| content.len() as u64).sum();
    ledger.take_until(&mut consumer, MINUTE, "every generation", |ledger| {
        ledger.covered_bytes() == size
    });
    ledger.take_rest(&mut consumer, MINUTE);
    ledger.assert_clean();
    ledger.assert_no_repeats();
    // The next generation is not kept waiting for a copy that may never come, so that the order
    // among generations, other than within each, is not certain.
    let held = ledger.generations(text(&path));
    for (number, content) in generations.iter().enumerate() {
        let same = held
            .iter()
            .filter(|held| held.difference(content).is_none());
        assert_eq!(same.count(), 1, "generation {number}");
    }
    assert!(!agent.stderr().contains("bytes lost"), "{}", agent.stderr());
}
