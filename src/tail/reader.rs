//! One file's bytes, in order, each read proved against the bytes before it. Holds the unfinished
//! line; never decides what a line is.

use std::fs::File;
use std::io;

use memchr::memchr;

use super::archive::{Archive, Content};
use crate::lines::Splitter;
use crate::model::{Mark, PROOF_LEN, Proof};
use crate::sys;

/// Bytes that are unpacked in one quantum on the way to a place.
const APPROACH: usize = 4 << 20;
/// Zeros are looked at in pieces of so many bytes,
const ZEROS_PIECE: usize = 64 * 1024;
/// and so many of them in one quantum.
const ZEROS_PIECES: usize = 64;

/// The buffer that one lane reads into: bytes that prove, then the unfinished line, then what was
/// read now, contiguous in the file.
#[derive(Debug, Default)]
pub struct Scratch {
    bytes: Vec<u8>,
    /// Bytes before the line's beginning.
    behind: usize,
    /// Bytes in use.
    filled: usize,
    /// Offset in the file of the first byte after `behind`.
    line_start: u64,
}

impl Scratch {
    /// The bytes from the unfinished line's beginning on.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        &self.bytes[self.behind..self.filled]
    }

    /// Bytes that it takes of the memory.
    #[cfg(test)]
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Where they begin in the file.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.line_start
    }

    /// What stands before the byte `at` bytes into [`Scratch::unread`]: some bytes of it, fewer
    /// only where the file begins.
    #[must_use]
    pub fn before(&self, at: usize) -> &[u8] {
        let end = self.behind + at;
        &self.bytes[end.saturating_sub(PROOF_LEN)..end]
    }

    /// Forgets what was read last: all but the first `before` unread bytes.
    pub fn forget_new(&mut self, before: usize) {
        self.filled = self.behind + before;
    }

    /// A copy that holds no more than what is in use.
    #[must_use]
    pub fn part(&self) -> Self {
        Self {
            bytes: self.bytes[..self.filled].to_vec(),
            ..*self
        }
    }

    /// The mark `consumed` bytes into [`Scratch::unread`].
    #[must_use]
    pub fn mark(&self, consumed: usize) -> Mark {
        Mark {
            offset: self.line_start + consumed as u64,
            proof: Proof::of_end(&self.bytes[..self.behind + consumed]),
        }
    }
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// New bytes. The first `searched` of [`Scratch::unread`] hold no line end.
    Data {
        /// Bytes that were there before.
        searched: usize,
    },
    /// New bytes of a line too long to be kept while it is unfinished; nothing to do yet.
    Longer,
    /// Nothing new.
    End,
    /// The file does not hold any more what was read from it: truncated or written anew.
    Changed,
}

/// How far a file holds nothing but zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeros {
    /// Up to here, where something else stands.
    Until(u64),
    /// All of it, which is so long.
    ToTheEnd(u64),
    /// So far at least.
    AtLeast(u64),
}

/// A place in an open file.
#[derive(Debug)]
pub struct Reader {
    content: Content,
    /// Where the next line begins: everything before it is in a batch.
    line_start: u64,
    /// The bytes right before `line_start`: up to [`PROOF_LEN`].
    behind: Vec<u8>,
    /// The line that has begun: bytes from `line_start` on.
    unfinished: Vec<u8>,
    /// Instead of `unfinished`, once it was forgotten for want of memory: up to where the file was
    /// searched for the line's end, and the bytes right before that place.
    searched: Option<(u64, Vec<u8>)>,
    /// A place in a compressed file that is yet to be reached, and proved.
    target: Option<Mark>,
}

