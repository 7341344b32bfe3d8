//! Owns the judgement on a queue: whether what was taken from it keeps the wire contract, and what
//! a consumer has of every file. It knows the contract alone, none of fantail's code.

mod batch;
mod coding;
mod coverage;
mod file;
mod line;
mod range;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use self::batch::Batch;
use self::file::Keeping;
pub use self::file::{FileLedger, NewLine, complete_lines};
use super::amqp::Consumer;
use super::message::Message;

/// How long a consumer is waited for before the deadline is looked at again.
const PATIENCE: Duration = Duration::from_millis(100);

/// Everything taken from one queue, in its order.
#[derive(Default)]
pub struct Ledger {
    tolerates_disorder: bool,
    keeping: Keeping,
    files: Vec<FileLedger>,
    /// Place in `files` of (agent, file id).
    places: HashMap<(String, String), usize>,
    by_id: HashMap<String, Contents>,
    id_of_ranges: HashMap<u64, String>,
    violations: Vec<String>,
    messages: u64,
    repeated_messages: u64,
    repeated_bytes: u64,
    redelivered_messages: u64,
}

/// What a message id stands for, as hashes.
struct Contents {
    ranges: u64,
    lines: u64,
}

/// Violations in one message, each told with the message's place and id.
pub(super) struct Findings<'l> {
    message: String,
    violations: &'l mut Vec<String>,
}

impl Findings<'_> {
    pub(super) fn add(&mut self, violation: impl AsRef<str>) {
        self.violations
            .push(format!("{}: {}", self.message, violation.as_ref()));
    }
}

impl Ledger {
    pub fn new() -> Self {
        Self::default()
    }

    /// For a queue that nacked, and whose consumers requeued: ranges may come in any order.
    pub fn tolerating_disorder(mut self) -> Self {
        self.tolerates_disorder = true;
        self
    }

    /// For gigabytes: of each line only its place and a hash are kept, 40 bytes.
    pub fn forgetting_text(mut self) -> Self {
        self.keeping = Keeping::Hashes;
        self
    }

    /// For tens of millions of lines: of a line nothing is kept, so that `take_with` must judge it.
    pub fn keeping_no_lines(mut self) -> Self {
        self.keeping = Keeping::Nothing;
        self
    }

    /// Takes messages until `condition` holds, which may be at once. Panics after `deadline`, or
    /// when the consumer ends.
    pub fn take_until(
        &mut self,
        consumer: &mut Consumer,
        deadline: Duration,
        what: &str,
        mut condition: impl FnMut(&Ledger) -> bool,
    ) {
        let end = Instant::now() + deadline;
        while !condition(self) {
            let seen = self.messages;
            assert!(
                Instant::now() < end,
                "not within {deadline:?}: {what}; {seen} messages came, of files:\n{}",
                self.summary()
            );
            if let Some(message) = consumer.next(PATIENCE) {
                self.take(&message);
            }
        }
    }

    /// Takes what is in the queue, until it is empty.
    pub fn take_rest(&mut self, consumer: &mut Consumer, deadline: Duration) {
        let end = Instant::now() + deadline;
        let mut empty_looks = 0;
        // A delivery that left the queue before the first empty look is here before the second.
        while empty_looks < 2 {
            assert!(
                Instant::now() < end,
                "{} is not empty within {deadline:?}",
                consumer.queue()
            );
            let ready = consumer.ready();
            match consumer.next(PATIENCE) {
                Some(message) => {
                    self.take(&message);
                    empty_looks = 0;
                }
                None if ready == 0 => empty_looks += 1,
                None => {}
            }
        }
    }

    /// Judges one message and adds it.
    pub fn take(&mut self, message: &Message) {
        self.take_with(message, &mut |_| {});
    }

