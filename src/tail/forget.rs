//! Forgetting: what becomes of generations that are not read any more. Nothing is forgotten before it
//! is known to be gone, and what is known to be lost with it is said.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tracing::info;

use super::discover::{Found, Scan};
use super::known::{self, Whereabouts};
use super::{Event, Registration, Tail, Tailed};
use crate::batch::Origin;
use crate::model::{FileId, FileRecord, Skipped};
use crate::telemetry::progress;

impl Tail {
    /// Keeps what is known of a generation that is not read any more.
    pub(super) fn remember(&mut self, record: FileRecord, whereabouts: Whereabouts, now: Instant) {
        self.paths.hold(&record.path, record.found, now);
        if let Some(before) = self.known.record(record.id) {
            self.paths.release(&before.path, now);
        }
        self.known.insert(record, whereabouts);
    }

    /// Forgets the generations that were not found for long enough.
    pub(super) fn forget_due(&mut self, scan: &Scan, now: Instant) {
        let unreadable: HashSet<(u64, u64)> = if self.refused.is_empty() {
            HashSet::new()
        } else {
            let refused = |found: &&Found| self.refused.contains_key(&found.path);
            let found = scan.found.iter().filter(refused);
            found.map(|found| found.inode).collect()
        };
        // Sources that this scan says nothing about. What belonged to one that there is no more, nobody
        // looks for.
        let sources = self.sources.iter().enumerate();
        let others: HashSet<&str> = sources
            .filter(|(index, _)| !scan.looked_for.contains(index) && !self.removed.contains(index))
            .map(|(_, source)| &*source.name)
            .collect();
        let blind = |record: &FileRecord| {
            let inode = (record.identity.dev, record.identity.ino);
            unreadable.contains(&inode)
                || others.contains(&*record.source)
                || scan.is_blind_to(record.path.as_path())
                || self.undecided.contains(&record.path)
        };
        let due = self.known.due(blind, now);
        let mut devices = HashMap::new();
        for (record, whereabouts) in due {
            if whereabouts == Whereabouts::Missed && out_of_sight(&record, &mut devices) {
                self.remember(record, Whereabouts::Away(now + known::AWAY_FOR), now);
                continue;
            }
            // Nothing comes behind an end that was said.
            if !record.ended
                && record.least_size() > record.confirmed.offset
                && let Some(source) = self.source_named(&record.source)
            {
                self.vanish(source, record, now);
                continue;
            }
            self.known.remove(record.id);
            self.paths.release(&record.path, now);
            if whereabouts != Whereabouts::Gone {
                info!(path = ?record.path, file = %record.id, offset = record.confirmed.offset, "log file was not found for long enough; it is confirmed up to this offset, and what came after it is not known");
            }
            self.events.push(Event::Forget(record.id));
        }
    }

    fn source_named(&self, name: &str) -> Option<usize> {
        let index = self.sources.iter().position(|source| *source.name == *name);
        index.filter(|index| !self.removed.contains(index))
    }

    /// Takes a generation in that is gone, so that what is known to be lost of it can be said.
    fn vanish(&mut self, source: usize, record: FileRecord, now: Instant) {
        let size = record.least_size();
        let inode = (record.identity.dev, record.identity.ino);
        let there = self.by_inode.get(&inode).and_then(|id| self.files.get(id));
        let rewritten = inode.1 == 0 || there.is_some_and(|file| file.born == record.identity.born);
        let (id, path) = (record.id, record.path.clone());
        let file = Tailed {
            registration: Registration::Durable,
            begins: record.begins,
            confirmed: record.confirmed,
            batched: record.confirmed,
            lost_as: if rewritten {
                Skipped::Truncated
            } else {
                Skipped::Deleted
            },
            identity: Some(record.identity),
            rotated: Some(now),
            drained: true,
            ..Tailed::new(
                source,
                Origin::new(&self.host, id, path),
                None,
                inode,
                now,
                record.found,
            )
        };
        self.take_in(id, file, now);
        self.events.push(Event::Resumed(Arc::new(record)));
        self.vanished.push((id, size));
    }

    /// Generations that are gone, and how long each is known to have been at least.
    pub fn take_vanished(&mut self) -> Vec<(FileId, u64)> {
        std::mem::take(&mut self.vanished)
    }
}

/// Whether a generation that no scan finds may be there all the same: under its name, which no
/// pattern matches any more, or on a file system that is not mounted. `devices` remembers
/// directories that were looked at.
fn out_of_sight(record: &FileRecord, devices: &mut HashMap<PathBuf, Option<u64>>) -> bool {
    let path = record.path.as_path();
    let inode = (record.identity.dev, record.identity.ino);
    let found = progress::call(|| std::fs::symlink_metadata(path));
    if found.is_ok_and(|found| (found.dev(), found.ino()) == inode) {
        return true;
    }
    let directory = path.parent().unwrap_or(path);
    let device = devices.entry(directory.to_path_buf()).or_insert_with(|| {
        // A directory that went with its files went from the file system that its parent is on.
        let found = directory
            .ancestors()
            .find_map(|at| progress::call(|| std::fs::metadata(at)).ok());
        found.map(|found| found.dev())
    });
    *device != Some(inode.0)
}
