//! Owns waiting: for a condition, with a deadline, never for a time to pass.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Returns once `condition` holds; panics with `what` when it does not within `deadline`.
pub fn wait_for(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    wait_for_some(deadline, what, || condition().then_some(()));
}

/// Like [`wait_for`], for a condition that brings a value with it.
pub fn wait_for_some<T>(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        std::thread::sleep(POLL);
    }
}
