//! The configuration as it is used: every value checked and parsed into the type that uses it,
//! every problem found at once.

mod broker;
mod http;
mod multiline;
pub mod raw;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod shipped;
mod source;
mod spool;
mod treatment;

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::amqp;
use crate::model::{Coding, Compression, Format};
use crate::tail::descriptors::Limits;
use crate::wire::BODY_MAX;
use broker::broker;
use http::http;
pub use http::{Expose, Http};
pub use raw::nearest;
use raw::{Document, Problem, Spot, Table};
pub use source::Source;
use source::sources;
pub use spool::{Spool, WhenFull};
use treatment::{Labels, labels};

const SECOND: Duration = Duration::from_secs(1);
/// Where the state is kept, unless the configuration says otherwise.
const STATE_DIR: &str = "/var/lib/fantail";
/// Longest name of the control socket in its directory: behind `/proc/self/fd/N/` it must fit into
/// the 108 bytes that a socket's address has.
const SOCKET_NAME_MAX: usize = 80;
/// Longest AMQP short string: names of queues and exchanges.
const SHORT_STRING_MAX: usize = 255;
/// A line longer than this is split whatever the configuration says: escaped, it must still fit
/// into a body.
const LINE_MAX: u64 = 1024 * 1024;

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The main file.
    pub path: PathBuf,
    /// When it was read.
    pub loaded_at: Timestamp,
    /// Where the state is kept.
    pub state_dir: PathBuf,
    /// The control socket.
    pub control: PathBuf,
    /// The host's name in every message.
    pub host: Arc<str>,
    /// Time that a stop may take.
    pub shutdown_timeout: Duration,
    /// Bytes on disk that deleted files may pin.
    pub deleted_bytes_max: u64,
    /// Which files, in the order of the files and of the blocks in them.
    pub sources: Vec<Source>,
    /// When a batch is closed.
    pub batch: Batch,
    /// How to connect and what must be there.
    pub broker: amqp::Settings,
    /// Time between topology checks.
    pub check_interval: Duration,
    /// Bytes that may be published and not acknowledged.
    pub max_in_flight: usize,
    /// Where batches wait while the broker does not take them.
    pub spool: Spool,
    /// Where metrics and the page are served.
    pub http: Http,
    /// What can be used, and is probably not meant.
    pub warnings: Vec<Problem>,
}

/// `[batch]`.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// How lines stand in a body.
    pub format: Format,
    /// How bodies are packed.
    pub compression: Option<Compression>,
    /// Bytes of body before compression.
    pub bytes_max: usize,
    /// Lines; one with [`Format::Json`], whatever this says.
    pub lines_max: u64,
    /// Least time between two batches that are not full.
    pub linger: Duration,
}

/// Why there is no configuration: everything that is wrong with it.
#[derive(Debug)]
pub struct ConfigError(pub Vec<Problem>);

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.0 {
            write!(f, "{problem}")?;
        }
        let count = self.0.len();
        let plural = if count == 1 { "" } else { "s" };
        write!(f, "{count} problem{plural} in the configuration")
    }
}

/// Reads the configuration at `path` and what stands in `conf.d` beside it.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let environment = |name: &str| std::env::var(name).ok();
    load_with(path, &environment)
}

/// Where the daemon that runs with the configuration at `path` has its control socket. Looks at
/// `[agent]` alone: whatever else is wrong, and whatever variables only the service has, the daemon
/// can be asked.
///
/// # Errors
/// What is wrong with that part.
pub fn control(path: &Path) -> Result<PathBuf, ConfigError> {
    let environment = |name: &str| std::env::var(name).ok();
    let mut problems = Vec::new();
    let control = Document::read(path, &mut problems).and_then(|document| {
        let mut root = document.root(&environment, &mut problems)?;
        let mut section = root.table("agent", &mut problems);
        Some(agent(&mut section, &mut problems)?.control)
    });
    match control {
        Some(control) if problems.is_empty() => Ok(control),
        _ => Err(ConfigError(problems)),
    }
}

