//! Shows that the oracle can fail: hand-made messages that break the contract in one way each.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::support::made::{
    PATH, batches, end_of_lines, line, lines_of, message, packed, range, ranges_only, renamed,
    sealed, with_body_text,
};
use crate::support::message::{Header, Message};
use crate::support::oracle::{Ledger, complete_lines};
use crate::support::random::Random;
use crate::support::writers::{log_text, numbered_lines};

#[test]
fn a_queue_that_keeps_the_contract_is_clean_and_rebuilds_the_file() {
    let content = numbered_lines("app", 10);
    let ledger = taken(&batches(&content, 3));
    ledger.assert_clean();
    ledger.assert_no_repeats();
    ledger.assert_holds_file(PATH, &content);
    assert_eq!(ledger.messages(), 4);
    assert_eq!(ledger.covered_bytes(), content.len() as u64);
    assert_eq!(ledger.file(PATH).lines()[9], b"app 10");
}

#[test]
fn any_log_text_is_rebuilt_from_text_or_from_hashes_alone() {
    let content = log_text(&mut Random::from_environment(), 300_000);
    for mut ledger in [Ledger::new(), Ledger::new().forgetting_text()] {
        for message in batches(&content, 100) {
            ledger.take(&message);
        }
        ledger.assert_clean();
        ledger.assert_holds_file(PATH, &content);
    }
}

#[test]
fn repeats_and_overlaps_change_nothing_for_a_consumer_with_coverage_and_are_counted() {
    let content = numbered_lines("app", 10);
    let mut messages = batches(&content, 4);
    messages.insert(1, messages[0].clone());
    // The same bytes in other batches, as after a restart.
    messages.extend(batches(&content, 5));
    let ledger = taken(&messages);
    ledger.assert_clean();
    ledger.assert_holds_file(PATH, &content);
    assert_eq!(ledger.repeated_messages(), 1);
    let first = end_of_lines(&content, 4) as u64;
    assert_eq!(ledger.repeated_bytes(), first + content.len() as u64);
}

#[test]
fn what_the_broker_delivered_again_is_not_a_repeat_of_the_agents() {
    let mut messages = batches(&numbered_lines("app", 4), 2);
    let redelivered = Message {
        redelivered: true,
        ..messages[1].clone()
    };
    messages.push(redelivered);
    let ledger = taken(&messages);
    ledger.assert_clean();
    ledger.assert_no_repeats();
    assert_eq!(ledger.redelivered_messages(), 1);
}

#[test]
fn a_repeat_may_differ_in_its_timestamps_only() {
    let mut messages = batches(b"one\ntwo\n", 2);
    messages.push(with_body_text(&messages[0], "13:15:00.123", "13:15:07.999"));
    taken(&messages).assert_clean();
}

#[test]
fn a_split_line_is_joined_from_its_parts() {
    let part = |offset: u64, text: &str, bytes: u64, partial: bool| {
        let mut line = line(offset, text.as_bytes());
        line["log"]["bytes"] = bytes.into();
        if partial {
            line["log"]["partial"] = true.into();
        }
        line
    };
    let lines = [part(0, "aaaa", 4, true), part(4, "bb", 4, false)];
    let content = b"aaaabb\r\n";
    let ledger = taken(&[message(&lines, &[range(0, 8)])]);
    ledger.assert_clean();
    ledger.assert_holds_file(PATH, content);
    assert_eq!(ledger.file(PATH).lines(), [b"aaaabb"]);

    let unmarked = [part(0, "aaaa", 4, false), part(4, "bb", 4, false)];
    let ledger = taken(&[message(&unmarked, &[range(0, 8)])]);
    assert_differs(&ledger, content, "partial or not, wrongly");
}

#[test]
fn raw_lines_are_rebuilt_from_the_bodies() {
    let content = b"one\r\n\ntwo \xff\nthree";
    // In the middle of a line too: that shows in no body.
    for cut in [6, 9] {
        let ledger = taken(&[raw(content, 0, cut), raw(content, cut, content.len())]);
        ledger.assert_clean();
        ledger.assert_holds_file(PATH, content);
        let lines: [&[u8]; 4] = [b"one", b"", b"two \xff", b"three"];
        assert_eq!(ledger.file(PATH).lines(), lines);
    }
}

