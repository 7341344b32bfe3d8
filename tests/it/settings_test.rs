//! Each setting, set to something else than its default, does something else.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::read::GzDecoder;
use serde_json::Value;

use crate::support::agent::{Agent, Config};
use crate::support::broker::Broker;
use crate::support::message::Message;
use crate::support::wait::wait_for;
use crate::support::writers::{append, numbered_lines};

const MINUTE: Duration = Duration::from_secs(60);

fn logs(directory: &tempfile::TempDir) -> PathBuf {
    let logs = directory.path().join("logs");
    fs::create_dir(&logs).unwrap();
    logs
}

/// Everything that lies in the queue.
fn messages(broker: &Broker, queue: &str) -> Vec<Message> {
    let amqp = broker.amqp();
    std::iter::from_fn(|| amqp.get(queue)).collect()
}

fn wait_until_confirmed(agent: &Agent, path: &Path, bytes: usize) {
    agent.wait_for_status("everything is confirmed", |status| {
        let files = status["files"].as_array().unwrap().iter();
        let mut of_path = files.filter(|file| file["path"] == path.to_str().unwrap());
        of_path.any(|file| file["confirmed"] == bytes)
    });
}

fn lines_of(message: &Message) -> Vec<Value> {
    let mut text = String::new();
    GzDecoder::new(&message.body[..])
        .read_to_string(&mut text)
        .unwrap();
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().unwrap()
}

#[test]
fn what_is_read_how_it_is_cut_and_whose_it_is_are_as_set() {
    let broker = Broker::shared();
    let directory = tempfile::tempdir().unwrap();
    let logs = logs(&directory);
    let (path, excluded) = (logs.join("a.log"), logs.join("b-debug.log"));
    append(&path, b"there already\n");
    append(&excluded, b"debug\n");
    let socket = directory.path().join("elsewhere.sock");
    // The first address is nobody's.
    let urls = format!("urls = [\"amqp://127.0.0.1:1\", \"{}\"]", broker.url());
    let source = format!(
        "exclude = [\"{}/*-debug.log\"]\nread_from = \"end\"\nmax_line = 16",
        logs.display()
    );
    let config = Config::default()
        .set("agent", "host = \"web-7\"")
        .set("agent", &format!("control = \"{}\"", socket.display()))
        .set("broker", &urls)
        .set("broker", "exchange = \"settings\"\nheartbeat = \"7s\"")
        .set("broker", "check_interval = \"200ms\"")
        .set("batch", "compression = \"gzip\"\nlevel = 9\nmax_lines = 3")
        .source_with("cut", &logs.join("*.log"), &source)
        .append("[[broker.queue]]\nname = \"settings.q\"");
    let mut agent = Agent::new(directory.path(), config);
    agent.start();
    wait_until_confirmed(&agent, &path, 14);
    // `control`: it was asked through there.
    assert!(socket.exists() && !agent.state_dir().join("control.sock").exists());
    let mut content = vec![b'x'; 40];
    content.extend(b"\n1\n2\n3\n4\n5\n6\n7\n");
    append(&path, &content);
    wait_until_confirmed(&agent, &path, 14 + content.len());

    let connections = broker.ctl(&["list_connections", "name", "timeout", "client_properties"]);
    let ours = connections
        .lines()
        .find(|line| line.contains("fantail@web-7"));
    let ours = ours.unwrap_or_else(|| panic!("no fantail@web-7 in {connections}"));
    assert_eq!(ours.split('\t').nth(1), Some("7"), "{ours}");

    let messages = messages(broker, "settings.q");
    let lines: Vec<Value> = messages
        .iter()
        .filter(|message| !message.body.is_empty())
        .flat_map(lines_of)
        .collect();
    let texts: Vec<&str> = lines
        .iter()
        .map(|line| line["message"].as_str().unwrap())
        .collect();
    let x = |count| "x".repeat(count);
    let parts = [x(16), x(16), x(8)];
    let wanted: Vec<&str> = parts
        .iter()
        .map(String::as_str)
        .chain(["1", "2", "3", "4", "5", "6", "7"])
        .collect();
    assert_eq!(texts, wanted);
    for message in &messages {
        assert_eq!(message.routing_key, "cut");
        assert_eq!(message.text_header("host"), Some("web-7"));
        assert!(message.int_header("lines") <= Some(3), "{message:?}");
        // RFC 1952, XFL: packed as hard as can be.
        assert!(message.body.is_empty() || message.body[8] == 2);
    }
    assert!(agent.term().status.success());
}

