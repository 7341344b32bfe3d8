//! Owns what a consumer has of one generation of a file, and the comparison with the file itself.

use std::hash::{DefaultHasher, Hasher};

use super::Findings;
use super::batch::{split_lines, without_line_end};
use super::coverage::Coverage;
use super::line::{Line, shortened};
use super::range::Range;

/// One (agent, file).
pub struct FileLedger {
    path: String,
    id: String,
    coverage: Coverage,
    /// Where the next range may begin at the latest: the highest end so far.
    next: u64,
    skipped: Vec<Skipped>,
    eof: Option<u64>,
    /// Where the last new line ended.
    lines_end: u64,
    lines: Vec<Kept>,
}

/// What a ledger keeps of lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keeping {
    #[default]
    Text,
    /// Places and hashes.
    Hashes,
    Nothing,
}

/// A line that is not dropped as a repeat.
#[derive(Clone, Copy, Debug)]
pub struct NewLine<'l> {
    pub path: &'l str,
    /// The generation's id.
    pub file: &'l str,
    pub offset: u64,
    /// Source bytes, line end included.
    pub bytes: u64,
    /// Without the line end, unless the body is `text/plain`.
    pub content: &'l [u8],
}

/// A range that was accounted for without lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    pub start: u64,
    pub end: u64,
    pub reason: String,
}

/// A line that was not dropped as a repeat.
#[derive(Clone)]
struct Kept {
    offset: u64,
    bytes: u32,
    partial: bool,
    raw: bool,
    hash: u64,
    /// None when the ledger forgets text.
    text: Option<Box<[u8]>>,
}

impl FileLedger {
    pub(super) fn new(range: &Range) -> Self {
        Self {
            path: range.path.clone(),
            id: range.file.clone(),
            coverage: Coverage::default(),
            next: 0,
            skipped: Vec::new(),
            eof: None,
            lines_end: 0,
            lines: Vec::new(),
        }
    }