#[test]
fn raw_lines_that_differ_in_a_line_end_or_in_their_length_are_found() {
    let ledger = taken(&[raw(b"one \n", 0, 5)]);
    ledger.assert_clean();
    assert_differs(&ledger, b"one\r\n", "altered: the line at offset 0");

    for (range_end, violation) in [
        (3, "goes beyond its range"),
        (5, "the body ends at offset 4"),
    ] {
        let mut message = raw(b"one\n", 0, 4);
        let ranges = message.text_header("ranges").unwrap();
        let ranges = ranges.replace("\"end\":4", &format!("\"end\":{range_end}"));
        let ranges = Header::Text(ranges);
        message.headers.insert("ranges".to_owned(), ranges);
        assert_violation(&taken(&[message]), violation);
    }
}

/// A body of bare bytes.
fn raw(content: &[u8], start: usize, end: usize) -> Message {
    let body = content[start..end].to_vec();
    let lines = body.split_inclusive(|byte| *byte == b'\n').count();
    let content_type = Some("text/plain".to_owned());
    sealed(
        Message {
            content_type,
            body,
            ..message(&[], &[range(start, end)])
        },
        lines,
    )
}

#[test]
fn packed_bodies_are_unpacked_and_counted_before_packing() {
    let content = numbered_lines("app", 10);
    for encoding in ["gzip", "zstd"] {
        let packed = |message| packed(message, encoding);
        let ledger = taken(
            &batches(&content, 3)
                .into_iter()
                .map(packed)
                .collect::<Vec<_>>(),
        );
        ledger.assert_clean();
        ledger.assert_holds_file(PATH, &content);
    }
}

#[test]
fn a_body_that_is_not_packed_as_its_property_says_is_found() {
    let good = batches(b"one\n", 1).remove(0);
    for encoding in ["gzip", "zstd"] {
        let unpacked = Message {
            content_encoding: Some(encoding.to_owned()),
            ..good.clone()
        };
        assert_violation(&taken(&[unpacked]), "the body is not ");

        let mut cut = packed(good.clone(), encoding);
        cut.body.pop();
        assert_violation(&taken(&[cut]), "the body is not ");

        let mut more = packed(good.clone(), encoding);
        more.body.push(b'x');
        assert_violation(&taken(&[more]), "the body is not ");

        let mut counted = packed(good.clone(), encoding);
        let bytes = Header::Int(counted.body.len() as i64);
        counted.headers.insert("bytes".to_owned(), bytes);
        assert_violation(&taken(&[counted]), "header \"bytes\"");
    }
    let other = Message {
        content_encoding: Some("br".to_owned()),
        ..good
    };
    assert_violation(&taken(&[other]), "content_encoding is \"br\"");
}

#[test]
fn a_json_body_is_one_object_and_nothing_more() {
    let mut message = batches(b"one\n", 1).remove(0);
    message.content_type = Some("application/json".to_owned());
    assert_violation(&taken(&[message.clone()]), "more than one object");
    message.body.pop();
    let ledger = taken(&[sealed(message, 1)]);
    ledger.assert_clean();
    ledger.assert_holds_file(PATH, b"one\n");
}

#[test]
fn generations_of_a_path_are_told_apart() {
    let mut messages = batches(b"old 1\nold 2\n", 2);
    for message in batches(b"new\n", 1) {
        let other = "e".repeat(32);
        messages.push(renamed(message, &other));
    }
    let ledger = taken(&messages);
    ledger.assert_clean();
    ledger.assert_holds_generations(PATH, &[b"old 1\nold 2\n", b"new\n"]);
}

#[test]
fn skipped_ranges_and_the_end_of_a_file_are_accounted_for_without_lines() {
    let mut skipped = range(0, 4);
    skipped["skipped"] = "read_from".into();
    let mut last = range(4, 4 + 4);
    last["eof"] = true.into();
    let ledger = taken(&[
        ranges_only(&[skipped]),
        message(&[line(4, b"two\n")], &[last]),
    ]);
    ledger.assert_clean();
    assert_eq!(ledger.file(PATH).eof(), Some(8));
    assert_eq!(ledger.file(PATH).skipped()[0].reason, "read_from");
    assert_differs(&ledger, b"one\ntwo\n", "[0, 4) was skipped: read_from");
}

#[test]
fn an_unfinished_last_line_may_be_left_out() {
    assert_eq!(complete_lines(b"one\ntwo"), b"one\n");
    assert_eq!(complete_lines(b"one"), b"");
    let ledger = taken(&batches(b"one\n", 1));
    ledger.assert_holds_file(PATH, complete_lines(b"one\ntwo"));
    assert_differs(&ledger, b"one\ntwo", "the ranges cover [(0, 4)]");
}