/// Where the daemon that runs with the configuration at `path` has its spool. Looks at `[agent]` and
/// `[spool]` alone.
///
/// # Errors
/// What is wrong with those.
pub fn spool_directory(path: &Path) -> Result<PathBuf, ConfigError> {
    let environment = |name: &str| std::env::var(name).ok();
    let mut problems = Vec::new();
    let directory = Document::read(path, &mut problems).and_then(|document| {
        let mut root = document.root(&environment, &mut problems)?;
        let mut section = root.table("agent", &mut problems);
        let state_dir = agent(&mut section, &mut problems)?.state_dir;
        let mut section = root.table("spool", &mut problems);
        Some(spool::directory(&mut section, &state_dir, &mut problems))
    });
    match directory {
        Some(directory) if problems.is_empty() => Ok(directory),
        _ => Err(ConfigError(problems)),
    }
}

fn load_with(
    path: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, ConfigError> {
    let mut problems = Vec::new();
    let mut parts = Parts::default();
    if let Some(document) = Document::read(path, &mut problems) {
        main_file(&document, environment, &mut parts, &mut problems);
        problems.sort_by_key(Problem::order);
    }
    for path in added_files(path, &mut problems) {
        let first = problems.len();
        if let Some(document) = Document::read(&path, &mut problems) {
            added_file(&document, environment, &mut parts, &mut problems);
            problems[first..].sort_by_key(Problem::order);
        }
    }
    if parts
        .batch
        .is_some_and(|batch| batch.format == Format::Lines)
    {
        problems.append(&mut parts.not_bare);
    }
    let (warnings, errors): (Vec<_>, Vec<_>) = problems.into_iter().partition(Problem::is_warning);
    match parts.finish(path) {
        Some(config) if errors.is_empty() => Ok(Config { warnings, ..config }),
        _ => Err(ConfigError(errors)),
    }
}

/// `conf.d/*.toml` beside the main file, in name order.
fn added_files(path: &Path, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let directory = path.parent().unwrap_or(Path::new("")).join("conf.d");
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            let text = format!("cannot be read: {error}");
            problems.push(Problem::of_file(&directory, text));
            return Vec::new();
        }
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    files.sort();
    files
}

/// What the files have said so far.
#[derive(Default)]
struct Parts {
    agent: Option<Agent>,
    labels: Labels,
    batch: Option<Batch>,
    broker: Option<(amqp::Settings, Duration, usize)>,
    spool: Option<Spool>,
    http: Http,
    sources: Vec<Source>,
    names: HashSet<Arc<str>>,
    /// Problems that there are if bodies are bare bytes.
    not_bare: Vec<Problem>,
}

/// `[agent]`.
struct Agent {
    state_dir: PathBuf,
    control: PathBuf,
    host: Arc<str>,
    shutdown_timeout: Duration,
    deleted_bytes_max: u64,
}

impl Parts {
    fn finish(self, path: &Path) -> Option<Config> {
        let agent = self.agent?;
        let (mut broker, check_interval, max_in_flight) = self.broker?;
        broker.connection_name = format!("fantail@{}", agent.host);
        Some(Config {
            path: path.to_path_buf(),
            loaded_at: Timestamp::now(),
            state_dir: agent.state_dir,
            control: agent.control,
            host: agent.host,
            shutdown_timeout: agent.shutdown_timeout,
            deleted_bytes_max: agent.deleted_bytes_max,
            sources: self.sources,
            batch: self.batch?,
            broker,
            check_interval,
            max_in_flight,
            spool: self.spool?,
            http: self.http,
            warnings: Vec::new(),
        })
    }
}

