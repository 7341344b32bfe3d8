//! How fast something goes: what changed between two answers.

use std::collections::HashMap;
use std::time::Instant;

use crate::status::Status;

/// Rates between the last two answers.
#[derive(Debug)]
pub(super) struct Rates {
    at: Instant,
    lines: u64,
    pid: u32,
    confirmed: HashMap<String, u64>,
    /// Lines read in a second; nothing before there are two answers of one process.
    pub(super) lines_per_s: Option<f64>,
    /// Bytes confirmed in a second, all files together.
    pub(super) bytes_per_s: Option<f64>,
    /// The same by file id.
    pub(super) by_file: HashMap<String, f64>,
}

impl Rates {
    /// The first answer.
    pub(super) fn new(status: &Status, at: Instant) -> Self {
        Self {
            at,
            lines: lines(status),
            pid: status.pid,
            confirmed: confirmed(status),
            lines_per_s: None,
            bytes_per_s: None,
            by_file: HashMap::new(),
        }
    }

    /// Another answer.
    pub(super) fn take(&mut self, status: &Status, at: Instant) {
        let seconds = at.saturating_duration_since(self.at).as_secs_f64();
        // Another process counts from the start.
        if status.pid != self.pid || seconds <= 0.0 {
            *self = Self::new(status, at);
            return;
        }
        let now = confirmed(status);
        let per_s = |(id, now): (&String, &u64)| {
            let before = self.confirmed.get(id)?;
            Some((id.clone(), now.saturating_sub(*before) as f64 / seconds))
        };
        self.by_file = now.iter().filter_map(per_s).collect();
        self.bytes_per_s = Some(self.by_file.values().sum());
        let read = lines(status);
        self.lines_per_s = Some(read.saturating_sub(self.lines) as f64 / seconds);
        (self.at, self.lines, self.confirmed) = (at, read, now);
    }
}

fn lines(status: &Status) -> u64 {
    let sources = status.sources.iter();
    sources.filter_map(|source| source.lines).sum()
}

fn confirmed(status: &Status) -> HashMap<String, u64> {
    let files = status.files.iter().flatten();
    let known = files.filter_map(|file| Some((file.id.clone()?, file.confirmed)));
    known.collect()
}
