//! The fields of a line: what every parser makes, and what becomes JSON again.

use std::borrow::Cow;
use std::collections::HashSet;

use super::redact::Rules;

/// A field of an object.
pub(super) type Field<'a> = (Cow<'a, str>, Value<'a>);

/// A JSON value. A number is its text: one that fits into no machine word is as good as another.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Null,
    Boolean(bool),
    Number(Cow<'a, str>),
    Text(Cow<'a, str>),
    List(Vec<Value<'a>>),
    /// In the order in which they stood there; no key twice ([`last_of_each`]).
    Object(Vec<Field<'a>>),
}

impl<'a> Value<'a> {
    /// The value at a path of keys with dots between them. A key that has dots itself is found too.
    pub(super) fn at(&self, path: &str) -> Option<&Value<'a>> {
        let Self::Object(fields) = self else {
            return None;
        };
        let named = |name: &str| fields.iter().find(|(key, _)| key == name);
        if let Some((_, value)) = named(path) {
            return Some(value);
        }
        path.match_indices('.').find_map(|(dot, _)| {
            let (_, inner) = named(&path[..dot])?;
            inner.at(&path[dot + 1..])
        })
    }

    /// Redacts every key, every text and the text of every number, which becomes a text by it:
    /// what was written with escapes in the line stands here plain. False when they would become
    /// longer by more than `growth` together.
    pub(super) fn redact(&mut self, rules: &Rules, growth: &mut usize) -> bool {
        match self {
            Self::Null | Self::Boolean(_) => true,
            Self::Number(text) => {
                let Some(it) = rules.apply_within(text, 0, growth) else {
                    return true;
                };
                *self = Self::Text(it.text.into());
                !it.curtailed
            }
            Self::Text(text) => redact(text, rules, growth).0,
            Self::List(items) => items.iter_mut().all(|item| item.redact(rules, growth)),
            Self::Object(fields) => {
                let mut renamed = false;
                for (key, value) in fields.iter_mut() {
                    let (fine, changed) = redact(key, rules, growth);
                    renamed |= changed;
                    if !fine || !value.redact(rules, growth) {
                        return false;
                    }
                }
                if renamed {
                    *fields = last_of_each(std::mem::take(fields));
                }
                true
            }
        }
    }

    /// Compact JSON.
    pub(super) fn to_json(&self) -> String {
        let mut json = Vec::new();
        self.write(&mut json);
        // What is put together of texts is UTF-8.
        String::from_utf8(json).unwrap_or_default()
    }

    fn write(&self, json: &mut Vec<u8>) {
        match self {
            Self::Null => json.extend_from_slice(b"null"),
            Self::Boolean(true) => json.extend_from_slice(b"true"),
            Self::Boolean(false) => json.extend_from_slice(b"false"),
            Self::Number(text) => json.extend_from_slice(text.as_bytes()),
            Self::Text(text) => string(json, text),
            Self::List(items) => {
                json.push(b'[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        json.push(b',');
                    }
                    item.write(json);
                }
                json.push(b']');
            }
            Self::Object(fields) => {
                json.push(b'{');
                for (index, (key, value)) in fields.iter().enumerate() {
                    if index > 0 {
                        json.push(b',');
                    }
                    string(json, key);
                    json.push(b':');
                    value.write(json);
                }
                json.push(b'}');
            }
        }
    }
}

fn string(json: &mut Vec<u8>, text: &str) {
    // Writing a string to a Vec cannot fail.
    let _ = serde_json::to_writer(json, text);
}

/// Whether it had room, and whether it changed.
fn redact(text: &mut Cow<'_, str>, rules: &Rules, growth: &mut usize) -> (bool, bool) {
    let Some(it) = rules.apply_within(text, 0, growth) else {
        return (true, false);
    };
    *text = it.text.into();
    (!it.curtailed, true)
}

/// Of fields of the same key the last one.
pub(super) fn last_of_each(fields: Vec<Field<'_>>) -> Vec<Field<'_>> {
    let is_last = {
        let mut seen = HashSet::with_capacity(fields.len());
        let mut is_last: Vec<bool> = fields
            .iter()
            .rev()
            .map(|(key, _)| seen.insert(key))
            .collect();
        is_last.reverse();
        is_last
    };
    if is_last.iter().all(|last| *last) {
        return fields;
    }
    let kept = fields.into_iter().zip(is_last).filter(|(_, last)| *last);
    kept.map(|(field, _)| field).collect()
}
