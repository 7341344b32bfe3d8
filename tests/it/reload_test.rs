//! SIGHUP: what is set otherwise is followed, what cannot be used changes nothing, and no line is lost or
//! comes twice for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lapin::ExchangeKind;
use rustix::process::Signal;

use crate::support::agent::{Agent, Config};
use crate::support::amqp::Consumer;
use crate::support::broker::Broker;
use crate::support::oracle::Ledger;
use crate::support::wait::wait_for;
use crate::support::writers::{Load, append, numbered_lines};

const MINUTE: Duration = Duration::from_secs(60);

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("logs")).unwrap();
    directory
}

fn log(directory: &tempfile::TempDir, name: &str) -> PathBuf {
    directory.path().join("logs").join(name)
}

/// An agent with an exchange and one queue of its own names.
fn config(broker: &Broker, name: &str) -> Config {
    Config::new(&broker.url())
        .set("broker", &format!("exchange = \"{name}\""))
        .set("broker", "check_interval = \"200ms\"")
        .append(&format!("[[broker.queue]]\nname = \"{name}\"\n"))
}

fn with(config: &Config, name: &str, path: &Path, lines: &str) -> Config {
    let lines = format!("poll_interval = \"100ms\"\n{lines}");
    config.clone().source_with(name, path, &lines)
}

/// Tells the agent to read its configuration again, and waits until it followed or refused it.
fn reload(agent: &Agent, config: Config) {
    let before = reloads(agent);
    agent.configure(config);
    agent.signal(Signal::HUP);
    wait_for(MINUTE, "the reload is over", || reloads(agent) > before);
}

fn reloads(agent: &Agent) -> usize {
    let log = agent.stderr();
    let over = [
        "configuration reloaded",
        "the new configuration is not used",
    ];
    over.iter().map(|text| log.matches(text).count()).sum()
}

fn error(agent: &Agent) -> Option<String> {
    let status = agent.status().expect("a status");
    status["config"]["reload_error"].as_str().map(str::to_owned)
}

fn source_names(agent: &Agent) -> Vec<String> {
    let status = agent.status().expect("a status");
    let sources = status["sources"].as_array().expect("sources").iter();
    sources
        .map(|source| source["name"].as_str().expect("a name").to_owned())
        .collect()
}

fn taken(broker: &Broker, queue: &str, files: &[(&Path, usize)]) -> Ledger {
    let mut consumer = Consumer::open(&broker.url(), queue);
    let mut ledger = Ledger::new();
    ledger.take_until(&mut consumer, MINUTE, "every byte", |ledger| {
        let mut files = files.iter();
        files.all(|(path, size)| ledger.has_covered(path.to_str().unwrap(), *size))
    });
    ledger.take_rest(&mut consumer, MINUTE);
    ledger.assert_clean();
    ledger
}

fn wait_until_confirmed(agent: &Agent, path: &Path, bytes: usize) {
    agent.wait_for_status("everything is confirmed", |status| {
        let mut files = status["files"].as_array().expect("files").iter();
        files.any(|file| file["path"] == path.to_str().unwrap() && file["confirmed"] == bytes)
    });
}

#[test]
fn a_source_comes_and_goes_and_a_configuration_that_cannot_be_used_changes_nothing() {
    let broker = Broker::shared();
    let directory = directory();
    let (a, b) = (log(&directory, "a.log"), log(&directory, "b.log"));
    append(&a, b"one\n");
    append(&b, b"one\n");
    let base = config(broker, "reload-come-and-go");
    let first = with(&base, "a", &a, "");
    let mut agent = Agent::new(directory.path(), first.clone());
    agent.start();
    wait_until_confirmed(&agent, &a, 4);
    assert_eq!(source_names(&agent), ["a"]);
    let loaded_at = || agent.status().unwrap()["config"]["loaded_at"].clone();
    let before = loaded_at();

    // A bad file: told with its place, and nothing else.
    reload(&agent, first.clone().append("[batch]\nlinger = \"two\"\n"));
    let told = error(&agent).expect("an error");
    assert!(
        told.contains("fantail.toml:") && told.contains("\"two\""),
        "{told}"
    );
    // What cannot change while it runs.
    reload(&agent, first.clone().set("agent", "host = \"another\""));
    let told = error(&agent).expect("an error");
    assert!(told.contains("agent.host does not change"), "{told}");
    append(&a, b"two\n");
    wait_until_confirmed(&agent, &a, 8);
    assert_eq!(loaded_at(), before);

    reload(&agent, with(&first, "b", &b, "labels = { new = \"yes\" }"));
    assert_eq!(error(&agent), None);
    assert_ne!(loaded_at(), before);
    wait_until_confirmed(&agent, &b, 4);
    assert_eq!(source_names(&agent), ["a", "b"]);

    // `a` goes; its file is closed, and what is written meanwhile waits.
    reload(&agent, with(&base, "b", &b, ""));
    assert_eq!(source_names(&agent), ["b"]);
    wait_for(MINUTE, "the file is closed", || {
        !agent.open_paths().contains(&a)
    });
    append(&a, b"three\n");
    append(&b, b"two\n");
    wait_until_confirmed(&agent, &b, 8);
    reload(&agent, with(&first, "b", &b, ""));
    wait_until_confirmed(&agent, &a, 14);

    let sizes = [(a.as_path(), 14), (b.as_path(), 8)];
    let ledger = taken(broker, "reload-come-and-go", &sizes);
    ledger.assert_no_repeats();
    ledger.assert_holds_file(a.to_str().unwrap(), b"one\ntwo\nthree\n");
    ledger.assert_holds_file(b.to_str().unwrap(), b"one\ntwo\n");
    assert!(agent.term().status.success());
}

