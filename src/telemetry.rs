//! What the daemon says of itself: the log on stderr.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Begins to log to stderr. `level` is a level or a list of `target=level`.
///
/// # Errors
/// `level` is neither.
pub fn init(format: LogFormat, level: &str) -> Result<(), ParseError> {
    // The AMQP library logs whole messages, bodies included, when they are returned.
    let filter = EnvFilter::builder().parse(format!("lapin=off,{level}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Text => {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            builder.with_ansi(colour).init();
        }
    }
    Ok(())
}