    /// Nothing for a line that lies wholly in what was covered before its message: it is dropped.
    pub(super) fn new_line<'l>(
        &'l self,
        line: &'l Line,
        tolerates_disorder: bool,
        findings: &mut Findings<'_>,
    ) -> Option<NewLine<'l>> {
        let Line { offset, bytes, .. } = *line;
        if self.coverage.contains(offset, offset + bytes) {
            return None;
        }
        if offset < self.lines_end && !tolerates_disorder {
            findings.add(format!(
                "the new line at offset {offset} of {} is out of order",
                self.path
            ));
        }
        Some(NewLine {
            path: &self.path,
            file: &self.id,
            offset,
            bytes,
            content: &line.content,
        })
    }

    pub(super) fn add_line(&mut self, line: Line, keeping: Keeping) {
        let Line {
            offset,
            bytes,
            partial,
            raw,
            content,
            ..
        } = line;
        self.lines_end = offset + bytes;
        if keeping == Keeping::Nothing {
            return;
        }
        self.lines.push(Kept {
            offset,
            bytes: bytes as u32,
            partial,
            raw,
            hash: hash(&content),
            text: (keeping == Keeping::Text).then(|| content.into_boxed_slice()),
        });
    }

    /// Returns how many bytes of the range were covered before.
    pub(super) fn add_range(
        &mut self,
        range: &Range,
        tolerates_disorder: bool,
        findings: &mut Findings<'_>,
    ) -> u64 {
        let Range { start, end, .. } = *range;
        let name = format!("{} (file {})", self.path, self.id);
        if range.path != self.path {
            findings.add(format!("the path of {name} is now {:?}", range.path));
        }
        if start > self.next && !tolerates_disorder {
            let next = self.next;
            findings.add(format!(
                "gap or out of order: range [{start}, {end}) of {name}, covered so far to {next}"
            ));
        }
        match self.eof {
            Some(eof) if end > eof || (range.eof && end != eof) => {
                findings.add(format!(
                    "range [{start}, {end}) of {name} after its eof at {eof}"
                ));
            }
            _ if range.eof && end < self.next => {
                findings.add(format!(
                    "eof of {name} at {end}, covered so far to {}",
                    self.next
                ));
            }
            _ => {}
        }
        if range.eof {
            self.eof = Some(end);
        }
        if let Some(reason) = &range.skipped
            && !self.coverage.contains(start, end)
        {
            self.skipped.push(Skipped {
                start,
                end,
                reason: reason.clone(),
            });
        }
        self.next = self.next.max(end);
        self.coverage.insert(start, end)
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// What its ranges cover, as `[start, end)`: one interval from 0 when there is no gap.
    pub fn tiles(&self) -> &[(u64, u64)] {
        self.coverage.intervals()
    }

    /// n when the ranges tile `[0, n)`; none when they leave a gap.
    pub fn covered_to(&self) -> Option<u64> {
        match *self.coverage.intervals() {
            [] => Some(0),
            [(0, end)] => Some(end),
            _ => None,
        }
    }

    pub fn covered_bytes(&self) -> u64 {
        self.coverage.bytes()
    }

    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// Where the generation ends, if that was said.
    pub fn eof(&self) -> Option<u64> {
        self.eof
    }

    /// The rebuilt lines in offset order, parts joined, without line ends.
    pub fn lines(&self) -> Vec<Vec<u8>> {
        let mut lines: Vec<Vec<u8>> = Vec::new();
        let mut open = false;
        for kept in self.in_offset_order() {
            let text = kept.text.as_deref().expect("a ledger that keeps text");
            match lines.last_mut() {
                Some(line) if open => line.extend_from_slice(text),
                _ => lines.push(text.to_vec()),
            }
            if kept.raw
                && let Some(line) = lines.last_mut()
            {
                line.truncate(without_line_end(line).len());
            }
            open = kept.partial;
        }
        lines
    }

    /// Panics with the first difference between what a consumer has and `content`.
    pub fn assert_holds(&self, content: &[u8]) {
        if let Some(difference) = self.difference(content) {
            panic!(
                "{} (file {}): {difference}\n{}",
                self.path,
                self.id,
                self.summary()
            );
        }
    }

    /// The first difference between what a consumer has and `content`, in words.
    pub fn difference(&self, content: &[u8]) -> Option<String> {
        let size = content.len() as u64;
        if self.covered_to() != Some(size) {
            return Some(format!(
                "the ranges cover {:?}, the file is [0, {size})",
                self.tiles()
            ));
        }
        if let Some(Skipped { start, end, reason }) = self.skipped.first() {
            return Some(format!("[{start}, {end}) was skipped: {reason}"));
        }
        self.difference_in_lines(content)
    }

    /// Bytes from the beginning on that were not skipped.
    pub fn delivered(&self) -> u64 {
        let first = self.skipped.iter().map(|skipped| skipped.start).min();
        let covered = self.covered_to().unwrap_or(0);
        first.map_or(covered, |first| first.min(covered))
    }

    /// The first difference between what a consumer has and `content`, of which the end may be
    /// missing, whether it was said to be truncated or not; in words.
    pub fn difference_up_to_a_cut(&self, content: &[u8]) -> Option<String> {
        let size = content.len() as u64;
        if self.covered_to().is_none_or(|end| end > size) {
            let tiles = self.tiles();
            return Some(format!(
                "the ranges cover {tiles:?}, the file is [0, {size})"
            ));
        }
        let delivered = self.delivered();
        let odd = self
            .skipped
            .iter()
            .find(|skipped| skipped.reason != "truncated");
        if let Some(Skipped { start, end, reason }) = odd {
            return Some(format!("[{start}, {end}) was skipped: {reason}"));
        }
        self.difference_in_lines(&content[..delivered as usize])
    }

    /// Walks both in step. A line of the file may come in parts, all but the last marked.
    fn difference_in_lines(&self, content: &[u8]) -> Option<String> {
        let mut kept = self.in_offset_order().into_iter().peekable();
        let mut offset = 0;
        for line in split_lines(content) {
            let end = offset + line.len();
            while offset < end {
                let Some(part) = kept.next_if(|part| part.offset <= offset as u64) else {
                    let line = described(without_line_end(line));
                    return Some(format!(
                        "lost: nothing at offset {offset} of the line {line}"
                    ));
                };
                if part.offset < offset as u64 {
                    return Some(format!(
                        "the line at offset {} overlaps others",
                        part.offset
                    ));
                }
                let part_end = offset + part.bytes as usize;
                if part_end > end {
                    return Some(format!(
                        "the line at offset {offset} goes beyond its end {end}"
                    ));
                }
                if part.partial == (part_end == end) && !part.raw {
                    return Some(format!(
                        "the line at offset {offset} is partial or not, wrongly"
                    ));
                }
                let bytes = &content[offset..part_end];
                let expected = if part.partial || part.raw {
                    bytes
                } else {
                    without_line_end(bytes)
                };
                if part.hash != hash(expected) {
                    return Some(altered(part, expected));
                }
                offset = part_end;
            }
        }
        kept.next()
            .map(|part| format!("invented: a line at offset {}, behind the end", part.offset))
    }

    fn in_offset_order(&self) -> Vec<&Kept> {
        let mut lines: Vec<&Kept> = self.lines.iter().collect();
        lines.sort_by_key(|line| line.offset);
        lines
    }

    /// One line for a report.
    pub fn summary(&self) -> String {
        let Self {
            path,
            id,
            lines,
            skipped,
            eof,
            ..
        } = self;
        let (lines, tiles) = (lines.len(), self.tiles());
        format!(
            "{path} (file {id}): covers {tiles:?}, {lines} lines, skipped {skipped:?}, eof {eof:?}"
        )
    }
}

/// The part of a file that ends with its last complete line.
pub fn complete_lines(content: &[u8]) -> &[u8] {
    let end = content
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    &content[..end]
}

fn altered(part: &Kept, expected: &[u8]) -> String {
    let got = part
        .text
        .as_deref()
        .map_or("something else".to_owned(), described);
    format!(
        "altered: the line at offset {} is {got}, in the file {}",
        part.offset,
        described(expected)
    )
}

fn described(bytes: &[u8]) -> String {
    shortened(&String::from_utf8_lossy(bytes))
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}
