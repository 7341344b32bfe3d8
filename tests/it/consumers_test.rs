//! The consumers that README.md prints, run as they stand there: each has every line once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::agent::{Agent, Config};
use crate::support::amqp::Consumer;
use crate::support::broker::{Broker, Version};
use crate::support::leash::Leash;
use crate::support::made::{self, batches, end_of_lines, ranges_only, with_body_text};
use crate::support::message::{Header, Message};
use crate::support::oracle::Ledger;
use crate::support::process::Process;
use crate::support::random::Random;
use crate::support::readme::printed;
use crate::support::wait::wait_for;
use crate::support::writers::{Writer, append, log_text, numbered_lines};

const MINUTE: Duration = Duration::from_secs(60);
const QUEUE: &str = "search";

/// A line as a consumer has it.
struct Line {
    path: String,
    offset: usize,
    bytes: usize,
    message: Vec<u8>,
}

#[test]
fn the_printed_python_consumer_has_every_line_once_over_kills_of_the_agent_and_of_itself() {
    let directory = tempfile::tempdir().unwrap();
    let program = written("consumer.py", directory.path());
    let database = directory.path().join("lines.db");
    let consumer = |url: &str| {
        // Debian's, whose pika it is: there may be another in PATH.
        let mut command = Command::new("/usr/bin/python3");
        command.arg(&program).args([url, QUEUE]).arg(&database);
        command
    };
    // SQLite sees to what a crash leaves.
    has_every_line_once(Version::V3_10, consumer, || ()).held(&rows_of(&database));
}

#[test]
fn the_printed_go_consumer_has_every_line_once_over_kills_of_the_agent_and_of_itself() {
    let directory = tempfile::tempdir().unwrap();
    let program = built(&written("consumer.go", directory.path()));
    let kept = directory.path().join("kept");
    fs::create_dir(&kept).unwrap();
    let consumer = |url: &str| {
        let mut command = Command::new(&program);
        command.args([url, QUEUE]).arg(&kept);
        command
    };
    let crash = || {
        append(&kept.join("lines"), b"{\"log\":");
        fs::write(kept.join("state.new"), "{").unwrap();
    };
    has_every_line_once(Version::V4_0, consumer, crash).held(&objects_of(&kept.join("lines")));
}

/// The content of each file that went through the queue, by its path.
struct Sent(BTreeMap<String, Vec<u8>>);

/// Fills a queue with repeats of many kinds, and lets `consumer` take it, killed once in between,
/// until it comes to a message that it must refuse, the last one, and then a few more of these. `crash` leaves behind what a kill at
/// the worst moment would.
fn has_every_line_once(
    version: Version,
    consumer: impl Fn(&str) -> Command,
    crash: impl FnOnce(),
) -> Sent {
    let broker = Broker::start_version(version);
    let mut sent = fill_with_a_killed_agent(&broker);
    let amqp = broker.amqp();
    let ready = || amqp.message_count(QUEUE).expect("the queue is there");
    let of_the_agent = ready();
    sent.0.insert(made::PATH.to_owned(), fill_by_hand(&broker));
    let by_hand = ready() - of_the_agent;
    let directory = tempfile::tempdir().unwrap();
    let said = directory.path().join("stderr");
    let mut leash = Leash::on_processes();
    let mut start = || {
        let mut command = consumer(&broker.url());
        command
            .stdin(Stdio::null())
            .stderr(File::create(&said).unwrap());
        let process = Process::spawn("the consumer", &mut command);
        leash.hold(&[process.id()]);
        process
    };

    let first = start();
    // After the repeats of the agent's, which would make up for what a consumer forgets.
    wait_for(MINUTE, "the consumer has taken most", || ready() < by_hand);
    first.signal(Signal::STOP);
    assert!(ready() > 0, "it was too fast: nothing would come again");
    drop(first);
    crash();

    for (message, word) in unreadable() {
        amqp.publish_message(&message);
        let status = start().wait(2 * MINUTE);
        let said = fs::read_to_string(&said).unwrap();
        assert!(!status.success() && said.contains(word), "{said}");
        wait_for(MINUTE, "only what it refused is left", || ready() == 1);
        amqp.purge_queue(QUEUE);
    }
    leash.hold(&[]);
    sent
}

