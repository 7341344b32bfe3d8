//! Owns randomness that can be had again: a seed makes a run.

use std::time::{SystemTime, UNIX_EPOCH};

/// splitmix64 (Steele, Lea and Flood, 2014): one addition and a mix per number, any seed is good.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Seeded from `FANTAIL_TEST_SEED`, or anew, and printed: a failed test shows what to set.
    pub fn from_environment() -> Self {
        let seed = match std::env::var("FANTAIL_TEST_SEED") {
            Ok(text) => text.parse().expect("FANTAIL_TEST_SEED is a number"),
            Err(_) => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap()
                .as_nanos() as u64,
        };
        println!("FANTAIL_TEST_SEED={seed}");
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to `end` - 1; `end` is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn pick<'a, T: ?Sized>(&mut self, from: &'a [&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    /// Another stream of numbers, for a thread.
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }
}
