//! A reload, as the lane sees it: what was handed over stays as it is, and what is only read is read
//! again under the new settings.

use std::sync::Arc;
use std::time::Instant;

use super::{Count, Lane, Options, Output};
use crate::batch::{self, Compressor, Open};
use crate::model::Rewind;
use crate::tail::descriptors::Limits;
use crate::tail::reload::Renewed;
use crate::treat::Treatment;

/// What is so from now on.
#[derive(Debug)]
pub struct Settings {
    /// Limits and pauses.
    pub options: Options,
    /// What may be open and pinned.
    pub limits: Limits,
    /// All sources, in the configuration's order.
    pub sources: Vec<Settled>,
    /// What was found before discovery knew of this counts no more: scans bear this number.
    pub reload: u64,
}

/// A source's part of it.
#[derive(Debug)]
pub struct Settled {
    /// Which files, and how their lines are found.
    pub renewed: Renewed,
    /// What is done with its lines.
    pub treatment: Treatment,
    /// Bytes of the `ranges` header of its messages.
    pub ranges_len_max: usize,
}

impl<S: Fn(Output)> Lane<S> {
    pub(super) fn reload(&mut self, settings: Settings, now: Instant) {
        let Settings {
            options,
            limits,
            sources,
            reload,
        } = settings;
        self.reload = reload;
        self.order = sources.iter().map(|source| source.renewed.index).collect();
        let (renewed, settled): (Vec<Renewed>, Vec<_>) = sources
            .into_iter()
            .map(|settled| {
                let index = settled.renewed.index;
                let ranges_len_max = settled.ranges_len_max;
                (settled.renewed, (index, settled.treatment, ranges_len_max))
            })
            .unzip();
        let moved = self.tail.moves(&renewed);
        let batches_anew = !options.batches_like(&self.options);
        for source in 0..self.open.len() {
            // What comes from elsewhere now comes behind what is here.
            if batches_anew || moved.iter().any(|moved| moved.from == source) {
                self.close(source, now);
            }
        }
        self.tail.reload(&renewed, limits, &moved, now);
        if options.compression != self.options.compression {
            self.compressor = Compressor::new(options.compression);
        }
        self.options = options;
        for (index, treatment, ranges_len_max) in settled {
            self.settle(index, treatment, ranges_len_max, batches_anew, now);
        }
        for moved in moved {
            let file = self.tail.get_mut(moved.file);
            if let (Some(to), Some(epoch)) = (moved.again_from, file.map(|file| file.epoch)) {
                let file = moved.file;
                // The same epoch: what was handed over stays as it is.
                self.rewind(&[Rewind { file, to, epoch }], now);
            }
            self.groups.clear(moved.file);
        }
    }

    fn settle(
        &mut self,
        index: usize,
        treatment: Treatment,
        ranges_len_max: usize,
        batches_anew: bool,
        now: Instant,
    ) {
        let limits = batch::Limits {
            bytes_max: self.options.batch_bytes_max,
            lines_max: self.options.batch_lines_max,
            ranges_len_max,
        };
        let source = self.tail.source(index);
        let next_look = now + source.poll_interval;
        let open = || {
            let mut open = Open::new(Arc::clone(&source.name), self.options.format, limits);
            self.body_max.into_iter().for_each(|most| open.limit(most));
            open
        };
        if index < self.open.len() {
            if batches_anew {
                self.open[index] = open();
                self.lineless_since[index] = None;
            }
            self.treatments[index] = Arc::new(treatment);
            self.next_looks[index] = self.next_looks[index].min(next_look);
        } else {
            self.open.push(open());
            self.treatments.push(Arc::new(treatment));
            self.lineless_since.push(None);
            self.counts.push(Count::default());
            self.next_looks.push(next_look);
        }
    }
}

impl Options {
    fn batches_like(&self, other: &Self) -> bool {
        (self.format, self.batch_bytes_max, self.batch_lines_max)
            == (other.format, other.batch_bytes_max, other.batch_lines_max)
    }
}
