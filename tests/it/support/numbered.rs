//! Owns numbered lines that prove themselves: their text, the process that writes them, and the
//! judgement on what came out of a queue, which holds a bit of each line.

mod delivered;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::Crc;

use super::random::Random;

pub use self::delivered::{Delivered, Piece};
pub use self::writer::{Generation, Keeping, NumberedWriter, Written};

/// Longer than the longest line.
const TEXT_BYTES: usize = 64 * 1024;

/// Mostly ASCII: a character that is cut makes a line that is not UTF-8, which is to be rare.
const WORDS: [&str; 12] = [
    "GET",
    "/api/v1/orders",
    "status=200",
    "took=13ms",
    "retry",
    "user=\"Ann\"",
    "C:\\temp\\x",
    "{\"k\":1}",
    "\t",
    "connection",
    "closed",
    "日志",
];

/// Makes line N of a log from N and a seed, as `writer.py` does.
#[derive(Clone)]
pub struct Recipe {
    seed: u64,
    text: Arc<[u8]>,
    path: PathBuf,
}

impl Recipe {
    /// Leaves its text in `directory`, for the writer.
    pub fn new(directory: &Path, name: &str, random: &mut Random) -> Self {
        let mut text = Vec::with_capacity(TEXT_BYTES + 32);
        while text.len() < TEXT_BYTES {
            text.extend_from_slice(random.pick(&WORDS).as_bytes());
            text.push(b' ');
        }
        let path = directory.join(format!("{name}.text"));
        std::fs::write(&path, &text).unwrap();
        Self {
            seed: random.next(),
            text: text.into(),
            path,
        }
    }

    /// Line `number` without its line end, into an empty buffer.
    pub fn line(&self, number: u64, line: &mut Vec<u8>) {
        let mix = self.mixed(number);
        let length = if (mix >> 40).is_multiple_of(5000) {
            20000 + (mix >> 20) % 30000
        } else {
            mix % 150
        } as usize;
        let start = (mix >> 8) as usize % (self.text.len() - length);
        line.extend_from_slice(number.to_string().as_bytes());
        line.push(b' ');
        line.extend_from_slice(&self.text[start..start + length]);
        let mut checksum = Crc::new();
        checksum.update(line);
        line.extend_from_slice(format!(" {:08x}", checksum.sum()).as_bytes());
    }

    fn mixed(&self, number: u64) -> u64 {
        let mix = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mix = mix.wrapping_add(self.seed);
        let mix = (mix ^ (mix >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mix ^ (mix >> 27)
    }
}
