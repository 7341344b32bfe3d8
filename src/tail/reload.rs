//! A reload: sources come, change and go while their files are open. What is unchanged is not touched.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use tracing::info;

use super::descriptors::Limits;
use super::discover::Selection;
use super::known::{self, Whereabouts};
use super::{Registration, Source, Tail, Tailed};
use crate::model::{FileId, Mark};

/// A source as it is from now on.
#[derive(Clone, Debug)]
pub struct Renewed {
    /// Its index: that of its name, for as long as the process runs.
    pub index: usize,
    /// What is to be known of it. Whether it was ever scanned is known already, unless it is new.
    pub source: Source,
    /// Which files it has.
    pub selection: Selection,
    /// Which files those are is not what it was.
    pub selects_anew: bool,
    /// How lines are found or treated is not what it was.
    pub treats_anew: bool,
}

/// A file that is not read as before, because its source is not what it was.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    /// The file.
    pub file: FileId,
    /// Index of the source that it belonged to.
    pub from: usize,
    /// Index of the one that it belongs to; none wants it any more.
    pub to: Option<usize>,
    /// What is behind its batches was read under other rules: it is to be read again from here.
    pub again_from: Option<Mark>,
}

impl Tail {
    /// What becomes of files when `sources` are all that there are.
    #[must_use]
    pub fn moves(&self, sources: &[Renewed]) -> Vec<Moved> {
        let moved = |(id, file): (&FileId, &Tailed)| {
            let to = owner(file, sources);
            let renewed = to.and_then(|to| sources.iter().find(|renewed| renewed.index == to));
            let same = to == Some(file.source) && file.wanted_to.is_none();
            if same && renewed.is_none_or(|renewed| !renewed.treats_anew) {
                return None;
            }
            // What is gone is finished as it was begun.
            let reader = file.reader.as_ref()?;
            let unbatched = reader.read_to() > file.batched.offset && !file.eof_batched;
            Some(Moved {
                file: *id,
                from: file.source,
                to,
                again_from: unbatched.then_some(file.batched),
            })
        };
        self.files.iter().filter_map(moved).collect()
    }

    /// These are all the sources that there are, and `moved` is what becomes of their files.
    pub fn reload(&mut self, sources: &[Renewed], limits: Limits, moved: &[Moved], now: Instant) {
        self.limits = limits;
        for renewed in sources {
            match self.sources.get_mut(renewed.index) {
                Some(source) => {
                    let first_scan = source.first_scan;
                    *source = Source {
                        first_scan,
                        ..renewed.source.clone()
                    };
                }
                None => {
                    debug_assert_eq!(renewed.index, self.sources.len(), "no gaps");
                    self.sources.push(renewed.source.clone());
                    self.damaged.push(0);
                }
            }
        }
        self.removed = (0..self.sources.len())
            .filter(|index| sources.iter().all(|renewed| renewed.index != *index))
            .collect();
        self.forget_removed(now);
        for Moved { file: id, to, .. } in moved {
            match to {
                Some(to) => self.wanted_by(*id, *to),
                None => self.unwanted(*id, now),
            }
        }
    }

    fn wanted_by(&mut self, id: FileId, source: usize) {
        let Some(file) = self.files.get_mut(&id) else {
            return;
        };
        file.source = source;
        file.wanted_to = None;
        self.enqueue(id);
    }

    /// No source wants a file any more. What was handed over of it is seen through.
    fn unwanted(&mut self, id: FileId, now: Instant) {
        let Some(file) = self.files.get_mut(&id) else {
            return;
        };
        if file.wanted_to.is_none() {
            info!(path = ?file.origin.path, file = %id, offset = file.batched.offset, "log file belongs to no source any more");
            file.wanted_to = Some(file.batched.offset);
        }
        file.copy = None;
        self.release_successors(id);
        self.close_unwanted(id, now);
    }

    /// Closes a file that no source wants, once everything that was handed over of it is confirmed.
    pub(super) fn close_unwanted(&mut self, id: FileId, now: Instant) {
        let Some(file) = self.files.get(&id) else {
            return;
        };
        let seen_through = file.is_beyond_wanted()
            && file.confirmed.offset >= file.batched.offset
            && file.registration != Registration::Asked;
        if !seen_through {
            return;
        }
        let Some(file) = self.take_out(id, now) else {
            return;
        };
        if let Some(record) = self.record(id, &file) {
            self.remember(record, Whereabouts::Away(now + known::AWAY_FOR), now);
        }
    }

    /// What is remembered of files that nobody looks for any more.
    fn forget_removed(&mut self, now: Instant) {
        let removed = &self.removed;
        self.refused
            .retain(|_, (source, _)| !removed.contains(source));
        self.met.retain(|_, met| !removed.contains(&met.source()));
        self.examinations
            .retain(|examination| !removed.contains(&examination.source()));
        let closed = &mut self.closed;
        self.left_alone.retain(|_, left| {
            let gone = left.closed.as_ref();
            let gone = gone.filter(|found| removed.contains(&found.source));
            gone.is_none_or(|found| {
                closed.remove(&found.path);
                false
            })
        });
        let sources = self.sources.iter().enumerate();
        let sought: HashSet<Arc<str>> = sources
            .filter(|(index, _)| !removed.contains(index))
            .map(|(_, source)| Arc::clone(&source.name))
            .collect();
        self.known.reload(&sought, now);
    }
}

impl Tailed {
    /// Whether no source wants it, and as much of it was read as was handed over before.
    pub(super) fn is_beyond_wanted(&self) -> bool {
        self.wanted_to
            .is_some_and(|wanted_to| self.batched.offset >= wanted_to)
    }
}

/// Which source a file belongs to. Who had it keeps it, unless one that comes first has changed and
/// has it now: what a name alone does not tell (links) was decided when it was found.
fn owner(file: &Tailed, sources: &[Renewed]) -> Option<usize> {
    let names = [Some(file.origin.path.as_path()), file.link.as_deref()];
    let has = |renewed: &&Renewed| {
        let kept = renewed.index == file.source && !renewed.selects_anew;
        let has = |name: &std::path::Path| renewed.selection.has(name);
        kept || renewed.selects_anew && names.into_iter().flatten().any(has)
    };
    sources.iter().find(has).map(|renewed| renewed.index)
}
