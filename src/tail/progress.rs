//! How far a generation is: read, at its end, failed, confirmed, let go, or sent back.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, info};

use super::identity::{self, Growth};
use super::known::{self, Whereabouts};
use super::tailed::Failure;
use super::{Event, Registration, Tail, Tailed};
use crate::model::{Confirmed, FileId, FileRecord, PROOF_LEN, Rewind, Skipped};
use crate::sys;
use crate::telemetry::progress;

/// A pause after a read failed, and the longest one.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// The kernel stamps files with a clock that ticks so often at least.
const CLOCK_TICK: Duration = Duration::from_millis(20);

impl Tail {
    /// Whether a file still begins as it did when its id was made. The 64 bytes that every read
    /// compares may be the same in another generation; the beginning as well hardly is.
    ///
    /// # Errors
    /// The file could not be read.
    pub fn begins_as_known(&self, id: FileId) -> io::Result<bool> {
        // What is compressed is not written to.
        let file = self.files.get(&id).filter(|file| file.archive().is_none());
        match file.map(|file| (&file.reader, &file.identity)) {
            Some((Some(reader), Some(identity))) => identity::begins_like(reader.file(), identity),
            _ => Ok(true),
        }
    }

    /// Whether a file in which nothing is new is still the one that it was: it may have been written
    /// anew, and be as long, and end alike.
    ///
    /// # Errors
    /// The file could not be read.
    pub fn rests_as_known(&mut self, id: FileId) -> io::Result<bool> {
        let Some(file) = self.files.get_mut(&id) else {
            return Ok(true);
        };
        let Some(reader) = file.reader.as_ref().filter(|reader| {
            // Of a short one everything was compared.
            reader.archive().is_none() && reader.read_to() > PROOF_LEN as u64
        }) else {
            return Ok(true);
        };
        let written = sys::status(reader.file())?.modified;
        if file.rests_since == Some(written) {
            return Ok(true);
        }
        // Who writes twice within a tick of the clock leaves one stamp.
        let is_over = self.clock.since(i128::from(written)) > CLOCK_TICK;
        file.rests_since = is_over.then_some(written);
        self.begins_as_known(id)
    }

    /// New bytes were read of `id`.
    pub fn has_more(&mut self, id: FileId, now: Instant) -> io::Result<()> {
        let Some(file) = self.files.get_mut(&id) else {
            return Ok(());
        };
        file.changed = now;
        let batched = file.batched;
        file.passed.pass(batched);
        if let Some(failure) = file.failure.take() {
            info!(path = ?file.origin.path, error = %failure.kind, failures = failure.times, "log file can be read again");
        }
        if let (Some(identity), Some(reader)) = (&file.identity, &file.reader) {
            file.ages.read(reader.read_to(), now);
            if reader.archive().is_some() {
                file.size_seen = reader.read_to();
                self.enqueue(id);
                return Ok(());
            }
            file.size_seen = sys::status(reader.file())?.size;
            match identity::grow(reader.file(), identity)? {
                Growth::To(grown) => {
                    file.identity = Some(grown);
                    self.events.push(Event::Identified(id, grown));
                }
                // The next read compares and finds out.
                Growth::None | Growth::Changed => {}
            }
        }
        self.enqueue(id);
        Ok(())
    }

    /// `id` was read to its present end.
    pub fn at_end(&mut self, id: FileId) {
        let Some(file) = self.files.get_mut(&id) else {
            return;
        };
        file.failure = None;
        if let Some(reader) = &mut file.reader
            && reader.read_to() == reader.line_start()
        {
            reader.rest();
        }
        if file.is_rotated() && !file.drained {
            file.drained = true;
            self.release_successors(id);
        }
    }

    /// A file that is still empty keeps nobody waiting, and goes when its name goes.
    pub fn at_end_if_empty(&mut self, id: FileId, now: Instant) {
        let Some(file) = self.files.get(&id) else {
            return;
        };
        if file.registration != Registration::Empty {
            return;
        }
        let gone = file.is_rotated() && file.link.is_none();
        self.at_end(id);
        if gone {
            self.let_go(id, now);
        }
    }

