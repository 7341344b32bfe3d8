//! What is drawn where. Everything that comes from elsewhere is shown with its control characters
//! written out.

use std::cmp::Reverse;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Gauge, Paragraph, Row, Table};

use super::{Screen, Sort};
use crate::cli::status::duration;
use crate::status::{BrokerState, File, FileState, Queue, SpoolMode, bytes};
use crate::telemetry::escaped;

/// Lines of the head, and of what goes wrong at the bottom at most.
const HEAD: u16 = 5;
const ERRORS_MAX: u16 = 4;
/// Columns from which on there is room for all that is told of a file.
const WIDE: u16 = 64;

pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let status = &screen.status;
    let queues = u16::try_from(status.queues.len())
        .unwrap_or(u16::MAX)
        .min(4);
    let errors = u16::try_from(status.errors.len()).unwrap_or(u16::MAX);
    let errors = errors.min(ERRORS_MAX);
    let [head, spool, queue_rows, files, error_rows, keys] = Layout::vertical([
        Constraint::Length(HEAD),
        Constraint::Length(1),
        Constraint::Length(queues),
        Constraint::Min(3),
        Constraint::Length(errors),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    draw_head(frame, screen, head);
    draw_spool(frame, screen, spool);
    let lines = status.queues.iter().map(|queue| queue_line(screen, queue));
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), queue_rows);
    draw_files(frame, screen, files);
    draw_errors(frame, screen, error_rows);
    draw_keys(frame, screen, keys);
}

impl Screen {
    fn style(&self, colour: Color) -> Style {
        if self.colour {
            Style::new().fg(colour)
        } else {
            Style::new()
        }
    }

    fn bold(&self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }
}

fn draw_head(frame: &mut Frame<'_>, screen: &Screen, area: Rect) {
    let status = &screen.status;
    let (state, colour) = match status.broker.state {
        BrokerState::Connected => ("connected", Color::Green),
        BrokerState::Connecting => ("connecting", Color::Yellow),
        BrokerState::Blocked => ("blocked", Color::Yellow),
        BrokerState::Down => ("down", Color::Red),
    };
    let rate = |rate: Option<f64>, unit: &str| {
        rate.map_or("…".to_owned(), |rate| format!("{} {unit}", short(rate)))
    };
    let lag: Option<u64> = status.sources.iter().map(|source| source.lag).sum();
    let first = match &screen.silence {
        Some(reason) => Line::styled(
            format!(
                "NO ANSWER for {}: {}",
                duration(screen.heard.elapsed().as_secs()),
                escaped(reason)
            ),
            screen.style(Color::Red).add_modifier(Modifier::REVERSED),
        ),
        None => Line::styled(
            format!(
                "fantail {} on {}, up {}{}",
                escaped(&status.version),
                escaped(&status.host),
                duration(status.uptime_s),
                if screen.paused { " (paused)" } else { "" },
            ),
            screen.bold(),
        ),
    };
    let broker = Line::from(vec![
        Span::raw("broker  "),
        Span::styled(state, screen.style(colour)),
        Span::raw(format!(
            "  {}  {} in flight",
            escaped(&status.broker.url),
            bytes(status.broker.in_flight_bytes)
        )),
    ]);
    let trouble = status.broker.last_error.as_deref();
    let trouble = trouble.filter(|_| status.broker.state != BrokerState::Connected);
    let trouble = match (&status.config.reload_error, trouble) {
        (Some(error), _) => format!("config  a newer one is not in use: {}", escaped(error)),
        (None, Some(error)) => format!("        {}", escaped(error)),
        (None, None) => String::new(),
    };
    let lost = if status.lost_bytes > 0 {
        let lost = format!("   lost {}", bytes(status.lost_bytes));
        Span::styled(lost, screen.style(Color::Red))
    } else {
        Span::raw("")
    };
    let flow = Line::from(vec![
        Span::raw(format!(
            "read    {}   confirmed {}   lag {}",
            rate(screen.rates.lines_per_s, "lines/s"),
            rate(screen.rates.bytes_per_s, "B/s"),
            lag.map_or("unknown".to_owned(), bytes),
        )),
        lost,
    ]);
    let busy: Vec<String> = status
        .stages
        .iter()
        .map(|stage| format!("{} {}", escaped(&stage.name), escaped(&stage.state)))
        .collect();
    let stages = format!("stages  {}", busy.join(", "));
    let trouble = Line::styled(trouble, screen.style(Color::Yellow));
    let lines = vec![first, broker, trouble, flow, Line::raw(stages)];
    frame.render_widget(Paragraph::new(lines), area);
}

fn draw_spool(frame: &mut Frame<'_>, screen: &Screen, area: Rect) {
    let spool = &screen.status.spool;
    let (mode, colour) = match spool.mode {
        SpoolMode::Direct => ("direct", Color::Blue),
        SpoolMode::Spooling => ("spooling", Color::Yellow),
        SpoolMode::Draining => ("draining", Color::Green),
    };
    let full = spool.full_in_s.map_or(String::new(), |seconds| {
        format!(", full in {}", duration(seconds))
    });
    let label = format!(
        "spool {mode}: {} of {}{full}",
        bytes(spool.bytes),
        bytes(spool.limit_bytes)
    );
    let ratio = if spool.limit_bytes > 0 {
        (spool.bytes as f64 / spool.limit_bytes as f64).clamp(0.0, 1.0)
    } else {
        0.0
    };
    let style = if screen.colour {
        Style::new().fg(colour).bg(Color::DarkGray)
    } else {
        Style::new()
    };
    let gauge = Gauge::default().ratio(ratio).label(label);
    frame.render_widget(gauge.gauge_style(style), area);
}

