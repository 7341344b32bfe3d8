//! What README.md says to do on the broker's side, done as it is printed there, and fantail with it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::support::agent::{Agent, Config};
use crate::support::broker::{Broker, Version};
use crate::support::readme::printed_commands;
use crate::support::wait::wait_for;
use crate::support::writers::append;

const MINUTE: Duration = Duration::from_secs(60);
const QUEUES: [&str; 3] = ["archive", "alerting", "search"];

#[test]
fn the_printed_rights_are_enough_to_make_the_topology_and_fewer_to_write_to_it() {
    the_printed_rights_are_enough_on(&Broker::start());
}

#[test]
fn the_printed_rights_are_enough_on_rabbitmq_4() {
    the_printed_rights_are_enough_on(&Broker::start_version(Version::V4_0));
}

fn the_printed_rights_are_enough_on(broker: &Broker) {
    let directory = tempfile::tempdir().unwrap();
    do_as_printed(broker, "maker");
    ships_a_line(broker, &directory.path().join("maker"), "", 1);
    broker.ctl(&["delete_user", "fantail"]);
    do_as_printed(broker, "writer");
    let never = "declare = \"never\"";
    ships_a_line(broker, &directory.path().join("writer"), never, 2);
}

/// A new agent, under the user of README.md's, brings every queue to `messages`.
fn ships_a_line(broker: &Broker, directory: &Path, setting: &str, messages: u32) {
    fs::create_dir(directory).unwrap();
    let path = directory.join("a.log");
    append(&path, b"a line\n");
    let config = Config::new(&broker.url_with("fantail", "PASSWORD", "/"))
        .set("broker", setting)
        .source("app", &path);
    let mut agent = Agent::new(directory, config);
    agent.start();
    let amqp = broker.amqp();
    wait_for(MINUTE, "the line is in every queue", || {
        QUEUES
            .iter()
            .all(|queue| amqp.message_count(queue) == Some(messages))
    });
    assert!(agent.term().status.success());
    assert!(!agent.stderr().contains("REFUSED"), "{}", agent.stderr());
}

#[test]
fn the_printed_policy_keeps_what_rabbitmq_4_would_throw_away_after_20_returns() {
    let broker = Broker::start_version(Version::V4_0);
    let amqp = broker.amqp();
    for queue in ["archive", "elsewhere"] {
        amqp.declare_queue(queue, "quorum", &[]);
        amqp.publish("", queue, b"a line");
    }
    do_as_printed(&broker, "unlimited");
    let returns = |queue: &str| (0..30).take_while(|_| amqp.give_back(queue)).count();
    assert_eq!(returns("elsewhere"), 21);
    assert_eq!(returns("archive"), 30);
}

fn do_as_printed(broker: &Broker, name: &str) {
    for command in printed_commands(name) {
        let (program, arguments) = command.split_first().expect("a command");
        assert_eq!(program, "rabbitmqctl");
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        broker.ctl(&arguments);
    }
}
