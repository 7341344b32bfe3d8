//! Owns one line of a body: the form of its JSON object, and what it says.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Findings;
use super::range::check_keys;
use crate::support::json::Json;

const LINE: [&str; 8] = [
    "@timestamp",
    "host",
    "log",
    "message",
    "message_base64",
    "labels",
    "parsed",
    "error",
];
const LOG: [&str; 4] = ["file", "offset", "bytes", "partial"];
const FILE: [&str; 3] = ["path", "path_base64", "id"];

/// A line as a consumer keeps it.
#[derive(Clone, Debug)]
pub struct Line {
    /// Place in the message's ranges.
    pub range: usize,
    pub offset: u64,
    /// Source bytes, line end included.
    pub bytes: u64,
    /// A part of a split line, but the last.
    pub partial: bool,
    /// `content` has its line end, and `partial` means merely that there is none.
    pub raw: bool,
    /// Without the line end.
    pub content: Vec<u8>,
}

/// What a line's object says, before it is held against the message's headers.
pub struct Object {
    pub host: String,
    pub path: String,
    pub file: String,
    pub offset: u64,
    pub bytes: u64,
    pub partial: bool,
    pub content: Vec<u8>,
}

/// `text` is one line of a body, without its LF.
pub fn read(text: &[u8], findings: &mut Findings<'_>) -> Option<Object> {
    let Ok(text) = std::str::from_utf8(text) else {
        findings.add("a line of the body is not UTF-8");
        return None;
    };
    let json = match Json::parse(text) {
        Ok(json) => json,
        Err(error) => {
            findings.add(format!("a line of the body is not JSON: {error}"));
            return None;
        }
    };
    check_form(&json, findings);
    let object = values(&json, findings);
    if object.is_none() {
        findings.add(format!(
            "a value of the wrong type in the line {}",
            shortened(text)
        ));
    }
    object
}

fn check_form(json: &Json<'_>, findings: &mut Findings<'_>) {
    check_keys("a line", json, &LINE, &LINE[..4], findings);
    for (key, keys, required) in [
        ("host", &["name"][..], &["name"][..]),
        ("log", &LOG, &LOG[..3]),
        ("error", &["message"], &["message"]),
    ] {
        if let Some(value) = json.get(key) {
            check_keys(
                &format!("{key:?} of a line"),
                value,
                keys,
                required,
                findings,
            );
        }
    }
    if let Some(file) = json.get("log").and_then(|log| log.get("file")) {
        check_keys(
            "\"log.file\" of a line",
            file,
            &FILE,
            &["path", "id"],
            findings,
        );
    }
    for key in ["labels", "parsed"] {
        if let Some(value) = json.get(key)
            && value.entries().is_none()
        {
            findings.add(format!("{key:?} of a line is not an object"));
        }
    }
    if let Some(key) = json.repeated_key() {
        findings.add(format!("an object of a line has the key {key:?} twice"));
    }
    match json.get("@timestamp").and_then(Json::text) {
        Some(time) if is_utc_time(time) => {}
        time => findings.add(format!(
            "@timestamp is {time:?}, not like 2026-11-22T13:15:00.123Z"
        )),
    }
}

fn values(json: &Json<'_>, findings: &mut Findings<'_>) -> Option<Object> {
    let log = json.get("log")?;
    let file = log.get("file")?;
    let text = |value: Option<&Json<'_>>| value.and_then(Json::text).map(str::to_owned);
    let partial = match log.get("partial") {
        None => false,
        Some(Json::Bool(true)) => true,
        Some(_) => return None,
    };
    let message = text(json.get("message"))?;
    Some(Object {
        host: text(json.get("host")?.get("name"))?,
        path: text(file.get("path"))?,
        file: text(file.get("id"))?,
        offset: log.get("offset")?.natural()?,
        bytes: log.get("bytes")?.natural()?,
        partial,
        content: match json.get("message_base64") {
            None => message.into_bytes(),
            Some(encoded) => exact_bytes(encoded.text()?, &message, findings),
        },
    })
}

fn exact_bytes(encoded: &str, message: &str, findings: &mut Findings<'_>) -> Vec<u8> {
    let Ok(bytes) = STANDARD.decode(encoded) else {
        findings.add("message_base64 is not base64");
        return Vec::new();
    };
    if std::str::from_utf8(&bytes).is_ok() {
        findings.add("message_base64 beside a line that is UTF-8");
    } else if String::from_utf8_lossy(&bytes) != message {
        findings.add("message is not message_base64 with U+FFFD in place of what is not UTF-8");
    }
    bytes
}

/// `YYYY-MM-DDTHH:MM:SS` with 3 to 9 digits of a fraction and `Z`.
fn is_utc_time(text: &str) -> bool {
    let Some(rest) = text.strip_suffix('Z') else {
        return false;
    };
    let Some((seconds, fraction)) = rest.split_once('.') else {
        return false;
    };
    let pattern = "0000-00-00T00:00:00";
    let like = |(byte, form): (u8, u8)| {
        if form == b'0' {
            byte.is_ascii_digit()
        } else {
            byte == form
        }
    };
    seconds.len() == pattern.len()
        && seconds.bytes().zip(pattern.bytes()).all(like)
        && (3..=9).contains(&fraction.len())
        && fraction.bytes().all(|byte| byte.is_ascii_digit())
}

/// For a report.
pub fn shortened(text: &str) -> String {
    let end = text
        .char_indices()
        .nth(120)
        .map_or(text.len(), |(at, _)| at);
    format!(
        "{:?}{}",
        &text[..end],
        if end < text.len() { "…" } else { "" }
    )
}
