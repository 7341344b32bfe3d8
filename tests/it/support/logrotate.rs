//! Owns Debian's logrotate, run for one log with a configuration and a state of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Not in every user's `PATH`.
const PROGRAM: &str = "/usr/sbin/logrotate";

pub struct Logrotate {
    configuration: PathBuf,
    state: PathBuf,
}

impl Logrotate {
    /// `rules` are lines of its configuration. Who is told with SIGHUP reopens `log`.
    pub fn new(directory: &Path, log: &Path, rules: &[&str], told: Option<u32>) -> Self {
        let name = log.file_name().unwrap().to_str().unwrap();
        let log = log.to_str().expect("the test's own path is UTF-8");
        let told = told.map_or(String::new(), |id| {
            format!("    postrotate\n        kill -HUP {id}\n    endscript\n")
        });
        let rules = rules.join("\n    ");
        let configuration = directory.join(format!("{name}.logrotate"));
        fs::write(
            &configuration,
            format!("\"{log}\" {{\n    {rules}\n{told}}}\n"),
        )
        .unwrap();
        Self {
            configuration,
            state: directory.join(format!("{name}.state")),
        }
    }

    /// Rotates, whatever size and date say, and returns when it has compressed what it should.
    pub fn rotate(&self) {
        let output = Command::new(PROGRAM)
            .args(["--force", "--state"])
            .args([&self.state, &self.configuration])
            .output()
            .unwrap_or_else(|error| panic!("{PROGRAM} does not start: {error}"));
        assert!(
            output.status.success(),
            "logrotate: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
