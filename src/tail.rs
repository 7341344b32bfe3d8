//! The watched set: which generation of which file is open, where it is called what, and which one
//! is to be read next. Makes one path look like one sequence of generations, the old one read to
//! its end before the new one.

pub mod archive;
pub mod descriptors;
pub mod discover;
mod forget;
pub mod identity;
mod ignored;
mod known;
mod packed;
mod passed;
pub mod reader;
pub mod report;
mod rotation;
pub mod watch;

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use crate::batch::Origin;
use crate::lines::Splitter;
use crate::model::{
    Confirmed, Epoch, FileId, FileRecord, Identity, LogPath, Mark, Rewind, Skipped,
};
use crate::sys::{self, FileStatus};
use archive::{Archive, Content};
use descriptors::{Limits, Turns};
use discover::{Found, Scan};
use identity::Growth;
use ignored::Ignored;
use known::{Known, Paths, Whereabouts};
use packed::{Examination, Met};
use passed::Passed;
use reader::{Reader, Scratch};
use report::Ages;
use rotation::{LeftAlone, Orphan, Twin, View};

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
    /// How its lines are found.
    pub splitter: Arc<Splitter>,
    /// Files that were not written to for so long when they are found are not read until they are
    /// written to again.
    pub ignore_older: Option<Duration>,
    /// How often its files are looked at, events or not.
    pub poll_interval: Duration,
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
    /// Why what lies before that is not delivered.
    pub begins_as: Skipped,
    /// Counts its rewinds.
    pub epoch: Epoch,
    /// Up to where it is in batches.
    pub batched: Mark,
    /// Its end is in a batch.
    pub eof_batched: bool,
    /// Places on the way there.
    passed: Passed,
    /// How far it is confirmed, durably.
    pub confirmed: Mark,
    /// How long it was when new bytes were last read of it.
    pub size_seen: u64,
    /// Its inode held another generation before.
    pub anew: bool,
    /// It begins with so many zeros at least, behind which nothing was found yet.
    pub zeros: u64,
    /// From here on its bytes were counted as lost.
    pub lost_from: Option<u64>,
    /// Why what cannot be read of it any more is lost.
    pub lost_as: Skipped,
    ages: Ages,
    identity: Option<Identity>,
    /// Its present name among those that match; nothing once it was renamed out of them or
    /// deleted.
    link: Option<PathBuf>,
    /// The part of that name in which links may be followed, and whether they may be everywhere.
    fixed: Option<(Arc<Path>, bool)>,
    inode: (u64, u64),
    born: Option<i64>,
    /// When it was opened.
    opened: Instant,
    /// To be closed as soon as what was read of it is confirmed: others wait for its descriptor.
    yields: bool,
    /// When it was found first, in nanoseconds since 1970.
    found: i64,
    /// When it lost the name that it was first matched under.
    rotated: Option<Instant>,
    /// Another generation has its path.
    superseded: bool,
    /// When it last had something new.
    changed: Instant,
    /// A copy of it that was made while it is still there: what copytruncate does before it
    /// truncates. Held open, lest it be gone when it is needed.
    copy: Option<(Found, Content)>,
    /// Its inode holds other bytes now. The rest may turn up in a copy.
    orphan: Option<Orphan>,
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
    /// A generation that was found now, of which nothing is known but where its bytes are.
    fn new(
        source: usize,
        origin: Origin,
        reader: Option<Reader>,
        inode: (u64, u64),
        now: Instant,
    ) -> Self {
        Self {
            source,
            origin,
            reader,
            registration: Registration::Empty,
            begins: Mark::default(),
            begins_as: Skipped::ReadFrom,
            epoch: 0,
            batched: Mark::default(),
            eof_batched: false,
            passed: Passed::default(),
            confirmed: Mark::default(),
            size_seen: 0,
            anew: false,
            zeros: 0,
            lost_from: None,
            lost_as: Skipped::Truncated,
            ages: Ages::default(),
            identity: None,
            link: None,
            fixed: None,
            inode,
            born: None,
            opened: now,
            yields: false,
            found: nanoseconds_since_1970(),
            rotated: None,
            superseded: false,
            changed: now,
            copy: None,
            orphan: None,
            predecessor: None,
            drained: false,
            queued: false,
            failure: None,
        }
    }

    /// What proves it: as it is known, or as it is if it was empty when it was last looked at.
    fn present_identity(&self) -> io::Result<Option<Identity>> {
        match (&self.identity, &self.reader) {
            (None, Some(reader)) => {
                let status = sys::status(reader.file())?;
                identity::identify(reader.file(), &status)
            }
            (identity, _) => Ok(*identity),
        }
    }

    /// Whether reading it failed a moment ago.
    fn is_put_off(&self, now: Instant) -> bool {
        let failure = self.failure.as_ref();
        failure.is_some_and(|failure| failure.until > now)
    }

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
        let elsewhere = self.link.as_deref() != Some(self.origin.path.as_path());
        self.superseded || elsewhere || self.archive().is_some()
    }

    /// Takes note of places in what was just taken into batches, the first `taken` bytes of what
    /// was unread.
    pub fn pass(&mut self, scratch: &Scratch, taken: usize) {
        loop {
            let at = self.passed.next().saturating_sub(scratch.offset());
            match usize::try_from(at) {
                Ok(at) if at <= taken => self.passed.pass(scratch.mark(at)),
                _ => return,
            }
        }
    }

    /// The compressed file that it is read from, if it is.
    fn archive(&self) -> Option<&Archive> {
        self.reader.as_ref()?.archive()
    }

    /// Whether it is read from a compressed file, in which there is no more.
    #[must_use]
    pub fn is_unpacked(&self) -> bool {
        let archive = self.archive();
        archive.is_some_and(|archive| archive.end() == Some(self.read_to()))
    }

    fn read_to(&self) -> u64 {
        let reader = self.reader.as_ref();
        reader.map_or(self.batched.offset, Reader::read_to)
    }
}

