//! Owns a set of byte intervals: what a consumer has had of one file.

/// Sorted, disjoint and not touching each other: a file read in order has one interval.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    intervals: Vec<(u64, u64)>,
}

impl Coverage {
    pub fn intervals(&self) -> &[(u64, u64)] {
        &self.intervals
    }

    pub fn bytes(&self) -> u64 {
        self.intervals.iter().map(|(start, end)| end - start).sum()
    }

    /// Whether all of `[start, end)` is in.
    pub fn contains(&self, start: u64, end: u64) -> bool {
        let after = self
            .intervals
            .partition_point(|interval| interval.0 <= start);
        after > 0 && end <= self.intervals[after - 1].1
    }

    /// Adds `[start, end)`, and returns how many of its bytes were in already.
    pub fn insert(&mut self, start: u64, end: u64) -> u64 {
        if start >= end {
            return 0;
        }
        let first = self
            .intervals
            .partition_point(|interval| interval.1 < start);
        let last = self.intervals.partition_point(|interval| interval.0 <= end);
        let touched = &self.intervals[first..last];
        let overlap =
            |interval: &(u64, u64)| interval.1.min(end).saturating_sub(interval.0.max(start));
        let known = touched.iter().map(overlap).sum();
        let merged_start = touched
            .first()
            .map_or(start, |interval| interval.0.min(start));
        let merged_end = touched.last().map_or(end, |interval| interval.1.max(end));
        self.intervals
            .splice(first..last, [(merged_start, merged_end)]);
        known
    }
}
