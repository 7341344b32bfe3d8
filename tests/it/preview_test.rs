//! `fantail preview` shows what would be published, and leaves everything as it was.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::support::agent::{Agent, Config};
use crate::support::broker::Broker;
use crate::support::message::{Header, Message};
use crate::support::wait::wait_for_some;
use crate::support::writers::{append, numbered_lines};

const MINUTE: Duration = Duration::from_secs(60);

/// An address at which nobody listens.
const NOWHERE: &str = "amqp://guest:s3cret@127.0.0.1:1/%2f";

fn logs(directory: &tempfile::TempDir) -> PathBuf {
    let logs = directory.path().join("logs");
    fs::create_dir(&logs).unwrap();
    logs
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// The first message of a preview: its properties and headers by name, and the lines of its body.
fn shown(preview: &str) -> (Vec<(String, String)>, Vec<String>) {
    let mut fields = Vec::new();
    let mut lines = preview
        .lines()
        .skip_while(|line| *line != "  message 1")
        .skip(1);
    for line in lines.by_ref() {
        let (name, value) = line.trim().split_once("  ").unwrap_or((line.trim(), ""));
        if name == "body" {
            break;
        }
        fields.push((name.to_owned(), value.trim().to_owned()));
    }
    let body = lines
        .map_while(|line| line.strip_prefix("      "))
        .map(str::to_owned);
    (fields, body.collect())
}

/// What a preview should have said of a message, ids and times apart.
fn fields_of(message: &Message) -> Vec<(String, String)> {
    let text = |name: &str, value: &Option<String>| {
        let value = value.clone()?;
        Some((name.to_owned(), value))
    };
    let mode = message.delivery_mode.map(|mode| mode.to_string());
    let properties = [
        text("exchange", &Some(message.exchange.clone())),
        text("routing_key", &Some(message.routing_key.clone())),
        text("content_type", &message.content_type),
        text("content_encoding", &message.content_encoding),
        text("delivery_mode", &mode),
        text("type", &message.kind),
        text("app_id", &message.app_id),
    ];
    let headers = message.own_headers().map(|(name, value)| {
        let value = match value {
            Header::Text(text) => text.clone(),
            Header::Int(number) => number.to_string(),
            Header::Other(words, _) => words.clone(),
        };
        (name.clone(), value)
    });
    properties.into_iter().flatten().chain(headers).collect()
}

/// Sorted, and without what differs from run to run.
fn comparable(fields: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut fields: Vec<_> = fields
        .into_iter()
        .filter(|(name, _)| {
            !["agent", "message_id", "timestamp", "headers"].contains(&name.as_str())
        })
        .map(|(name, value)| match name.as_str() {
            "ranges" => (name, without_ids(&value)),
            _ => (name, value),
        })
        .collect();
    fields.sort();
    fields
}

fn without_ids(ranges: &str) -> String {
    let mut ranges: serde_json::Value = serde_json::from_str(ranges).unwrap();
    for range in ranges.as_array_mut().unwrap() {
        assert_eq!(range["file"].as_str().unwrap().len(), 32);
        range["file"] = "id".into();
    }
    ranges.to_string()
}

#[test]
fn what_is_shown_is_what_is_published_and_nothing_is_made_anywhere() {
    let directory = tempfile::tempdir().unwrap();
    let logs = logs(&directory);
    let path = logs.join("a.log");
    append(&path, b"one\ntwo\r\n");
    let broker = Broker::start();
    for (format, compression) in [("ndjson", "none"), ("lines", "zstd"), ("json", "gzip")] {
        let work = directory.path().join(format);
        fs::create_dir(&work).unwrap();
        let config = Config::new(&broker.url())
            .set("agent", "host = \"web-1\"")
            .set("batch", &format!("format = \"{format}\""))
            .set("batch", &format!("compression = \"{compression}\""))
            .set("broker", &format!("exchange = \"{format}\""))
            .source("app", &path)
            .append(&format!("[[broker.queue]]\nname = \"{format}\""));
        let mut agent = Agent::new(&work, config);
        let preview = agent.cli(&["preview"]);
        assert!(preview.status.success(), "{preview:?}");
        assert!(!agent.state_dir().exists(), "{format}");
        assert!(!broker.amqp().queue_exists(format));

        agent.start();
        let amqp = broker.amqp();
        let message = wait_for_some(MINUTE, "the message", || {
            // A quorum queue can be seen before the process that answers for it runs.
            let messages = amqp.message_count(format)?;
            (messages > 0).then(|| amqp.get(format))?
        });
        let (fields, body) = shown(&out(&preview));
        assert_eq!(comparable(fields), comparable(fields_of(&message)));
        match format {
            "lines" => assert_eq!(body, ["one", "two\\r"]),
            "json" => assert!(body.len() == 1 && body[0].ends_with("\"message\":\"one\"}")),
            _ => {
                let text = String::from_utf8(message.body).unwrap();
                let ends: Vec<&str> = text.lines().map(after_id).collect();
                let shown: Vec<&str> = body.iter().map(|line| after_id(line)).collect();
                assert_eq!(shown, ends);
            }
        }
        assert!(agent.term().status.success());
    }
}

/// What of an object comes after the file's id.
fn after_id(object: &str) -> &str {
    object.split_once("},\"offset\"").unwrap().1
}

#[test]
fn lines_that_steer_terminals_are_shown_harmless_and_an_unfinished_one_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let logs = logs(&directory);
    append(
        &logs.join("\x1b[2Jevil.log"),
        b"a\x1b]0;title\x07\xff\xc2\x9bb\xe2\x80\xae\nbegun",
    );
    for format in ["ndjson", "lines"] {
        let config = Config::new(NOWHERE)
            .set("batch", &format!("format = \"{format}\""))
            .source("app\u{9b}", &logs.join("*.log"));
        let agent = Agent::new(directory.path(), config);
        let preview = agent.cli(&["preview"]);
        assert_eq!(preview.status.code(), Some(0));
        let all = out(&preview) + &err(&preview);
        let harmless = |c: char| c == '\n' || !(c.is_control() || c == '\u{202e}');
        assert!(all.chars().all(harmless), "{all:?}");
        assert!(all.contains("\\u{1b}[2Jevil.log"), "{all}");
        assert!(
            all.contains("the last line has no line end yet (5 B)"),
            "{all}"
        );
        let (_, body) = shown(&out(&preview));
        assert_eq!(body.len(), 1, "{body:?}");
        if format == "lines" {
            assert_eq!(body, ["a\\u{1b}]0;title\\u{7}\\xff\\u{9b}b\\u{202e}"]);
        }
    }
}

