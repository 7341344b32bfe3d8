//! `fantail spool`: a look into the spool of a daemon that runs, or does not.

use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::Failure;
use super::page::{Page, Row, Tone, bytes, counted, say, shown, shown_bytes};
use crate::config;
use crate::model::Coding;
use crate::spool::{
    self, Damage, Entry, Look, Next, Place, ReadError, SegmentLook, SegmentState, SpoolError,
};
use crate::wire::BODY_MAX;

pub(super) const EXAMPLES: &str = "\
Examples:
  fantail spool list
  fantail spool list --json | jq '.totals'
  fantail spool verify
  fantail spool cat --segment 3 | jq .message

Looks, and changes nothing; also beside a daemon that goes on using the spool.

Exit codes: 0 done, 1 something is damaged or missing, 2 usage (also no such segment), 74 I/O error,
77 permission, or something planted in the spool's directory, 78 bad configuration (of which only
[agent] and [spool] are looked at), or a spool of a newer version.";

/// What `spool` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Shows the segments and what is in them.
    List {
        /// Print it as one line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Reads everything, and says what is damaged and where.
    Verify,
    /// Prints the bodies of the messages, unpacked.
    Cat {
        /// Only those of this segment.
        #[arg(long, value_name = "NUMBER")]
        segment: Option<u64>,
    },
}

pub(super) fn run(path: &Path, arguments: &Arguments) -> Result<(), Failure> {
    let directory = config::spool_directory(path)?;
    let look = match spool::look(&directory) {
        Ok(look) => Some(look),
        Err(SpoolError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let directory = shown(&directory);
            say(&format!(
                "note: {directory} is not there: nothing was ever spooled"
            ));
            None
        }
        Err(error) => return Err(refused(&error)),
    };
    match arguments.action {
        Action::List { json } => list(&directory, look.as_ref(), json),
        Action::Verify => look.map_or(Ok(()), |look| verify(&directory, look)),
        Action::Cat { segment } => cat(look, segment),
    }
}

fn failure(code: u8, text: &str) -> Failure {
    Failure {
        text: format!("error: {text}"),
        code,
    }
}

fn refused(error: &SpoolError) -> Failure {
    let code = match error {
        SpoolError::Locked(_) => 75,
        SpoolError::Newer { .. } => 78,
        SpoolError::Planted { .. } => 77,
        SpoolError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => 77,
        SpoolError::Io { .. } => 74,
    };
    failure(code, &error.to_string())
}

fn unreadable(error: &ReadError) -> Failure {
    let denied = error.source.kind() == io::ErrorKind::PermissionDenied;
    failure(if denied { 77 } else { 74 }, &error.to_string())
}

fn unwritable(error: &io::Error) -> Failure {
    failure(74, &format!("cannot write: {error}"))
}

fn list(directory: &Path, look: Option<&Look>, as_json: bool) -> Result<(), Failure> {
    let segments = look.map(Look::segments).unwrap_or_default();
    let damaged = look.map(|look| &look.damaged[..]).unwrap_or_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs());
    if as_json {
        let told = listed(directory, look, &segments, now);
        let mut stdout = io::stdout().lock();
        return match writeln!(stdout, "{told}") {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written.map_err(|error| unwritable(&error)),
        };
    }
    let mut page = Page::new();
    let heads = ["segment", "bytes", "messages", "lines", "files", "age"];
    let mut rows = vec![Row::new(
        heads.map(str::to_owned).to_vec(),
        Tone::Plain,
        "state",
    )];
    rows.extend(segments.iter().map(|segment| row(segment, now)));
    page.rows(0, &rows);
    let sum = |of: fn(&SegmentLook) -> u64| segments.iter().map(of).sum::<u64>();
    page.line(
        Tone::Heading,
        &format!(
            "{}: {}, {} messages, {} lines",
            counted(segments.len(), "segment"),
            bytes(sum(|segment| segment.bytes)),
            sum(|segment| segment.entries),
            sum(|segment| segment.lines),
        ),
    );
    for damage in damaged {
        page.line(Tone::Bad, &told(damage));
    }
    page.print().map_err(|error| unwritable(&error))
}

fn row(segment: &SegmentLook, now: u64) -> Row {
    let age = segment.first_closed_at.map(|at| now.saturating_sub(at));
    let cells = vec![
        segment.number.to_string(),
        bytes(segment.bytes),
        segment.entries.to_string(),
        segment.lines.to_string(),
        segment.files.to_string(),
        age.map_or_else(|| "-".to_owned(), duration),
    ];
    let tone = match segment.state {
        SegmentState::Sealed | SegmentState::Open => Tone::Plain,
        SegmentState::Dropped => Tone::Doubtful,
        SegmentState::Damaged => Tone::Bad,
    };
    Row::new(cells, tone, state(segment.state))
}

fn state(state: SegmentState) -> &'static str {
    match state {
        SegmentState::Sealed => "sealed",
        SegmentState::Open => "open",
        SegmentState::Dropped => "dropped",
        SegmentState::Damaged => "damaged",
    }
}

