//! `fantail top`: the running daemon, live, on a terminal.

mod rates;
mod view;

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::{Failure, status};
use crate::config;
use crate::status::Status;
use rates::Rates;

pub(super) const EXAMPLES: &str = "\
Examples:
  fantail top
  fantail top --interval 5

Asks the daemon that runs with the same configuration, as `fantail status` does, again and again. Only
root and the daemon's own user may.

Keys: q or Esc leaves, s sorts the files otherwise, p pauses, arrows and PageUp/PageDown scroll,
Home goes back to the top.

Exit codes: 0 done, 2 not on a terminal, 69 no daemon answers, 77 permission, 78 bad configuration.";

/// The screen is drawn at least so often: what is told as an age grows.
const REDRAW: Duration = Duration::from_secs(1);

/// What `top` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Seconds between two looks.
    #[arg(long, default_value_t = 1, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
}

/// By what the files are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sort {
    #[default]
    Lag,
    Rate,
    Path,
}

impl Sort {
    fn next(self) -> Self {
        match self {
            Self::Lag => Self::Rate,
            Self::Rate => Self::Path,
            Self::Path => Self::Lag,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Lag => "lag",
            Self::Rate => "rate",
            Self::Path => "path",
        }
    }
}

/// What is on the screen.
#[derive(Debug)]
struct Screen {
    /// What the daemon said last.
    status: Status,
    rates: Rates,
    /// When it said so.
    heard: Instant,
    /// Why it said nothing since.
    silence: Option<String>,
    sort: Sort,
    paused: bool,
    /// The first file that is shown.
    first: usize,
    colour: bool,
}

pub(super) fn run(config: &Path, arguments: &Arguments) -> Result<(), Failure> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Failure {
            text: "error: `top` needs a terminal; `fantail status` prints the same once".to_owned(),
            code: 2,
        });
    }
    let socket = config::control(config)?;
    // Before the screen is taken: whoever asks of no daemon is to read why.
    let status = status::ask_once(&socket)?;
    let interval = Duration::from_secs(arguments.interval);
    let answers = ask_again_and_again(socket, interval);
    let mut screen = Screen {
        rates: Rates::new(&status, Instant::now()),
        status,
        heard: Instant::now(),
        silence: None,
        sort: Sort::default(),
        paused: false,
        first: 0,
        colour: std::env::var_os("NO_COLOR").is_none(),
    };
    let mut terminal = ratatui::try_init().map_err(|error| io_failure(&error))?;
    let shown = show(&mut terminal, &mut screen, &answers);
    ratatui::restore();
    shown.map_err(|error| io_failure(&error))
}

fn io_failure(error: &io::Error) -> Failure {
    Failure {
        text: format!("error: the terminal: {error}"),
        code: 74,
    }
}

/// On a thread of its own: a daemon that does not answer must not hold up the keys.
fn ask_again_and_again(
    socket: PathBuf,
    interval: Duration,
) -> Receiver<Result<Box<Status>, String>> {
    let (tell, answers): (Sender<Result<Box<Status>, String>>, _) = channel();
    thread::spawn(move || {
        loop {
            thread::sleep(interval);
            let answer = status::ask_once(&socket);
            let answer = answer.map(Box::new).map_err(|failure| failure.text);
            if tell.send(answer).is_err() {
                return;
            }
        }
    });
    answers
}

/// Draws until somebody wants to leave.
fn show(
    terminal: &mut ratatui::DefaultTerminal,
    screen: &mut Screen,
    answers: &Receiver<Result<Box<Status>, String>>,
) -> io::Result<()> {
    let events = read_events();
    loop {
        terminal.draw(|frame| view::draw(frame, screen))?;
        for answer in answers.try_iter() {
            screen.hear(answer);
        }
        match events.recv_timeout(REDRAW) {
            Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                if screen.press(key) {
                    return Ok(());
                }
            }
            // A new size is found when it is drawn.
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            // The terminal is gone.
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

fn read_events() -> Receiver<Event> {
    let (tell, events) = channel();
    thread::spawn(move || {
        while let Ok(event) = event::read() {
            if tell.send(event).is_err() {
                return;
            }
        }
    });
    events
}

impl Screen {
    fn hear(&mut self, answer: Result<Box<Status>, String>) {
        match answer {
            Ok(_) if self.paused => {}
            Ok(status) => {
                self.heard = Instant::now();
                self.rates.take(&status, self.heard);
                self.status = *status;
                self.silence = None;
            }
            Err(reason) => {
                let reason = reason.strip_prefix("error: ").unwrap_or(&reason);
                self.silence = Some(reason.to_owned());
            }
        }
    }

    /// Whether to leave.
    fn press(&mut self, key: KeyEvent) -> bool {
        let page = 10;
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
            KeyCode::Char('q') | KeyCode::Esc => return true,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('p') => self.paused = !self.paused,
            KeyCode::Down => self.first = self.first.saturating_add(1),
            KeyCode::Up => self.first = self.first.saturating_sub(1),
            KeyCode::PageDown => self.first = self.first.saturating_add(page),
            KeyCode::PageUp => self.first = self.first.saturating_sub(page),
            KeyCode::Home => self.first = 0,
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod view_test;
