//! What the daemon does where the broker is not as configured: says so, waits where it must, goes on
//! where it may.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lapin::ExchangeKind;
use serde_json::Value;

use crate::support::agent::{Agent, Config};
use crate::support::amqp::Argument;
use crate::support::broker::Broker;
use crate::support::wait::wait_for;
use crate::support::writers::{append, numbered_lines};

const MINUTE: Duration = Duration::from_secs(60);

/// A directory with one log of 100 lines in it.
fn directory() -> (tempfile::TempDir, PathBuf, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("logs")).unwrap();
    let path = directory.path().join("logs/a.log");
    let content = numbered_lines("line", 100);
    append(&path, &content);
    (directory, path, content)
}

/// An agent of an exchange and of queues of its own names.
fn config(url: &str, exchange: &str, path: &Path) -> Config {
    Config::new(url)
        .set("broker", &format!("exchange = \"{exchange}\""))
        .set("broker", "check_interval = \"200ms\"")
        .source("app", path)
}

fn queue(name: &str, lines: &str) -> String {
    format!("[[broker.queue]]\nname = \"{name}\"\n{lines}")
}

fn wait_until_confirmed(agent: &Agent, bytes: usize) -> Value {
    agent.wait_for_status("everything is confirmed", |status| {
        status["files"][0]["confirmed"] == bytes
    })
}

#[test]
fn an_exchange_of_another_type_is_named_and_waited_for_until_it_is_put_right() {
    let broker = Broker::shared();
    let (directory, path, content) = directory();
    let amqp = broker.amqp();
    amqp.declare_exchange("other-type", ExchangeKind::Direct);
    let config = config(&broker.url(), "other-type", &path).append(&queue("other-type.q", ""));
    let mut agent = Agent::new(directory.path(), config);
    agent.start();
    agent.wait_for_log("inequivalent arg 'type' for exchange 'other-type'", MINUTE);
    let log = agent.stderr();
    let line = log.lines().find(|line| line.contains("inequivalent"));
    assert!(line.unwrap().contains("ERROR"), "{log}");
    let status = agent.wait_for_status("nothing is published", |status| {
        status["stages"].to_string().contains("\"waiting\"")
    });
    assert_eq!(status["files"][0]["confirmed"], 0);
    assert_ne!(amqp.message_count("other-type.q"), Some(1));

    amqp.delete_exchange("other-type");
    wait_until_confirmed(&agent, content.len());
    assert_eq!(amqp.message_count("other-type.q"), Some(1));

    // And in the middle of the work: nobody says so but the message that reaches no queue.
    amqp.delete_exchange("other-type");
    amqp.declare_exchange("other-type", ExchangeKind::Direct);
    append(&path, b"one more\n");
    wait_for(MINUTE, "it is named again", || {
        agent.stderr().matches("inequivalent arg 'type'").count() == 2
    });
    amqp.delete_exchange("other-type");
    wait_until_confirmed(&agent, content.len() + 9);
    assert!(agent.term().status.success());
}

#[test]
fn a_queue_of_another_type_is_a_warning_and_publishing_goes_on() {
    let broker = Broker::shared();
    let (directory, path, content) = directory();
    let amqp = broker.amqp();
    amqp.declare_queue("drift.q", "classic", &[("x-max-length", Argument::Int(9))]);
    let config = config(&broker.url(), "drift", &path).append(&queue("drift.q", ""));
    let mut agent = Agent::new(directory.path(), config);
    agent.start();
    let status = wait_until_confirmed(&agent, content.len());
    let drift = status["queues"][0]["drift"].as_str().unwrap_or_default();
    assert!(drift.contains("drift.q"), "{status}");
    assert_eq!(amqp.message_count("drift.q"), Some(1));
    let log = agent.stderr();
    let told = log.matches("a queue is not as configured; publishing goes on");
    assert_eq!(told.count(), 1, "{log}");
    assert!(!log.contains("ERROR"), "{log}");
}

#[test]
fn a_user_who_may_only_write_ships_to_what_others_have_made() {
    let broker = Broker::shared();
    let (directory, path, content) = directory();
    let amqp = broker.amqp();
    amqp.declare_exchange("write-only", ExchangeKind::Fanout);
    for queue in ["write-only.a", "write-only.b"] {
        amqp.declare_queue(queue, "classic", &[]);
        amqp.bind(queue, "write-only");
    }
    broker.ctl(&["add_user", "writer", "s3cret"]);
    broker.ctl(&["set_permissions", "writer", "^$", "^write-only$", "^$"]);
    // Not told that everything is there: it finds out.
    let config = config(
        &broker.url_with("writer", "s3cret", "/"),
        "write-only",
        &path,
    )
    .append(&queue("write-only.a", "type = \"classic\""))
    .append(&queue("write-only.b", "type = \"classic\""));
    let mut agent = Agent::new(directory.path(), config);
    agent.start_with(&["--log-level", "trace,lapin=trace,amq_protocol_tcp=trace"]);
    wait_until_confirmed(&agent, content.len());
    for queue in ["write-only.a", "write-only.b"] {
        assert_eq!(amqp.message_count(queue), Some(1));
    }
    let log = agent.stderr();
    assert!(
        log.contains("whether a queue is bound is not known"),
        "{log}"
    );
    assert!(!log.contains("ERROR") && !log.contains("s3cret"), "{log}");
    assert!(agent.term().status.success());
}

