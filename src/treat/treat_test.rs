//! Lines through treatments, whole and in parts.

use encoding_rs::{Encoding, UTF_8, UTF_16LE};
use proptest::prelude::*;
use regex::Regex;

use super::*;
use crate::lines::{Next, Progress, Splitter};

fn rules(rules: &[(&str, &str)]) -> Rules {
    let rule = |(pattern, replace): &(&str, &str)| {
        let pattern = Regex::new(pattern).expect("a pattern");
        Rule::new(pattern, (*replace).to_owned())
    };
    Rules::new(rules.iter().map(rule).collect())
}

fn redacting(of: &[(&str, &str)]) -> Treatment {
    Treatment {
        redact: rules(of),
        ..Treatment::default()
    }
}

fn parsing(parse: Parser) -> Treatment {
    Treatment {
        parse: Some(parse),
        ..Treatment::default()
    }
}

fn set(patterns: &[&str]) -> Option<RegexSet> {
    Some(RegexSet::new(patterns).expect("patterns"))
}

fn kept<'a>(treatment: &Treatment, piece: &Piece<'a>) -> Treated<'a> {
    match treatment.treat(piece) {
        Verdict::Kept(treated) => treated,
        Verdict::Dropped(reason) => unreachable!("dropped by {reason:?}"),
    }
}

fn line<'a>(treatment: &Treatment, content: &'a str) -> Treated<'a> {
    kept(treatment, &Piece::line(content.as_bytes()))
}

fn parsed(treatment: &Treatment, content: &str) -> Result<String, String> {
    let treated = line(treatment, content);
    assert_eq!(
        treated.parsed.is_some(),
        treated.error.is_none(),
        "{treated:?}"
    );
    treated
        .parsed
        .ok_or_else(|| treated.error.unwrap_or_default())
}

#[test]
fn a_line_without_treatment_is_borrowed_and_nothing_is_added() {
    let treated = line(&Treatment::default(), "GET / 200");
    assert!(matches!(treated.message, Cow::Borrowed("GET / 200")));
    let plain = Treated {
        message: "GET / 200".into(),
        ..Treated::default()
    };
    assert_eq!(treated, plain);
}

#[test]
fn keep_and_drop_judge_the_line_as_it_stands_and_drop_wins() {
    let treatment = Treatment {
        keep: set(&["card", "\\xff".trim()]),
        drop: set(&["^debug", "health"]),
        redact: rules(&[("card", "[x]")]),
        urgent: set(&["card 7"]),
        ..Treatment::default()
    };
    let of = |text: &'static str| treatment.treat(&Piece::line(text.as_bytes()));
    assert_eq!(of("debug card"), Verdict::Dropped(Reason::Drop));
    assert_eq!(of("nothing"), Verdict::Dropped(Reason::Keep));
    let treated = line(&treatment, "a card 7");
    assert_eq!((&*treated.message, treated.urgent), ("a [x] 7", true));
    assert!(!line(&treatment, "a card 8").urgent);
}

#[test]
fn bytes_that_are_not_utf8_are_redacted_in_both_their_forms() {
    let treatment = redacting(&[("key=.+?;", "key=*;")]);
    let bytes = b"\xffa key=1\xfe\xe2\x822; \xe2\x82 key=\xf0; z";
    let treated = kept(&treatment, &Piece::line(bytes));
    assert_eq!(treated.message, "\u{fffd}a key=*; \u{fffd} key=*; z");
    assert_eq!(
        treated.exact.as_deref(),
        Some(&b"\xffa key=*; \xe2\x82 key=*; z"[..])
    );
    // Nothing is left that the message does not tell.
    let treated = kept(&treatment, &Piece::line(b"a key=\xff;"));
    assert_eq!((&*treated.message, treated.exact), ("a key=*;", None));
    let treated = kept(&treatment, &Piece::line(b"\xff key"));
    assert_eq!(treated.exact.as_deref(), Some(&b"\xff key"[..]));
}

