//! `fantail preview`: what would be published, shown without a broker and without touching state.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::Failure;
use super::access::{self, User};
use super::page::{Page, Tone, bytes, counted, escaped, say, shown, shown_bytes};
use crate::config::{self, Config};
use crate::pipeline::preview::{Left, Previewed, Request, preview};
use crate::sys;
use crate::tail::discover::{self, Found, Memory, Pattern, Scan, Selection};
use crate::wire::Header;

pub(super) const EXAMPLES: &str = "\
Examples:
  fantail preview
  fantail preview --source app --lines 3
  fantail preview --source app /tmp/sample.log     as if that file belonged to source app
  fantail preview --config ./new.toml --all | less
  sudo -u fantail fantail preview      as the daemon's user, who may read less than root

Reads files from their beginning, as the daemon does that finds them for the first time. Nothing is
published, and nothing is written anywhere. The ids of agent, files and messages are made up.

Exit codes: 0 done, 1 a file could not be read, 2 usage (also an unknown source), 74 I/O error,
78 bad configuration.";

/// Of one file so many bytes are read for the first lines: with filters they may be far between.
const BYTES_MAX: u64 = 64 << 20;
/// Columns for the names of properties and headers.
const NAMES: usize = 16;

/// What `preview` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Only files of this source; with FILE, the source to treat it as one of.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Show so many lines of each file.
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 10)]
    lines: u64,
    /// Show all messages with all their lines.
    #[arg(long, conflicts_with = "lines")]
    all: bool,
    /// Show these files, whether they match or not, instead of those that match now.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn run(path: &Path, arguments: &Arguments) -> Result<(), Failure> {
    let config = config::load(path)?;
    for warning in &config.warnings {
        say(&warning.to_string());
    }
    let only = match &arguments.source {
        Some(name) => Some(source_named(&config, name)?),
        None => None,
    };
    let mut preview = Preview {
        config: &config,
        user: User::current(),
        page: Page::new(),
        lines_max: if arguments.all {
            u64::MAX
        } else {
            arguments.lines
        },
        bytes_max: if arguments.all { u64::MAX } else { BYTES_MAX },
        output: sys::inode(&io::stdout()).ok(),
        failed: 0,
    };
    say("note: nothing is published or written; agent, file and message ids are made up here");
    let requests = if arguments.files.is_empty() {
        preview.matching(only)
    } else {
        preview.named(&arguments.files, only)?
    };
    for request in requests {
        if !preview.file(request)? {
            break;
        }
    }
    match preview.failed {
        0 => Ok(()),
        failed => Err(failure(
            1,
            &format!("{} could not be read", counted(failed, "file")),
        )),
    }
}

fn failure(code: u8, text: &str) -> Failure {
    Failure {
        text: format!("error: {text}"),
        code,
    }
}

fn source_named(config: &Config, name: &str) -> Result<usize, Failure> {
    let names = || config.sources.iter().map(|source| &*source.name);
    if let Some(index) = names().position(|known| known == name) {
        return Ok(index);
    }
    let advice = match config::nearest(name, names()) {
        Some(near) => format!("did you mean {near:?}?"),
        None if config.sources.is_empty() => "none is configured".to_owned(),
        None => format!("there are: {}", names().collect::<Vec<_>>().join(", ")),
    };
    let text = format!("--source {name:?}: no such source; {advice}");
    Err(failure(2, &escaped(&text)))
}

struct Preview<'a> {
    config: &'a Config,
    user: User,
    page: Page,
    /// Of each file.
    lines_max: u64,
    bytes_max: u64,
    /// Device and inode number of stdout: a preview of itself would never end.
    output: Option<(u64, u64)>,
    /// Files that could not be read.
    failed: usize,
}

