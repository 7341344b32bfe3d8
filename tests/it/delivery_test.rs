//! Lines reach all three queues: once, in order, over kills, outages and full queues.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::agent::{Agent, Config};
use crate::support::amqp::Consumer;
use crate::support::broker::{Broker, Version};
use crate::support::oracle::{Ledger, complete_lines};
use crate::support::random::Random;
use crate::support::wait::wait_for;
use crate::support::writers::{Writer, append, eight_logs, log_text, numbered_lines};

const QUEUES: [&str; 3] = ["archive", "alerting", "search"];
const MINUTE: Duration = Duration::from_secs(60);

/// A directory for logs alone: the agent's own log stands beside it.
fn logs(directory: &tempfile::TempDir) -> PathBuf {
    let logs = directory.path().join("logs");
    fs::create_dir(&logs).unwrap();
    logs
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the test's own path is UTF-8")
}

/// Takes everything that stands in `files` from every queue, and judges it.
fn assert_all_queues_hold(broker: &Broker, files: &[(PathBuf, Vec<u8>)], repeats: bool) {
    for queue in QUEUES {
        let mut ledger = Ledger::new();
        wait_for(MINUTE, "the queue is there", || {
            broker.amqp().queue_exists(queue)
        });
        let mut consumer = Consumer::open(&broker.url(), queue);
        ledger.take_until(&mut consumer, 2 * MINUTE, "every byte", |ledger| {
            files.iter().all(|(path, content)| {
                ledger.has_covered(text(path), complete_lines(content).len())
            })
        });
        ledger.take_rest(&mut consumer, MINUTE);
        ledger.assert_clean();
        if !repeats {
            ledger.assert_no_repeats();
        }
        for (path, content) in files {
            ledger.assert_holds_file(text(path), complete_lines(content));
        }
    }
}

#[test]
fn files_that_were_there_and_files_that_grow_reach_all_three_queues_whole_and_once() {
    files_reach_all_three_queues_of(&Broker::start());
}

#[test]
fn the_queues_of_rabbitmq_4_get_files_whole_and_once_too() {
    files_reach_all_three_queues_of(&Broker::start_version(Version::V4_0));
}

fn files_reach_all_three_queues_of(broker: &Broker) {
    let directory = tempfile::tempdir().unwrap();
    let logs = logs(&directory);
    let mut random = Random::from_environment();
    let mut files = Vec::new();
    let mut growing = Vec::new();
    for (index, (name, content)) in eight_logs(&mut random).into_iter().enumerate() {
        let path = logs.join(name);
        if index % 2 == 0 {
            fs::write(&path, &content).unwrap();
        } else {
            growing.push((path.clone(), content.clone()));
        }
        files.push((path, content));
    }
    let config = Config::new(&broker.url()).source("app", &logs.join("*.log"));
    let mut agent = Agent::new(directory.path(), config);
    agent.start();
    let writers: Vec<Writer> = growing
        .into_iter()
        .map(|(path, content)| Writer::start(&path, content, random.fork()))
        .collect();
    writers.into_iter().for_each(Writer::finish);
    assert_all_queues_hold(broker, &files, false);
    assert!(agent.term().status.success());
}

#[test]
fn after_a_stop_the_next_start_goes_on_without_repeating_a_byte() {
    let directory = tempfile::tempdir().unwrap();
    let logs = logs(&directory);
    let broker = Broker::start();
    let path = logs.join("a.log");
    let config = Config::new(&broker.url()).source("app", &path);
    let mut agent = Agent::new(directory.path(), config);
    let mut content = Vec::new();
    for run in 0..3 {
        let lines = numbered_lines(&format!("run {run}, line"), 1000);
        append(&path, &lines);
        append(&path, b"begun in one run");
        content.extend([&lines[..], b"begun in one run"].concat());
        agent.start();
        let (covered, whole) = (complete_lines(&content).len(), content.len());
        wait_for(MINUTE, "everything is in a queue", || {
            agent.stderr().contains("exchange and queues are there")
                && broker.amqp().message_count("search").is_some()
        });
        let ended = agent.term();
        assert!(ended.status.success(), "{}", agent.stderr());
        assert!(ended.took < Duration::from_secs(10), "{:?}", ended.took);
        append(&path, b", finished in the next\n");
        content.extend(b", finished in the next\n");
        assert!(covered < whole);
    }
    agent.start();
    assert_all_queues_hold(&broker, &[(path, content)], false);
}

