//! Parsers: what fields a line has.

use regex::Regex;

use super::json;
use super::value::{Field, Value, last_of_each};

/// How lines are parsed.
#[derive(Clone, Debug)]
pub enum Parser {
    /// A JSON object.
    Json,
    /// `key=value key="a value"`.
    Logfmt,
    /// `TIME STREAM P|F text`, as container runtimes write it.
    Cri,
    /// The named groups of a pattern.
    Regex(Regex),
}

/// The parsers that have a name; beside them there is `regex:PATTERN`.
pub const PARSERS: &[(&str, Parser)] = &[
    ("json", Parser::Json),
    ("logfmt", Parser::Logfmt),
    ("cri", Parser::Cri),
];

impl Parser {
    /// The names of the fields, where they are known beforehand.
    #[must_use]
    pub fn fields(&self) -> Option<Vec<&str>> {
        match self {
            Self::Json | Self::Logfmt => None,
            Self::Cri => Some(vec!["time", "stream", "message"]),
            Self::Regex(pattern) => Some(pattern.capture_names().flatten().collect()),
        }
    }

    /// The fields of a line; or why there are none, without a word of the line.
    pub(super) fn parse<'a>(&self, line: &'a str) -> Result<Value<'a>, String> {
        match self {
            Self::Json => json::object(line),
            Self::Logfmt => logfmt(line).map_err(str::to_owned),
            Self::Cri => cri(line).map_err(str::to_owned),
            Self::Regex(pattern) => groups(pattern, line).map_err(str::to_owned),
        }
    }
}

fn text(text: &str) -> Value<'_> {
    Value::Text(text.into())
}

/// As `logfmt` of Go writes it: values in quotes have the escapes of JSON, a key alone is an empty
/// text.
fn logfmt(line: &str) -> Result<Value<'_>, &'static str> {
    let blank = |c: char| c <= ' ';
    let mut fields: Vec<Field<'_>> = Vec::new();
    let (mut rest, mut has_value) = (line.trim_matches(blank), false);
    while !rest.is_empty() {
        let key = &rest[..rest
            .find(|c| blank(c) || matches!(c, '=' | '"'))
            .unwrap_or(rest.len())];
        if key.is_empty() {
            return Err("not logfmt: a value without a key");
        }
        rest = &rest[key.len()..];
        has_value |= rest.starts_with('=');
        let value = match rest.strip_prefix('=') {
            None => "".into(),
            Some(after) if after.starts_with('"') => {
                let len = quoted(after).ok_or("not logfmt: a quote that does not end")?;
                rest = &after[len..];
                let inside = &after[1..len - 1];
                if inside.contains('\\') {
                    let plain = serde_json::from_str::<String>(&after[..len]);
                    plain
                        .map_err(|_| "not logfmt: an escape that is none")?
                        .into()
                } else {
                    inside.into()
                }
            }
            Some(after) => {
                let value = &after[..after.find(blank).unwrap_or(after.len())];
                rest = &after[value.len()..];
                value.into()
            }
        };
        if !rest.is_empty() && !rest.starts_with(blank) {
            return Err("not logfmt: no space behind a value");
        }
        fields.push((key.into(), Value::Text(value)));
        rest = rest.trim_start_matches(blank);
    }
    if !has_value {
        return Err("not logfmt: no key=value");
    }
    Ok(Value::Object(last_of_each(fields)))
}

/// Bytes of the quoted text at the beginning of `text`, with its quotes.
fn quoted(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// What a runtime split (`P`) and multiline joined again is one message: time and stream of its
/// first line, the texts put together.
fn cri(lines: &str) -> Result<Value<'_>, &'static str> {
    let mut first = None;
    let mut message = String::new();
    for line in lines.split('\n') {
        let mut parts = line.splitn(4, ' ');
        let (Some(time), Some(stream), Some(tags)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err("not a line of a container runtime");
        };
        // More tags may follow one day, with colons between them.
        let tag = tags.split(':').next().unwrap_or_default();
        if time.is_empty() || !matches!(stream, "stdout" | "stderr") || !matches!(tag, "P" | "F") {
            return Err("not a line of a container runtime");
        }
        first.get_or_insert((time, stream));
        message.push_str(parts.next().unwrap_or_default());
    }
    let (time, stream) = first.unwrap_or_default();
    Ok(Value::Object(vec![
        ("time".into(), text(time)),
        ("stream".into(), text(stream)),
        ("message".into(), Value::Text(message.into())),
    ]))
}

/// A group that takes no part in the match is no field.
fn groups<'a>(pattern: &Regex, line: &'a str) -> Result<Value<'a>, &'static str> {
    let captures = pattern.captures(line).ok_or("the pattern does not match")?;
    let named = pattern.capture_names().enumerate();
    let field = |(index, name): (usize, Option<&str>)| -> Option<Field<'a>> {
        let group = captures.get(index)?;
        Some((name?.to_owned().into(), text(group.as_str())))
    };
    Ok(Value::Object(named.filter_map(field).collect()))
}
