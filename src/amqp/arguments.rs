//! What RabbitMQ makes of a queue's arguments, known before a broker is asked: what it refuses,
//! what it ignores, and what costs lines that were confirmed.
//!
//! Sources of the table, for RabbitMQ 3.10 to 4.1. The columns: `capabilities/0` (`queue_arguments`)
//! of rabbit_quorum_queue.erl, rabbit_classic_queue.erl and rabbit_stream_queue.erl; an argument
//! that another type lists and this one does not is refused by `check_arguments_key/4` of
//! rabbit_amqqueue.erl. The values: `declare_args/0` there, and `check_max_segment_size_bytes/1` of
//! rabbit_stream_queue.erl. All of it was asked of 3.10.8 too, and a test of the repository asks
//! again. What only some of these versions refuse is a warning.

use super::{Argument, Queue, QueueKind};
use QueueKind::{Classic, Quorum, Stream};

/// What RabbitMQ makes of an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Every supported version refuses to make such a queue; otherwise it is made.
    pub refused: bool,
    /// The value is meant, not the argument as such.
    pub of_value: bool,
    /// What is wrong.
    pub text: String,
    /// What to write instead.
    pub advice: String,
}

/// An argument that RabbitMQ knows.
struct Rule {
    name: &'static str,
    /// The types that take it.
    kinds: &'static [QueueKind],
    /// The types that take it in some of the supported versions only.
    sometimes: &'static [QueueKind],
    value: Value,
}

/// What an argument's value must be.
enum Value {
    /// A whole number between two, both included.
    Whole(i64, i64),
    /// One of some words.
    Word(&'static [&'static str]),
    Text,
    Boolean,
    /// A number above 0 and one of `Y`, `M`, `D`, `h`, `m`, `s`.
    Age,
    /// Not looked at, or not alike in all versions.
    Any,
}

const fn rule(name: &'static str, kinds: &'static [QueueKind], value: Value) -> Rule {
    Rule {
        name,
        kinds,
        sometimes: &[],
        value,
    }
}

const ALL: &[QueueKind] = &[Quorum, Classic, Stream];
const NOT_STREAM: &[QueueKind] = &[Quorum, Classic];
const NOT_QUORUM: &[QueueKind] = &[Classic, Stream];
/// `?MAX_EXPIRY_TIMER`: ten years.
const EXPIRY_MAX: i64 = 315_360_000_000;
const COUNT: Value = Value::Whole(0, i64::MAX);

const RULES: &[Rule] = &[
    rule("x-expires", NOT_STREAM, Value::Whole(1, EXPIRY_MAX)),
    rule("x-message-ttl", NOT_STREAM, Value::Whole(0, EXPIRY_MAX)),
    rule("x-dead-letter-exchange", NOT_STREAM, Value::Text),
    rule("x-dead-letter-routing-key", NOT_STREAM, Value::Text),
    rule(
        "x-dead-letter-strategy",
        &[Quorum],
        Value::Word(&["at-most-once", "at-least-once"]),
    ),
    rule("x-max-length", NOT_STREAM, COUNT),
    rule("x-max-length-bytes", ALL, COUNT),
    // Not said to be refused by the others: it means nothing since 3.10 and is on its way out.
    Rule {
        name: "x-max-in-memory-length",
        kinds: &[Quorum],
        sometimes: NOT_QUORUM,
        value: COUNT,
    },
    Rule {
        name: "x-max-in-memory-bytes",
        kinds: &[Quorum],
        sometimes: NOT_QUORUM,
        value: COUNT,
    },
    rule("x-max-priority", &[Classic], Value::Whole(0, 255)),
    rule(
        "x-overflow",
        NOT_STREAM,
        Value::Word(&["drop-head", "reject-publish", "reject-publish-dlx"]),
    ),
    rule(
        "x-queue-mode",
        &[Classic],
        Value::Word(&["default", "lazy"]),
    ),
    rule("x-queue-version", &[Classic], Value::Whole(1, 2)),
    rule("x-single-active-consumer", NOT_STREAM, Value::Boolean),
    rule("x-queue-master-locator", &[Classic], Value::Any),
    Rule {
        name: "x-queue-leader-locator",
        kinds: &[Quorum, Stream],
        // Since 4.0.
        sometimes: &[Classic],
        value: Value::Word(&["client-local", "balanced", "random", "least-leaders"]),
    },
    rule(
        "x-quorum-initial-group-size",
        &[Quorum],
        Value::Whole(1, i64::MAX),
    ),
    rule("x-delivery-limit", &[Quorum], Value::Any),
    rule("x-max-age", &[Stream], Value::Age),
    rule(
        "x-stream-max-segment-size-bytes",
        &[Stream],
        Value::Whole(0, 3_000_000_000),
    ),
    rule(
        "x-initial-cluster-size",
        &[Stream],
        Value::Whole(1, i64::MAX),
    ),
    // Younger than 3.10, which takes them for any type and ignores them.
    Rule {
        name: "x-quorum-target-group-size",
        kinds: &[Quorum],
        sometimes: NOT_QUORUM,
        value: Value::Any,
    },
    Rule {
        name: "x-stream-filter-size-bytes",
        kinds: &[Stream],
        sometimes: NOT_STREAM,
        value: Value::Any,
    },
    rule("x-consumer-timeout", ALL, Value::Any),
];

