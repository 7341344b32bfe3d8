//! What the daemon says of itself: the log on stderr, and the last of it that must not be overlooked.

mod journal;
pub mod progress;
pub mod spell;

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{FilterExt, LevelFilter, ParseError, filter_fn};
use tracing_subscriber::layer::{Context, Filter, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, registry};

/// So many warnings and errors are remembered,
const RECENT_MAX: usize = 20;
/// each up to about this many bytes.
const MESSAGE_MAX: usize = 2_000;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Begins to log to stderr. `level` is a level or a list of `target=level`; warnings and errors are
/// remembered whatever it says.
///
/// # Errors
/// `level` is neither.
pub fn init(format: LogFormat, level: &str) -> Result<Recent, ParseError> {
    let filter = EnvFilter::builder()
        .parse(level)?
        .and(not_the_amqp_library());
    let recent = Recent::default();
    let stderr = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Json => {
            let stderr = stderr.json().flatten_event(true).with_filter(filter);
            registry().with(stderr).with(remember(&recent)).init();
        }
        LogFormat::Text if journal::is_stderr() => {
            let stderr = stderr.event_format(journal::Prioritised::default());
            let stderr = stderr.with_filter(filter);
            registry().with(stderr).with(remember(&recent)).init();
        }
        LogFormat::Text => {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let stderr = stderr.with_ansi(colour).with_filter(filter);
            registry().with(stderr).with(remember(&recent)).init();
        }
    }
    Ok(recent)
}

/// Whatever level is asked for: the library logs whole messages, bodies included, when they are
/// returned, and frames when it discards them, of which one holds the password.
fn not_the_amqp_library<S>() -> impl Filter<S> {
    filter_fn(|metadata| {
        let of = |library: &str| metadata.target().starts_with(library);
        !of("lapin") && !of("amq_protocol")
    })
}

/// The last warnings and errors of this process.
#[derive(Clone, Debug, Default)]
pub struct Recent(Arc<Mutex<VecDeque<Logged>>>);

/// A warning or an error.
#[derive(Clone, Debug)]
pub struct Logged {
    /// When.
    pub at: Timestamp,
    /// Which of them.
    pub level: Level,
    /// What, with its fields.
    pub message: String,
}

impl Recent {
    /// All of them, oldest first.
    #[must_use]
    pub fn entries(&self) -> Vec<Logged> {
        // A push cannot be seen half done: a panic elsewhere spoils nothing.
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().cloned().collect()
    }

    fn push(&self, logged: Logged) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() == RECENT_MAX {
            entries.pop_front();
        }
        entries.push_back(logged);
    }
}

/// Remembers fantail's own warnings and errors, whatever stderr is to have.
fn remember<S>(recent: &Recent) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let ours = filter_fn(|metadata| {
        *metadata.level() <= Level::WARN && metadata.target().starts_with("fantail")
    });
    Remember(recent.clone()).with_filter(ours.with_max_level_hint(LevelFilter::WARN))
}

struct Remember(Recent);

impl<S: Subscriber> Layer<S> for Remember {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let mut message = text.message + &text.fields;
        if message.len() > MESSAGE_MAX {
            message.truncate(message.floor_char_boundary(MESSAGE_MAX));
            message.push('…');
        }
        self.0.push(Logged {
            at: Timestamp::now(),
            level: *event.metadata().level(),
            message,
        });
    }
}

/// An event as one line: the message, then `name=value`.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing into a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

/// Text with what would steer a terminal written out: control characters, and those that change
/// the direction of writing.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        let steers = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || steers {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_warnings_are_remembered_whole_and_no_more_than_fit() {
        let recent = Recent::default();
        let subscriber = registry().with(remember(&recent));
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..100 {
                tracing::warn!(number, path = ?"/a\x1b[2J", "something");
            }
            tracing::error!(long = "ä".repeat(10_000), "too long");
        });
        let entries = recent.entries();
        assert_eq!(entries.len(), RECENT_MAX);
        assert_eq!(
            entries[18].message,
            r#"something number=99 path="/a\u{1b}[2J""#
        );
        assert_eq!(entries[19].level, Level::ERROR);
        assert!(entries[19].message.len() < MESSAGE_MAX + 10);
    }

    #[test]
    fn nothing_that_steers_a_terminal_is_left() {
        assert_eq!(
            escaped("a\x1b[2J\nb\u{9b}ä\u{202e}"),
            r"a\u{1b}[2J\nb\u{9b}ä\u{202e}"
        );
    }
}
