//! What the agent serves over HTTP: the metrics of the contract, health, and names of files to nobody
//! but this machine. Clients hold nothing up.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use regex::Regex;
use rustix::process::Signal;

use crate::support::agent::{Agent, Config};
use crate::support::broker::Broker;
use crate::support::http::{Answer, get, request};
use crate::support::ports::free_port;
use crate::support::wait::{wait_for, wait_for_some};
use crate::support::writers::{append, numbered_lines};

const MINUTE: Duration = Duration::from_secs(60);

/// An address at which nobody listens.
const NOWHERE: &str = "amqp://guest:guest@127.0.0.1:1/%2f";

/// The contract's list, in its order.
const METRICS: &[&str] = &[
    "fantail_read_bytes_total",
    "fantail_read_lines_total",
    "fantail_dropped_lines_total",
    "fantail_lost_bytes_total",
    "fantail_published_messages_total",
    "fantail_published_bytes_total",
    "fantail_acknowledged_lines_total",
    "fantail_republished_messages_total",
    "fantail_nacks_total",
    "fantail_returns_total",
    "fantail_reconnects_total",
    "fantail_lag_bytes",
    "fantail_lag_seconds",
    "fantail_files",
    "fantail_deleted_held_bytes",
    "fantail_spool_bytes",
    "fantail_spool_limit_bytes",
    "fantail_broker_connected",
    "fantail_broker_blocked",
    "fantail_queue_missing",
    "fantail_topology_drift",
    "fantail_publish_to_ack_seconds_bucket",
    "fantail_publish_to_ack_seconds_sum",
    "fantail_publish_to_ack_seconds_count",
    "fantail_last_confirm_timestamp_seconds",
    "fantail_io_errors_total",
    "fantail_stage_stalled_seconds",
    "fantail_damaged_archives_total",
    "fantail_state_resets_total",
    "fantail_config_last_reload_successful",
    "fantail_config_last_reload_success_timestamp_seconds",
    "fantail_config_reload_failures_total",
    "fantail_build_info",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_start_time_seconds",
    "process_open_fds",
    "process_max_fds",
];

fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()))
}

fn listening(config: Config, address: SocketAddr) -> Config {
    config.set("http", &format!("listen = \"{address}\""))
}

fn log(directory: &tempfile::TempDir) -> PathBuf {
    let logs = directory.path().join("logs");
    fs::create_dir(&logs).unwrap();
    logs.join("hidden-name.log")
}

fn served(address: SocketAddr, path: &str) -> Answer {
    wait_for_some(MINUTE, &format!("{path} is served at {address}"), || {
        get(address, path).ok()
    })
}