impl Preview<'_> {
    /// What the daemon would find at its first scan.
    fn matching(&self, only: Option<usize>) -> Vec<Request> {
        let wanted = |source: usize| only.is_none_or(|only| only == source);
        let (scan, memory) = self.scan();
        if self.config.sources.is_empty() {
            say("note: no [[source]] is configured: fantail would run idle");
        }
        for (index, source) in self.config.sources.iter().enumerate() {
            let name = escaped(&source.name);
            let files = scan.found.iter().filter(|found| found.source == index);
            if !wanted(index) {
                continue;
            }
            if files.count() == 0 {
                say(&format!("note: no file matches source {name} now"));
            } else if source.from_end {
                say(&format!(
                    "note: source {name} has read_from = \"end\", so that the first start passes \
                     over what is there; name a FILE to see its lines"
                ));
            }
        }
        let passed_over = memory.notices().passed_over().len();
        if passed_over > 0 {
            let paths = counted(passed_over, "path");
            say(&format!(
                "note: {paths} passed over; fantail check says why"
            ));
        }
        let found = scan.found.into_iter().filter(|found| wanted(found.source));
        found.map(|found| self.request(found, true)).collect()
    }

    fn scan(&self) -> (Scan, Memory) {
        let sources = self.config.sources.iter();
        let selections: Vec<_> = sources.map(|source| source.selection.clone()).collect();
        let mut memory = Memory::silent();
        (discover::scan(&selections, &mut memory), memory)
    }

    fn request(&self, found: Found, first_scan: bool) -> Request {
        Request {
            found,
            first_scan,
            bytes_max: self.bytes_max,
        }
    }

    /// The files that were asked for by name. Somebody wants to see their lines, so that
    /// `read_from` does not apply.
    fn named(&mut self, files: &[PathBuf], only: Option<usize>) -> Result<Vec<Request>, Failure> {
        if self.config.sources.is_empty() {
            let text = "no [[source]] is configured that would say how files are treated";
            return Err(failure(78, text));
        }
        let (scan, _) = self.scan();
        let mut requests = Vec::new();
        for file in files {
            let path = match std::path::absolute(file) {
                Ok(path) => path,
                Err(error) => {
                    self.refuse(file, &error.to_string());
                    continue;
                }
            };
            let matched = scan.found.iter().find(|found| found.path == path);
            let found = match matched.cloned().map_or_else(|| alone(&path), Ok) {
                Ok(found) => found,
                Err(reason) => {
                    let reason =
                        reason.unwrap_or_else(|error| access::why_not(&path, &error, &self.user));
                    self.refuse(&path, &reason);
                    continue;
                }
            };
            let source = match (only, matched) {
                (Some(only), _) => only,
                (None, Some(found)) => found.source,
                (None, None) => {
                    let first = escaped(&self.config.sources[0].name);
                    let path = shown(&path);
                    say(&format!(
                        "note: no source matches {path}; shown as of source {first}"
                    ));
                    0
                }
            };
            requests.push(self.request(Found { source, ..found }, false));
        }
        Ok(requests)
    }

    fn refuse(&mut self, path: &Path, reason: &str) {
        say(&format!("error: {}: {}", shown(path), escaped(reason)));
        self.failed += 1;
    }

    /// Shows one file. False when nobody looks any more.
    fn file(&mut self, request: Request) -> Result<bool, Failure> {
        let path = request.found.path.clone();
        let source = &self.config.sources[request.found.source];
        if self.output == Some(request.found.inode) {
            self.refuse(&path, "this preview is written into it");
            return Ok(true);
        }
        if let Err(error) = access::size(&request.found) {
            let reason = access::why_not(&path, &error, &self.user);
            self.refuse(&path, &reason);
            return Ok(true);
        }
        let title = format!("{} (source {})", shown(&path), escaped(&source.name));
        self.page.line(Tone::Heading, &title);
        let (mut lines_left, mut messages) = (self.lines_max, 0);
        let (mut watched, mut broken) = (true, None);
        let left = preview(self.config, request, |previewed| {
            let lines = previewed.message.lines;
            if lines_left == 0 && lines > 0 {
                return false;
            }
            messages += 1;
            let exchange = &self.config.broker.topology.exchange;
            let all = message(&mut self.page, exchange, messages, &previewed, lines_left);
            lines_left = lines_left.saturating_sub(lines);
            match self.page.print_on() {
                Ok(still) => watched = still,
                Err(error) => (watched, broken) = (false, Some(error)),
            }
            watched && all
        });
        if let Some(error) = broken {
            return Err(failure(74, &format!("cannot write: {error}")));
        }
        let left = left.map_err(|error| failure(74, &format!("{}: {error}", shown(&path))))?;
        if !watched {
            return Ok(false);
        }
        self.left(&path, left, messages);
        self.page.line(Tone::Plain, "");
        self.page
            .print_on()
            .map_err(|error| failure(74, &format!("cannot write: {error}")))
    }

    /// Says how the reading of a file ended.
    fn left(&mut self, path: &Path, left: Left, messages: u64) {
        let at = shown(path);
        match left {
            Left::Read { unfinished: 0 } if messages == 0 => {
                say(&format!("note: {at}: nothing would be published of it"));
            }
            Left::Read { unfinished: 0 } => {}
            Left::Read { unfinished } => say(&format!(
                "note: {at}: the last line has no line end yet ({}); it is published once it has",
                bytes(unfinished)
            )),
            Left::Enough => say(&format!(
                "note: {at}: there is more (--all shows everything)"
            )),
            Left::TooLong(read) => say(&format!(
                "note: {at}: stopped after {} with fewer lines than asked for (--all shows \
                 everything)",
                bytes(read)
            )),
            Left::Unreadable => self.refuse(path, "could not be read to its end"),
        }
    }
}

