//! `[source.multiline]`: which lines are one.

use std::time::Duration;

use regex::bytes::{Regex, RegexBuilder};

use super::raw::{MULTILINE, Problem, Spot, Table};
use super::{LINE_MAX, within};
use crate::lines::{Grouping, Rule};

/// Bytes that a compiled pattern may take.
const PATTERN_SIZE_MAX: usize = 4 << 20;
/// Shorter waits are for lines that are written in one go anyway.
const TIMEOUT_LEAST: Duration = Duration::from_millis(1);

/// What holds unless the table says otherwise.
const TIMEOUT: Duration = Duration::from_secs(1);
const LINES_MAX: usize = 1000;

const EXAMPLE: &str = "for example start = '^\\d{4}-' or continuation = '^\\s'";

/// The grouping that the table asks for; nothing where there is no table.
pub(super) fn multiline(
    source: &mut Table<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Spot<Grouping>> {
    if !source.has("multiline") {
        return None;
    }
    let place = source.spot_of("multiline");
    let mut table = source.table("multiline", problems);
    let mut pattern = |key: &str| {
        let spot = table.literal(key, problems);
        spot.filter(|spot| !spot.value.is_empty())
    };
    let (start, continuation) = (pattern("start"), pattern("continuation"));
    let rule = match (start, continuation) {
        (Some(_), Some(second)) => {
            let problem =
                second.problem("`start` and `continuation` exclude each other".to_owned());
            problems.push(problem.advise("keep one of them".to_owned()));
            None
        }
        (Some(start), None) => compiled(&start, problems).map(Rule::Start),
        (None, Some(further)) => compiled(&further, problems).map(Rule::Continuation),
        // Written out, as in the full file: nothing is joined.
        (None, None) if table.has("start") || table.has("continuation") => None,
        (None, None) => {
            let text = "[source.multiline] needs `start` or `continuation`";
            problems.push(table.problem(text.to_owned()).advise(EXAMPLE.to_owned()));
            None
        }
    };
    let timeout = match table.duration("timeout", problems) {
        Some(spot) if spot.value < TIMEOUT_LEAST => {
            problems.push(spot.problem(format!("too short: at least {TIMEOUT_LEAST:?}")));
            TIMEOUT_LEAST
        }
        Some(spot) => spot.value,
        None => TIMEOUT,
    };
    let lines_max = table.integer("max_lines", problems);
    let lines_max = within(
        lines_max,
        1,
        u64::from(u32::MAX),
        LINES_MAX as u64,
        problems,
    );
    let bytes_max = table.size("max_bytes", problems);
    let bytes_max = within(bytes_max, 1, LINE_MAX, LINE_MAX, problems);
    table.finish(MULTILINE, problems);
    let grouping = Grouping {
        rule: rule?,
        lines_max: usize::try_from(lines_max).unwrap_or(usize::MAX),
        bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
        timeout,
    };
    Some(place.with(grouping))
}

/// How lines that a container runtime split are one again, unless there is a table.
pub(super) fn of_containers() -> Grouping {
    let max = usize::try_from(LINE_MAX).unwrap_or(usize::MAX);
    Grouping {
        rule: Rule::Cri,
        lines_max: LINES_MAX,
        bytes_max: max,
        timeout: TIMEOUT,
    }
}

fn compiled(spot: &Spot<String>, problems: &mut Vec<Problem>) -> Option<Regex> {
    let compiled = RegexBuilder::new(&spot.value)
        .size_limit(PATTERN_SIZE_MAX)
        .build();
    match compiled {
        Ok(regex) => Some(regex),
        Err(error) => {
            // Its last line says what is wrong; those above draw where, as we do.
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            let last = last.trim_start_matches("error: ");
            problems.push(spot.problem(format!("not a regular expression: {last}")));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::load_text;
    use super::*;

    #[test]
    fn lines_are_joined_by_one_rule_within_limits() {
        let config = load_text(
            "[[source]]\ninclude = [\"/a.log\"]\n[source.multiline]\nstart = '^${APP}'\n\
             timeout = \"250ms\"\nmax_lines = 7\nmax_bytes = \"2KiB\"\n",
        );
        // A pattern takes no variables, though there is one of this name.
        assert!(config.expect_err("refused").contains("regular expression"));
        let config = load_text(
            "[[source]]\ninclude = [\"/a.log\"]\n[source.multiline]\nstart = '^\\d+$'\n\
             timeout = \"250ms\"\nmax_lines = 7\nmax_bytes = \"2KiB\"\n",
        )
        .expect("valid");
        let grouping = config.sources[0].splitter.grouping.as_ref().expect("one");
        assert!(matches!(&grouping.rule, Rule::Start(regex) if regex.as_str() == "^\\d+$"));
        assert_eq!(grouping.timeout, Duration::from_millis(250));
        assert_eq!((grouping.lines_max, grouping.bytes_max), (7, 2048));
        let empty =
            "[[source]]\ninclude = [\"/a.log\"]\nmultiline = { start = '', continuation = '' }";
        let config = load_text(empty).expect("valid");
        assert!(config.sources[0].splitter.grouping.is_none());
    }

    #[test]
    fn two_rules_none_or_a_wrong_one_are_refused_and_so_is_the_format_lines() {
        let with = |lines: &str| {
            let text = format!("[[source]]\ninclude = [\"/a.log\"]\n[source.multiline]\n{lines}\n");
            load_text(&text).expect_err("refused")
        };
        let told = with("start = 'a'\ncontinuation = 'b'");
        assert!(told.contains("toml:5:16: `start` and"), "{told}");
        let told = with("timeout = \"2s\"");
        assert!(
            told.contains("toml:3:1: [source.multiline] needs"),
            "{told}"
        );
        let told = with("continuation = '(a'");
        assert!(
            told.contains("toml:4:16: not a regular expression: unclosed group"),
            "{told}"
        );
        let told = with("start = 'a'\n[batch]\nformat = \"lines\"");
        assert!(told.contains("toml:3:"), "{told}");
    }
}
