//! Owns the process that writes numbered lines, and what it says of them: the truth that queues are
//! held against.

use std::io::{BufRead as _, BufReader, PipeReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Signal;

use super::Recipe;
use crate::support::leash::Leash;
use crate::support::process::Process;

const PROGRAM: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/it/support/numbered/writer.py"
);
const END: Duration = Duration::from_secs(60);

/// What a program does with the descriptor of its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// Opens the log again on SIGHUP.
    Reopening,
    /// Appends to what it opened once.
    Holding,
}

/// Everything that was written.
#[derive(Debug, Default)]
pub struct Written {
    pub lines: u64,
    pub bytes: u64,
    /// In the order in which they were begun; none is empty.
    pub generations: Vec<Generation>,
}

/// The lines of one file, or of what one file held until it was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The number of its first line.
    pub first: u64,
    pub lines: u64,
    pub bytes: u64,
}

/// A writer that runs; killed when dropped, and with the test process.
pub struct NumberedWriter {
    process: Process,
    leash: Leash,
    paused: bool,
    lines: Arc<AtomicU64>,
    listener: JoinHandle<Written>,
}

impl NumberedWriter {
    pub fn start(log: &Path, recipe: &Recipe, keeping: Keeping) -> Self {
        let (said, saying) = std::io::pipe().unwrap();
        let mut command = Command::new("/usr/bin/python3");
        command
            .arg(PROGRAM)
            .args([log, &recipe.path])
            .arg(recipe.seed.to_string())
            .arg(match keeping {
                Keeping::Reopening => "reopening",
                Keeping::Holding => "holding",
            })
            .stdin(Stdio::null())
            .stdout(saying);
        let process = Process::spawn("writer.py", &mut command);
        // It holds the pipe's other end too, and the listener waits until all have let go of it.
        drop(command);
        let mut leash = Leash::on_processes();
        leash.hold(&[process.id()]);
        let lines = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lines);
        let listener = std::thread::spawn(move || listen(said, &counted));
        Self {
            process,
            leash,
            paused: false,
            lines,
            listener,
        }
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Lines that are known to be written.
    pub fn lines(&self) -> u64 {
        self.lines.load(Ordering::Acquire)
    }

    /// Lets it write, or not.
    pub fn pause(&mut self, paused: bool) {
        if paused != self.paused {
            let signal = if paused { Signal::STOP } else { Signal::CONT };
            self.process.signal(signal);
            self.paused = paused;
        }
    }

    /// Lets it end with a whole line.
    pub fn finish(mut self) -> Written {
        self.pause(false);
        self.process.signal(Signal::TERM);
        let status = self.process.wait(END);
        assert!(status.success(), "writer.py ended with {status}");
        self.leash.hold(&[]);
        self.listener.join().expect("writer.py said what it wrote")
    }
}

fn listen(said: PipeReader, lines: &AtomicU64) -> Written {
    let mut written = Written::default();
    for line in BufReader::new(said).lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let number = |word: usize| words[word].parse().unwrap();
        (written.lines, written.bytes) = (number(1), number(2));
        lines.store(written.lines, Ordering::Release);
        if words[0] != "at" {
            end_last(&mut written);
        }
        if words[0] == "begins" {
            written.generations.push(Generation {
                first: written.lines,
                lines: 0,
                // Until its end is known: where it begins.
                bytes: written.bytes,
            });
        }
    }
    written
}

fn end_last(written: &mut Written) {
    if let Some(last) = written.generations.last_mut() {
        last.lines = written.lines - last.first;
        last.bytes = written.bytes - last.bytes;
    }
}