/// `42s`, `3m 5s`, `2h 7m`, `9d 1h`.
fn duration(seconds: u64) -> String {
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3_600 % 24, "h"),
        (seconds / 60 % 60, "m"),
    ];
    let seconds = [(seconds % 60, "s")];
    let parts: Vec<_> = parts.into_iter().chain(seconds).collect();
    let first = parts.iter().position(|(count, _)| *count > 0);
    let first = first.unwrap_or(parts.len() - 1);
    let shown = parts[first..].iter().take(2);
    let shown: Vec<String> = shown
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect();
    shown.join(" ")
}

fn listed(
    directory: &Path,
    look: Option<&Look>,
    segments: &[SegmentLook],
    now: u64,
) -> serde_json::Value {
    let sum = |of: fn(&SegmentLook) -> u64| segments.iter().map(of).sum::<u64>();
    let segment = |segment: &SegmentLook| {
        json!({
            "segment": segment.number,
            "bytes": segment.bytes,
            "messages": segment.entries,
            "lines": segment.lines,
            "files": segment.files,
            "age_s": segment.first_closed_at.map(|at| now.saturating_sub(at)),
            "state": state(segment.state),
        })
    };
    let damage = |damage: &Damage| {
        json!({
            "segment": damage.at.segment,
            "offset": damage.at.offset,
            "bytes": damage.bytes,
            "what": damage.what.to_string(),
        })
    };
    let damaged = look.map(|look| look.damaged.iter().map(damage).collect::<Vec<_>>());
    json!({
        "directory": directory.to_string_lossy(),
        "id": look.map(|look| look.id().to_string()),
        "segments": segments.iter().map(segment).collect::<Vec<_>>(),
        "totals": {
            "segments": segments.len(),
            "bytes": sum(|segment| segment.bytes),
            "messages": sum(|segment| segment.entries),
            "lines": sum(|segment| segment.lines),
        },
        "damaged": damaged.unwrap_or_default(),
        "cut_bytes": look.map_or(0, |look| look.cut_bytes),
    })
}

/// One damage, as people read it.
fn told(damage: &Damage) -> String {
    let Damage {
        at, bytes: length, ..
    } = damage;
    format!("{at}: {}: {}", bytes(*length), damage.what)
}

fn verify(directory: &Path, mut look: Look) -> Result<(), Failure> {
    let segments = look.segments();
    let total = segments.iter().map(|segment| segment.bytes).sum();
    // Shows only where stderr is a terminal.
    let progress = ProgressBar::new(total);
    let style = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {eta} left");
    progress.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut found = look.damaged.clone();
    let (mut messages, mut lines, mut read) = (0_usize, 0_usize, 0);
    let begin = look.begin();
    let walked = each(&mut look, begin, |next| {
        match next {
            Next::Entry { entry, .. } => {
                messages += 1;
                lines += usize::try_from(entry.lines).unwrap_or(usize::MAX);
                read += entry.stored_len();
                progress.set_position(read);
            }
            Next::Damaged(damage) => found.push(damage),
            Next::End => {}
        }
        Ok(true)
    });
    progress.finish_and_clear();
    walked?;
    found.sort_by_key(|damage| (damage.at, damage.bytes));
    found.dedup_by_key(|damage| damage.at);
    forget_replaced(directory, &segments, &mut found);
    if look.cut_bytes > 0 {
        let cut = bytes(look.cut_bytes);
        say(&format!(
            "note: {cut} behind the last commit are not whole: being written now, or left by a crash; \
             they do not count"
        ));
    }
    let mut page = Page::new();
    for damage in &found {
        page.line(Tone::Bad, &told(damage));
    }
    let whole = if found.is_empty() {
        "; all is whole"
    } else {
        ""
    };
    let summary = format!(
        "{}, {}, {} in {}{whole}",
        counted(messages, "message"),
        counted(lines, "line"),
        bytes(total),
        counted(segments.len(), "segment"),
    );
    page.line(Tone::Plain, &summary);
    page.print().map_err(|error| unwritable(&error))?;
    match found.len() {
        0 => Ok(()),
        count => Err(failure(
            1,
            &format!("{} in the spool", counted(count, "damage")),
        )),
    }
}

/// A daemon may have given up a segment, or released it, while it was being read.
fn forget_replaced(directory: &Path, before: &[SegmentLook], found: &mut Vec<Damage>) {
    if found.is_empty() {
        return;
    }
    let Ok(now) = spool::look(directory) else {
        return;
    };
    let now = now.segments();
    let of = |segments: &[SegmentLook], number: u64| {
        let mut same = segments.iter().filter(|segment| segment.number == number);
        same.next()
            .map(|segment| (segment.end, segment.state == SegmentState::Dropped))
    };
    found.retain(|damage| {
        let number = damage.at.segment;
        let was = of(before, number);
        was.is_none() || was == of(&now, number)
    });
}

