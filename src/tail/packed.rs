//! Compressed files: which generation is it that somebody packed? Told by uncompressed bytes alone:
//! how it begins, and what stands before the mark of a generation that begins so. To get there it
//! must be unpacked up to that mark, which takes its time: one file at a time, a quantum at a turn,
//! while others are read.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tracing::{info, warn};

use super::archive::{Archive, Content};
use super::discover::{Found, Scan};
use super::known::Whereabouts;
use super::reader::Reader;
use super::rotation::Twin;
use super::{Event, Registration, Tail, Tailed};
use crate::batch::Origin;
use crate::model::{Coding, FileId, FileRecord, HEAD_LEN, Identity, LogPath, Mark, Proof};
use crate::sys::{self, FileStatus};

/// So many files are held open that are to be looked into.
const EXAMINED_MAX: usize = 64;
/// Bytes that are unpacked in one quantum.
const QUANTUM: usize = 4 << 20;

/// What was seen of a compressed file that is not ours.
#[derive(Debug)]
pub(super) struct Met {
    /// As long as it stays so: an inode number comes back with another file.
    version: (u64, i128),
    /// Index of the source that found it.
    source: usize,
    verdict: Verdict,
}

impl Met {
    /// Index of the source that found it.
    pub(super) fn source(&self) -> usize {
        self.source
    }
}

/// What is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It waits for being looked into.
    None,
    /// It is a copy of this one, which is still where it was.
    CopyOf(FileId),
    /// It is damaged, or not whole yet.
    Broken,
}

/// A file that is being looked into.
#[derive(Debug)]
pub(super) struct Examination {
    found: Found,
    archive: Box<Archive>,
    identity: Identity,
    candidates: Vec<Candidate>,
}

/// A generation that begins as the file does.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: FileId,
    mark: Mark,
    /// What stands before the mark was looked at, and is the same.
    proved: Option<bool>,
    /// The file ends before the mark, and the generation begins as it does up to there.
    short: bool,
    /// It is not what the generation is known to hold that begins so, but what was written over it.
    anew: bool,
}

impl Examination {
    /// Index of the source that found it.
    pub(super) fn source(&self) -> usize {
        self.found.source
    }

    /// Unpacks up to the next candidate's mark, or one quantum on the way there. False once there
    /// is nothing more to look at.
    fn step(&mut self) -> io::Result<bool> {
        let undecided = self.candidates.iter_mut();
        let next = undecided
            .filter(|candidate| candidate.proved.is_none())
            .min_by_key(|candidate| candidate.mark.offset);
        let Some(candidate) = next else {
            return Ok(false);
        };
        let offset = candidate.mark.offset;
        let at = self.archive.go_on(offset, QUANTUM)?;
        if at >= offset {
            let mut content = |bytes: &mut [u8], at| self.archive.read_full_at(bytes, at);
            let (_, proof) = super::identity::end_before_by(&mut content, offset)?;
            candidate.proved = Some(proof == candidate.mark.proof);
        } else if self.archive.end().is_some() {
            candidate.proved = Some(false);
        }
        Ok(true)
    }
}

impl Tailed {
    /// Whether its open file begins with these bytes now, whatever it held before.
    fn holds_now(&self, head: &[u8]) -> bool {
        let plain = |reader: &&Reader| reader.archive().is_none();
        let Some(reader) = self.reader.as_ref().filter(plain) else {
            return false;
        };
        let first = super::identity::first_bytes(reader.file());
        first.is_ok_and(|first| !first.is_empty() && head.starts_with(&first))
    }
}

/// Whether the first bytes of a file are those that `proof` is of.
fn begins(head: &[u8], proof: &Proof) -> bool {
    let len = usize::try_from(proof.len).unwrap_or(usize::MAX);
    head.get(..len)
        .is_some_and(|head| Proof::of(head) == *proof)
}

