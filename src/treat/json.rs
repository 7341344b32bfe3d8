//! JSON as fields. `serde_json` says whether it is JSON at all; what is known to be is taken apart
//! here, because its values do not keep a number's text, and the feature by which they would makes
//! numbers of objects with a certain key.

use std::borrow::Cow;

use serde::de::IgnoredAny;

use super::value::{Value, last_of_each};

/// How deep objects and lists may stand in each other: with the line's own object around them, no
/// deeper than any consumer's parser goes (64 is the least that is known).
const DEPTH_MAX: usize = 60;

/// The object that `text` is. Of a key that stands there twice the last value counts.
pub(super) fn object(text: &str) -> Result<Value<'_>, String> {
    if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
        return Err(format!("not JSON: {error}"));
    }
    let mut rest = Rest { text, at: 0 };
    if rest.token() != Some(b'{') {
        return Err("not a JSON object".to_owned());
    }
    rest.value(0).map_err(str::to_owned)
}

/// What is left of a text that is known to be JSON.
struct Rest<'a> {
    text: &'a str,
    at: usize,
}

const NOT_JSON: &str = "not JSON";

impl<'a> Rest<'a> {
    /// Goes to the next byte that is not white space.
    fn token(&mut self) -> Option<u8> {
        let bytes = &self.text.as_bytes()[self.at..];
        let skipped = bytes.iter().position(|byte| !byte.is_ascii_whitespace())?;
        self.at += skipped;
        bytes.get(skipped).copied()
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, &'static str> {
        if depth > DEPTH_MAX {
            return Err("not parsed: JSON nested too deeply");
        }
        match self.token() {
            Some(b'{') => self.fields(depth),
            Some(b'[') => self.items(depth),
            Some(b'"') => Ok(Value::Text(self.string()?)),
            Some(b't') => Ok(self.word(4, Value::Boolean(true))),
            Some(b'f') => Ok(self.word(5, Value::Boolean(false))),
            Some(b'n') => Ok(self.word(4, Value::Null)),
            Some(_) => Ok(self.number()),
            None => Err(NOT_JSON),
        }
    }

    fn word(&mut self, len: usize, value: Value<'a>) -> Value<'a> {
        self.at += len;
        value
    }

    /// As it stands; as a text if it is beyond what a consumer's parser takes for a number.
    fn number(&mut self) -> Value<'a> {
        let text = &self.text[self.at..];
        let ends = |c: char| matches!(c, ',' | ']' | '}') || c.is_ascii_whitespace();
        let number = &text[..text.find(ends).unwrap_or(text.len())];
        self.at += number.len();
        if number.parse::<f64>().is_ok_and(f64::is_finite) {
            Value::Number(number.into())
        } else {
            Value::Text(number.into())
        }
    }

    fn string(&mut self) -> Result<Cow<'a, str>, &'static str> {
        let (begins, bytes) = (self.at, self.text.as_bytes());
        let (mut at, mut has_escapes) = (begins + 1, false);
        loop {
            let found = bytes
                .get(at..)
                .and_then(|rest| memchr::memchr2(b'"', b'\\', rest));
            at += found.ok_or(NOT_JSON)?;
            if bytes[at] == b'"' {
                break;
            }
            (at, has_escapes) = (at + 2, true);
        }
        self.at = at + 1;
        if !has_escapes {
            return Ok(self.text[begins + 1..at].into());
        }
        // One half of a surrogate pair is JSON, and no text.
        let text = serde_json::from_str::<String>(&self.text[begins..=at]);
        text.map(Cow::Owned)
            .map_err(|_| "not parsed: an escape in JSON that is no character")
    }

    fn items(&mut self, depth: usize) -> Result<Value<'a>, &'static str> {
        let mut items = Vec::new();
        self.at += 1;
        while self.token() != Some(b']') {
            items.push(self.value(depth + 1)?);
            if self.token() == Some(b',') {
                self.at += 1;
            }
        }
        self.at += 1;
        Ok(Value::List(items))
    }

    fn fields(&mut self, depth: usize) -> Result<Value<'a>, &'static str> {
        let mut fields = Vec::new();
        self.at += 1;
        while self.token() == Some(b'"') {
            let key = self.string()?;
            if self.token() != Some(b':') {
                return Err(NOT_JSON);
            }
            self.at += 1;
            fields.push((key, self.value(depth + 1)?));
            if self.token() == Some(b',') {
                self.at += 1;
                self.token();
            }
        }
        self.at += 1;
        Ok(Value::Object(last_of_each(fields)))
    }
}
