//! Opening: what was found is taken into the set, as the generation that it proves to be or as a
//! new one.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tracing::{info, warn};

use super::discover::Found;
use super::reader::Reader;
use super::rotation::View;
use super::{Event, Registration, Tail, Tailed, descriptors, identity};
use crate::batch::Origin;
use crate::model::{FileId, FileRecord, LogPath, Mark, Skipped};
use crate::sys::{self, FileStatus};
use crate::telemetry::progress;

impl Tail {
    /// A file was found of which it is to be told whose it is.
    pub(super) fn meet(&mut self, found: &Found, view: &View<'_>, now: Instant) {
        match found.packed {
            Some(coding) => self.meet_packed(found, coding, now),
            None => self.open_rotated(found, view, now),
        }
    }

    /// Opens a file that is not in the set, and takes it in.
    pub(super) fn open(&mut self, found: &Found, now: Instant) {
        let Some((file, status)) = self.try_open(found, now) else {
            return;
        };
        let adopted = self
            .recognise(&LogPath::from(found.path.as_path()), &file, &status)
            .and_then(|known| self.adopt(found, &found.path, file, &status, known, now));
        if let Err(error) = adopted {
            self.refuse(found, &error.to_string());
        }
    }

    pub(super) fn try_open(&mut self, found: &Found, now: Instant) -> Option<(File, FileStatus)> {
        if !self.has_room(now) {
            self.put_off(found, now);
            return None;
        }
        let mut opened = open(found);
        // Others than log files take descriptors too.
        if opened.as_ref().is_err_and(descriptors::is_shortage) && self.make_room(now) {
            opened = open(found);
        }
        let Opened { file, status, path } = match opened {
            Ok(opened) => opened,
            // Renamed or deleted since the scan; the next scan tells.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) if descriptors::is_shortage(&error) => {
                self.put_off(found, now);
                return None;
            }
            Err(error) => {
                self.refuse(found, &error.to_string());
                return None;
            }
        };
        if !status.regular {
            self.refuse(found, "not a regular file");
            return None;
        }
        if status.links > 1 && !owner_matches_directory(&path, &status) {
            let reason = "hard link to a file of another owner than its directory's";
            self.refuse(found, reason);
            return None;
        }
        // Another file than the scan saw at this path. What the scan saw has another name by now, and
        // must not be taken for something that came before: the next scan sees both.
        if (status.dev, status.ino) != found.inode || self.by_inode.contains_key(&found.inode) {
            return None;
        }
        self.had_its_turn(found.inode);
        self.closed.remove(&found.path);
        let refused = self.refused.remove(&found.path);
        if refused.is_some_and(|(_, reason)| reason != descriptors::WAITS) {
            info!(path = ?found.path, "log file can be read now");
        }
        Some((file, status))
    }

    /// Says once why a file is not read, and again when the reason changes.
    pub(super) fn refuse(&mut self, found: &Found, reason: &str) {
        let said = self.refused.get(&found.path);
        if said.is_none_or(|(_, before)| before != reason) {
            warn!(path = ?found.path, reason, "log file cannot be read");
            let refused = (found.source, reason.to_owned());
            self.refused.insert(found.path.clone(), refused);
        }
    }

    /// Takes an open file into the set, as the `known` generation that it proves to be, or as a new
    /// one of `path`.
    pub(super) fn adopt(
        &mut self,
        found: &Found,
        path: &Path,
        file: File,
        status: &FileStatus,
        known: Option<FileRecord>,
        now: Instant,
    ) -> io::Result<()> {
        let inode = (status.dev, status.ino);
        let mut reader = Reader::new(file);
        let source = &self.sources[found.source];
        let ignored = self.ignored.get(&inode).map(|ignored| &ignored.content);
        let mut begins_as = Skipped::ReadFrom;
        let (id, path, begins) = match &known {
            Some(record) => {
                // Proved a moment ago; should it have changed since, the next read finds out.
                reader.seek(record.confirmed.max_by_offset(record.begins))?;
                (record.id, record.path.clone(), record.begins)
            }
            None => {
                let id = FileId::random().map_err(io::Error::other)?;
                let at_end = source.first_scan && source.from_end && found.matched;
                let begins = match ignored {
                    Some(Some((identity, end)))
                        if identity::proves(reader.file(), status, identity, end)? =>
                    {
                        begins_as = Skipped::Ignored;
                        reader.seek_line_before(end.offset, &source.splitter)?
                    }
                    _ if at_end && status.size > 0 => {
                        reader.seek_line_before(status.size, &source.splitter)?
                    }
                    _ => Mark::default(),
                };
                (id, LogPath::from(path), begins)
            }
        };
        let renamed = path.as_path() != found.path;
        let anew = known.is_none() && self.known.at_inode(inode).next().is_some();
        let predecessor = self.take_path(&found.path, id, now);
        let mut tailed = Tailed {
            begins,
            anew,
            begins_as,
            link: Some(found.path.clone()),
            fixed: Some((Arc::clone(&found.fixed), found.follow_links)),
            born: status.born,
            rotated: renamed.then_some(now),
            ..Tailed::new(
                found.source,
                Origin::new(&self.host, id, path),
                Some(reader),
                inode,
                now,
                self.clock.now(),
            )
        };
        if let Some(record) = known {
            tailed.registration = Registration::Durable;
            let mut identity = record.identity;
            if (identity.dev, identity.ino) != inode {
                (identity.dev, identity.ino, identity.born) = (status.dev, status.ino, status.born);
                self.events.push(Event::Identified(id, identity));
            }
            tailed.identity = Some(identity);
            tailed.found = record.found;
            tailed.confirmed = record.confirmed;
            tailed.batched = record.confirmed;
            info!(path = ?tailed.origin.path, file = %id, offset = record.confirmed.offset, "log file resumed");
            self.events
                .push(Event::Resumed(Arc::new(FileRecord { identity, ..record })));
        } else {
            info!(path = ?tailed.origin.path, file = %id, offset = begins.offset, "log file found");
        }
        self.take_in(id, tailed, now);
        if let Some(older) = predecessor.or_else(|| self.undrained_before(id)) {
            self.wait_for(id, older);
        }
        if let Err(error) = self.register(id) {
            self.failed(id, &error, now);
        }
        self.enqueue(id);
        Ok(())
    }

    /// The known generation that an open file proves to be.
    pub(super) fn recognise(
        &self,
        path: &LogPath,
        file: &File,
        status: &FileStatus,
    ) -> io::Result<Option<FileRecord>> {
        if let Some(record) = self.known_in(file, status)? {
            return Ok(Some(record));
        }
        // The number of a device may be another one after a reboot, or when it is mounted again.
        if !self.known.is_looked_for(path) {
            return Ok(None);
        }
        let head = identity::first_bytes(file)?;
        for record in self.known.begun_like(path, &head) {
            let identity = &record.identity;
            let moved = identity.ino == status.ino
                && identity.dev != status.dev
                && identity.born.is_some()
                && identity.born == status.born
                && !self.known.is_there(record.id);
            if moved && identity::holds(file, status, identity, &record.confirmed)? {
                return Ok(Some(record.clone()));
            }
        }
        Ok(None)
    }

    /// The known generation of its inode that an open file proves to be.
    pub(super) fn known_in(
        &self,
        file: &File,
        status: &FileStatus,
    ) -> io::Result<Option<FileRecord>> {
        // The others are generations that were truncated away; their copies may be near.
        for record in self.known.at_inode((status.dev, status.ino)) {
            if identity::proves(file, status, &record.identity, &record.confirmed)? {
                return Ok(Some(record.clone()));
            }
        }
        Ok(None)
    }

    /// Asks for a durable id, once there is a byte that proves the file.
    ///
    /// # Errors
    /// The file could not be read.
    pub fn register(&mut self, id: FileId) -> io::Result<()> {
        let Some(file) = self.files.get_mut(&id) else {
            return Ok(());
        };
        let (Registration::Empty, Some(reader)) = (file.registration, &file.reader) else {
            return Ok(());
        };
        let identity = match file.identity {
            Some(identity) => identity,
            None => {
                let status = sys::status(reader.file())?;
                let Some(identity) = identity::identify(reader.file(), &status)? else {
                    return Ok(());
                };
                identity
            }
        };
        file.registration = Registration::Asked;
        file.identity = Some(identity);
        file.changed = Instant::now();
        self.events.push(Event::Register(FileRecord {
            id,
            source: Arc::clone(&self.sources[file.source].name),
            path: file.origin.path.clone(),
            found: file.found,
            identity,
            begins: file.begins,
            confirmed: Mark::default(),
            ended: false,
        }));
        Ok(())
    }

    /// The id is durable: the file may be read.
    pub fn registered(&mut self, id: FileId, now: Instant) {
        if let Some(file) = self.files.get_mut(&id) {
            file.registration = Registration::Durable;
            self.enqueue(id);
            self.close_unwanted(id, now);
        }
    }
}

/// A file that was found, open.
#[derive(Debug)]
pub struct Opened {
    /// For reading.
    pub file: File,
    /// What it is.
    pub status: FileStatus,
    /// Where it lies, links followed.
    pub path: PathBuf,
}

/// Opens what was found, through no link that may not be followed.
///
/// # Errors
/// It is not there any more, may not be read, or lies behind such a link.
pub fn open(found: &Found) -> io::Result<Opened> {
    let below = found.path.strip_prefix(&found.fixed);
    let below = below.map_err(io::Error::other)?;
    let (file, path) = if found.follow_links {
        sys::open_through_links(&found.fixed, below)?
    } else {
        (sys::open_below(&found.fixed, below)?, found.path.clone())
    };
    let status = sys::status(&file)?;
    Ok(Opened { file, status, path })
}

/// Whether a file with several names belongs to whom its directory belongs to; otherwise somebody
/// may have linked another's file here to have it read.
#[must_use]
pub fn owner_matches_directory(path: &Path, status: &FileStatus) -> bool {
    path.parent()
        .and_then(|directory| progress::call(|| std::fs::metadata(directory)).ok())
        .is_some_and(|directory| directory.uid() == status.owner)
}
