//! Batches: lines in, a message body and its ranges out. No I/O.

use std::io::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;

use crate::model::credit::Permit;
use crate::model::{Batch, Epoch, FileId, LogPath, Proof, Range, Skipped};
use crate::wire;

/// When a batch is full.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of body; a single line may exceed it.
    pub bytes_max: usize,
    /// Lines.
    pub lines_max: u64,
    /// Bytes of `ranges`; a single range may exceed it.
    pub ranges_len_max: usize,
}

/// What of a file stands in each of its lines and ranges, made once per file.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The generation.
    pub file: FileId,
    /// Its path.
    pub path: LogPath,
    /// `,"host":{…},"log":{"file":{…},"offset":`
    json: Arc<[u8]>,
    range_len: usize,
}

impl Origin {
    /// What is the same in every line of `file`.
    #[must_use]
    pub fn new(host: &str, file: FileId, path: LogPath) -> Self {
        let json = format!(
            r#","host":{{"name":{}}},"log":{{"file":{{{},"id":"{file}"}},"offset":"#,
            serde_json::Value::from(host),
            wire::path_json(&path),
        );
        let range_len = wire::range_len_max(&path);
        Self {
            file,
            path,
            json: json.into_bytes().into(),
            range_len,
        }
    }
}

/// One line, or one part of a split line.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// When it was read: the text of `@timestamp`.
    pub timestamp: &'a str,
    /// Where it begins in the file.
    pub offset: u64,
    /// Bytes of the file it takes up, line end included.
    pub bytes: usize,
    /// Its bytes without the line end.
    pub content: &'a [u8],
    /// More of the same line follows.
    pub partial: bool,
}

/// The batch is full: close it and push again.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

/// A batch that still grows.
#[derive(Debug)]
pub struct Open {
    source: Arc<str>,
    limits: Limits,
    body: Vec<u8>,
    lines: u64,
    ranges: Vec<Range>,
    ranges_len: usize,
}

impl Open {
    /// An empty batch of `source`.
    #[must_use]
    pub fn new(source: Arc<str>, limits: Limits) -> Self {
        Self {
            source,
            limits,
            body: Vec::new(),
            lines: 0,
            ranges: Vec::new(),
            ranges_len: 0,
        }
    }

    /// Accounts for nothing yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Bytes of body so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// The name of its source.
    #[must_use]
    pub fn source(&self) -> &Arc<str> {
        &self.source
    }

