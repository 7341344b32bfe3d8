//! What a source's keys make of its lines, as it comes out of a queue.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::agent::{Agent, Config};
use crate::support::amqp::Consumer;
use crate::support::broker::Broker;
use crate::support::message::Message;
use crate::support::oracle::Ledger;
use crate::support::wait::wait_for;

const MINUTE: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_millis(100);
/// Longer than bytes of dropped lines wait for a line that takes them along.
const LONG: Duration = Duration::from_secs(100);

/// Every message of a queue, judged and kept.
struct Taken {
    consumer: Consumer,
    ledger: Ledger,
    messages: Vec<Message>,
}

impl Taken {
    fn from(broker: &Broker, queue: &str) -> Self {
        wait_for(MINUTE, "the queue is there", || {
            broker.amqp().queue_exists(queue)
        });
        Self {
            consumer: Consumer::open(&broker.url(), queue),
            ledger: Ledger::new(),
            messages: Vec::new(),
        }
    }

    fn until(&mut self, deadline: Duration, what: &str, done: impl Fn(&Self) -> bool) {
        wait_for(deadline, what, || {
            while let Some(message) = self.consumer.next(PATIENCE) {
                self.ledger.take(&message);
                self.messages.push(message);
            }
            done(self)
        });
    }

    /// Every line of a file.
    fn lines(&self, path: &Path) -> Vec<Value> {
        let path = path.to_str().expect("the test's own path is UTF-8");
        let bodies = self.messages.iter().map(|message| &message.body);
        let lines = bodies.flat_map(|body| body.split(|byte| *byte == b'\n'));
        let lines = lines.filter(|line| !line.is_empty());
        let lines = lines.map(|line| serde_json::from_slice::<Value>(line).unwrap());
        lines
            .filter(|line| line["log"]["file"]["path"] == path)
            .collect()
    }

    fn covers(&self, path: &Path, content: &str) -> bool {
        let path = path.to_str().expect("the test's own path is UTF-8");
        self.ledger.has_covered(path, content.len())
    }
}

fn append(path: &Path, text: &str) {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.unwrap().write_all(text.as_bytes()).unwrap();
}

fn messages(lines: &[Value]) -> Vec<&str> {
    fn message(line: &Value) -> &str {
        line["message"].as_str().expect("a text")
    }
    lines.iter().map(message).collect()
}

/// A line of 30 KB with a secret of 4 KiB and less, again and again, and its redaction.
fn long_line() -> (String, String) {
    let secrets: Vec<String> = (0..20)
        .map(|n| format!("key={}; n={n} ", "x".repeat(200 * n)))
        .collect();
    let line = secrets.concat();
    let mut redacted = String::new();
    for n in 0..20 {
        redacted.push_str(&format!("key=*; n={n} "));
    }
    (line, redacted)
}

