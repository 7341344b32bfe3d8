//! Watches: the kernel's events about directories, as hints to look sooner. Misses are harmless.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tracing::{debug, warn};

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

/// The directories that are watched.
pub struct Watches {
    watcher: Option<RecommendedWatcher>,
    watched: HashSet<PathBuf>,
    warned: bool,
}

impl Watches {
    /// No directory yet. `written` is called when files were written to, `moved` when names came,
    /// went or changed.
    #[must_use]
    pub fn new(
        hints: Hints,
        written: impl Fn() + Send + 'static,
        moved: impl Fn() + Send + 'static,
    ) -> Self {
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
                warn!("file system events were dropped; scanning instead");
            }
        };
        let mut warned = false;
        let watcher = RecommendedWatcher::new(handler, notify::Config::default())
            .inspect_err(|error| {
                warn!(%error, "no file system events; files are looked at every poll_interval");
                warned = true;
            })
            .ok();
        Self {
            watcher,
            watched: HashSet::new(),
            warned,
        }
    }

    /// Watches just these directories. True if one of them is watched from now on only.
    pub fn follow(&mut self, directories: &HashSet<PathBuf>) -> bool {
        let Some(watcher) = &mut self.watcher else {
            return false;
        };
        self.watched.retain(|path| {
            let wanted = directories.contains(path);
            if !wanted {
                // It is gone, and its watch with it, or it is watched in vain until it is gone.
                let _ = watcher.unwatch(path);
            }
            wanted
        });
        let mut added = false;
        for path in directories {
            if self.watched.contains(path) {
                continue;
            }
            match watcher.watch(path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(path.clone());
                    added = true;
                }
                Err(error) => Self::refused(&mut self.warned, path, &error),
            }
        }
        added
    }

    fn refused(warned: &mut bool, path: &Path, error: &notify::Error) {
        if matches!(error.kind, notify::ErrorKind::PathNotFound) || !path.exists() {
            debug!(path = ?path, "directory to watch is absent");
        } else if !*warned {
            *warned = true;
            warn!(path = ?path, %error, "directory cannot be watched; its files are looked at every poll_interval");
        }
    }
}

impl std::fmt::Debug for Watches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watches")
            .field("watched", &self.watched.len())
            .finish_non_exhaustive()
    }
}