fn main_file(
    document: &Document,
    environment: &dyn Fn(&str) -> Option<String>,
    parts: &mut Parts,
    problems: &mut Vec<Problem>,
) {
    let Some(mut root) = document.root(environment, problems) else {
        return;
    };
    let mut section = root.table("agent", problems);
    parts.agent = agent(&mut section, problems);
    parts.labels = labels(&mut section, &Labels::default(), problems);
    section.finish(raw::AGENT, problems);
    sources(&mut root, parts, problems);
    let mut section = root.table("batch", problems);
    parts.batch = Some(batch(&mut section, problems));
    section.finish(raw::BATCH, problems);
    let mut section = root.table("broker", problems);
    parts.broker = broker(&mut section, problems);
    section.finish(raw::BROKER, problems);
    let mut section = root.table("spool", problems);
    let state_dir = parts.agent.as_ref().map(|agent| &*agent.state_dir);
    let state_dir = state_dir.unwrap_or(Path::new(STATE_DIR));
    parts.spool = Some(spool::spool(&mut section, state_dir, problems));
    section.finish(raw::SPOOL, problems);
    let mut section = root.table("http", problems);
    parts.http = http(&mut section, problems);
    section.finish(raw::HTTP, problems);
    root.finish(raw::ROOT, problems);
}

fn added_file(
    document: &Document,
    environment: &dyn Fn(&str) -> Option<String>,
    parts: &mut Parts,
    problems: &mut Vec<Problem>,
) {
    let Some(mut root) = document.root(environment, problems) else {
        return;
    };
    sources(&mut root, parts, problems);
    root.only(
        "source",
        "a file in conf.d may hold [[source]] blocks alone",
        problems,
    );
}

fn agent(table: &mut Table<'_>, problems: &mut Vec<Problem>) -> Option<Agent> {
    let state_dir = table
        .string("state_dir", problems)
        .map_or_else(|| STATE_DIR.into(), |spot| PathBuf::from(spot.value));
    let control = match table.string("control", problems) {
        Some(spot) if !spot.value.is_empty() => {
            let path = PathBuf::from(&spot.value);
            if path
                .file_name()
                .is_none_or(|name| name.len() > SOCKET_NAME_MAX)
            {
                problems.push(spot.problem(format!(
                    "not the path of a socket whose own name has at most {SOCKET_NAME_MAX} bytes"
                )));
            }
            path
        }
        _ if state_dir == Path::new(STATE_DIR) => "/run/fantail/control.sock".into(),
        _ => state_dir.join("control.sock"),
    };
    let host = match table.string("host", problems) {
        Some(spot) if spot.value.len() > SHORT_STRING_MAX => {
            problems.push(too_long(&spot, SHORT_STRING_MAX));
            return None;
        }
        Some(spot) if !spot.value.is_empty() => spot.value,
        _ => rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
    };
    let shutdown_timeout = table
        .duration("shutdown_timeout", problems)
        .map_or(Duration::from_secs(10), |spot| spot.value);
    let deleted_bytes_max = table
        .size("max_deleted_bytes", problems)
        .map_or(Limits::default().deleted_bytes_max, |spot| spot.value);
    Some(Agent {
        state_dir,
        control,
        host: host.into(),
        shutdown_timeout,
        deleted_bytes_max,
    })
}

/// How hard bodies are packed, unless the configuration says otherwise.
const LEVEL: u8 = 1;

const FORMATS: &[(&str, Format)] = &[
    ("ndjson", Format::Ndjson),
    ("json", Format::Json),
    ("lines", Format::Lines),
];

const CODINGS: &[(&str, Option<Coding>)] = &[
    ("none", None),
    ("gzip", Some(Coding::Gzip)),
    ("zstd", Some(Coding::Zstd)),
];

fn batch(table: &mut Table<'_>, problems: &mut Vec<Problem>) -> Batch {
    let format = table
        .choice("format", FORMATS, problems)
        .unwrap_or_default();
    let compression = compression(table, problems);
    let bytes_max = within(
        table.size("max_bytes", problems),
        1,
        BODY_MAX as u64,
        1024 * 1024,
        problems,
    );
    let lines_max = within(
        table.integer("max_lines", problems),
        1,
        u64::MAX,
        10_000,
        problems,
    );
    let linger = match (table.duration("linger", problems), compression) {
        (Some(spot), _) => spot.value,
        (None, Some(_)) => Duration::from_millis(5),
        (None, None) => Duration::from_millis(2),
    };
    Batch {
        format,
        compression,
        bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
        lines_max,
        linger,
    }
}

