//! Batches: lines in, a message body and its ranges out. No I/O.

mod compress;
mod format;

use std::sync::Arc;

use bytes::Bytes;

pub use compress::{Compressor, unpack};

use crate::model::credit::Permit;
use crate::model::{Batch, Coding, Epoch, FileId, Format, LogPath, Proof, Range, Skipped};
use crate::wire;

/// When a batch is full.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of body before compression; a single line may exceed it.
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
#[derive(Clone, Copy, Debug, Default)]
pub struct Line<'a> {
    /// When it was written or read: the text of `@timestamp`.
    pub timestamp: &'a str,
    /// Where it begins in the file.
    pub offset: u64,
    /// The bytes of the file that it takes up, line end included.
    pub raw: &'a [u8],
    /// More of the same line follows.
    pub partial: bool,
    /// Its text without the line end.
    pub message: &'a str,
    /// Its bytes, when they are not what `message` says.
    pub exact: Option<&'a [u8]>,
    /// The text of a JSON object, or nothing.
    pub labels: &'a str,
    /// The text of a JSON object.
    pub parsed: Option<&'a str>,
    /// What could not be done with it.
    pub error: Option<&'a str>,
    /// AMQP priority that it gives its batch; 0 for none.
    pub priority: u8,
}

impl Line<'_> {
    /// The same with less in it, for one whose object fits into no body; nothing if that is all.
    fn shortened(&self) -> Option<Self> {
        if self.parsed.is_some() {
            let error =
                Some("parsed fields left out: with them the line is too long for a message");
            return Some(Self {
                parsed: None,
                error,
                ..*self
            });
        }
        // Only replacements that are full of what must be escaped make a line so long.
        let error = Some("message left out: redacted, the line is too long for a message");
        (!self.message.is_empty()).then_some(Self {
            message: "",
            exact: None,
            error,
            ..*self
        })
    }
}

/// The batch is full: close it and push again.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

/// A batch that still grows.
#[derive(Debug)]
pub struct Open {
    source: Arc<str>,
    format: Format,
    limits: Limits,
    body: Vec<u8>,
    lines: u64,
    priority: u8,
    ranges: Vec<Range>,
    ranges_len: usize,
}

impl Open {
    /// An empty batch of `source`.
    #[must_use]
    pub fn new(source: Arc<str>, format: Format, limits: Limits) -> Self {
        let lines_max = match format {
            Format::Json => 1,
            Format::Ndjson | Format::Lines => limits.lines_max,
        };
        Self {
            source,
            format,
            limits: Limits {
                lines_max,
                ..limits
            },
            body: Vec::new(),
            lines: 0,
            priority: 0,
            ranges: Vec::new(),
            ranges_len: 0,
        }
    }

    /// From now on a batch is full at so many bytes of body, or earlier.
    pub fn limit(&mut self, bytes_max: usize) {
        self.limits.bytes_max = self.limits.bytes_max.min(bytes_max);
    }

    /// Accounts for nothing yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Accounts for nothing but lines that were dropped: it has time until a line joins it.
    #[must_use]
    pub fn waits_for_a_line(&self) -> bool {
        let told = |range: &Range| range.skipped.is_some() || range.eof;
        self.lines == 0 && !self.is_empty() && !self.ranges.iter().any(told)
    }

