//! What a command prints for people: aligned, in colour on a terminal, without control characters
//! of other people's making.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::path::Path;

pub(super) use crate::telemetry::escaped;

/// How a word is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Doubtful,
    Bad,
    Heading,
}

/// A line of a table: cells, then what is said of them, then notes below that.
pub(super) struct Row {
    pub(super) cells: Vec<String>,
    pub(super) tone: Tone,
    pub(super) told: String,
    pub(super) notes: Vec<String>,
}

impl Row {
    pub(super) fn new(cells: Vec<String>, tone: Tone, told: impl Into<String>) -> Self {
        Self {
            cells,
            tone,
            told: told.into(),
            notes: Vec::new(),
        }
    }
}

/// Text for stdout.
pub(super) struct Page {
    text: String,
    colour: bool,
}

impl Page {
    /// In colour only where stdout is a terminal and `NO_COLOR` is not set.
    pub(super) fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            text: String::new(),
            colour: wanted && io::stdout().is_terminal(),
        }
    }

    /// A line; an empty one stands above a heading.
    pub(super) fn line(&mut self, tone: Tone, text: &str) {
        if tone == Tone::Heading && !self.text.is_empty() {
            self.text.push('\n');
        }
        let text = self.toned(tone, text);
        self.text.push_str(text.trim_end());
        self.text.push('\n');
    }

    /// Rows below each other, columns as wide as their widest cell.
    pub(super) fn rows(&mut self, indent: usize, rows: &[Row]) {
        let columns = rows.iter().map(|row| row.cells.len()).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.cells.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in rows {
            let mut line = " ".repeat(indent);
            for (cell, width) in row.cells.iter().zip(&widths) {
                let _ = write!(line, "{cell:width$}  ");
            }
            let margin = " ".repeat(line.chars().count());
            line.push_str(&self.toned(row.tone, &row.told));
            self.text.push_str(line.trim_end());
            self.text.push('\n');
            for note in &row.notes {
                let _ = writeln!(self.text, "{margin}{note}");
            }
        }
    }

    fn toned(&self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => None,
            Tone::Good => Some("32"),
            Tone::Doubtful => Some("33"),
            Tone::Bad => Some("31"),
            Tone::Heading => Some("1"),
        };
        match code.filter(|_| self.colour && !text.is_empty()) {
            Some(code) => format!("\x1b[{code}m{text}\x1b[0m"),
            None => text.to_owned(),
        }
    }

    /// Prints it. A reader who has left is no error.
    pub(super) fn print(mut self) -> io::Result<()> {
        self.print_on().map(|_| ())
    }

    /// Prints what has gathered, and goes on with an empty page. False when the reader has left.
    pub(super) fn print_on(&mut self) -> io::Result<bool> {
        let text = std::mem::take(&mut self.text);
        let mut stdout = io::stdout().lock();
        let printed = stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush());
        match printed {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            printed => printed.map(|()| true),
        }
    }
}

/// A line on stderr, or several. That nobody may listen is no error.
pub(super) fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", text.trim_end());
}

/// A path as it may be printed.
pub(super) fn shown(path: &Path) -> String {
    shown_bytes(path.as_os_str().as_encoded_bytes())
}

/// Bytes as they may be printed: those that are not UTF-8 as `\xff`, control characters escaped.
pub(super) fn shown_bytes(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(&escaped(chunk.valid()));
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// `812 B`, `1.2 MiB`.
pub(super) fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut unit = 0;
    // In tenths, rounded down, so that nothing looks larger than it is.
    let mut tenths = u128::from(count) * 10 / 1024;
    while tenths >= 10_240 && unit + 1 < units.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, units[unit])
}

/// `1 file`, `2 files`.
pub(super) fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn what_others_named_cannot_write_to_the_terminal() {
        let path = Path::new(OsStr::from_bytes(b"/l/\x1b[2Ja\xff\n\xe2\x80\xae.log"));
        assert_eq!(shown(path), "/l/\\u{1b}[2Ja\\xff\\n\\u{202e}.log");
    }

    #[test]
    fn numbers_of_bytes_are_short() {
        assert_eq!(bytes(812), "812 B");
        assert_eq!(bytes(1_300_000), "1.2 MiB");
        assert_eq!(bytes(5 << 40), "5.0 TiB");
    }
}
