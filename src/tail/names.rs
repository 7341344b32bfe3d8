//! Names: what a scan says of where files are now. Who lost its name is known by it, and who is new
//! is opened.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tracing::{info, warn};

use super::discover::{Found, Scan};
use super::{Event, Tail};
use crate::model::FileId;

impl Tail {
    /// Brings the set in line with what discovery saw.
    pub fn apply(&mut self, scan: &Scan, now: Instant) {
        let inode_at: HashMap<&Path, (u64, u64)> = scan
            .found
            .iter()
            .map(|found| (found.path.as_path(), found.inode))
            .collect();
        self.paths.forget_old(now);
        if let Some(earliest) = self.clock.was_set_back() {
            warn!("the system's clock was set back");
            self.paths.set_back(earliest);
        }
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
    pub(super) fn take_path(&mut self, path: &Path, id: FileId, now: Instant) -> Option<FileId> {
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

    /// Names that this scan did not see are gone, unless it could not look there.
    fn unlink_unseen(&mut self, scan: &Scan, inode_at: &HashMap<&Path, (u64, u64)>, now: Instant) {
        let mut gone = Vec::new();
        for (id, file) in &mut self.files {
            // Nobody looked for those that no source wants.
            let Some(link) = file.link.as_ref().filter(|_| file.wanted_to.is_none()) else {
                continue;
            };
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
}