/// Every entry and every damage from `from` on, until `seen` says that it is enough. A segment that
/// is gone was released meanwhile.
fn each(
    look: &mut Look,
    from: Place,
    mut seen: impl FnMut(Next) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let mut place = from;
    loop {
        let next = match look.read(place) {
            Ok(next) => next,
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => {
                if error.behind <= place {
                    return Ok(());
                }
                place = error.behind;
                continue;
            }
            Err(error) => return Err(unreadable(&error)),
        };
        place = match &next {
            Next::Entry { behind, .. } => *behind,
            Next::Damaged(damage) => damage.behind,
            Next::End => return Ok(()),
        };
        if !seen(next)? {
            return Ok(());
        }
    }
}

fn cat(look: Option<Look>, segment: Option<u64>) -> Result<(), Failure> {
    let Some(mut look) = look else {
        return segment.map_or(Ok(()), |number| Err(no_segment(number, &[])));
    };
    let segments = look.segments();
    let (from, to) = match segment {
        None => (look.begin(), None),
        Some(number) => {
            let mut same = segments.iter().filter(|segment| segment.number == number);
            let segment = same.next().ok_or_else(|| no_segment(number, &segments))?;
            (segment.begin, Some(segment.end))
        }
    };
    let is_terminal = io::stdout().is_terminal();
    let mut stdout = io::BufWriter::new(io::stdout().lock());
    let mut damaged = 0_usize;
    let printed = each(&mut look, from, |next| {
        let at = match &next {
            Next::Entry { place, .. } => *place,
            Next::Damaged(damage) => damage.at,
            Next::End => return Ok(false),
        };
        if to.is_some_and(|to| at >= to) {
            return Ok(false);
        }
        match next {
            Next::Entry { place, entry, .. } => match body_of(&entry) {
                Ok(body) => return print(&mut stdout, &body, is_terminal),
                Err(error) => {
                    say(&format!("error: {place}: cannot be unpacked: {error}"));
                    damaged += 1;
                }
            },
            Next::Damaged(damage) => {
                say(&format!("error: {}", told(&damage)));
                damaged += 1;
            }
            Next::End => {}
        }
        Ok(true)
    });
    printed?;
    match stdout.flush() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(unwritable(&error)),
        _ => {}
    }
    match damaged {
        0 => Ok(()),
        count => Err(failure(
            1,
            &format!("{} in the spool", counted(count, "damage")),
        )),
    }
}

fn no_segment(number: u64, segments: &[SegmentLook]) -> Failure {
    let there = match (segments.first(), segments.last()) {
        (Some(first), Some(last)) => format!("there are {} to {}", first.number, last.number),
        _ => "there is none".to_owned(),
    };
    failure(2, &format!("--segment {number}: no such segment; {there}"))
}

/// The body before it was packed, with a line end behind an object that has none.
fn body_of(entry: &Entry) -> io::Result<Vec<u8>> {
    let most = BODY_MAX as u64 + 1;
    let mut body = Vec::new();
    match entry.coding {
        None => body.extend_from_slice(&entry.body),
        Some(Coding::Gzip) => {
            let packed = flate2::read::MultiGzDecoder::new(&entry.body[..]);
            packed.take(most).read_to_end(&mut body)?;
        }
        Some(Coding::Zstd) => {
            let packed = zstd::stream::read::Decoder::new(&entry.body[..])?;
            packed.take(most).read_to_end(&mut body)?;
        }
    }
    if body.len() as u64 == most {
        return Err(io::Error::other("more comes out of it than a body has"));
    }
    if entry.format == crate::model::Format::Json && !body.is_empty() {
        body.push(b'\n');
    }
    Ok(body)
}

/// False when nobody reads any more. On a terminal nothing in a line can do anything to it.
fn print(stdout: &mut impl Write, body: &[u8], is_terminal: bool) -> Result<bool, Failure> {
    let printed = if is_terminal {
        let lines = body.split_inclusive(|byte| *byte == b'\n');
        let mut lines = lines.map(|line| line.strip_suffix(b"\n").unwrap_or(line));
        lines.try_for_each(|line| writeln!(stdout, "{}", shown_bytes(line)))
    } else {
        stdout.write_all(body)
    };
    match printed {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        printed => printed.map(|()| true).map_err(|error| unwritable(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_two_units_at_most() {
        for (seconds, told) in [
            (0, "0s"),
            (42, "42s"),
            (185, "3m 5s"),
            (7_620, "2h 7m"),
            (9 * 86_400 + 3_700, "9d 1h"),
        ] {
            assert_eq!(duration(seconds), told);
        }
    }

    #[test]
    fn on_a_terminal_a_line_cannot_steer_it() {
        let mut shown = Vec::new();
        print(&mut shown, b"a\x1b[2J\nb\xff", true).expect("written");
        assert_eq!(shown, b"a\\u{1b}[2J\nb\\xff\n");
        let mut plain = Vec::new();
        print(&mut plain, b"a\x1b[2J\nb\xff", false).expect("written");
        assert_eq!(plain, b"a\x1b[2J\nb\xff");
    }
}