impl Tail {
    /// A compressed file was found that is not open.
    pub(super) fn meet_packed(&mut self, found: &Found, coding: Coding, now: Instant) {
        let version = found.version();
        let met = self.met.get(&found.inode);
        if met.is_none_or(|met| met.version != version) {
            let met = Met {
                version,
                source: found.source,
                verdict: Verdict::None,
            };
            self.met.insert(found.inode, met);
        }
        if self.is_examining(found) {
            self.undecided.extend(kin_paths(found));
            return;
        }
        let Some((file, status)) = self.try_open(found, now) else {
            return;
        };
        let archive = Archive::new(file, coding);
        if let Err(error) = self.look_into(found, archive, &status, now) {
            self.broken(found, &error);
        }
    }

    fn is_examining(&self, found: &Found) -> bool {
        let mut examined = self.examinations.iter();
        examined.any(|examination| examination.found.inode == found.inode)
    }

    /// Whether a compressed file was looked into and nothing of it is wanted for now.
    pub(super) fn is_met(&self, found: &Found) -> bool {
        let met = self.met.get(&found.inode);
        let met = met.filter(|met| met.version == found.version());
        match met.map(|met| met.verdict) {
            None | Some(Verdict::None) => false,
            Some(Verdict::Broken) => true,
            Some(Verdict::CopyOf(id)) => {
                let twin = self.twins.get(&id);
                let is_twin = twin.is_some_and(|twin| twin.found.inode == found.inode);
                is_twin || self.is_where_it_was(id)
            }
        }
    }

    /// Whether a generation is open, or known to be under a name.
    fn is_where_it_was(&self, id: FileId) -> bool {
        match self.files.get(&id) {
            Some(file) => file.reader.is_some(),
            None => self.known.whereabouts(id) == Some(Whereabouts::There),
        }
    }

    fn look_into(
        &mut self,
        found: &Found,
        mut archive: Archive,
        status: &FileStatus,
        now: Instant,
    ) -> io::Result<()> {
        let mut head = vec![0; HEAD_LEN];
        let read = archive.read_full_at(&mut head, 0)?;
        head.truncate(read);
        if head.is_empty() {
            self.leave_alone(found, None);
            return Ok(());
        }
        let identity = Identity {
            dev: status.dev,
            ino: status.ino,
            // When it was packed says nothing; when its content was last written does.
            born: Some(status.modified),
            head: Proof::of(&head),
        };
        let same_file = |record: &&FileRecord| {
            record.identity.born == identity.born && begins(&head, &record.identity.head)
        };
        let own = self.known.at_inode(found.inode).find(same_file).cloned();
        if let Some(record) = own {
            return self.go_on_packed(found, archive, identity, record, now);
        }
        if self.is_packed_from_left_alone(found, &head, identity, now) {
            return Ok(());
        }
        let candidates = self.candidates(found, &head);
        if candidates.is_empty() {
            return self.take_unknown(found, archive, identity, now);
        }
        self.undecided.extend(kin_paths(found));
        if self.examinations.len() < EXAMINED_MAX {
            // Held open until its turn comes: rotation may delete it meanwhile.
            archive.rest();
            // Somebody may have written to it since the scan.
            let found = Found {
                size: status.size,
                modified: i128::from(status.modified),
                ..found.clone()
            };
            self.examinations.push_back(Examination {
                found,
                archive: Box::new(archive),
                identity,
                candidates,
            });
        }
        Ok(())
    }

    /// Whether the file was made of one of which nothing is wanted, whose time it has.
    fn is_packed_from_left_alone(
        &mut self,
        found: &Found,
        head: &[u8],
        identity: Identity,
        now: Instant,
    ) -> bool {
        let kin = kin_paths(found);
        let left = self.left_alone.values().find(|left| {
            left.is_of_time(found.modified) && kin.contains(&LogPath::from(left.path()))
        });
        let Some((known, len)) = left.map(|left| (left.known(), left.version.0)) else {
            return false;
        };
        let Some(id) = known else {
            self.leave_alone(found, None);
            return true;
        };
        let record = self.known.record(id).cloned();
        let Some(record) = record.filter(|record| begins(head, &record.identity.head)) else {
            return false;
        };
        if !record.ended {
            return false;
        }
        let twin = Twin {
            found: found.clone(),
            born: identity.born,
            len,
        };
        self.move_to(record, &twin, now);
        true
    }

