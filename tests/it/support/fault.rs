//! Owns a fault of the disk: calls of a running agent on some files fail, until it is ended.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::leash::Leash;
use super::process::Process;
use super::wait::wait_for;

const MINUTE: Duration = Duration::from_secs(60);

/// `strace`, attached to an agent.
pub struct Fault {
    tracer: Process,
    _leash: Leash,
}

impl Fault {
    /// From now on each `call` of this process on one of these files fails with `error`, as `ENOSPC`.
    pub fn begin(process: u32, files: &[PathBuf], call: &str, error: &str) -> Self {
        let mut command = Command::new("strace");
        command
            .args(["-f", "-qq", "-e", "signal=none", "-o", "/dev/null"])
            .args(["-e", &format!("trace={call}")])
            .args(["-e", &format!("inject={call}:error={error}")])
            .args(["-p", &process.to_string()])
            .stdin(Stdio::null());
        for file in files {
            command.arg("-P").arg(file);
        }
        let tracer = Process::spawn("strace", &mut command);
        let mut leash = Leash::on_processes();
        leash.hold(&[tracer.id()]);
        wait_for(MINUTE, "every thread of the agent is traced", || {
            let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
            let is_traced = |thread: std::io::Result<fs::DirEntry>| {
                // One that ends meanwhile needs no tracer.
                let status = fs::read_to_string(thread.unwrap().path().join("status"));
                status.is_ok_and(|status| !status.contains("TracerPid:\t0\n"))
            };
            threads.into_iter().all(is_traced)
        });
        Self {
            tracer,
            _leash: leash,
        }
    }

    /// The disk is well again.
    pub fn end(mut self) {
        self.tracer.signal(Signal::TERM);
        self.tracer.wait(MINUTE);
    }
}
