//! `fantail top` on a real terminal, tmux's: what it shows of a running daemon, other sizes, a daemon that
//! is gone, and a terminal that is as it was.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use crate::support::agent::{Agent, Config};
use crate::support::broker::Broker;
use crate::support::wait::{wait_for, wait_for_some};
use crate::support::writers::{append, numbered_lines};

const MINUTE: Duration = Duration::from_secs(60);

/// A terminal of its own server, which ends with it.
struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    fn open(directory: &tempfile::TempDir) -> Self {
        let terminal = Self {
            socket: directory.path().join("tmux"),
        };
        let made = terminal.tmux(&["new-session", "-d", "-x", "80", "-y", "24", "sh"]);
        assert!(made.status.success(), "{made:?}");
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> Output {
        Command::new("tmux")
            .args(["-f", "/dev/null", "-S"])
            .arg(&self.socket)
            .args(arguments)
            .env_remove("TMUX")
            .env("TERM", "xterm-256color")
            .env("PS1", "$ ")
            .output()
            .unwrap()
    }

    fn type_in(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    fn shows(&self) -> String {
        let shown = self.tmux(&["capture-pane", "-p"]);
        String::from_utf8_lossy(&shown.stdout).into_owned()
    }

    fn wait_for(&self, text: &str) -> String {
        wait_for_some(MINUTE, &format!("the screen shows {text:?}"), || {
            let shown = self.shows();
            shown.contains(text).then_some(shown)
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the screen:\n{}", self.shows());
        }
        self.tmux(&["kill-server"]);
    }
}

#[test]
fn it_shows_the_daemon_live_in_any_size_and_leaves_the_terminal_as_it_was() {
    let broker = Broker::shared();
    let directory = tempfile::tempdir().unwrap();
    // A name that would clear the screen.
    std::fs::create_dir(directory.path().join("logs")).unwrap();
    let path = directory.path().join("logs/a\u{1b}[2J.log");
    append(&path, &numbered_lines("line", 1000));
    let config = Config::new(&broker.url())
        .set("broker", "exchange = \"top\"")
        .append("[[broker.queue]]\nname = \"top\"\n")
        .source("app", &directory.path().join("logs/*.log"));
    let mut agent = Agent::new(directory.path(), config);
    agent.start();
    agent.wait_for_status("everything is confirmed", |status| {
        status["files"][0]["lag"] == 0 && status["queues"][0]["present"] == true
    });

    let terminal = Terminal::open(&directory);
    // What is typed may be shown before the prompt: only the answer reads so.
    terminal.type_in(&["echo be''fore", "Enter"]);
    terminal.wait_for("before");
    let executable = env!("CARGO_BIN_EXE_fantail");
    let config = agent.config_path();
    let command = format!("{executable} top --config {}", config.display());
    terminal.type_in(&[&command, "Enter"]);
    let shown = terminal.wait_for("FILE (1 of 1)");
    for part in [
        "connected",
        "present  top (quorum)",
        "\\u{1b}[2J.log",
        "active",
    ] {
        assert!(shown.contains(part), "{part:?} is not in\n{shown}");
    }
    append(&path, &numbered_lines("line", 200_000));
    terminal.wait_for("k lines/s");

    terminal.tmux(&["resize-window", "-x", "50", "-y", "14"]);
    wait_for(MINUTE, "it fits", || {
        let shown = terminal.shows();
        let last = shown.trim_end().lines().last().map(str::to_owned);
        last.is_some_and(|last| last.starts_with("q quit")) && shown.contains("FILE (1 of 1)")
    });
    terminal.type_in(&["s"]);
    terminal.wait_for("sort (by rate)");

    agent.kill9();
    terminal.wait_for("NO ANSWER for");
    agent.start();
    wait_for(MINUTE, "it is found again", || {
        terminal.shows().starts_with("fantail ")
    });
    terminal.type_in(&["q"]);
    let shown = terminal.wait_for("before");
    assert!(!shown.contains("q quit"), "{shown}");
    terminal.type_in(&[
        "stty -a | grep -o ' echo ' | tr -d ' ' | sed s/^/is-/",
        "Enter",
    ]);
    terminal.wait_for("is-echo");
}

#[test]
fn without_a_terminal_or_a_daemon_it_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::new(directory.path(), Config::new("amqp://localhost"));
    let told = agent.cli(&["top"]);
    assert_eq!(told.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&told.stderr).contains("needs a terminal"));
    let terminal = Terminal::open(&directory);
    let executable = env!("CARGO_BIN_EXE_fantail");
    let config = agent.config_path();
    let command = format!(
        "{executable} top --config {}; echo left with $?",
        config.display()
    );
    terminal.type_in(&[&command, "Enter"]);
    let shown = terminal.wait_for("left with 69");
    assert!(shown.contains("no daemon answers"), "{shown}");
}