#[test]
fn another_encoding_is_decoded_first_and_its_bytes_are_left_out_where_a_rule_matched() {
    let treatment = Treatment {
        encoding: UTF_16LE,
        keep: set(&["^a"]),
        redact: rules(&[("key=.", "*")]),
        ..Treatment::default()
    };
    let utf16 =
        |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
    let (plain, secret) = (utf16("aé"), utf16("a key=é"));
    assert_eq!(kept(&treatment, &Piece::line(&plain)).message, "aé");
    assert_eq!(kept(&treatment, &Piece::line(&secret)).message, "a *");
    let (mut odd, mut odd_secret) = (plain, secret);
    // Half a surrogate pair.
    odd.extend([0x00, 0xd8]);
    odd_secret.extend([0x00, 0xd8]);
    let treated = kept(&treatment, &Piece::line(&odd));
    assert_eq!(
        (&*treated.message, treated.exact.as_deref()),
        ("aé\u{fffd}", Some(&odd[..]))
    );
    let treated = kept(&treatment, &Piece::line(&odd_secret));
    assert_eq!((&*treated.message, treated.exact), ("a *\u{fffd}", None));
}

#[test]
fn lines_that_were_joined_have_line_feeds_between_them() {
    let piece = |content| Piece {
        is_joined: true,
        ..Piece::line(content)
    };
    let treatment = redacting(&[(r"one\ntwo", "[both]")]);
    assert_eq!(
        kept(&treatment, &piece(b"one\r\ntwo\rx\nthree")).message,
        "[both]\rx\nthree"
    );
    let treated = kept(&Treatment::default(), &piece(b"\r\n\xff\r\n"));
    assert_eq!(
        (&*treated.message, treated.exact.as_deref()),
        ("\n\u{fffd}\n", Some(&b"\n\xff\n"[..]))
    );
    let lines: Vec<u8> = "a\r\nb".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let utf16 = Treatment {
        encoding: UTF_16LE,
        ..Treatment::default()
    };
    assert_eq!(kept(&utf16, &piece(&lines)).message, "a\nb");
}

#[test]
fn json_keeps_the_text_of_numbers_and_of_a_key_the_last_value() {
    let json = parsing(Parser::Json);
    for (text, fields) in [
        (
            r#"{"a":1,"b":[true,null,"x"],"a":{"c":2,"c":3}}"#,
            r#"{"b":[true,null,"x"],"a":{"c":3}}"#,
        ),
        (
            r#" { "n" : 12345678901234567890.10e+40 , "m":-0, "o":-1E400 } "#,
            r#"{"n":12345678901234567890.10e+40,"m":-0,"o":"-1E400"}"#,
        ),
        (
            r#"{"\u0061":1,"a":2,"\"":"\\\ud83d\ude00\n"}"#,
            "{\"a\":2,\"\\\"\":\"\\\\😀\\n\"}",
        ),
        (
            r#"{"$serde_json::private::Number":"1","x":{}}"#,
            r#"{"$serde_json::private::Number":"1","x":{}}"#,
        ),
        ("{}", "{}"),
    ] {
        assert_eq!(parsed(&json, text).as_deref(), Ok(fields));
    }
    for (text, fault) in [
        ("plain", "not JSON: expected value at line 1 column 1"),
        (
            "{\"a\":1} x",
            "not JSON: trailing characters at line 1 column 9",
        ),
        ("[1]", "not a JSON object"),
        ("\"x\"", "not a JSON object"),
        ("{\"a\":01}", "not JSON: invalid number at line 1 column 7"),
        ("", "not JSON: EOF while parsing a value at line 1 column 0"),
        (
            r#"{"a":"\ud800"}"#,
            "not parsed: an escape in JSON that is no character",
        ),
    ] {
        assert_eq!(parsed(&json, text).expect_err(text), fault);
    }
}

#[test]
fn json_may_be_as_deep_as_it_likes_and_is_parsed_to_a_depth() {
    let json = parsing(Parser::Json);
    let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(parsed(&json, &nested(60)).as_deref(), Ok(&*nested(60)));
    let error = parsed(&json, &nested(61)).expect_err("too deep");
    assert_eq!(error, "not parsed: JSON nested too deeply");
    for open in ["[", "{\"a\":", "[{\"\":"] {
        let error = parsed(&json, &open.repeat((1 << 20) / open.len())).expect_err("open");
        assert!(error.starts_with("not JSON: EOF"), "{error}");
        let whole = nested(500_000);
        assert!(parsed(&json, &whole).is_err());
    }
}