/// A file that no source matches, looked for as one whose path is written out in full. Otherwise
/// why it is none, in words or as the error that says so.
fn alone(path: &Path) -> Result<Found, Result<String, io::Error>> {
    let metadata = path.symlink_metadata().map_err(Err)?;
    if metadata.is_dir() {
        return Err(Ok("a directory; name files in it".to_owned()));
    }
    if let Ok(target) = path.read_link() {
        let target = shown(&target);
        return Err(Ok(format!(
            "symbolic link, not followed (to {target}; name that path itself)"
        )));
    }
    let pattern = Pattern::parse(&literal(path)).map_err(|error| Ok(error.to_string()))?;
    let selection = Selection {
        include: vec![pattern],
        exclude: Vec::new(),
        compressed: true,
        follow_links: false,
    };
    let mut memory = Memory::silent();
    let scan = discover::scan(&[selection], &mut memory);
    let found = scan.found.into_iter().find(|found| found.path == path);
    found.ok_or_else(|| {
        let why = memory.notices().passed_over();
        let why = why.first().map_or("cannot be found", |(_, why)| *why);
        Ok(why.to_owned())
    })
}

/// A glob that matches this path; perhaps others too, where the path is not UTF-8.
fn literal(path: &Path) -> String {
    let mut glob = String::new();
    for chunk in OsStr::as_bytes(path.as_os_str()).utf8_chunks() {
        for c in chunk.valid().chars() {
            if "*?[]{}\\".contains(c) {
                let _ = write!(glob, "[{c}]");
            } else {
                glob.push(c);
            }
        }
        glob.extend(chunk.invalid().iter().map(|_| '?'));
    }
    glob
}

/// Puts a message on the page, with at most `lines_max` of its lines. Whether that was all of them.
fn message(
    page: &mut Page,
    exchange: &str,
    number: u64,
    previewed: &Previewed,
    lines_max: u64,
) -> bool {
    let Previewed { message, body } = previewed;
    page.line(Tone::Good, &format!("  message {number}"));
    let mut field = |indent: usize, name: &str, value: &str| {
        let width = NAMES + 4 - indent;
        let margin = " ".repeat(indent);
        page.line(
            Tone::Plain,
            &format!("{margin}{name:width$}  {}", escaped(value)),
        );
    };
    field(4, "exchange", exchange);
    field(4, "routing_key", &message.source);
    for (name, value) in message.properties() {
        match name {
            "timestamp" => field(4, name, &readable(message.timestamp)),
            _ => field(4, name, &value),
        }
    }
    field(4, "headers", "");
    for (name, value) in message.headers() {
        match value {
            Header::Text(text) => field(6, name, text),
            Header::Integer(number) => field(6, name, &number.to_string()),
        }
    }
    let packed = match message.content_encoding {
        Some(_) => format!(", packed into {}", bytes(message.body.len() as u64)),
        None => String::new(),
    };
    field(4, "body", &format!("{}{packed}", bytes(message.bytes)));
    let lines = body.split_inclusive(|byte| *byte == b'\n');
    for (shown, line) in (0_u64..).zip(lines) {
        if shown == lines_max {
            let rest = message.lines.saturating_sub(shown);
            let rest = format!("      … and {rest} more (--all shows them)");
            page.line(Tone::Doubtful, &rest);
            return false;
        }
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        page.line(Tone::Plain, &format!("      {}", shown_bytes(line)));
    }
    true
}

/// Seconds since 1970, as the property has them, and as people read them.
fn readable(seconds: u64) -> String {
    let timestamp = i64::try_from(seconds).map(Timestamp::from_second);
    match timestamp {
        Ok(Ok(timestamp)) => format!("{seconds} ({timestamp})"),
        _ => seconds.to_string(),
    }
}
