//! Discovery: which files match, looked up again and again on a thread of its own. Opens nothing
//! and remembers nothing: each scan is the whole truth, and events only make the next one sooner.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use globset::{GlobBuilder, GlobMatcher};
use tracing::{info, warn};
use walkdir::{DirEntry, WalkDir};

use super::watch::Watches;
use crate::model::Coding;
use crate::sys::FileStatus;
use crate::telemetry::progress;

/// So long a path is remembered under which nothing is found any more, not even a rotated file.
const HAD_FOR: Duration = Duration::from_secs(3600);
/// Without any source nothing is looked for; the time to notice that nobody is left.
const IDLE: Duration = Duration::from_secs(60);
/// So often those that are too old are looked for: there may be very many.
const SWEEP: Duration = Duration::from_secs(60);

/// Where links are followed, a directory is looked into under so many names: hostile ones could have
/// more of them than there are atoms.
const NAMES_MAX: usize = 16;

/// A glob of `include` or `exclude`.
#[derive(Clone)]
pub struct Pattern {
    /// The directory above the first component with a wildcard: the operator's own words, so links
    /// in it are followed.
    fixed: Arc<Path>,
    matcher: GlobMatcher,
    /// Components below `fixed`; nothing when `**` allows any number.
    depth: Option<usize>,
}

impl std::fmt::Debug for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.matcher.glob().glob())
    }
}

impl Pattern {
    /// Parses a glob. A relative one stands below the current directory.
    ///
    /// # Errors
    /// The glob's syntax is wrong, or there is no current directory.
    pub fn parse(glob: &str) -> Result<Self, PatternError> {
        if glob.is_empty() {
            return Err(PatternError::Empty);
        }
        let absolute = std::path::absolute(glob).map_err(PatternError::Relative)?;
        let text = absolute.to_str().ok_or(PatternError::Empty)?;
        let matcher = GlobBuilder::new(text)
            .literal_separator(true)
            .build()?
            .compile_matcher();
        let components: Vec<Component<'_>> = absolute.components().collect();
        let wild = |component: &Component<'_>| {
            component
                .as_os_str()
                .as_encoded_bytes()
                .iter()
                .any(|byte| b"*?[{\\".contains(byte))
        };
        let first = components
            .iter()
            .position(wild)
            .unwrap_or(components.len().saturating_sub(1));
        let fixed: PathBuf = components[..first].iter().collect();
        if fixed.as_os_str().is_empty() {
            return Err(PatternError::Empty);
        }
        let depth = (!text.contains("**")).then_some(components.len() - first);
        Ok(Self {
            fixed: fixed.into(),
            matcher,
            depth,
        })
    }

    /// The directory below which files are looked for.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.fixed
    }

    /// The glob, made absolute.
    #[must_use]
    pub fn glob(&self) -> &str {
        self.matcher.glob().glob()
    }
}

/// A glob that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PatternError {
    /// Its syntax.
    #[error("{}", .0.kind())]
    Glob(#[from] globset::Error),
    /// It names no file.
    #[error("names no file")]
    Empty,
    /// It is relative, and to nothing.
    #[error("relative, but the current directory is not known: {0}")]
    Relative(std::io::Error),
}

/// The patterns of one source.
#[derive(Clone, Debug)]
pub struct Selection {
    /// A file must match one of these,
    pub include: Vec<Pattern>,
    /// and none of these.
    pub exclude: Vec<Pattern>,
    /// Compressed files are read too, uncompressed.
    pub compressed: bool,
    /// Symbolic links are followed also where the operator did not write them out.
    pub follow_links: bool,
}

/// A file that matches.
#[derive(Clone, Debug)]
pub struct Found {
    /// Index of the source that it belongs to: the first that matches it.
    pub source: usize,
    /// A pattern matches it. Otherwise it is here for its rotation name alone.
    pub matched: bool,
    /// How it is compressed, by its name.
    pub packed: Option<Coding>,
    /// The path that it was rotated from by its name, if that path was ever matched.
    pub rotated_from: Option<PathBuf>,
    /// Its present name.
    pub path: PathBuf,
    /// The part of it in which links may be followed,
    pub fixed: Arc<Path>,
    /// unless they may be everywhere.
    pub follow_links: bool,
    /// Device and inode number when it was seen.
    pub inode: (u64, u64),
    /// Its bytes then.
    pub size: u64,
    /// When it was last written to, in nanoseconds since 1970.
    pub modified: i128,
}