#[test]
fn twenty_kills_of_the_agent_and_five_of_the_broker_leave_no_gap_in_any_queue() {
    let directory = tempfile::tempdir().unwrap();
    let logs = logs(&directory);
    let mut random = Random::from_environment();
    let mut broker = Broker::start();
    let config = Config::new(&broker.url())
        .set("broker", "check_interval = \"500ms\"")
        .source("app", &logs.join("*.log"));
    let mut agent = Agent::new(directory.path(), config);
    let mut files = Vec::new();
    let mut writers = Vec::new();
    for (name, content) in eight_logs(&mut random) {
        let path = logs.join(name);
        let rate = content.len() as u64 / 40;
        writers.push(Writer::start_at(
            &path,
            content.clone(),
            random.fork(),
            rate,
        ));
        files.push((path, content));
    }
    for kill in 1..=20 {
        agent.start();
        let messages = |agent: &Agent| {
            agent
                .stderr()
                .matches("exchange and queues are there")
                .count()
        };
        if kill % 2 == 0 {
            // Half of the kills fall into the work, half into starting and connecting.
            wait_for(MINUTE, "the agent publishes", || messages(&agent) > 0);
        }
        let until = std::time::Instant::now() + Duration::from_millis(random.below(1200) as u64);
        wait_for(MINUTE, "a random moment", || {
            std::time::Instant::now() >= until
        });
        if kill % 4 == 0 {
            broker.kill9();
            agent.kill9();
            broker.start_again();
        } else {
            agent.kill9();
        }
    }
    agent.start();
    writers.into_iter().for_each(Writer::finish);
    assert_all_queues_hold(&broker, &files, true);
}

#[test]
fn a_queue_deleted_half_way_is_made_again_and_gets_all_since_the_last_good_check() {
    a_queue_is_deleted_half_way(&Broker::start());
}

#[test]
fn rabbitmq_4_is_sent_again_what_a_deleted_queue_missed_and_waited_for_while_a_queue_is_full() {
    let broker = Broker::start_version(Version::V4_0);
    a_queue_is_deleted_half_way(&broker);
    for queue in QUEUES {
        broker.amqp().delete_queue(queue);
    }
    a_full_queue_refuses(&broker);
}

fn a_queue_is_deleted_half_way(broker: &Broker) {
    let directory = tempfile::tempdir().unwrap();
    let logs = logs(&directory);
    let path = logs.join("a.log");
    let config = Config::new(&broker.url())
        .set("broker", "check_interval = \"1s\"")
        .source("app", &path);
    let mut agent = Agent::new(directory.path(), config);
    let first = numbered_lines("first", 20_000);
    append(&path, &first);
    agent.start();
    wait_for(MINUTE, "search is there", || {
        broker.amqp().queue_exists("search")
    });
    let mut ledgers: Vec<Ledger> = QUEUES.iter().map(|_| Ledger::new()).collect();
    for (queue, ledger) in QUEUES.iter().zip(&mut ledgers) {
        let mut consumer = Consumer::open(&broker.url(), queue);
        ledger.take_until(&mut consumer, MINUTE, "the first half", |ledger| {
            ledger.has_covered(text(&path), first.len())
        });
    }
    broker.amqp().delete_queue("search");
    let second = numbered_lines("second", 20_000);
    append(&path, &second);
    let content = [first, second].concat();
    agent.wait_for_log("sending again", MINUTE);
    wait_for(MINUTE, "search is there again", || {
        broker.amqp().queue_exists("search")
    });
    for (queue, ledger) in QUEUES.iter().zip(&mut ledgers) {
        let mut consumer = Consumer::open(&broker.url(), queue);
        ledger.take_until(&mut consumer, MINUTE, "everything", |ledger| {
            ledger.has_covered(text(&path), content.len())
        });
        ledger.assert_clean();
        ledger.assert_holds_file(text(&path), &content);
    }
}

