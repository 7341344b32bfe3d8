//! The TOML as typed: tables that know which of their keys were taken, values that know where they
//! stand, problems that show the place.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::amqp::Argument;

/// The keys of the contract, by table.
pub const ROOT: &[&str] = &["agent", "source", "batch", "broker", "spool", "http"];
/// `[agent]`.
pub const AGENT: &[&str] = &[
    "state_dir",
    "control",
    "host",
    "labels",
    "shutdown_timeout",
    "max_deleted_bytes",
];
/// `[[source]]`.
pub const SOURCE: &[&str] = &[
    "name",
    "include",
    "exclude",
    "read_from",
    "ignore_older",
    "compressed",
    "follow_symlinks",
    "poll_interval",
    "max_line",
    "encoding",
    "labels",
    "keep",
    "drop",
    "redact",
    "parse",
    "timestamp",
    "urgent",
    "urgent_priority",
    "multiline",
];
/// `[source.multiline]`.
pub const MULTILINE: &[&str] = &["start", "continuation", "timeout", "max_lines", "max_bytes"];
/// An entry of `redact`.
pub const REDACT: &[&str] = &["pattern", "replace"];
/// `[batch]`.
pub const BATCH: &[&str] = &[
    "format",
    "compression",
    "level",
    "max_bytes",
    "max_lines",
    "linger",
];
/// `[broker]`.
pub const BROKER: &[&str] = &[
    "urls",
    "password_file",
    "exchange",
    "declare",
    "check_interval",
    "heartbeat",
    "connect_timeout",
    "confirm_timeout",
    "max_in_flight",
    "max_rate",
    "tls",
    "queue",
];
/// `[broker.tls]`.
pub const TLS: &[&str] = &["ca", "cert", "key", "server_name"];
/// `[[broker.queue]]`.
pub const QUEUE: &[&str] = &["name", "type", "arguments", "required"];

/// `[spool]`.
pub const SPOOL: &[&str] = &["dir", "max_bytes", "min_free", "segment_bytes", "when_full"];

/// `[http]`.
pub const HTTP: &[&str] = &["listen", "expose"];

/// One thing that is wrong, or looks wrong, and where.
#[derive(Clone, Debug)]
pub struct Problem {
    severity: Severity,
    path: PathBuf,
    text: String,
    place: Option<Place>,
    advice: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    Error,
    Warning,
}

#[derive(Clone, Debug)]
struct Place {
    line: usize,
    column: usize,
    width: usize,
    shown: Option<String>,
}

impl Problem {
    /// A problem with a whole file.
    #[must_use]
    pub fn of_file(path: &Path, text: String) -> Self {
        Self {
            severity: Severity::Error,
            path: path.to_path_buf(),
            text,
            place: None,
            advice: None,
        }
    }

    /// Where it belongs among the problems of the same file.
    #[must_use]
    pub fn order(&self) -> (usize, usize) {
        let place = self.place.as_ref();
        place.map_or((0, 0), |place| (place.line, place.column))
    }

    /// Without the line of the file: `fantail.toml:3:1: what is wrong; what to write`.
    #[must_use]
    pub fn in_one_line(&self) -> String {
        let place = self.place.as_ref();
        let place = place.map_or(String::new(), |place| {
            format!(":{}:{}", place.line, place.column)
        });
        let advice = self.advice.as_ref();
        let advice = advice.map_or(String::new(), |advice| format!("; {advice}"));
        format!("{}{place}: {}{advice}", self.path.display(), self.text)
    }

    /// What to write instead.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<Option<String>>) -> Self {
        self.advice = advice.into();
        self
    }

    /// The same as something that does not keep the configuration from being used.
    #[must_use]
    pub fn as_warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// Whether the configuration can be used although.
    #[must_use]
    pub fn is_warning(&self) -> bool {
        self.severity == Severity::Warning
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let Some(place) = &self.place else {
            writeln!(f, "{severity}: {path}: {}", self.text)?;
            return match &self.advice {
                Some(advice) => writeln!(f, "  {advice}"),
                None => Ok(()),
            };
        };
        let (line, column) = (place.line, place.column);
        writeln!(f, "{severity}: {path}:{line}:{column}: {}", self.text)?;
        if let Some(shown) = &place.shown {
            let number = line.to_string();
            let margin = " ".repeat(number.len());
            let before = " ".repeat(column - 1);
            let mark = "^".repeat(place.width.max(1));
            let advice = self.advice.as_deref().unwrap_or_default();
            writeln!(f, "{margin} |\n{number} | {shown}")?;
            writeln!(
                f,
                "{}",
                format!("{margin} | {before}{mark} {advice}").trim_end()
            )?;
        } else if let Some(advice) = &self.advice {
            writeln!(f, "  {advice}")?;
        }
        Ok(())
    }
}