    /// The files in it.
    pub fn files(&self) -> impl Iterator<Item = FileId> + '_ {
        self.ranges.iter().map(|range| range.file)
    }

    /// Makes room for a range of `origin` that begins at `start`, if there is none to go on with.
    ///
    /// # Errors
    /// [`Full`] when the properties of the message would become too long.
    pub fn begin(&mut self, origin: &Origin, start: u64, epoch: Epoch) -> Result<(), Full> {
        if self.position(origin.file, start).is_some() {
            return Ok(());
        }
        if !self.ranges.is_empty()
            && self.ranges_len + origin.range_len > self.limits.ranges_len_max
        {
            return Err(Full);
        }
        self.ranges_len += origin.range_len;
        self.ranges.push(Range {
            file: origin.file,
            path: origin.path.clone(),
            start,
            end: start,
            skipped: None,
            eof: false,
            epoch,
            proof: Proof::default(),
        });
        Ok(())
    }

    /// Adds a line to the body. Its range must have begun, and is extended by [`Open::end`].
    ///
    /// # Errors
    /// [`Full`] when it does not fit any more; nothing was added then.
    pub fn push(&mut self, origin: &Origin, line: &Line<'_>) -> Result<(), Full> {
        if self.lines >= self.limits.lines_max {
            return Err(Full);
        }
        let before = self.body.len();
        encode(&mut self.body, origin, line);
        if self.body.len() > self.limits.bytes_max && self.lines > 0 {
            self.body.truncate(before);
            return Err(Full);
        }
        self.lines += 1;
        Ok(())
    }

    /// Says up to where the bytes of `file` are accounted for, with the proof of what stands
    /// before.
    pub fn end(&mut self, file: FileId, end: u64, proof: Proof) {
        if let Some(range) = self.last_of(file) {
            range.end = end;
            range.proof = proof;
        }
    }

    /// Adds a range without lines: skipped bytes, or the end of a generation.
    ///
    /// # Errors
    /// [`Full`] when the properties of the message would become too long.
    pub fn account(&mut self, origin: &Origin, range: Range) -> Result<(), Full> {
        if !self.ranges.is_empty()
            && self.ranges_len + origin.range_len > self.limits.ranges_len_max
        {
            return Err(Full);
        }
        // An end of file said right behind the last range belongs to that range.
        if range.eof
            && range.start == range.end
            && let Some(last) = self.last_of(origin.file)
            && last.end == range.start
        {
            last.eof = true;
            return Ok(());
        }
        self.ranges_len += origin.range_len;
        self.ranges.push(range);
        Ok(())
    }

    /// Takes what has gathered as a batch and leaves an empty one.
    pub fn close(&mut self, closed_at: u64) -> Closed {
        let body = std::mem::take(&mut self.body);
        // A range that began, but whose first line went into the next batch, says nothing.
        let mut ranges = std::mem::take(&mut self.ranges);
        ranges.retain(|range| range.end > range.start || range.eof);
        self.ranges_len = 0;
        Closed {
            source: Arc::clone(&self.source),
            ranges,
            lines: std::mem::take(&mut self.lines),
            body: body.into(),
            closed_at,
        }
    }

    /// Forgets what has gathered; it will be read again.
    pub fn discard(&mut self) {
        self.body.clear();
        self.lines = 0;
        self.ranges.clear();
        self.ranges_len = 0;
    }

    fn position(&self, file: FileId, start: u64) -> Option<usize> {
        let last = self.ranges.iter().rposition(|range| range.file == file)?;
        let range = &self.ranges[last];
        (range.end == start && range.skipped.is_none() && !range.eof).then_some(last)
    }

    fn last_of(&mut self, file: FileId) -> Option<&mut Range> {
        self.ranges
            .iter_mut()
            .rev()
            .find(|range| range.file == file)
    }
}

/// A batch that waits for its place in the window.
#[derive(Debug)]
pub struct Closed {
    /// Name of the source.
    pub source: Arc<str>,
    /// What it accounts for.
    pub ranges: Vec<Range>,
    lines: u64,
    body: Bytes,
    closed_at: u64,
}

impl Closed {
    /// Bytes that it takes of the window.
    #[must_use]
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// Whether it accounts for nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The batch, with its place in the window.
    #[must_use]
    pub fn admit(self, permit: Permit) -> Batch {
        Batch {
            source: self.source,
            ranges: self.ranges,
            lines: self.lines,
            bytes: self.body.len() as u64,
            body: self.body,
            closed_at: self.closed_at,
            permit,
        }
    }
}

/// A range that delivers no line: `[start, end)` of `origin`, `skipped` for a reason or the mere
/// end of the file.
#[must_use]
pub fn bare_range(
    origin: &Origin,
    (start, end): (u64, u64),
    skipped: Option<Skipped>,
    eof: bool,
    epoch: Epoch,
    proof: Proof,
) -> Range {
    Range {
        file: origin.file,
        path: origin.path.clone(),
        start,
        end,
        skipped,
        eof,
        epoch,
        proof,
    }
}

