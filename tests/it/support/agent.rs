//! Owns the agent under test: its configuration, its process and what it says on stderr.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::leash::Leash;
use super::process::Process;
use super::wait::{wait_for, wait_for_some};

/// Longer than any shutdown timeout that a test sets.
const TERM: Duration = Duration::from_secs(60);
const STATUS: Duration = Duration::from_secs(60);

/// A configuration as text: keys by section, so that a test can add one at a time.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Sections but `[[source]]`, with their lines.
    sections: BTreeMap<String, Vec<String>>,
    /// `[[source]]` tables, in order.
    sources: Vec<String>,
    /// TOML behind everything else.
    tail: String,
}

impl Config {
    /// An agent for the broker at `url`; `Agent::new` sets the state directory.
    pub fn new(url: &str) -> Self {
        Self::default().set("broker", &format!("urls = [{}]", quoted(url)))
    }

    /// A line in a section: `set("broker", "check_interval = \"200ms\"")`.
    pub fn set(mut self, section: &str, line: &str) -> Self {
        self.sections
            .entry(section.to_owned())
            .or_default()
            .push(line.to_owned());
        self
    }

    pub fn source(self, name: &str, include: &Path) -> Self {
        self.source_with(name, include, "")
    }

    /// A source with further lines: `source_with("app", &glob, "max_line = 100")`.
    pub fn source_with(mut self, name: &str, include: &Path, lines: &str) -> Self {
        let include = quoted(include.to_str().expect("the test's own path is UTF-8"));
        let name = quoted(name);
        self.sources.push(format!(
            "[[source]]\nname = {name}\ninclude = [{include}]\n{lines}\n"
        ));
        self
    }

    /// TOML behind everything else, for tables that have no method here.
    pub fn append(mut self, toml: &str) -> Self {
        self.tail.push_str(toml);
        self.tail.push('\n');
        self
    }
}

impl fmt::Display for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (section, lines) in &self.sections {
            writeln!(formatter, "[{section}]\n{}\n", lines.join("\n"))?;
        }
        for source in &self.sources {
            writeln!(formatter, "{source}")?;
        }
        writeln!(formatter, "{}", self.tail)
    }
}

/// A JSON string without control characters is also a TOML string.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// `fantail run` in a directory of the test's. Killed when dropped, and with the test process.
pub struct Agent {
    directory: PathBuf,
    environment: Vec<(String, String)>,
    /// A program that runs the agent in other namespaces, with its options.
    entry: Vec<String>,
    before: String,
    tracer: Vec<String>,
    running: Option<Process>,
    leash: Leash,
    /// Where the log of the run under way begins in the file that collects all runs.
    log_start: u64,
}

/// How an agent ended, and how long that took from the signal on.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub took: Duration,
}

impl Agent {
    /// Not started yet. `directory` exists; the state directory is `state` in it.
    pub fn new(directory: &Path, config: Config) -> Self {
        let agent = Self {
            directory: directory.to_owned(),
            environment: Vec::new(),
            entry: Vec::new(),
            before: "true".to_owned(),
            tracer: Vec::new(),
            running: None,
            leash: Leash::on_processes(),
            log_start: 0,
        };
        agent.configure(config);
        agent
    }

    /// Writes another configuration, for the next start or reload.
    pub fn configure(&self, config: Config) {
        let state = quoted(
            self.state_dir()
                .to_str()
                .expect("the test's own path is UTF-8"),
        );
        let config = config.set("agent", &format!("state_dir = {state}"));
        fs::write(self.config_path(), config.to_string()).unwrap();
    }

    /// An environment variable for starts from now on.
    pub fn set_environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Shell commands that come before the agent in its process, from the next start on:
    /// `ulimit -n 100`. They must succeed.
    pub fn set_before(&mut self, commands: &str) {
        commands.clone_into(&mut self.before);
    }

    /// From the next start on the daemon is traced: options of `strace`, which stays behind the process
    /// that it traces. Without any it is not.
    pub fn set_tracer(&mut self, options: Vec<String>) {
        self.tracer = options;
    }

    /// The agent lives in namespaces of its own: options of `unshare`.
    pub fn set_namespaces(&mut self, options: &str) {
        self.set_entry(vec!["unshare".to_owned(), options.to_owned()]);
    }

    /// The agent, and every command to it, is run by this program with these options.
    pub fn set_entry(&mut self, entry: Vec<String>) {
        self.entry = entry;
    }

    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// With further arguments for `fantail run`.
    pub fn start_with(&mut self, arguments: &[&str]) {
        assert!(self.running.is_none(), "the agent runs already");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        self.log_start = log.metadata().unwrap().len();
        let mut command = self.traced(&[&["run"], arguments].concat());
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let process = Process::spawn("fantail run", &mut command);
        self.leash.hold(&[process.id()]);
        self.running = Some(process);
    }

    /// A crash: SIGKILL.
    pub fn kill9(&mut self) {
        self.process();
        self.running.take();
        self.leash.hold(&[]);
    }

    /// SIGTERM, and waits for the end.
    pub fn term(&mut self) -> Ended {
        let begun = Instant::now();
        self.signal(Signal::TERM);
        let status = self.wait(TERM);
        Ended {
            status,
            took: begun.elapsed(),
        }
    }

