//! A broker in every kind of trouble, one after the other, while lines are written all the time:
//! each is told, ends by itself when the trouble ends, and no line is missing in any queue.

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::agent::{Agent, Config};
use crate::support::amqp::Consumer;
use crate::support::broker::{Broker, Version};
use crate::support::is_all;
use crate::support::oracle::Ledger;
use crate::support::wait::wait_for;
use crate::support::writers::{Load, append, numbered_lines};

const MINUTE: Duration = Duration::from_secs(60);
const QUEUES: [&str; 3] = ["archive", "alerting", "search"];
/// The confirm timer of these agents; the heartbeat is sooner to notice a broker that stands still.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(7);

/// An agent with a user and a virtual host of its own, and a log.
struct Trial {
    broker: Broker,
    agent: Agent,
    path: PathBuf,
    _directory: TempDir,
}

impl Trial {
    /// Without the virtual host.
    fn new(version: Version) -> Self {
        let broker = Broker::start_version(version);
        let directory = tempfile::tempdir().unwrap();
        let logs = directory.path().join("logs");
        fs::create_dir(&logs).unwrap();
        let path = logs.join("a.log");
        let config = Config::new(&broker.url_with("shipper", "s3cret", "ship"))
            .set("agent", "shutdown_timeout = \"4s\"")
            .set("broker", "check_interval = \"200ms\"\nheartbeat = \"2s\"")
            .set("broker", "connect_timeout = \"5s\"")
            .set(
                "broker",
                &format!("confirm_timeout = \"{CONFIRM_TIMEOUT:?}\""),
            )
            .source("app", &path);
        let agent = Agent::new(directory.path(), config);
        broker.ctl(&["add_user", "shipper", "s3cret"]);
        Self {
            broker,
            agent,
            path,
            _directory: directory,
        }
    }

    fn make_vhost(&self) {
        self.broker.ctl(&["add_vhost", "ship"]);
        self.allow("guest", ".*");
        self.allow("shipper", ".*");
    }

    /// What the user may write to.
    fn allow(&self, user: &str, write: &str) {
        let arguments = ["set_permissions", "-p", "ship", user, ".*", write, ".*"];
        self.broker.ctl(&arguments);
    }

    fn cut(&self, why: &str) {
        self.broker
            .ctl(&["close_all_connections", "-p", "ship", why]);
    }

    /// How many connections the node takes; its listeners run, and do not ask again.
    fn limit_node(&self, connections: &str) {
        let expression = format!(
            "[ranch:set_max_connections(Ref, {connections}) || Ref <- maps:keys(ranch:info())]."
        );
        self.broker.ctl(&["eval", &expression]);
    }

    fn told(&self, text: &str) -> usize {
        self.agent.stderr().matches(text).count()
    }

    /// What the last trouble that is over was told to have been: attempts that failed.
    fn failures(&self) -> u64 {
        let log = self.agent.stderr();
        let told = "the broker confirms messages again failures=";
        let (_, count) = log.rsplit_once(told).expect("it is told");
        count.split(' ').next().unwrap().parse().unwrap()
    }

    fn connects(&self) -> usize {
        self.told("connected to the broker address")
    }

    /// After `connects` connections there is another, over which marks move.
    fn wait_recovered(&self, connects: usize) {
        wait_for(MINUTE, "there is a new connection", || {
            self.connects() > connects
        });
        self.wait_marks_move();
    }

    fn wait_marks_move(&self) {
        let confirmed = |status: &serde_json::Value| status["files"][0]["confirmed"].as_u64();
        let before = self
            .agent
            .wait_for_status("marks", |status| confirmed(status).is_some());
        self.agent.wait_for_status("marks move", |status| {
            confirmed(status) > confirmed(&before)
        });
    }

    fn wait_blocked(&self, why: &str) {
        self.agent.wait_for_status("it is blocked", |status| {
            let broker = &status["broker"];
            broker["state"] == "blocked" && broker["last_error"].to_string().contains(why)
        });
    }

    fn wait_failed(&self, why: &str) {
        self.agent.wait_for_status(why, |status| {
            status["broker"]["last_error"].to_string().contains(why)
        });
    }

    fn take(&self, ledgers: &mut [Ledger], content: &[u8]) {
        let path = self.path.to_str().unwrap();
        let url = self.broker.url_with("guest", "guest", "ship");
        for (queue, ledger) in QUEUES.iter().zip(ledgers) {
            let mut consumer = Consumer::open(&url, queue);
            ledger.take_until(&mut consumer, 2 * MINUTE, "every byte", |ledger| {
                ledger.has_covered(path, content.len())
            });
            ledger.take_rest(&mut consumer, MINUTE);
            ledger.assert_clean();
            ledger.assert_holds_file(path, content);
        }
    }
}