fn queue_line<'a>(screen: &Screen, queue: &Queue) -> Line<'a> {
    let (state, colour) = match (queue.present, queue.required, &queue.drift) {
        (None, ..) => ("unknown", Color::Gray),
        (Some(false), true, _) => ("MISSING", Color::Red),
        (Some(false), false, _) => ("missing", Color::Yellow),
        (Some(true), _, Some(_)) => ("differs", Color::Yellow),
        (Some(true), ..) => ("present", Color::Green),
    };
    Line::from(vec![
        Span::raw("queue   "),
        Span::styled(format!("{state:<9}"), screen.style(colour)),
        Span::raw(format!(
            "{} ({})",
            escaped(&queue.name),
            escaped(&queue.kind)
        )),
    ])
}

fn draw_files(frame: &mut Frame<'_>, screen: &Screen, area: Rect) {
    let Some(all) = &screen.status.files else {
        let text = "files: unknown; the lane does not answer";
        frame.render_widget(
            Paragraph::new(text).style(screen.style(Color::Yellow)),
            area,
        );
        return;
    };
    let rate = |file: &File| {
        let id = file.id.as_ref();
        id.and_then(|id| screen.rates.by_file.get(id)).copied()
    };
    let mut files: Vec<&File> = all.iter().collect();
    match screen.sort {
        // Stable: by path where it is the same.
        Sort::Lag => files.sort_by_key(|file| Reverse(file.lag)),
        Sort::Rate => {
            files.sort_by(|a, b| rate(b).unwrap_or(0.0).total_cmp(&rate(a).unwrap_or(0.0)));
        }
        Sort::Path => {}
    }
    let room = usize::from(area.height.saturating_sub(1));
    let first = screen.first.min(files.len().saturating_sub(room));
    let shown = files.iter().skip(first).take(room);
    // On a narrow screen the name comes first, and what is behind.
    let is_wide = area.width >= WIDE;
    let others = if is_wide { 41 } else { 19 };
    let path_width = usize::from(area.width.saturating_sub(others)).max(10);
    let row = |path: String, [state, lag, oldest, rate]: [Cell<'static>; 4]| {
        let mut cells = vec![Cell::new(path)];
        cells.extend(is_wide.then_some(state));
        cells.extend([lag, oldest]);
        cells.extend(is_wide.then_some(rate));
        Row::new(cells)
    };
    let rows = shown.map(|file| {
        let (state, style) = match file.state {
            FileState::Active => ("active", Style::new()),
            FileState::Rotated => ("rotated", Style::new()),
            FileState::Deleted => ("deleted", screen.style(Color::Yellow)),
            FileState::Compressed => ("compressed", Style::new()),
            FileState::Unreadable => ("unreadable", screen.style(Color::Red)),
            FileState::SetAside => ("set aside", screen.style(Color::Red)),
        };
        let oldest = file.oldest_unconfirmed_s;
        let rate = rate(file).map_or("-".to_owned(), |rate| short(rate) + "B/s");
        let cells = [
            Cell::new(state).style(style),
            right(&bytes(file.lag), 10),
            right(&oldest.map_or("-".to_owned(), duration), 7),
            right(&rate, 10),
        ];
        row(end_of(&escaped(&file.path), path_width), cells)
    });
    let last = first + room.min(files.len() - first);
    let cells = [
        Cell::new("STATE"),
        right("LAG", 10),
        right("OLDEST", 7),
        right("CONFIRMED", 10),
    ];
    let heading = row(format!("FILE ({last} of {})", files.len()), cells);
    let mut widths = vec![Constraint::Min(10)];
    let lengths: &[u16] = if is_wide { &[10, 10, 7, 10] } else { &[10, 7] };
    widths.extend(lengths.iter().map(|length| Constraint::Length(*length)));
    let table = Table::new(rows, widths).header(heading.style(screen.bold()));
    frame.render_widget(table, area);
}

fn draw_errors(frame: &mut Frame<'_>, screen: &Screen, area: Rect) {
    let errors = &screen.status.errors;
    let room = usize::from(area.height);
    let last = errors.iter().skip(errors.len().saturating_sub(room));
    let lines = last.map(|error| {
        let colour = if error.level == "ERROR" {
            Color::Red
        } else {
            Color::Yellow
        };
        // The day is seldom what one wants to know.
        let time = error.time.get(11..19).unwrap_or(&error.time);
        Line::from(vec![
            Span::styled(format!("{} ", escaped(time)), screen.style(colour)),
            Span::raw(escaped(&error.message)),
        ])
    });
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), area);
}

fn draw_keys(frame: &mut Frame<'_>, screen: &Screen, area: Rect) {
    let text = format!(
        "q quit  s sort (by {})  p pause  arrows scroll",
        screen.sort.name()
    );
    let style = Style::new().add_modifier(Modifier::REVERSED);
    frame.render_widget(Paragraph::new(text).style(style), area);
}

fn right(text: &str, width: usize) -> Cell<'static> {
    Cell::new(format!("{text:>width$}"))
}

/// The end of a path says more than its beginning.
fn end_of(path: &str, width: usize) -> String {
    let count = path.chars().count();
    if count <= width {
        return path.to_owned();
    }
    let end: String = path.chars().skip(count + 1 - width).collect();
    format!("…{end}")
}

/// A number of something in a second: `999`, `1.2k`, `3.4M`.
fn short(rate: f64) -> String {
    let units = [(1e9, "G"), (1e6, "M"), (1e3, "k")];
    let unit = units.iter().find(|(least, _)| rate >= *least);
    unit.map_or(format!("{rate:.0}"), |(least, unit)| {
        format!("{:.1}{unit}", rate / least)
    })
}
