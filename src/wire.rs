//! Wire format, version 1: how a batch looks as an AMQP message. Knows no AMQP library.

use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::model::{AgentId, Batch, Coding, Format, LogPath, MessageId, Range};

/// All properties of a message together stay under this many bytes, because some clients negotiate
/// frames of 4,096 and a content header must fit into one. One very long path is excepted.
pub const PROPERTIES_MAX: usize = 3_500;

/// A body never exceeds so many bytes: RabbitMQ 4 refuses 16 MiB.
pub const BODY_MAX: usize = 8 * 1024 * 1024;

/// Upper bound of what the properties take beside host, source and `ranges`: flags and lengths,
/// the longest content type, content encoding and message type, id, timestamp, `app_id`, the header names and their
/// type tags and numbers.
const PROPERTIES_FIXED: usize = 400;

/// `type` of a message with lines.
pub const TYPE_BATCH: &str = "fantail.batch.v1";
/// `type` of a message without lines.
pub const TYPE_RANGES: &str = "fantail.ranges.v1";
/// `app_id`.
pub const APP_ID: &str = concat!("fantail/", env!("CARGO_PKG_VERSION"));

/// `delivery_mode`: persistent.
pub const DELIVERY_MODE: u8 = 2;

/// What is the same on every message of an agent.
#[derive(Clone, Debug)]
pub struct Sender {
    /// The agent's id.
    pub agent: AgentId,
    /// The host's name.
    pub host: Arc<str>,
}

/// An AMQP message: properties in the terms of the contract, and a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The source's name: routing key and header.
    pub source: Arc<str>,
    /// Names the ranges.
    pub message_id: MessageId,
    /// [`TYPE_BATCH`] or [`TYPE_RANGES`].
    pub kind: &'static str,
    /// MIME type of the body.
    pub content_type: &'static str,
    /// What the body is packed with.
    pub content_encoding: Option<&'static str>,
    /// Only of an urgent batch, and only where one is configured.
    pub priority: Option<u8>,
    /// Seconds since 1970 at which the batch was closed.
    pub timestamp: u64,
    /// Header `agent`.
    pub agent: String,
    /// Header `host`.
    pub host: Arc<str>,
    /// Header `lines`.
    pub lines: u64,
    /// Header `bytes`.
    pub bytes: u64,
    /// Header `ranges`: compact JSON.
    pub ranges: String,
    /// The body.
    pub body: Bytes,
}

/// The value of a header: stream queues drop whatever else there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header<'a> {
    /// A long string.
    Text(&'a str),
    /// A 64-bit integer.
    Integer(u64),
}

impl Message {
    /// The headers, in the contract's order.
    #[must_use]
    pub fn headers(&self) -> [(&'static str, Header<'_>); 6] {
        [
            ("agent", Header::Text(&self.agent)),
            ("host", Header::Text(&self.host)),
            ("source", Header::Text(&self.source)),
            ("lines", Header::Integer(self.lines)),
            ("bytes", Header::Integer(self.bytes)),
            ("ranges", Header::Text(&self.ranges)),
        ]
    }

    /// The properties beside the headers under the contract's names, in its order, as text.
    #[must_use]
    pub fn properties(&self) -> Vec<(&'static str, String)> {
        let encoding = self.content_encoding.map(str::to_owned);
        [
            ("content_type", Some(self.content_type.to_owned())),
            ("content_encoding", encoding),
            ("delivery_mode", Some(DELIVERY_MODE.to_string())),
            (
                "priority",
                self.priority.map(|priority| priority.to_string()),
            ),
            ("message_id", Some(self.message_id.to_string())),
            ("timestamp", Some(self.timestamp.to_string())),
            ("type", Some(self.kind.to_owned())),
            ("app_id", Some(APP_ID.to_owned())),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}

impl Sender {
    /// The message that carries `batch`. The body is shared, not copied.
    #[must_use]
    pub fn message(&self, batch: &Batch) -> Message {
        let kind = if batch.lines == 0 {
            TYPE_RANGES
        } else {
            TYPE_BATCH
        };
        Message {
            source: Arc::clone(&batch.source),
            message_id: message_id(self.agent, &batch.ranges),
            kind,
            content_type: content_type(batch.format),
            content_encoding: batch.coding.map(content_encoding),
            priority: (batch.priority > 0).then_some(batch.priority),
            timestamp: batch.closed_at,
            agent: self.agent.to_string(),
            host: Arc::clone(&self.host),
            lines: batch.lines,
            bytes: batch.bytes,
            ranges: ranges_json(&batch.ranges),
            body: batch.body.clone(),
        }
    }

    /// How long `ranges` may become on a message of `source`.
    #[must_use]
    pub fn ranges_len_max(&self, source: &str) -> usize {
        PROPERTIES_MAX.saturating_sub(PROPERTIES_FIXED + self.host.len() + source.len())
    }
}

fn content_type(format: Format) -> &'static str {
    match format {
        Format::Ndjson => "application/x-ndjson",
        Format::Json => "application/json",
        Format::Lines => "text/plain",
    }
}

fn content_encoding(coding: Coding) -> &'static str {
    match coding {
        Coding::Gzip => "gzip",
        Coding::Zstd => "zstd",
    }
}

/// The id of the message with these ranges, in whatever order: a hash of agent, files and offsets.
#[must_use]
pub fn message_id(agent: AgentId, ranges: &[Range]) -> MessageId {
    let place = |range: &Range| (range.file, range.start, range.end);
    let mut places: Vec<_> = ranges.iter().map(place).collect();
    places.sort_unstable();
    let mut hash = Sha256::new();
    hash.update(agent.0);
    for (file, start, end) in places {
        hash.update(file.0);
        hash.update(start.to_be_bytes());
        hash.update(end.to_be_bytes());
    }
    let digest = hash.finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    MessageId(id)
}