    /// Generations that the file may be, as they begin with the same bytes.
    fn candidates(&self, found: &Found, head: &[u8]) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        let mut add = |id, mark, anew| {
            candidates.push(Candidate {
                id,
                mark,
                proved: None,
                short: false,
                anew,
            });
        };
        for path in kin_paths(found) {
            for id in self.by_path.get(&path).into_iter().flatten() {
                let Some(file) = self.files.get(id) else {
                    continue;
                };
                if let Ok(Some(identity)) = file.present_identity()
                    && begins(head, &identity.head)
                {
                    add(*id, file.batched, false);
                } else if file.holds_now(head) {
                    add(*id, Mark::default(), true);
                }
            }
            for record in self.known.begun_like(&path, head) {
                add(record.id, record.confirmed, false);
            }
        }
        candidates
    }

    /// Goes on with looking into a compressed file. Whether there was anything to do.
    pub fn examine(&mut self, now: Instant) -> bool {
        let Some(mut examination) = self.examinations.pop_front() else {
            return false;
        };
        match examination.step() {
            Ok(true) => self.examinations.push_front(examination),
            Ok(false) => {
                let found = examination.found.clone();
                if let Err(error) = self.decide(examination, now) {
                    self.broken(&found, &error);
                }
            }
            Err(error) => self.broken(&examination.found, &error),
        }
        true
    }

    /// Whether a generation begins with all that an archive holds, which is less than its mark.
    fn begins_with(&self, candidate: &Candidate, archive: &mut Archive) -> io::Result<bool> {
        let less = |end: &u64| *end > 0 && *end < candidate.mark.offset;
        let Some(end) = archive.end().filter(less) else {
            return Ok(false);
        };
        let mut proof_before = |offset| -> io::Result<Proof> {
            let read = |bytes: &mut [u8], at| archive.read_full_at(bytes, at);
            Ok(super::identity::end_before_by(read, offset)?.1)
        };
        let file = self.files.get(&candidate.id);
        let plain = |reader: &&Reader| reader.archive().is_none();
        let reader = file.and_then(|file| file.reader.as_ref());
        if let Some(reader) = reader.filter(plain)
            && super::identity::end_before(reader.file(), end)?.1 == proof_before(end)?
        {
            return Ok(true);
        }
        // Its own file is gone, or was truncated and nobody has noticed yet.
        let passed = match file {
            Some(file) => file.passed.before(end),
            None => self.known.passed_before(candidate.id, end),
        };
        passed.map_or(Ok(false), |passed| {
            Ok(proof_before(passed.offset)? == passed.proof)
        })
    }

    /// Every candidate was looked at.
    fn decide(&mut self, examination: Examination, now: Instant) -> io::Result<()> {
        let Examination {
            found,
            mut archive,
            identity,
            mut candidates,
        } = examination;
        let status = sys::status(archive.file())?;
        if !found.is_as_it_was(&status) && status.links > 0 {
            // Written to since it was opened: the next scan looks into it again.
            return Ok(());
        }
        for candidate in &mut candidates {
            if candidate.proved == Some(false) && self.begins_with(candidate, &mut archive)? {
                (candidate.proved, candidate.short) = (Some(true), true);
            }
        }
        let (there, gone): (Vec<Candidate>, Vec<Candidate>) = candidates
            .into_iter()
            .filter(|candidate| candidate.proved == Some(true))
            .partition(|candidate| self.is_where_it_was(candidate.id));
        let short = gone.iter().find(|candidate| candidate.short);
        if let Some(original) = there.first().or(short) {
            self.judge(&found, Verdict::CopyOf(original.id));
            let twin = Twin {
                found: found.clone(),
                born: identity.born,
                len: archive.end().unwrap_or(original.mark.offset),
            };
            if self.files.contains_key(&original.id) && !original.anew {
                self.twins.insert(original.id, twin);
            } else if original.short
                && !self.is_where_it_was(original.id)
                && let Some(record) = self.known.record(original.id).cloned()
            {
                self.move_to(record, &twin, now);
            }
            if let Some(file) = self.files.get_mut(&original.id)
                && !original.anew
                && !original.short
                && file.copy.is_none()
            {
                // Held open, lest it be gone when the original is truncated.
                archive.rest();
                file.copy = Some((found, Content::Packed(archive)));
            }
            return Ok(());
        }
        if gone.iter().any(|candidate| candidate.anew) {
            // By now it has a generation of its own, which the next look knows.
            return Ok(());
        }
        // Two that it may be are two too many: in doubt it is none of them.
        let [Candidate { id, .. }] = gone[..] else {
            return self.take_unknown(&found, *archive, identity, now);
        };
        if self.files.contains_key(&id) {
            return self.attach_packed(id, &found, archive, &status, now);
        }
        let record = self.known.record(id).cloned();
        match record {
            Some(record) => self.go_on_packed(&found, *archive, identity, record, now),
            None => Ok(()),
        }
    }

    /// The file holds a known generation: reads on in it, if it may have more.
    fn go_on_packed(
        &mut self,
        found: &Found,
        mut archive: Archive,
        identity: Identity,
        mut record: FileRecord,
        now: Instant,
    ) -> io::Result<()> {
        let head = record.identity.head;
        let moved = Identity { head, ..identity };
        let in_its_place = record.identity == moved;
        if !in_its_place {
            record.identity = moved;
            self.events.push(Event::Identified(record.id, moved));
            info!(path = ?record.path, file = %record.id, now = ?found.path, "log file was compressed");
        }
        // What ended and is where it was holds no more; what was packed since may.
        let end = record.confirmed.offset;
        if record.ended && !in_its_place {
            archive.go_on(end + 1, QUANTUM)?;
        }
        if record.ended && (in_its_place || archive.end() == Some(end)) {
            let id = record.id;
            self.remember(record, Whereabouts::There, now);
            self.leave_alone(found, Some(id));
            return Ok(());
        }
        let path = record.path.as_path().to_path_buf();
        self.adopt_packed(found, &path, archive, identity, Some(record), now)
    }

    /// The file holds no generation that is known.
    fn take_unknown(
        &mut self,
        found: &Found,
        archive: Archive,
        identity: Identity,
        now: Instant,
    ) -> io::Result<()> {
        let source = &self.sources[found.source];
        // What came after the path was matched first was missed.
        let missed = |base: &PathBuf| {
            let births = self.paths.births(&LogPath::from(base.as_path()));
            let written = identity.born.zip(births);
            written.is_some_and(|(written, births)| births.are_before(written))
        };
        let wanted = if found.matched {
            !(source.first_scan && source.from_end)
        } else {
            found.rotated_from.as_ref().is_some_and(missed)
        };
        if !wanted || self.is_too_old(found) {
            self.leave_alone(found, None);
            return Ok(());
        }
        let path = match &found.rotated_from {
            Some(base) if !found.matched => base.clone(),
            _ => found.unpacked_path(),
        };
        self.adopt_packed(found, &path, archive, identity, None, now)
    }

    /// Takes a compressed file into the set.
    fn adopt_packed(
        &mut self,
        found: &Found,
        path: &Path,
        archive: Archive,
        identity: Identity,
        known: Option<FileRecord>,
        now: Instant,
    ) -> io::Result<()> {
        let mut reader = Reader::of(Content::Packed(Box::new(archive)));
        let id = match &known {
            Some(record) => record.id,
            None => FileId::random().map_err(io::Error::other)?,
        };
        let origin = Origin::new(&self.host, id, LogPath::from(path));
        let inode = (identity.dev, identity.ino);
        if let Some(record) = &known {
            reader.seek(record.confirmed.max_by_offset(record.begins))?;
        }
        let mut tailed = Tailed {
            link: Some(found.path.clone()),
            born: identity.born,
            identity: Some(identity),
            rotated: Some(now),
            ..Tailed::new(
                found.source,
                origin,
                Some(reader),
                inode,
                now,
                self.clock.now(),
            )
        };
        let offset = known.as_ref().map_or(0, |record| record.confirmed.offset);
        if let Some(record) = known {
            tailed.registration = Registration::Durable;
            tailed.identity = Some(record.identity);
            tailed.begins = record.begins;
            tailed.found = record.found;
            tailed.confirmed = record.confirmed;
            tailed.batched = record.confirmed;
            self.events.push(Event::Resumed(Arc::new(record)));
        }
        info!(path = ?tailed.origin.path, file = %id, at = ?found.path, offset, "compressed log file is read");
        self.met.remove(&found.inode);
        self.take_path(&found.path, id, now);
        self.take_in(id, tailed, now);
        self.wait_for_packed(id);
        self.register(id)?;
        self.enqueue(id);
        if let Some(base) = &found.rotated_from {
            self.queue_behind(&LogPath::from(base.as_path()), found);
        }
        Ok(())
    }

    /// The rest of a truncated generation goes on in a copy that was compressed.
    pub(super) fn attach_packed(
        &mut self,
        id: FileId,
        found: &Found,
        archive: Box<Archive>,
        status: &FileStatus,
        now: Instant,
    ) -> io::Result<()> {
        let reader = Reader::of(Content::Packed(archive));
        let inode = (status.dev, status.ino);
        let born = Some(status.modified);
        let attached = self.attach_reader(id, found, reader, inode, born, now)?;
        if attached {
            self.met.remove(&found.inode);
            self.wait_for_packed(id);
        }
        Ok(())
    }

    /// One compressed file is read at a time: each takes memory while it is.
    fn wait_for_packed(&mut self, id: FileId) {
        let before = self.last_packed.replace(id);
        if let Some(before) = before
            && !self.waits_for(before, id)
            && self
                .files
                .get(&before)
                .is_some_and(|before| !before.drained)
        {
            self.wait_for(id, before);
        }
    }

    /// A compressed file cannot be unpacked: said, counted, and looked at again when it changes.
    fn broken(&mut self, found: &Found, error: &io::Error) {
        self.judge(found, Verdict::Broken);
        self.damaged[found.source] += 1;
        warn!(path = ?found.path, %error, "compressed log file is damaged, or not whole yet; waiting for it to change");
    }

    /// What became of looking into a file as it was when that began.
    fn judge(&mut self, found: &Found, verdict: Verdict) {
        if let Some(met) = self.met.get_mut(&found.inode) {
            (met.version, met.verdict) = (found.version(), verdict);
        }
    }

    /// Forgets what was met and is not there any more.
    pub(super) fn forget_met(&mut self, scan: &Scan) {
        if self.met.is_empty() {
            return;
        }
        let there: HashSet<(u64, u64)> = scan.found.iter().map(|found| found.inode).collect();
        self.met
            .retain(|inode, met| there.contains(inode) || !scan.looked_for.contains(&met.source));
    }
}

/// Paths of the generations that a compressed file may hold: the one it was rotated from, its own
/// name, and the name before that in a cascade, `a.log.1` of `a.log.2.gz`.
fn kin_paths(found: &Found) -> Vec<LogPath> {
    let own = found.unpacked_path();
    let mut paths: Vec<PathBuf> = found.rotated_from.iter().cloned().collect();
    let number = own
        .extension()
        .and_then(|digits| digits.to_str()?.parse::<u32>().ok());
    if let Some(before) = number.and_then(|number| number.checked_sub(1)) {
        paths.push(own.with_extension(before.to_string()));
    }
    paths.push(own);
    paths.dedup();
    paths.into_iter().map(LogPath::from).collect()
}
