//! Every format, packed in every way, comes out of every type of queue as it stood in the files.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::agent::{Agent, Config};
use crate::support::amqp::Consumer;
use crate::support::broker::{Broker, Version};
use crate::support::message::Message;
use crate::support::oracle::{Ledger, complete_lines};
use crate::support::random::Random;
use crate::support::wait::wait_for;
use crate::support::writers::eight_logs;

const MINUTE: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_millis(100);
/// Of each file, where a line is a message.
const JSON_BYTES_MAX: usize = 30_000;
/// Of each file, where only the broker is another.
const SMALL_BYTES_MAX: usize = 10_000;

const FORMATS: [(&str, &str); 3] = [
    ("ndjson", "application/x-ndjson"),
    ("json", "application/json"),
    ("lines", "text/plain"),
];
const COMPRESSIONS: [(&str, Option<&str>); 3] = [
    ("none", None),
    ("gzip", Some("gzip")),
    ("zstd", Some("zstd")),
];
const TYPES: [&str; 3] = ["quorum", "classic", "stream"];

#[test]
fn eight_logs_come_out_whole_in_every_format_and_compression_of_every_type_of_queue() {
    logs_come_out_whole_of(&Broker::start(), usize::MAX);
}

#[test]
fn the_queues_of_rabbitmq_4_give_back_every_format_and_compression_too() {
    logs_come_out_whole_of(&Broker::start_version(Version::V4_0), SMALL_BYTES_MAX);
}

/// At most `bytes_max` of each of eight logs, in every format and compression and through every type
/// of queue.
fn logs_come_out_whole_of(broker: &Broker, bytes_max: usize) {
    let directory = tempfile::tempdir().unwrap();
    let logs = eight_logs(&mut Random::from_environment());
    for (format, content_type) in FORMATS {
        for (compression, encoding) in COMPRESSIONS {
            let name = format!("{format}-{compression}");
            let work = directory.path().join(&name);
            fs::create_dir_all(work.join("logs")).unwrap();
            let mut files: Vec<(PathBuf, Vec<u8>)> = Vec::new();
            for (name, content) in &logs {
                let most = if format == "json" {
                    JSON_BYTES_MAX.min(bytes_max)
                } else {
                    bytes_max
                };
                let content = complete_lines(&content[..most.min(content.len())]);
                files.push((work.join("logs").join(name), content.to_vec()));
            }
            for (path, content) in &files {
                fs::write(path, content).unwrap();
            }
            let mut config = Config::new(&broker.url())
                .set("broker", &format!("exchange = \"{name}\""))
                .set("batch", &format!("format = \"{format}\""))
                .set("batch", &format!("compression = \"{compression}\""))
                .source("app", &work.join("logs/*.log"));
            for kind in TYPES {
                config = config.append(&format!(
                    "[[broker.queue]]\nname = \"{name}-{kind}\"\ntype = \"{kind}\""
                ));
            }
            let mut agent = Agent::new(&work, config);
            agent.start();
            for kind in TYPES {
                let queue = format!("{name}-{kind}");
                let look = |message: &Message| {
                    assert_eq!(message.content_type.as_deref(), Some(content_type));
                    // What has no lines is not packed.
                    let packed = encoding.filter(|_| !message.body.is_empty());
                    assert_eq!(message.content_encoding.as_deref(), packed, "{queue}");
                };
                assert_queue_holds(broker, &queue, kind, &files, look);
            }
            assert!(agent.term().status.success(), "{}", agent.stderr());
        }
    }
}

/// Takes everything that stands in `files` from the queue, shows each message to `look`, and judges.
fn assert_queue_holds(
    broker: &Broker,
    queue: &str,
    kind: &str,
    files: &[(PathBuf, Vec<u8>)],
    look: impl Fn(&Message),
) {
    wait_for(MINUTE, "the queue is there", || {
        broker.amqp().queue_exists(queue)
    });
    let mut consumer = if kind == "stream" {
        Consumer::open_stream(&broker.url(), queue)
    } else {
        Consumer::open(&broker.url(), queue)
    };
    let whole: u64 = files.iter().map(|(_, content)| content.len() as u64).sum();
    let mut ledger = Ledger::new();
    wait_for(MINUTE, "every byte", || {
        while let Some(message) = consumer.next(PATIENCE) {
            look(&message);
            ledger.take(&message);
        }
        ledger.covered_bytes() == whole
    });
    ledger.take_rest(&mut consumer, MINUTE);
    ledger.assert_clean();
    ledger.assert_no_repeats();
    for (path, content) in files {
        let path = path.to_str().expect("the test's own path is UTF-8");
        ledger.assert_holds_file(path, content);
    }
}
