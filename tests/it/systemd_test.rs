//! The packages, and the daemon as a service, under a real systemd in a machine of its own.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::support::amqp::Consumer;
use crate::support::broker::Broker;
use crate::support::is_all;
use crate::support::leash::Leash;
use crate::support::machine::{Machine, Options};
use crate::support::oracle::Ledger;
use crate::support::process::Process;
use crate::support::wait::wait_for;
use crate::support::writers::{Load, append, numbered_lines};

const MINUTE: Duration = Duration::from_secs(60);
/// Debian's group for administrators who read logs.
const ADM: u32 = 4;
pub const UNIT: &str = "fantail.service";

/// What `packaging/build` leaves, made once for all tests.
struct Packages {
    directory: PathBuf,
}

impl Packages {
    fn built() -> &'static Self {
        static BUILT: OnceLock<Packages> = OnceLock::new();
        BUILT.get_or_init(|| {
            let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages");
            if directory.exists() {
                fs::remove_dir_all(&directory).unwrap();
            }
            succeed(
                Command::new(source("packaging/build"))
                    .args(["--binary", env!("CARGO_BIN_EXE_fantail"), "--output"])
                    .arg(&directory),
            );
            Self { directory }
        })
    }

    fn with_extension(&self, extension: &str) -> PathBuf {
        let entries = fs::read_dir(&self.directory).unwrap();
        let mut paths = entries.map(|entry| entry.unwrap().path());
        let package = paths.find(|path| path.extension().is_some_and(|found| found == extension));
        package.expect("there is such a package")
    }
}

pub fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

fn shell(script: &str, arguments: &[&Path]) -> String {
    let mut command = Command::new("/bin/sh");
    succeed(command.args(["-c", script, "sh"]).args(arguments))
}

/// A machine with the package in `/srv/packages`, and log files of the test's in `/var/log/app`.
pub struct Service {
    pub machine: Machine,
    pub logs: PathBuf,
    _directory: tempfile::TempDir,
}

impl Service {
    pub fn boot(suite: &str, private_network: bool) -> Self {
        Self::boot_with(
            suite,
            Options {
                private_network,
                ..Options::default()
            },
        )
    }

    pub fn boot_with(suite: &str, options: Options) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (logs, packages) = (
            directory.path().join("app"),
            directory.path().join("packages"),
        );
        for made in [&logs, &packages] {
            fs::create_dir(made).unwrap();
        }
        fs::set_permissions(&logs, Permissions::from_mode(0o755)).unwrap();
        let package = Packages::built().with_extension("deb");
        fs::copy(&package, packages.join("fantail.deb")).unwrap();
        shell(
            "set -e; dpkg-deb -R \"$1\" \"$2/next\"
             sed -i 's/^Version: .*/Version: 99.0-1/' \"$2/next/DEBIAN/control\"
             dpkg-deb -Znone --build \"$2/next\" \"$2/next.deb\"; rm -r \"$2/next\"",
            &[&package, &packages],
        );
        let machine = Machine::boot(
            suite,
            &Options {
                binds: vec![(logs.clone(), "/var/log/app"), (packages, "/srv")],
                ..options
            },
        );
        Self {
            machine,
            logs,
            _directory: directory,
        }
    }

    /// A log as Debian's services leave them.
    pub fn log(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.logs.join(name);
        append(&path, content);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        chown(&path, Some(0), Some(ADM)).unwrap();
        path
    }

    pub fn install(&self) {
        // A configuration that stands there already is an administrator's, and stays.
        self.machine
            .succeed("dpkg --force-confold -i /srv/fantail.deb");
        assert_eq!(self.machine.property(UNIT, "ActiveState"), "active");
    }

    pub fn configure(&self, broker: &Broker) {
        let config = format!(
            "[[source]]\nname = \"app\"\ninclude = [\"/var/log/app/*.log\"]\npoll_interval = \"100ms\"\n\
             [broker]\nurls = [\"{}\"]\ncheck_interval = \"500ms\"\n",
            broker.url()
        );
        self.machine.succeed("mkdir -p /etc/fantail/conf.d");
        fs::write(self.machine.path("/etc/fantail/fantail.toml"), config).unwrap();
    }

    fn set(&self, settings: &str) {
        let directory = "/etc/systemd/system/fantail.service.d";
        self.machine.succeed(&format!("mkdir -p {directory}"));
        let path = self.machine.path(directory).join("test.conf");
        fs::write(path, format!("[Service]\n{settings}\n")).unwrap();
        self.machine.succeed("systemctl daemon-reload");
    }

    pub fn restarts(&self) -> u32 {
        self.machine.property(UNIT, "NRestarts").parse().unwrap()
    }

    /// Ends it in the given way; returns when systemd has started it again.
    fn fall(&self, way: &str) {
        let before = self.restarts();
        self.machine.succeed(way);
        wait_for(MINUTE, "it was started again", || self.restarts() > before);
        self.machine
            .wait_for_property(UNIT, "ActiveState", |state| state == "active");
    }
}