impl Reader {
    /// At the beginning of `file`.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self::of(Content::Plain(file))
    }

    /// At the beginning of `content`.
    #[must_use]
    pub fn of(content: Content) -> Self {
        Self {
            content,
            line_start: 0,
            behind: Vec::new(),
            unfinished: Vec::new(),
            searched: None,
            target: None,
        }
    }

    /// The open file.
    #[must_use]
    pub fn file(&self) -> &File {
        self.content.file()
    }

    /// What it reads, for a new generation in it.
    #[must_use]
    pub fn into_content(self) -> Content {
        self.content
    }

    /// The compressed file that it reads, if it is one.
    #[must_use]
    pub fn archive(&self) -> Option<&Archive> {
        match &self.content {
            Content::Plain(_) => None,
            Content::Packed(archive) => Some(archive),
        }
    }

    /// Gives back what reading a compressed file takes of the memory.
    pub fn rest(&mut self) {
        if let Content::Packed(archive) = &mut self.content {
            archive.rest();
        }
    }

    /// Where the next line begins.
    #[must_use]
    pub fn line_start(&self) -> u64 {
        self.line_start
    }

    /// Up to where the file was read.
    #[must_use]
    pub fn read_to(&self) -> u64 {
        match &self.searched {
            Some((searched, _)) => *searched,
            None => self.line_start + self.unfinished.len() as u64,
        }
    }

    /// Whether the unfinished line was forgotten, to be read again.
    #[must_use]
    pub fn has_forgotten(&self) -> bool {
        self.searched.is_some()
    }

    /// Bytes of the unfinished line that are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.unfinished.len()
    }

    /// Goes to `mark`. False if the file's bytes do not prove it. In a compressed file that takes
    /// its time, so that [`Reader::fill`] does it.
    ///
    /// # Errors
    /// The file could not be read.
    pub fn seek(&mut self, mark: Mark) -> io::Result<bool> {
        self.unfinished = Vec::new();
        self.searched = None;
        if self.archive().is_some() {
            self.line_start = mark.offset;
            self.behind = Vec::new();
            self.target = Some(mark);
            return Ok(true);
        }
        let (behind, proof) = self.content.end_before(mark.offset)?;
        if proof != mark.proof {
            return Ok(false);
        }
        self.line_start = mark.offset;
        self.behind = behind;
        Ok(true)
    }

    /// Comes nearer to the place that was sought in a compressed file.
    fn approach(&mut self, mark: Mark) -> io::Result<Filled> {
        if let Content::Packed(archive) = &mut self.content {
            let at = archive.go_on(mark.offset, APPROACH)?;
            let ended = archive.end().is_some_and(|len| len < mark.offset);
            if at < mark.offset && !ended {
                return Ok(Filled::Longer);
            }
        }
        let (behind, proof) = self.content.end_before(mark.offset)?;
        self.target = None;
        self.behind = behind;
        Ok(if proof == mark.proof {
            Filled::Longer
        } else {
            Filled::Changed
        })
    }

    /// Goes to the beginning of the last line that begins at or before `offset`, looking back no
    /// further than the longest line.
    ///
    /// # Errors
    /// The file could not be read.
    pub fn seek_line_before(&mut self, offset: u64, splitter: &Splitter) -> io::Result<Mark> {
        let line_max = splitter.line_max;
        // Code units have one or two bytes.
        let from = offset.saturating_sub(line_max as u64) & !1;
        let mut bytes = vec![0; usize::try_from(offset - from).unwrap_or(line_max)];
        let read = self.content.read_full_at(&mut bytes, from)?;
        let begins = splitter
            .last_line(&bytes[..read])
            .map_or(if from == 0 { 0 } else { offset }, |begins| {
                from + begins as u64
            });
        self.go_to(begins)
    }

    /// Goes to `offset`, whatever stands before it.
    ///
    /// # Errors
    /// The file could not be read.
    pub fn go_to(&mut self, offset: u64) -> io::Result<Mark> {
        let (behind, proof) = self.content.end_before(offset)?;
        self.line_start = offset;
        self.behind = behind;
        Ok(Mark { offset, proof })
    }

    /// Up to where the file holds nothing but zeros, from its beginning on; the first `known` bytes
    /// are known to be zeros. Looks at a limited number of bytes.
    ///
    /// # Errors
    /// The file could not be read.
    pub fn zeros(&self, known: u64) -> io::Result<Zeros> {
        let mut bytes = vec![0; ZEROS_PIECE];
        let mut to = known;
        for _ in 0..ZEROS_PIECES {
            let Some(data) = sys::next_data(self.file(), to)? else {
                return Ok(Zeros::ToTheEnd(sys::status(self.file())?.size));
            };
            to = data;
            let read = sys::read_full_at(self.file(), &mut bytes, to)?;
            if let Some(at) = bytes[..read].iter().position(|byte| *byte != 0) {
                return Ok(Zeros::Until(to + at as u64));
            }
            to += read as u64;
            if read < bytes.len() {
                return Ok(Zeros::ToTheEnd(to));
            }
        }
        Ok(Zeros::AtLeast(to))
    }

    /// Reads up to `chunk` new bytes into `scratch`, behind the unfinished line. `line_max` is
    /// where a line is split.
    ///
    /// # Errors
    /// The file could not be read.
    pub fn fill(
        &mut self,
        scratch: &mut Scratch,
        chunk: usize,
        line_max: usize,
    ) -> io::Result<Filled> {
        if let Some(archive) = self.archive() {
            // What is compressed does not grow.
            if self.target.is_none() && archive.end() == Some(self.read_to()) {
                self.lay_out(scratch, 0);
                return Ok(Filled::End);
            }
            let filled = self.fill_unpacked(scratch, chunk, line_max);
            if filled.is_err() && self.target.is_none() {
                // Its decoder is at the beginning again.
                self.seek(Mark {
                    offset: self.line_start,
                    proof: Proof::of(&self.behind),
                })?;
            }
            return filled;
        }
        self.fill_read(scratch, chunk, line_max)
    }

    fn fill_unpacked(
        &mut self,
        scratch: &mut Scratch,
        chunk: usize,
        line_max: usize,
    ) -> io::Result<Filled> {
        if let Some(mark) = self.target {
            self.lay_out(scratch, 0);
            return self.approach(mark);
        }
        self.fill_read(scratch, chunk, line_max)
    }

    fn fill_read(
        &mut self,
        scratch: &mut Scratch,
        chunk: usize,
        line_max: usize,
    ) -> io::Result<Filled> {
        if let Some((searched, last)) = self.searched.take() {
            return self.search(searched, last, scratch, chunk, line_max);
        }
        self.lay_out(scratch, chunk);
        let before = scratch.filled;
        let mut check = [0; PROOF_LEN];
        let check = &mut check[..before.min(PROOF_LEN)];
        let at = self.read_to() - check.len() as u64;
        let room = &mut scratch.bytes[before..before + chunk];
        let read = self.content.read_at(check, room, at)?;
        if read < check.len() || !scratch.bytes[..before].ends_with(check) {
            return Ok(Filled::Changed);
        }
        scratch.filled = before + read - check.len();
        if scratch.filled == before {
            return Ok(Filled::End);
        }
        let searched = before - scratch.behind;
        Ok(Filled::Data { searched })
    }

    /// Keeps the place `consumed` bytes into `scratch.unread()`, and what follows as the unfinished
    /// line.
    pub fn keep(&mut self, scratch: &Scratch, consumed: usize) {
        self.advance(scratch, consumed);
        let rest = &scratch.unread()[consumed..];
        if !rest.is_empty() {
            self.unfinished.extend_from_slice(rest);
        }
    }

    /// Keeps the place `consumed` bytes into `scratch.unread()`; what follows is read again.
    pub fn advance(&mut self, scratch: &Scratch, consumed: usize) {
        let place = scratch.behind + consumed;
        self.line_start = scratch.line_start + consumed as u64;
        self.behind.clear();
        self.behind
            .extend_from_slice(&scratch.bytes[place.saturating_sub(PROOF_LEN)..place]);
        // Given back, not cleared: ten thousand idle files must not hold ten thousand buffers.
        self.unfinished = Vec::new();
        self.searched = None;
    }

    /// Forgets the unfinished line; it is read again from its beginning when it is complete.
    pub fn forget_unfinished(&mut self) {
        if self.unfinished.is_empty() {
            return;
        }
        let searched = self.read_to();
        let mut last = std::mem::take(&mut self.behind);
        last.extend_from_slice(&self.unfinished);
        self.behind = last[..last.len() - self.unfinished.len()].to_vec();
        last.drain(..last.len().saturating_sub(PROOF_LEN));
        last.shrink_to_fit();
        self.unfinished = Vec::new();
        self.searched = Some((searched, last));
    }

    /// Reads a forgotten unfinished line whole, however long it is by now.
    ///
    /// # Errors
    /// The file could not be read.
    pub fn recall(&mut self, scratch: &mut Scratch, line_max: usize) -> io::Result<()> {
        if let Some((searched, _)) = self.searched.take() {
            let line = usize::try_from(searched - self.line_start).unwrap_or(line_max);
            if let Filled::Data { .. } = self.fill(scratch, line, line_max)? {
                self.keep(scratch, 0);
            }
        }
        Ok(())
    }

    /// Looks for the end of a forgotten line without keeping it.
    fn search(
        &mut self,
        searched: u64,
        last: Vec<u8>,
        scratch: &mut Scratch,
        chunk: usize,
        line_max: usize,
    ) -> io::Result<Filled> {
        scratch.bytes.resize(scratch.bytes.len().max(chunk), 0);
        let mut check = [0; PROOF_LEN];
        let check = &mut check[..last.len()];
        let at = searched - check.len() as u64;
        let read = match self.content.read_at(check, &mut scratch.bytes[..chunk], at) {
            Ok(read) => read,
            Err(error) => {
                self.searched = Some((searched, last));
                return Err(error);
            }
        };
        if read < check.len() || *check != last[..] {
            self.searched = Some((searched, last));
            self.lay_out(scratch, 0);
            return Ok(Filled::Changed);
        }
        let new = &scratch.bytes[..read - check.len()];
        if new.is_empty() {
            self.searched = Some((searched, last));
            self.lay_out(scratch, 0);
            return Ok(Filled::End);
        }
        let to = searched + new.len() as u64;
        let line = to - self.line_start;
        if memchr(b'\n', new).is_some() || line > line_max as u64 + 1 {
            // Complete, or long enough to be split: now it is worth its memory.
            return self.fill(scratch, usize::try_from(line).unwrap_or(chunk), line_max);
        }
        let mut last = last;
        last.extend_from_slice(new);
        last.drain(..last.len().saturating_sub(PROOF_LEN));
        self.searched = Some((to, last));
        Ok(Filled::Longer)
    }

    /// Puts the unfinished line into `scratch`, as far as it is held.
    pub fn lay_out_unfinished(&self, scratch: &mut Scratch) {
        self.lay_out(scratch, 0);
    }

    /// Puts what is held at the beginning of `scratch`, with room for `chunk` more.
    fn lay_out(&self, scratch: &mut Scratch, chunk: usize) {
        let filled = self.behind.len() + self.unfinished.len();
        if scratch.bytes.len() < filled + chunk {
            scratch.bytes.resize(filled + chunk, 0);
        }
        scratch.bytes[..self.behind.len()].copy_from_slice(&self.behind);
        scratch.bytes[self.behind.len()..filled].copy_from_slice(&self.unfinished);
        scratch.behind = self.behind.len();
        scratch.filled = filled;
        scratch.line_start = self.line_start;
    }
}
