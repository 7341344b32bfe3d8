//! The command line: one file per command, and what their failures mean to a script.

mod access;
mod check;
mod generate;
mod page;
mod preview;
mod run;
mod spool;
mod status;
mod top;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::ConfigError;
use crate::daemon::DaemonError;
use crate::spool::SpoolError;
use crate::state::StateError;
use crate::telemetry::{self, LogFormat};

/// Ships application logs into RabbitMQ: every line, to every queue, proved.
#[derive(Debug, Parser)]
#[command(name = "fantail", version, arg_required_else_help = true)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, clap::Args)]
struct Common {
    /// Configuration file; `conf.d/*.toml` beside it may add sources.
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        default_value = "/etc/fantail/fantail.toml"
    )]
    config: PathBuf,
    /// How log lines on stderr look.
    #[arg(long, global = true, value_enum, default_value = "text")]
    log_format: LogFormat,
    /// error, warn, info, debug, trace, or a list of target=level [default: info; warn for commands
    /// that are not `run`].
    #[arg(long, global = true, value_name = "LEVEL", env = "FANTAIL_LOG")]
    log_level: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the agent in the foreground until SIGTERM.
    #[command(after_help = run::EXAMPLES)]
    Run,
    /// Checks the configuration, and says which files match and which cannot be read.
    #[command(after_help = check::EXAMPLES)]
    Check {
        /// Also ask the broker; nothing is made or changed there.
        #[arg(long)]
        connect: bool,
        /// Show every path, however many there are.
        #[arg(long)]
        all: bool,
    },
    /// Shows what would be published, without a broker and without touching state.
    #[command(after_help = preview::EXAMPLES)]
    Preview(preview::Arguments),
    /// Asks the running agent how it is.
    #[command(after_help = status::EXAMPLES)]
    Status(status::Arguments),
    /// Shows the running agent, live.
    #[command(after_help = top::EXAMPLES)]
    Top(top::Arguments),
    /// Looks into the spool, also while the agent runs.
    #[command(after_help = spool::EXAMPLES)]
    Spool(spool::Arguments),
    /// Prints what a shell needs to complete fantail's commands.
    #[command(after_help = generate::EXAMPLES)]
    Completions {
        /// Which shell.
        shell: generate::Shell,
    },
    /// Writes the man pages.
    #[command(hide = true)]
    Man {
        /// Directory for them.
        directory: PathBuf,
    },
}

/// Runs the command that the arguments name.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let common = &arguments.common;
    let default = match &arguments.command {
        Command::Run => "info",
        _ => "warn",
    };
    let level = common.log_level.as_deref().unwrap_or(default);
    let recent = match telemetry::init(common.log_format, level) {
        Ok(recent) => recent,
        Err(error) => {
            eprintln!("error: --log-level {level:?}: {error}");
            return ExitCode::from(2);
        }
    };
    let done = match &arguments.command {
        Command::Run => run::run(&common.config, recent),
        Command::Check { connect, all } => check::run(&common.config, *connect, *all),
        Command::Preview(arguments) => preview::run(&common.config, arguments),
        Command::Status(arguments) => status::run(&common.config, arguments),
        Command::Top(arguments) => top::run(&common.config, arguments),
        Command::Spool(arguments) => spool::run(&common.config, arguments),
        Command::Completions { shell } => generate::completions(Arguments::command(), *shell),
        Command::Man { directory } => generate::man(Arguments::command(), directory),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            page::say(&failure.text);
            ExitCode::from(failure.code)
        }
    }
}

/// A command's failure: what to say, and the exit code (sysexits.h where it has one).
#[derive(Debug)]
struct Failure {
    text: String,
    code: u8,
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self {
            text: error.to_string(),
            code: 78,
        }
    }
}

impl From<DaemonError> for Failure {
    fn from(error: DaemonError) -> Self {
        let code = match &error {
            DaemonError::State(error) => state_code(error),
            DaemonError::Spool(error) => spool_code(error),
            DaemonError::Stage(_) | DaemonError::Runtime(_) => 70,
        };
        Self {
            text: format!("error: {error}"),
            code,
        }
    }
}

fn spool_code(error: &SpoolError) -> u8 {
    match error {
        SpoolError::Locked(_) => 75,
        SpoolError::Newer { .. } => 78,
        SpoolError::Planted { .. } => 77,
        SpoolError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            77
        }
        SpoolError::Io { .. } => 74,
    }
}

fn state_code(error: &StateError) -> u8 {
    match error {
        StateError::Locked(_) => 75,
        StateError::Newer { .. } => 78,
        StateError::Link(_) => 77,
        StateError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            77
        }
        StateError::Io { .. } | StateError::Database { .. } | StateError::Malformed { .. } => 74,
    }
}
