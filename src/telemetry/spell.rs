//! What is met again and again and told with a count: a condition when it begins and when it is
//! over, a single event at most every few minutes.

use std::time::{Duration, Instant};

/// So many reasons of one condition are told; more are only counted.
const REASONS_MAX: usize = 16;
/// Events of one kind are told this often.
const QUIET: Duration = Duration::from_mins(10);

/// A condition that is met again and again until it is over.
#[derive(Debug, Default)]
pub struct Spell(Option<Met>);

#[derive(Debug)]
struct Met {
    since: Instant,
    times: u64,
    told: Vec<String>,
}

/// What a condition was that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    /// How often it was met, at least once.
    pub times: u64,
    /// Seconds from the first time to the end.
    pub seconds: u64,
}

impl Spell {
    /// It is met, for this reason. True when nobody was told so since it began: nodes of a cluster
    /// that take turns in failing, each in its own way, are each told once.
    pub fn met(&mut self, reason: &str, now: Instant) -> bool {
        let met = self.0.get_or_insert_with(|| Met {
            since: now,
            times: 0,
            told: Vec::new(),
        });
        met.times += 1;
        let is_news = met.told.len() < REASONS_MAX && met.told.iter().all(|told| told != reason);
        if is_news {
            met.told.push(reason.to_owned());
        }
        is_news
    }

    /// It is over; nothing when there was nothing.
    pub fn over(&mut self, now: Instant) -> Option<Over> {
        self.0.take().map(|met| Over {
            times: met.times,
            seconds: now.saturating_duration_since(met.since).as_secs(),
        })
    }
}

/// Events of one kind, of which there may be many.
#[derive(Debug, Default)]
pub struct Burst {
    told: Option<Instant>,
    times: u64,
}

impl Burst {
    /// One more. How many there were since it was told last, when it is time to tell it.
    pub fn met(&mut self, now: Instant) -> Option<u64> {
        self.times += 1;
        let is_quiet = |told: Instant| now.saturating_duration_since(told) < QUIET;
        if self.told.is_some_and(is_quiet) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_news_once_and_the_end_tells_how_often_and_how_long() {
        let mut spell = Spell::default();
        let start = Instant::now();
        assert_eq!(spell.over(start), None);
        let later = start + Duration::from_secs(90);
        let news: Vec<bool> = ["refused", "refused", "timed out", "refused", "timed out"]
            .iter()
            .map(|reason| spell.met(reason, start))
            .collect();
        assert_eq!(news, [true, false, true, false, false]);
        let over = Over {
            times: 5,
            seconds: 90,
        };
        assert_eq!(spell.over(later), Some(over));
        assert_eq!(spell.over(later), None);
        assert!(spell.met("refused", later), "it begins anew");
    }

    #[test]
    fn events_are_told_now_and_then_and_none_is_left_uncounted() {
        let mut burst = Burst::default();
        let start = Instant::now();
        let told: Vec<u64> = (0..1300)
            .filter_map(|second| burst.met(start + Duration::from_secs(second)))
            .collect();
        assert_eq!(told, [1, 600, 600]);
    }

    #[test]
    fn reasons_that_are_never_the_same_are_told_a_few_times_only() {
        let mut spell = Spell::default();
        let now = Instant::now();
        let told = (0..1000).filter(|n| spell.met(&n.to_string(), now)).count();
        assert_eq!(told, REASONS_MAX);
        assert_eq!(spell.over(now).map(|over| over.times), Some(1000));
    }
}