#[test]
fn a_lost_line_is_found() {
    let content = numbered_lines("app", 9);
    let mut lines = lines_of(&content);
    lines.remove(4);
    let ledger = taken(&[message(&lines, &[range(0, content.len())])]);
    ledger.assert_clean();
    assert_differs(
        &ledger,
        &content,
        "lost: nothing at offset 24 of the line \"app 5\"",
    );
}

#[test]
fn a_lost_last_line_is_found() {
    let mut lines = lines_of(b"one\ntwo\n");
    lines.pop();
    let ledger = taken(&[message(&lines, &[range(0, 8)])]);
    assert_differs(&ledger, b"one\ntwo\n", "lost: nothing at offset 4");
}

#[test]
fn an_altered_line_is_found() {
    let messages = batches(b"one\ntwo\n", 2);
    let ledger = taken(&[with_body_text(&messages[0], "two", "TWO")]);
    assert_differs(
        &ledger,
        b"one\ntwo\n",
        "altered: the line at offset 4 is \"TWO\", in the file \"two\"",
    );
}

#[test]
fn an_altered_line_is_found_without_its_text() {
    let mut ledger = Ledger::new().forgetting_text();
    ledger.take(&with_body_text(&batches(b"one\ntwo\n", 2)[0], "two", "TWO"));
    assert_differs(
        &ledger,
        b"one\ntwo\n",
        "altered: the line at offset 4 is something else",
    );
}

#[test]
fn two_lines_that_changed_places_are_found() {
    let mut lines = lines_of(b"one\ntwo\nthree\n");
    lines.swap(0, 1);
    let ledger = taken(&[message(&lines, &[range(0, 14)])]);
    assert_violation(
        &ledger,
        "the line at offset 0 of /var/log/app/a.log comes after one that ends",
    );
}

#[test]
fn two_lines_that_changed_their_texts_are_found() {
    let mut lines = lines_of(b"one\ntwo\n");
    lines[0]["message"] = "two".into();
    lines[1]["message"] = "one".into();
    let ledger = taken(&[message(&lines, &[range(0, 8)])]);
    assert_differs(&ledger, b"one\ntwo\n", "altered: the line at offset 0");
}

#[test]
fn an_invented_line_is_found() {
    let mut lines = lines_of(b"one\ntwo\n");
    lines.push(line(8, b"three\n"));
    let ledger = taken(&[message(&lines, &[range(0, 8)])]);
    assert_violation(
        &ledger,
        "the line [8, 14) of /var/log/app/a.log (file f1f1f1",
    );
    // With ranges that were invented too.
    let ledger = taken(&[message(&lines, &[range(0, 14)])]);
    assert_differs(
        &ledger,
        b"one\ntwo\n",
        "the ranges cover [(0, 14)], the file is [0, 8)",
    );
}

#[test]
fn a_line_that_came_twice_under_other_offsets_is_found() {
    let lines = [line(0, b"one\n"), line(0, b"one\n"), line(4, b"two\n")];
    let ledger = taken(&[message(&lines, &[range(0, 8)])]);
    assert_violation(&ledger, "comes after one that ends beyond it");
    assert_differs(
        &ledger,
        b"one\ntwo\n",
        "the line at offset 0 overlaps others",
    );
}

#[test]
fn a_gap_in_ranges_is_found() {
    let mut messages = batches(&numbered_lines("app", 9), 3);
    messages.remove(1);
    let ledger = taken(&messages);
    assert_violation(
        &ledger,
        "gap or out of order: range [36, 54) of /var/log/app/a.log",
    );
    assert_differs(
        &ledger,
        &numbered_lines("app", 9),
        "the ranges cover [(0, 18), (36, 54)]",
    );
}

#[test]
fn ranges_out_of_order_are_found_unless_disorder_is_tolerated() {
    let content = numbered_lines("app", 9);
    let mut messages = batches(&content, 3);
    messages.swap(1, 2);
    let ledger = taken(&messages);
    assert_violation(&ledger, "gap or out of order: range [36, 54)");

    let mut tolerant = Ledger::new().tolerating_disorder();
    messages.iter().for_each(|message| tolerant.take(message));
    tolerant.assert_clean();
    tolerant.assert_holds_file(PATH, &content);
}

#[test]
fn a_header_that_miscounts_is_found() {
    for (name, expected) in [("lines", "the body has 2"), ("bytes", "the body has 3")] {
        let mut message = batches(b"one\ntwo\n", 2).remove(0);
        message.headers.insert(name.to_owned(), Header::Int(7));
        let ledger = taken(&[message]);
        assert_violation(&ledger, &format!("header {name:?} is Some(7), {expected}"));
    }
}

