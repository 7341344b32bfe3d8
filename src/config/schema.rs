//! The configuration's shape as types, from which `config/fantail.schema.json` is made for editors. The
//! keys themselves are those of [`super::raw`], and the defaults those of `config/fantail.toml`; the
//! tests below hold all three together.

// What the derived schemas are made of is never built as a value.
#![allow(dead_code)]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde_json::{Value, json};

use super::raw;

/// What a text may be beside what is expected: a variable may stand for all of it.
const VARIABLE: &str = r"\$\{[^}]*\}";

/// A text of the form of `pattern`, or with a variable in it.
fn text(pattern: &str, description: &str) -> Schema {
    json_schema!({
        "type": "string",
        "pattern": format!("^(?:{pattern})$|{VARIABLE}"),
        "description": description,
    })
}

macro_rules! form {
    ($(#[$meta:meta])* $name:ident, $schema:expr) => {
        $(#[$meta])*
        struct $name;

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

const DURATION: &str = "[0-9]+ *(?:ms|s|m|min|h|d)";
const SIZE: &str = "[0-9]+ *(?:B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)?";

form!(
    /// A time.
    Duration,
    text(DURATION, "A duration: \"250ms\", \"5s\", \"10m\", \"2h\", \"7d\".")
);
form!(
    /// A time, or none.
    DurationOrNone,
    text(&format!("(?:{DURATION})?"), "A duration like \"7d\"; empty: none.")
);
form!(
    /// A number of bytes.
    Size,
    json_schema!({
        "anyOf": [
            { "type": "integer", "minimum": 0 },
            text(SIZE, "A size: \"64KiB\", \"1MB\", or bytes."),
        ]
    })
);
form!(
    /// Bytes in a second, or no limit.
    Rate,
    text(
        "(?:[0-9]+ *(?:B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)?/s)?",
        "Bytes in a second: \"10MB/s\"; empty: no ceiling."
    )
);
form!(
    /// What stays free of a file system.
    Free,
    json_schema!({
        "anyOf": [
            { "type": "integer", "minimum": 0 },
            text(
                &format!(r"[0-9]+(?:\.[0-9]+)? *%|{SIZE}"),
                "A part of the file system, \"5%\", or bytes, \"10GiB\"."
            ),
        ]
    })
);

/// One of several words.
fn one_of(words: &[&str]) -> Schema {
    json_schema!({
        "anyOf": [
            { "enum": words },
            { "type": "string", "pattern": VARIABLE },
        ]
    })
}

form!(ReadFrom, one_of(&["beginning", "end"]));
form!(Format, one_of(&["ndjson", "json", "lines"]));
form!(Compression, one_of(&["none", "gzip", "zstd"]));
form!(Declare, one_of(&["missing", "never"]));
form!(QueueType, one_of(&["quorum", "classic", "stream"]));
form!(WhenFull, one_of(&["block", "drop_oldest"]));
form!(Expose, one_of(&["", "all"]));
form!(
    Parse,
    text(
        "|json|logfmt|cri|regex:.*",
        "\"json\", \"logfmt\", \"cri\" or 'regex:^(?<level>\\w+) '."
    )
);

/// The value of a queue's argument.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum Argument {
    Text(String),
    Integer(i64),
    Boolean(bool),
}

/// fantail's configuration.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, title = "fantail.toml")]
struct Root {
    /// The agent itself.
    agent: Option<Agent>,
    /// Which files are read and how, a block for each kind of log. A file belongs to the first source
    /// that matches it.
    source: Option<Vec<Source>>,
    /// How lines are put into messages.
    batch: Option<Batch>,
    /// Where messages go.
    broker: Option<Broker>,
    /// Where batches wait on disk while the broker does not take them.
    spool: Option<Spool>,
    /// Metrics, health and the page.
    http: Option<Http>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Agent {
    /// Marks, ids, the lock.
    #[schemars(extend("default" = "/var/lib/fantail"))]
    state_dir: Option<String>,
    /// Socket for `fantail status`; empty: /run/fantail/control.sock with the default state_dir, else
    /// state_dir/control.sock.
    #[schemars(extend("default" = ""))]
    control: Option<String>,
    /// In every message; empty: the system's host name.
    #[schemars(extend("default" = ""))]
    host: Option<String>,
    /// Put beside every line: { env = "prod" }.
    labels: Option<BTreeMap<String, String>>,
    /// Time that a stop may take after SIGTERM.
    #[schemars(extend("default" = "10s"))]
    shutdown_timeout: Option<Duration>,
    /// On disk, pinned by deleted files until they are read; beyond it the oldest is let go and counted
    /// lost.
    #[schemars(extend("default" = "5GiB"))]
    max_deleted_bytes: Option<Size>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Source {
    /// Unique, at most 100 bytes. Default: derived from the first include.
    name: Option<String>,
    /// Globs, `**` too: ["/var/log/app/*.log"].
    include: Vec<String>,
    /// Globs of files that are not read.
    exclude: Option<Vec<String>>,
    /// Where files begin that are there at the source's first scan.
    #[schemars(extend("default" = "beginning"))]
    read_from: Option<ReadFrom>,
    /// What was not written to for so long when it is found is not read until it is.
    #[schemars(extend("default" = ""))]
    ignore_older: Option<DurationOrNone>,
    /// .gz and .zst are read uncompressed; false: ignored.
    #[schemars(extend("default" = true))]
    compressed: Option<bool>,
    /// Links that belong to root, to fantail's user or to the owner of what they point to are followed.
    #[schemars(extend("default" = false))]
    follow_symlinks: Option<bool>,
    /// Between two looks at names and files; events make it faster.
    #[schemars(extend("default" = "1s"))]
    poll_interval: Option<Duration>,
    /// At most 1MiB; longer lines are split, no byte is lost.
    #[schemars(extend("default" = "1MiB"))]
    max_line: Option<Size>,
    /// How files are written: "utf-8", "utf-16le", "latin1" …; lines leave as UTF-8.
    #[schemars(extend("default" = "utf-8"))]
    encoding: Option<String>,
    /// Put beside every line, over those of [agent].
    labels: Option<BTreeMap<String, String>>,
    /// Regexes: if given, a line must match one.
    keep: Option<Vec<String>>,
    /// Regexes: a line that matches one is dropped, and counted.
    drop: Option<Vec<String>>,
    /// What must not leave: [{ pattern = '\b\d{16}\b', replace = "[card]" }].
    redact: Option<Vec<Redact>>,
    /// What fields a line has; they stand under `parsed`.
    #[schemars(extend("default" = ""))]
    parse: Option<Parse>,
    /// Parsed field and format that become @timestamp: "ts:%Y-%m-%dT%H:%M:%S%.f%:z".
    #[schemars(extend("default" = ""))]
    timestamp: Option<String>,
    /// Regexes: a matching line closes its batch at once.
    urgent: Option<Vec<String>>,
    /// 1 to 9: AMQP priority of such a batch.
    #[schemars(range(min = 0, max = 9), extend("default" = 0))]
    urgent_priority: Option<u8>,
    /// Several lines that are one.
    multiline: Option<Multiline>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Redact {
    /// A regex that does not match the empty text.
    pattern: String,
    /// What stands there instead; $1 and ${name} are groups.
    replace: String,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Multiline {
    /// Regex of a first line, for example '^\d{4}-'; or `continuation`.
    start: Option<String>,
    /// Regex of a line that belongs to the one before: '^\s'.
    continuation: Option<String>,
    /// After so long without more, a group is whole.
    #[schemars(extend("default" = "1s"))]
    timeout: Option<Duration>,
    /// Lines of one group.
    #[schemars(range(min = 1), extend("default" = 1000))]
    max_lines: Option<u64>,
    /// Bytes of one group, at most 1MiB.
    #[schemars(extend("default" = "1MiB"))]
    max_bytes: Option<Size>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Batch {
    /// "ndjson": an object a line; "json": one line a message; "lines": bytes as in the file.
    #[schemars(extend("default" = "ndjson"))]
    format: Option<Format>,
    /// Consumers must unpack by content_encoding.
    #[schemars(extend("default" = "none"))]
    compression: Option<Compression>,
    /// gzip: 0 to 9; zstd: 1 to 22.
    #[schemars(range(min = 0, max = 22), extend("default" = 1))]
    level: Option<u8>,
    /// Of a message's body before compression; at most 8MiB.
    #[schemars(extend("default" = "1MiB"))]
    max_bytes: Option<Size>,
    /// Lines of a message; always 1 with format "json".
    #[schemars(range(min = 1), extend("default" = 10000))]
    max_lines: Option<u64>,
    /// Least time between two batches that are not full; by default 5ms with compression.
    #[schemars(extend("default" = "2ms"))]
    linger: Option<Duration>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Broker {
    /// Tried in turn; amqps:// for TLS; %2f is the virtual host `/`.
    #[schemars(extend("default" = ["amqp://guest:guest@localhost:5672/%2f"]))]
    urls: Option<Vec<String>>,
    /// Of the user in `urls`; read at every connect, final newline cut.
    #[schemars(extend("default" = ""))]
    password_file: Option<String>,
    /// A durable fanout exchange.
    #[schemars(extend("default" = "logs"))]
    exchange: Option<String>,
    /// Make and bind what is absent, or only look.
    #[schemars(extend("default" = "missing"))]
    declare: Option<Declare>,
    /// Between two looks at the topology; marks move behind them.
    #[schemars(extend("default" = "5s"))]
    check_interval: Option<Duration>,
    /// A dead peer is noticed after two of these.
    #[schemars(extend("default" = "10s"))]
    heartbeat: Option<Duration>,
    /// Time that a connection may take to come about.
    #[schemars(extend("default" = "10s"))]
    connect_timeout: Option<Duration>,
    /// Silence after which a connection is given up.
    #[schemars(extend("default" = "5m"))]
    confirm_timeout: Option<Duration>,
    /// Published and not yet confirmed.
    #[schemars(extend("default" = "16MiB"))]
    max_in_flight: Option<Size>,
    /// Ceiling of what is published.
    #[schemars(extend("default" = ""))]
    max_rate: Option<Rate>,
    /// For addresses that begin with amqps://. The files are PEM and read at every connect.
    tls: Option<Tls>,
    /// Without any there are archive, alerting and search.
    queue: Option<Vec<Queue>>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Tls {
    /// Authorities of the broker's certificate; empty: the system's roots.
    #[schemars(extend("default" = ""))]
    ca: Option<String>,
    /// Client certificate: the login when the address has no user.
    #[schemars(extend("default" = ""))]
    cert: Option<String>,
    /// Its private key.
    #[schemars(extend("default" = ""))]
    key: Option<String>,
    /// What the broker's certificate is for; empty: the address's host.
    #[schemars(extend("default" = ""))]
    server_name: Option<String>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Queue {
    /// Its name.
    name: String,
    /// What a confirm means: "quorum", fsynced by a majority; "classic", written; "stream", replicated.
    #[schemars(rename = "type", extend("default" = "quorum"))]
    kind: Option<QueueType>,
    /// { x-max-length-bytes = 1000000000, x-overflow = "reject-publish" }.
    arguments: Option<BTreeMap<String, Argument>>,
    /// false: its absence and its nacks are reported, not waited for.
    #[schemars(extend("default" = true))]
    required: Option<bool>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Spool {
    /// Empty: spool in state_dir.
    #[schemars(extend("default" = ""))]
    dir: Option<String>,
    /// Of all segments together.
    #[schemars(extend("default" = "1GiB"))]
    max_bytes: Option<Size>,
    /// Below it the spool counts as full.
    #[schemars(extend("default" = "5%"))]
    min_free: Option<Free>,
    /// What is given back, or given up, at once.
    #[schemars(extend("default" = "64MiB"))]
    segment_bytes: Option<Size>,
    /// Stop reading, so that the files are the buffer, or give up the oldest.
    #[schemars(extend("default" = "block"))]
    when_full: Option<WhenFull>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Http {
    /// "127.0.0.1:9465": /metrics, /health/live, /health/ready, /status and the page; empty: none.
    #[schemars(extend("default" = ""))]
    listen: Option<String>,
    /// Beyond loopback only /metrics and /health are served, unless "all".
    #[schemars(extend("default" = ""))]
    expose: Option<Expose>,
}

/// The schema, as it is kept in `config/`. A key that is left out has its default; none may be null.
fn schema() -> Value {
    let mut settings = SchemaSettings::draft07();
    settings.inline_subschemas = true;
    let schema = settings.into_generator().into_root_schema_for::<Root>();
    let mut schema = schema.to_value();
    not_null(&mut schema);
    schema
}

/// TOML has no null: what may be left out is not one either.
fn not_null(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = &types[..] {
                    let only = only.clone();
                    object.insert("type".to_owned(), only);
                }
            }
            if let Some(Value::Array(any)) = object.get_mut("anyOf") {
                any.retain(|schema| *schema != json!({ "type": "null" }));
                if let [Value::Object(only)] = &any[..] {
                    let only = only.clone();
                    object.remove("anyOf");
                    for (key, value) in only {
                        object.entry(key).or_insert(value);
                    }
                }
            }
            object.values_mut().for_each(not_null);
        }
        Value::Array(values) => values.iter_mut().for_each(not_null),
        _ => {}
    }
}

fn path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/fantail.schema.json")
}

#[test]
fn the_schema_that_is_kept_is_the_one_of_these_types() {
    let made = format!("{:#}\n", schema());
    if std::env::var_os("FANTAIL_BLESS").is_some() {
        std::fs::write(path(), &made).expect("written");
    }
    let kept = std::fs::read_to_string(path()).expect("read");
    assert!(
        kept == made,
        "run with FANTAIL_BLESS=1, and look at what changed"
    );
}

#[test]
fn it_has_the_keys_that_there_are_and_the_defaults_that_they_have() {
    let schema = schema();
    let tables: [(&str, &[&str]); 11] = [
        ("", raw::ROOT),
        ("/agent", raw::AGENT),
        ("/source/items", raw::SOURCE),
        ("/source/items/multiline", raw::MULTILINE),
        ("/source/items/redact/items", raw::REDACT),
        ("/batch", raw::BATCH),
        ("/broker", raw::BROKER),
        ("/broker/tls", raw::TLS),
        ("/broker/queue/items", raw::QUEUE),
        ("/spool", raw::SPOOL),
        ("/http", raw::HTTP),
    ];
    let shipped = std::fs::read_to_string(path().with_file_name("fantail.toml")).expect("read");
    let shipped: Value = toml::from_str(&shipped).expect("TOML");
    for (table, keys) in tables {
        let names = table.split('/').skip(1);
        let mut found = &schema;
        let mut values = Some(&shipped);
        for name in names {
            if name == "items" {
                found = &found["items"];
                values = values.and_then(|values| values.get(0));
            } else {
                found = &found["properties"][name];
                values = values.and_then(|values| values.get(name));
            }
        }
        let properties = found["properties"].as_object().expect("a table");
        let mut has: Vec<&str> = properties.keys().map(String::as_str).collect();
        let mut wants = keys.to_vec();
        has.sort_unstable();
        wants.sort_unstable();
        assert_eq!(has, wants, "of {table:?}");
        assert_eq!(found["additionalProperties"], false, "of {table:?}");
        for (key, property) in properties {
            assert!(
                table.is_empty() || property["description"].is_string(),
                "{table}/{key} says nothing"
            );
            if let Some(default) = property.get("default") {
                let value = values.and_then(|values| values.get(key));
                assert!(
                    value.is_none_or(|value| value == default),
                    "{table}/{key}: {value:?} is shipped"
                );
            }
        }
    }
}
