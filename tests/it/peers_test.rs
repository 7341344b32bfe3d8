//! What answers is no broker, or nothing answers at all: it is named once, costs no more with every
//! attempt, and holds no stop up. And the rate at which a broker is sent to.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};

use crate::support::agent::{Agent, Config, has_namespaces};
use crate::support::broker::Broker;
use crate::support::ports::free_port;
use crate::support::wait::wait_for;
use crate::support::writers::{append, numbered_lines};

const MINUTE: Duration = Duration::from_secs(60);

/// What a peer says to whoever connects, and whether it closes then.
struct Peer {
    port: u16,
    accepted: Arc<AtomicUsize>,
}

impl Peer {
    fn start(says: &'static [u8], closes: bool) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepted = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&accepted);
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                // It may be gone again.
                let _ = stream.write_all(says);
                if !closes {
                    kept.push(stream);
                }
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { port, accepted }
    }
}

/// A port of this host at which every attempt to connect waits for ever: a queue of connections
/// that nobody accepts, and that is full. The streams keep it so.
fn black_hole() -> (u16, impl Drop) {
    struct Hole(
        #[allow(dead_code, reason = "held")] rustix::fd::OwnedFd,
        Vec<TcpStream>,
    );
    impl Drop for Hole {
        fn drop(&mut self) {
            self.1.clear();
        }
    }
    let listener = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&listener, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    listen(&listener, 0).unwrap();
    let address = SocketAddr::try_from(getsockname(&listener).unwrap()).unwrap();
    let mut streams = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        streams.push(stream);
    }
    (address.port(), Hole(listener, streams))
}

fn agent(directory: &Path, name: &str, port: u16) -> Agent {
    let work = directory.join(name);
    fs::create_dir(&work).unwrap();
    let path = work.join("a.log");
    append(&path, b"one\n");
    let url = format!("amqp://u:s3cret@127.0.0.1:{port}/%2f");
    let config = Config::new(&url)
        .set("broker", "connect_timeout = \"1s\"")
        .source("app", &path);
    let mut agent = Agent::new(&work, config);
    agent.start();
    agent
}

/// Threads of the library, one for each connection that it still has.
fn connections(agent: &Agent) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", agent.id())).unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("lapin")).count()
}

#[test]
fn whoever_is_no_broker_is_named_once_costs_nothing_more_and_holds_no_stop_up() {
    let directory = tempfile::tempdir().unwrap();
    let late = "no end of the AMQP handshake within 1s";
    let peers = [
        ("silent", &b""[..], false, late),
        ("begins", b"\x01\x00\x00", false, late),
        ("closes", b"", true, "closes the connection without a word"),
        (
            "web",
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            true,
            "answers in HTTP",
        ),
        (
            "tls",
            b"\x15\x03\x01\x00\x02\x02\x0a",
            false,
            "answers in TLS",
        ),
        (
            "other",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            false,
            "answers, but not in AMQP",
        ),
    ];
    let mut running = Vec::new();
    for (name, says, closes, told) in peers {
        let peer = Peer::start(says, closes);
        let agent = agent(directory.path(), name, peer.port);
        running.push((name, peer, agent, told));
    }
    let (port, _hole) = black_hole();
    let mut nowhere = agent(directory.path(), "hole", port);
    for (name, peer, agent, told) in &mut running {
        agent.wait_for_log(told, MINUTE);
        wait_for(MINUTE, "there were five attempts", || {
            peer.accepted.load(Ordering::Relaxed) >= 5
        });
        wait_for(MINUTE, "what was given up has ended", || {
            connections(agent) <= 1
        });
        let status = agent.wait_for_status("it is down", |status| {
            let broker = &status["broker"];
            broker["state"] == "down" && broker["last_error"].to_string().contains(*told)
        });
        assert!(!status.to_string().contains("s3cret"), "{status}");
        let ended = agent.term();
        assert!(ended.status.success(), "{name}");
        assert!(
            ended.took < Duration::from_secs(3),
            "{name}: {:?}",
            ended.took
        );
        let log = agent.stderr();
        assert_eq!(
            log.matches("no connection to the broker").count(),
            1,
            "{log}"
        );
    }
    nowhere.wait_for_log("no connection to 127.0.0.1", MINUTE);
    let ended = nowhere.term();
    assert!(ended.status.success());
    assert!(ended.took < Duration::from_secs(3), "{:?}", ended.took);
}