#[test]
fn a_key_that_stands_twice_is_found_at_any_depth() {
    let repeats = [
        (
            r#""message":"one""#,
            r#""message":"one","message":"evil""#,
            r#"key "message" twice"#,
        ),
        (
            r#""offset":0"#,
            r#""offset":0,"offset":0"#,
            r#"key "offset" twice"#,
        ),
        (
            r#""message":"one""#,
            r#""message":"one","parsed":{"a":{"b":1,"b":2}}"#,
            r#"key "b" twice"#,
        ),
    ];
    for (from, to, expected) in repeats {
        let ledger = taken(&[with_body_text(&batches(b"one\n", 1)[0], from, to)]);
        assert_violation(&ledger, expected);
    }
}

#[test]
fn keys_in_another_order_are_found() {
    let orders = [
        (
            r#""offset":0,"bytes":4"#,
            r#""bytes":4,"offset":0"#,
            r#""log" of a line has the key "offset" out of order"#,
        ),
        (
            r#"},"message":"one""#,
            r#"},"labels":{},"message":"one""#,
            r#"a line has the key "message" out of order"#,
        ),
        (
            r#""message":"one""#,
            r#""message":"one","level":"x""#,
            r#"unknown key "level""#,
        ),
    ];
    for (from, to, expected) in orders {
        let ledger = taken(&[with_body_text(&batches(b"one\n", 1)[0], from, to)]);
        assert_violation(&ledger, expected);
    }
}

#[test]
fn a_last_line_without_line_end_is_found() {
    let mut message = batches(b"one\n", 1).remove(0);
    message.body.pop();
    let ledger = taken(&[sealed(message, 1)]);
    assert_violation(&ledger, "the last line of the body does not end in LF");
}

#[test]
fn a_message_id_that_names_other_bytes_is_found() {
    let messages = batches(b"one\ntwo\n", 1);
    let altered = with_body_text(&messages[0], "one", "ONE");
    assert_violation(
        &taken(&[messages[0].clone(), altered]),
        "reused with other bytes in its lines",
    );

    let other_ranges = Message {
        message_id: messages[0].message_id.clone(),
        ..messages[1].clone()
    };
    assert_violation(
        &taken(&[messages[0].clone(), other_ranges]),
        "reused for other ranges",
    );

    let other_id = Message {
        message_id: Some("9".repeat(32)),
        ..messages[0].clone()
    };
    assert_violation(
        &taken(&[messages[0].clone(), other_id]),
        "has the ranges of message id",
    );
}

#[test]
fn a_property_that_is_missing_or_wrong_is_found() {
    let good = batches(b"one\n", 1).remove(0);
    let broken = [
        (
            "content_type",
            Message {
                content_type: None,
                ..good.clone()
            },
        ),
        (
            "delivery_mode",
            Message {
                delivery_mode: Some(1),
                ..good.clone()
            },
        ),
        (
            "message_id",
            Message {
                message_id: Some("F".repeat(32)),
                ..good.clone()
            },
        ),
        (
            "timestamp",
            Message {
                timestamp: Some(1_795_353_300_000),
                ..good.clone()
            },
        ),
        (
            "type is",
            Message {
                kind: Some("fantail.batch.v2".into()),
                ..good.clone()
            },
        ),
        (
            "app_id",
            Message {
                app_id: Some("other/1".into()),
                ..good.clone()
            },
        ),
        (
            "priority",
            Message {
                priority: Some(10),
                ..good.clone()
            },
        ),
        (
            "routing key",
            Message {
                routing_key: "other".into(),
                ..good
            },
        ),
    ];
    for (name, message) in broken {
        assert_violation(&taken(&[message]), name);
    }
}

#[test]
fn a_header_of_another_type_is_found_unless_it_is_the_brokers() {
    let with = |name: &str, header| {
        let mut message = batches(b"one\n", 1).remove(0);
        message.headers.insert(name.to_owned(), header);
        taken(&[message])
    };
    assert_violation(&with("lines", Header::Text("1".into())), "header \"lines\"");
    assert_violation(&with("agent", Header::Int(1)), "header \"agent\"");
    assert_violation(
        &with("more", Header::Other("FieldTable".into(), 1)),
        "neither text nor int64",
    );
    with("more", Header::Int(1)).assert_clean();
    with("x-death", Header::Other("FieldArray".into(), 1)).assert_clean();
}