/// The value of a sample, by its name and labels as they stand in the text.
fn sample(text: &str, sample: &str) -> Option<f64> {
    let mut lines = text.lines().filter_map(|line| line.rsplit_once(' '));
    let (_, value) = lines.find(|(name, _)| *name == sample)?;
    value.parse().ok()
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs promtool with `input`; what it complains of.
fn promtool(arguments: &[&str], input: &str) -> Result<(), String> {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool of Debian's prometheus: packaging/need prometheus");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told).into_owned();
    output.status.success().then_some(()).ok_or(told)
}

#[test]
fn prometheus_reads_every_metric_of_the_contract_and_no_path() {
    let broker = Broker::shared();
    let directory = tempfile::tempdir().unwrap();
    let path = log(&directory);
    let content = numbered_lines("line", 1000);
    append(&path, &content);
    let address = loopback();
    let config = Config::new(&broker.url())
        .set("broker", "exchange = \"http\"")
        .set("broker", "check_interval = \"200ms\"")
        .append("[[broker.queue]]\nname = \"http.q\"\n")
        .source_with("app", &path, "drop = ['line 7$']");
    let mut agent = Agent::new(directory.path(), listening(config, address));
    agent.start();
    let ready = |answer: &Answer| answer.status == 200;
    wait_for_some(MINUTE, "it is ready", || {
        get(address, "/health/ready").ok().filter(ready)
    });
    let answer = wait_for_some(MINUTE, "everything is confirmed", || {
        let answer = get(address, "/metrics").ok()?;
        let lag = sample(&answer.body, "fantail_lag_bytes{source=\"app\"}");
        let read = sample(&answer.body, "fantail_read_lines_total{source=\"app\"}");
        (lag == Some(0.0) && read == Some(1000.0)).then_some(answer)
    });
    assert!(
        answer
            .head
            .contains("content-type: text/plain; version=0.0.4")
    );
    let text = &answer.body;
    promtool(&["check", "metrics"], text).unwrap_or_else(|told| panic!("{told}\n{text}"));

    let told: BTreeSet<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let contract: BTreeSet<&str> = METRICS.iter().copied().collect();
    assert_eq!(told, contract);
    let metric = Regex::new(r"\b(?:fantail|process)_[a-z_]+").unwrap();
    for file in [
        "packaging/prometheus/fantail.rules.yml",
        "packaging/grafana/fantail.json",
        "tests/data/prometheus/fantail.rules.test.yml",
    ] {
        let text = fs::read_to_string(repository(file)).unwrap();
        let named: BTreeSet<&str> = metric
            .find_iter(&text)
            .map(|found| found.as_str())
            .collect();
        assert!(named.len() > 5, "{file}");
        let unknown: Vec<_> = named.difference(&contract).collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}");
    }
    assert!(!text.contains("hidden-name"), "{text}");

    let holds = |name: &str, holds: fn(f64) -> bool| {
        let value = sample(text, name).unwrap_or_else(|| panic!("no {name} in {text}"));
        assert!(holds(value), "{name} {value}");
    };
    let size = sample(text, "fantail_read_bytes_total{source=\"app\"}");
    assert_eq!(size, Some(content.len() as f64));
    holds(
        "fantail_dropped_lines_total{source=\"app\",reason=\"drop\"}",
        |n| n == 1.0,
    );
    holds("fantail_acknowledged_lines_total", |n| n == 999.0);
    holds("fantail_published_messages_total", |n| n >= 1.0);
    holds("fantail_published_bytes_total", |n| n > 10_000.0);
    holds("fantail_publish_to_ack_seconds_count", |n| n >= 1.0);
    holds("fantail_last_confirm_timestamp_seconds", |n| n > 1.7e9);
    holds("fantail_files{source=\"app\",state=\"active\"}", |n| {
        n == 1.0
    });
    holds("fantail_broker_connected", |n| n == 1.0);
    holds("fantail_queue_missing{queue=\"http.q\"}", |n| n == 0.0);
    holds("fantail_stage_stalled_seconds{stage=\"lane\"}", |n| {
        n < 60.0
    });
    holds("process_resident_memory_bytes", |n| n > 1e6);
    holds("process_start_time_seconds", |n| n > 1.7e9);
    holds("process_open_fds", |n| n > 5.0);

    let history = wait_for_some(MINUTE, "the history has the lines", || {
        let history = get(address, "/history").ok()?.json();
        let last = history["samples"].as_array()?.last()?.clone();
        (last["acknowledged_lines"] == 999 && last["read_lines"] == 1000).then_some(history)
    });
    assert_eq!(history["step_s"], 2);
    let last = history["samples"].as_array().unwrap().last().unwrap();
    assert_eq!(last["read_bytes"], content.len());
    assert_eq!(last["connected"], true);
    assert!(agent.term().status.success());
}

#[test]
fn the_alerts_speak_up_for_each_trouble_and_for_nothing_else() {
    let rules = repository("packaging/prometheus/fantail.rules.yml");
    let tests = repository("tests/data/prometheus/fantail.rules.test.yml");
    for arguments in [
        ["check", "rules", rules.to_str().unwrap()],
        ["test", "rules", tests.to_str().unwrap()],
    ] {
        promtool(&arguments, "").unwrap_or_else(|told| panic!("{told}"));
    }
}

/// An address of this machine that is not loopback. Nothing is sent.
fn address_of_this_machine() -> IpAddr {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).unwrap();
    socket.local_addr().unwrap().ip()
}

