//! The broker is away: lines are taken off files that are deleted meanwhile, and reach every queue
//! afterwards, in order, over kills and stops.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::support::agent::{Agent, Config};
use crate::support::amqp::Consumer;
use crate::support::broker::Broker;
use crate::support::oracle::{FileLedger, Ledger};
use crate::support::wait::wait_for;
use crate::support::writers::{append, numbered_lines};

const QUEUES: [&str; 3] = ["archive", "alerting", "search"];
const MINUTE: Duration = Duration::from_secs(60);
/// A disk that is busy may hold one fsync up for longer than a stop takes by default.
const PATIENT: &str = "shutdown_timeout = \"60s\"";

/// Log files that are written, read and deleted one after the other, and what was in them.
struct Logs {
    directory: tempfile::TempDir,
    written: Vec<(PathBuf, Vec<u8>)>,
}

impl Logs {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("logs")).unwrap();
        Self {
            directory,
            written: Vec::new(),
        }
    }

    fn pattern(&self) -> PathBuf {
        self.directory.path().join("logs/*.log")
    }

    fn agent(&self, broker: &Broker, change: impl FnOnce(Config) -> Config) -> Agent {
        let config = Config::new(&broker.url())
            .set("broker", "max_in_flight = \"256KiB\"")
            .set("broker", "check_interval = \"500ms\"")
            .set("batch", "max_bytes = \"32KiB\"")
            .source_with("app", &self.pattern(), "poll_interval = \"100ms\"");
        Agent::new(self.directory.path(), change(config))
    }

    /// A new file of so many lines.
    fn write(&mut self, lines: usize) -> PathBuf {
        let number = self.written.len();
        let path = self.directory.path().join(format!("logs/{number}.log"));
        let content = numbered_lines(&format!("file {number}, line"), lines);
        append(&path, &content);
        self.written.push((path.clone(), content));
        path
    }

    /// A new file that is deleted as soon as the agent has it open.
    fn write_and_delete(&mut self, agent: &Agent, lines: usize) {
        let path = self.write(lines);
        wait_for(MINUTE, "the agent has the file open", || {
            agent.open_paths().contains(&path)
        });
        fs::remove_file(&path).unwrap();
    }

    fn bytes(&self) -> usize {
        self.written.iter().map(|(_, content)| content.len()).sum()
    }

    fn assert_all_queues_hold(&self, broker: &Broker, repeats: bool) {
        for queue in QUEUES {
            let ledger = self.taken(broker, queue);
            ledger.assert_clean();
            if !repeats {
                ledger.assert_no_repeats();
            }
            for (path, content) in &self.written {
                ledger.assert_holds_file(path.to_str().unwrap(), content);
            }
        }
    }

    fn taken(&self, broker: &Broker, queue: &str) -> Ledger {
        let mut ledger = Ledger::new();
        wait_for(MINUTE, "the queue is there", || {
            broker.amqp().queue_exists(queue)
        });
        let mut consumer = Consumer::open(&broker.url(), queue);
        ledger.take_until(&mut consumer, 2 * MINUTE, "every byte", |ledger| {
            let mut files = self.written.iter();
            files.all(|(path, content)| ledger.has_covered(path.to_str().unwrap(), content.len()))
        });
        ledger.take_rest(&mut consumer, MINUTE);
        ledger
    }
}

fn mode(status: &Value) -> &str {
    status["spool"]["mode"].as_str().expect("a mode")
}

fn wait_until_connected(agent: &Agent) {
    agent.wait_for_log("exchange and queues are there", MINUTE);
}

fn wait_until_all_is_spooled(agent: &Agent) {
    agent.wait_for_status("everything is in the spool", |status| {
        let mut files = status["files"].as_array().expect("files").iter();
        mode(status) == "spooling"
            && status["broker"]["in_flight_bytes"] == 0
            && files.all(|file| file["read"] == file["size"])
    });
}

/// Files of the spool.
fn segments(agent: &Agent) -> Vec<PathBuf> {
    let entries = fs::read_dir(agent.state_dir().join("spool"));
    let paths = entries
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension() == Some("seg".as_ref()))
        .collect()
}