#[test]
fn batches_are_as_long_as_set_leave_when_set_and_marks_move_when_set() {
    let broker = Broker::shared();
    let directory = tempfile::tempdir().unwrap();
    let path = logs(&directory).join("a.log");
    append(&path, &b"ten bytes\n".repeat(505));
    let config = Config::new(&broker.url())
        .set("broker", "exchange = \"linger\"\ncheck_interval = \"1h\"")
        .set(
            "batch",
            "format = \"lines\"\nmax_bytes = 1000\nlinger = \"1h\"",
        )
        .source("app", &path)
        .append("[[broker.queue]]\nname = \"linger.q\"");
    let mut agent = Agent::new(directory.path(), config);
    agent.start();
    let amqp = broker.amqp();
    wait_for(MINUTE, "the full batches", || {
        amqp.message_count("linger.q") == Some(5)
    });
    for lines in 1..=20 {
        append(&path, b"ten bytes\n");
        agent.wait_for_status("the line is read", |status| {
            status["files"][0]["read"] == 5050 + 10 * lines
        });
    }
    // 20 times it would have left within 2 ms.
    assert_eq!(amqp.message_count("linger.q"), Some(5));
    let status = agent.wait_for_status("all is acknowledged", |status| {
        status["broker"]["in_flight_bytes"] == 0
    });
    assert_eq!(
        status["files"][0]["confirmed"], 0,
        "the next look is in an hour"
    );
    assert!(agent.term().status.success());
    assert!(agent.stderr().contains("everything is confirmed"));
    let messages = messages(broker, "linger.q");
    let bytes: Vec<usize> = messages.iter().map(|message| message.body.len()).collect();
    assert_eq!(bytes, [1000, 1000, 1000, 1000, 1000, 250]);
}

#[test]
fn a_broker_that_falls_silent_is_given_up_and_a_stop_waits_for_it_as_long_as_set() {
    let broker = Broker::start();
    let directory = tempfile::tempdir().unwrap();
    let path = logs(&directory).join("a.log");
    append(&path, &numbered_lines("line", 10));
    let agent = |name: &str, settings: &str| {
        let work = directory.path().join(name);
        fs::create_dir(&work).unwrap();
        let config = Config::new(&broker.url())
            .set("agent", "shutdown_timeout = \"4s\"")
            .set(
                "broker",
                &format!("exchange = \"{name}\"\ncheck_interval = \"1h\""),
            )
            .set("broker", settings)
            .source("app", &path)
            .append(&format!("[[broker.queue]]\nname = \"{name}\""));
        let mut agent = Agent::new(&work, config);
        agent.start();
        wait_for(MINUTE, "the lines are in the queue", || {
            broker.amqp().message_count(name) == Some(1)
        });
        agent
    };
    // Without the other settings the heartbeat would end it, after two minutes.
    let impatient = "heartbeat = \"60s\"\nconfirm_timeout = \"1s\"\nconnect_timeout = \"700ms\"";
    let mut impatient = agent("impatient", impatient);
    let mut patient = agent("patient", "heartbeat = \"60s\"");
    broker.pause();
    append(&path, b"one more\n");
    impatient.wait_for_log("no confirm for 1s", MINUTE);
    impatient.wait_for_log("no end of the AMQP handshake within 700ms", MINUTE);
    patient.wait_for_status("something is out", |status| {
        status["broker"]["in_flight_bytes"] != 0
    });
    let ended = patient.term();
    assert!(ended.status.success());
    assert!(
        patient.stderr().contains("time is up"),
        "{}",
        patient.stderr()
    );
    // By default it would be 10 s.
    let (least, most) = (Duration::from_secs(2), Duration::from_secs(7));
    assert!(ended.took >= least && ended.took < most, "{:?}", ended.took);
    assert!(impatient.term().status.success());
    broker.resume();
}
