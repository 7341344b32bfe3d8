//! The ceiling on what is published: when the next message may be written. Looks at no clock.

use std::num::NonZeroU64;
use std::time::Duration;

use tokio::time::Instant;

/// What was left unused for so long is used later: timers are late by a millisecond, in which many
/// small messages would have gone out. As much of the ceiling is the largest burst beside one
/// message.
const CATCH_UP: Duration = Duration::from_millis(100);

/// The ceiling, over all connections.
#[derive(Debug)]
pub(super) struct Throttle {
    bytes_per_s: Option<NonZeroU64>,
    free_at: Option<Instant>,
}

impl Throttle {
    /// Without a ceiling everything may be written at once.
    pub(super) fn new(bytes_per_s: Option<NonZeroU64>) -> Self {
        Self {
            bytes_per_s,
            free_at: None,
        }
    }

    /// When the next message may be written, if that is not now.
    pub(super) fn wait_until(&self, now: Instant) -> Option<Instant> {
        self.free_at.filter(|free_at| *free_at > now)
    }

    /// A body of so many bytes is written now.
    pub(super) fn spend(&mut self, bytes: usize, now: Instant) {
        let Some(bytes_per_s) = self.bytes_per_s else {
            return;
        };
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_s.get());
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
        let from = self.free_at.map_or(now, |free_at| free_at.max(earliest));
        // A moment too far away to be told is never.
        self.free_at = from.checked_add(takes).or(self.free_at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Writes messages of these sizes as soon as may be, each late by up to `late`; when and how
    /// much.
    fn written(rate: u64, sizes: &[usize], late: Duration) -> Vec<(Duration, usize)> {
        let begun = Instant::now();
        let mut throttle = Throttle::new(NonZeroU64::new(rate));
        let mut now = begun;
        let mut written = Vec::new();
        for size in sizes {
            if let Some(free_at) = throttle.wait_until(now) {
                now = free_at + late;
            }
            throttle.spend(*size, now);
            written.push((now - begun, *size));
        }
        written
    }

    #[test]
    fn no_second_has_more_than_its_share_and_late_timers_cost_nothing() {
        for (rate, size) in [(1_000_000, 100), (1_000_000, 50_000), (10_000_000, 4096)] {
            let late = Duration::from_millis(2);
            let rate_bytes = usize::try_from(rate).expect("small");
            let count = 5 * rate_bytes / size;
            let written = written(rate, &vec![size; count], late);
            let (took, _) = written[count - 1];
            assert!(took > 9 * SECOND / 2, "{took:?}");
            assert!(took < 11 * SECOND / 2, "{took:?}");
            for (index, (from, _)) in written.iter().enumerate().step_by(count / 50) {
                let within = written[index..]
                    .iter()
                    .take_while(|(at, _)| *at < *from + SECOND);
                let bytes: usize = within.map(|(_, size)| size).sum();
                assert!(bytes <= rate_bytes * 6 / 5 + size, "{bytes} in a second");
            }
        }
    }

    #[test]
    fn after_silence_there_is_no_burst() {
        let mut throttle = Throttle::new(NonZeroU64::new(1000));
        let begun = Instant::now();
        throttle.spend(1000, begun);
        assert_eq!(throttle.wait_until(begun), Some(begun + SECOND));
        let later = begun + 3600 * SECOND;
        let mut bytes = 0;
        while throttle.wait_until(later).is_none() {
            throttle.spend(10, later);
            bytes += 10;
        }
        assert_eq!(bytes, 110);
    }

    #[test]
    fn without_a_ceiling_nothing_waits_and_with_a_tiny_one_nothing_overflows() {
        let now = Instant::now();
        let mut throttle = Throttle::new(None);
        throttle.spend(usize::MAX, now);
        assert_eq!(throttle.wait_until(now), None);
        let mut throttle = Throttle::new(NonZeroU64::new(1));
        for _ in 0..3 {
            throttle.spend(usize::MAX, now);
        }
        assert!(throttle.wait_until(now).is_some());
    }
}
