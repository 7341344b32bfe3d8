//! The watched set: which generation of which file is open, where it is called what, and which one
//! is to be read next. Makes one path look like one sequence of generations, the old one read to
//! its end before the new one.

pub mod discover;
pub mod identity;
pub mod reader;
pub mod report;
pub mod watch;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use crate::batch::Origin;
use crate::model::{Confirmed, Epoch, FileId, FileRecord, Identity, LogPath, Mark, Rewind};
use crate::sys::{self, FileStatus};
use discover::{Found, Scan};
use identity::Growth;
use reader::Reader;
use report::Ages;

/// A pause after a read failed, and the longest one.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// What the watched set needs to know of a source.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name.
    pub name: Arc<str>,
    /// Where files begin that were there at the source's first scan: at their end, or not.
    pub from_end: bool,
    /// Where a line is split.
    pub line_max: usize,
    /// No scan of this source was ever finished.
    pub first_scan: bool,
}

/// Whether a file's id is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// It is still empty: nothing proves it, nothing needs it.
    Empty,
    /// Asked for.
    Asked,
    /// Its bytes may leave.
    Durable,
}

/// One generation.
#[derive(Debug)]
pub struct Tailed {
    /// Index of its source.
    pub source: usize,
    /// What stands in its lines.
    pub origin: Origin,
    /// Its bytes; nothing once the inode holds another generation.
    pub reader: Option<Reader>,
    /// Whether its id is durable.
    pub registration: Registration,
    /// Where delivery begins.
    pub begins: Mark,
    /// Counts its rewinds.
    pub epoch: Epoch,
    /// Up to where it is in batches.
    pub batched: u64,
    /// Its end is in a batch.
    pub eof_batched: bool,
    /// How far it is confirmed, durably.
    pub confirmed: Mark,
    /// How long it was when new bytes were last read of it.
    pub size_seen: u64,
    /// From here on its bytes were counted as lost.
    pub lost_from: Option<u64>,
    ages: Ages,
    identity: Option<Identity>,
    /// Its present name among those that match; nothing once it was renamed out of them or
    /// deleted.
    link: Option<PathBuf>,
    inode: (u64, u64),
    /// When it lost the name that it was first matched under.
    rotated: Option<Instant>,
    /// Another generation has its path.
    superseded: bool,
    /// When it last had something new.
    changed: Instant,
    /// The generation of the same path that is read to its end first.
    predecessor: Option<FileId>,
    /// Was read to its end since it was rotated.
    drained: bool,
    queued: bool,
    failure: Option<Failure>,
}

#[derive(Debug)]
struct Failure {
    kind: io::ErrorKind,
    pause: Duration,
    until: Instant,
}

impl Tailed {
    /// Whether its name is taken or gone.
    #[must_use]
    pub fn is_rotated(&self) -> bool {
        self.rotated.is_some()
    }

    /// Whether it was rotated and has been quiet for `quiet`.
    #[must_use]
    pub fn settled(&self, quiet: Duration, now: Instant) -> bool {
        self.rotated.is_some_and(|rotated| {
            now.saturating_duration_since(rotated.max(self.changed)) >= quiet
        })
    }

    /// Whether nothing will be found under its path any more that belongs to it.
    #[must_use]
    pub fn is_left(&self) -> bool {
        self.superseded || self.link.is_none()
    }
}

/// What became of files, for others to make durable or known.
#[derive(Debug)]
pub enum Event {
    /// A new generation: make its id durable.
    Register(FileRecord),
    /// A known generation goes on after this mark.
    Resumed(FileId, Mark),
    /// Its head proof covers more.
    Grown(FileId, Identity),
    /// The generation is gone and confirmed to its end.
    Forget(FileId),
    /// The first scan of this source is done.
    Scanned(Arc<str>),
}

/// The watched set of one lane.
#[derive(Debug)]
pub struct Tail {
    host: Arc<str>,
    sources: Vec<Source>,
    files: HashMap<FileId, Tailed>,
    by_inode: HashMap<(u64, u64), FileId>,
    by_link: HashMap<PathBuf, FileId>,
    /// What the state knows of inodes that are not open.
    known: HashMap<(u64, u64), Vec<FileRecord>>,
    ready: VecDeque<FileId>,
    /// Index of the source, and why not.
    refused: HashMap<PathBuf, (usize, String)>,
    events: Vec<Event>,
}

