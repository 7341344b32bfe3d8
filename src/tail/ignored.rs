//! `ignore_older`: files that nobody wrote to for long are not read until somebody does, and then
//! from the end that they had.

use std::path::PathBuf;
use std::time::Instant;

use super::discover::{Found, Scan};
use super::{Tail, identity};
use crate::model::{Identity, Mark};

/// A file that was too old to be read when it was found.
#[derive(Debug)]
pub(super) struct Ignored {
    path: PathBuf,
    version: (u64, i128),
    /// What proves it, and the end that it had; nothing of an empty one.
    pub(super) content: Option<(Identity, Mark)>,
}

impl Tail {
    /// Whether a file that is not open is left unread for its age.
    pub(super) fn ignores(&mut self, found: &Found, now: Instant) -> bool {
        // Of what is compressed it must be told first whose it is.
        if self.sources[found.source].ignore_older.is_none() || found.packed.is_some() {
            return false;
        }
        if let Some(ignored) = self.ignored.get(&found.inode) {
            return ignored.version == found.version();
        }
        if !self.is_too_old(found) || self.known.at_inode(found.inode).next().is_some() {
            return false;
        }
        let Some((file, status)) = self.try_open(found, now) else {
            // Why was said; it is tried again.
            return true;
        };
        let content = identity::identify(&file, &status).and_then(|identity| {
            let (_, proof) = identity::end_before(&file, status.size)?;
            let offset = status.size;
            Ok(identity.map(|identity| (identity, Mark { offset, proof })))
        });
        match content {
            Ok(content) => {
                let ignored = Ignored {
                    path: found.path.clone(),
                    version: (status.size, i128::from(status.modified)),
                    content,
                };
                self.ignored.insert(found.inode, ignored);
            }
            Err(error) => self.refuse(found, &error.to_string()),
        }
        true
    }

    /// Whether nobody wrote to a file for so long that it is not to be read.
    pub(super) fn is_too_old(&self, found: &Found) -> bool {
        let limit = self.sources[found.source].ignore_older;
        limit.is_some_and(|limit| self.clock.since(found.modified) >= limit)
    }

    /// Whether a file under a rotation name was left unread for its age, and was written to since.
    pub(super) fn was_ignored(&self, found: &Found) -> Option<bool> {
        let ignored = self.ignored.get(&found.inode)?;
        Some(ignored.version != found.version())
    }

    /// Forgets those that are not there any more.
    pub(super) fn forget_ignored(&mut self, scan: &Scan) {
        if self.ignored.is_empty() {
            return;
        }
        let found = scan.found.iter().map(|found| found.inode);
        let there: std::collections::HashSet<(u64, u64)> = found.collect();
        self.ignored
            .retain(|inode, ignored| there.contains(inode) || scan.is_blind_to(&ignored.path));
    }
}
