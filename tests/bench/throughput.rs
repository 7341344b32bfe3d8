//! How fast a backlog reaches three quorum queues, straight from its file and out of the spool after
//! an outage, each as a ratio to a bare loop of the AMQP library that publishes the same bodies in
//! the same window; and how much memory that took.
//!
//!     cargo bench --bench throughput -- [MIB]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::needless_pass_by_value,
    missing_docs,
    unreachable_pub,
    unused_imports,
    dead_code
)]

#[path = "../it/support/mod.rs"]
mod support;

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use rusqlite::{Connection as Database, OpenFlags};
use support::agent::{Agent, Config};
use support::amqp::Consumer;
use support::broker::Broker;
use support::random::Random;
use support::wait::wait_for;
use support::writers::{append, log_text};

const QUEUES: [&str; 3] = ["archive", "alerting", "search"];
const WINDOW: usize = 16 << 20;
const HOUR: Duration = Duration::from_secs(3600);

fn main() {
    let argument = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok());
    let mib: usize = argument.unwrap_or(256);
    let directory = tempfile::tempdir().unwrap();
    let mut broker = Broker::start();
    let path = directory.path().join("backlog.log");
    // The same piece again and again: random text would take longer to make than to ship.
    let piece = log_text(&mut Random::new(1), 16 << 20);
    for _ in 0..mib.div_ceil(16) {
        append(&path, &piece);
    }
    println!("log of {} MiB", mib.div_ceil(16) * 16);
    from_the_file(&broker, &path);
    out_of_the_spool(&mut broker, &path);
}

/// What one way took.
struct Shipped {
    took: Duration,
    cpu_seconds: f64,
    peak_mib: u64,
}

fn from_the_file(broker: &Broker, path: &Path) {
    let directory = tempfile::tempdir().unwrap();
    let mut agent = agent(directory.path(), broker, path);
    let begun = Instant::now();
    agent.start();
    wait_until_confirmed(&agent, path);
    compare("from the file", broker, &shipped(&mut agent, begun));
}

fn out_of_the_spool(broker: &mut Broker, path: &Path) {
    let directory = tempfile::tempdir().unwrap();
    let mut agent = agent(directory.path(), broker, path);
    broker.stop();
    agent.start();
    wait_for(HOUR, "everything is in the spool", || {
        agent.status().is_some_and(|status| {
            let file = &status["files"][0];
            status["spool"]["mode"] == "spooling"
                && status["broker"]["in_flight_bytes"] == 0
                && file["read"].as_u64().is_some()
                && file["read"] == file["size"]
        })
    });
    broker.start_again();
    agent.wait_for_log("exchange and queues are there", HOUR);
    let begun = Instant::now();
    wait_until_confirmed(&agent, path);
    compare("out of the spool", broker, &shipped(&mut agent, begun));
}

fn agent(directory: &Path, broker: &Broker, path: &Path) -> Agent {
    let config = Config::new(&broker.url())
        .set("broker", "check_interval = \"100ms\"")
        .set("spool", "max_bytes = \"64GiB\"\nmin_free = \"0%\"")
        .source("backlog", path);
    Agent::new(directory, config)
}

fn wait_until_confirmed(agent: &Agent, path: &Path) {
    let size = std::fs::metadata(path).unwrap().len();
    let state = agent.state_dir().join("state.db");
    wait_for(HOUR, "everything is confirmed", || {
        confirmed(&state) == Some(size)
    });
}

fn shipped(agent: &mut Agent, begun: Instant) -> Shipped {
    let shipped = Shipped {
        took: begun.elapsed(),
        cpu_seconds: cpu_seconds(agent.id()),
        peak_mib: agent.resident_peak() >> 20,
    };
    agent.term();
    shipped
}

/// With a bare loop that publishes what is in the queues now, which are empty before and after it.
fn compare(way: &str, broker: &Broker, shipped: &Shipped) {
    let bodies = bodies(broker);
    purge(broker);
    let bytes: usize = bodies.iter().map(Vec::len).sum();
    let begun = Instant::now();
    publish(&broker.url(), &bodies);
    let bare = begun.elapsed();
    purge(broker);

    let took = shipped.took.as_secs_f64();
    println!(
        "{way}: {} messages, {:.0} MiB of bodies",
        bodies.len(),
        bytes as f64 / f64::from(1 << 20)
    );
    println!(
        "  fantail          {took:.2} s; {:.1} s of CPU since its start, peak {} MiB resident",
        shipped.cpu_seconds, shipped.peak_mib
    );
    println!("  bare lapin loop  {:.2} s", bare.as_secs_f64());
    println!(
        "  ratio            {:.2} (bare / fantail; 1 is as fast as publishing can be)",
        bare.as_secs_f64() / took
    );
}

fn purge(broker: &Broker) {
    for queue in QUEUES {
        broker.amqp().purge_queue(queue);
    }
}

/// How far the only file is confirmed, as the state directory has it.
fn confirmed(state: &Path) -> Option<u64> {
    let database = Database::open_with_flags(state, OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
    let offset: i64 = database
        .query_row("SELECT confirmed FROM files", [], |row| row.get(0))
        .ok()?;
    u64::try_from(offset).ok()
}

/// User and system time of a process.
fn cpu_seconds(id: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let behind_name = stat.rsplit_once(')').unwrap().1;
    let ticks = |field: usize| -> f64 {
        behind_name
            .split_ascii_whitespace()
            .nth(field)
            .unwrap()
            .parse()
            .unwrap()
    };
    (ticks(11) + ticks(12)) / 100.0
}

/// Every body that is in one queue.
fn bodies(broker: &Broker) -> Vec<Vec<u8>> {
    let mut consumer = Consumer::open(&broker.url(), "search");
    let mut bodies = Vec::new();
    while let Some(message) = consumer.next(Duration::from_secs(2)) {
        bodies.push(message.body);
    }
    bodies
}

/// Publishes bodies with nothing around: persistent, confirmed, in a window of the same size.
fn publish(url: &str, bodies: &[Vec<u8>]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let connection = Connection::connect(url, ConnectionProperties::default())
            .await
            .unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .unwrap();
        let mut out = VecDeque::new();
        let mut out_bytes = 0;
        for body in bodies {
            while out_bytes + body.len() > WINDOW {
                let (len, confirm): (usize, lapin::PublisherConfirm) = out.pop_front().unwrap();
                assert!(confirm.await.unwrap().is_ack());
                out_bytes -= len;
            }
            let options = BasicPublishOptions {
                mandatory: true,
                ..BasicPublishOptions::default()
            };
            let properties = BasicProperties::default().with_delivery_mode(2);
            let confirm = channel
                .basic_publish("logs".into(), "backlog".into(), options, body, properties)
                .await
                .unwrap();
            out_bytes += body.len();
            out.push_back((body.len(), confirm));
        }
        for (_, confirm) in out {
            assert!(confirm.await.unwrap().is_ack());
        }
    });
}