/// A configuration file.
#[derive(Debug)]
pub struct Document {
    source: Arc<SourceText>,
}

#[derive(Debug)]
struct SourceText {
    path: PathBuf,
    text: String,
}

impl SourceText {
    /// The line is shown only where it cannot hold a password.
    fn problem(&self, span: Range<usize>, text: String, show: bool) -> Problem {
        let start = span.start.min(self.text.len());
        let line_start = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = self.text[start..]
            .find('\n')
            .map_or(self.text.len(), |at| start + at);
        let end = span.end.clamp(start, line_end);
        let shown = |text: &str| -> String {
            text.chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect()
        };
        let line = &self.text[line_start..line_end];
        let show = show && !may_hold_password(line);
        Problem {
            severity: Severity::Error,
            path: self.path.clone(),
            text,
            place: Some(Place {
                line: self.text[..start].matches('\n').count() + 1,
                column: self.text[line_start..start].chars().count() + 1,
                width: self.text[start..end].chars().count(),
                shown: show.then(|| shown(line)),
            }),
            advice: None,
        }
    }
}

/// Whether a broker's address may stand in this line, also one with a mistake in it.
fn may_hold_password(line: &str) -> bool {
    ["://", "amqp:", "amqps:"]
        .iter()
        .any(|sign| line.contains(sign))
        || line.contains('@') && line.contains(':')
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Spot<T> {
    /// The value.
    pub value: T,
    source: Arc<SourceText>,
    span: Range<usize>,
}

impl<T> Spot<T> {
    /// A problem with this value.
    #[must_use]
    pub fn problem(&self, text: String) -> Problem {
        self.source.problem(self.span.clone(), text, true)
    }

    /// A problem with this value, whose line must not be shown.
    #[must_use]
    pub fn secret_problem(&self, text: String) -> Problem {
        self.source.problem(self.span.clone(), text, false)
    }

    /// Another value at the same place.
    #[must_use]
    pub fn with<U>(&self, value: U) -> Spot<U> {
        Spot {
            value,
            source: Arc::clone(&self.source),
            span: self.span.clone(),
        }
    }
}

impl Document {
    /// Reads a file.
    pub fn read(path: &Path, problems: &mut Vec<Problem>) -> Option<Self> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) => {
                problems.push(Problem::of_file(path, format!("cannot be read: {error}")));
                return None;
            }
        };
        let source = |text: String| SourceText {
            path: path.to_path_buf(),
            text,
        };
        match String::from_utf8(bytes) {
            Ok(text) => Some(Self {
                source: Arc::new(source(text)),
            }),
            Err(error) => {
                let good = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                let problem = source(text).problem(good..good, "not UTF-8".to_owned(), true);
                problems.push(problem.advise("TOML is UTF-8: convert the file".to_owned()));
                None
            }
        }
    }

    /// Its table, with what the parser could make of it; nothing after syntax errors.
    pub fn root<'a>(
        &'a self,
        environment: &'a dyn Fn(&str) -> Option<String>,
        problems: &mut Vec<Problem>,
    ) -> Option<Table<'a>> {
        let (table, errors) = DeTable::parse_recoverable(&self.source.text);
        let mut lines = HashSet::new();
        for error in &errors {
            let span = error.span().unwrap_or_default();
            let problem = self.source.problem(span, error.message().to_owned(), true);
            let advice = (error.message() == "duplicate key")
                .then(|| "it stands above already: keep one of them".to_owned());
            // What else is wrong with a line follows from the first thing, as a rule.
            if lines.insert(problem.order().0) {
                problems.push(problem.advise(advice));
            }
        }
        errors.is_empty().then(|| Table {
            source: Arc::clone(&self.source),
            environment,
            span: table.span(),
            entries: table.into_inner(),
            taken: HashSet::new(),
        })
    }
}