/// What one queue has had.
pub struct Taken {
    pub consumer: Consumer,
    pub ledger: Ledger,
}

impl Taken {
    pub fn from(broker: &Broker) -> Self {
        wait_for(MINUTE, "the queue is there", || {
            broker.amqp().queue_exists("archive")
        });
        Self {
            consumer: Consumer::open(&broker.url(), "archive"),
            ledger: Ledger::new(),
        }
    }

    /// So many bytes of the one log, or more.
    pub fn until(&mut self, size: usize) {
        let what = format!("{size} bytes of the log");
        self.ledger
            .take_until(&mut self.consumer, 2 * MINUTE, &what, |ledger| {
                ledger.covered_bytes() >= size as u64
            });
    }
}

/// Every file but what others write anew by themselves.
fn files(machine: &Machine) -> String {
    machine.succeed(
        "find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /srv \
         -o -path /tmp -o -path '/var/tmp' -o -path '/var/log' -o -path '/var/lib/dpkg' \
         -o -path '/var/lib/systemd' -o -path '/var/cache' -o -name '*-' \\) -prune -o -print | sort",
    )
}

#[test]
fn a_package_brings_a_service_that_runs_at_once_and_leaves_nothing_when_it_is_purged() {
    let service = Service::boot("bookworm", true);
    let machine = &service.machine;
    let before = files(machine);
    service.install();
    assert_eq!(machine.property(UNIT, "Type"), "notify");
    machine.wait_for_property(UNIT, "StatusText", |text| text == "no broker, lag 0 B");
    assert_eq!(machine.property(UNIT, "NRestarts"), "0");
    assert_eq!(machine.property(UNIT, "UnitFileState"), "enabled");
    assert_eq!(
        machine.succeed("stat -c '%U:%G %a' /etc/fantail/fantail.toml /var/lib/fantail"),
        "root:fantail 640\nfantail:fantail 700"
    );
    machine.succeed("fantail check && fantail status");
    let unit = machine.run("systemd-analyze verify fantail.service");
    let said = String::from_utf8_lossy(&unit.stderr).into_owned();
    // Pages are not unpacked in such a small system.
    let wrong: Vec<_> = said
        .lines()
        .filter(|line| line.contains("fantail") && !line.contains("man"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");

    machine.succeed("systemctl reload fantail && systemctl is-active fantail");

    machine.succeed("echo '# mine' >> /etc/fantail/fantail.toml");
    machine.succeed("dpkg -i /srv/next.deb");
    machine.succeed("tail -n 1 /etc/fantail/fantail.toml | grep -q mine");
    assert_eq!(machine.property(UNIT, "ActiveState"), "active");

    machine.succeed("dpkg -r fantail && test -e /var/lib/fantail/state.db");
    machine.succeed("! pgrep -u fantail");
    machine.succeed("dpkg -P fantail");
    machine.succeed("! getent passwd fantail && ! getent group fantail");
    assert_eq!(
        machine.succeed("dpkg -l fantail 2>/dev/null | grep -c ^ii || true"),
        "0"
    );
    let (before, after): (Vec<_>, String) = (before.lines().collect(), files(machine));
    let left: Vec<_> = after
        .lines()
        .filter(|path| !before.contains(path))
        .collect();
    assert!(left.is_empty(), "{left:#?}");
}

/// What somebody may plant, and a source that names what is not for it, lead nowhere; and nothing is
/// lost over a broker that comes later, a process that hangs, a crash, a stop and an upgrade.
fn live(suite: &str) {
    let mut broker = Broker::absent();
    let service = Service::boot(suite, false);
    let machine = &service.machine;
    let path = service.log("app.log", b"");
    symlink("/etc/shadow", service.logs.join("planted.log")).unwrap();
    service.configure(&broker);
    fs::write(
        machine.path("/etc/fantail/conf.d/shadow.toml"),
        "[[source]]\nname = \"shadow\"\ninclude = [\"/etc/shadow\", \"/etc/shado[w]\"]\n",
    )
    .unwrap();
    service.install();
    machine.wait_for_property(UNIT, "StatusText", |text| text.starts_with("no broker"));
    broker.start_again();

    let inside = "/var/log/app/app.log";
    let load = Load::start(&path, "app");
    let mut taken = Taken::from(&broker);
    taken.until(1000);
    machine.wait_for_property(UNIT, "StatusText", |text| {
        text.starts_with("broker connected")
    });

    service.set("WatchdogSec=3s");
    machine.succeed("systemctl restart fantail");
    service.fall("systemctl kill --signal=STOP fantail");
    machine.succeed("journalctl -u fantail | grep -q 'Watchdog timeout'");
    service.fall("systemctl kill --signal=KILL fantail");

    machine.succeed("systemctl stop fantail");
    assert_eq!(machine.property(UNIT, "Result"), "success");
    assert_eq!(machine.property(UNIT, "ExecMainStatus"), "0");
    machine.succeed("systemctl start fantail");

    let size = fs::metadata(&path).unwrap().len() as usize;
    taken.until(size);
    let repeated = taken.ledger.repeated_bytes();
    let process = machine.property(UNIT, "MainPID");
    machine.succeed("dpkg --force-confold -i /srv/next.deb");
    assert_ne!(machine.property(UNIT, "MainPID"), process);
    assert_eq!(machine.property(UNIT, "ActiveState"), "active");

    let size = fs::metadata(&path).unwrap().len() as usize;
    taken.until(size + 1);
    let written = load.stop();
    taken.until(written.len());
    taken.ledger.assert_clean();
    taken.ledger.assert_holds_file(inside, &written);
    assert_eq!(
        taken.ledger.repeated_bytes(),
        repeated,
        "the upgrade repeats nothing"
    );
    assert_eq!(taken.ledger.files().len(), 1, "no file but the log");
}

/// The thread of a stage of the service, as the host knows it.
fn thread_of(machine: &Machine, stage: &str) -> u32 {
    let inside = machine.property(UNIT, "MainPID").parse().unwrap();
    let process = machine.process_outside(inside);
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let is_it = |thread: &PathBuf| {
        let name = fs::read_to_string(thread.join("comm"));
        name.is_ok_and(|name| name.trim() == stage)
    };
    let mut paths = threads.flatten().map(|entry| entry.path());
    let thread = paths.find(is_it).expect("the stage has a thread");
    thread
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn the_watchdog_ends_a_service_of_which_one_part_hangs_and_nothing_is_lost() {
    let broker = Broker::start();
    let service = Service::boot("bookworm", false);
    let machine = &service.machine;
    let (first, second) = (
        numbered_lines("first", 1000),
        numbered_lines("second", 1000),
    );
    service.log("first.log", &first);
    service.configure(&broker);
    service.install();
    service.set("WatchdogSec=3s");
    machine.succeed("systemctl restart fantail");
    let mut taken = Taken::from(&broker);
    taken.until(first.len());

    // The lane needs random bytes for the id of the next file, and works while it waits for them.
    let thread = thread_of(machine, "lane");
    let mut leash = Leash::on_processes();
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-e", "trace=getrandom", "-e"]);
    strace.args(["inject=getrandom:delay_enter=600000000", "-p"]);
    let mut tracer = Process::spawn("strace", strace.arg(thread.to_string()));
    leash.hold(&[tracer.id()]);
    wait_for(MINUTE, "the thread is traced", || {
        let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap();
        !status.contains("TracerPid:\t0\n")
    });
    let before = service.restarts();
    service.log("second.log", &second);
    wait_for(MINUTE, "the watchdog acts", || {
        let said = machine.run("journalctl -u fantail | grep -q 'Watchdog timeout'");
        said.status.success()
    });
    // It holds what it traces, also when that is to end.
    tracer.kill_group();
    leash.hold(&[]);
    wait_for(MINUTE, "it was started again", || {
        service.restarts() > before
    });
    machine.succeed("journalctl -u fantail | grep 'no progress' | grep -q lane");
    taken.until(first.len() + second.len());
    taken.ledger.assert_clean();
    taken
        .ledger
        .assert_holds_file("/var/log/app/first.log", &first);
    taken
        .ledger
        .assert_holds_file("/var/log/app/second.log", &second);
}

#[test]
fn nothing_is_lost_over_hangs_crashes_stops_and_upgrades_under_systemd_252() {
    live("bookworm");
}

/// With the broker away and room in the window, what is read of a file is in memory only, and once the
/// file is deleted nobody can open it again.
#[test]
fn what_a_deleted_file_holds_outlives_a_kill_because_systemd_keeps_its_descriptor() {
    let mut broker = Broker::absent();
    let service = Service::boot("bookworm", false);
    let content = numbered_lines("gone", 1000);
    let path = service.log("gone.log", &content);
    service.configure(&broker);
    service.install();
    wait_for(MINUTE, "the log is read", || {
        let status = service.machine.succeed("fantail status --json");
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status["files"][0]["read"] == content.len()
    });
    let kept = |count: &str| {
        let property = "NFileDescriptorStore";
        let is_count = |value: &str| value == count;
        service.machine.wait_for_property(UNIT, property, is_count);
    };
    fs::remove_file(&path).unwrap();
    kept("1");
    for _ in 0..2 {
        service.fall("systemctl kill --signal=KILL fantail");
    }
    broker.start_again();
    let mut taken = Taken::from(&broker);
    taken.until(content.len());
    service.machine.succeed("systemctl restart fantail");
    kept("1");
    taken.ledger.assert_clean();
    taken
        .ledger
        .assert_holds_file("/var/log/app/gone.log", &content);
    assert_eq!(taken.ledger.repeated_bytes(), 0);
    let status = service.machine.succeed("fantail status --json");
    assert!(status.contains("\"lost_bytes\":0"), "{status}");
}

#[test]
fn it_runs_under_systemd_257() {
    if is_all() {
        return live("trixie");
    }
    let service = Service::boot("trixie", true);
    service.install();
    service
        .machine
        .wait_for_property(UNIT, "StatusText", |text| text == "no broker, lag 0 B");
    service
        .machine
        .succeed("systemctl reload fantail && dpkg -P fantail");
}

#[test]
fn the_unit_and_each_of_its_drop_ins_are_sound_and_closed() {
    let directory = tempfile::tempdir().unwrap();
    let unit = directory.path().join(UNIT);
    let text = fs::read_to_string(source("systemd/fantail.service")).unwrap();
    let binary = env!("CARGO_BIN_EXE_fantail");
    let text = text
        .replace("/usr/bin/fantail", binary)
        .replace("Documentation=man:fantail(1)\n", "");
    fs::write(&unit, text).unwrap();
    let drop_in = directory.path().join("fantail.service.d/test.conf");
    fs::create_dir(drop_in.parent().unwrap()).unwrap();
    let mut drop_ins: Vec<_> = fs::read_dir(source("systemd/examples"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    drop_ins.sort();
    assert!(drop_ins.len() >= 4);
    let verify = || {
        let said = Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(&unit)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        let wrong: Vec<_> = said
            .lines()
            .filter(|line| line.contains("fantail"))
            .map(str::to_owned)
            .collect();
        wrong
    };
    assert_eq!(verify(), Vec::<String>::new());
    succeed(
        Command::new("systemd-analyze")
            .args(["security", "--offline=yes", "--threshold=16"])
            .arg(&unit),
    );
    for example in drop_ins {
        fs::copy(&example, &drop_in).unwrap();
        assert_eq!(verify(), Vec::<String>::new(), "{example:?}");
    }
    fs::write(&drop_in, "[Service]\nPrivateDevice=yes\n").unwrap();
    assert_ne!(
        verify(),
        Vec::<String>::new(),
        "a misspelt setting is found"
    );
}

/// Path, and a hash where it is a file, of all in a directory.
fn tree(directory: &Path) -> BTreeMap<String, String> {
    let list = shell(
        "cd \"$1\" && find . -type f -printf '%m ' -exec sha256sum {} \\;",
        &[directory],
    );
    let entries = list.lines().map(|line| {
        let (hash, path) = line.split_once("  ").expect("sha256sum's form");
        (path.to_owned(), hash.to_owned())
    });
    entries.collect()
}

#[test]
fn both_packages_hold_the_same_files() {
    let packages = Packages::built();
    let directory = tempfile::tempdir().unwrap();
    let (deb, rpm) = (directory.path().join("deb"), directory.path().join("rpm"));
    fs::create_dir(&rpm).unwrap();
    shell(
        "dpkg-deb -x \"$1\" \"$2\"",
        &[&packages.with_extension("deb"), &deb],
    );
    shell(
        "rpm2cpio \"$1\" >\"$2/../cpio\" && cd \"$2\" && cpio --quiet -idm <../cpio",
        &[&packages.with_extension("rpm"), &rpm],
    );
    let (mut deb, rpm) = (tree(&deb), tree(&rpm));
    for debian in [
        "./usr/share/doc/fantail/changelog.Debian.gz",
        "./usr/share/lintian/overrides/fantail",
    ] {
        deb.remove(debian).expect("only Debian's");
    }
    assert_eq!(deb, rpm);
    for there in [
        "./usr/bin/fantail",
        "./etc/fantail/fantail.toml",
        "./usr/share/man/man1/fantail.1.gz",
    ] {
        assert!(deb.contains_key(there), "{there}");
    }

    let scripts = shell(
        "rpm -qp --scripts \"$1\"",
        &[&packages.with_extension("rpm")],
    );
    for part in [
        "useradd -r",
        "systemctl enable fantail",
        "systemctl try-restart",
        "systemctl disable",
    ] {
        assert!(scripts.contains(part), "{part} in\n{scripts}");
    }
    let config = shell("rpm -qpc \"$1\"", &[&packages.with_extension("rpm")]);
    assert_eq!(config.trim(), "/etc/fantail/fantail.toml");
}

#[test]
fn lintian_finds_nothing_in_the_debian_package() {
    let package = Packages::built().with_extension("deb");
    let mut lintian = Command::new("lintian");
    lintian
        .args(["--allow-root", "--fail-on", "error,warning"])
        .arg(&package);
    let said = succeed(&mut lintian);
    assert_eq!(said, "");
}