    /// Reading `id` failed: later again, and say so once.
    pub fn failed(&mut self, id: FileId, error: &io::Error, now: Instant) {
        let Some(file) = self.files.get_mut(&id) else {
            return;
        };
        progress::failed(error);
        let before = file.failure.take();
        let pause = match &before {
            Some(failure) if failure.kind == error.kind() => (failure.pause * 2).min(RETRY_MAX),
            _ => {
                if file.archive().is_some() {
                    self.damaged[file.source] += 1;
                }
                error!(path = ?file.origin.path, file = %id, %error, "reading a log file failed; trying again");
                RETRY_FIRST
            }
        };
        file.failure = Some(Failure {
            kind: error.kind(),
            times: before.map_or(0, |failure| failure.times) + 1,
            pause,
            until: now + pause,
        });
        // What is damaged and deleted is never going to be whole.
        let never_whole = matches!(
            error.kind(),
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof
        );
        // What another machine deleted is not there any more for who has it open (nfs(5)).
        let stale = error.kind() == io::ErrorKind::StaleNetworkFileHandle;
        let gone = stale && file.reader.is_some() || never_whole && file.archive().is_some();
        if gone && file.link.is_none() {
            file.lost_as = if stale {
                Skipped::Deleted
            } else {
                Skipped::Damaged
            };
            self.vanished.push((id, file.read_to().max(file.size_seen)));
            if self.by_inode.get(&file.inode) == Some(&id) {
                self.by_inode.remove(&file.inode);
            }
            file.reader = None;
        }
        // Nobody waits for a file that cannot be read.
        file.drained = true;
        self.release_successors(id);
    }

    /// Takes note of durable marks, and lets go of what is done with.
    pub fn confirmed(&mut self, confirmed: &[Confirmed], now: Instant) {
        for Confirmed {
            file: id,
            mark,
            eof,
        } in confirmed
        {
            let Some(file) = self.files.get_mut(id) else {
                continue;
            };
            // What is safe in the spool is confirmed later.
            if mark.offset < file.confirmed.offset {
                continue;
            }
            file.confirmed = *mark;
            file.ages.confirmed(mark.offset);
            let done =
                *eof && file.eof_batched && mark.offset == file.batched.offset && file.is_left();
            if done && !self.has_grown(*id) {
                self.let_go(*id, now);
            } else {
                self.close_unwanted(*id, now);
            }
        }
    }

    /// Whether a file that was thought to be over has got more bytes since: then it is not over.
    fn has_grown(&mut self, id: FileId) -> bool {
        let Some(file) = self.files.get_mut(&id) else {
            return false;
        };
        if file.archive().is_some() {
            return false;
        }
        let status = file
            .reader
            .as_ref()
            .map(|reader| sys::status(reader.file()));
        let grown = matches!(status, Some(Ok(status)) if status.size != file.batched.offset);
        if grown {
            file.eof_batched = false;
            self.enqueue(id);
        }
        grown
    }

    fn let_go(&mut self, id: FileId, now: Instant) {
        let Some(file) = self.take_out(id, now) else {
            return;
        };
        let status = file
            .reader
            .as_ref()
            .map(|reader| sys::status(reader.file()));
        // Should it grow, come back under a name that matches, or be packed by logrotate, it goes
        // on.
        let whereabouts = match status {
            Some(Ok(status)) if status.links > 0 => Whereabouts::Away(now + known::ELSEWHERE_FOR),
            _ => Whereabouts::Gone,
        };
        let twin = self.twins.remove(&id);
        if let Some(record) = self.record(id, &file) {
            self.remember(record.clone(), whereabouts, now);
            if whereabouts == Whereabouts::Gone {
                // A copy may be found yet that ends before it.
                self.known.keep_passed(id, file.passed);
            }
            if let Some(twin) = twin {
                // Where it is by now, the next scan tells.
                self.move_to(record, &twin, now);
            }
        }
        info!(path = ?file.origin.path, file = %id, "log file let go");
    }

    /// What is to be known of a generation that is not read any more; nothing of an empty one.
    pub(super) fn record(&self, id: FileId, file: &Tailed) -> Option<FileRecord> {
        Some(FileRecord {
            id,
            source: Arc::clone(&self.sources[file.source].name),
            path: file.origin.path.clone(),
            found: file.found,
            identity: file.identity?,
            begins: file.begins,
            confirmed: file.confirmed,
            ended: file.eof_batched,
        })
    }

    /// Goes back. False if the bytes to go back to are not there any more: they are lost, and the
    /// file begins anew.
    ///
    /// # Errors
    /// The file could not be read.
    pub fn rewind(&mut self, rewind: &Rewind) -> io::Result<bool> {
        let Some(file) = self.files.get_mut(&rewind.file) else {
            return Ok(true);
        };
        file.epoch = rewind.epoch;
        file.eof_batched = false;
        file.batched = rewind.to;
        let found = match &mut file.reader {
            Some(reader) => reader.seek(rewind.to.max_by_offset(file.begins))?,
            None => file.orphan.is_some(),
        };
        self.enqueue(rewind.file);
        Ok(found)
    }
}