/// A table some of whose keys were taken.
pub struct Table<'a> {
    source: Arc<SourceText>,
    environment: &'a dyn Fn(&str) -> Option<String>,
    span: Range<usize>,
    entries: DeTable<'a>,
    taken: HashSet<String>,
}

impl<'a> Table<'a> {
    /// A problem with the table as a whole.
    #[must_use]
    pub fn problem(&self, text: String) -> Problem {
        self.source.problem(self.span.clone(), text, true)
    }

    /// Whether `key` stands here, whatever its value.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Whether `key` is a list with nothing in it, not even something wrong.
    #[must_use]
    pub fn is_empty_list(&self, key: &str) -> bool {
        let value = self.entries.get(key).map(Spanned::get_ref);
        matches!(value, Some(DeValue::Array(items)) if items.is_empty())
    }

    /// Whether `key` is an empty text.
    #[must_use]
    pub fn is_empty_text(&self, key: &str) -> bool {
        let value = self.entries.get(key).map(Spanned::get_ref);
        value.and_then(DeValue::as_str).is_some_and(str::is_empty)
    }

    /// A problem with the value of `key`, or with the table where there is none.
    #[must_use]
    pub fn problem_of(&self, key: &str, text: String) -> Problem {
        self.spot_of(key).problem(text)
    }

    fn spot<T>(&self, span: Range<usize>, value: T) -> Spot<T> {
        Spot {
            value,
            source: Arc::clone(&self.source),
            span,
        }
    }

