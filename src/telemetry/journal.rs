//! Lines for systemd's journal: it stamps them itself, and takes a priority in front (sd-daemon(3)).

use std::fmt;
use std::io::stderr;

use rustix::fs::fstat;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Compact, Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, format};
use tracing_subscriber::registry::LookupSpan;

use super::escaped;

/// Whether stderr is what systemd says is connected to the journal: device and inode number in
/// `JOURNAL_STREAM` (systemd.exec(5)).
pub(super) fn is_stderr() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    fstat(stderr()).is_ok_and(|stat| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// An event as a line with its priority in front.
pub(super) struct Prioritised(Format<Compact, ()>);

impl Default for Prioritised {
    fn default() -> Self {
        let line = format().compact().without_time();
        Self(line.with_level(false).with_target(false).with_ansi(false))
    }
}

impl<S, N> FormatEvent<S, N> for Prioritised
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = priority(*event.metadata().level());
        let mut line = String::new();
        self.0
            .format_event(context, Writer::new(&mut line), event)?;
        // A line end in what a broker says would begin an entry with a priority of its own.
        let line = escaped(line.trim_end_matches('\n'));
        writeln!(writer, "<{priority}>{line}")
    }
}

/// Those of syslog(3): `LOG_ERR`, `LOG_WARNING`, `LOG_INFO` and `LOG_DEBUG`.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::fmt::layer;
    use tracing_subscriber::layer::SubscriberExt;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("whole").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn each_line_has_its_priority_and_no_time() {
        let written = Written::default();
        let writer = written.clone();
        let layer = layer()
            .with_ansi(false)
            .event_format(Prioritised::default())
            .with_writer(move || writer.clone());
        let registry = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(registry, || {
            tracing::error!(path = ?"/a\n<0>b", "lost");
            tracing::warn!(reason = %"a\n<0>b", "doubtful");
            tracing::info!(files = 2, "ready");
        });
        let bytes = written.0.lock().expect("whole").clone();
        let text = String::from_utf8(bytes).expect("UTF-8");
        assert_eq!(
            text,
            "<3>lost path=\"/a\\n<0>b\"\n<4>doubtful reason=a\\n<0>b\n<6>ready files=2\n"
        );
    }
}
