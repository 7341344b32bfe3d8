//! Owns the reading of one message: its properties, ranges and lines, held against each other.

use std::hash::{DefaultHasher, Hasher};

use super::Findings;
use super::coding::unpacked;
use super::line::{self, Line};
use super::range::{self, Range, is_id};
use crate::support::message::{Header, Message};

const PROPERTIES_MAX: usize = 3_500;
const BODY_MAX: usize = 8 * 1024 * 1024;

/// 2020 in seconds, and a bound that milliseconds exceed.
const TIMES: std::ops::Range<u64> = 1_577_836_800..100_000_000_000;

const NDJSON: &str = "application/x-ndjson";
const RAW_LINES: &str = "text/plain";
const JSON: &str = "application/json";

/// A message that was understood.
pub struct Batch {
    pub agent: String,
    pub host: String,
    pub ranges: Vec<Range>,
    pub lines: Vec<Line>,
    /// Of the body without its `@timestamp`s.
    pub lines_hash: u64,
}

/// None for a message whose ranges are unknown: nothing of it can be accounted for.
pub fn read(message: &Message, findings: &mut Findings<'_>) -> Option<Batch> {
    check_properties(message, findings);
    check_headers(message, findings);
    let agent = message.text_header("agent").unwrap_or_default().to_owned();
    let host = message.text_header("host").unwrap_or_default().to_owned();
    let ranges = range::read(message.text_header("ranges")?, findings);
    check_sizes(message, &ranges, findings);
    let mut batch = Batch {
        agent,
        host,
        ranges,
        lines: Vec::new(),
        lines_hash: 0,
    };
    match message.kind.as_deref() {
        Some("fantail.ranges.v1") => check_is_empty(message, findings),
        Some("fantail.batch.v1") => read_lines(message, &mut batch, findings),
        _ => {}
    }
    Some(batch)
}

fn check_properties(message: &Message, findings: &mut Findings<'_>) {
    let content_type = message.content_type.as_deref();
    if !matches!(content_type, Some(NDJSON | RAW_LINES | JSON)) {
        findings.add(format!("content_type is {content_type:?}"));
    }
    if message.delivery_mode != Some(2) {
        findings.add(format!(
            "delivery_mode is {:?}, not 2",
            message.delivery_mode
        ));
    }
    if !message.message_id.as_deref().is_some_and(is_id) {
        findings.add(format!(
            "message_id is {:?}, not 32 hex digits",
            message.message_id
        ));
    }
    if !matches!(
        message.kind.as_deref(),
        Some("fantail.batch.v1" | "fantail.ranges.v1")
    ) {
        findings.add(format!("type is {:?}", message.kind));
    }
    let version = message
        .app_id
        .as_deref()
        .and_then(|app| app.strip_prefix("fantail/"));
    if version.is_none_or(str::is_empty) {
        findings.add(format!("app_id is {:?}", message.app_id));
    }
    if !message.timestamp.is_some_and(|time| TIMES.contains(&time)) {
        findings.add(format!(
            "timestamp is {:?}, not in seconds",
            message.timestamp
        ));
    }
    if message
        .priority
        .is_some_and(|priority| !(1..=9).contains(&priority))
    {
        findings.add(format!("priority is {:?}", message.priority));
    }
}

fn check_headers(message: &Message, findings: &mut Findings<'_>) {
    for name in ["agent", "host", "source", "ranges"] {
        if message.text_header(name).is_none() {
            findings.add(format!(
                "header {name:?} is {:?}, not text",
                message.headers.get(name)
            ));
        }
    }
    for name in ["lines", "bytes"] {
        if message.int_header(name).is_none() {
            findings.add(format!(
                "header {name:?} is {:?}, not int64",
                message.headers.get(name)
            ));
        }
    }
    for (name, value) in message.own_headers() {
        if let Header::Other(form, _) = value {
            findings.add(format!("header {name:?} is {form}: neither text nor int64"));
        }
    }
    if message
        .text_header("agent")
        .is_some_and(|agent| !is_id(agent))
    {
        findings.add("header \"agent\" is not 32 hex digits");
    }
    // A message that a queue had refused may come through the default exchange.
    let source = message.text_header("source").unwrap_or_default();
    if !message.exchange.is_empty() && message.routing_key != source {
        findings.add(format!(
            "routing key {:?} is not the source {source:?}",
            message.routing_key
        ));
    }
}

fn check_sizes(message: &Message, ranges: &[Range], findings: &mut Findings<'_>) {
    let properties = message.properties_bytes();
    let one_path = ranges.iter().all(|range| range.path == ranges[0].path);
    if properties >= PROPERTIES_MAX && !one_path {
        findings.add(format!("all properties together are {properties} bytes"));
    }
    if message.body.len() > BODY_MAX {
        findings.add(format!("the body is {} bytes", message.body.len()));
    }
}

fn check_is_empty(message: &Message, findings: &mut Findings<'_>) {
    if !message.body.is_empty() {
        findings.add("fantail.ranges.v1 has a body");
    }
    if let Some(encoding) = &message.content_encoding {
        findings.add(format!(
            "fantail.ranges.v1 has content_encoding {encoding:?}"
        ));
    }
    check_counts(message, 0, 0, findings);
}

