//! Owns the `ranges` header: its JSON form and what one range says.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Findings;
use crate::support::json::{Json, is_compact};

const KEYS: [&str; 7] = [
    "file",
    "path",
    "path_base64",
    "start",
    "end",
    "skipped",
    "eof",
];
const REQUIRED: [&str; 4] = ["file", "path", "start", "end"];
const REASONS: [&str; 7] = [
    "read_from",
    "ignored",
    "hole",
    "drop_oldest",
    "damaged",
    "truncated",
    "deleted",
];

/// `[start, end)` of a file.
#[derive(Clone, Debug)]
pub struct Range {
    pub file: String,
    pub path: String,
    pub start: u64,
    pub end: u64,
    pub skipped: Option<String>,
    pub eof: bool,
}

/// All ranges of a message; those that cannot be understood are reported and left out.
pub fn read(header: &str, findings: &mut Findings<'_>) -> Vec<Range> {
    if !is_compact(header) {
        findings.add("ranges: white space between the JSON tokens");
    }
    let json = match Json::parse(header) {
        Ok(json) => json,
        Err(error) => {
            findings.add(format!("ranges: not JSON: {error}"));
            return Vec::new();
        }
    };
    let Json::Array(entries) = json else {
        findings.add("ranges: not an array");
        return Vec::new();
    };
    if entries.is_empty() {
        findings.add("ranges: empty");
    }
    entries
        .iter()
        .filter_map(|entry| read_one(entry, findings))
        .collect()
}

fn read_one(entry: &Json<'_>, findings: &mut Findings<'_>) -> Option<Range> {
    check_keys("a range", entry, &KEYS, &REQUIRED, findings);
    let text = |key| entry.get(key).and_then(Json::text).map(str::to_owned);
    let natural = |key| entry.get(key).and_then(Json::natural);
    let (Some(file), Some(path), Some(start), Some(end)) =
        (text("file"), text("path"), natural("start"), natural("end"))
    else {
        findings.add(format!("ranges: a value of the wrong type in {entry:?}"));
        return None;
    };
    let range = Range {
        file,
        path,
        start,
        end,
        skipped: text("skipped"),
        eof: eof(entry, findings),
    };
    check(&range, findings);
    check_path_base64(entry, &range.path, findings);
    Some(range)
}

fn eof(entry: &Json<'_>, findings: &mut Findings<'_>) -> bool {
    match entry.get("eof") {
        None => false,
        Some(Json::Bool(true)) => true,
        Some(other) => {
            findings.add(format!("ranges: eof is {other:?}"));
            false
        }
    }
}

fn check(range: &Range, findings: &mut Findings<'_>) {
    let Range {
        file, start, end, ..
    } = range;
    if !is_id(file) {
        findings.add(format!("ranges: file id {file:?} is not 32 hex digits"));
    }
    // The end of a generation may become known when all its bytes have been sent.
    if start > end || (start == end && !range.eof) {
        findings.add(format!(
            "ranges: [{start}, {end}) of {} is empty",
            range.path
        ));
    }
    if let Some(reason) = &range.skipped
        && !REASONS.contains(&reason.as_str())
    {
        findings.add(format!("ranges: skipped for an unknown reason {reason:?}"));
    }
}

fn check_path_base64(entry: &Json<'_>, path: &str, findings: &mut Findings<'_>) {
    let Some(encoded) = entry.get("path_base64") else {
        return;
    };
    let decoded = encoded.text().and_then(|text| STANDARD.decode(text).ok());
    match decoded {
        Some(bytes) if std::str::from_utf8(&bytes).is_ok() => {
            findings.add(format!(
                "ranges: path_base64 of a path that is UTF-8: {path:?}"
            ));
        }
        Some(bytes) if String::from_utf8_lossy(&bytes) == path => {}
        _ => findings.add(format!("ranges: path_base64 is not the bytes of {path:?}")),
    }
}

/// 32 hex digits, in lower case.
pub fn is_id(text: &str) -> bool {
    text.len() == 32
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether `object` is one, has its keys in the order of `keys`, no others, none twice, and all of
/// `required`.
pub fn check_keys(
    what: &str,
    object: &Json<'_>,
    keys: &[&str],
    required: &[&str],
    findings: &mut Findings<'_>,
) {
    let Some(entries) = object.entries() else {
        findings.add(format!("{what} is not an object"));
        return;
    };
    let mut allowed = keys.iter();
    for (key, _) in entries {
        if allowed.any(|allowed| allowed == key) {
            continue;
        }
        // `allowed` is used up; one sentence for each object is enough.
        if entries.iter().filter(|(other, _)| other == key).count() > 1 {
            findings.add(format!("{what} has the key {key:?} twice"));
        } else if keys.contains(&key.as_ref()) {
            findings.add(format!("{what} has the key {key:?} out of order"));
        } else {
            findings.add(format!("{what} has the unknown key {key:?}"));
        }
        break;
    }
    for key in required {
        if object.get(key).is_none() {
            findings.add(format!("{what} has no key {key:?}"));
        }
    }
}
