//! The disk under the spool is full while the daemon runs: reading pauses, or lines go to a broker
//! that takes them; it is said once, and ends by itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::agent::{Agent, Config};
use crate::support::amqp::Consumer;
use crate::support::broker::Broker;
use crate::support::oracle::{FileLedger, Ledger};
use crate::support::wait::wait_for;
use crate::support::writers::{append, numbered_lines};

const MINUTE: Duration = Duration::from_secs(60);
const QUEUES: [&str; 3] = ["archive", "alerting", "search"];
const REFUSES: &str = "the spool cannot be written; files are not read until it can";
const TAKES: &str = "the spool takes lines again";

/// An agent whose spool has a file system of its own, with room for a part of the lines.
struct Full {
    broker: Broker,
    agent: Agent,
    directory: TempDir,
    written: Vec<(PathBuf, Vec<u8>)>,
}

impl Full {
    /// Files were read and deleted until nothing more went into the spool. The broker is away.
    fn new() -> Self {
        let mut full = Self::empty("block");
        for _ in 0..4 {
            full.write_and_delete();
        }
        full.agent.wait_for_log(REFUSES, MINUTE);
        full
    }

    /// Nothing was written yet. The broker is away.
    fn empty(when_full: &str) -> Self {
        let broker = Broker::absent();
        let directory = tempfile::tempdir().unwrap();
        let disk = directory.path().join("disk");
        fs::create_dir(&disk).unwrap();
        fs::create_dir(directory.path().join("logs")).unwrap();
        let config = Config::new(&broker.url())
            .set("broker", "max_in_flight = \"256KiB\"")
            .set("broker", "check_interval = \"500ms\"")
            .set("batch", "max_bytes = \"32KiB\"")
            .set("spool", &format!("dir = {:?}", disk.join("spool")))
            .set("spool", "segment_bytes = \"512KiB\"")
            .set("spool", "min_free = \"0\"")
            .set("spool", &format!("when_full = {when_full:?}"))
            .source_with(
                "app",
                &directory.path().join("logs/*.log"),
                "poll_interval = \"100ms\"",
            );
        let mut agent = Agent::new(directory.path(), config);
        agent.set_namespaces("-Urm");
        let disk = disk.display();
        agent.set_before(&format!(
            "mount -t tmpfs -o size=34m none '{disk}' && head -c 32M /dev/zero > '{disk}/other'"
        ));
        agent.start();
        Self {
            broker,
            agent,
            directory,
            written: Vec::new(),
        }
    }

    fn write_and_delete(&mut self) {
        let number = self.written.len();
        let path = self.directory.path().join(format!("logs/{number}.log"));
        let content = numbered_lines(&format!("file {number}, line"), 40_000);
        append(&path, &content);
        wait_for(MINUTE, "the agent has the file open", || {
            self.agent.open_paths().contains(&path)
        });
        fs::remove_file(&path).unwrap();
        self.written.push((path, content));
    }

    /// In the file system that only the agent sees.
    fn make_room(&self) {
        let root = PathBuf::from(format!("/proc/{}/root", self.agent.id()));
        let disk = self.directory.path().join("disk/other");
        fs::remove_file(root.join(disk.strip_prefix("/").unwrap())).unwrap();
    }

    /// What the queue has when every byte of every file is accounted for.
    fn taken(&self, queue: &str) -> Ledger {
        let mut ledger = Ledger::new();
        wait_for(MINUTE, "the queue is there", || {
            self.broker.amqp().queue_exists(queue)
        });
        let mut consumer = Consumer::open(&self.broker.url(), queue);
        ledger.take_until(&mut consumer, 2 * MINUTE, "every byte", |ledger| {
            let covered = |path: &Path, size| ledger.has_covered(path.to_str().unwrap(), size);
            let mut files = self.written.iter();
            files.all(|(path, content)| covered(path, content.len()))
        });
        ledger.take_rest(&mut consumer, MINUTE);
        ledger.assert_clean();
        ledger
    }

    fn assert_queues_hold_all(&self) {
        for queue in QUEUES {
            let ledger = self.taken(queue);
            for (path, content) in &self.written {
                ledger.assert_holds_file(path.to_str().unwrap(), content);
            }
        }
        assert_eq!(self.agent.lost_bytes(), 0);
    }

    fn told(&self, text: &str) -> usize {
        self.agent.stderr().matches(text).count()
    }

    fn wait_until_all_is_spooled(&self) {
        self.agent.wait_for_status("all is spooled", |status| {
            let mut files = status["files"].as_array().expect("files").iter();
            status["spool"]["mode"] == "spooling"
                && status["broker"]["in_flight_bytes"] == 0
                && files.all(|file| file["read"] == file["size"])
        });
    }
}

#[test]
fn a_full_disk_stops_reading_until_there_is_room_and_nothing_is_lost() {
    let mut full = Full::new();
    full.agent.wait_for_status("the spool says why", |status| {
        let stages = status["stages"].as_array().expect("stages");
        stages
            .iter()
            .any(|stage| stage["name"] == "spool" && stage["state"] == "full")
    });
    full.make_room();
    full.wait_until_all_is_spooled();
    assert_eq!((full.told(REFUSES), full.told(TAKES)), (1, 1));
    let with_a_count = format!("{TAKES} failures=");
    assert_eq!(full.told(&with_a_count), 1);
    full.broker.start_again();
    full.assert_queues_hold_all();
}

#[test]
fn what_a_full_disk_does_not_take_goes_to_a_broker_that_takes_messages() {
    let mut full = Full::new();
    full.broker.start_again();
    full.assert_queues_hold_all();
    assert_eq!(full.told(REFUSES), 1);
}

/// What accounts for lines that are given up needs some room too.
#[test]
fn without_any_room_drop_oldest_waits_for_some_and_says_so_once() {
    let mut full = Full::empty("drop_oldest");
    for _ in 0..4 {
        full.write_and_delete();
    }
    full.agent.wait_for_log(REFUSES, MINUTE);
    full.make_room();
    full.wait_until_all_is_spooled();
    let keeps = "the oldest of the spool cannot be given up";
    let told = [REFUSES, keeps, TAKES].map(|text| full.told(text));
    assert_eq!(told, [1, 1, 1]);
    full.broker.start_again();
    for queue in QUEUES {
        let ledger = full.taken(queue);
        let skipped = ledger.files().iter().flat_map(FileLedger::skipped);
        let dropped: u64 = skipped.map(|range| range.end - range.start).sum();
        assert_eq!(dropped, full.agent.lost_bytes(), "{queue}");
    }
}
