//! Deleted files over a restart: nothing but a descriptor leads to what was not read of them, and the
//! service manager can keep descriptors for a process that may crash.

use std::collections::HashSet;
use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use tracing::{info, warn};

use super::reader::Reader;
use super::{Event, Registration, Tail, Tailed, identity};
use crate::batch::Origin;
use crate::model::{FileId, FileRecord};
use crate::sys::{self, FileStatus};

/// Descriptors that are kept at most; the unit's `FileDescriptorStoreMax=`.
const KEPT_MAX: usize = 4096;

impl Tail {
    /// The same set, which goes on with deleted files that an earlier run had open. A descriptor that
    /// is not of the file that is known under its id is let go, and that is said.
    #[must_use]
    pub fn inheriting(mut self, descriptors: Vec<(FileId, File)>, now: Instant) -> Self {
        for (id, file) in descriptors {
            // What comes of nothing is released at the first look.
            self.kept.insert(id);
            if let Err(reason) = self.inherit(id, file, now) {
                warn!(file = %id, reason, "the descriptor that was kept of a deleted log file is of no use");
            }
        }
        self
    }

    /// Takes it into the set, as if it had been deleted a moment ago; nothing of one that is over.
    fn inherit(&mut self, kept_as: FileId, file: File, now: Instant) -> Result<(), String> {
        let status = sys::status(&file).map_err(|error| error.to_string())?;
        if !status.regular {
            return Err("not a regular file".to_owned());
        }
        if status.links > 0 {
            return Err("it has a name, and is found by that".to_owned());
        }
        let known = self.known_in(&file, &status);
        let known = known.map_err(|error| error.to_string())?;
        match known {
            Some(record) => self.resume_deleted(record, file, &status, now),
            None => self.begin_deleted(kept_as, file, &status, now),
        }
    }

    fn resume_deleted(
        &mut self,
        record: FileRecord,
        file: File,
        status: &FileStatus,
        now: Instant,
    ) -> Result<(), String> {
        let FileRecord {
            id,
            begins,
            confirmed,
            found,
            ..
        } = record;
        if record.ended && status.size <= confirmed.offset {
            return Ok(());
        }
        let mut reader = Reader::new(file);
        let mark = confirmed.max_by_offset(begins);
        reader.seek(mark).map_err(|error| error.to_string())?;
        let deleted = self.deleted(&record, id, reader, status, now)?;
        info!(path = ?record.path, file = %id, offset = confirmed.offset, size = status.size, "deleted log file resumed");
        let tailed = Tailed {
            registration: Registration::Durable,
            identity: Some(record.identity),
            begins,
            confirmed,
            batched: confirmed,
            found,
            ..deleted
        };
        self.take_in(id, tailed, now);
        self.events.push(Event::Resumed(Arc::new(record)));
        self.enqueue(id);
        Ok(())
    }

    /// It was written anew before it was deleted, and the earlier run did not see that any more.
    fn begin_deleted(
        &mut self,
        before: FileId,
        file: File,
        status: &FileStatus,
        now: Instant,
    ) -> Result<(), String> {
        let inode = (status.dev, status.ino);
        let before = self.known.record(before).cloned();
        let before = before.filter(|record| identity::is_inode_of(status, &record.identity));
        let before = before.ok_or("it is not of a log file that is known")?;
        let id = FileId::random().map_err(|error| error.to_string())?;
        let deleted = self.deleted(&before, id, Reader::new(file), status, now)?;
        info!(path = ?before.path, file = %id, size = status.size, "deleted log file found");
        let tailed = Tailed {
            anew: true,
            ..deleted
        };
        self.take_in(id, tailed, now);
        self.known.miss(before.id, inode);
        if let Err(error) = self.register(id) {
            self.failed(id, &error, now);
        }
        self.enqueue(id);
        Ok(())
    }

    /// A generation of the path and the source of `record` that was deleted.
    fn deleted(
        &self,
        record: &FileRecord,
        id: FileId,
        reader: Reader,
        status: &FileStatus,
        now: Instant,
    ) -> Result<Tailed, String> {
        let mut sources = self.sources.iter();
        let Some(source) = sources.position(|source| source.name == record.source) else {
            return Err(format!("there is no source `{}` any more", record.source));
        };
        let origin = Origin::new(&self.host, id, record.path.clone());
        let (inode, found) = ((status.dev, status.ino), self.clock.now());
        Ok(Tailed {
            born: status.born,
            rotated: Some(now),
            ..Tailed::new(source, origin, Some(reader), inode, now, found)
        })
    }

    /// Tells of files that lost their last name and are read still, and of those that are not any
    /// more.
    pub fn tell_deleted(&mut self) {
        let is_deleted = |id: &FileId| self.files.get(id).is_some_and(is_deleted);
        let deleted: HashSet<FileId> = self.rotated.iter().copied().filter(is_deleted).collect();
        for id in self.kept.extract_if(|id| !deleted.contains(id)) {
            self.events.push(Event::Released(id));
        }
        for id in deleted {
            let reader = self.files.get(&id).and_then(|file| file.reader.as_ref());
            // Without a descriptor to spare, at the next look.
            if self.kept.len() < KEPT_MAX
                && !self.kept.contains(&id)
                && let Some(Ok(file)) = reader.map(|reader| reader.file().try_clone())
            {
                self.kept.insert(id);
                self.events.push(Event::Unlinked(id, file));
            }
        }
    }
}

/// Whether nothing but our descriptor leads to a file that is known to the state. What is read through
/// a decompressor would have to be unpacked from its beginning; it is not kept.
fn is_deleted(file: &Tailed) -> bool {
    let reader = file
        .reader
        .as_ref()
        .filter(|reader| reader.archive().is_none());
    let durable = file.registration == Registration::Durable && file.wanted_to.is_none();
    let status = reader.map(|reader| sys::status(reader.file()));
    durable && matches!(status, Some(Ok(status)) if status.links == 0)
}