/// What became of files, for others to make durable or known.
#[derive(Debug)]
pub enum Event {
    /// A new generation: make its id durable.
    Register(FileRecord),
    /// A known generation goes on after this mark.
    Resumed(FileId, Mark),
    /// Its head proof covers more, or it lives in another inode now.
    Identified(FileId, Identity),
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
    by_path: HashMap<LogPath, Vec<FileId>>,
    /// Those that lost their name.
    rotated: HashSet<FileId>,
    /// Who waits for a generation to be read to its end.
    successors: HashMap<FileId, Vec<FileId>>,
    unfinished: Unfinished,
    /// What the state knows and is not open.
    known: Known,
    /// When the generations of each path were born: what is found under a rotation name and is
    /// younger was missed.
    paths: Paths,
    /// Inodes under rotation names of which nothing is wanted.
    left_alone: HashMap<(u64, u64), LeftAlone>,
    /// Inodes of files that were too old to be read when they were found.
    ignored: HashMap<(u64, u64), Ignored>,
    limits: Limits,
    turns: Turns,
    /// Inodes of files that were closed for want of descriptors, by the name that they have.
    closed: HashMap<PathBuf, (u64, u64)>,
    ready: VecDeque<FileId>,
    /// Generations that are gone, with what was known to be in them.
    vanished: Vec<(FileId, u64)>,
    /// Index of the source, and why not.
    refused: HashMap<PathBuf, (usize, String)>,
    /// Files under rotation names that hold what an open generation held, or the beginning of it.
    twins: HashMap<FileId, Twin>,
    /// Compressed files that are not ours, or not known to be.
    met: HashMap<(u64, u64), Met>,
    /// Those that are being looked into, one after the other.
    examinations: VecDeque<Examination>,
    /// Paths of which a compressed file may hold a generation: none is forgotten meanwhile.
    undecided: HashSet<LogPath>,
    /// The compressed file that was taken in last.
    last_packed: Option<FileId>,
    /// Compressed files that could not be unpacked, by source.
    damaged: Vec<u64>,
    events: Vec<Event>,
}

