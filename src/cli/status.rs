//! `fantail status`: asks the running daemon, and shows what it says.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::Failure;
use crate::status::{BrokerState, File, FileState, Queue, Source, SpoolMode, Status, bytes};
use crate::telemetry::escaped;
use crate::{config, sys};

pub(super) const EXAMPLES: &str = "\
Examples:
  fantail status
  fantail status --all
  fantail status --json | jq '.files[] | select(.lag > 0)'

Asks the daemon that runs with the same configuration, through its control socket
(`control` under [agent]). Only root and the daemon's own user may.

Exit codes: 0 done, 69 no daemon answers, 74 I/O error, 77 permission, 78 bad configuration.";

/// Files that the table shows, unless all are asked for.
const FILES_SHOWN: usize = 20;
/// The daemon answers within this time or not at all.
const TIMEOUT: Duration = Duration::from_secs(10);
/// No answer is longer.
const ANSWER_MAX: u64 = 1 << 30;

/// What `status` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print what the daemon says as one line of JSON.
    #[arg(long)]
    json: bool,
    /// Show all files, not only the 20 with the most lag.
    #[arg(long)]
    all: bool,
}

pub(super) fn run(config: &Path, arguments: &Arguments) -> Result<(), Failure> {
    let socket = config::control(config)?;
    let answer = answer(&socket)?;
    let shown = if arguments.json {
        json(&answer)
    } else {
        let status = understood(&answer)?;
        let stdout = io::stdout();
        let colour = stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none();
        table(&status, arguments.all, Paint(colour))
    };
    match io::stdout().lock().write_all(shown.as_bytes()) {
        // Whoever read it has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| failure(74, format!("error: {error}"))),
    }
}

/// What the daemon says of itself, asked for once.
pub(super) fn ask_once(socket: &Path) -> Result<Status, Failure> {
    understood(&answer(socket)?)
}

fn answer(socket: &Path) -> Result<String, Failure> {
    let answer = ask(socket).map_err(|error| no_answer(socket, &error))?;
    if let Ok(Refused { error }) = serde_json::from_str(&answer) {
        return Err(failure(
            69,
            format!("error: the daemon answers: {}", escaped(&error.message)),
        ));
    }
    Ok(answer)
}

fn understood(answer: &str) -> Result<Status, Failure> {
    serde_json::from_str(answer).map_err(|error| {
        let advice = "is it of another version? `fantail status --json` shows its answer";
        failure(
            74,
            format!("error: the daemon's answer is not understood: {error}; {advice}"),
        )
    })
}

#[derive(serde::Deserialize)]
struct Refused {
    error: Refusal,
}

#[derive(serde::Deserialize)]
struct Refusal {
    message: String,
}

fn ask(socket: &Path) -> io::Result<String> {
    let mut stream = connect(socket)?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(b"{\"request\":\"status\",\"protocol\":1}\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_MAX).read_to_string(&mut answer)?;
    if answer.ends_with('\n') {
        Ok(answer)
    } else {
        Err(io::Error::new(
            ErrorKind::UnexpectedEof,
            "the daemon ended the connection before it had answered",
        ))
    }
}

fn connect(socket: &Path) -> io::Result<UnixStream> {
    let parent = socket.parent().filter(|parent| *parent != Path::new(""));
    let directory = sys::open_directory(parent.unwrap_or(Path::new(".")))?;
    let name = socket.file_name().unwrap_or_default();
    // A link, planted by somebody else perhaps, is not followed.
    match sys::socket_at(&directory, name)? {
        (_, true) => sys::connect(&directory, name, socket),
        (_, false) => Err(io::Error::other("what stands there is no socket")),
    }
}

fn no_answer(socket: &Path, error: &io::Error) -> Failure {
    let path = escaped(&socket.to_string_lossy());
    let (code, text) = match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::NotADirectory => (
            69,
            format!(
                "no daemon answers at {path} ({error}); is it running, and with this --config? \
                 Its log says so if it could not make the socket"
            ),
        ),
        ErrorKind::PermissionDenied => (
            77,
            format!("{path}: {error}; ask as root or as the user that the daemon runs as"),
        ),
        ErrorKind::WouldBlock | ErrorKind::TimedOut => (
            69,
            format!("the daemon at {path} does not answer; its log may say why"),
        ),
        _ => (69, format!("no answer from the daemon at {path}: {error}")),
    };
    failure(code, format!("error: {text}"))
}

