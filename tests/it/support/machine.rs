//! Owns throw-away machines: a Debian with its own systemd, booted in a container over a root file
//! system that stays as it is. It sees the host's network, or none.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use super::debian::Root;
use super::leash::Leash;
use super::process::Process;
use super::wait::{wait_for, wait_for_some};

/// It takes a second on two idle cores.
const BOOT: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(30);

/// In a mount namespace of its own, which ends with its last process. `$1` is the root file system,
/// `$2` the machine's directory; behind them control groups up to `--`, then nspawn's arguments.
const ENTER: &str = r#"
set -e
root=$1 machine=$2
shift 2
while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs"; shift; done
shift
mkdir -p /run/systemd
mount -t tmpfs -o mode=755 tmpfs /run/systemd
mount -t overlay overlay -o "lowerdir=$root,upperdir=$machine/upper,workdir=$machine/work" "$machine/root"
exec systemd-nspawn --directory="$machine/root" "$@"
"#;

/// Units without a meaning here.
const MASKED: [&str; 8] = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "systemd-logind.service",
    "console-getty.service",
    "getty.target",
];

/// What a machine is given.
#[derive(Default)]
pub struct Options {
    /// Directories of the host's, and where they stand inside.
    pub binds: Vec<(PathBuf, &'static str)>,
    /// No network but its own loopback interface.
    pub private_network: bool,
    /// Limits of memory are in force in it.
    pub memory: bool,
}

/// A machine that runs; it ends when dropped, and with the test process.
pub struct Machine {
    process: Process,
    leader: u32,
    groups: Vec<PathBuf>,
    /// Declared before the directory: processes end first.
    leash: Leash,
    directory: TempDir,
}

impl Machine {
    /// Of a Debian release; returns when it is up.
    pub fn boot(suite: &str, options: &Options) -> Self {
        let root = Root::booting(suite);
        let directory = tempfile::Builder::new()
            .prefix("fantail-machine-")
            .tempdir()
            .unwrap();
        let (leash, name) = (
            Leash::on_processes_and(directory.path()),
            name(directory.path()),
        );
        lay_out(directory.path());
        // Where the first version has the memory, the machine is given the first version.
        let legacy_memory = options.memory.then(legacy_memory).flatten();
        let groups = control_groups(&name, legacy_memory.as_deref());
        let log = fs::File::create(directory.path().join("console")).unwrap();
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation=private"])
            .args(["/bin/sh", "-c", ENTER, "enter"])
            .args([root.directory(), directory.path()])
            .args(&groups)
            .args(["--", "--quiet", "--boot", "--register=no", "--keep-unit"])
            .args(["--console=pipe", "--link-journal=no"])
            // A unit's filter of addresses is a program in the kernel.
            .arg("--system-call-filter=bpf")
            .args(["--resolv-conf=off", "--timezone=off"])
            .arg(format!("--machine={name}"))
            .env("SYSTEMD_NSPAWN_USE_CGNS", "1")
            .env("SYSTEMD_NSPAWN_TMPFS_TMP", "0")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        if legacy_memory.is_none() {
            command.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
        }
        if options.private_network {
            command.arg("--private-network");
        }
        for (outside, inside) in &options.binds {
            command.arg(format!("--bind={}:{inside}", outside.display()));
        }
        command.args(["systemd.show_status=false", "systemd.log_target=journal"]);
        let process = Process::spawn("systemd-nspawn", &mut command);
        let mut machine = Self {
            process,
            leader: 0,
            groups,
            leash,
            directory,
        };
        machine.leash.hold(&[machine.process.id()]);
        machine.leader = wait_for_some(BOOT, "systemd runs", || machine.find_leader());
        // It leads a group of its own, and outlives nspawn; nothing inside outlives it.
        machine.leash.hold(&[machine.process.id(), machine.leader]);
        if legacy_memory.is_some() {
            wait_for(BOOT, "its memory is its own to limit", || {
                machine.opens_memory()
            });
        }
        wait_for(BOOT, "the machine is up", || machine.is_up());
        machine
    }

    /// A shell script as root in it, with what it says on both ways.
    pub fn run(&self, script: &str) -> Output {
        let leader = self.leader.to_string();
        Command::new("nsenter")
            .args(["--all", "--target", &leader, "--"])
            .args(["/bin/sh", "-c", script])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// The same, which must succeed; what it says on standard output.
    pub fn succeed(&self, script: &str) -> String {
        let output = self.run(script);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{script}: {}\n{}{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout).trim_end().to_owned()
    }

    /// A property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.succeed(&format!("systemctl show --value --property={name} {unit}"))
    }

    pub fn wait_for_property(&self, unit: &str, name: &str, holds: impl Fn(&str) -> bool) {
        let mut value = String::new();
        wait_for(BOOT, &format!("{name} of {unit}"), || {
            value = self.property(unit, name);
            holds(&value)
        });
    }

