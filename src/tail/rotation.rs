//! Rotation: generations that changed their place. What is found under a rotation name is the rest
//! of a known generation, a copy of one, one that was missed, or nobody's business; what a
//! truncation took away goes on in its copy.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tracing::{info, warn};

use super::archive::Content;
use super::discover::{Found, Scan};
use super::known::{Births, GRACE, GRACE_SCANS, Whereabouts};
use super::reader::{Reader, Scratch};
use super::{Event, Tail, Tailed, identity};
use crate::batch::Origin;
use crate::model::{FileId, FileRecord, Identity, LogPath, Mark};
use crate::sys::{self, FileStatus};

/// What is left of a generation that was truncated away.
#[derive(Debug)]
pub(super) struct Orphan {
    pub(super) since: Instant,
    /// Scans that found no copy.
    pub(super) scans: u32,
    /// The unfinished line that was read of it.
    pub(super) rest: Scratch,
    /// How long it is known to have been.
    pub(super) size: u64,
}

/// A file under a rotation name of which nothing is wanted.
#[derive(Debug)]
pub(super) struct LeftAlone {
    pub(super) path: PathBuf,
    /// As long as it stays so: an inode number comes back with another file.
    pub(super) version: (u64, i128),
    /// The known generation that it is.
    pub(super) known: Option<FileId>,
    /// It was closed for want of a descriptor; as it was then.
    pub(super) closed: Option<Found>,
}

impl LeftAlone {
    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The known generation that it is.
    pub(super) fn known(&self) -> Option<FileId> {
        self.known
    }

    /// Whether it was last written to then, and lies there for good.
    pub(super) fn is_of_time(&self, modified: i128) -> bool {
        self.closed.is_none() && self.version.1 == modified
    }
}

/// A file under a rotation name that holds what a generation held, or the beginning of it.
#[derive(Debug)]
pub(super) struct Twin {
    pub(super) found: Found,
    /// What proves it beside its bytes.
    pub(super) born: Option<i64>,
    /// Its bytes, uncompressed.
    pub(super) len: u64,
}

impl Twin {
    /// What was found, open, which is not compressed.
    fn plain(found: &Found, status: &FileStatus) -> Self {
        Self {
            found: found.clone(),
            born: status.born,
            len: status.size,
        }
    }
}

/// What was known when a scan began to be applied, of the files under rotation names that need a
/// decision; taking one file in must not change what the next one is taken for.
#[derive(Default)]
pub(super) struct View<'a> {
    /// There is one.
    any: bool,
    /// What was found, by inode.
    pub(super) there: HashMap<(u64, u64), &'a Found>,
    /// When each path was matched first.
    pub(super) births: HashMap<LogPath, Births>,
    /// Inodes under which generations of these paths were known.
    pub(super) ours: HashSet<((u64, u64), LogPath)>,
}

/// How an unknown file is related to the known generations of a path.
pub(super) enum Kinship {
    /// Not at all.
    None,
    /// It is a copy of one that is there, or not finished yet: to be left alone for now.
    Copy,
    /// It is a copy of this one that was made before the last of it was written.
    BeginningOf(FileId),
    /// The same of one that is not read any more.
    BeginningOfKnown(FileRecord),
    /// It is a whole copy of this one, which was not seen truncated yet.
    CopyOf(FileId),
    /// It holds what was truncated away of this one.
    RestOf(FileId),
    /// It holds what this one was known to hold, and its own file does not any more.
    RestOfKnown(FileRecord),
}