/// The arguments that RabbitMQ knows.
pub fn names() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|rule| rule.name)
}

/// What RabbitMQ makes of one argument of `queue`; nothing where it takes it and nothing is lost.
#[must_use]
pub fn judge(queue: &Queue, name: &str) -> Option<Finding> {
    let value = queue.arguments.get(name)?;
    let kind = queue.kind;
    let Some(rule) = RULES.iter().find(|rule| rule.name == name) else {
        return Some(Finding {
            refused: false,
            of_value: false,
            text: format!("RabbitMQ does not know the argument `{name}`, and ignores it"),
            advice: "only a plugin might know it".to_owned(),
        });
    };
    if !rule.kinds.contains(&kind) {
        let refused = !rule.sometimes.contains(&kind);
        let verb = if refused {
            "takes no"
        } else {
            "takes, in some versions of RabbitMQ, no"
        };
        return Some(Finding {
            refused,
            of_value: false,
            text: format!("a {} queue {verb} `{name}`", kind.as_str()),
            advice: instead(name, kind).map_or_else(|| elsewhere(rule), str::to_owned),
        });
    }
    if let Some(wanted) = rule.value.mismatch(value) {
        return Some(Finding {
            refused: true,
            of_value: true,
            text: format!("`{name}` is {wanted}"),
            advice: meant(&rule.value, value).unwrap_or_default(),
        });
    }
    if name == "x-dead-letter-routing-key"
        && !queue.arguments.contains_key("x-dead-letter-exchange")
    {
        return Some(Finding {
            refused: true,
            of_value: false,
            text: "`x-dead-letter-routing-key` without `x-dead-letter-exchange`".to_owned(),
            advice: "give both or neither".to_owned(),
        });
    }
    loss(queue, name, value)
}

/// How an argument that RabbitMQ takes costs lines that were confirmed.
fn loss(queue: &Queue, name: &str, value: &Argument) -> Option<Finding> {
    let overflow = match queue.arguments.get("x-overflow") {
        Some(Argument::Text(text)) => text.as_str(),
        _ => "drop-head",
    };
    // Measured on 3.10.8 with x-max-length = 2: all of eight messages confirmed, the last two there.
    let ignored = queue.kind == Quorum && overflow == "reject-publish-dlx";
    let (text, advice) = match (name, value) {
        ("x-overflow", _) if ignored => (
            "a quorum queue takes \"reject-publish-dlx\" for \"drop-head\": when it is full, \
             confirmed lines vanish",
            "write \"reject-publish\"",
        ),
        ("x-max-length" | "x-max-length-bytes", _)
            if queue.kind != Stream && overflow == "drop-head" =>
        {
            (
                "when this queue is full, the oldest lines vanish, although they were confirmed",
                "add x-overflow = \"reject-publish\": fantail then waits",
            )
        }
        ("x-expires", _) => (
            "RabbitMQ deletes this queue and the lines in it when nobody has used it for so long",
            "leave it out unless that is what you want",
        ),
        // Measured: 4.0.5 takes it for no limit, 3.10.8 drops the message at the first return.
        ("x-delivery-limit", Argument::Integer(..0)) => (
            "no limit on RabbitMQ 4, but before it a message is dropped when it is returned once",
            "leave it out for RabbitMQ 3, which has no limit by itself",
        ),
        _ => return None,
    };
    Some(Finding {
        refused: false,
        of_value: name == "x-overflow",
        text: text.to_owned(),
        advice: advice.to_owned(),
    })
}

/// Whether `queue` is a stream that nothing keeps from filling the disk.
#[must_use]
pub fn grows_without_end(queue: &Queue) -> bool {
    let limits = ["x-max-age", "x-max-length-bytes"];
    queue.kind == Stream
        && !limits
            .iter()
            .any(|name| queue.arguments.contains_key(*name))
}

/// Whether RabbitMQ 4 gives `queue` its own delivery limit.
#[must_use]
pub fn limited_by_default(queue: &Queue) -> bool {
    queue.kind == Quorum && !queue.arguments.contains_key("x-delivery-limit")
}

