//! Networks that lose packets without a word, are slow, or end at a peer that reads nothing: it is
//! noticed, told, and gone on from where it was, and a slow one is not taken for a dead one.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::agent::{Agent, Config};
use crate::support::amqp::Consumer;
use crate::support::broker::Broker;
use crate::support::is_all;
use crate::support::network::{Network, Towards};
use crate::support::oracle::Ledger;
use crate::support::wait::wait_for;
use crate::support::writers::{Load, append, numbered_lines};

const MINUTE: Duration = Duration::from_secs(60);
const QUEUES: [&str; 3] = ["archive", "alerting", "search"];
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Two heartbeats, what the library adds to them, and a busy machine.
const NOTICED: Duration = Duration::from_secs(10);

/// Of a network of 1 Mbit/s.
const BYTES_PER_SECOND: f64 = 125_000.0;
/// What is on its way over it takes seconds, and a check waits behind it.
const MARKS_MOVE: Duration = Duration::from_secs(12);
/// More than a socket takes.
const FULL_BUFFERS: u64 = 8 << 20;

/// An agent behind a network of its own, with an exchange and queues called after `name`.
struct Remote {
    name: &'static str,
    agent: Agent,
    network: Network,
    path: PathBuf,
    _directory: TempDir,
}

impl Remote {
    /// Not started.
    fn new(broker: &Broker, name: &'static str, change: impl FnOnce(Config) -> Config) -> Self {
        let network = Network::new();
        let port = broker.listen_at(network.host_address());
        // Only from this host may guest log in.
        broker.ctl(&["add_user", name, "s3cret"]);
        broker.ctl(&["set_permissions", name, ".*", ".*", ".*"]);
        let directory = tempfile::tempdir().unwrap();
        let logs = directory.path().join("logs");
        fs::create_dir(&logs).unwrap();
        let path = logs.join("a.log");
        let url = format!("amqp://{name}:s3cret@{}:{port}/%2f", network.host_address());
        let config = Config::new(&url)
            .set("broker", &format!("exchange = {name:?}"))
            .set("broker", &format!("heartbeat = \"{HEARTBEAT:?}\""))
            .set(
                "broker",
                "check_interval = \"200ms\"\nconnect_timeout = \"2s\"",
            )
            .source("app", &path);
        let config = QUEUES.iter().fold(config, |config, queue| {
            config.append(&format!("[[broker.queue]]\nname = \"{name}.{queue}\""))
        });
        let mut agent = Agent::new(directory.path(), change(config));
        agent.set_entry(network.entry());
        Self {
            name,
            agent,
            network,
            path,
            _directory: directory,
        }
    }

    fn connects(&self) -> usize {
        let log = self.agent.stderr();
        log.matches("connected to the broker address").count()
    }

    fn wait_marks_move(&self) {
        let confirmed = |status: &serde_json::Value| status["files"][0]["confirmed"].as_u64();
        let before = self
            .agent
            .wait_for_status("marks", |status| confirmed(status).is_some());
        self.agent.wait_for_status("marks move", |status| {
            confirmed(status) > confirmed(&before)
        });
    }

    /// What every queue got.
    fn taken(&self, broker: &Broker, content: &[u8]) -> Vec<Ledger> {
        let path = self.path.to_str().unwrap();
        let take = |queue: &&str| {
            let mut consumer = Consumer::open(&broker.url(), &format!("{}.{queue}", self.name));
            let mut ledger = Ledger::new();
            ledger.take_until(&mut consumer, 2 * MINUTE, "every byte", |ledger| {
                ledger.has_covered(path, content.len())
            });
            ledger.take_rest(&mut consumer, MINUTE);
            ledger.assert_clean();
            ledger.assert_holds_file(path, content);
            ledger
        };
        QUEUES.iter().map(take).collect()
    }

    fn wait_confirmed(&self, content: &[u8]) {
        self.agent
            .wait_for_status("everything is confirmed", |status| {
                status["files"][0]["confirmed"] == content.len()
            });
    }
}

