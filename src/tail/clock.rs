//! The clock on the wall, by which files are stamped. Somebody may set it at any time, also back.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What it goes wrong by itself is less: half a thousandth is what the kernel corrects it by.
const SLACK: Duration = Duration::from_secs(1);
const SLACK_PART: u32 = 1000;

/// Shows the time, and notices when it was set back.
#[derive(Clone)]
pub(super) struct Clock {
    wall: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    /// When it was last looked at, and what it showed.
    last: (Instant, i64),
}

impl Clock {
    /// A clock that shows what `wall` says.
    pub(super) fn new(wall: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        let last = (Instant::now(), nanoseconds(wall()));
        Self {
            wall: Arc::new(wall),
            last,
        }
    }

    /// Nanoseconds since 1970.
    pub(super) fn now(&self) -> i64 {
        nanoseconds((self.wall)())
    }

    /// How long ago a file was written to. One that comes from the future is new.
    pub(super) fn since(&self, modified: i128) -> Duration {
        let age = i128::from(self.now()) - modified;
        Duration::from_nanos(u64::try_from(age).unwrap_or_default())
    }

    /// Whether it was set back since this was asked last: what it showed then at the earliest. What
    /// happened since may bear any later stamp.
    pub(super) fn was_set_back(&mut self) -> Option<i64> {
        let (then, shown) = self.last;
        self.last = (Instant::now(), self.now());
        let (now, shows) = self.last;
        let passed = now.saturating_duration_since(then);
        let earliest = shows.saturating_sub(in_nanoseconds(passed));
        let slack = in_nanoseconds(SLACK + passed / SLACK_PART);
        (earliest < shown.saturating_sub(slack)).then_some(earliest)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(SystemTime::now)
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clock").field("last", &self.last).finish()
    }
}

fn nanoseconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, in_nanoseconds)
}

fn in_nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}