    /// Waits for an agent that ends by itself, or by a signal that was sent.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let status = self
            .running
            .as_mut()
            .expect("the agent was started")
            .wait(deadline);
        self.running.take();
        self.leash.hold(&[]);
        status
    }

    pub fn signal(&self, signal: Signal) {
        self.process().signal(signal);
    }

    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Whether the process is there; an agent that crashed is not.
    pub fn is_running(&mut self) -> bool {
        self.running
            .as_mut()
            .is_some_and(|process| process.ended().is_none())
    }

    pub fn id(&self) -> u32 {
        self.process().id()
    }

    /// Another command of fantail's, with this agent's configuration: `cli(&["status", "--json"])`.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.command(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// What the daemon says of itself; nothing while it does not answer.
    pub fn status(&self) -> Option<Value> {
        let output = self.cli(&["status", "--json"]);
        output
            .status
            .success()
            .then(|| serde_json::from_slice(&output.stdout).expect("one JSON value"))
    }

    pub fn wait_for_status(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let what = format!("the status says: {what}");
        wait_for_some(STATUS, &what, || self.status().filter(&holds))
    }

    /// Bytes of all files that are not confirmed; nothing while nobody answers.
    pub fn lag(&self) -> Option<u64> {
        let status = self.status()?;
        let files = status["files"].as_array()?;
        files.iter().map(|file| file["lag"].as_u64()).sum()
    }

    /// Bytes that it counts as lost.
    pub fn lost_bytes(&self) -> u64 {
        let status = self.status().expect("it answers");
        status["lost_bytes"].as_u64().expect("a number")
    }

    /// Paths of what it holds open; the kernel adds ` (deleted)` to those that have none any more.
    pub fn open_paths(&self) -> Vec<PathBuf> {
        open_paths(self.id())
    }

    /// What the run under way, or the last one, wrote to stderr (and stdout) so far.
    pub fn stderr(&self) -> String {
        let Ok(mut log) = File::open(self.log_path()) else {
            return String::new();
        };
        let mut bytes = Vec::new();
        log.seek(SeekFrom::Start(self.log_start)).unwrap();
        log.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Returns when the log of this run has `text`.
    pub fn wait_for_log(&self, text: &str, deadline: Duration) {
        wait_for(deadline, &format!("the agent logs {text:?}"), || {
            self.stderr().contains(text)
        });
    }

    /// The most memory that was ever resident, in bytes.
    pub fn resident_peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// The memory that is resident now, in bytes.
    pub fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.directory.join("state")
    }

    pub fn config_path(&self) -> PathBuf {
        self.directory.join("fantail.toml")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("stderr.log")
    }

    fn process(&self) -> &Process {
        self.running.as_ref().expect("the agent was started")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.command_under(&[], arguments)
    }

    fn traced(&self, arguments: &[&str]) -> Command {
        if self.tracer.is_empty() {
            return self.command(arguments);
        }
        // With -D the daemon keeps the id of the process, and gets its signals.
        let fixed = ["strace", "-D", "-f", "-qq", "-e", "signal=none"];
        let options = self.tracer.iter().map(String::as_str);
        let tracer: Vec<&str> = fixed.into_iter().chain(options).collect();
        self.command_under(&tracer, arguments)
    }

    fn command_under(&self, tracer: &[&str], arguments: &[&str]) -> Command {
        let executable = env!("CARGO_BIN_EXE_fantail");
        let script = format!("{{ {}; }} && exec \"$@\"", self.before);
        let mut command = match &self.entry[..] {
            [] => Command::new("sh"),
            [program, options @ ..] => {
                let mut command = Command::new(program);
                command.args(options).arg("sh");
                command
            }
        };
        command.arg("-c").arg(script).arg("sh").args(tracer);
        command
            .arg(executable)
            .args(arguments)
            .arg("--config")
            .arg(self.config_path())
            .current_dir(&self.directory)
            .env("RUST_BACKTRACE", "1")
            // Of whoever runs the tests, not of this agent.
            .env_remove("FANTAIL_LOG")
            .env_remove("NOTIFY_SOCKET")
            .env_remove("CREDENTIALS_DIRECTORY")
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    fn memory(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let line = line.unwrap_or_else(|| panic!("no {field} of the agent: has it ended?"));
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kibibytes * 1024
    }
}

/// Whether this system lets a user have namespaces of its own: options of `unshare`.
pub fn has_namespaces(options: &str) -> bool {
    let made = Command::new("unshare").args([options, "true"]).output();
    made.is_ok_and(|made| made.status.success())
}

/// What the descriptors of a process are open on.
pub fn open_paths(process: u32) -> Vec<PathBuf> {
    let descriptors = fs::read_dir(format!("/proc/{process}/fd"));
    let entries = descriptors.into_iter().flatten().flatten();
    // A descriptor may be closed meanwhile.
    let paths = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    paths.collect()
}

impl Drop for Agent {
    /// A failed test shows what the agent said last.
    fn drop(&mut self) {
        self.running.take();
        self.leash.hold(&[]);
        if std::thread::panicking() {
            let log = self.stderr();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(40)..];
            println!(
                "the agent's last {} log lines:\n{}",
                last.len(),
                last.join("\n")
            );
        }
    }
}