    fn take(&mut self, key: &str) -> Option<Spot<DeValue<'a>>> {
        self.taken.insert(key.to_owned());
        let value = self.entries.get(key)?;
        Some(self.spot(value.span(), value.get_ref().clone()))
    }

    /// A text, with variables of the environment in it.
    pub fn string(&mut self, key: &str, problems: &mut Vec<Problem>) -> Option<Spot<String>> {
        let spot = self.take(key)?;
        self.text(&spot, problems)
    }

    /// A text as it stands: no variables in it.
    pub fn literal(&mut self, key: &str, problems: &mut Vec<Problem>) -> Option<Spot<String>> {
        let spot = self.take(key)?;
        plain(&spot, problems)
    }

    /// Where `key` stands, or the table where it does not.
    #[must_use]
    pub fn spot_of(&self, key: &str) -> Spot<()> {
        let span = self.entries.get(key).map(Spanned::span);
        self.spot(span.unwrap_or_else(|| self.span.clone()), ())
    }

    fn text(&self, spot: &Spot<DeValue<'a>>, problems: &mut Vec<Problem>) -> Option<Spot<String>> {
        let Some(text) = spot.value.as_str() else {
            problems.push(wrong_type(spot, "a text in quotes"));
            return None;
        };
        match expand(text, self.environment) {
            Ok(text) => Some(spot.with(text)),
            Err((text, advice)) => {
                problems.push(spot.problem(text).advise(advice));
                None
            }
        }
    }

    /// A list of texts as they stand.
    pub fn literals(
        &mut self,
        key: &str,
        problems: &mut Vec<Problem>,
    ) -> Option<Vec<Spot<String>>> {
        let items = self.items(key, problems)?;
        Some(
            items
                .iter()
                .filter_map(|item| plain(item, problems))
                .collect(),
        )
    }

    /// A list of texts.
    pub fn strings(&mut self, key: &str, problems: &mut Vec<Problem>) -> Option<Vec<Spot<String>>> {
        let items = self.items(key, problems)?;
        let text = |item| self.text(item, problems);
        Some(items.iter().filter_map(text).collect())
    }

    fn items(&mut self, key: &str, problems: &mut Vec<Problem>) -> Option<Vec<Spot<DeValue<'a>>>> {
        let spot = self.take(key)?;
        let DeValue::Array(items) = &spot.value else {
            let problem = wrong_type(&spot, "a list of texts");
            problems.push(problem.advise(format!("write {key} = [\"…\"]")));
            return None;
        };
        let item = |item: &Spanned<DeValue<'a>>| self.spot(item.span(), item.get_ref().clone());
        Some(items.iter().map(item).collect())
    }

    /// One of some words.
    pub fn choice<T: Copy>(
        &mut self,
        key: &str,
        choices: &[(&str, T)],
        problems: &mut Vec<Problem>,
    ) -> Option<T> {
        let spot = self.string(key, problems)?;
        let chosen = choices.iter().find(|(word, _)| *word == spot.value);
        if chosen.is_none() {
            let words: Vec<String> = choices
                .iter()
                .map(|(word, _)| format!("{word:?}"))
                .collect();
            let text = format!("`{key}` is one of {}", words.join(", "));
            let near = nearest(&spot.value, choices.iter().map(|(word, _)| *word));
            let advice = near.map(|near| format!("did you mean {near:?}?"));
            problems.push(spot.problem(text).advise(advice));
        }
        chosen.map(|(_, value)| *value)
    }

    /// Yes or no.
    pub fn boolean(&mut self, key: &str, problems: &mut Vec<Problem>) -> Option<bool> {
        let spot = self.take(key)?;
        let boolean = spot.value.as_bool();
        if boolean.is_none() {
            problems.push(wrong_type(&spot, "true or false"));
        }
        boolean
    }

    /// A whole number, not negative.
    pub fn integer(&mut self, key: &str, problems: &mut Vec<Problem>) -> Option<Spot<u64>> {
        let spot = self.take(key)?;
        let problem = match whole_number(&spot.value).map(u64::try_from) {
            Some(Ok(number)) => return Some(spot.with(number)),
            Some(Err(_)) => spot.problem(format!("`{key}` must not be negative")),
            None if spot.value.is_integer() => spot.problem("too large a number".to_owned()),
            None => wrong_type(&spot, "a whole number"),
        };
        problems.push(problem);
        None
    }

    /// A number of bytes: `"64KiB"`, `"1MB"`, or a plain number.
    pub fn size(&mut self, key: &str, problems: &mut Vec<Problem>) -> Option<Spot<u64>> {
        let spot = self.take(key)?;
        if spot.value.is_integer() {
            return self.integer(key, problems);
        }
        if !spot.value.is_str() {
            let problem = wrong_type(&spot, "a size");
            problems.push(problem.advise(SIZES.to_owned()));
            return None;
        }
        let text = self.text(&spot, problems)?;
        let size = parse_size(&text.value);
        if size.is_none() {
            let problem = text.problem(format!("not a size: {:?}", text.value));
            problems.push(problem.advise(SIZES.to_owned()));
        }
        size.map(|size| text.with(size))
    }

    /// A length of time, or none where an empty text stands.
    pub fn optional_duration(
        &mut self,
        key: &str,
        problems: &mut Vec<Problem>,
    ) -> Option<Spot<Duration>> {
        let value = self.entries.get(key).map(Spanned::get_ref);
        if value.and_then(DeValue::as_str) == Some("") {
            self.taken.insert(key.to_owned());
            return None;
        }
        self.duration(key, problems)
    }

    /// A length of time: `"250ms"`, `"5s"`, `"7d"`.
    pub fn duration(&mut self, key: &str, problems: &mut Vec<Problem>) -> Option<Spot<Duration>> {
        let spot = self.take(key)?;
        if let Some(number) = whole_number(&spot.value) {
            let problem = if number < 0 {
                let problem = spot.problem(format!("`{key}` must not be negative"));
                problem.advise(DURATIONS.to_owned())
            } else {
                let problem = spot.problem("a duration needs a unit".to_owned());
                problem.advise(format!("write \"{number}s\" or \"{number}ms\""))
            };
            problems.push(problem);
            return None;
        }
        if !spot.value.is_str() {
            let problem = wrong_type(&spot, "a duration");
            problems.push(problem.advise(DURATIONS.to_owned()));
            return None;
        }
        let text = self.text(&spot, problems)?;
        let duration = parse_duration(&text.value);
        if duration.is_none() {
            let problem = text.problem(format!("not a duration: {:?}", text.value));
            problems.push(problem.advise(DURATIONS.to_owned()));
        }
        duration.map(|duration| text.with(duration))
    }

    /// A table; an empty one where there is none.
    pub fn table(&mut self, key: &str, problems: &mut Vec<Problem>) -> Table<'a> {
        let spot = self.take(key);
        let entries = match &spot {
            Some(Spot {
                value: DeValue::Table(entries),
                ..
            }) => entries.clone(),
            Some(spot) => {
                let problem = wrong_type(spot, "a table");
                let advice = if spot.value.is_array() {
                    format!("write [{key}], with one bracket")
                } else {
                    format!("write [{key}] above its keys")
                };
                problems.push(problem.advise(advice));
                DeTable::new()
            }
            None => DeTable::new(),
        };
        let span = spot.map_or(0..0, |spot| spot.span);
        self.inner(span, entries)
    }

    /// A list of tables; an empty one where there is none.
    pub fn tables(&mut self, key: &str, problems: &mut Vec<Problem>) -> Vec<Table<'a>> {
        let advice = format!("write [[{key}]], with two brackets");
        self.tables_or(key, &advice, problems)
    }

    /// A list of tables that are written in one line each.
    pub fn inline_tables(
        &mut self,
        key: &str,
        example: &str,
        problems: &mut Vec<Problem>,
    ) -> Vec<Table<'a>> {
        self.tables_or(key, &format!("write {key} = [{example}]"), problems)
    }

    fn tables_or(
        &mut self,
        key: &str,
        advice: &str,
        problems: &mut Vec<Problem>,
    ) -> Vec<Table<'a>> {
        let Some(spot) = self.take(key) else {
            return Vec::new();
        };
        let items: Vec<Spanned<DeValue<'a>>> = match spot.value {
            DeValue::Array(items) => items.iter().cloned().collect(),
            _ => {
                let problem = wrong_type(&spot, "a list of tables");
                problems.push(problem.advise(advice.to_owned()));
                return Vec::new();
            }
        };
        let mut tables = Vec::new();
        for item in items {
            let span = item.span();
            match item.into_inner() {
                DeValue::Table(entries) => tables.push(self.inner(span, entries)),
                other => {
                    let spot = self.spot(span, other);
                    problems.push(wrong_type(&spot, "a table"));
                }
            }
        }
        tables
    }

    fn inner(&self, span: Range<usize>, entries: DeTable<'a>) -> Table<'a> {
        Table {
            source: Arc::clone(&self.source),
            environment: self.environment,
            span,
            entries,
            taken: HashSet::new(),
        }
    }

    /// A table of texts, with variables of the environment in them.
    pub fn texts(
        &mut self,
        key: &str,
        problems: &mut Vec<Problem>,
    ) -> Vec<(Spot<String>, Spot<String>)> {
        let table = self.table(key, problems);
        let mut texts = Vec::new();
        for (name, value) in &table.entries {
            let spot = table.spot(value.span(), value.get_ref().clone());
            let name = table.spot(name.span(), name.get_ref().to_string());
            texts.extend(table.text(&spot, problems).map(|text| (name, text)));
        }
        texts
    }

    /// A table of whole numbers, texts and booleans.
    pub fn scalars(
        &mut self,
        key: &str,
        problems: &mut Vec<Problem>,
    ) -> Vec<(Spot<String>, Spot<Argument>)> {
        let table = self.table(key, problems);
        let mut scalars = Vec::new();
        for (name, value) in &table.entries {
            let spot = table.spot(value.span(), value.get_ref().clone());
            let argument = match &spot.value {
                DeValue::Boolean(boolean) => Some(Argument::Boolean(*boolean)),
                DeValue::String(_) => table
                    .text(&spot, problems)
                    .map(|text| Argument::Text(text.value)),
                value => {
                    let number = whole_number(value).map(Argument::Integer);
                    if number.is_none() {
                        problems.push(wrong_type(&spot, "a whole number, a text, true or false"));
                    }
                    number
                }
            };
            let name = table.spot(name.span(), name.get_ref().to_string());
            scalars.extend(argument.map(|argument| (name, spot.with(argument))));
        }
        scalars
    }

    /// Complains of every key that was not taken: one of another table's belongs there, any other is
    /// unknown. What is meant may be one of `contract`.
    pub fn finish(&self, contract: &[&str], problems: &mut Vec<Problem>) {
        for (key, _) in &self.entries {
            let name: &str = key.get_ref();
            if self.taken.contains(name) {
                continue;
            }
            let problem = |text| self.source.problem(key.span(), text, true);
            let near = nearest(name, contract.iter().copied());
            let advice = match (home_of(name), near) {
                (Some(table), _) => Some(format!("it belongs under {table}")),
                (None, Some(near)) => Some(format!("did you mean `{near}`?")),
                (None, None) => None,
            };
            problems.push(problem(format!("unknown key `{name}`")).advise(advice));
        }
    }

    /// Complains of every key but one.
    pub fn only(&self, allowed: &str, text: &str, problems: &mut Vec<Problem>) {
        for (key, _) in &self.entries {
            if key.get_ref() != allowed {
                let problem = self.source.problem(key.span(), text.to_owned(), true);
                let advice = if SOURCE.contains(&&**key.get_ref()) {
                    "write [[source]] above it"
                } else {
                    "it belongs into the main file"
                };
                problems.push(problem.advise(advice.to_owned()));
            }
        }
    }
}