    /// A path of the machine's, as the host sees it. Files that a package brought are there.
    pub fn path(&self, inside: &str) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.leader)).join(inside.trim_start_matches('/'))
    }

    /// What the host knows a process of the machine's as.
    pub fn process_outside(&self, inside: u32) -> u32 {
        let space = |process: &str| fs::read_link(format!("/proc/{process}/ns/pid")).ok();
        let own = space(&self.leader.to_string());
        let is_it = |process: &String| {
            let status = fs::read_to_string(format!("/proc/{process}/status"));
            let status = status.unwrap_or_default();
            let mut ids = status
                .lines()
                .filter_map(|line| line.strip_prefix("NSpid:"));
            let id = ids.next().and_then(|ids| ids.split_whitespace().last());
            id == Some(&inside.to_string()) && space(process) == own
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let mut names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let process = names.find(is_it).expect("it runs");
        process.parse().expect("a process")
    }

    /// nspawn's only child is the machine's first process.
    fn find_leader(&mut self) -> Option<u32> {
        if let Some(status) = self.process.ended() {
            panic!("systemd-nspawn: {status}\n{}", self.console());
        }
        let id = self.process.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
        let child: u32 = children.split_whitespace().next()?.parse().ok()?;
        let name = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
        (name.trim() == "systemd").then_some(child)
    }

    /// nspawn leaves what the first version of control groups knows for reading alone.
    fn opens_memory(&self) -> bool {
        let leader = self.leader.to_string();
        let opened = Command::new("nsenter")
            .args(["--mount", "--target", &leader, "--"])
            .args(["mount", "-o", "remount,bind,rw", "/sys/fs/cgroup/memory"])
            .output();
        opened.is_ok_and(|opened| opened.status.success())
    }

    fn is_up(&self) -> bool {
        let state = self.run("systemctl is-system-running").stdout;
        matches!(state.trim_ascii(), b"running" | b"degraded")
    }

    fn console(&self) -> String {
        fs::read_to_string(self.directory.path().join("console")).unwrap_or_default()
    }
}

impl Drop for Machine {
    /// A failed test shows what the service said.
    fn drop(&mut self) {
        if std::thread::panicking() && self.leader != 0 {
            let journal = self.run("journalctl --no-pager --lines=80; systemctl status fantail");
            println!("{}", String::from_utf8_lossy(&journal.stdout));
        }
        if let Some(leader) = Pid::from_raw(self.leader as i32).filter(|_| self.leader != 0) {
            // It may have ended by itself.
            let _ = kill_process_group(leader, Signal::KILL);
        }
        self.process.kill_group();
        self.leash.hold(&[]);
        if !std::thread::panicking() {
            let is_gone = || self.groups.iter().all(|group| remove_group(group));
            wait_for(END, "nothing is left of the machine", is_gone);
        }
    }
}

/// Unique, and short: a host name has an end.
fn name(directory: &Path) -> String {
    let name = directory.file_name().unwrap().to_str().unwrap();
    let name = name
        .trim_start_matches("fantail-machine-")
        .trim_start_matches('.');
    format!("fantail{}", name.to_lowercase())
}

fn lay_out(directory: &Path) {
    for name in ["upper", "work", "root"] {
        fs::create_dir(directory.join(name)).unwrap();
    }
    let etc = directory.join("upper/etc");
    let units = etc.join("systemd/system");
    fs::create_dir_all(&units).unwrap();
    for unit in MASKED {
        symlink("/dev/null", units.join(unit)).unwrap();
    }
    symlink(
        "/lib/systemd/system/multi-user.target",
        units.join("default.target"),
    )
    .unwrap();
    fs::write(etc.join("machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
    fs::write(etc.join("hostname"), "machine\n").unwrap();
    // No work of a first boot.
    fs::write(etc.join(".updated"), "").unwrap();
    fs::create_dir_all(directory.join("upper/var")).unwrap();
    fs::write(directory.join("upper/var/.updated"), "").unwrap();
}

/// The control group of this process in which its memory is limited, if that is one of the first
/// version: the second one cannot limit it then.
fn legacy_memory() -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let group = own.lines().find_map(|line| {
        let (controllers, group) = line.split_once(':')?.1.split_once(':')?;
        (controllers == "memory").then_some(group)
    })?;
    Some(Path::new("/sys/fs/cgroup/memory").join(group.trim_start_matches('/')))
}

/// One in each hierarchy that systemd keeps, so that machines do not meet, and one more in `further`.
fn control_groups(name: &str, further: Option<&Path>) -> Vec<PathBuf> {
    let base = Path::new("/sys/fs/cgroup");
    let bases = if base.join("cgroup.controllers").exists() {
        vec![base.to_owned()]
    } else {
        vec![base.join("unified"), base.join("systemd")]
    };
    let bases = bases.into_iter().chain(further.map(Path::to_owned));
    let there = bases.filter(|base| base.is_dir());
    let groups: Vec<_> = there.map(|base| base.join(name)).collect();
    for group in &groups {
        fs::create_dir(group).unwrap();
    }
    groups
}

/// Whether it is gone, with all below it: not while somebody in it is still dying.
fn remove_group(group: &Path) -> bool {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_group(&entry.path());
        }
    }
    // Deepest first; one that somebody is in stays for the next attempt.
    fs::remove_dir(group).is_ok() || !group.exists()
}
