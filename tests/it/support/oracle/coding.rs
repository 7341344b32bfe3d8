//! Owns the unpacking of a body: `content_encoding`.

use std::borrow::Cow;
use std::io::{self, Read};

use flate2::bufread::GzDecoder;

use super::Findings;
use crate::support::message::Message;

/// The body before compression; none when that cannot be known.
pub fn unpacked<'m>(message: &'m Message, findings: &mut Findings<'_>) -> Option<Cow<'m, [u8]>> {
    let unpacked = match message.content_encoding.as_deref() {
        None => return Some(Cow::Borrowed(&message.body)),
        Some("gzip") => gunzip(&message.body),
        Some("zstd") => zstd::decode_all(&message.body[..]),
        Some(other) => {
            findings.add(format!("content_encoding is {other:?}"));
            return None;
        }
    };
    match unpacked {
        Ok(body) => Some(Cow::Owned(body)),
        Err(error) => {
            let encoding = &message.content_encoding;
            findings.add(format!("the body is not {encoding:?}: {error}"));
            None
        }
    }
}

/// One member, and nothing behind it.
fn gunzip(packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    let mut decoder = GzDecoder::new(packed);
    decoder.read_to_end(&mut body)?;
    if decoder.into_inner().is_empty() {
        Ok(body)
    } else {
        Err(io::Error::other("bytes behind its end"))
    }
}
