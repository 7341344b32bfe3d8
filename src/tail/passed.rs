//! Places that were passed on the way through a generation. What copytruncate copies is cut off a
//! moment later, and the writer goes on between the two: the copy ends somewhere before what was
//! read, and one of these places lies shortly before that end, wherever it is.

use crate::model::Mark;

/// Bytes from one place to the next at the beginning of a file,
const EVERY: u64 = 128;
/// and further on this part of what lies before: of a terabyte some two hundred are remembered.
const EVERY_PART: u64 = 8;

/// Marks in ascending order, ever further from each other.
#[derive(Clone, Debug, Default)]
pub(super) struct Passed(Vec<Mark>);

impl Passed {
    /// Where the next place is wanted.
    pub(super) fn next(&self) -> u64 {
        self.0.last().map_or(EVERY, |last| last.offset + gap(last))
    }

    /// Takes note of a place, if it is far enough from the last one.
    pub(super) fn pass(&mut self, mark: Mark) {
        let least = |last: &Mark| last.offset + (last.offset / EVERY_PART).max(1);
        if mark.offset >= self.0.last().map_or(1, least) {
            self.0.push(mark);
        }
    }

    /// The last place before `end`, if what lies between is little: what is the same up to a place
    /// may go on otherwise.
    pub(super) fn before(&self, end: u64) -> Option<&Mark> {
        let after = self.0.partition_point(|mark| mark.offset <= end);
        let last = self.0.get(after.checked_sub(1)?)?;
        let little = end - last.offset <= (end / EVERY_PART).max(EVERY);
        (little && last.offset >= end / 2).then_some(last)
    }

    /// Forgets all but what proves a copy that ends there.
    pub(super) fn keep_before(&mut self, end: u64) {
        let kept = self.before(end).copied();
        self.0 = kept.into_iter().collect();
    }
}

fn gap(mark: &Mark) -> u64 {
    (mark.offset / EVERY_PART).max(EVERY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Proof;

    fn mark(offset: u64) -> Mark {
        Mark {
            offset,
            proof: Proof::default(),
        }
    }

    #[test]
    fn wherever_a_copy_ends_a_place_lies_shortly_before_and_there_are_few() {
        for len in [200, 5_000, 5_000_000, 1 << 40] {
            let mut passed = Passed::default();
            while passed.next() <= len {
                passed.pass(mark(passed.next()));
            }
            assert!(passed.0.len() < 220, "{}", passed.0.len());
            for step in 1..1000 {
                let end = EVERY.max(len / 1000 * step);
                assert!(passed.before(end).is_some(), "{end} of {len}");
            }
        }
    }

    #[test]
    fn a_place_that_lies_far_before_the_end_proves_nothing() {
        let mut passed = Passed::default();
        for offset in [1, 2, 100, 1000] {
            passed.pass(mark(offset));
        }
        let before = |end| passed.before(end).map(|mark| mark.offset);
        for (end, place) in [
            (0, None),
            (1, Some(1)),
            (3, Some(2)),
            (99, None),
            (200, Some(100)),
            (201, Some(100)),
            (202, None),
            (999, None),
            (1142, Some(1000)),
            (1143, None),
        ] {
            assert_eq!(before(end), place, "{end}");
        }
        passed.keep_before(150);
        assert_eq!(passed.0.len(), 1);
        assert_eq!(passed.before(150).map(|mark| mark.offset), Some(100));
    }
}
