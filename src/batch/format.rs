//! The three forms of a body, line by line. Knows neither batches nor compression.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{Line, Origin};
use crate::model::Format;

/// Appends `line` to a body of this format.
pub(super) fn encode(format: Format, body: &mut Vec<u8>, origin: &Origin, line: &Line<'_>) {
    match format {
        Format::Ndjson => {
            object(body, origin, line);
            body.push(b'\n');
        }
        Format::Json => object(body, origin, line),
        Format::Lines => body.extend_from_slice(line.raw),
    }
}

/// Whether what is appended to `body` next is one more line of it. In bare bytes nothing shows
/// where a long line was split, so that its parts are one line there.
pub(super) fn begins_line(format: Format, body: &[u8]) -> bool {
    match format {
        Format::Ndjson | Format::Json => true,
        Format::Lines => body.last().is_none_or(|last| *last == b'\n'),
    }
}

/// The object of a line: Elastic Common Schema names, in the contract's order.
fn object(body: &mut Vec<u8>, origin: &Origin, line: &Line<'_>) {
    body.extend_from_slice(br#"{"@timestamp":""#);
    body.extend_from_slice(line.timestamp.as_bytes());
    body.push(b'"');
    body.extend_from_slice(&origin.json);
    number(body, line.offset);
    body.extend_from_slice(br#","bytes":"#);
    number(body, line.raw.len() as u64);
    if line.partial {
        body.extend_from_slice(br#","partial":true"#);
    }
    body.extend_from_slice(br#"},"message":"#);
    string(body, line.message);
    if let Some(exact) = line.exact {
        body.extend_from_slice(br#","message_base64":""#);
        body.extend_from_slice(BASE64.encode(exact).as_bytes());
        body.push(b'"');
    }
    if !line.labels.is_empty() {
        body.extend_from_slice(br#","labels":"#);
        body.extend_from_slice(line.labels.as_bytes());
    }
    if let Some(parsed) = line.parsed {
        body.extend_from_slice(br#","parsed":"#);
        body.extend_from_slice(parsed.as_bytes());
    }
    if let Some(error) = line.error {
        body.extend_from_slice(br#","error":{"message":"#);
        string(body, error);
        body.push(b'}');
    }
    body.push(b'}');
}

fn number(body: &mut Vec<u8>, value: u64) {
    // Writing to a Vec cannot fail.
    let _ = write!(body, "{value}");
}

fn string(body: &mut Vec<u8>, text: &str) {
    // Writing a string to a Vec cannot fail.
    let _ = serde_json::to_writer(body, text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{FileId, LogPath};
    use crate::wire::BODY_MAX;

    fn encoded(format: Format, line: &Line<'_>) -> Vec<u8> {
        let path = LogPath::from_bytes(b"/var/log/app/a.log");
        let origin = Origin::new("web-1", FileId([0x0f; 16]), path);
        let mut body = Vec::new();
        encode(format, &mut body, &origin, line);
        body
    }

    fn line<'a>(raw: &'a [u8], message: &'a str) -> Line<'a> {
        Line {
            timestamp: "2026-11-22T13:15:00.123Z",
            offset: 8812,
            raw,
            message,
            ..Line::default()
        }
    }

    fn text(format: Format, line: &Line<'_>) -> String {
        String::from_utf8(encoded(format, line)).expect("JSON is UTF-8")
    }

    #[test]
    fn a_line_has_the_contracts_keys_in_its_order() {
        let id = "0f".repeat(16);
        let object = format!(
            "{{\"@timestamp\":\"2026-11-22T13:15:00.123Z\",\"host\":{{\"name\":\"web-1\"}},\
             \"log\":{{\"file\":{{\"path\":\"/var/log/app/a.log\",\"id\":\"{id}\"}},\
             \"offset\":8812,\"bytes\":11}},\"message\":\"GET / 200\"}}"
        );
        let line = line(b"GET / 200\r\n", "GET / 200");
        assert_eq!(text(Format::Ndjson, &line), format!("{object}\n"));
        assert_eq!(text(Format::Json, &line), object);
        assert_eq!(encoded(Format::Lines, &line), b"GET / 200\r\n");
    }

    #[test]
    fn what_was_made_of_a_line_stands_behind_its_message() {
        let line = Line {
            labels: r#"{"env":"prod"}"#,
            parsed: Some(r#"{"status":200}"#),
            error: Some("a \"fault\""),
            ..line(b"x\n", "x")
        };
        let body = text(Format::Json, &line);
        let behind = concat!(
            r#""message":"x","labels":{"env":"prod"},"parsed":{"status":200},"#,
            r#""error":{"message":"a \"fault\""}}"#
        );
        assert!(body.ends_with(behind), "{body}");
        assert_eq!(encoded(Format::Lines, &line), b"x\n");
    }

    #[test]
    fn bytes_that_are_not_utf8_stand_beside_their_readable_form() {
        let bytes = b"a\xff\0\"";
        let part = Line {
            partial: true,
            exact: Some(bytes),
            ..line(bytes, "a\u{fffd}\0\"")
        };
        let body = text(Format::Ndjson, &part);
        assert!(body.contains(r#""bytes":4,"partial":true}"#), "{body}");
        assert!(
            body.ends_with(
                "\"message\":\"a\u{fffd}\\u0000\\\"\",\"message_base64\":\"Yf8AIg==\"}\n"
            ),
            "{body}"
        );
        assert_eq!(encoded(Format::Lines, &part), bytes);
    }

    #[test]
    fn the_longest_line_fits_into_a_body_however_it_is_escaped() {
        // A NUL takes six bytes, and one byte that is not UTF-8 adds the base64 of all.
        let mut content = vec![0; 1 << 20];
        content[0] = 0xff;
        let message = String::from_utf8_lossy(&content);
        let line = Line {
            exact: Some(&content),
            ..line(&content, &message)
        };
        let bytes = encoded(Format::Ndjson, &line).len();
        assert!(bytes > 7 << 20 && bytes < BODY_MAX - (64 << 10), "{bytes}");
    }
}