impl Tail {
    pub(super) fn view<'a>(&self, scan: &'a Scan) -> View<'a> {
        let undecided = scan.found.iter().filter(|found| {
            !self.by_inode.contains_key(&found.inode) && !self.is_left_alone(found)
        });
        let mut view = View::default();
        for found in undecided {
            let Some(base) = &found.rotated_from else {
                continue;
            };
            let base = LogPath::from(base.as_path());
            let mut known = self.known.at_inode(found.inode);
            if known.any(|record| record.path == base) {
                view.ours.insert((found.inode, base.clone()));
            }
            if let Some(births) = self.paths.births(&base) {
                view.births.insert(base, births);
            }
            view.any = true;
        }
        if view.any {
            let found = scan.found.iter().map(|found| (found.inode, found));
            view.there = found.collect();
        }
        view
    }

    /// Opens a file under a rotation name, and takes it in if it is the rest of a known generation
    /// or one that was rotated before it could be seen.
    pub(super) fn open_rotated(&mut self, found: &Found, view: &View<'_>, now: Instant) {
        let was_ignored = self.was_ignored(found);
        if was_ignored == Some(false) {
            return;
        }
        let (Some(base), Some((file, status))) = (&found.rotated_from, self.try_open(found, now))
        else {
            return;
        };
        let base = LogPath::from(base.as_path());
        if self.is_beginning_of_ended(found, &file, &status, now) {
            return;
        }
        let taken = self.recognise(&base, &file, &status).and_then(|known| {
            if let Some(record) = known {
                let left = self.left_alone.get(&found.inode);
                if left.is_some_and(|left| left.closed.is_some()) {
                    // Rotated while it was closed: its end is still to be said.
                    return self.adopt(found, &found.path, file, &status, Some(record), now);
                }
                return self.go_on(found, file, &status, record, now);
            }
            match self.kinship(&base, &file, &status, &view.there)? {
                Kinship::Copy => Ok(()),
                Kinship::BeginningOf(id) => {
                    self.twins.insert(id, Twin::plain(found, &status));
                    Ok(())
                }
                Kinship::BeginningOfKnown(record) => {
                    self.move_to(record, &Twin::plain(found, &status), now);
                    Ok(())
                }
                Kinship::CopyOf(id) => {
                    if let Some(original) = self.files.get_mut(&id) {
                        original.copy = Some((found.clone(), Content::Plain(file)));
                    }
                    Ok(())
                }
                Kinship::RestOf(id) => self.attach(id, found, file, &status, now),
                Kinship::RestOfKnown(record) => self.go_on(found, file, &status, record, now),
                // Somebody writes into it just now: it may become a copy of one that was cut meanwhile.
                Kinship::None if sys::status(&file)?.size != status.size => Ok(()),
                Kinship::None if found.matched => {
                    self.adopt(found, &found.path, file, &status, None, now)
                }
                Kinship::None => {
                    let births = view.births.get(&base);
                    let younger = births
                        .zip(status.born)
                        .is_some_and(|(births, born)| births.are_before(born));
                    // An inode of ours that holds other bytes now: truncated, then renamed.
                    let anew = view.ours.contains(&(found.inode, base.clone()));
                    if younger || anew || was_ignored.is_some() {
                        self.adopt(found, base.as_path(), file, &status, None, now)
                    } else {
                        self.leave_alone(found, None);
                        Ok(())
                    }
                }
            }
        });
        if let Err(error) = taken {
            self.refuse(found, &error.to_string());
        }
        self.queue_behind(&base, found);
    }

    /// What lives under `base` now waits until the generation at `found` is read to its end.
    pub(super) fn queue_behind(&mut self, base: &LogPath, found: &Found) {
        let older = self.by_link.get(&found.path).copied();
        let live = self.by_link.get(base.as_path()).copied();
        if let (Some(older), Some(live)) = (older, live)
            && !self.waits_for(older, live)
            && self.files.get(&older).is_some_and(|older| !older.drained)
            && self
                .files
                .get(&live)
                .is_some_and(|live| live.batched.offset == 0)
        {
            self.wait_for(live, older);
        }
    }

    /// Whether `id` is `other`, or waits for it, or for somebody who does.
    pub(super) fn waits_for(&self, id: FileId, other: FileId) -> bool {
        let before = |id: &FileId| self.files.get(id)?.predecessor;
        let mut chain = std::iter::successors(Some(id), before).take(self.files.len() + 1);
        chain.any(|id| id == other)
    }

    /// What was just taken in waits for the generation of the same path that is `older`.
    pub(super) fn queue_up(&mut self, found: &Found, older: &HashMap<Option<&Path>, FileId>) {
        let id = self.by_link.get(&found.path).copied();
        let older = older.get(&found.rotated_from.as_deref()).copied();
        if let (Some(id), Some(older)) = (id, older)
            && !self.waits_for(older, id)
            && self.files.get(&older).is_some_and(|older| !older.drained)
            && self
                .files
                .get(&id)
                .is_some_and(|file| file.predecessor.is_none() && file.read_to() == 0)
        {
            self.wait_for(id, older);
        }
    }

    /// Whether a file under a rotation name is the copy of a live one that is held open; takes note
    /// of the name that it has now.
    pub(super) fn follow_copy(&mut self, found: &Found) -> bool {
        let base = found.rotated_from.as_ref();
        let live = base.and_then(|base| self.by_link.get(base));
        let copy = live.and_then(|id| self.files.get_mut(id)?.copy.as_mut());
        match copy {
            Some((copy, _)) if (copy.inode, copy.version()) == (found.inode, found.version()) => {
                *copy = found.clone();
                true
            }
            _ => false,
        }
    }

    /// Whether a file under a rotation name was looked into and has nothing that is wanted.
    pub(super) fn is_done_with(&self, found: &Found) -> bool {
        self.is_left_alone(found) || self.is_met(found)
    }

    pub(super) fn is_left_alone(&self, found: &Found) -> bool {
        let left = self.left_alone.get(&found.inode);
        left.is_some_and(|left| left.version == found.version() && left.path == found.path)
    }

    /// Nothing is wanted of what was found, unless it changes. It is the `known` generation, or
    /// none of ours.
    pub(super) fn leave_alone(&mut self, found: &Found, known: Option<FileId>) {
        let left = LeftAlone {
            path: found.path.clone(),
            version: found.version(),
            known,
            closed: None,
        };
        let before = self.left_alone.insert(found.inode, left);
        let before = before.and_then(|before| before.known);
        before
            .filter(|before| Some(*before) != known)
            .into_iter()
            .for_each(|before| self.known.miss(before, found.inode));
    }

    /// Misses the known generations that lay under rotation names and are not there any more.
    pub(super) fn miss_left_alone(&mut self, scan: &Scan) {
        if self.left_alone.is_empty() {
            return;
        }
        // An inode number under another name may be another file's by now.
        let found = scan.found.iter();
        let there: HashSet<((u64, u64), &Path)> =
            found.map(|found| (found.inode, &*found.path)).collect();
        let known = &mut self.known;
        self.left_alone.retain(|inode, left| {
            let kept = there.contains(&(*inode, &*left.path)) || scan.is_blind_to(&left.path);
            if let (false, Some(id)) = (kept, left.known) {
                known.miss(id, *inode);
            }
            kept
        });
        let left_alone = &self.left_alone;
        self.closed
            .retain(|_, inode| left_alone.contains_key(inode));
    }

    /// What was found holds a known generation: reads on in it, if there is more than what is
    /// confirmed.
    fn go_on(
        &mut self,
        found: &Found,
        file: File,
        status: &FileStatus,
        record: FileRecord,
        now: Instant,
    ) -> io::Result<()> {
        if record.confirmed.offset != status.size {
            return self.adopt(found, &found.path, file, status, Some(record), now);
        }
        let (id, mut record) = (record.id, record);
        let identity = &mut record.identity;
        if (identity.dev, identity.ino) != found.inode {
            (identity.dev, identity.ino, identity.born) = (status.dev, status.ino, status.born);
            self.events.push(Event::Identified(id, *identity));
        }
        self.remember(record, Whereabouts::There, now);
        self.leave_alone(found, Some(id));
        Ok(())
    }

    /// Whether a file is the copy of a generation that ended behind it, and is known to be: nothing
    /// is wanted of it.
    fn is_beginning_of_ended(
        &mut self,
        found: &Found,
        file: &File,
        status: &FileStatus,
        now: Instant,
    ) -> bool {
        let is_it = |record: &&FileRecord| {
            record.ended
                && record.identity.born.is_some()
                && record.identity.born == status.born
                && status.size < record.confirmed.offset
                && identity::begins_like(file, &record.identity).unwrap_or(false)
        };
        let record = self.known.at_inode(found.inode).find(is_it).cloned();
        if let Some(record) = &record {
            let id = record.id;
            self.remember(record.clone(), Whereabouts::There, now);
            self.leave_alone(found, Some(id));
        }
        record.is_some()
    }

    /// A generation that is not read any more lives on in its twin.
    pub(super) fn move_to(&mut self, mut record: FileRecord, twin: &Twin, now: Instant) {
        let (dev, ino) = twin.found.inode;
        let born = twin.born;
        record.identity = Identity {
            dev,
            ino,
            born,
            ..record.identity
        };
        let id = record.id;
        self.events.push(Event::Identified(id, record.identity));
        self.remember(record, Whereabouts::There, now);
        self.known.found_copy(id, twin.len);
        self.leave_alone(&twin.found, Some(id));
    }

    /// How an unknown file under a rotation name of `base` is related to what is known of `base`.
    pub(super) fn kinship(
        &self,
        base: &LogPath,
        file: &File,
        status: &FileStatus,
        there: &HashMap<(u64, u64), &Found>,
    ) -> io::Result<Kinship> {
        let mut kin = Vec::new();
        for id in self.by_path.get(base).into_iter().flatten() {
            let Some(other) = self.files.get(id) else {
                continue;
            };
            let Some(identity) = other.present_identity()? else {
                continue;
            };
            if !identity::begins_like(file, &identity)? {
                if status.size < u64::from(identity.head.len) && other.begins_as(file)? {
                    // Somebody has just begun to copy it.
                    kin.push(Kinship::Copy);
                }
                continue;
            }
            if identity::holds(file, status, &identity, &other.batched)? {
                kin.push(match (&other.orphan, &other.reader) {
                    (Some(_), _) => Kinship::RestOf(*id),
                    (None, Some(_)) => Kinship::CopyOf(*id),
                    // Its rest was given up before.
                    (None, None) => Kinship::Copy,
                });
            } else if status.size < other.batched.offset {
                let proved = passes(file, other.passed.before(status.size))?;
                kin.push(if proved {
                    Kinship::BeginningOf(*id)
                } else {
                    // Perhaps it is still being written.
                    Kinship::Copy
                });
            }
        }
        let head = identity::first_bytes(file)?;
        for record in self.known.begun_like(base, &head) {
            if identity::holds(file, status, &record.identity, &record.confirmed)? {
                let inode = (record.identity.dev, record.identity.ino);
                let alive = there
                    .get(&inode)
                    .is_some_and(|own| still_holds(own, record));
                kin.push(if alive {
                    Kinship::Copy
                } else {
                    Kinship::RestOfKnown(record.clone())
                });
            } else if record.ended && status.size < record.confirmed.offset {
                let passed = self.known.passed_before(record.id, status.size);
                if passes(file, passed)? {
                    kin.push(Kinship::BeginningOfKnown(record.clone()));
                }
            }
        }
        Ok(match kin.len() {
            0 => Kinship::None,
            1 => kin.remove(0),
            // Any copy is enough to leave it alone; several rests would be a guess.
            _ if kin
                .iter()
                .any(|kin| !matches!(kin, Kinship::RestOf(_) | Kinship::RestOfKnown(_))) =>
            {
                Kinship::Copy
            }
            _ => Kinship::None,
        })
    }

    /// The rest of a truncated generation goes on in its copy.
    pub(super) fn attach(
        &mut self,
        id: FileId,
        found: &Found,
        file: File,
        status: &FileStatus,
        now: Instant,
    ) -> io::Result<()> {
        let inode = (status.dev, status.ino);
        self.attach_reader(id, found, Reader::new(file), inode, status.born, now)?;
        Ok(())
    }

    /// The same, read by `reader`, from a file that was born then. Whether it does.
    pub(super) fn attach_reader(
        &mut self,
        id: FileId,
        found: &Found,
        mut reader: Reader,
        inode: (u64, u64),
        born: Option<i64>,
        now: Instant,
    ) -> io::Result<bool> {
        let Some(old) = self.files.get_mut(&id) else {
            return Ok(false);
        };
        if old.orphan.is_none() || !reader.seek(old.batched.max_by_offset(old.begins))? {
            return Ok(false);
        }
        info!(path = ?old.origin.path, file = %id, copy = ?found.path, offset = old.batched.offset, "truncated log file goes on in its copy");
        old.reader = Some(reader);
        old.orphan = None;
        old.inode = inode;
        old.born = born;
        old.changed = now;
        old.drained = false;
        // A copy that was held open may have lost its name to the next one; the next scan tells
        // where it is.
        let named = is_still(found);
        old.link = named.then(|| found.path.clone());
        if let Some(identity) = &mut old.identity {
            (identity.dev, identity.ino, identity.born) = (inode.0, inode.1, born);
            self.events.push(Event::Identified(id, *identity));
        }
        self.occupy(inode, id);
        if named {
            self.take_path(&found.path, id, now);
        }
        self.enqueue(id);
        Ok(true)
    }

    /// The inode of `id` holds other bytes now: begins another generation in the same open file.
    /// The old one's unfinished line is in `rest`; more of it may turn up in a copy.
    ///
    /// # Errors
    /// No random bytes for the new id, or the file could not be read.
    pub fn begin_anew(&mut self, id: FileId, rest: Scratch, now: Instant) -> io::Result<()> {
        let new = FileId::random().map_err(io::Error::other)?;
        let Some(old) = self.files.get_mut(&id) else {
            return Ok(());
        };
        let Some(reader) = old.reader.take() else {
            return Ok(());
        };
        // What proved it was there as well, read or not.
        let head = old.identity.map_or(0, |identity| identity.head.len);
        old.orphan = Some(Orphan {
            since: now,
            scans: 0,
            rest,
            size: old.size_seen.max(reader.read_to()).max(head.into()),
        });
        if let Some(identity) = &mut old.identity {
            // The inode is another generation's from now on.
            identity.ino = 0;
            self.events.push(Event::Identified(id, *identity));
        }
        old.rotated.get_or_insert(now);
        self.rotated.insert(id);
        old.superseded = true;
        old.drained = true;
        let link = old.link.take();
        let copy = old.copy.take();
        let path = old.origin.path.clone();
        let renamed = link.as_deref() != Some(path.as_path());
        let live = self.by_link.get(path.as_path());
        let superseded = live.is_some_and(|live| *live != id);
        warn!(?path, old = %id, new = %new, "log file was truncated or written anew; reading it from the beginning");
        let tailed = Tailed {
            anew: true,
            link: link.clone(),
            born: old.born,
            rotated: renamed.then_some(now),
            superseded,
            ..Tailed::new(
                old.source,
                Origin::new(&self.host, new, path),
                Some(Reader::of(reader.into_content())),
                old.inode,
                now,
                self.clock.now(),
            )
        };
        if let Some(link) = link {
            self.by_link.insert(link, new);
        }
        self.unfinished.set(id, 0);
        self.take_in(new, tailed, now);
        if renamed {
            // Who waited for the old one waits for what came between.
            for successor in self.successors.remove(&id).unwrap_or_default() {
                let file = self.files.get(&successor);
                if file.is_some_and(|file| file.predecessor == Some(id)) {
                    self.wait_for(successor, new);
                }
            }
        } else {
            self.release_successors(id);
        }
        if let Some((found, content)) = copy {
            let status = sys::status(content.file())?;
            let base = self.files.get(&id).map(|file| file.origin.path.clone());
            match content {
                Content::Plain(file) => self.attach(id, &found, file, &status, now)?,
                Content::Packed(archive) => {
                    self.attach_packed(id, &found, archive, &status, now)?;
                }
            }
            base.into_iter()
                .for_each(|base| self.queue_behind(&base, &found));
        }
        self.register(new)?;
        self.enqueue(new);
        Ok(())
    }

    /// Truncated generations whose copy was waited for long enough.
    #[must_use]
    pub fn orphans_due(&self, now: Instant) -> Vec<FileId> {
        let due = |orphan: &Orphan| {
            let waited = now.saturating_duration_since(orphan.since);
            waited >= GRACE && orphan.scans >= GRACE_SCANS
        };
        self.files
            .iter()
            .filter(|(_, file)| file.orphan.as_ref().is_some_and(due))
            .map(|(id, _)| *id)
            .collect()
    }

    /// Gives up waiting for a copy: what was read of the last line, and how long the generation is
    /// known to have been.
    pub fn give_up_orphan(&mut self, id: FileId) -> Option<(Scratch, u64)> {
        let orphan = self.files.get_mut(&id)?.orphan.take()?;
        Some((orphan.rest, orphan.size))
    }
}