/// What a user of `name` may have meant for a queue of this type.
fn instead(name: &str, kind: QueueKind) -> Option<&'static str> {
    Some(match (name, kind) {
        ("x-max-length", Stream) => "limit it by x-max-length-bytes or x-max-age",
        ("x-message-ttl" | "x-expires", Stream) => "write x-max-age = \"7D\"",
        ("x-overflow", Stream) => "leave it out: a stream never refuses, it drops its oldest lines",
        ("x-max-age", _) => "write x-message-ttl = 604800000 (milliseconds)",
        ("x-queue-mode", Quorum) => "leave it out: a quorum queue keeps messages on disk anyway",
        ("x-initial-cluster-size", Quorum) => "write x-quorum-initial-group-size",
        ("x-quorum-initial-group-size", Stream) => "write x-initial-cluster-size",
        ("x-queue-master-locator", Quorum | Stream) => "write x-queue-leader-locator",
        ("x-queue-leader-locator", Classic) => "before 4.0 it is x-queue-master-locator",
        _ => return None,
    })
}

fn elsewhere(rule: &Rule) -> String {
    let kinds: Vec<&str> = rule.kinds.iter().map(|kind| kind.as_str()).collect();
    format!("remove it; only {} queues take it", kinds.join(" and "))
}

impl Value {
    /// What the value should be, where it is not.
    fn mismatch(&self, value: &Argument) -> Option<String> {
        match (self, value) {
            (Self::Any, _) | (Self::Text, Argument::Text(_)) => None,
            (Self::Boolean, Argument::Boolean(_)) => None,
            (Self::Whole(least, most), Argument::Integer(number))
                if (least..=most).contains(&number) =>
            {
                None
            }
            (Self::Word(words), Argument::Text(text)) if words.contains(&text.as_str()) => None,
            (Self::Age, Argument::Text(text)) if is_age(text) => None,
            (wanted, _) => Some(wanted.to_string()),
        }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(least, i64::MAX) => write!(f, "a whole number, at least {least}"),
            Self::Whole(least, most) => write!(f, "a whole number from {least} to {most}"),
            Self::Word(words) => write!(f, "one of \"{}\"", words.join("\", \"")),
            Self::Text => f.write_str("a text"),
            Self::Boolean => f.write_str("true or false"),
            Self::Age => f.write_str(
                "a number and one of Y, M, D, h, m, s (years to seconds), such as \"7D\"",
            ),
            Self::Any => Ok(()),
        }
    }
}

/// What to write instead of a text that does not fit.
fn meant(wanted: &Value, value: &Argument) -> Option<String> {
    let Argument::Text(text) = value else {
        return None;
    };
    let upper = text.to_uppercase();
    match wanted {
        Value::Boolean => Some("write true or false, without quotes".to_owned()),
        Value::Age if is_age(&upper) => Some(format!("write {upper:?}")),
        _ => None,
    }
}

fn is_age(text: &str) -> bool {
    let Some(number) = text.strip_suffix(['Y', 'M', 'D', 'h', 'm', 's']) else {
        return false;
    };
    number.parse::<u64>().is_ok_and(|number| number > 0) && !number.starts_with('+')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(kind: QueueKind, arguments: &[(&str, Argument)]) -> Queue {
        Queue {
            name: "q".into(),
            kind,
            arguments: arguments
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
            required: true,
        }
    }

    fn text(text: &str) -> Argument {
        Argument::Text(text.to_owned())
    }

    #[test]
    fn a_limit_without_reject_publish_is_a_loss_and_with_it_is_none() {
        let limit = ("x-max-length", Argument::Integer(5));
        for kind in [Quorum, Classic] {
            let bare = queue(kind, std::slice::from_ref(&limit));
            let found = judge(&bare, "x-max-length").expect("a warning");
            assert!(!found.refused && found.text.contains("vanish"), "{found:?}");
            let reject = queue(
                kind,
                &[limit.clone(), ("x-overflow", text("reject-publish"))],
            );
            assert_eq!(judge(&reject, "x-max-length"), None);
            assert_eq!(judge(&reject, "x-overflow"), None);
        }
        let dlx = ("x-overflow", text("reject-publish-dlx"));
        let classic = queue(Classic, &[limit.clone(), dlx.clone()]);
        assert_eq!(judge(&classic, "x-overflow"), None);
        let quorum = queue(Quorum, &[limit, dlx]);
        assert!(judge(&quorum, "x-overflow").is_some_and(|found| !found.refused));
    }

    #[test]
    fn a_stream_needs_a_limit_of_age_or_bytes() {
        assert!(grows_without_end(&queue(Stream, &[])));
        let aged = queue(Stream, &[("x-max-age", text("7D"))]);
        assert!(!grows_without_end(&aged));
        assert_eq!(judge(&aged, "x-max-age"), None);
        for wrong in ["7d", "D", "0D", "+7D", "7 D", ""] {
            let aged = queue(Stream, &[("x-max-age", text(wrong))]);
            let found = judge(&aged, "x-max-age").expect("refused");
            assert!(found.refused && found.of_value, "{wrong}: {found:?}");
        }
    }

    #[test]
    fn an_argument_that_nobody_knows_is_a_warning() {
        let found = judge(
            &queue(Quorum, &[("x-max-lenght", Argument::Integer(1))]),
            "x-max-lenght",
        );
        assert!(found.is_some_and(|found| !found.refused));
    }
}
