//! What passes between relay and spool: what is known of the files whose lines are spooled, and
//! what the spool knew at the start.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use tracing::{info, warn};

use crate::model::{
    Batch, Confirmed, FileId, FileRecord, Identity, Mark, Range, SpoolId, SpoolPlace,
};
use crate::relay::Relay;
use crate::spool::worker::Order;
use crate::spool::{RealDisk, Recovered, Spool, SpooledFile};
use crate::state::{Change, Loaded};

/// The spool, opened.
#[derive(Debug)]
pub struct Opened {
    /// Locked, and ready to be written and read.
    pub spool: Spool<RealDisk>,
    /// What it held.
    pub recovered: Recovered,
}

/// The pipeline's end of the spool.
pub(super) struct Store {
    orders: Option<Sender<Order>>,
    id: SpoolId,
    /// What is known of files that are read.
    records: HashMap<FileId, Arc<FileRecord>>,
}

impl Store {
    pub(super) fn new(id: SpoolId, orders: Sender<Order>) -> Self {
        Self {
            orders: Some(orders),
            id,
            records: HashMap::new(),
        }
    }

    /// A file is read from now on.
    pub(super) fn opened(&mut self, record: Arc<FileRecord>) {
        self.records.insert(record.id, record);
    }

    /// More is known of a file.
    pub(super) fn identified(&mut self, file: FileId, identity: Identity) {
        if let Some(record) = self.records.get_mut(&file) {
            Arc::make_mut(record).identity = identity;
        }
    }

    /// A file is confirmed further. An entry says so, because the state may say it too late.
    pub(super) fn confirmed(&mut self, confirmed: &[Confirmed]) {
        for Confirmed { file, mark, .. } in confirmed {
            if let Some(record) = self.records.get_mut(file) {
                Arc::make_mut(record).confirmed = *mark;
            }
        }
    }

    pub(super) fn forget(&mut self, file: FileId) {
        self.records.remove(&file);
    }

    /// What the state is to remember of what is done with.
    pub(super) fn done(&self, place: SpoolPlace) -> Change {
        Change::SpoolDone(self.id, place)
    }

    pub(super) fn append(&self, batch: Batch) {
        let known = |range: &Range| self.records.get(&range.file).map(Arc::clone);
        let mut files: Vec<_> = batch.ranges.iter().filter_map(known).collect();
        files.sort_by_key(|record| record.id);
        files.dedup_by_key(|record| record.id);
        self.order(Order::Append(batch, files));
    }

    pub(super) fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // The spool's thread has ended, and that is noticed by its end.
            let _ = orders.send(order);
        }
    }

    pub(super) fn close(&mut self) {
        self.orders = None;
    }
}

/// The marks that ranges which are safe in the spool make: one a file.
pub(super) fn marks(ranges: &[Range]) -> Vec<Confirmed> {
    let mut marks: HashMap<FileId, Confirmed> = HashMap::new();
    for range in ranges {
        let mark = Confirmed {
            file: range.file,
            mark: range.end_mark(),
            eof: range.eof,
        };
        marks.insert(range.file, mark);
    }
    marks.into_values().collect()
}

/// Files of which the spool has more than is confirmed. What it knows of a file moves the mark from
/// which the file is read, and rows that the state lacks are made again: those are returned.
pub(super) fn take_in(
    recovered: Recovered,
    loaded: &mut Loaded,
) -> (Vec<Spooled>, Vec<FileRecord>) {
    let Recovered {
        files,
        damaged,
        cut_bytes,
        ..
    } = recovered;
    if cut_bytes > 0 {
        info!(
            bytes = cut_bytes,
            "cut from the spool what was not whole; it is read again"
        );
    }
    if !damaged.is_empty() {
        let bytes: u64 = damaged.iter().map(|damage| damage.bytes).sum();
        warn!(
            places = damaged.len(),
            bytes, "the spool is damaged; the rest of it is delivered"
        );
    }
    let mut rows: HashMap<FileId, &mut FileRecord> =
        loaded.files.iter_mut().map(|row| (row.id, row)).collect();
    let (mut spooled, mut made) = (Vec::new(), Vec::new());
    for file in files {
        let SpooledFile {
            record, end, eof, ..
        } = file;
        let row = rows.get_mut(&record.id);
        let known = row.as_ref().map_or(Mark::default(), |row| row.confirmed);
        let confirmed = known.max_by_offset(record.confirmed);
        let ended = row
            .as_ref()
            .is_some_and(|row| row.ended && row.confirmed == confirmed);
        let safe = confirmed.max_by_offset(end);
        let is_done = confirmed.offset > end.offset || confirmed.offset == end.offset && !eof;
        if is_done || ended && confirmed.offset == end.offset {
            // Sent, confirmed, and only not released yet.
            continue;
        }
        if let Some(row) = row {
            row.confirmed = safe;
            row.ended |= eof;
        } else {
            let row = FileRecord {
                confirmed,
                ended: false,
                ..(*record).clone()
            };
            made.push(row);
        }
        spooled.push(Spooled {
            confirmed: Confirmed {
                file: record.id,
                mark: confirmed,
                eof: ended,
            },
            end: Confirmed {
                file: record.id,
                mark: safe,
                eof,
            },
            record,
        });
    }
    for row in &made {
        warn!(path = ?row.path, file = %row.id, "the spool has lines of a file that the state did not know");
    }
    let safe_ones = made.iter().filter_map(|row| {
        let end = spooled
            .iter()
            .find(|spooled| spooled.record.id == row.id)?
            .end;
        Some(FileRecord {
            confirmed: end.mark,
            ended: end.eof,
            ..row.clone()
        })
    });
    let safe_ones: Vec<_> = safe_ones.collect();
    loaded.files.extend(safe_ones);
    (spooled, made)
}

/// What the spool has of a file.
pub(super) struct Spooled {
    record: Arc<FileRecord>,
    confirmed: Confirmed,
    end: Confirmed,
}

impl Spooled {
    pub(super) fn tell(&self, relay: &mut Relay) {
        let (source, path) = (&self.record.source, &self.record.path);
        relay.recovered(source, path, &self.confirmed, self.end);
    }
}
