//! Whose turn it is: files that may have something new, one after the other, and never the next
//! generation of a path before the last one was read to its end.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Instant;

use super::{Registration, Tail};
use crate::model::FileId;

impl Tail {
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
            let waits = file.is_put_off(now)
                || file.registration == Registration::Asked
                || file.yields
                || file.is_beyond_wanted();
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

    /// `id` waits until `older` is read to its end.
    pub(super) fn wait_for(&mut self, id: FileId, older: FileId) {
        if let Some(file) = self.files.get_mut(&id) {
            file.predecessor = Some(older);
            self.successors.entry(older).or_default().push(id);
        }
    }

    /// The last generation of the same path that lost its name and is not read to its end yet.
    pub(super) fn undrained_before(&self, id: FileId) -> Option<FileId> {
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

    pub(super) fn release_successors(&mut self, id: FileId) {
        let waiting = self.successors.remove(&id).unwrap_or_default();
        waiting.into_iter().for_each(|id| self.enqueue(id));
    }
}