#[test]
fn packets_that_vanish_either_way_are_noticed_told_and_nothing_is_missing_when_they_come_again() {
    if !Network::is_allowed() {
        println!("not tried: only root may make networks");
        return;
    }
    let broker = Broker::shared();
    let ways: [(&str, &[Towards]); 3] = [
        ("lost-to-broker", &[Towards::Host]),
        ("lost-to-agent", &[Towards::Agent]),
        ("lost", &[Towards::Host, Towards::Agent]),
    ];
    let remotes = ways.map(|(name, ways)| {
        let mut remote = Remote::new(broker, name, |config| config);
        let load = Load::start(&remote.path, name);
        remote.agent.start();
        (remote, ways, load)
    });
    for (remote, ways, _) in &remotes {
        remote.wait_marks_move();
        ways.iter().for_each(|way| remote.network.lose(*way));
    }
    let since = Instant::now();
    for (remote, ..) in &remotes {
        remote
            .agent
            .wait_for_log("no connection to the broker", MINUTE);
        let noticed = since.elapsed();
        assert!(noticed < NOTICED, "{}: {noticed:?}", remote.name);
    }
    // Attempts that end nowhere are told as well.
    for (remote, ..) in &remotes {
        let address = remote.network.host_address();
        let status = remote.agent.wait_for_status("it is down", |status| {
            let broker = &status["broker"];
            let why = broker["last_error"].to_string();
            broker["state"] == "down" && why.contains(&format!("no connection to {address}"))
        });
        assert_eq!(status["lost_bytes"], 0);
    }
    for (remote, ways, _) in &remotes {
        assert_eq!(remote.connects(), 1, "{}", remote.name);
        ways.iter().for_each(|way| remote.network.heal(*way));
    }
    for (remote, ..) in &remotes {
        wait_for(MINUTE, "there is a new connection", || {
            remote.connects() > 1
        });
        remote.wait_marks_move();
    }
    for (mut remote, _, load) in remotes {
        let content = load.stop();
        remote.taken(broker, &content);
        remote.wait_confirmed(&content);
        assert!(remote.agent.term().status.success());
    }
}

#[test]
fn a_slow_network_is_used_steadily_and_nothing_goes_over_it_twice() {
    if !Network::is_allowed() {
        println!("not tried: only root may make networks");
        return;
    }
    let broker = Broker::shared();
    let mut remote = Remote::new(broker, "slow", |config| {
        config
            .set("broker", "confirm_timeout = \"20s\"")
            .set("batch", "max_bytes = \"128KiB\"\nformat = \"lines\"")
    });
    remote.network.slow_down("1mbit");
    let lines = if is_all() { 200_000 } else { 40_000 };
    let content = numbered_lines("a line that is one of many in the slow network", lines);
    append(&remote.path, &content);
    let begun = Instant::now();
    remote.agent.start();
    let (mut confirmed, mut moved, mut longest) = (0, begun, Duration::ZERO);
    wait_for(10 * MINUTE, "everything is confirmed", || {
        let status = remote.agent.status();
        let now = status.and_then(|status| status["files"][0]["confirmed"].as_u64());
        if now > Some(confirmed) {
            longest = longest.max(moved.elapsed());
            (confirmed, moved) = (now.unwrap(), Instant::now());
        }
        confirmed == content.len() as u64
    });
    let (took, bytes) = (begun.elapsed(), content.len());
    println!("{bytes} bytes in {took:?}; no mark moved for {longest:?} at most");
    let least = bytes as f64 / BYTES_PER_SECOND - 1.0;
    assert!(took.as_secs_f64() > least, "{took:?}: it was not slow");
    assert!(took.as_secs_f64() < 2.0 * least, "{took:?}");
    assert!(longest < MARKS_MOVE, "{longest:?}");
    let log = remote.agent.stderr();
    assert_eq!(remote.connects(), 1, "{log}");
    assert!(!log.contains("no connection to the broker"), "{log}");
    for ledger in remote.taken(broker, &content) {
        ledger.assert_no_repeats();
    }
    assert!(remote.agent.term().status.success());
}

/// Neither the socket's buffer nor the window is empty when the peer reads nothing any more.
#[test]
fn a_peer_that_reads_nothing_any_more_is_left_with_everything_that_waits_for_it() {
    let broker = Broker::start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.log");
    let content = numbered_lines("a line that is one of very many", 1_000_000);
    append(&path, &content);
    let config = Config::new(&broker.url())
        .set("broker", &format!("heartbeat = \"{HEARTBEAT:?}\""))
        .set(
            "broker",
            "check_interval = \"200ms\"\nconnect_timeout = \"2s\"",
        )
        .set("batch", "format = \"lines\"")
        .source("app", &path);
    let mut agent = Agent::new(directory.path(), config);
    agent.start();
    agent.wait_for_log("exchange and queues are there", MINUTE);
    broker.pause();
    let since = Instant::now();
    agent.wait_for_status("the window is full", |status| {
        status["broker"]["in_flight_bytes"].as_u64() > Some(FULL_BUFFERS)
    });
    agent.wait_for_log("no heartbeat from the broker", MINUTE);
    assert!(since.elapsed() < NOTICED, "{:?}", since.elapsed());
    let status = agent.wait_for_status("it is down", |status| status["broker"]["state"] == "down");
    let told = status["broker"]["last_error"].to_string();
    assert!(told.contains("no end of the AMQP handshake"), "{told}");
    broker.resume();
    for queue in QUEUES {
        let mut consumer = Consumer::open(&broker.url(), queue);
        let mut ledger = Ledger::new().forgetting_text();
        let path = path.to_str().unwrap();
        ledger.take_until(&mut consumer, 2 * MINUTE, "every byte", |ledger| {
            ledger.has_covered(path, content.len())
        });
        ledger.assert_clean();
        ledger.assert_holds_file(path, &content);
    }
    assert!(agent.term().status.success());
}
