//! Owns messages made by hand that keep the wire contract, for tests to break one thing in them.

use std::collections::BTreeMap;
use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::message::{Header, Message};

pub const PATH: &str = "/var/log/app/a.log";
const AGENT: &str = "a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0";
const FILE: &str = "f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1";

/// Messages of `lines_each` lines that account for all of `content`.
pub fn batches(content: &[u8], lines_each: usize) -> Vec<Message> {
    let mut messages = Vec::new();
    let mut start = 0;
    while start < content.len() {
        let end = start + end_of_lines(&content[start..], lines_each);
        let mut lines = lines_of(&content[start..end]);
        for line in &mut lines {
            let offset = line["log"]["offset"].as_u64().unwrap();
            line["log"]["offset"] = (start as u64 + offset).into();
        }
        messages.push(message(&lines, &[range(start, end)]));
        start = end;
    }
    messages
}

pub fn end_of_lines(content: &[u8], count: usize) -> usize {
    content
        .split_inclusive(|byte| *byte == b'\n')
        .take(count)
        .map(<[u8]>::len)
        .sum()
}

pub fn lines_of(content: &[u8]) -> Vec<Value> {
    let mut offset = 0;
    let line = |text: &[u8]| {
        let line = line(offset, text);
        offset += text.len() as u64;
        line
    };
    content
        .split_inclusive(|byte| *byte == b'\n')
        .map(line)
        .collect()
}

/// A line as a value whose keys `body_of` brings into order.
pub fn line(offset: u64, text: &[u8]) -> Value {
    let content = text.strip_suffix(b"\n").unwrap_or(text);
    let content = content.strip_suffix(b"\r").unwrap_or(content);
    let mut line = json!({
        "log": {"offset": offset, "bytes": text.len()},
        "message": String::from_utf8_lossy(content),
    });
    if std::str::from_utf8(content).is_err() {
        line["message_base64"] = STANDARD.encode(content).into();
    }
    line
}

pub fn range(start: usize, end: usize) -> Value {
    json!({"file": FILE, "path": PATH, "start": start, "end": end})
}

/// Written out by hand: `serde_json` would sort the keys.
fn body_of(lines: &[Value]) -> Vec<u8> {
    let mut body = String::new();
    for line in lines {
        let Value::Object(log) = &line["log"] else {
            panic!("log is an object")
        };
        let partial = if log.contains_key("partial") {
            ",\"partial\":true"
        } else {
            ""
        };
        let exact = line
            .get("message_base64")
            .map(|text| format!(",\"message_base64\":{text}"));
        body += &format!(
            "{{\"@timestamp\":\"2026-11-22T13:15:00.123Z\",\"host\":{{\"name\":\"web-1\"}},\
             \"log\":{{\"file\":{{\"path\":\"{PATH}\",\"id\":\"{FILE}\"}},\
             \"offset\":{},\"bytes\":{}{partial}}},\"message\":{}{}}}\n",
            log["offset"],
            log["bytes"],
            line["message"],
            exact.unwrap_or_default(),
        );
    }
    body.into_bytes()
}

fn ranges_text(ranges: &[Value]) -> String {
    let ranges: Vec<String> = ranges
        .iter()
        .map(|range| {
            let keys = ["file", "path", "start", "end", "skipped", "eof"].into_iter();
            let entries = keys.filter_map(|key| Some(format!("\"{key}\":{}", range.get(key)?)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
        })
        .collect();
    format!("[{}]", ranges.join(","))
}

pub fn message(lines: &[Value], ranges: &[Value]) -> Message {
    let text = |text: &str| Header::Text(text.to_owned());
    let ranges = ranges_text(ranges);
    let headers = BTreeMap::from([
        ("agent".to_owned(), text(AGENT)),
        ("host".to_owned(), text("web-1")),
        ("source".to_owned(), text("app")),
        ("ranges".to_owned(), text(&ranges)),
    ]);
    let message = Message {
        exchange: "logs".to_owned(),
        routing_key: "app".to_owned(),
        content_type: Some("application/x-ndjson".to_owned()),
        delivery_mode: Some(2),
        message_id: Some(id_of(&ranges)),
        timestamp: Some(1_795_353_300),
        kind: Some("fantail.batch.v1".to_owned()),
        app_id: Some("fantail/0.1.0".to_owned()),
        headers,
        body: body_of(lines),
        ..Message::default()
    };
    sealed(message, lines.len())
}

pub fn ranges_only(ranges: &[Value]) -> Message {
    Message {
        kind: Some("fantail.ranges.v1".to_owned()),
        ..message(&[], ranges)
    }
}

/// With headers that count the body.
pub fn sealed(mut message: Message, lines: usize) -> Message {
    message
        .headers
        .insert("lines".to_owned(), Header::Int(lines as i64));
    message
        .headers
        .insert("bytes".to_owned(), Header::Int(message.body.len() as i64));
    message
}

/// The same, packed with `"gzip"` or `"zstd"`.
pub fn packed(message: Message, encoding: &str) -> Message {
    let body = if encoding == "gzip" {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&message.body).unwrap();
        encoder.finish().unwrap()
    } else {
        zstd::encode_all(&message.body[..], 1).unwrap()
    };
    Message {
        content_encoding: Some(encoding.to_owned()),
        body,
        ..message
    }
}

/// 32 hex digits that the ranges determine (FNV-1a, twice).
fn id_of(ranges: &str) -> String {
    let hash = |basis: u64| {
        ranges.bytes().fold(basis, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    };
    format!("{:016x}{:016x}", hash(0xcbf2_9ce4_8422_2325), hash(1))
}

pub fn with_body_text(message: &Message, from: &str, to: &str) -> Message {
    let body = String::from_utf8(message.body.clone()).unwrap();
    assert!(body.contains(from), "{body} has no {from}");
    let lines = message.int_header("lines").unwrap() as usize;
    sealed(
        Message {
            body: body.replace(from, to).into_bytes(),
            ..message.clone()
        },
        lines,
    )
}

/// The same under another file id.
pub fn renamed(message: Message, file: &str) -> Message {
    let mut renamed = with_body_text(&message, FILE, file);
    let ranges = message.text_header("ranges").unwrap().replace(FILE, file);
    renamed.message_id = Some(id_of(&ranges));
    renamed
        .headers
        .insert("ranges".to_owned(), Header::Text(ranges));
    renamed
}
