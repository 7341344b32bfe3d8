//! The keys of a source that say how its lines are treated.

use std::collections::BTreeMap;

use regex::RegexBuilder;
use regex::bytes::{RegexSet, RegexSetBuilder};
use regex_syntax::ParserBuilder;

use super::raw::{self, Problem, Spot, Table};
use crate::treat::{PARSERS, Parser, Rule, Rules, TimeField, Treatment, labels_json};

/// Bytes that a compiled pattern may take: enough for `\w{200}`, and no way to fill the memory.
const PATTERN_SIZE_MAX: usize = 10 * 1024 * 1024;
/// Bytes of all labels as they stand in a line.
const LABELS_MAX: usize = 4 * 1024;
/// The highest AMQP priority; quorum queues know two, classic ones as many as they are told.
const PRIORITY_MAX: u64 = 9;

/// Labels by key.
pub(super) type Labels = BTreeMap<String, String>;

/// `labels` of a table, over those of the agent.
pub(super) fn labels(
    table: &mut Table<'_>,
    agents: &Labels,
    problems: &mut Vec<Problem>,
) -> Labels {
    let mut labels = agents.clone();
    for (key, value) in table.texts("labels", problems) {
        if key.value.is_empty() {
            problems.push(key.problem("a label without a name".to_owned()));
        }
        labels.insert(key.value, value.value);
    }
    let bytes = json(&labels).len();
    if table.has("labels") && bytes > LABELS_MAX {
        let text = format!("labels of {bytes} bytes; at most {LABELS_MAX} are possible");
        let advice = "they travel with every line".to_owned();
        problems.push(table.problem_of("labels", text).advise(advice));
    }
    labels
}

fn json(labels: &Labels) -> String {
    labels_json(
        labels
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str())),
    )
}

/// What a source's keys say about its lines. `not_bare` gets what is wrong with that if bodies are
/// bare bytes.
pub(super) fn treatment(
    table: &mut Table<'_>,
    agents_labels: &Labels,
    not_bare: &mut Vec<Problem>,
    problems: &mut Vec<Problem>,
) -> Treatment {
    let labels = labels(table, agents_labels, problems);
    let keep = patterns(table, "keep", problems);
    let drop = patterns(table, "drop", problems);
    let urgent = patterns(table, "urgent", problems);
    let redact = redact(table, problems);
    let parse = parse(table, problems);
    let timestamp = timestamp(table, parse.as_ref(), problems);
    let urgent_priority = priority(table, problems);
    let treatment = Treatment {
        labels: json(&labels),
        keep,
        drop,
        redact,
        parse: parse.map(|parse| parse.value),
        timestamp,
        urgent,
        urgent_priority,
        ..Treatment::default()
    };
    refuse_for_bare_bytes(&treatment, table, not_bare);
    treatment
}

/// A body of bare bytes is what stands in the file.
fn refuse_for_bare_bytes(treatment: &Treatment, table: &Table<'_>, problems: &mut Vec<Problem>) {
    let set = [
        ("labels", !treatment.labels.is_empty()),
        ("keep", treatment.keep.is_some()),
        ("drop", treatment.drop.is_some()),
        ("redact", !treatment.redact.is_empty()),
        ("parse", treatment.parse.is_some()),
        ("timestamp", treatment.timestamp.is_some()),
        ("urgent", treatment.urgent.is_some()),
    ];
    for (key, _) in set.iter().filter(|(_, set)| *set) {
        let (text, advice) = if *key == "labels" && !table.has(key) {
            let text = "`labels` of [agent] cannot stand in messages of batch.format \"lines\"";
            (
                text.to_owned(),
                "take them away, or write format = \"ndjson\"",
            )
        } else {
            let text = format!("`{key}` cannot be followed with batch.format \"lines\"");
            (text, "take it away, or write format = \"ndjson\"")
        };
        problems.push(table.problem_of(key, text).advise(advice.to_owned()));
    }
}

