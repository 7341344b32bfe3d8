//! Bytes that are accounted for without a line: what lies before the place where delivery begins,
//! holes, what is lost, and the end.

use std::time::Instant;

use tracing::{error, warn};

use super::place::Taking;
use super::{Lane, Output};
use crate::batch;
use crate::lines::Progress;
use crate::model::{FileId, Proof, Range, Skipped};
use crate::sys;
use crate::tail::reader::{Reader, Zeros};

impl<S: Fn(Output)> Lane<S> {
    /// Accounts for what lies before the place where delivery begins.
    pub(super) fn skip_beginning(&mut self, id: FileId, now: Instant) {
        let Some(file) = self.tail.get_mut(id) else {
            return;
        };
        if file.batched.offset < file.begins.offset {
            let range = batch::bare_range(
                &file.origin,
                (file.batched.offset, file.begins.offset),
                Some(file.begins_as),
                false,
                file.epoch,
                file.begins.proof,
            );
            self.account(id, range, now);
        }
    }

    /// Accounts for zeros at the beginning of a file that nobody wrote, if it begins with such. A
    /// writer that does not append goes on at its old place after its file was cut, and what is
    /// before reads as zeros. Whether there was anything to do.
    pub(super) fn skip_hole(&mut self, id: FileId, now: Instant) -> std::io::Result<bool> {
        let settle = self.options.settle;
        let Some(file) = self.tail.get_mut(id) else {
            return Ok(false);
        };
        let (origin, epoch, settled) = (file.origin.clone(), file.epoch, file.settled(settle, now));
        let at_beginning =
            |reader: &&mut Reader| reader.read_to() == 0 && reader.archive().is_none();
        let Some(reader) = file.reader.as_mut().filter(at_beginning) else {
            return Ok(false);
        };
        // In a file that was never cut, zeros are a hole only where the disk has none of them.
        if !file.anew && sys::next_data(reader.file(), 0)? == Some(0) {
            return Ok(false);
        }
        let end = match reader.zeros(file.zeros)? {
            Zeros::Until(0) => return Ok(false),
            Zeros::Until(end) => end,
            Zeros::ToTheEnd(end) if settled && end > 0 => end,
            Zeros::ToTheEnd(end) => {
                file.zeros = end;
                self.tail.at_end(id);
                return Ok(true);
            }
            Zeros::AtLeast(end) => {
                file.zeros = end;
                self.tail.enqueue(id);
                return Ok(true);
            }
        };
        let mark = reader.go_to(end)?;
        warn!(path = ?origin.path, file = %id, start = 0, end, reason = "hole", "zeros skipped");
        let range = batch::bare_range(
            &origin,
            (0, end),
            Some(Skipped::Hole),
            false,
            epoch,
            mark.proof,
        );
        self.account(id, range, now);
        self.tail.has_more(id, now)?;
        Ok(true)
    }

    /// The rest of a truncated generation turned up in no copy: delivers what was read of its last
    /// line, accounts for what is known to be lost, and says its end.
    pub(super) fn give_up(&mut self, id: FileId, now: Instant) {
        let Some((rest, size)) = self.tail.give_up_orphan(id) else {
            return;
        };
        let Some(file) = self.tail.get_mut(id) else {
            return;
        };
        let batched = file.batched.offset;
        // After a rewind the last line does not follow on what is in batches any more.
        if batched == rest.offset() {
            let scratch = std::mem::replace(&mut self.scratch, rest);
            self.take_lines(id, Progress::default(), Taking::Rest, now);
            self.scratch = scratch;
        }
        self.lose(id, size, now);
        self.say_eof(id, now);
    }

    /// Lets go of a deleted file before it was read to its end: delivers what was read of its last
    /// line, accounts for the rest, and says its end.
    pub(super) fn abandon(&mut self, id: FileId, now: Instant) {
        let file = self.tail.get_mut(id);
        let Some(reader) = file.and_then(|file| file.reader.as_mut()) else {
            return;
        };
        if reader.held() > 0 {
            reader.lay_out_unfinished(&mut self.scratch);
            self.take_lines(id, Progress::default(), Taking::Rest, now);
        }
        if let Some(size) = self.tail.abandon(id) {
            self.skip_beginning(id, now);
            self.lose(id, size, now);
            self.say_eof(id, now);
        }
    }

    /// Accounts for bytes up to `end` that cannot be read any more, if there are any.
    pub(super) fn lose(&mut self, id: FileId, end: u64, now: Instant) {
        let Some(file) = self.tail.get_mut(id) else {
            return;
        };
        let (start, path) = (file.batched.offset, file.origin.path.clone());
        if end <= start {
            return;
        }
        // After a rewind the same bytes are missed again.
        let new_end = file.lost_from.map_or(end, |counted| counted.min(end));
        if start < new_end {
            let reason = file.lost_as;
            error!(?path, file = %id, start, end = new_end, reason = reason.as_str(), "bytes lost");
            file.lost_from = Some(start);
            (self.send)(Output::Lost(reason, new_end - start));
        }
        let range = batch::bare_range(
            &file.origin,
            (start, end),
            Some(file.lost_as),
            false,
            file.epoch,
            Proof::default(),
        );
        self.account(id, range, now);
    }

    pub(super) fn say_eof(&mut self, id: FileId, now: Instant) {
        let Some(file) = self.tail.get_mut(id) else {
            return;
        };
        let at = file.batched;
        let range = batch::bare_range(
            &file.origin,
            (at.offset, at.offset),
            None,
            true,
            file.epoch,
            at.proof,
        );
        self.account(id, range, now);
        if let Some(file) = self.tail.get_mut(id) {
            file.eof_batched = true;
        }
    }

    /// Puts a range without lines into the batch of its source.
    fn account(&mut self, id: FileId, range: Range, now: Instant) {
        let Some(file) = self.tail.get_mut(id) else {
            return;
        };
        file.batched = range.end_mark();
        let (source, origin) = (file.source, file.origin.clone());
        if self.open[source].account(&origin, range.clone()) == Err(batch::Full) {
            self.close(source, now);
            // An empty batch takes any one range.
            let _ = self.open[source].account(&origin, range);
        }
    }
}