/// The agent is killed while it sends, and no mark is saved until then: it sends all of that again,
/// in other batches, since the files have grown.
fn fill_with_a_killed_agent(broker: &Broker) -> Sent {
    let directory = tempfile::tempdir().unwrap();
    let logs = directory.path().join("logs");
    fs::create_dir(&logs).unwrap();
    let mut random = Random::from_environment();
    let config = Config::new(&broker.url())
        .set("broker", "check_interval = \"1m\"")
        .set("batch", "max_bytes = \"16KiB\"")
        .source("app", &logs.join("*.log"));
    let mut agent = Agent::new(directory.path(), config);
    agent.start();
    let mut sent = BTreeMap::new();
    let mut writers = Vec::new();
    for name in ["a.log", "b.log", "c.log"] {
        let (path, content) = (logs.join(name), log_text(&mut random, 300_000));
        let rate = content.len() as u64 / 3;
        writers.push(Writer::start_at(
            &path,
            content.clone(),
            random.fork(),
            rate,
        ));
        sent.insert(path.to_str().unwrap().to_owned(), content);
    }
    let amqp = broker.amqp();
    wait_for(MINUTE, "the agent sends", || {
        amqp.message_count(QUEUE) > Some(50)
    });
    agent.kill9();
    agent.start();
    writers.into_iter().for_each(Writer::finish);

    // Another queue of the same exchange shows that it holds what it should, and repeats.
    let mut ledger = Ledger::new();
    let mut consumer = Consumer::open(&broker.url(), "archive");
    ledger.take_until(&mut consumer, 2 * MINUTE, "every byte", |ledger| {
        sent.iter()
            .all(|(path, content)| ledger.has_covered(path, content.len()))
    });
    ledger.assert_clean();
    assert!(ledger.repeated_bytes() > 0);
    Sent(sent)
}

/// Messages that a consumer of ndjson must leave in the queue, and what it complains about.
fn unreadable() -> Vec<(Message, &'static str)> {
    let message = || batches(b"a line\n", 1).remove(0);
    let mut later = message();
    later.kind = Some("fantail.batch.v2".to_owned());
    let mut raw = message();
    raw.content_type = Some("text/plain".to_owned());
    let mut packed = message();
    packed.content_encoding = Some("zstd".to_owned());
    vec![
        (packed, "zstd"),
        (raw, "text/plain"),
        (later, "fantail.batch.v2"),
    ]
}

/// What an agent sends only when much comes together: ranges that overlap out of their order or end
/// inside a line, a compressed batch, messages without lines, keys and headers of a later version.
/// Returns the content of the file.
fn fill_by_hand(broker: &Broker) -> Vec<u8> {
    let amqp = broker.amqp();
    let content = numbered_lines("made", 1000);
    let (even, odd): (Vec<_>, Vec<_>) = batches(&content, 7)
        .into_iter()
        .enumerate()
        .partition(|(place, _)| place % 2 == 0);
    let mut messages: Vec<Message> = odd
        .into_iter()
        .chain(even.into_iter().rev())
        .map(|(_, message)| message)
        .collect();
    messages.extend(batches(&content[..content.len() / 2], 10));
    messages.extend(batches(&content, 11));
    messages[3] = compressed(&messages[3]);
    messages[5] = with_body_text(
        &messages[5],
        "\"log\":{",
        "\"new\":{\"offset\":[1]},\"log\":{\"new\":null,",
    );
    messages[5]
        .headers
        .insert("new".to_owned(), Header::Text("1".to_owned()));
    let third_line = end_of_lines(&content, 2);
    let mut damaged = made::range(third_line, third_line + 3);
    damaged["skipped"] = "damaged".into();
    messages.insert(0, ranges_only(&[damaged]));
    let mut end = made::range(content.len(), content.len());
    end["eof"] = true.into();
    messages.push(ranges_only(&[end]));
    for message in &messages {
        amqp.publish_message(message);
    }
    content
}

