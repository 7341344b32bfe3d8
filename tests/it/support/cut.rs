//! Owns what the agent's log says of generations that were truncated.

use std::collections::HashSet;

/// Ids of generations.
pub struct Cut {
    truncated: HashSet<String>,
    begun: HashSet<String>,
    copied: HashSet<String>,
}

impl Cut {
    /// From the log of one run, in text.
    pub fn said_in(log: &str) -> Self {
        let ids = |said: &str, key: &str| -> HashSet<String> {
            let lines = log.lines().filter(|line| line.contains(said));
            let id = |line: &str| Some(line.split_once(key)?.1.get(..32)?.to_owned());
            lines.filter_map(id).collect()
        };
        Self {
            truncated: ids("log file was truncated", " old="),
            begun: ids("log file was truncated", " new="),
            copied: ids("goes on in its copy", " file="),
        }
    }

    pub fn was_truncated(&self, id: &str) -> bool {
        self.truncated.contains(id)
    }

    /// Whether it was begun in a file that was truncated, and not found as a copy.
    pub fn was_begun(&self, id: &str) -> bool {
        self.begun.contains(id)
    }

    /// Whether a generation whose end is not said yet may get more from a copy.
    pub fn waits_for_copy(&self, id: &str) -> bool {
        self.was_truncated(id) && !self.copied.contains(id)
    }
}