fn failure(code: u8, text: String) -> Failure {
    Failure { text, code }
}

/// The daemon's own text: valid JSON stays so when what could steer a terminal, which stands only
/// inside strings, is written as `\uXXXX`.
fn json(answer: &str) -> String {
    let mut shown = String::with_capacity(answer.len());
    for c in answer.chars() {
        if c.is_control() && c != '\n' {
            // Writing into a string does not fail.
            let _ = write!(shown, "\\u{:04x}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Colours, on a terminal.
#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn paint(self, code: u8, text: &str) -> String {
        if self.0 {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn bold(self, text: &str) -> String {
        self.paint(1, text)
    }

    fn good(self, text: &str) -> String {
        self.paint(32, text)
    }

    fn warn(self, text: &str) -> String {
        self.paint(33, text)
    }

    fn bad(self, text: &str) -> String {
        self.paint(31, text)
    }
}

fn table(status: &Status, all: bool, paint: Paint) -> String {
    let mut out = head(status, paint);
    out.push_str(&queues(&status.queues, paint));
    if status.sources.is_empty() {
        out.push_str("\nno [[source]] is configured\n");
    } else {
        out.push_str(&sources(&status.sources, paint));
    }
    out.push_str(&files(status.files.as_deref(), all, paint));
    out.push_str(&stages(status, paint));
    out.push_str(&errors(status, paint));
    out
}

fn head(status: &Status, paint: Paint) -> String {
    let broker = &status.broker;
    let state = match broker.state {
        BrokerState::Connected => paint.good("connected"),
        BrokerState::Connecting => paint.warn("connecting"),
        BrokerState::Blocked => paint.warn("blocked"),
        BrokerState::Down => paint.bad("down"),
    };
    let mut out = format!(
        "fantail {} on {}: process {}, up {}\n",
        escaped(&status.version),
        escaped(&status.host),
        status.pid,
        duration(status.uptime_s)
    );
    let mut row = |name: &str, text: String| {
        let name = paint.bold(&format!("{name:<8}"));
        // Writing into a string does not fail.
        let _ = writeln!(out, "{name} {text}");
    };
    row("agent", escaped(&status.agent));
    let config = &status.config;
    row(
        "config",
        format!(
            "{}, loaded {}",
            escaped(&config.path),
            escaped(&config.loaded_at)
        ),
    );
    if let Some(error) = &config.reload_error {
        row(
            "",
            paint.bad(&format!("a newer one is not in use: {}", escaped(error))),
        );
    }
    row(
        "broker",
        format!(
            "{state} since {}, {}",
            escaped(&broker.since),
            escaped(&broker.url)
        ),
    );
    if let Some(error) = &broker.last_error {
        row("", format!("last error: {}", escaped(error)));
    }
    row(
        "window",
        format!("{} in flight", bytes(broker.in_flight_bytes)),
    );
    let spool = &status.spool;
    if spool.limit_bytes > 0 || spool.mode != SpoolMode::Direct {
        row("spool", spool_text(status));
    }
    let lag: Option<u64> = status.sources.iter().map(|source| source.lag).sum();
    row("lag", lag.map_or("unknown".to_owned(), bytes));
    let lost = match status.lost_bytes {
        0 => "nothing".to_owned(),
        lost => paint.bad(&bytes(lost)),
    };
    row("lost", lost);
    out
}

fn spool_text(status: &Status) -> String {
    let spool = &status.spool;
    let mode = match spool.mode {
        SpoolMode::Direct => "direct",
        SpoolMode::Spooling => "spooling",
        SpoolMode::Draining => "draining",
    };
    let full = spool.full_in_s.map_or(String::new(), |seconds| {
        format!(", full in {}", duration(seconds))
    });
    format!(
        "{mode}, {} of {} in {} segments{full}",
        bytes(spool.bytes),
        bytes(spool.limit_bytes),
        spool.segments
    )
}

fn queues(queues: &[Queue], paint: Paint) -> String {
    let rows = queues.iter().map(|queue| {
        let state = match (queue.present, queue.required, &queue.drift) {
            (None, ..) => Cell::plain("unknown"),
            (Some(false), true, _) => Cell::painted("MISSING", paint.bad("MISSING")),
            (Some(false), false, _) => Cell::painted("missing", paint.warn("missing")),
            (Some(true), _, Some(_)) => Cell::painted("differs", paint.warn("differs")),
            (Some(true), ..) => Cell::painted("present", paint.good("present")),
        };
        let required = if queue.required { "required" } else { "" };
        vec![
            Cell::plain(escaped(&queue.name)),
            Cell::plain(escaped(&queue.kind)),
            state,
            Cell::plain(required),
            Cell::plain(queue.drift.as_deref().map(escaped).unwrap_or_default()),
        ]
    });
    let names = ["QUEUE", "TYPE", "STATE", "", ""];
    aligned(&names, &[], rows.collect(), paint)
}

fn sources(sources: &[Source], paint: Paint) -> String {
    let number = |number: Option<u64>| number.map_or("?".to_owned(), |number| number.to_string());
    let rows = sources.iter().map(|source| {
        vec![
            Cell::plain(escaped(&source.name)),
            Cell::plain(number(source.files)),
            Cell::plain(number(source.lines)),
            Cell::plain(number(source.dropped)),
            Cell::plain(source.lag.map_or("?".to_owned(), bytes)),
        ]
    });
    let names = ["SOURCE", "FILES", "LINES", "DROPPED", "LAG"];
    aligned(&names, &[1, 2, 3, 4], rows.collect(), paint)
}

fn files(files: Option<&[File]>, all: bool, paint: Paint) -> String {
    let Some(files) = files else {
        return format!(
            "\n{}\n",
            paint.warn("files: unknown; the lane does not answer")
        );
    };
    let mut files: Vec<&File> = files.iter().collect();
    let behind = |file: &&&File| file.lag > 0;
    let (count, lagging) = (files.len(), files.iter().filter(behind).count());
    // Stable: by path where the lag is the same.
    files.sort_by_key(|file| std::cmp::Reverse(file.lag));
    if !all {
        files.truncate(FILES_SHOWN);
    }
    let rows = files.iter().map(|file| {
        let state = match file.state {
            FileState::Active => Cell::plain("active"),
            FileState::Rotated => Cell::plain("rotated"),
            FileState::Deleted => Cell::plain("deleted"),
            FileState::Compressed => Cell::plain("compressed"),
            FileState::Unreadable => Cell::painted("unreadable", paint.bad("unreadable")),
            FileState::SetAside => Cell::painted("set aside", paint.bad("set aside")),
        };
        let oldest = file.oldest_unconfirmed_s;
        vec![
            Cell::plain(escaped(&file.path)),
            state,
            Cell::plain(bytes(file.size)),
            Cell::plain(bytes(file.confirmed)),
            Cell::plain(bytes(file.lag)),
            Cell::plain(oldest.map_or("-".to_owned(), duration)),
        ]
    });
    let names = ["FILE", "STATE", "SIZE", "CONFIRMED", "LAG", "OLDEST"];
    let mut out = aligned(&names, &[2, 3, 4, 5], rows.collect(), paint);
    let left = count - files.len();
    if left > 0 {
        // Writing into a string does not fail.
        let _ = writeln!(
            out,
            "and {left} more ({lagging} of {count} with lag); --all shows them"
        );
    }
    out
}

/// Only the stages with something to tell.
fn stages(status: &Status, paint: Paint) -> String {
    let quiet = ["running", "publishing", "connecting", "offline", "checking"];
    let telling = status
        .stages
        .iter()
        .filter(|stage| !quiet.contains(&stage.state.as_str()));
    let rows = telling.map(|stage| {
        let state = escaped(&stage.state);
        let painted = paint.warn(&state);
        vec![
            Cell::plain(escaped(&stage.name)),
            Cell::painted(state, painted),
            Cell::plain(escaped(&stage.since)),
        ]
    });
    aligned(&["STAGE", "STATE", "SINCE"], &[], rows.collect(), paint)
}

fn errors(status: &Status, paint: Paint) -> String {
    let mut out = String::new();
    if !status.errors.is_empty() {
        out = format!("\n{}\n", paint.bold("LAST WARNINGS AND ERRORS"));
    }
    for error in &status.errors {
        let level = format!("{:<5}", escaped(&error.level));
        let level = match error.level.as_str() {
            "ERROR" => paint.bad(&level),
            _ => paint.warn(&level),
        };
        // Writing into a string does not fail.
        let _ = writeln!(
            out,
            "{}  {level}  {}",
            escaped(&error.time),
            escaped(&error.message)
        );
    }
    out
}

/// A cell of a table: what it takes up, and how it is written.
struct Cell {
    width: usize,
    text: String,
}

impl Cell {
    fn plain(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            width: text.chars().count(),
            text,
        }
    }

    fn painted(plain: impl AsRef<str>, text: String) -> Self {
        let width = plain.as_ref().chars().count();
        Self { width, text }
    }
}

/// A table with a heading; nothing without rows. Columns are two spaces apart.
fn aligned(names: &[&str], right: &[usize], rows: Vec<Vec<Cell>>, paint: Paint) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let heading = names
        .iter()
        .map(|name| Cell::painted(name, paint.bold(name)))
        .collect();
    let rows: Vec<Vec<Cell>> = std::iter::once(heading).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].width).max().unwrap_or(0);
    let widths: Vec<usize> = (0..names.len()).map(width).collect();
    let mut out = String::from("\n");
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let fill = " ".repeat(widths[column] - cell.width);
            let (before, after) = if right.contains(&column) {
                (fill.as_str(), "")
            } else {
                ("", fill.as_str())
            };
            let gap = if column == 0 { "" } else { "  " };
            // Writing into a string does not fail.
            let _ = write!(line, "{gap}{before}{}{after}", cell.text);
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Seconds as people say them: `5s`, `3m 20s`, `2h 5m`, `4d 3h`.
pub(super) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m {}s", seconds % 60),
        3600..86_400 => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn numbers_are_short_and_never_look_smaller_than_they_should() {
        assert_eq!(duration(59), "59s");
        assert_eq!(duration(200), "3m 20s");
        assert_eq!(duration(90_061), "1d 1h");
    }

    #[test]
    fn columns_are_aligned_whatever_their_colour() {
        let paint = Paint(true);
        let rows = vec![
            vec![
                Cell::plain("a"),
                Cell::painted("no", paint.bad("no")),
                Cell::plain("1"),
            ],
            vec![Cell::plain("bcd"), Cell::plain("yes"), Cell::plain("10")],
        ];
        let table = aligned(&["X", "Y", "N"], &[2], rows, paint);
        let plain = table
            .replace("\x1b[1m", "")
            .replace("\x1b[31m", "")
            .replace("\x1b[0m", "");
        assert_eq!(plain, "\nX    Y     N\na    no    1\nbcd  yes  10\n");
    }

    #[test]
    fn json_stays_valid_when_it_is_made_harmless() {
        let shown = json("{\"a\":\"\u{9b}2J\u{7f}\"}\n");
        assert_eq!(shown, "{\"a\":\"\\u009b2J\\u007f\"}\n");
        let value: serde_json::Value = serde_json::from_str(&shown).expect("valid");
        assert_eq!(value["a"], "\u{9b}2J\u{7f}");
    }

    #[test]
    fn a_missing_socket_and_a_forbidden_one_have_their_own_codes() {
        let path = PathBuf::from("/run/x");
        let code = |kind: ErrorKind| no_answer(&path, &kind.into()).code;
        assert_eq!(code(ErrorKind::NotFound), 69);
        assert_eq!(code(ErrorKind::ConnectionRefused), 69);
        assert_eq!(code(ErrorKind::TimedOut), 69);
        assert_eq!(code(ErrorKind::PermissionDenied), 77);
    }
}