#[test]
fn the_first_lines_of_each_file_are_shown_without_reading_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let logs = logs(&directory);
    append(&logs.join("a.log"), &numbered_lines("line", 30));
    // Read whole, it would take hours.
    let huge = logs.join("huge.log");
    append(&huge, &numbered_lines("huge", 20_000));
    File::options()
        .write(true)
        .open(&huge)
        .unwrap()
        .set_len(1 << 42)
        .unwrap();
    let config = Config::new(NOWHERE).source("app", &logs.join("*.log"));
    let agent = Agent::new(directory.path(), config);
    let shown = out(&agent.cli(&["preview"]));
    assert_eq!(shown.matches("\"message\":\"line ").count(), 10);
    assert_eq!(shown.matches("\"message\":\"huge ").count(), 10);
    assert!(
        shown.contains("… and 20 more (--all shows them)"),
        "{shown}"
    );
    let three = out(&agent.cli(&["preview", "-n", "3"]));
    assert_eq!(three.matches("\"message\":").count(), 6);

    let a = logs.join("a.log");
    let all = out(&agent.cli(&["preview", "--all", a.to_str().unwrap()]));
    assert_eq!(all.matches("\"message\":\"line ").count(), 30);
    assert!(!all.contains("more (--all"), "{all}");

    // Where each line is a message, they count all the same.
    let config = Config::new(NOWHERE)
        .set("batch", "format = \"json\"")
        .source("app", &logs.join("*.log"));
    agent.configure(config);
    let shown = out(&agent.cli(&["preview"]));
    assert_eq!(shown.matches("\"message\":").count(), 20);
}

#[test]
fn a_reader_who_leaves_ends_it_quietly() {
    let directory = tempfile::tempdir().unwrap();
    let logs = logs(&directory);
    append(&logs.join("a.log"), &numbered_lines("line", 500_000));
    let config = Config::new(NOWHERE).source("app", &logs.join("*.log"));
    let agent = Agent::new(directory.path(), config);
    let mut child = Command::new(env!("CARGO_BIN_EXE_fantail"))
        .args(["preview", "--all", "--config"])
        .arg(agent.config_path())
        .env_remove("FANTAIL_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    reader.read_line(&mut first).unwrap();
    drop(reader);
    assert!(first.contains("a.log (source app)"), "{first}");
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0));
    let told = err(&ended);
    assert_eq!(told.lines().count(), 1, "{told}");

    // Also one who listened to stderr.
    let piped = Command::new("bash")
        .args([
            "-c",
            "set -o pipefail; \"$0\" preview --config \"$1\" nowhere 2>&1 | true",
        ])
        .arg(env!("CARGO_BIN_EXE_fantail"))
        .arg(agent.config_path())
        .status()
        .unwrap();
    assert_eq!(piped.code(), Some(1));
}

