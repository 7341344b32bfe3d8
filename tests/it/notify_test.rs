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
        Self::start_under(&[], environment)
    }

    /// Under these options of `strace`, if there are any.
    fn start_under(tracer: &[&str], environment: &[(&str, &str)]) -> Self {
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
        let mut tracer: Vec<String> = tracer.iter().map(|&word| word.to_owned()).collect();
        if !tracer.is_empty() {
            tracer.extend(["-o".to_owned(), "/dev/null".to_owned()]);
        }
        agent.set_tracer(tracer);
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
fn a_start_that_takes_long_says_again_and_again_that_it_goes_on() {
    let slow = [
        "-e",
        "trace=flock",
        "-e",
        "inject=flock:delay_enter=12000000:when=1",
    ];
    let mut watched = Watched::start_under(&slow, &[]);
    let begun = Instant::now();
    watched.hear("READY=1");
    assert!(begun.elapsed() >= Duration::from_secs(10), "it took long");
    let longer = "EXTEND_TIMEOUT_USEC=60000000";
    let heard = watched.heard.iter().filter(|heard| heard.contains(longer));
    assert!((2..=10).contains(&heard.count()), "{:?}", watched.heard);
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