impl Tail {
    /// An empty set; `known` files go on where they were when they are found.
    #[must_use]
    pub fn new(host: Arc<str>, sources: Vec<Source>, known: Vec<FileRecord>) -> Self {
        let mut by_inode: HashMap<(u64, u64), Vec<FileRecord>> = HashMap::new();
        for record in known {
            let inode = (record.identity.dev, record.identity.ino);
            by_inode.entry(inode).or_default().push(record);
        }
        Self {
            host,
            sources,
            files: HashMap::new(),
            by_inode: HashMap::new(),
            by_link: HashMap::new(),
            known: by_inode,
            ready: VecDeque::new(),
            refused: HashMap::new(),
            events: Vec::new(),
        }
    }

    /// What happened since the last call, in order.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// A file of the set.
    pub fn get_mut(&mut self, id: FileId) -> Option<&mut Tailed> {
        self.files.get_mut(&id)
    }

    /// All sources.
    #[must_use]
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// The source at `index`.
    #[must_use]
    pub fn source(&self, index: usize) -> &Source {
        &self.sources[index]
    }

    /// Every file's id.
    #[must_use]
    pub fn ids(&self) -> Vec<FileId> {
        self.files.keys().copied().collect()
    }

    /// Bytes of unfinished lines that are held, and the file that holds most.
    #[must_use]
    pub fn unfinished(&self) -> (usize, Option<FileId>) {
        let held = |file: &Tailed| file.reader.as_ref().map_or(0, Reader::held);
        let sum = self.files.values().map(held).sum();
        let largest = self.files.iter().max_by_key(|(_, file)| held(file));
        (sum, largest.map(|(id, _)| *id))
    }

    /// Brings the set in line with what discovery saw.
    pub fn apply(&mut self, scan: &Scan, now: Instant) {
        let inode_at: HashMap<&Path, (u64, u64)> = scan
            .found
            .iter()
            .map(|found| (found.path.as_path(), found.inode))
            .collect();
        for found in &scan.found {
            if let Some(&id) = self.by_inode.get(&found.inode) {
                self.named(id, &found.path, &inode_at, now);
            } else {
                self.open(found, now);
            }
        }
        self.refused
            .retain(|path, _| inode_at.contains_key(path.as_path()));
        self.unlink_unseen(scan, &inode_at, now);
        for index in 0..self.sources.len() {
            if std::mem::take(&mut self.sources[index].first_scan) {
                let name = Arc::clone(&self.sources[index].name);
                self.events.push(Event::Scanned(name));
            }
        }
    }

    /// A file that is open was seen at `path`.
    fn named(
        &mut self,
        id: FileId,
        path: &Path,
        inode_at: &HashMap<&Path, (u64, u64)>,
        now: Instant,
    ) {
        let Some(file) = self.files.get_mut(&id) else {
            return;
        };
        match &file.link {
            Some(link) if link == path => return,
            // A second name of the same inode: the first one stays.
            Some(link) if inode_at.get(link.as_path()) == Some(&file.inode) => return,
            _ => {}
        }
        if let Some(old) = file.link.replace(path.to_path_buf())
            && self.by_link.get(&old) == Some(&id)
        {
            self.by_link.remove(&old);
        }
        if path == file.origin.path.as_path() {
            file.rotated = None;
            file.superseded = false;
        } else {
            file.rotated.get_or_insert(now);
            info!(path = ?file.origin.path, now = ?path, file = %id, "log file renamed");
        }
        self.take_path(path, id, now);
    }

    /// Gives `path` to `id`; who had it is superseded.
    fn take_path(&mut self, path: &Path, id: FileId, now: Instant) -> Option<FileId> {
        let old = self.by_link.insert(path.to_path_buf(), id);
        let old = old.filter(|old| *old != id)?;
        let file = self.files.get_mut(&old)?;
        if file.link.as_deref() == Some(path) {
            file.link = None;
        }
        file.rotated.get_or_insert(now);
        file.superseded = true;
        let drained = file.drained || file.reader.is_none();
        self.enqueue(old);
        (!drained).then_some(old)
    }

    /// Opens a file that is not in the set.
    fn open(&mut self, found: &Found, now: Instant) {
        let opened = found
            .path
            .strip_prefix(&found.fixed)
            .map_err(io::Error::other)
            .and_then(|below| sys::open_below(&found.fixed, below))
            .and_then(|file| sys::status(&file).map(|status| (file, status)));
        let (file, status) = match opened {
            Ok(opened) => opened,
            // Renamed or deleted since the scan; the next scan tells.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return self.refuse(found, &error.to_string()),
        };
        if !status.regular {
            return self.refuse(found, "not a regular file");
        }
        if status.links > 1 && !owner_matches_directory(&found.path, &status) {
            return self.refuse(
                found,
                "hard link to a file of another owner than its directory's",
            );
        }
        // Another file than the scan saw at this path, and one that is open already.
        if self.by_inode.contains_key(&(status.dev, status.ino)) {
            return;
        }
        match self.adopt(found, file, &status, now) {
            Ok(()) => {
                if self.refused.remove(&found.path).is_some() {
                    info!(path = ?found.path, "log file can be read now");
                }
            }
            Err(error) => self.refuse(found, &error.to_string()),
        }
    }