impl Found {
    /// Its name without what says that it is compressed.
    #[must_use]
    pub fn unpacked_path(&self) -> PathBuf {
        unpacked(&self.path).map_or_else(|| self.path.clone(), |(path, _)| path)
    }

    /// Size and time of change: as long as they stay, so does the file.
    #[must_use]
    pub fn version(&self) -> (u64, i128) {
        (self.size, self.modified)
    }

    /// Whether an open file has the size and the time of change that were seen.
    #[must_use]
    pub fn is_as_it_was(&self, status: &FileStatus) -> bool {
        self.version() == (status.size, i128::from(status.modified))
    }
}

/// All that matched at one time.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// Indexes of the sources that were looked for now. What stands here of the others was found
    /// before.
    pub looked_for: Vec<usize>,
    /// The files, in the order of sources and patterns.
    pub found: Vec<Found>,
    /// Directories that could not be read: about what lies below, this scan says nothing.
    pub unseen: Vec<PathBuf>,
    /// Every directory that was looked into.
    pub directories: HashSet<PathBuf>,
    /// How often it was told anew what to look for, before this scan began.
    pub reload: u64,
}

impl Selection {
    /// Whether a file with this name belongs to it, as far as the name tells.
    #[must_use]
    pub fn has(&self, path: &Path) -> bool {
        let matches = |pattern: &Pattern| pattern.matcher.is_match(path);
        self.include.iter().any(matches)
            && !self.exclude.iter().any(matches)
            && (self.compressed || unpacked(path).is_none())
    }
}

impl Scan {
    /// Whether it says nothing about `path`.
    #[must_use]
    pub fn is_blind_to(&self, path: &Path) -> bool {
        self.unseen.iter().any(|unseen| path.starts_with(unseen))
    }
}

/// What is remembered from scan to scan.
#[derive(Debug, Default)]
pub struct Memory {
    /// Paths that were matched before, and when last: their rotation names are looked for.
    had: HashMap<PathBuf, Instant>,
    /// When the old ones among them were forgotten last.
    swept: Option<Instant>,
    notices: Notices,
}

impl Memory {
    /// With the paths that the agent has had in earlier runs.
    #[must_use]
    pub fn new(had: HashSet<PathBuf>) -> Self {
        let now = Instant::now();
        Self {
            had: had.into_iter().map(|path| (path, now)).collect(),
            ..Self::default()
        }
    }

    /// Nothing remembered, and nothing logged: for a single look.
    #[must_use]
    pub fn silent() -> Self {
        Self {
            notices: Notices::silent(),
            ..Self::default()
        }
    }

    /// What was passed over at the last scan, and why.
    #[must_use]
    pub fn notices(&self) -> &Notices {
        &self.notices
    }

    /// The path that a file was rotated from, by its name: `NAME.N` or `NAME-DATE`, also with
    /// `.gz` or `.zst`.
    fn rotated_from(&self, path: &Path) -> Option<PathBuf> {
        if let Some((path, _)) = unpacked(path) {
            let rotated_from = self.rotated_from(&path);
            return rotated_from.or_else(|| self.had.contains_key(&path).then_some(path));
        }
        let name = path.file_name()?.as_bytes();
        let digits = name
            .iter()
            .rposition(|byte| !byte.is_ascii_digit() && !b".-_:T".contains(byte))
            .map_or(0, |at| at + 1);
        // Behind the last letter: `.1`, `-20261122`, `.2026-11-22-13`, or `3.log` with no base.
        (digits..name.len())
            .filter(|&at| b".-".contains(&name[at]))
            .filter(|&at| name.get(at + 1).is_some_and(u8::is_ascii_digit))
            .map(|at| path.with_file_name(OsStr::from_bytes(&name[..at])))
            .find(|base| self.had.contains_key(base))
    }