impl Tail {
    /// An empty set; `known` files go on where they were when they are found.
    #[must_use]
    pub fn new(host: Arc<str>, sources: Vec<Source>, known: Vec<FileRecord>) -> Self {
        let now = Instant::now();
        let mut paths = Paths::default();
        for record in &known {
            paths.hold(&record.path, record.found, now);
        }
        let names = sources.iter().map(|source| Arc::clone(&source.name));
        let known = Known::new(known, &names.collect(), now);
        let damaged = vec![0; sources.len()];
        Self {
            host,
            sources,
            files: HashMap::new(),
            by_inode: HashMap::new(),
            by_link: HashMap::new(),
            by_path: HashMap::new(),
            rotated: HashSet::new(),
            successors: HashMap::new(),
            unfinished: Unfinished::default(),
            known,
            paths,
            left_alone: HashMap::new(),
            ignored: HashMap::new(),
            limits: Limits::default(),
            turns: Turns::default(),
            closed: HashMap::new(),
            ready: VecDeque::new(),
            vanished: Vec::new(),
            refused: HashMap::new(),
            twins: HashMap::new(),
            met: HashMap::new(),
            examinations: VecDeque::new(),
            undecided: HashSet::new(),
            last_packed: None,
            damaged,
            events: Vec::new(),
        }
    }