impl Tailed {
    /// Whether its open file begins with all that another one holds, which is less than a head.
    fn begins_as(&self, file: &File) -> io::Result<bool> {
        let plain = |reader: &&Reader| reader.archive().is_none();
        let Some(reader) = self.reader.as_ref().filter(plain) else {
            return Ok(false);
        };
        let bytes = identity::first_bytes(file)?;
        Ok(identity::first_bytes(reader.file())?.starts_with(&bytes))
    }
}

/// Whether a file holds what stands before a place that was passed in another one.
fn passes(file: &File, passed: Option<&Mark>) -> io::Result<bool> {
    let holds = |mark: &Mark| -> io::Result<bool> {
        Ok(identity::end_before(file, mark.offset)?.1 == mark.proof)
    };
    Ok(passed.map(holds).transpose()? == Some(true))
}

/// Whether what was found is still there under its name.
fn is_still(found: &Found) -> bool {
    let present = if found.follow_links {
        std::fs::metadata(&found.path)
    } else {
        std::fs::symlink_metadata(&found.path)
    };
    present.is_ok_and(|present| (present.dev(), present.ino()) == found.inode)
}

/// Whether what was found under a known generation's inode still holds it.
fn still_holds(found: &Found, record: &FileRecord) -> bool {
    // What was packed into it stays in it.
    if found.packed.is_some() {
        return true;
    }
    let opened = super::open(found).and_then(|opened| {
        let (identity, mark) = (&record.identity, &record.confirmed);
        identity::proves(&opened.file, &opened.status, identity, mark)
    });
    // What cannot be read just now may hold it.
    opened.unwrap_or(true)
}
