//! Watches: the kernel's events about directories, as hints to look sooner. Misses are harmless.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tracing::{debug, info, warn};

use crate::telemetry::spell::Burst;

/// A pause before directories that could not be watched are tried again.
const RETRY: Duration = Duration::from_secs(10);
/// So many different paths are remembered between two looks; beyond, all files are looked at.
const HINTS_MAX: usize = 4096;

/// Paths that were written to since the last look, gathered by the events' thread.
#[derive(Clone, Debug, Default)]
pub struct Hints(Arc<Mutex<HashSet<PathBuf>>>);

impl Hints {
    /// Adds a path. True when it is the first since the last [`Hints::take`].
    fn add(&self, path: PathBuf) -> bool {
        let mut paths = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = paths.is_empty();
        if paths.len() < HINTS_MAX {
            paths.insert(path);
        }
        first
    }

    /// Takes all paths.
    #[must_use]
    pub fn take(&self) -> HashSet<PathBuf> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What is done with an event.
type Handler = Arc<dyn Fn(notify::Result<notify::Event>) + Send + Sync>;

/// The directories that are watched.
pub struct Watches {
    handler: Handler,
    watcher: Option<RecommendedWatcher>,
    watched: HashSet<PathBuf>,
    /// Something cannot be watched: said, and not tried again before this time.
    failing: Option<Instant>,
}

impl Watches {
    /// No directory yet. `written` is called when files were written to, `moved` when names came,
    /// went or changed.
    #[must_use]
    pub fn new(
        hints: Hints,
        written: impl Fn() + Send + Sync + 'static,
        moved: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let dropped = Mutex::new(Burst::default());
        let handler = move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else {
                moved();
                return;
            };
            match event.kind {
                EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Any) => {
                    let mut first = false;
                    for path in event.paths {
                        first |= hints.add(path);
                    }
                    if first {
                        written();
                    }
                }
                EventKind::Access(_) | EventKind::Modify(ModifyKind::Metadata(_)) => {}
                _ => moved(),
            }
            if event.attrs.flag() == Some(notify::event::Flag::Rescan) {
                let mut dropped = dropped.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(times) = dropped.met(Instant::now()) {
                    warn!(times, "file system events were dropped; scanning instead");
                }
            }
        };
        Self {
            handler: Arc::new(handler),
            watcher: None,
            watched: HashSet::new(),
            failing: None,
        }
    }

    /// Watches just these directories. True if one of them is watched from now on only.
    pub fn follow(&mut self, directories: &HashSet<PathBuf>, now: Instant) -> bool {
        if let Some(watcher) = &mut self.watcher {
            self.watched.retain(|path| {
                let wanted = directories.contains(path);
                if !wanted {
                    // It is gone, and its watch with it, or it is watched in vain until it is gone.
                    let _ = watcher.unwatch(path);
                }
                wanted
            });
        }
        if self.failing.is_some_and(|again| now < again) {
            return false;
        }
        let new = directories
            .iter()
            .filter(|path| !self.watched.contains(*path));
        let mut new: Vec<&PathBuf> = new.collect();
        // Those above before those below, so that with few watches they are well used.
        new.sort_unstable();
        let before = self.watched.len();
        match new.into_iter().try_for_each(|path| self.watch(path)) {
            Ok(()) => {
                if self.failing.take().is_some() {
                    info!("every directory is watched now");
                }
            }
            Err(error) => {
                if self.failing.is_none() {
                    warn!(%error, watched = self.watched.len(), "no file system events for some directories; their files are looked at every poll_interval");
                }
                self.failing = Some(now + RETRY);
            }
        }
        self.watched.len() > before
    }

    /// Watches one more directory.
    fn watch(&mut self, path: &Path) -> notify::Result<()> {
        let watcher = match &mut self.watcher {
            Some(watcher) => watcher,
            None => {
                let handler = Arc::clone(&self.handler);
                let handler = move |event| handler(event);
                let new = RecommendedWatcher::new(handler, notify::Config::default())?;
                self.watcher.insert(new)
            }
        };
        match watcher.watch(path, RecursiveMode::NonRecursive) {
            Ok(()) => {
                self.watched.insert(path.to_path_buf());
                Ok(())
            }
            Err(error) if is_of_path(&error, path) => {
                debug!(path = ?path, %error, "directory to watch is absent or cannot be read");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether a directory cannot be watched for a reason of its own.
fn is_of_path(error: &notify::Error, path: &Path) -> bool {
    match &error.kind {
        notify::ErrorKind::PathNotFound => true,
        notify::ErrorKind::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => true,
        _ => !path.exists(),
    }
}

impl std::fmt::Debug for Watches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watches")
            .field("watched", &self.watched.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    /// Inodes that this process watches.
    fn watched_inodes() -> HashSet<u64> {
        let entries = fs::read_dir("/proc/self/fdinfo").expect("a list");
        let texts = entries.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
        let mut inodes = HashSet::new();
        for text in texts {
            let lines = text.lines().filter(|line| line.starts_with("inotify "));
            let inode = |line: &str| {
                let word = line.split(' ').find_map(|word| word.strip_prefix("ino:"))?;
                u64::from_str_radix(word, 16).ok()
            };
            inodes.extend(lines.filter_map(inode));
        }
        inodes
    }

    #[test]
    fn no_watch_is_left_of_directories_that_are_gone_or_not_wanted_any_more() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        fs::create_dir_all(at("real/deep")).expect("made");
        fs::create_dir(at("other")).expect("made");
        std::os::unix::fs::symlink(at("real"), at("link")).expect("linked");
        let inode = |name: &str| fs::metadata(at(name)).expect("there").ino();
        let inodes = ["real", "real/deep", "other"].map(inode);
        let mut watches = Watches::new(Hints::default(), || {}, || {});
        let wanted = ["link", "link/deep", "other", "absent"].map(at).into();
        let now = Instant::now();
        assert!(watches.follow(&wanted, now));
        assert!(!watches.follow(&wanted, now), "nothing new");
        let watched = watched_inodes();
        assert!(inodes.iter().all(|inode| watched.contains(inode)));
        fs::remove_dir_all(at("real")).expect("removed");
        assert!(!watches.follow(&HashSet::new(), now));
        assert!(watches.watched.is_empty());
        let until = Instant::now() + Duration::from_secs(20);
        while inodes.iter().any(|inode| watched_inodes().contains(inode)) {
            assert!(Instant::now() < until, "a watch is left");
            std::thread::yield_now();
        }
    }
}
