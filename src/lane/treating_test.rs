//! Treated lines through a lane: where long ones are cut, and when bytes of dropped ones leave.

use std::time::Duration;

use regex::Regex;
use regex::bytes::RegexSet;

use super::content_test::Rig;
use crate::lines::Splitter;
use crate::treat::{Rule, Rules, Treatment};

fn redacting(line_max: usize) -> Rig {
    let pattern = Regex::new(r"key=[^;]*;|\b\d{16}\b").expect("a pattern");
    let treatment = Treatment {
        redact: Rules::new(vec![Rule::new(pattern, "*".to_owned())]),
        ..Treatment::default()
    };
    let splitter = Splitter {
        lookahead: treatment.lookahead(),
        ..Splitter::new(line_max)
    };
    Rig::treating(splitter, treatment, Duration::ZERO)
}

#[test]
fn a_long_line_is_redacted_the_same_however_it_is_written_read_and_read_again() {
    let mut line = String::new();
    for n in 0..60 {
        line.push_str(&format!("key={};é {:016} ", "x".repeat(n * 70), n));
    }
    let pieces: Vec<String> = (0..60).map(|_| "*é * ".to_owned()).collect();
    let redacted = pieces.concat();
    let mut cuts = Vec::new();
    for (chunk, line_max) in [
        (1000, 100),
        (4096, 5000),
        (333, 5000),
        (200_000, 5000),
        (9000, 64_000),
    ] {
        let mut rig = redacting(line_max);
        for (index, bytes) in line.as_bytes().chunks(chunk).enumerate() {
            rig.append(bytes);
            rig.wait(1);
            if index % 3 == 2 {
                rig.restart();
                rig.wait(1);
            }
        }
        rig.append("\nnext\n");
        rig.wait(1);
        let (last, parts) = rig.lines.split_last().expect("lines");
        assert_eq!((last.2, &*last.3), (false, "next"));
        let text: String = parts.iter().map(|(_, _, _, text)| text.as_str()).collect();
        assert_eq!(text, redacted, "{chunk} {line_max}");
        let (rest, before) = parts.split_last().expect("parts");
        assert!(!rest.2 && before.iter().all(|part| part.2) && before.len() > 1);
        if line_max == 5000 {
            cuts.push(
                parts
                    .iter()
                    .map(|part| (part.0, part.1))
                    .collect::<Vec<_>>(),
            );
        }
    }
    assert!(cuts.iter().all(|other| *other == cuts[0]), "cut elsewhere");
}

#[test]
fn a_byte_order_mark_is_no_text_and_its_bytes_count() {
    for line_max in [3, 4, 100] {
        let mut rig = redacting(line_max);
        rig.append("\u{feff}abc\n\u{feff}d\n");
        rig.wait(1);
        let text: String = rig.lines.iter().map(|line| line.3.as_str()).collect();
        assert!(text.starts_with("abc"), "{text:?}");
        let bytes: u64 = rig.lines.iter().map(|line| line.1).sum();
        assert_eq!((bytes, rig.tiled), (12, 12));
        if line_max == 100 {
            assert_eq!(text, "abc\u{feff}d");
        }
    }
}

fn dropping(lineless_linger: Duration) -> Rig {
    let treatment = Treatment {
        drop: Some(RegexSet::new(["^drop"]).expect("a pattern")),
        ..Treatment::default()
    };
    Rig::treating(Splitter::new(100), treatment, lineless_linger)
}

#[test]
fn bytes_of_dropped_lines_wait_for_a_line_and_leave_with_it() {
    let mut rig = dropping(Duration::from_hours(1));
    rig.append("drop\ndrop\n");
    rig.wait(1);
    rig.wait(1);
    assert_eq!(rig.tiled, 0);
    rig.append("keep\ndrop\n");
    rig.wait(1);
    assert_eq!((rig.tiled, rig.lines.len()), (20, 1));
    assert_eq!(rig.lines[0], (10, 5, false, "keep".to_owned()));
    rig.append("drop\n");
    rig.wait(1);
    assert_eq!(rig.tiled, 20);
}

#[test]
fn bytes_of_dropped_lines_do_not_wait_for_ever() {
    let mut rig = dropping(Duration::ZERO);
    rig.append("drop\ndrop\n");
    rig.wait(1);
    assert_eq!((rig.tiled, rig.lines.len()), (10, 0));
}