#[test]
fn a_queue_that_is_not_required_is_missed_once_not_waited_for_and_made_where_that_is_wanted() {
    let broker = Broker::shared();
    let (directory, path, content) = directory();
    let amqp = broker.amqp();
    amqp.declare_exchange("optional", ExchangeKind::Fanout);
    amqp.declare_queue("optional.a", "quorum", &[]);
    amqp.bind("optional.a", "optional");
    let config = |declare: &str| {
        config(&broker.url(), "optional", &path)
            .set("broker", &format!("declare = \"{declare}\""))
            .append(&queue("optional.a", ""))
            .append(&queue("optional.b", "required = false"))
    };
    let mut agent = Agent::new(directory.path(), config("never"));
    agent.start();
    let status = wait_until_confirmed(&agent, content.len());
    assert_eq!(status["queues"][1]["present"], false);
    // After many more looks it is still told once, and still not made.
    let later = numbered_lines("later", 5);
    append(&path, &later);
    wait_until_confirmed(&agent, content.len() + later.len());
    let log = agent.stderr();
    let told = log.matches("not required is absent; publishing goes on queue=optional.b");
    assert_eq!(told.count(), 1, "{log}");
    assert!(!amqp.queue_exists("optional.b"));
    assert!(agent.term().status.success());

    agent.configure(config("missing"));
    append(&path, &later);
    agent.start();
    wait_until_confirmed(&agent, content.len() + 2 * later.len());
    assert!(
        agent.stderr().contains("queue made queue=optional.b"),
        "{}",
        agent.stderr()
    );
    append(&path, &later);
    wait_until_confirmed(&agent, content.len() + 3 * later.len());
    assert!(amqp.message_count("optional.b") > Some(0));
}

#[test]
fn a_queue_that_is_not_required_and_refuses_is_told_and_not_waited_for() {
    let broker = Broker::shared();
    let (directory, path, content) = directory();
    let amqp = broker.amqp();
    let full = "type = \"classic\"\nrequired = false\n\
                arguments = { x-max-length = 1, x-overflow = \"reject-publish\" }";
    let config = config(&broker.url(), "refusing", &path)
        .set("batch", "max_lines = 10")
        .append(&queue("refusing.a", ""))
        .append(&queue("refusing.b", full));
    let mut agent = Agent::new(directory.path(), config);
    agent.start();
    wait_until_confirmed(&agent, content.len());
    agent.wait_for_log(
        "queue refuses messages; trying again queue=refusing.b",
        MINUTE,
    );
    assert!(amqp.message_count("refusing.a") >= Some(10));
    assert_eq!(amqp.message_count("refusing.b"), Some(1));
    assert!(agent.term().status.success());
}

#[test]
fn the_log_is_lines_of_text_or_of_json_without_control_characters_of_others() {
    let (directory, path, _) = directory();
    let evil = path.with_file_name("\x1b[2J\n\u{9b}\u{7f}evil.log");
    append(&evil, b"a line\n");
    let include = path.with_file_name("*.log");
    // Warned of at its start, since nobody may have run `check`.
    let config = Config::new("amqp://guest:s3cret@127.0.0.1:1/%2f")
        .set("batch", "level = 9")
        .source("app", &include);
    let mut agent = Agent::new(directory.path(), config);
    for format in ["text", "json"] {
        agent.start_with(&["--log-format", format]);
        agent.wait_for_log("evil.log", MINUTE);
        agent.wait_for_log("no connection to the broker", MINUTE);
        agent.wait_for_log("a level without compression does nothing", MINUTE);
        assert!(agent.term().status.success());
        let log = agent.stderr();
        let harmless = |c: char| c == '\n' || !c.is_control();
        assert!(log.chars().all(harmless), "{log:?}");
        assert!(!log.contains("s3cret"), "{log}");
        for line in log.lines() {
            let value = serde_json::from_str::<Value>(line);
            assert_eq!(
                value.is_ok_and(|value| value["level"].is_string()),
                format == "json"
            );
        }
    }
    wait_for(MINUTE, "the log names the place of the warning", || {
        agent.stderr().contains("fantail.toml:")
    });
}