/// A list of patterns that a line may match; nothing for an empty one.
fn patterns(table: &mut Table<'_>, key: &str, problems: &mut Vec<Problem>) -> Option<RegexSet> {
    let spots = table.literals(key, problems)?;
    let mut fine = Vec::new();
    for spot in &spots {
        if spot.value.is_empty() {
            problems.push(spot.problem("an empty pattern matches every line".to_owned()));
            continue;
        }
        let pattern = regex::bytes::RegexBuilder::new(&spot.value)
            .size_limit(PATTERN_SIZE_MAX)
            .build();
        match pattern {
            Ok(_) => fine.push(spot.value.as_str()),
            Err(error) => problems.push(not_a_pattern(spot, &error)),
        }
    }
    if fine.is_empty() {
        return None;
    }
    let limit = PATTERN_SIZE_MAX.saturating_mul(fine.len());
    let set = RegexSetBuilder::new(&fine).size_limit(limit).build();
    if let (Err(error), Some(spot)) = (&set, spots.first()) {
        problems.push(not_a_pattern(spot, error));
    }
    set.ok()
}

/// Regex's own words, in one line.
fn not_a_pattern(spot: &Spot<String>, error: &regex::Error) -> Problem {
    let told = error.to_string();
    let last = told.lines().last().unwrap_or_default();
    let told = last.strip_prefix("error: ").unwrap_or(last);
    let problem = spot.problem(format!("not a pattern: {told}"));
    let advice = match error {
        regex::Error::Syntax(_)
            if told.contains("look-around") || told.contains("backreference") =>
        {
            Some("patterns are those of Rust's regex crate: they take linear time")
        }
        _ => None,
    };
    problem.advise(advice.map(str::to_owned))
}

const REDACT_EXAMPLE: &str = r#"{ pattern = '\b\d{16}\b', replace = "[card]" }"#;

fn redact(table: &mut Table<'_>, problems: &mut Vec<Problem>) -> Rules {
    let mut rules = Vec::new();
    for mut entry in table.inline_tables("redact", REDACT_EXAMPLE, problems) {
        for key in raw::REDACT {
            if !entry.has(key) {
                let problem = entry.problem(format!("an entry of `redact` without `{key}`"));
                problems.push(problem.advise(format!("for example {REDACT_EXAMPLE}")));
            }
        }
        let pattern = entry.literal("pattern", problems);
        let replace = entry.literal("replace", problems);
        entry.finish(raw::REDACT, problems);
        let pattern = pattern.and_then(|spot| Some((pattern_of(&spot, problems)?, spot)));
        let (Some((pattern, spot)), Some(replace)) = (pattern, replace) else {
            continue;
        };
        if matches_nothing(&spot.value) {
            let text = "matches the empty text, which stands everywhere";
            let advice = "`+` in place of `*`, or no `?`, as a rule";
            problems.push(spot.problem(text.to_owned()).advise(advice.to_owned()));
            continue;
        }
        check_groups(&pattern, &replace, problems);
        rules.push(Rule::new(pattern, replace.value));
    }
    Rules::new(rules)
}

fn pattern_of(spot: &Spot<String>, problems: &mut Vec<Problem>) -> Option<regex::Regex> {
    let pattern = RegexBuilder::new(&spot.value)
        .size_limit(PATTERN_SIZE_MAX)
        .build();
    match pattern {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            problems.push(not_a_pattern(spot, &error));
            None
        }
    }
}

fn matches_nothing(pattern: &str) -> bool {
    let parsed = ParserBuilder::new().build().parse(pattern);
    parsed.is_ok_and(|parsed| parsed.properties().minimum_len() == Some(0))
}

/// A group that the pattern does not have would be replaced by nothing.
fn check_groups(pattern: &regex::Regex, replace: &Spot<String>, problems: &mut Vec<Problem>) {
    // As `expand` reads them: a name without braces goes as far as it can.
    let text = replace.value.replace("$$", "");
    for after in text.split('$').skip(1) {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let name = match after.strip_prefix('{') {
            Some(inside) => inside.split_once('}').map_or("", |(name, _)| name),
            None => &after[..after.find(|c| !is_name(c)).unwrap_or(after.len())],
        };
        let known = match name.parse::<usize>() {
            Ok(number) => number < pattern.captures_len(),
            Err(_) => pattern.capture_names().flatten().any(|known| known == name),
        };
        if known {
            continue;
        }
        let problem = if name.is_empty() {
            replace.problem("a lone `$`".to_owned())
        } else {
            replace.problem(format!("the pattern has no group {name:?}"))
        };
        let advice = "write `${name}` or `${1}` for a group, `$$` for a dollar sign";
        problems.push(problem.advise(advice.to_owned()));
    }
}

