//! Owns one child process in a group of its own, and the signals sent to it.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::wait::wait_for_some;

pub struct Process {
    name: &'static str,
    child: Child,
}

impl Process {
    /// `name` is for messages. The child leads a process group of its own.
    pub fn spawn(name: &'static str, command: &mut Command) -> Self {
        let child = command
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}: {command:?}"));
        Self { name, child }
    }

    /// Also the id of its group.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends `signal` to the process alone.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal)
            .unwrap_or_else(|error| panic!("{signal:?} to {}: {error}", self.name));
    }

    /// The exit status, when the process has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        wait_for_some(deadline, &what, || self.ended())
    }

    /// SIGKILL to the whole group, also one that is stopped, and the leader reaped.
    pub fn kill_group(&mut self) -> ExitStatus {
        // The group is gone when its leader was reaped and nobody else was in it.
        let _ = kill_process_group(self.pid(), Signal::KILL);
        self.child.wait().unwrap()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_group();
    }
}
