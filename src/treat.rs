//! Treatment of a line on its way into a batch: decoded, filtered, redacted, parsed. No I/O, no
//! clock. What comes from a line can end up in its message, its parsed fields and an error alone.

mod decode;
mod json;
mod parse;
mod redact;
mod time;
mod value;

use std::borrow::Cow;
use std::ops::Range;

use encoding_rs::{Encoding, UTF_8};
use regex::bytes::RegexSet;

pub use parse::{PARSERS, Parser};
pub use redact::{LOOKAHEAD, Rule, Rules};
pub use time::{FormatError, TimeField};

use decode::{Text, View};
use value::Value;

/// Bytes by which redaction may lengthen the parsed fields of one line, all together.
const FIELDS_GROW_MAX: usize = 1024 * 1024;

/// How the lines of a source are treated.
#[derive(Clone, Debug)]
pub struct Treatment {
    /// How its files are written.
    pub encoding: &'static Encoding,
    /// `{…}`, put beside every message; empty where there are none.
    pub labels: String,
    /// If given, a line must match one.
    pub keep: Option<RegexSet>,
    /// A line that matches one is dropped.
    pub drop: Option<RegexSet>,
    /// What must not leave, in the order in which it is looked for.
    pub redact: Rules,
    /// What fields a line has.
    pub parse: Option<Parser>,
    /// The field that tells when a line was written.
    pub timestamp: Option<TimeField>,
    /// A line that matches one closes its batch.
    pub urgent: Option<RegexSet>,
    /// AMQP priority of such a batch; 0 for none.
    pub urgent_priority: u8,
}

/// Lines go as they are.
impl Default for Treatment {
    fn default() -> Self {
        Self {
            encoding: UTF_8,
            labels: String::new(),
            keep: None,
            drop: None,
            redact: Rules::default(),
            parse: None,
            timestamp: None,
            urgent: None,
            urgent_priority: 0,
        }
    }
}

/// A line, several that were joined, or a part of a split one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Piece<'a> {
    /// Its bytes, without the line end.
    pub content: &'a [u8],
    /// What stands before it in the same line. The last character counts, no more: patterns look
    /// no further back.
    pub before: &'a [u8],
    /// What follows in the same line: up to [`LOOKAHEAD`] bytes, from where the line would be cut
    /// without redaction ([`Treatment::cut`]).
    pub after: &'a [u8],
    /// A part of a split line: not the last one, or not the first.
    pub is_part: bool,
    /// Several lines were joined.
    pub is_joined: bool,
}

impl<'a> Piece<'a> {
    /// A whole line.
    #[must_use]
    pub fn line(content: &'a [u8]) -> Self {
        Self {
            content,
            ..Self::default()
        }
    }
}

/// What became of a line.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It goes into no batch; its bytes are accounted for.
    Dropped(Reason),
    /// It goes.
    Kept(Treated<'a>),
}

/// Why a line was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It matches no pattern of `keep`.
    Keep,
    /// It matches a pattern of `drop`.
    Drop,
}

/// What of a line goes into its object.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Treated<'a> {
    /// The line, redacted, with U+FFFD for what cannot be decoded.
    pub message: Cow<'a, str>,
    /// Its bytes, redacted likewise, when they could not be decoded and can be given.
    pub exact: Option<Cow<'a, [u8]>>,
    /// A JSON object of its fields.
    pub parsed: Option<String>,
    /// What could not be done with it. Never text of the line.
    pub error: Option<String>,
    /// When it was written, as `@timestamp` shows it.
    pub timestamp: Option<String>,
    /// It closes its batch.
    pub urgent: bool,
}

impl Treatment {
    /// Bytes that must be in hand behind the place where a line is to be cut, or the line's end.
    #[must_use]
    pub fn lookahead(&self) -> usize {
        if self.redact.is_empty() { 0 } else { LOOKAHEAD }
    }

    /// Bytes of the byte order mark that the file's first bytes are, if they are one of its
    /// encoding: it is no part of the first line's text.
    #[must_use]
    pub fn byte_order_mark(&self, bytes: &[u8]) -> usize {
        let mark = Encoding::for_bom(bytes).filter(|(encoding, _)| *encoding == self.encoding);
        mark.map_or(0, |(_, len)| len)
    }