#[test]
fn names_of_files_are_told_to_this_machine_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = log(&directory);
    append(&path, b"a line\n");
    let port = free_port();
    let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let config = Config::new(NOWHERE).source("app", &path);
    let mut agent = Agent::new(directory.path(), listening(config.clone(), everywhere));
    agent.start();
    let near = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let far = SocketAddr::from((address_of_this_machine(), port));

    let status = wait_for_some(MINUTE, "the file is told", || {
        let status = served(near, "/status").json();
        (status["files"][0]["path"] == path.to_str().unwrap()).then_some(status)
    });
    assert_eq!(status["pid"], agent.id());
    for private in ["/", "/status", "/history"] {
        assert_eq!(served(near, private).status, 200, "{private}");
        let answer = served(far, private);
        assert_eq!(answer.status, 403, "{private}");
        assert!(answer.body.contains("expose"), "{answer:?}");
        // A page of somebody else's, whose name was made to lead here.
        let rebound = format!(
            "GET {private} HTTP/1.1\r\nHost: evil.example:{port}\r\nConnection: close\r\n\r\n"
        );
        let answer = request(near, &rebound).unwrap();
        assert_eq!(answer.status, 403, "{private}");
        assert!(!answer.body.contains("hidden-name"), "{answer:?}");
    }
    for public in ["/metrics", "/health/live"] {
        let answer = served(far, public);
        assert_eq!(answer.status, 200, "{public}");
        assert!(!answer.body.contains("hidden-name"), "{answer:?}");
    }
    // Without a broker it works, and is not ready.
    let answer = wait_for_some(MINUTE, "the broker is down", || {
        let answer = served(far, "/health/ready");
        answer.body.contains("broker: down").then_some(answer)
    });
    assert_eq!(answer.status, 503);
    assert!(!answer.body.contains("127.0.0.1"), "{answer:?}");

    let page = served(near, "/");
    assert!(page.head.contains("content-type: text/html"), "{page:?}");
    for header in [
        "content-security-policy: default-src 'none'; script-src 'sha256-",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "cache-control: no-store",
    ] {
        assert!(page.head.contains(header), "{header}: {}", page.head);
    }
    for (line, status) in [
        ("HEAD /status", 200),
        ("POST /status", 405),
        ("DELETE /metrics", 405),
        ("GET /etc/passwd", 404),
    ] {
        let text = format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = request(near, &text).unwrap();
        assert_eq!(answer.status, status, "{line}");
        assert!(!answer.body.contains("hidden-name"), "{line}");
    }

    agent.configure(listening(config, everywhere).set("http", "expose = \"all\""));
    agent.signal(Signal::HUP);
    wait_for(MINUTE, "everything is served", || {
        get(far, "/status").is_ok_and(|answer| answer.body.contains("hidden-name"))
    });
    assert!(agent.term().status.success());
}

#[test]
fn where_it_listens_follows_the_configuration_and_a_refused_one_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let path = log(&directory);
    let config = Config::new(NOWHERE).source("app", &path);
    let (first, second) = (loopback(), loopback());
    let mut agent = Agent::new(directory.path(), listening(config.clone(), first));
    agent.start();
    let metrics = served(first, "/metrics").body;
    let successful = "fantail_config_last_reload_successful";
    assert_eq!(sample(&metrics, successful), Some(1.0));
    agent.configure(listening(config.clone(), second));
    agent.signal(Signal::HUP);
    let metrics = served(second, "/metrics").body;
    let failures = "fantail_config_reload_failures_total";
    assert_eq!(sample(&metrics, failures), Some(0.0));
    wait_for(MINUTE, "nobody listens at the first address", || {
        TcpStream::connect(first).is_err()
    });

    agent.configure(listening(config.clone(), first).set("agent", "nonsense = 1"));
    agent.signal(Signal::HUP);
    wait_for(MINUTE, "the failure is counted", || {
        sample(&served(second, "/metrics").body, failures) == Some(1.0)
    });
    let metrics = served(second, "/metrics").body;
    assert_eq!(sample(&metrics, successful), Some(0.0));
    agent.configure(config);
    agent.signal(Signal::HUP);
    wait_for(MINUTE, "nobody listens at all", || {
        TcpStream::connect(second).is_err()
    });
    assert!(agent.status().is_some());
    assert!(agent.term().status.success());
}