    /// Keeps the paths that were matched, and for an hour those of which nothing is there any more.
    fn remember(&mut self, scan: &Scan) {
        let now = Instant::now();
        for found in &scan.found {
            if found.matched {
                self.had.insert(found.unpacked_path(), now);
            }
            let base = found.rotated_from.as_ref();
            if let Some(seen) = base.and_then(|base| self.had.get_mut(base)) {
                *seen = now;
            }
        }
        if self.swept.is_none_or(|swept| now - swept >= SWEEP) {
            self.swept = Some(now);
            let recent = |seen: &Instant| now.duration_since(*seen) < HAD_FOR;
            self.had
                .retain(|path, seen| recent(seen) || scan.is_blind_to(path));
        }
    }
}

/// Looks once.
#[must_use]
pub fn scan(sources: &[Selection], memory: &mut Memory) -> Scan {
    let parts = sources.iter().enumerate();
    let parts = parts.map(|(source, selection)| look(source, selection, memory));
    let scan = merged(parts.collect());
    memory.remember(&scan);
    scan
}

/// What each source found, put together: a file belongs to the first that has it.
fn merged(parts: Vec<Scan>) -> Scan {
    let mut scan = Scan::default();
    let mut seen = HashSet::new();
    let alone = parts.len() == 1;
    for part in parts {
        scan.looked_for.extend(part.looked_for);
        scan.unseen.extend(part.unseen);
        scan.directories.extend(part.directories);
        if alone {
            scan.found = part.found;
        } else {
            let new = |found: &Found| seen.insert(found.path.clone());
            scan.found.extend(part.found.into_iter().filter(new));
        }
    }
    scan
}

/// What one source finds.
fn look(source: usize, selection: &Selection, memory: &mut Memory) -> Scan {
    let mut scan = Scan {
        looked_for: vec![source],
        ..Scan::default()
    };
    let mut seen = HashSet::new();
    for pattern in &selection.include {
        let mut look = Look {
            source,
            selection,
            pattern,
            scan: &mut scan,
            seen: &mut seen,
            memory,
            names: HashMap::new(),
        };
        look.walk();
    }
    memory.notices.close(source);
    scan
}

/// One look for the files of one pattern.
struct Look<'a> {
    source: usize,
    selection: &'a Selection,
    pattern: &'a Pattern,
    scan: &'a mut Scan,
    seen: &'a mut HashSet<PathBuf>,
    memory: &'a mut Memory,
    /// Under how many names each directory was looked into, where links are followed.
    names: HashMap<(u64, u64), usize>,
}

