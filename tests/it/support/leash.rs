//! Owns the promise that nothing outlives its test: no process, no directory.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Remembers the last line it reads: process groups. At the end of the input, which comes with the
/// end of the test process however it ends, it kills them and removes the directory. A process that
/// is just dying may still make a file, hence the repeated `rm`.
const WATCHDOG: &str = r#"
groups=
while read -r line; do groups=$line; done
for group in $groups; do kill -s KILL -- "-$group" 2>/dev/null; done
[ -n "$1" ] || exit 0
for attempt in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf -- "$1" 2>/dev/null && exit 0
    sleep 0.2
done
"#;

/// A watchdog process that holds process groups, and possibly a directory, on behalf of a test.
pub struct Leash {
    watchdog: Child,
}

impl Leash {
    /// A leash on processes alone.
    pub fn on_processes() -> Self {
        Self::start("".as_ref())
    }

    /// A leash on processes and on the directory they write to.
    pub fn on_processes_and(directory: &Path) -> Self {
        Self::start(directory)
    }

    fn start(directory: &Path) -> Self {
        let watchdog = Command::new("/bin/sh")
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(directory)
            .stdin(Stdio::piped())
            // Of the test's output, whose reader would wait for the watchdog too.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A terminal's Ctrl-C is for the test, not for the one that cleans up after it.
            .process_group(0)
            .spawn()
            .unwrap();
        Self { watchdog }
    }

    /// From now on `groups`, and no others, are on the leash.
    pub fn hold(&mut self, groups: &[u32]) {
        let line: Vec<String> = groups.iter().map(u32::to_string).collect();
        let input = self.watchdog.stdin.as_mut().unwrap();
        writeln!(input, "{}", line.join(" ")).unwrap();
    }
}

impl Drop for Leash {
    /// Ends in the same way as a killed test: the watchdog sees the end of its input.
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}