#[test]
fn an_address_that_is_taken_is_told_and_taken_over_when_it_is_free() {
    let directory = tempfile::tempdir().unwrap();
    let path = log(&directory);
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let config = Config::new(NOWHERE).source("app", &path);
    let mut agent = Agent::new(directory.path(), listening(config, address));
    agent.start();
    agent.wait_for_log("the address cannot be listened at", MINUTE);
    agent.wait_for_status("why nothing is served", |status| {
        status["errors"]
            .to_string()
            .contains("another process listens there")
    });
    drop(taken);
    assert_eq!(served(address, "/health/live").status, 200);
    let told = agent.stderr().matches("cannot be listened at").count();
    assert_eq!(told, 1);
    assert!(agent.term().status.success());
}

#[test]
fn a_stage_that_is_held_up_by_its_disk_shows_in_the_metrics_and_in_readiness() {
    let directory = tempfile::tempdir().unwrap();
    let path = log(&directory);
    let address = loopback();
    let include = path.with_file_name("*.log");
    let config = Config::new(NOWHERE).source("app", &include);
    let mut agent = Agent::new(directory.path(), listening(config, address));
    agent.start();
    append(&path, b"a line\n");
    agent.wait_for_status("the file is read", |status| {
        status["sources"][0]["lines"] == 1
    });
    // As an operator's transaction, or a disk that takes nothing: the commit waits in its call.
    let other = rusqlite::Connection::open(agent.state_dir().join("state.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    append(&path.with_file_name("b.log"), b"a line\n");
    let metric = |name: &str| sample(&served(address, "/metrics").body, name);
    let unready = || served(address, "/health/ready").body;
    wait_for(MINUTE, "the state stage is stalled", || {
        metric("fantail_stage_stalled_seconds{stage=\"state\"}") > Some(1.0)
    });
    wait_for(MINUTE, "the failure is counted", || {
        metric("fantail_io_errors_total{stage=\"state\",error=\"busy\"}") >= Some(1.0)
    });
    wait_for(MINUTE, "it is not ready", || unready().contains("state: "));
    assert_eq!(served(address, "/health/live").status, 200);
    other.execute_batch("ROLLBACK").unwrap();
    agent.wait_for_status("the new file is read", |status| {
        status["sources"][0]["lines"] == 2
    });
    wait_for(MINUTE, "the state stage waits for others", || {
        metric("fantail_stage_stalled_seconds{stage=\"state\"}") == Some(0.0)
    });
    assert!(!unready().contains("state: "), "{}", unready());
    assert!(agent.term().status.success());
}

#[test]
fn clients_that_say_nothing_or_too_much_hold_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = log(&directory);
    append(&path, b"a line\n");
    let address = loopback();
    let config = Config::new(NOWHERE).source("app", &path);
    let mut agent = Agent::new(directory.path(), listening(config, address));
    agent.start();
    served(address, "/metrics");
    let before = agent.open_paths().len();
    let mut silent: Vec<TcpStream> = (0..200)
        .map(|number| {
            let mut stream = TcpStream::connect(address).unwrap();
            if number % 2 == 0 {
                stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ").unwrap();
            }
            stream
        })
        .collect();
    assert_eq!(served(address, "/metrics").status, 200);
    assert!(agent.status().is_some());
    let opened = agent.open_paths().len() - before;
    assert!(opened <= 20, "{opened} connections");
    for stream in &mut silent {
        stream.set_read_timeout(Some(MINUTE)).unwrap();
        let mut answer = Vec::new();
        // Ended, by a close or by a reset; a time-out of ours would be neither.
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
    let long = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
        "x".repeat(100_000)
    );
    let answered = request(address, &long).map(|answer| answer.status);
    assert!(answered.is_err() || answered.is_ok_and(|status| status == 431));
    assert_eq!(served(address, "/metrics").status, 200);
    assert!(agent.term().status.success());
}