/// Under full load: sources come and go, lines are treated one way and the other, batches have other
/// sizes and another compression.
#[test]
fn two_hundred_reloads_under_load_lose_nothing_and_repeat_nothing() {
    let broker = Broker::shared();
    let directory = directory();
    let names = ["a.log", "b.log", "c.log"];
    let paths = names.map(|name| log(&directory, name));
    let base = config(broker, "reload-load");
    let configured = |round: usize| {
        let mut config = base.clone();
        if round % 2 == 1 {
            config = config.set("batch", "max_bytes = \"20KiB\"");
        }
        if round % 3 == 1 {
            config = config.set("batch", "compression = \"zstd\"");
        }
        if round % 5 == 1 {
            config = config.set("broker", "max_in_flight = \"300KiB\"");
        }
        for (index, path) in paths.iter().enumerate() {
            // The first one stays; the others come and go, each in its own time.
            if index == 0 || !round.is_multiple_of(index + 2) {
                let labels = format!("labels = {{ round = \"{}\" }}", round / 4);
                let lines = if index == 1 { &*labels } else { "" };
                config = with(&config, names[index], path, lines);
            }
        }
        config
    };
    let mut agent = Agent::new(directory.path(), configured(1));
    agent.start();
    let loads = paths.each_ref().map(|path| Load::start(path, "line"));
    let backlog = numbered_lines("much", 300_000);
    let heavy = {
        let path = paths[0].with_file_name("heavy.log");
        append(&path, &backlog);
        path
    };
    agent.wait_for_status("it runs", |_| true);
    let early = agent.resident();
    let mut peak_at_50 = 0;
    for round in 2..202 {
        reload(&agent, with(&configured(round), "heavy", &heavy, ""));
        if round == 52 {
            peak_at_50 = agent.resident();
        }
    }
    assert_eq!(error(&agent), None);
    let late = agent.resident();
    println!("resident: {early} at first, {peak_at_50} after 50 reloads, {late} after 200");
    assert!(late < peak_at_50 + (16 << 20), "grows with reloads");
    let written = loads.map(Load::stop);
    reload(&agent, with(&configured(209), "heavy", &heavy, ""));
    let mut files: Vec<(&Path, usize)> = Vec::new();
    for (path, content) in paths.iter().zip(&written) {
        files.push((path, content.len()));
    }
    files.push((&heavy, backlog.len()));
    let ledger = taken(broker, "reload-load", &files);
    ledger.assert_no_repeats();
    for (path, content) in paths.iter().zip(&written) {
        ledger.assert_holds_file(path.to_str().unwrap(), content);
    }
    ledger.assert_holds_file(heavy.to_str().unwrap(), &backlog);
    assert!(agent.term().status.success());
}

/// Under load the exchange changes, and with it the queues: everything is in the ones or the others.
#[test]
fn another_exchange_takes_over_behind_everything_that_the_first_one_confirmed() {
    let broker = Broker::shared();
    let directory = directory();
    let path = log(&directory, "a.log");
    let first = with(&config(broker, "reload-first"), "a", &path, "");
    let second = with(&config(broker, "reload-second"), "a", &path, "");
    broker
        .amqp()
        .declare_exchange("reload-second", ExchangeKind::Fanout);
    let mut agent = Agent::new(directory.path(), first);
    agent.start();
    let load = Load::start(&path, "line");
    wait_for(MINUTE, "some of it arrives", || {
        agent
            .status()
            .is_some_and(|status| status["files"][0]["confirmed"] != 0)
    });
    reload(&agent, second);
    agent.wait_for_status("it publishes to the other one", |status| {
        status["queues"][0]["name"] == "reload-second" && status["queues"][0]["present"] == true
    });
    let confirmed = agent.status().unwrap()["files"][0]["confirmed"].as_u64();
    wait_for(MINUTE, "more of it arrives", || {
        let status = agent.status().expect("a status");
        status["files"][0]["confirmed"].as_u64() > confirmed
    });
    let written = load.stop();
    wait_until_confirmed(&agent, &path, written.len());
    // Both queues' messages, one after the other, are the file.
    let mut ledger = Ledger::new();
    for queue in ["reload-first", "reload-second"] {
        let mut consumer = Consumer::open(&broker.url(), queue);
        ledger.take_rest(&mut consumer, MINUTE);
    }
    ledger.assert_clean();
    ledger.assert_no_repeats();
    ledger.assert_holds_file(path.to_str().unwrap(), &written);
    assert!(agent.term().status.success());
}

/// The broker that was configured does not answer; the next one does.
#[test]
fn a_broker_that_is_away_is_not_waited_for() {
    let broker = Broker::shared();
    let directory = directory();
    let path = log(&directory, "a.log");
    let content = numbered_lines("line", 1000);
    append(&path, &content);
    let wrong = Config::new("amqp://guest:guest@127.0.0.1:1/%2f");
    let mut agent = Agent::new(directory.path(), with(&wrong, "a", &path, ""));
    agent.start();
    agent.wait_for_log("no connection to the broker", MINUTE);
    let right = with(&config(broker, "reload-away"), "a", &path, "");
    reload(&agent, right);
    wait_until_confirmed(&agent, &path, content.len());
    let ledger = taken(broker, "reload-away", &[(&path, content.len())]);
    ledger.assert_no_repeats();
    ledger.assert_holds_file(path.to_str().unwrap(), &content);
}