/// Header `ranges`: `[{"file":…,"path":…,"start":…,"end":…}]`, with `path_base64` for a path that
/// is not UTF-8, and `skipped` and `eof` where they apply.
#[must_use]
pub fn ranges_json(ranges: &[Range]) -> String {
    let mut json = String::from("[");
    for (index, range) in ranges.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        let path = path_json(&range.path);
        write_fmt(
            &mut json,
            format_args!(
                r#"{{"file":"{}",{path},"start":{},"end":{}"#,
                range.file, range.start, range.end
            ),
        );
        if let Some(reason) = range.skipped {
            write_fmt(
                &mut json,
                format_args!(r#","skipped":"{}""#, reason.as_str()),
            );
        }
        if range.eof {
            json.push_str(r#","eof":true"#);
        }
        json.push('}');
    }
    json.push(']');
    json
}

/// Upper bound of what one range of `path` adds to [`ranges_json`].
#[must_use]
pub fn range_len_max(path: &LogPath) -> usize {
    const REST: usize =
        r#"{"file":"","start":,"end":,"skipped":"drop_oldest","eof":true},"#.len() + 32 + 20 + 20;
    REST + path_json(path).len()
}

/// `"path":"…"`, and behind it `"path_base64":"…"` when the path is not UTF-8. No braces.
#[must_use]
pub fn path_json(path: &LogPath) -> String {
    let text = String::from_utf8_lossy(path.as_bytes());
    let mut json = format!(r#""path":{}"#, serde_json::Value::from(text.as_ref()));
    if std::str::from_utf8(path.as_bytes()).is_err() {
        let exact = BASE64.encode(path.as_bytes());
        write_fmt(&mut json, format_args!(r#","path_base64":"{exact}""#));
    }
    json
}

fn write_fmt(text: &mut String, args: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = text.write_fmt(args);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::credit::Credit;
    use crate::model::{FileId, Proof, Skipped};
    use std::path::Path;

    fn range(path: &[u8]) -> Range {
        Range {
            file: FileId([0x0f; 16]),
            path: LogPath::from_bytes(path),
            start: 0,
            end: 8812,
            skipped: None,
            eof: false,
            epoch: 0,
            proof: Proof::default(),
        }
    }

    #[test]
    fn ranges_are_compact_json_in_the_contracts_form() {
        let plain = range(b"/var/log/app/a.log");
        let ended = Range {
            skipped: Some(Skipped::ReadFrom),
            eof: true,
            ..range(b"/b")
        };
        let file = "0f".repeat(16);
        assert_eq!(
            ranges_json(&[plain, ended]),
            format!(
                r#"[{{"file":"{file}","path":"/var/log/app/a.log","start":0,"end":8812}},{{"file":"{file}","path":"/b","start":0,"end":8812,"skipped":"read_from","eof":true}}]"#
            )
        );
    }

    #[test]
    fn a_path_that_is_not_utf8_keeps_its_exact_bytes_beside_it() {
        let json = path_json(&LogPath::from_bytes(b"/tmp/\xff\".log"));
        assert_eq!(
            json,
            "\"path\":\"/tmp/\u{fffd}\\\".log\",\"path_base64\":\"L3RtcC//Ii5sb2c=\""
        );
    }

    #[test]
    fn the_bound_of_a_range_is_never_too_small() {
        let longest = Range {
            start: u64::MAX,
            end: u64::MAX,
            skipped: Some(Skipped::ReadFrom),
            eof: true,
            ..range(b"/var/log/\xfe.log")
        };
        let bound = range_len_max(&longest.path);
        assert!(ranges_json(&[longest]).len() <= bound + 1);
    }

    #[test]
    fn a_message_says_in_which_form_its_body_is() {
        let sender = Sender {
            agent: AgentId([1; 16]),
            host: "web-1".into(),
        };
        let message = |format, coding, lines| {
            let credit = Credit::new(10, || {});
            sender.message(&Batch {
                source: "app".into(),
                ranges: vec![range(b"/a")],
                lines,
                priority: 0,
                bytes: 8812,
                format,
                coding,
                body: Bytes::from_static(b"x"),
                closed_at: 0,
                stored: None,
                permit: credit.take(1).expect("room"),
            })
        };
        for (format, content_type) in [
            (Format::Ndjson, "application/x-ndjson"),
            (Format::Json, "application/json"),
            (Format::Lines, "text/plain"),
        ] {
            for (coding, encoding) in [
                (None, None),
                (Some(Coding::Gzip), Some("gzip")),
                (Some(Coding::Zstd), Some("zstd")),
            ] {
                let message = message(format, coding, 1);
                assert_eq!(message.content_type, content_type);
                assert_eq!(message.content_encoding, encoding);
                assert_eq!((message.kind, message.bytes), (TYPE_BATCH, 8812));
                assert_eq!(
                    message.message_id,
                    message_id(sender.agent, &[range(b"/a")])
                );
            }
        }
        assert_eq!(message(Format::Lines, None, 0).kind, TYPE_RANGES);
    }

    #[test]
    fn the_same_ranges_have_the_same_id_and_others_another() {
        let agent = AgentId([1; 16]);
        let first = range(Path::new("/a").to_str().map_or(b"", str::as_bytes));
        let mut later = first.clone();
        later.epoch = 7;
        assert_eq!(
            message_id(agent, std::slice::from_ref(&first)),
            message_id(agent, std::slice::from_ref(&later))
        );
        later.end += 1;
        assert_ne!(message_id(agent, &[first]), message_id(agent, &[later]));
    }
}