#[test]
fn a_preview_that_is_written_among_the_logs_does_not_show_itself() {
    let directory = tempfile::tempdir().unwrap();
    let logs = logs(&directory);
    append(&logs.join("a.log"), b"one\n");
    let config = Config::new(NOWHERE).source("app", &logs.join("*.log"));
    let agent = Agent::new(directory.path(), config);
    let output = logs.join("b.log");
    let status = Command::new(env!("CARGO_BIN_EXE_fantail"))
        .args(["preview", "--all", "--config"])
        .arg(agent.config_path())
        .env_remove("FANTAIL_LOG")
        .stdin(Stdio::null())
        .stdout(File::create(&output).unwrap())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
    let shown = fs::read_to_string(output).unwrap();
    assert_eq!(shown.matches("(source app)").count(), 1, "{shown}");
}

#[test]
fn a_source_limits_what_is_shown_and_takes_files_that_it_does_not_match() {
    let directory = tempfile::tempdir().unwrap();
    let logs = logs(&directory);
    append(&logs.join("app.log"), b"of app\n");
    append(&logs.join("web.log"), b"of web\n");
    let sample = directory.path().join("a [1].sample");
    append(&sample, b"0123456789abcdef\n");
    append(&directory.path().join("a 1.sample"), b"another\n");
    symlink(&sample, directory.path().join("link")).unwrap();
    let config = Config::new(NOWHERE)
        .source("app", &logs.join("app*"))
        .source_with("web", &logs.join("web*"), "max_line = 10")
        .source_with("later", &logs.join("*.log"), "read_from = \"end\"");
    let agent = Agent::new(directory.path(), config);
    let preview = |arguments: &[&str]| {
        let output = agent.cli(&[&["preview"], arguments].concat());
        (output.status.code(), out(&output), err(&output))
    };
    let names = |shown: &str| {
        let titles = shown.lines().filter(|line| line.contains(" (source "));
        titles
            .map(|title| title.rsplit('/').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };

    let (code, shown, _) = preview(&["--source", "web"]);
    assert_eq!(
        (code, names(&shown)),
        (Some(0), vec!["web.log (source web)".to_owned()])
    );
    let (code, shown, told) = preview(&["--source", "wbe"]);
    assert_eq!((code, shown.as_str()), (Some(2), ""));
    assert!(told.contains("did you mean \"web\"?"), "{told}");
    let (code, _, told) = preview(&["--source", "later"]);
    assert_eq!(code, Some(0));
    assert!(told.contains("no file matches source later"), "{told}");

    // A file that no source matches is shown as of the first one, or the one that is named.
    let sample = sample.to_str().unwrap();
    let (code, shown, told) = preview(&[sample]);
    assert_eq!(
        (code, names(&shown)),
        (Some(0), vec!["a [1].sample (source app)".to_owned()])
    );
    assert!(told.contains("no source matches"), "{told}");
    assert!(
        shown.contains("\"message\":\"0123456789abcdef\""),
        "{shown}"
    );
    let (_, shown, told) = preview(&["--source", "web", sample]);
    assert!(!told.contains("no source matches"), "{told}");
    assert!(
        shown.contains("\"partial\":true},\"message\":\"0123456789\""),
        "{shown}"
    );
    // One that matches is shown as of its own source, and in spite of `read_from`.
    let (_, shown, _) = preview(&["logs/web.log"]);
    assert_eq!(names(&shown), ["web.log (source web)"]);
    let (_, shown, _) = preview(&["--source", "later", "logs/web.log"]);
    assert!(shown.contains("\"message\":\"of web\""), "{shown}");

    let (code, shown, told) = preview(&["nowhere", "link", "logs", "logs/app.log"]);
    assert_eq!(
        (code, names(&shown)),
        (Some(1), vec!["app.log (source app)".to_owned()])
    );
    for text in [
        "nowhere: No such file",
        "link: symbolic link, not followed (to",
        "logs: a directory",
        "3 files could not be read",
    ] {
        assert!(told.contains(text), "no {text:?} in {told}");
    }
    assert!(!agent.state_dir().exists());
}

#[test]
fn what_the_first_start_passes_over_is_shown_as_a_message_without_lines() {
    let directory = tempfile::tempdir().unwrap();
    let logs = logs(&directory);
    append(&logs.join("a.log"), b"old\n");
    let include: &Path = &logs.join("*.log");
    let config = Config::new(NOWHERE).source_with("app", include, "read_from = \"end\"");
    let agent = Agent::new(directory.path(), config);
    let output = agent.cli(&["preview"]);
    let (fields, body) = shown(&out(&output));
    let value = |name: &str| {
        let field = fields.iter().find(|(field, _)| field == name);
        field.map_or("", |(_, value)| value.as_str())
    };
    assert_eq!(value("type"), "fantail.ranges.v1");
    assert!(
        value("ranges").contains("\"skipped\":\"read_from\""),
        "{fields:?}"
    );
    assert!(body.is_empty(), "{body:?}");
    assert!(err(&output).contains("name a FILE to see its lines"));
}