/// `bytes` before compression.
fn check_counts(message: &Message, lines: usize, bytes: usize, findings: &mut Findings<'_>) {
    for (name, actual) in [("lines", lines), ("bytes", bytes)] {
        let stated = message.int_header(name);
        if stated != i64::try_from(actual).ok() {
            findings.add(format!(
                "header {name:?} is {stated:?}, the body has {actual}"
            ));
        }
    }
}

fn read_lines(message: &Message, batch: &mut Batch, findings: &mut Findings<'_>) {
    let Some(body) = unpacked(message, findings) else {
        return;
    };
    if body.len() > BODY_MAX {
        findings.add(format!("the body is {} bytes unpacked", body.len()));
    }
    let texts = split_lines(&body);
    if texts.is_empty() {
        findings.add("fantail.batch.v1 without lines");
    }
    check_counts(message, texts.len(), body.len(), findings);
    batch.lines_hash = hash_of_lines(&texts);
    match message.content_type.as_deref() {
        Some(RAW_LINES) => read_raw_lines(&texts, batch, findings),
        Some(JSON) => {
            if body.contains(&b'\n') {
                findings.add("application/json with more than one object");
            }
            read_objects(&texts, batch, findings);
        }
        _ => {
            if !body.ends_with(b"\n") {
                findings.add("the last line of the body does not end in LF");
            }
            read_objects(&texts, batch, findings);
        }
    }
}

/// Lines with their LF, which the last one may lack.
pub fn split_lines(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').collect()
}

/// A repeat differs in nothing but the `@timestamp`, which is each line's first key.
fn hash_of_lines(texts: &[&[u8]]) -> u64 {
    // Lines of several files may follow each other otherwise the next time.
    let mut sum = 0_u64;
    for text in texts {
        let mut hasher = DefaultHasher::new();
        let time = text.strip_prefix(b"{\"@timestamp\":\"");
        let end = time.and_then(|time| time.iter().position(|byte| *byte == b'"'));
        hasher.write(match (time, end) {
            (Some(time), Some(end)) => &time[end..],
            _ => text,
        });
        sum = sum.wrapping_add(hasher.finish());
    }
    sum
}

fn read_objects(texts: &[&[u8]], batch: &mut Batch, findings: &mut Findings<'_>) {
    // By the file's first range.
    let mut ends = vec![0; batch.ranges.len()];
    for text in texts {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let Some(object) = line::read(text, findings) else {
            continue;
        };
        if object.host != batch.host {
            findings.add(format!(
                "host.name {:?} is not the header's {:?}",
                object.host, batch.host
            ));
        }
        let Some(range) = range_of(&object, &batch.ranges, findings) else {
            continue;
        };
        let file = batch
            .ranges
            .iter()
            .position(|first| first.file == object.file);
        let end = &mut ends[file.unwrap_or(range)];
        if object.offset < *end {
            findings.add(format!(
                "the line at offset {} of {} comes after one that ends beyond it",
                object.offset, object.path
            ));
        }
        *end = object.offset + object.bytes;
        let line::Object {
            offset,
            bytes,
            partial,
            content,
            ..
        } = object;
        batch.lines.push(Line {
            range,
            offset,
            bytes,
            partial,
            raw: false,
            content,
        });
    }
}

/// The range that a line lies in; without one a consumer cannot account for it.
fn range_of(object: &line::Object, ranges: &[Range], findings: &mut Findings<'_>) -> Option<usize> {
    let (start, end) = (object.offset, object.offset.saturating_add(object.bytes));
    if start == end {
        findings.add(format!(
            "a line of no bytes at offset {start} of {}",
            object.path
        ));
    }
    let place = ranges.iter().position(|range| {
        range.file == object.file
            && range.skipped.is_none()
            && range.start <= start
            && end <= range.end
    });
    match place {
        None => findings.add(format!(
            "the line [{start}, {end}) of {} (file {}) lies in no range of the message",
            object.path, object.file
        )),
        Some(place) if ranges[place].path != object.path => findings.add(format!(
            "a line's path {:?} is not its range's {:?}",
            object.path, ranges[place].path
        )),
        Some(_) => {}
    }
    place
}

/// The body is the bytes of the ranges that were not skipped, all of one file.
fn read_raw_lines(texts: &[&[u8]], batch: &mut Batch, findings: &mut Findings<'_>) {
    if batch
        .ranges
        .iter()
        .any(|range| range.file != batch.ranges[0].file)
    {
        findings.add("text/plain with ranges of several files");
        return;
    }
    let mut texts = texts.iter();
    for (place, range) in batch.ranges.iter().enumerate() {
        let mut offset = range.start;
        while range.skipped.is_none() && offset < range.end {
            let Some(text) = texts.next() else {
                findings.add(format!(
                    "text/plain: the body ends at offset {offset} of its ranges"
                ));
                return;
            };
            let bytes = text.len() as u64;
            batch.lines.push(Line {
                range: place,
                offset,
                bytes,
                partial: !text.ends_with(b"\n"),
                raw: true,
                content: text.to_vec(),
            });
            offset += bytes;
        }
        if offset > range.end && range.skipped.is_none() {
            findings.add("text/plain: a line of the body goes beyond its range");
        }
    }
    if texts.next().is_some() {
        findings.add("text/plain: the body is longer than its ranges");
    }
}

/// Without LF, or CRLF.
pub fn without_line_end(text: &[u8]) -> &[u8] {
    match text.strip_suffix(b"\n") {
        Some(line) => line.strip_suffix(b"\r").unwrap_or(line),
        None => text,
    }
}