#[test]
fn logfmt_has_keys_alone_and_values_in_quotes() {
    let logfmt = parsing(Parser::Logfmt);
    for (text, fields) in [
        (
            r#"level=info msg="a \"b\" \u0041" n=1 ok"#,
            r#"{"level":"info","msg":"a \"b\" A","n":"1","ok":""}"#,
        ),
        (" a==b  a=c=d\tb= ", r#"{"a":"c=d","b":""}"#),
        ("a=\"\"", r#"{"a":""}"#),
    ] {
        assert_eq!(parsed(&logfmt, text).as_deref(), Ok(fields));
    }
    for (text, fault) in [
        ("plain words", "not logfmt: no key=value"),
        ("", "not logfmt: no key=value"),
        ("=b", "not logfmt: a value without a key"),
        ("a=\"b", "not logfmt: a quote that does not end"),
        ("a=\"b\\", "not logfmt: a quote that does not end"),
        ("a=\"b\"c", "not logfmt: no space behind a value"),
        ("a\"b\"", "not logfmt: no space behind a value"),
        (r#"a="\x""#, "not logfmt: an escape that is none"),
    ] {
        assert_eq!(parsed(&logfmt, text).expect_err(text), fault);
    }
}

#[test]
fn what_a_container_runtime_split_is_one_message_again() {
    let cri = parsing(Parser::Cri);
    let time = "2026-11-22T13:15:00.123456789Z";
    let fields =
        |message: &str| format!(r#"{{"time":"{time}","stream":"stderr","message":"{message}"}}"#);
    let of = |text: String| parsed(&cri, &text);
    assert_eq!(of(format!("{time} stderr F a b")), Ok(fields("a b")));
    assert_eq!(of(format!("{time} stderr F")), Ok(fields("")));
    assert_eq!(of(format!("{time} stderr F:x y")), Ok(fields("y")));
    assert_eq!(
        of(format!(
            "{time} stderr P a \n{time} stderr P b\n{time} stderr F c"
        )),
        Ok(fields("a bc"))
    );
    for wrong in ["", "a b", "t stdin F x", "t stdout X x", " stdout F x"] {
        assert_eq!(
            of(wrong.to_owned()).expect_err(wrong),
            "not a line of a container runtime"
        );
    }
}

#[test]
fn a_pattern_gives_its_named_groups() {
    let pattern = Regex::new(r"^(?<level>\w+) (\d+)(?: (?<rest>.+))?$").expect("a pattern");
    let regex = parsing(Parser::Regex(pattern));
    assert_eq!(
        parsed(&regex, "INFO 5 all \"well\"").as_deref(),
        Ok(r#"{"level":"INFO","rest":"all \"well\""}"#)
    );
    assert_eq!(
        parsed(&regex, "INFO 5").as_deref(),
        Ok(r#"{"level":"INFO"}"#)
    );
    let error = parsed(&regex, "INFO").expect_err("no match");
    assert_eq!(error, "the pattern does not match");
}

#[test]
fn what_is_redacted_in_the_message_is_in_no_field_either() {
    let treatment = Treatment {
        parse: Some(Parser::Json),
        redact: rules(&[(r"\b4\d{3}\b", "[pin]"), ("^a@b$", "[who]")]),
        ..Treatment::default()
    };
    // Escaped, as a key, and only where it stands alone.
    let text = r#"{"a":"x \u00341\u0032\u0033","\u0034123":"a@b","who":["a@b"],"[pin]":1,"n":99}"#;
    let treated = line(&treatment, text);
    assert_eq!(
        treated.parsed.as_deref(),
        Some(r#"{"a":"x [pin]","who":["[who]"],"[pin]":1,"n":99}"#)
    );
    // Seen alone a number may match where it did not in its place: it is a text then.
    let alone = Treatment {
        redact: rules(&[("^7$", "seven")]),
        ..treatment.clone()
    };
    assert_eq!(
        parsed(&alone, r#"{"n":7,"m":77}"#).as_deref(),
        Ok(r#"{"n":"seven","m":77}"#)
    );
    let zero = Treatment {
        redact: rules(&[(r"\b\d{16}\b", "0")]),
        ..treatment.clone()
    };
    let cards = r#"{"n":4111222233334444,"t":"4111222233334444"}"#;
    assert_eq!(parsed(&zero, cards).as_deref(), Ok(r#"{"n":0,"t":"0"}"#));
    // Redaction may leave no JSON. The line goes all the same, redacted.
    let treated = line(&treatment, r#"{"n":4123}"#);
    assert_eq!(
        (&*treated.message, treated.parsed),
        (r#"{"n":[pin]}"#, None)
    );
    assert!(
        treated
            .error
            .is_some_and(|error| error.starts_with("not JSON"))
    );
}

#[test]
fn replacements_cannot_blow_fields_up() {
    let treatment = Treatment {
        parse: Some(Parser::Json),
        redact: rules(&[("^x$", &"y".repeat(1000))]),
        ..Treatment::default()
    };
    let text = format!("{{\"a\":[{}\"x\"]}}", "\"x\",".repeat(200_000));
    let treated = line(&treatment, &text);
    assert_eq!((treated.message.len(), treated.parsed), (text.len(), None));
    let error = "parsed fields left out: redacted, they would be too long";
    assert_eq!(treated.error.as_deref(), Some(error));
}

fn timed(path: &str, format: &str) -> Treatment {
    Treatment {
        timestamp: Some(TimeField::new(path, format).expect("a format")),
        ..parsing(Parser::Json)
    }
}

#[test]
fn the_time_comes_from_its_field_and_is_utc_with_milliseconds() {
    for (format, text, time) in [
        (
            "%Y-%m-%dT%H:%M:%S%.f%:z",
            "\"2026-11-22T13:15:00.1Z\"",
            "2026-11-22T13:15:00.100Z",
        ),
        (
            "%FT%T%z",
            "\"2026-11-22T13:15:00Z\"",
            "2026-11-22T13:15:00.000Z",
        ),
        (
            "%Y-%m-%dT%H:%M:%S%.f%:z",
            "\"2026-11-22T13:15:00.123456+02:00\"",
            "2026-11-22T11:15:00.123Z",
        ),
        (
            "%Y-%m-%dT%H:%M:%S%.f%:z",
            "\"2026-11-22T13:15:00+00:00\"",
            "2026-11-22T13:15:00.000Z",
        ),
        (
            "%Y-%m-%dT%H:%M:%S%.fZ",
            "\"2026-11-22T13:15:00.5Z\"",
            "2026-11-22T13:15:00.500Z",
        ),
        (
            "%d/%b/%Y:%H:%M:%S %z",
            "\"22/Nov/2026:13:15:00 -0700\"",
            "2026-11-22T20:15:00.000Z",
        ),
        (
            "%Y-%m-%d %I:%M %p",
            "\"2026-11-22 01:15 PM\"",
            "2026-11-22T13:15:00.000Z",
        ),
        ("%s", "1700000123", "2023-11-14T22:15:23.000Z"),
        ("%s%.f", "1700000123.25", "2023-11-14T22:15:23.250Z"),
    ] {
        let treatment = timed("t.at", format);
        for text in [
            format!(r#"{{"t":{{"at":{text}}}}}"#),
            format!(r#"{{"t.at":{text}}}"#),
        ] {
            let treated = line(&treatment, &text);
            assert_eq!(
                treated.timestamp.as_deref(),
                Some(time),
                "{format} {text} {treated:?}"
            );
        }
    }
    let treatment = timed("t", "%Y-%m-%d %H:%M");
    for (text, fault) in [
        ("{}", "no timestamp in the line"),
        ("{\"t\":[]}", "the timestamp is no text or number"),
        (
            "{\"t\":\"yesterday\"}",
            "the timestamp is not in the format",
        ),
        (
            "{\"t\":\"2026-02-30 10:00\"}",
            "the timestamp is not in the format",
        ),
        (
            "{\"t\":\"-0009-02-20 10:00\"}",
            "the timestamp's year has not four digits",
        ),
    ] {
        let treated = line(&treatment, text);
        assert_eq!((treated.timestamp, treated.parsed.is_some()), (None, true));
        assert_eq!(
            treated.error.as_deref(),
            Some(&*format!("time of reading: {fault}"))
        );
    }
}

#[test]
fn a_format_that_never_tells_a_time_is_refused() {
    for (format, told) in [
        ("%Y-%m-%d", "does not tell a time"),
        ("%H:%M:%S", "a time without a year"),
        ("%b %d %H:%M:%S", "a time without a year"),
        ("%Y %H:%M", "does not tell a time"),
        ("no time", "does not tell a time"),
        ("", "does not tell a time"),
        ("%Y-%!", "not a time format"),
        ("%Y-%m-%d %H:%M %Q", "a time zone's name"),
        ("%Y-%m-%d %H:%M %Z", "not a time format"),
    ] {
        let error = TimeField::new("t", format).expect_err(format).to_string();
        assert!(error.contains(told), "{format}: {error}");
    }
}

#[test]
fn a_time_that_is_redacted_tells_nothing() {
    let treatment = Treatment {
        redact: rules(&[("2026", "0000-")]),
        ..timed("t", "%Y-%m-%d %H:%M")
    };
    assert_eq!(
        line(&treatment, r#"{"t":"2026-02-20 10:00"}"#).timestamp,
        None
    );
}

#[test]
fn parts_of_a_line_are_judged_each_and_not_parsed() {
    let treatment = Treatment {
        drop: set(&["^b"]),
        ..parsing(Parser::Json)
    };
    let part = |content| Piece {
        before: b"{",
        is_part: true,
        ..Piece::line(content)
    };
    assert_eq!(
        treatment.treat(&part(b"bc")),
        Verdict::Dropped(Reason::Drop)
    );
    let treated = kept(&treatment, &part(b"{}"));
    assert_eq!(
        (treated.parsed, treated.error.as_deref()),
        (None, Some("not parsed: a part of a split line"))
    );
}

#[test]
fn a_line_cannot_set_anything_beside_its_own_fields() {
    let text =
        r#"{"host":{"name":"x"},"log":1,"@timestamp":"2000-01-01","message":"m","labels":{}}"#;
    let treated = line(&parsing(Parser::Json), text);
    assert_eq!(treated.message, text);
    assert_eq!(treated.parsed.as_deref(), Some(text));
    assert_eq!((treated.timestamp, treated.error), (None, None));
}

#[test]
fn labels_are_texts_of_an_object() {
    assert_eq!(labels_json([].into_iter()), "");
    let labels = [("env", "prod"), ("a\"", "\n")].into_iter();
    assert_eq!(labels_json(labels), r#"{"env":"prod","a\"":"\n"}"#);
}

#[test]
fn the_longest_hostile_lines_go_through_every_parser() {
    let groups: String = (0..200).map(|n| format!("(?<g{n}>a)?")).collect();
    let regex = Regex::new(&format!("^{groups}")).expect("a pattern");
    for parser in [
        Parser::Json,
        Parser::Logfmt,
        Parser::Cri,
        Parser::Regex(regex),
    ] {
        let treatment = Treatment {
            redact: rules(&[(r"\d{16}", "[card]"), ("(a+)b", "$1")]),
            ..parsing(parser)
        };
        for unit in [
            "a",
            "{\"",
            "\"",
            "[",
            "a=",
            "a=\" ",
            "\\",
            "\0",
            "\u{e9}",
            "a b P ",
            "1",
            "{\"a\":0,",
            "= ",
        ] {
            let text = unit.repeat((1 << 20) / unit.len());
            let treated = line(&treatment, &text);
            assert!(treated.message.len() <= (1 << 20) + (64 << 10));
            assert!(treated.error.is_none_or(|error| error.len() < 200));
        }
        let many: String = (0..100_000).map(|n| format!("k{n}=1 ")).collect();
        line(&treatment, &many);
        let many: String = (0..80_000).map(|n| format!("\"k{n}\":1,")).collect();
        line(&treatment, &format!("{{{many}\"k1\":2}}"));
    }
}

/// The messages of a line's parts, cut as a lane cuts them.
fn parts(treatment: &Treatment, line: &[u8], line_max: usize) -> Vec<String> {
    let (mut at, mut messages) = (0, Vec::new());
    while at < line.len() {
        let rest = &line[at..];
        let piece = |content: usize, proposed: usize| Piece {
            content: &rest[..content],
            before: &line[..at],
            after: &rest[content..(proposed + LOOKAHEAD).min(rest.len())],
            is_part: rest.len() < line.len() || content < rest.len(),
            is_joined: false,
        };
        let next = Splitter::new(line_max).next(rest, Progress::default(), true);
        let content = match next {
            Next::Part { content } => treatment.cut(&piece(content, content)),
            whole => whole.bytes(),
        };
        assert!(content > 0 && content <= rest.len());
        let treated = kept(treatment, &piece(content, next.bytes()));
        messages.push(treated.message.into_owned());
        at += content;
    }
    messages
}

#[test]
fn a_match_of_4_kib_is_found_wherever_a_line_is_cut() {
    let secret = format!("key={};", "x".repeat(4 * 1024 - 5));
    let treatment = redacting(&[("key=[^;]*;", "key=*;")]);
    for begins in [0, 1, 2, 3, 4000, 4999, 5000, 5001, 9000] {
        for line_max in [3, 5, 5000] {
            let line = format!("{}{secret}{}", "é".repeat(begins / 2), "z".repeat(9000));
            let whole = kept(&treatment, &Piece::line(line.as_bytes()))
                .message
                .into_owned();
            assert!(!whole.contains('x'));
            let parts = parts(&treatment, line.as_bytes(), line_max);
            assert_eq!(parts.concat(), whole, "{begins} {line_max}");
        }
    }
}

#[test]
fn a_longer_match_is_redacted_as_far_as_each_part_shows_it() {
    let treatment = redacting(&[(r"\d+", "#")]);
    let parts = parts(
        &treatment,
        format!("a{}b", "1".repeat(30_000)).as_bytes(),
        5000,
    );
    assert!(parts.len() > 3, "{parts:?}");
    assert_eq!(parts.concat().replace('#', ""), "ab");
}

#[test]
fn a_cut_in_another_encoding_stays_between_characters() {
    let encode =
        |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
    let treatment = Treatment {
        encoding: UTF_16LE,
        ..redacting(&[("key=.", "*")])
    };
    let line = encode("a😀b key=é and more");
    let piece = |content: usize| Piece {
        content: &line[..content],
        after: &line[content..],
        is_part: true,
        ..Piece::default()
    };
    let secret = encode("a😀b ").len();
    assert_eq!(treatment.cut(&piece(secret + 4)), secret);
    assert_eq!(treatment.cut(&piece(secret)), secret);
    let begins = Piece {
        content: &line[secret..secret + 4],
        before: &line[..secret],
        after: &line[secret + 4..],
        is_part: true,
        is_joined: false,
    };
    assert_eq!(treatment.cut(&begins), encode("key=é").len());
    let _: &Encoding = UTF_8;
}

const PATTERNS: [(&str, &str); 9] = [
    ("key=[a-z]{1,9};", "key=*;"),
    (r"\b\d{4}\b", "[pin]"),
    (r"(\w)\w*@\w+", "$1…"),
    ("^é", "E"),
    ("é$", "E"),
    (r"(?m)^\d+|@$", "N"),
    ("😀+.?", ""),
    ("[^a-z]b", "-"),
    (r"\B1", "!"),
];

const TEXTS: &[&str] = &["key=ab;", "1234", "a", "b ", "@", "é", "😀", "1", "key="];
const BYTES: &[&[u8]] = &[
    b"key=ab;",
    b"ab",
    b"\xff",
    b"\xe2\x82",
    b"\xf0\x9f\x98\x80",
    b" ",
    b"secret",
    b"cre",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_parts_of_a_line_are_its_redaction(
        line in proptest::collection::vec(proptest::sample::select(TEXTS), 0..40),
        rule in 0..PATTERNS.len(),
        line_max in 4usize..40,
    ) {
        let line = line.concat();
        let treatment = redacting(&PATTERNS[rule..=rule]);
        let whole = kept(&treatment, &Piece::line(line.as_bytes())).message.into_owned();
        prop_assert_eq!(parts(&treatment, line.as_bytes(), line_max).concat(), whole);
    }

    #[test]
    fn the_parts_of_a_line_are_its_redaction_by_many_rules_and_whatever_its_bytes(
        line in proptest::collection::vec(proptest::sample::select(BYTES), 0..30),
        line_max in 4usize..40,
    ) {
        // The second reaches into what the first left, the third makes of two places one.
        let treatment = redacting(&[("key=[a-z]{1,9};", "<k>"), ("ab<k|cret", "<x"), ("x.?>.?", "[y]")]);
        let line = line.concat();
        let whole = kept(&treatment, &Piece::line(&line)).message.into_owned();
        let parts = parts(&treatment, &line, line_max);
        for secret in ["key=ab;", "secret"] {
            prop_assert!(!parts.concat().contains(secret));
        }
        prop_assert_eq!(parts.concat(), whole);
    }
}