    /// The same, and shows every line that is not dropped as a repeat.
    pub fn take_with(&mut self, message: &Message, show: &mut dyn FnMut(NewLine<'_>)) {
        let id = message.message_id.clone().unwrap_or_default();
        let mut violations = std::mem::take(&mut self.violations);
        let mut findings = Findings {
            message: format!("message {} (id {id})", self.messages),
            violations: &mut violations,
        };
        self.messages += 1;
        if let Some(batch) = batch::read(message, &mut findings) {
            let repeated = self.compare_with_namesake(&id, &batch, &mut findings);
            // The broker handed it out before: no doing of the agent's.
            let redelivered = repeated && message.redelivered;
            self.redelivered_messages += u64::from(redelivered);
            self.repeated_messages += u64::from(repeated && !redelivered);
            self.add(batch, redelivered, &mut findings, show);
        }
        self.violations = violations;
    }

    /// Whether a message of this id came before.
    fn compare_with_namesake(
        &mut self,
        id: &str,
        batch: &Batch,
        findings: &mut Findings<'_>,
    ) -> bool {
        let contents = Contents {
            ranges: hash_of_places(batch),
            lines: batch.lines_hash,
        };
        let namesake = self
            .id_of_ranges
            .entry(contents.ranges)
            .or_insert_with(|| id.to_owned());
        if namesake != id {
            findings.add(format!(
                "has the ranges of message id {namesake}, but another id"
            ));
        }
        let Some(earlier) = self.by_id.get(id) else {
            self.by_id.insert(id.to_owned(), contents);
            return false;
        };
        if earlier.ranges != contents.ranges {
            findings.add("message id reused for other ranges");
        } else if earlier.lines != contents.lines {
            findings.add("message id reused with other bytes in its lines");
        }
        true
    }

    fn add(
        &mut self,
        batch: Batch,
        redelivered: bool,
        findings: &mut Findings<'_>,
        show: &mut dyn FnMut(NewLine<'_>),
    ) {
        let Batch {
            agent,
            ranges,
            lines,
            ..
        } = batch;
        let places: Vec<usize> = ranges
            .iter()
            .map(|range| self.place(&agent, range))
            .collect();
        // Lines are weighed against the coverage before this message, so before its ranges.
        for line in lines {
            let file = &mut self.files[places[line.range]];
            if let Some(new) = file.new_line(&line, self.tolerates_disorder, findings) {
                show(new);
                file.add_line(line, self.keeping);
            }
        }
        for (range, place) in ranges.iter().zip(places) {
            let file = &mut self.files[place];
            let repeated = file.add_range(range, self.tolerates_disorder, findings);
            if !redelivered {
                self.repeated_bytes += repeated;
            }
        }
    }

    fn place(&mut self, agent: &str, range: &range::Range) -> usize {
        let key = (agent.to_owned(), range.file.clone());
        *self.places.entry(key).or_insert_with(|| {
            self.files.push(FileLedger::new(range));
            self.files.len() - 1
        })
    }

    /// All files, in the order in which they first came.
    pub fn files(&self) -> &[FileLedger] {
        &self.files
    }

    /// The generations of a path, in the order in which they first came.
    pub fn generations(&self, path: &str) -> Vec<&FileLedger> {
        self.files
            .iter()
            .filter(|file| file.path() == path)
            .collect()
    }

    /// The only generation of a path.
    pub fn file(&self, path: &str) -> &FileLedger {
        match self.generations(path)[..] {
            [file] => file,
            ref files => panic!(
                "{} generations of {path} in:\n{}",
                files.len(),
                self.summary()
            ),
        }
    }

    /// Bytes accounted for over all files, each counted once.
    pub fn covered_bytes(&self) -> u64 {
        self.files.iter().map(FileLedger::covered_bytes).sum()
    }

    /// Whether the path has just one generation, covered from 0 to `size`.
    pub fn has_covered(&self, path: &str, size: usize) -> bool {
        matches!(self.generations(path)[..], [file] if file.covered_to() == Some(size as u64))
    }

    /// Messages taken, repeats included.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Messages whose id came before, those that the broker marked as redelivered not counted.
    pub fn repeated_messages(&self) -> u64 {
        self.repeated_messages
    }

    /// Bytes of ranges that were covered already, redelivered messages not counted.
    pub fn repeated_bytes(&self) -> u64 {
        self.repeated_bytes
    }

    /// Messages that the broker itself handed out twice, say after a lost acknowledgement.
    pub fn redelivered_messages(&self) -> u64 {
        self.redelivered_messages
    }

    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// Panics with the first violations of the contract, if there are any.
    pub fn assert_clean(&self) {
        let first: Vec<&str> = self
            .violations
            .iter()
            .take(20)
            .map(String::as_str)
            .collect();
        assert!(
            first.is_empty(),
            "{} violations of the wire contract, the first {}:\n{}",
            self.violations.len(),
            first.len(),
            first.join("\n")
        );
    }

    pub fn assert_no_repeats(&self) {
        assert_eq!(
            (self.repeated_messages, self.repeated_bytes),
            (0, 0),
            "repeated messages and bytes"
        );
    }

    /// The path has one generation, and a consumer with coverage has exactly `content`: every line,
    /// in order, once. A file with an unfinished last line is given as `complete_lines(&bytes)`.
    pub fn assert_holds_file(&self, path: &str, content: &[u8]) {
        self.file(path).assert_holds(content);
    }

    /// The path has these generations, in this order.
    pub fn assert_holds_generations(&self, path: &str, contents: &[&[u8]]) {
        let files = self.generations(path);
        assert_eq!(
            files.len(),
            contents.len(),
            "generations of {path} in:\n{}",
            self.summary()
        );
        for (file, content) in files.into_iter().zip(contents) {
            file.assert_holds(content);
        }
    }

    fn summary(&self) -> String {
        let lines: Vec<String> = self.files.iter().map(FileLedger::summary).collect();
        lines.join("\n")
    }
}

/// Of files and offsets, which is what a message id is made of.
fn hash_of_places(batch: &Batch) -> u64 {
    let mut hasher = DefaultHasher::new();
    batch.agent.hash(&mut hasher);
    let place = |range: &range::Range| (range.file.clone(), range.start, range.end);
    let mut places: Vec<_> = batch.ranges.iter().map(place).collect();
    places.sort_unstable();
    places.hash(&mut hasher);
    hasher.finish()
}
