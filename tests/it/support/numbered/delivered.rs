//! Owns what one queue has of one numbered log, and whether each line of it is what was written.

use std::collections::HashMap;

use super::{Recipe, Written};
use crate::support::oracle::NewLine;

/// What of the violations is kept for the report.
const VIOLATIONS_MAX: usize = 20;

/// The lines of one log that came out of one queue, whatever generation they came in.
pub struct Delivered {
    recipe: Recipe,
    pieces: Vec<Piece>,
    /// Place in `pieces` of a file id.
    places: HashMap<String, usize>,
    seen: Bits,
    violations: Vec<String>,
    violations_count: u64,
    expected: Vec<u8>,
}

/// The lines that came of one generation: they follow each other without a hole.
#[derive(Clone, Debug)]
pub struct Piece {
    pub file: String,
    /// The number of its first line.
    pub first: u64,
    /// That of its last whole line, and 1.
    pub end: u64,
    pub bytes: u64,
    /// It ends with the beginning of line `end`, of which the rest is missing.
    pub torn: bool,
}

impl Delivered {
    pub fn new(recipe: Recipe) -> Self {
        Self {
            recipe,
            pieces: Vec::new(),
            places: HashMap::new(),
            seen: Bits::default(),
            violations: Vec::new(),
            violations_count: 0,
            expected: Vec::new(),
        }
    }

    /// Holds a line against the one that must stand there.
    pub fn take(&mut self, line: &NewLine<'_>) {
        let place = match self.places.get(line.file) {
            Some(place) => *place,
            None => match number_of(line.content) {
                Some(first) => self.begin(line.file, first),
                None => return self.find(line, "has no number"),
            },
        };
        let Piece {
            end: number,
            bytes,
            torn,
            ..
        } = self.pieces[place];
        if torn {
            return self.find(line, "comes after one that was cut short");
        }
        if line.offset != bytes {
            return self.find(line, &format!("does not follow on the offset {bytes}"));
        }
        self.expected.clear();
        self.recipe.line(number, &mut self.expected);
        let piece = &mut self.pieces[place];
        let content = line.content.len() as u64;
        if line.content == self.expected && line.bytes == content + 1 {
            piece.end += 1;
            piece.bytes += line.bytes;
            if !self.seen.set(number) {
                self.find(line, &format!("is line {number}, which came before"));
            }
        } else if self.expected.starts_with(line.content) && line.bytes == content {
            piece.torn = true;
            piece.bytes += line.bytes;
        } else {
            self.find(line, &format!("is not line {number}"));
        }
    }

    fn begin(&mut self, file: &str, first: u64) -> usize {
        let place = self.pieces.len();
        self.places.insert(file.to_owned(), place);
        self.pieces.push(Piece {
            file: file.to_owned(),
            first,
            end: first,
            bytes: 0,
            torn: false,
        });
        place
    }

    fn find(&mut self, line: &NewLine<'_>, violation: &str) {
        self.violations_count += 1;
        if self.violations.len() < VIOLATIONS_MAX {
            let shown = &line.content[..line.content.len().min(60)];
            self.violations.push(format!(
                "{} (file {}), offset {}, {} bytes, {:?}… {violation}",
                line.path,
                line.file,
                line.offset,
                line.bytes,
                String::from_utf8_lossy(shown)
            ));
        }
    }

    /// By generation, in the order in which they first came.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Whole lines, each counted once.
    pub fn lines(&self) -> u64 {
        self.seen.count
    }

    pub fn has(&self, number: u64) -> bool {
        self.seen.has(number)
    }

    /// The highest number that came, and 1.
    pub fn end(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.end).max().unwrap_or(0)
    }

    /// No line is invented, altered, joined, or there twice, and none is missing within a piece.
    pub fn assert_clean(&self) {
        assert!(
            self.violations_count == 0,
            "{} lines are not what was written, among them {}:\n{}",
            self.violations_count,
            self.violations.len(),
            self.violations.join("\n")
        );
    }

    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// What differs from every line of every generation, in a file of its own each, in words.
    pub fn difference(&self, written: &Written) -> Option<String> {
        if let Some(torn) = self.pieces.iter().find(|piece| piece.torn) {
            return Some(format!("cut short: {torn:?}"));
        }
        let mut came: Vec<(u64, u64)> = self
            .pieces
            .iter()
            .map(|piece| (piece.first, piece.bytes))
            .collect();
        came.sort_unstable();
        let mut came = came.into_iter();
        for generation in &written.generations {
            let next = came.next();
            if next != Some((generation.first, generation.bytes)) {
                return Some(format!(
                    "first line and size are {next:?}, written was {generation:?}"
                ));
            }
        }
        came.next()
            .map(|more| format!("first line and size {more:?}, behind everything written"))
    }
}

/// The number that a line begins with.
fn number_of(content: &[u8]) -> Option<u64> {
    let digits = content.split(|byte| *byte == b' ').next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// A set of numbers, a bit each.
#[derive(Default)]
struct Bits {
    words: Vec<u64>,
    count: u64,
}

impl Bits {
    /// Whether it is new.
    fn set(&mut self, number: u64) -> bool {
        let (word, bit) = (number as usize / 64, 1 << (number % 64));
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.count += u64::from(new);
        new
    }

    fn has(&self, number: u64) -> bool {
        let word = self.words.get(number as usize / 64);
        word.is_some_and(|word| word & (1 << (number % 64)) != 0)
    }
}