#[test]
fn addresses_are_tried_in_turn_and_their_names_looked_up_again() {
    if !has_namespaces("-Urm") {
        println!("not tried: no mount namespaces here");
        return;
    }
    let broker = Broker::shared();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.log");
    append(&path, b"one\n");
    let hosts = directory.path().join("hosts");
    fs::write(&hosts, "127.0.0.2 broker.test\n").unwrap();
    let named = broker.url().replace("127.0.0.1", "broker.test");
    let dead = format!("amqp://u:p@127.0.0.1:{}/%2f", free_port());
    let config = Config::default()
        .set("broker", &format!("urls = [{dead:?}, {named:?}]"))
        .set(
            "broker",
            "exchange = \"in-turn\"\ncheck_interval = \"200ms\"",
        )
        .source("app", &path)
        .append("[[broker.queue]]\nname = \"in-turn\"");
    let mut agent = Agent::new(directory.path(), config);
    agent.set_namespaces("-Urm");
    agent.set_before(&format!("mount --bind {} /etc/hosts", hosts.display()));
    agent.start();
    agent.wait_for_status("the second address was tried", |status| {
        status["broker"]["url"].to_string().contains("broker.test")
    });
    assert!(!agent.stderr().contains("connected to the broker"));
    fs::write(&hosts, "127.0.0.1 broker.test\n").unwrap();
    agent.wait_for_status("everything is confirmed", |status| {
        status["files"][0]["confirmed"] == 4
    });
    assert!(agent.term().status.success());
}

#[test]
fn no_more_is_published_than_max_rate_allows_and_a_stop_is_as_quick_as_set() {
    let broker = Broker::shared();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.log");
    let content = numbered_lines("a line of which there are many", 80_000);
    append(&path, &content);
    let config = Config::new(&broker.url())
        .set("agent", "shutdown_timeout = \"3s\"")
        .set("broker", "exchange = \"rate\"\ncheck_interval = \"200ms\"")
        .set("broker", "max_rate = \"1MB/s\"\nheartbeat = \"1s\"")
        .set("batch", "format = \"lines\"\nmax_bytes = \"64KiB\"")
        .source("app", &path)
        .append("[[broker.queue]]\nname = \"rate\"\ntype = \"classic\"");
    let mut agent = Agent::new(directory.path(), config);
    agent.start();
    agent.wait_for_log("exchange and queues are there", MINUTE);
    let begun = Instant::now();
    let half = agent.wait_for_status("marks move meanwhile", |status| {
        status["files"][0]["confirmed"].as_u64() > Some(100_000)
    });
    assert!(half["files"][0]["lag"].as_u64() > Some(0), "{half}");
    agent.wait_for_status("everything is confirmed", |status| {
        status["files"][0]["confirmed"] == content.len()
    });
    let (took, least) = (begun.elapsed(), content.len() as f64 / 1e6 - 0.5);
    assert!(took.as_secs_f64() > least, "{took:?}, not {least} s");
    assert!(took.as_secs_f64() < 3.0 * least + 10.0, "{took:?}");
    append(&path, &content);
    agent.wait_for_status("more is on its way", |status| {
        status["broker"]["in_flight_bytes"].as_u64() > Some(1_000_000)
    });
    let ended = agent.term();
    assert!(ended.status.success());
    assert!(ended.took < Duration::from_secs(5), "{:?}", ended.took);
    assert_eq!(agent.stderr().matches("connected to the broker").count(), 1);
}
