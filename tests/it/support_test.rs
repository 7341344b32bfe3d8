//! Shows that the tests' own tools do what tests rely on: brokers, consumers, leashes, writers.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use lapin::ExchangeKind;

use crate::support::agent::Config;
use crate::support::amqp::{Amqp, Argument, Consumer};
use crate::support::broker::{Broker, Version};
use crate::support::leash::Leash;
use crate::support::made::{PATH, batches};
use crate::support::oracle::Ledger;
use crate::support::process::Process;
use crate::support::random::Random;
use crate::support::wait::wait_for;
use crate::support::writers::{Writer, log_text, numbered_lines};

const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn a_broker_keeps_persistent_messages_over_a_stop_and_a_crash() {
    keeps_persistent_messages(Broker::start());
}

#[test]
fn a_broker_of_rabbitmq_4_keeps_persistent_messages_over_a_stop_and_a_crash() {
    let broker = Broker::start_version(Version::V4_0);
    let version = broker.ctl(&["version"]);
    assert!(version.starts_with("4.0."), "{version}");
    keeps_persistent_messages(broker);
}

fn keeps_persistent_messages(mut broker: Broker) {
    let amqp = broker.amqp();
    amqp.declare_queue("archive", "quorum", &[]);
    amqp.publish("", "archive", b"before the stop");
    drop(amqp);

    broker.stop();
    assert!(Amqp::try_connect(&broker.url()).is_err());
    broker.start_again();
    broker.amqp().publish("", "archive", b"before the crash");
    broker.kill9();
    broker.start_again();

    let mut consumer = Consumer::open(&broker.url(), "archive");
    let mut next = || consumer.next(DEADLINE).expect("a message").body;
    assert_eq!(next(), b"before the stop");
    assert_eq!(next(), b"before the crash");
    assert_eq!(
        consumer.next(Duration::ZERO).map(|message| message.body),
        None
    );
}

#[test]
fn brokers_side_by_side_share_nothing_and_one_may_be_absent_or_paused() {
    let mut late = Broker::absent();
    let broker = Broker::start();
    assert!(Amqp::try_connect(&late.url()).is_err());
    late.start_again();

    broker
        .amqp()
        .declare_queue("here", "classic", &[("x-max-length", Argument::Int(3))]);
    assert!(!late.amqp().queue_exists("here"));
    broker.pause();
    assert!(Amqp::try_connect(&broker.url()).is_err());
    broker.resume();
    wait_for(DEADLINE, "the broker answers again", || {
        Amqp::try_connect(&broker.url()).is_ok()
    });

    broker.ctl(&["add_user", "ann", "secret"]);
    broker.ctl(&["set_permissions", "ann", ".*", ".*", ".*"]);
    assert!(Amqp::try_connect(&broker.url_with("ann", "secret", "/")).is_ok());
    assert!(Amqp::try_connect(&late.url_with("ann", "secret", "/")).is_err());
}

#[test]
fn a_queue_is_taken_into_a_ledger_as_it_was_published() {
    let broker = Broker::start();
    let amqp = broker.amqp();
    amqp.declare_exchange("logs", ExchangeKind::Fanout);
    for (queue, kind) in [("archive", "quorum"), ("search", "classic")] {
        amqp.declare_queue(
            queue,
            kind,
            &[("x-overflow", Argument::Text("reject-publish"))],
        );
        amqp.bind(queue, "logs");
    }
    let content = numbered_lines("app", 1000);
    let messages = batches(&content, 10);
    messages
        .iter()
        .for_each(|message| amqp.publish_message(message));

    for queue in ["archive", "search"] {
        let mut got = amqp.get(queue).expect("a message");
        // A quorum queue counts deliveries in a header.
        got.headers.retain(|name, _| name != "x-delivery-count");
        assert!(got == messages[0], "{got:?}");
        let mut ledger = Ledger::new();
        ledger.take(&got);
        let mut consumer = Consumer::open(&broker.url(), queue);
        let half = content.len() as u64 / 2;
        ledger.take_until(&mut consumer, DEADLINE, "half of the file", |ledger| {
            ledger.covered_bytes() >= half
        });
        ledger.take_rest(&mut consumer, DEADLINE);
        ledger.assert_clean();
        ledger.assert_no_repeats();
        ledger.assert_holds_file(PATH, &content);
        assert_eq!(ledger.messages(), 100);
    }
}

#[test]
fn topology_can_be_taken_apart_under_the_agent() {
    let broker = Broker::start();
    let amqp = broker.amqp();
    amqp.declare_exchange("logs", ExchangeKind::Fanout);
    amqp.declare_queue("archive", "quorum", &[]);
    amqp.declare_queue("search", "classic", &[]);
    amqp.bind("archive", "logs");
    amqp.bind("search", "logs");
    amqp.publish("logs", "", b"to both");
    amqp.unbind("search", "logs");
    amqp.publish("logs", "", b"to one");
    wait_for(DEADLINE, "both are ready", || {
        amqp.message_count("archive") == Some(2)
    });
    assert_eq!(amqp.message_count("search"), Some(1));

    amqp.purge_queue("archive");
    wait_for(DEADLINE, "it is empty", || {
        amqp.message_count("archive") == Some(0)
    });
    amqp.delete_queue("archive");
    assert!(!amqp.queue_exists("archive"));
    amqp.delete_exchange("logs");
    amqp.declare_exchange("logs", ExchangeKind::Direct);
    let refusal = amqp.try_declare_queue("search", "quorum", &[]).unwrap_err();
    assert!(refusal.contains("PRECONDITION_FAILED"), "{refusal}");
}

#[test]
fn dropping_a_leash_kills_whole_groups_and_removes_the_directory() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("held");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("file"), "x").unwrap();
    let mut leash = Leash::on_processes_and(&directory);
    // A shell with a child, which only a signal to the group reaches.
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "sleep 1000; true"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut shell = Process::spawn("sh", &mut command);
    leash.hold(&[shell.id()]);

    drop(leash);
    assert!(!shell.wait(DEADLINE).success());
    assert!(!directory.exists());
}

#[test]
fn a_configuration_collects_keys_into_valid_toml() {
    let config = Config::new("amqp://guest:guest@127.0.0.1:1/%2f")
        .set("broker", "check_interval = \"200ms\"")
        .source_with("app", "/a \"b\"/*.log".as_ref(), "max_line = 100")
        .source("other", "/c/*.log".as_ref())
        .set("broker.tls", "ca = \"x\"")
        .append("[[broker.queue]]\nname = \"archive\"");
    let toml: toml::Table = config.to_string().parse().unwrap();
    assert_eq!(toml["broker"]["check_interval"].as_str(), Some("200ms"));
    assert_eq!(toml["broker"]["tls"]["ca"].as_str(), Some("x"));
    assert_eq!(toml["broker"]["queue"][0]["name"].as_str(), Some("archive"));
    assert_eq!(
        toml["source"][0]["include"][0].as_str(),
        Some("/a \"b\"/*.log")
    );
    assert_eq!(toml["source"][0]["max_line"].as_integer(), Some(100));
    assert_eq!(toml["source"][1]["name"].as_str(), Some("other"));
}

#[test]
fn a_writer_in_pieces_writes_exactly_its_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.log");
    let mut random = Random::from_environment();
    let text = log_text(&mut random, 200_000);
    Writer::start(&path, text.clone(), random.fork()).finish();
    assert!(fs::read(&path).unwrap() == text);
}

#[test]
fn one_seed_makes_one_text() {
    let text = |seed| log_text(&mut Random::new(seed), 10_000);
    assert!(text(7) == text(7));
    assert!(text(7) != text(8));
}
