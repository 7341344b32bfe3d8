//! More files than an agent can hold, and more events than it can be told: each line once all the
//! same.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::agent::{Agent, Config, has_namespaces};
use crate::support::amqp::Consumer;
use crate::support::broker::Broker;
use crate::support::oracle::Ledger;
use crate::support::wait::wait_for;
use crate::support::writers::{append, numbered_lines};

const MINUTE: Duration = Duration::from_secs(60);
const FILES: usize = 200;
const DESCRIPTORS: u64 = 100;

#[test]
fn with_fewer_descriptors_than_files_each_line_comes_once_and_no_file_is_taken_for_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let logs = directory.path().join("logs");
    fs::create_dir(&logs).unwrap();
    let broker = Broker::start();
    let config = Config::new(&broker.url())
        .set("broker", "check_interval = \"200ms\"")
        .source("app", &logs.join("*.log"));
    let mut agent = Agent::new(directory.path(), config);
    agent.set_before(&format!("ulimit -n {DESCRIPTORS}"));
    let paths: Vec<PathBuf> = (0..FILES)
        .map(|file| logs.join(format!("{file}.log")))
        .collect();
    let mut contents = vec![Vec::new(); FILES];
    let mut ledger = Ledger::new();
    let mut size = 0;
    for round in 0..4 {
        for (file, path) in paths.iter().enumerate() {
            let lines = numbered_lines(&format!("{file}, round {round}, line"), 20);
            append(path, &lines);
            contents[file].extend(&lines);
            size += lines.len() as u64;
        }
        match round {
            0 => agent.start(),
            2 => {
                agent.kill9();
                agent.start();
            }
            _ => {}
        }
        wait_for(MINUTE, "the queue is there", || {
            broker.amqp().queue_exists("search")
        });
        let mut consumer = Consumer::open(&broker.url(), "search");
        ledger.take_until(&mut consumer, MINUTE, "every line", |ledger| {
            ledger.covered_bytes() == size
        });
        agent.wait_for_log("they take turns", MINUTE);
        let open = fs::read_dir(format!("/proc/{}/fd", agent.id())).unwrap();
        assert!(open.count() as u64 <= DESCRIPTORS);
    }
    let mut consumer = Consumer::open(&broker.url(), "search");
    ledger.take_rest(&mut consumer, MINUTE);
    ledger.assert_clean();
    for (path, content) in paths.iter().zip(&contents) {
        let path = path.to_str().expect("the test's own path is UTF-8");
        ledger.assert_holds_generations(path, &[content]);
    }
    let stderr = agent.stderr();
    for word in ["deleted", "bytes lost", "stage ended"] {
        assert!(!stderr.contains(word), "{stderr}");
    }
}

/// An agent that reads `**/*.log` below `logs`.
fn agent(directory: &Path, broker: &Broker, logs: &Path) -> Agent {
    let config = Config::new(&broker.url())
        .set("broker", "check_interval = \"200ms\"")
        .source("app", &logs.join("**/*.log"));
    Agent::new(directory, config)
}

fn take_until(broker: &Broker, ledger: &mut Ledger, size: u64) {
    wait_for(MINUTE, "the queue is there", || {
        broker.amqp().queue_exists("search")
    });
    let mut consumer = Consumer::open(&broker.url(), "search");
    ledger.take_until(&mut consumer, 2 * MINUTE, "every line", |ledger| {
        ledger.covered_bytes() == size
    });
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the test's own path is UTF-8")
}