fn parse(table: &mut Table<'_>, problems: &mut Vec<Problem>) -> Option<Spot<Parser>> {
    let spot = table.literal("parse", problems)?;
    if let Some(pattern) = spot.value.strip_prefix("regex:") {
        let pattern = pattern_of(&spot.with(pattern.to_owned()), problems)?;
        if pattern.capture_names().flatten().next().is_none() {
            let problem =
                spot.problem("a pattern without a named group gives no fields".to_owned());
            problems.push(problem.advise("write (?<name>…) around what is a field".to_owned()));
            return None;
        }
        return Some(spot.with(Parser::Regex(pattern)));
    }
    let word = table.string("parse", problems)?;
    if word.value.is_empty() {
        return None;
    }
    let known = PARSERS.iter().find(|(name, _)| *name == word.value);
    if known.is_none() {
        let names: Vec<String> = PARSERS
            .iter()
            .map(|(name, _)| format!("{name:?}"))
            .collect();
        let text = format!("`parse` is one of {}, \"regex:…\"", names.join(", "));
        let near = raw::nearest(&word.value, PARSERS.iter().map(|(name, _)| *name));
        let advice = near.map(|near| format!("did you mean {near:?}?"));
        problems.push(word.problem(text).advise(advice));
    }
    known.map(|(_, parser)| word.with(parser.clone()))
}

const TIMESTAMP_EXAMPLE: &str = "for example timestamp = \"ts:%Y-%m-%dT%H:%M:%S%.f%:z\"";

fn timestamp(
    table: &mut Table<'_>,
    parse: Option<&Spot<Parser>>,
    problems: &mut Vec<Problem>,
) -> Option<TimeField> {
    let spot = table.string("timestamp", problems)?;
    if spot.value.is_empty() {
        return None;
    }
    if !table.has("parse") || table.is_empty_text("parse") {
        let problem =
            spot.problem("`timestamp` names a parsed field, and nothing is parsed".to_owned());
        problems.push(problem.advise("add parse = \"json\", or another".to_owned()));
    }
    let Some((field, format)) = spot
        .value
        .split_once(':')
        .filter(|(field, _)| !field.is_empty())
    else {
        let problem = spot.problem("not a field and a format with a colon between them".to_owned());
        problems.push(problem.advise(TIMESTAMP_EXAMPLE.to_owned()));
        return None;
    };
    if let Some(known) = parse.and_then(|parse| parse.value.fields())
        && !known.contains(&field)
    {
        let near = raw::nearest(field, known.iter().copied());
        let advice = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("its fields are {}", known.join(", ")),
        };
        let problem = spot.problem(format!("`parse` gives no field `{field}`"));
        problems.push(problem.advise(advice));
    }
    match TimeField::new(field, format) {
        Ok(field) => Some(field),
        Err(error) => {
            let problem = spot.problem(error.to_string());
            problems.push(problem.advise(TIMESTAMP_EXAMPLE.to_owned()));
            None
        }
    }
}