#[test]
fn properties_that_grow_too_large_are_found_unless_one_path_is_to_blame() {
    let many: Vec<Value> = (0..40)
        .map(|number| {
            let mut range = range(0, 4);
            range["file"] = format!("{number:032x}").into();
            range["path"] = format!("/var/log/app/{number}.log").into();
            range["skipped"] = "read_from".into();
            range
        })
        .collect();
    assert_violation(
        &taken(&[ranges_only(&many)]),
        "all properties together are ",
    );

    let mut long = range(0, 4);
    long["path"] = format!("/{}", "x".repeat(4000)).into();
    long["skipped"] = "read_from".into();
    taken(&[ranges_only(&[long])]).assert_clean();
}

#[test]
fn a_body_larger_than_the_limit_is_found() {
    let content = [vec![b'x'; 8 * 1024 * 1024], b"\n".to_vec()].concat();
    assert_violation(&taken(&batches(&content, 1)), "the body is 83");
}

#[test]
fn ranges_that_are_not_in_their_form_are_found() {
    let with = |from: &str, to: &str| {
        let mut message = batches(b"one\n", 1).remove(0);
        let ranges = message.text_header("ranges").unwrap().replacen(from, to, 1);
        message
            .headers
            .insert("ranges".to_owned(), Header::Text(ranges));
        taken(&[message])
    };
    assert_violation(&with("\"end\":4", "\"end\": 4"), "white space");
    assert_violation(
        &with("\"start\":0,\"end\":4", "\"end\":4,\"start\":0"),
        "\"start\" out of order",
    );
    assert_violation(&with("\"end\":4", "\"end\":0"), "is empty");
    assert_violation(&with("\"end\":4", "\"end\":4,\"eof\":false"), "eof is");
    assert_violation(
        &with("\"end\":4", "\"end\":4,\"skipped\":\"lazy\""),
        "unknown reason",
    );
    assert_violation(&with("f1f1", "F1F1"), "is not 32 hex digits");
    assert_violation(&with("a.log", "b.log"), "is not its range's");
}

#[test]
fn bytes_behind_the_end_of_a_generation_are_found() {
    let mut last = range(0, 4);
    last["eof"] = true.into();
    let ledger = taken(&[
        message(&[line(0, b"one\n")], &[last]),
        message(&[line(4, b"two\n")], &[range(4, 8)]),
    ]);
    assert_violation(&ledger, "after its eof at 4");
}

#[test]
fn a_line_in_a_range_that_was_skipped_is_found() {
    let mut skipped = range(0, 4);
    skipped["skipped"] = "deleted".into();
    let ledger = taken(&[message(&[line(0, b"one\n")], &[skipped])]);
    assert_violation(&ledger, "lies in no range of the message");
}

#[test]
fn a_message_without_lines_that_has_a_body_is_found() {
    let mut message = ranges_only(&[range(0, 4)]);
    message.body = b"x".to_vec();
    assert_violation(&taken(&[message]), "fantail.ranges.v1 has a body");
}

#[test]
fn a_host_that_differs_between_line_and_header_is_found() {
    let ledger = taken(&[with_body_text(&batches(b"one\n", 1)[0], "web-1", "web-2")]);
    assert_violation(&ledger, "host.name \"web-2\" is not the header's \"web-1\"");
}

#[test]
fn exact_bytes_that_are_wrong_or_needless_are_found() {
    let good = batches(b"a\xffb\n", 1).remove(0);
    taken(std::slice::from_ref(&good)).assert_clean();
    let encoded = STANDARD.encode(b"a\xffb");
    let needless = with_body_text(&good, &encoded, &STANDARD.encode(b"ab"));
    assert_violation(
        &taken(&[needless]),
        "message_base64 beside a line that is UTF-8",
    );
    let other = with_body_text(&good, &encoded, &STANDARD.encode(b"a\xffc"));
    assert_violation(
        &taken(&[other]),
        "message is not message_base64 with U+FFFD",
    );
}

fn taken(messages: &[Message]) -> Ledger {
    let mut ledger = Ledger::new();
    messages.iter().for_each(|message| ledger.take(message));
    ledger
}

fn assert_violation(ledger: &Ledger, expected: &str) {
    let violations = ledger.violations();
    assert!(
        violations
            .iter()
            .any(|violation| violation.contains(expected)),
        "no violation says {expected:?}: {violations:#?}"
    );
}

fn assert_differs(ledger: &Ledger, content: &[u8], expected: &str) {
    let difference = ledger.file(PATH).difference(content).unwrap_or_default();
    assert!(
        difference.contains(expected),
        "not {expected:?}: {difference:?}"
    );
}