#[test]
fn when_events_are_dropped_everything_is_found_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let logs = directory.path().join("logs");
    fs::create_dir(&logs).unwrap();
    let broker = Broker::start();
    let mut agent = agent(directory.path(), &broker, &logs);
    append(&logs.join("first.log"), b"first\n");
    agent.start();
    let mut ledger = Ledger::new();
    take_until(&broker, &mut ledger, 6);
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    // Each gives three events.
    let files = (limit / 3 + 1000).min(20_000);
    agent.pause();
    let mut size = 6;
    for file in 0..files {
        let line = format!("{file}\n");
        size += line.len() as u64;
        append(&logs.join(format!("{file}.log")), line.as_bytes());
    }
    for tree in 0..500 {
        let deep = logs.join(format!("tree-{tree}/b/c"));
        fs::create_dir_all(&deep).unwrap();
        append(&deep.join("x.log"), b"deep\n");
        size += 5;
    }
    agent.resume();
    take_until(&broker, &mut ledger, size);
    agent.wait_for_log("events were dropped", MINUTE);
    // And what is watched from now on is told at once.
    append(&logs.join("tree-7/b/c/x.log"), b"later\n");
    take_until(&broker, &mut ledger, size + 6);
    ledger.assert_clean();
    ledger.assert_no_repeats();
}

#[test]
fn without_enough_watches_files_are_polled_with_one_warning_until_there_are_enough() {
    if !has_namespaces("-Ur") {
        println!("not tried: no user namespaces here");
        return;
    }
    for (limit, watched) in [("max_inotify_watches", 2), ("max_inotify_instances", 0)] {
        let directory = tempfile::tempdir().unwrap();
        let logs = directory.path().join("logs");
        for number in 0..5 {
            fs::create_dir_all(logs.join(number.to_string())).unwrap();
        }
        let broker = Broker::start();
        let mut agent = agent(directory.path(), &broker, &logs);
        let limit = format!("/proc/sys/user/{limit}");
        agent.set_namespaces("-Ur");
        agent.set_before(&format!("echo {watched} > {limit}"));
        agent.start();
        agent.wait_for_log("no file system events for some directories", MINUTE);
        let mut ledger = Ledger::new();
        let mut size = 0;
        let mut write = |ledger: &mut Ledger| {
            for number in 0..5 {
                append(&logs.join(format!("{number}/a.log")), b"one more\n");
                size += 9;
            }
            take_until(&broker, ledger, size);
        };
        for _ in 0..3 {
            write(&mut ledger);
        }
        let warnings = agent.stderr().matches("no file system events").count();
        assert_eq!(warnings, 1, "{}", agent.stderr());
        let raised = Command::new("nsenter")
            .args([
                "--target",
                &agent.id().to_string(),
                "--user",
                "--preserve-credentials",
            ])
            .args(["sh", "-c", &format!("echo 1000 > {limit}")])
            .status()
            .unwrap();
        assert!(raised.success());
        agent.wait_for_log("every directory is watched now", MINUTE);
        write(&mut ledger);
        ledger.assert_clean();
        ledger.assert_no_repeats();
    }
}

#[test]
fn files_of_two_file_systems_with_equal_inode_numbers_are_two_files() {
    if !has_namespaces("-Urm") {
        println!("not tried: no mount namespaces here");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let logs = directory.path().join("logs");
    let broker = Broker::start();
    let mut agent = agent(directory.path(), &broker, &logs);
    let mut commands = String::from("true");
    for name in ["a", "b"] {
        fs::create_dir_all(logs.join(name)).unwrap();
        let at = text(&logs).to_owned() + "/" + name;
        commands += &format!(" && mount -t tmpfs none {at} && echo on {name} > {at}/x.log");
    }
    // It is the same number, or the test is none.
    let number = |name: &str| format!("$(stat -c %i {}/{name}/x.log)", text(&logs));
    commands += &format!(" && test {} = {}", number("a"), number("b"));
    agent.set_namespaces("-Urm");
    agent.set_before(&commands);
    agent.start();
    let mut ledger = Ledger::new();
    take_until(&broker, &mut ledger, 10);
    ledger.assert_clean();
    for name in ["a", "b"] {
        let content = format!("on {name}\n");
        let path = logs.join(name).join("x.log");
        ledger.assert_holds_generations(text(&path), &[content.as_bytes()]);
    }
}