impl Look<'_> {
    fn walk(&mut self) {
        let mut walk = WalkDir::new(&self.pattern.fixed)
            .min_depth(1)
            .follow_links(self.selection.follow_links)
            .sort_by_file_name();
        if let Some(depth) = self.pattern.depth {
            walk = walk.max_depth(depth);
        }
        let fixed = self.pattern.fixed.to_path_buf();
        self.scan.directories.insert(fixed);
        let mut walk = walk.into_iter();
        while let Some(entry) = progress::call(|| walk.next()) {
            progress::step();
            match entry {
                Ok(entry) if entry.file_type().is_dir() => {
                    if !self.directory(entry) {
                        walk.skip_current_dir();
                    }
                }
                Ok(entry) => self.file(entry),
                Err(error) => self.unseen(&error),
            }
        }
    }

    /// Whether to look into a directory.
    fn directory(&mut self, entry: DirEntry) -> bool {
        if self
            .pattern
            .depth
            .is_some_and(|depth| entry.depth() >= depth)
        {
            return true;
        }
        if self.selection.follow_links
            && let Ok(metadata) = entry.metadata()
        {
            let inode = (metadata.dev(), metadata.ino());
            let names = self.names.entry(inode).or_default();
            *names += 1;
            if *names > NAMES_MAX {
                self.say(entry.path(), "directory with too many names, not followed");
                return false;
            }
        }
        self.scan.directories.insert(entry.into_path());
        true
    }

    fn file(&mut self, entry: DirEntry) {
        let matched = self.pattern.matcher.is_match(entry.path());
        let rotated_from = self.memory.rotated_from(entry.path());
        let packed = unpacked(entry.path()).map(|(_, coding)| coding);
        if packed.is_some() && !self.selection.compressed {
            return;
        }
        let excluded = |exclude: &Pattern| exclude.matcher.is_match(entry.path());
        if (!matched && rotated_from.is_none())
            || self.selection.exclude.iter().any(excluded)
            || self.seen.contains(entry.path())
        {
            return;
        }
        if let Some(what) = not_unpacked(entry.path()) {
            if self.selection.compressed {
                self.say(entry.path(), what);
            }
            return;
        }
        let metadata = match progress::call(|| entry.metadata()) {
            Ok(metadata) => metadata,
            Err(error) => {
                // A file that vanished meanwhile is as good as one that was never there.
                if !is_absent(&error) {
                    self.say(entry.path(), "cannot be reached");
                }
                return;
            }
        };
        if let Some(kind) = not_readable_as_log(&metadata) {
            self.say(entry.path(), kind);
            return;
        }
        let path = entry.into_path();
        self.seen.insert(path.clone());
        self.scan.found.push(Found {
            source: self.source,
            matched,
            packed,
            rotated_from,
            path,
            fixed: Arc::clone(&self.pattern.fixed),
            follow_links: self.selection.follow_links,
            inode: (metadata.dev(), metadata.ino()),
            size: metadata.len(),
            modified: i128::from(metadata.mtime()) * 1_000_000_000
                + i128::from(metadata.mtime_nsec()),
        });
    }

    fn unseen(&mut self, error: &walkdir::Error) {
        let Some(path) = error.path() else { return };
        if error.loop_ancestor().is_some() {
            self.say(path, "symbolic link to a directory above it, not followed");
        } else if !is_absent(error) {
            error.io_error().into_iter().for_each(progress::failed);
            self.say(path, "directory cannot be read");
            self.scan.unseen.push(path.to_path_buf());
        }
    }

    fn say(&mut self, path: &Path, what: &'static str) {
        self.memory.notices.say(self.source, path, what);
    }
}

/// The name of a compressed file without what says so, and how it is compressed.
fn unpacked(path: &Path) -> Option<(PathBuf, Coding)> {
    let name = path.file_name()?.as_bytes();
    let codings = [(&b".gz"[..], Coding::Gzip), (b".zst", Coding::Zstd)];
    codings.into_iter().find_map(|(suffix, coding)| {
        let rest = name.strip_suffix(suffix)?;
        (!rest.is_empty()).then(|| (path.with_file_name(OsStr::from_bytes(rest)), coding))
    })
}

/// What to say of a file that is compressed in a way which is not read.
fn not_unpacked(path: &Path) -> Option<&'static str> {
    match path.extension()?.as_bytes() {
        b"xz" => Some("compressed with xz, which is not read; gzip and zstd are"),
        b"bz2" => Some("compressed with bzip2, which is not read; gzip and zstd are"),
        _ => None,
    }
}