#[test]
fn a_full_queue_that_refuses_is_waited_for_alone_and_nothing_is_missing() {
    a_full_queue_refuses(&Broker::start());
}

fn a_full_queue_refuses(broker: &Broker) {
    let directory = tempfile::tempdir().unwrap();
    let logs = logs(&directory);
    let path = logs.join("a.log");
    let config = Config::new(&broker.url())
        .set("broker", "max_in_flight = \"1MiB\"")
        .set("batch", "max_bytes = \"16KiB\"")
        .source("app", &path)
        .append("[[broker.queue]]\nname = \"archive\"\n[[broker.queue]]\nname = \"alerting\"")
        .append("[[broker.queue]]\nname = \"search\"\ntype = \"classic\"")
        .append("arguments = { x-max-length = 5, x-overflow = \"reject-publish\" }");
    let mut agent = Agent::new(directory.path(), config);
    let content = numbered_lines("line", 20_000);
    append(&path, &content);
    agent.start();
    agent.wait_for_log("queue refuses messages", MINUTE);
    for queue in ["search", "archive", "alerting"] {
        let mut ledger = Ledger::new().tolerating_disorder();
        let mut consumer = Consumer::open(&broker.url(), queue);
        ledger.take_until(&mut consumer, 3 * MINUTE, "everything", |ledger| {
            ledger.has_covered(text(&path), content.len())
        });
        ledger.assert_clean();
        ledger.assert_holds_file(text(&path), &content);
    }
    assert!(
        agent.stderr().contains("queue=search"),
        "{}",
        agent.stderr()
    );
}

#[test]
fn an_agent_without_its_broker_is_ready_stays_small_and_sends_when_the_broker_comes() {
    let directory = tempfile::tempdir().unwrap();
    let logs = logs(&directory);
    let mut random = Random::from_environment();
    let mut broker = Broker::absent();
    let path = logs.join("a.log");
    let content = log_text(&mut random, 100 << 20);
    append(&path, &content);
    let config = Config::new(&broker.url()).source("app", &path);
    let mut agent = Agent::new(directory.path(), config);
    agent.start();
    agent.wait_for_log("ready", MINUTE);
    agent.wait_for_log("no connection to the broker", MINUTE);
    broker.start_again();
    let mut ledger = Ledger::new().forgetting_text();
    wait_for(MINUTE, "the queues are there", || {
        broker.amqp().queue_exists("search")
    });
    let mut consumer = Consumer::open(&broker.url(), "search");
    ledger.take_until(&mut consumer, 3 * MINUTE, "everything", |ledger| {
        ledger.has_covered(text(&path), content.len())
    });
    ledger.assert_clean();
    ledger.assert_no_repeats();
    let peak = agent.resident_peak() >> 20;
    // A full window each of what is read and of what comes back from the spool.
    assert!(peak < 96, "{peak} MiB");
    assert!(agent.term().status.success());
}
#[test]
fn renamed_and_deleted_files_are_read_to_their_end_and_the_new_one_after_them() {
    let directory = tempfile::tempdir().unwrap();
    let logs = logs(&directory);
    let broker = Broker::start();
    let path = logs.join("a.log");
    let config = Config::new(&broker.url()).source("app", &logs.join("*.log"));
    let mut agent = Agent::new(directory.path(), config);
    agent.start();
    let mut generations = Vec::new();
    for number in 0..3 {
        let mut content = numbered_lines(&format!("generation {number}, line"), 2000);
        append(&path, &content);
        content.extend(b"the last line has no end");
        append(&path, b"the last line has no end");
        agent.wait_for_log(&format!("log file found path=\"{}\"", text(&path)), MINUTE);
        wait_for(MINUTE, "this generation was found", || {
            agent.stderr().matches("log file found").count() == number + 1
        });
        fs::rename(&path, logs.join("a.log.1")).unwrap();
        generations.push(content);
    }
    fs::remove_file(logs.join("a.log.1")).unwrap();
    for queue in QUEUES {
        let mut ledger = Ledger::new();
        wait_for(MINUTE, "the queues are there", || {
            broker.amqp().queue_exists(queue)
        });
        let mut consumer = Consumer::open(&broker.url(), queue);
        let whole: u64 = generations.iter().map(|content| content.len() as u64).sum();
        ledger.take_until(&mut consumer, MINUTE, "everything", |ledger| {
            ledger.covered_bytes() == whole
        });
        ledger.assert_clean();
        ledger.assert_no_repeats();
        let wanted: Vec<&[u8]> = generations.iter().map(Vec::as_slice).collect();
        ledger.assert_holds_generations(text(&path), &wanted);
    }
}