fn compression(table: &mut Table<'_>, problems: &mut Vec<Problem>) -> Option<Compression> {
    let coding = table.choice("compression", CODINGS, problems).flatten();
    let level = table.integer("level", problems);
    let Some(coding) = coding else {
        if let Some(spot) = level.filter(|spot| spot.value != u64::from(LEVEL)) {
            let problem = spot.problem("a level without compression does nothing".to_owned());
            let advice = "add compression = \"zstd\" or \"gzip\"";
            problems.push(problem.advise(advice.to_owned()).as_warning());
        }
        return None;
    };
    let (name, levels) = match coding {
        Coding::Gzip => ("gzip", 0..=9),
        Coding::Zstd => ("zstd", 1..=22),
    };
    let level = level.map_or(LEVEL, |spot| {
        let level = u8::try_from(spot.value).ok();
        level
            .filter(|level| levels.contains(level))
            .unwrap_or_else(|| {
                let (least, most) = (levels.start(), levels.end());
                problems.push(spot.problem(format!("{name} has the levels {least} to {most}")));
                LEVEL
            })
    });
    Some(Compression { coding, level })
}

fn too_long(spot: &Spot<String>, most: usize) -> Problem {
    let bytes = spot.value.len();
    spot.problem(format!("{bytes} bytes long; at most {most} are possible"))
}

/// Names of exchanges, queues and arguments: AMQP short strings.
fn check_name(spot: &Spot<String>, problems: &mut Vec<Problem>) {
    if spot.value.is_empty() {
        problems.push(spot.problem("a name must not be empty".to_owned()));
    } else if spot.value.len() > SHORT_STRING_MAX {
        problems.push(too_long(spot, SHORT_STRING_MAX));
    } else if spot.value.starts_with("amq.") {
        problems.push(spot.problem("names that begin with `amq.` are the broker's own".to_owned()));
    }
}

/// The duration, or the least one that is possible.
fn at_least(spot: &Spot<Duration>, least: Duration, problems: &mut Vec<Problem>) -> Duration {
    if spot.value < least {
        problems.push(spot.problem(format!("too short: at least {least:?}")));
    }
    spot.value.max(least)
}