fn is_absent(error: &walkdir::Error) -> bool {
    error
        .io_error()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

fn not_readable_as_log(metadata: &Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    if kind.is_file() {
        None
    } else if kind.is_symlink() {
        Some("symbolic link, not followed")
    } else if kind.is_fifo() {
        Some("named pipe, not read")
    } else if kind.is_socket() {
        Some("socket, not read")
    } else {
        Some("device, not read")
    }
}

/// What was said about which path, so that it is said once and again only after it changed.
#[derive(Debug, Default)]
pub struct Notices {
    silent: bool,
    /// By index of the source.
    said: BTreeMap<usize, HashSet<Notice>>,
    now: HashSet<Notice>,
}

/// A path, and why it was passed over.
type Notice = (PathBuf, &'static str);

impl Notices {
    /// Notices that are kept and not logged.
    #[must_use]
    pub fn silent() -> Self {
        Self {
            silent: true,
            ..Self::default()
        }
    }

    /// What the last scan passed over, and why, in the order of the paths.
    #[must_use]
    pub fn passed_over(&self) -> Vec<(&Path, &'static str)> {
        let said = self.said.values().flatten();
        let mut notices: Vec<_> = said.map(|(path, what)| (&**path, *what)).collect();
        notices.sort_unstable();
        notices.dedup();
        notices
    }

    fn say(&mut self, source: usize, path: &Path, what: &'static str) {
        let notice = (path.to_path_buf(), what);
        let said = self.said.get(&source);
        let is_new = said.is_none_or(|said| !said.contains(&notice)) && !self.now.contains(&notice);
        if !self.silent && is_new {
            warn!(path = ?path, reason = what, "path passed over");
        }
        self.now.insert(notice);
    }

    /// The look for the files of `source` is over.
    fn close(&mut self, source: usize) {
        self.said.insert(source, std::mem::take(&mut self.now));
    }
}

/// What discovery is told.
#[derive(Debug)]
enum Call {
    /// Something happened: scan soon.
    Wake,
    /// Look for these from now on; the scans bear this number.
    Reload(u64, Vec<Sought>),
}

/// A source, as far as its files are looked for.
#[derive(Clone, Debug)]
pub struct Sought {
    /// Its index in what is found.
    pub source: usize,
    /// Which files.
    pub selection: Selection,
    /// At least so often.
    pub interval: Duration,
}

/// Ends discovery when dropped, and asks for a scan before its time.
#[derive(Clone, Debug)]
pub struct Waker {
    sender: Sender<Call>,
    pending: Arc<AtomicBool>,
}

impl Waker {
    /// Asks for a scan soon. Many requests before it are one.
    pub fn wake(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            // Nobody listens any more: discovery has ended, and nobody needs a scan.
            let _ = self.sender.send(Call::Wake);
        }
    }

    /// Asks to look for these from now on, in this order; scans from then on bear `reload`.
    pub fn reload(&self, reload: u64, sources: Vec<Sought>) {
        // Nobody listens any more, as above.
        let _ = self.sender.send(Call::Reload(reload, sources));
    }
}

/// A source, and how often it is looked for.
#[derive(Debug)]
struct Looked {
    sought: Sought,
    next: Instant,
    /// What the last look found.
    part: Scan,
}

/// The discovery thread's own state.
#[derive(Debug)]
pub struct Discovery {
    /// A file belongs to the first that matches it.
    sources: Vec<Looked>,
    reload: u64,
    memory: Memory,
    calls: Receiver<Call>,
    pending: Arc<AtomicBool>,
}

impl Discovery {
    /// A discovery of `sources`, each at least every so often, and the handle that hurries it.
    #[must_use]
    pub fn new(sources: Vec<Sought>, memory: Memory) -> (Self, Waker) {
        let (sender, calls) = channel();
        let pending = Arc::new(AtomicBool::new(false));
        let mut discovery = Self {
            sources: Vec::new(),
            reload: 0,
            memory,
            calls,
            pending: Arc::clone(&pending),
        };
        discovery.look_for(sources);
        (discovery, Waker { sender, pending })
    }

    fn look_for(&mut self, sources: Vec<Sought>) {
        let now = Instant::now();
        let looked = |sought| Looked {
            sought,
            next: now,
            part: Scan::default(),
        };
        self.sources = sources.into_iter().map(looked).collect();
    }

    /// Scans until `deliver` says that nobody wants scans any more.
    pub fn run(mut self, mut watches: Watches, deliver: impl Fn(Scan) -> bool) {
        loop {
            let woken = self.pending.swap(false, Ordering::AcqRel);
            let begun = Instant::now();
            if let Some(scan) = self.scan(woken, begun) {
                // A directory that is new to the watches was read before it was watched: look
                // again.
                let now = Instant::now();
                if progress::call(|| watches.follow(&scan.directories, now)) {
                    self.pending.store(true, Ordering::Release);
                }
                if !deliver(scan) {
                    info!("discovery ended");
                    return;
                }
            }
            // Whatever comes in, four fifths of the time are left to others.
            let rest = (begun.elapsed() * 4).max(Duration::from_millis(20));
            let hurried = self.pending.load(Ordering::Acquire);
            let due = self.sources.iter().map(|source| source.next).min();
            let idle = due.map_or(IDLE, |due| due.saturating_duration_since(Instant::now()));
            if !hurried && self.waited(idle).is_err() {
                return;
            }
            // A burst of events becomes one scan.
            let until = Instant::now() + rest;
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                match self.waited(left) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(Ended) => return,
                }
            }
        }
    }

    /// Looks for the sources whose time has come, or for all of them when something has happened.
    fn scan(&mut self, all: bool, now: Instant) -> Option<Scan> {
        let mut any = self.sources.is_empty();
        for source in &mut self.sources {
            source.part.looked_for.clear();
            if all || source.next <= now {
                any = true;
                let sought = &source.sought;
                source.part = look(sought.source, &sought.selection, &mut self.memory);
                source.next = now + sought.interval;
            }
        }
        if !any {
            return None;
        }
        let mut scan = match &mut self.sources[..] {
            // Nobody needs it again.
            [only] => std::mem::take(&mut only.part),
            sources => merged(sources.iter().map(|source| source.part.clone()).collect()),
        };
        self.memory.remember(&scan);
        scan.reload = self.reload;
        Some(scan)
    }

    /// Waits for a call, at most `at_most`. Whether one came.
    fn waited(&mut self, at_most: Duration) -> Result<bool, Ended> {
        match progress::wait(|| self.calls.recv_timeout(at_most)) {
            Ok(Call::Wake) => Ok(true),
            Ok(Call::Reload(reload, sources)) => {
                self.reload = reload;
                self.look_for(sources);
                // A scan is due, of everything.
                self.pending.store(true, Ordering::Release);
                Ok(true)
            }
            Err(RecvTimeoutError::Timeout) => Ok(false),
            Err(RecvTimeoutError::Disconnected) => Err(Ended),
        }
    }
}

