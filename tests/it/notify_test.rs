//! What the daemon tells systemd, as systemd hears it.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::agent::{Agent, Config};
use crate::support::broker::Broker;
use crate::support::wait::wait_for_some;

const MINUTE: Duration = Duration::from_secs(60);

/// An agent, and the socket at which systemd would listen.
struct Watched {
    agent: Agent,
    socket: UnixDatagram,
    heard: Vec<String>,
    _directory: tempfile::TempDir,
}

impl Watched {
    fn start(environment: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        // Nobody listens there.
        let config = Config::new(&Broker::absent().url());
        let pattern = directory.path().join("logs/*.log");
        let mut agent = Agent::new(directory.path(), config.source("app", &pattern));
        agent.set_environment("NOTIFY_SOCKET", path.to_str().unwrap());
        for (name, value) in environment {
            agent.set_environment(name, value);
        }
        agent.start();
        Self {
            agent,
            socket,
            heard: Vec::new(),
            _directory: directory,
        }
    }

    /// The next message that has the line.
    fn hear(&mut self, line: &str) -> String {
        wait_for_some(MINUTE, line, || self.next(line))
    }

    /// SIGHUP; when it was heeded, in microseconds of the monotonic clock.
    fn reload(&mut self) -> u64 {
        self.agent.signal(Signal::HUP);
        let reloading = self.hear("RELOADING=1");
        let mut lines = reloading.lines();
        let begun = lines.find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
        let begun = begun.expect("since when").parse().unwrap();
        self.hear("READY=1");
        begun
    }

    fn next(&mut self, line: &str) -> Option<String> {
        let mut buffer = [0; 4096];
        match self.socket.recv(&mut buffer) {
            Ok(len) => {
                let text = String::from_utf8(buffer[..len].to_vec()).unwrap();
                self.heard.push(text.clone());
                text.lines()
                    .any(|heard| heard.starts_with(line))
                    .then_some(text)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("the socket: {error}"),
        }
    }
}

#[test]
fn it_is_ready_without_a_broker_and_says_how_it_is_when_it_reloads_and_when_it_stops() {
    let mut watched = Watched::start(&[]);
    let ready = watched.hear("READY=1");
    assert!(ready.contains("STATUS="), "{ready}");
    // Perhaps it knew it by then.
    let status = "STATUS=no broker, lag 0 B";
    if !ready.contains(status) {
        watched.hear(status);
    }

    let first = watched.reload();
    assert!(watched.reload() > first, "each says when it began");

    watched.agent.signal(Signal::TERM);
    let stopping = watched.hear("STOPPING=1");
    assert!(
        stopping.contains("EXTEND_TIMEOUT_USEC=15000000\n"),
        "{stopping}"
    );
    assert!(watched.agent.wait(MINUTE).success());
    assert!(!watched.heard.iter().any(|heard| heard.contains("WATCHDOG")));
}

#[test]
fn the_watchdog_is_fed_at_half_of_its_limit() {
    let mut watched = Watched::start(&[("WATCHDOG_USEC", "400000")]);
    watched.hear("READY=1");
    watched.hear("WATCHDOG=1");
    let begun = Instant::now();
    for _ in 0..5 {
        watched.hear("WATCHDOG=1");
    }
    assert!(
        begun.elapsed() >= Duration::from_millis(800),
        "{:?}",
        begun.elapsed()
    );
}
