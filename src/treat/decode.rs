//! Bytes of a line as text, and the way back from a place in the text to its bytes.

use std::borrow::Cow;

use encoding_rs::{CoderResult, Encoding, UTF_8};

use super::Piece;

/// Longest character of any encoding, in bytes.
const CHARACTER_MAX: usize = 4;

/// The content of a line, decoded.
#[derive(Debug)]
pub(super) struct Text<'a> {
    /// U+FFFD stands for what could not be decoded.
    pub(super) text: Cow<'a, str>,
    /// The bytes, when some could not be decoded.
    pub(super) exact: Option<Cow<'a, [u8]>>,
    /// Where U+FFFD stands for bytes; of UTF-8 alone.
    pub(super) bad: Bad,
    is_utf8: bool,
}

/// Each place behind a U+FFFD that stands for bytes: in the text, and in the bytes. Between two of
/// them text and bytes are the same.
#[derive(Debug, Default)]
pub(super) struct Bad(Vec<(usize, usize)>);

impl Bad {
    /// How many bytes stand before a place in the text.
    pub(super) fn bytes_before(&self, at: usize) -> usize {
        let passed = self.0.partition_point(|(text, _)| *text <= at);
        match passed.checked_sub(1).map(|last| self.0[last]) {
            Some((text, bytes)) => bytes + (at - text),
            None => at,
        }
    }
}

impl Text<'_> {
    /// What patterns are held against to judge the line as it stands in the log.
    pub(super) fn as_it_stands(&self) -> &[u8] {
        match &self.exact {
            Some(bytes) if self.is_utf8 => bytes,
            _ => self.text.as_bytes(),
        }
    }

    /// How many of `bytes`, which were decoded, stand before a place in the text.
    pub(super) fn bytes_before(
        &self,
        encoding: &'static Encoding,
        bytes: &[u8],
        at: usize,
    ) -> usize {
        if self.is_utf8 {
            return self.bad.bytes_before(at);
        }
        // Byte by byte: no encoding but UTF-8 tells. Needed for the few lines that are cut.
        let mut decoder = encoding.new_decoder_without_bom_handling();
        let (mut out, mut written) = ([0; 16], 0);
        for (index, byte) in bytes.iter().enumerate() {
            if written >= at {
                return index;
            }
            let (result, _, wrote, _) = decoder.decode_to_utf8(&[*byte], &mut out, false);
            debug_assert_eq!(result, CoderResult::InputEmpty);
            written += wrote;
        }
        bytes.len()
    }
}

/// Decodes bytes. Valid UTF-8 is not copied.
pub(super) fn text<'a>(encoding: &'static Encoding, bytes: Cow<'a, [u8]>) -> Text<'a> {
    let is_utf8 = encoding == UTF_8;
    let plain = |text| Text {
        text,
        exact: None,
        bad: Bad::default(),
        is_utf8,
    };
    if !is_utf8 {
        let (text, bad) = encoding.decode_without_bom_handling(&bytes);
        let text = text.into_owned().into();
        let exact = bad.then_some(bytes);
        return Text {
            exact,
            ..plain(text)
        };
    }
    let bytes = match bytes {
        Cow::Borrowed(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => return plain(text.into()),
            Err(_) => Cow::Borrowed(bytes),
        },
        Cow::Owned(bytes) => match String::from_utf8(bytes) {
            Ok(text) => return plain(text.into()),
            Err(error) => Cow::Owned(error.into_bytes()),
        },
    };
    let (text, bad) = lossy(&bytes);
    Text {
        exact: Some(bytes),
        bad,
        ..plain(text.into())
    }
}

fn lossy(bytes: &[u8]) -> (String, Bad) {
    let mut text = String::with_capacity(bytes.len());
    let (mut bad, mut at) = (Vec::new(), 0);
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        at += chunk.valid().len() + chunk.invalid().len();
        if !chunk.invalid().is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
            bad.push((text.len(), at));
        }
    }
    (text, Bad(bad))
}

/// Decodes a piece. Lines that were joined have one kind of line end between them.
pub(super) fn piece<'a>(encoding: &'static Encoding, piece: &Piece<'a>) -> Text<'a> {
    if !piece.is_joined {
        return text(encoding, piece.content.into());
    }
    if encoding == UTF_8 {
        return text(encoding, with_line_feeds(piece.content));
    }
    let joined = text(encoding, piece.content.into());
    Text {
        text: joined.text.replace("\r\n", "\n").into(),
        ..joined
    }
}

fn with_line_feeds(bytes: &[u8]) -> Cow<'_, [u8]> {
    let mut kept = Vec::new();
    let mut rest = bytes;
    while let Some(at) = memchr::memmem::find(rest, b"\r\n") {
        kept.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
    }
    if kept.is_empty() && rest.len() == bytes.len() {
        return bytes.into();
    }
    kept.extend_from_slice(rest);
    kept.into()
}

/// A piece's text among what stands around it in its line.
pub(super) struct View<'a> {
    /// All of it.
    pub(super) text: Cow<'a, str>,
    /// Where the piece begins.
    pub(super) start: usize,
    /// Where it ends.
    pub(super) end: usize,
}

impl<'a> View<'a> {
    pub(super) fn new(encoding: &'static Encoding, piece: &Piece<'_>, content: &'a str) -> Self {
        if piece.before.is_empty() && piece.after.is_empty() {
            return Self {
                text: content.into(),
                start: 0,
                end: content.len(),
            };
        }
        let near = &piece.before[piece.before.len().saturating_sub(CHARACTER_MAX)..];
        let before = text(encoding, near.into()).text;
        let last = before.char_indices().next_back();
        let mut all = last.map_or("", |(at, _)| &before[at..]).to_owned();
        let start = all.len();
        all.push_str(content);
        let end = all.len();
        all.push_str(&text(encoding, piece.after.into()).text);
        Self {
            text: all.into(),
            start,
            end,
        }
    }
}
