//! A short history for the page's plots: what has passed through, every two seconds for ten minutes.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::MissedTickBehavior;

use super::answers::Shared;
use crate::pipeline::Totals;
use crate::status::{Status, time};

/// Time between two samples.
const STEP: Duration = Duration::from_secs(2);
/// Samples that are kept: ten minutes.
const SAMPLES_MAX: usize = 300;
/// Time between two looks at the files, for the lag.
const LAG_STEP: Duration = Duration::from_secs(10);

/// One moment. Totals are since the daemon's start.
#[derive(Clone, Copy, Debug, Serialize)]
struct Sample {
    /// Milliseconds since 1970.
    t: i64,
    read_bytes: u64,
    read_lines: u64,
    published_bytes: u64,
    published_messages: u64,
    acknowledged_lines: u64,
    /// Not confirmed, when the files were looked at last.
    lag_bytes: u64,
    lag_seconds: u64,
    spool_bytes: u64,
    connected: bool,
}

/// The samples, oldest first.
#[derive(Debug, Default)]
pub(super) struct History {
    samples: VecDeque<Sample>,
}

impl History {
    fn push(&mut self, at: Timestamp, totals: &Totals, lag: Lag) {
        let last = self.samples.back();
        let before = last.map_or((0, 0), |last| (last.read_bytes, last.read_lines));
        // A lane that says nothing has not read less.
        let (read_bytes, read_lines) = totals.read.unwrap_or(before);
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample {
            t: at.as_millisecond(),
            read_bytes,
            read_lines,
            published_bytes: totals.published_bytes,
            published_messages: totals.published_messages,
            acknowledged_lines: totals.acknowledged_lines,
            lag_bytes: lag.bytes,
            lag_seconds: lag.seconds,
            spool_bytes: totals.spool_bytes,
            connected: totals.connected,
        });
    }
}

/// The history as it is told.
#[derive(Debug, Serialize)]
pub(super) struct Told<'a> {
    step_s: u64,
    now: String,
    samples: &'a VecDeque<Sample>,
}

impl<'a> Told<'a> {
    pub(super) fn of(history: &'a History) -> Self {
        Self {
            step_s: STEP.as_secs(),
            now: time(Timestamp::now()),
            samples: &history.samples,
        }
    }
}

/// What is not confirmed.
#[derive(Clone, Copy, Debug, Default)]
struct Lag {
    bytes: u64,
    seconds: u64,
}

impl Lag {
    fn of(status: &Status) -> Option<Self> {
        let files = status.files.as_ref()?;
        let ages = files.iter().filter_map(|file| file.oldest_unconfirmed_s);
        Some(Self {
            bytes: files.iter().map(|file| file.lag).sum(),
            seconds: ages.max().unwrap_or_default(),
        })
    }
}

/// Takes samples for ever.
pub(super) async fn keep(shared: &Shared) {
    let mut ticks = tokio::time::interval(STEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut lag, mut lag_due) = (Lag::default(), Instant::now());
    loop {
        ticks.tick().await;
        // Who has ten thousand files looks at each of them for this.
        if Instant::now() >= lag_due {
            lag_due = Instant::now() + LAG_STEP;
            let status = shared.ask.status().await.ok();
            lag = status.as_ref().and_then(Lag::of).unwrap_or(lag);
        }
        // Where nobody answers there is a gap.
        if let Ok(totals) = shared.ask.totals().await {
            let history = shared.history.lock();
            let mut history = history.unwrap_or_else(PoisonError::into_inner);
            history.push(Timestamp::now(), &totals, lag);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ten_minutes_are_kept_and_totals_never_fall() {
        let mut history = History::default();
        for second in 0..1000_u32 {
            let at = Timestamp::from_second(i64::from(second)).expect("a time");
            let silent = second % 2 == 1;
            let totals = Totals {
                read: (!silent).then_some((u64::from(second), 1)),
                ..Totals::default()
            };
            history.push(at, &totals, Lag::default());
        }
        let told = serde_json::to_value(Told::of(&history)).expect("JSON");
        let samples = told["samples"].as_array().expect("a list");
        assert_eq!((samples.len(), &told["step_s"]), (SAMPLES_MAX, &2.into()));
        assert_eq!(samples[299]["t"], 999_000);
        assert_eq!(samples[299]["read_bytes"], 998);
        assert!(samples.is_sorted_by_key(|sample| sample["read_bytes"].as_u64()));
    }
}