    /// The same set, which holds no more than `limits` say.
    #[must_use]
    pub fn within(self, limits: Limits) -> Self {
        Self { limits, ..self }
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

    /// Bytes of unfinished lines that are held, and the file that holds most.
    #[must_use]
    pub fn unfinished(&self) -> (usize, Option<FileId>) {
        let largest = self.unfinished.by_size.last();
        (self.unfinished.sum, largest.map(|(_, id)| *id))
    }

    /// Takes note of how much of an unfinished line `id` holds now.
    pub fn note_unfinished(&mut self, id: FileId) {
        let reader = self.files.get(&id).and_then(|file| file.reader.as_ref());
        self.unfinished.set(id, reader.map_or(0, Reader::held));
    }

    /// Brings the set in line with what discovery saw.
    pub fn apply(&mut self, scan: &Scan, now: Instant) {
        let inode_at: HashMap<&Path, (u64, u64)> = scan
            .found
            .iter()
            .map(|found| (found.path.as_path(), found.inode))
            .collect();
        self.paths.forget_old(now);
        self.undecided.clear();
        let view = self.view(scan);
        let (mut rotated, matched): (Vec<&Found>, Vec<&Found>) = scan
            .found
            .iter()
            .partition(|found| found.rotated_from.is_some());
        self.turns.scan_begins();
        let mut waiting = Vec::new();
        for found in matched {
            if let Some(&id) = self.by_inode.get(&found.inode) {
                self.seen(id, found, &inode_at, now);
            } else if self.is_left_alone(found) || self.ignores(found, now) {
                // Nothing is wanted of it.
            } else if found.packed.is_some() {
                if !self.is_met(found) {
                    self.meet(found, &view, now);
                }
            } else if self.turns.any_waits() {
                // Who waits is not overtaken.
                waiting.push(found);
            } else {
                self.open(found, now);
            }
        }
        self.sort_by_turn(&mut waiting, now);
        waiting.into_iter().for_each(|found| self.open(found, now));
        // By now it is known which generations are where they were. The others are looked for
        // under rotation names, oldest first.
        rotated.sort_by_key(|found| (found.modified, Reverse(&found.path)));
        let mut older = HashMap::new();
        for found in rotated {
            if let Some(&id) = self.by_inode.get(&found.inode) {
                self.seen(id, found, &inode_at, now);
            } else if !self.follow_copy(found) && !self.is_done_with(found) {
                self.meet(found, &view, now);
                self.queue_up(found, &older);
            }
            if let Some(&id) = self.by_link.get(&found.path) {
                older.insert(found.rotated_from.as_deref(), id);
            }
        }
        for file in self.files.values_mut() {
            if let Some(orphan) = &mut file.orphan
                && scan.looked_for.contains(&file.source)
            {
                orphan.scans += 1;
            }
        }
        self.refused
            .retain(|path, _| inode_at.contains_key(path.as_path()));
        self.unlink_unseen(scan, &inode_at, now);
        self.miss_left_alone(scan);
        self.forget_met(scan);
        self.forget_ignored(scan);
        self.forget_due(scan, now);
        if self.turns.taken() {
            let there: HashSet<(u64, u64)> = scan.found.iter().map(|found| found.inode).collect();
            self.pass_turns_on(|inode| there.contains(inode), now);
        }
        for &index in &scan.looked_for {
            if std::mem::take(&mut self.sources[index].first_scan) {
                let name = Arc::clone(&self.sources[index].name);
                self.events.push(Event::Scanned(name));
            }
        }
    }

    /// A file was found of which it is to be told whose it is.
    fn meet(&mut self, found: &Found, view: &View<'_>, now: Instant) {
        match found.packed {
            Some(coding) => self.meet_packed(found, coding, now),
            None => self.open_rotated(found, view, now),
        }
    }

    /// A file that is open was seen.
    fn seen(
        &mut self,
        id: FileId,
        found: &Found,
        inode_at: &HashMap<&Path, (u64, u64)>,
        now: Instant,
    ) {
        self.named(id, &found.path, inode_at, now);
        let file = self.files.get(&id);
        if file.is_some_and(|file| file.is_put_off(now)) {
            return;
        }
        // The sooner a file that is not empty any more is known, the better.
        if let Err(error) = self.register(id) {
            self.failed(id, &error, now);
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
            self.rotated.remove(&id);
        } else {
            file.rotated.get_or_insert(now);
            self.rotated.insert(id);
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
        self.rotated.insert(old);
        let drained = file.drained || file.reader.is_none();
        self.enqueue(old);
        (!drained).then_some(old)
    }

    /// Opens a file that is not in the set, and takes it in.
    fn open(&mut self, found: &Found, now: Instant) {
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

    fn try_open(&mut self, found: &Found, now: Instant) -> Option<(File, FileStatus)> {
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
    fn refuse(&mut self, found: &Found, reason: &str) {
        let said = self.refused.get(&found.path);
        if said.is_none_or(|(_, before)| before != reason) {
            warn!(path = ?found.path, reason, "log file cannot be read");
            let refused = (found.source, reason.to_owned());
            self.refused.insert(found.path.clone(), refused);
        }
    }

    /// Takes an open file into the set, as the `known` generation that it proves to be, or as a new
    /// one of `path`.
    fn adopt(
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
            self.events.push(Event::Resumed(id, record.confirmed));
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

    /// The last generation of the same path that lost its name and is not read to its end yet.
    fn undrained_before(&self, id: FileId) -> Option<FileId> {
        let live = self.files.get(&id).filter(|file| file.rotated.is_none())?;
        let others = self.by_path.get(&live.origin.path)?.iter().rev();
        others.copied().find(|other| {
            let file = self.files.get(other);
            *other != id
                && file
                    .is_some_and(|file| file.is_rotated() && !file.drained && file.reader.is_some())
                && !self.waits_for(*other, id)
        })
    }

    /// Puts a generation into the set and its indexes.
    fn take_in(&mut self, id: FileId, file: Tailed, now: Instant) {
        let path = &file.origin.path;
        self.paths.hold(path, file.found, now);
        if let Some(record) = self.known.remove(id) {
            self.paths.release(&record.path, now);
        }
        self.by_path.entry(path.clone()).or_default().push(id);
        if file.reader.is_some() {
            self.by_inode.insert(file.inode, id);
            // What lay there is elsewhere, or gone.
            let left = self.left_alone.remove(&file.inode);
            if let Some(before) = left.and_then(|left| left.known) {
                self.known.miss(before, file.inode);
            }
            self.ignored.remove(&file.inode);
        }
        if file.rotated.is_some() {
            self.rotated.insert(id);
        }
        self.files.insert(id, file);
    }

    /// Takes a generation out of the set and its indexes.
    fn take_out(&mut self, id: FileId, now: Instant) -> Option<Tailed> {
        let file = self.files.remove(&id)?;
        if let Some(link) = &file.link
            && self.by_link.get(link) == Some(&id)
        {
            self.by_link.remove(link);
        }
        if self.by_inode.get(&file.inode) == Some(&id) {
            self.by_inode.remove(&file.inode);
        }
        if let Some(ids) = self.by_path.get_mut(&file.origin.path) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_path.remove(&file.origin.path);
            }
        }
        self.rotated.remove(&id);
        self.unfinished.set(id, 0);
        self.paths.release(&file.origin.path, now);
        self.release_successors(id);
        Some(file)
    }

    /// `id` waits until `older` is read to its end.
    fn wait_for(&mut self, id: FileId, older: FileId) {
        if let Some(file) = self.files.get_mut(&id) {
            file.predecessor = Some(older);
            self.successors.entry(older).or_default().push(id);
        }
    }

    /// The known generation that an open file proves to be.
    fn recognise(
        &self,
        path: &LogPath,
        file: &File,
        status: &FileStatus,
    ) -> io::Result<Option<FileRecord>> {
        // The others are generations that were truncated away; their copies may be near.
        for record in self.known.at_inode((status.dev, status.ino)) {
            if identity::proves(file, status, &record.identity, &record.confirmed)? {
                return Ok(Some(record.clone()));
            }
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
                self.rotated.insert(*id);
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
    pub fn hint(&mut self, paths: HashSet<PathBuf>, now: Instant) {
        let mut unknown = false;
        for path in paths {
            if let Some(&id) = self.by_link.get(&path) {
                self.enqueue(id);
            } else if let Some(inode) = self.closed.remove(&path) {
                let left = self.left_alone.get(&inode);
                if let Some(found) = left.and_then(|left| left.closed.clone()) {
                    self.open(&found, now);
                }
            } else {
                unknown = true;
            }
        }
        if unknown {
            // Perhaps somebody writes on through a descriptor of a renamed file.
            let rotated: Vec<FileId> = self.rotated.iter().copied().collect();
            rotated.into_iter().for_each(|id| self.enqueue(id));
        }
    }

    /// Looks at all files of a source.
    pub fn look_at_all(&mut self, source: usize) {
        let files = self.files.iter();
        let of_source = files.filter(|(_, file)| file.source == source);
        let ids: Vec<FileId> = of_source.map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.enqueue(id));
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
            let waits =
                file.is_put_off(now) || file.registration == Registration::Asked || file.yields;
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

    /// New bytes were read of `id`.
    pub fn has_more(&mut self, id: FileId, now: Instant) -> io::Result<()> {
        let Some(file) = self.files.get_mut(&id) else {
            return Ok(());
        };
        file.changed = now;
        let batched = file.batched;
        file.passed.pass(batched);
        if let Some(failure) = file.failure.take() {
            info!(path = ?file.origin.path, error = %failure.kind, "log file can be read again");
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

    fn release_successors(&mut self, id: FileId) {
        let waiting = self.successors.remove(&id).unwrap_or_default();
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
                if file.archive().is_some() {
                    self.damaged[file.source] += 1;
                }
                error!(path = ?file.origin.path, file = %id, %error, "reading a log file failed; trying again");
                RETRY_FIRST
            }
        };
        file.failure = Some(Failure {
            kind: error.kind(),
            pause,
            until: now + pause,
        });
        // What is damaged and deleted is never going to be whole.
        let never_whole = matches!(
            error.kind(),
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof
        );
        if never_whole && file.archive().is_some() && file.link.is_none() {
            file.lost_as = Skipped::Damaged;
            self.vanished.push((id, file.read_to()));
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
            file.confirmed = *mark;
            file.ages.confirmed(mark.offset);
            let done =
                *eof && file.eof_batched && mark.offset == file.batched.offset && file.is_left();
            if done && !self.has_grown(*id) {
                self.let_go(*id, now);
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
    fn record(&self, id: FileId, file: &Tailed) -> Option<FileRecord> {
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

/// Bytes of unfinished lines that are held, by file and by size.
#[derive(Debug, Default)]
struct Unfinished {
    by_file: HashMap<FileId, usize>,
    by_size: BTreeSet<(usize, FileId)>,
    sum: usize,
}

impl Unfinished {
    fn set(&mut self, id: FileId, bytes: usize) {
        let before = if bytes == 0 {
            self.by_file.remove(&id)
        } else {
            self.by_file.insert(id, bytes)
        };
        if before == Some(bytes) {
            return;
        }
        if let Some(before) = before {
            self.by_size.remove(&(before, id));
            self.sum -= before;
        }
        if bytes > 0 {
            self.by_size.insert((bytes, id));
            self.sum += bytes;
        }
    }
}

fn nanoseconds_since_1970() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_nanos()).ok())
        .unwrap_or_default()
}

/// Whether a file with several names belongs to whom its directory belongs to; otherwise somebody
/// may have linked another's file here to have it read.
#[must_use]
pub fn owner_matches_directory(path: &Path, status: &FileStatus) -> bool {
    path.parent()
        .and_then(|directory| std::fs::metadata(directory).ok())
        .is_some_and(|directory| directory.uid() == status.owner)
}