    /// Says once why a file is not read, and again when the reason changes.
    fn refuse(&mut self, found: &Found, reason: &str) {
        let said = self.refused.get(&found.path);
        if said.is_none_or(|(_, before)| before != reason) {
            warn!(path = ?found.path, reason, "log file cannot be read");
            let refused = (found.source, reason.to_owned());
            self.refused.insert(found.path.clone(), refused);
        }
    }

    /// Takes an open file into the set, as the known generation that it proves to be or as a new
    /// one.
    fn adopt(
        &mut self,
        found: &Found,
        file: File,
        status: &FileStatus,
        now: Instant,
    ) -> io::Result<()> {
        let inode = (status.dev, status.ino);
        let known = self.recognise(&file, status)?;
        let mut reader = Reader::new(file);
        let id = match &known {
            Some(record) => record.id,
            None => FileId::random().map_err(io::Error::other)?,
        };
        let path = match &known {
            Some(record) => record.path.clone(),
            None => LogPath::from(found.path.as_path()),
        };
        let source = &self.sources[found.source];
        let begins = match &known {
            Some(record) => record.begins,
            None if source.first_scan && source.from_end && status.size > 0 => {
                reader.seek_line_before(status.size, source.line_max)?
            }
            None => Mark::default(),
        };
        let renamed = path.as_path() != found.path;
        let predecessor = self.take_path(&found.path, id, now);
        let mut tailed = Tailed {
            source: found.source,
            origin: Origin::new(&self.host, id, path),
            reader: Some(reader),
            registration: Registration::Empty,
            begins,
            epoch: 0,
            batched: 0,
            eof_batched: false,
            confirmed: Mark::default(),
            size_seen: 0,
            lost_from: None,
            ages: Ages::default(),
            identity: None,
            link: Some(found.path.clone()),
            inode,
            rotated: renamed.then_some(now),
            superseded: false,
            changed: now,
            predecessor,
            drained: false,
            queued: false,
            failure: None,
        };
        if let Some(record) = known {
            tailed.registration = Registration::Durable;
            tailed.identity = Some(record.identity);
            tailed.confirmed = record.confirmed;
            tailed.batched = record.confirmed.offset;
            if let Some(reader) = &mut tailed.reader {
                // Proved a moment ago; should it have changed since, the next read finds out.
                reader.seek(record.confirmed.max_by_offset(begins))?;
            }
            info!(path = ?tailed.origin.path, file = %id, offset = record.confirmed.offset, "log file resumed");
            self.events.push(Event::Resumed(id, record.confirmed));
        } else {
            info!(path = ?tailed.origin.path, file = %id, offset = begins.offset, "log file found");
        }
        self.by_inode.insert(inode, id);
        self.files.insert(id, tailed);
        self.register(id)?;
        self.enqueue(id);
        Ok(())
    }