/// Appends the ndjson object of `line` (Elastic Common Schema names, in the contract's order).
fn encode(body: &mut Vec<u8>, origin: &Origin, line: &Line<'_>) {
    body.extend_from_slice(br#"{"@timestamp":""#);
    body.extend_from_slice(line.timestamp.as_bytes());
    body.push(b'"');
    body.extend_from_slice(&origin.json);
    number(body, line.offset);
    body.extend_from_slice(br#","bytes":"#);
    number(body, line.bytes as u64);
    if line.partial {
        body.extend_from_slice(br#","partial":true"#);
    }
    body.extend_from_slice(br#"},"message":"#);
    match std::str::from_utf8(line.content) {
        Ok(text) => string(body, text),
        Err(_) => {
            string(body, &String::from_utf8_lossy(line.content));
            body.extend_from_slice(br#","message_base64":""#);
            body.extend_from_slice(BASE64.encode(line.content).as_bytes());
            body.push(b'"');
        }
    }
    body.extend_from_slice(b"}\n");
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
    use crate::model::credit::Credit;

    const LIMITS: Limits = Limits {
        bytes_max: 4096,
        lines_max: 3,
        ranges_len_max: 400,
    };

    fn origin(path: &str) -> Origin {
        Origin::new(
            "web-1",
            FileId([0x0f; 16]),
            LogPath::from_bytes(path.as_bytes()),
        )
    }

    fn line(offset: u64, content: &[u8]) -> Line<'_> {
        Line {
            timestamp: "2026-11-22T13:15:00.123Z",
            offset,
            bytes: content.len() + 1,
            content,
            partial: false,
        }
    }

    fn body(open: &mut Open) -> String {
        String::from_utf8(open.close(0).body.to_vec()).expect("ndjson is UTF-8")
    }

    #[test]
    fn a_line_has_the_contracts_keys_in_its_order() {
        let origin = origin("/var/log/app/a.log");
        let mut open = Open::new("app".into(), LIMITS);
        open.begin(&origin, 8812, 0).expect("room");
        open.push(&origin, &line(8812, b"GET / 200")).expect("room");
        let id = "0f".repeat(16);
        assert_eq!(
            body(&mut open),
            format!(
                "{{\"@timestamp\":\"2026-11-22T13:15:00.123Z\",\"host\":{{\"name\":\"web-1\"}},\
                 \"log\":{{\"file\":{{\"path\":\"/var/log/app/a.log\",\"id\":\"{id}\"}},\
                 \"offset\":8812,\"bytes\":10}},\"message\":\"GET / 200\"}}\n"
            )
        );
    }

    #[test]
    fn bytes_that_are_not_utf8_stand_beside_their_readable_form() {
        let origin = origin("/a");
        let mut open = Open::new("app".into(), LIMITS);
        open.begin(&origin, 0, 0).expect("room");
        let part = Line {
            partial: true,
            ..line(0, b"a\xff\0\"")
        };
        open.push(&origin, &part).expect("room");
        let body = body(&mut open);
        assert!(body.contains(r#""bytes":5,"partial":true}"#), "{body}");
        assert!(
            body.ends_with(
                "\"message\":\"a\u{fffd}\\u0000\\\"\",\"message_base64\":\"Yf8AIg==\"}\n"
            ),
            "{body}"
        );
    }

    #[test]
    fn ranges_of_one_file_grow_together_and_an_empty_one_is_left_out() {
        let (a, b) = (
            origin("/a"),
            Origin::new("h", FileId([2; 16]), LogPath::from_bytes(b"/b")),
        );
        let mut open = Open::new("app".into(), LIMITS);
        open.begin(&a, 0, 0).expect("room");
        open.push(&a, &line(0, b"x")).expect("room");
        open.end(a.file, 2, Proof::of(b"x\n"));
        open.begin(&b, 0, 0).expect("room");
        open.begin(&a, 2, 0).expect("room");
        open.push(&a, &line(2, b"y")).expect("room");
        open.end(a.file, 4, Proof::of(b"x\ny\n"));
        let closed = open.close(0);
        assert_eq!(closed.ranges.len(), 1);
        assert_eq!((closed.ranges[0].start, closed.ranges[0].end), (0, 4));
        let permit = Credit::new(1 << 20, || {})
            .take(closed.len())
            .expect("room");
        assert_eq!(closed.admit(permit).lines, 2);
    }

    #[test]
    fn it_is_full_by_lines_by_bytes_and_by_ranges() {
        let origin = origin("/a");
        let mut open = Open::new("app".into(), LIMITS);
        open.begin(&origin, 0, 0).expect("room");
        for offset in 0..3 {
            open.push(&origin, &line(offset, b"x")).expect("room");
        }
        assert_eq!(open.push(&origin, &line(3, b"x")), Err(Full));
        open.discard();
        let long = vec![b'x'; 5000];
        open.begin(&origin, 0, 0).expect("room");
        open.push(&origin, &line(0, &long))
            .expect("a first line always fits");
        assert_eq!(open.push(&origin, &line(5000, b"x")), Err(Full));
        for file in 0..9u8 {
            let other = Origin::new("h", FileId([file; 16]), LogPath::from_bytes(b"/b"));
            if open.begin(&other, 0, 0) == Err(Full) {
                assert!(file > 0);
                return;
            }
        }
        unreachable!("nine ranges fitted into 400 bytes");
    }
}