    /// Bytes of body so far, before compression.
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
    /// [`Full`] when the properties of the message would become too long, or the batch may not hold
    /// this file beside another.
    pub fn begin(&mut self, origin: &Origin, start: u64, epoch: Epoch) -> Result<(), Full> {
        if self.position(origin.file, start).is_some() {
            return Ok(());
        }
        self.has_room_for_range(origin)?;
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
        let begins = format::begins_line(self.format, &self.body);
        format::encode(self.format, &mut self.body, origin, line);
        if self.body.len() > self.limits.bytes_max && self.lines > 0 {
            self.body.truncate(before);
            return Err(Full);
        }
        let mut line = *line;
        while self.body.len() - before > wire::BODY_MAX
            && let Some(shorter) = line.shortened()
        {
            self.body.truncate(before);
            format::encode(self.format, &mut self.body, origin, &shorter);
            line = shorter;
        }
        self.lines += u64::from(begins);
        self.priority = self.priority.max(line.priority);
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
    /// As [`Open::begin`].
    pub fn account(&mut self, origin: &Origin, range: Range) -> Result<(), Full> {
        self.has_room_for_range(origin)?;
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

    fn has_room_for_range(&self, origin: &Origin) -> Result<(), Full> {
        let long = self.ranges_len + origin.range_len > self.limits.ranges_len_max;
        let another = || self.ranges.iter().any(|range| range.file != origin.file);
        // A body of bare bytes does not say which file they are of.
        let mixed = self.format == Format::Lines && another();
        if !self.ranges.is_empty() && (long || mixed) {
            return Err(Full);
        }
        Ok(())
    }

    /// Takes what has gathered as a batch and leaves an empty one.
    pub fn close(&mut self, closed_at: u64, compressor: &mut Compressor) -> Closed {
        let body = std::mem::take(&mut self.body);
        // A range that began, but whose first line went into the next batch, says nothing.
        let mut ranges = std::mem::take(&mut self.ranges);
        ranges.retain(|range| range.end > range.start || range.eof);
        self.ranges_len = 0;
        let bytes = body.len();
        let (body, coding) = compressor.pack(body);
        Closed {
            source: Arc::clone(&self.source),
            ranges,
            lines: std::mem::take(&mut self.lines),
            priority: std::mem::take(&mut self.priority),
            bytes,
            format: self.format,
            coding,
            body: body.into(),
            closed_at,
        }
    }

    /// Forgets what has gathered; it will be read again.
    pub fn discard(&mut self) {
        self.body.clear();
        self.lines = 0;
        self.priority = 0;
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
    priority: u8,
    /// Length of the body before compression.
    bytes: usize,
    format: Format,
    coding: Option<Coding>,
    body: Bytes,
    closed_at: u64,
}

impl Closed {
    /// Bytes that its body takes of the window: after compression.
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
            priority: self.priority,
            bytes: self.bytes as u64,
            format: self.format,
            coding: self.coding,
            body: self.body,
            closed_at: self.closed_at,
            stored: None,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Compression;
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
            raw: content,
            message: std::str::from_utf8(content).expect("the test's own text"),
            ..Line::default()
        }
    }

    fn open(format: Format) -> Open {
        Open::new("app".into(), format, LIMITS)
    }

    fn close(open: &mut Open) -> Closed {
        open.close(0, &mut Compressor::new(None))
    }

    fn other_origin() -> Origin {
        Origin::new("h", FileId([2; 16]), LogPath::from_bytes(b"/b"))
    }

    #[test]
    fn an_object_of_its_own_message_closes_its_batch() {
        let a = origin("/a");
        let mut open = open(Format::Json);
        open.begin(&a, 0, 0).expect("room");
        open.push(&a, &line(0, b"x")).expect("room");
        open.end(a.file, 1, Proof::default());
        assert_eq!(open.push(&a, &line(1, b"y")), Err(Full));
        let closed = close(&mut open);
        assert_eq!((closed.lines, closed.ranges[0].end), (1, 1));
        assert!(closed.body.ends_with(b"\"message\":\"x\"}"));
    }

    #[test]
    fn bare_bytes_are_of_one_file_and_a_split_line_counts_once() {
        let (a, b) = (origin("/a"), other_origin());
        let mut open = open(Format::Lines);
        open.begin(&a, 0, 0).expect("room");
        open.push(&a, &line(0, b"one\r\n")).expect("room");
        open.push(&a, &line(5, b"a par")).expect("room");
        open.push(&a, &line(10, b"t\n")).expect("room");
        open.end(a.file, 12, Proof::default());
        assert_eq!(open.begin(&b, 0, 0), Err(Full));
        let eof = |origin, end| bare_range(origin, (end, end), None, true, 0, Proof::default());
        assert_eq!(open.account(&b, eof(&b, 7)), Err(Full));
        open.account(&a, eof(&a, 12)).expect("the same file");
        let closed = close(&mut open);
        assert_eq!(
            (closed.lines, &closed.body[..]),
            (2, &b"one\r\na part\n"[..])
        );
        assert_eq!((closed.ranges.len(), closed.ranges[0].eof), (1, true));
        open.begin(&b, 0, 0).expect("an empty batch takes any file");
    }

    #[test]
    fn a_packed_batch_tells_its_length_before_and_takes_its_length_after() {
        let a = origin("/a");
        for coding in [Coding::Gzip, Coding::Zstd] {
            let mut open = open(Format::Lines);
            let mut compressor = Compressor::new(Some(Compression { coding, level: 1 }));
            let content = [b'x'; 1000];
            open.begin(&a, 0, 0).expect("room");
            open.push(&a, &line(0, &content)).expect("room");
            open.end(a.file, 1000, Proof::default());
            assert_eq!(open.len(), 1000);
            let closed = open.close(0, &mut compressor);
            assert!(closed.len() < 100, "{}", closed.len());
            let permit = Credit::new(100, || {}).take(closed.len()).expect("room");
            let batch = closed.admit(permit);
            assert_eq!((batch.bytes, batch.coding), (1000, Some(coding)));

            let skipped = Some(Skipped::ReadFrom);
            let range = bare_range(&a, (1000, 1010), skipped, false, 0, Proof::default());
            open.account(&a, range).expect("room");
            let closed = open.close(0, &mut compressor);
            assert_eq!((closed.len(), closed.lines, closed.coding), (0, 0, None));
        }
    }

    #[test]
    fn ranges_of_one_file_grow_together_and_an_empty_one_is_left_out() {
        let (a, b) = (origin("/a"), other_origin());
        let mut open = open(Format::Ndjson);
        open.begin(&a, 0, 0).expect("room");
        open.push(&a, &line(0, b"x")).expect("room");
        open.end(a.file, 2, Proof::of(b"x\n"));
        open.begin(&b, 0, 0).expect("room");
        open.begin(&a, 2, 0).expect("room");
        open.push(&a, &line(2, b"y")).expect("room");
        open.end(a.file, 4, Proof::of(b"x\ny\n"));
        let closed = close(&mut open);
        assert_eq!(closed.ranges.len(), 1);
        assert_eq!((closed.ranges[0].start, closed.ranges[0].end), (0, 4));
        let permit = Credit::new(1 << 20, || {})
            .take(closed.len())
            .expect("room");
        assert_eq!(closed.admit(permit).lines, 2);
    }

    #[test]
    fn an_object_that_fits_into_no_body_goes_without_what_was_made_of_the_line() {
        let (a, long) = (origin("/a"), "\0".repeat(1 << 20));
        let parsed = format!("{{\"a\":\"{}\"}}", "x".repeat(3 << 20));
        let mut open = open(Format::Json);
        let pushed = |open: &mut Open, line: &Line<'_>| {
            open.begin(&a, 0, 0).expect("room");
            open.push(&a, line).expect("room");
            open.end(a.file, 1, Proof::default());
            String::from_utf8(close(open).body.to_vec()).expect("JSON")
        };
        let line = Line {
            parsed: Some(&parsed),
            ..line(0, b"x")
        };
        assert!(pushed(&mut open, &line).contains("\"parsed\":{"));
        let line = Line {
            message: &long,
            ..line
        };
        let body = pushed(&mut open, &line);
        assert!(body.len() > 6 << 20 && !body.contains("\"parsed\":"));
        assert!(body.ends_with("\"error\":{\"message\":\"parsed fields left out: with them the line is too long for a message\"}}"));
        let longer = long.repeat(2);
        let line = Line {
            message: &longer,
            ..line
        };
        let body = pushed(&mut open, &line);
        assert!(body.contains("\"message\":\"\",\"error\":{\"message\":\"message left out"));
    }

    #[test]
    fn a_batch_has_the_highest_priority_of_its_lines_and_the_next_one_none() {
        let a = origin("/a");
        let mut open = open(Format::Ndjson);
        let push = |open: &mut Open, priority| {
            open.begin(&a, 0, 0).expect("room");
            let line = Line {
                priority,
                ..line(0, b"x")
            };
            open.push(&a, &line).expect("room");
            open.end(a.file, 1, Proof::default());
        };
        push(&mut open, 3);
        push(&mut open, 0);
        assert_eq!(close(&mut open).priority, 3);
        push(&mut open, 0);
        assert_eq!(close(&mut open).priority, 0);
    }

    #[test]
    fn it_is_full_by_lines_by_bytes_and_by_ranges() {
        let origin = origin("/a");
        let mut open = open(Format::Ndjson);
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
