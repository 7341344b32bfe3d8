//! The password that stands in a file of its own.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::support::agent::{Agent, Config};
use crate::support::broker::Broker;
use crate::support::writers::append;

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_password_file_is_waited_for_read_at_every_connect_and_never_shown() {
    let broker = Broker::shared();
    let directory = tempfile::tempdir().unwrap();
    let logs = directory.path().join("logs");
    fs::create_dir(&logs).unwrap();
    let path = logs.join("a.log");
    append(&path, b"one\n");
    let rights = |user: &str| {
        broker.ctl(&[
            "set_permissions",
            user,
            "^rotating",
            "^rotating",
            "^rotating",
        ]);
    };
    broker.ctl(&["add_user", "rotating", "first-s3cret"]);
    rights("rotating");

    let config = Config::default()
        .set(
            "broker",
            &format!(
                "urls = [\"{}\"]",
                broker.url().replace("guest:guest", "rotating")
            ),
        )
        .set(
            "broker",
            "password_file = \"${CREDENTIALS_DIRECTORY}/amqp\"",
        )
        .set(
            "broker",
            "exchange = \"rotating\"\ncheck_interval = \"200ms\"",
        )
        .source("app", &path)
        .append("[[broker.queue]]\nname = \"rotating.q\"");
    let mut agent = Agent::new(directory.path(), config);
    let credentials = directory.path().join("credentials");
    fs::create_dir(&credentials).unwrap();
    agent.set_environment("CREDENTIALS_DIRECTORY", credentials.to_str().unwrap());
    let file = credentials.join("amqp");
    let write = |password: &str| {
        fs::write(&file, password).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    };
    let check = || {
        let output = agent.cli(&["check", "--connect"]);
        let told = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(told).unwrap())
    };

    for (content, why) in [
        (None, "No such file"),
        (Some(String::new()), "empty"),
        (Some("s3cret".repeat(1000)), "longer than 4096 bytes"),
    ] {
        content.iter().for_each(|content| write(content));
        let (code, told) = check();
        assert_eq!(code, Some(77), "{told}");
        assert!(
            told.contains(why) && told.contains("credentials/amqp"),
            "{told}"
        );
        assert!(told.contains("the password file cannot be used"), "{told}");
        assert!(!told.contains("s3cret"), "{told}");
    }
    write("wrong-s3cret\n");
    let (code, told) = check();
    assert_eq!(code, Some(77), "{told}");
    assert!(told.contains("a login was refused"), "{told}");
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    assert!(check().1.contains("every user of this host"));

    // Not there yet: as after a refused login, the next attempt comes after 15 to 30 s.
    fs::remove_file(&file).unwrap();
    let mut agent = agent;
    // What the library has to say is not shown, whatever is asked for.
    agent.start_with(&["--log-level", "trace,lapin=trace,amq_protocol_tcp=trace"]);
    agent.wait_for_log("amqp\\\": No such file", MINUTE);
    let status = agent.wait_for_status("why there is no connection", |status| {
        status["broker"]["state"] == "down"
    });
    assert!(
        status["broker"]["last_error"]
            .to_string()
            .contains("No such file")
    );
    write("first-s3cret\r\n");
    let confirmed = |bytes: u64| {
        agent.wait_for_status("everything is confirmed", |status| {
            status["files"][0]["confirmed"] == bytes
        });
    };
    confirmed(4);

    // Rotated: the next connection has the new one.
    broker.ctl(&["change_password", "rotating", "second-s3cret"]);
    write("second-s3cret");
    broker.ctl(&["close_all_user_connections", "rotating", "rotated"]);
    append(&path, b"two\n");
    confirmed(8);
    let log = agent.stderr();
    assert!(log.contains("rotated"), "{log}");
    assert!(!log.contains("s3cret"), "{log}");
    assert!(!agent.status().unwrap().to_string().contains("s3cret"));
    assert!(agent.term().status.success());
}