const SIZES: &str = "write \"64KiB\", \"1MB\" or a plain number of bytes";
const DURATIONS: &str = "write \"250ms\", \"5s\", \"10m\", \"2h\" or \"7d\", whole numbers only";

fn plain(spot: &Spot<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<Spot<String>> {
    let text = spot.value.as_str().map(str::to_owned);
    if text.is_none() {
        problems.push(wrong_type(spot, "a text in quotes"));
    }
    text.map(|text| spot.with(text))
}

fn wrong_type(spot: &Spot<DeValue<'_>>, wanted: &str) -> Problem {
    let found = match &spot.value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    let quoted = spot.value.is_str();
    let advice = match wanted {
        "a text in quotes" if !quoted => Some("write it in quotes"),
        "true or false" if quoted => Some("write true or false, without quotes"),
        "a whole number" if quoted => Some("write digits, without quotes"),
        _ => None,
    };
    spot.problem(format!("expected {wanted}, found {found}"))
        .advise(advice.map(str::to_owned))
}

/// The only table that has a key of this name.
fn home_of(name: &str) -> Option<&'static str> {
    let tables = [
        ("[agent]", AGENT),
        ("[[source]]", SOURCE),
        ("[source.multiline]", MULTILINE),
        ("[batch]", BATCH),
        ("[broker]", BROKER),
        ("[broker.tls]", TLS),
        ("[[broker.queue]]", QUEUE),
        ("[spool]", SPOOL),
        ("[http]", HTTP),
    ];
    let mut homes = tables.iter().filter(|(_, keys)| keys.contains(&name));
    match (homes.next(), homes.next()) {
        (Some((table, _)), None) => Some(table),
        _ => None,
    }
}