#[test]
fn a_broker_in_every_kind_of_trouble_gets_every_line_and_each_is_told() {
    let mut trial = Trial::new(Version::V3_10);
    let load = Load::start(&trial.path, "line");
    trial.agent.start();
    trial.wait_failed("530 NOT_ALLOWED - vhost ship not found");
    trial.make_vhost();
    trial.wait_recovered(0);
    assert_eq!(trial.told("vhost ship not found"), 1);

    everything_happens_to(&mut trial);

    let mut content = load.stop();
    let mut ledgers: Vec<Ledger> = QUEUES.iter().map(|_| Ledger::new()).collect();
    trial.take(&mut ledgers, &content);
    trial
        .agent
        .wait_for_status("everything is confirmed", |status| {
            status["files"][0]["lag"] == 0
        });
    // With the virtual host goes what was in its queues, which was consumed here.
    let connects = trial.connects();
    trial.broker.ctl(&["delete_vhost", "ship"]);
    let more = numbered_lines("after that", 100);
    append(&trial.path, &more);
    content.extend(more);
    trial.wait_failed("vhost ship not found");
    trial.make_vhost();
    wait_for(MINUTE, "there is a new connection", || {
        trial.connects() > connects
    });
    trial
        .agent
        .wait_for_status("everything is confirmed", |status| {
            status["files"][0]["lag"] == 0
        });
    trial.take(&mut ledgers, &content);
    assert_eq!(trial.agent.lost_bytes(), 0);
    assert!(!trial.agent.stderr().contains("s3cret"));
    assert!(trial.agent.term().status.success());
}

/// What happens without anybody's doing, unless all is wanted: the rest is as with the oldest version.
#[test]
fn rabbitmq_4_in_trouble_gets_every_line_too() {
    let mut trial = Trial::new(Version::V4_0);
    trial.make_vhost();
    let load = Load::start(&trial.path, "line");
    trial.agent.start();
    trial.wait_recovered(0);
    if is_all() {
        everything_happens_to(&mut trial);
    } else {
        memory_blocks(&trial);
        the_broker_restarts(&mut trial);
    }
    let content = load.stop();
    let mut ledgers: Vec<Ledger> = QUEUES.iter().map(|_| Ledger::new()).collect();
    trial.take(&mut ledgers, &content);
    assert_eq!(trial.agent.lost_bytes(), 0);
    assert!(trial.agent.term().status.success());
}

fn everything_happens_to(trial: &mut Trial) {
    connections_are_cut(trial);
    there_may_be_no_more_connections(trial);
    the_user_may_not_write(trial);
    a_message_is_too_large(trial);
    alarms_block(trial);
    a_stop_while_blocked_is_quick(trial);
    nobody_answers_for_a_while(trial);
    the_broker_restarts(trial);
}

fn connections_are_cut(trial: &Trial) {
    for round in ["one", "two", "three"] {
        let connects = trial.connects();
        trial.cut(round);
        trial
            .agent
            .wait_for_log(&format!("320 CONNECTION_FORCED - {round}"), MINUTE);
        trial.wait_recovered(connects);
    }
}

/// Of the user, of the virtual host, of the node.
fn there_may_be_no_more_connections(trial: &Trial) {
    let none = "{\"max-connections\": 0}";

    let connects = trial.connects();
    trial.broker.ctl(&["set_user_limits", "shipper", none]);
    trial.cut("limited");
    trial.wait_failed("user connection limit (0) is reached");
    trial.broker.ctl(&["clear_user_limits", "shipper", "all"]);
    trial.wait_recovered(connects);
    assert_eq!(trial.told("user connection limit"), 1);

    let connects = trial.connects();
    trial.broker.ctl(&["set_vhost_limits", "-p", "ship", none]);
    trial.cut("limited");
    trial.wait_failed("connection limit (0) is reached");
    trial.broker.ctl(&["clear_vhost_limits", "-p", "ship"]);
    trial.wait_recovered(connects);

    let connects = trial.connects();
    trial.limit_node("0");
    // Whoever accepts takes one more, and nobody tells the next ones.
    let port = trial.broker.amqp_port();
    let held: Vec<TcpStream> = (0..32)
        .flat_map(|_| TcpStream::connect(("127.0.0.1", port)))
        .collect();
    trial.cut("limited");
    trial.wait_failed("no end of the AMQP handshake");
    trial.wait_failed("connection_max");
    trial.limit_node("infinity");
    drop(held);
    trial.wait_recovered(connects);
}

