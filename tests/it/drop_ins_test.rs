//! What each drop-in of `systemd/examples` does to the service, under a real systemd in a machine of its
//! own: not what it says, but what comes of it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use crate::support::broker::Broker;
use crate::support::is_all;
use crate::support::machine::Options;
use crate::support::wait::wait_for;
use crate::support::writers::{append, numbered_lines};
use crate::systemd_test::{Service, Taken, UNIT, source};

const MINUTE: Duration = Duration::from_secs(60);
const DIRECTORY: &str = "/etc/systemd/system/fantail.service.d";

/// Puts an example there as it is shipped, but for `changes`, and starts the service with it.
fn adopt(service: &Service, name: &str, changes: &[(&str, &str)]) {
    let mut text = fs::read_to_string(source("systemd/examples").join(name)).unwrap();
    for (before, after) in changes {
        assert!(text.contains(before), "{name} has {before:?}");
        text = text.replace(before, after);
    }
    let machine = &service.machine;
    machine.succeed(&format!("mkdir -p {DIRECTORY}"));
    fs::write(machine.path(DIRECTORY).join(name), text).unwrap();
    machine.succeed("systemctl daemon-reload && systemctl restart fantail");
}

fn take_away(service: &Service, name: &str) {
    let script = format!("rm {DIRECTORY}/{name} && systemctl daemon-reload");
    service.machine.succeed(&script);
}

#[test]
fn nothing_is_lost_when_the_kernel_ends_it_for_want_of_memory() {
    let broker = Broker::start();
    let service = Service::boot_with(
        "bookworm",
        Options {
            memory: true,
            ..Options::default()
        },
    );
    let machine = &service.machine;
    let path = service.log("app.log", b"");
    service.configure(&broker);
    service.install();
    let mut written = numbered_lines("before", 1000);
    append(&path, &written);
    let mut taken = Taken::from(&broker);
    taken.until(written.len());

    adopt(&service, "memory.conf", &[("384M", "24M"), ("512M", "24M")]);
    machine.wait_for_property(UNIT, "StatusText", |text| {
        text.starts_with("broker connected")
    });
    assert_eq!(service.restarts(), 0, "it runs with so little");
    broker.pause();
    // What goes to a broker that takes nothing is held twice: a window of it is more than it may have.
    let more = numbered_lines(
        "under load, and behind it what makes the line a long one",
        700_000,
    );
    append(&path, &more);
    written.extend(more);
    let times = if is_all() { 5 } else { 1 };
    wait_for(2 * MINUTE, "it was ended and started again", || {
        service.restarts() >= times
    });
    let killed = "journalctl -u fantail | grep -E 'killed by the OOM killer|status=9/KILL'";
    machine.succeed(killed);
    broker.resume();
    take_away(&service, "memory.conf");
    machine.succeed("systemctl restart fantail");
    taken.until(written.len());
    taken.ledger.assert_clean();
    taken
        .ledger
        .assert_holds_file("/var/log/app/app.log", &written);
}

#[test]
fn with_the_capability_it_reads_every_log_and_no_secret_of_the_system() {
    let broker = Broker::start();
    let service = Service::boot("bookworm", false);
    let machine = &service.machine;
    let roots = numbered_lines("of root's", 100);
    let path = service.log("app.log", &roots);
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    symlink("/etc/shadow", service.logs.join("planted.log")).unwrap();
    service.configure(&broker);
    fs::write(
        machine.path("/etc/fantail/conf.d/shadow.toml"),
        "[[source]]\nname = \"shadow\"\ninclude = [\"/etc/shadow\", \"/etc/shado[w]\"]\npoll_interval = \"100ms\"\n",
    )
    .unwrap();
    machine.succeed("echo 'canary:x:1::::::' >>/etc/shadow");
    service.install();
    machine.succeed("fantail status --json | grep -q '\"unreadable\"'");
    assert_eq!(service.machine.property(UNIT, "AmbientCapabilities"), "");

    adopt(&service, "read-everything.conf", &[]);
    let mut taken = Taken::from(&broker);
    taken.until(roots.len());
    let process = machine.property(UNIT, "MainPID");
    let seen = format!("nsenter --mount --target {process} -- cat /etc/shadow");
    assert_eq!(machine.succeed(&seen), "", "nothing is to be seen of it");
    append(&path, b"later\n");
    taken.until(roots.len() + 6);
    let paths = |taken: &Taken| {
        let files = taken.ledger.files().iter();
        files.map(|file| file.path().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(paths(&taken), ["/var/log/app/app.log"]);

    // It is the paths taken out of sight that keep it from what the pattern names.
    let all = fs::read_to_string(source("systemd/examples/read-everything.conf")).unwrap();
    let hidden = all
        .lines()
        .filter(|line| line.starts_with("InaccessiblePaths="));
    let without: Vec<_> = hidden.map(|line| (line, "")).collect();
    adopt(&service, "read-everything.conf", &without);
    taken
        .ledger
        .take_until(&mut taken.consumer, MINUTE, "the secrets", |ledger| {
            ledger.files().len() == 2
        });
    assert_eq!(paths(&taken), ["/var/log/app/app.log", "/etc/shadow"]);
}

#[test]
fn a_password_comes_as_a_credential_and_no_other_address_is_talked_to_than_those_allowed() {
    let broker = Broker::start();
    broker.ctl(&["add_user", "shipper", "in a credential"]);
    broker.ctl(&["set_permissions", "shipper", ".*", ".*", ".*"]);
    let service = Service::boot("bookworm", false);
    let machine = &service.machine;
    let lines = numbered_lines("app", 100);
    let path = service.log("app.log", &lines);
    service.configure(&broker);
    let config = machine.path("/etc/fantail/fantail.toml");
    let text = fs::read_to_string(&config).unwrap();
    let url = format!("amqp://shipper@localhost:{}/%2f", broker.amqp_port());
    let text = text.replace(&broker.url(), &url)
        + "password_file = \"${CREDENTIALS_DIRECTORY:-/nowhere}/amqp-password\"\n\
           connect_timeout = \"1s\"\n";
    fs::write(config, text).unwrap();
    let secret = "umask 077 && printf 'in a credential' >/etc/fantail/amqp-password";
    machine.succeed(secret);
    service.install();
    machine.wait_for_property(UNIT, "StatusText", |text| text.starts_with("no broker"));

    adopt(&service, "password.conf", &[]);
    adopt(&service, "addresses.conf", &[]);
    let mut taken = Taken::from(&broker);
    taken.until(lines.len());

    adopt(
        &service,
        "addresses.conf",
        &[("IPAddressAllow=localhost\n", "")],
    );
    append(&path, b"later\n");
    machine.wait_for_property(UNIT, "StatusText", |text| text.starts_with("no broker"));
    adopt(&service, "addresses.conf", &[]);
    taken.until(lines.len() + 6);
    taken.ledger.assert_clean();
}