fn wait_until_spool_is_empty(agent: &Agent) {
    agent.wait_for_status("the spool is empty", |status| {
        // A segment without entries keeps the number of the next one.
        mode(status) == "direct" && status["spool"]["bytes"].as_u64() < Some(1024)
    });
    assert!(segments(agent).len() <= 1);
}

#[test]
fn what_was_deleted_while_the_broker_was_away_reaches_every_queue() {
    let mut logs = Logs::new();
    let mut broker = Broker::start();
    let mut agent = logs.agent(&broker, |config| config);
    agent.start();
    wait_until_connected(&agent);
    logs.write(2_000);
    agent.wait_for_status("all is confirmed", |_| agent.lag() == Some(0));
    broker.stop();
    for _ in 0..5 {
        logs.write_and_delete(&agent, 40_000);
    }
    wait_until_all_is_spooled(&agent);
    // Safe is not confirmed.
    assert!(agent.lag() > Some(0));
    broker.start_again();
    logs.write(100);
    logs.assert_all_queues_hold(&broker, true);
    wait_until_spool_is_empty(&agent);
    assert_eq!(agent.lost_bytes(), 0);
    assert!(agent.resident_peak() < 96 << 20);
    assert!(agent.term().status.success());
}

#[test]
fn a_short_hiccup_touches_no_disk_and_repeats_nothing_that_was_confirmed() {
    let mut logs = Logs::new();
    let mut broker = Broker::start();
    let mut agent = logs.agent(&broker, |config| config);
    agent.start();
    wait_until_connected(&agent);
    broker.stop();
    logs.write(500);
    agent.wait_for_log("no connection to the broker", MINUTE);
    agent.wait_for_status("the lines wait", |status| {
        status["broker"]["in_flight_bytes"].as_u64() > Some(0) && mode(status) == "direct"
    });
    assert_eq!(segments(&agent), Vec::<PathBuf>::new());
    broker.start_again();
    logs.assert_all_queues_hold(&broker, false);
    assert_eq!(segments(&agent), Vec::<PathBuf>::new());
}

#[test]
fn kills_in_the_middle_of_an_outage_lose_nothing_that_was_spooled() {
    let mut logs = Logs::new();
    let mut broker = Broker::start();
    let mut agent = logs.agent(&broker, |config| {
        config.set("spool", "segment_bytes = \"1MiB\"")
    });
    agent.start();
    wait_until_connected(&agent);
    logs.write(1_000);
    agent.wait_for_status("all is confirmed", |_| agent.lag() == Some(0));
    broker.stop();
    for round in 0..3 {
        logs.write_and_delete(&agent, 20_000);
        let growing = logs.write(20_000);
        wait_until_all_is_spooled(&agent);
        agent.kill9();
        // What was written while nobody looked comes after what the spool has.
        let more = numbered_lines(&format!("while down {round}, line"), 1_000);
        append(&growing, &more);
        logs.written.last_mut().unwrap().1.extend(more);
        agent.start();
        agent.wait_for_log("ready", MINUTE);
    }
    broker.start_again();
    logs.assert_all_queues_hold(&broker, true);
    agent.kill9();
    agent.start();
    wait_until_connected(&agent);
    wait_until_spool_is_empty(&agent);
    assert_eq!(agent.lost_bytes(), 0);
}

#[test]
fn what_is_damaged_after_two_crashes_is_said_and_nothing_else_is_missing() {
    let mut logs = Logs::new();
    let mut broker = Broker::absent();
    let mut agent = logs.agent(&broker, |config| {
        config.set("spool", "segment_bytes = \"256KiB\"")
    });
    agent.start();
    let path = logs.write(20_000);
    wait_until_all_is_spooled(&agent);
    agent.kill9();
    let mut first = segments(&agent);
    first.sort_unstable();
    // state.db knows less of the file than the spool, from which it is resumed.
    agent.start();
    let more = numbered_lines("after a crash, line", 20_000);
    append(&path, &more);
    logs.written[0].1.extend(more);
    agent.wait_for_status("the rest is seen", |status| {
        status["files"][0]["size"] == logs.bytes()
    });
    wait_until_all_is_spooled(&agent);
    agent.kill9();
    assert!(first.len() > 3, "{first:?}");
    damage_middle(&first[1]);
    agent.start();
    broker.start_again();
    for queue in QUEUES {
        let ledger = logs.taken(&broker, queue);
        ledger.assert_clean();
        let file = ledger.file(path.to_str().unwrap());
        let skipped = file.skipped();
        assert!(!skipped.is_empty(), "nothing was said to be damaged");
        assert!(skipped.iter().all(|range| range.reason == "damaged"));
        let lost: u64 = skipped.iter().map(|range| range.end - range.start).sum();
        assert_eq!(agent.lost_bytes(), lost, "{queue}");
        let mut left = logs.written[0].1.clone();
        for range in skipped.iter().rev() {
            left.drain(range.start as usize..range.end as usize);
        }
        let lines = left.split_inclusive(|byte| *byte == b'\n');
        let lines: Vec<Vec<u8>> = lines.map(|line| line[..line.len() - 1].to_vec()).collect();
        assert!(file.lines() == lines, "{queue} lacks other lines too");
    }
    wait_until_spool_is_empty(&agent);
}

