//! `[[source]]`: which files, and how their lines are found and treated.

use std::sync::Arc;
use std::time::Duration;

use encoding_rs::{Encoding, ISO_2022_JP, UTF_8};

use super::raw::{self, Problem, Spot, Table, nearest};
use super::treatment::treatment;
use super::{LINE_MAX, Parts, SECOND, at_least, multiline, too_long, within};
use crate::lines::Splitter;
use crate::tail::discover::{Pattern, PatternError, Selection};
use crate::treat::{Parser, Treatment};

/// Longest name of a source: it travels in every message.
const SOURCE_NAME_MAX: usize = 100;

/// A `[[source]]` block.
#[derive(Clone, Debug)]
pub struct Source {
    /// Unique name.
    pub name: Arc<str>,
    /// Which files.
    pub selection: Selection,
    /// Begin at the end of what is there at the first scan.
    pub from_end: bool,
    /// How its lines are found.
    pub splitter: Arc<Splitter>,
    /// What is done with its lines.
    pub treatment: Treatment,
    /// Files that were not written to for so long are not read until they are.
    pub ignore_older: Option<Duration>,
    /// How often files are looked for, and looked at, without any event.
    pub poll_interval: Duration,
}

pub(super) fn sources(root: &mut Table<'_>, parts: &mut Parts, problems: &mut Vec<Problem>) {
    for mut table in root.tables("source", problems) {
        if let Some(source) = source(&mut table, parts, problems) {
            parts.sources.push(source);
        }
        table.finish(raw::SOURCE, problems);
    }
}

const EXAMPLE: &str = "for example include = [\"/var/log/app/*.log\"]";

fn source(table: &mut Table<'_>, parts: &mut Parts, problems: &mut Vec<Problem>) -> Option<Source> {
    let globs = table.strings("include", problems);
    let include = patterns(globs.as_deref().unwrap_or_default(), problems);
    let excluded = table.strings("exclude", problems).unwrap_or_default();
    let exclude = patterns(&excluded, problems);
    let from_end = table
        .choice(
            "read_from",
            &[("beginning", false), ("end", true)],
            problems,
        )
        .unwrap_or(false);
    let compressed = table.boolean("compressed", problems).unwrap_or(true);
    let ignore_older = table.optional_duration("ignore_older", problems);
    let ignore_older = ignore_older.map(|spot| at_least(&spot, SECOND, problems));
    let poll_interval = table.duration("poll_interval", problems);
    let poll_interval = poll_interval.map_or(SECOND, |spot| {
        at_least(&spot, Duration::from_millis(100), problems)
    });
    let follow_links = table.boolean("follow_symlinks", problems).unwrap_or(false);
    let line_max = within(
        table.size("max_line", problems),
        1,
        LINE_MAX,
        LINE_MAX,
        problems,
    );
    let encoding = encoding(table, problems);
    let grouping = multiline::multiline(table, problems);
    if let Some(spot) = &grouping {
        let text =
            "`multiline` does nothing with format = \"lines\", whose bodies are the files' bytes";
        let problem = spot.problem(text.to_owned());
        let advice = "leave it to the consumers, or write format = \"ndjson\" under [batch]";
        parts.not_bare.push(problem.advise(advice.to_owned()));
    }
    let treatment = treatment(table, &parts.labels, &mut parts.not_bare, problems);
    let name = table.string("name", problems);
    let missing = if !table.has("include") {
        Some("a [[source]] without `include`")
    } else if table.is_empty_list("include") {
        Some("`include` is empty: no file can match")
    } else {
        None
    };
    if let Some(text) = missing {
        let problem = table.problem_of("include", text.to_owned());
        problems.push(problem.advise(EXAMPLE.to_owned()));
    }
    // What else can be wrong with it has been told.
    let globs = globs.filter(|globs| !globs.is_empty())?;
    let name = match name {
        Some(spot) if spot.value.is_empty() => {
            problems.push(spot.problem("a source's name must not be empty".to_owned()));
            return None;
        }
        Some(spot) => spot,
        None => globs[0].with(derived_name(&globs[0].value)),
    };
    if name.value.len() > SOURCE_NAME_MAX {
        problems.push(too_long(&name, SOURCE_NAME_MAX));
    }
    let shared: Arc<str> = name.value.as_str().into();
    if !parts.names.insert(Arc::clone(&shared)) {
        let problem = name.problem(format!("another source is called {:?} too", name.value));
        problems.push(problem.advise("give this one a `name` of its own".to_owned()));
    }
    let grouping = match (grouping, &treatment.parse) {
        (None, Some(Parser::Cri)) => Some(multiline::of_containers()),
        (grouping, _) => grouping.map(|spot| spot.value),
    };
    let splitter = Splitter {
        grouping,
        lookahead: treatment.lookahead(),
        encoding,
        ..Splitter::new(usize::try_from(line_max).unwrap_or(usize::MAX))
    };
    Some(Source {
        name: shared,
        selection: Selection {
            include,
            exclude,
            compressed,
            follow_links,
        },
        from_end,
        ignore_older,
        poll_interval,
        treatment: Treatment {
            encoding,
            ..treatment
        },
        splitter: Arc::new(splitter),
    })
}

/// Names of encodings that people write; there are more, those of the WHATWG's Encoding Standard.
const ENCODINGS: &[&str] = &[
    "utf-8",
    "utf-16le",
    "utf-16be",
    "latin1",
    "iso-8859-1",
    "iso-8859-2",
    "iso-8859-15",
    "windows-1250",
    "windows-1251",
    "windows-1252",
    "koi8-r",
    "shift_jis",
    "euc-jp",
    "euc-kr",
    "gb18030",
    "gbk",
    "big5",
];

fn encoding(table: &mut Table<'_>, problems: &mut Vec<Problem>) -> &'static Encoding {
    let Some(spot) = table.string("encoding", problems) else {
        return UTF_8;
    };
    let encoding = Encoding::for_label_no_replacement(spot.value.as_bytes());
    // Where a line of it begins depends on the one before.
    let told = match encoding.filter(|encoding| *encoding != ISO_2022_JP) {
        Some(encoding) => return encoding,
        None if encoding.is_some() => format!("{} cannot be read line by line", spot.value),
        None => format!("not an encoding that is known: {:?}", spot.value),
    };
    let lower = spot.value.to_ascii_lowercase();
    let advice = match nearest(&lower, ENCODINGS.iter().copied()) {
        Some(near) if near != lower => format!("did you mean {near:?}?"),
        _ => format!("for example {}", ENCODINGS[1..5].join(", ")),
    };
    problems.push(spot.problem(told).advise(advice));
    UTF_8
}

fn patterns(globs: &[Spot<String>], problems: &mut Vec<Problem>) -> Vec<Pattern> {
    let parse = |spot: &Spot<String>| match Pattern::parse(&spot.value) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            let problem = spot.problem(format!("not a glob: {error}"));
            let advice = matches!(error, PatternError::Glob(_))
                .then(|| "`*?[]{}\\` are special; write `[[]` for a plain `[`".to_owned());
            problems.push(problem.advise(advice));
            None
        }
    };
    globs.iter().filter_map(parse).collect()
}

/// `/var/log/app/*.log` is called `app`, `/var/log/syslog` is called `syslog`.
fn derived_name(glob: &str) -> String {
    let plain =
        |component: &&str| !component.is_empty() && !component.contains(['*', '?', '[', '{']);
    let last = glob.rsplit('/').find(plain).unwrap_or("source");
    last.strip_suffix(".log").unwrap_or(last).to_owned()
}