/// The value, or the default where there is none, within limits.
fn within(
    spot: Option<Spot<u64>>,
    least: u64,
    most: u64,
    default: u64,
    problems: &mut Vec<Problem>,
) -> u64 {
    let Some(spot) = spot else { return default };
    if spot.value < least {
        problems.push(spot.problem(format!("too small: at least {least}")));
    } else if spot.value > most {
        let mebibytes = most >> 20;
        problems.push(spot.problem(format!("too large: at most {mebibytes}MiB")));
    }
    spot.value.clamp(least, most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::{Argument, QueueKind};
    use std::num::NonZeroU64;
    use std::os::unix::fs::PermissionsExt;

    pub(super) fn load_text(text: &str) -> Result<Config, String> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("fantail.toml");
        std::fs::write(&path, text).expect("written");
        let environment = |name: &str| (name == "APP").then(|| "shop".to_owned());
        load_with(&path, &environment).map_err(|error| {
            let directory = format!("{}/", directory.path().display());
            error.to_string().replace(&directory, "")
        })
    }

    #[test]
    fn two_lines_are_a_configuration() {
        let config = load_text("[[source]]\ninclude = [\"/var/log/app/*.log\"]\n").expect("valid");
        assert_eq!(&*config.sources[0].name, "app");
        assert_eq!(config.broker.topology.queues.len(), 3);
        assert_eq!(config.max_in_flight, 16 << 20);
        assert!(load_text("").expect("valid").sources.is_empty());
        assert_eq!(config.control, Path::new("/run/fantail/control.sock"));
        let elsewhere = load_text("[agent]\nstate_dir = \"/s\"\n").expect("valid");
        assert_eq!(elsewhere.control, Path::new("/s/control.sock"));
    }

    #[test]
    fn every_key_that_is_built_is_used() {
        let config = load_text(
            r#"
            [agent]
            state_dir = "/tmp/s"
            control = "/tmp/c/${APP}.sock"
            host = "web-${APP}"
            shutdown_timeout = "3s"
            max_deleted_bytes = "1GiB"
            [[source]]
            name = "a$$b"
            include = ["/l/${APP}/*.log", "/l/${NONE:-x}.log"]
            exclude = ["/l/b*"]
            read_from = "end"
            ignore_older = "7d"
            poll_interval = "10s"
            follow_symlinks = true
            max_line = "64KiB"
            [batch]
            format = "lines"
            compression = "zstd"
            level = 19
            max_bytes = 1000
            max_lines = 7
            linger = "250ms"
            [broker]
            urls = ["amqp://u:p@a:1/v", "amqp://u:p@b"]
            exchange = "x"
            declare = "never"
            check_interval = "1s"
            heartbeat = "5s"
            connect_timeout = "2s"
            confirm_timeout = "1m"
            max_in_flight = "1MB"
            max_rate = "10MB/s"
            [[broker.queue]]
            name = "q"
            type = "classic"
            arguments = { x-max-length = 5, x-overflow = "reject-publish", x-single-active-consumer = true }
            [[broker.queue]]
            name = "r"
            required = false
            "#,
        )
        .expect("valid");
        assert_eq!(&*config.host, "web-shop");
        assert_eq!(config.control, Path::new("/tmp/c/shop.sock"));
        assert_eq!(config.deleted_bytes_max, 1 << 30);
        assert_eq!(&*config.sources[0].name, "a$b");
        assert_eq!(config.sources[0].splitter.line_max, 65_536);
        assert!(config.sources[0].from_end);
        let week = Duration::from_hours(7 * 24);
        assert_eq!(config.sources[0].ignore_older, Some(week));
        assert_eq!(config.sources[0].poll_interval, Duration::from_secs(10));
        assert!(config.sources[0].selection.follow_links);
        assert_eq!(config.batch.linger, Duration::from_millis(250));
        assert_eq!((config.batch.bytes_max, config.batch.lines_max), (1000, 7));
        assert_eq!(config.batch.format, Format::Lines);
        let coding = Coding::Zstd;
        let compression = Compression { coding, level: 19 };
        assert_eq!(config.batch.compression, Some(compression));
        assert_eq!(config.max_in_flight, 1_000_000);
        assert_eq!(config.broker.confirm_timeout, Duration::from_mins(1));
        assert_eq!(config.broker.addresses.len(), 2);
        let rate = config.broker.bytes_per_s_max.map(NonZeroU64::get);
        assert_eq!(rate, Some(10_000_000));
        let topology = &config.broker.topology;
        assert!(!topology.declare);
        assert_eq!(topology.queues[0].kind, QueueKind::Classic);
        assert_eq!(
            topology.queues[0].arguments["x-max-length"],
            Argument::Integer(5)
        );
        assert!(!topology.queues[1].required);
    }

    #[test]
    fn an_encoding_has_many_names_and_the_nearest_is_told() {
        let with = |name: &str| {
            load_text(&format!(
                "[[source]]\ninclude = [\"/a.log\"]\nencoding = \"{name}\"\n"
            ))
        };
        for (name, known) in [
            ("UTF-8", "UTF-8"),
            ("utf-16", "UTF-16LE"),
            ("utf-16be", "UTF-16BE"),
            ("latin1", "windows-1252"),
            ("shift_jis", "Shift_JIS"),
        ] {
            let source = &with(name).expect("valid").sources[0];
            assert_eq!(source.splitter.encoding.name(), known);
            assert_eq!(source.treatment.encoding.name(), known);
        }
        let told = with("utf-16el").expect_err("refused");
        assert!(told.contains("did you mean \"utf-16le\"?"), "{told}");
        let told = with("iso-2022-jp").expect_err("refused");
        assert!(told.contains("3:12: iso-2022-jp cannot be"), "{told}");
        assert!(with("iso-2022-kr").is_err());
    }

    #[test]
    fn all_problems_are_told_at_once_with_their_places() {
        let told = load_text(
            "[agent]\nstate_dri = \"/tmp\"\n\n[[source]]\nincludes = [\"/a\"]\n\n[batch]\nlinger = \"2 parsecs\"\n\n[htp]\n",
        )
        .expect_err("invalid");
        let places: Vec<&str> = told
            .lines()
            .filter(|line| line.starts_with("error"))
            .collect();
        assert_eq!(
            places,
            [
                "error: fantail.toml:2:1: unknown key `state_dri`",
                "error: fantail.toml:4:1: a [[source]] without `include`",
                "error: fantail.toml:5:1: unknown key `includes`",
                "error: fantail.toml:8:10: not a duration: \"2 parsecs\"",
                "error: fantail.toml:10:2: unknown key `htp`",
            ],
            "{told}"
        );
        assert!(told.contains("did you mean `state_dir`?"), "{told}");
        assert!(told.ends_with("5 problems in the configuration"), "{told}");
    }

    #[test]
    fn a_level_belongs_to_its_compression() {
        let batch = |lines: &str| load_text(&format!("[batch]\n{lines}\n"));
        for (lines, level) in [
            ("compression = \"gzip\"", 1),
            ("compression = \"gzip\"\nlevel = 0", 0),
            ("compression = \"zstd\"\nlevel = 22", 22),
        ] {
            let config = batch(lines).expect("valid");
            assert_eq!(config.batch.linger, Duration::from_millis(5));
            let chosen = config.batch.compression.map(|chosen| chosen.level);
            assert_eq!(chosen, Some(level));
        }
        for (lines, told) in [
            (
                "level = 10\ncompression = \"gzip\"",
                "2:9: gzip has the levels 0 to 9",
            ),
            (
                "level = 0\ncompression = \"zstd\"",
                "2:9: zstd has the levels 1 to 22",
            ),
            (
                "level = 300\ncompression = \"zstd\"",
                "2:9: zstd has the levels 1 to 22",
            ),
            ("format = \"xml\"", "2:10: "),
            ("compression = \"lz4\"", "2:15: "),
        ] {
            let error = batch(lines).expect_err("refused");
            assert!(error.contains(&format!("fantail.toml:{told}")), "{error}");
        }
        let plain = batch("level = 3").expect("valid");
        assert_eq!((plain.batch.compression, plain.warnings.len()), (None, 1));
        assert!(batch("level = 1").expect("valid").warnings.is_empty());
    }

    #[test]
    fn a_syntax_error_has_its_place_and_a_password_is_never_shown() {
        let told = load_text("[agent\n").expect_err("invalid");
        assert!(told.starts_with("error: fantail.toml:1:"), "{told}");
        let told =
            load_text("[broker]\nurls = [\"amqp://u:s3cret@h:port\"]\n").expect_err("invalid");
        assert!(told.contains("fantail.toml:2:9"), "{told}");
        assert!(!told.contains("s3cret"), "{told}");
    }

    #[test]
    fn a_password_file_stands_for_the_passwords_of_all_addresses() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("password");
        std::fs::write(&path, "s3cret").expect("written");
        let mode = |mode| {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, permissions).expect("set");
        };
        let broker = |lines: &str| {
            let path = path.display();
            load_text(&format!("[broker]\npassword_file = \"{path}\"\n{lines}\n"))
        };
        mode(0o640);
        let config = broker("urls = [\"amqp://me@a\", \"amqp://b\"]").expect("valid");
        assert_eq!(config.broker.password_file, Some(path.clone()));
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        mode(0o644);
        let warnings = broker("").expect("valid").warnings;
        assert!(
            warnings[0].to_string().contains("(mode 0644)"),
            "{warnings:?}"
        );
        std::fs::remove_file(&path).expect("removed");
        let warnings = broker("").expect("valid").warnings;
        assert!(
            warnings[0].to_string().contains("No such file"),
            "{warnings:?}"
        );

        let told = broker("urls = [\"amqp://me:s3cret@a\"]").expect_err("two passwords");
        assert!(
            told.contains("fantail.toml:3:9: a password beside"),
            "{told}"
        );
        let told = load_text("[broker]\nurls = [\"amqp://me@a\"]\n").expect_err("none");
        assert!(told.contains("a user without a password"), "{told}");
        let empty = load_text("[broker]\npassword_file = \"\"\n").expect("valid");
        assert_eq!(empty.broker.password_file, None);
    }

    #[test]
    fn tls_belongs_to_addresses_that_speak_it_and_its_files_are_only_warned_of() {
        let with = |url: &str, tls: &str| {
            load_text(&format!(
                "[broker]\nurls = [\"{url}\"]\n[broker.tls]\n{tls}\n"
            ))
        };
        let config = with("amqps://a/v", "ca = \"/none/ca\"\nserver_name = \"b\"").expect("valid");
        assert_eq!(config.broker.tls.ca.as_deref(), Some(Path::new("/none/ca")));
        assert_eq!(config.broker.tls.server_name.as_deref(), Some("b"));
        let warned = config.warnings[0].to_string();
        assert!(
            warned.contains("fantail.toml:4:6: No such file"),
            "{warned}"
        );
        let both = "cert = \"/none/c\"\nkey = \"/none/k\"";
        let broker = with("amqps://a/v", both).expect("valid").broker;
        assert!(broker.logs_in_by_certificate(&broker.addresses[0]));
        let broker = with("amqps://u:p@a/v", both).expect("valid").broker;
        assert!(!broker.logs_in_by_certificate(&broker.addresses[0]));
        for (url, tls, told) in [
            (
                "amqp://a",
                "ca = \"/c\"",
                "4:6: no address in `urls` begins with amqps://",
            ),
            ("amqps://a", "cert = \"/c\"", "4:8: `cert` without `key`"),
            ("amqps://a", "key = \"/k\"", "4:7: `key` without `cert`"),
            (
                "amqps://a",
                "server_name = \"a:5671\"",
                "4:15: neither a host name",
            ),
            ("amqps://a", "verify = false", "4:1: unknown key `verify`"),
        ] {
            let error = with(url, tls).expect_err("refused");
            assert!(error.contains(&format!("fantail.toml:{told}")), "{error}");
        }
        let empty = with("amqp://a", "ca = \"\"\ncert = \"\"").expect("valid");
        assert_eq!(empty.broker.tls, amqp::Tls::default());
    }

    #[test]
    fn files_in_conf_d_add_sources_and_nothing_else() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("fantail.toml");
        std::fs::write(&path, "[[source]]\ninclude = [\"/a.log\"]\n").expect("written");
        std::fs::create_dir(directory.path().join("conf.d")).expect("made");
        let add = |name: &str, text: &str| {
            std::fs::write(directory.path().join("conf.d").join(name), text).expect("written");
        };
        add("20-b.toml", "[[source]]\ninclude = [\"/b.log\"]\n");
        add("10-c.toml", "[[source]]\ninclude = [\"/c.log\"]\n");
        add("not-read.txt", "?");
        let config = load_with(&path, &|_| None).expect("valid");
        let names: Vec<&str> = config.sources.iter().map(|source| &*source.name).collect();
        assert_eq!(names, ["a", "c", "b"]);
        add("30-d.toml", "[broker]\nexchange = \"x\"\n");
        let told = load_with(&path, &|_| None)
            .expect_err("invalid")
            .to_string();
        assert!(
            told.contains("30-d.toml:1:2: a file in conf.d may hold"),
            "{told}"
        );
    }
}
