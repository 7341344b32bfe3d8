//! Owns an agent whose broker is away at first: files go to its spool and are deleted, the broker
//! comes back, and every queue is complete. A test makes it hard in between.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::agent::{Agent, Config};
use super::amqp::Consumer;
use super::broker::Broker;
use super::gate::Gate;
use super::http;
use super::oracle::Ledger;
use super::ports::free_port;
use super::wait::wait_for_some;
use super::writers::{append, numbered_lines};

const MINUTE: Duration = Duration::from_secs(60);
/// Lines of a log file: several times what may be in flight, so that it goes to the spool.
const LINES: usize = 4_000;

/// An agent of its own exchange and queues, and its log files.
pub struct Trial {
    directory: TempDir,
    pub agent: Agent,
    pub gate: Gate,
    http: SocketAddr,
    pub queues: [String; 2],
    written: Vec<(PathBuf, Vec<u8>)>,
    /// Options of `strace` for the runs to come, the next one last.
    pub tracers: Vec<Vec<String>>,
    /// How many runs ended by SIGKILL.
    pub killed: usize,
}

impl Trial {
    /// Not started yet. The broker is away for it.
    pub fn new(broker: &Broker) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let queues = ["a", "b"].map(|queue| format!("trial-{number}-{queue}"));
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("logs")).unwrap();
        let gate = Gate::closed(broker.port());
        let http = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let mut config = Config::new(&gate.url())
            .set("broker", &format!("exchange = \"trial-{number}\""))
            .set("broker", "max_in_flight = \"64KiB\"")
            .set("broker", "check_interval = \"200ms\"")
            .set("batch", "max_bytes = \"16KiB\"")
            .set("spool", "segment_bytes = \"256KiB\"")
            .set("http", &format!("listen = \"{http}\""))
            .source_with(
                "app",
                &directory.path().join("logs/*.log"),
                "poll_interval = \"100ms\"",
            );
        for queue in &queues {
            config = config.append(&format!(
                "[[broker.queue]]\nname = \"{queue}\"\ntype = \"classic\""
            ));
        }
        Self {
            agent: Agent::new(directory.path(), config),
            directory,
            gate,
            http,
            queues,
            written: Vec::new(),
            tracers: Vec::new(),
            killed: 0,
        }
    }

    /// The broker is away, two files are spooled and deleted, and it comes back.
    pub fn run(&mut self) {
        self.start();
        for _ in 0..2 {
            let path = self.write();
            self.advance("all is in the spool", |status| is_spooled(status, &path));
            fs::remove_file(&path).unwrap();
        }
        self.gate.open();
        let path = self.write();
        loop {
            self.advance("all is confirmed", |status| is_confirmed(status, &path));
            let status = self.agent.term().status;
            if status.success() {
                return;
            }
            // A stop makes things durable too.
            self.was_killed(status);
        }
    }

    fn was_killed(&mut self, status: ExitStatus) {
        assert_eq!(
            status.signal(),
            Some(9),
            "it ended by itself: {status}: {}",
            self.agent.stderr()
        );
        self.killed += 1;
        self.start();
    }

    /// A path in the trial's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn start(&mut self) {
        self.agent
            .set_tracer(self.tracers.pop().unwrap_or_default());
        self.agent.start();
    }

    /// A new file, several times as large as what may be in flight.
    pub fn write(&mut self) -> PathBuf {
        let number = self.written.len();
        let path = self.directory.path().join(format!("logs/{number}.log"));
        let content = numbered_lines(&format!("file {number}, line"), LINES);
        append(&path, &content);
        self.written.push((path.clone(), content));
        path
    }

    /// As many lines once more at the end of a file that was written. How many lines there are in all.
    pub fn extend(&mut self, path: &Path) -> u64 {
        let written = self.written.iter_mut().find(|(known, _)| known == path);
        let (_, content) = written.expect("it was written");
        let more = numbered_lines("more, line", LINES);
        append(path, &more);
        content.extend(more);
        let lines = self.written.iter().flat_map(|(_, content)| content);
        lines.filter(|byte| **byte == b'\n').count() as u64
    }

    /// The value of a metric, given with its labels. Nothing where there is none yet.
    pub fn metric(&self, name: &str) -> Option<u64> {
        let answer = http::get(self.http, "/metrics").ok()?;
        let mut lines = answer.body.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        value.parse().ok()
    }

    /// Until the status is so, over as many runs as there are kills.
    pub fn advance(&mut self, what: &str, holds: impl Fn(&Value) -> bool) {
        wait_for_some(3 * MINUTE, what, || {
            if !self.agent.is_running() {
                let status = self.agent.wait(MINUTE);
                self.was_killed(status);
            }
            self.agent.status().filter(&holds)
        });
    }

    /// What each queue held.
    pub fn assert_queues_hold_all(&self, broker: &Broker) -> Vec<Ledger> {
        let held = |queue: &String| {
            let mut ledger = Ledger::new();
            let mut consumer = Consumer::open(&broker.url(), queue);
            ledger.take_rest(&mut consumer, MINUTE);
            ledger.assert_clean();
            for (path, content) in &self.written {
                ledger.assert_holds_file(path.to_str().unwrap(), content);
            }
            ledger
        };
        self.queues.iter().map(held).collect()
    }
}

fn file<'s>(status: &'s Value, path: &Path) -> Option<&'s Value> {
    let mut files = status["files"].as_array()?.iter();
    files.find(|file| file["path"].as_str() == path.to_str())
}

/// The file was read to its end, and nothing of it is in memory alone.
pub fn is_spooled(status: &Value, path: &Path) -> bool {
    let size = fs::metadata(path).unwrap().len();
    status["spool"]["mode"] == "spooling"
        && status["broker"]["in_flight_bytes"] == 0
        && file(status, path).is_some_and(|file| file["read"] == size)
}

/// The file was read to its end, all of it is confirmed, and nothing was ever lost.
pub fn is_confirmed(status: &Value, path: &Path) -> bool {
    let size = fs::metadata(path).unwrap().len();
    status["spool"]["mode"] == "direct"
        && status["lost_bytes"] == 0
        && file(status, path).is_some_and(|file| file["confirmed"] == size)
}
