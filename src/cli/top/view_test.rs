//! The screen as it is drawn, cell by cell, on terminals that there are not.

use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent};

use super::*;
use crate::status::{
    Broker, BrokerState, Config, Error, File, FileState, Queue, Source, Spool, SpoolMode, Stage,
};

fn file(path: &str, lag: u64, confirmed: u64) -> File {
    File {
        path: path.to_owned(),
        id: Some(path.to_owned()),
        source: "app".to_owned(),
        size: confirmed + lag,
        read: confirmed,
        confirmed,
        lag,
        oldest_unconfirmed_s: (lag > 0).then_some(75),
        state: FileState::Active,
    }
}

fn status() -> Status {
    let queue = |name: &str, present| Queue {
        name: name.to_owned(),
        kind: "quorum".to_owned(),
        present,
        required: true,
        drift: None,
    };
    Status {
        version: "1.2.3".to_owned(),
        agent: "00".repeat(16),
        host: "web-1".to_owned(),
        pid: 7,
        uptime_s: 200,
        config: Config {
            path: "/etc/fantail/fantail.toml".to_owned(),
            loaded_at: "2026-11-22T13:15:00.000Z".to_owned(),
            reload_error: None,
        },
        broker: Broker {
            state: BrokerState::Connected,
            url: "amqp://b".to_owned(),
            since: "2026-11-22T13:15:00.000Z".to_owned(),
            last_error: None,
            in_flight_bytes: 2048,
        },
        queues: vec![queue("archive", Some(true)), queue("search", Some(false))],
        spool: Spool {
            bytes: 512 << 20,
            limit_bytes: 1 << 30,
            segments: 8,
            mode: SpoolMode::Spooling,
            full_in_s: Some(3600),
        },
        sources: vec![Source {
            name: "app".to_owned(),
            files: Some(2),
            lines: Some(1000),
            dropped: Some(0),
            lag: Some(5_000),
        }],
        files: Some(vec![
            file("/var/log/a.log", 0, 10_000),
            file("/var/log/b\u{1b}[2J\n.log", 5_000, 0),
        ]),
        stages: vec![Stage {
            name: "relay".to_owned(),
            state: "publishing".to_owned(),
            since: "2026-11-22T13:15:00.000Z".to_owned(),
        }],
        lost_bytes: 0,
        errors: vec![Error {
            time: "2026-11-22T13:15:07.000Z".to_owned(),
            level: "WARN".to_owned(),
            message: "planted \u{1b}]0;title\u{7} reason".to_owned(),
        }],
    }
}

fn screen(status: Status) -> Screen {
    Screen {
        rates: Rates::new(&status, Instant::now()),
        status,
        heard: Instant::now(),
        silence: None,
        sort: Sort::default(),
        paused: false,
        first: 0,
        colour: true,
    }
}

fn drawn(screen: &Screen, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal
        .draw(|frame| view::draw(frame, screen))
        .expect("drawn");
    let buffer = terminal.backend().buffer();
    let row = |y: u16| -> String {
        let cells = (0..width).map(|x| buffer[(x, y)].symbol().to_owned());
        cells.collect::<String>().trim_end().to_owned()
    };
    (0..height).map(row).collect()
}

#[test]
fn eighty_by_twenty_four_has_everything_and_nothing_steers_the_terminal() {
    let rows = drawn(&screen(status()), 80, 24);
    let text = rows.join("\n");
    for part in [
        "fantail 1.2.3 on web-1, up 3m 20s",
        "broker  connected  amqp://b  2.0 KiB in flight",
        "lag 4.8 KiB",
        "spool spooling: 512.0 MiB of 1.0 GiB, full in 1h 0m",
        "queue   present  archive (quorum)",
        "queue   MISSING  search (quorum)",
        "FILE (2 of 2)",
        "1m 15s",
        "13:15:07 planted",
        "q quit",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'));
    let at = |part: &str| rows.iter().position(|row| row.contains(part));
    assert!(at("/var/log/b") < at("/var/log/a"), "the most lag first");
}

#[test]
fn rates_come_from_two_answers_of_one_process() {
    let mut screen = screen(status());
    assert!(drawn(&screen, 80, 24).join("\n").contains("read    …"));
    let mut later = status();
    later.sources[0].lines = Some(51_000);
    if let Some(files) = &mut later.files {
        files[0].confirmed += 3_000_000;
    }
    let at = screen.heard + Duration::from_secs(2);
    screen.rates.take(&later, at);
    screen.status = later.clone();
    let text = drawn(&screen, 80, 24).join("\n");
    assert!(
        text.contains("read    25.0k lines/s   confirmed 1.5M B/s"),
        "{text}"
    );
    later.pid += 1;
    screen.rates.take(&later, at + Duration::from_secs(1));
    assert_eq!(screen.rates.lines_per_s, None, "another process");
}

#[test]
fn a_lost_daemon_is_said_and_comes_back() {
    let mut screen = screen(status());
    screen.hear(Err("error: no daemon answers\nat /run".to_owned()));
    let rows = drawn(&screen, 80, 24);
    assert!(
        rows[0].starts_with("NO ANSWER for 0s: no daemon answers\\n"),
        "{}",
        rows[0]
    );
    assert!(
        rows.join("\n").contains("/var/log/a.log"),
        "what was known is still there"
    );
    screen.hear(Ok(Box::new(status())));
    assert!(drawn(&screen, 80, 24)[0].starts_with("fantail"));
}

#[test]
fn any_size_can_be_drawn_and_any_key_pressed() {
    let mut screen = screen(status());
    let many = (0..10_000).map(|number| file(&format!("/var/log/{number}.log"), number, 1));
    screen.status.files = Some(many.collect());
    for key in [
        KeyCode::PageDown,
        KeyCode::Down,
        KeyCode::Up,
        KeyCode::Char('s'),
        KeyCode::Char('s'),
        KeyCode::Char('p'),
        KeyCode::PageUp,
        KeyCode::Char('x'),
    ] {
        assert!(!screen.press(KeyEvent::from(key)));
        for (width, height) in [(80, 24), (20, 5), (1, 1), (300, 100)] {
            drawn(&screen, width, height);
        }
    }
    screen.first = usize::MAX;
    let text = drawn(&screen, 80, 24).join("\n");
    assert!(text.contains("FILE (10000 of 10000)"), "{text}");
    screen.press(KeyEvent::from(KeyCode::Home));
    assert_eq!(screen.first, 0);
    assert!(screen.press(KeyEvent::from(KeyCode::Char('q'))));
}