fn priority(table: &mut Table<'_>, problems: &mut Vec<Problem>) -> u8 {
    let Some(spot) = table.integer("urgent_priority", problems) else {
        return 0;
    };
    if spot.value > PRIORITY_MAX {
        let text = format!("a priority is at most {PRIORITY_MAX}, and 0 is none");
        problems.push(spot.problem(text));
    } else if spot.value > 0 && (!table.has("urgent") || table.is_empty_list("urgent")) {
        let problem = spot.problem("a priority without `urgent` does nothing".to_owned());
        problems.push(problem.advise("add urgent = ['…']".to_owned()).as_warning());
    }
    u8::try_from(spot.value.min(PRIORITY_MAX)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::tests::load_text;
    use super::*;
    use crate::lines::Rule as Grouped;
    use crate::treat::{Piece, Treated, Verdict};

    fn treated<'a>(treatment: &Treatment, line: &'a str) -> Treated<'a> {
        match treatment.treat(&Piece::line(line.as_bytes())) {
            Verdict::Kept(treated) => treated,
            Verdict::Dropped(reason) => unreachable!("dropped by {reason:?}"),
        }
    }

    #[test]
    fn every_key_of_treatment_does_what_it_says() {
        let config = load_text(
            r#"
            [agent]
            labels = { env = "${APP}", site = "a" }
            [[source]]
            include = ["/a.log"]
            labels = { site = "b" }
            keep = ['^\{']
            drop = ['debug$', '\$\{APP\}']
            redact = [{ pattern = '(?<first>\d)\d{3}', replace = "${first}…$$" }, { pattern = "…", replace = "" }]
            parse = "json"
            timestamp = "t.at:%Y-%m-%d %H:%M"
            urgent = ["FATAL"]
            urgent_priority = 9
            "#,
        )
        .expect("valid");
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        let treatment = &config.sources[0].treatment;
        assert_eq!(treatment.labels, r#"{"env":"shop","site":"b"}"#);
        assert_eq!(treatment.urgent_priority, 9);
        assert_eq!(config.sources[0].splitter.lookahead, treatment.lookahead());
        assert!(treatment.lookahead() >= 4096);
        let of = |line: &'static str| treatment.treat(&Piece::line(line.as_bytes()));
        assert!(matches!(of("plain"), Verdict::Dropped(_)));
        assert!(matches!(of("{} debug"), Verdict::Dropped(_)));
        // A pattern takes no variables.
        assert!(matches!(of("{shop}"), Verdict::Kept(_)));
        assert!(matches!(of("{${APP}}"), Verdict::Dropped(_)));
        let line = r#"{"t":{"at":"2026-11-22 13:15"},"n":"4444 FATAL"}"#;
        let treated = treated(treatment, line);
        assert!(treated.message.contains("4$ FATAL"), "{treated:?}");
        assert_eq!(treated.timestamp, None, "its year is redacted");
        assert!(treated.urgent);
    }

    #[test]
    fn parsers_have_names_and_a_container_joins_its_parts() {
        let with = |keys: &str| load_text(&format!("[[source]]\ninclude = [\"/a.log\"]\n{keys}\n"));
        for (keys, line, fields) in [
            ("parse = \"${NONE:-logfmt}\"", "a=1", r#"{"a":"1"}"#),
            (
                r"parse = 'regex:^(?P<level>\w+)$'",
                "INFO",
                r#"{"level":"INFO"}"#,
            ),
            ("parse = \"json\"", "{}", "{}"),
            (
                "parse = \"cri\"",
                "t stdout F x",
                r#"{"time":"t","stream":"stdout","message":"x"}"#,
            ),
        ] {
            let config = with(keys).expect("valid");
            let treatment = &config.sources[0].treatment;
            assert_eq!(treated(treatment, line).parsed.as_deref(), Some(fields));
            let grouping = config.sources[0].splitter.grouping.as_ref();
            let joins = grouping.is_some_and(|grouping| matches!(grouping.rule, Grouped::Cri));
            assert_eq!(joins, keys.contains("cri"));
        }
        let own = "parse = \"cri\"\nmultiline = { continuation = '^ ' }";
        let config = with(own).expect("valid");
        let grouping = config.sources[0]
            .splitter
            .grouping
            .as_ref()
            .expect("its own");
        assert!(matches!(grouping.rule, Grouped::Continuation(_)));
        assert!(with("parse = \"\"\nkeep = []\ntimestamp = \"\"").is_ok());
    }

    #[test]
    fn labels_travel_with_every_line_and_are_bounded() {
        let with = |bytes: usize| {
            let long = "x".repeat(bytes);
            load_text(&format!(
                "[[source]]\ninclude = [\"/a.log\"]\nlabels = {{ a = \"{long}\" }}\n"
            ))
        };
        let around = r#"{"a":""}"#.len();
        assert!(with(LABELS_MAX - around).is_ok());
        let told = with(LABELS_MAX - around + 1).expect_err("too long");
        assert!(told.contains("toml:3:10: labels of 4097 bytes"), "{told}");
    }

    #[test]
    fn a_priority_without_urgent_lines_is_a_warning() {
        let config = load_text("[[source]]\ninclude = [\"/a.log\"]\nurgent_priority = 5\n");
        let warnings = config.expect("usable").warnings;
        assert_eq!(warnings.len(), 1);
        assert!(
            warnings[0]
                .to_string()
                .contains("toml:3:19: a priority without"),
            "{}",
            warnings[0]
        );
    }
}