/// A byte in the middle is another one.
fn damage_middle(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x20;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_full_spool_stops_reading_and_files_wait() {
    let mut logs = Logs::new();
    let mut broker = Broker::absent();
    let mut agent = logs.agent(&broker, |config| {
        config
            .set("spool", "max_bytes = \"2MiB\"")
            .set("spool", "segment_bytes = \"512KiB\"")
    });
    agent.start();
    for _ in 0..4 {
        logs.write_and_delete(&agent, 20_000);
    }
    agent.wait_for_log("the spool is full", MINUTE);
    let status = agent.wait_for_status("the spool is full", |status| {
        let stages = status["stages"].as_array().expect("stages");
        stages
            .iter()
            .any(|stage| stage["name"] == "spool" && stage["state"] == "full")
    });
    assert!(status["spool"]["bytes"].as_u64() <= Some(2 << 20));
    let open = agent.open_paths();
    assert!(
        open.iter()
            .any(|path| path.to_string_lossy().contains("(deleted)"))
    );
    broker.start_again();
    logs.assert_all_queues_hold(&broker, true);
    wait_until_spool_is_empty(&agent);
    assert_eq!(agent.lost_bytes(), 0);
}

#[test]
fn with_drop_oldest_the_newest_stay_and_what_goes_is_counted_and_said() {
    let mut logs = Logs::new();
    let mut broker = Broker::absent();
    let mut agent = logs.agent(&broker, |config| {
        config
            .set("spool", "max_bytes = \"2MiB\"")
            .set("spool", "segment_bytes = \"256KiB\"")
            .set("spool", "when_full = \"drop_oldest\"")
    });
    agent.start();
    for _ in 0..4 {
        logs.write_and_delete(&agent, 40_000);
    }
    wait_for(2 * MINUTE, "all files are read", || {
        let status = agent.status().expect("it answers");
        let files = status["files"].as_array().expect("files").clone();
        files.iter().all(|file| file["read"] == file["size"]) && agent.lost_bytes() > 0
    });
    broker.start_again();
    let lost = agent.lost_bytes();
    for queue in QUEUES {
        let ledger = logs.taken(&broker, queue);
        ledger.assert_clean();
        let ranges = ledger.files().iter().flat_map(FileLedger::skipped);
        let dropped = ranges.filter(|range| range.reason == "drop_oldest");
        let skipped: u64 = dropped.map(|range| range.end - range.start).sum();
        assert_eq!(skipped, lost, "{queue}");
        let (newest, content) = logs.written.last().unwrap();
        let newest = ledger.file(newest.to_str().unwrap());
        let end = newest.skipped().last().map_or(0, |range| range.end);
        assert!(end < content.len() as u64, "the newest lines are there");
    }
    assert!(lost < logs.bytes() as u64);
    wait_until_spool_is_empty(&agent);
}

#[test]
fn a_stop_during_an_outage_saves_what_deleted_files_still_hold() {
    let mut logs = Logs::new();
    let mut broker = Broker::absent();
    let config = Config::new(&broker.url())
        .set("agent", PATIENT)
        .source_with("app", &logs.pattern(), "poll_interval = \"100ms\"");
    let mut agent = Agent::new(logs.directory.path(), config);
    agent.start();
    // All of it finds room in the window: nothing is spooled before the stop.
    logs.write_and_delete(&agent, 10_000);
    let path = logs.write(1_000);
    agent.wait_for_log("no connection to the broker", MINUTE);
    assert_eq!(segments(&agent), Vec::<PathBuf>::new());
    let ended = agent.term();
    assert!(ended.status.success(), "{}", agent.stderr());
    assert!(!segments(&agent).is_empty(), "{}", agent.stderr());
    broker.start_again();
    agent.start();
    logs.assert_all_queues_hold(&broker, true);
    assert!(Path::exists(&path));
    wait_until_spool_is_empty(&agent);
    assert_eq!(agent.lost_bytes(), 0);
}

#[test]
fn a_stop_right_after_a_file_was_found_and_deleted_saves_it_too() {
    let mut logs = Logs::new();
    let mut broker = Broker::absent();
    let mut agent = logs.agent(&broker, |config| config.set("agent", PATIENT));
    agent.start();
    agent.wait_for_log("ready", MINUTE);
    logs.write_and_delete(&agent, 20_000);
    assert!(agent.term().status.success());
    broker.start_again();
    agent.start();
    logs.assert_all_queues_hold(&broker, true);
    assert_eq!(agent.lost_bytes(), 0);
}

#[test]
fn while_a_queue_refuses_lines_go_to_the_spool_and_come_in_order_when_it_takes_them() {
    let mut logs = Logs::new();
    let broker = Broker::start();
    let mut agent = logs.agent(&broker, |config| {
        config
            .append("[[broker.queue]]\nname = \"archive\"\n[[broker.queue]]\nname = \"alerting\"")
            .append("[[broker.queue]]\nname = \"search\"\ntype = \"classic\"")
            .append("arguments = { x-max-length = 3, x-overflow = \"reject-publish\" }")
    });
    agent.start();
    for _ in 0..3 {
        logs.write_and_delete(&agent, 20_000);
    }
    agent.wait_for_log("queue=search", MINUTE);
    agent.wait_for_status("the spool takes over", |status| {
        mode(status) == "spooling" && status["spool"]["bytes"].as_u64() > Some(0)
    });
    for queue in ["search", "archive", "alerting"] {
        let mut ledger = Ledger::new().tolerating_disorder();
        let mut consumer = Consumer::open(&broker.url(), queue);
        ledger.take_until(&mut consumer, 3 * MINUTE, "everything", |ledger| {
            let mut files = logs.written.iter();
            files.all(|(path, content)| ledger.has_covered(path.to_str().unwrap(), content.len()))
        });
        ledger.assert_clean();
        for (path, content) in &logs.written {
            ledger.assert_holds_file(path.to_str().unwrap(), content);
        }
    }
    wait_until_spool_is_empty(&agent);
    assert_eq!(agent.lost_bytes(), 0);
}

#[test]
fn while_the_broker_blocks_lines_go_to_the_spool() {
    let mut logs = Logs::new();
    let broker = Broker::start();
    let mut agent = logs.agent(&broker, |config| config);
    agent.start();
    wait_until_connected(&agent);
    broker.ctl(&["set_vm_memory_high_watermark", "absolute", "1MB"]);
    for _ in 0..3 {
        logs.write_and_delete(&agent, 20_000);
    }
    let status = agent.wait_for_status("blocked", |status| {
        status["broker"]["state"] == "blocked" && mode(status) == "spooling"
    });
    assert_eq!(status["lost_bytes"], 0);
    broker.ctl(&["set_vm_memory_high_watermark", "0.6"]);
    logs.assert_all_queues_hold(&broker, true);
    wait_until_spool_is_empty(&agent);
}

#[test]
fn batches_are_made_smaller_for_a_broker_that_takes_only_small_messages() {
    let mut logs = Logs::new();
    let broker = Broker::start();
    let expression = "application:set_env(rabbit, max_message_size, 100000).";
    broker.ctl(&["eval", expression]);
    logs.write(40_000);
    let config = Config::new(&broker.url()).source("app", &logs.pattern());
    let mut agent = Agent::new(logs.directory.path(), config);
    agent.start();
    agent.wait_for_log("batches are made smaller", MINUTE);
    logs.assert_all_queues_hold(&broker, true);
    let refused = "is larger than configured max size";
    assert_eq!(
        agent.stderr().matches(refused).count(),
        1,
        "{}",
        agent.stderr()
    );
}
