//! The watched set: which generation of which file is open, where it is called what, and which one
//! is to be read next. Makes one path look like one sequence of generations, the old one read to
//! its end before the new one.

pub mod archive;
mod clock;
pub mod descriptors;
pub mod discover;
mod forget;
pub mod identity;
mod ignored;
mod inherited;
mod known;
mod names;
mod opening;
mod packed;
mod passed;
mod progress;
mod queue;
pub mod reader;
pub mod reload;
pub mod report;
mod rotation;
mod tailed;
mod unfinished;
pub mod watch;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::lines::Splitter;
use crate::model::{FileId, FileRecord, Identity, LogPath};
use clock::Clock;
use descriptors::{Limits, Turns};
use ignored::Ignored;
use known::{Known, Paths};
pub use opening::{Opened, open, owner_matches_directory};
use packed::{Examination, Met};
use reader::Reader;
use rotation::{LeftAlone, Twin};
pub use tailed::{Registration, Tailed};
use unfinished::Unfinished;

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

/// What became of files, for others to make durable or known.
#[derive(Debug)]
pub enum Event {
    /// A new generation: make its id durable.
    Register(FileRecord),
    /// A known generation goes on after this mark.
    Resumed(Arc<FileRecord>),
    /// Its head proof covers more, or it lives in another inode now.
    Identified(FileId, Identity),
    /// The generation is gone and confirmed to its end.
    Forget(FileId),
    /// The first scan of this source is done.
    Scanned(Arc<str>),
    /// Only a descriptor leads to it any more. This is one, for who can keep it over a crash.
    Unlinked(FileId, File),
    /// What was kept of it is not needed any more.
    Released(FileId),
}

/// The watched set of one lane.
#[derive(Debug)]
pub struct Tail {
    host: Arc<str>,
    sources: Vec<Source>,
    /// Indexes of sources that there are no more. They may come back.
    removed: HashSet<usize>,
    files: HashMap<FileId, Tailed>,
    by_inode: HashMap<(u64, u64), FileId>,
    by_link: HashMap<PathBuf, FileId>,
    by_path: HashMap<LogPath, Vec<FileId>>,
    /// Those that lost their name,
    rotated: HashSet<FileId>,
    /// and those that were told to have none at all.
    kept: HashSet<FileId>,
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
    clock: Clock,
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
            removed: HashSet::new(),
            files: HashMap::new(),
            by_inode: HashMap::new(),
            by_link: HashMap::new(),
            by_path: HashMap::new(),
            rotated: HashSet::new(),
            kept: HashSet::new(),
            successors: HashMap::new(),
            unfinished: Unfinished::default(),
            known,
            paths,
            left_alone: HashMap::new(),
            ignored: HashMap::new(),
            limits: Limits::default(),
            clock: Clock::default(),
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

    /// The same set, by another clock on the wall than the system's.
    #[cfg(test)]
    #[must_use]
    pub fn by_clock(
        self,
        wall: impl Fn() -> std::time::SystemTime + Send + Sync + 'static,
    ) -> Self {
        let clock = Clock::new(wall);
        Self { clock, ..self }
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

    /// Puts a generation into the set and its indexes.
    fn take_in(&mut self, id: FileId, file: Tailed, now: Instant) {
        let path = &file.origin.path;
        self.paths.hold(path, file.found, now);
        if let Some(record) = self.known.remove(id) {
            self.paths.release(&record.path, now);
        }
        self.by_path.entry(path.clone()).or_default().push(id);
        if file.reader.is_some() {
            self.occupy(file.inode, id);
        }
        if file.rotated.is_some() {
            self.rotated.insert(id);
        }
        self.files.insert(id, file);
    }

    /// A generation has its bytes in this inode from now on. What lay there is elsewhere, or gone.
    fn occupy(&mut self, inode: (u64, u64), id: FileId) {
        self.by_inode.insert(inode, id);
        let left = self.left_alone.remove(&inode);
        if let Some(before) = left.and_then(|left| left.known) {
            self.known.miss(before, inode);
        }
        self.ignored.remove(&inode);
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
}