fn compressed(message: &Message) -> Message {
    let mut gzip = Command::new("gzip")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    gzip.stdin.take().unwrap().write_all(&message.body).unwrap();
    Message {
        content_encoding: Some("gzip".to_owned()),
        body: gzip.wait_with_output().unwrap().stdout,
        ..message.clone()
    }
}

impl Sent {
    /// Judges what the consumer has: the lines of each file, end to end, are the file.
    fn held(&self, lines: &[Line]) {
        let mut reached: BTreeMap<&str, usize> = BTreeMap::new();
        let mut in_order: Vec<&Line> = lines.iter().collect();
        in_order.sort_by_key(|line| (&line.path, line.offset));
        for line in in_order {
            let (path, start, end) = (&line.path, line.offset, line.offset + line.bytes);
            let reached = reached.entry(path).or_default();
            assert_eq!(*reached, start, "a gap or a repeat in {path}");
            let text = &self.0[path][start..end];
            let text = text.strip_suffix(b"\n").expect("a whole line");
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            assert!(line.message == text, "{path} at {start}: {:?}", line.path);
            *reached = end;
        }
        for (path, content) in &self.0 {
            assert_eq!(reached.get(path.as_str()), Some(&content.len()), "{path}");
        }
    }
}

/// What the Python consumer keeps.
fn rows_of(database: &Path) -> Vec<Line> {
    let database = rusqlite::Connection::open(database).unwrap();
    let mut query = database
        .prepare("SELECT path, offset, bytes, message FROM lines")
        .unwrap();
    let lines = query.query_map((), |row| {
        let (offset, bytes): (i64, i64) = (row.get(1)?, row.get(2)?);
        Ok(Line {
            path: row.get(0)?,
            offset: usize::try_from(offset).unwrap(),
            bytes: usize::try_from(bytes).unwrap(),
            message: row.get(3)?,
        })
    });
    lines.unwrap().collect::<Result<_, _>>().unwrap()
}

/// What the Go consumer keeps: the lines as they came.
fn objects_of(file: &Path) -> Vec<Line> {
    let text = fs::read_to_string(file).unwrap();
    let line = |text: &str| {
        let object: Value = serde_json::from_str(text).unwrap();
        let log = &object["log"];
        let natural = |key: &str| usize::try_from(log[key].as_u64().unwrap()).unwrap();
        let message = match object["message_base64"].as_str() {
            Some(exact) => STANDARD.decode(exact).unwrap(),
            None => object["message"].as_str().unwrap().as_bytes().to_vec(),
        };
        Line {
            path: log["file"]["path"].as_str().unwrap().to_owned(),
            offset: natural("offset"),
            bytes: natural("bytes"),
            message,
        }
    };
    text.lines().map(line).collect()
}

/// Writes what README.md prints to a file of that name.
fn written(name: &str, directory: &Path) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, printed(name)).unwrap();
    path
}

/// Builds a Go program in the way that README.md tells, and asks Go's own tools about it.
fn built(source: &Path) -> PathBuf {
    let directory = source.parent().unwrap();
    let run = |tool: &str, arguments: &[&str]| {
        let output = Command::new(tool)
            .args(arguments)
            .arg(source)
            .current_dir(directory)
            .env("GO111MODULE", "off")
            .env("GOPATH", "/usr/share/gocode")
            .env_remove("GOFLAGS")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(output.status.success(), "{tool} {arguments:?}: {said}");
        said
    };
    run("go", &["build"]);
    run("go", &["vet"]);
    let badly_laid_out = run("gofmt", &["-d"]);
    assert!(badly_laid_out.is_empty(), "{badly_laid_out}");
    source.with_extension("")
}
