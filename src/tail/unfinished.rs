//! Bytes of unfinished lines that are held in memory, all in all and by file.

use std::collections::{BTreeSet, HashMap};

use crate::model::FileId;

/// Bytes of unfinished lines that are held, by file and by size.
#[derive(Debug, Default)]
pub(super) struct Unfinished {
    pub(super) by_file: HashMap<FileId, usize>,
    pub(super) by_size: BTreeSet<(usize, FileId)>,
    pub(super) sum: usize,
}

impl Unfinished {
    pub(super) fn set(&mut self, id: FileId, bytes: usize) {
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