fn the_user_may_not_write(trial: &Trial) {
    let refused = "403 ACCESS_REFUSED";
    trial.allow("shipper", "^$");
    // A channel remembers what it may.
    trial.cut("rights");
    trial.wait_failed(refused);
    let connects = trial.connects();
    wait_for(MINUTE, "it tries again", || {
        trial.connects() >= connects + 3
    });
    trial.allow("shipper", ".*");
    trial.wait_recovered(trial.connects());
    let refused = format!("no connection to the broker; trying again reason=\"{refused}");
    assert_eq!(trial.told(&refused), 1, "{}", trial.agent.stderr());
    assert!(trial.failures() >= 3, "{}", trial.agent.stderr());
    assert_eq!(trial.told("whether a queue is bound is not known"), 3);
}

fn a_message_is_too_large(trial: &Trial) {
    let limit = |value: &str| {
        // Where RabbitMQ 3.10 looks, and where 4.0 does.
        let expression = format!(
            "application:set_env(rabbit, max_message_size, {value}), \
             persistent_term:put(max_message_size, {value})."
        );
        trial.broker.ctl(&["eval", &expression]);
        // A channel remembers it.
        trial.cut("limit");
    };
    let text = "is larger than configured max size 100";
    let connects = trial.connects();
    limit("100");
    trial.wait_failed(text);
    trial.wait_failed("lower batch.max_bytes");
    limit("134217728");
    trial.wait_recovered(connects);
    // Once for the batches as they were, and once for the smallest that are tried.
    assert!(trial.told(text) <= 2, "{}", trial.agent.stderr());
    assert_eq!(trial.told("invalid channel state"), 0);
}

fn memory_blocks(trial: &Trial) {
    let connects = trial.connects();
    let memory = |mark| trial.broker.ctl(&["set_vm_memory_high_watermark", mark]);
    memory("0.0000001");
    trial.wait_blocked("low on memory");
    memory("0.6");
    trial.wait_marks_move();
    assert_eq!(trial.connects(), connects);
}

/// Also for longer than the confirm timer, and until the last of two alarms has ended.
fn alarms_block(trial: &Trial) {
    let connects = trial.connects();
    let memory = |mark| trial.broker.ctl(&["set_vm_memory_high_watermark", mark]);
    let disk = |limit| trial.broker.ctl(&["set_disk_free_limit", limit]);
    memory("0.0000001");
    trial.wait_blocked("low on memory");
    let since = Instant::now();
    wait_for(MINUTE, "the confirm timer would have run out", || {
        since.elapsed() > CONFIRM_TIMEOUT + Duration::from_secs(2)
    });
    disk("1000000000000000");
    memory("0.6");
    trial.wait_blocked("low on");
    disk("1MB");
    trial.wait_marks_move();
    let status = trial.agent.status().unwrap();
    assert_eq!(status["broker"]["state"], "connected");
    assert_eq!(
        trial.connects(),
        connects,
        "a broker that blocks is not left"
    );
    assert_eq!(trial.told("takes messages again"), 1);
}

fn a_stop_while_blocked_is_quick(trial: &mut Trial) {
    trial
        .broker
        .ctl(&["set_vm_memory_high_watermark", "0.0000001"]);
    trial.wait_blocked("low on memory");
    let ended = trial.agent.term();
    assert!(ended.status.success());
    assert!(ended.took < Duration::from_secs(6), "{:?}", ended.took);
    trial.agent.start();
    trial.wait_blocked("low on memory");
    trial.broker.ctl(&["set_vm_memory_high_watermark", "0.6"]);
    trial.wait_marks_move();
}

/// First the broker stands still, then the agent, each for longer than the heartbeat.
fn nobody_answers_for_a_while(trial: &Trial) {
    let connects = trial.connects();
    trial.broker.pause();
    trial.wait_failed("no heartbeat from the broker");
    trial.broker.resume();
    trial.wait_recovered(connects);

    let connects = trial.connects();
    trial.agent.pause();
    wait_for(MINUTE, "the broker gives the agent up", || {
        !trial
            .broker
            .ctl(&["list_connections", "user"])
            .contains("shipper")
    });
    trial.agent.resume();
    trial.wait_recovered(connects);
}

fn the_broker_restarts(trial: &mut Trial) {
    for kill in [true, false] {
        let connects = trial.connects();
        if kill {
            trial.broker.kill9();
        } else {
            trial.broker.stop();
        }
        trial
            .agent
            .wait_for_status("it is down", |status| status["broker"]["state"] == "down");
        trial.broker.start_again();
        trial.wait_recovered(connects);
    }
}
