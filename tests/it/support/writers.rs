//! Owns log files that grow while a test looks on, and the text that is in them.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::random::Random;

/// Between two lines of a [`Load`].
const LOAD_PAUSE: Duration = Duration::from_micros(500);

const LEVELS: [&str; 4] = ["DEBUG", "INFO", "WARN", "ERROR"];

/// With characters of 2, 3 and 4 bytes, and what JSON must escape.
const WORDS: [&str; 16] = [
    "GET",
    "/api/v1/orders",
    "status=200",
    "took=13ms",
    "user=\"Jörg\"",
    "naïve",
    "日志",
    "🦀",
    "C:\\temp\\x",
    "{\"k\":1}",
    "\t",
    "\u{7f}",
    "\u{2028}",
    "a\rb",
    "</script>",
    "retry",
];

/// At least `size` bytes of log as programs write it: lines of 0 to 64 KiB, LF and CRLF mixed, some
/// empty, some with NUL, some not UTF-8. Ends in a line end.
pub fn log_text(random: &mut Random, size: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(size + 1024);
    let mut number = 0_u64;
    while text.len() < size {
        number += 1;
        push_line(&mut text, random, number);
        text.extend_from_slice(if random.once_in(20) { b"\r\n" } else { b"\n" });
    }
    text
}

fn push_line(text: &mut Vec<u8>, random: &mut Random, number: u64) {
    if random.once_in(50) {
        return;
    }
    let level = random.pick(&LEVELS);
    let _ = write!(
        text,
        "2026-11-22T13:15:00.{:03}Z {level} {number}",
        number % 1000
    );
    for _ in 0..random.below(16) {
        text.push(b' ');
        text.extend_from_slice(random.pick(&WORDS).as_bytes());
    }
    if random.once_in(100) {
        text.extend_from_slice(b"\0binary\0");
    }
    if random.once_in(100) {
        // A byte that never occurs, a character cut short, a surrogate, an overlong NUL.
        let wrong: [&[u8]; 4] = [b"\xff", b"\xe6\x97", b"\xed\xa0\x80", b"\xc0\x80"];
        text.extend_from_slice(random.pick(&wrong));
    }
    if random.once_in(2000) {
        let long = random.below(64 * 1024);
        text.extend(std::iter::repeat_n(b"0123456789abcdef", long / 16).flatten());
    }
}

/// The content of eight log files: those of the directory that `FANTAIL_TEST_LOGS` names, or
/// made-up ones of about the same size.
pub fn eight_logs(random: &mut Random) -> Vec<(String, Vec<u8>)> {
    let Some(directory) = std::env::var_os("FANTAIL_TEST_LOGS") else {
        return (0..8)
            .map(|number| (format!("{number}.log"), log_text(random, 300_000)))
            .collect();
    };
    let mut paths: Vec<PathBuf> = fs::read_dir(directory)
        .expect("FANTAIL_TEST_LOGS can be listed")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    paths.sort();
    let named = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?.to_owned();
        Some((name, fs::read(path).ok()?))
    };
    paths.iter().filter_map(named).collect()
}

/// `count` short lines that name themselves: `app 1`, `app 2` …
pub fn numbered_lines(name: &str, count: usize) -> Vec<u8> {
    let mut text = Vec::new();
    for number in 1..=count {
        let _ = writeln!(text, "{name} {number}");
    }
    text
}

/// Appends in one write, and makes the file if it is not there.
pub fn append(path: &Path, bytes: &[u8]) {
    appended(path).write_all(bytes).unwrap();
}

/// A thread that appends given bytes to a file in pieces of random size, without regard to where
/// lines and characters end.
pub struct Writer {
    thread: JoinHandle<()>,
}

impl Writer {
    /// As fast as the file system takes it.
    pub fn start(path: &Path, bytes: Vec<u8>, random: Random) -> Self {
        Self::start_at(path, bytes, random, u64::MAX)
    }

    /// At most `bytes_per_second`, evenly.
    pub fn start_at(path: &Path, bytes: Vec<u8>, random: Random, bytes_per_second: u64) -> Self {
        let file = appended(path);
        let thread = std::thread::spawn(move || grow(file, &bytes, random, bytes_per_second));
        Self { thread }
    }

    /// Waits until everything is written.
    pub fn finish(self) {
        self.thread.join().expect("the writer wrote everything");
    }
}

/// A thread that appends numbered lines, some dozens of kilobytes a second, until it is stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<u8>>,
}

impl Load {
    pub fn start(path: &Path, name: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut file, stopped, name) = (appended(path), Arc::clone(&stop), name.to_owned());
        let thread = std::thread::spawn(move || {
            let mut written = Vec::new();
            for number in 1_u64.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let line = format!("{name} {number} at {LOAD_PAUSE:?}\n");
                file.write_all(line.as_bytes()).unwrap();
                written.extend(line.into_bytes());
                std::thread::sleep(LOAD_PAUSE);
            }
            written
        });
        Self { stop, thread }
    }

    /// Everything that it wrote.
    pub fn stop(self) -> Vec<u8> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the writer wrote")
    }
}

fn grow(mut file: File, bytes: &[u8], mut random: Random, bytes_per_second: u64) {
    let begun = Instant::now();
    let mut written = 0;
    while written < bytes.len() {
        let largest = *random.pick(&[&1, &7, &100, &4096, &65536]);
        let end = bytes.len().min(written + 1 + random.below(largest));
        file.write_all(&bytes[written..end]).unwrap();
        written = end;
        let due = Duration::from_secs_f64(written as f64 / bytes_per_second as f64);
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
    }
}

fn appended(path: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .unwrap()
}