#[test]
fn a_queue_that_was_made_and_may_not_be_bound_is_not_taken_for_one_that_gets_everything() {
    let directory = tempfile::tempdir().unwrap();
    let logs = logs(&directory);
    let broker = Broker::start();
    broker.ctl(&["add_user", "half", "half"]);
    // May make everything, but write to `search`, which binding needs, may it not.
    let write = "^(logs|archive|alerting|amq\\.default)$";
    broker.ctl(&["set_permissions", "half", ".*", write, ".*"]);
    let path = logs.join("a.log");
    let content = numbered_lines("line", 100);
    append(&path, &content);
    let config = Config::new(&broker.url_with("half", "half", "/"))
        .set("broker", "check_interval = \"300ms\"")
        .source("app", &path);
    let mut agent = Agent::new(directory.path(), config);
    agent.start();
    agent.wait_for_log("binding of queue search cannot be made", MINUTE);
    assert_eq!(broker.amqp().message_count("archive"), Some(0));
    broker.ctl(&["set_permissions", "half", ".*", ".*", ".*"]);
    assert_all_queues_hold(&broker, &[(path, content)], false);
}

#[test]
fn what_no_queue_took_is_sent_again_when_the_bindings_are_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let logs = logs(&directory);
    let broker = Broker::start();
    let path = logs.join("a.log");
    let config = Config::new(&broker.url()).source("app", &path);
    let mut agent = Agent::new(directory.path(), config);
    let first = numbered_lines("first", 100);
    append(&path, &first);
    agent.start();
    wait_for(MINUTE, "the first lines are in the queues", || {
        QUEUES
            .iter()
            .all(|queue| broker.amqp().message_count(queue).unwrap_or(0) > 0)
    });
    for queue in QUEUES {
        broker.amqp().unbind(queue, "logs");
    }
    let second = numbered_lines("second", 20_000);
    append(&path, &second);
    agent.wait_for_log("routed to no queue", MINUTE);
    assert_all_queues_hold(&broker, &[(path, [first, second].concat())], true);
}

#[test]
fn a_stop_without_a_broker_and_with_a_full_window_is_quick() {
    let directory = tempfile::tempdir().unwrap();
    let logs = logs(&directory);
    let mut random = Random::from_environment();
    let broker = Broker::absent();
    let path = logs.join("a.log");
    append(&path, &log_text(&mut random, 8 << 20));
    let config = Config::new(&broker.url())
        .set("broker", "max_in_flight = \"1MiB\"")
        .source("app", &path);
    let mut agent = Agent::new(directory.path(), config);
    agent.start();
    agent.wait_for_log("no connection to the broker", MINUTE);
    wait_for(MINUTE, "the lane waits for room", || {
        let output = agent.cli(&["status", "--json"]);
        String::from_utf8_lossy(&output.stdout).contains("\"full\"")
    });
    let ended = agent.term();
    assert!(ended.status.success());
    assert!(ended.took < Duration::from_secs(5), "{:?}", ended.took);
}
