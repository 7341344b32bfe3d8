//! More files than an agent can hold: each line once all the same.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::agent::{Agent, Config};
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
    agent.limit_open_files(DESCRIPTORS);
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