    /// Where a part of an over-long line ends: at `piece.content`'s end, which `piece.after`
    /// follows, or elsewhere, if something that must not leave would go in two pieces. That is
    /// before it, or, for what begins with the part, behind it by at most `piece.after`. The same
    /// bytes are always cut at the same place.
    #[must_use]
    pub fn cut(&self, piece: &Piece<'_>) -> usize {
        let proposed = piece.content.len();
        if self.redact.is_empty() {
            return proposed;
        }
        let content = decode::text(self.encoding, piece.content.into());
        let view = View::new(self.encoding, piece, &content.text);
        let Some(redacted) = self.redact.apply(&view.text, view.start) else {
            return proposed;
        };
        // What ends where no more is in hand may go on: it is longer than is looked for.
        let ends_here = piece.after.len() < LOOKAHEAD;
        let seen = |edit: &Range<usize>| ends_here || edit.end < view.text.len();
        let Some(across) = redacted.across(view.end).filter(seen) else {
            return proposed;
        };
        if across.start > view.start {
            return content.bytes_before(self.encoding, piece.content, across.start - view.start);
        }
        let after = decode::text(self.encoding, piece.after.into());
        proposed + after.bytes_before(self.encoding, piece.after, across.end - view.end)
    }

    /// Treats a line.
    #[must_use]
    pub fn treat<'a>(&self, piece: &Piece<'a>) -> Verdict<'a> {
        let text = decode::piece(self.encoding, piece);
        let urgent = {
            let stands = text.as_it_stands();
            if self.drop.as_ref().is_some_and(|drop| drop.is_match(stands)) {
                return Verdict::Dropped(Reason::Drop);
            }
            if self
                .keep
                .as_ref()
                .is_some_and(|keep| !keep.is_match(stands))
            {
                return Verdict::Dropped(Reason::Keep);
            }
            self.urgent
                .as_ref()
                .is_some_and(|urgent| urgent.is_match(stands))
        };
        let mut faults = Vec::new();
        let (message, exact) = self.redacted(piece, text, &mut faults);
        let mut treated = Treated {
            exact,
            urgent,
            ..Treated::default()
        };
        if let Some(parser) = &self.parse {
            self.fields(parser, piece, &message, &mut treated, &mut faults);
        }
        treated.message = message;
        treated.error = (!faults.is_empty()).then(|| faults.join("; "));
        Verdict::Kept(treated)
    }

    /// The message and, where they are told, its exact bytes.
    fn redacted<'a>(
        &self,
        piece: &Piece<'_>,
        text: Text<'a>,
        faults: &mut Vec<String>,
    ) -> (Cow<'a, str>, Option<Cow<'a, [u8]>>) {
        if self.redact.is_empty() {
            return (text.text, text.exact);
        }
        let view = View::new(self.encoding, piece, &text.text);
        let Some(redacted) = self.redact.apply(&view.text, view.start) else {
            return (text.text, text.exact);
        };
        if redacted.curtailed {
            faults.push(
                "redacted: replacements left out, they would make the line too long".to_owned(),
            );
        }
        let exact = match text.exact {
            Some(bytes) if self.encoding == UTF_8 => {
                let place = |at: usize| text.bad.bytes_before(at - view.start);
                let bytes = redacted.in_bytes(&bytes, view.end, place);
                String::from_utf8(bytes)
                    .err()
                    .map(|bad| bad.into_bytes().into())
            }
            // Where the match stands in bytes of another encoding is not known.
            _ => None,
        };
        let (start, end) = (view.start, redacted.end_of(view.end));
        let mut message = redacted.text;
        message.truncate(end);
        message.drain(..start);
        (message.into(), exact)
    }

    fn fields(
        &self,
        parser: &Parser,
        piece: &Piece<'_>,
        message: &str,
        treated: &mut Treated<'_>,
        faults: &mut Vec<String>,
    ) {
        if piece.is_part {
            faults.push("not parsed: a part of a split line".to_owned());
            return;
        }
        let mut fields = match parser.parse(message) {
            Ok(fields) => fields,
            Err(fault) => {
                faults.push(fault);
                return;
            }
        };
        let mut growth = FIELDS_GROW_MAX;
        if !self.redact.is_empty() && !fields.redact(&self.redact, &mut growth) {
            faults.push("parsed fields left out: redacted, they would be too long".to_owned());
            return;
        }
        if let Some(field) = &self.timestamp {
            match field.of(&fields) {
                Ok(time) => treated.timestamp = Some(time),
                Err(fault) => faults.push(fault.to_owned()),
            }
        }
        treated.parsed = Some(fields.to_json());
    }
}

/// The text of a JSON object of text values: `labels` as they stand in a line.
#[must_use]
pub fn labels_json<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let text = |text: &'a str| Value::Text(text.into());
    let fields: Vec<_> = labels
        .map(|(key, value)| (key.into(), text(value)))
        .collect();
    if fields.is_empty() {
        return String::new();
    }
    Value::Object(fields).to_json()
}

#[cfg(test)]
mod treat_test;