/// Nobody is left who could wake discovery.
struct Ended;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn found(directory: &Path, include: &[&str], exclude: &[&str]) -> Vec<String> {
        let patterns = |globs: &[&str]| -> Vec<Pattern> {
            globs
                .iter()
                .map(|glob| Pattern::parse(directory.join(glob).to_str().expect("UTF-8")))
                .collect::<Result<_, _>>()
                .expect("valid globs")
        };
        let selection = Selection {
            include: patterns(include),
            exclude: patterns(exclude),
            compressed: true,
            follow_links: false,
        };
        let scan = scan(&[selection], &mut Memory::default());
        let below = |found: &Found| {
            let path = found.path.strip_prefix(directory).expect("below");
            path.to_string_lossy().into_owned()
        };
        scan.found.iter().map(below).collect()
    }

    #[test]
    fn globs_match_as_their_users_expect() {
        let directory = tempfile::tempdir().expect("a directory");
        for path in [
            "a.log",
            "b.log",
            "b.txt",
            "x/c.log",
            "x/y/d.log",
            "x/0.d/e.log",
        ] {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("created");
            fs::write(path, "x\n").expect("written");
        }
        let found = |include: &[&str], exclude: &[&str]| found(directory.path(), include, exclude);
        assert_eq!(found(&["*.log"], &[]), ["a.log", "b.log"]);
        assert_eq!(found(&["?.log", "*.log"], &["b*"]), ["a.log"]);
        assert_eq!(
            found(&["**/*.log"], &["x/y/**"]),
            ["a.log", "b.log", "x/0.d/e.log", "x/c.log"]
        );
        assert_eq!(found(&["x/*/d.log"], &[]), ["x/y/d.log"]);
        assert_eq!(
            found(&["{a,b}.{log,txt}"], &[]),
            ["a.log", "b.log", "b.txt"]
        );
        assert_eq!(found(&["x/[0-1].d/*"], &[]), ["x/0.d/e.log"]);
        assert_eq!(found(&["x/c.log"], &[]), ["x/c.log"]);
        // Matched twice, found once; and slashes count once.
        assert_eq!(found(&["**/a.log", "a*", "*.log"], &["b*"]), ["a.log"]);
        assert_eq!(found(&["x//*.log"], &["x///y//**"]), ["x/c.log"]);
        assert_eq!(found(&["**/*.log"], &["x///**"]), ["a.log", "b.log"]);
        assert_eq!(found(&["nowhere/*.log"], &[]), [""; 0]);
    }

    #[test]
    fn rotation_names_belong_to_paths_that_were_matched_before() {
        let memory = Memory::new(["/l/a.log", "/l/b"].map(PathBuf::from).into());
        let from = |path: &str| memory.rotated_from(Path::new(path));
        let a = Some(PathBuf::from("/l/a.log"));
        for name in [
            "a.log.1",
            "a.log.12",
            "a.log-20261122",
            "a.log.2026-11-22",
            "a.log-2026112213.1",
        ] {
            assert_eq!(from(&format!("/l/{name}")), a, "{name}");
        }
        assert_eq!(from("/l/b-2"), Some(PathBuf::from("/l/b")));
        for name in [
            "a.log",
            "a.log.old",
            "a.log.1.bak",
            "c.log.1",
            "a.log.",
            "a.log1",
            "x/a.log.1",
        ] {
            assert_eq!(from(&format!("/l/{name}")), None, "{name}");
        }
    }

    #[test]
    fn links_and_special_files_are_passed_over() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("real")).expect("created");
        fs::write(path("real/a.log"), "x\n").expect("written");
        std::os::unix::fs::symlink(path("real"), path("linked")).expect("linked");
        std::os::unix::fs::symlink(path("real/a.log"), path("l.log")).expect("linked");
        let _socket = std::os::unix::net::UnixListener::bind(path("s.log")).expect("bound");
        fs::create_dir(path("d.log")).expect("created");
        assert_eq!(found(directory.path(), &["**/*.log"], &[]), ["real/a.log"]);
        // What the operator wrote out is followed.
        assert_eq!(
            found(directory.path(), &["linked/*.log"], &[]),
            ["linked/a.log"]
        );
    }

    #[test]
    fn each_source_is_looked_for_at_its_own_pace_and_what_was_found_before_stands_until_then() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        let selection = |glob: &str| Selection {
            compressed: true,
            include: vec![Pattern::parse(path(glob).to_str().expect("UTF-8")).expect("a glob")],
            exclude: vec![],
            follow_links: false,
        };
        let seconds = Duration::from_secs;
        let (mut discovery, _waker) = Discovery::new(
            vec![
                Sought {
                    source: 0,
                    selection: selection("a*.log"),
                    interval: seconds(1),
                },
                Sought {
                    source: 1,
                    selection: selection("*.log"),
                    interval: seconds(60),
                },
            ],
            Memory::default(),
        );
        let begun = Instant::now();
        let mut found = |all: bool, at: u64| {
            let scan = discovery.scan(all, begun + seconds(at))?;
            let name = |found: &Found| found.path.file_name().map(OsStr::to_os_string);
            let names: Vec<_> = scan.found.iter().filter_map(name).collect();
            Some((scan.looked_for, names))
        };
        let names = |names: &[&str]| {
            names
                .iter()
                .map(std::ffi::OsString::from)
                .collect::<Vec<_>>()
        };
        fs::write(path("a1.log"), "").expect("written");
        fs::write(path("b1.log"), "").expect("written");
        assert_eq!(
            found(false, 0),
            Some((vec![0, 1], names(&["a1.log", "b1.log"])))
        );
        assert_eq!(found(false, 0), None, "nothing is due");
        fs::write(path("a2.log"), "").expect("written");
        fs::write(path("b2.log"), "").expect("written");
        fs::remove_file(path("b1.log")).expect("removed");
        let early = names(&["a1.log", "a2.log", "b1.log"]);
        assert_eq!(found(false, 2), Some((vec![0], early)));
        let late = names(&["a1.log", "a2.log", "b2.log"]);
        assert_eq!(found(true, 3), Some((vec![0, 1], late)), "an event");
    }
}