    /// The known generation that an open file proves to be.
    fn recognise(&mut self, file: &File, status: &FileStatus) -> io::Result<Option<FileRecord>> {
        let inode = (status.dev, status.ino);
        let Some(records) = self.known.get(&inode) else {
            return Ok(None);
        };
        for (index, record) in records.iter().enumerate() {
            if identity::proves(file, status, &record.identity, &record.confirmed)? {
                let mut records = self.known.remove(&inode).unwrap_or_default();
                return Ok(Some(records.swap_remove(index)));
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
        let status = sys::status(reader.file())?;
        let Some(identity) = identity::identify(reader.file(), &status)? else {
            return Ok(());
        };
        file.registration = Registration::Asked;
        file.identity = Some(identity);
        file.changed = Instant::now();
        self.events.push(Event::Register(FileRecord {
            id,
            source: Arc::clone(&self.sources[file.source].name),
            path: file.origin.path.clone(),
            identity,
            begins: file.begins,
            confirmed: Mark::default(),
        }));
        Ok(())
    }

    /// The id is durable: the file may be read.
    pub fn registered(&mut self, id: FileId) {
        if let Some(file) = self.files.get_mut(&id) {
            file.registration = Registration::Durable;
            self.enqueue(id);
        }
    }

    /// Names that this scan did not see are gone, unless it could not look there.
    fn unlink_unseen(&mut self, scan: &Scan, inode_at: &HashMap<&Path, (u64, u64)>, now: Instant) {
        let mut gone = Vec::new();
        for (id, file) in &mut self.files {
            let Some(link) = &file.link else { continue };
            let seen = inode_at.get(link.as_path()) == Some(&file.inode);
            let unknown = scan.unseen.iter().any(|unseen| link.starts_with(unseen));
            if !seen && !unknown && !inode_at.contains_key(link.as_path()) {
                info!(path = ?file.origin.path, file = %id, "log file renamed away or deleted");
                file.rotated.get_or_insert(now);
                gone.push((*id, file.link.take()));
            }
        }
        for (id, link) in gone {
            if let Some(link) = link
                && self.by_link.get(&link) == Some(&id)
            {
                self.by_link.remove(&link);
            }
            self.enqueue(id);
        }
    }

    /// These paths were written to.
    pub fn hint(&mut self, paths: HashSet<PathBuf>) {
        let mut unknown = false;
        for path in paths {
            match self.by_link.get(&path) {
                Some(&id) => self.enqueue(id),
                None => unknown = true,
            }
        }
        if unknown {
            // Perhaps somebody writes on through a descriptor of a renamed file.
            let rotated: Vec<FileId> = self
                .files
                .iter()
                .filter(|(_, file)| file.is_rotated())
                .map(|(id, _)| *id)
                .collect();
            rotated.into_iter().for_each(|id| self.enqueue(id));
        }
    }

    /// Looks at all files.
    pub fn look_at_all(&mut self) {
        for id in self.ids() {
            self.enqueue(id);
        }
    }

    /// Looks at a file when its turn comes.
    pub fn enqueue(&mut self, id: FileId) {
        if let Some(file) = self.files.get_mut(&id)
            && file.reader.is_some()
            && !file.queued
        {
            file.queued = true;
            self.ready.push_back(id);
        }
    }

    /// The next file to look at.
    pub fn next(&mut self, now: Instant) -> Option<FileId> {
        while let Some(id) = self.ready.pop_front() {
            let Some(file) = self.files.get_mut(&id) else {
                continue;
            };
            file.queued = false;
            let waits = file
                .failure
                .as_ref()
                .is_some_and(|failure| failure.until > now)
                || file.registration == Registration::Asked;
            let predecessor = file.predecessor;
            if waits {
                continue;
            }
            if let Some(older) = predecessor {
                if self.files.get(&older).is_some_and(|older| !older.drained) {
                    continue;
                }
                if let Some(file) = self.files.get_mut(&id) {
                    file.predecessor = None;
                }
            }
            return Some(id);
        }
        None
    }

    /// New bytes were read of `id`.
    pub fn has_more(&mut self, id: FileId, now: Instant) -> io::Result<()> {
        let Some(file) = self.files.get_mut(&id) else {
            return Ok(());
        };
        file.changed = now;
        if let Some(failure) = file.failure.take() {
            info!(path = ?file.origin.path, error = %failure.kind, "log file can be read again");
        }
        if let (Some(identity), Some(reader)) = (&file.identity, &file.reader) {
            file.ages.read(reader.read_to(), now);
            file.size_seen = sys::status(reader.file())?.size;
            match identity::grow(reader.file(), identity)? {
                Growth::To(grown) => {
                    file.identity = Some(grown);
                    self.events.push(Event::Grown(id, grown));
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
        if file.is_rotated() && !file.drained {
            file.drained = true;
            self.release_successors(id);
        }
    }

    fn release_successors(&mut self, id: FileId) {
        let waiting: Vec<FileId> = self
            .files
            .iter()
            .filter(|(_, file)| file.predecessor == Some(id))
            .map(|(id, _)| *id)
            .collect();
        waiting.into_iter().for_each(|id| self.enqueue(id));
    }

    /// Reading `id` failed: later again, and say so once.
    pub fn failed(&mut self, id: FileId, error: &io::Error, now: Instant) {
        let Some(file) = self.files.get_mut(&id) else {
            return;
        };
        let before = file.failure.take();
        let pause = match &before {
            Some(failure) if failure.kind == error.kind() => (failure.pause * 2).min(RETRY_MAX),
            _ => {
                error!(path = ?file.origin.path, file = %id, %error, "reading a log file failed; trying again");
                RETRY_FIRST
            }
        };
        file.failure = Some(Failure {
            kind: error.kind(),
            pause,
            until: now + pause,
        });
        // Nobody waits for a file that cannot be read.
        file.drained = true;
        self.release_successors(id);
    }

    /// The inode of `id` holds other bytes now: ends that generation and begins another one in the
    /// same open file.
    ///
    /// # Errors
    /// No random bytes for its id, or the file could not be read.
    pub fn begin_anew(&mut self, id: FileId, now: Instant) -> io::Result<()> {
        let new = FileId::random().map_err(io::Error::other)?;
        let Some(old) = self.files.get_mut(&id) else {
            return Ok(());
        };
        let Some(reader) = old.reader.take() else {
            return Ok(());
        };
        old.rotated.get_or_insert(now);
        old.superseded = true;
        old.drained = true;
        let link = old.link.take();
        let path = match &link {
            Some(link) => LogPath::from(link.as_path()),
            None => old.origin.path.clone(),
        };
        warn!(?path, old = %id, new = %new, "log file was truncated or written anew; reading it from the beginning");
        let tailed = Tailed {
            source: old.source,
            origin: Origin::new(&self.host, new, path),
            reader: Some(Reader::new(reader.into_file())),
            registration: Registration::Empty,
            begins: Mark::default(),
            epoch: 0,
            batched: 0,
            eof_batched: false,
            confirmed: Mark::default(),
            size_seen: 0,
            lost_from: None,
            ages: Ages::default(),
            identity: None,
            link: link.clone(),
            inode: old.inode,
            rotated: link.is_none().then_some(now),
            superseded: false,
            changed: now,
            predecessor: None,
            drained: false,
            queued: false,
            failure: None,
        };
        self.by_inode.insert(tailed.inode, new);
        if let Some(link) = link {
            self.by_link.insert(link, new);
        }
        self.files.insert(new, tailed);
        self.release_successors(id);
        self.register(new)?;
        self.enqueue(new);
        Ok(())
    }

    /// Takes note of durable marks, and lets go of what is done with.
    pub fn confirmed(&mut self, confirmed: &[Confirmed]) {
        for Confirmed {
            file: id,
            mark,
            eof,
        } in confirmed
        {
            let Some(file) = self.files.get_mut(id) else {
                continue;
            };
            file.confirmed = *mark;
            file.ages.confirmed(mark.offset);
            let done = *eof && file.eof_batched && mark.offset == file.batched && file.is_left();
            if done {
                self.let_go(*id);
            }
        }
    }

    /// Lets go of a file that was never more than a name.
    pub fn drop_if_empty(&mut self, id: FileId) {
        let empty = self.files.get(&id).is_some_and(|file| {
            file.registration == Registration::Empty && file.is_rotated() && file.link.is_none()
        });
        if empty {
            self.let_go(id);
        }
    }

    fn let_go(&mut self, id: FileId) {
        let Some(file) = self.files.get_mut(&id) else {
            return;
        };
        // Still under a name that matches: read on, should it ever grow.
        if file.link.is_some() && file.reader.is_some() {
            return;
        }
        let Some(file) = self.files.remove(&id) else {
            return;
        };
        if self.by_inode.get(&file.inode) == Some(&id) {
            self.by_inode.remove(&file.inode);
        }
        let status = file
            .reader
            .as_ref()
            .map(|reader| sys::status(reader.file()));
        let linked = matches!(status, Some(Ok(status)) if status.links > 0);
        match file.identity {
            // It may come back under a name that matches.
            Some(identity) if linked => {
                let source = Arc::clone(&self.sources[file.source].name);
                self.known.entry(file.inode).or_default().push(FileRecord {
                    id,
                    source,
                    path: file.origin.path.clone(),
                    identity,
                    begins: file.begins,
                    confirmed: file.confirmed,
                });
            }
            Some(_) => self.events.push(Event::Forget(id)),
            None => {}
        }
        info!(path = ?file.origin.path, file = %id, "log file let go");
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
        file.batched = rewind.to.offset;
        let found = match &mut file.reader {
            Some(reader) => reader.seek(rewind.to.max_by_offset(file.begins))?,
            None => false,
        };
        self.enqueue(rewind.file);
        Ok(found)
    }
}

/// Whether a file with several names belongs to whom its directory belongs to; otherwise somebody
/// may have linked another's file here to have it read.
fn owner_matches_directory(path: &Path, status: &FileStatus) -> bool {
    path.parent()
        .and_then(|directory| std::fs::metadata(directory).ok())
        .is_some_and(|directory| directory.uid() == status.owner)
}