fn whole_number(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// The known word that is nearest, if it is near enough to be meant.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (strsim::damerau_levenshtein(word, known), known))
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
        .min()
        .map(|(_, known)| known)
}

/// Replaces `${NAME}`, `${NAME:-default}` and `$$`; or says what is wrong and what to write.
fn expand(
    text: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<String, (String, String)> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
            continue;
        }
        let Some(inside) = rest.strip_prefix('{') else {
            let advice = "write `$$` for a dollar sign, `${NAME}` for a variable";
            return Err(("a lone `$`".to_owned(), advice.to_owned()));
        };
        let Some((inside, after)) = inside.split_once('}') else {
            let advice = "write `${NAME}`, or `$${` for the characters themselves";
            return Err(("`${` without `}`".to_owned(), advice.to_owned()));
        };
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        match (environment(name), default) {
            (Some(value), _) => expanded.push_str(&value),
            (None, Some(default)) => expanded.push_str(default),
            (None, None) => {
                return Err((
                    format!("the environment variable {name:?} is not set"),
                    format!("set it, or give a default: ${{{name}:-…}}"),
                ));
            }
        }
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number = text[..digits].parse().ok()?;
    Some((number, text[digits..].trim_start()))
}

/// Bytes, from `"64KiB"` and the like.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(factor)
}

fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text)?;
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(milliseconds).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_have_units() {
        assert_eq!(parse_size("64KiB"), Some(65_536));
        assert_eq!(parse_size("1 MB"), Some(1_000_000));
        assert_eq!(parse_size("12"), Some(12));
        assert_eq!(parse_size("1.5MB"), None);
        assert_eq!(parse_size("99999999999TiB"), None);
        assert_eq!(parse_duration("7d"), Some(Duration::from_hours(168)));
        assert_eq!(parse_duration("5"), None);
    }

    #[test]
    fn variables_are_expanded_and_a_missing_one_is_an_error() {
        let environment = |name: &str| (name == "A").then(|| "1".to_owned());
        assert_eq!(
            expand("x${A}y$$z${B:-2}", &environment).as_deref(),
            Ok("x1y$z2")
        );
        assert!(expand("${B}", &environment).is_err());
        assert!(expand("$A", &environment).is_err());
    }
}
