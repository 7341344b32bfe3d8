//! `fantail run`.

use std::path::Path;

use super::Failure;
use crate::telemetry::Recent;
use crate::{config, daemon};

pub(super) const EXAMPLES: &str = "\
Examples:
  fantail run
  fantail run --config ./fantail.toml --log-level debug

The smallest configuration, for a RabbitMQ on this host:
  [[source]]
  include = [\"/var/log/app/*.log\"]

Exit codes: 0 stopped by SIGTERM or SIGINT, 70 internal error, 74 I/O error,
75 another agent holds the state directory, 77 permission, 78 bad configuration.";

pub(super) fn run(path: &Path, recent: Recent) -> Result<(), Failure> {
    let config = config::load(path)?;
    daemon::run(config, recent)?;
    Ok(())
}