#[test]
fn lines_are_filtered_redacted_parsed_and_labelled_and_no_byte_is_unaccounted_for() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start();
    let at = |name: &str| directory.path().join(name);
    let json = [
        r#"{"ts":"2026-11-22T13:15:00.5+02:00","n":1.10,"card":"\u0034111222233334444"}"#,
        r#"{"@timestamp":"x","host":{"name":"evil"},"log":{"offset":0},"message":"m","a":1,"a":2}"#,
        "no JSON",
    ];
    let (long, redacted) = long_line();
    let cri = "2026-11-22T13:15:00Z stdout P one, \n2026-11-22T13:15:01Z stdout F two\n";
    let files = [
        ("json.log", format!("{}\n", json.join("\n"))),
        (
            "some.log",
            "keep 1\nother\nkeep debug\nkeep 2\n".repeat(100),
        ),
        ("none.log", "dropped\n".repeat(1000)),
        ("long.log", format!("{long}\nend\n")),
        ("cri.log", cri.to_owned()),
    ];
    for (name, content) in &files {
        fs::write(at(name), content).unwrap();
    }
    let redact = r#"redact = [{ pattern = '\b4\d{15}\b', replace = "[card]" }, { pattern = 'key=[^;]*;', replace = "key=*;" }]"#;
    let config = Config::new(&broker.url())
        .set("agent", "labels = { env = \"prod\", site = \"a\" }")
        .set("broker", "check_interval = \"200ms\"")
        .source_with(
            "json",
            &at("json.log"),
            &format!(
                "labels = {{ site = \"b\" }}\nparse = \"json\"\n{redact}\n\
                 timestamp = \"ts:%Y-%m-%dT%H:%M:%S%.f%:z\""
            ),
        )
        .source_with(
            "some",
            &at("some.log"),
            "keep = ['^keep']\ndrop = ['debug$']",
        )
        .source_with("none", &at("none.log"), "drop = ['^']")
        .source_with(
            "long",
            &at("long.log"),
            &format!("max_line = 5000\n{redact}"),
        )
        .source_with("cri", &at("cri.log"), "parse = \"cri\"");
    let mut agent = Agent::new(directory.path(), config);
    agent.start();
    let mut taken = Taken::from(&broker, "archive");
    taken.until(
        LONG,
        "every byte, also of lines that were dropped",
        |taken| {
            files
                .iter()
                .all(|(name, content)| taken.covers(&at(name), content))
        },
    );
    taken.ledger.assert_clean();
    taken.ledger.assert_no_repeats();

    let lines = taken.lines(&at("json.log"));
    assert_eq!(lines[0]["@timestamp"], "2026-11-22T11:15:00.500Z");
    assert_eq!(lines[0]["labels"], json!({"env": "prod", "site": "b"}));
    let parsed = json!({"ts": "2026-11-22T13:15:00.5+02:00", "n": 1.1, "card": "[card]"});
    assert_eq!(lines[0]["parsed"], parsed);
    let evil = json!({"@timestamp": "x", "host": {"name": "evil"}, "log": {"offset": 0}, "message": "m", "a": 2});
    assert_eq!(
        (&lines[1]["parsed"], &lines[1]["message"]),
        (&evil, &json!(json[1]))
    );
    assert_ne!(lines[1]["host"], evil["host"]);
    assert_eq!(
        lines[1]["error"]["message"],
        "time of reading: no timestamp in the line"
    );
    assert_eq!(
        (&lines[2]["message"], lines[2].get("parsed")),
        (&json!("no JSON"), None)
    );
    assert_eq!(
        lines[2]["error"]["message"],
        "not JSON: expected ident at line 1 column 2"
    );

    let some = taken.lines(&at("some.log"));
    assert_eq!(messages(&some), ["keep 1", "keep 2"].repeat(100));
    assert_eq!(some[0]["labels"]["site"], "a");
    assert!(taken.lines(&at("none.log")).is_empty());
    let of_none = taken
        .messages
        .iter()
        .filter(|message| message.routing_key == "none");
    for message in of_none {
        assert_eq!(message.kind.as_deref(), Some("fantail.ranges.v1"));
        assert!(message.body.is_empty());
    }

    let long_lines = taken.lines(&at("long.log"));
    let (last, parts) = long_lines.split_last().expect("lines");
    assert_eq!(last["message"], "end");
    assert!(parts.len() > 5);
    assert_eq!(messages(parts).concat(), redacted);
    let cri = taken.lines(&at("cri.log"));
    assert_eq!(cri.len(), 1);
    assert_eq!(
        cri[0]["parsed"],
        json!({"time": "2026-11-22T13:15:00Z", "stream": "stdout", "message": "one, two"})
    );

    // What was dropped is counted, and nothing of it is left to do.
    wait_for(MINUTE, "everything is confirmed", || {
        let status = status(&agent);
        let files = status["files"].as_array().expect("files");
        files.len() == 5 && files.iter().all(|file| file["lag"] == 0)
    });
    let status = status(&agent);
    let sources = status["sources"].as_array().expect("sources");
    let counts: Vec<_> = sources
        .iter()
        .map(|source| (source["lines"].as_u64(), source["dropped"].as_u64()))
        .collect();
    let counts: Vec<_> = counts
        .into_iter()
        .map(|(l, d)| (l.unwrap(), d.unwrap()))
        .collect();
    assert_eq!(counts, [(3, 0), (400, 200), (1000, 1000), (2, 0), (1, 0)]);
    assert!(agent.term().status.success());
}

fn status(agent: &Agent) -> Value {
    let output = agent.cli(&["status", "--json"]);
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn an_urgent_line_takes_along_what_lingers_and_what_was_dropped_leaves_at_a_stop() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start();
    let log = directory.path().join("app.log");
    let config = Config::new(&broker.url())
        .set("batch", "linger = \"1h\"")
        .source_with(
            "app",
            &log,
            "urgent = ['FATAL']\nurgent_priority = 7\ndrop = ['^drop']",
        );
    let mut agent = Agent::new(directory.path(), config);
    append(&log, "first\n");
    agent.start();
    let mut taken = Taken::from(&broker, "search");
    taken.until(MINUTE, "a lone line", |taken| !taken.messages.is_empty());
    append(&log, "second\n");
    wait_for(MINUTE, "the second line is read", || {
        status(&agent)["sources"][0]["lines"] == 2
    });
    append(&log, "drop\nFATAL third\n");
    taken.until(MINUTE, "the urgent line", |taken| taken.messages.len() == 2);
    assert_eq!(
        messages(&taken.lines(&log)),
        ["first", "second", "FATAL third"]
    );
    let priorities: Vec<_> = taken
        .messages
        .iter()
        .map(|message| message.priority)
        .collect();
    assert_eq!(priorities, [None, Some(7)]);

    append(&log, "drop\ndrop\n");
    wait_for(MINUTE, "they are dropped", || {
        status(&agent)["sources"][0]["dropped"] == 3
    });
    assert!(agent.term().status.success());
    let whole = fs::read_to_string(&log).unwrap();
    taken.until(MINUTE, "their bytes", |taken| taken.covers(&log, &whole));
    let last = taken.messages.last().expect("messages");
    assert_eq!(
        (last.kind.as_deref(), last.priority),
        (Some("fantail.ranges.v1"), None)
    );
    taken.ledger.assert_clean();
}
